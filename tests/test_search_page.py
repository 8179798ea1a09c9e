"""The page Search through AppTest: each input moves the link and the answer, which is that of the command line."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest
from dashboard_app import captions, errors, headline, healthy, opened, query, text
from typer.testing import CliRunner

from capacity import charts_search, cli
from capacity.errors import CapacityError, InputError
from capacity.fleet.searched import Found
from capacity.pages import cached, link, searched, state
from capacity.pages import search as page
from capacity.pages.state import View
from capacity.report import search as report
from capacity.units import usd

ASKED = {"scenario": state.EXAMPLE, "hardware": ["l4", "t4"]}
VIEW = View(scenario=state.EXAMPLE, hardware=("l4", "t4"))


@pytest.fixture(autouse=True)
def no_scenario_of_the_operator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)


def found(*lines: str, **changed: object) -> Found:
    return searched.found(replace(VIEW, choose=lines, **changed), lambda done, of: None)


def test_the_answer_is_that_of_the_command_line():
    app = opened("search", **ASKED, choose=["terms=[on-demand, spot, purchase]", "dtypes=[fp16, int8]"])
    assert not app.error
    command = next(code.value for code in app.code if code.value.startswith("capacity optimize"))
    told = json.loads(CliRunner().invoke(cli.app, [*shlex.split(command)[1:], "--json"]).stdout)
    assert headline(app) == told["answer"]
    assert app.metric[0].value == usd(told["best"]["usd_per_month"])
    assert len(app.get("plotly_chart")) == 1


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("search-engines", ["onnxruntime"], "engines=[onnxruntime]"),
        ("search-dtypes", ["fp16", "int8"], "dtypes=[fp16, int8]"),
        ("search-terms", ["spot"], "terms=[spot]"),
        ("search-levers", ["truncation"], "levers=[truncation]"),
        ("search-all", True, "hardware=[all]"),
        ("search-budget", 5000.0, "budget=5000"),
        ("search-room", 20.0, "least_room=0.2"),
        ("search-others", "stock={l4: 3}\nbatches=[4]", "stock={l4: 3}"),
    ],
)
def test_each_input_moves_the_link_and_an_input_put_back_leaves_it(key, value, line):
    app = opened("search", **ASKED)
    (widget,) = [
        part
        for kind in (app.multiselect, app.toggle, app.number_input, app.text_area)
        for part in kind
        if part.key == key
    ]
    before = widget.value
    healthy(widget.set_value(value).run())
    assert line in query(app)["choose"]
    assert not app.error
    again = opened("search", **query(app))
    assert (headline(again), text(again)) == (headline(app), text(app))
    (widget,) = [
        part
        for kind in (app.multiselect, app.toggle, app.number_input, app.text_area)
        for part in kind
        if part.key == key
    ]
    healthy(widget.set_value(before).run())
    assert "choose" not in query(app)


def test_levers_at_once_are_asked_for_with_levers():
    app = opened("search", **ASKED, choose="levers=[fewer-candidates, truncation]")
    assert opened("search", **ASKED).number_input(key="search-most").disabled
    healthy(app.number_input(key="search-most").set_value(1).run())
    assert "most_levers=1" in query(app)["choose"]


def test_a_plan_taken_is_what_the_other_pages_show():
    app = opened("search", **ASKED, choose=["terms=[spot]", "dtypes=[fp16, int8]"])
    first = found("terms=[spot]", "dtypes=[fp16, int8]").ranked[0]
    healthy(app.button(key="search-take").click().run())
    assert query(app)["hardware"] == [first.variant.hardware]
    assert "pricing.term=spot" in " ".join(query(app)["set"]).replace('"', "")
    view = link.from_query(query(app))[0]
    (option,) = cached.plan(view).options
    assert option.cost.usd == pytest.approx(first.usd, abs=0.005)
    for planned, wanted in zip(option.pools, first.option.pools, strict=True):
        assert (planned.replicas, planned.batch, planned.devices) == (wanted.replicas, wanted.batch, wanted.devices)


def test_another_candidate_may_be_taken():
    app = opened("search", **ASKED)
    ranked = found().ranked
    healthy(app.selectbox(key="search-taken").select_index(1).run())
    healthy(app.button(key="search-take").click().run())
    assert query(app)["hardware"] == [ranked[1].variant.hardware]


def test_what_is_cheaper_and_why_it_is_not_taken():
    app = opened("search", **ASKED, choose="least_room=0.5")
    assert "room beyond the peak" in text(app)
    assert any("cheaper one" in part.value for part in app.header)
    assert "the nearest first" in captions(app)


def test_nothing_that_holds_is_told_with_the_nearest():
    app = opened("search", **ASKED, set="objective.latency=1 us")
    assert "none keeps every constraint" in headline(app)
    assert not app.metric
    assert "nearest is" in headline(app)


def test_ways_without_a_price_stand_with_their_reason():
    app = opened("search", scenario=state.EXAMPLE, hardware="h100-sxm-80gb", choose="terms=[on-demand, 1-year]")
    assert any("no 1-year price" in part.value for part in app.markdown)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hardware=[/etc/passwd]", "unknown hardware '/etc/passwd'"),
        ("stock={../x: 3}", "stock"),
        ("levers=[magic]", "unknown lever 'magic'"),
        ("replicas=3", "replicas"),
        ("terms=[weekly]", "terms"),
        ("regions=[us-est]", "unknown region 'us-est'"),
        ("most_replicas=900", "900 replicas are too many for a dashboard"),
        ("budget=soon", "'soon' is not a quantity"),
    ],
)
def test_a_wrong_line_is_said(line, said):
    app = opened("search", **ASKED, choose=line)
    assert said in errors(app)


def test_a_search_too_large_for_a_page_is_left_to_the_command_line():
    names = ", ".join(list(page.LEVERS)[:20])
    with pytest.raises(InputError, match="variants are too many for a dashboard"):
        found(f"levers=[{names}]", "most_levers=3")


def test_a_search_is_made_once(monkeypatch: pytest.MonkeyPatch):
    first = found("least_room=0.1")
    monkeypatch.setattr(searched, "_searched", None)
    assert found("least_room=0.1", device="t4") is first


def test_a_search_that_is_left_keeps_nothing():
    def leave(done: int, of: int) -> None:
        if done == 1:
            raise CapacityError("left")

    view = replace(VIEW, choose=("least_room=0.11",))
    with pytest.raises(CapacityError, match="left"):
        searched.found(view, leave)
    heard: list[tuple[int, int]] = []
    searched.found(view, lambda done, of: heard.append((done, of)))
    assert heard == [(0, 2), (1, 2)]


def test_the_front_is_drawn_and_told_in_words():
    answer = found("terms=[on-demand, spot]")
    figure = charts_search.front(answer)
    assert sum(len(trace.x) for trace in figure.data) == len(answer.front)
    assert {trace.name for trace in figure.data} <= {"L4", "T4"}
    assert len({trace.marker.symbol for trace in figure.data}) == len(figure.data)
    assert f"{len(answer.front)} plans" in charts_search.front_words(answer)
    assert "[ms]" in figure.layout.xaxis.title.text


def test_a_candidate_as_settings_is_the_candidate():
    for item in found("dtypes=[int8]").ranked[:2]:
        changed = page.taken(VIEW, item)
        pools = cached.scenario(changed).serving.pools
        assert all(pools[name].replicas is None for name in item.replicas)
        assert {name: pools[name].max_batch for name in item.replicas} == item.batches
        assert report.settings(item)[0].startswith("serving.stages.")


@pytest.mark.parametrize(
    ("scenario", "lever", "setting"),
    [
        ("cascade", "structured-pruning", 'pruning={"bert-base": 0.5, "bge-reranker-v2-m3": 0.5, "qwen3-1.7b": 0.5}'),
        ("cascade", "speculative-decoding", "serving.stages.write-copy.speculation.tokens="),
        ("cross-encoder-rerank", "image-tower", 'serving.stages=[{"name": "encode-image", "task": "encode"'),
        ("cross-encoder-rerank", "result-cache", "serving.stages.rerank.cache.keys="),
    ],
)
def test_what_a_lever_changes_can_be_set_and_taken(scenario, lever, setting):
    view = View(scenario=scenario, hardware=("l4",))
    answer = searched.found(replace(view, choose=(f"levers=[{lever}]", "most_replicas=64")), lambda done, of: None)
    item = next(item for item in (*answer.ranked, *(near.candidate for near in answer.near)) if item.variant.levers)
    assert any(said.startswith(setting) for said in report.settings(item))
    changed = cached.scenario(page.taken(view, item))
    assert changed.serving.stages == item.scenario.serving.stages
    assert changed.pruning == item.scenario.pruning
    free = [said for said in report.settings(item) if ".replicas=" not in said]  # the plan finds them
    assert cached.scenario(replace(view, settings=tuple(free))) == changed
