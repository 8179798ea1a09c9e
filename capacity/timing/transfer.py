"""From a hardware profile to a device with efficiencies: its own calibration, a relative's, or what is assumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

from capacity.spec.calibration import Calibration, Composition, Efficiency, Shared
from capacity.spec.engine import PROCESSOR_ENGINES
from capacity.spec.hardware import Hardware
from capacity.timing import engine_kernels
from capacity.timing.band import Basis
from capacity.timing.carried import distance, kernels, sigma_at
from capacity.timing.device import HALF, Device, Key

Frozen = TypeVar("Frozen")
FUSED_STEPS = ("tensorrt",)
"""Engines whose measured encoder passes answer for the fused engine of a plan."""
ENCODER_DTYPES = ("fp16", "bf16", "int8", "fp8")


def device(
    hardware: Hardware, engine: str, calibrations: Sequence[tuple[Calibration, Hardware]], shared: Shared
) -> Device:
    """Return `hardware` with the best efficiencies known for it.

    Parameters
    ----------
    engine
        "eager" or "fused": how the software launches element-wise work; or "onnxruntime" or "openvino" on a processor.
    calibrations
        Every calibration with the profile of the device it was measured on.

    Notes
    -----
    Its own calibration of that engine comes first, then its own of the other engine, then the nearest relative's
    (sibling, same class of board, same vendor, same kind), then the assumed values of `shared`. Whatever is carried
    over is called projected and gets the wider band of `shared.carried`; so is, for ONNX Runtime and OpenVINO, what
    was measured with another engine (`shared.engine_log_sigma`). Classes that their suites do not run (top-k,
    LSTM, solves) are PyTorch's: they come from the same machine's eager calibration.
    """
    return _device(_Same(hardware), engine, tuple((_Same(item), _Same(of)) for item, of in calibrations), _Same(shared))


@dataclass(frozen=True, slots=True)
class _Same(Generic[Frozen]):
    """A frozen object compared by identity: to compare calibrations value by value takes longer than their use."""

    it: Frozen

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


@lru_cache(maxsize=64)
def _device(
    wanted: _Same[Hardware], engine: str, pairs: tuple[tuple[_Same[Calibration], _Same[Hardware]], ...],
    common: _Same[Shared],
) -> Device:  # fmt: skip
    hardware, shared = wanted.it, common.it
    calibrations = [(item.it, of.it) for item, of in pairs]
    found = _efficient(hardware, engine, calibrations, shared)
    encoders = _encoders(hardware, calibrations, shared) if engine == "fused" else {}
    return dataclasses.replace(found, kernels=kernels(hardware, calibrations, shared), encoders=encoders)


def _encoders(
    hardware: Hardware, calibrations: Sequence[tuple[Calibration, Hardware]], shared: Shared
) -> dict[str, Device]:
    """Return the device as the first engine runs whole encoder passes, by dtype; empty where none is known to.

    Kernels that the user measured on this very device go first.
    """
    steps = next((item for item in shared.engine_steps if item.engine in FUSED_STEPS), None)
    mine = (item for item, _ in calibrations if item.hardware == hardware.id and not item.shipped)
    if steps is None or any(item.kernels or item.efficiencies for item in mine):
        return {}
    own = [part for item, _ in calibrations if item.hardware == hardware.id for part in item.composition]
    found = {}
    for dtype in ENCODER_DTYPES:
        if engine_kernels.runs(hardware, dtype, steps):
            twins = {dtype, HALF.get(dtype, dtype)}
            measured = (part for part in own if part.engine == steps.engine and part.dtype in twins)
            found[dtype] = engine_kernels.device(hardware, dtype, steps, next(measured, None))
    return found


def _efficient(
    hardware: Hardware, engine: str, calibrations: Sequence[tuple[Calibration, Hardware]], shared: Shared
) -> Device:
    calibrations = [pair for pair in calibrations if not _only_steps(pair[0])]
    own = [calibration for calibration, _ in calibrations if calibration.hardware == hardware.id]
    relatives = [pair for pair in calibrations if pair[1].kind == hardware.kind]
    if own:
        source = min(own, key=lambda item: (not item.efficiencies, item.engine != engine, item.id))
        errors = _engine_error(source, engine, shared)
        beside = next((item for item in own if item.engine == "eager" and engine in PROCESSOR_ENGINES), None)
        carried = _Carried(source, source.id, "projected" if errors else "calibrated", errors, beside)
        return carried.device(hardware, engine, shared)
    if not relatives:
        return _Carried(None, "assumed values", "assumed", {}).device(hardware, engine, shared)
    source, profile = min(
        relatives, key=lambda pair: (distance(hardware, pair[1]), pair[0].engine != engine, pair[0].id)
    )
    sigma = sigma_at(shared.carried, distance(hardware, profile))
    errors = {f"carried over from {profile.id}": sigma, **_engine_error(source, engine, shared)}
    origin = f"{source.id}, carried over from {profile.name}"
    carried = _Carried(_power_limited(source, profile, hardware), origin, "projected", errors)
    return carried.device(hardware, engine, shared)


def _only_steps(calibration: Calibration) -> bool:
    """Tell anchors of an engine's whole steps (`timing.step_fit`): they say nothing of single operations."""
    return bool(calibration.composition) and not (calibration.efficiencies or calibration.kernels)


def _engine_error(source: Calibration, engine: str, shared: Shared) -> dict[str, float]:
    """Return what is added where ONNX Runtime or OpenVINO was not measured, or one of them stands in for PyTorch."""
    if source.engine == engine or not {source.engine, engine} & PROCESSOR_ENGINES.keys():
        return {}
    return {"engine not measured": shared.engine_log_sigma}


def _power_limited(source: Calibration, profile: Hardware, hardware: Hardware) -> Calibration:
    """Return the calibration with compute efficiencies scaled to a sibling's power budget.

    Chips of one generation spend the same energy on a FLOP. A sibling with fewer watts for each FLOP/s of its dense
    rate (an L4 beside an L40S: 0.60 against 0.97 W per TFLOP/s) sustains that much smaller a share of it; one with
    more watts gains nothing. Between generations nothing is scaled.
    """
    if distance(hardware, profile) != 0 or hardware.power is None or profile.power is None:
        return source
    shares = [
        (hardware.power.value / own) / (profile.power.value / other)
        for own, other in ((hardware.rate(dtype), profile.rate(dtype)) for dtype in ("bf16", "fp16"))
        if own and other
    ]
    scale = min([1.0, *shares])
    fits = tuple(fit.model_copy(update={"flop_efficiency": fit.flop_efficiency * scale}) for fit in source.efficiencies)
    return source.model_copy(update={"efficiencies": fits})


@dataclass(frozen=True, slots=True)
class _Carried:
    """Where a device's efficiencies come from, and how sure they are there."""

    source: Calibration | None
    origin: str
    basis: Basis
    errors: Mapping[str, float]
    beside: Calibration | None = None
    """PyTorch's calibration of the same machine, for classes that the engine's suite does not run."""

    def device(self, hardware: Hardware, engine: str, shared: Shared) -> Device:
        fitted = self.source.efficiencies if self.source else ()
        own = self.source.composition if self.source and self.source.engine == engine else ()
        if self.beside is not None and self.beside is not self.source:
            known = {item.operation for item in fitted}
            fitted = (*fitted, *(item for item in self.beside.efficiencies if item.operation not in known))
        assumed = shared.compositions["eager" if engine == "eager" else "fused"]
        judged: dict[str, Composition] = {item.mode: item for item in (*assumed, *own) if item.engine is None}
        return Device(
            hardware=hardware, fitted=_keyed(fitted), shared=_keyed(shared.efficiencies), engine=engine,
            compositions=judged, origin=self.origin, errors=self.errors,
            basis=self.basis, stand_in_log_sigma=shared.stand_in_log_sigma,
        )  # fmt: skip


def _keyed(efficiencies: Iterable[Efficiency]) -> dict[Key, Efficiency]:
    return {(item.operation, item.dtype): item for item in efficiencies}
