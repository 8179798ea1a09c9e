"""A calibration: efficiencies fitted on one machine, with what they were fitted on and how wrong they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from capacity.spec.hardware import Dtype, Hardware
from capacity.spec.quantity import Count, CountAmount, Duration, Factor, Id, LogSigma, Number, Seconds, Spec, Watts

METHOD: Literal["roofline"] = "roofline"
METHOD_VERSION: Literal[1] = 1
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


class Composition(Spec):
    """How whole models compare with the sum of their operations: step = launches · launch + slowdown · Σ operations.

    Fitted to whole models run by the suite; `log_sigma` and `median_error` leave out the model they judge.
    """

    mode: Literal["inference", "training"]
    launch: Duration = 0
    """Host time per launched operation [s]: added on CPUs, a lower bound of the step on GPUs."""
    slowdown: Factor = 1
    """Caches, allocation and neighbors cost a model this much more than its operations alone."""
    log_sigma: LogSigma
    median_error: Number
    rows: CountAmount
    basis: Literal["calibrated", "assumed"] = "calibrated"
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
    engine: Literal["eager", "fused"]
    """How element-wise work is launched: PyTorch modules one by one, or fused as compiled engines do."""
    source: str
    """What was measured: a run of the suite, or the table and rows that were fitted."""
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    method: Literal["roofline"] = METHOD
    method_version: Literal[1] = METHOD_VERSION
    machine: Machine | None = None
    profile: Hardware | None = None
    """Profile of the machine as detected; absent when `hardware` names a shipped one."""
    power: Power | Literal["not measured"] = "not measured"
    composition: tuple[Composition, ...] = ()
    efficiencies: Annotated[tuple[Efficiency, ...], Field(min_length=1)]
    unstable: tuple[str, ...] = ()
    """Cases whose timing did not settle; the fit is robust against a few of them."""


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


class Shared(Spec):
    """What holds for all devices until somebody measures: assumed efficiencies, and what carrying them over costs."""

    id: Id
    source: str
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    stand_in_log_sigma: LogSigma
    """Added where another class of operations or another dtype stands in."""
    engine_log_sigma: LogSigma
    """Between engines: added where the software that runs a step is not the one that was measured."""
    carried: Distance
    efficiencies: Annotated[tuple[Efficiency, ...], Field(min_length=1)]
    compositions: dict[Literal["eager", "fused"], tuple[Composition, ...]]
