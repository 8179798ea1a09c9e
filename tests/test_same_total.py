"""A plan's total is one number, to the cent, wherever it is read: screen, JSON, dashboard, and every kind of report.

What is written for people (screen, dashboard, HTML, Markdown) shows it as `units.usd` does; files hold it in full.
"""

from __future__ import annotations

import io
import json
import re
from datetime import date
from html import unescape
from pathlib import Path

import pytest
from command_line import capacity
from pyarrow import parquet
from report_plans import Page, markdown_tables, records
from streamlit.testing.v1 import AppTest
from workbooks import Workbook

from capacity import catalogue, planner
from capacity.pages import cached
from capacity.pages.state import View
from capacity.plan import Plan
from capacity.units import usd

SCENARIOS = ("cross-encoder-rerank", "cascade")
CENT = 0.005
TEXTS = ("markdown", "html", "csv", "json", "focus")
DOWNLOADS = (*TEXTS, "xlsx")


@pytest.fixture(scope="module", params=SCENARIOS)
def scenario(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def day() -> date:
    """The dashboard judges prices today, so all do."""
    return date.today()


@pytest.fixture(scope="module")
def plan(scenario, day) -> Plan:
    found = catalogue.scenario(scenario)
    made = planner.plan(found, planner.inputs(found, today=day))
    assert len(totals(made)) > 1
    return made


@pytest.fixture(scope="module")
def written(scenario, day, tmp_path_factory) -> dict[str, bytes]:
    """Every format that the command writes."""
    folder = tmp_path_factory.mktemp("reports")
    forms = (*DOWNLOADS, "parquet")
    for form in forms:
        assert capacity("report", scenario, "-f", form, "-O", folder / form, "--today", day.isoformat()).code == 0
    return {form: (folder / form).read_bytes() for form in forms}


def totals(plan: Plan) -> dict[str, float]:
    """Return the total of each priced option by hardware, best first."""
    return {option.hardware: option.cost.usd for option in plan.options if option.cost and option.cost.complete}


def to_the_cent(found: dict[str, float], plan: Plan) -> None:
    assert found == pytest.approx(totals(plan), abs=CENT, rel=0)
    assert next(iter(found)) == plan.best.hardware


def for_people(found: dict[str, str], plan: Plan) -> None:
    named = {
        option.name: usd(totals(plan)[option.hardware]) for option in plan.options if option.hardware in totals(plan)
    }
    assert found == named


def priced(rows, name: str, cost: str) -> dict[str, str]:
    """Return the cost by name of a table whose first row names the columns."""
    head, *body = rows
    cells = [(row[head.index(name)], row[head.index(cost)]) for row in body if set(row[0]) - set("-:")]
    return {key: value for key, value in cells if value.startswith("$")}


def test_the_lines_of_a_bill_add_up_to_its_total(plan):
    for option in plan.options:
        if option.cost is not None:
            assert sum(line.usd for line in option.cost.lines) == pytest.approx(option.cost.usd, abs=CENT, rel=0)


def test_screen(scenario, day, plan, monkeypatch):
    monkeypatch.setattr("capacity.commands.planning.WIDTH", 250)
    said = capacity("plan", scenario, "--today", day.isoformat()).out
    assert f"{usd(plan.best.cost.usd)} a month" in said
    options, _, bill = said.partition("monthly bill")
    for option in plan.options:
        if option.hardware in totals(plan):
            (row,) = [line for line in options.splitlines() if line.startswith(f"│ {option.name} ")]
            assert f" {usd(option.cost.usd)} " in row
    row, *_ = (line for line in bill.splitlines() if "│ Total " in line)  # unit costs have a total too
    assert f" {usd(plan.best.cost.usd)} " in row


def test_json_on_the_screen_and_as_report(scenario, day, plan, written):
    for told in (capacity("plan", scenario, "--json", "--today", day.isoformat()).json, json.loads(written["json"])):
        costs = {option["hardware"]: option["cost"] for option in told["options"]}
        to_the_cent({name: cost["usd_per_month"] for name, cost in costs.items() if cost}, plan)
        to_the_cent(
            {name: sum(line["usd_per_month"] for line in cost["lines"]) for name, cost in costs.items() if cost}, plan
        )
        assert told["best"] == plan.best.hardware


def test_dashboard(scenario, plan, monkeypatch):
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)
    app = AppTest.from_file(str(Path(__file__).resolve().parent.parent / "dashboard.py"), default_timeout=60)
    app.query_params["scenario"] = scenario
    app.run()
    assert not app.exception
    drawn = [part.value for part in app.html]
    shown = "\n".join(unescape(re.sub(r"<[^>]+>", " ", part)) for part in drawn)
    assert app.metric[1].value == usd(plan.best.cost.usd)
    for amount in totals(plan).values():
        assert re.search(rf"(?<![\d,]){re.escape(usd(amount))}(?![\d,])", shown)


@pytest.mark.parametrize("form", DOWNLOADS)
def test_downloads_of_the_dashboard_hold_it_too(form, scenario, plan, written):
    given = cached.report(View(scenario=scenario), form)
    content = given if isinstance(given, bytes) else given.encode()
    if form == "csv":  # the dashboard gives the options, the command the lines
        rows = records(content.decode())
        to_the_cent({row["hardware"]: float(row["usd_per_month"]) for row in rows if row["usd_per_month"]}, plan)
    else:
        assert content == written[form]


def test_html(plan, written):
    page = Page(written["html"].decode())
    for_people(priced(page.tables["Options"], "Hardware", "Cost [USD/month]"), plan)
    assert f"{usd(plan.best.cost.usd)} a month" in written["html"].decode()


def test_markdown(plan, written):
    said = written["markdown"].decode()
    for_people(priced(markdown_tables(said)[0], "Hardware", "Cost [USD/month]"), plan)
    assert f"{usd(plan.best.cost.usd)} a month" in said


def test_csv(plan, written):
    sums: dict[str, float] = {}
    for row in records(written["csv"].decode()):
        sums[row["hardware"]] = sums.get(row["hardware"], 0.0) + float(row["usd_per_month"])
    to_the_cent(sums, plan)


def test_focus(plan, written):
    rows = records(written["focus"].decode())
    for column in ("BilledCost", "EffectiveCost"):
        assert sum(float(row[column]) for row in rows) == pytest.approx(plan.best.cost.usd, abs=CENT, rel=0)
    assert {row["x_Hardware"] for row in rows} == {plan.best.hardware}


def test_parquet(plan, written):
    rows = parquet.read_table(io.BytesIO(written["parquet"])).to_pylist()
    told = {row["option_hardware"]: row["option_usd_per_month"] for row in rows}
    to_the_cent({name: amount for name, amount in told.items() if amount is not None}, plan)
    sums = {name: sum(row["usd_per_month"] or 0 for row in rows if row["option_hardware"] == name) for name in told}
    to_the_cent({name: amount for name, amount in sums.items() if amount}, plan)
    assert {row["option_hardware"] for row in rows if row["rank"] == 1} == {plan.best.hardware}


def test_workbook_as_kept_and_as_computed(plan, written):
    book = Workbook.of(written["xlsx"])
    heads = [cell.value for (row, _), cell in book.sheets["Options"].items() if row == 1]
    column = heads.index("Cost [USD/month]") + 1
    kept, computed = {}, {}
    for rank, row in enumerate(book.rows("Options")):
        if isinstance(row["Cost [USD/month]"].value, float):
            kept[row["Profile"].value] = row["Cost [USD/month]"].value
            computed[row["Profile"].value] = book.computed("Options", (rank + 2, column))
    to_the_cent(kept, plan)
    to_the_cent(computed, plan)


def test_a_printed_report_is_the_html_report(scenario, day, tmp_path, monkeypatch, written):
    kept = []

    def printed(program, page, target):
        kept.append(page.read_bytes())
        target.write_bytes(b"%PDF-1.4")

    monkeypatch.setattr("capacity.report.pdf.browser", lambda: "none")
    monkeypatch.setattr("capacity.report.pdf._print", printed)
    assert capacity("report", scenario, "-f", "pdf", "-O", tmp_path / "p.pdf", "--today", day.isoformat()).code == 0
    assert kept == [written["html"]]
