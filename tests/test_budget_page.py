"""The page Budget and risk through AppTest: its numbers, every widget, the URL both ways, and what it cannot answer."""

from __future__ import annotations

import csv
import io
import json
import shlex

import pytest
from dashboard_app import captions, errors, headline, healthy, opened, query, text
from typer.testing import CliRunner

from capacity import cli, outlook, planner
from capacity.pages import cached, link, state
from capacity.pages.state import View
from capacity.report import forecast

TOWER = {"scenario": "gpt2-two-tower", "hardware": ["a10g"]}
SAID = ["months=12", "growth.traffic=0.05", "budget=5000", "discount_rate=0.1", "price_decline=0.1"]


@pytest.fixture(autouse=True)
def no_scenario_of_the_operator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)


def test_the_page_has_the_numbers_of_the_command_it_shows():
    app = opened("budget", **TOWER, expect=SAID)
    assert not app.error
    command = next(code.value for code in app.code if code.value.startswith("capacity risk"))
    told = json.loads(CliRunner().invoke(cli.app, [*shlex.split(command)[1:], "--json"]).stdout)
    assert headline(app) == told["answer"]
    view, _ = link.from_query(query(app))
    assert json.loads(forecast.dumps(cached.prospects(view))) == told
    assert len(app.get("plotly_chart")) == 4
    assert {"download:forecast-json", "download:forecast-csv"} <= {button.key for button in app.get("download_button")}
    for part in ("P90 regret", "Present value", "Over the whole budget", "Most cash in a month"):
        assert part in text(app)
    for part in ("All 12 months", "most cash is paid", "Total with one input moved", "some month over"):
        assert part in captions(app) + "".join(metric.label for metric in app.metric)


def test_a_link_to_a_view_shows_the_same_again():
    app = opened("budget", **TOWER, expect=[*SAID, "commitment.term=1-year"], way="a10g:hourly")
    again = opened("budget", **query(app))
    assert (text(again), captions(again)) == (text(app), captions(app))
    assert "A10G, on-demand accrues" in captions(app)


def test_every_input_moves_the_url_and_the_answer():
    app = opened("budget", **TOWER)
    assert query(app) == TOWER | {"scenario": [TOWER["scenario"]]}
    answers = [headline(app)]
    moves = (
        ("number_input", "budget-months", 24, "months=24"),
        ("number_input", "budget-growth.traffic", 5.0, "growth.traffic=0.05"),
        ("number_input", "budget-price_decline", 10.0, "price_decline=0.1"),
        ("number_input", "budget-budget", 5000.0, "budget=5000"),
        ("selectbox", "budget-term", "1-year", "commitment.term=1-year"),
        ("slider", "budget-share", 40, "commitment.share=0.4"),
        ("text_area", "budget-others", "price_spread={low: 0.5, high: 2}", "price_spread={low: 0.5, high: 2}"),
        ("selectbox", "budget-refresh", "l4", "refresh.hardware=l4"),
        ("number_input", "budget-refresh-month", 7, "refresh.month=7"),
    )
    for kind, key, value, said in moves:
        healthy(getattr(app, kind)(key=key).set_value(value).run())
        assert not app.error
        assert said in query(app)["expect"]
        # a term at the assumed share is compared unasked
        assert (headline(app) == answers[-1]) == (key == "budget-term"), key
        answers.append(headline(app))
    before = captions(app)
    healthy(app.number_input(key="budget-discount_rate").set_value(20.0).run())
    assert "discount_rate=0.2" in query(app)["expect"]
    assert captions(app) != before  # present values; what accrues stays
    assert headline(app) == answers[-1]


def test_the_option_in_detail_stands_in_the_url():
    app = opened("budget", **TOWER)
    before = captions(app)
    healthy(app.selectbox(key="budget-way").select_index(1).run())
    assert query(app)["way"][0] in {"a10g:1-year", "a10g:hourly"}
    assert captions(app) != before


def test_an_input_put_back_leaves_the_url():
    app = opened("budget", **TOWER, expect=["months=24", "commitment.term=1-year", "refresh.month=7",
                                            "refresh.hardware=l4", "budget=5000"])  # fmt: skip
    app.number_input(key="budget-months").set_value(36).run()
    app.selectbox(key="budget-term").set_value("none").run()
    app.selectbox(key="budget-refresh").set_value("none").run()
    healthy(app.number_input(key="budget-budget").set_value(None).run())
    assert "expect" not in query(app)
    assert "no budget" in [metric.value for metric in app.metric]


def test_a_value_that_is_refused_says_why_and_changes_nothing():
    app = opened("budget", **TOWER, expect=["refresh.month=20", "refresh.hardware=l4", "months=24"])
    before = text(app)
    for typed, said in (
        ("speed=3", "unknown key 'speed'"), ("growth.traffic=soon", "--with growth.traffic"),
        ("refresh={month: 7, hardware: abacus}", "abacus"),
    ):  # fmt: skip
        healthy(app.text_area(key="budget-others").set_value(typed).run())
        assert said in errors(app)
        assert text(app) == before
    healthy(app.number_input(key="budget-months").set_value(12).run())
    assert "refresh in month 20 of a forecast of 12 months" in errors(app)
    assert "months=24" in query(app)["expect"]


def test_what_is_wrong_in_a_link_is_said_and_left_out():
    wrong = ["months=6", "nonsense", "growth.traffic=0.05", "refresh.month=7", "refresh.hardware=abacus"]
    app = opened("budget", **TOWER, expect=wrong, way="abacus:3-year")
    said = errors(app)
    assert all(word in said for word in ("months", "nonsense", "refresh"))
    assert query(app)["expect"] == ["growth.traffic=0.05"]
    assert "abacus:3-year" in app.info[0].value.replace("\\", "")
    assert headline(app).startswith("“")


@pytest.mark.parametrize(
    ("more", "reason"),
    [({"hardware": ["mi325x"]}, "no on-demand price"), ({"set": "objective.latency=1 ms"}, "misses")],
)
def test_no_option_is_an_answer_with_its_reason(more, reason):
    app = opened("budget", **(TOWER | more))
    assert not app.error
    assert "no device will do" in headline(app)
    assert reason in "\n".join(part.value for part in app.markdown)
    assert "Choose other devices" in app.info[0].value
    assert not app.get("plotly_chart")
    assert "$0" not in text(app)


def test_a_term_bought_twice_is_refused_and_the_inputs_stay():
    app = opened("budget", **TOWER, set="pricing.term=1-year", expect="commitment.term=1-year")
    assert "already buys for 1-year" in errors(app)
    healthy(app.selectbox(key="budget-term").set_value("none").run())
    assert not app.error
    assert "regretted least" in headline(app)


def test_the_csv_holds_every_month_of_every_option():
    found = cached.prospects(View(scenario="gpt2-two-tower", hardware=("a10g",), expect=("months=12",)))
    rows = list(csv.DictReader(io.StringIO(forecast.csv(found))))
    assert len(rows) == 12 * len(found.outcomes)
    assert len(found.outcomes) > 1
    first = found.outcomes[0]
    mine = [row for row in rows if row["buying"] == first.option.buying]
    assert sum(float(row["accrued_usd"]) for row in mine) == pytest.approx(first.option.usd)
    assert [float(row["p90_usd"]) for row in mine] == [band.p90 for band in first.risk.months]


def test_devices_planned_one_by_one_are_the_forecast_of_all():
    view = View(scenario="gpt2-two-tower", hardware=("a10g", "l4", "mi325x"), expect=tuple(SAID))
    found, said = state.scenario(view), outlook.expected(SAID)
    whole = outlook.ways(found, planner.inputs(found), said, view.hardware)
    assert forecast.to_dict(cached.prospects(view).forecast) == forecast.to_dict(whole)
    assert any(option.refused for option in whole.options)
