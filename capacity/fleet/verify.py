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
WORTH = 0.97
"""Latency of a larger fleet ÷ that of the best before, from which it is no better [1]."""
PATIENCE = 3
"""Larger fleets in a row that are no better until the search gives up."""
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
        Whether it meets the objective.
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
    peak = replace(start, rate=start.rate * (1 + scenario.resilience.headroom), day=False)
    trials = Trials(scenario, lambda case: run(pools, scenario, case, Settings(requests=ENOUGH)), peak)
    free = [pool for pool in pools if pool.name not in fixed]
    return search(trials, free, {pool.name: pool.fewest for pool in pools})


def search(trials: Trials, free: Sequence[Pool], fewest: Mapping[str, int], most: int = MOST_TRIALS) -> Sized:
    """Return the fewest replicas that meet the objective: what misses it is enlarged, what meets it shrunk.

    Parameters
    ----------
    trials
        Runs fleets; the search begins with that of its case.
    free
        Pools whose number of replicas is searched for.
    fewest
        Replicas to keep, by pool.
    most
        Fleets to try until one meets the objective.
    """
    replicas = dict(trials.start.replicas)
    best, best_s, worse = dict(replicas), math.inf, 0
    while not trials.meets(replicas):
        now_s = trials.latency_s(replicas)
        if now_s < WORTH * best_s:
            best, best_s, worse = dict(replicas), now_s, 0
        elif math.isfinite(best_s):
            worse += 1
        if not free or trials.count >= most or worse >= PATIENCE:
            return Sized(replicas=best, meets=False, latency_s=best_s, trials=trials.count)
        pool = _slowest(trials.result(replicas), free, trials.percentile)
        replicas[pool.name] = max(replicas[pool.name] + 1, math.ceil(replicas[pool.name] * GROWTH))
    for pool in sorted(free, key=lambda item: -replicas[item.name] * item.devices_per_replica):
        meets = partial(trials.meets_with, replicas, pool.name)
        replicas[pool.name] = _least(meets, fewest[pool.name], replicas[pool.name])
    return Sized(replicas=replicas, meets=True, latency_s=trials.latency_s(replicas), trials=trials.count)


def _slowest(result: Simulated, pools: Sequence[Pool], percentile: str) -> Pool:
    """Return the pool where a request at the percentile takes most times as long as alone."""

    def times(pool: Pool) -> float:
        found = result.nodes[online.node_name(pool)].latency
        return (found.quantiles[percentile].value if found.count else math.inf) / max(pool.load(1).alone_s, 1e-9)

    return max(pools, key=times)


def _least(meets: Callable[[int], bool], fewest: int, most: int) -> int:
    """Return the least count that meets, from `fewest` to `most`, which does: doubling steps down, then halves."""
    step, good = 1, most
    while good - step >= fewest and meets(good - step):
        good -= step
        step *= 2
    bad = max(good - step, fewest - 1)
    while good - bad > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if meets(middle) else (good, middle)
    return good


class Trials:
    """Runs of one fleet in several sizes, each once.

    Parameters
    ----------
    run
        Simulates a case.
    start
        The case whose replicas are varied.
    """

    def __init__(self, scenario: Scenario, run: Callable[[Case], Simulated], start: Case) -> None:
        self.start, self.percentile = start, scenario.objective.percentile
        self._allowed_s, self._run = scenario.objective.latency, run
        self._known: dict[tuple[tuple[str, int], ...], Simulated] = {}

    @property
    def count(self) -> int:
        """Fleets simulated."""
        return len(self._known)

    def result(self, replicas: Mapping[str, int]) -> Simulated:
        """Return the run with so many replicas of each pool."""
        key = tuple(sorted(replicas.items()))
        if key not in self._known:
            self._known[key] = self._run(online.resized(self.start, replicas))
        return self._known[key]

    def latency_s(self, replicas: Mapping[str, int]) -> float:
        """Return the latency at the objective's percentile [s], infinite where the fleet does not keep up."""
        return tail_s(self.result(replicas), self.percentile)

    def meets(self, replicas: Mapping[str, int]) -> bool:
        """Return whether so many replicas hold the objective."""
        return self.latency_s(replicas) <= self._allowed_s

    def meets_with(self, replicas: Mapping[str, int], name: str, count: int) -> bool:
        """Return whether the objective holds with another number of replicas of one pool."""
        return self.meets({**replicas, name: count})
