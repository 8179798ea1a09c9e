"""The hot loops, compiled: candidates of matrix products, and learned residuals. A million rows in about a second.

Loaded only for large arrays: compiling takes longer than a plan, and numpy does the same for a few thousand rows.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from capacity.timing.form import Array
from capacity.timing.gemm import LARGEST, LEAST_K, SPLITS, TILES, cached_traffic_s

MOST_SPLIT = SPLITS[-1]


BLOCK = 2048
"""Rows whose leaves stay in the first-level cache."""


def best_seconds(m: Array, n: Array, k: Array, batch: Array, numbers: Array) -> Array:
    """Return the time of the fastest candidate without t0 [s], equal to `gemm.vectorized`.

    A candidate whose longer side alone exceeds the best so far is skipped before its corner is rounded, which saves
    the two powers.
    """
    traffic_s = np.ascontiguousarray(np.broadcast_to(cached_traffic_s(m, n, k, batch, numbers), m.shape))
    best: Array = _candidates(np.stack([m, n, k, batch, traffic_s], axis=1), numbers, TILES)
    return best


def sum_of_trees(columns: Array, questions: NDArray[np.int64], thresholds: Array, values: Array) -> Array:
    """Return the sum of symmetric trees for `columns` (features, rows), equal to `residual.Trees.vectorized`."""
    total: Array = _trees(columns, questions, thresholds, values)
    return total


@numba.njit(cache=True)
def _trees(columns: Array, questions: NDArray[np.int64], thresholds: Array, values: Array) -> Array:
    rows = columns.shape[1]
    result = np.zeros(rows)
    leaf = np.zeros(BLOCK, dtype=np.int32)
    two = np.int32(2)  # wider integers would keep the loops below from being vectorized
    for start in range(0, rows, BLOCK):
        length = min(BLOCK, rows - start)
        for tree in range(questions.shape[0]):
            for row in range(length):
                leaf[row] = np.int32(0)
            for level in range(questions.shape[1]):
                column, threshold = columns[questions[tree, level], start : start + length], thresholds[tree, level]
                for row in range(length):
                    leaf[row] = np.int32(leaf[row] * two) + np.int32(column[row] > threshold)
            for row in range(length):
                result[start + row] += values[tree, leaf[row]]
    return result


def histograms(binned: NDArray[np.uint8], leaf: NDArray[np.int64], left: Array, leaves: int, bins: int) -> Array:
    """Return rows and sums of `left` in each cell, shape (2, features, leaves, bins); `binned` is (rows, features)."""
    cells: Array = _histograms(binned, leaf, left, leaves, bins)
    return cells


@numba.njit(cache=True)
def _histograms(binned: NDArray[np.uint8], leaf: NDArray[np.int64], left: Array, leaves: int, bins: int) -> Array:
    rows, features = binned.shape
    result = np.zeros((2, features, leaves, bins))
    for row in range(rows):
        place, value = leaf[row], left[row]
        for feature in range(features):
            bin_ = binned[row, feature]
            result[0, feature, place, bin_] += 1.0
            result[1, feature, place, bin_] += value
    return result


@numba.njit(cache=True, fastmath=True)
def _candidates(shapes: Array, numbers: Array, tiles: Array) -> Array:
    cores, flop_per_s, half, bandwidth = numbers[0], numbers[1], numbers[2], numbers[3]
    sharpness, prologue, fill, rounding, split_s = numbers[10], numbers[11], numbers[12], numbers[13], numbers[14]
    result = np.empty(shapes.shape[0])
    for row in range(shapes.shape[0]):
        m, n, k, batch, traffic_s = shapes[row]
        best = np.inf
        for tile in range(tiles.shape[0]):
            rows, columns = tiles[tile]
            intensity = rows * columns / (rows + columns)
            share = intensity / (intensity + half) * (LARGEST + half) / LARGEST
            blocks_once = batch * math.ceil(m / rows) * math.ceil(n / columns)
            split = 1.0
            while split <= MOST_SPLIT:
                blocks = blocks_once * split
                if split > 1 and (k < LEAST_K * split or blocks > 2 * cores):
                    break
                waves = 1.0
                if blocks > cores:
                    waves = rounding * math.ceil(blocks / cores) + (1 - rounding) * blocks / cores
                depth = math.ceil(k / split / 32) * 32 + prologue
                compute_s = waves * 2 * rows * columns * depth / (share * flop_per_s)
                moved_s = traffic_s / min(1.0, blocks / (fill * cores))
                extra_s = 0.0
                if split > 1:
                    moved_s += split * batch * m * n * 4 / bandwidth
                    extra_s = split_s
                longer = max(compute_s, moved_s)
                if longer + extra_s < best:
                    ratio = min(compute_s, moved_s) / longer
                    time_s = longer * (1 + ratio**sharpness) ** (1 / sharpness) + extra_s
                    best = min(best, time_s)
                split *= 2
        result[row] = best
    return result
