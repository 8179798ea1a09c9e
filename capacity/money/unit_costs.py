"""A monthly bill over what is served: requests, items, tokens, people; and what of it pays for idle devices.

Each unit is set against the whole bill, and against its serving devices alone: the numbers do not add up over units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from capacity.phases import tokens
from capacity.phases.context import Context
from capacity.plan import Cost, CostLine, DeviceUse, JobPlan, PoolPlan, UnitCost, UnitCosts
from capacity.spec.scenario import Scenario
from capacity.spec.stages import (
    EncodeStage,
    FuseStage,
    GenerateStage,
    RankStage,
    RetrieveStage,
    ScoreStage,
    Stage,
)
from capacity.units import parse

MONTH_S = parse("1 month", "seconds")
HOURS = MONTH_S / 3600
UNKNOWN_ITEMS = "the scenario does not say how many items a request returns"


def unit_costs(scenario: Scenario, pools: Sequence[PoolPlan], jobs: Sequence[JobPlan], cost: Cost) -> UnitCosts:
    """Return what one unit of everything served costs under a monthly bill."""
    requests = monthly_requests(scenario)
    lines = {line.name: line for line in cost.lines if line.group == "devices"}
    serving = [lines[f"serving {pool.name}"] for pool in pools]
    bill = cost.usd if cost.complete else None
    devices = sum(line.usd or 0.0 for line in serving) if cost.complete else None

    def unit(key: str, things: str, size: float, amount: float | None, counted: str) -> UnitCost:
        each = size / amount if amount else None
        return UnitCost(
            key=key, name=_name(key), things=things,
            size=size, amount=amount, bill_usd=None if each is None or bill is None else bill * each,
            serving_usd=None if each is None or devices is None else devices * each, counted=counted,
        )  # fmt: skip

    return UnitCosts(
        costs=tuple(unit(*said) for said in _counted(scenario, requests)),
        uses=(
            *(_use(line, _busy_hours(pool, scenario)) for pool, line in zip(pools, serving, strict=True)),
            *(_use(lines[job.name], float(job.device_hours_per_month.value)) for job in jobs),
        ),
        energy_kwh=None if cost.energy_kwh is None else cost.energy_kwh / requests * 1e3,
        carbon_kg=None if cost.carbon_kg is None else cost.carbon_kg / requests * 1e3,
    )  # fmt: skip


def _name(key: str) -> str:
    return (
        key.replace("user_month", "user-month").replace("_", " ").replace("thousand", "1,000").replace("million", "1 M")
    )


def monthly_requests(scenario: Scenario) -> float:
    """Return the requests of a month: peak rate × mean ÷ peak × seconds of a month.

    Examples
    --------
    >>> from capacity import catalogue
    >>> monthly_requests(catalogue.scenario("cross-encoder-rerank")) == 37.5 * 0.5 * 730 * 3600
    True
    """
    return scenario.traffic.peak_rate * scenario.traffic.mean_to_peak * MONTH_S


def _counted(scenario: Scenario, requests: float) -> Iterator[tuple[str, str, float, float | None, str]]:
    """Yield key, things, size, amount a month and what is counted, of every unit."""
    read, written, who = _texts(scenario)
    items, said = items_returned(scenario)
    no_text = "no stage reads or writes text"
    yield "thousand_requests", "requests", 1e3, requests, "peak rate × mean ÷ peak × 730 h, cached answers included"
    yield "thousand_items_returned", "items_returned", 1e3, None if items is None else items * requests, said
    reads, writes = f"read by {who[0]}" if read else no_text, f"written by {who[1]}" if written else "no stage writes"
    yield "million_input_tokens", "input_tokens", 1e6, read * requests or None, reads
    yield "million_output_tokens", "output_tokens", 1e6, written * requests or None, writes
    total = (read + written) * requests or None
    yield "million_total_tokens", "total_tokens", 1e6, total, "input and output together" if total else no_text
    users = scenario.audience.users
    yield "user_month", "users", 1.0, float(users), f"{users:,} users of the audience, each for one month"


def _texts(scenario: Scenario) -> tuple[float, float, tuple[str, str]]:
    """Return tokens read and written for a request, and the stages that do so."""
    context = Context(scenario=scenario, models={})
    found = {stage.name: tokens.of_stage(stage, context) for stage in scenario.serving.stages}
    readers = ", ".join(name for name, text in found.items() if text.read)
    writers = ", ".join(name for name, text in found.items() if text.written)
    read, written = sum(text.read for text in found.values()), sum(text.written for text in found.values())
    return read, written, (f"{readers}, without what caches answer", f"{writers}, in every beam")


def items_returned(scenario: Scenario) -> tuple[float | None, str]:
    """Return the items that the last stage which orders items hands on for a request, and which stage that is.

    How many of a ranker's candidates are shown no scenario says: all of them count.

    Examples
    --------
    >>> from capacity import catalogue
    >>> items_returned(catalogue.scenario("bert-content-classifier"))
    (20, 'the top 20 of affinity')
    """
    for stage in reversed(scenario.serving.stages):
        number = _items(stage)
        if number is not None:
            top = f"the top {number} of" if isinstance(stage, RetrieveStage) else f"all {number} candidates of"
            return number, f"{top} {stage.name}"
    return None, UNKNOWN_ITEMS


def _items(stage: Stage) -> int | None:
    if isinstance(stage, RetrieveStage):
        return stage.top * stage.queries
    if isinstance(stage, RankStage | ScoreStage | FuseStage):
        return stage.candidates
    if isinstance(stage, EncodeStage):
        return stage.sequences if stage.sequences > 1 else None
    return stage.beams if isinstance(stage, GenerateStage) and stage.beams > 1 else None


def _busy_hours(pool: PoolPlan, scenario: Scenario) -> float:
    """Return the device-hours in which a pool works: utilization at the peak × mean ÷ peak rate; spares wait."""
    return pool.busy_devices * scenario.traffic.mean_to_peak * HOURS


def _use(line: CostLine, busy_hours: float) -> DeviceUse:
    used = min(busy_hours, line.quantity)
    share = used / line.quantity if line.quantity else 0.0
    return DeviceUse(
        name=line.name, used_hours=used, idle_hours=line.quantity - used,
        used_usd=None if line.usd is None else line.usd * share,
        idle_usd=None if line.usd is None else line.usd * (1 - share),
    )  # fmt: skip
