"""What a bill is computed from, each under a name that a formula of a spreadsheet can use: prices, fleets, hours."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date

from capacity.money.lines import HOURS, Z10
from capacity.money.purchase import hourly
from capacity.plan import CostLine, JobPlan, Option, Plan, PoolPlan
from capacity.report.cells import Cell, Missing, Number, finite
from capacity.spec.scenario import Scenario
from capacity.spec.stages import RetrieveStage
from capacity.timing.band import Z90

HOURS_NAME, REQUESTS_NAME = "hours_per_month", "requests_per_month"
FOLLOWS = {
    ("storage", "request logs"): "peak_rate_per_s*mean_to_peak*log_retention_s*log_bytes_per_request/1000000000",
    ("network", "egress"): f"{REQUESTS_NAME}*response_bytes/1000000000",
    ("network", "cross-zone"): f"{REQUESTS_NAME}*response_bytes*cross_zone_share/1000000000",
    ("people", "engineers"): "engineer_hours_per_month",
}
"""Quantities as `capacity.money.ownership` counts them, by group and line; used only where they give the plan's."""
NO_RANGE = Missing("no range")
Place = tuple[int, int]
"""Rank of an option from 0, and place of a line in its bill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """A number under a name, with its range where one is known."""

    name: str
    label: str
    value: float
    unit: str
    p10: Number = NO_RANGE
    p90: Number = NO_RANGE
    source: str = ""
    formula: str = ""
    """How it follows from other names; empty where it is given."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Every named number of the bills, and which lines use which.

    Parameters
    ----------
    rows
        In the order of their first use.
    prices
        Name of the price of a line, for lines that have one.
    quantities
        Formula of the quantity of a line, for those that follow from names; the others are results of the plan.
    """

    rows: tuple[Assumption, ...]
    prices: Mapping[Place, str]
    quantities: Mapping[Place, str]


@dataclass(slots=True)
class _Names:
    """Assumptions by name, while they are collected."""

    rows: dict[str, Assumption] = field(default_factory=dict)

    def add(self, wish: Assumption) -> str:
        """Return the name under which `wish` stands: its own, or a numbered one where another number has that."""
        name, number = wish.name, 1
        while name in self.rows and _what(self.rows[name]) != _what(wish):
            number += 1
            name = f"{wish.name}_{number}"
        self.rows.setdefault(name, replace(wish, name=name))
        return name


def _what(row: Assumption) -> tuple[str, float, str, str]:
    return row.label, row.value, row.unit, row.source


def collected(plan: Plan, scenario: Scenario) -> Assumptions:
    """Return the named numbers that the bills of `plan`, a plan of `scenario`, are computed from."""
    names = _Names()
    for row in _common(plan, scenario):
        names.add(row)
    amounts = _amounts(plan, scenario)
    prices: dict[Place, str] = {}
    quantities: dict[Place, str] = {}
    for rank, option in enumerate(plan.options):
        lines = () if option.cost is None else option.cost.lines
        for place, line in enumerate(lines):
            if line.unit_price_usd is not None:
                prices[rank, place] = names.add(_price(plan, scenario, option, line))
            formula = _quantity(option, place, names) or _same(line, amounts)
            if formula:
                quantities[rank, place] = formula
    return Assumptions(tuple(names.rows.values()), prices, quantities)


def _quantity(option: Option, place: int, names: _Names) -> str:
    """Return the device-hours of a pool or job as a formula of names: empty for other lines, or where it differs."""
    line = None if option.cost is None else option.cost.lines[place]
    running: tuple[PoolPlan | JobPlan, ...] = (*option.pools, *option.jobs)
    if line is None or place >= len(running):
        return ""
    one = running[place]
    if isinstance(one, JobPlan):
        hours = float(one.device_hours_per_month.value)
        return names.add(_job(option, one)) if (line.name, line.quantity) == (one.name, hours) else ""
    if line.name != f"serving {one.name}" or not _close(float(one.paid_devices) * HOURS, line.quantity):
        return ""
    return _fleet(option, one, names)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-12)


def _amounts(plan: Plan, scenario: Scenario) -> dict[tuple[str, str], float]:
    """Return what the formulas of `FOLLOWS` give."""
    mean_rate = float(plan.peak_rate) * scenario.traffic.mean_to_peak
    sent = mean_rate * HOURS * 3600 * scenario.network.response_bytes / 1e9
    return {
        ("storage", "request logs"): mean_rate * scenario.storage.log_retention
        * scenario.storage.log_bytes_per_request / 1e9,
        ("network", "egress"): sent,
        ("network", "cross-zone"): sent * scenario.network.cross_zone_share,
        ("people", "engineers"): scenario.people.engineer_hours_per_month,
    }  # fmt: skip


def _same(line: CostLine, amounts: Mapping[tuple[str, str], float]) -> str:
    key = line.group, line.name
    return FOLLOWS[key] if key in amounts and _close(amounts[key], line.quantity) else ""


def _common(plan: Plan, scenario: Scenario) -> Iterator[Assumption]:
    rate, share = float(plan.peak_rate), float(scenario.traffic.mean_to_peak)
    yield Assumption(name=HOURS_NAME, label="Hours of a month", value=HOURS, unit="h", source="8760 h ÷ 12")
    yield _given("peak_rate_per_s", "Requests at peak; the fleet is not sized anew", rate, "1/s")
    yield _given("mean_to_peak", "Mean rate ÷ peak rate", share, "1")
    yield Assumption(
        name=REQUESTS_NAME, label="Requests of a month", value=rate * share * HOURS * 3600, unit="requests",
        formula=f"peak_rate_per_s*mean_to_peak*{HOURS_NAME}*3600", source="follows from the three above",
    )  # fmt: skip
    yield _given("log_retention_s", "Retention of request logs", scenario.storage.log_retention, "s")
    yield _given("log_bytes_per_request", "Log of a request", scenario.storage.log_bytes_per_request, "bytes")
    yield _given("response_bytes", "Response to a request", scenario.network.response_bytes, "bytes")
    yield _given("cross_zone_share", "Share of egress across zones", scenario.network.cross_zone_share, "1")
    hours = scenario.people.engineer_hours_per_month
    yield _given("engineer_hours_per_month", "Engineers", hours, "h/month")


def _given(name: str, label: str, value: float, unit: str) -> Assumption:
    return Assumption(name=name, label=label, value=float(value), unit=unit, source="scenario")


def _price(plan: Plan, scenario: Scenario, option: Option, line: CostLine) -> Assumption:
    value = float(line.unit_price_usd or 0.0)
    devices = line.group == "devices"
    p10, p90 = _device_range(plan, scenario, option, value) if devices else _rate_range(line)
    return Assumption(
        name=f"price_{slug(option.hardware if devices else line.name)}", value=value, unit=f"USD/{line.unit}",
        label=f"{option.name}, {scenario.pricing.term}" if devices else line.name, p10=p10, p90=p90, source=line.source,
    )  # fmt: skip


def _rate_range(line: CostLine) -> tuple[Number, Number]:
    """Return P10 and P90 of a rate: its quantity is certain, so they are those of the amount over the quantity."""
    if not line.quantity or line.p10_usd is None or line.p90_usd is None:
        return NO_RANGE, NO_RANGE
    return finite(line.p10_usd / line.quantity, "unknown"), finite(line.p90_usd / line.quantity, "unknown")


def _device_range(plan: Plan, scenario: Scenario, option: Option, value: float) -> tuple[Number, Number]:
    """Return P10 and P90 of a device's price as the bill draws it: the lowest and highest offer are its P5 and P95."""
    found = hourly(option.hardware, scenario.pricing, date.fromisoformat(plan.date))
    if found is None or found.usd_per_device_hour != value or value <= 0:
        return NO_RANGE, NO_RANGE
    exponent = Z10 / Z90
    return value * (found.low / value) ** exponent, value * (found.high / value) ** exponent


def _job(option: Option, job: JobPlan) -> Assumption:
    hours = job.device_hours_per_month
    value, spread = float(hours.value), math.exp(Z10 * float(hours.log_sigma))
    return Assumption(
        name=f"device_hours_{slug(f'{option.hardware}_{job.name}')}", label=f"Device-hours, {option.name}, {job.name}",
        value=value, unit="h/month", p10=value / spread, p90=value * spread, source=f"timed by the plan: {hours.basis}",
    )  # fmt: skip


def _fleet(option: Option, pool: PoolPlan, names: _Names) -> str:
    """Return the device-hours of a pool as a formula of its replicas, spares and devices a replica."""
    scaled = pool.paid_replicas is not None
    paid = float(pool.replicas if pool.paid_replicas is None else pool.paid_replicas)
    ends = [NO_RANGE if scaled else finite(end, "objective missed") for end in (pool.replicas_p10, pool.replicas_p90)]
    where, label = slug(f"{option.hardware}_{pool.name}"), f"{option.name}, pool {pool.name}"
    replicas = Assumption(
        name=f"replicas_{where}", label=f"Replicas paid on average, {label}" if scaled else f"Replicas, {label}",
        value=paid, unit="replicas", p10=ends[0], p90=ends[1], source="sized by the plan; range: of the step time",
    )  # fmt: skip
    spare = Assumption(
        name=f"spare_{where}", label=f"Spare replicas, {label}", value=float(pool.spare_replicas), unit="replicas",
        source="scenario",
    )  # fmt: skip
    each = Assumption(
        name=f"devices_per_replica_{where}", label=f"Devices a replica, {label}",
        value=float(pool.devices_per_replica), unit="devices", source="scenario",
    )  # fmt: skip
    devices = f"({names.add(replicas)}+{names.add(spare)})*{names.add(each)}"
    whole = scaled or float(pool.devices_per_replica).is_integer()
    return f"{devices if whole else f'ROUNDUP({devices},0)'}*{HOURS_NAME}"


def settings(plan: Plan, scenario: Scenario) -> tuple[tuple[str, Cell, str], ...]:
    """Return what else the bills depend on, as (label, value, unit): a change needs a new plan."""
    buying, kept = scenario.pricing, scenario.storage
    return (
        ("Term", buying.term, ""),
        ("Provider", buying.provider or "any", ""),
        ("Region", buying.region or "any", ""),
        ("Rate table", buying.rates, ""),
        ("Energy", buying.energy, ""),
        (f"Objective, {plan.objective_percentile}", float(plan.objective_latency_s), "s"),
        ("Headroom over the peak", scenario.resilience.headroom, "1"),
        ("Spare replicas of a pool", scenario.resilience.spare_replicas, "replicas"),
        ("Standard deviation ÷ mean of the service time", scenario.resilience.service_variation, "1"),
        ("Copies of the vectors", kept.vector_copies, "copies"),
        ("Checkpoints kept", kept.checkpoints, "copies"),
        ("Features kept", kept.features, "bytes"),
        *(
            (f"Recall of {stage.name}, as {stage.points} reached it", stage.recall, "1")
            for stage in scenario.serving.stages if isinstance(stage, RetrieveStage) and stage.recall is not None
        ),
    )  # fmt: skip


def slug(text: str) -> str:
    """Return `text` as a part of a name: letters, digits and underscores.

    Examples
    --------
    >>> slug("A100 SXM-80GB"), slug("weights, vectors")
    ('a100_sxm_80gb', 'weights_vectors')
    """
    return re.sub(r"[^0-9a-z]+", "_", text.lower()).strip("_")[:100]
