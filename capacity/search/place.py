"""Where the fleets of a variant stand: its device, the pools that it may hold, and its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from capacity import planner
from capacity.fleet import pools as sizing
from capacity.fleet.grid import Fleets
from capacity.fleet.pool import Pool, candidates, too_small
from capacity.fleet.searched import Buying, Variant
from capacity.fleet.sizing import fleet
from capacity.phases.context import Context
from capacity.plan import JobPlan, Option, Violation
from capacity.planner import Inputs
from capacity.timing import transfer
from capacity.timing.device import Device

SPOT = "spot"


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
        engines, points = tuple(given.shared.serving_engines), given.points
        context = Context(scenario=scenario, models=models, engines=engines, points=points)
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
        scenario = buying.of(self.variant.scenario)
        jobs, missed = self.work(buying, given)
        found = sizing.result(chosen, choice, scenario)
        found = replace(found, violations=(*found.violations, *missed))
        return planner.assembled(scenario, self.device, found, jobs, given)

    def work(self, buying: Buying, given: Inputs) -> tuple[Sequence[JobPlan], Sequence[Violation]]:
        """Return the jobs on devices bought one way, and what they miss: those on spot devices are interrupted."""
        scenario = self.variant.scenario
        if (buying.term == SPOT) == (scenario.pricing.term == SPOT):
            return self.jobs, ()
        models = planner.sized_models(scenario, self.variant.models)
        return planner.jobs(buying.of(scenario), self.device, models, given)
