"""One variant tried in every fleet and every way of buying: what each takes, misses and costs, as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from capacity.errors import CapacityError, InputError
from capacity.fleet.grid import Fleets, fleets
from capacity.fleet.pools import stages
from capacity.fleet.searched import Buying, Variant
from capacity.fleet.ways import Array
from capacity.plan import Violation
from capacity.planner import Inputs
from capacity.search.bills import priced
from capacity.search.limits import Limits, limits
from capacity.search.place import Place
from capacity.spec.space import Space


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tried:
    """A variant in all its fleets.

    Attributes
    ----------
    violations
        What no fleet can mend: memory, and constraints of jobs.
    refused
        Why nothing was tried; empty where it was.
    unpriced
        Ways of buying that cannot be had, and why.
    usd
        A month's bill [USD], array [fleets, ways of buying].
    held
        Serving devices, array [fleets, ways of buying]: on spot with those that stand in for others.
    kwh
        Energy of serving a month at the wall [kWh], array [fleets]; None where the profile knows no power.
    """

    variant: Variant
    fleets: Fleets | None = None
    buying: tuple[Buying, ...] = ()
    unpriced: tuple[str, ...] = ()
    violations: tuple[Violation, ...] = ()
    refused: str = ""
    cheapest: tuple[tuple[int, int], ...] = ()
    """Fleet and way of buying of the cheapest fleet each way that a plan's own closed form confirms."""
    usd: Array = field(default_factory=lambda: np.zeros((0, 0)))
    held: Array = field(default_factory=lambda: np.zeros((0, 0)))
    kwh: Array | None = None

    @property
    def configurations(self) -> int:
        """Fleets × ways of buying."""
        return int(self.usd.size)

    def limits(self, space: Space) -> Limits:
        """Return what the fleets need of what is allowed."""
        if self.fleets is None:
            raise ValueError("a variant without fleets needs nothing")
        latency_s = self.variant.scenario.objective.latency
        return limits(self.fleets, self.held, self.usd, self.variant.hardware, latency_s, space)


def tried(variant: Variant, space: Space, given: Inputs) -> Tried:
    """Return a variant in every fleet that `space` asks for; where none can be built, why."""
    try:
        place = Place.of(variant, given)
        if place.violations:
            return Tried(variant=variant, violations=place.violations)
        found = fleets(place.pools, variant.scenario, space)
        stages(place.choice(found, 0)[0], found.batches(0))  # what a plan of any of them is refused for
        bills = priced(place, found, space, given)
    except InputError:  # a faulty table is no answer of a device
        raise
    except CapacityError as error:
        return Tried(variant=variant, refused=str(error).splitlines()[0])
    made = Tried(
        variant=variant, fleets=found, buying=bills.buying, unpriced=bills.refused, usd=bills.usd, held=bills.devices,
        kwh=bills.kwh,
    )  # fmt: skip
    return replace(made, cheapest=tuple(_cheapest(place, found, made, space)))


def _cheapest(place: Place, found: Fleets, item: Tried, space: Space) -> Iterator[tuple[int, int]]:
    """Yield the cheapest fleet of each way of buying whose latency a plan's own closed form confirms."""
    kept = item.limits(space).kept
    confirmed: dict[int, bool] = {}
    for way in range(len(item.buying)):
        rows = np.flatnonzero(kept[:, way])
        for row in map(int, rows[np.lexsort((found.latency_s[rows], item.usd[rows, way]))]):
            if row not in confirmed:
                confirmed[row] = place.holds(found, row)
            if confirmed[row]:
                yield row, way
                break
