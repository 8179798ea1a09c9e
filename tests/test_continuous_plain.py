"""Continuous batching against the plain engine of `plain_continuous`, over all options drawn at random."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_continuous import Plain, flow

from capacity.fleet.continuous import ContinuousStage, Engine, Policy
from capacity.fleet.flow import Flow, joined
from capacity.fleet.replicas import Autoscaling, Failures, Replicas
from capacity.phases.step_table import StepTable

INF = math.inf
AFTERWARDS = {"timeline", "replica_s", "settled_s", "up_s"}
"""Go on after the last request has left, until the last cut."""


def drawn_table(draw: np.random.Generator) -> StepTable:
    """Return a table with kinks, a floor that sometimes binds and contexts beyond its end."""
    linear = np.cumsum(draw.uniform(0, 1e-4, 257)) + 3e-3
    decode = np.cumsum(np.cumsum(draw.uniform(0, 2e-4, (17, 9)), axis=1), axis=0)
    prefill = np.cumsum(np.cumsum(draw.uniform(0, 5e-4, (5, 6)), axis=0), axis=1)
    for table in (linear, decode, prefill):
        table[0] = 0
    return StepTable(
        linear_s=linear, decode_s=decode, context_step=float(draw.choice([7, 16, 33])), prefill_s=prefill,
        query_step=16.0, start_step=32.0, host_s=draw.uniform(1e-3, 2e-3, 17), floor_s=draw.uniform(4e-3, 12e-3, 17),
        prompt_s=float(draw.choice([0, 1e-3])),
    )  # fmt: skip


def drawn_engine(draw: np.random.Generator) -> Engine:
    beams, verified = int(draw.choice([1, 1, 1, 2, 3])), int(draw.choice([1, 1, 3]))
    sequences = int(draw.integers(beams, 17))
    return Engine(
        kv_blocks=int(draw.integers(12, 80)), max_sequences=sequences, block_tokens=int(draw.choice([1, 4, 16])),
        max_batched_tokens=max(sequences * verified, int(draw.integers(20, 257))), chunked=bool(draw.random() < 0.7),
        mixed=bool(draw.random() < 0.7), beams=beams, tokens_per_step=float(draw.choice([1, 1, 1, 1.5, 2.7])),
        verified_tokens=verified, prompts_cached=bool(draw.random() < 0.15),
        prefix_hit_rate=float(draw.choice([0, 0, 0.5, 0.9])),
        prefix_tokens=tuple(draw.integers(1, 60, int(draw.choice([0, 2, 5]))).tolist()),
        visible_after_s=float(draw.choice([0, 0.01])), visible_after_steps=float(draw.choice([0, 1.5])),
    )  # fmt: skip


def drawn_policy(draw: np.random.Generator) -> Policy:
    limit = int(draw.choice([0, 2, 5]))
    return Policy(
        routing=str(draw.choice(["round-robin", "least-loaded", "prefix-aware"])), imbalance=int(draw.integers(0, 4)),
        queue_limit=limit or None, timeout_s=float(draw.choice([0.05, 0.3, INF])), retries=int(draw.integers(0, 3)),
    )  # fmt: skip


def drawn_flow(draw: np.random.Generator, engine: Engine) -> Flow:
    count, prefixes = int(draw.integers(5, 80)), len(engine.prefix_tokens)
    times = np.cumsum(draw.exponential(1 / draw.choice([5, 30, 100, 1000]), count))
    if draw.random() < 0.2:
        times = np.repeat(times[::3], 3)[:count]  # some arrive together
    longest = (150, 60) if engine.block_tokens > 1 else (20, 20)
    prefix = draw.integers(-1, prefixes, count) if prefixes else None
    first = times - draw.uniform(0, 0.1, count) if engine.prompts_cached else None
    return flow(times, draw.integers(1, longest[0], count), draw.integers(1, longest[1], count), prefix, first)


def drawn_outages(draw: np.random.Generator, replicas: int, end_s: float) -> tuple[tuple[int, float, float], ...]:
    downs = draw.uniform(0, 1.3 * end_s, int(draw.integers(0, 4)))
    if draw.random() < 0.2:  # a region is lost
        down_s = float(draw.uniform(0, end_s))
        return tuple((replica, down_s, down_s + float(draw.choice([0.05, 0.5, 5]))) for replica in range(replicas))
    return tuple(
        (int(draw.integers(0, replicas)), float(down_s), float(down_s + draw.choice([0.05, 0.5, 5, INF])))
        for down_s in downs
    )


def compare(plain: Plain, stage: ContinuousStage, expected: list, result: Flow) -> None:
    """Check that every request left at the same time in the same way, and that the books agree."""
    ours = np.column_stack([result.time_s, result.request, result.first_s, result.outcome])
    theirs = np.array(expected)
    assert ours.shape == theirs.shape
    ours, theirs = (rows[np.argsort(rows[:, 1])] for rows in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    statistics = stage.statistics()
    for name in ("preemptions", "prefix_hits", "cached_tokens", "prompt_tokens"):
        assert statistics[name] == getattr(plain, name), name
    for name in ("busy_s", "running_area_s", "most_used"):
        np.testing.assert_allclose(statistics[name], getattr(plain, name), atol=1e-9, err_msg=name)
    assert statistics["gaps"].sum() == len(plain.gaps)
    edges = np.concatenate([[0], statistics["gap_s"]])
    found = np.repeat(statistics["gap_s"], statistics["gaps"])
    assert np.abs(np.log(found[: len(plain.gaps)] / np.sort(plain.gaps))).max(initial=0) < 0.0101  # within two bins
    assert len(edges) == len(statistics["gaps"]) + 1


@pytest.mark.parametrize("first", range(0, 400, 40))
def test_equal_to_the_plain_engine_however_cut(first):
    for seed in range(first, first + 40):
        draw = np.random.default_rng(seed)
        table, engine, policy = drawn_table(draw), drawn_engine(draw), drawn_policy(draw)
        requests, replicas = drawn_flow(draw, engine), int(draw.integers(1, 5))
        outages = drawn_outages(draw, replicas, float(requests.time_s[-1]))
        plain = Plain(table, engine, replicas, policy, outages)
        expected = plain.run(requests)
        stage = ContinuousStage(table, engine, Replicas(count=replicas, failures=Failures(outages=outages)), policy)
        cuts = np.sort(draw.uniform(0, 1.5 * requests.time_s[-1], int(draw.integers(0, 6))))
        compare(plain, stage, expected, in_pieces(stage, requests, cuts.tolist()))


def test_closed_loop_is_equal_to_the_plain_engine():
    for seed in range(60):
        draw = np.random.default_rng(seed)
        table, engine, policy = drawn_table(draw), replace(drawn_engine(draw), prompts_cached=False), drawn_policy(draw)
        requests, clients = drawn_flow(draw, engine), int(draw.integers(1, 20))
        # one replica: two may come into step, and who is first at equal times is then a matter of rounding
        plain = Plain(table, engine, 1, policy)
        stage = ContinuousStage(table, engine, policy=policy)
        compare(plain, stage, plain.run(requests, clients, 0.02), stage.closed(clients, requests, 0.02))


def in_pieces(stage: ContinuousStage, requests: Flow, cuts: list[float]) -> Flow:
    pieces, before = [], -INF
    for until_s in [*cuts, INF]:
        pieces.append(stage.advance(requests.at((requests.time_s > before) & (requests.time_s <= until_s)), until_s))
        assert (pieces[-1].time_s < until_s).all() or until_s == INF
        before = until_s
    whole = joined(pieces)
    assert (np.diff(whole.time_s) >= 0).all()
    return whole


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.floats(0, 3), max_size=6))
def test_same_bits_however_cut(seed, cuts):
    draw = np.random.default_rng(seed)
    table, engine, policy = drawn_table(draw), drawn_engine(draw), drawn_policy(draw)
    requests = drawn_flow(draw, engine)
    failures = Failures(mean_between_s=1.0, mean_repair_s=0.2)
    scaling = Autoscaling(
        kind="queue", target=2.0, interval_s=0.1, cold_start_s=0.05, maximum=3, scale_down_delay_s=0.3
    )
    replicas = Replicas(count=2, scaling=scaling, failures=failures)
    whole, cut = (ContinuousStage(table, engine, replicas, policy, seed) for _ in range(2))
    expected, result = whole.advance(requests, INF), in_pieces(cut, requests, sorted(cuts))
    for name in ("request", "time_s", "first_s", "outcome"):
        np.testing.assert_array_equal(getattr(expected, name), getattr(result, name))
    assert len(expected) == len(requests)
    assert (expected.time_s >= expected.arrival_s).all()
    assert {name: str(value) for name, value in whole.statistics().items() if name not in AFTERWARDS} == {
        name: str(value) for name, value in cut.statistics().items() if name not in AFTERWARDS
    }


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_slower_steps_never_help(seed):
    draw = np.random.default_rng(seed)
    table, engine = drawn_table(draw), replace(drawn_engine(draw), prompts_cached=False)
    requests = drawn_flow(draw, engine)
    fast, slow = (ContinuousStage(each, engine).advance(requests, INF) for each in (table, table.scaled(1.5)))
    assert slow.time_s.max() >= fast.time_s.max()
    assert float(slow.time_s.mean()) >= float(fast.time_s.mean())
