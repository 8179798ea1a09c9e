"""Fits that know how wrong they are: honest held-out errors, trees only where they help, bands that hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_up import board, measured, products

from capacity.timing.band import Z90
from capacity.timing.gemm import GEMM
from capacity.timing.kernel import Kernel, Scatter
from capacity.timing.kernel import Learned as Link
from capacity.timing.learn import (
    FEW,
    LEAST_SIGMA,
    LEAST_TREE_ROWS,
    Learned,
    Rows,
    learned,
    scatter,
    spread_out,
    taken,
)
from capacity.work.operations import Attention, Gemm

HERE = board()
TRUTH = GEMM.typical | {"flop_efficiency": 0.7, "t0_s": 3e-6}
FIXED = frozenset(parameter.name for parameter in GEMM.parameters if parameter.shared)
NOISE = 0.05


def fit(rows: Rows, widest: float = 0.0) -> Learned:
    return learned(GEMM, rows, GEMM.parameters, FIXED, widest)


def bent(rows: Rows) -> Rows:
    """Return the rows with a quirk that the form cannot know: 30 % more where n is below 512."""
    return dataclasses.replace(rows, seconds=rows.seconds * np.where(rows.operation.n < 512, 1.3, 1.0))


def kernel(found: Learned) -> Kernel:
    """Return what predicts with a fit."""
    trees = {"own": found.trees} if found.trees else {}
    return Kernel(GEMM, found.values, found.scatter, "calibrated", "x", tuple(Link(trees, key) for key in trees))


@pytest.fixture(scope="module")
def quirky() -> Learned:
    return fit(bent(measured(products(1500), HERE, TRUTH, NOISE)))


@pytest.fixture(scope="module")
def noisy() -> Learned:
    return fit(measured(products(600), HERE, TRUTH, NOISE))


# --- held-out errors ------------------------------------------------------------------------------------------------


def test_noise_teaches_no_trees(noisy):
    assert noisy.trees is None
    assert noisy.log_sigma == pytest.approx(NOISE, rel=0.15)
    assert noisy.median_error == pytest.approx(0.6745 * NOISE, rel=0.15)  # median of |normal|
    assert noisy.mean_error == pytest.approx(0.7979 * NOISE, rel=0.15)  # and its mean
    assert noisy.rows == 600


def test_a_quirk_is_learned_and_lowers_the_error_on_shapes_left_out(quirky):
    plain = fit(bent(measured(products(LEAST_TREE_ROWS - 1), HERE, TRUTH, NOISE)))
    assert plain.trees is None  # too few rows to learn from
    assert quirky.trees is not None
    assert quirky.mean_error < 0.7 * plain.mean_error
    fresh = bent(measured(products(1500, seed=8), HERE, TRUTH, NOISE, seed=9))
    said = kernel(quirky).time(fresh.operation, HERE)
    error = np.abs(said.value / fresh.seconds - 1)
    assert np.mean(error) == pytest.approx(quirky.mean_error, rel=0.15)  # what was promised is what comes
    assert np.median(error) == pytest.approx(quirky.median_error, rel=0.15)


def test_rows_of_one_shape_are_held_out_together():
    # Each shape is measured 10 times and has a level of its own, of which the shape left out says nothing.
    operation, draw = products(60), np.random.default_rng(4)
    levels = np.repeat(draw.lognormal(sigma=0.2, size=60), 10)
    many = taken(operation, np.repeat(np.arange(60), 10), 60)
    rows = measured(many, HERE, TRUTH, 0.01)
    rows = dataclasses.replace(rows, seconds=rows.seconds * levels)
    apart = fit(rows)  # says that every row is a shape of its own: trees then learn the levels by heart
    together = fit(dataclasses.replace(rows, groups=np.repeat(np.arange(60), 10)))
    assert apart.mean_error < 0.08
    assert together.mean_error > 0.12


def test_one_shape_alone_is_fitted_all_the_same():
    one = dataclasses.replace(measured(products(5), HERE, TRUTH, NOISE), groups=np.zeros(5, dtype=int))
    found = fit(one)
    assert (found.rows, found.trees) == (5, None)
    assert np.isfinite([found.log_sigma, found.mean_error]).all()


def test_the_fit_is_deterministic():
    rows = measured(products(200), HERE, TRUTH, NOISE)
    first, second = fit(rows), fit(rows)
    assert (first.values, first.log_sigma) == (second.values, second.log_sigma)


# --- bands ----------------------------------------------------------------------------------------------------------


def uneven(count: int, seed: int) -> Rows:
    """Return rows whose scatter falls from 20 % below 5 µs to 2 % above 50 µs."""
    operation = products(count, seed)
    times = np.asarray(GEMM.seconds(operation, HERE, TRUTH))
    sigma = np.clip(0.2 * (5e-6 / times), 0.02, 0.2)
    noise = np.random.default_rng(seed + 50).normal(0, 1, count)
    return Rows(operation, HERE, times * np.exp(sigma * noise), np.arange(count))


def test_the_band_follows_the_scatter_and_holds_what_it_says():
    found, fresh = fit(uneven(2000, 0)), uneven(4000, 1)
    said = kernel(found).time(fresh.operation, HERE)
    inside = (fresh.seconds >= said.low) & (fresh.seconds <= said.high)
    assert 0.87 < inside.mean() < 0.93
    for part in np.array_split(np.argsort(said.value), 4):  # and so at every size
        assert 0.83 < inside[part].mean() < 0.97
    width, constant = np.median(said.high / said.low), np.exp(2 * Z90 * found.log_sigma)
    assert width < 0.97 * constant
    assert len(found.scatter.log_times) > 2


def test_a_band_of_constant_scatter_is_constant(noisy):
    assert noisy.scatter.log_sigma.min() > 0.7 * NOISE
    assert noisy.scatter.log_sigma.max() < 1.35 * NOISE


@pytest.mark.parametrize(("rows", "narrow"), [(3, False), (FEW - 1, False), (FEW, True)])
def test_few_rows_claim_no_less_than_a_device_nobody_measured(rows, narrow):
    found = fit(measured(products(rows), HERE, TRUTH, 0.01), widest=0.3)
    assert (found.log_sigma < 0.1) is narrow
    assert found.scatter.at(1e-4) == pytest.approx(found.log_sigma)
    assert narrow or found.log_sigma == 0.3


def test_no_band_is_narrower_than_two_runs_of_one_kernel():
    found = fit(measured(products(200), HERE, TRUTH, 0.0))
    assert found.log_sigma == LEAST_SIGMA


def test_beyond_the_measured_sizes_the_band_grows(quirky):
    known = dataclasses.replace(kernel(quirky), beyond_log_sigma=0.2)
    largest = np.exp(quirky.trees.high[quirky.trees.features.index("ln m")])
    folds = np.array([-1.0, 0.0, 0.35, 1.0, 10.0])  # e-folds beyond the largest m that was measured
    said = known.time(Gemm(m=largest * np.exp(folds), n=512.0, k=512.0, dtype="bf16"), HERE)
    inner = quirky.scatter.at(said.value)
    added = np.sqrt(np.maximum(said.log_sigma**2 - inner**2, 0))
    np.testing.assert_allclose(added, 0.2 * (1 - np.exp(-2 * np.maximum(folds, 0))), atol=1e-6)
    assert added[2] == pytest.approx(0.1, rel=0.02)  # half of it a third of an e-fold outside
    assert (said.low < said.value).all()
    assert (np.diff(said.value) > 0).all()


def test_beyond_the_measured_times_the_scatter_of_its_end_holds(quirky):
    found = quirky.scatter
    low, high = np.exp(found.log_times[[0, -1]])
    assert found.at(np.array([low / 1e6, high * 1e6])).tolist() == found.log_sigma[[0, -1]].tolist()
    assert Scatter.constant(0.1).at(np.array([1e-9, 1e9])).tolist() == [0.1, 0.1]


def test_scatter_by_hand():
    # 240 rows are two windows: 120 of ±10 % at 1 µs, 120 of ±20 % at 1 ms
    times, left = np.repeat([1e-6, 1e-3], 120), np.repeat([0.1, 0.2], 120) * np.tile([1, -1], 120)
    found = scatter(times, left, 0.0)
    np.testing.assert_allclose(found.log_times, np.log([1e-6, 1e-3]))
    np.testing.assert_allclose(found.log_sigma, np.array([0.1, 0.2]) / Z90)
    assert found.at(np.sqrt(1e-9)) == pytest.approx(0.15 / Z90)  # halfway on the log scale
    assert scatter(times, left, 0.5).log_sigma.tolist() == [0.5, 0.5]
    assert scatter(times[:239], left[:239], 0.0).log_times.tolist() == [0.0]  # one window: the same everywhere


# --- rows -----------------------------------------------------------------------------------------------------------


def test_chosen_rows_keep_the_numbers_that_all_share():
    rows = measured(dataclasses.replace(products(10), batch=2), HERE, TRUTH)
    some = rows.chosen(np.array([7, 1]))
    assert (len(some), some.operation.batch, some.operation.dtype) == (2, 2, "bf16")
    assert some.operation.m.tolist() == rows.operation.m[[7, 1]].tolist()
    assert some.groups.tolist() == [7, 1]
    assert some.seconds.tolist() == rows.seconds[[7, 1]].tolist()
    assert len(rows.chosen(rows.groups < 3)) == 3


def test_a_sample_has_rare_sizes_too():
    sizes = np.concatenate([np.full(9900, 10.0), np.linspace(20, 30, 100)])
    kept = spread_out(sizes, 1000)
    assert (len(kept), len(set(kept))) == (1000, 1000)
    assert (np.diff(kept) > 0).all()
    assert np.mean(kept >= 9900) > 0.04  # four times their share of 1 %
    assert np.array_equal(kept, spread_out(sizes, 1000))
    rows = measured(products(300), HERE, TRUTH)
    assert rows.sample(300) is rows
    assert len(rows.sample(50)) == 50
    same = Gemm(m=np.full(300, 8.0), n=np.full(300, 8.0), k=np.full(300, 8.0), dtype="bf16")
    assert len(measured(same, HERE, TRUTH).sample(50)) == 50  # all of one size


def test_what_siblings_trees_say_is_taken_out_of_the_rows(quirky):
    rows = bent(measured(products(300, seed=5), HERE, TRUTH, 0.01))
    sibling = kernel(quirky)
    clean = rows.corrected(sibling)
    form = GEMM.seconds(rows.operation, HERE, TRUTH)
    before, after = (np.std(np.log(each.seconds / form)) for each in (rows, clean))
    assert after < 0.65 * before
    bare = dataclasses.replace(sibling, learned=())
    np.testing.assert_allclose(rows.corrected(bare).seconds, rows.seconds)


def test_a_kernel_answers_in_the_shape_of_the_fields(quirky):
    known, m, n = kernel(quirky), np.array([1.0, 64, 4096]), np.array([[256.0], [768.0]])
    whole = known.time(Gemm(m=m, n=n, k=512.0, dtype="bf16"), HERE)
    loop = [[known.time(Gemm(m=a, n=b, k=512.0, dtype="bf16"), HERE) for a in m] for b in n[:, 0]]
    for name in ("value", "low", "high"):
        np.testing.assert_allclose(getattr(whole, name), [[getattr(item, name) for item in row] for row in loop])
    assert np.shape(loop[0][0].value) == ()


def test_any_operation_can_be_taken_apart():
    call = Attention(
        batch=np.arange(1.0, 4), heads=8, kv_heads=8, query=np.array([1.0, 2, 3]), keys=9, head_dim=64, dtype="bf16"
    )
    found = taken(call, np.array([True, False, True]), 3)
    assert (found.batch.tolist(), found.query.tolist(), found.keys) == ([1, 3], [1, 3], 9)
