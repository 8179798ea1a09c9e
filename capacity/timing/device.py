"""A device with its calibration: what answers "how long does this operation take here, and how sure is that?"."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from capacity.spec.calibration import Composition, Efficiency
from capacity.spec.engine import refused
from capacity.spec.hardware import Hardware
from capacity.timing.band import Basis, Estimate, total, weakest
from capacity.timing.families import usual
from capacity.timing.form import Board, MissingFactError
from capacity.timing.kernel import Kernel, key_of
from capacity.timing.kernel import Key as KernelKey
from capacity.timing.roofline import Roof, executed_flop, seconds
from capacity.work.operations import (
    Amount,
    Attention,
    Collective,
    Gather,
    Gemm,
    GroupedGemm,
    Operation,
    Streaming,
)

FALLBACK_OPERATION = {
    "gemm.grouped": "gemm", "attention.encoder": "attention.prefill", "attention.prefill": "attention.encoder",
    "attention.decode": "attention.prefill", "distance": "gemm", "recurrent": "gemm", "solve": "gemm",
    "gather": "streaming.copy", "topk": "streaming.softmax", "streaming.optimizer": "streaming.add",
    "streaming.softmax": "streaming.norm", "streaming.activation": "streaming.copy", "streaming.copy": "streaming.add",
    "streaming.add": "streaming.norm", "streaming.norm": "streaming.add",
    "streaming.residual_norm": "streaming.norm", "collective.all_reduce": "collective",
    "collective.all_gather": "collective", "collective.reduce_scatter": "collective",
    "collective.alltoall": "collective", "collective.send": "collective",
}  # fmt: skip
"""Class whose efficiency stands in for one that was not measured."""
FALLBACK_DTYPE = {
    "fp16": ("bf16",), "bf16": ("fp16",), "tf32": ("bf16", "fp16"), "fp8": ("fp16", "bf16"), "int8": ("fp16", "bf16"),
    "fp4": ("fp8", "fp16", "bf16"), "int4": ("int8", "fp16", "bf16"), "fp32": ("tf32", "bf16", "fp16"),
    "fp64": ("fp32",),
}  # fmt: skip
Key = tuple[str, str]
HALF = {"fp16": "bf16", "bf16": "fp16"}
"""Dtypes that run through the same units at the same rate: the kernels of one answer for the other."""
SAME_WIDTH = {frozenset({"fp16", "bf16"})}
"""Dtypes that run through the same units at the same rate: one stands in for the other at no extra error."""
ANY_DTYPE = ("fp32", "bf16", "fp16")
VECTOR_WORK = {"streaming", "gather", "topk", "solve", "recurrent", "collective"}
"""Classes that traffic bounds; a profile without a rate of their dtype takes that of fp32 instead."""


LAUNCH_PARAMETERS = ("t0_s", "launch_s", "start_s", "t0")
"""What forms call the fixed time of a launch."""


@dataclass(frozen=True, slots=True)
class Device:
    """A hardware profile with the efficiencies that hold for it.

    `errors` are extra log standard deviations by source that apply to everything on this device: how far its
    efficiencies were carried. `basis` is the best this device can claim.
    """

    hardware: Hardware
    fitted: Mapping[Key, Efficiency]
    """Efficiencies of this device or of the relative they were carried over from, by (class, dtype)."""
    shared: Mapping[Key, Efficiency]
    """Efficiencies assumed for every device: they answer where `fitted` has nothing of a class."""
    compositions: Mapping[str, Composition]
    engine: str
    origin: str
    """Id of the calibration, and of the relative it was carried over from, if any."""
    errors: Mapping[str, float]
    basis: Basis
    stand_in_log_sigma: float
    kernels: Mapping[KernelKey, Kernel] = field(default_factory=dict)
    """Kernel families measured on this device or carried over from relatives; they answer before `fitted`."""
    encoders: Mapping[str, Device] = field(default_factory=dict)
    """Dtype → this device as an engine runs whole encoder passes, where such passes were measured."""

    def time(self, operation: Operation, families: Sequence[str] = ()) -> Estimate:
        """Return the time of all launches of `operation` [s].

        Parameters
        ----------
        families
            Kernel families that may run it, the one meant first; the usual ones by default.

        Raises
        ------
        MissingFactError
            When nothing is known of the operation, or the engine does not run it: another kind of device, or a dtype.
        """
        self._refuse(operation)
        known = self.kernel(operation, families)
        if known is not None:
            kernel, stand_in = known
            estimate = kernel.time(operation, Board(self.hardware)).scaled(operation.count)
            return estimate.widened("stand-in kernels", self.stand_in_log_sigma, "projected") if stand_in else estimate
        efficiency, stand_in = self._efficiency(operation.operation, operation.dtype)
        stored = getattr(operation, "weight_dtype", None) or operation.dtype
        stand_in = stand_in or stored != operation.dtype  # no fit has seen weights that are unpacked on the way
        launch_s = seconds(operation, self._roof(operation, efficiency))
        errors: dict[str, Amount] = {f"{efficiency.operation} on {self.hardware.id}": efficiency.log_sigma}
        if stand_in:
            errors["stand-in efficiency"] = self.stand_in_log_sigma
        errors |= self.errors
        at_best: Basis = "projected" if stand_in else "calibrated"
        return Estimate(launch_s * operation.count, errors, weakest([at_best, efficiency.basis, self.basis]))

    def kernel(self, operation: Operation, families: Sequence[str] = ()) -> tuple[Kernel, bool] | None:
        """Return the kernels that run `operation`, and whether they only stand in for those that were meant."""
        wanted = families or usual(operation, self.hardware)
        found = [(family, kernel) for family in wanted if (kernel := self._kernel(operation, family)) is not None]
        meant = [kernel for family, kernel in found if wanted[0].startswith(family)]
        measured = [kernel for kernel in meant if kernel.basis != "projected"]  # here, if not with this very engine
        if measured or meant:
            return (measured or meant)[0], False
        return (found[0][1], True) if found else None

    def _kernel(self, operation: Operation, family: str) -> Kernel | None:
        kind, _, dtype, stored = key_of(operation, family)
        half = (kind, family, HALF.get(dtype, dtype), HALF.get(stored, stored))
        known = [self.kernels[key] for key in ((kind, family, dtype, stored), half) if key in self.kernels]
        return min(known, key=lambda kernel: math.hypot(*kernel.errors.values()), default=None)  # the least carried

    def step(self, operations: Iterable[Operation], mode: str = "inference", families: Sequence[str] = ()) -> Estimate:
        """Return the time of a model step [s]: its operations, plus what running them as one model costs.

        Parameters
        ----------
        families
            Kernel families that run the operations; the usual ones by default.
        """
        operations = tuple(operations)
        encoder = self._encoder(operations) if mode == "inference" else None
        if encoder is not None:
            return encoder.step(operations, mode, (encoder.origin,))
        kernels = total(self.time(operation, families) for operation in operations)
        composition = self.compositions.get(mode)
        if composition is None:
            return kernels
        launches = sum((operation.count for operation in operations), start=0.0) * composition.launch
        busy = kernels.value * composition.slowdown
        value = np.maximum(busy, launches) if self.hardware.kind == "gpu" else busy + launches
        errors = dict(kernels.errors)
        if composition.rows and not self.errors:
            errors = {}  # judged on whole models of this very device: their scatter replaces the kernels'
        errors[f"{mode} step on {self.hardware.id}"] = composition.log_sigma
        judged: Basis = "projected" if composition.basis == "assumed" else composition.basis
        return Estimate(value, errors, weakest([kernels.basis, judged]))

    def _encoder(self, operations: Sequence[Operation]) -> Device | None:
        """Return the device that runs these operations as one encoder pass of its engine, if they are one."""
        dtype = next((op.dtype for op in operations if isinstance(op, Attention) and op.phase == "encoder"), "")
        found = self.encoders.get(dtype)
        if found is None or not all(isinstance(op, Gemm | Attention | Streaming | Gather) for op in operations):
            return None
        products = [op for op in operations if isinstance(op, Gemm)]
        return found if all({op.dtype, op.weight_dtype or dtype} == {dtype} for op in products) else None

    def bound(self, operations: Iterable[Operation]) -> str:
        """Return what takes most of the time of `operations`: compute, memory bandwidth, the link, or launches."""
        spent: dict[str, float] = {}
        for operation in operations:
            limits = self._limits(operation)
            limit = max(limits, key=lambda name: limits[name])
            spent[limit] = spent.get(limit, 0.0) + float(self.time(operation).value)
        return max(spent, key=lambda name: spent[name])

    def _refuse(self, operation: Operation) -> None:
        products = isinstance(operation, Gemm | GroupedGemm | Attention)
        why = refused(self.engine, operation.dtype if products else None, self.hardware.kind)
        if why:
            raise MissingFactError(why)

    def _limits(self, operation: Operation) -> dict[str, float]:
        """Return what one launch would take if only one thing bounded it [s]."""
        memory = "interconnect" if isinstance(operation, Collective) else "memory bandwidth"
        known = self.kernel(operation)
        if known is None:
            roof = self._roof(operation, self._efficiency(operation.operation, operation.dtype)[0])
            compute_s = float(executed_flop(operation, roof.softmax_columns) / roof.flop_per_s)
            return {
                "compute": compute_s, memory: float(operation.moved_bytes / roof.bytes_per_s),
                "kernel launches": roof.t0_s,
            }  # fmt: skip
        values = known[0].values
        launch_s = next((values[name] for name in LAUNCH_PARAMETERS if name in values), 0.0)
        rate = self.hardware.rate(operation.dtype)
        traffic_s = float(operation.moved_bytes / reference_bandwidth(self.hardware, operation))
        return {
            "compute": float(operation.flop / rate) if rate else 0.0, memory: traffic_s, "kernel launches": launch_s,
        }  # fmt: skip

    def _efficiency(self, operation: str, dtype: str) -> tuple[Efficiency, bool]:
        """Return the efficiency of a class, and whether another class or dtype stands in for it."""
        name, seen = operation, set[str]()
        while name not in seen:
            seen.add(name)
            streams = name.split(".")[0] in VECTOR_WORK  # traffic bounds it: a share of bandwidth holds at any dtype
            for known in (self.fitted, self.shared):
                for candidate in (dtype, *FALLBACK_DTYPE.get(dtype, ()), *(ANY_DTYPE if streams else ())):
                    found = known.get((name, candidate))
                    if found is not None:
                        same = streams or candidate == dtype or frozenset({candidate, dtype}) in SAME_WIDTH
                        return found, not (same and name == operation)
            name = FALLBACK_OPERATION.get(name, name)
        raise MissingFactError(f"calibration {self.origin} has no efficiency for {operation} at {dtype}")

    def _roof(self, operation: Operation, efficiency: Efficiency) -> Roof:
        return Roof(
            t0_s=efficiency.t0,
            flop_per_s=efficiency.flop_efficiency * reference_rate(self.hardware, operation.operation, operation.dtype),
            bytes_per_s=efficiency.bandwidth_efficiency * reference_bandwidth(self.hardware, operation),
            sharpness=efficiency.sharpness, softmax_columns=efficiency.softmax_columns,
        )  # fmt: skip


def reference_rate(hardware: Hardware, operation: str, dtype: str) -> float:
    """Return the datasheet rate that a class's efficiency is a share of [FLOP/s]."""
    rate = hardware.rate(dtype)
    if rate is None and operation.split(".", maxsplit=1)[0] in VECTOR_WORK:
        rate = next((r for r in map(hardware.rate, ("fp32", "tf32", "bf16", "fp16")) if r is not None), None)
    if rate is None:
        raise MissingFactError(f"{hardware.id} has no dense {dtype} rate; its profile knows {rates(hardware)}")
    return rate


def reference_bandwidth(hardware: Hardware, operation: Operation) -> float:
    """Return the datasheet bandwidth of the path an operation's bytes take [byte/s]."""
    if isinstance(operation, Collective):
        if hardware.link is not None:
            return hardware.link.value.bandwidth
        if hardware.host_bandwidth is not None:
            return hardware.host_bandwidth.value
        raise MissingFactError(f"{hardware.id} has neither link nor host_bandwidth: its devices cannot talk")
    if hardware.memory_bandwidth is None:
        raise MissingFactError(f"{hardware.id} has no memory_bandwidth in its profile")
    return hardware.memory_bandwidth.value


def rates(hardware: Hardware) -> str:
    """Return the dtypes a profile has dense rates for, as text."""
    return ", ".join(hardware.dense_rates) or "none (the profile states no dense rate)"
