"""What a form leaves unexplained, learned: boosted symmetric trees on ln(measured / predicted).

A symmetric (oblivious) tree asks the same few questions of every row, so its answer is a look-up in a table of 2^depth
values; a few dozen trees predict a million rows in a second and are stored in a few kilobytes. Trees never extrapolate:
beyond the sizes they were fitted on they keep their outermost answer, and no correction exceeds `LARGEST`.

Reference: Prokhorenkova et al., "CatBoost: unbiased boosting with categorical features", NeurIPS 2018, §3 (oblivious
trees); Friedman, "Greedy function approximation", Annals of Statistics 29(5), 2001 (gradient boosting).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from capacity.timing.form import Array

TREES, DEPTH, BINS = 200, 6, 64
LEARNING_RATE = 0.2
LEAST_LEAF = 8.0
"""Rows' worth of doubt added to every leaf: a leaf of 8 rows says half of what it saw."""
LARGEST = 0.7
"""Largest correction either way, on the log scale."""
OUTLIER = 0.4
"""Residuals beyond count as this much."""
SMALL = 500
"""Rows below which numpy answers sooner than the compiled loop is loaded."""


@dataclass(frozen=True, slots=True)
class Trees:
    """Boosted symmetric trees.

    Attributes
    ----------
    questions
        Number of the feature that each level of each tree asks about, shape (trees, depth).
    thresholds
        What it is compared with, shape (trees, depth).
    values
        What each leaf adds to ln(seconds), shape (trees, 2^depth).
    low, high
        Range of each feature that was fitted, shape (features,).
    """

    PARTS: ClassVar[tuple[str, ...]] = ("features", "questions", "thresholds", "values", "low", "high")
    features: tuple[str, ...]
    questions: NDArray[np.int64]
    thresholds: Array
    values: Array
    low: Array
    high: Array

    def beyond(self, features: Array) -> Array:
        """Return how far each row lies outside the fitted sizes, the farthest size counts [1, in ln(size)]."""
        sizes = [index for index, name in enumerate(self.features) if name.startswith("ln ")]
        columns = features[:, sizes]
        outside = np.maximum(self.low[sizes] - columns, columns - self.high[sizes])
        return np.asarray(np.maximum(outside.max(axis=1), 0.0))

    def predicted(self, features: Array) -> Array:
        """Return the correction of each row, to be added to ln(seconds).

        Parameters
        ----------
        features
            Shape (rows, features), in the order of `self.features`.
        """
        columns = np.ascontiguousarray(features.T)
        if len(features) < SMALL:
            total = self.vectorized(columns)
        else:
            from capacity.timing import compiled

            total = compiled.sum_of_trees(columns, self.questions, self.thresholds, self.values)
        return np.clip(total, -LARGEST, LARGEST)

    def packed(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays as they are stored: values in ten-thousandths, thresholds in single precision."""
        return {
            "features": np.array(self.features), "questions": self.questions.astype(np.uint8),
            "thresholds": self.thresholds.astype(np.float32), "values": np.round(self.values * 1e4).astype(np.int16),
            "low": self.low.astype(np.float32), "high": self.high.astype(np.float32),
        }  # fmt: skip

    @classmethod
    def unpacked(cls, arrays: Mapping[str, NDArray[Any]]) -> Trees:
        """Return the trees that `packed` stored."""
        return cls(
            tuple(map(str, arrays["features"])), arrays["questions"].astype(np.int64),
            arrays["thresholds"].astype(np.float64), arrays["values"].astype(np.float64) / 1e4,
            arrays["low"].astype(np.float64), arrays["high"].astype(np.float64),
        )  # fmt: skip

    def vectorized(self, columns: Array) -> Array:
        """Return the sum of the trees for `columns` of shape (features, rows); all trees at once, for a few rows."""
        above = columns[self.questions] > self.thresholds[:, :, None]
        leaf = np.tensordot(2 ** np.arange(above.shape[1])[::-1], above, axes=(0, 1))
        total: Array = np.take_along_axis(self.values, leaf, axis=1).sum(axis=0)
        return total


def fitted(names: Sequence[str], features: Array, residuals: Array) -> Trees:
    """Return the trees that explain `residuals` (shape (rows,)) by `features` (shape (rows, features))."""
    edges = [np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1])) for column in features.T]
    cuts = np.array([len(edge) for edge in edges])
    binned = np.stack(
        [np.searchsorted(edge, column, side="left") for edge, column in zip(edges, features.T, strict=True)], axis=1
    ).astype(np.uint8)
    left = np.clip(residuals, -OUTLIER, OUTLIER)
    questions, thresholds, values = [], [], []
    for _ in range(TREES):
        tree, leaf = _grown(binned, cuts, left)
        counts = np.bincount(leaf, minlength=2**DEPTH)
        answer = LEARNING_RATE * np.bincount(leaf, left, minlength=2**DEPTH) / (counts + LEAST_LEAF)
        left = left - answer[leaf]
        questions.append([feature for feature, _ in tree])
        thresholds.append([edges[feature][cut] if cuts[feature] else np.inf for feature, cut in tree])
        values.append(answer)
    low, high = features.min(axis=0), features.max(axis=0)
    return Trees(tuple(names), np.array(questions), np.array(thresholds), np.array(values), low, high)


def _grown(
    binned: NDArray[np.uint8], cuts: NDArray[np.int64], left: Array
) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """Return the questions of one tree, each the best for all leaves together, and the leaf of every row."""
    from capacity.timing import compiled

    leaf, tree = np.zeros(len(left), dtype=np.int64), []
    for depth in range(DEPTH):
        counts, sums = compiled.histograms(binned, leaf, left, 2**depth, BINS)
        below, few = sums.cumsum(axis=2), counts.cumsum(axis=2)
        above, many = below[:, :, -1:] - below, few[:, :, -1:] - few
        gain = (below**2 / (few + LEAST_LEAF) + above**2 / (many + LEAST_LEAF)).sum(axis=1)
        gain[np.arange(BINS) >= cuts[:, None]] = -1.0  # no such cut: the feature has fewer values
        feature, cut = (int(place) for place in np.unravel_index(np.argmax(gain), gain.shape))
        tree.append((feature, cut))
        leaf = 2 * leaf + (binned[:, feature] > cut)
    return tree, leaf
