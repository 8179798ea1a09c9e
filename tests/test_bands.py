"""Estimates: sums, products and bands keep what is known about each source of error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capacity.timing.band import BASES, MATTERS, Z90, Estimate, product, total

SIGMAS = st.floats(0.0, 1.0)
VALUES = st.floats(1e-9, 1e9)
SOURCES = st.dictionaries(st.sampled_from(["device", "model", "price", "host"]), SIGMAS, max_size=4)
ESTIMATES = st.builds(Estimate, VALUES, SOURCES, st.sampled_from(BASES))
MANY = st.lists(ESTIMATES, min_size=1, max_size=6)


def width(estimate: Estimate) -> float:
    return float(estimate.log_sigma)


# By hand


def test_a_band_holds_ninety_percent():
    estimate = Estimate(2.0, {"device": 0.1})
    assert float(estimate.high) == pytest.approx(2 * math.exp(1.6449 * 0.1))
    drawn = 2.0 * np.exp(np.random.default_rng(1).normal(0, 0.1, 200_000))
    inside = np.mean((drawn > estimate.low) & (drawn < estimate.high))
    assert inside == pytest.approx(0.9, abs=0.003)


def test_errors_of_one_source_add_and_of_two_sources_cancel_in_part():
    same = total([Estimate(1.0, {"device": 0.3}), Estimate(1.0, {"device": 0.3})])
    different = total([Estimate(1.0, {"device": 0.3}), Estimate(1.0, {"other": 0.3})])
    assert width(same) == pytest.approx(0.3)
    assert width(different) == pytest.approx(0.3 / math.sqrt(2))


def test_products():
    left, right = Estimate(2.0, {"device": 0.1}, "measured"), Estimate(3.0, {"device": 0.1, "price": 0.2}, "projected")
    both = product(left, right)
    assert float(both.value) == 6
    assert both.errors == pytest.approx({"device": 0.2, "price": 0.2})
    assert both.basis == "projected"


def test_the_sum_of_nothing_is_nothing_and_sure():
    assert float(total([]).value) == 0
    assert width(total([])) == 0


def test_an_array_has_a_band_at_each_place():
    estimate = total([Estimate(np.array([1.0, 2.0]), {"device": 0.1}), Estimate(np.array([1.0, 0.0]), {"model": 0.1})])
    np.testing.assert_allclose(estimate.value, [2.0, 2.0])
    np.testing.assert_allclose(estimate.log_sigma, [0.1 / math.sqrt(2), 0.1])


# For all


@given(ESTIMATES)
def test_the_sum_of_one_is_itself(estimate):
    alone = total([estimate])
    assert float(alone.value) == pytest.approx(estimate.value)
    assert {source: float(sigma) for source, sigma in alone.errors.items()} == pytest.approx(dict(estimate.errors))
    assert alone.basis == estimate.basis


@given(ESTIMATES)
def test_a_band_contains_its_value(estimate):
    assert estimate.low <= estimate.value <= estimate.high
    assert float(estimate.high / estimate.low) == pytest.approx(math.exp(2 * Z90 * width(estimate)))


@given(ESTIMATES, st.sampled_from(["device", "new"]), SIGMAS)
def test_one_more_error_widens_and_moves_nothing(estimate, source, sigma):
    wider = estimate.widened(source, sigma)
    assert width(wider) >= width(estimate) - 1e-12
    assert width(wider) == pytest.approx(math.hypot(width(estimate), sigma))
    assert wider.value == estimate.value


@given(ESTIMATES, st.sampled_from(BASES))
def test_a_basis_never_gets_better(estimate, basis):
    wider = estimate.widened("new", 0.1, basis)
    assert BASES.index(wider.basis) == max(BASES.index(estimate.basis), BASES.index(basis))


@given(MANY)
def test_a_sum_adds_values(estimates):
    assert float(total(estimates).value) == pytest.approx(sum(estimate.value for estimate in estimates))


@given(MANY)
def test_a_sum_has_the_weakest_basis_of_the_terms_that_matter(estimates):
    everything = sum(estimate.value for estimate in estimates)
    matter = [e.basis for e in estimates if e.value >= 1.001 * MATTERS * everything]
    perhaps = [
        e.basis for e in estimates if e.value >= 0.999 * min(MATTERS * everything, max(e.value for e in estimates))
    ]
    found = BASES.index(total(estimates).basis)
    assert found <= max(BASES.index(basis) for basis in perhaps)
    assert found >= max((BASES.index(basis) for basis in matter), default=0)


@given(MANY)
def test_a_sum_is_never_less_sure_than_its_least_sure_term(estimates):
    assert width(total(estimates)) <= max(width(estimate) for estimate in estimates) + 1e-9


@given(st.lists(VALUES, min_size=1, max_size=6), SIGMAS)
def test_one_shared_source_keeps_its_error_through_a_sum(values, sigma):
    shared = total([Estimate(value, {"device": sigma}) for value in values])
    apart = total([Estimate(value, {f"device {place}": sigma}) for place, value in enumerate(values)])
    assert width(shared) == pytest.approx(sigma)
    assert width(apart) <= width(shared) + 1e-12


@given(MANY, st.integers(0, 5), SIGMAS)
def test_a_less_sure_term_makes_a_less_sure_sum(estimates, place, sigma):
    place %= len(estimates)
    wider = [e.widened("device", sigma) if at == place else e for at, e in enumerate(estimates)]
    assert width(total(wider)) >= width(total(estimates)) - 1e-9


@given(ESTIMATES, ESTIMATES)
def test_a_product_is_at_least_as_unsure_as_each_factor(left, right):
    both = product(left, right)
    assert width(both) >= max(width(left), width(right)) - 1e-9
    assert width(both) <= width(left) + width(right) + 1e-9
    assert float(both.value) == pytest.approx(left.value * right.value)


@given(ESTIMATES, st.floats(1e-6, 1e6))
def test_an_exact_factor_changes_no_error(estimate, factor):
    scaled = estimate.scaled(factor)
    assert scaled.errors == estimate.errors
    assert scaled.value == pytest.approx(estimate.value * factor)


@given(MANY, st.floats(1e-6, 1e6))
def test_scaling_and_summing_commute(estimates, factor):
    first = total([estimate.scaled(factor) for estimate in estimates])
    last = total(estimates).scaled(factor)
    assert float(first.value) == pytest.approx(float(last.value))
    assert width(first) == pytest.approx(width(last), abs=1e-9)
