"""A plan as JSON: the public schema "capacity.plan" that CI jobs and `capacity compare` read.

Every number is SI and names its unit in its key. A number that does not exist is null beside a `…_reason`; NaN and
infinities never appear. An estimate is {"value", "low", "high", "basis", "errors"}: median, 90 % band, weakest basis,
and the log standard deviation by source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from capacity.plan import Cost, CostLine, JobPlan, Option, Plan, PoolPlan, StagePlan, TrainingDetail, Violation
from capacity.report import figures, sentence, unit_costs
from capacity.report.cells import Missing, Number, finite
from capacity.report.table import UNKNOWN_MEMORY, batch_table
from capacity.report.training import NO_RATE
from capacity.timing.band import Estimate

SCHEMA = "capacity.plan"
VERSION = 1
Json = dict[str, Any]
_UNIT = {
    "seconds": "s",
    "per second": "per_s",
    "fraction": "fraction",
    "FLOP/s": "flop_per_s",
    "bytes/s": "bytes_per_s",
}


def dumps(plan: Plan) -> str:
    """Return `to_dict` as JSON text, keys in a fixed order."""
    return json.dumps(to_dict(plan), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_dict(plan: Plan) -> Json:
    """Return the plan as plain dictionaries, lists, texts and finite numbers.

    Examples
    --------
    >>> nothing = Plan(
    ...     scenario="a", title="A", changes=(), peak_rate=1.0, objective_percentile="p99", objective_latency_s=0.1,
    ...     date="2026-01-01", options=(),
    ... )
    >>> to_dict(nothing)["objective"], to_dict(nothing)["best_reason"]
    ({'percentile': 'p99', 'latency_s': 0.1}, 'no option is feasible')
    """
    best = plan.best
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "scenario": plan.scenario,
        "title": plan.title,
        "changes": list(plan.changes),
        "date": plan.date,
        **_number("peak_rate_per_s", finite(plan.peak_rate, "unknown")),
        "objective": {"percentile": plan.objective_percentile, "latency_s": float(plan.objective_latency_s)},
        "answer": sentence.answer(plan),
        "caveats": list(sentence.caveats(plan)),
        **({"best": best.hardware} if best else {"best": None, "best_reason": "no option is feasible"}),
        "options": [_option(plan, rank, option) for rank, option in enumerate(plan.options, start=1)],
    }


def _number(key: str, value: Number) -> Json:
    return {key: None, f"{key}_reason": value.reason} if isinstance(value, Missing) else {key: value}


def _numbers(values: Mapping[str, Number]) -> Json:
    return {name: found for key, value in values.items() for name, found in _number(key, value).items()}


def _estimate(estimate: Estimate) -> Json:
    ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {
        **_numbers({key: finite(value, "unknown") for key, value in ends.items()}),
        "basis": estimate.basis,
        "errors": _numbers({source: finite(sigma, "unknown") for source, sigma in estimate.errors.items()}),
    }


def _option(plan: Plan, rank: int, option: Option) -> Json:
    return {
        "rank": rank,
        "hardware": option.hardware,
        "name": option.name,
        "engine": option.engine,
        "origin": option.origin,
        "basis": option.basis,
        "feasible": option.feasible,
        "bound": option.bound,
        **_numbers(
            {
                "devices": figures.devices(option),
                "devices_p10": figures.devices_at(option, "p10"),
                "devices_p90": figures.devices_at(option, "p90"),
                "latency_median_s": finite(option.latency_median_s, "no fleet"),
                "latency_quantile_s": finite(option.latency_quantile_s, "no fleet"),
                "latency_quantile_at_p90_s": figures.latency_at_p90(option),
                "against_best_fraction": figures.against_best(plan, option),
            }
        ),
        "violations": [_violation(violation) for violation in option.violations],
        "stages": [_stage(stage) for stage in option.stages],
        "latency_by_batch": [dict(row) for row in batch_table(option).rows],
        "pools": [_pool(pool) for pool in option.pools],
        "jobs": [_job(job) for job in option.jobs],
        **(
            {"cost": None, "cost_reason": figures.INFEASIBLE}
            if option.cost is None
            else {"cost": _cost(option, option.cost)}
        ),
        "caveats": list(sentence.option_caveats(plan, option)),
    }


def _violation(violation: Violation) -> Json:
    unit = _UNIT.get(violation.dimension, violation.dimension.lower())
    return {
        "where": violation.where,
        "constraint": violation.constraint,
        "dimension": violation.dimension,
        **_numbers(
            {
                f"needed_{unit}": finite(violation.needed, "no number"),
                f"allowed_{unit}": finite(violation.allowed, "no number"),
                "over_limit_fraction": figures.over_limit(violation),
            }
        ),
        "text": figures.missed(violation),
        "advice": violation.advice,
    }


def _stage(stage: StagePlan) -> Json:
    return {
        "name": stage.name,
        "task": stage.task,
        "pool": stage.pool,
        "time_s": _estimate(stage.time),
        **_numbers({"work_flop": finite(stage.flop, "unknown"), "moved_bytes": finite(stage.moved_bytes, "unknown")}),
        "bound": stage.bound,
    }


def _pool(pool: PoolPlan) -> Json:
    fewer, more = (Missing("objective missed") if n is None else n for n in (pool.replicas_p10, pool.replicas_p90))
    return {
        "name": pool.name,
        "replicas": pool.replicas,
        "spare_replicas": pool.spare_replicas,
        **_numbers({"replicas_p10": fewer, "replicas_p90": more}),
        "devices_per_replica": pool.devices_per_replica,
        "devices": pool.devices,
        "batch_requests": pool.batch,
        "service_s": _estimate(pool.service),
        **_numbers(
            {
                "forming_s": finite(pool.forming_s, "unknown"),
                "wait_p50_s": finite(pool.wait_p50_s, "saturated"),
                "wait_p99_s": finite(pool.wait_p99_s, "saturated"),
                "utilization_fraction": finite(pool.utilization, "unknown"),
                "largest_catalogue_items": finite(pool.largest_catalogue, "keeps no vectors"),
            }
        ),
        **_memory(pool.memory_bytes, pool.memory_available_bytes),
    }


def _memory(parts: Mapping[str, float], available: float | None) -> Json:
    return {
        "memory_bytes": _numbers({name: finite(size, "unknown") for name, size in parts.items()}),
        **_number("memory_available_bytes", finite(available, UNKNOWN_MEMORY)),
    }


def _job(job: JobPlan) -> Json:
    return {
        "name": job.name,
        "kind": job.kind,
        "devices": job.devices,
        "duration_s": _estimate(job.duration),
        "every_s": float(job.every_s),
        "deadline_s": float(job.deadline_s),
        "device_hours_per_month": _estimate(job.device_hours_per_month),
        **_memory(job.memory_bytes, job.memory_available_bytes),
        "note": job.note,
        **({"training": _training(job.training)} if job.training is not None else {}),
    }


def _training(found: TrainingDetail) -> Json:
    return {
        "layout": found.layout,
        "steps": float(found.steps),
        "step_s": _estimate(found.step),
        "parts_s": {name: float(seconds) for name, seconds in found.parts_s.items()},
        **_numbers({
            "mfu_fraction": NO_RATE if found.mfu is None else found.mfu,
            "hfu_fraction": NO_RATE if found.hfu is None else found.hfu,
        }),
        "useful_fraction": float(found.useful),
        **_numbers({
            name: finite(getattr(found, name), "not searched")
            for name in ("tokens_per_s", "largest_batch", "longest_tokens")
        }),
    }  # fmt: skip


def _cost(option: Option, cost: Cost) -> Json:
    return {
        **_numbers(
            {
                "usd_per_month": figures.monthly_usd(option),
                "p10_usd_per_month": figures.monthly_usd_at(option, "p10"),
                "p90_usd_per_month": figures.monthly_usd_at(option, "p90"),
                "priced_lines_usd_per_month": finite(cost.usd, "unknown"),
                "usd_per_thousand_requests": figures.usd_per_thousand_requests(option),
                "energy_kwh_per_month": finite(cost.energy_kwh, "the profile states no power"),
                "carbon_kg_per_month": finite(cost.carbon_kg, "the profile states no power"),
            }
        ),
        "missing": list(cost.missing),
        "groups_usd_per_month": _numbers(figures.groups(cost)),
        "lines": [_line(line) for line in cost.lines],
        **({"unit_costs": unit_costs.to_dict(cost.units)} if cost.units is not None else {}),
    }


def _line(line: CostLine) -> Json:
    return {
        "group": line.group,
        "name": line.name,
        "quantity": float(line.quantity),
        "unit": line.unit,
        **_numbers(
            {
                "unit_price_usd": finite(line.unit_price_usd, figures.NO_PRICE),
                "usd_per_month": figures.line_usd(line),
                "p10_usd_per_month": finite(line.p10_usd, figures.NO_PRICE),
                "p90_usd_per_month": finite(line.p90_usd, figures.NO_PRICE),
            }
        ),
        "basis": line.basis,
        "formula": line.formula,
        "source": line.source,
        "flags": list(line.flags),
    }
