"""From a hardware profile to a device with efficiencies: its own calibration, a relative's, or what is assumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from capacity.spec.calibration import Calibration, Efficiency, Shared
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
    relatives = [pair for pair in calibrations if pair[1].kind == hardware.kind]
    if own:
        source = min(own, key=lambda calibration: (calibration.engine != engine, calibration.id))
        return _Carried(source, source.id, "calibrated", {}).device(hardware, engine, shared)
    if not relatives:
        return _Carried(None, "assumed values", "assumed", {}).device(hardware, engine, shared)
    source, profile = min(
        relatives, key=lambda pair: (_distance(hardware, pair[1]), pair[0].engine != engine, pair[0].id)
    )
    carried = shared.carried
    sigma = (carried.same_architecture, carried.same_vendor, carried.same_kind)[_distance(hardware, profile)]
    errors = {f"carried over from {profile.id}": sigma}
    return _Carried(source, f"{source.id}, carried over from {profile.name}", "projected", errors).device(
        hardware, engine, shared
    )


def _distance(hardware: Hardware, other: Hardware) -> int:
    """Return 0 for the same chip generation, 1 for the same vendor, 2 for the same kind of device."""
    if hardware.architecture and hardware.architecture == other.architecture:
        return 0
    return 1 if hardware.vendor == other.vendor else 2


@dataclass(frozen=True, slots=True)
class _Carried:
    """Where a device's efficiencies come from, and how sure they are there."""

    source: Calibration | None
    origin: str
    basis: Basis
    errors: Mapping[str, float]

    def device(self, hardware: Hardware, engine: str, shared: Shared) -> Device:
        fitted = self.source.efficiencies if self.source else ()
        own = self.source.composition if self.source and self.source.engine == engine else ()
        assumed = shared.compositions["fused" if engine == "fused" else "eager"]
        return Device(
            hardware=hardware, fitted=_keyed(fitted), shared=_keyed(shared.efficiencies), engine=engine,
            compositions={item.mode: item for item in (*assumed, *own)}, origin=self.origin, errors=self.errors,
            basis=self.basis, stand_in_log_sigma=shared.stand_in_log_sigma,
        )  # fmt: skip


def _keyed(efficiencies: Iterable[Efficiency]) -> dict[Key, Efficiency]:
    return {(item.operation, item.dtype): item for item in efficiencies}
