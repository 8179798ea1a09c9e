"""Simulated serving as JSON: the public schema "capacity.serving", built as "capacity.plan" is.

Every number is SI and names its unit in its key; one that does not exist is null beside a `…_reason`. The same seed
gives the same text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from capacity.fleet.served import Point, Serving, UnitCost
from capacity.report import serving, serving_sentence
from capacity.report import serving_figures as figures
from capacity.report.cells import Missing, Number, Table, finite
from capacity.report.serving import Answer

SCHEMA = "capacity.serving"
VERSION = 1
Json = dict[str, Any]
NO_TEXT = "nothing is generated"


def dumps(found: Answer) -> str:
    """Return `to_dict` as JSON text, keys in a fixed order."""
    return json.dumps(to_dict(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_dict(found: Answer) -> Json:
    """Return a simulation as plain dictionaries, lists, texts and finite numbers."""
    scenario, question = found.scenario, found.question
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "scenario": scenario.id,
        "title": scenario.title,
        "changes": list(found.changes),
        "date": found.date,
        "seed": question.seed,
        "day": question.day,
        "sized": question.size,
        **_number("requests", Missing("all that come") if question.requests is None else question.requests),
        "peak_rate_per_s": scenario.traffic.peak_rate,
        "objective": {"percentile": scenario.objective.percentile, "latency_s": scenario.objective.latency},
        "answer": serving_sentence.answer(found),
        **({"best": found.best.hardware} if found.best else _number("best", Missing("no option holds the objective"))),
        "options": [_option(found, place, option) for place, option in enumerate(found.options, start=1)],
    }


def _number(key: str, value: Number) -> Json:
    return {key: None, f"{key}_reason": value.reason} if isinstance(value, Missing) else {key: value}


def _rows(table: Table) -> list[Json]:
    """Return the rows of a table as records: whole numbers as such, a missing one with its reason."""
    whole = {column.key for column in table.columns if column.dimension == "whole"}
    return [
        {
            name: found
            for key, cell in row.items()
            for name, found in (
                {key: cell} if isinstance(cell, str) else _number(key, _whole(cell) if key in whole else cell)
            ).items()
        }
        for row in table.rows
    ]


def _whole(cell: Number) -> Number:
    return cell if isinstance(cell, Missing) else round(cell)


def _option(found: Answer, place: int, option: Serving) -> Json:
    (row,) = _rows(serving.options_table(Answer(
        scenario=found.scenario, question=found.question, options=(option,), changes=found.changes, date=found.date
    )))  # fmt: skip
    share = figures.against_best(found.best, option) if option.pools else Missing(figures.NO_RUN)
    told: Json = row | {
        "rank": place,
        **_number("against_best_fraction", share),
        "meets": option.meets,
        "origin": option.origin,
    }
    told |= {"trials": option.trials, "simulated_one_in": option.share}
    if option.result is None:
        return told
    (run,) = _rows(serving.run_table(option))
    return told | {
        "cost": _number("cost", Missing(figures.NO_PRICE)) if option.cost is None else _cost(option.cost),
        "run": run,
        "latencies": _rows(serving.latency_table(option)),
        "pools": _rows(serving.pool_table(option)),
        "outcomes": _rows(serving.outcome_table(option)),
        "caveats": list(serving_sentence.caveats(found, option)),
    }


def _cost(cost: UnitCost) -> Json:
    tokens = {"input": cost.million_input_usd, "output": cost.million_output_usd, "total": cost.million_total_usd}
    found = {
        "usd_per_hour": cost.hour_usd,
        **_number("usd_per_thousand_recommendations", finite(cost.thousand_usd, "nothing is answered")),
        "flags": list(cost.flags),
    }
    for name, value in tokens.items():
        found |= _number(f"usd_per_million_{name}_tokens", finite(value, NO_TEXT))
    return found


def curve(points: Sequence[Point]) -> list[Json]:
    """Return a latency curve as records."""
    return [_point(point) for point in points]


def _point(point: Point) -> Json:
    numbers: Mapping[str, float] = {
        "rate_per_s": point.rate, "capacity_fraction": point.share_of_capacity, "latency_median_s": point.p50_s,
        "latency_quantile_s": point.tail_s, "latency_quantile_error_s": point.tail_error_s,
        "goodput_per_s": point.goodput_per_s,
    }  # fmt: skip
    found: Json = {"state": point.state}
    for key, value in numbers.items():
        found |= _number(key, value if math.isfinite(value) else Missing(figures.TOO_FEW))
    return found
