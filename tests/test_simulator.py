"""The driver: graphs, joins and losses by hand, queues against theory, and results that do not depend on the cut."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_stages import Delay, Generate, Losing, Ordered, Server, Stage

from capacity.errors import InputError, UnknownNameError
from capacity.fleet.arrivals import Constant, Diurnal, Gamma, Poisson, Schedule, Trace
from capacity.fleet.flow import Flow, Outcome
from capacity.fleet.lengths import Empirical, Fixed, Lognormal, Text
from capacity.fleet.simulated import Settings, Simulated
from capacity.fleet.simulator import Node, ordered, simulate

NO_TEXT = Text()


def run(nodes, arrivals=None, lengths=NO_TEXT, **told) -> Simulated:
    return simulate(nodes, arrivals or Constant(10.0), lengths, Settings(**({"requests": 1000, "warm_up": 0.0} | told)))


def same(one: Simulated, other: Simulated) -> None:
    """Assert that two results are equal to the last bit."""
    for name in ("requests", "measured", "unfinished", "span_s", "outcomes", "throughput_per_s", "goodput_share"):
        assert repr(getattr(one, name)) == repr(getattr(other, name))  # NaN is NaN
    assert one.saturation == other.saturation
    for name in ("end_to_end", "ttft", "tpot"):
        for column in ("counts", "sums_s", "extremes_s"):
            assert np.array_equal(*(getattr(getattr(item, name).histogram, column) for item in (one, other)))
    for column in fields(one.timeline)[:-1]:
        assert np.array_equal(*(getattr(item.timeline, column.name) for item in (one, other)), equal_nan=True)
    for name, node in one.nodes.items():
        assert np.array_equal(node.latency.histogram.sums_s, other.nodes[name].latency.histogram.sums_s)
        assert node.outcomes == other.nodes[name].outcomes
    for column in fields(Flow):
        assert np.array_equal(*(getattr(item.records.requests, column.name) for item in (one, other)), equal_nan=True)


# graphs


def test_a_chain_adds_up():
    found = run([Node("b", Delay(0.5), ("a",)), Node("a", Delay(0.25))], keep=3)
    assert found.requests == found.measured == 1000
    assert found.end_to_end.mean.value == pytest.approx(0.75)
    assert found.nodes["a"].latency.mean.value == pytest.approx(0.25)
    assert found.nodes["b"].latency.quantiles["p99"].value == pytest.approx(0.5)
    assert found.outcomes == {Outcome.SERVED: 1000}
    assert found.nodes["b"].statistics == {"entered": 1000}
    assert found.records.entered_s["b"].tolist() == pytest.approx([0.25, 0.35, 0.45])
    assert found.records.left_s["b"].tolist() == pytest.approx([0.75, 0.85, 0.95])


def test_a_join_waits_for_the_slowest_and_all_sinks_must_be_done():
    slow_if_even = Delay(lambda request: np.where(request % 2 == 0, 3.0, 1.0))
    nodes = [
        Node("encode", Delay(0.5)),
        Node("one", slow_if_even, ("encode",)),
        Node("two", Delay(2.0), ("encode",)),
        Node("rank", Delay(0.25), ("one", "two")),
        Node("log", Delay(3.0), ("two",)),
    ]
    found = run(nodes, keep=10)
    rank_done = 0.5 + np.maximum(np.where(np.arange(10) % 2 == 0, 3.0, 1.0), 2.0) + 0.25
    assert found.records.end_to_end_s == pytest.approx(np.maximum(rank_done, 0.5 + 2.0 + 3.0))
    assert found.records.entered_s["rank"] - found.records.requests.arrival_s == pytest.approx(rank_done - 0.25)
    assert found.nodes["rank"].latency.count == 1000


def test_several_nodes_may_take_requests_at_the_door():
    found = run([Node("a", Delay(1.0)), Node("b", Delay(2.0)), Node("c", Delay(0.5), ("a", "b"))])
    assert found.end_to_end.mean.value == pytest.approx(2.5)


def test_a_graph_must_be_one():
    stage = Delay(1.0)
    with pytest.raises(InputError, match="wait for each other: a, b"):
        ordered([Node("a", stage, ("b",)), Node("b", stage, ("a",)), Node("c", stage)])
    with pytest.raises(UnknownNameError, match="did you mean encode"):
        ordered([Node("encode", stage), Node("rank", stage, ("encoder",))])
    with pytest.raises(InputError, match="name of its own"):
        ordered([Node("a", stage), Node("a", stage)])
    with pytest.raises(InputError, match="at least one node"):
        ordered([])


# outcomes


@pytest.mark.parametrize("outcome", [Outcome.SHED, Outcome.TIMED_OUT, Outcome.FAILED])
def test_who_is_lost_skips_the_rest_and_is_no_latency(outcome):
    rest = Delay(5.0)
    found = run([Node("a", Losing(1.0, 4, outcome)), Node("b", rest, ("a",))], keep=8)
    assert found.outcomes == {Outcome.SERVED: 750, outcome: 250}
    assert rest.entered == 750
    assert found.end_to_end.count == 750
    assert found.end_to_end.mean.value == pytest.approx(6.0)
    assert found.records.end_to_end_s == pytest.approx(np.where(np.arange(8) % 4 == 0, 1.0, 6.0))
    assert np.isnan(found.records.left_s["b"][::4]).all()
    assert found.goodput_share.value == 0.75


def test_lost_in_two_branches_counts_once_and_leaves_with_the_first():
    nodes = [
        Node("a", Losing(2.0, 2, Outcome.SHED)),
        Node("b", Losing(1.0, 4, Outcome.TIMED_OUT)),
        Node("c", Delay(1.0), ("a", "b")),
    ]
    found = run(nodes, keep=4)
    assert found.outcomes == {Outcome.SERVED: 500, Outcome.SHED: 250, Outcome.TIMED_OUT: 250}
    assert found.records.end_to_end_s == pytest.approx([1.0, 3.0, 2.0, 3.0])
    assert found.unfinished == 0


def test_a_fallback_stays_and_a_cached_stage_goes_on():
    nodes = [
        Node("a", Losing(1.0, 4, Outcome.FALLBACK)),
        Node("b", Losing(1.0, 4, Outcome.CACHED, 1), ("a",)),
        Node("c", Delay(1.0), ("b",)),
    ]
    found = run(nodes)
    assert found.outcomes == {Outcome.SERVED: 750, Outcome.FALLBACK: 250}
    assert found.nodes["b"].outcomes == {Outcome.SERVED: 750, Outcome.CACHED: 250}
    assert found.end_to_end.mean.value == pytest.approx(3.0)


def test_a_cache_of_whole_answers():
    rest = Delay(1.0)
    found = run([Node("a", Losing(0.5, 4, Outcome.CACHED), answers=True), Node("b", rest, ("a",))])
    assert found.outcomes == {Outcome.SERVED: 750, Outcome.CACHED: 250}
    assert (found.end_to_end.count, rest.entered) == (1000, 750)
    assert found.end_to_end.mean.value == pytest.approx(0.75 * 1.5 + 0.25 * 0.5)


# text


def test_first_token_time_per_token_and_goodput():
    lengths = Text(Fixed(100), Empirical(np.array([1, 11, 101])))
    found = run([Node("llm", Generate(0.0)), Node("send", Delay(0.5), ("llm",))], lengths=lengths, keep=1000)
    output = found.records.requests.output_tokens
    assert found.ttft.mean.value == pytest.approx(1.0)
    assert found.records.end_to_end_s == pytest.approx(1.5 + 0.1 * (output - 1))
    assert found.tpot.count == (output > 1).sum()
    assert found.records.tpot_s[output > 1] == pytest.approx(0.1 + 0.5 / (output[output > 1] - 1))
    for limit, good in [
        ({"end_to_end": 3.0}, output <= 11),
        ({"tpot": 0.12}, output != 11),
        ({"ttft": 0.9}, output < 0),
        ({"end_to_end": 3.0, "tpot": 0.12}, output == 1),
    ]:
        again = run([Node("llm", Generate(0.0)), Node("send", Delay(0.5), ("llm",))], lengths=lengths, objectives=limit)
        assert again.goodput_share.value == pytest.approx(good.mean())
        assert again.goodput_per_s.value == pytest.approx(good.mean() * again.offered_per_s)


def test_unknown_objectives_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean ttft"):
        Settings(objectives={"tttf": 1.0})


# how long


def test_a_run_ends_with_its_requests_its_duration_or_its_arrivals():
    nodes = [Node("a", Delay(1.0))]
    assert run(nodes, requests=17).requests == 17
    assert run(nodes, requests=None, duration_s=3.0).requests == 30
    trace = Trace(np.array([0.0, 1.0, 1.0, 2.0]), np.ones(4, int), np.ones(4, int))
    assert run(nodes, trace, requests=None).requests == 4
    assert run(nodes, trace, requests=None, chunk=1).requests == 4
    assert run(nodes, trace, requests=None, duration_s=1.0).requests == 1
    assert run(nodes, Schedule(((1.0, 10.0),), "constant"), requests=1000).requests == 10
    with pytest.raises(InputError, match="never end"):
        run(nodes, requests=None)


def test_the_warm_up_is_left_out():
    found = run([Node("a", Delay(lambda request: np.where(request < 200, 100.0, 1.0)))], warm_up=0.2)
    assert (found.requests, found.measured, found.end_to_end.count) == (1000, 800, 800)
    assert found.end_to_end.mean.value == pytest.approx(1.0)
    assert found.span_s == pytest.approx(79.9)
    assert found.offered_per_s == pytest.approx(10, rel=0.01)
    assert found.throughput_per_s == pytest.approx(10, rel=0.02)


def test_progress_is_told():
    said: list[int] = []
    run([Node("a", Delay(1.0))], chunk=400, progress=said.append)
    assert said[-1] == 1000
    assert said == sorted(said)


# cutting


def a_pipeline() -> list[Node]:
    return [
        Node("encode", Ordered(0.05)),
        Node("ann", Losing(lambda request: 0.01 * (request % 7), 9, Outcome.SHED), ("encode",)),
        Node("features", Losing(lambda request: 0.02 * (request % 5), 11, Outcome.FALLBACK), ("encode",)),
        Node("rank", Server(0.04), ("ann", "features")),
        Node("llm", Generate(0.0), ("rank",)),
    ]


@pytest.mark.parametrize(
    "arrivals",
    [Poisson(15.0), Gamma(15.0, 3.0), Schedule(((5.0, 60.0), (15.0, 60.0)), "constant"), Diurnal(15.0, 0.5, 0.0)],
    ids=lambda arrivals: type(arrivals).__name__,
)
def test_the_same_bits_however_the_run_is_cut(arrivals):
    told = {"keep": 500, "warm_up": 0.1, "requests": 1500, "objectives": {"end_to_end": 2.0}}
    lengths = Text(Fixed(5), Lognormal(10, 1.0))
    whole = run(a_pipeline(), arrivals, lengths, **told)
    for chunk in (1, 37, 1024):
        same(whole, run(a_pipeline(), arrivals, lengths, chunk=chunk, **told))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(1, 50))
@settings(max_examples=25, deadline=None)
def test_requests_at_the_same_time_are_not_torn_apart(ticks, chunk):
    times = np.sort(np.array(ticks, float))
    trace = Trace(times, np.ones(len(times), int), np.full(len(times), 3))
    told = {"requests": None, "keep": 50}
    nodes = [Node("a", Losing(1.0, 3, Outcome.SHED)), Node("b", Delay(0.0)), Node("c", Delay(1.0), ("a", "b"))]
    same(run(nodes, trace, **told), run(nodes, trace, chunk=chunk, **told))


@given(st.integers(0, 2**30), st.integers(1, 400))
@settings(max_examples=15, deadline=None)
def test_all_that_comes_leaves_once(seed, requests):
    found = run(a_pipeline(), Poisson(12.0), seed=seed, requests=requests, chunk=64, keep=requests)
    assert found.requests == sum(found.outcomes.values()) == requests
    assert found.unfinished == 0
    assert found.timeline.in_flight[-1] == 0
    assert np.array_equal(found.records.requests.request, np.arange(requests))
    assert np.all(found.records.end_to_end_s >= 0)


# theory


def test_mm1_and_its_monte_carlo_error():
    found = run([Node("a", Ordered(0.7))], Poisson(1.0), requests=200_000, warm_up=0.05)
    mean = found.end_to_end.mean
    assert mean.value == pytest.approx(0.7 / 0.3, abs=4 * mean.standard_error)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        told = found.end_to_end.quantiles[name]
        assert told.value == pytest.approx(-math.log(1 - share) * 0.7 / 0.3, abs=4 * told.standard_error)
    assert 0.01 < mean.standard_error / mean.value < 0.05
    assert found.saturation.state == "stable"
    assert found.throughput_per_s == pytest.approx(1.0, rel=0.01)


def test_little_on_the_timeline():
    found = run([Node("a", Ordered(0.6))], Poisson(1.0), requests=100_000)
    inside = found.timeline.in_flight[:-2].mean()
    assert inside == pytest.approx(found.end_to_end.mean.value * found.offered_per_s, rel=0.15)
    assert found.timeline.arrivals_per_s[:-2].mean() == pytest.approx(1.0, rel=0.02)
    assert 128 <= len(found.timeline.start_s) <= 256


def test_a_tandem_of_two_servers_is_two_independent_ones():
    """Jackson's theorem."""
    found = run([Node("a", Ordered(0.5)), Node("b", Ordered(0.6, 5), ("a",))], Poisson(1.0), requests=100_000)
    for name, mean_s in (("a", 1.0), ("b", 1.5)):
        told = found.nodes[name].latency.mean
        assert told.value == pytest.approx(mean_s, abs=4 * told.standard_error)


# saturation


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("load", "state"), [(0.3, "stable"), (0.8, "stable"), (0.9, "stable"), (1.1, "overloaded")])
def test_a_server_keeps_up_below_a_load_of_one(load, state, seed):
    found = run([Node("a", Ordered(load, seed))], Poisson(1.0), requests=20_000, seed=seed, warm_up=0.1)
    assert found.saturation.state == state, found.saturation.reason


@pytest.mark.parametrize(
    "arrivals", [Constant(1.0), Gamma(1.0, 3.0), Schedule(((0.5, 10_000.0), (1.0, 10_000.0)), "constant")]
)
@pytest.mark.parametrize(("load", "state"), [(0.8, "stable"), (1.25, "overloaded")])
def test_whatever_way_they_come(arrivals, load, state):
    found = run([Node("a", Ordered(load))], arrivals, requests=15_000, warm_up=0.1)
    assert found.saturation.state == state, found.saturation.reason


def test_long_answers_are_no_overload():
    """Everybody stays longer than the run: in flight only grows, but nobody waits."""
    assert run([Node("a", Delay(500.0))], Poisson(10.0), requests=3000).saturation.state == "stable"


def test_a_rush_that_drains_is_a_backlog():
    rush = Schedule(((0.5, 5000.0), (2.0, 2000.0), (0.5, 9000.0)))
    found = run([Node("a", Ordered(1.0))], rush, requests=None)
    assert found.saturation.state == "backlogged"
    assert "a queue built up" in found.saturation.reason


def test_losing_many_is_overload_however_short_the_queue():
    found = run([Node("a", Losing(1.0, 10, Outcome.SHED))])
    assert found.saturation.state == "overloaded"
    assert found.saturation.reason == "10.0% of the requests were shed or timed out"


def test_a_run_stops_when_too_many_are_inside():
    found = run([Node("a", Delay(1e6))], Poisson(10.0), requests=100_000, chunk=100, most_inside=1000)
    assert found.requests < 1300
    assert found.unfinished == found.requests
    assert found.saturation.state == "overloaded"
    assert "more than allowed" in found.saturation.reason


def test_the_timeline_tells_who_was_up():
    class Scaled(Delay):
        def statistics(self):
            return {"timeline": np.array([[0.0, 1.0, 2.0], [30.0, 3.0, 0.0], [70.0, 2.0, 0.0]])}

    found = run([Node("a", Scaled(1.0)), Node("b", Delay(1.0))], requests=1000).timeline
    ends_s = found.start_s + found.width_s
    assert set(found.replicas_up) == {"a"}
    assert found.replicas_up["a"].tolist() == np.where(ends_s < 30, 1, np.where(ends_s < 70, 3, 2)).tolist()


class Hole(Stage):
    """Nothing ever comes back: all replicas are dead."""

    def advance(self, flow: Flow, until_s: float) -> Flow:
        return flow.at(slice(0, 0))


def test_who_never_comes_back_is_said():
    found = run([Node("a", Hole())], keep=5)
    assert found.unfinished == 1000
    assert found.saturation.reason == "1,000 requests were never answered"
    assert len(found.records.requests) == 0
