"""Learned residuals: what trees learn, what they never say, and how they are stored."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_up import board

from capacity.timing import compiled
from capacity.timing.features import features
from capacity.timing.residual import BINS, DEPTH, LARGEST, SMALL, TREES, Trees, fitted
from capacity.work.expert_layer import ExpertLayer
from capacity.work.operations import Attention, Collective, Gemm

NAMES = ("ln first", "ln second", "third")
COUNT = 2000


def columns(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Return three features between 0 and 10."""
    return np.random.default_rng(seed).uniform(0, 10, (count, 3))


def step(features: np.ndarray) -> np.ndarray:
    """Return +20 % beyond 4 in the first feature, −10 % beyond 7 in the second."""
    return np.where(features[:, 0] > 4, 0.2, 0.0) - np.where(features[:, 1] > 7, 0.1, 0.0)


@pytest.fixture(scope="module")
def trees() -> Trees:
    known = columns()
    noise = np.random.default_rng(1).normal(0, 0.05, COUNT)
    return fitted(NAMES, known, step(known) + noise)


def test_trees_learn_a_step(trees):
    unseen = columns(1000, seed=9)
    near = (np.abs(unseen[:, 0] - 4) < 0.2) | (np.abs(unseen[:, 1] - 7) < 0.2)  # a bin wide
    left = (trees.predicted(unseen) - step(unseen))[~near]
    assert np.sqrt(np.mean(left**2)) < 0.03  # of a step of 20 % under 5 % of noise
    assert trees.questions.shape == trees.thresholds.shape == (TREES, DEPTH)
    assert trees.values.shape == (TREES, 2**DEPTH)
    assert trees.features == NAMES
    assert set(trees.questions[0]) <= {0, 1}  # the third feature says nothing


@pytest.mark.parametrize("count", [1, SMALL - 1, SMALL, 2 * SMALL])
def test_the_compiled_sum_is_the_vectorized_one(trees, count):
    rows = columns(count, seed=2)
    rows[0] = trees.thresholds[0, 0]  # exactly at a threshold is below it, in both
    flat = np.ascontiguousarray(rows.T)
    expected = trees.vectorized(flat)
    loop = compiled.sum_of_trees(flat, trees.questions, trees.thresholds, trees.values)
    np.testing.assert_allclose(loop, expected, atol=1e-12)
    np.testing.assert_allclose(trees.predicted(rows), expected, atol=1e-12)


def test_the_loops_that_are_compiled_say_the_same_in_python(trees):
    flat = np.ascontiguousarray(columns(20, seed=2).T)
    found = compiled._trees.py_func(flat, trees.questions, trees.thresholds, trees.values)
    np.testing.assert_allclose(found, trees.vectorized(flat), atol=1e-12)
    draw = np.random.default_rng(0)
    binned, leaf = draw.integers(0, 5, (30, 2)).astype(np.uint8), draw.integers(0, 4, 30)
    cells = [loop(binned, leaf, np.ones(30), 4, 5) for loop in (compiled._histograms, compiled._histograms.py_func)]
    assert np.array_equal(*cells)


def test_histograms_count_and_sum_by_leaf_and_bin():
    binned = np.array([[0, 1], [0, 0], [2, 1]], dtype=np.uint8)
    counts, sums = compiled.histograms(binned, np.array([0, 1, 1]), np.array([0.5, 1.0, 2.0]), 2, 3)
    assert counts.tolist() == [[[1, 0, 0], [1, 0, 1]], [[0, 1, 0], [1, 1, 0]]]
    assert sums.tolist() == [[[0.5, 0, 0], [1.0, 0, 2.0]], [[0, 0.5, 0], [1.0, 2.0, 0]]]


def test_stored_trees_say_the_same(trees, tmp_path):
    rows = columns(500, seed=3)
    np.savez(tmp_path / "t.npz", **trees.packed())
    again = Trees.unpacked(np.load(tmp_path / "t.npz", allow_pickle=False))
    assert again.features == NAMES
    away = np.abs(rows[:, :, None] - trees.thresholds.reshape(1, 1, -1)).min(axis=(1, 2)) > 1e-5
    assert away.mean() > 0.9  # single precision moves a threshold by 1e-6, and with it a row that lies on it
    np.testing.assert_allclose(again.predicted(rows)[away], trees.predicted(rows)[away], atol=0.5e-4 * TREES)
    assert np.sqrt(np.mean((again.predicted(rows) - trees.predicted(rows)) ** 2)) < 2e-3
    assert sum(array.nbytes for array in trees.packed().values()) < 40e3


def test_stored_trees_keep_the_sides_of_sizes_that_tables_repeat():
    # Thresholds lie on the sizes of the rows; stored in single precision they must not move past them.
    draw = np.random.default_rng(0)
    m, n, k = (2.0 ** draw.integers(0, 13, 1500) * draw.choice([1, 1.25, 1.5], 1500) for _ in range(3))
    times = draw.uniform(1e-6, 1e-3, 1500)
    names, known = features(Gemm(m=m, n=n, k=k, dtype="bf16"), board(), times)
    found = fitted(names, known, np.where(n <= 512, 0.3, 0.0) - np.where(m * n <= 8192, 0.2, 0.0))
    again = Trees.unpacked(found.packed())
    np.testing.assert_allclose(again.predicted(known), found.predicted(known), atol=0.5e-4 * TREES)
    assert (again.beyond(known) == 0).all()


def test_beyond_what_was_seen_the_outermost_answer_holds(trees):
    inner = np.array([[10.0, 0.0, 5.0], [0.0, 10.0, 5.0]])
    outer = np.array([[1e9, -1e9, 5.0], [-1e9, 1e9, 5.0]])
    assert np.array_equal(trees.predicted(outer), trees.predicted(np.array([[11.0, -1.0, 5.0], [-1.0, 11.0, 5.0]])))
    np.testing.assert_allclose(trees.predicted(outer), trees.predicted(inner), atol=0.02)


def test_how_far_outside_counts_the_farthest_size(trees):
    inside, low, high = np.array([5.0, 5.0, 99.0]), trees.low, trees.high  # the third is no size
    asked = np.stack([inside, low, high, [high[0] + 2, 5, 5], [low[0] - 1, high[1] + 3, 5]])
    np.testing.assert_allclose(trees.beyond(asked), [0, 0, 0, 2, 3], atol=1e-9)


def test_no_correction_exceeds_the_largest(trees):
    rows = columns(50)
    wild = dataclasses.replace(trees, values=np.full_like(trees.values, 1.0))
    assert (wild.predicted(rows) == LARGEST).all()
    assert (dataclasses.replace(trees, values=np.full_like(trees.values, -1.0)).predicted(rows) == -LARGEST).all()
    many = columns(SMALL)
    assert (wild.predicted(many) == LARGEST).all()


def test_gross_outliers_count_as_large_ones():
    known, wrong = columns(), np.zeros(COUNT)
    wrong[::50] = 5.0  # 2 % of the rows took 150 times as long
    found = fitted(NAMES, known, step(known) + wrong).predicted(columns(1000, seed=9))
    assert np.median(np.abs(found - step(columns(1000, seed=9)))) < 0.02


def test_learning_is_deterministic(trees):
    known = columns()
    again = fitted(NAMES, known, step(known) + np.random.default_rng(1).normal(0, 0.05, COUNT))
    for name in ("questions", "thresholds", "values"):
        assert np.array_equal(getattr(again, name), getattr(trees, name))


def test_features_of_few_values_are_cut_between_them():
    draw = np.random.default_rng(0)
    known = np.stack([draw.integers(0, 2, 800), np.full(800, 3.0), draw.integers(0, BINS * 4, 800)], axis=1)
    found = fitted(NAMES, known.astype(float), np.where(known[:, 0] == 1, 0.2, -0.1))
    asked = np.array([[0.0, 3.0, 9.0], [1.0, 3.0, 9.0]])
    np.testing.assert_allclose(found.predicted(asked), [-0.1, 0.2], atol=0.01)


def test_where_nothing_can_be_asked_the_mean_is_all():
    found = fitted(("ln same",), np.full((400, 1), 2.0), np.full(400, 0.2))
    assert np.isfinite(found.predicted(np.array([[2.0], [1e6]]))).all()
    np.testing.assert_allclose(found.predicted(np.array([[2.0]])), 0.2, atol=0.01)


# --- what they may ask ----------------------------------------------------------------------------------------------

PREDICTED = np.array([1e-5, 2e-5])
TWO = np.array([64.0, 128.0])


def test_products_are_asked_how_well_they_fill_tiles():
    names, found = features(Gemm(m=TWO, n=6400.0, k=32.0, dtype="bf16"), board(), PREDICTED)
    table = dict(zip(names, found.T, strict=True))
    assert found.shape == (2, len(names))
    np.testing.assert_allclose(table["ln m"], np.log(TWO))
    np.testing.assert_allclose(table["ln n"], np.log(6400))
    np.testing.assert_allclose(table["ln batch"], 0)
    np.testing.assert_allclose(table["ln seconds"], np.log(PREDICTED))
    np.testing.assert_allclose(table["unfilled, 64"], 1.0)  # 100 and 200 tiles for 100 cores
    np.testing.assert_allclose(table["unfilled, 128"], 2.0)  # 50 for 100, whatever fills half of each


@pytest.mark.parametrize(
    ("operation", "asked"),
    [
        (
            Attention(batch=2, heads=8, kv_heads=8, query=TWO, keys=TWO, head_dim=64, dtype="bf16"),
            {"ln query", "ln keys", "ln heads", "ln kv_heads", "ln head_dim", "ln batch"},
        ),
        (
            ExpertLayer(tokens=TWO, hidden=64, intermediate=64, experts=8, per_token=2, dtype="bf16", skew=1.2),
            {"ln tokens", "ln hidden", "ln experts", "ln per_token", "skew", "ln expert_parallel"},
        ),
        (Collective(kind="all_reduce", message_bytes=TWO, devices=4), {"ln bytes"}),
    ],
)
def test_every_operation_says_its_sizes(operation, asked):
    names, found = features(operation, board(), PREDICTED)
    assert asked | {"ln FLOP", "ln bytes", "ln seconds"} <= set(names)
    assert found.shape == (2, len(names))
    assert np.isfinite(found).all()
    assert len(set(names)) == len(names)
