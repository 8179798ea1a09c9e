"""The Serving page through AppTest: the answer, every widget moved once, the URL, and what it must refuse."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from capacity import charts_serving, simulation
from capacity.errors import InputError
from capacity.pages import cached, serving, state
from capacity.pages.state import View
from capacity.report import serving_figures as figures

ROOT = Path(__file__).resolve().parent.parent
ENCODER, LLM = "cross-encoder-rerank", "generated-copy"
FEW = "2000"


@pytest.fixture(autouse=True)
def no_scenario_of_the_operator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)


def opened(**query: str | list[str]) -> AppTest:
    app = AppTest.from_file(str(ROOT / "dashboard.py"), default_timeout=120)
    for name, value in {"scenario": ENCODER, "hardware": "l4", "requests": FEW, **query}.items():
        app.query_params[name] = value
    return healthy(app.run().switch_page("capacity/pages/serving.py").run())


def healthy(app: AppTest) -> AppTest:
    assert not app.exception, [error.value for error in app.exception]
    return app


def headline(app: AppTest) -> str:
    found = next(part.value for part in app.html if "cap-answer" in part.value)
    return unescape(re.sub(r"<[^>]+>", "", found))


def text(app: AppTest) -> str:
    return " ".join(" ".join(unescape(re.sub(r"<[^>]+>", " ", part.value)) for part in app.html).split())


def query(app: AppTest) -> dict[str, list[str]]:
    return {name: value if isinstance(value, list) else [value] for name, value in app.query_params.items()}


def test_the_page_answers_draws_and_offers_downloads():
    app = opened()
    assert not app.error
    assert re.search(r"× L4 .* hold p99 ≤ 2 s at 37.5 requests/s: p99 .* by the run", headline(app))
    assert len(app.get("plotly_chart")) == 4  # curve, course, waterfall, batches; an encoder has no KV memory
    assert {"download:simulation-json", "download:simulation-csv"} <= {
        button.key for button in app.get("download_button")
    }
    for part in ("Goodput [%]", "stable", "end to end", "Busy [%]", "whole pipeline"):
        assert part in text(app)
    assert not re.search(r"\b(nan|inf)\b", text(app), re.IGNORECASE)


def test_each_widget_moves_the_url():
    app = opened()
    app.select_slider(key="serving-requests").set_value(5_000).run()
    app.number_input(key="serving-seed").set_value(7).run()
    app.number_input(key="serving-objective").set_value(500.0).run()
    healthy(app.number_input(key="serving-replicas:online").set_value(7).run())
    said = query(app)
    assert (said["requests"], said["seed"]) == (["5000"], ["7"])
    assert said["set"] == ["objective.latency=500 ms", "serving.pools.online.replicas=7"]
    assert "8 × L4 (7 + 1 spare) hold p99 ≤ 500 ms" in headline(app)
    healthy(app.number_input(key="serving-replicas:online").set_value(0).run())
    assert query(app)["set"] == ["objective.latency=500 ms"]
    again = opened(**said)
    assert again.number_input(key="serving-seed").value == 7
    assert again.number_input(key="serving-replicas:online").value == 7


def test_a_device_is_chosen_and_follows_a_day():
    app = opened(hardware=["l4", "h100-sxm-80gb"], set="traffic.peak_rate=2/s")
    other = app.selectbox(key=serving.DETAIL).options[-1]
    app.selectbox(key=serving.DETAIL).select(other).run()
    healthy(app.toggle(key="serving-day").set_value(True).run())
    assert query(app)["day"] == ["1"]
    assert "Time [h]" in "".join(chart.proto.spec for chart in app.get("plotly_chart"))


def test_a_day_too_long_for_a_page_is_left_to_the_command_line():
    app = opened(set="traffic.peak_rate=5000/s", hardware="h100-sxm-80gb", day="1")
    assert "more than this page simulates" in app.info[0].value
    assert "capacity simulate" in app.info[0].value


def test_an_objective_that_nothing_holds_is_an_answer():
    app = opened(set="objective.latency=20 ms")
    assert not app.error
    assert "no option holds p99 ≤ 20 ms" in headline(app)


def test_an_overload_is_said():
    app = opened(set="serving.pools.online.replicas=3")
    assert "no option holds" in headline(app)
    assert "overloaded" in text(app)
    assert figures.OVERLOADED in text(app)


def test_a_language_model_shows_tokens_and_its_memory():
    app = opened(scenario=LLM, hardware="l40s")
    shown = text(app)
    assert all(words in shown for words in ("TTFT", "TPOT", "ITL", "KV mean [%]", "Cached [%]"))
    assert len(app.get("plotly_chart")) == 5
    assert "1 M tokens" in headline(app)


@pytest.mark.parametrize("wrong", [{"requests": "1000000"}, {"requests": "x"}, {"seed": "-1"}, {"day": "2"}])
def test_a_number_that_cannot_be_is_said(wrong):
    view, problems = state.checked(View(scenario=ENCODER, **wrong), ())
    assert view == View(scenario=ENCODER)
    assert "whole number" in str(problems[0])


@pytest.mark.parametrize("trace", ["/etc/passwd", "trace.csv"])
def test_a_link_replays_no_file_of_this_machine(trace):
    with pytest.raises(InputError, match="no file"):
        state.scenario(View(scenario=ENCODER, settings=(f"traffic.trace={trace}",)))


def test_the_same_view_is_simulated_once():
    view = View(scenario=ENCODER, requests=FEW)
    assert cached.served(view, "l4") is cached.served(View(scenario=ENCODER, requests=FEW, device="t4"), "l4")


def test_the_curve_rises_to_overload_and_figures_say_what_they_show():
    view = View(scenario=ENCODER, requests=FEW)
    points = cached.curve(view, "l4")
    assert [point.share_of_capacity for point in points] == list(simulation.CURVE)
    assert points[0].state == "stable"
    assert points[-1].tail_s > 2 * points[0].tail_s
    option = cached.served(view, "l4")
    objective = cached.scenario(view).objective
    drawn = [charts_serving.latency_curve(points, objective, "L4"), *charts_serving.drawn(option, objective)]
    for figure in drawn:
        assert len(charts_serving.alt(figure)) > 20
        json.loads(figure.to_json())


def test_queue_and_service_of_the_stages_add_up():
    option = cached.served(View(scenario="realtime-pipeline", requests=FEW), "l4")
    parts = charts_serving.way(option.result)
    assert [part.name for part in parts] == list(option.result.nodes)
    for part in parts:
        assert part.queue_s + part.service_s == pytest.approx(option.result.nodes[part.name].latency.mean.value)
        assert part.queue_s >= 0 <= part.service_s
    ends = [part.from_s + part.queue_s + part.service_s for part in parts]
    assert max(ends) == pytest.approx(option.result.end_to_end.mean.value, rel=0.1)
