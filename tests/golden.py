"""Golden summaries of the shipped scenarios; `pytest tests/test_scenarios.py --regenerate` writes them anew.

They hold what a person would quote: the best device, how many, dollars a month and latency, rounded to three digits.
"""

from __future__ import annotations

import json
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from capacity import catalogue, documents, planner
from capacity.plan import Option, Plan

TODAY = date(2026, 11, 22)
FOLDER = Path(__file__).parent / "golden"
SCENARIOS = tuple(sorted(documents.catalogue("scenarios")))
DOMAINS = tuple(sorted(documents.catalogue("scenarios/domains")))


@lru_cache(maxsize=256)
def plan_of(name: str, overrides: tuple[str, ...] = (), settings: tuple[str, ...] = ()) -> Plan:
    """Return the plan of a shipped scenario on the fixed day."""
    scenario = catalogue.scenario(name, overrides, settings)
    return planner.plan(scenario, planner.inputs(scenario, today=TODAY))


def summary(plan: Plan) -> dict[str, Any]:
    """Return what a golden file holds of a plan."""
    best = plan.best
    return {
        "scenario": plan.scenario,
        "date": plan.date,
        "best": best.hardware if best else None,
        "options": {option.hardware: _option(option) for option in plan.options},
    }


def _option(option: Option) -> dict[str, Any]:
    if option.cost is None or option.latency_quantile_s is None:
        return {"misses": [f"{missed.where}: {missed.constraint}" for missed in option.violations]}
    return {
        "devices": option.devices,
        "usd_per_month": rounded(option.cost.usd),
        "latency_quantile_ms": rounded(1e3 * option.latency_quantile_s),
        "bound": option.bound,
    }


def rounded(value: float) -> float:
    """Return `value` at three significant digits."""
    return float(f"{value:.3g}")


def text(name: str) -> str:
    """Return the content of the golden file of a scenario."""
    return json.dumps(summary(plan_of(name)), indent=2) + "\n"
