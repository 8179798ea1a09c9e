"""Streaming histograms against sorted lists, and their Monte-Carlo error against many independent runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity.errors import CapacityError
from capacity.fleet.histogram import Histogram, standard_error

TIMES = st.lists(st.floats(1e-6, 9e5), min_size=1, max_size=60)


def histogram(values, groups=1) -> Histogram:
    found = Histogram.empty(groups)
    found.add(np.array(values, float), np.arange(len(values)) * groups // max(len(values), 1))
    return found


@given(TIMES, st.floats(0.0, 1.0))
@settings(max_examples=100, deadline=None)
def test_a_quantile_is_that_of_the_sorted_list_within_a_bin(values, share):
    found = histogram(values).quantile(share)
    rank = max(math.ceil(share * len(values) - 1e-9), 1)  # the least value that `share` of all do not exceed
    assert found == pytest.approx(sorted(values)[rank - 1], rel=0.002)


@given(TIMES, TIMES)
@settings(max_examples=30, deadline=None)
def test_merging_is_counting_all_in_one(one, other):
    both, merged = histogram(one + other), histogram(one).merged(histogram(other))
    assert np.array_equal(both.counts, merged.counts)
    assert merged.mean_s == pytest.approx(np.mean(one + other), rel=1e-12)
    assert np.array_equal(both.extremes_s, merged.extremes_s)


@given(TIMES, st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_the_same_bits_however_the_values_are_cut(values, size):
    cut = Histogram.empty()
    for start in range(0, len(values), size):
        part = np.array(values[start : start + size])
        cut.add(part, np.zeros(len(part), np.int64))
    whole = histogram(values)
    assert np.array_equal(cut.counts, whole.counts)
    assert np.array_equal(cut.sums_s, whole.sums_s)


def test_bins_are_fine_enough():
    values = np.geomspace(1e-6, 1e6, 20_000)
    found = histogram(values, 20_000)
    assert found.counts[:, 0].sum() == found.counts[:, -1].sum() == 0
    assert np.abs(np.diff(np.log(values))).max() < 0.0025
    bins = np.argmax(found.counts, axis=1)
    assert max(np.ptp(values[bins == row]) / values[bins == row].min() for row in np.unique(bins)) <= 0.0025


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999])
def test_quantiles_of_a_known_distribution(share):
    values = np.random.default_rng(1).exponential(0.1, 1_000_000)
    found = histogram(values, 20)
    assert found.quantile(share) == pytest.approx(np.quantile(values, share), rel=1e-3)
    assert found.quantile(share) == pytest.approx(-0.1 * math.log(1 - share), abs=4 * found.quantile_error(share))
    assert found.above(0.3) == pytest.approx(np.mean(values > 0.3), rel=1e-3)


def test_zeros_and_times_beyond_the_bins_keep_the_extremes():
    found = histogram([0.0, 0.0, 0.0, 5e6])
    assert found.quantile(0.5) < 1e-6
    assert found.quantile(1.0) == 5e6
    assert found.mean_s == 1.25e6
    assert histogram([0.0]).quantile(0.99) == 0.0


def test_nan_and_groups_below_0_are_left_out():
    found = Histogram.empty(2)
    found.add(np.array([1.0, math.nan, 3.0, 5.0]), np.array([0, 0, -1, 1]))
    assert found.count == 2
    assert found.means_s.tolist() == [1.0, 5.0]


def test_nothing_is_known_of_nothing():
    found = Histogram.empty(3)
    assert found.count == 0
    assert all(math.isnan(value) for value in (found.mean_s, found.quantile(0.5), found.above(1.0), found.mean_error_s))


def test_shares_above_a_threshold():
    found = histogram([1.0, 2.0, 3.0, 4.0])
    assert (found.above(0.5), found.above(10.0)) == (1.0, 0.0)
    assert found.above(2.5) == pytest.approx(0.5)


def test_neighbors_become_one():
    found = Histogram.empty(4)
    found.add(np.array([1.0, 2.0, 4.0, 8.0]), np.arange(4))
    found.halve()
    assert found.means_s[:2].tolist() == [1.5, 6.0]
    assert np.isnan(found.means_s[2:]).all()


def test_groups_are_put_together():
    found = histogram([1.0, 2.0, 4.0, 8.0], 4).grouped(np.array([[0, 3], [1, 2]]))
    assert found.means_s.tolist() == [4.5, 3.0]
    assert found.sizes.tolist() == [2, 2]
    assert found.spreads_s == pytest.approx([3.5, 1.0], rel=0.02)


def test_histograms_of_different_shape_are_not_merged():
    with pytest.raises(CapacityError, match="shape"):
        Histogram.empty(1).merged(Histogram.empty(2))


def test_the_standard_error_is_that_of_batch_means():
    values = [1.0, 3.0, 2.0, 6.0]  # batches of two: means 2 and 4, standard deviation √2, over √2
    assert histogram(values, 2).mean_error_s == pytest.approx(1.0)
    assert math.isnan(standard_error(np.array([1.0])))


def test_the_error_of_a_correlated_series_is_what_many_runs_show():
    """AR(1) with ρ = 0.9: the naive error is √19 = 4.4 times too small."""
    random = np.random.default_rng(0)
    means, errors, medians, median_errors = [], [], [], []
    for _ in range(60):
        noise, value = random.normal(size=4000), np.empty(4000)
        value[0] = noise[0] / math.sqrt(0.19)
        for row in range(1, 4000):
            value[row] = 0.9 * value[row - 1] + noise[row]
        found = histogram(100 + value, 20)
        means.append(found.mean_s)
        errors.append(found.mean_error_s)
        medians.append(found.quantile(0.5))
        median_errors.append(found.quantile_error(0.5))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.3)  # 60 runs know a deviation within 9 %
    assert np.mean(median_errors) == pytest.approx(np.std(medians), rel=0.3)
