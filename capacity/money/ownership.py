"""The monthly bill of one option: devices, energy, storage, network, people, each a line with its formula and source.

A line whose price nobody published has no amount and says so. Ranges come from common random numbers: one draw of the
step-time error moves every line that depends on it together, one draw of each price moves that price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from capacity.money.prices import PriceRange, price_range
from capacity.plan import Cost, CostLine, JobPlan, PoolPlan
from capacity.spec.hardware import Hardware
from capacity.spec.prices import Quote, Rates
from capacity.spec.scenario import Scenario
from capacity.timing.band import Z90, Basis, weakest

HOURS = 730.0
"""Hours of a month: 8760 / 12."""
MONTH_S = HOURS * 3600
DRAWS = 2000
Z10 = 1.2816
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """A line before it is summed: quantity and price, each with draws of what they might be."""

    group: str
    name: str
    quantity: float
    quantity_draws: Array
    unit: str
    price: float | None
    price_draws: Array
    basis: Basis
    formula: str
    source: str
    flags: tuple[str, ...] = ()

    @property
    def draws(self) -> Array:
        return self.quantity_draws * self.price_draws

    def line(self) -> CostLine:
        usd = None if self.price is None else self.quantity * self.price
        p10, p90 = (None, None) if usd is None else (float(q) for q in np.quantile(self.draws, [0.1, 0.9]))
        return CostLine(
            group=self.group, name=self.name, quantity=self.quantity, unit=self.unit, unit_price_usd=self.price,
            usd=usd, p10_usd=p10, p90_usd=p90, basis=self.basis, formula=self.formula, source=self.source,
            flags=self.flags,
        )  # fmt: skip


class _Draws:
    """Common random numbers of one bill: a standard normal for step time, one more for each price, by name."""

    def __init__(self) -> None:
        self.time = np.random.default_rng(20261122).standard_normal(DRAWS)
        self._made: dict[str, Array] = {}

    def price(self, name: str, low: float, value: float, high: float) -> Array:
        """Return draws of a price whose median is `value` and whose P5 and P95 are about `low` and `high`."""
        if name not in self._made:
            self._made[name] = np.random.default_rng(list(name.encode())).standard_normal(DRAWS)
        z = self._made[name]
        if value <= 0:
            return np.full(DRAWS, value)
        down = float(np.log(value / max(low, value * 1e-3))) / Z90
        up = float(np.log(max(high, value) / value)) / Z90
        return value * np.exp(np.where(z < 0, down, up) * z)


def cost(
    scenario: Scenario,
    hardware: Hardware,
    pools: Sequence[PoolPlan],
    jobs: Sequence[JobPlan],
    rates: Rates,
    today: date,
) -> Cost:
    """Return the monthly bill of `scenario` on `hardware`."""
    draws = _Draws()
    buying = scenario.pricing
    price = price_range(hardware.id, buying.term, buying.provider, buying.region, today=today)
    items = [_pool_item(pool, hardware, price, buying.term, draws) for pool in pools]
    items += [_job_item(job, hardware, price, buying.term, draws) for job in jobs]
    energy_kwh = _energy_kwh(pools, jobs, hardware, rates)
    if energy_kwh is not None and buying.energy == "separate":
        items.append(_energy_item(energy_kwh, rates, draws))
    items += _storage_items(scenario, pools, jobs, rates, draws)
    items += _network_items(scenario, rates, draws)
    items += _people_items(scenario, rates, draws)
    return _summed(items, scenario, energy_kwh, rates)


def _summed(items: Sequence[_Item], scenario: Scenario, energy_kwh: float | None, rates: Rates) -> Cost:
    lines = tuple(item.line() for item in items)
    usd = sum(line.usd for line in lines if line.usd is not None)
    everything = sum((item.draws for item in items if item.price is not None), start=np.zeros(DRAWS))
    p10, p90 = (float(value) for value in np.quantile(everything, [0.1, 0.9]))
    requests = scenario.traffic.peak_rate * scenario.traffic.mean_to_peak * MONTH_S
    return Cost(
        lines=lines, usd=usd, p10_usd=p10, p90_usd=p90, missing=tuple(line.name for line in lines if line.usd is None),
        usd_per_thousand_requests=usd / requests * 1000, energy_kwh=energy_kwh,
        carbon_kg=None if energy_kwh is None else energy_kwh * rates.grid_carbon.value,
    )  # fmt: skip


def _device_price(price: PriceRange | None, draws: _Draws) -> tuple[float | None, Array, str, tuple[str, ...]]:
    if price is None:
        return None, np.zeros(DRAWS), "no price in any table", ("no price",)
    drawn = draws.price("device", price.low, price.usd_per_device_hour, price.high)
    dates = sorted({row.date for row in price.rows})
    providers = ", ".join(sorted({row.provider for row in price.rows})[:4])
    source = f"median of {len(price.rows)} offers ({providers}), {dates[0]} to {dates[-1]}"
    return price.usd_per_device_hour, drawn, source, price.flags


def _pool_item(pool: PoolPlan, hardware: Hardware, price: PriceRange | None, term: str, draws: _Draws) -> _Item:
    value, drawn, source, flags = _device_price(price, draws)
    spare, each = pool.spare_replicas, pool.devices_per_replica
    sigma = float(pool.service.log_sigma)
    p10 = pool.replicas_p10 or max(1, round(pool.replicas * np.exp(-Z10 * sigma)))
    p90 = pool.replicas_p90 or max(1, round(pool.replicas * np.exp(Z10 * sigma)))
    replicas = np.interp(draws.time, [-Z10, 0.0, Z10], [p10, pool.replicas, p90])
    paid = pool.replicas if pool.paid_replicas is None else pool.paid_replicas
    scaled = "" if pool.paid_replicas is None else f" of up to {pool.replicas}, autoscaled"
    if pool.replicas_p90 is None:
        flags = (*flags, "objective missed if the step time is at its P90")
    return _Item(
        group="devices", name=f"serving {pool.name}", quantity=pool.paid_devices * HOURS,
        quantity_draws=(np.ceil(replicas) * paid / pool.replicas + spare) * each * HOURS, unit="device-hours",
        price=value, price_draws=drawn,
        basis=pool.service.basis, source=source, flags=flags,
        formula=f"({paid:g}{scaled} + {spare} spare) × {each} {hardware.name} × {HOURS:g} h, {term}",
    )  # fmt: skip


def _job_item(job: JobPlan, hardware: Hardware, price: PriceRange | None, term: str, draws: _Draws) -> _Item:
    value, drawn, source, flags = _device_price(price, draws)
    hours = job.device_hours_per_month
    return _Item(
        group="devices", name=job.name, quantity=float(hours.value), unit="device-hours",
        quantity_draws=float(hours.value) * np.exp(draws.time * float(hours.log_sigma)), price=value, price_draws=drawn,
        basis=hours.basis, source=source, flags=flags,
        formula=f"{job.kind}: {job.devices} {hardware.name} for {float(job.duration.value) / 3600:.3g} h "
        f"every {job.every_s / 86400:.3g} d, {term}",
    )  # fmt: skip


def _energy_kwh(pools: Sequence[PoolPlan], jobs: Sequence[JobPlan], hardware: Hardware, rates: Rates) -> float | None:
    """Return wall energy a month [kWh]: power limit × (idle share + busy share) × PUE. Idle is 20 % where unknown."""
    if hardware.power is None:
        return None
    busy_w = hardware.power.value
    idle_w = hardware.idle_power.value if hardware.idle_power else IDLE_SHARE * busy_w
    watt_hours = sum(pool.devices * HOURS * (idle_w + (busy_w - idle_w) * min(pool.utilization, 1.0)) for pool in pools)
    watt_hours += sum(float(job.device_hours_per_month.value) * busy_w for job in jobs)
    return watt_hours / 1000 * rates.power_usage_effectiveness.value


IDLE_SHARE = 0.2


def _energy_item(kwh: float, rates: Rates, draws: _Draws) -> _Item:
    formula = f"power limit × load × hours × PUE {rates.power_usage_effectiveness.value:g}"
    return _quoted(_amount("energy", "electricity", kwh, "kWh", "assumed", formula), rates.electricity, draws)


def _storage_items(
    scenario: Scenario, pools: Sequence[PoolPlan], jobs: Sequence[JobPlan], rates: Rates, draws: _Draws
) -> list[_Item]:
    kept = scenario.storage
    vectors = max((pool.memory_bytes.get("catalogue vectors", 0.0) for pool in pools), default=0.0)
    training = [job for job in jobs if job.kind == "training"]
    checkpoints = kept.checkpoints * sum(
        sum(job.memory_bytes.get(part, 0.0) for part in ("weights", "master weights", "optimizer states"))
        for job in training
    )
    logs = scenario.traffic.peak_rate * scenario.traffic.mean_to_peak * kept.log_retention * kept.log_bytes_per_request
    weights = sum(pool.memory_bytes.get("weights", 0.0) for pool in pools)
    kept_bytes = weights + vectors * kept.vector_copies + kept.features
    slow, fast = rates.object_storage, rates.block_storage
    log = _amount("storage", "request logs", logs / 1e9, "GB-month", "assumed", "rate × retention × bytes a request")
    saved = _amount("storage", "checkpoints", checkpoints / 1e9, "GB-month", "calibrated", f"{kept.checkpoints} copies")
    live = _amount(
        "storage", "weights, vectors, features", kept_bytes / 1e9, "GB-month", "calibrated",
        f"weights + {kept.vector_copies} × vectors + features",
    )  # fmt: skip
    return [_quoted(log, slow, draws), _quoted(saved, slow, draws), _quoted(live, fast, draws)]


def _network_items(scenario: Scenario, rates: Rates, draws: _Draws) -> list[_Item]:
    requests = scenario.traffic.peak_rate * scenario.traffic.mean_to_peak * MONTH_S
    sent = requests * scenario.network.response_bytes / 1e9
    items = [
        _quoted(_amount("network", "egress", sent, "GB", "assumed", "requests × response bytes"), rates.egress, draws)
    ]
    crossing = sent * scenario.network.cross_zone_share
    if crossing:
        amount = _amount("network", "cross-zone", crossing, "GB", "assumed", "share of egress")
        items.append(_quoted(amount, rates.cross_zone, draws))
    return items


def _people_items(scenario: Scenario, rates: Rates, draws: _Draws) -> list[_Item]:
    hours = scenario.people.engineer_hours_per_month
    if not hours:
        return []
    amount = _amount("people", "engineers", hours, "hours", "assumed", "hours a month × loaded rate")
    return [_quoted(amount, rates.engineer, draws)]


def _amount(group: str, name: str, quantity: float, unit: str, basis: Basis, formula: str) -> _Item:
    """Return a line that knows its quantity but no price yet: visible, never 0."""
    return _Item(
        group=group, name=name, quantity=quantity, quantity_draws=np.full(DRAWS, quantity), unit=unit, price=None,
        price_draws=np.zeros(DRAWS), basis=basis, formula=formula, source="no rate in the rate table",
        flags=("no price",),
    )  # fmt: skip


def _quoted(item: _Item, quote: Quote[float] | None, draws: _Draws) -> _Item:
    """Return the line at a quoted rate; without one it stays as it is."""
    if quote is None:
        return item
    low, high = quote.value if quote.low is None else quote.low, quote.value if quote.high is None else quote.high
    return replace(
        item, price=quote.value, price_draws=draws.price(item.name, low, quote.value, high), flags=(),
        source=f"{quote.source} ({quote.date})", basis=weakest([item.basis, "datasheet"]),
    )  # fmt: skip


def by_group(lines: Sequence[CostLine]) -> Mapping[str, float]:
    """Return USD per month by group, lines without a price left out."""
    groups: dict[str, float] = {}
    for line in lines:
        if line.usd is not None:
            groups[line.group] = groups.get(line.group, 0.0) + line.usd
    return groups
