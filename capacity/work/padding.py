"""How long the texts of a batch are once they are filled up to the longest: order statistics of log-normal lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from capacity.work.operations import Amount

Array = NDArray[np.float64]
DEVIATES = np.linspace(-8.0, 8.0, 801)
"""Standard normal deviates that lengths are taken at; one length in 10¹⁵ lies beyond."""
RARE = 1e-9
"""Share of the texts below which a bucket is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Log-normal lengths, cut at the longest that the model reads."""

    mean: float
    """Before the cut [token]."""
    cv: float
    """Standard deviation ÷ mean, before the cut."""
    longest: float = math.inf

    def at(self, deviate: Array) -> Array:
        """Return the length at a standard normal `deviate` [token]."""
        variance = math.log1p(self.cv**2)
        return np.minimum(self.mean * np.exp(math.sqrt(variance) * deviate - variance / 2), self.longest)

    def deviate(self, tokens: float) -> float:
        """Return the standard normal deviate at which a length is `tokens`."""
        variance = math.log1p(self.cv**2)
        return (math.log(tokens / self.mean) + variance / 2) / math.sqrt(variance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Padded:
    """Tokens that a text of a batch takes, fill included."""

    mean: Amount
    """What products and element-wise work see [token]."""
    root_mean_square: Amount
    """What attention sees, whose work grows with the square [token]."""
    longest: Amount
    """The mean in the bucket of the longest texts: what memory must hold [token]."""


def padded(lengths: Lengths, together: Amount, buckets: tuple[int, ...] = ()) -> Padded:
    """Return the tokens that each of `together` texts takes when all are filled up to the longest among them.

    Parameters
    ----------
    lengths
        How they vary.
    together
        Texts of a batch; fewer than one count as one. 1: nothing is filled up, as in packed batches.
    buckets
        Lengths at which texts are parted [token]; those of a batch are then all of one bucket.

    Notes
    -----
    The longest of n is at most x with probability F(x)ⁿ, F that of the bucket (David & Nagaraja 2003, eq. 2.1.1); its
    mean is the sum of x·ΔF(x)ⁿ. Buckets count by the share of the texts that they hold.

    Examples
    --------
    >>> padded(Lengths(mean=100, cv=0), 32).mean
    100
    >>> round(float(padded(Lengths(mean=100, cv=1), 1).root_mean_square), 1)  # 100·√(1 + 1)
    141.4
    """
    if lengths.cv**2 == 0:
        return Padded(mean=lengths.mean, root_mean_square=lengths.mean, longest=lengths.mean)
    length, parts = _parted(lengths, buckets)
    exponent = np.maximum(np.asarray(together, np.float64)[..., None], 1.0)
    chances = [np.diff(within**exponent) for _, within in parts]
    mean = sum(share * (chance @ length) for (share, _), chance in zip(parts, chances, strict=True))
    square = sum(share * (chance @ length**2) for (share, _), chance in zip(parts, chances, strict=True))
    return Padded(mean=mean, root_mean_square=np.sqrt(square), longest=chances[-1] @ length)


@lru_cache(maxsize=64)
def _parted(lengths: Lengths, buckets: tuple[int, ...]) -> tuple[Array, list[tuple[float, Array]]]:
    """Return lengths [token], and of each bucket its share of the texts and the distribution at the lengths' edges."""
    bounds = np.clip([lengths.deviate(bucket) for bucket in sorted(buckets)], DEVIATES[0], DEVIATES[-1])
    edges = np.unique(np.concatenate([DEVIATES, bounds]))
    below = np.asarray([math.erfc(-edge / math.sqrt(2)) / 2 for edge in edges])
    ends = [0.0, *below[np.searchsorted(edges, bounds)], 1.0]
    held = [(low, high) for low, high in pairwise(ends) if high - low > RARE]
    parts = [(high - low, np.clip((below - low) / (high - low), 0.0, 1.0)) for low, high in held]
    return lengths.at((edges[:-1] + edges[1:]) / 2), parts
