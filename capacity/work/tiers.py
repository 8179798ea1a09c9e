"""Embedding rows in HBM, DRAM and on SSD: which share of the look-ups each tier serves, and how long a batch takes.

Rows are looked up independently, the k-th most popular with probability ∝ k^(−exponent) (Zipf). Placement is "static",
the most popular rows in the fastest tier, or "lru", each tier a cache of the slower ones, by Che's approximation.

References
----------
Mudigere et al. 2022, arXiv:2104.05158, §4 (HBM as a cache of DRAM and SSD); Che, Tung & Wang 2002 (`caching`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from capacity.errors import CapacityError, InputError
from capacity.spec.hardware import Hardware
from capacity.work.caching import hit_rate_of
from capacity.work.operations import Amount

Policy = Literal["static", "lru"]
EXACT_RANKS = 1024
"""Ranks whose weights are added one by one; further ones are integrated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A kind of memory for rows: what it holds and how fast it reads them.

    Attributes
    ----------
    capacity_bytes
        Room for rows [byte]; an array sweeps it.
    bytes_per_s
        Bandwidth of reads [byte/s].
    access_bytes
        Least that one read moves [byte].
    reads_per_s
        Most reads a second, of any size up to `access_bytes` [1/s].
    """

    name: str
    capacity_bytes: Amount
    bytes_per_s: float
    source: str
    access_bytes: float = 1
    reads_per_s: float = float("inf")

    def __post_init__(self) -> None:
        positive = min(self.bytes_per_s, self.access_bytes, self.reads_per_s) > 0
        if not (positive and np.all(np.asarray(self.capacity_bytes) >= 0)):
            raise InputError(f"tier {self.name}: a capacity is 0 or more, every rate is above 0, not {self}")

    def row_s(self, row_bytes: float) -> float:
        """Return the time of one row among many: its accesses at full bandwidth, or at the rate of reads [s].

        Examples
        --------
        >>> Tier(name="disk", capacity_bytes=1e12, bytes_per_s=4e9, source="", access_bytes=4096).row_s(128)
        1.024e-06
        """
        reads = -(-row_bytes // self.access_bytes)
        return max(reads * self.access_bytes / self.bytes_per_s, reads / self.reads_per_s)


def device_tier(hardware: Hardware, capacity_bytes: Amount) -> Tier:
    """Return the memory of a device, `capacity_bytes` of it for rows, at its datasheet bandwidth.

    Raises
    ------
    CapacityError
        When the profile does not state `memory_bandwidth`.
    """
    return _tier("HBM", hardware, "memory_bandwidth", capacity_bytes)


def host_tier(hardware: Hardware, capacity_bytes: Amount) -> Tier:
    """Return the memory of the host as its device reads it: over `host_bandwidth`, the slower of the two.

    Raises
    ------
    CapacityError
        When the profile does not state `host_bandwidth`.
    """
    return _tier("DRAM", hardware, "host_bandwidth", capacity_bytes)


def _tier(name: str, hardware: Hardware, fact_name: str, capacity_bytes: Amount) -> Tier:
    fact = getattr(hardware, fact_name)
    if fact is None:
        raise CapacityError(f"{hardware.id} has no {fact_name} in its profile: give the tier {name} one of your own")
    cited = hardware.sources[fact.source].citation
    return Tier(name=name, capacity_bytes=capacity_bytes, bytes_per_s=fact.value, source=cited)


def drive_tier(capacity_bytes: Amount, drives: int = 1) -> Tier:
    """Return `drives` NVMe drives that share the rows evenly; which drive it is, is assumed."""
    return Tier(
        name="SSD", capacity_bytes=capacity_bytes, bytes_per_s=drives * 6.4e9, access_bytes=4096,
        reads_per_s=drives * 1.45e6,
        source="assumed: a drive like Samsung's PM1733 (U.2), 6,400 MB/s and 1,450,000 random reads/s by its maker, as "
        "reported in Hardwareluxx news 50889; reads of 4 KiB assumed",
    )  # fmt: skip


def most_popular_share(rows: int, exponent: float, kept: Amount) -> NDArray[np.float64]:
    """Return the share of look-ups that fall on the `kept` most popular of `rows` rows [1].

    Parameters
    ----------
    kept
        Rows, any shape; a part of a row counts as none.

    Notes
    -----
    H(kept)/H(rows) with H(n) = Σ k^(−exponent). Ranks beyond 1,024 are integrated from half a rank before to half a
    rank after, which makes a weight too high by at most exponent·(exponent + 1)/(24·1024²).

    Examples
    --------
    >>> most_popular_share(4, 1.0, [1, 2, 4]).round(6).tolist()  # 1, 3/2 and 25/12 of 25/12
    [0.48, 0.72, 1.0]
    """
    if not (rows >= 1 and exponent >= 0):
        raise InputError(f"popularity needs rows ≥ 1 and an exponent ≥ 0, not {rows} rows with exponent {exponent:g}")
    ranks = np.arange(1, min(rows, EXACT_RANKS) + 1, dtype=np.float64)
    first = np.concatenate([[0.0], np.cumsum(ranks**-exponent)])

    def weight(number: NDArray[np.float64]) -> NDArray[np.float64]:
        early = first[np.minimum(number, EXACT_RANKS).astype(np.int64)]
        start, end = EXACT_RANKS + 0.5, np.maximum(number, EXACT_RANKS) + 0.5
        power, span = 1 - exponent, np.log(end / start)
        late = span if power == 0 else start**power * np.expm1(power * span) / power
        return np.asarray(early + late)

    number = np.floor(np.clip(np.asarray(kept, dtype=np.float64), 0, rows))
    return np.asarray(weight(number) / weight(np.asarray(float(rows))))


def lru_share(rows: int, exponent: float, kept: Amount) -> NDArray[np.float64]:
    """Return the share of look-ups that an LRU cache of `kept` rows answers, each entry by Che's approximation [1]."""
    found = [hit_rate_of(rows, exponent, int(one)) for one in np.ravel(np.asarray(kept, dtype=np.float64))]
    return np.asarray(found).reshape(np.shape(kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUps:
    """How a table's look-ups spread over tiers, and the time of a batch of them.

    Attributes
    ----------
    shares
        Share of the look-ups that each tier serves, tiers × the shape of the capacities [1].
    lacking
        Share of the look-ups whose rows no tier holds; more than 0 means that the table does not fit [1].
    tier_s
        Time that each tier reads for the batch, tiers × the shape of the capacities [s].
    """

    tiers: tuple[str, ...]
    shares: NDArray[np.float64]
    lacking: NDArray[np.float64]
    tier_s: NDArray[np.float64]

    @property
    def overlapped_s(self) -> NDArray[np.float64]:
        """Time of the batch where the tiers read side by side: that of the slowest [s]."""
        return np.asarray(self.tier_s.max(axis=0))

    @property
    def serial_s(self) -> NDArray[np.float64]:
        """Time of the batch where one tier waits for another: their sum [s]."""
        return np.asarray(self.tier_s.sum(axis=0))


def look_up(
    tiers: Sequence[Tier], rows: int, row_bytes: float, exponent: float, lookups: float, policy: Policy = "static"
) -> LookUps:
    """Return how `lookups` look-ups in a table of `rows` rows spread over the tiers, the fastest first.

    static: a row lies in one tier, so capacities add up. lru: every tier holds copies of what the faster ones hold,
    and the last one is the table's home, which must hold all of it. Times are the least at the bandwidths given: no
    latency, no repeated rows taken together, and rows that lack are read nowhere.

    Parameters
    ----------
    row_bytes
        Bytes of a row, as `placement.row_bytes` counts a compressed one [byte].

    Examples
    --------
    >>> fast, slow = (Tier(name=n, capacity_bytes=c, bytes_per_s=b, source="") for n, c, b in
    ...               (("fast", 100, 1000.0), ("slow", 900, 100.0)))
    >>> done = look_up([fast, slow], rows=10, row_bytes=100, exponent=0.0, lookups=10)  # a tenth is in the fast tier
    >>> done.shares.tolist(), done.tier_s.tolist(), float(done.overlapped_s), float(done.serial_s)
    ([0.1, 0.9], [0.1, 9.0], 9.0, 9.1)
    """
    if not tiers or row_bytes <= 0:
        raise InputError(f"look-ups need at least one tier and rows above 0 byte, not {len(tiers)} and {row_bytes:g}")
    if policy not in ("static", "lru"):
        raise InputError(f"unknown policy {policy!r}; known: lru, static")
    kept = [np.floor(np.asarray(tier.capacity_bytes, dtype=np.float64) / row_bytes) for tier in tiers]
    reached = np.stack(np.broadcast_arrays(*_reached(kept, rows, exponent, policy)))
    shares = np.diff(reached, axis=0, prepend=np.zeros_like(reached[:1]))
    row_s = np.asarray([tier.row_s(row_bytes) for tier in tiers]).reshape(-1, *[1] * (shares.ndim - 1))
    return LookUps(
        tiers=tuple(tier.name for tier in tiers), shares=shares, lacking=np.asarray(1 - reached[-1]),
        tier_s=lookups * shares * row_s,
    )  # fmt: skip


def _reached(
    kept: Sequence[NDArray[np.float64]], rows: int, exponent: float, policy: Policy
) -> list[NDArray[np.float64]]:
    """Return the share of look-ups that end in each tier or a faster one."""
    if policy == "static":
        total = np.asarray(0.0)
        return [most_popular_share(rows, exponent, total := total + part) for part in kept]
    found, largest = list[NDArray[np.float64]](), np.asarray(0.0)
    for part in kept[:-1]:
        largest = np.maximum(largest, part)
        found.append(lru_share(rows, exponent, largest))
    home = most_popular_share(rows, exponent, kept[-1])  # at best, where the home is too small
    return [*found, reduce(np.maximum, found, home)]
