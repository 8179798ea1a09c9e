"""Lengths that texts of a batch are filled up to: closed forms, draws, and the laws they keep."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity.work.padding import Lengths, padded


def drawn(lengths: Lengths, count: int) -> np.ndarray:
    return lengths.at(np.random.default_rng(7).standard_normal(count))


def test_one_text_is_not_filled_up():
    found = padded(Lengths(mean=100, cv=0.5), 1)
    assert float(found.mean) == pytest.approx(100, rel=1e-4)
    assert float(found.root_mean_square) == pytest.approx(100 * math.sqrt(1.25), rel=1e-4)


@pytest.mark.parametrize("cv", [0.1, 0.5, 1.0, 2.0])
def test_the_longer_of_two_by_hand(cv):
    # E max of two log-normal variables is 2·mean·Φ(σ/√2).
    sigma = math.sqrt(math.log1p(cv**2))
    exact = 2 * 100 * NormalDist().cdf(sigma / math.sqrt(2))
    assert float(padded(Lengths(mean=100, cv=cv), 2).mean) == pytest.approx(exact, rel=1e-4)


def test_texts_of_one_length_are_as_long_as_they_are():
    assert padded(Lengths(mean=100, cv=0), 32, (64, 128)).longest == 100


@pytest.mark.parametrize("together", [2, 32])
def test_the_longest_of_a_batch_against_draws(together):
    lengths = Lengths(mean=100, cv=0.8, longest=256)
    longest = drawn(lengths, 20_000 * together).reshape(-1, together).max(axis=1)
    found = padded(lengths, together)
    assert float(found.mean) == pytest.approx(longest.mean(), rel=0.01)
    assert float(found.root_mean_square) == pytest.approx(math.sqrt((longest**2).mean()), rel=0.01)


def test_buckets_against_draws():
    lengths, buckets = Lengths(mean=100, cv=0.8, longest=512), (64, 128, 256)
    texts, mean, square = drawn(lengths, 500_000), 0.0, 0.0
    for low, high in zip((0, *buckets), (*buckets, 1e9), strict=True):
        own = texts[(texts > low) & (texts <= high)]
        longest = own[: len(own) // 16 * 16].reshape(-1, 16).max(axis=1)
        mean += longest.mean() * len(own) / len(texts)
        square += (longest**2).mean() * len(own) / len(texts)
    found = padded(lengths, 16, buckets)
    assert float(found.mean) == pytest.approx(mean, rel=0.005)
    assert float(found.root_mean_square) == pytest.approx(math.sqrt(square), rel=0.005)
    assert float(found.longest) == pytest.approx(longest.mean(), rel=0.005)  # of the last bucket


@given(st.floats(1, 5000), st.floats(0.01, 3), st.integers(1, 10_000), st.integers(1, 4000))
@settings(max_examples=40, deadline=None)
def test_fill_grows_with_the_batch_and_shrinks_with_buckets(mean, cv, together, bucket):
    lengths = Lengths(mean=mean, cv=cv, longest=8192)
    one, more, parted = padded(lengths, together), padded(lengths, 2 * together), padded(lengths, together, (bucket,))
    assert 0 < one.mean <= more.mean * (1 + 1e-9) <= 8192 * (1 + 1e-6)
    assert parted.mean <= one.mean * (1 + 1e-6)
    assert parted.longest >= one.longest * 0.99  # a bucket of one text in 10⁹ is left out
    assert one.mean <= one.root_mean_square * (1 + 1e-9)
    assert np.allclose(padded(lengths, np.array([together, 2.0 * together])).mean, [one.mean, more.mean])
