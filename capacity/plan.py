"""The answer as data: what each hardware option needs, what it costs, what it misses. Frozen records, no arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from capacity.timing.band import Basis, Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A constraint that an option misses: by how much, and the best it can do."""

    where: str
    """Pool, job or the whole option."""
    constraint: str
    needed: float
    allowed: float
    dimension: str
    """Dimension of both numbers, a key of `capacity.units.DIMENSIONS`."""
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage of the pipeline for one batch."""

    name: str
    task: str
    pool: str
    time: Estimate
    """Time of one batch [s]."""
    flop: float
    moved_bytes: float
    bound: str
    """What limits it: compute, memory bandwidth, launches, or the host."""
    batches: tuple[int, ...]
    """Batch sizes that fit, smallest first [requests]."""
    batch_times: tuple[Estimate, ...]
    """Time of one batch of each of `batches` [s]."""
    takes: str = ""
    """What its time takes for granted, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """Replicas that run some stages together."""

    name: str
    replicas: int
    """Replicas that carry the peak with headroom, without spares."""
    spare_replicas: int
    replicas_p10: int | None
    replicas_p90: int | None
    """Replicas if the step time were at its P10 or P90; None where the objective would then be missed."""
    devices_per_replica: float
    """Less than one where a replica is a slice of a device."""
    batch: int
    service: Estimate
    """Time of one batch through the pool [s]."""
    forming_s: float
    wait_p50_s: float
    wait_p99_s: float
    utilization: float
    memory_bytes: Mapping[str, float]
    memory_available_bytes: float | None
    paid_replicas: float | None = None
    """Replicas paid on average over a day, without spares, where an autoscaler follows the load; None: all of them."""
    largest_catalogue: float | None = None
    """Items whose vectors would fit beside all else; None where the pool keeps no vectors."""

    @property
    def paid_devices(self) -> float:
        """Devices paid on average, spares included."""
        if self.paid_replicas is None:
            return self.devices
        return (self.paid_replicas + self.spare_replicas) * self.devices_per_replica

    @property
    def busy_devices(self) -> float:
        """Devices that work at the peak on average; spares wait, or take work from the others."""
        return self.replicas * self.devices_per_replica * min(self.utilization, 1.0)

    @property
    def devices(self) -> int:
        """Devices to pay for, spares included."""
        return math.ceil((self.replicas + self.spare_replicas) * self.devices_per_replica)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDetail:
    """How a training run is done, and where its time goes."""

    steps: float
    """Steps of one repeat."""
    step: Estimate
    """Time of a step [s]."""
    parts_s: Mapping[str, float]
    """Where it goes, by part [s]; empty where the step is one number."""
    layout: str
    """How devices share a step."""
    mfu: float | None
    """Model FLOP utilization [1]: model FLOP ÷ (time × dense peak), masked attention left out."""
    hfu: float | None
    """The same with what is computed twice."""
    useful: float
    """Share of the wall time that failures and checkpoints leave [1]."""
    tokens_per_s: float | None = None
    """Tokens per second and device; None where examples are no texts."""
    largest_batch: int | None = None
    """Most examples per device and step that fit; None where memory or layout is not known."""
    longest_tokens: int | None = None
    """Most tokens of an example that fit at the job's batch, within what the model reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """A recurring training or batch job."""

    name: str
    kind: str
    devices: int
    duration: Estimate
    """Wall time of one occasion [s]."""
    every_s: float
    deadline_s: float
    device_hours_per_month: Estimate
    memory_bytes: Mapping[str, float]
    memory_available_bytes: float | None
    free_device_hours_per_month: float = 0.0
    """Those on devices that serving leaves idle: not paid for again."""
    note: str = ""
    training: TrainingDetail | None = None
    """How a training run is done; None for other jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """One line of the monthly bill. `usd` is None when a price is missing: the line stays visible and says so."""

    group: str
    name: str
    quantity: float
    unit: str
    unit_price_usd: float | None
    usd: float | None
    """USD per month."""
    p10_usd: float | None
    p90_usd: float | None
    basis: Basis
    formula: str
    source: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCost:
    """The monthly bill over what is served in a month, once whole and once its serving devices alone."""

    key: str
    """The unit in names of JSON: "million_input_tokens"."""
    name: str
    """The unit in words: "1 M input tokens"."""
    things: str
    """What is counted: "input_tokens"."""
    size: float
    """Things in one unit."""
    amount: float | None
    """Things in a month; None where the scenario does not say."""
    bill_usd: float | None
    """USD of the whole bill for one unit."""
    serving_usd: float | None
    """USD of serving devices, spares included, for one unit."""
    counted: str
    """What is counted and what is not, or why nothing can be."""

    @property
    def per_usd(self) -> float | None:
        """Things for one USD of the whole bill."""
        return self.size / self.bill_usd if self.bill_usd else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """Device-hours of a pool or a job in a month: those in which devices work, and those in which they wait."""

    name: str
    used_hours: float
    idle_hours: float
    used_usd: float | None
    idle_usd: float | None

    @property
    def used_share(self) -> float:
        """Share of the paid hours in which devices work [1]."""
        paid = self.used_hours + self.idle_hours
        return self.used_hours / paid if paid else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCosts:
    """What one unit of everything served costs, who uses the devices, and the energy of 1,000 requests."""

    costs: tuple[UnitCost, ...]
    uses: tuple[DeviceUse, ...]
    energy_kwh: float | None
    """For 1,000 requests, jobs included."""
    carbon_kg: float | None
    """For 1,000 requests, jobs included [kg CO2e]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """All lines of one option and their sum, USD per month."""

    lines: tuple[CostLine, ...]
    usd: float
    p10_usd: float
    p90_usd: float
    missing: tuple[str, ...]
    """Names of lines without a price: the sum leaves them out."""
    usd_per_thousand_requests: float
    energy_kwh: float | None
    carbon_kg: float | None
    units: UnitCosts | None = None
    """The same bill over what is served; None in a bill that stands for no plan."""

    @property
    def complete(self) -> bool:
        """Whether every device line has a price: without one the sum is no answer."""
        return not any(line.group == "devices" and line.usd is None for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """The scenario on one hardware."""

    hardware: str
    name: str
    engine: str
    origin: str
    """Which calibration the times come from."""
    basis: Basis
    stages: tuple[StagePlan, ...]
    pools: tuple[PoolPlan, ...]
    jobs: tuple[JobPlan, ...]
    violations: tuple[Violation, ...]
    latency_median_s: float | None
    latency_quantile_s: float | None
    """End-to-end latency at peak at the objective's percentile."""
    latency_quantile_p90_s: float | None
    """The same if the step time were at its P90, with the same fleet; infinite when it would saturate."""
    bound: str
    cost: Cost | None

    @property
    def feasible(self) -> bool:
        """Whether nothing is missed."""
        return not self.violations

    @property
    def devices(self) -> int:
        """Serving devices, spares included."""
        return sum(pool.devices for pool in self.pools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every option, best first: feasible and priced by cost, then feasible without a price, then infeasible."""

    scenario: str
    title: str
    changes: tuple[str, ...]
    """Overrides and settings that were applied."""
    peak_rate: float
    objective_percentile: str
    objective_latency_s: float
    date: str
    options: tuple[Option, ...]

    @property
    def best(self) -> Option | None:
        """The cheapest feasible option, or None."""
        return self.options[0] if self.options and self.options[0].feasible else None
