"""Sizing by simulation: the closed form's fleet is tried, enlarged until it meets the objective, then shrunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from capacity.fleet import online
from capacity.fleet.flow import Outcome
from capacity.fleet.online import Case
from capacity.fleet.pool import Pool
from capacity.fleet.simulated import Settings, Simulated
from capacity.fleet.simulator import simulate
from capacity.spec.scenario import Scenario

ENOUGH = 8_000
"""Requests of a trial: 80 of them are slower than p99."""
GROWTH = 1.15
WORTH = 0.99
"""A larger fleet that is not faster by this much is as good as it gets [1]."""
MOST_TRIALS = 40
GIVEN_UP = (Outcome.FALLBACK, Outcome.SHED, Outcome.TIMED_OUT, Outcome.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """The smallest fleet that was seen to meet the objective, or the best that was tried.

    Attributes
    ----------
    replicas
        By pool.
    meets
        Whether it meets the objective at peak plus headroom.
    latency_s
        End-to-end latency at the objective's percentile there [s]; infinite when it does not keep up.
    trials
        Fleets simulated.
    """

    replicas: Mapping[str, int]
    meets: bool
    latency_s: float
    trials: int


def run(pools: Sequence[Pool], scenario: Scenario, case: Case, settings: Settings) -> Simulated:
    """Return one run of a fleet."""
    settings = replace(settings, seed=case.seed)
    return simulate(
        online.nodes(pools, scenario, case), online.arrivals(scenario, case), online.lengths(scenario, case), settings
    )


def tail_s(result: Simulated, percentile: str) -> float:
    """Return the end-to-end latency at a percentile [s].

    Infinite when the fleet does not keep up, or when more requests are lost or answered without some stage than the
    percentile leaves: giving up is fast, but it is no answer.
    """
    given_up = sum(result.outcomes.get(outcome, 0) for outcome in GIVEN_UP)
    allowed = (1 - int(percentile[1:]) / 100) * result.measured
    if result.saturation.state == "overloaded" or not result.end_to_end.count or given_up > allowed:
        return math.inf
    return result.end_to_end.quantiles[percentile].value


def sized(pools: Sequence[Pool], scenario: Scenario, start: Case, fixed: Sequence[str] = ()) -> Sized:
    """Return the fewest replicas that meet the objective at peak plus headroom.

    Parameters
    ----------
    start
        The fleet to begin with, at the peak rate.
    fixed
        Pools whose number of replicas is given.
    """
    trial = _Trials(pools, scenario, start)
    free = [pool for pool in pools if pool.name not in fixed]
    replicas, before_s = dict(start.replicas), math.inf
    while not trial.meets(replicas):
        slowest, now_s = trial.slowest(replicas, free), trial.latency_s(replicas)
        if slowest is None or trial.count >= MOST_TRIALS or now_s > WORTH * before_s:
            return Sized(replicas=replicas, meets=False, latency_s=now_s, trials=trial.count)
        before_s = now_s if math.isfinite(now_s) else before_s
        replicas[slowest.name] = max(replicas[slowest.name] + 1, math.ceil(replicas[slowest.name] * GROWTH))
    for pool in sorted(free, key=lambda item: -replicas[item.name] * item.devices_per_replica):
        replicas[pool.name] = _least(partial(trial.meets_with, replicas, pool.name), replicas[pool.name])
    return Sized(replicas=replicas, meets=True, latency_s=trial.latency_s(replicas), trials=trial.count)


def _least(meets: Callable[[int], bool], most: int) -> int:
    """Return the least count that meets, of those up to `most`, which does: by doubling steps down, then by halves."""
    step, good = 1, most
    while good - step >= 1 and meets(good - step):
        good -= step
        step *= 2
    bad = max(good - step, 0)
    while good - bad > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if meets(middle) else (good, middle)
    return good


class _Trials:
    """Runs of fleets at peak plus headroom, each once."""

    def __init__(self, pools: Sequence[Pool], scenario: Scenario, start: Case) -> None:
        self._pools, self._scenario, self._start = pools, scenario, start
        self._known: dict[tuple[int, ...], Simulated] = {}

    @property
    def count(self) -> int:
        return len(self._known)

    def result(self, replicas: Mapping[str, int]) -> Simulated:
        key = tuple(replicas[pool.name] for pool in self._pools)
        if key not in self._known:
            rate = self._start.rate * (1 + self._scenario.resilience.headroom)
            share = online.representative(replicas)
            case = replace(self._start, replicas=dict(replicas), rate=rate, share=share, day=False)
            self._known[key] = run(self._pools, self._scenario, case, Settings(requests=ENOUGH))
        return self._known[key]

    def latency_s(self, replicas: Mapping[str, int]) -> float:
        return tail_s(self.result(replicas), self._scenario.objective.percentile)

    def meets(self, replicas: Mapping[str, int]) -> bool:
        return self.latency_s(replicas) <= self._scenario.objective.latency

    def meets_with(self, replicas: Mapping[str, int], name: str, count: int) -> bool:
        fewest = next(pool.fewest for pool in self._pools if pool.name == name)
        return count >= fewest and self.meets({**replicas, name: count})

    def slowest(self, replicas: Mapping[str, int], free: Sequence[Pool]) -> Pool | None:
        """Return the pool where a request at the percentile loses most time beyond being alone there."""
        result, percentile = self.result(replicas), self._scenario.objective.percentile
        lost = {}
        for pool in free:
            name = online.node_name(pool)
            found = result.nodes[name].latency
            alone_s = pool.load(1).alone_s
            lost[pool.name] = (found.quantiles[percentile].value if found.count else math.inf) / max(alone_s, 1e-9)
        return max(free, key=lambda pool: lost[pool.name], default=None)
