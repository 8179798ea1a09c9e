"""Arrival processes and lengths: counts, rates and moments by hand, caches in theory and in fact, any cutting."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity.errors import InputError
from capacity.fleet.arrivals import DAY_S, Arrivals, Constant, Diurnal, Gamma, Poisson, Schedule, Trace
from capacity.fleet.lengths import (
    Draw,
    Empirical,
    Fixed,
    InOrder,
    Joint,
    Lognormal,
    Prefixes,
    Text,
)
from capacity.work.caching import hit_rate_of

TRACE = Trace(np.array([0.0, 0.0, 1.0, 4.0]), np.array([10, 20, 30, 40]), np.array([1, 2, 3, 4]))
PROCESSES = (
    Poisson(3.0),
    Constant(3.0),
    Gamma(3.0, 4.0),
    Diurnal(3.0, 0.4, 9.0),
    Schedule(((5.0, 60.0), (0.0, 30.0), (20.0, 60.0))),
    Schedule(((5.0, 60.0), (0.0, 30.0), (20.0, 60.0)), "constant"),
    TRACE,
)


def times(arrivals: Arrivals, count: int, seed: int = 0) -> np.ndarray:
    chunks = islice(arrivals.chunks(seed, 1 << 16), -(-count // (1 << 16)))
    return np.concatenate(list(chunks))[:count]


# times


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
@given(size=st.integers(1, 700), seed=st.integers(0, 2**40))
@settings(max_examples=5, deadline=None)
def test_the_same_times_however_they_are_cut(process, size, seed):
    whole = next(process.chunks(seed, 1400))
    parts = list(islice(process.chunks(seed, size), -(-len(whole) // size)))
    assert all(len(part) <= size for part in parts)
    assert np.array_equal(np.concatenate(parts)[: len(whole)], whole)
    assert np.all(np.diff(whole) >= 0)
    assert whole[0] >= 0


@pytest.mark.parametrize(
    "process", [*PROCESSES[:3], Schedule(((3.0, 1e6),))], ids=lambda process: type(process).__name__
)
def test_the_rate_and_the_spread_are_those_asked_for(process):
    found = times(process, 400_000)
    gaps = np.diff(found)
    count, rate = len(gaps), process.mean_rate
    assert gaps.mean() * rate == pytest.approx(1, abs=4 * math.sqrt(process.scv / count) + 1e-5)
    assert gaps.var() * rate**2 == pytest.approx(process.scv, rel=0.05, abs=1e-9)
    assert process.rate_at(np.array([1.0]))[0] == rate == process.peak_rate
    assert process.duration_s in {math.inf, 1e6}


def test_a_poisson_process_has_as_much_variance_as_mean():
    counts = np.bincount(times(Poisson(5.0), 500_000).astype(int))[:-1]
    assert counts.mean() == pytest.approx(5, rel=0.01)
    assert counts.var() == pytest.approx(5, rel=0.03)


def test_another_seed_gives_other_times():
    assert not np.array_equal(times(Poisson(1.0), 10, seed=1), times(Poisson(1.0), 10, seed=2))


@pytest.mark.parametrize("mean_to_peak", [0.2, 0.5, 0.9, 1.0])
def test_a_day_has_its_mean_and_its_busiest_hour(mean_to_peak):
    day = Diurnal(2.0, mean_to_peak, 15.0)
    rates = day.rate_at(np.arange(0.0, DAY_S, 60.0))
    assert rates.mean() == pytest.approx(day.mean_rate, rel=1e-6)
    assert rates.max() == pytest.approx(day.peak_rate, rel=1e-6)
    if mean_to_peak < 1:
        assert np.argmax(rates) == 15 * 60
    found = times(day, 1_000_000)
    for_sure = found[found < DAY_S * int(found[-1] // DAY_S)]
    hours = np.bincount((for_sure % DAY_S / 3600).astype(int), minlength=24)
    edges = np.arange(0.0, DAY_S, 10.0).reshape(24, -1)
    wanted = day.rate_at(edges + 5.0).mean(axis=1)
    deviation = (hours - wanted / wanted.sum() * hours.sum()) / np.sqrt(hours)
    assert np.abs(deviation).max() < 4.5  # 24 Poisson counts
    assert len(for_sure) / int(found[-1] // DAY_S) == pytest.approx(DAY_S * day.mean_rate, rel=0.005)


def test_evenly_spaced_stages_have_exactly_rate_times_duration_requests():
    schedule = Schedule(((5.0, 600.0), (0.0, 100.0), (10.0, 600.0)), "constant")
    found = np.concatenate(list(schedule.chunks(0, 1000)))
    assert len(found) == schedule.count == 9000
    assert found[:3].tolist() == [0.0, 0.2, 0.4]
    assert found[3000] == pytest.approx(700.0)  # after the pause
    assert found[-1] == pytest.approx(1299.9)
    assert schedule.rate_at(np.array([0.0, 600.0, 700.0, 1300.0])).tolist() == [5.0, 0.0, 10.0, 0.0]
    assert (schedule.duration_s, schedule.peak_rate) == (1300.0, 10.0)


def test_rounding_makes_no_extra_request():
    assert len(np.concatenate(list(Schedule(((0.1, 30.0),), "constant").chunks(0, 10)))) == 3


def test_poisson_stages_keep_their_rates():
    found = np.concatenate(list(Schedule(((50.0, 1000.0), (200.0, 1000.0))).chunks(3, 4096)))
    assert (found < 1000).sum() == pytest.approx(50_000, abs=4 * math.sqrt(50_000))
    assert (found >= 1000).sum() == pytest.approx(200_000, abs=4 * math.sqrt(200_000))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Poisson(0.0),
        lambda: Constant(-1.0),
        lambda: Gamma(1.0, 0.0),
        lambda: Poisson(math.nan),
        lambda: Diurnal(1.0, 0.0),
        lambda: Schedule(()),
        lambda: Schedule(((0.0, 10.0),)),
        lambda: Schedule(((1.0, 0.0),)),
        lambda: Trace(np.array([1.0, 0.0]), np.zeros(2, int), np.zeros(2, int)),
        lambda: Trace(np.array([1.0]), np.zeros(2, int), np.zeros(2, int)),
        lambda: Lognormal(0.0, 1.0),
        lambda: Empirical(np.array([], int)),
        lambda: Empirical(np.array([1, 2]), np.array([1.0])),
        lambda: Prefixes(0),
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError):
        wrong()


# traces


def test_a_trace_is_read_from_csv_and_from_json_lines(tmp_path):
    table = tmp_path / "trace.csv"
    table.write_text("\ufeffmodel,arrival_s,input_tokens,output_tokens\na,0.5,100,7\nb,0.5,30,8\nc,2.5,9,9.0\n")
    lines = tmp_path / "trace.jsonl"
    lines.write_text(
        '{"timestamp": "2023-11-16 18:17:03.9799600", "input_tokens": 374, "output_tokens": 44}\n\n'
        '{"timestamp": "2023-11-16T18:17:05.9799600", "input_tokens": 396, "output_tokens": 109}\n'
    )
    first, second = Trace.read(table), Trace.read(lines)
    assert first.times_s.tolist() == [0.5, 0.5, 2.5]
    assert first.lengths.columns(0, 0, 3).input_tokens.tolist() == [100, 30, 9]
    assert first.output_tokens.tolist() == [7, 8, 9]
    assert second.times_s.tolist() == pytest.approx([0.0, 2.0])
    assert second.output_tokens.tolist() == [44, 109]


def test_a_trace_says_where_it_is_wrong_and_what_is_allowed(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n1,5,5\nsoon,5,5\n0.5,5,5\n2,-1,5\n3,5,2.5\n4,,1\n")
    with pytest.raises(InputError) as caught:
        Trace.read(path)
    said = [str(problem) for problem in caught.value.problems]
    assert said == [
        f"{path}:3: arrival_s is 'soon'; allowed: a number",
        f"{path}:4: arrives at 0.5 s, before 0 or the row above; sort by time",
        f"{path}:5: input_tokens is -1; allowed: a whole number from 0",
        f"{path}:6: output_tokens is 2.5; allowed: a whole number from 0",
        f"{path}:7: input_tokens is ''; allowed: a number",
    ]


@pytest.mark.parametrize(
    ("name", "text", "where", "what"),
    [
        ("a.csv", "arrival_s,input_tokens\n1,2\n", "a.csv:1", "no column output_tokens"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\n", "a.csv", "holds no request"),
        ("a.jsonl", '{"arrival_s": 1,\n', "a.jsonl:1:17", "not JSON"),
        ("a.jsonl", "[1, 2]\n", "a.jsonl:1", "not an object"),
        ("a.jsonl", '{"arrival_s": true, "input_tokens": 1, "output_tokens": 1}\n', "a.jsonl:1", "allowed: a number"),
    ],
)
def test_files_that_are_no_trace(tmp_path, name, text, where, what):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        Trace.read(tmp_path / name)
    assert f"{where}: " in str(caught.value)
    assert what in str(caught.value)


def test_many_problems_are_counted(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "x,1,1\n" * 1000)
    with pytest.raises(InputError, match="and 980 more problems"):
        Trace.read(path)


def test_the_rate_of_a_trace():
    assert (TRACE.mean_rate, TRACE.duration_s, TRACE.count) == (1.0, 4.0, 4.0)
    assert TRACE.rate_at(np.array([0.01, 2.0, 4.0, 4.1])).tolist() == pytest.approx([50.0, 0.0, 25.0, 0.0])
    assert TRACE.peak_rate == pytest.approx(50.0)  # two requests in 0.04 s


# lengths


@pytest.mark.parametrize(
    "lengths",
    [
        Text(Lognormal(1024, 1.0), Lognormal(256, 0.5), Prefixes(50, 1.0, 0.7)),
        Text(Fixed(3), Empirical(np.array([5, 6]), np.array([1.0, 3.0]))),
        Joint(np.arange(10), np.arange(10) * 2, Prefixes(3)),
        InOrder(np.arange(10), np.arange(10) * 2),
    ],
)
@given(first=st.integers(0, 10**12), cuts=st.lists(st.integers(1, 50), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_a_request_has_its_lengths_whoever_asks(lengths, first, cuts):
    ends = first + np.cumsum(cuts)
    whole = lengths.columns(7, first, int(ends[-1]))
    parts = [lengths.columns(7, int(end - cut), int(end)) for end, cut in zip(ends, cuts, strict=True)]
    for row, column in enumerate(whole):
        assert column.dtype == np.int64
        assert np.array_equal(np.concatenate([part[row] for part in parts]), column)


def test_lognormal_lengths_have_their_mean_and_spread():
    found = Lognormal(1024, 0.8).draw(Draw(0, 0, 400_000))
    assert found.mean() == pytest.approx(1024, rel=4 * 0.8 / math.sqrt(400_000))
    assert found.std() / found.mean() == pytest.approx(0.8, rel=0.02)
    assert np.median(found) == pytest.approx(1024 / math.sqrt(1 + 0.8**2), rel=0.01)
    kept = Lognormal(1024, 0.8, 100, 2000).draw(Draw(0, 0, 10_000))
    assert (kept.min(), kept.max()) == (100, 2000)


def test_input_and_output_know_nothing_of_each_other_unless_recorded_together():
    free = Text(Lognormal(100, 1.0), Lognormal(100, 1.0)).columns(1, 0, 100_000)
    assert abs(np.corrcoef(free.input_tokens, free.output_tokens)[0, 1]) < 0.02
    tied = Joint(np.arange(1000), np.arange(1000) + 5).columns(1, 0, 10_000)
    assert np.all(tied.output_tokens - tied.input_tokens == 5)
    assert np.bincount(tied.input_tokens, minlength=1000).max() < 40


def test_weights_and_groups_are_chosen_as_often_as_they_say():
    values = Empirical(np.array([10, 20, 30]), np.array([1.0, 0.0, 3.0]))
    found = values.draw(Draw(5, 0, 100_000))
    assert (found == 10).mean() == pytest.approx(0.25, abs=0.006)
    assert not (found == 20).any()
    assert values.mean == 25
    prefixes = Prefixes(3, 1.0, 0.55).draw(Draw(5, 0, 100_000))  # 1 : 1/2 : 1/3 of 0.55
    shares = np.bincount(prefixes + 1) / 100_000
    assert shares == pytest.approx([0.45, 0.3, 0.15, 0.1], abs=0.006)


# caches


def lru_hit_rate(catalogue: int, exponent: float, cache_items: int, look_ups: int = 200_000) -> float:
    """Return the share of hits of an LRU cache, by doing it; the first half fills it."""
    asked = Prefixes(catalogue, exponent).draw(Draw(11, 0, look_ups))
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for row, item in enumerate(asked.tolist()):
        hits += item in held and row >= look_ups // 2
        held[item] = None
        held.move_to_end(item)
        if len(held) > cache_items:
            held.popitem(last=False)
    return hits / (look_ups - look_ups // 2)


@pytest.mark.parametrize(
    ("catalogue", "exponent", "cache_items"),
    [
        (1000, 0.0, 100),
        (1000, 0.8, 20),
        (10_000, 0.8, 1000),
        (10_000, 1.0, 100),
        (10_000, 1.2, 1000),
        (50_000, 1.0, 5000),
    ],
)
def test_ches_approximation_against_a_cache(catalogue, exponent, cache_items):
    found = hit_rate_of(catalogue, exponent, cache_items)
    assert found == pytest.approx(lru_hit_rate(catalogue, exponent, cache_items), abs=0.006)  # 4 σ of 100,000 look-ups


def test_ranks_taken_together_change_nothing():
    catalogue, exponent, cache_items = 300_000, 0.9, 20_000
    share = np.arange(1, catalogue + 1) ** -exponent
    share /= share.sum()
    low, high = 0.0, 1e9
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if (1 - np.exp(-share * middle)).sum() > cache_items else (middle, high)
    assert hit_rate_of(catalogue, exponent, cache_items) == pytest.approx(
        (share * (1 - np.exp(-share * low))).sum(), rel=1e-4
    )


@given(st.integers(2, 10**9), st.floats(0, 2), st.integers(1, 10**6))
@settings(max_examples=25, deadline=None)
def test_a_larger_cache_hits_more(catalogue, exponent, cache_items):
    one, two = (hit_rate_of(catalogue, exponent, items) for items in (cache_items, 2 * cache_items))
    assert 0 < one <= two + 1e-12 <= 1 + 1e-9
    assert one >= min(cache_items / catalogue, 1) * 0.999  # at worst all are alike
