"""Two reports set against each other: totals, groups and causes add up; gaps are said."""

from __future__ import annotations

import json

import pytest
from report_plans import BOTH, infeasible, plan

from capacity.errors import InputError
from capacity.plan import Plan
from capacity.report import comparison, json_report, markdown
from capacity.report.cells import Missing
from capacity.units import usd


def reports(new: Plan) -> tuple[dict, dict]:
    return json_report.to_dict(plan()), json.loads(json_report.dumps(new))


def test_comparison_totals_groups_and_causes_add_up():
    old, new = reports(plan(BOTH, ("traffic.peak_rate=75/s",)))
    change = comparison.compare(old, new)
    for option in change.options:
        assert sum(group.delta for group in option.groups) == pytest.approx(option.total.delta)
        assert sum(line.amount.delta for line in option.lines) == pytest.approx(option.total.delta)
        assert all(line.by_quantity + line.by_price == pytest.approx(line.amount.delta) for line in option.lines)
    assert change.best.delta == pytest.approx(
        new["options"][0]["cost"]["usd_per_month"] - old["options"][0]["cost"]["usd_per_month"]
    )
    said = markdown.compare(old, new)
    assert f"+{usd(change.best.delta)} a month" in said
    assert f"now {usd(change.best.new)} a month in total" in said
    json.dumps(comparison.to_dict(change), allow_nan=False)


def test_comparison_splits_a_delta_by_quantity_and_price():
    old, new = reports(plan())
    line = new["options"][0]["cost"]["lines"][0]
    quantity, price = line["quantity"], line["unit_price_usd"]
    line |= {"quantity": 2 * quantity, "unit_price_usd": 1.5 * price, "usd_per_month": 3 * quantity * price}
    moved = comparison.compare(old, new).options[0].lines[0]
    # twice as many at the old price add q·p; twice as many at half a price more add 2q·p/2
    assert moved.by_quantity == pytest.approx(quantity * price)
    assert moved.by_price == pytest.approx(quantity * price)


def test_comparison_of_equal_reports_is_no_change():
    assert "no change" in markdown.compare(*reports(plan()))
    assert comparison.lines_table(comparison.compare(*reports(plan())).options[0]).rows == ()


def test_comparison_says_where_there_is_nothing_to_compare():
    old, new = reports(plan(("a100-pcie-40gb", "t4")))
    changes = {option.hardware: option for option in comparison.compare(old, new).options}
    assert changes["a100-pcie-40gb"].total.delta == Missing("before: not compared")
    assert changes["a100-sxm-80gb"].total.new == Missing("not compared")
    late = comparison.compare(*reports(infeasible()))
    assert late.best.new == Missing("no feasible option")
    assert "→ no feasible option" in markdown.compare(*reports(infeasible()))


@pytest.mark.parametrize(
    "broken", [{}, {"schema": "capacity.plan", "version": 2}, {"schema": "capacity.plan", "version": 1}]
)
def test_comparison_refuses_what_is_no_report(broken):
    with pytest.raises(InputError, match=r"capacity\.plan"):
        comparison.compare(json_report.to_dict(plan()), broken)
