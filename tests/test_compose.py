"""Stages made of others: nothing is lost, nothing depends on how a run is cut, and shares are what was asked for."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_stages import Delay as ToyDelay
from toy_stages import Server

from capacity.fleet.compose import Delay, Guarded, InSeries, Texted
from capacity.fleet.flow import Flow, Outcome, joined
from capacity.fleet.lengths import Fixed, Lognormal, Text


def arrivals(count: int, rate: float = 10.0, seed: int = 0) -> Flow:
    random = np.random.default_rng(seed)
    return Flow.of(np.arange(count), np.cumsum(random.exponential(1 / rate, count)))


def run(stage, flow: Flow, cuts=()) -> Flow:
    """Return all that leaves a stage which gets its requests piece by piece."""
    left, first = [], 0
    for cut in cuts:
        last = int(np.searchsorted(flow.time_s, cut, side="right"))
        left.append(stage.advance(flow.at(np.arange(first, last)), cut))
        assert not len(left[-1]) or left[-1].time_s[-1] <= cut
        first = last
    left.append(stage.advance(flow.at(np.arange(first, len(flow))), math.inf))
    whole = joined(left)
    assert (np.diff(whole.time_s) >= 0).all()
    return whole


def same(one: Flow, other: Flow) -> bool:
    one, other = (flow.at(np.argsort(flow.request)) for flow in (one, other))
    pairs = ((getattr(one, item.name), getattr(other, item.name)) for item in fields(Flow))
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


class Losing(ToyDelay):
    """Half a second, and every third request is shed at once."""

    def __init__(self) -> None:
        super().__init__(lambda request: np.where(request % 3 == 0, 0.0, 0.5))

    def leave(self, flow: Flow) -> Flow:
        shed = np.where(flow.request % 3 == 0, int(Outcome.SHED), int(Outcome.SERVED))
        return replace(super().leave(flow), outcome=shed)


STAGES = {
    "delay": lambda: Delay(0.3),
    "varied delay": lambda: Delay(0.3, 0.8, seed=3, name="d"),
    "texts": lambda: Texted(Server(0.05), Text(Lognormal(100.0, 0.5), Fixed(7)), seed=5),
    "series": lambda: InSeries([Delay(0.1, 0.5, name="a"), Server(0.05), Delay(0.2, name="c")]),
    "cache": lambda: Guarded(Server(0.05), 0.4, seed=7, name="g"),
    "fallback": lambda: Guarded(Losing(), 0.2, 0.7, seed=7, name="f"),
}


@pytest.mark.parametrize("name", STAGES)
@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0.1, 30), max_size=6))
def test_requests_are_kept_and_cuts_change_nothing(name, cuts):
    flow = arrivals(200)
    whole = run(STAGES[name](), flow)
    assert sorted(whole.request.tolist()) == list(range(200))
    assert (whole.time_s >= whole.arrival_s).all()
    assert same(whole, run(STAGES[name](), flow, sorted(cuts)))


# Delays


def test_a_delay_by_hand():
    flow = Flow.of(np.arange(3), np.array([0.0, 1.0, 1.5]))
    stage = Delay(0.5)
    assert stage.advance(flow, 1.2).time_s.tolist() == [0.5]
    assert stage.statistics() == {"inside": 2}
    assert stage.advance(flow.at(slice(0, 0)), 2.0).time_s.tolist() == [1.5, 2.0]


def test_a_varied_delay_has_its_mean_and_variation():
    flow = Flow.of(np.arange(100_000), np.zeros(100_000))
    took_s = run(Delay(2.0, 0.5, seed=1, name="x"), flow).time_s
    assert took_s.mean() == pytest.approx(2.0, rel=0.01)
    assert took_s.std() / took_s.mean() == pytest.approx(0.5, rel=0.02)


def test_what_delays_the_answer_delays_its_first_token():
    flow = replace(Flow.of(np.arange(2), np.zeros(2)), first_s=np.array([1.0, math.nan]))
    told = run(Delay(0.5, first=True), flow).first_s
    assert told[0] == 1.5
    assert math.isnan(told[1])
    assert run(Delay(0.5), flow).first_s[0] == 1.0


# Texts


def test_a_stage_reads_its_own_texts_and_leaves_outputs_alone():
    flow = replace(arrivals(50), output_tokens=np.full(50, 9))
    lengths = Text(Lognormal(100.0, 0.5), Fixed(7))
    read, wrote = (run(Texted(ToyDelay(0.1), lengths, seed=2, outputs=outputs), flow) for outputs in (False, True))
    assert set(read.output_tokens.tolist()) == {9}
    assert set(wrote.output_tokens.tolist()) == {7}
    assert np.array_equal(np.sort(read.input_tokens), np.sort(lengths.columns(2, 0, 50).input_tokens))


def test_a_request_has_the_same_text_whoever_comes_with_it():
    lengths = Text(Lognormal(100.0, 0.5), Fixed(7))
    one = Texted(ToyDelay(0.0), lengths, seed=2).advance(arrivals(50).at(np.array([20, 30])), math.inf)
    assert one.input_tokens.tolist() == lengths.columns(2, 0, 50).input_tokens[[20, 30]].tolist()


# Stages in series


def test_series_by_hand_and_who_speaks():
    stage = InSeries([ToyDelay(0.5), Server(0.0), ToyDelay(0.25)], speaks=1)
    assert run(stage, Flow.of(np.arange(2), np.array([0.0, 1.0]))).time_s.tolist() == [0.75, 1.75]
    assert stage.statistics()["entered"] == 2


# Caches and fallbacks


def test_the_cache_answers_its_share_at_once():
    whole = run(Guarded(ToyDelay(0.5), 0.3, seed=4, name="g"), arrivals(20_000))
    cached = whole.outcome == Outcome.CACHED
    assert cached.mean() == pytest.approx(0.3, abs=0.01)
    assert np.array_equal(whole.time_s[cached], whole.arrival_s[cached])
    assert np.allclose((whole.time_s - whole.arrival_s)[~cached], 0.5)


@pytest.mark.parametrize(("rate", "outcome"), [(0.0, Outcome.SERVED), (1.0, Outcome.CACHED)])
def test_nothing_or_everything_is_cached(rate, outcome):
    assert set(run(Guarded(ToyDelay(0.5), rate), arrivals(100)).outcome.tolist()) == {outcome}


def test_what_is_given_up_goes_on_without_the_stage():
    stage = Guarded(Losing(), 0.0, 0.2)
    whole = run(stage, arrivals(300))
    fell = whole.outcome == Outcome.FALLBACK
    assert fell.sum() == 100
    assert stage.statistics()["fallbacks"] == 100
    assert np.allclose((whole.time_s - whole.arrival_s)[fell], 0.2)
    assert (whole.request[fell] % 3 == 0).all()


def test_without_a_fallback_what_is_given_up_has_failed():
    whole = run(Guarded(Losing(), 0.0), arrivals(300))
    assert (whole.outcome == Outcome.SHED).sum() == 100


def test_two_caches_of_one_run_are_hit_by_different_requests():
    first, second = (run(Guarded(ToyDelay(0.5), 0.5, name=name), arrivals(4000)) for name in ("a", "b"))
    hits = [set(flow.request[flow.outcome == Outcome.CACHED].tolist()) for flow in (first, second)]
    assert len(hits[0] & hits[1]) / 4000 == pytest.approx(0.25, abs=0.03)
