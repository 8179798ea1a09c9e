"""Anchors of tuned submissions: what a chip's own results of a benchmark say about its results in later rounds.

ln(measured/predicted) of one chip, benchmark and scenario is a level plus scatter. The level is the weighted median of
its rows, the newest round weighs most, and it is shrunk towards 0 by how few rows there are and how they scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from capacity.timing.form import Array

FADE = 0.25
"""Weight of a round's rows beside those of the chip's next one [1] (judgment; 0.1 to 0.5 does about as well)."""
GAIN_LOG_SIGMA = 0.1
"""Log standard deviation of what software gains between two rounds, before any such step was seen [1] (assumed)."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution beside its median absolute deviation."""


@dataclass(frozen=True, slots=True)
class Series:
    """Results of one chip in one benchmark and scenario.

    Attributes
    ----------
    logs
        ln(measured/predicted time) of each result [1].
    rounds
        Number of each result's round; 0 where it is not known.
    prior
        Log standard deviation of the predictions [1].
    """

    logs: Array
    rounds: Array
    prior: float


def weighted_median(values: Array, weights: Array) -> float:
    """Return the value with half of the weight on either side, between the two nearest ones [unit of the values].

    Examples
    --------
    >>> weighted_median(np.array([3.0, 1.0]), np.ones(2)), weighted_median(np.array([5.0, 1.0]), np.array([1.0, 0.0]))
    (2.0, 5.0)
    """
    kept = weights > 0
    order = np.lexsort((weights[kept], values[kept]))
    value, weight = values[kept][order], weights[kept][order]
    return float(np.interp(weight.sum() / 2, np.cumsum(weight) - weight / 2, value))


def level(series: Series, row_log_sigma: float) -> tuple[float, float]:
    """Return the level of a series and the log standard deviation of another result around it [1].

    Parameters
    ----------
    row_log_sigma
        Least scatter of rows of one device [1].

    Notes
    -----
    m = weighted median, s = its scatter, W = sum of weights `FADE`^age, the newest round's age 0:
    level = m · W p²/(W p² + s²), error = s √(p²/(W p² + s²) + 1) with p the prior.

    Examples
    --------
    >>> one = Series(np.array([0.2]), np.array([4.1]), prior=0.1)
    >>> tuple(round(each, 3) for each in level(one, 0.1))  # as sure of the row as of the model: half of the way
    (0.1, 0.122)
    """
    _, place = np.unique(series.rounds, return_inverse=True)
    weights = FADE ** (place.max() - place).astype(float)
    return _shrunk(series.logs, weights, float(weights.sum()), series.prior, row_log_sigma)


def gain(known: Sequence[Series], row_log_sigma: float) -> tuple[float, float]:
    """Return the step of a chip's level to its next round, and the log standard deviation of one step around it [1].

    Negative where software gets faster; 0 where no series has two rounds. A step weighs as much as the smaller of its
    rounds has rows, and only steps as a whole count against the prior `GAIN_LOG_SIGMA`.

    Examples
    --------
    >>> series = Series(np.array([0.0, -0.2]), np.array([4.0, 4.1]), prior=0.1)
    >>> tuple(round(each, 3) for each in gain([series], 0.1))
    (-0.1, 0.122)
    >>> tuple(round(each, 3) for each in gain([], 0.1))
    (0.0, 0.141)
    """
    found = [step for series in known for step in _steps(series)]
    if not found:
        return 0.0, float(np.hypot(GAIN_LOG_SIGMA, row_log_sigma))
    logs, weights = np.array(found).T
    return _shrunk(logs, weights, float(len(logs)), GAIN_LOG_SIGMA, row_log_sigma)


def _steps(series: Series) -> list[tuple[float, float]]:
    parts = [series.logs[series.rounds == each] for each in np.unique(series.rounds[series.rounds > 0])]
    return [(float(np.median(new) - np.median(old)), float(min(len(old), len(new)))) for old, new in pairwise(parts)]


def _shrunk(logs: Array, weights: Array, amount: float, prior: float, least: float) -> tuple[float, float]:
    """Return the posterior of a median whose `amount` values scatter, and the error of another value around it."""
    middle = weighted_median(logs, weights)
    scatter = max(least, NORMAL_MAD * weighted_median(np.abs(logs - middle), weights))
    both = amount * prior**2 + scatter**2
    return middle * amount * prior**2 / both, float(scatter * np.sqrt(prior**2 / both + 1))
