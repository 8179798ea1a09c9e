"""The pages Training & batch and Levers through AppTest: what they show, their widgets, the URL."""

from __future__ import annotations

import json

import pytest
from dashboard_app import healthy, opened, text

from capacity.pages import cached
from capacity.pages.state import View


@pytest.fixture(autouse=True)
def no_scenario_of_the_operator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)


def test_training_shows_steps_their_parts_and_memory():
    app = opened("training", scenario="semantic-id-generator", hardware=["h100-sxm-80gb", "a100-sxm-80gb"])
    shown = text(app)
    for part in ("learn-from-sessions", "Time of a step", "MFU [%]", "Useful wall time", "optimizer states"):
        assert part in shown
    assert len(app.get("plotly_chart")) == 2
    assert any("a step of" in caption.value for caption in app.caption)
    other = next(box for box in app.selectbox if box.label == "In detail")
    before = shown
    healthy(other.select_index(1).run())
    assert text(app) != before


def test_training_says_when_there_are_no_jobs():
    app = opened("training", scenario="generated-copy")
    assert "no training and no batch jobs" in app.info[0].value


def test_training_on_a_processor_is_timed_as_a_whole():
    app = opened("training", scenario="lstm-sequence", hardware="h100-sxm-80gb")
    assert "timed as a whole" in text(app)


def test_levers_rank_combine_and_keep_their_state_in_the_url():
    app = opened("levers", scenario="cross-encoder-rerank", hardware="l4")
    shown = text(app)
    for part in ("lower the bill from", "no proof that nothing is cheaper", "fewer-candidates", "Saved by it"):
        assert part in shown
    assert len(app.get("plotly_chart")) == 1
    assert any("overrides:" in part.value for part in app.code)
    healthy(app.toggle(key="levers-exact").set_value(True).run())
    assert app.query_params["exact"] in ("1", ["1"])
    exact = text(app)
    assert "fewer-candidates" not in exact
    again = opened("levers", scenario="cross-encoder-rerank", hardware="l4", exact="1")
    assert text(again) == exact


def test_the_page_has_the_numbers_of_the_command(capsys):
    from typer.testing import CliRunner

    from capacity import cli

    result = CliRunner().invoke(cli.app, ["levers", "cross-encoder-rerank", "-H", "l4", "--exact", "--json"])
    assert result.exit_code == 0
    told = json.loads(result.output)
    found = cached.levered(View(scenario="cross-encoder-rerank"), "l4", exact=True)
    assert told["best"]["usd_per_month"] == found.best.usd
    assert [item["id"] for item in told["levers"]] == [item.id for item in found.alone]
