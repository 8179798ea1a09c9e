"""The tables of a report, built once from the plan's records and shown by every format.

Every number stays a float in SI units with the unit in its column's name; `Table.lines` formats it for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from capacity.phases import train_memory
from capacity.plan import CostLine, JobPlan, Option, Plan, PoolPlan, StagePlan
from capacity.report import figures
from capacity.report.cells import Cell, Column, Missing, Number, Row, Table, finite
from capacity.report.sentence import replicas_text
from capacity.report.training import parts_table, training_table
from capacity.report.unit_costs import unit_table, use_table
from capacity.timing.band import Estimate

UNKNOWN_MEMORY = "the profile states no memory"
FORMULAS: dict[str, dict[str, str]] = {
    "serving": {
        "weights": "parameters × bytes of a value ÷ devices of a replica",
        "activations": "tokens of a batch × (2 × hidden width + widest inner state) × bytes of a value",
        "KV cache": "2 × layers × KV heads × head width × sequences × tokens × bytes of a value",
        "catalogue vectors": "items × width × bytes of a value",
        "scores": "queries of a batch × items × bytes of a value",
        "feature table": "rows × width × bytes of a value",
    },
    "job": {
        "weights": "parameters × bytes of a value",
        "master weights": "parameters × 4 bytes, where training runs in less than 4 bytes a value",
        "gradients": "parameters × bytes of a value",
        "optimizer states": "parameters × states of the optimizer × 4 bytes",
        "activations": "values kept for the backward pass (training) or alive at once (encoding) × bytes of a value",
        "vectors": "items × width × bytes of a value",
    },
}
"""How `capacity.phases.memory` counts each component."""

_COST = (
    Column("group", "Group"),
    Column("name", "Line"),
    Column("quantity", "Quantity [unit]", "count"),
    Column("unit", "Unit"),
    Column("unit_price_usd", "Price [USD/unit]", "usd"),
    Column("usd_per_month", "Cost [USD/month]", "usd"),
    Column("p10_usd_per_month", "P10 [USD/month]", "usd"),
    Column("p90_usd_per_month", "P90 [USD/month]", "usd"),
    Column("basis", "Basis"),
    Column("formula", "Formula"),
    Column("source", "Source of the price"),
    Column("flags", "Doubts"),
)
_STAGE = (
    Column("name", "Stage"),
    Column("task", "Task"),
    Column("pool", "Pool"),
    Column("time_s", "Time of a batch", "seconds"),
    Column("time_low_s", "Low (P5)", "seconds"),
    Column("time_high_s", "High (P95)", "seconds"),
    Column("basis", "Basis"),
    Column("bound", "Bound by"),
    Column("work_flop", "Work of a batch", "FLOP"),
    Column("moved_bytes", "Memory traffic of a batch", "bytes"),
)
_BATCH = (
    Column("name", "Stage"),
    Column("batch_requests", "Batch [requests]", "whole"),
    Column("time_s", "Time of a batch", "seconds"),
    Column("time_low_s", "Low (P5)", "seconds"),
    Column("time_high_s", "High (P95)", "seconds"),
    Column("time_per_request_s", "Time a request", "seconds"),
)
_POOL = (
    Column("name", "Pool"),
    Column("replicas", "Replicas", "whole"),
    Column("spare_replicas", "Spare replicas", "whole"),
    Column("replicas_p10", "Replicas at P10 of the step time", "whole"),
    Column("replicas_p90", "Replicas at P90 of the step time", "whole"),
    Column("devices_per_replica", "Devices a replica", "whole"),
    Column("devices", "Devices", "whole"),
    Column("batch_requests", "Batch [requests]", "whole"),
    Column("service_s", "Time of a batch", "seconds"),
    Column("service_low_s", "Low (P5)", "seconds"),
    Column("service_high_s", "High (P95)", "seconds"),
    Column("basis", "Basis"),
    Column("forming_s", "Forming a batch", "seconds"),
    Column("wait_p50_s", "Queue p50", "seconds"),
    Column("wait_p99_s", "Queue p99", "seconds"),
    Column("utilization_fraction", "Utilization [%]", "fraction"),
    Column("memory_bytes", "Memory of a device", "bytes"),
    Column("memory_available_bytes", "Memory available", "bytes"),
    Column("largest_catalogue", "Largest catalogue [items]", "count"),
)
_JOB = (
    Column("name", "Job"),
    Column("kind", "Kind"),
    Column("devices", "Devices", "whole"),
    Column("duration_s", "Duration", "seconds"),
    Column("duration_low_s", "Low (P5)", "seconds"),
    Column("duration_high_s", "High (P95)", "seconds"),
    Column("basis", "Basis"),
    Column("every_s", "Every", "seconds"),
    Column("deadline_s", "Deadline", "seconds"),
    Column("device_hours_per_month", "Device-hours a month [h]", "count"),
    Column("memory_bytes", "Memory of a device", "bytes"),
    Column("memory_available_bytes", "Memory available", "bytes"),
    Column("note", "Note"),
)
_MEMORY = (
    Column("where", "Pool or job"),
    Column("component", "Component"),
    Column("size_bytes", "Size on a device", "bytes"),
    Column("share_fraction", "Share of what is available [%]", "fraction"),
    Column("formula", "Formula"),
)
_VIOLATION = (
    Column("where", "Where"),
    Column("constraint", "Constraint"),
    Column("over_limit_fraction", "Over the limit [%]", "fraction", signed=True),
    Column("missed", "By how much"),
    Column("advice", "What would help"),
)


def options_table(plan: Plan) -> Table:
    """Return every option, best first, each with what it misses and its cost against the best."""
    columns = (
        Column("rank", "Rank", "whole"),
        Column("hardware", "Profile"),
        Column("name", "Hardware"),
        Column("devices", "Devices", "whole"),
        Column("replicas", "Replicas"),
        Column("devices_p10", "Devices at P10 of the step time", "whole"),
        Column("devices_p90", "Devices at P90 of the step time", "whole"),
        Column("latency_median_s", "p50 latency", "seconds"),
        Column("latency_quantile_s", f"{plan.objective_percentile} latency", "seconds"),
        Column("latency_quantile_at_p90_s", f"{plan.objective_percentile} at P90 of the step time", "seconds"),
        Column("usd_per_month", "Cost [USD/month]", "usd"),
        Column("p10_usd_per_month", "P10 [USD/month]", "usd"),
        Column("p90_usd_per_month", "P90 [USD/month]", "usd"),
        Column("usd_per_thousand_requests", "USD per 1,000 requests", "usd"),
        Column("against_best_fraction", "Cost against the best [%]", "fraction", signed=True),
        Column("bound", "Bound by"),
        Column("basis", "Basis"),
        Column("missed", "Constraint missed"),
        Column("over_limit_fraction", "Over the limit [%]", "fraction", signed=True),
    )
    rows = tuple(_option(plan, rank, option) for rank, option in enumerate(plan.options, start=1))
    return Table("Options", columns, rows)


def _option(plan: Plan, rank: int, option: Option) -> Row:
    return {
        "rank": rank,
        "hardware": option.hardware,
        "name": option.name,
        "devices": figures.devices(option),
        "replicas": "; ".join(f"{pool.name} {replicas_text(pool)}" for pool in option.pools) or Missing("no fleet"),
        "devices_p10": figures.devices_at(option, "p10"),
        "devices_p90": figures.devices_at(option, "p90"),
        "latency_median_s": finite(option.latency_median_s, "no fleet"),
        "latency_quantile_s": finite(option.latency_quantile_s, "no fleet"),
        "latency_quantile_at_p90_s": figures.latency_at_p90(option),
        "usd_per_month": figures.monthly_usd(option),
        "p10_usd_per_month": figures.monthly_usd_at(option, "p10"),
        "p90_usd_per_month": figures.monthly_usd_at(option, "p90"),
        "usd_per_thousand_requests": figures.usd_per_thousand_requests(option),
        "against_best_fraction": figures.against_best(plan, option),
        "bound": option.bound,
        "basis": option.basis,
        "missed": figures.first_missed(option) or "none",
        "over_limit_fraction": figures.over_limit(option.violations[0])
        if option.violations
        else Missing("none missed"),
    }


def cost_table(option: Option) -> Table:
    """Return the lines of the monthly bill and their sum; no lines where the option is infeasible."""
    cost = option.cost
    if cost is None:
        return Table("Monthly bill", _COST, ())
    total: dict[str, Cell] = dict.fromkeys((column.key for column in _COST), "")
    total |= {
        "name": "Total" + (f" without {', '.join(cost.missing)} (no price)" if cost.missing else ""),
        "usd_per_month": figures.monthly_usd(option),
        "p10_usd_per_month": figures.monthly_usd_at(option, "p10"),
        "p90_usd_per_month": figures.monthly_usd_at(option, "p90"),
        "basis": option.basis,
    }
    return Table("Monthly bill", _COST, tuple(map(_line, cost.lines)), total)


def _line(line: CostLine) -> Row:
    return {
        "group": line.group,
        "name": line.name,
        "quantity": finite(line.quantity, "unknown"),
        "unit": line.unit,
        "unit_price_usd": finite(line.unit_price_usd, figures.NO_PRICE),
        "usd_per_month": figures.line_usd(line),
        "p10_usd_per_month": finite(line.p10_usd, figures.NO_PRICE),
        "p90_usd_per_month": finite(line.p90_usd, figures.NO_PRICE),
        "basis": line.basis,
        "formula": line.formula,
        "source": line.source,
        "flags": "; ".join(line.flags),
    }


def stage_table(option: Option) -> Table:
    """Return the stages of the pipeline with the time, work and bound of one batch."""
    return Table("Stages", _STAGE, tuple(map(_stage, option.stages)))


def _stage(stage: StagePlan) -> Row:
    return {
        "name": stage.name,
        "task": stage.task,
        "pool": stage.pool,
        **_band("time", stage.time),
        "bound": stage.bound,
        "work_flop": finite(stage.flop, "unknown"),
        "moved_bytes": finite(stage.moved_bytes, "unknown"),
    }


def batch_table(option: Option) -> Table:
    """Return the time of every stage by batch size, and what a request of that batch costs."""
    rows = []
    for stage in option.stages:
        for size, time in zip(stage.batches, stage.batch_times, strict=True):
            each = finite(time.value / size, "unknown")
            rows.append({"name": stage.name, "batch_requests": size, **_band("time", time), "time_per_request_s": each})
    return Table("Latency by batch size", _BATCH, tuple(rows))


def _band(name: str, estimate: Estimate) -> dict[str, Cell]:
    ends = {f"{name}_s": estimate.value, f"{name}_low_s": estimate.low, f"{name}_high_s": estimate.high}
    return {**{key: finite(value, "unknown") for key, value in ends.items()}, "basis": estimate.basis}


def pool_table(option: Option) -> Table:
    """Return the pools: replicas with their band, waiting, utilization, memory."""
    return Table("Pools", _POOL, tuple(map(_pool, option.pools)))


def _pool(pool: PoolPlan) -> Row:
    missed = Missing("objective missed")
    return {
        "name": pool.name,
        "replicas": pool.replicas,
        "spare_replicas": pool.spare_replicas,
        "replicas_p10": missed if pool.replicas_p10 is None else pool.replicas_p10,
        "replicas_p90": missed if pool.replicas_p90 is None else pool.replicas_p90,
        "devices_per_replica": pool.devices_per_replica,
        "devices": pool.devices,
        "batch_requests": pool.batch,
        **_band("service", pool.service),
        "forming_s": finite(pool.forming_s, "unknown"),
        "wait_p50_s": finite(pool.wait_p50_s, "saturated"),
        "wait_p99_s": finite(pool.wait_p99_s, "saturated"),
        "utilization_fraction": finite(pool.utilization, "unknown"),
        "memory_bytes": _used(pool.memory_bytes),
        "memory_available_bytes": finite(pool.memory_available_bytes, UNKNOWN_MEMORY),
        "largest_catalogue": finite(pool.largest_catalogue, "keeps no vectors"),
    }


def _used(parts: Mapping[str, float]) -> Number:
    return finite(sum(map(float, parts.values())), "unknown")


def job_table(option: Option) -> Table:
    """Return the recurring training and batch jobs."""
    return Table("Jobs", _JOB, tuple(map(_job, option.jobs)))


def _job(job: JobPlan) -> Row:
    return {
        "name": job.name,
        "kind": job.kind,
        "devices": job.devices,
        **_band("duration", job.duration),
        "every_s": finite(job.every_s, "unknown"),
        "deadline_s": finite(job.deadline_s, "none"),
        "device_hours_per_month": finite(job.device_hours_per_month.value, "unknown"),
        "memory_bytes": _used(job.memory_bytes),
        "memory_available_bytes": finite(job.memory_available_bytes, UNKNOWN_MEMORY),
        "note": job.note,
    }


def memory_table(option: Option) -> Table:
    """Return the memory of one device of each pool and job by component, and what is left or lacking."""
    rows: list[Row] = []
    for pool in option.pools:
        rows += _memory(f"pool {pool.name}", FORMULAS["serving"], pool.memory_bytes, pool.memory_available_bytes)
    for job in option.jobs:
        laid_out = job.training is not None and job.training.parts_s
        formulas = train_memory.FORMULAS if laid_out else FORMULAS["job"]
        rows += _memory(f"job {job.name}", formulas, job.memory_bytes, job.memory_available_bytes)
    return Table("Memory", _MEMORY, tuple(rows))


def _memory(
    where: str, formulas: Mapping[str, str], parts: Mapping[str, float], available: float | None
) -> Iterator[Row]:
    def row(component: str, size: float, formula: Cell) -> Row:
        share: Number = Missing(UNKNOWN_MEMORY) if not available else size / available
        cells = {"where": where, "component": component, "size_bytes": finite(size, "unknown")}
        return {**cells, "share_fraction": share, "formula": formula}

    for component, size in parts.items():
        yield row(component, float(size), formulas.get(component, Missing("no formula on record")))
    if available is not None:
        left = float(available) - sum(map(float, parts.values()))
        yield row("free" if left >= 0 else "lacking", abs(left), "available after the reserve − all components")


def violation_table(option: Option) -> Table:
    """Return every constraint an option misses: by how much, the best achievable, what would help."""
    rows = tuple(
        {
            "where": violation.where,
            "constraint": " ".join(violation.constraint.split()),
            "over_limit_fraction": figures.over_limit(violation),
            "missed": figures.missed(violation),
            "advice": violation.advice,
        }
        for violation in option.violations
    )
    return Table("Constraints missed", _VIOLATION, rows)


def detail_tables(option: Option) -> tuple[Table, ...]:
    """Return the tables of one option that have rows, in reading order."""
    tables = (
        violation_table,
        cost_table,
        unit_table,
        use_table,
        stage_table,
        batch_table,
        pool_table,
        job_table,
        training_table,
        parts_table,
        memory_table,
    )
    return tuple(table for table in (build(option) for build in tables) if table.rows)
