"""Figures of the coming months hold the forecast's own numbers and name their units."""

from __future__ import annotations

import pytest

from capacity import charts_money
from capacity.pages import cached
from capacity.pages.state import View

BUDGET = 5000.0
VIEW = View(scenario="gpt2-two-tower", hardware=("a10g",), expect=("months=12", "budget=5000"))


@pytest.fixture(scope="module")
def found():
    return cached.prospects(VIEW)


def test_months_hold_cash_accrual_band_and_budget(found):
    item = found.outcomes[0]
    bars, high, low, line, budget = charts_money.months(item, BUDGET).data
    assert sum(bars.y) == pytest.approx(sum(month.cash_usd for month in item.option.months))
    assert sum(line.y) == pytest.approx(item.option.usd)
    assert list(low.y) == [band.p10 for band in item.risk.months]
    assert list(high.y) == [band.p90 for band in item.risk.months]
    assert list(budget.y) == [BUDGET, BUDGET]
    assert len(charts_money.months(item, None).data) == 4
    assert "budget" not in charts_money.months_words(item, None)


def test_a_bar_of_the_tornado_goes_from_p10_to_p90(found):
    item = found.outcomes[0]
    bars, lows, highs = charts_money.tornado(item).data
    for place, swing in enumerate(item.risk.swings):
        assert bars.base[place] == lows.x[place] == swing.at_p10
        assert bars.base[place] + bars.x[place] == pytest.approx(swing.at_p90)
        assert highs.x[place] == swing.at_p90
        assert swing.name in charts_money.tornado_words(item)


def test_totals_hold_ranges_medians_and_present_values(found):
    bars, medians, worth = charts_money.totals(found).data
    for place, item in enumerate(found.outcomes):
        band = item.risk.total
        assert (bars.base[place], bars.base[place] + bars.x[place]) == pytest.approx((band.p10, band.p90))
        assert (medians.x[place], worth.x[place]) == (band.p50, item.option.present_usd)
    (line,) = charts_money.totals(found).layout.shapes
    assert line.x0 == 12 * BUDGET


def test_probabilities_are_those_of_the_months(found):
    lines = charts_money.over_budget(found).data
    for line, item in zip(lines, found.outcomes, strict=True):
        assert list(line.y) == [100 * band.over_budget for band in item.risk.months]
    assert "[%]" in charts_money.over_budget(found).layout.yaxis.title.text
