"""Rollouts: cold caches against a simulated one, phases against the planner, and sums by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from functools import lru_cache
from math import log
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from capacity import catalogue, planner, rollout
from capacity.errors import CapacityError, InputError
from capacity.fleet.rollout import ColdCache, Rolled, course_of, warm_look_ups
from capacity.money.prices import price_range
from capacity.phases import batch
from capacity.phases.context import Context
from capacity.rollout import jobs
from capacity.rollout.change import touched
from capacity.rollout.steps import moments
from capacity.spec.rollout import Rollout
from capacity.spec.scenario import BatchJob
from capacity.spec.stages import RetrieveStage
from capacity.timing import transfer
from capacity.work.caching import hit_rate_of

TODAY = date(2026, 11, 1)
TOWER, COPY = "gpt2-two-tower", "generated-copy"
CACHE = "serving.stages.encode-user.cache={entries: 100 k, keys: 1 M, exponent: 0.8}"
BUSY = ("traffic.peak_rate=20000/s", CACHE)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parent.parent)
    monkeypatch.delenv("CAPACITY_PATH", raising=False)


@lru_cache(maxsize=16)
def sides(name: str, stage: str, model: str | None, given: tuple[str, ...] = (), to: tuple[str, ...] = ()):
    """Return the scenarios before and after, and what both need."""
    old = catalogue.scenario(name, (), given)
    before = planner.inputs(old, today=TODAY)
    changes = rollout.settings(old, before.models, stage, model, to)
    new = catalogue.scenario(name, (), (*given, *changes))
    after = planner.inputs(new, today=TODAY)
    return old, new, replace(after, models={**before.models, **after.models})


@lru_cache(maxsize=32)
def tower(policy: Rollout, *given: str, model: str = "gpt2-medium", hardware: str = "l4") -> Rolled:
    old, new, inputs = sides(TOWER, "encode-user", model, given)
    (found,) = rollout.rolled(old, new, inputs, policy, [hardware])
    assert not found.refused, found.refused
    return found


def phase(found: Rolled, name: str):
    return next(item for item in found.phases if item.name.startswith(name))


# cold caches


@pytest.mark.parametrize("exponent", [0.0, 0.6, 0.8, 1.0, 1.2])
def test_the_hit_rate_grows_as_a_simulated_cache_does(exponent):
    keys, entries = 20_000, 4_000
    weight = np.arange(1, keys + 1, dtype=float) ** -exponent
    asked = np.random.default_rng(7).choice(keys, size=60_000, p=weight / weight.sum())
    recency: dict[int, None] = {}
    hits = np.zeros(len(asked))
    for place, key in enumerate(asked.tolist()):
        hits[place] = key in recency
        recency.pop(key, None)
        recency[key] = None
        if len(recency) > entries:
            del recency[next(iter(recency))]
    counts, rates = zip(*course_of(keys, exponent, entries), strict=True)
    for start in range(0, 60_000, 3_000):
        predicted = np.interp(np.arange(start, start + 3_000), counts, rates).mean()
        assert hits[start : start + 3_000].mean() == pytest.approx(predicted, abs=0.03)


def test_the_course_ends_at_the_steady_hit_rate_and_only_rises():
    counts, rates = zip(*course_of(1_000_000, 0.9, 50_000), strict=True)
    assert rates[-1] == hit_rate_of(1_000_000, 0.9, 50_000)
    assert list(counts) == sorted(counts)
    assert list(rates) == sorted(rates)


def test_equal_popularity_fills_by_the_logarithm():
    for entries in (10, 500, 900):
        assert course_of(1000, 0.0, entries)[-1][0] == pytest.approx(-1000 * log(1 - entries / 1000), rel=1e-6)


def test_a_cache_of_one_key_and_one_that_holds_all():
    assert course_of(1, 0.9, 10) == ((0.0, 0.0),)
    course = course_of(100, 0.5, 1000)
    assert warm_look_ups(course, 1.0) > 100


def test_a_cache_without_a_course_is_empty_until_it_is_warm():
    cache = ColdCache(stage="a", pool="b", hit_rate=0.9, look_ups_per_s=2.0, course=(), warm_s=50.0, prefill=False)
    assert (cache.reached(99.0), cache.reached(100.0)) == (0.0, 0.9)
    assert cache.factor == pytest.approx(10.0)


# what changes


def test_a_model_is_replaced_wherever_it_stands_and_its_index_widens():
    old, new, inputs = sides(TOWER, "encode-user", "gpt2-medium")
    assert new.serving.stage("encode-user").model == "gpt2-medium"
    assert {job.model for job in new.batch} == {"gpt2-medium"}
    assert new.serving.stage("nearest-items").width == 1024
    assert new.training == old.training
    same = rollout.settings(old, inputs.models, "encode-user", "distilbert-base")  # 768 values too
    assert not [setting for setting in same if "width" in setting]


def test_vectors_of_another_model_need_another_index_of_the_same_width():
    old, new, _ = sides(TOWER, "encode-user", "distilbert-base", ("audience.query_tokens=64",))
    change = touched(old, new, Rollout())
    assert change.stages == ("encode-user", "nearest-items")
    assert [stage.name for stage in change.indexes] == ["nearest-items"]


def test_only_pools_that_change_stand_twice():
    old, new, _ = sides("cascade", "encode-query", "minilm-l6")
    change = touched(old, new, Rollout())
    assert change.pools == {"encoder", "index"}
    assert change.cold == ("encode-query",)
    assert touched(old, new, Rollout(cold=("write-copy",))).pools == {"encoder", "index", "writer"}
    with pytest.raises(InputError, match="unknown stage with a cache 'rerank'"):
        touched(old, new, Rollout(cold=("rerank",)))


@pytest.mark.parametrize(
    ("stage", "model", "said"),
    [
        ("encode-usr", "gpt2-medium", "unknown stage 'encode-usr'; did you mean encode-user"),
        ("nearest-items", "gpt2-medium", "runs no model"),
        ("encode-user", "gpt2", "runs gpt2 already"),
        ("encode-user", "gpt9", "unknown model"),
        ("encode-user", None, "nothing to roll out"),
    ],
)
def test_what_cannot_change_is_refused(stage, model, said):
    old, _, inputs = sides(TOWER, "encode-user", "gpt2-medium")
    with pytest.raises(InputError, match=said):
        rollout.settings(old, inputs.models, stage, model)


def test_equal_scenarios_are_no_rollout():
    old, _, inputs = sides(TOWER, "encode-user", "gpt2-medium")
    with pytest.raises(InputError, match="no stage changes"):
        rollout.rolled(old, old, inputs, Rollout(), ["l4"])


@pytest.mark.parametrize("wrong", [{"ramp": (0.5, 0.1)}, {"ramp": (0.0,)}, {"ramp": (1.0,)}, {"shadow_share": 1.5}])
def test_a_rollout_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        Rollout(**wrong)


# jobs


def test_everything_is_encoded_once_as_a_batch_job_would():
    found = tower(Rollout())
    old, new, inputs = sides(TOWER, "encode-user", "gpt2-medium")
    device = transfer.device(catalogue.hardware("l4"), new.engine, inputs.calibrations, inputs.shared)
    job = BatchJob(
        name="a", task="encode", model="gpt2-medium", items=old.catalogue.items, tokens="item", dtype="bf16",
        every=86400.0,
    )  # fmt: skip
    run = batch.fewest_devices(job, inputs.models["gpt2-medium"], new, device)
    encode = phase(found, "re-encode")
    assert float(encode.device_hours.value) == pytest.approx(float(run.device_time.value) / 3600)
    assert [item.name for item in found.phases if item.name.startswith("re-encode")] == ["re-encode encode-catalogue"]


def test_a_tighter_deadline_takes_more_devices_and_the_same_device_hours():
    slow, fast = tower(Rollout()), tower(Rollout(deadline=60.0))
    before, after = phase(slow, "re-encode"), phase(fast, "re-encode")
    assert after.devices > before.devices
    assert float(after.duration.value) <= 60.0
    assert float(after.device_hours.value) == pytest.approx(float(before.device_hours.value))


def test_a_deadline_that_cannot_be_met_refuses_the_device():
    old, new, inputs = sides(TOWER, "encode-user", "gpt2-medium")
    (found,) = rollout.rolled(old, new, inputs, Rollout(deadline=60.0, max_devices=2), ["l4"])
    assert "re-encode" in found.refused
    assert "deadline" in found.refused


def test_new_items_jobs_make_a_whole_catalogue():
    old, new, _ = sides("cascade", "encode-query", "minilm-l6")
    (job,) = jobs.encode_jobs(new, touched(old, new, Rollout()).jobs, Rollout())
    assert (job.items, job.name) == ("catalogue", "encode-new-items")


def test_an_inverted_index_learns_and_assigns_by_products_with_its_centroids():
    old, _, _ = sides(TOWER, "encode-user", "gpt2-medium")  # 100 k items
    stage = RetrieveStage(name="a", task="retrieve", width=64, top=5, index="ivf", lists=100, probes=4)
    work = jobs.build_operations(stage, Context(scenario=old, models={}), 200)
    products = sum(op.flop * op.count for op in work if op.operation == "gemm")
    assert products == pytest.approx(2 * 64 * 100 * (10 * 25_600 + 100_000))  # 256 vectors for each of 100 lists


def test_a_graph_takes_longer_the_more_candidates_it_keeps():
    old, new, inputs = sides("cascade", "encode-query", "minilm-l6")
    device = transfer.device(catalogue.hardware("h100-sxm-80gb"), new.engine, inputs.calibrations, inputs.shared)
    context = Context(scenario=new, models={})
    (stage,) = touched(old, new, Rollout()).indexes
    builds = [jobs.build_phase(stage, device, context, Rollout(build_effort=effort)) for effort in (100, 400)]
    low, high = (float(build.device_hours.value) for build in builds)
    assert 2 < high / low < 4
    assert builds[0].basis == "assumed"
    with pytest.raises(CapacityError, match="misses the deadline"):
        jobs.build_phase(stage, device, context, Rollout(deadline=0.001, max_devices=1))


# both fleets


def test_each_fleet_is_what_the_planner_says_for_its_share():
    found = tower(Rollout(), "traffic.peak_rate=5000/s")
    old, new, inputs = sides(TOWER, "encode-user", "gpt2-medium", ("traffic.peak_rate=5000/s",))
    for step in found.steps:
        share = step.share
        for scenario, devices in ((new, step.new), (old, step.old)):
            part = share if scenario is new else {"shadow": 1.0, "standby": 1.0}.get(step.name, 1 - share)
            traffic = scenario.traffic.model_copy(update={"peak_rate": 5000 * part})
            alone = scenario.model_copy(update={"traffic": traffic})
            assert planner.option(alone, catalogue.hardware("l4"), inputs).devices == devices, step.name


def test_device_hours_are_what_two_fleets_take_beyond_one():
    found = tower(Rollout(), "traffic.peak_rate=5000/s")
    old, new = found.old.devices, found.new.devices
    steps = {step.name: step for step in found.steps}
    assert float(phase(found, "shadow").device_hours.value) == pytest.approx(steps["shadow"].new * 72)
    assert float(phase(found, "standby").device_hours.value) == pytest.approx(old * 24)
    ramp = sum(
        (steps[f"ramp {100 * share:g} %"].old + steps[f"ramp {100 * share:g} %"].new - (1 - share) * old - share * new)
        * 48 for share in (0.01, 0.1, 0.5)
    )  # fmt: skip
    assert float(phase(found, "ramp").device_hours.value) == pytest.approx(ramp)
    assert found.peak_devices == max(old + new, *(step.devices for step in found.steps))


def test_twice_the_overlap_takes_twice_the_device_hours():
    once, twice = tower(Rollout()), tower(Rollout(overlap_time=2 * 6 * 86400.0))
    hours = [float(phase(found, "ramp").device_hours.value) for found in (once, twice)]
    assert hours[1] == pytest.approx(2 * hours[0])
    assert float(twice.duration.value) - float(once.duration.value) == pytest.approx(6 * 86400.0)


def test_what_lasts_no_time_is_left_out():
    assert moments(Rollout(shadow_time=0, ramp=(), standby_time=0)) == ()
    found = tower(Rollout(shadow_time=0, ramp=(), standby_time=0, overlap_time=0))
    assert not found.steps
    assert {item.name.split()[0] for item in found.phases} == {"re-encode", "build", "keep"}


def test_pools_that_serve_both_carry_the_shadow_too():
    old, new, inputs = sides("cascade", "encode-query", "minilm-l6", ("traffic.peak_rate=3000/s",))
    (found,) = rollout.rolled(old, new, inputs, Rollout(shadow_share=0.5), ["h100-sxm-80gb"])
    steps = {step.name: step for step in found.steps}
    assert steps["shadow"].shared > steps["standby"].shared
    assert steps["standby"].shared + steps["standby"].old == found.old.devices


# cold fleets and their alternative


def test_an_empty_cache_makes_the_new_fleet_larger_until_it_is_warm():
    found = tower(Rollout(prefill=False), *BUSY)
    (cache,) = found.caches
    assert cache.hit_rate == pytest.approx(hit_rate_of(1_000_000, 0.8, 100_000))
    first = found.steps[0]
    assert first.hit_rates == {"encode-user": 0.0}
    assert first.cold > 0
    assert first.cold_s == pytest.approx(cache.warm_s / first.share)  # a tenth of the requests fills it
    assert float(phase(found, "cold caches").device_hours.value) == pytest.approx(
        sum(step.cold * step.cold_s / 3600 for step in found.steps)
    )


def test_filling_the_cache_by_a_job_spares_the_larger_fleet():
    filled, empty, free = (tower(Rollout(prefill=wish), *BUSY) for wish in (True, False, None))
    assert all(step.cold == 0 for step in filled.steps)
    assert phase(filled, "prefill").counted
    assert not phase(filled, "cold caches").counted
    assert phase(empty, "cold caches").counted
    assert not phase(empty, "prefill").counted
    assert free.cost.usd == min(filled.cost.usd, empty.cost.usd)
    assert filled.cost.usd != empty.cost.usd


def test_what_has_not_warmed_at_the_end_holds_the_larger_fleet_on():
    quick = Rollout(shadow_time=0, ramp=(), overlap_time=0, standby_time=0, prefill=False)
    found = tower(quick, *BUSY)
    (step,) = found.steps
    assert step.name == "until warm"
    assert step.cold_s == pytest.approx(found.caches[0].warm_s)
    assert step.cold > 0
    assert step.old == 0


def test_a_cache_of_which_only_the_hit_rate_is_known_cannot_be_filled():
    old, new, inputs = sides(COPY, "write-copy", "qwen3-14b")
    (found,) = rollout.rolled(old, new, inputs, Rollout(prefill=True), ["h100-sxm-80gb"])
    assert not [item for item in found.phases if item.name.startswith("prefill")]
    assert found.caches[0].factor == pytest.approx(10)
    assert phase(found, "cold caches").devices > 0


# money


def test_the_cost_is_the_sum_of_what_is_counted():
    for found in (tower(Rollout()), tower(Rollout(), *BUSY)):
        lines = [item.line.usd for item in found.phases if item.counted]
        assert found.cost.usd == pytest.approx(sum(lines))
        assert found.cost.p10_usd <= found.cost.usd <= found.cost.p90_usd


def test_device_hours_cost_what_the_price_table_says():
    price = price_range("l4", "on-demand", today=TODAY).usd_per_device_hour
    for name in ("re-encode", "shadow", "ramp", "standby"):
        item = phase(tower(Rollout()), name)
        assert item.line.usd == pytest.approx(float(item.device_hours.value) * price)


def test_more_traffic_never_costs_less():
    costs = [tower(Rollout(), f"traffic.peak_rate={rate}/s").cost.usd for rate in (500, 2000, 8000)]
    assert costs == sorted(costs)


def test_the_same_question_gets_the_same_answer():
    old, new, inputs = sides(TOWER, "encode-user", "gpt2-medium")
    assert rollout.rolled(old, new, inputs, Rollout(), ["l4"]) == rollout.rolled(old, new, inputs, Rollout(), ["l4"])


def test_devices_come_in_the_order_of_what_serves_cheapest_today():
    old, new, inputs = sides(TOWER, "encode-user", "gpt2-medium")
    names = ["h100-sxm-80gb", "l4"]
    found = rollout.rolled(old, new, inputs, Rollout(ramp=(0.5,)), names)
    assert [item.hardware for item in found] == [item.hardware for item in planner.plan(old, inputs, names).options]
