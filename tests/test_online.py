"""From scenarios to pipelines that run: the graph, what becomes of replicas, and the share that is simulated."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from online_cases import ENCODE, RERANK, WRITE, case, host, pools, scenario

from capacity.errors import CapacityError
from capacity.fleet import arrivals, online, verify
from capacity.fleet.flow import Outcome
from capacity.fleet.online import representative
from capacity.fleet.replicas import Failures
from capacity.fleet.simulated import Settings

FETCH = {"name": "fetch", "task": "fetch", "rows": 20, "width": 64, "pool": "features"}
RANK = {"name": "rank", "task": "rank-pairs", "model": "bert-id-ranker", "candidates": 20, "pool": "ranker"}


def graph(*stages, **more) -> dict[str, tuple[str, ...]]:
    wanted = scenario(*stages, **more)
    found = pools(wanted)
    return {node.name: node.after for node in online.nodes(found, wanted, case(found, wanted))}


def run(wanted, requests: int = 2000, hardware: str = "l4", **more):
    found = pools(wanted, hardware)
    return verify.run(found, wanted, case(found, wanted, **more), Settings(requests=requests))


# The graph


def test_stages_follow_each_other():
    assert graph(host("tokenize", pool="encoder"), ENCODE, RERANK) == {
        "tokenize": (), "encode": ("tokenize",), "rerank": ("encode",),
    }  # fmt: skip


def test_branches_meet_again():
    assert graph(
        ENCODE, FETCH | {"after": []}, RERANK | {"after": ["encode", "fetch"]}, host("send", pool="online")
    ) == {"encode": (), "fetch": (), "rerank": ("encode", "fetch"), "send": ("rerank",)}  # fmt: skip


def test_stages_of_one_pool_are_one_node():
    found = graph(ENCODE, FETCH | {"pool": "ranker", "after": []}, RANK | {"after": ["encode", "fetch"]})
    assert found == {"encode": (), "ranker": ("encode",)}


def test_host_work_may_stand_before_and_behind_a_pool():
    stages = (host("tokenize"), RERANK, host("sort"), host("send"))
    assert graph(*stages) == {"tokenize": (), "rerank": ("tokenize",), "sort": ("rerank",), "send": ("sort",)}


@pytest.mark.parametrize("between", [FETCH, host("sort", pool="ranker")])
def test_a_pool_visited_twice_is_refused(between):
    stages = (ENCODE | {"pool": "ranker"}, between, RANK)
    with pytest.raises(CapacityError, match="give stage rank a pool of its own"):
        graph(*stages)


def test_a_request_takes_the_longer_branch():
    """50 ms of host work beside 2 ms: the request waits for the 50, then ranks."""
    slow, fast = host("slow", time="50 ms", after=[]), host("fast", after=[])
    both = scenario(*(item | {"pool": "ranker"} for item in (slow, fast)), RANK | {"after": ["slow", "fast"]})
    alone = scenario(slow | {"pool": "ranker"}, RANK)
    one, other = (run(wanted).end_to_end.quantiles["p50"].value for wanted in (both, alone))
    assert one == pytest.approx(other)
    assert one > 0.05


# Caches, fallbacks, seeds


def test_requests_come_out_as_stages_say():
    result = run(scenario(ENCODE | {"cache_hit_rate": 0.3}, WRITE | {"cache_hit_rate": 0.5}), hardware="h100-sxm-80gb")
    assert sum(result.outcomes.values()) == result.measured
    cached = result.nodes["write"].outcomes[Outcome.CACHED] / sum(result.nodes["write"].outcomes.values())
    assert cached == pytest.approx(0.5, abs=0.05)


def test_the_same_seed_is_the_same_run_and_another_is_another():
    wanted = scenario(ENCODE, WRITE)
    runs = [run(wanted, hardware="h100-sxm-80gb", seed=seed) for seed in (1, 1, 2)]
    told = [[value.value for value in result.end_to_end.quantiles.values()] for result in runs]
    assert told[0] == told[1] != told[2]


@pytest.mark.parametrize("stages", [(ENCODE, WRITE), (host("tokenize", variation=0.5), RERANK | {"tokens_cv": 0.5})])
def test_how_a_run_is_cut_changes_nothing(stages):
    wanted = scenario(*stages, traffic={"peak_rate": 300})
    found = pools(wanted, "h100-sxm-80gb")
    runs = [
        verify.run(found, wanted, case(found, wanted), Settings(requests=1500, chunk=chunk, keep=1500)).records
        for chunk in (1 << 16, 97)
    ]
    assert runs[0].requests.time_s.tolist() == runs[1].requests.time_s.tolist()


def test_steps_that_take_longer_make_requests_take_longer():
    wanted = scenario(ENCODE, WRITE)
    slow, usual, fast = (run(wanted, hardware="h100-sxm-80gb", shift=z).end_to_end.mean.value for z in (1.6, 0.0, -1.6))
    assert fast < usual < slow


def test_prompts_read_apart_split_the_replicas():
    wanted = scenario(WRITE | {"disaggregated": True})
    found = pools(wanted, "h100-sxm-80gb")
    (node,) = online.nodes(found, wanted, case(found, wanted, replicas=6))
    assert node.name == "write"
    result = run(wanted, hardware="h100-sxm-80gb", replicas=6)
    assert result.outcomes[Outcome.SERVED] == result.measured
    with pytest.raises(CapacityError, match="at least 2 replicas"):
        online.nodes(found, wanted, case(found, wanted, replicas=1))


# Arrivals


@pytest.mark.parametrize(
    ("traffic", "kind"),
    [
        ({}, arrivals.Poisson), ({"arrivals": "constant"}, arrivals.Constant), ({"arrivals": "gamma"}, arrivals.Gamma),
        ({"load": [{"rate": 5, "duration": 60}]}, arrivals.Schedule),
    ],
)  # fmt: skip
def test_requests_come_as_the_traffic_says(traffic, kind):
    wanted = scenario(ENCODE, traffic={"peak_rate": 100} | traffic)
    found = pools(wanted)
    assert isinstance(online.arrivals(wanted, case(found, wanted)), kind)


def test_a_day_rises_and_falls_around_its_peak_hour():
    wanted = scenario(ENCODE, traffic={"peak_rate": 100, "mean_to_peak": 0.5, "peak_hour": 20})
    found = pools(wanted)
    day = online.arrivals(wanted, case(found, wanted, day=True))
    rates = [float(day.rate_at(np.asarray(hour * 3600.0))) for hour in (8, 20)]
    assert rates[1] == pytest.approx(100, rel=0.01)
    assert rates[0] < 50


# Replicas


def test_replicas_fail_and_follow_the_load_only_by_day():
    wanted = scenario(
        ENCODE, serving={"pools": {"encoder": {"failures": {"every": 3600}, "autoscaling": {"maximum": 5}}}}
    )
    (pool,) = found = pools(wanted)
    for day in (False, True):
        builder = online._Builder(
            wanted, case(found, wanted, day=day), online.arrivals(wanted, case(found, wanted)), None
        )
        replicas = builder._replicas(pool)
        assert (replicas.scaling is not None) == day
        assert (replicas.failures != Failures()) == day
        assert replicas.most == (5 if day else 2)


def test_a_region_is_lost_at_the_peak():
    lost = {"failures": {"every": 1e9, "region_loss": 0.5, "region_repair": 1800}}
    wanted = scenario(ENCODE, serving={"pools": {"encoder": lost}})
    (pool,) = found = pools(wanted)
    whole = case(found, wanted, replicas=4, day=True)
    outages = online._Builder(wanted, whole, online.arrivals(wanted, whole), None)._replicas(pool).failures.outages
    assert sorted(outages) == [(0, 72_000.0, 73_800.0), (1, 72_000.0, 73_800.0)]


# A share of a large fleet


@pytest.mark.parametrize(
    ("replicas", "share"),
    [({"a": 64}, 1), ({"a": 127}, 1), ({"a": 128}, 2), ({"a": 6400, "b": 640}, 100), ({"a": 6400, "b": 399}, 1)],
)
def test_the_largest_pool_is_cut_to_64_unless_another_would_lose_its_replicas(replicas, share):
    assert representative(replicas) == share


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.integers(1, 100_000), min_size=1))
def test_every_pool_keeps_a_few_replicas(replicas):
    share = representative(replicas)
    assert share == 1 or all(count >= 4 * share for count in replicas.values())
    assert share == 1 or max(replicas.values()) / share < 2 * online.MOST_SIMULATED


def test_a_share_of_a_fleet_answers_like_all_of_it():
    wanted = scenario(ENCODE, traffic={"peak_rate": 40_000})
    whole, part = (run(wanted, 20_000, replicas=16, share=share).end_to_end for share in (1, 4))
    assert part.quantiles["p50"].value == pytest.approx(whole.quantiles["p50"].value, rel=0.1)


# Sizing by simulation


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(0, 200), st.integers(0, 400))
def test_the_least_that_meets_is_found(fewest, more, edge):
    most, asked = fewest + more, []

    def meets(count: int) -> bool:
        assert fewest <= count <= most
        asked.append(count)
        return count >= min(edge, most)

    assert verify._least(meets, fewest, most) == max(min(edge, most), fewest)
    assert len(asked) <= 2 * math.log2(most + 1) + 2


def test_a_sized_fleet_meets_the_objective_and_one_replica_less_does_not():
    wanted = scenario(RERANK, objective={"latency": 0.3}, serving={"max_batch": 4, "max_wait": 0.005})
    found = pools(wanted)
    start = case(found, wanted, replicas=1, batch=4)
    sized = verify.sized(found, wanted, start)
    assert sized.meets
    assert sized.latency_s <= 0.3
    peak = replace(start, rate=start.rate * (1 + wanted.resilience.headroom))
    trials = verify.Trials(wanted, lambda tried: verify.run(found, wanted, tried, Settings(requests=8000)), peak)
    assert trials.latency_s(sized.replicas) == sized.latency_s
    assert sized.replicas["online"] > 1
    assert not trials.meets({"online": sized.replicas["online"] - 1})


def test_a_pool_of_a_given_size_keeps_it():
    wanted = scenario(ENCODE, RERANK, objective={"latency": 0.3})
    found = pools(wanted)
    start = case(found, wanted, replicas=9)
    sized = verify.sized(found, wanted, start, fixed=["encoder"])
    assert sized.replicas["encoder"] == 9
    assert sized.replicas["online"] <= 9


def test_an_objective_that_no_fleet_meets_is_said():
    wanted = scenario(RERANK, objective={"latency": 0.001})
    found = pools(wanted)
    sized = verify.sized(found, wanted, case(found, wanted))
    assert not sized.meets
    assert sized.latency_s > 0.001
    assert sized.trials < verify.MOST_TRIALS


def test_giving_up_is_no_answer():
    wanted = scenario(RERANK | {"timeout": 0.01, "fallback": 0.001}, traffic={"peak_rate": 2000})
    result = run(wanted, replicas=1)
    assert result.outcomes[Outcome.FALLBACK] > 0.01 * result.measured
    assert verify.tail_s(result, "p99") == math.inf
