"""When requests come: Poisson, evenly spaced, in bursts, through a day, in stages of a load test, or as a trace says.

Every process but the trace is a unit-rate process seen through a clock that runs as fast as the load: if Λ(t) is the
mean number of arrivals until t, Λ⁻¹ of a unit-rate Poisson process is Poisson with rate Λ′ (Çinlar 1975, §4.7). Times
are drawn in blocks of a fixed length, so the same seed gives the same times however they are cut into chunks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import Generator

from capacity.errors import InputError
from capacity.fleet.flow import Counts, Times
from capacity.fleet.lengths import InOrder, recorded

BLOCK = 1 << 16
"""Times drawn at once."""
DAY_S = 86400.0
CELLS = 8640
"""Parts of a day within which the diurnal rate is taken as constant: 10 s."""
EXACT = 1 - 1e-12
"""Room for rounding at the end of a schedule: 0.1/s for 30 s are 3 requests, not 3.0000000000000004."""


class Arrivals(ABC):
    """A process of arrivals that starts at time 0."""

    __slots__ = ()

    @property
    @abstractmethod
    def mean_rate(self) -> float:
        """Requests per second over the whole process, or over a day."""

    @property
    @abstractmethod
    def peak_rate(self) -> float:
        """Requests per second when most come."""

    @property
    def duration_s(self) -> float:
        """Time after which nobody comes; infinite if the process goes on for ever [s]."""
        return math.inf

    @property
    def count(self) -> float:
        """Mean number of all arrivals; infinite if the process goes on for ever."""
        return self.mean_rate * self.duration_s

    @property
    def scv(self) -> float:
        """Squared coefficient of variation of the times between arrivals at a constant rate: 0 even, 1 Poisson."""
        return 1.0

    @abstractmethod
    def rate_at(self, time_s: Times) -> Times:
        """Return the mean requests per second at each time [s]."""

    @abstractmethod
    def _blocks(self, random: Generator) -> Iterator[Times]:
        """Yield times in order, in blocks whose length does not depend on anybody's chunks [s]."""

    def chunks(self, seed: int, size: int) -> Iterator[Times]:
        """Yield arrival times in order, `size` at a time; the last chunk may be shorter [s].

        Examples
        --------
        >>> next(Constant(4.0).chunks(seed=0, size=3)).tolist()
        [0.0, 0.25, 0.5]
        """
        kept = np.empty(0)
        for block in self._blocks(np.random.default_rng(seed)):
            kept = np.concatenate([kept, block])
            whole = len(kept) - len(kept) % size
            for start in range(0, whole, size):
                yield kept[start : start + size]
            kept = kept[whole:]
        if len(kept):
            yield kept


@dataclass(frozen=True, slots=True)
class _Steady(Arrivals):
    """Arrivals whose rate never changes."""

    rate: float
    """Requests per second."""

    def __post_init__(self) -> None:
        _positive("rate", self.rate)

    @property
    def mean_rate(self) -> float:
        return self.rate

    @property
    def peak_rate(self) -> float:
        return self.rate

    def rate_at(self, time_s: Times) -> Times:
        return np.full(np.shape(time_s), self.rate)


@dataclass(frozen=True, slots=True)
class Poisson(_Steady):
    """Many people who know nothing of each other."""

    def _blocks(self, random: Generator) -> Iterator[Times]:
        return (block / self.rate for block in _poisson(random))


@dataclass(frozen=True, slots=True)
class Constant(_Steady):
    """One request every 1/`rate` seconds, the first at 0."""

    @property
    def scv(self) -> float:
        """Evenly spaced: 0."""
        return 0.0

    def _blocks(self, random: Generator) -> Iterator[Times]:
        return (block / self.rate for block in _even())


@dataclass(frozen=True, slots=True)
class Gamma(_Steady):
    """Gamma-distributed times between arrivals: bursts for `cv` > 1, Poisson for 1, nearly even below.

    `cv` is their standard deviation ÷ mean; load generators name its inverse square burstiness (vLLM bench serve).
    """

    cv: float

    def __post_init__(self) -> None:
        _positive("rate", self.rate)
        _positive("cv", self.cv)

    @property
    def scv(self) -> float:
        """Squared `cv`."""
        return self.cv**2

    def _blocks(self, random: Generator) -> Iterator[Times]:
        unit = _cumulative(lambda: random.gamma(1 / self.scv, self.scv, BLOCK))
        return (block / self.rate for block in unit)


@dataclass(frozen=True, slots=True)
class Diurnal(Arrivals):
    """Poisson arrivals whose rate follows the day, peak·exp(κ(cos φ − 1)) at the angle φ from the busiest hour.

    The shape is that of the von Mises distribution (the normal distribution of a circle); κ is such that the mean over
    a day is I₀(κ)·e^(−κ) = `mean_to_peak` of the peak. Half the peak on average leaves 17 % of it in the quietest hour.

    Attributes
    ----------
    peak
        Requests per second in the busiest minutes.
    mean_to_peak
        Mean rate over a day ÷ peak rate, in (0, 1].
    peak_hour
        When it is busiest [hour of the day]; the simulation starts at midnight.
    """

    peak: float
    mean_to_peak: float = 0.5
    peak_hour: float = 20.0

    def __post_init__(self) -> None:
        _positive("peak", self.peak)
        if not 0.05 <= self.mean_to_peak <= 1:
            raise InputError(f"mean_to_peak is {self.mean_to_peak:g}; allowed: 0.05 to 1")

    @property
    def mean_rate(self) -> float:
        """Requests per second over a day."""
        return self.peak * self.mean_to_peak

    @property
    def peak_rate(self) -> float:
        """Requests per second in the busiest minutes."""
        return self.peak

    def rate_at(self, time_s: Times) -> Times:
        """Return the mean requests per second at each time [s].

        Examples
        --------
        >>> Diurnal(10.0, 0.5, 20.0).rate_at(np.array([20 * 3600.0, 8 * 3600.0])).round(2).tolist()
        [10.0, 1.73]
        """
        angle = (np.asarray(time_s) / DAY_S - self.peak_hour / 24) * 2 * np.pi
        shape: Times = np.exp(_concentration(self.mean_to_peak) * (np.cos(angle) - 1))
        return self.peak * shape

    def _blocks(self, random: Generator) -> Iterator[Times]:
        edges = np.linspace(0.0, DAY_S, CELLS + 1)
        arrived = np.concatenate([[0.0], np.cumsum(self.rate_at((edges[1:] + edges[:-1]) / 2))]) * (DAY_S / CELLS)
        for block in _poisson(random):
            days = np.floor(block / arrived[-1])
            yield days * DAY_S + np.interp(block - days * arrived[-1], arrived, edges)


def _concentration(mean_to_peak: float) -> float:
    """Return κ with I₀(κ)·e^(−κ) = `mean_to_peak`, by bisection."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.i0(middle) * math.exp(-middle) > mean_to_peak else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True, slots=True)
class Schedule(Arrivals):
    """Stages of a load test one after the other, each (requests per second, how long [s])."""

    stages: tuple[tuple[float, float], ...]
    process: Literal["constant", "poisson"] = "poisson"

    def __post_init__(self) -> None:
        if not self.stages or any(rate < 0 or duration_s <= 0 for rate, duration_s in self.stages):
            raise InputError("a schedule needs stages of (rate, duration_s), the rate at least 0, the duration above 0")
        _positive("the highest rate of a schedule", self.peak_rate)

    @property
    def mean_rate(self) -> float:
        """Requests per second over all stages."""
        return sum(rate * duration_s for rate, duration_s in self.stages) / self.duration_s

    @property
    def peak_rate(self) -> float:
        """Requests per second in the busiest stage."""
        return max(rate for rate, _ in self.stages)

    @property
    def duration_s(self) -> float:
        """Length of all stages [s]."""
        return sum(duration_s for _, duration_s in self.stages)

    @property
    def scv(self) -> float:
        """0 if evenly spaced, else 1."""
        return float(self.process == "poisson")

    def rate_at(self, time_s: Times) -> Times:
        """Return the mean requests per second at each time [s]; 0 after the last stage."""
        ends = np.cumsum([duration_s for _, duration_s in self.stages])
        rates = np.array([rate for rate, _ in self.stages] + [0.0])
        return np.asarray(rates[np.searchsorted(ends, time_s, side="right")])

    def _blocks(self, random: Generator) -> Iterator[Times]:
        rates, durations = np.array(self.stages).T
        edges = np.concatenate([[0.0], np.cumsum(durations)])
        arrived = np.concatenate([[0.0], np.cumsum(rates * durations)])
        for block in _poisson(random) if self.process == "poisson" else _even():
            inside = block[block < arrived[-1] * EXACT]
            yield np.interp(inside, arrived, edges)
            if len(inside) < len(block):
                return


@dataclass(frozen=True, slots=True, eq=False)
class Trace(Arrivals):
    """Recorded requests, replayed as they came.

    Attributes
    ----------
    times_s
        Arrivals in order [s].
    input_tokens, output_tokens
        Lengths of each.
    """

    times_s: Times
    input_tokens: Counts
    output_tokens: Counts

    def __post_init__(self) -> None:
        if not len(self.times_s) == len(self.input_tokens) == len(self.output_tokens) > 0:
            raise InputError("a trace needs at least one request, and as many lengths as times")
        if self.times_s[0] < 0 or np.any(np.diff(self.times_s) < 0):
            raise InputError("the times of a trace must start at 0 or later and never go back")

    @property
    def mean_rate(self) -> float:
        """Requests per second from 0 to the last arrival; one per second if all came at once."""
        return len(self.times_s) / self.duration_s if self.duration_s else float(len(self.times_s))

    @property
    def peak_rate(self) -> float:
        """Requests per second in the busiest hundredth of the trace."""
        return float(self._rates().max())

    @property
    def duration_s(self) -> float:
        """When the last request came [s]."""
        return float(self.times_s[-1])

    @property
    def count(self) -> float:
        """Number of all arrivals."""
        return float(len(self.times_s))

    def thinned(self, share: int) -> Trace:
        """Return one in `share` of the requests, for a fleet of which as many replicas are simulated."""
        if share == 1:
            return self
        return Trace(self.times_s[::share], self.input_tokens[::share], self.output_tokens[::share])

    @property
    def lengths(self) -> InOrder:
        """What the same requests ask for, in the order of their arrival."""
        return InOrder(self.input_tokens, self.output_tokens)

    def rate_at(self, time_s: Times) -> Times:
        """Return the requests per second of the hundredth of the trace around each time [s]; 0 after the end."""
        rates = np.append(self._rates(), 0.0)
        cell = np.asarray(time_s) / ((self.duration_s or 1.0) / 100)
        inside = (cell >= 0) & (cell <= 100)
        return np.asarray(rates[np.where(inside, np.minimum(cell, 99), 100).astype(np.int64)])

    def _rates(self) -> Times:
        counts, edges = np.histogram(self.times_s, bins=100, range=(0.0, self.duration_s or 1.0))
        return counts / np.diff(edges)

    def _blocks(self, random: Generator) -> Iterator[Times]:
        yield self.times_s

    @classmethod
    def read(cls, path: str | Path) -> Trace:
        """Return the trace in a CSV file, or in JSON Lines (`.jsonl`, one object a line).

        Columns are `arrival_s` [s] or `timestamp` (seconds or ISO 8601, counted from the first), `input_tokens` and
        `output_tokens`; others are ignored.

        Raises
        ------
        InputError
            With every problem at its file:line.
        """
        return cls(*recorded(path))


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} is {value:g}; allowed: a number above 0")


def _cumulative(intervals: Callable[[], Times]) -> Iterator[Times]:
    """Yield running sums of blocks of intervals."""
    start = 0.0
    while True:
        block = start + np.cumsum(intervals())
        yield block
        start = float(block[-1])


def _poisson(random: Generator) -> Iterator[Times]:
    """Yield a Poisson process of rate 1."""
    return _cumulative(lambda: random.standard_exponential(BLOCK))


def _even() -> Iterator[Times]:
    """Yield the numbers from 0."""
    start = 0
    while True:
        yield np.arange(start, start + BLOCK, dtype=np.float64)
        start += BLOCK
