"""Every fleet of one scenario on one device: devices that share a product × batch × replicas, with its latency.

Of one pool all combinations are timed at once. Of several pools, whose combinations no machine can count through, each
joint batch size is sized as a plan sizes it, then batch and sharing of one pool after the other are changed for as long
as that takes fewer devices: no proof of the best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from capacity.errors import CapacityError
from capacity.fleet.pool import Pool, batch_sizes
from capacity.fleet.pools import demand, shares_of_a_day
from capacity.fleet.sizing import Demand, Load, fleet, sized
from capacity.fleet.sizing import Fleet as Sized
from capacity.fleet.ways import Array, Ways, quantiles
from capacity.spec.scenario import Scenario
from capacity.spec.space import Space

Whole = NDArray[np.int64]
ROUNDS = 4
"""Times that each pool of several is changed in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleets:
    """Fleets of one scenario on one device, arrays [fleets] and [fleets, pools].

    Attributes
    ----------
    degree, batch, replicas
        Devices that share each product, requests a batch, and replicas without spares, by pool.
    devices, paid_devices
        All that serve at the peak, and those paid on average, both with spares.
    latency_s, stressed_s
        End to end at the objective's percentile, at the peak and with headroom [s].
    utilization, stressed_utilization
        Of the busiest pool at the peak, and with headroom [1].
    busy_devices
        Devices that work at the peak on average: their power.
    """

    pools: tuple[str, ...]
    degree: Whole
    batch: Whole
    replicas: Whole
    devices: Array
    paid_devices: Array
    latency_s: Array
    stressed_s: Array
    utilization: Array
    stressed_utilization: Array
    busy_devices: Array

    @property
    def room(self) -> Array:
        """Rate that each fleet can carry beyond the peak ÷ peak [1], array [fleets]."""
        return np.asarray(1 / np.maximum(self.utilization, 1e-12) - 1)

    def degrees(self, row: int) -> dict[str, int]:
        """Return the devices that share each product of one fleet by pool."""
        return {name: int(at) for name, at in zip(self.pools, self.degree[row], strict=True)}

    def counts(self, row: int) -> dict[str, int]:
        """Return the replicas of one fleet by pool."""
        return {name: int(count) for name, count in zip(self.pools, self.replicas[row], strict=True)}

    def batches(self, row: int) -> dict[str, int]:
        """Return the batch sizes of one fleet by pool."""
        return {name: int(size) for name, size in zip(self.pools, self.batch[row], strict=True)}


def fleets(candidates: Sequence[Sequence[Pool]], scenario: Scenario, space: Space) -> Fleets:
    """Return every fleet of pools whose candidates each hold at least one request.

    Parameters
    ----------
    candidates
        Each pool with every number of devices that may share its products; those that hold nothing are passed over.

    Raises
    ------
    CapacityError
        When the space allows none of a pool's.
    """
    usable = [[pool for pool in tried if _allowed(pool, space)] for tried in candidates]
    for tried, found in zip(candidates, usable, strict=True):
        if not found:
            raise CapacityError(f"pool {tried[0].name} fits on none of {', '.join(map(str, space.parallel))} devices")
    rows = list(_of_one(usable[0], scenario, space) if len(usable) == 1 else _of_several(usable, scenario, space))
    names = tuple(tried[0].name for tried in usable)
    joined = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    return Fleets(pools=names, **joined)


def _allowed(pool: Pool, space: Space) -> bool:
    degree = pool.server.served.layout.devices if pool.generates else pool.context.tensor_parallel
    return bool(pool.largest_batch) and degree in space.parallel


def sizes(pool: Pool, space: Space) -> list[int]:
    """Return the batch sizes to try; an engine with continuous batching finds its own."""
    if pool.generates is not None:
        return [pool.largest_batch]
    fitting = [size for size in space.batches if size <= pool.largest_batch]
    return sorted(set(fitting)) if space.batches else batch_sizes(pool.largest_batch)


def _of_one(tried: Sequence[Pool], scenario: Scenario, space: Space) -> Iterator[dict[str, NDArray[np.generic]]]:
    wanted = demand(scenario)
    stressed = wanted.rate * (1 + wanted.headroom)
    for pool in tried:
        counts = _counts(pool, space)
        for size in sizes(pool, space):
            load = pool.load(size)
            used = wanted.rate / load.most_rate() / counts
            shape = (counts.size, 1)
            whole = counts.astype(np.int64)[:, None]
            yield {
                "degree": np.full(shape, pool.context.tensor_parallel), "batch": np.full(shape, size),
                "replicas": whole, "latency_s": tails(load, counts, wanted.rate, wanted.quantile),
                "stressed_s": tails(load, counts, stressed, wanted.quantile), "utilization": used,
                "stressed_utilization": used * (1 + wanted.headroom),
                **_devices([pool], whole, used[:, None], scenario),
            }  # fmt: skip


def _counts(pool: Pool, space: Space) -> Array:
    if pool.spec.replicas:
        return np.array([float(pool.spec.replicas)])
    return np.arange(pool.fewest, max(space.most_replicas, pool.fewest) + 1, dtype=np.float64)


def tails(load: Load, replicas: Array, rate: float, share: float) -> Array:
    """Return the time within which `share` of the requests are through one pool, for each number of replicas [s]."""
    if load.share < 1:
        late = (1 - share) / max(load.share, 1e-12)
        if late >= 1:
            return np.full(replicas.shape, load.host_s)
        share = 1 - late
    ways = Ways.of(load, replicas, rate)
    return np.asarray(ways.forming_s + load.host_s + quantiles(ways, share))


def _of_several(
    tried: Sequence[Sequence[Pool]], scenario: Scenario, space: Space
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Yield the fleet of each joint batch size, then those of changes that take fewer devices."""
    wanted = demand(scenario)
    given = {pools[0].name: count for pools in tried if (count := pools[0].spec.replicas)}
    options = [[(pool, size) for pool in pools for size in sizes(pool, space)] for pools in tried]
    known: dict[tuple[int, ...], float] = {}

    def rows(places: tuple[int, ...]) -> Iterator[dict[str, NDArray[np.generic]]]:
        picked = [pools[place] for pools, place in zip(options, places, strict=True)]
        loads = [pool.load(size) for pool, size in picked]
        found = sized(loads, wanted, given)
        known[places] = float("inf")
        if isinstance(found, Sized) and max(found.replicas.values()) <= space.most_replicas:
            known[places] = float(found.devices(loads))
            yield _row([pool for pool, _ in picked], [size for _, size in picked], found, scenario)

    yield from _nothing(tried, wanted)
    for level in sorted({size for pools in options for _, size in pools}):
        places = tuple(_at(pools, level) for pools in options)
        if places not in known:
            yield from rows(places)
    best = min(known, key=lambda places: known[places])
    for _ in range(ROUNDS):
        before = known[best]
        for index, pools in enumerate(options):
            for place in range(len(pools)):
                places = (*best[:index], place, *best[index + 1 :])
                if places not in known:
                    yield from rows(places)
            best = min(known, key=lambda places: known[places])
        if known[best] >= before:
            return


def _nothing(tried: Sequence[Sequence[Pool]], wanted: Demand) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Yield one replica of each pool, which says what is missed where nothing else is found."""
    pools = [candidates[0] for candidates in tried]
    loads = [pool.load(pool.largest_batch) for pool in pools]
    found = fleet(loads, {pool.name: pool.fewest for pool in pools}, wanted)
    scenario = pools[0].context.scenario
    yield _row(pools, [pool.largest_batch for pool in pools], found, scenario)


def _at(pools: Sequence[tuple[Pool, int]], level: int) -> int:
    """Return the place of the largest batch up to `level` with the fewest devices a replica that hold it."""
    held = [place for place, (pool, size) in enumerate(pools) if size <= level or pool.generates is not None]
    return max(held or [0], key=lambda place: (pools[place][1], -pools[place][0].context.tensor_parallel))


def _row(
    pools: Sequence[Pool], batches: Sequence[int], found: Sized, scenario: Scenario
) -> dict[str, NDArray[np.generic]]:
    wanted = demand(scenario)
    stressed = replace(wanted, rate=wanted.rate * (1 + wanted.headroom), headroom=0.0)
    loads = [pool.load(size) for pool, size in zip(pools, batches, strict=True)]
    replicas = np.array([[found.replicas[pool.name] for pool in pools]])
    used = np.array([[found.utilization[pool.name] for pool in pools]])
    return {
        "degree": np.array([[pool.context.tensor_parallel for pool in pools]]), "batch": np.array([list(batches)]),
        "replicas": replicas, "latency_s": np.array([found.quantile_s]),
        "stressed_s": np.array([fleet(loads, found.replicas, stressed).quantile_s]), "utilization": used.max(axis=1),
        "stressed_utilization": used.max(axis=1) * (1 + wanted.headroom),
        **_devices(pools, replicas, used, scenario),
    }  # fmt: skip


def _devices(pools: Sequence[Pool], replicas: Whole, used: Array, scenario: Scenario) -> dict[str, NDArray[np.generic]]:
    """Return devices, paid devices and busy devices of fleets, from their replicas and load [fleets, pools]."""
    spare = scenario.resilience.spare_replicas
    devices, paid, busy = (np.zeros(len(replicas)) for _ in range(3))
    for place, pool in enumerate(pools):
        each = pool.devices_per_replica
        all_of_pool = np.ceil((replicas[:, place] + spare) * each)
        devices += all_of_pool
        paid += (
            all_of_pool if pool.spec.autoscaling is None else (_paid(pool, replicas[:, place], scenario) + spare) * each
        )
        busy += replicas[:, place] * each * np.minimum(used[:, place], 1.0)
    return {"devices": devices, "paid_devices": paid, "busy_devices": busy}


def _paid(pool: Pool, replicas: Whole, scenario: Scenario) -> Array:
    """Return the mean replicas of an autoscaled day, as a plan has it."""
    scaling = pool.spec.autoscaling
    if scaling is None:
        return replicas.astype(np.float64)
    most = np.minimum(scaling.maximum, replicas)[:, None]
    hours = np.ceil(replicas[:, None] * shares_of_a_day(scenario))
    return np.asarray(np.clip(hours, np.minimum(scaling.minimum, most), most).mean(axis=1))
