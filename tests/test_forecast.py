"""The bill of the coming months: cases worked out by hand, and what growth, terms and refreshes may never do."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest
from command_line import capacity
from hypothesis import given
from hypothesis import strategies as st

from capacity import catalogue, outlook, planner
from capacity.errors import CapacityError, InputError
from capacity.money import course as courses
from capacity.money import forecast
from capacity.money.course import Course, Price, Stay
from capacity.money.curve import Curve, Level
from capacity.money.purchase import capital_month
from capacity.report import forecast as report
from capacity.spec.buying import Ownership
from capacity.spec.outlook import Outlook

TODAY = date(2026, 11, 22)
TOWER = "gpt2-two-tower"
STILL: dict[str, Any] = {"growth": {"traffic": 0.0}, "discount_rate": 0.0, "months": 12}
YEAR = {"term": "1-year", "share": 0.5}


def level(load: float, **more: Any) -> Level:
    """Return 730 device-hours at $2 and $100 of all else for today's load, all in step with the load."""
    usual = {"hours": 730.0 * load, "used_hours": 365.0 * load, "other_usd": 100.0 * load}
    return Level(load=load, **(usual | more))


def sure(usd: float) -> Price:
    return Price(usd=usd, low=usd, high=usd)


def stay(
    outlook: Outlook, *levels: Level, first: int = 0, end: int | None = None, usd: float = 2.0, committed: float = 1.0
) -> Stay:
    last = outlook.months if end is None else end
    curve = Curve.of(levels or [level(load) for load in (0.5, 1.0, 2.0, 4.0)])
    return Stay(
        hardware="made-up", name="Made up", first=first, end=last, curves=(curve,) * (last - first),
        price=sure(usd), committed=sure(committed) if outlook.commitment else None,
    )  # fmt: skip


def course(*levels: Level, **said: Any) -> Course:
    expected = Outlook.model_validate(STILL | said)
    return courses.course(expected, [stay(expected, *levels)])


def accrued(found: Course) -> list[float]:
    return [month.accrued_usd for month in forecast.months(found)]


def test_without_growth_every_month_is_today_s():
    assert accrued(course()) == [730 * 2 + 100.0] * 12


def test_a_shipped_scenario_without_growth_costs_twelve_times_its_monthly_bill():
    scenario = catalogue.scenario(TOWER)
    inputs = planner.inputs(scenario, today=TODAY)
    cost = planner.option(scenario, planner.profile("l4", inputs), inputs).cost
    found = outlook.forecasts(scenario, inputs, Outlook.model_validate(STILL), ["l4"]).best
    assert cost is not None
    assert found is not None
    assert found.usd == pytest.approx(12 * cost.usd, rel=1e-12)
    assert found.present_usd == pytest.approx(12 * cost.usd, rel=1e-12)


def test_growth_compounds_from_the_second_month_and_seasons_multiply():
    season = (1.0, 0.5, *(1.0,) * 10)
    found = forecast.months(course(growth={"traffic": 0.1}, seasonality=season))
    assert [month.load for month in found[:3]] == pytest.approx([1.0, 0.5 * 1.1, 1.21])
    assert found[2].accrued_usd == pytest.approx(1560 * 1.21)  # hours and all else are in step with the load


def test_prices_fall_evenly_over_a_year_and_only_those_of_devices():
    found = accrued(course(price_decline=0.36, months=13))
    assert found[6] == pytest.approx(1460 * 0.8 + 100)  # half a year: the root of 0.64
    assert found[12] == pytest.approx(1460 * 0.64 + 100)


def test_present_value_of_equal_months_is_that_of_an_annuity():
    months = forecast.months(course(discount_rate=0.08, months=24))
    rate = 1.08 ** (1 / 12) - 1
    assert forecast.present_value(months, 0.08) == pytest.approx(1560 * (1 - (1 + rate) ** -24) / rate)


def test_present_value_by_hand_of_a_term_paid_now_and_one_paid_by_the_month():
    # half of 730 h at $1 and the other half at $2; a discount of 2^12 − 1 a year halves money every month: 12 months
    # at 1/2 + 1/4 + … = 1 − 2^−12
    months = forecast.months(course(commitment=YEAR))
    halves = 1 - 2.0**-12
    assert forecast.present_value(months, 2.0**12 - 1) == pytest.approx(365 * 12 + (365 * 2 + 100) * halves)
    monthly = forecast.months(course(commitment=YEAR | {"upfront": False}))
    assert forecast.present_value(monthly, 2.0**12 - 1) == pytest.approx((365 * 3 + 100) * halves)


def test_a_term_paid_upfront_is_cash_now_and_accrues_by_the_month():
    months = forecast.months(course(commitment=YEAR, months=24))
    assert [month.upfront_usd for month in months] == [365 * 12.0, *[0.0] * 11] * 2  # renewed once
    assert [month.cash_usd for month in months[:2]] == [365 * 12 + 730 + 100.0, 830.0]
    assert {month.accrued_usd for month in months} == {365 + 730 + 100.0}
    assert sum(month.cash_usd for month in months) == pytest.approx(sum(month.accrued_usd for month in months))


@pytest.mark.parametrize(("said", "share"), [("none", 0), ("partial", 0.5), ("all", 1), (True, 1), (False, 0)])
def test_cash_differs_with_what_is_paid_upfront_and_accrual_does_not(said, share):
    months = forecast.months(course(commitment=YEAR | {"upfront": said}, months=12))
    assert months[0].upfront_usd == share * 365 * 12
    assert months[5].cash_usd == 730 + 100 + (1 - share) * 365
    assert {month.accrued_usd for month in months} == {365 + 730 + 100.0}
    assert sum(month.cash_usd for month in months) == pytest.approx(sum(month.accrued_usd for month in months))


def test_an_unknown_share_upfront_is_refused():
    with pytest.raises(ValueError, match="'none', 'partial' or 'all'"):
        course(commitment=YEAR | {"upfront": "most"})


def test_what_a_term_costs_after_the_end_is_told():
    found = course(commitment={"term": "3-year", "share": 1})
    assert forecast.beyond(found) == 730 * 24
    months = forecast.months(found)
    assert sum(month.cash_usd - month.accrued_usd for month in months) == 730 * 24
    assert forecast.beyond(course(commitment=YEAR, months=18)) == 365 * 6  # renewed in month 13


def test_a_level_counts_a_device_as_used_while_it_works():
    scenario = catalogue.scenario(TOWER)
    inputs = planner.inputs(scenario, today=TODAY)
    option = planner.option(scenario, planner.profile("l4", inputs), inputs)
    (pool,) = option.pools
    busy = pool.replicas * pool.devices_per_replica * pool.utilization * 730  # a spare never works
    half, quarter = (Level.of(option, 1.0, mean, 1.2) for mean in (0.5, 0.25))
    assert half.used_hours - quarter.used_hours == pytest.approx(busy * 0.25)
    jobs = sum(float(job.device_hours_per_month.value) for job in option.jobs)
    assert half.hours == pytest.approx(pool.devices * 730 + jobs)
    assert Level.of(option, 1.0, 1.0, 1.2).used_hours == pytest.approx(busy + jobs)


def test_committed_devices_that_nobody_needs_are_idle():
    season = (1.0, 0.5, *(1.0,) * 10)
    _, second, *_ = forecast.months(course(commitment={"term": "1-year", "share": 1}, seasonality=season))
    assert (second.needed_hours, second.paid_hours, second.used_hours) == (365, 730, 182.5)
    assert second.idle_share == 0.75
    assert second.devices_usd == 730


def test_after_a_refresh_the_old_term_is_paid_on_and_helps_no_more():
    expected = Outlook.model_validate(STILL | {"commitment": YEAR, "refresh": {"month": 7, "hardware": "newer"}})
    newer = [level(load, hours=100 * load) for load in (1.0, 2.0)]
    stays = [stay(expected, end=6), stay(expected, *newer, first=6, usd=5.0, committed=4.0)]
    months = forecast.months(courses.course(expected, stays))
    assert [month.devices_usd for month in months] == [365 * 3.0] * 6 + [365 + 50 * 4 + 50 * 5.0] * 6
    assert [month.paid_hours for month in months[5:7]] == [730, 465]


@given(
    low=st.floats(-0.1, 0.1), more=st.floats(0, 0.1), decline=st.floats(0, 0.5),
    hours=st.lists(st.floats(1, 1e4), min_size=4, max_size=4),
)  # fmt: skip
def test_more_growth_is_never_cheaper(low, more, decline, hours):
    steps = [level(load, hours=sum(hours[: i + 1])) for i, load in enumerate((0.5, 1.0, 2.0, 4.0))]
    less, much = (accrued(course(*steps, growth={"traffic": g}, price_decline=decline)) for g in (low, low + more))
    assert all(after >= before * (1 - 1e-12) for before, after in zip(less, much, strict=True))


@given(share=st.floats(0.01, 1), growth=st.floats(0, 0.1))
def test_a_cheaper_term_on_a_growing_load_is_never_dearer(share, growth):
    said: dict[str, Any] = {"growth": {"traffic": growth}}
    bound = accrued(course(commitment={"term": "1-year", "share": share}, **said))
    assert sum(bound) <= sum(accrued(course(**said))) * (1 + 1e-12)


def test_a_load_that_all_but_vanishes_is_planned_above_0():
    """0.5^59 is 1.7e-18 of today's traffic: no less than 0.001 % of it rounded away."""
    least, *_ = forecast.levels(0.5**59, 1.0, 6)
    assert least == pytest.approx(0.5**59, rel=1e-5)


def test_a_curve_goes_through_its_levels_and_on_beyond_them():
    curve = Curve.of([level(load, hours=hours) for load, hours in ((1.0, 10.0), (2.0, 10.0), (3.0, 30.0))])
    loads = np.array([0.0, 1.0, 2.5, 3.0, 4.0])
    assert curve.at(loads, curve.hours).tolist() == [0.0, 10.0, 20.0, 30.0, 40.0]


def test_catalogue_and_users_are_planned_at_three_ages():
    asked = []

    def planned(load: float, month: int) -> Level:
        asked.append(month)
        return level(load, hours=100.0 + month)

    expected = Outlook.model_validate(STILL | {"growth": {"traffic": 0, "catalogue": 0.1}, "months": 13})
    found = forecast.curves(expected, planned, (1.0,), 0, 13)
    assert asked == [0, 6, 12]
    assert [curve.hours[0] for curve in found] == [100.0 + month for month in range(13)]


def test_scenario_at_a_load_and_month():
    scenario = catalogue.scenario(TOWER)
    expected = Outlook.model_validate({"growth": {"catalogue": 0.1, "users": 0.2}})
    there = outlook.at(scenario, expected, 3.0, 2)
    assert there.traffic.peak_rate == 3 * scenario.traffic.peak_rate
    assert there.catalogue.items == round(scenario.catalogue.items * 1.21)
    assert there.audience.users == round(scenario.audience.users * 1.44)
    assert outlook.at(scenario, expected, 1.0, 0) == scenario


def test_an_option_that_misses_a_constraint_is_refused_with_the_load():
    scenario = catalogue.scenario(TOWER, (), ("objective.latency=1us",))
    inputs = planner.inputs(scenario, today=TODAY)
    option = planner.option(scenario, planner.profile("l4", inputs), inputs)
    with pytest.raises(CapacityError, match=r"at 2 × today's traffic .* misses"):
        Level.of(option, 2.0, 0.5, 1.2)


def test_a_device_without_a_price_of_the_term_is_refused_and_stands_last():
    scenario = catalogue.scenario(TOWER)
    inputs = planner.inputs(scenario, today=TODAY)
    expected = Outlook.model_validate(STILL | {"commitment": YEAR})
    found = outlook.forecasts(scenario, inputs, expected, ["h100-sxm-80gb", "a10g"])
    assert [bool(option.refused) for option in found.options] == [False, True]
    assert found.options[1].refused == "no 1-year price of h100-sxm-80gb in any table"


def test_ways_to_buy_are_those_with_a_price_and_the_one_asked_for():
    scenario = catalogue.scenario(TOWER)
    inputs = planner.inputs(scenario, today=TODAY)
    free = outlook.ways(scenario, inputs, Outlook.model_validate(STILL), ["a10g", "l4"])
    assert [(item.hardware, item.buying) for item in free.options] == [
        ("l4", "purchase"), ("a10g", "70% 1-year, upfront"), ("l4", "on-demand"), ("a10g", "on-demand"),
    ]  # fmt: skip
    bound = outlook.ways(scenario, inputs, Outlook.model_validate(STILL | {"commitment": YEAR}), ["a10g", "l4"])
    assert [(item.buying, bool(item.refused)) for item in bound.options] == [
        ("purchase", False), ("on-demand", False), ("50% 1-year, upfront", False), ("on-demand", False),
        ("50% 1-year, upfront", True),
    ]  # fmt: skip


def test_a_commitment_beside_a_term_of_the_scenario_is_refused():
    scenario = catalogue.scenario(TOWER, (), ("pricing.term=1-year",))
    expected = Outlook.model_validate({"commitment": YEAR})
    with pytest.raises(InputError, match="already buys for 1-year"):
        outlook.forecasts(scenario, planner.inputs(scenario, today=TODAY), expected, ["a10g"])


def test_the_command_says_the_answer_first_and_the_same_in_json():
    asked = ("forecast", TOWER, "-H", "l4", "--with", "months=12", "--today", TODAY.isoformat())
    said, told = capacity(*asked), capacity(*asked, "--json").json
    assert said.code == 0, said.err
    assert said.out.splitlines()[0] == told["answer"]
    assert (told["schema"], told["version"], told["risk"]) == ("capacity.forecast", 1, None)
    (option,) = told["options"]
    assert len(option["months"]) == 12
    assert option["usd"] == pytest.approx(sum(month["accrued_usd"] for month in option["months"]))
    assert 0 < option["idle_fraction"] < 1
    assert any(text.startswith("assumed, not given: ") and " months" not in text for text in told["caveats"])


def test_an_outlook_can_be_a_file_that_flags_go_over(tmp_path):
    file = tmp_path / "outlook.yaml"
    file.write_text("months: 24\ngrowth: {traffic: 0.0}\n", encoding="utf-8")
    told = capacity("forecast", TOWER, "-H", "l4", "--outlook", str(file), "--with", "months=12", "--json").json
    assert told["outlook"]["months"] == 12
    assert told["outlook"]["growth"]["traffic"] == 0


@pytest.mark.parametrize(
    ("said", "where"),
    [("months=6", "--with"), ("growht.traffic=0.1", "--with"), ("refresh={month: 40, hardware: l4}", "refresh")],
)
def test_bad_outlooks_are_refused_at_their_flag(said, where):
    found = capacity("forecast", TOWER, "-H", "l4", "--with", said)
    assert found.code == 2
    assert where in found.err


def test_the_tables_hold_every_column():
    found = outlook.forecasts(
        catalogue.scenario(TOWER), planner.inputs(catalogue.scenario(TOWER), today=TODAY),
        Outlook.model_validate(STILL), ["l4"],
    )  # fmt: skip
    assert found.best is not None
    for table in (report.options_table(found), report.month_table(found.best)):
        assert all(len(line) == len(table.columns) for line in table.lines())
    assert math.isfinite(found.best.usd)


OWN = Ownership(years=2, residual=0.25, interest=0.1, host_share=0.0)


def bought(*levels: Level, own: Ownership = OWN, **said: Any) -> Course:
    """Return a course of devices that cost 1 USD an hour of their life."""
    expected = Outlook.model_validate(STILL | said)
    return courses.course(expected, [replace(stay(expected, *levels, usd=1.0), ownership=own)])


def test_bought_devices_are_paid_when_they_are_needed_and_owned_for_life():
    months = forecast.months(bought(months=48, growth={"traffic": 0.1}, seasonality=(1.0, 1.0, 0.1, *(1.0,) * 9)))
    price = 730 / capital_month(1.0, OWN)
    assert months[0].upfront_usd == pytest.approx(price)
    assert months[1].upfront_usd == pytest.approx(0.1 * price)
    assert months[2].upfront_usd == 0  # the season needs a tenth; what was bought is there
    assert (months[2].paid_hours, months[2].devices_usd) == (pytest.approx(803), pytest.approx(803))
    assert months[23].cash_usd == pytest.approx(months[23].upfront_usd + months[23].other_usd - 0.25 * price)  # sold


@pytest.mark.parametrize("months", [12, 24, 36, 60])
def test_the_price_less_the_book_value_is_worth_what_the_annuities_are(months):
    path = bought(months=months, discount_rate=0.1, growth={"traffic": 0.03})
    found = forecast.months(path)
    monthly = 1.1 ** (1 / 12)
    annuities = sum((month.devices_usd + month.other_usd) / monthly**month.number for month in found)
    assert forecast.present_value(found, 0.1, forecast.left(path)) == pytest.approx(annuities)
    assert forecast.beyond(path) == 0


def test_without_growth_bought_devices_of_a_shipped_scenario_accrue_their_monthly_bill():
    scenario = catalogue.scenario(TOWER, (), ("pricing.term=purchase",))
    inputs = planner.inputs(scenario, today=TODAY)
    cost = planner.option(scenario, planner.profile("l4", inputs), inputs).cost
    found = outlook.forecasts(scenario, inputs, Outlook.model_validate(STILL), ["l4"]).best
    assert found.buying == "purchase"
    assert found.usd == pytest.approx(12 * cost.usd, rel=1e-9)
    rented = catalogue.scenario(TOWER)
    ways = outlook.ways(rented, planner.inputs(rented, today=TODAY), Outlook.model_validate(STILL), ["l4"])
    (owned,) = [item for item in ways.options if item.buying == "purchase"]
    assert owned.usd == pytest.approx(found.usd, rel=1e-9)


def test_room_and_licenses_go_with_paid_hours_and_support_with_what_they_cost():
    """730 h at $2 for the first month's load; half the load needs half the hours, the owned devices stay."""
    halves = {"seasonality": [1.0] + [0.5] * 11}
    levels = [level(load, hourly_usd=0.5, support=0.1) for load in (0.5, 1.0)]
    rented = accrued(course(*levels, **halves))
    assert rented[:2] == pytest.approx([1460 * 1.1 + 365 + 100, (1460 * 1.1 + 365 + 100) / 2])
    owned = accrued(bought(*levels, **halves))  # at $1 an hour
    assert owned[:2] == pytest.approx([730 * 1.1 + 365 + 100, 730 * 1.1 + 365 + 50])


def test_all_hours_committed_cost_what_a_plan_for_that_term_does():
    asked = ("pricing.support={}", "pricing.software={}")
    scenario, term = (catalogue.scenario(TOWER, settings=(*asked, *more)) for more in ((), ("pricing.term=1-year",)))
    given_ = planner.inputs(scenario, today=TODAY)
    (option,) = planner.plan(term, given_, ("a10g",)).options
    expected = Outlook.model_validate(STILL | {"commitment": {"term": "1-year", "share": 1}})
    (ahead,) = outlook.forecasts(scenario, given_, expected, ("a10g",)).options
    assert ahead.months[0].accrued_usd == pytest.approx(option.cost.usd)


@pytest.mark.parametrize("command", ["forecast", "risk", "hosted", "optimize"])
def test_a_faulty_price_table_is_bad_input_not_an_answer(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prices").mkdir()
    head = "hardware,provider,sku,devices,region,term,usd_per_device_hour,date,source,quality,note"
    (tmp_path / "prices" / "mine.csv").write_text(f"{head}\nl4,me,x,1,any,on-demand,0,2026-11,me,published,\n")
    found = capacity(command, "cross-encoder-rerank", "-H", "l4")
    assert found.code == 2
    assert "mine.csv:2:7: usd_per_device_hour: input should be greater than 0" in found.err
