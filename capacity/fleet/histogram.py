"""Streaming histograms of times: a few megabytes hold 10⁸ latencies, their quantiles and how sure those are.

Bins are octaves cut into equal parts, so that the bin of a number is the top of its bits: 512 parts make bins 0.10 % to
0.20 % wide (the HDR histogram of Tene works alike). Values are counted in groups, batches in order of arrival or parts
of a timeline; batch means tell the Monte-Carlo error (Law 2015, Simulation Modeling and Analysis, §9.5.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from capacity.errors import CapacityError
from capacity.fleet.flow import Counts, Times

MANTISSA = 52
LOW, OCTAVES = -20, 40
"""Bins reach from 2⁻²⁰ s (0.95 µs) to 2²⁰ s (12 days); what is shorter or longer has one bin each."""


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of values by group and bin. The arrays are counted up in place.

    Attributes
    ----------
    counts
        (groups, bins).
    sums_s
        (groups,) sum of the values, exact [s].
    extremes_s
        Least and greatest value [s].
    part_bits
        Bits of the number of parts of an octave.
    """

    counts: Counts
    sums_s: Times
    extremes_s: Times
    part_bits: int

    @classmethod
    def empty(cls, groups: int = 1, part_bits: int = 9) -> Histogram:
        """Return a histogram without values."""
        counts = np.zeros((groups, (OCTAVES << part_bits) + 2), np.int64)
        return cls(counts, np.zeros(groups), np.array([math.inf, -math.inf]), part_bits)

    def add(self, values_s: Times, group: Counts) -> None:
        """Count values [s], each in its group; NaN and groups below 0 are left out.

        Examples
        --------
        >>> histogram = Histogram.empty()
        >>> histogram.add(np.array([1.0, 2.0, 4.0, np.nan]), np.array([0, 0, 0, 0]))
        >>> histogram.count, histogram.mean_s
        (3, 2.3333333333333335)
        """
        _add(self.counts, self.sums_s, self.extremes_s, np.ascontiguousarray(values_s), group)

    @property
    def sizes(self) -> Counts:
        """Number of values of each group."""
        return np.asarray(self._used()[0].sum(axis=1))

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.sizes.sum())

    @property
    def mean_s(self) -> float:
        """Mean of all values, exact; NaN if there is none [s]."""
        return float(self.sums_s.sum()) / self.count if self.count else math.nan

    def _used(self) -> tuple[Counts, Times]:
        """Return (groups, used) the counts of the bins between the extremes, and (used + 1,) their edges [s]."""
        first = (LOW + 1023) << self.part_bits
        bits = (first + np.arange(self.counts.shape[1] - 1)) << (MANTISSA - self.part_bits)
        inner = bits.view(np.float64)
        least, most = np.searchsorted(inner, self.extremes_s, side="right")
        if most < least:
            return self.counts[:, :0], np.zeros(1)
        edges = np.concatenate([self.extremes_s[:1], inner[least:most], self.extremes_s[1:]])
        return self.counts[:, least : most + 1], edges

    def quantile(self, share: float) -> float:
        """Return the value that `share` of the values do not exceed, interpolated within its bin; NaN if none [s].

        Examples
        --------
        >>> histogram = Histogram.empty()
        >>> histogram.add(np.arange(1.0, 101.0), np.zeros(100, np.int64))
        >>> abs(histogram.quantile(0.5) / 50 - 1) < 0.002
        True
        """
        counts, edges = self._used()
        return float(_quantiles(counts.sum(axis=0)[None], edges, (share,))[0, 0])

    def quantiles(self, shares: Sequence[float]) -> Times:
        """Return (groups, shares) the quantiles of each group, NaN where it is empty [s]."""
        return _quantiles(*self._used(), shares)

    def above(self, threshold_s: float) -> float:
        """Return the share of values above a threshold [s]."""
        counts, edges = self._used()
        reached = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
        return 1 - float(np.interp(threshold_s, edges, reached)) / reached[-1] if reached[-1] else math.nan

    @property
    def spreads_s(self) -> Times:
        """Standard deviation of the values of each group, NaN where it is empty; exact within the bins [s]."""
        counts, edges = self._used()
        squares = counts @ ((edges[1:] + edges[:-1]) / 2) ** 2 / np.maximum(self.sizes, 1)
        return np.sqrt(np.maximum(squares - self.means_s**2, 0))

    @property
    def means_s(self) -> Times:
        """Mean of each group, NaN where it is empty [s]."""
        sizes = self.sizes
        means: Times = np.divide(self.sums_s, sizes, out=np.full(len(sizes), math.nan), where=sizes > 0)
        return means

    @property
    def mean_error_s(self) -> float:
        """Standard error of the mean by the means of the groups [s]."""
        return standard_error(self.means_s)

    def quantile_error(self, share: float) -> float:
        """Return the standard error of a quantile by those of the groups [s]."""
        return standard_error(self.quantiles((share,))[:, 0])

    def merged(self, other: Histogram) -> Histogram:
        """Return the values of both, group by group."""
        if self.counts.shape != other.counts.shape:
            raise CapacityError("histograms of different shape cannot be merged")
        extremes = np.array(
            [min(self.extremes_s[0], other.extremes_s[0]), max(self.extremes_s[1], other.extremes_s[1])]
        )
        return Histogram(self.counts + other.counts, self.sums_s + other.sums_s, extremes, self.part_bits)

    def grouped(self, rows: Counts) -> Histogram:
        """Return a histogram whose groups are those of each of `rows` (new groups, old groups) together."""
        return Histogram(
            self.counts[rows].sum(axis=1), self.sums_s[rows].sum(axis=1), self.extremes_s.copy(), self.part_bits
        )

    def halve(self) -> None:
        """Put every two neighboring groups into one; the second half is empty then."""
        for column in (self.counts, self.sums_s):
            half = len(column) // 2
            column[:half] = column[0::2] + column[1::2]
            column[half:] = 0


def _quantiles(counts: Counts, edges_s: Times, shares: Sequence[float]) -> Times:
    """Return (rows, shares) the quantiles of each row of `counts`, NaN where it is empty [s]."""
    reached = np.cumsum(counts, axis=1)
    found = np.full((len(counts), len(shares)), math.nan)
    for row in np.flatnonzero(counts.any(axis=1)):
        wanted = np.asarray(shares) * reached[row, -1]
        cell = np.searchsorted(reached[row], np.maximum(wanted, 1e-9))
        inside = counts[row, cell]
        part = (wanted - reached[row, cell] + inside) / inside
        found[row] = edges_s[cell] + part * (edges_s[cell + 1] - edges_s[cell])
    return found


def standard_error(batches: NDArray[np.float64]) -> float:
    """Return the standard error of the mean of batches, those without value (NaN) left out; NaN below two.

    Examples
    --------
    >>> standard_error(np.array([1.0, 3.0, np.nan]))  # standard deviation √2, over √2
    1.0
    """
    known = batches[np.isfinite(batches)]
    return float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan


@numba.njit(cache=True)
def _add(counts: Counts, sums_s: Times, extremes_s: Times, values_s: Times, group: Counts) -> None:
    bins = counts.shape[1]
    part_bits = round(math.log2((bins - 2) / OCTAVES))
    shift, before = MANTISSA - part_bits, ((LOW + 1023) << part_bits) - 1
    bits = values_s.view(np.int64)
    least, most = extremes_s
    for row in range(len(values_s)):
        value, into = values_s[row], group[row]
        if into < 0 or math.isnan(value):
            continue
        counts[into, min(max((bits[row] >> shift) - before, 0), bins - 1)] += 1
        sums_s[into] += value
        least, most = min(least, value), max(most, value)
    extremes_s[0], extremes_s[1] = least, most
