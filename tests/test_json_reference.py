"""docs/reference/json-reports.md names every key that the JSON reports hold, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from report_plans import BOTH, TODAY, infeasible, nothing, plan, refused, unpriced

from capacity import catalogue, planner
from capacity.report import actual, comparison, focus, json_report, parquet, spend

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "reference" / "json-reports.md").read_text(encoding="utf-8")
NAMED_BY_DATA = {
    "errors": "source", "memory_bytes": "component", "groups_usd_per_month": "group", "parts_s": "part"
}  # fmt: skip
"""Objects whose keys are data: shown as {what they are}."""
SECTION = re.compile(r"^## `(capacity\.\w+)`, version (\d+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def documented(schema: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)` \|", section(schema)[1], re.MULTILINE))


def section(schema: str) -> tuple[int, str]:
    return {name: (int(version), text) for name, version, text in SECTION.findall(PAGE)}[schema]


def keys(value, path: str = "", inside: str = ""):
    """Yield the path of every value that is no object or list of objects; reasons of missing numbers apart."""
    if isinstance(value, dict) and value.keys() == {"value", "low", "high", "basis", "errors"}:
        yield path  # an estimate
    elif isinstance(value, dict):
        for key, part in value.items():
            if key.endswith("_reason"):
                continue
            name = f"{{{NAMED_BY_DATA[inside]}}}" if inside in NAMED_BY_DATA else key
            name = re.sub(r"^(needed|allowed)_.*", r"\1_{unit}", name)
            yield from keys(part, f"{path}.{name}" if path else name, key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for part in value:
            yield from keys(part, f"{path}[]")
    elif not (isinstance(value, list) and not value and path.endswith(OBJECTS)) and value is not None:
        yield path


OBJECTS = (
    "options", "violations", "stages", "latency_by_batch", "pools", "jobs", "lines", "groups", "best_groups", "months"
)  # fmt: skip
"""Lists of objects, which may be empty."""


@pytest.fixture(scope="module")
def plans():
    def made(name: str, hardware: str):
        found = catalogue.scenario(name)
        return planner.plan(found, planner.inputs(found, today=TODAY), hardware=(hardware,))

    others = (made("semantic-id-generator", "h100-sxm-80gb"), made("realtime-pipeline", "l4"))
    return [plan(), infeasible(), refused(), unpriced(), nothing(), *others]


def test_a_plan(plans):
    written = {key for given in plans for key in keys(json_report.to_dict(given))}
    assert written == documented(json_report.SCHEMA)
    assert section(json_report.SCHEMA)[0] == json_report.VERSION


def test_a_comparison(plans):
    new = json_report.to_dict(plan(BOTH, ("traffic.peak_rate=75/s",)))
    told = comparison.to_dict(comparison.compare(json_report.to_dict(plan()), new))
    assert {*keys({**told, "gate_failed": ""})} == documented("capacity.comparison")
    assert section("capacity.comparison")[0] == told["version"]


def test_budget_against_actual(tmp_path):
    path = tmp_path / "bill.csv"
    path.write_text(focus.render(plan()), encoding="utf-8", newline="")
    told = actual.to_dict(actual.against(plan(), plan().best, spend.read(path, {})))
    assert {*keys({**told, "gate_failed": ""})} == documented(actual.SCHEMA)
    assert section(actual.SCHEMA)[0] == actual.VERSION


def test_columns_of_the_parquet_file():
    columns = {*parquet.costs(plan()).columns}
    assert {column.key for column in columns} | {"notes"} == documented(parquet.SCHEMA)
    assert section(parquet.SCHEMA)[0] == parquet.VERSION
