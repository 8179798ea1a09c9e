"""One variant tried in every fleet and every way of buying: what each takes, misses and costs, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from capacity import planner
from capacity.errors import CapacityError
from capacity.fleet import pools as sizing
from capacity.fleet.grid import Fleets, fleets
from capacity.fleet.pool import Pool, candidates, too_small
from capacity.fleet.searched import Buying, Variant
from capacity.fleet.sizing import fleet
from capacity.fleet.ways import Array
from capacity.money import ownership
from capacity.money.prices import price_range
from capacity.phases.serving_step import Context
from capacity.plan import JobPlan, Option, Violation
from capacity.planner import Inputs
from capacity.search.limits import Limits, limits
from capacity.spec.scenario import Scenario
from capacity.spec.space import Space
from capacity.timing import transfer
from capacity.timing.device import Device

DEVICES, ENERGY = "devices", "energy"
"""Groups of lines of a bill that go with the fleet; all others stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tried:
    """A variant in all its fleets.

    Attributes
    ----------
    violations
        What no fleet can mend: memory, and constraints of jobs.
    refused
        Why nothing was tried; empty where it was.
    usd
        A month's bill [USD], array [fleets, ways of buying].
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
        return limits(self.fleets, self.usd, self.variant.hardware, latency_s, space)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A variant's device with the pools that it may hold, and its jobs."""

    variant: Variant
    device: Device
    pools: Sequence[Sequence[Pool]]
    jobs: Sequence[JobPlan]
    violations: tuple[Violation, ...]

    @classmethod
    def of(cls, variant: Variant, given: Inputs) -> Place:
        """Return what a variant may be built of."""
        scenario = variant.scenario
        hardware = planner.profile(variant.hardware, given)
        device = transfer.device(hardware, scenario.engine, given.calibrations, given.shared)
        models = planner.sized_models(scenario, variant.models)
        context = Context(scenario=scenario, models=models, engines=tuple(given.shared.serving_engines))
        pools = candidates(context, device)
        jobs, missed = planner.jobs(scenario, device, models, given)
        small = [too_small(tried[-1]) for tried in pools if not any(pool.largest_batch for pool in tried)]
        return cls(variant=variant, device=device, pools=pools, jobs=jobs, violations=(*small, *missed))

    def choice(self, found: Fleets, row: int) -> tuple[list[Pool], sizing.Choice]:
        """Return the pools of one fleet, and the fleet as a plan has it."""
        chosen = self.chosen(found.degrees(row))
        return chosen, self.fleet(chosen, found.batches(row), found.counts(row))

    def chosen(self, degrees: Mapping[str, int]) -> list[Pool]:
        """Return each pool with the number of devices that share its products."""
        return [
            next(pool for pool in tried if pool.context.tensor_parallel == degrees[pool.name]) for tried in self.pools
        ]

    def fleet(self, chosen: Sequence[Pool], batches: Mapping[str, int], replicas: Mapping[str, int]) -> sizing.Choice:
        """Return a fleet as a plan has it."""
        loads = [pool.load(batches[pool.name]) for pool in chosen]
        made = fleet(loads, replicas, sizing.demand(self.variant.scenario))
        return sizing.Choice(made, loads, batches, made.devices(loads))

    def holds(self, found: Fleets, row: int) -> bool:
        """Return whether a fleet holds the objective, at the peak and with headroom."""
        _, choice = self.choice(found, row)
        wanted = sizing.demand(self.variant.scenario)
        stressed = replace(wanted, rate=wanted.rate * (1 + wanted.headroom), headroom=0.0)
        late = (choice.fleet.quantile_s, fleet(choice.loads, choice.fleet.replicas, stressed).quantile_s)
        return max(late) <= wanted.latency_s

    def option(self, chosen: Sequence[Pool], choice: sizing.Choice, buying: Buying, given: Inputs) -> Option:
        """Return one fleet bought one way as an option of a plan, with its bill."""
        scenario = bought(self.variant.scenario, buying)
        found = sizing.result(chosen, choice, scenario)
        return planner.assembled(scenario, self.device, found, self.jobs, given)


def bought(scenario: Scenario, buying: Buying) -> Scenario:
    """Return the scenario bought that way."""
    pricing = {"term": buying.term, "region": buying.region or None}
    return scenario.model_copy(update={"pricing": scenario.pricing.model_copy(update=pricing)})


def tried(variant: Variant, space: Space, given: Inputs) -> Tried:
    """Return a variant in every fleet that `space` asks for; where none can be built, why."""
    try:
        place = Place.of(variant, given)
        if place.violations:
            return Tried(variant=variant, violations=place.violations)
        found = fleets(place.pools, variant.scenario, space)
        return _priced(place, found, space, given)
    except CapacityError as error:
        return Tried(variant=variant, refused=str(error).splitlines()[0])


def _priced(place: Place, found: Fleets, space: Space, given: Inputs) -> Tried:
    variant = place.variant
    buying, unpriced = offers(variant, space, given)
    chosen, choice = place.choice(found, 0)
    serving = sizing.plans(chosen, choice, variant.scenario)
    hardware, scenario = place.device.hardware, variant.scenario
    bill = ownership.cost(scenario, hardware, serving, place.jobs, given.rates, given.today)
    other = sum(line.usd or 0.0 for line in bill.lines if line.group not in {DEVICES, ENERGY})
    kwh, jobs_kwh = _kwh(found, place, given)
    hours = found.paid_devices * ownership.HOURS + sum(float(job.device_hours_per_month.value) for job in place.jobs)
    prices = np.array([way.usd_per_hour for way in buying])
    usd = other + hours[:, None] * prices
    if kwh is not None and scenario.pricing.energy == "separate":
        usd = usd + (kwh + jobs_kwh)[:, None] * given.rates.electricity.value
    made = Tried(variant=variant, fleets=found, buying=buying, unpriced=unpriced, usd=usd, kwh=kwh)
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


def _kwh(found: Fleets, place: Place, given: Inputs) -> tuple[Array | None, float]:
    """Return the energy of each fleet and of the jobs a month [kWh], as a bill has it."""
    power = place.device.hardware.power
    if power is None:
        return None, 0.0
    idle = place.device.hardware.idle_power
    idle_w = idle.value if idle else ownership.IDLE_SHARE * power.value
    wall = given.rates.power_usage_effectiveness.value / 1000
    watts = found.devices * idle_w + found.busy_devices * (power.value - idle_w)
    jobs = sum(float(job.device_hours_per_month.value) for job in place.jobs) * power.value
    return watts * ownership.HOURS * wall, jobs * wall


def offers(variant: Variant, space: Space, given: Inputs) -> tuple[tuple[Buying, ...], tuple[str, ...]]:
    """Return the ways of buying a variant's device that have a price, and those that have none."""
    asked = variant.scenario.pricing
    found: list[Buying] = []
    missing: list[str] = []
    for term in space.terms or (asked.term,):
        for region in space.regions or (asked.region,):
            price = price_range(variant.hardware, term, asked.provider, region, today=given.today)
            if price is None:
                missing.append(f"{term}{f' in {region}' if region else ''}")
                continue
            found.append(
                Buying(
                    term=term, region=region or "", usd_per_hour=price.usd_per_device_hour, flags=tuple(price.flags)
                )
            )  # fmt: skip
    return tuple(found), tuple(missing)
