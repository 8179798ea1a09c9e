"""Charts hold the plan's own numbers and name their units."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from report_plans import plan

from capacity import charts


def test_cost_bars_add_up_and_the_range_is_exact():
    figure = charts.cost_bars(plan())
    bars = [trace for trace in figure.data if trace.type == "bar"]
    (range_,) = [trace for trace in figure.data if trace.type == "scatter"]
    for place, option in enumerate(plan().options):
        assert sum(bar.y[place] for bar in bars) == pytest.approx(option.cost.usd)
        assert range_.y[place] - range_.error_y.array[place] == pytest.approx(option.cost.p10_usd)
        assert range_.y[place] + range_.error_y.array[place] == pytest.approx(option.cost.p90_usd)


def test_latency_bars_follow_each_other_up_to_the_expected_latency():
    option = plan().options[0]
    bars = charts.latency_bars(option, 2.0).data
    for bar, after in pairwise(bars):
        assert bar.base[0] + bar.x[0] == pytest.approx(after.base[0])
    last = bars[-1].base[0] + bars[-1].x[0]
    assert last / 1000 == pytest.approx(option.latency_quantile_s, rel=0.01)  # one pool: its p99 wait is the wait


def test_memory_bars_hold_every_component():
    option = plan().options[0]
    figure = charts.memory_bars(option)
    shown_gb = sum(sum(trace.x) for trace in figure.data if trace.type == "bar")
    held = [*option.pools, *option.jobs]
    assert shown_gb * 1e9 == pytest.approx(sum(sum(part.memory_bytes.values()) for part in held))


def test_predicted_against_measured_counts_what_it_leaves_out():
    frame = {
        "measured": [1.0, 2.0, 0.0], "predicted": [1.1, np.nan, 3.0], "low": [1, 1, 1], "high": [2, 2, 2],
        "hardware": ["t4", "t4", "l4"],
    }  # fmt: skip
    figure = charts.predicted_measured(frame)
    assert [trace.name for trace in figure.data] == ["t4", "1:1"]
    assert "1 rows, 2 left out" in figure.layout.title.text
    assert "plotly.js v" in charts.page(figure)


def test_axes_name_their_units():
    option = plan().options[0]
    assert "[USD/month]" in charts.cost_bars(plan()).layout.yaxis.title.text
    assert "[ms]" in charts.latency_bars(option).layout.xaxis.title.text
    assert "[GB]" in charts.memory_bars(option).layout.xaxis.title.text
