"""Sizing the online pipeline on one device: pools, batch size, memory, replicas with a band."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from capacity.fleet import arrivals
from capacity.fleet.pool import Pool, batch_sizes, fitted
from capacity.fleet.sizing import Demand, Fleet, Latency, Load, Miss, fleet, least, sized
from capacity.phases import nearest, serving_step
from capacity.phases.context import Context
from capacity.plan import PoolPlan, StagePlan, Violation
from capacity.spec.model import IndexPoints, Model
from capacity.spec.scenario import Scenario
from capacity.spec.serving_engine import ServingEngine
from capacity.spec.stages import RetrieveStage, Stage
from capacity.timing.band import Estimate
from capacity.timing.device import Device
from capacity.work.operations import total_bytes, total_flop

HOUR_S = 3600.0
Z10 = 1.2816
"""Standard deviations from the median to P90."""
HALVINGS = 10
"""Of the interval in which the rate lies that a fleet carries: to a thousandth of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolResult:
    """Stages and pools of one option, its end-to-end latency, and what it misses.

    Attributes
    ----------
    chosen, choice
        The pools that were chosen and their fleet; none where something is missed.
    """

    stages: tuple[StagePlan, ...]
    pools: tuple[PoolPlan, ...]
    violations: tuple[Violation, ...]
    median_s: float | None = None
    quantile_s: float | None = None
    quantile_p90_s: float | None = None
    chosen: Sequence[Pool] = ()
    choice: Choice | None = None


def plan_pools(
    scenario: Scenario, device: Device, models: Mapping[str, Model], engines: Sequence[ServingEngine],
    points: Mapping[str, IndexPoints],
) -> PoolResult:  # fmt: skip
    """Return the smallest fleet for the online pipeline of `scenario` on `device`, or what it misses."""
    context = Context(scenario=scenario, models=models, engines=tuple(engines), points=points)
    pools, violations = fitted(context, device)
    if violations:
        return PoolResult(stages=stages(pools, {}), pools=(), violations=tuple(violations))
    found = cheapest(pools, scenario)
    if isinstance(found, Miss):
        return PoolResult(stages=stages(pools, {}), pools=(), violations=(_latency_violation(found, pools),))
    return result(pools, found, scenario)


def result(pools: Sequence[Pool], found: Choice, scenario: Scenario) -> PoolResult:
    """Return a fleet with what becomes of it if step times were at their P10 or P90."""
    at = {shift: cheapest(pools, scenario, shift) for shift in (-Z10, Z10)}
    slow = min(
        fleet([pool.load(batches[pool.name], Z10) for pool in pools], found.fleet.replicas, demand(scenario)).quantile_s
        for batches in _grown(pools, found.batches)
    )
    return PoolResult(
        stages=stages(pools, found.batches), violations=(), median_s=found.fleet.median_s,
        pools=plans(pools, found, scenario, at), quantile_s=found.fleet.quantile_s, quantile_p90_s=slow,
        chosen=pools, choice=found,
    )  # fmt: skip


def _grown(pools: Sequence[Pool], batches: Mapping[str, int]) -> Iterator[Mapping[str, int]]:
    """Yield batches by pool and all larger ones: where a fleet is hard pressed they grow by themselves."""
    yield batches
    most = max(batches.values(), default=0)
    yield from ({pool.name: pool.batch(level) for pool in pools} for level in _levels(pools) if level > most)


def carries(found: PoolResult, scenario: Scenario) -> float:
    """Return the largest rate at which a fleet holds the objective ÷ the peak rate [1]; infinite without a fleet."""
    if found.choice is None or not found.chosen:
        return math.inf
    wanted, replicas = demand(scenario), found.choice.fleet.replicas
    most = 1.0
    for batches in _grown(found.chosen, found.choice.batches):
        loads = [pool.load(batches[pool.name]) for pool in found.chosen]
        low, high = most, min(load.most_rate() * replicas[load.name] for load in loads) / wanted.rate
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            at = replace(wanted, rate=wanted.rate * middle)
            holds = low < high and fleet(loads, replicas, at).quantile_s <= wanted.latency_s
            low, high = (middle, high) if holds else (low, middle)
        most = max(most, low)
    return most


def plans(
    pools: Sequence[Pool], found: Choice, scenario: Scenario, at: Mapping[float, Choice | Miss] | None = None
) -> tuple[PoolPlan, ...]:
    """Return the pools of a fleet; `at` holds the fleets for step times moved by as many standard deviations."""
    return tuple(_plan(pool, found, at or {}, scenario) for pool in pools)


def demand(scenario: Scenario) -> Demand:
    """Return what the pools must achieve at peak."""
    return Demand(
        rate=scenario.traffic.peak_rate, headroom=scenario.resilience.headroom, latency_s=scenario.objective.latency,
        quantile=scenario.objective.quantile,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """The cheapest fleet: its loads, its batch sizes by pool, and its devices."""

    fleet: Fleet
    loads: Sequence[Load]
    batches: Mapping[str, int]
    devices: int


def cheapest(pools: Sequence[Pool], scenario: Scenario, shift: float = 0.0) -> Choice | Miss:
    """Return the fleet with the fewest devices, on a tie the lower latency, or what all of them miss.

    Parameters
    ----------
    shift
        Standard deviations by which step times are longer than expected.
    """
    best: Choice | None = None
    first_miss: Miss | None = None
    given = {pool.name: pool.spec.replicas for pool in pools if pool.spec.replicas}
    for level in _levels(pools):
        loads = _loads(pools, level, shift)
        found = sized(loads, demand(scenario), given)
        if isinstance(found, Miss):
            first_miss = first_miss or found
            continue
        devices = found.devices(loads)
        if best is None or (devices, found.quantile_s) < (best.devices, best.fleet.quantile_s):
            best = Choice(found, loads, {pool.name: pool.batch(level) for pool in pools}, devices)
    return best or first_miss or Miss("any batch size", float("inf"), scenario.objective.latency)


def fewest(pools: Sequence[Pool], scenario: Scenario) -> Choice:
    """Return the fewest replicas that keep up with the peak at the largest batches, whatever their latency."""
    level = max(pool.largest_batch for pool in pools)
    loads, wanted = _loads(pools, level), demand(scenario)
    rate = wanted.rate * (1 + wanted.headroom)
    replicas = {load.name: pool.spec.replicas or least(load, rate) for pool, load in zip(pools, loads, strict=True)}
    found = fleet(loads, replicas, wanted)
    return Choice(found, loads, {pool.name: pool.batch(level) for pool in pools}, found.devices(loads))


def _levels(pools: Sequence[Pool]) -> list[int]:
    """Return the batch sizes to try, smallest first; a pool stays at the largest batch that fits it."""
    batched = [pool.largest_batch for pool in pools if pool.generates is None]
    return batch_sizes(max(batched, default=1))


def _loads(pools: Sequence[Pool], level: int, shift: float = 0.0) -> list[Load]:
    return [pool.load(level, shift) for pool in pools]


def _latency_violation(miss: Miss, pools: Sequence[Pool]) -> Violation:
    slowest = max(pools, key=lambda pool: float(pool.service(1).value))
    return Violation(
        where=f"pool {slowest.name}", constraint=miss.constraint, needed=miss.best_s, allowed=miss.allowed_s,
        dimension="seconds", advice="a faster device, a smaller model, fewer tokens, or a looser objective",
    )  # fmt: skip


def _plan(pool: Pool, choice: Choice, at: Mapping[float, Choice | Miss], scenario: Scenario) -> PoolPlan:
    part: Latency = choice.fleet.latency[pool.name]
    replicas = choice.fleet.replicas[pool.name]
    chosen = {shift: other.fleet.replicas[pool.name] for shift, other in at.items() if isinstance(other, Choice)}
    batch = pool.running(replicas, scenario.traffic.peak_rate, choice.batches[pool.name])
    service = Estimate(part.service.mean_s, pool.service(batch).errors, pool.service(batch).basis)
    return PoolPlan(
        name=pool.name, replicas=replicas, spare_replicas=scenario.resilience.spare_replicas,
        replicas_p10=chosen.get(-Z10), replicas_p90=chosen.get(Z10), devices_per_replica=pool.devices_per_replica,
        batch=batch, service=service if pool.generates else pool.service(batch), forming_s=part.forming_s,
        wait_p50_s=part.wait.quantile(0.5), wait_p99_s=part.wait.quantile(0.99),
        utilization=choice.fleet.utilization[pool.name], memory_bytes=pool.parts(batch),
        memory_available_bytes=pool.available_bytes, paid_replicas=_paid(pool, replicas, scenario),
        largest_catalogue=_largest_catalogue(pool, batch, scenario),
    )  # fmt: skip


def _largest_catalogue(pool: Pool, batch: int, scenario: Scenario) -> float | None:
    """Return how many items' vectors would fit a replica at this batch, all else as it is."""
    parts = pool.parts(batch)
    vectors = parts.get("catalogue vectors", 0.0)
    if not vectors or pool.available_bytes is None:
        return None
    return max(0.0, (pool.available_bytes - sum(parts.values()) + vectors) / vectors * scenario.catalogue.items)


def shares_of_a_day(scenario: Scenario) -> NDArray[np.float64]:
    """Return the largest rate in each of 24 hours ÷ the peak rate [1]."""
    traffic = scenario.traffic
    day = arrivals.Diurnal(1.0, max(traffic.mean_to_peak, 0.05), traffic.peak_hour)
    hours = np.arange(24)[:, None] + np.linspace(0, 1, 7)
    return np.asarray(day.rate_at(hours * HOUR_S).max(axis=1))


def _paid(pool: Pool, replicas: int, scenario: Scenario) -> float | None:
    """Return the mean replicas of an autoscaled day: in each hour the peak's, scaled with the rate, in whole replicas.

    What holds the objective at peak is assumed to hold it in proportion; `capacity simulate --day` checks that.
    """
    scaling = pool.spec.autoscaling
    if scaling is None:
        return None
    most = min(scaling.maximum, replicas)
    return float(np.clip(np.ceil(replicas * shares_of_a_day(scenario)), min(scaling.minimum, most), most).mean())


def stages(pools: Sequence[Pool], batches: Mapping[str, int]) -> tuple[StagePlan, ...]:
    """Return every stage at its pool's batch size (1 where there is none).

    Raises
    ------
    MissingFactError
        Where a device lacks what a stage's work takes, such as the rate of its dtype.
    """
    plans = []
    for pool in pools:
        requests = batches.get(pool.name, 1)
        sizes = batch_sizes(max(pool.largest_batch, 1))
        for stage in pool.stages:
            work = serving_step.operations(stage, requests * (1 - pool.context.hit_rate(stage)), pool.context)
            plans.append(
                StagePlan(
                    name=stage.name, task=stage.task, pool=pool.name, time=pool.stage_time(stage, requests),
                    flop=float(total_flop(work)), moved_bytes=float(total_bytes(work)),
                    bound=pool.device.bound(work) if work else "host", batches=tuple(sizes),
                    batch_times=tuple(pool.stage_time(stage, size) for size in sizes),
                    takes=_taken(stage, pool.context),
                )
            )  # fmt: skip
    return tuple(plans)


def _taken(stage: Stage, context: Context) -> str:
    """Return what the stage's time takes for granted, in words."""
    return nearest.taken_from(stage, context.points) if isinstance(stage, RetrieveStage) else ""
