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
    (sibling, same class of board, same vendor, same kind), then the assumed values of `shared`. Whatever is carried
    over is called projected and gets the wider band of `shared.carried`.
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
    sigma = (carried.sibling, carried.same_class, carried.same_vendor, carried.same_kind)[_distance(hardware, profile)]
    errors = {f"carried over from {profile.id}": sigma}
    origin = f"{source.id}, carried over from {profile.name}"
    return _Carried(_power_limited(source, profile, hardware), origin, "projected", errors).device(
        hardware, engine, shared
    )


def _distance(hardware: Hardware, other: Hardware) -> int:
    """Return 0 for a sibling, 1 for the same vendor and class of board, 2 for the same vendor, 3 for the same kind."""
    if hardware.vendor != other.vendor:
        return 3
    if _linked(hardware) != _linked(other):
        return 2
    return 0 if hardware.architecture and hardware.architecture == other.architecture else 1


def _power_limited(source: Calibration, profile: Hardware, hardware: Hardware) -> Calibration:
    """Return the calibration with compute efficiencies scaled to a sibling's power budget.

    Chips of one generation spend the same energy on a FLOP. A sibling with fewer watts for each FLOP/s of its dense
    rate (an L4 beside an L40S: 0.60 against 0.97 W per TFLOP/s) sustains that much smaller a share of it; one with
    more watts gains nothing. Between generations nothing is scaled.
    """
    if _distance(hardware, profile) != 0 or hardware.power is None or profile.power is None:
        return source
    shares = [
        (hardware.power.value / own) / (profile.power.value / other)
        for own, other in ((hardware.rate(dtype), profile.rate(dtype)) for dtype in ("bf16", "fp16"))
        if own and other
    ]
    scale = min([1.0, *shares])
    fits = tuple(fit.model_copy(update={"flop_efficiency": fit.flop_efficiency * scale}) for fit in source.efficiencies)
    return source.model_copy(update={"efficiencies": fits})


def _linked(hardware: Hardware) -> bool:
    """Tell a board with links of its own from a card on PCIe, whose power limit binds long before its rate does."""
    return hardware.link is not None and "pcie" not in hardware.link.value.kind.casefold()


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
