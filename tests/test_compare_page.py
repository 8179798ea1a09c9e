"""The page Compare through AppTest: columns, changes in percent, the baseline in the URL, and wrong links."""

from __future__ import annotations

import csv
import io
import json
import shlex

import pytest
from dashboard_app import captions, errors, healthy, opened, query, text
from typer.testing import CliRunner

from capacity import charts_money, cli
from capacity.errors import InputError
from capacity.pages import cached, link, state
from capacity.pages.state import View
from capacity.report import csv_report, variants
from capacity.report.cells import shown
from capacity.report.variants import Variant

RATE = "slide:traffic.peak_rate"
PLAIN = View(scenario=state.EXAMPLE, hardware=("l4", "t4"))
MORE = View(scenario=state.EXAMPLE, hardware=("l4", "t4"), settings=("traffic.peak_rate=100/s",))
ASKED = {"scenario": state.EXAMPLE, "hardware": ["l4", "t4"]}


@pytest.fixture(autouse=True)
def no_scenario_of_the_operator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)


def usd(view: View) -> float:
    best = cached.plan(view).best
    assert best is not None
    assert best.cost is not None
    return best.cost.usd


def test_nothing_changed_is_said():
    app = opened("compare", **ASKED)
    assert not app.error
    assert "Nothing differs from the baseline" in app.info[0].value
    assert shown(usd(PLAIN), "usd") in text(app)
    assert "This view" not in text(app)


def test_the_view_stands_beside_the_scenario_as_it_is():
    app = opened("compare", **ASKED, set="traffic.peak_rate=100/s")
    found = text(app)
    change = shown(usd(MORE) / usd(PLAIN) - 1, "fraction", signed=True)
    assert f"{shown(usd(MORE), 'usd')} ({change})" in found
    assert "traffic.peak_rate 37.5/s 100/s" in found
    assert "By quantity [USD/month]" in found
    assert len(app.get("plotly_chart")) == 1
    assert "Baseline: devices" in captions(app)
    command = next(code.value for code in app.code if code.value.startswith("capacity compare"))
    told = json.loads(CliRunner().invoke(cli.app, [*shlex.split(command)[1:], "--json"]).stdout)
    assert (told["best"]["old_usd_per_month"], told["best"]["new_usd_per_month"]) == (usd(PLAIN), usd(MORE))


def test_what_ifs_are_columns_and_travel_in_the_link():
    app = opened("compare", **ASKED)
    healthy(app.multiselect(key="compare-beside").set_value(["short-documents", "growth"]).run())
    assert query(app)["beside"] == ["short-documents", "growth"]
    assert not app.info
    with_ = View(scenario=state.EXAMPLE, hardware=("l4", "t4"), overrides=("short-documents",))
    assert shown(usd(with_), "usd") in text(app)
    again = opened("compare", **query(app))
    assert (text(again), captions(again)) == (text(app), captions(app))
    healthy(app.select_slider(key=RATE).set_value(100.0).run())
    assert "growth changes nothing here" in captions(app)


def test_one_device_may_be_compared_instead_of_the_best():
    app = opened("compare", **ASKED, set="traffic.peak_rate=100/s")
    before = text(app)
    healthy(app.selectbox(key="compare-option").set_value("t4").run())
    assert query(app)["option"] == ["t4"]
    assert text(app) != before
    assert "What moved the bill of T4" in "\n".join(part.value for part in app.header)


def test_a_view_kept_as_the_baseline_stays_in_the_link():
    app = opened("compare", **ASKED, set="traffic.peak_rate=100/s")
    healthy(app.button(key="compare-keep").click().run())
    assert "Nothing differs" in app.info[0].value
    healthy(app.select_slider(key=RATE).set_value(200.0).run())
    more = View(scenario=state.EXAMPLE, hardware=("l4", "t4"), settings=("traffic.peak_rate=200/s",))
    change = shown(usd(more) / usd(MORE) - 1, "fraction", signed=True)
    assert f"{shown(usd(more), 'usd')} ({change})" in text(app)
    assert "traffic.peak_rate 100/s 200/s" in text(app)
    again = opened("compare", **query(app))
    assert (text(again), captions(again)) == (text(app), captions(app))
    healthy(app.button(key="compare-back").click().run())
    assert "against" not in query(app)
    assert "traffic.peak_rate 37.5/s 200/s" in text(app)


def test_another_scenario_can_be_held_against_a_kept_one():
    app = opened("compare", **ASKED)
    app.button(key="compare-keep").click().run()
    healthy(app.selectbox(key="scenario").set_value("lstm-sequence").run())
    assert set(query(app)) == {"scenario", "against"}
    assert shown(usd(PLAIN), "usd") in text(app)
    assert shown(usd(View(scenario="lstm-sequence")), "usd") in text(app)


@pytest.mark.parametrize(
    ("against", "said"),
    [
        ("%%%", "the baseline in this link cannot be read"),
        (link.keep(View(scenario="nobody")), "unknown scenario 'nobody'"),
        (link.keep(View(scenario=state.EXAMPLE, settings=("traffic.peak_rate=soon",))), "traffic.peak_rate"),
        (link.pack("scenario=a&speed=9"), "'speed': unknown"),
    ],
)
def test_a_wrong_baseline_is_said_and_the_scenario_stands_in(against, said):
    app = opened("compare", **ASKED, against=against)
    assert said in errors(app)
    assert shown(usd(PLAIN), "usd") in text(app)


def test_wrong_what_ifs_are_said():
    names = cached.choices(PLAIN)
    assert len(names) > state.MOST_BESIDE
    app = opened("compare", **ASKED, beside=["abacus", *names])
    assert "abacus" in errors(app)
    assert f"the first {state.MOST_BESIDE} count" in errors(app)
    assert query(app)["beside"] == names[: state.MOST_BESIDE]


def test_a_baseline_too_long_for_a_link_is_refused():
    noise = "".join(map(chr, range(0x4E00, 0x9E00)))
    with pytest.raises(InputError, match="too long for a link"):
        link.keep(View(scenario="mine.yaml", text=noise))


def test_the_csv_and_the_chart_hold_the_plans_numbers():
    pair = [Variant.of("Baseline", cached.plan(PLAIN)), Variant.of("now", cached.plan(MORE))]
    was, now = csv.DictReader(io.StringIO(csv_report.dumps(variants.measures_table(pair))))
    assert float(was["usd_per_month"]) == usd(PLAIN)
    assert float(was["usd_per_month_change_fraction"]) == 0
    assert float(now["usd_per_month_change_fraction"]) == pytest.approx(usd(MORE) / usd(PLAIN) - 1)
    bars = [trace for trace in charts_money.bills(pair).data if trace.type == "bar"]
    assert sum(bar.y[1] for bar in bars) == pytest.approx(usd(MORE))
    assert sum(float(value) for key, value in now.items() if key == f"{key.partition('_')[0]}_usd_per_month"
               and not key.startswith(("p10", "p90"))) == pytest.approx(usd(MORE))  # fmt: skip


def test_what_has_no_price_or_will_not_do_says_so():
    priceless = Variant.of("a", cached.plan(View(scenario=state.EXAMPLE, hardware=("mi325x",))))
    late = Variant.of(
        "b", cached.plan(View(scenario=state.EXAMPLE, hardware=("l4",), settings=("objective.latency=1 ms",)))
    )
    absent = Variant.of("c", cached.plan(PLAIN), "h100-sxm-80gb")
    rows = {row["measure"]: row for row in variants.side_by_side([priceless, late, absent]).rows}
    said = [shown(rows["Cost [USD/month]"][f"variant_{place}"], "text") for place in range(3)]
    assert said == ["no price", "no option is feasible", "not compared"]
    assert charts_money.bills_words([priceless, late, absent]) == (
        "a: no price; b: no option is feasible; c: not compared"
    )
    texts = [note.text for note in charts_money.bills([priceless, late, absent]).layout.annotations]
    assert texts == said
