"""The fewest replicas of each pool that carry the peak and meet the objective, and what stops a smaller fleet.

A pool serves batches one after the other (encoders), or holds many requests at once and advances them together
(continuous batching of an LLM).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from capacity.fleet.equilibrium import Course, Steady
from capacity.fleet.queueing import Service, Wait, quantile, waiting

MOST_REPLICAS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Where a request's time goes in one pool at peak [s]."""

    forming_s: float
    """Waiting for its batch to fill, the first one in; of an LLM, until clients see what was made."""
    wait: Wait
    service: Service
    """On the devices."""


class Load(Protocol):
    """A pool as sizing sees it: what it does to a request, by its replicas and the rate of requests."""

    @property
    def name(self) -> str:
        """Name of the pool."""

    @property
    def host_s(self) -> float:
        """Time a request spends beside the devices: it delays the request and keeps no replica busy [s]."""

    @property
    def devices_per_replica(self) -> float:
        """Devices of one replica: less than one where it is a slice."""

    @property
    def share(self) -> float:
        """Share of the requests that reach it; the others were answered from a cache."""

    @property
    def fewest(self) -> int:
        """Fewest replicas that work at all."""

    @property
    def alone_s(self) -> float:
        """Time of a request on an idle replica [s]."""

    def most_rate(self) -> float:
        """Return the requests per second at which one replica saturates."""

    def latency(self, replicas: int, rate: float) -> Latency:
        """Return the latency with `replicas` replicas at `rate` requests per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLoad:
    """A pool that serves batches one after the other, at one batch size."""

    name: str
    batch: int
    service_s: float
    """Time of one full batch through all stages of the pool [s]."""
    service_scv: float
    max_wait_s: float = float("inf")
    """Longest a request waits for its batch to fill [s]."""
    share: float = 1.0
    """Share of the requests that reach it; the others were answered before."""
    host_s: float = 0.0
    devices_per_replica: float = 1
    fewest: int = 1

    @property
    def alone_s(self) -> float:
        """Time of a batch on an idle replica [s]."""
        return self.service_s

    def most_rate(self) -> float:
        """Return the requests per second at which one replica saturates."""
        return self.batch / self.service_s / self.share if self.service_s and self.share else float("inf")

    def latency(self, replicas: int, rate: float) -> Latency:
        """Return the latency in the pool.

        A batch leaves when it is full; else after its longest wait, or later when the batch before it is done. The
        first request of a batch waits for that at most; the batch is then timed as if it were full.
        """
        reaching = max(self.share * rate, 1e-12)
        forming = min((self.batch - 1) * replicas / reaching, max(self.max_wait_s, self.service_s))
        wait = waiting(replicas, reaching / self.batch, self.service_s, 1.0 / self.batch, self.service_scv)
        return Latency(forming_s=forming, wait=wait, service=Service(self.service_s, self.service_scv))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateLoad:
    """A pool of an LLM engine with continuous batching: requests join and leave the batch at every step."""

    name: str
    course: Course
    """How a replica's load goes with the sequences in service."""
    slots: float
    """Requests that run at once on one replica."""
    service_scv: float
    """Of a request's time in service: its output's length varies."""
    share: float = 1.0
    """Share of the requests that reach it; the others were answered from a cache."""
    seen: Callable[[Steady], float] = lambda _: 0.0
    """Time until clients see what was made [s]."""
    host_s: float = 0.0
    devices_per_replica: float = 1
    fewest: int = 1

    @property
    def alone_s(self) -> float:
        """Time of a request on an idle replica [s]."""
        return self.course.table.request_s(self.course.texts, float(self.course.texts.beams))

    def most_rate(self) -> float:
        """Return the requests per second at which one replica saturates."""
        return self.course.most_rate / self.share if self.share else math.inf

    def steady(self, replicas: int, rate: float) -> Steady | None:
        """Return where each replica settles, or None where its slots or its steps cannot carry the load."""
        return self.course.steady(self.share * rate / replicas)

    def latency(self, replicas: int, rate: float) -> Latency:
        """Return the latency of what reaches the pool: slots are servers, their time that of the steady batch."""
        found = self.steady(replicas, rate)
        if found is None:
            return Latency(forming_s=0.0, wait=Wait(1.0, math.inf), service=Service(self.alone_s, self.service_scv))
        wait = waiting(int(replicas * self.slots), self.share * rate, found.request_s, 1.0, self.service_scv)
        return Latency(forming_s=self.seen(found), wait=wait, service=Service(found.request_s, self.service_scv))


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What all pools together must achieve."""

    rate: float
    """Peak requests per second."""
    headroom: float
    """Extra share of the peak that must still be carried."""
    latency_s: float
    quantile: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Replicas of every pool, and the latency they give at peak."""

    replicas: Mapping[str, int]
    latency: Mapping[str, Latency]
    quantile_s: float
    median_s: float
    utilization: Mapping[str, float]

    def devices(self, pools: Sequence[Load]) -> int:
        """Return devices of all pools."""
        return sum(math.ceil(self.replicas[pool.name] * pool.devices_per_replica) for pool in pools)


@dataclass(frozen=True, slots=True)
class Miss:
    """Why no fleet meets the objective: the constraint, what it needs, what is allowed."""

    constraint: str
    best_s: float
    allowed_s: float


def fleet(pools: Sequence[Load], replicas: Mapping[str, int], demand: Demand) -> Fleet:
    """Return how `replicas` of each pool do at the peak rate."""
    parts = _parts(pools, replicas, demand)
    used = {pool.name: demand.rate / pool.most_rate() / replicas[pool.name] for pool in pools}
    return Fleet(
        replicas=dict(replicas), latency=parts, utilization=used,
        quantile_s=_tail_s(pools, parts, demand.quantile), median_s=_tail_s(pools, parts, 0.5),
    )  # fmt: skip


def _parts(pools: Sequence[Load], replicas: Mapping[str, int], demand: Demand) -> dict[str, Latency]:
    return {pool.name: pool.latency(replicas[pool.name], demand.rate) for pool in pools}


def _tail_s(pools: Sequence[Load], parts: Mapping[str, Latency], share: float) -> float:
    """Return the time within which `share` of the requests are through all pools [s].

    Of one pool behind a cache, requests that the cache answers take no time; of several pools, it is the time of those
    that reach them all.
    """
    if len(pools) == 1 and pools[0].share < 1:
        late = (1 - share) / max(pools[0].share, 1e-12)
        if late >= 1:
            return pools[0].host_s
        share = 1 - late
    fixed = sum(part.forming_s for part in parts.values()) + sum(pool.host_s for pool in pools)
    service = _service([part.service for part in parts.values()])
    return fixed + quantile(service, [part.wait for part in parts.values()], share)


def _service(parts: Sequence[Service]) -> Service:
    """Return the service time on the devices of all pools as one: means and variances add."""
    mean = sum(part.mean_s for part in parts)
    variance = sum(part.mean_s**2 * part.scv for part in parts)
    return Service(mean, variance / mean**2 if mean else 0.0)


def least(pool: Load, rate: float) -> int:
    """Return the fewest replicas that keep up with `rate`."""
    return max(pool.fewest, int(rate / pool.most_rate()) + 1)


def sized(pools: Sequence[Load], demand: Demand, given: Mapping[str, int] | None = None) -> Fleet | Miss:
    """Return the smallest fleet that meets the objective at peak plus headroom, or what it misses.

    Parameters
    ----------
    given
        Replicas of pools whose number is fixed.

    Notes
    -----
    Starts from the fewest replicas that keep up and adds where it shortens the tail most for its devices. The latency
    reported is that at the peak itself.
    """
    stressed = Demand(
        rate=demand.rate * (1 + demand.headroom), headroom=0.0, latency_s=demand.latency_s,
        quantile=demand.quantile,
    )  # fmt: skip
    service = sum(pool.alone_s + pool.host_s for pool in pools)
    if service > demand.latency_s:
        return Miss("service time of one batch alone", service, demand.latency_s)
    fixed = given or {}
    replicas = {pool.name: fixed.get(pool.name, least(pool, stressed.rate)) for pool in pools}
    open_pools = [pool for pool in pools if pool.name not in fixed]
    best = before_s = float("inf")
    while sum(replicas.values()) <= MOST_REPLICAS:
        now_s = _tail_s(pools, _parts(pools, replicas, stressed), stressed.quantile)
        best = min(best, now_s)
        if now_s <= demand.latency_s:
            return _checked(fleet(pools, replicas, demand), demand)
        if not open_pools:
            return Miss("the objective with the replicas that are given", now_s, demand.latency_s)
        if now_s >= before_s * 0.9999 and math.isfinite(now_s):
            return Miss(f"{demand.quantile:.0%} of the requests within the objective", best, demand.latency_s)
        before_s = now_s
        choice = max(open_pools, key=lambda pool: _gain_s(pool, replicas[pool.name], stressed))
        replicas[choice.name] += _stride(replicas[choice.name])
    return Miss(f"fewer than {MOST_REPLICAS:,} replicas", best, demand.latency_s)


def _stride(replicas: int) -> int:
    return max(1, replicas // 100)


def _gain_s(pool: Load, replicas: int, demand: Demand) -> float:
    """Return how much sooner requests are through one pool if it gets more replicas, for each device of theirs [s]."""
    more = _stride(replicas)
    now, then = (pool.latency(count, demand.rate) for count in (replicas, replicas + more))
    now_s, then_s = (part.forming_s + part.wait.quantile(demand.quantile) + part.service.mean_s for part in (now, then))
    if not math.isfinite(now_s):
        return math.inf
    return (now_s - then_s) / (more * pool.devices_per_replica)


def _checked(found: Fleet, demand: Demand) -> Fleet | Miss:
    """Refuse a fleet whose batches fill too slowly at the peak itself, where fewer requests come than with headroom."""
    if found.quantile_s > demand.latency_s:
        constraint = "the objective at the peak without headroom, where batches fill slower"
        return Miss(constraint, found.quantile_s, demand.latency_s)
    return found
