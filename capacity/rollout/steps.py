"""Both fleets of a rollout, step by step: shadow, ramp, standby, and caches that fill meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from capacity import planner
from capacity.errors import CapacityError
from capacity.fleet.rollout import ColdCache, Step
from capacity.plan import Option, PoolPlan
from capacity.planner import Inputs
from capacity.rollout.jobs import missed
from capacity.spec.hardware import Hardware
from capacity.spec.rollout import Rollout
from capacity.spec.scenario import Scenario
from capacity.timing.band import Basis, weakest

Z10 = 1.2816
"""Standard deviations from the median to P90."""
UNTIL_WARM = "until warm"
"""The last step, where caches are not warm before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A time of the rollout and who answers in it.

    Attributes
    ----------
    share
        Share of the requests that reach the new fleet [1].
    moved
        Share that it answers for real [1]; 0 in the shadow.
    old
        Share that the old fleet is kept for [1].
    """

    name: str
    duration_s: float
    share: float
    moved: float
    old: float


def moments(policy: Rollout) -> tuple[Moment, ...]:
    """Return the times of a rollout in order, those that last no time left out.

    Examples
    --------
    >>> [(moment.name, moment.old, moment.duration_s) for moment in moments(Rollout(ramp=(0.5,)))]
    [('shadow', 1.0, 259200.0), ('ramp 50 %', 0.5, 518400.0), ('standby', 1.0, 86400.0)]
    """
    shadow = Moment(name="shadow", duration_s=policy.shadow_time, share=policy.shadow_share, moved=0.0, old=1.0)
    ramp = [
        Moment(
            name=f"ramp {100 * share:g} %", duration_s=policy.overlap_time / len(policy.ramp), share=share, moved=share,
            old=1 - share,
        ) for share in policy.ramp
    ]  # fmt: skip
    standby = Moment(name="standby", duration_s=policy.standby_time, share=1.0, moved=1.0, old=1.0)
    return tuple(moment for moment in (shadow, *ramp, standby) if moment.duration_s > 0 and moment.share > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleets:
    """The old and the new fleet on one device: of the pools that change, `pools`, and of those they share."""

    old: Scenario
    new: Scenario
    given: Inputs
    hardware: Hardware
    pools: frozenset[str]

    def sized(self, scenario: Scenario, share: float, hit_rates: Mapping[str, float] | None = None) -> Option:
        """Return the fleet for a share of the peak, with caches that answer less than they will.

        Raises
        ------
        CapacityError
            When no fleet meets the objective: what it misses.
        """
        stages = tuple(
            stage.model_copy(update={"cache": None, "cache_hit_rate": (hit_rates or {})[stage.name]})
            if stage.name in (hit_rates or {}) else stage for stage in scenario.serving.stages
        )  # fmt: skip
        traffic = scenario.traffic.model_copy(update={"peak_rate": scenario.traffic.peak_rate * share})
        serving = scenario.serving.model_copy(update={"stages": stages})
        part = scenario.model_copy(update={"traffic": traffic, "serving": serving, "batch": (), "training": ()})
        found = planner.option(part, self.hardware, self.given)
        if found.violations:
            empty = " while its caches are empty" if hit_rates else ""
            raise CapacityError(f"the fleet for {share:.0%} of the peak{empty}: {missed(found.violations[0])}")
        return found

    def changing(self, option: Option) -> int:
        """Return the devices of the pools that change."""
        return sum(pool.devices for pool in option.pools if pool.name in self.pools)

    def shared(self, option: Option) -> int:
        """Return the devices of the pools that serve both."""
        return option.devices - self.changing(option)

    def basis(self, option: Option) -> Basis:
        """Return where the step times of the changing pools come from."""
        return weakest(pool.service.basis for pool in option.pools if pool.name in self.pools)

    def sigma(self, option: Option) -> float:
        """Return how unsure the devices of the changing pools are [log standard deviation]."""
        pools = [pool for pool in option.pools if pool.name in self.pools]
        low, high = (sum(_at(pool, z) for pool in pools) for z in (-Z10, Z10))
        return math.log(high / low) / (2 * Z10) if high > low > 0 else 0.0


def _at(pool: PoolPlan, z: float) -> float:
    """Return the devices of a pool if its step time were `z` standard deviations off, as its bill counts them."""
    known = pool.replicas_p10 if z < 0 else pool.replicas_p90
    replicas = known or max(1, round(pool.replicas * math.exp(z * float(pool.service.log_sigma))))
    return math.ceil((replicas + pool.spare_replicas) * pool.devices_per_replica)


def steps(fleets: Fleets, policy: Rollout, cold: Sequence[ColdCache]) -> tuple[Step, ...]:
    """Return both fleets at every step; a last one holds the new fleet larger until its caches are warm.

    Requests of a step ask the new fleet's caches at the mean rate; what they leave there the next step finds.
    """
    return tuple(_steps(fleets, policy, cold))


def _steps(fleets: Fleets, policy: Rollout, cold: Sequence[ColdCache]) -> Iterator[Step]:
    whole = fleets.sized(fleets.old, 1.0), fleets.sized(fleets.new, 1.0)
    asked = {cache.stage: 0.0 for cache in cold}
    for moment in moments(policy):
        yield _step(fleets, moment, whole, cold, asked)
        for cache in cold:
            asked[cache.stage] += cache.look_ups_per_s * moment.share * moment.duration_s
    rest_s = max((_left_s(cache, asked, 1.0) for cache in cold), default=0.0)
    if rest_s > 0:
        last = Moment(name=UNTIL_WARM, duration_s=rest_s, share=1.0, moved=1.0, old=0.0)
        yield _step(fleets, last, whole, cold, asked)


def _left_s(cache: ColdCache, asked: Mapping[str, float], share: float) -> float:
    """Return how long a cache takes to be warm when it is asked a share of the requests [s]."""
    return max(cache.warm_look_ups - asked[cache.stage], 0.0) / (cache.look_ups_per_s * share)


def _step(
    fleets: Fleets, moment: Moment, whole: tuple[Option, Option], cold: Sequence[ColdCache], asked: Mapping[str, float]
) -> Step:
    old, new = (fleets.changing(option) for option in whole)
    warm = whole[1] if moment.share == 1 else fleets.sized(fleets.new, moment.share)
    kept = whole[0] if moment.old == 1 else fleets.sized(fleets.old, moment.old) if moment.old > 0 else None
    cold_s = min(max((_left_s(cache, asked, moment.share) for cache in cold), default=0.0), moment.duration_s)
    hit_rates = {cache.stage: cache.reached(asked[cache.stage]) for cache in cold}
    empty = fleets.sized(fleets.new, moment.share, hit_rates) if cold_s > 0 else warm
    shadowed = moment.share - moment.moved
    shared, beside = fleets.shared(whole[0]), 0
    if shadowed > 0:
        beside = max(fleets.shared(fleets.sized(fleets.old, 1 + shadowed)) - shared, 0)
    return Step(
        name=moment.name, share=moment.share, duration_s=moment.duration_s,
        old=0 if kept is None else fleets.changing(kept), new=fleets.changing(warm), shared=shared + beside,
        baseline=(1 - moment.moved) * old + moment.moved * new + shared, sigma=fleets.sigma(warm),
        cold=max(fleets.changing(empty) - fleets.changing(warm), 0), cold_s=cold_s, hit_rates=hit_rates,
        basis=fleets.basis(warm),
    )  # fmt: skip
