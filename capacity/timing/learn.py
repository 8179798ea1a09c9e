"""From rows of one kernel family on one device to its parameters, its learned residual and an honest band.

Every figure about accuracy comes from groups of rows (shapes, not single rows) that neither the form nor the trees saw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capacity.timing import residual
from capacity.timing.band import Z90
from capacity.timing.features import features
from capacity.timing.fit import Sample, fitted, residuals
from capacity.timing.form import Array, Board, Form, Parameter
from capacity.timing.kernel import Kernel, Scatter
from capacity.timing.residual import Trees

FOLDS = 5
MOST_FORM_ROWS, MOST_TREE_ROWS = 2_500, 30_000
"""Rows that the form and the trees look at: the form has few parameters, the trees many."""
LEAST_TREE_ROWS = 400
GAIN = 0.97
"""Trees are kept where they bring the held-out error below this share of the form's own."""
ROWS_OF_KNOT = 120
MOST_KNOTS = 8
LEAST_SIGMA = 0.01
FEW = 50
"""Below so many rows a band is no narrower than that of a device nobody measured."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Measured launches of one kernel family on one device; `groups` says which belong to one shape."""

    operation: Any
    board: Board
    seconds: Array
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.seconds)

    def chosen(self, index: NDArray[Any]) -> Rows:
        """Return some of the rows, by a mask or by numbers."""
        return Rows(taken(self.operation, index, len(self)), self.board, self.seconds[index], self.groups[index])

    def sample(self, most: int) -> Rows:
        """Return at most so many rows, small and large work alike."""
        if len(self) <= most:
            return self
        index = spread_out(np.log(np.maximum(self.operation.moved_bytes + self.operation.flop / 300, 1.0)), most)
        return self.chosen(index)

    def corrected(self, kernel: Kernel) -> Rows:
        """Return the rows as they would be without what siblings' learned residuals say of them."""
        formed = kernel.form.seconds(self.operation, self.board, kernel.values)
        said = kernel.seconds(self.operation, self.board) / formed
        return dataclasses.replace(self, seconds=self.seconds / said)

    @property
    def as_sample(self) -> Sample:
        """Return the rows as the fit reads them."""
        return Sample(self.operation, self.board, self.seconds)


@dataclass(frozen=True, slots=True)
class Learned:
    """Parameters, trees and how wrong both are on shapes they did not see."""

    values: dict[str, float]
    trees: Trees | None
    scatter: Scatter
    log_sigma: float
    median_error: float
    mean_error: float
    rows: int


def taken(operation: Any, index: NDArray[Any], rows: int) -> Any:  # noqa: ANN401  (any operation)
    """Return an operation with the chosen entries of its array fields."""
    changed = {}
    for item in dataclasses.fields(operation):
        value = getattr(operation, item.name)
        if isinstance(value, np.ndarray) and value.shape == (rows,):
            changed[item.name] = value[index]
    return dataclasses.replace(operation, **changed)


def spread_out(size: Array, most: int, bins: int = 16) -> NDArray[np.int64]:
    """Return row numbers drawn with a fixed seed, rare sizes likelier than common ones.

    The asymptote of large work decides what a fit says beyond its range, and tables are full of small work.
    """
    place = np.clip(((size - size.min()) / (np.ptp(size) + 1e-9) * bins).astype(int), 0, bins - 1)
    weight = 1 / np.sqrt(np.bincount(place, minlength=bins)[place])
    order = np.random.default_rng(0).exponential(size=len(size)) / weight
    return np.sort(np.argsort(order)[:most])


def learned(
    form: Form, rows: Rows, prior: Sequence[Parameter], fixed: frozenset[str] = frozenset(), widest: float = 0.0
) -> Learned:
    """Return the fit of `rows` and its error on shapes left out.

    Parameters
    ----------
    prior
        Parameters with medians and spreads that other devices give.
    fixed
        Parameters that stay at the prior's median.
    widest
        Log standard deviation of a device nobody measured: the least that few rows may claim [1].
    """
    values, trees = _both(form, rows, prior, fixed)
    start = [parameter.started_at(values[parameter.name]) for parameter in prior]
    plain, corrected, predicted = _held_out(form, rows, start, prior, fixed)
    if trees is not None and np.mean(np.abs(corrected)) > GAIN * np.mean(np.abs(plain)):
        trees = None
    left = plain if trees is None else corrected
    least = max(LEAST_SIGMA, widest if len(rows) < FEW else 0.0)
    error = np.abs(np.expm1(-left))
    return Learned(
        values=values, trees=trees, scatter=scatter(predicted, left, least), log_sigma=max(_sigma(left), least),
        median_error=float(np.median(error)), mean_error=float(np.mean(error)), rows=len(rows),
    )  # fmt: skip


def _both(
    form: Form, rows: Rows, prior: Sequence[Parameter], fixed: frozenset[str], start: Sequence[Parameter] | None = None
) -> tuple[dict[str, float], Trees | None]:
    few = rows.sample(MOST_FORM_ROWS)
    (values,) = fitted(form, [few.as_sample], start or prior, fixed)
    if len(rows) < LEAST_TREE_ROWS:
        return values, None
    many = rows.sample(MOST_TREE_ROWS)
    predicted = np.asarray(form.seconds(many.operation, many.board, values))
    names, columns = features(many.operation, many.board, predicted)
    return values, residual.fitted(names, columns, np.log(many.seconds / predicted))


def _held_out(
    form: Form, rows: Rows, start: Sequence[Parameter], prior: Sequence[Parameter], fixed: frozenset[str]
) -> tuple[Array, Array, Array]:
    """Return ln(measured/predicted) of every row by a fit that did not see its group: form alone, with trees; times."""
    groups = np.unique(rows.groups)
    fold_of = dict(zip(groups, np.random.default_rng(1).permutation(len(groups)) % FOLDS, strict=True))
    folds = np.array([fold_of[group] for group in rows.groups])
    plain, corrected, predicted = (np.zeros(len(rows)) for _ in range(3))
    for fold in np.unique(folds):
        out = folds == fold
        inside = rows if out.all() else rows.chosen(~out)  # of a single shape nothing can be held out
        values, trees = _both(form, inside, prior, fixed, start)
        left = rows.chosen(out)
        plain[out] = residuals(form, left.as_sample, values)
        predicted[out] = left.seconds / np.exp(plain[out])
        correction = np.zeros(out.sum())
        if trees is not None:
            correction = trees.predicted(features(left.operation, left.board, predicted[out])[1])
        corrected[out] = plain[out] - correction
    return plain, corrected, predicted


def scatter(predicted_s: Array, left: Array, least: float) -> Scatter:
    """Return the scatter by predicted time: in each of a few windows, what 90 % of held-out rows stay within.

    The quantile has the finite-sample correction of conformal prediction, (1 + 1/n)·90 %.

    Reference: Barber et al., "Predictive inference with the jackknife+", Annals of Statistics 49(1), 2021.
    """
    count = int(np.clip(len(left) // ROWS_OF_KNOT, 1, MOST_KNOTS))
    if count == 1:
        return Scatter.constant(max(_sigma(left), least))
    windows = np.array_split(np.argsort(predicted_s), count)
    middles = np.array([np.median(np.log(predicted_s[window])) for window in windows])
    sigmas = np.array([max(_sigma(left[window]), least) for window in windows])
    ends = np.log([predicted_s.min(), predicted_s.max()])
    log_times = np.concatenate([ends[:1], middles, ends[1:]])
    unique = np.concatenate([[True], np.diff(log_times) > 1e-6])
    return Scatter(log_times[unique], np.concatenate([sigmas[:1], sigmas, sigmas[-1:]])[unique])


def _sigma(left: Array) -> float:
    level = min(1.0, 0.9 * (1 + 1 / len(left)))
    return float(np.quantile(np.abs(left), level)) / Z90
