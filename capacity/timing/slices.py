"""A part of a device as a device of its own: MIG slices, or time slices of a shared GPU."""

from __future__ import annotations

import dataclasses

from capacity.spec.hardware import Fact, Hardware
from capacity.timing.device import Device

SHARED_FACTS = ("memory", "memory_bandwidth", "last_level_cache", "power", "idle_power")


def sliced(device: Device, parts: int) -> Device:
    """Return one of `parts` equal parts of a device: its share of rates, cores, cache, bandwidth, memory and power.

    Efficiencies and launch times are those of the whole device (assumed); a slice has no link to others.
    """
    if parts == 1:
        return device
    whole = device.hardware
    changes: dict[str, object] = {name: _part(getattr(whole, name), parts) for name in SHARED_FACTS}
    changes["dense_rates"] = {dtype: _part(fact, parts) for dtype, fact in whole.dense_rates.items()}
    if whole.cores is not None:
        changes["cores"] = whole.cores.model_copy(update={"value": max(whole.cores.value // parts, 1)})
    changes["link"] = None
    part: Hardware = whole.model_copy(update=changes)
    encoders = {dtype: sliced(item, parts) for dtype, item in device.encoders.items()}
    return dataclasses.replace(device, hardware=part, encoders=encoders)


def _part(fact: Fact[float] | None, parts: int) -> Fact[float] | None:
    return None if fact is None else fact.model_copy(update={"value": fact.value / parts})
