"""A calibration: efficiencies fitted on one machine, with what they were fitted on and how wrong they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from capacity.spec.engine import Engine
from capacity.spec.hardware import Dtype, Hardware
from capacity.spec.quantity import Count, CountAmount, Duration, Factor, Id, LogSigma, Number, Seconds, Spec, Watts
from capacity.spec.recommender_framework import RecommenderFramework
from capacity.spec.serving_engine import ServingEngine
from capacity.spec.steps import EngineSteps, SubmissionAnchor
from capacity.spec.training_engine import TrainingRounds, TrainingSteps

METHOD: Literal["forms"] = "forms"
METHOD_VERSION: Literal[2] = 2
"""Raised when the form or the fit changes: numbers of different versions are not comparable."""


class Efficiency(Spec):
    """Fitted behavior of one class of operations at one dtype.

    seconds = t0 + ((FLOP · (1 + softmax_columns/head_dim) / (flop_efficiency · rate))ᵖ
                    + (bytes / (bandwidth_efficiency · bandwidth))ᵖ)^(1/p), p = `sharpness`.
    """

    operation: str
    """Class of operations, e.g. gemm, attention.prefill, streaming.norm, gather, topk."""
    dtype: Dtype
    t0: Duration
    """Fixed time of one launch [s]."""
    flop_efficiency: Factor
    """Share of the profile's dense rate of that dtype."""
    bandwidth_efficiency: Factor
    """Share of the profile's memory bandwidth (above 1 where caches serve the data)."""
    sharpness: Annotated[Factor, Field(ge=0.1)] = 20
    """p of the roofline's corner: 1 = compute and traffic add, large = the slower one alone."""
    softmax_columns: Number = 0
    """Attention only: the softmax costs as much as so many more columns of the head."""
    log_sigma: LogSigma
    """Standard deviation of ln(measured/predicted) on rows held out of the fit."""
    median_error: Number
    """Median |predicted/measured − 1| on rows held out of the fit."""
    rows: CountAmount
    """Measurements behind the fit; 0 for values carried over from elsewhere."""
    basis: Literal["calibrated", "assumed"] = "calibrated"
    note: str = ""


class Distance(Spec):
    """How much surer or less sure efficiencies get on their way to a device nobody measured."""

    sibling: LogSigma
    """Log standard deviation between devices of one chip generation and one class of board."""
    same_class: LogSigma
    """Between boards of one vendor and class: linked boards (NVLink and its like) or cards on PCIe."""
    same_vendor: LogSigma
    """Between a linked board and a card: cards meet their power limit first."""
    same_kind: LogSigma
    """Between vendors."""
    source: str


FamilyName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/+-]*$", max_length=80)]


class BandKnot(Spec):
    """Scatter of a kernel's times near one predicted time; between knots it is interpolated in ln(seconds)."""

    seconds: Seconds
    """Predicted time [s]."""
    log_sigma: LogSigma
    """Standard deviation of ln(measured/predicted) there, from rows held out of the fit."""


class KernelFit(Spec):
    """Fitted parameters of one family of kernels at one dtype, on one device (or shared by devices).

    The forms and the meaning of their parameters: docs/explanation/kernel-time.md.
    """

    operation: Id
    """Class of operations, e.g. gemm, attention.decode, experts, collective.all_reduce."""
    family: FamilyName
    """Kernels that share parameters, e.g. library (the vendor's BLAS), cutlass, flash, nccl."""
    dtype: Id
    """What the matrix unit multiplies."""
    weight_dtype: Id | None = None
    """Storage of the weights or of the KV cache where it differs."""
    form: Id
    """Equation the values belong to."""
    values: dict[str, Number]
    """Parameters of the form in SI units; what is missing is the family's."""
    log_sigma: LogSigma
    """Standard deviation of ln(measured/predicted) on shapes held out of the fit: the band of constant width."""
    median_error: Number
    """Median |predicted/measured − 1| on shapes held out of the fit."""
    mean_error: Number
    """Mean |predicted/measured − 1| on shapes held out of the fit."""
    rows: CountAmount
    """Measurements behind the fit."""
    band: tuple[BandKnot, ...] = ()
    """How the scatter changes with the predicted time; empty: `log_sigma` everywhere."""
    learned: FamilyName | None = None
    """Key of the learned residual in the file beside this one; absent where it did not lower the held-out error."""
    engines: tuple[str, ...] = ()
    """Engines whose rows were fitted, with versions."""
    basis: Literal["calibrated", "assumed"] = "calibrated"
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells this fit from others of the same device."""
        return (self.operation, self.family, self.dtype, self.weight_dtype or self.dtype)


class KernelFamily(Spec):
    """What devices share of one family of kernels, and how far a device's own numbers scatter around its relatives'."""

    operation: Id
    family: FamilyName
    dtype: Id
    weight_dtype: Id | None = None
    form: Id
    values: dict[str, Number]
    """Shared parameters of the form in SI units."""
    devices: tuple[Id, ...]
    """Devices it was fitted on."""
    carried: Distance | None = None
    """Error on a device nobody measured, from leaving devices out; absent: that of its class of operations."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells this family from others."""
        return (self.operation, self.family, self.dtype, self.weight_dtype or self.dtype)


class Composition(Spec):
    """How whole models compare with the sum of their operations: step = launches · launch + slowdown · Σ operations.

    Fitted to whole models run by the suite; `log_sigma` and `median_error` leave out the model they judge.
    """

    mode: Literal["inference", "training"]
    engine: Id | None = None
    """Engine whose own kernels were summed (`EngineSteps`); absent: the operations of this calibration."""
    dtype: Dtype | None = None
    """What it multiplies matrices in; given where `engine` is."""
    launch: Duration = 0
    """Host time per launched operation [s]: added on CPUs, a lower bound of the step on GPUs."""
    slowdown: Factor = 1
    """Caches, allocation and neighbors cost a model this much more than its operations alone."""
    log_sigma: LogSigma
    median_error: Number
    rows: CountAmount
    basis: Literal["calibrated", "assumed"] = "calibrated"
    note: str = ""


class EagerSteps(Spec):
    """What a step of unfused PyTorch on a GPU adds to its products: the same numbers for all devices."""

    stream_share: Factor
    """Share of the memory bandwidth that element-wise kernels, norms and softmax reach [1]."""
    draw: Factor
    """Power of a product beside a benchmark's with random operands [1]: norms and masks make its numbers smaller."""
    gap: Duration
    """Time between two queued kernels [s]."""
    host: Duration
    """Time the host needs to launch one operation [s]."""
    link_share: Factor
    """Share of a link's bandwidth that a large all-reduce gets [1]."""
    log_sigma: LogSigma
    """Standard deviation of ln(measured/predicted) of steps on devices whose products were measured."""
    note: str = ""


class Machine(Spec):
    """Fingerprint of the machine and the software that was measured."""

    name: str
    system: str
    software: dict[str, str] = Field(default_factory=dict)
    threads: Count | None = None
    driver: str | None = None


class Power(Spec):
    """Board power while kernels ran; absent when nothing could be measured."""

    busy: Watts
    idle: Watts | None = None
    window: Seconds
    """Length of the window the mean was taken over [s]; at least 5 s."""
    method: str


class Calibration(Spec):
    """Fitted numbers of one device and engine."""

    id: Id
    hardware: Id
    engine: Engine
    """What ran: PyTorch modules one by one, compiled engines that fuse element-wise work, or an engine by name."""
    source: str
    """What was measured: a run of the suite, or the table and rows that were fitted."""
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    method: Literal["forms"] = METHOD
    method_version: Literal[2] = METHOD_VERSION
    machine: Machine | None = None
    profile: Hardware | None = None
    """Profile of the machine as detected; absent when `hardware` names a shipped one."""
    power: Power | Literal["not measured"] = "not measured"
    composition: tuple[Composition, ...] = ()
    submissions: tuple[SubmissionAnchor, ...] = ()
    """The device's own results in MLPerf Inference, for its later rounds."""
    efficiencies: tuple[Efficiency, ...] = ()
    kernels: tuple[KernelFit, ...] = ()
    unstable: tuple[str, ...] = ()
    """Cases whose timing did not settle; the fit is robust against a few of them."""
    _residuals: Mapping[str, Any] = PrivateAttr(default_factory=dict)
    _shipped: bool = PrivateAttr(default=False)

    @property
    def residuals(self) -> Mapping[str, Any]:
        """Learned residuals by key (`KernelFit.learned`), read from the file beside the document when asked for."""
        return self._residuals

    @property
    def shipped(self) -> bool:
        """Whether it came with the product, not from the user's own measurements."""
        return self._shipped

    def with_residuals(self, residuals: Mapping[str, Any], *, shipped: bool = False) -> Calibration:
        """Return the calibration with the learned residuals that belong to it."""
        known = self.model_copy()
        known._residuals, known._shipped = residuals, shipped
        return known


class Shared(Spec):
    """What holds for all devices until somebody measures: assumed efficiencies, and what carrying them over costs."""

    id: Id
    source: str
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    stand_in_log_sigma: LogSigma
    """Added where another class of operations or another dtype stands in."""
    engine_log_sigma: LogSigma
    """Between engines: added where the software that runs a step is not the one that was measured."""
    beyond_log_sigma: LogSigma = 0.0
    """Added well beyond the sizes that a kernel was measured at, from leaving large sizes out."""
    carried: Distance
    carried_kernels: dict[str, Distance] = Field(default_factory=dict)
    """The same for fitted kernels by class of operations, from leaving devices out; absent: `carried`."""
    efficiencies: Annotated[tuple[Efficiency, ...], Field(min_length=1)]
    families: tuple[KernelFamily, ...] = ()
    eager_steps: EagerSteps | None = None
    engine_steps: tuple[EngineSteps, ...] = ()
    """Engines that are only timed in whole models: their kernels on any GPU."""
    serving_engines: tuple[ServingEngine, ...] = ()
    """LLM engines: what their steps cost beside their kernels."""
    recommender_frameworks: tuple[RecommenderFramework, ...] = ()
    """Frameworks of recommenders: what their calls cost beside their operations."""
    training_steps: TrainingSteps | None = None
    """Training frameworks: what their steps cost beside their kernels."""
    training_rounds: TrainingRounds | None = None
    """MLPerf Training: what submissions take beside their steps."""
    compositions: dict[Literal["eager", "fused"], tuple[Composition, ...]]
