"""The FOCUS dataset: columns, types, nulls and allowed values of version 1.2, and sums that are the plan's."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from report_plans import TODAY, infeasible, nothing, plan, records, refused, titled, unpriced

from capacity.commands import planning
from capacity.report import focus

NUMBER, TEXT, MOMENT = "Decimal", "String", "Date/Time"
MANDATORY = {
    "BilledCost": (NUMBER, False), "BillingAccountId": (TEXT, False), "BillingAccountName": (TEXT, True),
    "BillingCurrency": (TEXT, False), "BillingPeriodEnd": (MOMENT, False), "BillingPeriodStart": (MOMENT, False),
    "ChargeCategory": (TEXT, False), "ChargeClass": (TEXT, True), "ChargeDescription": (TEXT, True),
    "ChargePeriodEnd": (MOMENT, False), "ChargePeriodStart": (MOMENT, False), "ContractedCost": (NUMBER, False),
    "EffectiveCost": (NUMBER, False), "InvoiceIssuerName": (TEXT, False), "ListCost": (NUMBER, False),
    "PricingQuantity": (NUMBER, True), "PricingUnit": (TEXT, True), "ProviderName": (TEXT, False),
    "PublisherName": (TEXT, False), "ServiceCategory": (TEXT, False), "ServiceName": (TEXT, False),
}  # fmt: skip
"""Mandatory columns with type and whether they may be null: https://focus.finops.org/focus-specification/v1-2."""
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "ServiceCategory": {
        "AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases", "Developer Tools",
        "Identity", "Integration", "Internet of Things", "Management and Governance", "Media", "Migration", "Mobile",
        "Multicloud", "Networking", "Other", "Security", "Storage", "Web",
    },
}  # fmt: skip
UNIT = re.compile(r"([KMGTPE]i?B|[A-Z][a-z]+-[A-Z][a-z]+s|[A-Z][a-z]+s|[KMGTPE]i?B-[A-Z][a-z]+s)")
"""Simple and compound units of the Unit Format."""
COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")
SPECIFICATION = Path("/work/shared/data/focus_1_2_columns.csv")
MATCHES = {
    NUMBER: re.compile(r"-?\d+(\.\d+)?"),
    MOMENT: re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    TEXT: re.compile(r".+", re.DOTALL),
}


def rows(given=None):
    return records(focus.render(given or plan()))


@pytest.mark.parametrize("settings", [(), ("pricing.energy=separate",)])
def test_mandatory_columns_are_there_with_their_types_and_nulls(settings):
    found = rows(plan(("t4",), settings))
    assert len(found) == len(plan(("t4",), settings).best.cost.lines)
    for row in found:
        for column, (kind, nullable) in MANDATORY.items():
            assert (nullable and row[column] == "") or MATCHES[kind].fullmatch(row[column]), (column, row[column])
        for column, allowed in ALLOWED.items():
            assert row[column] in allowed, (column, row[column])
        assert row["BillingCurrency"] == "USD"
        assert UNIT.fullmatch(row["PricingUnit"]), row["PricingUnit"]


def test_columns_of_usage_that_may_be_null_in_general_are_none_here():
    for row in rows():
        assert all(row[column] for column in ("PricingQuantity", "PricingUnit", "SkuId", "SkuPriceId", "ListUnitPrice"))


def test_own_columns_come_last_and_are_marked():
    own = [column.startswith("x_") for column in focus.COLUMNS]
    assert own == sorted(own)
    assert len(set(focus.COLUMNS)) == len(focus.COLUMNS)


@pytest.mark.skipif(not SPECIFICATION.exists(), reason="the table of FOCUS columns is not on this machine")
def test_columns_are_those_of_the_specification():
    with SPECIFICATION.open(encoding="utf-8", newline="") as file:
        known = {row["column"]: row for row in csv.DictReader(file)}
    mandatory = {name for name, row in known.items() if row["feature_level_1_2"] == "Mandatory"}
    assert mandatory == MANDATORY.keys()
    for name, (kind, nullable) in MANDATORY.items():
        assert (known[name]["data_type"], known[name]["allows_nulls"]) == (kind, str(nullable))
    assert {column for column in focus.COLUMNS if not column.startswith("x_")} <= known.keys()


def test_costs_add_up_to_the_plan_and_are_quantity_times_price():
    found = rows()
    for column in COSTS:
        assert float(sum(Decimal(row[column]) for row in found)) == pytest.approx(plan().best.cost.usd, abs=0.005)
    for row in found:
        product = Decimal(row["PricingQuantity"]) * Decimal(row["ContractedUnitPrice"])
        assert float(product) == pytest.approx(float(row["ContractedCost"]), abs=0.005)


def test_rows_are_the_lines_of_the_best_option_with_range_basis_and_formula():
    for row, line in zip(rows(), plan().best.cost.lines, strict=True):
        assert (float(row["x_P10Cost"]), float(row["x_P90Cost"])) == (line.p10_usd, line.p90_usd)
        assert (row["x_Basis"], row["x_Formula"], row["x_Group"]) == (line.basis, line.formula, line.group)
        assert (row["x_Hardware"], row["x_Scenario"]) == (plan().best.hardware, plan().scenario)
        assert row["x_Missing"] == ""


def test_descriptions_are_ascii_where_ours_are_signs_and_names_are_kept():
    assert all(row["ChargeDescription"].isascii() for row in rows())
    assert any(not row["x_Formula"].isascii() for row in rows())
    assert rows(titled("Café"))[0]["BillingAccountName"] == "Café"


def test_a_plan_has_no_invoice():
    assert {row["InvoiceId"] for row in rows()} == {""}


def test_skus_tell_the_lines_of_a_bill_apart():
    found = [row["SkuId"] for row in rows()]
    assert len(set(found)) == len(found)


def test_the_version_of_the_plan_changes_with_the_plan():
    (first,) = {row["x_PlanVersion"] for row in rows()}
    (second,) = {row["x_PlanVersion"] for row in rows(plan(("t4",)))}
    assert first != second


# Months


@pytest.mark.parametrize("day", ["2026-11-22", "2026-12-01", "2026-12-31", "2028-02-01"])
def test_a_month_is_a_whole_one_that_begins_on_the_day_or_later(day):
    start, end = (datetime.fromisoformat(moment).date() for moment in focus.month_of(date.fromisoformat(day)))
    assert (start.day, end.day) == (1, 1)
    assert timedelta(0) <= start - date.fromisoformat(day) < timedelta(31)
    assert (end - timedelta(1)).month == start.month


def test_charge_and_billing_periods_are_the_same_month():
    for row in rows():
        assert row["BillingPeriodStart"] == row["ChargePeriodStart"] == "2026-12-01T00:00:00Z"
        assert row["BillingPeriodEnd"] == row["ChargePeriodEnd"] == "2027-01-01T00:00:00Z"


# Gaps


def test_a_line_without_a_price_has_no_cost_and_says_so():
    found = rows(unpriced())
    gaps = [row for row in found if row["x_Missing"]]
    assert [row["x_Missing"] for row in gaps] == ["no price"] * len(unpriced().best.cost.missing)
    for row in gaps:
        assert {row[column] for column in (*COSTS, "ListUnitPrice", "x_P10Cost", "x_P90Cost")} == {""}
        assert float(row["PricingQuantity"]) > 0
    assert all(row["BilledCost"] for row in found if not row["x_Missing"])


@pytest.mark.parametrize("make", [infeasible, refused, nothing])
def test_a_plan_without_an_answer_is_a_header(make):
    assert focus.render(make()).splitlines() == [",".join(focus.COLUMNS)]


# Text


@pytest.mark.parametrize("title", ["=cmd()", "+1", "@x", "-2", "\tx"])
def test_texts_never_start_a_formula(title):
    assert {row["BillingAccountName"] for row in rows(titled(title))} == {f"'{title}"}


@pytest.mark.parametrize(("usd", "said"), [(-2.5, "-2.5"), (1e-9, "0.000000001"), (1e22, "1" + "0" * 22), (0, "0.0")])
def test_numbers_have_no_exponent_and_no_quote(usd, said):
    best = plan().best
    cost = replace(best.cost, lines=(replace(best.cost.lines[0], usd=usd),))
    (row,) = rows(replace(plan(), options=(replace(best, cost=cost),)))
    assert row["BilledCost"] == said


def test_the_command_writes_the_dataset(tmp_path, capsys):
    asked = planning.Request.of("cross-encoder-rerank", ["t4", "a100-sxm-80gb"], None, None, None, TODAY.isoformat())
    assert planning.write_report(asked, "focus", tmp_path / "plan.csv") == 0
    assert (tmp_path / "plan.csv").read_bytes() == focus.render(plan()).encode()
    capsys.readouterr()
    assert planning.write_report(asked, "focus", None) == 0
    assert capsys.readouterr().out == focus.render(plan())
