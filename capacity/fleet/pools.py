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
from capacity.spec.scenario import Scenario
from capacity.spec.stages import GenerateStage, HostStage, Stage
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
        """Memory of one device by component; parts of different stages add, one model's weights count once [byte]."""
        found: dict[str, float] = {}
        loaded: set[tuple[str, str]] = set()
        for stage in self.stages:
            model = (getattr(stage, "model", ""), stage.dtype)
            for name, size in serving_step.memory_parts(stage, requests, self.context).items():
                shared = name == "weights" and model in loaded
                found[name] = found.get(name, 0.0) + (0.0 if shared else float(size))
            loaded.add(model)
        return found

    @property
    def host_s(self) -> float:
        """Time of a request in host work, which keeps no device busy [s]."""
        return sum(stage.time for stage in self.stages if isinstance(stage, HostStage))

    def service(self, requests: int, device: Device) -> Estimate:
        """Time of one batch through every stage that runs on the device [s]."""
        stages = [stage for stage in self.stages if not isinstance(stage, HostStage)]
        return total(serving_step.time(stage, requests, device, self.context) for stage in stages)


def plan_pools(scenario: Scenario, device: Device, models: Mapping[str, Model]) -> PoolResult:
    """Return the smallest fleet for the online pipeline of `scenario` on `device`, or what it misses."""
    pools, violations = _fitted(scenario, device, models)
    if violations:
        return PoolResult(stages=_stages(pools, device, {}), pools=(), violations=tuple(violations))
    demand = Demand(
        rate=scenario.traffic.peak_rate, headroom=scenario.resilience.headroom, latency_s=scenario.objective.latency,
        quantile=scenario.objective.quantile, max_wait_s=scenario.serving.max_wait,
    )  # fmt: skip
    trials = _trials(pools, device)
    found = _cheapest(pools, trials, scenario, demand)
    if isinstance(found, Miss):
        violation = _latency_violation(found, pools, device)
        return PoolResult(stages=_stages(pools, device, {}), pools=(), violations=(violation,))
    at = {shift: _cheapest(pools, trials, scenario, demand, shift) for shift in (-Z10, Z10)}
    # with the fleet given, batches grow by themselves to the size that answers soonest
    slow = min(_at(pools, trial, scenario, demand, found.fleet).quantile_s for trial in trials)
    return PoolResult(
        stages=_stages(pools, device, found.trial.batches), violations=(), median_s=found.fleet.median_s,
        pools=tuple(_plan(pool, found, at, scenario) for pool in pools), quantile_s=found.fleet.quantile_s,
        quantile_p90_s=slow,
    )  # fmt: skip


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
                )
            )  # fmt: skip
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


@dataclass(frozen=True, slots=True)
class _Trial:
    """One batch size for every pool, and the time of such a batch."""

    batches: Mapping[str, int]
    services: Mapping[str, Estimate]


def _trials(pools: Sequence[_Pool], device: Device) -> list[_Trial]:
    """Return the batch sizes to try, smallest first; a pool stays at the largest batch that fits it."""
    trials = []
    for level in _batches(max(pool.largest_batch for pool in pools)):
        batches = {pool.name: min(level, pool.largest_batch) for pool in pools}
        trials.append(_Trial(batches, {pool.name: pool.service(batches[pool.name], device) for pool in pools}))
    return trials


def _load(pool: _Pool, trial: _Trial, scenario: Scenario, shift: float = 0.0) -> PoolLoad:
    """Return the pool's load with its step time moved by `shift` standard deviations."""
    variation = scenario.resilience.service_variation
    requests, service = trial.batches[pool.name], trial.services[pool.name]
    return PoolLoad(
        name=pool.name, mode="slots" if pool.slots else "batches", batch=requests,
        service_s=float(service.value) * math.exp(shift * float(service.log_sigma)),
        service_scv=variation**2 / (1 if pool.slots else requests), host_s=pool.host_s,
        devices_per_replica=pool.context.tensor_parallel,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Choice:
    trial: _Trial
    fleet: Fleet
    devices: int


def _cheapest(
    pools: Sequence[_Pool], trials: Sequence[_Trial], scenario: Scenario, demand: Demand, shift: float = 0.0
) -> _Choice | Miss:
    """Return the trial with the fewest devices, its step time moved by `shift`; on a tie the lower latency."""
    best: _Choice | None = None
    first_miss: Miss | None = None
    for trial in trials:
        loads = [_load(pool, trial, scenario, shift) for pool in pools]
        found = sized(loads, demand)
        if isinstance(found, Miss):
            first_miss = first_miss or found
            continue
        devices = found.devices(loads)
        if best is None or (devices, found.quantile_s) < (best.devices, best.fleet.quantile_s):
            best = _Choice(trial, found, devices)
    return best or first_miss or Miss("any batch size", float("inf"), demand.latency_s)


def _latency_violation(miss: Miss, pools: Sequence[_Pool], device: Device) -> Violation:
    slowest = max(pools, key=lambda pool: float(pool.service(1, device).value))
    return Violation(
        where=f"pool {slowest.name}", constraint=miss.constraint, needed=miss.best_s, allowed=miss.allowed_s,
        dimension="seconds", advice="a faster device, a smaller model, fewer tokens, or a looser objective",
    )  # fmt: skip


def _at(pools: Sequence[_Pool], trial: _Trial, scenario: Scenario, demand: Demand, chosen: Fleet) -> Fleet:
    """Return how the chosen replicas do in batches of `trial` if the step time is at its P90."""
    return fleet([_load(pool, trial, scenario, Z10) for pool in pools], chosen.replicas, demand)


def _plan(pool: _Pool, choice: _Choice, at: Mapping[float, _Choice | Miss], scenario: Scenario) -> PoolPlan:
    part: Latency = choice.fleet.latency[pool.name]
    chosen = {shift: other.fleet.replicas[pool.name] for shift, other in at.items() if isinstance(other, _Choice)}
    return PoolPlan(
        name=pool.name, replicas=choice.fleet.replicas[pool.name], spare_replicas=scenario.resilience.spare_replicas,
        replicas_p10=chosen.get(-Z10), replicas_p90=chosen.get(Z10),
        devices_per_replica=pool.context.tensor_parallel, batch=choice.trial.batches[pool.name],
        service=choice.trial.services[pool.name], forming_s=part.forming_s, wait_p50_s=part.wait.quantile(0.5),
        wait_p99_s=part.wait.quantile(0.99), utilization=choice.fleet.utilization[pool.name],
        memory_bytes=pool.parts(choice.trial.batches[pool.name]), memory_available_bytes=pool.available_bytes,
    )  # fmt: skip


def _stages(pools: Sequence[_Pool], device: Device, batches: Mapping[str, int]) -> tuple[StagePlan, ...]:
    """Return every stage at its pool's batch size (1 where there is none)."""
    plans = []
    for pool in pools:
        requests = batches.get(pool.name, 1)
        sizes = _batches(max(pool.largest_batch, 1))
        for stage in pool.stages:
            work = serving_step.operations(stage, requests * (1 - stage.cache_hit_rate), pool.context)
            plans.append(
                StagePlan(
                    name=stage.name, task=stage.task, pool=pool.name,
                    time=serving_step.time(stage, requests, device, pool.context), flop=float(total_flop(work)),
                    moved_bytes=float(total_bytes(work)), bound=device.bound(work) if work else "host",
                    batches=tuple(sizes),
                    batch_times=tuple(serving_step.time(stage, size, device, pool.context) for size in sizes),
                )
            )  # fmt: skip
    return tuple(plans)
