"""What fleets need ÷ what a space and an objective allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capacity.fleet.grid import Fleets
from capacity.fleet.ways import NEAR, Array
from capacity.spec.space import Space

CONSTRAINTS = {
    "load": ("load at peak with headroom", "fraction"),
    "latency": ("latency with headroom", "seconds"),
    "stock": ("devices in stock", "count"), "budget": ("budget of a month", "usd"),
    "room": ("room beyond the peak", "fraction"),
}  # fmt: skip
"""What each constraint is called, and its dimension."""
EXACT = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a variant's fleets need ÷ what is allowed, arrays [fleets, ways of buying] by constraint."""

    over: Mapping[str, Array]
    needed: Mapping[str, Array]
    allowed: Mapping[str, float]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which fleets and ways of buying keep every constraint, latencies within what the arrays may be off."""
        parts = [over <= 1 + (NEAR if name == "latency" else EXACT) for name, over in self.over.items()]
        return np.asarray(np.logical_and.reduce(parts))


def limits(fleets: Fleets, held: Array, usd: Array, hardware: str, latency_s: float, space: Space) -> Limits:
    """Return what fleets [fleets] of devices and at bills [fleets, ways of buying] need of what is allowed.

    Parameters
    ----------
    latency_s
        The objective [s].
    """
    shape = np.ones(usd.shape[1])
    needed = {
        "load": fleets.stressed_utilization[:, None] * shape,
        "latency": np.maximum(fleets.latency_s, fleets.stressed_s)[:, None] * shape,
    }  # fmt: skip
    allowed = {"load": 1.0, "latency": latency_s}
    if space.least_room:
        needed["room"], allowed["room"] = fleets.room[:, None] * shape, space.least_room
    if hardware in space.stock:
        needed["stock"], allowed["stock"] = held, float(space.stock[hardware])
    if space.budget is not None:
        needed["budget"], allowed["budget"] = usd, space.budget
    over = {name: value / max(allowed[name], EXACT) for name, value in needed.items() if name != "room"}
    if "room" in needed:
        over["room"] = (1 + space.least_room) / (1 + needed["room"])
    over["latency"] = np.where(over["load"] > 1, 0.0, over["latency"])  # more than it carries: no latency to speak of
    return Limits(over=over, needed=needed, allowed=allowed)
