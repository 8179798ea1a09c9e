"""All ways to run a pool at once: the closed forms of `queueing` and `sizing` over arrays of replicas.

A search asks for the latency of a hundred thousand fleets; one by one they would take minutes. Times agree with those
of `capacity.fleet.sizing` within `NEAR`, by which a search knows which ones to ask for exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtri, pdtr

from capacity.fleet.sizing import Load, PoolLoad

Array = NDArray[np.float64]
NEAR = 0.02
"""How far a quantile may be off the one of `queueing.quantile` [1]; a test holds it to that."""
ROUNDS = 16
"""Halvings of the interval in which a quantile lies."""
LATE = 1e-3
"""Waits that fewer than this share of the late requests see change no quantile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What a request goes through in one pool at one rate, arrays [ways].

    Attributes
    ----------
    forming_s
        Waiting for its batch to fill [s].
    probability, wait_s
        Share of the batches that queue, and the mean wait of those [s]; infinite where replicas cannot keep up.
    service_s, scv
        Mean time on the devices [s] and its squared coefficient of variation.
    """

    forming_s: Array
    probability: Array
    wait_s: Array
    service_s: Array
    scv: Array

    @classmethod
    def of(cls, load: Load, replicas: Array, rate: float) -> Self:
        """Return what a request goes through with each number of replicas at `rate` requests per second."""
        if isinstance(load, PoolLoad):
            return cls._batched(load, replicas, rate)
        found = [load.latency(int(count), rate) for count in replicas]
        return cls(
            forming_s=np.array([part.forming_s for part in found]),
            probability=np.array([part.wait.probability for part in found]),
            wait_s=np.array([part.wait.mean_s for part in found]),
            service_s=np.array([part.service.mean_s for part in found]),
            scv=np.array([part.service.scv for part in found]),
        )  # fmt: skip

    @classmethod
    def _batched(cls, load: PoolLoad, replicas: Array, rate: float) -> Self:
        reaching = max(load.share * rate, 1e-12)
        batches = reaching / load.batch
        probability, wait_s = waits(replicas, batches, load.service_s, (1 / load.batch + load.service_scv) / 2)
        longest = max(load.max_wait_s, load.service_s)
        return cls(
            forming_s=np.minimum((load.batch - 1) * replicas / reaching, longest), probability=probability,
            wait_s=wait_s, service_s=np.full_like(replicas, load.service_s),
            scv=np.full_like(replicas, load.service_scv),
        )  # fmt: skip


def waits(servers: Array, rate: float, service_s: float, variation: float) -> tuple[Array, Array]:
    """Return the share that waits and the mean wait of those [s] in GI/G/c, for each number of servers.

    Parameters
    ----------
    variation
        (c²ₐ + c²ₛ) ÷ 2, as `queueing.waiting` has it.

    Examples
    --------
    >>> waits(np.array([1.0, 2.0]), 0.5, 1.0, 0.5)[0].round(6).tolist()  # M/M/1: ρ; M/M/2: 0.1
    [0.5, 0.1]
    """
    load = rate * service_s
    if load <= 0:
        return np.zeros_like(servers), np.zeros_like(servers)
    keeps_up = servers > load
    count = np.where(keeps_up, servers, load + 1)
    exactly_all = np.exp(count * np.log(load) - load - gammaln(count + 1))
    blocking = exactly_all / pdtr(count, load)
    probability = blocking / (1 - load / count * (1 - blocking))
    return np.where(keeps_up, probability, 1.0), np.where(keeps_up, service_s / (count - load) * variation, np.inf)


def quantiles(ways: Ways, share: float) -> Array:
    """Return the time within which `share` of the requests are through queue and service [s], for each way.

    Examples
    --------
    >>> one = Ways(forming_s=np.zeros(1), probability=np.full(1, 0.5), wait_s=np.ones(1), service_s=np.ones(1),
    ...            scv=np.zeros(1))
    >>> quantiles(one, 0.99).round(2).tolist()  # 1 + ln 50
    [4.91]
    """
    spread = np.sqrt(np.log1p(ways.scv))
    found = ways.service_s * np.exp(spread * ndtri(share) - spread**2 / 2)
    stuck = ~np.isfinite(ways.wait_s)
    found[stuck] = np.inf
    queued = np.flatnonzero(~stuck & (ways.probability > LATE * (1 - share)) & (ways.wait_s > 0))
    if queued.size:
        found[queued] = _with_waits(ways, spread, queued, share)
    return np.asarray(found)


def _with_waits(ways: Ways, spread: Array, queued: NDArray[np.intp], share: float) -> Array:
    """Return quantiles t of wait and service together, halving the interval that t lies in.

    P(W + S ≤ t) is the mean over S of P(W ≤ t − s) = 1 − p·e^(−(t − s)/m) where t ≥ s. S is cut at `EDGES` of its
    distribution and even between two: the mean there is a difference of x − p·m·(1 − e^(−x/m)) at x = max(t − s, 0).
    """
    mean_s, spread = ways.service_s[queued, None], spread[queued, None]
    chance, wait_s = ways.probability[queued, None], ways.wait_s[queued, None]
    edges = mean_s * np.exp(np.maximum(spread, 1e-6) * EDGES - spread**2 / 2)
    mass = MASS / np.diff(edges)
    late = 1 - share
    alone = mean_s * np.exp(spread * ndtri(np.array([share, 1 - late / 2])) - spread**2 / 2)
    queue = wait_s * np.maximum(np.log(chance / np.array([late, late / 2])), 0.0)
    low, high = np.maximum(alone[:, 0], queue[:, 0]), alone[:, 1] + queue[:, 1]
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        rest = np.maximum(middle[:, None] - edges, 0.0)
        reached = rest - chance * wait_s * -np.expm1(-rest / wait_s)
        within = (-np.diff(reached) * mass).sum(axis=1)
        low, high = np.where(within < share, middle, low), np.where(within < share, high, middle)
    return np.asarray(high)


def _edges() -> Array:
    """Return probabilities of the standard normal that cut it: even up to 0.5, ever finer in the tail."""
    return np.asarray(np.r_[1e-6, np.linspace(0.0, 0.5, 17)[1:], 1 - np.geomspace(0.5, 1e-6, 64)[1:]])


EDGES, MASS = ndtri(_edges()), np.diff(_edges())
