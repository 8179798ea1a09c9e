"""Budget against actual: differences by line that add up, what moved them, and bills that cannot be read."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import capacity
from report_plans import TODAY, plan, unpriced

from capacity.errors import InputError
from capacity.plan import Plan
from capacity.report import actual, focus, spend
from capacity.report.cells import Missing

ASKED = ("cross-encoder-rerank", "--hardware", "t4", "--today", TODAY.isoformat())
T4 = plan(("t4",))
SERVING = T4.best.cost.lines[0]
HEAD = "group,name,usd,month,quantity,unit,unit_price_usd\n"
FOCUS = "BilledCost,EffectiveCost,ChargePeriodStart,ChargeCategory,ServiceName,ServiceCategory,BillingCurrency,Tags\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "bill.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def held(folder: Path, text: str, given: Plan = T4, **aliases: tuple[str, str]) -> actual.Actual:
    return actual.against(given, given.best, spend.read(written(folder, text), aliases))


def line(found: actual.Actual, name: str) -> actual.Line:
    return next(item for item in found.lines if item.amount.name == name)


# Differences


@pytest.mark.parametrize("given", [plan(), plan(("t4",), ("pricing.energy=separate",))], ids=["usual", "energy"])
def test_our_own_focus_rows_read_back_differ_by_nothing(given, tmp_path):
    found = held(tmp_path, focus.render(given), given)
    assert found.total.delta == 0
    assert found.total.new == pytest.approx(given.best.cost.usd, abs=0.005)
    assert len(found.lines) == len(given.best.cost.lines)
    for item in found.lines:
        assert item.status == actual.PLANNED
        moved = (item.by_quantity, item.by_price, item.by_discount)
        assert (item.amount.delta, *moved) == pytest.approx((0, 0, 0, 0), abs=1e-9)


def test_lines_that_start_like_formulas_are_found_again(tmp_path):
    best = T4.best
    lines = tuple(replace(item, name=f"={item.name};=1") for item in best.cost.lines)
    evil = replace(T4, options=(replace(best, cost=replace(best.cost, lines=lines)),))
    found = held(tmp_path, focus.render(evil), evil)
    assert {item.status for item in found.lines} == {actual.PLANNED}
    assert found.total.delta == 0


def test_a_difference_is_more_of_it_dearer_and_discounted(tmp_path):
    quantity, price = SERVING.quantity, SERVING.unit_price_usd
    usd = 2 * quantity * 1.5 * price - 100
    text = f"{HEAD}devices,{SERVING.name},{usd},2026-10,{2 * quantity},device-hours,{1.5 * price}\n"
    found = line(held(tmp_path, text), SERVING.name)
    # twice as many at the old price add q·p; twice as many at half a price more add 2q·p/2; 100 USD were forgiven
    assert found.by_quantity == pytest.approx(quantity * price)
    assert found.by_price == pytest.approx(quantity * price)
    assert found.by_discount == pytest.approx(-100)
    assert found.amount.delta == pytest.approx(2 * quantity * price - 100)


def test_without_a_list_price_discounts_are_part_of_the_price(tmp_path):
    text = f"group,name,usd,quantity\ndevices,{SERVING.name},1000,{SERVING.quantity}\n"
    found = line(held(tmp_path, text), SERVING.name)
    assert (found.by_quantity, found.by_price) == (0, pytest.approx(1000 - SERVING.usd))
    assert found.by_discount == Missing("the bill tells no list price")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1000,2026-10,,,", "the bill tells no quantity"),
        ("1000,2026-10,5,Hours,1", "counted in Hours, planned in device-hours"),
    ],
)
def test_what_cannot_be_split_says_why(row, reason, tmp_path):
    found = line(held(tmp_path, f"{HEAD}devices,{SERVING.name},{row}\n"), SERVING.name)
    assert found.by_quantity == found.by_price == found.by_discount == Missing(reason)
    assert found.amount.delta == pytest.approx(1000 - SERVING.usd)


def test_lines_of_only_one_side_are_shown_and_everything_adds_up(tmp_path):
    text = "group,name,usd\nStorage,Snapshots,120\n DEVICES , Serving Online ,9000\n"
    found = held(tmp_path, text)
    status = {item.amount.name: item.status for item in found.lines}
    assert status["Snapshots"] == actual.UNPLANNED
    assert status[SERVING.name] == actual.PLANNED
    assert {name for name, said in status.items() if said == actual.UNSPENT} == {
        item.name for item in T4.best.cost.lines
    } - {SERVING.name}
    assert found.total.delta == pytest.approx(9120 - T4.best.cost.usd)
    assert [change.name for change in found.groups] == ["devices", "storage", "network", "people"]
    for parts in ([item.amount for item in found.lines], found.groups):
        assert sum(part.delta for part in parts) == pytest.approx(found.total.delta)
    assert next(row["name"] for row in actual.lines_table(found).rows) == SERVING.name


def test_several_months_are_averaged_or_looked_at_one_by_one(tmp_path):
    path = written(tmp_path, f"{HEAD}a,b,100,2026-09,,,\na,b,300,2026-10,,,\na,b,20,2026-10-31,,,\n")
    ledger = spend.read(path, {})
    assert line(actual.against(T4, T4.best, ledger), "b").amount.new == 210
    assert [change.new for change in actual.against(T4, T4.best, ledger).months] == [100, 320]
    assert line(actual.against(T4, T4.best, ledger.during(["2026-10"])), "b").amount.new == 320
    with pytest.raises(InputError, match="unknown month '2026-11'"):
        ledger.during(["2026-11"])


def test_a_line_without_a_price_has_no_difference(tmp_path):
    given = unpriced()
    found = held(tmp_path, focus.render(given), given)
    gaps = [item for item in found.lines if isinstance(item.amount.old, Missing)]
    assert [item.amount.name for item in gaps] == list(given.best.cost.missing)
    assert found.total.delta == Missing("before: no price")
    assert actual.gate(found, 0.05).startswith("nothing to compare with")


# Bills of providers


def test_focus_rows_of_a_provider_go_where_tags_aliases_and_categories_say(tmp_path):
    tags = '"{""capacity_group"": ""devices"", ""capacity_line"": ""serving online""}"'
    rows = [
        f"9,8,2026-12-01T00:00:00Z,Usage,Amazon EC2,Compute,USD,{tags}",
        "1,2,2026-12-31T23:30:00-02:00,Usage,Amazon EC2,Compute,USD,",
        "5,5,2026-12-03,Usage,Amazon S3,Storage,USD,{}",
        "7,7,2026-12-03,Tax,VAT,Other,USD,",
        "-3,-3,2026-12-03,Credit,Amazon EC2,Compute,USD,",
        "0,0,2026-12-03,Usage,NAT,Networking,,",
    ]
    ledger = spend.read(written(tmp_path, FOCUS + "\n".join(rows)), {"amazon s3": ("storage", "checkpoints")})
    assert ledger.cost == "EffectiveCost"
    assert [(row.month, row.group, row.name, row.usd) for row in ledger.rows] == [
        ("2026-12", "devices", "serving online", 8), ("2027-01", "devices", "Amazon EC2", 2),
        ("2026-12", "storage", "checkpoints", 5), ("2026-12", "tax", "VAT", 7),
        ("2026-12", "credit", "Amazon EC2", -3), ("2026-12", "network", "NAT", 0),
    ]  # fmt: skip


def test_the_price_of_another_unit_than_the_consumed_one_does_not_count(tmp_path):
    head = "BilledCost,ChargePeriodStart,ServiceName,ConsumedQuantity,ConsumedUnit,PricingUnit,ListUnitPrice\n"
    text = f"{head}5,2026-12-01,x,10,Hours,Hours,0.7\n5,2026-12-01,x,10,Hours,Months,500\n"
    prices = [row.list_price_usd for row in spend.read(written(tmp_path, text), {}).rows]
    assert prices == [0.7, None]


BROKEN = {
    "empty": ("", ":1: is no bill that can be read; a plain file has group, name, usd"),
    "another table": ("a,b\n1,2\n", ":1: is no bill that can be read"),
    "no rows": ("group,name,usd\n", ": holds no spending"),
    "an unknown column": ("group,name,usd,moth\n", ":1:4: unknown column 'moth'; did you mean month?"),
    "a column twice": ("group,name,usd,usd\n", ":1:4: duplicate column 'usd'"),
    "a missing column": ("group,usd\n", ":1:3: missing column 'name'"),
    "FOCUS without a period": ("BilledCost,ServiceName\n", ":1:3: missing column 'ChargePeriodStart'"),
    "too few fields": ("group,name,usd\na,b\n", ":2:2: has 2 fields, expected 3"),
    "a comma in a number": ('group,name,usd\na,b,"1,234"\n', ":2:3: usd: '1,234' is no number; write it as 1234.56"),
    "no number": ("group,name,usd\na,b,nan\n", ":2:3: usd: 'nan' is no number"),
    "beyond all numbers": ("group,name,usd\na,b,1e999\n", ":2:3: usd: '1e999' is beyond 1e+15"),
    "a blank amount": ("group,name,usd\na,b,\n", ":2:3: usd: is blank"),
    "a blank name": ("group,name,usd\n\na,,1\n", ":3:2: name: is blank"),
    "no month": ("group,name,usd,month\na,b,1,2026-13\n", ":2:4: month: '2026-13' is no month"),
    "a blank month": ("group,name,usd,month\na,b,1,\n", ":2:4: month: is blank"),
    "no quantity": ("group,name,usd,quantity\na,b,1,x\n", ":2:4: quantity: 'x' is no number"),
    "another currency": (FOCUS + "1,1,2026-12-01,Usage,x,Compute,EUR,\n", ":2:7: BillingCurrency: 'EUR' is not USD"),
    "an unknown charge": (FOCUS + "1,1,2026-12-01,Fee,x,Compute,USD,\n", ":2:4: ChargeCategory: 'Fee' is none of"),
    "no moment": (FOCUS + "1,1,12/01/2026,Usage,x,Compute,USD,\n", ":2:3: ChargePeriodStart: '12/01/2026' is no"),
    "beyond all moments": (FOCUS + "1,1,0001-01-01T00:00:00+23:00,Usage,x,,USD,\n", ":2:3: ChargePeriodStart: '0001"),
    "no tags": (FOCUS + "1,1,2026-12-01,Usage,x,Compute,USD,[1]\n", ":2:8: Tags: is no JSON object"),
    "no service": (FOCUS + "1,1,2026-12-01,Usage,,Compute,USD,\n", ":2:5: ServiceName: is blank"),
    "an open quote": ('group,name,usd\na,"b,1\n', ":2:1: is not a line of CSV"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN)
def test_a_bill_that_cannot_be_read_is_refused_at_its_place(text, said, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(InputError) as refused:
        spend.read(path, {})
    assert f"{path}{said}" in str(refused.value)


def test_a_bill_full_of_faults_is_refused_with_the_first_ones(tmp_path):
    with pytest.raises(InputError, match="and 60 more problems") as refused:
        spend.read(written(tmp_path, "group,name,usd\n" + "a,b,x\n" * 100), {})
    assert len(refused.value.problems) == 41


# The command


def test_the_command_prints_says_json_and_gates(tmp_path):
    path = written(tmp_path, f"group,name,usd\ndevices,{SERVING.name},{T4.best.cost.usd * 1.1}\n")
    printed = capacity("actual", *ASKED, path, "--fail-over", "9%")
    assert printed.code == 1
    assert "gate failed: 10.0% more was spent than planned, at most 9.0% allowed" in printed.err
    assert "(+10 %)" in printed.out
    found = capacity("actual", *ASKED, path, "--fail-over", "11%", "--json")
    assert found.code == 0
    assert found.json["total"]["delta_fraction"] == pytest.approx(0.1)
    assert (found.json["schema"], found.json["version"], found.json["gate_failed"]) == ("capacity.actual", 1, "")


def test_the_command_names_what_services_are(tmp_path):
    path = written(tmp_path, FOCUS + "1,1,2026-12-01,Usage,Amazon EC2,Compute,USD,\n")
    found = capacity("actual", *ASKED, path, "--map", "Amazon EC2=devices/serving online", "--json").json
    assert [item["status"] for item in found["lines"] if item["name"] == SERVING.name] == ["planned"]
    wrong = capacity("actual", *ASKED, path, "--map", "Amazon EC2")
    assert (wrong.code, wrong.out) == (2, "")
    assert "write it as SERVICE=GROUP or SERVICE=GROUP/LINE" in wrong.err


def test_a_plan_without_an_answer_has_no_budget(tmp_path):
    path = written(tmp_path, "group,name,usd\na,b,1\n")
    said = capacity("actual", *ASKED, path, "--set", "objective.latency=1ms")
    assert said.code == 1
    assert "no option is feasible" in said.err


def test_json_holds_no_nan_and_every_row_of_the_bill(tmp_path):
    found = held(tmp_path, focus.render(unpriced()), unpriced())
    told = json.loads(actual.dumps(found, ""), parse_constant=pytest.fail)
    rows = list(csv.DictReader(io.StringIO(focus.render(unpriced()), newline="")))
    assert sorted(item["name"] for item in told["lines"]) == sorted(row["x_Line"] for row in rows)
    assert told["total"]["planned_usd_per_month_reason"] == "no price"
