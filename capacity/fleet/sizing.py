"""The fewest replicas of each pool that carry the peak and meet the objective, and what stops a smaller fleet.

A pool serves batches of `batch` requests one after the other ("batches": encoders), or holds `batch` requests at once
and advances them together ("slots": continuous batching of an LLM).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from capacity.fleet.queueing import Service, Wait, quantile, waiting

Mode = Literal["batches", "slots"]
MOST_REPLICAS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLoad:
    """A pool at one batch size: how long a full batch takes, and how it serves."""

    name: str
    mode: Mode
    batch: int
    service_s: float
    """Time of one full batch through all stages of the pool [s]."""
    service_scv: float
    host_s: float = 0.0
    """Time a request spends beside the devices: it delays the request and keeps no replica busy [s]."""
    devices_per_replica: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What all pools together must achieve."""

    rate: float
    """Peak requests per second."""
    headroom: float
    """Extra share of the peak that must still be carried."""
    latency_s: float
    quantile: float
    max_wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Where a request's time goes in one pool at peak [s]."""

    forming_s: float
    """Waiting for its batch to fill, the first one in."""
    wait: Wait
    service_s: float
    """One batch on the device, and the host work of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Replicas of every pool, and the latency they give at peak."""

    replicas: Mapping[str, int]
    latency: Mapping[str, Latency]
    quantile_s: float
    median_s: float
    utilization: Mapping[str, float]

    def devices(self, pools: Sequence[PoolLoad]) -> int:
        """Return devices of all pools."""
        return sum(self.replicas[pool.name] * pool.devices_per_replica for pool in pools)


@dataclass(frozen=True, slots=True)
class Miss:
    """Why no fleet meets the objective: the constraint, what it needs, what is allowed."""

    constraint: str
    best_s: float
    allowed_s: float


def latency(pool: PoolLoad, replicas: int, rate: float, max_wait_s: float = float("inf")) -> Latency:
    """Return the latency in `pool` with `replicas` replicas at `rate` requests per second.

    A batch leaves when it is full; else after `max_wait_s`, or later when the batch before it is done. The first
    request of a batch waits for that at most; the batch is then timed as if it were full.
    """
    if pool.mode == "slots":
        wait = waiting(replicas * pool.batch, rate, pool.service_s, 1.0, pool.service_scv)
        return Latency(forming_s=0.0, wait=wait, service_s=pool.service_s + pool.host_s)
    forming = min((pool.batch - 1) * replicas / rate, max(max_wait_s, pool.service_s))
    wait = waiting(replicas, rate / pool.batch, pool.service_s, 1.0 / pool.batch, pool.service_scv)
    return Latency(forming_s=forming, wait=wait, service_s=pool.service_s + pool.host_s)


def fleet(pools: Sequence[PoolLoad], replicas: Mapping[str, int], demand: Demand) -> Fleet:
    """Return how `replicas` of each pool do at the peak rate."""
    parts = {pool.name: latency(pool, replicas[pool.name], demand.rate, demand.max_wait_s) for pool in pools}
    fixed = sum(part.forming_s for part in parts.values()) + sum(pool.host_s for pool in pools)
    waits = [part.wait for part in parts.values()]
    service = _service(pools)
    used = {pool.name: demand.rate * pool.service_s / pool.batch / replicas[pool.name] for pool in pools}
    return Fleet(
        replicas=dict(replicas), latency=parts, utilization=used,
        quantile_s=fixed + quantile(service, waits, demand.quantile), median_s=fixed + quantile(service, waits, 0.5),
    )  # fmt: skip


def _service(pools: Sequence[PoolLoad]) -> Service:
    """Return the service time on the devices of all pools as one: means and variances add."""
    mean = sum(pool.service_s for pool in pools)
    variance = sum(pool.service_s**2 * pool.service_scv for pool in pools)
    return Service(mean, variance / mean**2 if mean else 0.0)


def least(pool: PoolLoad, rate: float) -> int:
    """Return the fewest replicas that keep up with `rate`."""
    return int(rate * pool.service_s / pool.batch) + 1


def sized(pools: Sequence[PoolLoad], demand: Demand) -> Fleet | Miss:
    """Return the smallest fleet that meets the objective at peak plus headroom, or what it misses.

    Starts from the fewest replicas that keep up and adds where it shortens the tail most for its devices. The latency
    reported is that at the peak itself.
    """
    stressed = Demand(
        rate=demand.rate * (1 + demand.headroom), headroom=0.0, latency_s=demand.latency_s,
        quantile=demand.quantile, max_wait_s=demand.max_wait_s,
    )  # fmt: skip
    service = sum(pool.service_s + pool.host_s for pool in pools)
    if service > demand.latency_s:
        return Miss("service time of one batch alone", service, demand.latency_s)
    replicas = {pool.name: least(pool, stressed.rate) for pool in pools}
    best = float("inf")
    while sum(replicas.values()) <= MOST_REPLICAS:
        now = fleet(pools, replicas, stressed)
        best = min(best, now.quantile_s)
        if now.quantile_s <= demand.latency_s:
            return _checked(fleet(pools, replicas, demand), demand)
        choice = min(pools, key=lambda pool: _after(pool, pools, replicas, stressed))
        if _after(choice, pools, replicas, stressed) >= now.quantile_s * 0.9999:
            return Miss(f"{demand.quantile:.0%} of the requests within the objective", best, demand.latency_s)
        replicas[choice.name] += _stride(replicas[choice.name])
    return Miss(f"fewer than {MOST_REPLICAS:,} replicas", best, demand.latency_s)


def _stride(replicas: int) -> int:
    return max(1, replicas // 100)


def _after(pool: PoolLoad, pools: Sequence[PoolLoad], replicas: Mapping[str, int], demand: Demand) -> float:
    """Return the tail latency after adding replicas to one pool."""
    more = {**replicas, pool.name: replicas[pool.name] + _stride(replicas[pool.name])}
    return fleet(pools, more, demand).quantile_s


def _checked(found: Fleet, demand: Demand) -> Fleet | Miss:
    """Refuse a fleet whose batches fill too slowly at the peak itself, where fewer requests come than with headroom."""
    if found.quantile_s > demand.latency_s:
        constraint = "the objective at the peak without headroom, where batches fill slower"
        return Miss(constraint, found.quantile_s, demand.latency_s)
    return found
