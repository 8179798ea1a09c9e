"""Continuous batching in closed form: by hand, against its own equation, and at the edge of what a replica carries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served_models import table

from capacity.fleet.equilibrium import MOST_FILLED, course
from capacity.fleet.sizing import Demand, Fleet, GenerateLoad, Miss, fleet, least, sized
from capacity.phases.step_table import StepTable, Texts

SHORT = Texts(prompt=20.0, output=30.0)


def constant(step_s: float = 2e-3, tokens: int = 1000, sequences: int = 64) -> StepTable:
    """Return steps of which each takes as long, whatever is in them."""
    nothing = np.zeros((11, 11))
    return table(
        tokens, sequences, linear_s=np.zeros(tokens + 1), decode_s=np.zeros((sequences + 1, 11)), prefill_s=nothing,
        query_step=tokens / 10, host_s=np.full(sequences + 1, step_s),
    )  # fmt: skip


def load(step_table: StepTable | None = None, texts: Texts = SHORT, slots: float = 8, **changes) -> GenerateLoad:
    found = course(step_table or table(), texts, slots)
    return GenerateLoad(name="llm", course=found, slots=slots, service_scv=changes.pop("service_scv", 0.1), **changes)


# By hand


def test_steps_of_one_length_by_hand():
    """100/s of 11 steps of 2 ms are 2.2 in service; the first token takes half a step and the one that reads."""
    texts = Texts(prompt=50.0, output=11.0)
    found = course(constant(), texts, 64).steady(100.0)
    assert found.sequences == pytest.approx(2.2)
    assert found.step_s == pytest.approx(2e-3)
    assert found.first_s == pytest.approx(1e-3 + 2e-3)
    assert found.request_s == pytest.approx(3e-3 + 10 * 2e-3)


def test_slots_bound_the_rate_by_hand():
    """16 slots, each for 11 steps of 2 ms."""
    assert course(constant(), Texts(prompt=50.0, output=11.0), 16).most_rate == pytest.approx(16 / 0.022)


def test_room_in_a_step_bounds_the_rate_by_hand():
    """Each of n sequences takes a token of the 100, and 50/11 for the prompts of those that follow it."""
    found = course(constant(tokens=100), Texts(prompt=50.0, output=11.0), 64)
    assert found.most_rate == pytest.approx(MOST_FILLED * 100 / (1 + 50 / 11) / 0.022)


def test_beams_count_as_sequences_and_cached_prompts_as_nothing():
    wide = course(constant(), Texts(prompt=50.0, cached=49.0, output=11.0, beams=4), 16)
    assert wide.most_rate == pytest.approx(16 / 0.022)
    assert wide.steady(100.0).sequences == pytest.approx(4 * 2.2)


def test_tokens_guessed_ahead_save_steps():
    plain, guessed = (course(constant(), Texts(prompt=1.0, output=11.0, tokens_per_step=k), 8) for k in (1.0, 2.0))
    assert guessed.most_rate == pytest.approx(plain.most_rate * 11 / 6)


def test_prompts_wait_for_prompts_as_in_m_d_1():
    """ρ·S/(2(1 − ρ)) with S, what reading adds to a step."""
    texts, rate = SHORT, 20.0
    found = course(table(), texts, 8)
    settled = found.steady(rate)
    adds_s = table().read_s(texts, settled.sequences) - table().step_s(texts, settled.sequences)
    busy = rate * adds_s
    waited_s = busy * adds_s / (2 * (1 - busy))
    assert settled.first_s == pytest.approx(settled.step_s / 2 + table().read_s(texts, settled.sequences) + waited_s)


# The equation


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 60), st.integers(2, 60), st.sampled_from([1, 2]), st.floats(1.0, 3.0), st.floats(0.02, 0.98),
    st.floats(0.0, 1.0),
)  # fmt: skip
def test_where_it_settles_is_what_the_load_keeps_in_service(prompt, output, beams, per_step, share, cached):
    texts = Texts(
        prompt=float(prompt), cached=cached * (prompt - 1), output=float(output), beams=beams, tokens_per_step=per_step
    )
    found = course(table(), texts, 5)
    rate = share * found.most_rate
    settled = found.steady(rate)
    assert settled.sequences == pytest.approx(rate * texts.steps * beams * settled.step_s, rel=0.01)
    whole = texts.prompt - texts.cached
    without_s, with_s = (table().step_s(texts, settled.sequences + beams, prompt) for prompt in (0.0, whole))
    prompts = rate * settled.step_s  # in one step on average; most steps read none
    if prompts < 1 and whole >= 1:
        assert settled.step_s == pytest.approx(without_s + prompts * (with_s - without_s), rel=0.02)
    assert settled.request_s >= table().request_s(texts, float(beams)) * 0.999


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 80), st.integers(2, 80), st.floats(0.5, 9))
def test_the_most_a_replica_carries_is_the_edge(prompt, output, slots):
    texts = Texts(prompt=float(prompt), output=float(output))
    found = course(table(), texts, slots)
    assert found.steady(0.999 * found.most_rate).sequences <= slots * (1 + 1e-9)
    assert found.steady(1.001 * found.most_rate) is None
    slots_s = texts.steps * table().step_s(texts, 1.0)
    assert found.most_rate <= slots / slots_s * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_more_load_takes_longer(one, other):
    found = course(table(), SHORT, 8)
    low, high = (found.steady(share * found.most_rate) for share in sorted((one, other)))
    for name in ("sequences", "step_s", "first_s", "request_s"):
        assert getattr(low, name) <= getattr(high, name) * (1 + 1e-9)


def test_a_slower_replica_carries_less_by_as_much():
    found = course(table(), SHORT, 8)
    twice = found.slowed(2.0)
    assert twice.most_rate == pytest.approx(found.most_rate / 2)
    assert twice.steady(10.0).step_s == pytest.approx(2 * found.steady(20.0).step_s)
    assert course(table().scaled(2.0), SHORT, 8).most_rate == pytest.approx(twice.most_rate)


# Pools of an LLM engine


def tail_s(pool: GenerateLoad, replicas: int, rate: float) -> float:
    return fleet([pool], {"llm": replicas}, Demand(rate=rate, headroom=0, latency_s=1, quantile=0.99)).quantile_s


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_more_replicas_are_faster_and_more_requests_slower(replicas, more, one, other):
    pool = load()
    low, high = sorted((one, other))
    rate = replicas * pool.most_rate()
    assert tail_s(pool, replicas, low * rate) <= tail_s(pool, replicas, high * rate) * (1 + 1e-9)
    assert tail_s(pool, replicas + more, low * rate) <= tail_s(pool, replicas, low * rate) * (1 + 1e-9)


def test_requests_answered_from_a_cache_do_not_reach_the_replicas():
    whole, half = load(), load(share=0.5)
    assert half.most_rate() == pytest.approx(2 * whole.most_rate())
    assert half.steady(2, 40.0).step_s == pytest.approx(whole.steady(2, 20.0).step_s)
    assert load(share=0.0).most_rate() == math.inf


def test_a_pool_that_does_not_keep_up_never_answers():
    pool = load()
    assert pool.steady(1, 1.01 * pool.most_rate()) is None
    assert pool.latency(1, 1.01 * pool.most_rate()).wait.quantile(0.5) == math.inf


def test_what_clients_see_later_is_part_of_the_latency():
    later = load(seen=lambda settled: 0.1 + settled.step_s)
    assert later.latency(1, 10.0).forming_s == pytest.approx(0.1 + later.steady(1, 10.0).step_s)
    assert tail_s(later, 1, 10.0) - tail_s(load(), 1, 10.0) == pytest.approx(later.latency(1, 10.0).forming_s)


def test_the_fewest_replicas_of_an_engine():
    pool = load()
    wanted = Demand(rate=5.5 * pool.most_rate(), headroom=0.1, latency_s=10.0, quantile=0.99)
    assert least(pool, wanted.rate) == 6
    found = sized([pool], wanted)
    assert isinstance(found, Fleet)
    replicas = found.replicas["llm"]
    assert replicas >= 7  # headroom
    assert tail_s(pool, replicas, 1.1 * wanted.rate) <= 10.0
    assert replicas == least(pool, 1.1 * wanted.rate) or tail_s(pool, replicas - 1, 1.1 * wanted.rate) > 10.0
    hurried = sized([pool], Demand(rate=1.0, headroom=0.0, latency_s=pool.alone_s / 2, quantile=0.99))
    assert isinstance(hurried, Miss)
    assert "alone" in hurried.constraint
