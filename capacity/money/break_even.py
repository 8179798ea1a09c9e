"""From which traffic on devices of one's own are cheaper than an API: shares of the bill, and where the two cross."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from capacity.money.hosted import End, Part
from capacity.plan import Option

LOADS = tuple(4.0**power for power in range(-5, 6))
"""Traffic ÷ traffic today of the loads that are planned: 1/1024 to 1024."""
ENDS: tuple[End, ...] = ("low", "median", "high")
WITH_DEVICES = ("energy", "ownership", "software")
"""Groups of lines that nobody pays who has no devices: billed energy, room and maintenance, licenses."""
REFINEMENTS = 5
"""Halvings between two planned loads: from a factor of 4 to one of 1.04."""


def own_usd(option: Option) -> dict[str, float]:
    """Return the share of each stage and job in the month's device lines and in `WITH_DEVICES` [USD].

    A pool's line is shared by the times that its stages take for a batch. Empty where devices have no price.
    """
    if option.cost is None or not option.cost.complete:
        return {}
    lines = {line.name: line.usd or 0.0 for line in option.cost.lines if line.group == "devices"}
    upkeep = sum(line.usd or 0.0 for line in option.cost.lines if line.group in WITH_DEVICES)
    more = 1 + upkeep / sum(lines.values()) if sum(lines.values()) else 1.0
    times = {stage.name: float(stage.time.value) for stage in option.stages if stage.task != "host"}
    found = {job.name: lines[job.name] * more for job in option.jobs}
    for pool in option.pools:
        mine = {
            stage.name: times[stage.name] for stage in option.stages if stage.pool == pool.name and stage.name in times
        }
        whole = sum(mine.values())
        found |= {name: lines[f"serving {pool.name}"] * more * time / whole for name, time in mine.items() if whole}
    return found


def bought_usd(found: Iterable[Part], end: End) -> float:
    """Return what the sold parts cost together in a month [USD]."""
    return sum(part.usd(end) or 0.0 for part in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """The load from which devices of one's own are cheaper than the API, at one end of its prices.

    Attributes
    ----------
    name
        The part; empty for all that are sold.
    load
        Traffic ÷ traffic today [1]; 0 where devices are cheaper at every planned load, infinite where at none.
    """

    end: End
    load: float
    name: str = ""


def break_even(own: Callable[[float], float], bought: Callable[[float], float], loads: Sequence[float]) -> float:
    """Return the load above which `own` stays at or below `bought` at every one of `loads`.

    The bill of a fleet is a staircase: where the two cross several times the last crossing counts. It is searched by
    halving between two loads.

    Returns
    -------
    float
        0 where it is so at all loads, infinity where it is not so at the last.

    Examples
    --------
    >>> 1.2 <= break_even(lambda load: 6.0, lambda load: 5.0 * load, (0.25, 1.0, 4.0)) < 1.2 * 4 ** (1 / 32)
    True
    >>> break_even(lambda load: 10.0 * load, lambda load: load, (1.0, 4.0))
    inf
    """
    cheaper = [own(load) <= bought(load) for load in loads]
    if all(cheaper):
        return 0.0
    if not cheaper[-1]:
        return math.inf
    last = max(place for place, is_so in enumerate(cheaper) if not is_so)
    low, high = loads[last], loads[last + 1]
    for _ in range(REFINEMENTS):
        middle = math.sqrt(low * high)
        if own(middle) <= bought(middle):
            high = middle
        else:
            low = middle
    return high


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A pipeline on one device of one's own, and as an API.

    Attributes
    ----------
    refused
        Why the device cannot be compared; empty when it can.
    requests
        Of a month, today.
    own_usd
        Device lines of the parts that are sold [USD/month].
    break_evens
        Of all sold parts at the lowest, median and highest price, and of each part at the median.
    """

    hardware: str
    name: str
    requests: float
    parts: tuple[Part, ...] = ()
    own_usd: float = 0.0
    break_evens: tuple[BreakEven, ...] = ()
    refused: str = ""

    def break_even(self, name: str = "", end: End = "median") -> float | None:
        """Return the load from which devices are cheaper, of all sold parts or of one; None where it was not sought."""
        found = (item.load for item in self.break_evens if (item.name, item.end) == (name, end))
        return next(found, None)

    @property
    def unsold(self) -> tuple[Part, ...]:
        """The parts that nobody sells."""
        return tuple(part for part in self.parts if not part.offers)

    @property
    def sold(self) -> tuple[Part, ...]:
        """The parts that somebody sells."""
        return tuple(part for part in self.parts if part.offers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One scenario, bought and run, on each device that was asked for."""

    scenario: str
    title: str
    date: str
    changes: tuple[str, ...]
    options: tuple[Hosted, ...]
