"""How much a model must see until it converges at a global batch size, from published reference points.

A larger batch spends more samples for fewer steps. How many more is measured, never computed, so between two points the
line is straight in the logarithms of both (a power law), below the smallest batch it is flat, and beyond the largest
there is no answer: curves that rise bend upward. The last point of each shipped reference, told by the line
through the two before it, comes out too low for seven of eight (up to 11 %), and 18 % too high for one.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from capacity.errors import CapacityError
from capacity.spec.convergence import Convergence
from capacity.timing.band import Basis, Estimate
from capacity.work.operations import Amount

Values: TypeAlias = NDArray[np.float64]
RUNS, BATCH = "convergence", "batch size"
"""Error sources: runs of one batch size differ; nobody ran this batch size."""


def to_converge(reference: Convergence, batch: Amount) -> Estimate:
    """Return what one run sees until it converges at a global batch of `batch` samples [unit of the reference].

    At a point the error is that of one more run, std·√(1 + 1/runs); a run that is evaluated only now and then is known
    no better than resolution/√12. Between two points N₁ and N₂ a rising curve is anywhere between them: |ln N₂/N₁|/√12
    half way, nothing at the points. Below the smallest batch the count is that of the smallest, which is too much
    rather than too little; the error grows as the first segment's slope would.

    Parameters
    ----------
    reference
        Points of one benchmark.
    batch
        Samples of all devices together in one step; a number or an array.

    Raises
    ------
    CapacityError
        Beyond the largest batch of the reference, where nobody showed that the model converges at all.

    Notes
    -----
    Each inner point of the eight shipped references, predicted from its two neighbors: 3.9 % root mean square, median
    2.3 %, at most 8.4 % off (27 points). Straight in batch and count, as MLPerf's own checker draws it: 4.3 %, 1.9 %,
    17 %.

    Examples
    --------
    >>> from capacity.spec.convergence import Point
    >>> points = (Point(batch=100, mean=1000, std=50, runs=25), Point(batch=400, mean=4000, std=0, runs=9))
    >>> made_up = Convergence(id="a", title="a", unit="samples", source="made up", date="2026", points=points)
    >>> [round(float(to_converge(made_up, batch).value)) for batch in (10, 100, 200, 400)]
    [1000, 1000, 2000, 4000]
    """
    size = np.asarray(batch, dtype=np.float64)
    _checked(reference, size)
    batches, means = (np.array([getattr(point, name) for point in reference.points]) for name in ("batch", "mean"))
    place, log_means = np.log(np.maximum(size, batches[0])), np.log(means)
    value = np.exp(np.interp(place, np.log(batches), log_means))
    errors = {
        RUNS: np.interp(place, np.log(batches), _log_sigmas(reference)),
        BATCH: _unseen(np.log(size), np.log(batches), log_means),
    }
    return Estimate(_plain(value), {source: _plain(error) for source, error in errors.items()}, _basis(size, batches))


def samples_to_converge(reference: Convergence, batch: Amount) -> Estimate:
    """Return `to_converge` in samples, whatever the reference counts; steps are samples ÷ batch."""
    tokens = 1 if reference.unit == "samples" else reference.sample_tokens or 1
    return to_converge(reference, batch).scaled(1 / tokens)


def _checked(reference: Convergence, batch: Values) -> None:
    largest = reference.points[-1].batch
    if not np.all(batch > 0):
        raise CapacityError(f"{reference.id}: a global batch of {np.min(batch):g}; allowed: above 0 to {largest}")
    if np.any(batch > largest):
        raise CapacityError(
            f"{reference.id}: a global batch of {np.max(batch):g} is beyond the largest that was shown to converge, "
            f"{largest}; how many {reference.unit} more it needs is not known"
        )


def _log_sigmas(reference: Convergence) -> Values:
    """Return the error of one more run at each point, as log-sigma."""
    least = reference.resolution / np.sqrt(12)
    return np.array([max(p.std, least) / p.mean * np.sqrt(1 + 1 / p.runs) for p in reference.points])


def _unseen(place: Values, at: Values, log_means: Values) -> Values:
    """Return the log-sigma of what lies between the points, or below the first; `place` and `at` are ln batch."""
    segment = np.clip(np.searchsorted(at, place, side="right") - 1, 0, len(at) - 2)
    rise = np.abs(np.diff(log_means))[segment]
    share = (place - at[segment]) / np.diff(at)[segment]
    between = rise / np.sqrt(12) * 2 * np.minimum(share, 1 - share)
    found: Values = np.where(share < 0, -share * rise, between)
    return found


def _basis(batch: Values, batches: Values) -> Basis:
    if np.any(batch < batches[0]):
        return "projected"
    return "measured" if np.all(np.isin(batch, batches)) else "calibrated"


def _plain(values: Values) -> Amount:
    return float(values) if np.ndim(values) == 0 else values
