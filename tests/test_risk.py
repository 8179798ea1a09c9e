"""How sure a forecast is: bands against closed forms, what widens them, the tornado, regret, and one seed."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from command_line import capacity
from hypothesis import given
from hypothesis import strategies as st
from test_forecast import TODAY, TOWER, course, level

from capacity import catalogue, outlook, planner
from capacity.money import course as courses
from capacity.money import forecast, risk
from capacity.money.course import Course, Price
from capacity.money.forecast import Ahead, Forecast
from capacity.money.lines import Z10
from capacity.money.risk import INPUTS, Band, factor
from capacity.spec.outlook import Outlook, Spread
from capacity.timing.band import Z90

SURE = {"low": 1.0, "high": 1.0}
CALM: dict[str, Any] = {"traffic_spread": SURE, "price_spread": SURE, "utilization_spread": SURE}
DRAWS = 20_000
SHAPES = st.sampled_from(("normal", "lognormal", "triangular"))


def found(path: Course, seed: int = 0) -> risk.Risk:
    return risk.risk(path, risk.shocks(path, DRAWS, seed))


def priced(usd: float, path: Course, low: float | None = None, high: float | None = None) -> Course:
    price = Price(usd=usd, low=usd if low is None else low, high=usd if high is None else high)
    return replace(path, stays=tuple(replace(stay, price=price) for stay in path.stays))


def test_without_spread_every_draw_is_the_forecast():
    path = course(growth={"traffic": 0.05}, price_decline=0.2, commitment={"term": "1-year"}, **CALM)
    usd = [month.accrued_usd for month in forecast.months(path)]
    got = found(path)
    assert [month.p50 for month in got.months] == pytest.approx(usd, rel=1e-12)
    assert got.total == Band(p10=got.total.p50, p50=got.total.p50, p90=got.total.p90)
    assert got.totals == pytest.approx(np.full(DRAWS, sum(usd)), rel=1e-12)


def test_a_month_s_band_is_that_of_growth_to_the_power_of_its_age():
    # the bill is $1560 × load, the load a lognormal factor to the 11th power in month 12
    path = course(**CALM | {"traffic_spread": {"low": 1 / 1.02, "high": 1.02}})
    last = found(path).months[-1]
    wanted = [1560 * 1.02**-11, 1560, 1560 * 1.02**11]
    assert [last.p10, last.p50, last.p90] == pytest.approx(wanted, rel=0.01)


def test_the_model_s_error_is_the_band_of_the_bill_s_device_lines():
    levels = [level(load, fast=0.8, slow=1.5) for load in (0.5, 1.0, 2.0)]
    month = found(course(*levels, **CALM)).months[0]
    assert [month.p10, month.p50, month.p90] == pytest.approx([1460 * q + 100 for q in (0.8, 1, 1.5)], rel=0.02)


def test_a_price_of_many_offers_is_drawn_between_them():
    month = found(priced(2.0, course(**CALM), low=1.0, high=3.0)).months[0]
    wanted = [730 * 2 * ratio ** (Z10 / Z90) + 100 for ratio in (0.5, 1.0, 1.5)]
    assert [month.p10, month.p50, month.p90] == pytest.approx(wanted, rel=0.02)


def test_traffic_that_is_not_known_today_is_so_in_every_month():
    got = found(course(**CALM | {"load_spread": {"low": 0.8, "high": 1.5}}))
    for month in (got.months[0], got.months[-1]):
        assert [month.p10, month.p50, month.p90] == pytest.approx([1560 * q for q in (0.8, 1, 1.5)], rel=0.02)
    assert (got.short[0], got.any_short) == (0.0, 0.0)  # nothing says here what a fleet carries


def test_devices_ordered_for_the_expected_load_are_too_few_as_often_as_growth_is_beyond_their_headroom():
    # month 12 carries 1.02^(11 z ÷ Z10) × today's load; devices for 1.1 × today's are there
    levels = [level(load, carries=1.1 * load) for load in (0.5, 1.0, 2.0)]
    path = course(*levels, **CALM | {"traffic_spread": {"low": 1 / 1.02, "high": 1.02}})
    got = found(path)
    wanted = 1 - NormalDist().cdf(math.log(1.1) / math.log(1.02) / 11 * Z10)
    assert got.short[-1] == pytest.approx(wanted, abs=4 * math.sqrt(wanted / DRAWS))
    assert (got.short[0], got.any_short) == (0.0, got.short[-1])


def test_slow_devices_are_too_few_and_dear_ones_are_not():
    # step times are a lognormal of standard deviation ln 1.1: beyond 1.1 at one of them
    levels = [level(load, carries=1.1 * load, sigma=math.log(1.1)) for load in (0.5, 1.0, 2.0)]
    wanted = 1 - NormalDist().cdf(1)
    assert found(course(*levels, **CALM)).any_short == pytest.approx(wanted, abs=4 * math.sqrt(wanted / DRAWS))
    sure_steps = [level(load, carries=1.1 * load) for load in (0.5, 1.0, 2.0)]
    assert found(priced(2.0, course(*sure_steps, **CALM), low=0.2, high=9.0)).any_short == 0


def test_an_objective_that_is_missed_at_the_p90_is_missed_in_a_tenth_of_the_futures_however_many_devices():
    levels = [level(load, missed=1.0) for load in (0.5, 1.0, 2.0)]
    assert found(course(*levels, **CALM)).any_short == pytest.approx(0.1, abs=0.01)


def test_a_fleet_with_room_is_enough_where_hardly_anything_is_unsure():
    scenario = catalogue.scenario(TOWER)
    inputs = planner.inputs(scenario, today=TODAY)
    calm = Outlook.model_validate({"growth": {"traffic": 0}} | CALM)
    made = risk.prospects(outlook.ways(scenario, inputs, calm, ["l4"]), 2000, 0)
    assert made.outcomes
    assert all(item.risk.any_short < 0.11 for item in made.outcomes)  # 0.1 where the P90 of step times misses it


def test_a_term_s_price_is_fixed_when_it_is_signed():
    dear = CALM | {"price_spread": {"low": 0.5, "high": 2.0}, "months": 24}
    got = found(course(commitment={"term": "1-year", "share": 1}, **dear))
    spans = [month.p90 - month.p10 for month in got.months]
    assert spans[:12] == [0.0] * 12
    assert spans[12] == pytest.approx(730 * (2 - 0.5), rel=0.03)  # renewed at the price of a year later
    assert spans[12:] == [spans[12]] * 12


def test_devices_that_carry_half_need_the_fleet_of_twice_the_load():
    path = course(**CALM)
    half = replace(courses.NEUTRAL, utilization=np.full(1, 0.5))
    month = courses.charged(path, 0, half)
    assert month.needed_hours[0] == 1460
    assert month.used_hours[0] == 365  # the work is the same
    assert month.other_usd[0] == 100


def test_the_probability_of_exceeding_the_budget_is_that_of_the_lognormal():
    # P(1.02^(11 z ÷ Z10) × 1560 > budget) where the budget is the factor at z = 1
    budget = 1560 * 1.02 ** (11 / Z10)
    path = course(budget=budget, **CALM | {"traffic_spread": {"low": 1 / 1.02, "high": 1.02}})
    got = found(path)
    wanted = 1 - NormalDist().cdf(1)
    assert got.months[-1].over_budget == pytest.approx(wanted, abs=4 * math.sqrt(wanted / DRAWS))
    assert got.any_over_budget == got.months[-1].over_budget  # growth is largest at the end
    assert got.months[0].over_budget == 0
    assert found(course(**CALM)).any_over_budget is None


@pytest.mark.parametrize("shape", ["normal", "lognormal", "triangular"])
def test_a_spread_is_drawn_with_the_quantiles_it_says(shape):
    spread = Spread(shape=shape, low=0.7, high=1.2)
    draws = factor(spread, np.random.default_rng(7).standard_normal(DRAWS))
    if shape == "triangular":
        assert draws.mean() == pytest.approx((0.7 + 1 + 1.2) / 3, abs=0.005)
        assert draws.var() == pytest.approx((0.49 + 1 + 1.44 - 0.7 - 0.84 - 1.2) / 18, rel=0.03)
        assert draws.min() >= 0.7
        assert draws.max() <= 1.2
    else:
        assert np.quantile(draws, [0.1, 0.5, 0.9]) == pytest.approx([0.7, 1.0, 1.2], abs=0.01)


@given(shape=SHAPES, low=st.floats(0.5, 1), high=st.floats(1, 2))
def test_a_spread_rises_with_its_draw(shape, low, high):
    found = factor(Spread(shape=shape, low=low, high=high), np.linspace(-4, 4, 41))
    assert np.all(np.diff(found) >= -1e-12)


@given(
    shape=SHAPES, name=st.sampled_from(("load_spread", "traffic_spread", "price_spread", "utilization_spread")),
    inner=st.floats(0.0, 0.1), more=st.floats(0.0, 0.1),
)  # fmt: skip
def test_a_wider_input_never_narrows_the_band(shape, name, inner, more):
    said = {"growth": {"traffic": 0.02}, "months": 12}
    narrow, wide = (
        found(course(**said | CALM | {name: {"shape": shape, "low": 1 - by, "high": 1 + by}})).total
        for by in (inner, inner + more)
    )
    assert wide.p90 - wide.p10 >= (narrow.p90 - narrow.p10) * (1 - 1e-9)


def test_the_same_seed_gives_the_same_draws_and_another_one_others():
    path = course()
    again, other = found(path), found(path, seed=1)
    assert np.array_equal(found(path).totals, again.totals)
    assert not np.array_equal(again.totals, other.totals)
    assert again.total.p50 == pytest.approx(other.total.p50, rel=0.02)


def test_options_share_the_future_but_not_what_is_unknown_of_their_devices():
    here = course()
    elsewhere = course()
    stays = tuple(replace(stay, hardware="other") for stay in elsewhere.stays)
    there = replace(elsewhere, stays=stays)
    mine, theirs = risk.shocks(here, 100, 3), risk.shocks(there, 100, 3)
    assert np.array_equal(mine.growth, theirs.growth)
    assert np.array_equal(mine.price, theirs.price)
    assert not np.array_equal(mine.error, theirs.error)
    assert not np.array_equal(mine.today, theirs.today)


def test_the_tornado_holds_the_others_at_their_medians():
    # one month's bill is $1460 of devices; the price of month m is a factor of 2 to the m ÷ 12
    path = course(**CALM | {"price_spread": {"low": 0.5, "high": 2.0}})
    first, *rest = risk.tornado(path)
    assert first.name == INPUTS["price"]
    assert first.at_p90 == pytest.approx(12 * 100 + 1460 * sum(2 ** (m / 12) for m in range(12)))
    assert first.at_p10 == pytest.approx(12 * 100 + 1460 * sum(2 ** (-m / 12) for m in range(12)))
    assert [swing.width for swing in rest] == [0.0] * 5


def test_a_slower_model_is_dearer():
    levels = [level(load, fast=0.8, slow=1.5) for load in (0.5, 1.0, 2.0)]
    first, *_ = risk.tornado(course(*levels, **CALM))
    assert first.name == INPUTS["error"]
    assert [first.at_p10, first.at_p90] == pytest.approx([12 * (1460 * q + 100) for q in (0.8, 1.5)])


def test_the_tornado_is_sorted_and_more_utilization_is_cheaper():
    swings = risk.tornado(course(months=36, growth={"traffic": 0.02}))
    assert [swing.width for swing in swings] == sorted((swing.width for swing in swings), reverse=True)
    by_name = {swing.name: swing for swing in swings}
    assert by_name[INPUTS["utilization"]].at_p90 < by_name[INPUTS["utilization"]].at_p10
    assert by_name[INPUTS["growth"]].at_p90 > by_name[INPUTS["growth"]].at_p10


def test_least_regret_is_not_the_least_median():
    usual = course(**CALM)
    shaky = priced(1.9, course(*[level(load, fast=0.99, slow=4.0) for load in (0.5, 1.0, 2.0)], **CALM))
    options = tuple(
        Ahead(hardware=name, name=name, buying="on-demand", course=path, months=forecast.months(path))
        for name, path in (("usual", usual), ("shaky", shaky))
    )
    told = Forecast(
        scenario="x", title="X", date="2026-11-22", outlook=usual.outlook, changes=(), missing=(), options=options
    )
    made = risk.prospects(told, DRAWS, 0)
    assert [item.option.name for item in made.outcomes] == ["usual", "shaky"]
    assert made.outcomes[1].risk.total.p50 < made.outcomes[0].risk.total.p50
    assert made.outcomes[0].regret.best_share + made.outcomes[1].regret.best_share == pytest.approx(1)


def test_regret_by_hand():
    regrets = risk.regrets([np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 1.0])])
    assert [item.mean for item in regrets] == pytest.approx([2 / 3, 1 / 3])
    assert [item.best_share for item in regrets] == pytest.approx([2 / 3, 2 / 3])


def test_the_command_says_the_answer_first_and_the_same_in_json():
    asked = (
        "risk", TOWER, "-H", "l4", "-H", "a10g", "--with", "months=12", "--with", "budget=5000", "--draws", "2000",
        "--today", TODAY.isoformat(),
    )  # fmt: skip
    said, told = capacity(*asked), capacity(*asked, "--json").json
    assert said.code == 0, said.err
    assert said.out.splitlines()[0] == told["answer"]
    outcomes = told["risk"]["outcomes"]
    assert told["risk"]["draws"] == 2000
    assert [item["p90_regret_usd"] for item in outcomes] == sorted(item["p90_regret_usd"] for item in outcomes)
    assert {(item["hardware"], item["buying"]) for item in outcomes} >= {
        ("l4", "on-demand"), ("a10g", "on-demand"), ("a10g", "70% 1-year, upfront"),
    }  # fmt: skip
    for item in outcomes:
        assert item["p10_usd"] <= item["p50_usd"] <= item["p90_usd"]
        assert len(item["months"]) == 12
        assert 0 <= item["over_budget_fraction"] <= item["any_over_budget_fraction"] <= 1


def test_no_device_that_will_do_exits_1_and_says_why():
    said = capacity("risk", TOWER, "-H", "l4", "--set", "objective.latency=1us", "--draws", "100")
    assert said.code == 1
    assert "no device will do" in said.out.splitlines()[0]
