"""Waiting time in closed form: Erlang C, and Allen-Cunneen's approximation for general arrivals and service.

The wait of a request is 0 with probability 1 − `probability`, else exponential with mean `mean_s`: exact for M/M/c, the
usual two-moment approximation for GI/G/c.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Wait:
    """Time in queue: 0 with probability 1 − `probability`, else exponential with mean `mean_s`."""

    probability: float
    mean_s: float

    @property
    def average_s(self) -> float:
        """Mean over all requests [s]."""
        return self.probability * self.mean_s

    def quantile(self, share: float) -> float:
        """Return the time within which `share` of the requests leave the queue [s].

        Examples
        --------
        >>> round(Wait(0.5, 1.0).quantile(0.99), 4)  # 0.5·e^(−t) = 0.01 → t = ln 50
        3.912
        """
        late = 1 - share
        return 0.0 if self.probability <= late else self.mean_s * float(np.log(self.probability / late))


def erlang_c(servers: int, load: float) -> float:
    """Return the probability that a request waits in M/M/c.

    Parameters
    ----------
    servers
        c.
    load
        Offered load a = arrival rate × mean service time [Erlang]; below c.

    Notes
    -----
    C = B / (1 − ρ(1 − B)) with Erlang's B = (aᶜ/c!) / Σₖ₌₀ᶜ aᵏ/k! (Erlang 1917): a Poisson variable of mean a is c,
    given that it is at most c. That it is more is P(c)·Σₙ Πₖ₌₁ⁿ a/(c + k), of which 11·√c terms are enough: a pool of a
    million servers costs 60 µs. scipy.special says the same within 3e-9 but takes 0.2 s to import.

    Examples
    --------
    >>> round(erlang_c(1, 0.5), 12)  # M/M/1: C = ρ
    0.5
    >>> round(erlang_c(2, 1.0), 12)  # textbook: 1/3
    0.333333333333
    """
    if load <= 0:
        return 0.0
    if load >= servers:
        return 1.0
    exactly_all = math.exp(servers * math.log(load) - load - math.lgamma(servers + 1))
    ratios = load / np.arange(servers + 1, servers + 31 + int(11 * math.sqrt(servers)))
    blocking = exactly_all / (1 - exactly_all * float(np.cumprod(ratios).sum()))
    rho = load / servers
    return blocking / (1 - rho * (1 - blocking))


def waiting(servers: int, rate: float, service_s: float, arrival_scv: float = 1.0, service_scv: float = 0.0) -> Wait:
    """Return the wait in GI/G/c: Erlang C's, its mean scaled by (c²ₐ + c²ₛ)/2 (Allen 1990, §5.3).

    Parameters
    ----------
    servers
        Parallel servers.
    rate
        Arrivals per second, to all servers together.
    service_s
        Mean service time [s].
    arrival_scv, service_scv
        Squared coefficients of variation; 1 and 1 is M/M/c, 1 and 0 is M/D/c.

    Returns
    -------
    Wait
        Infinite when the servers cannot keep up: saturation is said, not averaged away.

    Examples
    --------
    >>> round(waiting(1, 0.5, 1.0, 1.0, 0.0).average_s, 12)  # M/D/1: ρ·S / (2(1 − ρ))
    0.5
    """
    load = rate * service_s
    if load >= servers:
        return Wait(1.0, float("inf"))
    probability = erlang_c(servers, load)
    mean_s = service_s / (servers - load) * (arrival_scv + service_scv) / 2
    return Wait(probability, mean_s)


@dataclass(frozen=True, slots=True)
class Service:
    """Log-normal service time: its mean [s] and squared coefficient of variation."""

    mean_s: float
    scv: float

    def at(self, deviate: Array) -> Array:
        """Return the service time at standard normal `deviate` [s]."""
        sigma = math.sqrt(math.log1p(self.scv))
        return self.mean_s * np.exp(sigma * deviate - sigma * sigma / 2)


def quantile(service: Service, waits: Sequence[Wait], share: float) -> float:
    """Return the time within which `share` of the requests are through queues and service [s].

    Quantiles of stages do not add; their distributions convolve: P(W + S ≤ t) is the mean of P(W ≤ t − s) over S,
    taken at `DEVIATES`, and solved for t by bisection.

    Examples
    --------
    >>> round(quantile(Service(1.0, 0.0), [Wait(0.5, 1.0)], 0.99), 3)  # 1 + ln 50
    4.912
    """
    real = [wait for wait in waits if wait.average_s > 0]
    if any(not math.isfinite(wait.mean_s) for wait in real):
        return math.inf
    if not real:
        return float(service.at(np.asarray(NormalDist().inv_cdf(share))))
    if service.scv == 0 or service.mean_s == 0:
        return service.mean_s + quantile_of_sum(real, share)
    times = service.at(DEVIATES)
    within = _through(real, times)
    low, high = float(times[0]), float(times[-1]) + sum(wait.quantile(1 - (1 - share) / 50) for wait in real)
    for _ in range(40):
        middle = (low + high) / 2
        if within(middle) < share:
            low = middle
        else:
            high = middle
    return high


DEVIATES = np.asarray([NormalDist().inv_cdf((index + 0.5) / 1000) for index in range(1000)])
"""Midpoints of a thousand equally likely slices of the standard normal distribution."""


def _through(waits: Sequence[Wait], times: Array) -> Callable[[float], float]:
    """Return P(sum of waits + S ≤ t) as a function of t [s], where S is each of the ascending `times` alike."""
    first_s, mean_s, probability = float(times[0]), waits[0].mean_s, waits[0].probability
    if len(waits) > 1 or times[-1] - first_s > 600 * mean_s:
        distribution = _distribution(waits)
        return lambda t: float(distribution(t - times).mean())
    ascending, grown = times.tolist(), np.cumsum(np.exp((times - first_s) / mean_s)).tolist()

    def within(t: float) -> float:
        passed = bisect_right(ascending, t)  # of them 1 − probability · e^((s − t)/mean) are through
        late = probability * math.exp((first_s - t) / mean_s) * grown[passed - 1] if passed else 0.0
        return (passed - late) / len(ascending)

    return within


def _distribution(waits: Sequence[Wait]) -> Callable[[Array], Array]:
    """Return P(sum of waits ≤ t) as a function of t [s]."""
    if len(waits) == 1:
        wait = waits[0]
        return lambda t: np.where(t < 0, 0.0, 1 - wait.probability * np.exp(-np.maximum(t, 0.0) / wait.mean_s))
    edges, mass = _grid(waits, sum(wait.quantile(0.99999) for wait in waits))
    cumulative = np.cumsum(mass)
    return lambda t: np.interp(t, edges, cumulative, left=0.0, right=1.0)


def quantile_of_sum(waits: Sequence[Wait], share: float) -> float:
    """Return the `share` quantile of the sum of independent waits [s], on a grid.

    Examples
    --------
    >>> one = Wait(0.5, 1.0)
    >>> abs(quantile_of_sum([one], 0.99) - one.quantile(0.99)) < 0.02
    True
    >>> quantile_of_sum([one, one], 0.99) < 2 * one.quantile(0.99)
    True
    """
    real = [wait for wait in waits if wait.average_s > 0]
    if not real:
        return 0.0
    if any(not math.isfinite(wait.mean_s) for wait in real):
        return math.inf
    if len(real) == 1:
        return real[0].quantile(share)
    limit = sum(wait.quantile(1 - (1 - share) / len(real)) for wait in real)
    if limit == 0:
        return 0.0
    edges, mass = _grid(real, limit)
    return float(edges[min(int(np.searchsorted(np.cumsum(mass), share)), len(edges) - 1)])


def _grid(waits: Sequence[Wait], limit: float, points: int = 4096) -> tuple[Array, Array]:
    """Return times up to `limit` [s] and the probability that the sum of `waits` falls between neighbors."""
    edges = np.linspace(0.0, limit, points)
    mass = np.zeros(points)
    mass[0] = 1.0
    for wait in waits:
        tail = wait.probability * np.exp(-edges / wait.mean_s)
        each = np.concatenate([[1 - wait.probability], -np.diff(tail)])
        mass = np.fft.irfft(np.fft.rfft(mass, 2 * points) * np.fft.rfft(each, 2 * points), 2 * points)[:points]
    return edges, mass
