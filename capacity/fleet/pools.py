"""Sizing the online pipeline on one device: pools, batch size, memory, replicas with a band."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from capacity.fleet.sizing import Demand, Fleet, Latency, Miss, PoolLoad, fleet, sized
from capacity.phases import memory, serving_step
from capacity.phases.serving_step import Context
from capacity.plan import PoolPlan, StagePlan, Violation
from capacity.spec.model import Model
from capacity.spec.scenario import GenerateStage, Scenario, Stage
from capacity.timing.band import Estimate, total
from capacity.timing.device import Device
from capacity.work.operations import total_bytes, total_flop

Z10 = 1.2816
"""Standard deviations from the median to P90."""
DEGREES = (1, 2, 4, 8)
"""Tensor-parallel degrees tried, smallest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolResult:
    """Stages and pools of one option, its end-to-end latency, and what it misses."""

    stages: tuple[StagePlan, ...]
    pools: tuple[PoolPlan, ...]
    violations: tuple[Violation, ...]
    median_s: float | None = None
    quantile_s: float | None = None
    quantile_p90_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """A pool before sizing: its stages, the devices one replica needs, and the largest batch that fits them."""

    name: str
    stages: tuple[Stage, ...]
    context: Context
    largest_batch: int
    available_bytes: float | None

    @property
    def slots(self) -> bool:
        """Whether requests share a replica continuously (an LLM generates) instead of batch by batch."""
        return any(isinstance(stage, GenerateStage) for stage in self.stages)

    def parts(self, requests: int) -> dict[str, float]:
        """Memory of one device by component; weights of different stages add, equal names too [byte]."""
        found: dict[str, float] = {}
        for stage in self.stages:
            for name, size in serving_step.memory_parts(stage, requests, self.context).items():
                found[name] = found.get(name, 0.0) + float(size)
        return found

    def service(self, requests: int, device: Device) -> Estimate:
        """Time of one batch through every stage [s]."""
        return total(serving_step.time(stage, requests, device, self.context) for stage in self.stages)


def plan_pools(scenario: Scenario, device: Device, models: Mapping[str, Model]) -> PoolResult:
    """Return the smallest fleet for the online pipeline of `scenario` on `device`, or what it misses."""
    pools, violations = _fitted(scenario, device, models)
    if violations:
        return PoolResult(stages=_stages(pools, device, {}), pools=(), violations=tuple(violations))
    demand = Demand(
        rate=scenario.traffic.peak_rate, headroom=scenario.resilience.headroom, latency_s=scenario.objective.latency,
        quantile=scenario.objective.quantile, max_wait_s=scenario.serving.max_wait,
    )  # fmt: skip
    found = _cheapest(pools, scenario, device, demand)
    if isinstance(found, Miss):
        return PoolResult(stages=_stages(pools, device, {}), pools=(), violations=(_latency_violation(found, pools, device),))
    return _result(pools, device, demand, found, scenario)


def _fitted(scenario: Scenario, device: Device, models: Mapping[str, Model]) -> tuple[list[_Pool], list[Violation]]:
    """Return the pools with the fewest devices a replica that hold them, and the memory violations."""
    pools, violations = [], []
    for name in dict.fromkeys(stage.pool for stage in scenario.serving.stages):
        stages = tuple(stage for stage in scenario.serving.stages if stage.pool == name)
        candidates = [_pool(name, stages, scenario, device, models, degree) for degree in DEGREES]
        pool = next((candidate for candidate in candidates if candidate.largest_batch), candidates[-1])
        pools.append(pool)
        if not pool.largest_batch:
            violations.append(
                Violation(
                    where=f"pool {name}", constraint=f"memory of one of {DEGREES[-1]} devices at batch 1",
                    needed=sum(pool.parts(1).values()), allowed=pool.available_bytes or 0.0, dimension="bytes",
                    advice="a narrower dtype, a smaller model, or a larger device",
                )  # fmt: skip
            )
    return pools, violations


def _pool(
    name: str, stages: tuple[Stage, ...], scenario: Scenario, device: Device, models: Mapping[str, Model], degree: int
) -> _Pool:
    context = Context(scenario=scenario, models=models, tensor_parallel=degree)
    capacity = device.hardware.memory
    available = capacity.value - memory.reserve(capacity.value, device.hardware.kind) if capacity else None
    pool = _Pool(name=name, stages=stages, context=context, largest_batch=0, available_bytes=available)
    largest = 0
    for requests in _batches(scenario.serving.max_batch):
        if available is None or sum(pool.parts(requests).values()) <= available:
            largest = requests
    return replace(pool, largest_batch=largest)


def _batches(most: int) -> list[int]:
    """Return powers of two up to `most`, and `most` itself.

    Examples
    --------
    >>> _batches(12)
    [1, 2, 4, 8, 12]
    """
    return [2**power for power in range(int(math.log2(most)) + 1)] + ([most] if most & (most - 1) else [])


def _load(pool: _Pool, requests: int, service: Estimate, scenario: Scenario, shift: float = 0.0) -> PoolLoad:
    """Return the pool's load with its step time moved by `shift` standard deviations."""
    variation = scenario.resilience.service_variation
    return PoolLoad(
        name=pool.name, mode="slots" if pool.slots else "batches", batch=requests,
        service_s=float(service.value) * math.exp(shift * float(service.log_sigma)),
        service_scv=variation**2 / (1 if pool.slots else requests),
        devices_per_replica=pool.context.tensor_parallel,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Choice:
    batches: Mapping[str, int]
    services: Mapping[str, Estimate]
    fleet: Fleet
    devices: int


def _cheapest(pools: Sequence[_Pool], scenario: Scenario, device: Device, demand: Demand) -> _Choice | Miss:
    """Return the batch sizes with the fewest devices; on a tie the lower latency."""
    best: _Choice | None = None
    first_miss: Miss | None = None
    for level in _batches(max(pool.largest_batch for pool in pools)):
        batches = {pool.name: min(level, pool.largest_batch) for pool in pools}
        services = {pool.name: pool.service(batches[pool.name], device) for pool in pools}
        loads = [_load(pool, batches[pool.name], services[pool.name], scenario) for pool in pools]
        found = sized(loads, demand)
        if isinstance(found, Miss):
            first_miss = first_miss or found
            continue
        devices = found.devices(loads)
        if best is None or (devices, found.quantile_s) < (best.devices, best.fleet.quantile_s):
            best = _Choice(batches, services, found, devices)
    return best or first_miss or Miss("any batch size", float("inf"), demand.latency_s)


def _latency_violation(miss: Miss, pools: Sequence[_Pool], device: Device) -> Violation:
    slowest = max(pools, key=lambda pool: float(pool.service(1, device).value))
    return Violation(
        where=f"pool {slowest.name}", constraint=miss.constraint, needed=miss.best_s, allowed=miss.allowed_s,
        dimension="seconds", advice="a faster device, a smaller model, fewer tokens, or a looser objective",
    )  # fmt: skip


def _result(pools: Sequence[_Pool], device: Device, demand: Demand, choice: _Choice, scenario: Scenario) -> PoolResult:
    at = {}
    for shift in (-Z10, Z10):
        loads = [_load(pool, choice.batches[pool.name], choice.services[pool.name], scenario, shift) for pool in pools]
        found = sized(loads, demand)
        at[shift] = None if isinstance(found, Miss) else found
        if shift > 0:
            slow = fleet(loads, choice.fleet.replicas, demand)
    plans = tuple(_plan(pool, choice, at, scenario) for pool in pools)
    return PoolResult(
        stages=_stages(pools, device, choice.batches), pools=plans, violations=(),
        median_s=choice.fleet.median_s, quantile_s=choice.fleet.quantile_s, quantile_p90_s=slow.quantile_s,
    )  # fmt: skip


def _plan(pool: _Pool, choice: _Choice, at: Mapping[float, Fleet | None], scenario: Scenario) -> PoolPlan:
    part: Latency = choice.fleet.latency[pool.name]
    fast, slow = at[-Z10], at[Z10]
    return PoolPlan(
        name=pool.name, replicas=choice.fleet.replicas[pool.name], spare_replicas=scenario.resilience.spare_replicas,
        replicas_p10=fast.replicas[pool.name] if fast else None, replicas_p90=slow.replicas[pool.name] if slow else None,
        devices_per_replica=pool.context.tensor_parallel, batch=choice.batches[pool.name],
        service=choice.services[pool.name], forming_s=part.forming_s, wait_p50_s=part.wait.quantile(0.5),
        wait_p99_s=part.wait.quantile(0.99), utilization=choice.fleet.utilization[pool.name],
        memory_bytes=pool.parts(choice.batches[pool.name]), memory_available_bytes=pool.available_bytes,
    )  # fmt: skip


def _stages(pools: Sequence[_Pool], device: Device, batches: Mapping[str, int]) -> tuple[StagePlan, ...]:
    """Return every stage at its pool's batch size (1 where there is none)."""
    plans = []
    for pool in pools:
        requests = batches.get(pool.name, 1)
        for stage in pool.stages:
            work = serving_step.operations(stage, requests * (1 - stage.cache_hit_rate), pool.context)
            plans.append(
                StagePlan(
                    name=stage.name, task=stage.task, pool=pool.name,
                    time=serving_step.time(stage, requests, device, pool.context), flop=float(total_flop(work)),
                    moved_bytes=float(total_bytes(work)), bound=device.bound(work) if work else "host",
                )  # fmt: skip
            )
    return tuple(plans)
