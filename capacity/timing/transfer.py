"""From a hardware profile to a device with efficiencies: its own calibration, a relative's, or what is assumed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from capacity.spec.calibration import Calibration, Composition, Efficiency, Shared
from capacity.spec.hardware import Hardware
from capacity.timing.band import Basis
from capacity.timing.device import Device, Key


def device(
    hardware: Hardware, engine: str, calibrations: Sequence[tuple[Calibration, Hardware]], shared: Shared
) -> Device:
    """Return `hardware` with the best efficiencies known for it.

    Parameters
    ----------
    engine
        "eager" or "fused": how the software launches element-wise work.
    calibrations
        Every calibration with the profile of the device it was measured on.

    Notes
    -----
    Its own calibration of that engine comes first, then its own of the other engine, then the nearest relative's
    (same architecture, same vendor, same kind), then the assumed values of `shared`. Whatever is carried over is
    called projected and gets the wider band of `shared.carried`.
    """
    own = [calibration for calibration, _ in calibrations if calibration.hardware == hardware.id]
    if own:
        best = min(own, key=lambda calibration: (calibration.engine != engine, calibration.id))
        return _built(hardware, engine, best, shared, {}, "calibrated", best.id)
    relatives = [(c, profile) for c, profile in calibrations if profile.kind == hardware.kind]
    if not relatives:
        return _built(hardware, engine, None, shared, {}, "assumed", "assumed values")
    calibration, profile = min(relatives, key=lambda pair: (_distance(hardware, pair[1]), pair[0].engine != engine, pair[0].id))
    carried = shared.carried
    sigma = (carried.same_architecture, carried.same_vendor, carried.same_kind)[_distance(hardware, profile)]
    origin = f"{calibration.id}, carried over from {profile.name}"
    return _built(hardware, engine, calibration, shared, {f"carried over from {profile.id}": sigma}, "projected", origin)


def _distance(hardware: Hardware, other: Hardware) -> int:
    """Return 0 for the same chip generation, 1 for the same vendor, 2 for the same kind of device."""
    if hardware.architecture and hardware.architecture == other.architecture:
        return 0
    return 1 if hardware.vendor == other.vendor else 2


def _built(
    hardware: Hardware, engine: str, calibration: Calibration | None, shared: Shared, errors: dict[str, float],
    basis: Basis, origin: str,
) -> Device:  # fmt: skip
    fitted = calibration.efficiencies if calibration else ()
    own: tuple[Composition, ...] = ()
    if calibration and calibration.engine == engine:
        own = calibration.composition
    assumed = shared.compositions.get("fused" if engine == "fused" else "eager", ())
    compositions: dict[str, Composition] = {item.mode: item for item in (*assumed, *own)}
    return Device(
        hardware=hardware, fitted=_keyed(fitted), shared=_keyed(shared.efficiencies), compositions=compositions,
        engine=engine, origin=origin, errors=errors, basis=basis, stand_in_log_sigma=shared.stand_in_log_sigma,
    )  # fmt: skip


def _keyed(efficiencies: Iterable[Efficiency]) -> dict[Key, Efficiency]:
    return {(item.operation, item.dtype): item for item in efficiencies}
