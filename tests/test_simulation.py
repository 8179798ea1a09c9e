"""Candidates simulated: the same for a seed, refused with a reason, and priced by what they serve."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import pytest
from online_cases import ENCODE, RERANK, WRITE, scenario

from capacity import catalogue, planner, simulation
from capacity.fleet.served import PoolServing, Question, Serving, UnitCost, band_s
from capacity.money.prices import price_range

TODAY = date(2026, 11, 22)
QUICK = Question(requests=2000, band=False)
WANTED = scenario(ENCODE, RERANK, hardware=["l4", "a100-sxm-80gb"], objective={"latency": 0.5})


def simulated(wanted=WANTED, question: Question = QUICK, hardware=None) -> tuple[Serving, ...]:
    return simulation.simulated(wanted, planner.inputs(wanted, today=TODAY), question, hardware)


@pytest.fixture(scope="module")
def options() -> tuple[Serving, ...]:
    return simulated(question=Question(requests=2000))


def figures(option: Serving) -> list[object]:
    told = [option.meets, option.trials, option.without_spare_s, option.cost]
    latency = option.result.end_to_end if option.result else None
    return told + [pool.replicas for pool in option.pools] + [item.value for item in latency.quantiles.values()]


def test_the_same_seed_gives_the_same_answer(options):
    again = simulated(question=Question(requests=2000))
    assert [figures(option) for option in options] == [figures(option) for option in again]
    other = simulated(question=Question(requests=2000, seed=1))
    assert [figures(option) for option in options] != [figures(option) for option in other]


def test_candidates_that_meet_the_objective_come_first_and_the_cheapest_of_them(options):
    assert {option.hardware for option in options} == {"l4", "a100-sxm-80gb"}
    assert all(option.meets for option in options)
    assert [option.cost.hour_usd for option in options] == sorted(option.cost.hour_usd for option in options)
    ranks = [Serving(hardware="", name="", basis="assumed", origin="", refused="no"), replace(options[0], meets=False)]
    assert sorted([*ranks, options[1]], key=simulation.rank) == [options[1], ranks[1], ranks[0]]


def test_the_fleet_meets_the_objective_with_headroom_and_misses_it_overloaded(options):
    for option in options:
        assert option.result.saturation.state == "stable"
        assert option.result.end_to_end.quantiles["p99"].value <= 0.5
        assert all(0 < pool.utilization < 1 for pool in option.pools)
        assert all(pool.floor <= pool.replicas for pool in option.pools)


def test_the_band_of_step_times_is_a_band_of_latency(options):
    for option in options:
        ends = band_s(option, "p99")
        assert ends["low"] < ends["value"] < ends["high"]
    (alone, *_) = simulated(hardware=["l4"])
    assert set(band_s(alone, "p99")) == {"value"}


def test_unit_costs_by_hand(options):
    for option in options:
        terms = WANTED.pricing
        price = price_range(option.hardware, terms.term, terms.provider, terms.region, today=TODAY)
        devices = sum(math.ceil((pool.replicas + pool.spare) * pool.devices_per_replica) for pool in option.pools)
        assert option.devices == devices
        assert option.cost.hour_usd == pytest.approx(price.usd_per_device_hour * devices)
        answered = 3600 * option.result.throughput_per_s
        assert option.cost.thousand_usd == pytest.approx(1000 * option.cost.hour_usd / answered)
        assert option.cost.million_input_usd is option.cost.million_output_usd is option.cost.million_total_usd is None


def test_tokens_are_paid_for_by_what_is_read_and_written():
    """Half of the requests read 200 tokens and write 40: a million read costs a fifth of a million written."""
    wanted = scenario(WRITE | {"cache_hit_rate": 0.5}, hardware=["h100-sxm-80gb"], objective={"latency": 5})
    (option,) = simulated(wanted)
    cost: UnitCost = option.cost
    assert cost.million_input_usd == pytest.approx(cost.thousand_usd * 1000 / (0.5 * 200))
    assert cost.million_output_usd == pytest.approx(5 * cost.million_input_usd)
    assert cost.million_total_usd == pytest.approx(cost.thousand_usd * 1000 / (0.5 * 240))
    assert option.result.ttft.count > 0
    assert option.pools[0].kv_blocks > 0


def test_a_device_without_a_price_is_simulated_all_the_same_and_comes_later(monkeypatch, options):
    monkeypatch.setattr(simulation, "hourly", lambda *_, **__: None)
    (option,) = simulated(hardware=["l4"])
    assert option.cost is None
    assert option.meets
    assert sorted([option, *options], key=simulation.rank)[-1] is option


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": {"latency": 0.001}}, "misses service time of one batch alone"),
        ({"hardware": ["t4"], "big": True}, "misses memory"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(changes, said):
    stage = WRITE | {"model": "llama-3.1-405b"} if changes.pop("big", False) else RERANK
    options = simulated(scenario(stage, **({"hardware": ["l4"]} | changes)))
    for option in options:
        assert said in option.refused
        assert option.result is None
        assert not option.meets


def test_a_fleet_of_a_given_size_is_run_as_it_is():
    wanted = scenario(
        RERANK, hardware=["l4"], serving={"pools": {"online": {"replicas": 1}}}, traffic={"peak_rate": 500}
    )
    (option,) = simulated(wanted, replace(QUICK, size=False))
    assert option.refused or not option.meets
    assert all(pool.replicas == 1 for pool in option.pools)


def test_the_closed_form_s_fleet_is_kept_unless_sizing_is_asked():
    (option,) = simulated(hardware=["l4"], question=replace(QUICK, size=False))
    assert option.trials == 0
    assert [pool.replicas for pool in option.pools] == [pool.closed_form for pool in option.pools]


def test_the_curve_of_a_fleet_rises_with_the_load():
    (option,) = simulated(hardware=["l4"])
    points = simulation.curve(WANTED, planner.inputs(WANTED, today=TODAY), option)
    assert [point.share_of_capacity for point in points] == list(simulation.CURVE)
    assert points[0].tail_s < points[-1].tail_s
    assert points[0].state == "stable"
    assert points[-1].state != "stable"


def test_devices_count_slices_together():
    part = {"name": "p", "node": "p", "closed_form": 5, "floor": 1.0, "utilization": 0.5, "batch": 1, "paid": 5.0}
    assert PoolServing(replicas=5, spare=1, devices_per_replica=0.25, **part).devices == 2  # 6 quarters
    assert PoolServing(replicas=5, spare=1, devices_per_replica=4, **part).devices == 24


def test_progress_is_told():
    said = []
    simulated(hardware=["l4"], question=replace(QUICK, progress=said.append))
    name = catalogue.hardware("l4").name
    assert said[0] == f"{name}: sizing"
    assert any("replicas, running" in line for line in said)


# A day: what the sized fleet of the peak still has to show

DAY = Question(requests=None, day=True, band=False)


def day(**pool) -> Serving:
    """Return a day that peaks at 40 requests/s, 1 s at p99."""
    more = {"traffic": {"peak_rate": 40}, "objective": {"latency": 1.0}}
    wanted = scenario(RERANK | {"sequences": 32}, hardware=["l4"], serving={"pools": {"online": pool}}, **more)
    (option,) = simulated(wanted, DAY)
    return option


@pytest.fixture(scope="module")
def plain() -> Serving:
    return day()


def test_a_plain_day_needs_no_more_than_its_peak(plain):
    assert plain.meets
    (pool,) = plain.pools
    assert pool.paid == pool.replicas
    assert not pool.scaled
    assert plain.cost.hour_usd == pytest.approx(pool.devices * usd_per_l4_hour())


def usd_per_l4_hour() -> float:
    return price_range("l4", WANTED.pricing.term, WANTED.pricing.provider, today=TODAY).usd_per_device_hour


@pytest.mark.parametrize("by", ["utilization", "perfect"])
def test_an_autoscaled_day_costs_what_its_replicas_were_up(plain, by):
    option = day(autoscaling={"by": by})
    (pool,) = option.pools
    assert option.meets
    assert pool.scaled
    assert pool.floor < pool.paid < pool.replicas
    assert option.cost.hour_usd == pytest.approx((pool.paid + pool.spare) * usd_per_l4_hour())
    assert option.cost.thousand_usd < plain.cost.thousand_usd


def test_a_fleet_that_loses_a_region_is_enlarged_until_the_rest_holds_the_day(plain):
    option = day(failures={"every": 1e9, "region_loss": 0.5})
    assert option.meets
    assert option.result.end_to_end.quantiles["p99"].value <= 1.0
    assert option.pools[0].replicas > plain.pools[0].replicas


def test_a_schedule_that_is_too_small_is_not_said_to_hold_the_day():
    option = day(autoscaling={"by": "schedule", "schedule": [[0, 1]]})
    assert option.meets_peak
    assert not option.meets
    assert option.result.saturation.state != "stable"
