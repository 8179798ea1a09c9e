"""What a rollout takes on each device: phases with their cost, both fleets step by step, caches that start empty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from capacity.plan import Cost, CostLine, Option
from capacity.spec.rollout import Rollout
from capacity.timing.band import Basis, Estimate, total
from capacity.work.caching import hit_rate_of

WARM = 0.99
"""Share of its hit rate from which a cache counts as warm."""
SIZES = 96
"""Fillings of a cache between which its hit rate is interpolated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One part of a rollout and what it costs once, beyond the monthly bill.

    Attributes
    ----------
    devices
        Most devices it takes beyond those that would serve anyway.
    duration
        Wall time [s].
    device_hours
        Device-hours beyond those that would be paid anyway [h].
    line
        What it costs; None where it takes no devices.
    counted
        Whether it is part of the rollout; else it is the alternative that was not taken.
    """

    name: str
    devices: float
    duration: Estimate
    device_hours: Estimate
    line: CostLine | None
    formula: str
    job: bool = False
    """Whether it must be done before anything follows; others last as the steps do."""
    counted: bool = True

    @property
    def basis(self) -> Basis:
        """Where its device-hours come from."""
        return self.device_hours.basis


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Both fleets while a share of the requests goes to the new one, spares included.

    Attributes
    ----------
    share
        Share of the requests that the new fleet is sized for [1].
    old, new
        Devices of the pools that change.
    shared
        Devices of the pools that both fleets use.
    baseline
        Devices that the same requests would take without two fleets: share and rest of each whole fleet.
    cold, cold_s
        Devices that the new fleet takes on top while its caches fill, and how long that lasts [s].
    hit_rates
        Share of requests that each cold cache answers when the step starts [1].
    sigma
        Standard deviation of the logarithm of the devices, from their count at P10 and P90 of the step time [1].
    basis
        Where the step times come from that the new fleet is sized by.
    """

    name: str
    share: float
    duration_s: float
    old: int
    new: int
    shared: int
    baseline: float
    cold: int = 0
    cold_s: float = 0.0
    hit_rates: Mapping[str, float] = field(default_factory=dict)
    sigma: float = 0.0
    basis: Basis = "assumed"

    @property
    def devices(self) -> int:
        """All serving devices of the step."""
        return self.old + self.new + self.shared + self.cold


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdCache:
    """A cache that starts empty.

    Attributes
    ----------
    hit_rate
        Share of requests that it answers once warm [1].
    look_ups_per_s
        Mean rate at which the whole traffic asks it [1/s].
    course
        Look-ups since the start and the hit rate reached by then; empty where only the hit rate is known.
    warm_s
        Time until it is warm if all requests ask it from the start [s].
    prefill
        Whether a job can fill it: it holds what an encoder gives, and how much is known.
    """

    stage: str
    pool: str
    hit_rate: float
    look_ups_per_s: float
    course: tuple[tuple[float, float], ...]
    warm_s: float
    prefill: bool

    @property
    def factor(self) -> float:
        """How many times the warm load reaches the stage while the cache is empty: 1 ÷ (1 − hit rate)."""
        return 1 / (1 - self.hit_rate) if self.hit_rate < 1 else math.inf

    @property
    def warm_look_ups(self) -> float:
        """Look-ups after which it is warm."""
        return self.warm_s * self.look_ups_per_s

    def reached(self, look_ups: float) -> float:
        """Return the hit rate after some look-ups; without a known course 0 until it is warm."""
        if look_ups >= self.warm_look_ups:
            return self.hit_rate
        if not self.course:
            return 0.0
        counts, rates = zip(*self.course, strict=True)
        return float(np.interp(look_ups, counts, rates))


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexMemory:
    """Vectors, links and ids of all shards of the old and the new index [byte], and whether one device holds both."""

    old_bytes: float
    new_bytes: float
    side_by_side: bool | None
    """Whether the memory of the new pool's devices also takes the old pool's parts; None where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolled:
    """A rollout on one device.

    Attributes
    ----------
    old, new
        The plans before and after; None where the device cannot run them.
    cost
        What is paid once; its `usd` is no monthly amount.
    refused
        Why it cannot be done on this device.
    """

    hardware: str
    name: str
    old: Option | None = None
    new: Option | None = None
    phases: tuple[Phase, ...] = ()
    steps: tuple[Step, ...] = ()
    caches: tuple[ColdCache, ...] = ()
    memory: IndexMemory | None = None
    cost: Cost | None = None
    notes: tuple[str, ...] = ()
    refused: str = ""

    @property
    def peak_devices(self) -> float:
        """Most devices at once: of serving at its fullest step, or of serving today beside a job."""
        before = self.old.devices if self.old else 0
        jobs = max((phase.devices for phase in self.phases if phase.counted and phase.job), default=0.0)
        return max(before + jobs, *(float(step.devices) for step in self.steps), 0.0)

    @property
    def duration(self) -> Estimate:
        """Time from the first job until the old fleet is gone and the caches are warm [s]."""
        jobs = [phase.duration for phase in self.phases if phase.counted and phase.job]
        waits = Estimate(sum(step.duration_s for step in self.steps), {}, "assumed")
        return total([*jobs, waits])

    @property
    def basis(self) -> Basis:
        """The weakest basis among the device-hours that matter."""
        return total(phase.device_hours for phase in self.phases if phase.counted).basis


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """The answer: a rollout on every device asked for, first the one that serves cheapest today."""

    scenario: str
    title: str
    stage: str
    what: str
    """What is put in place: the model, or the settings of the stage."""
    changes: tuple[str, ...]
    """Settings that turn the scenario of today into that of tomorrow."""
    given: tuple[str, ...]
    """Overrides and settings of the scenario of today."""
    policy: Rollout
    date: str
    options: tuple[Rolled, ...]

    @property
    def best(self) -> Rolled | None:
        """The rollout on the device that serves cheapest today, or None where none can be done."""
        return self.options[0] if self.options and not self.options[0].refused else None


@lru_cache(maxsize=64)
def course_of(keys: int, exponent: float, entries: int) -> tuple[tuple[float, float], ...]:
    """Return how the hit rate of an empty LRU cache grows: pairs of look-ups made and the hit rate reached.

    Parameters
    ----------
    keys
        Results that can be asked for; the k-th with probability ∝ k^(−`exponent`), independently (Zipf).
    entries
        Results that the cache holds.

    Notes
    -----
    Every miss adds one entry, so c entries stand after n(c) = ∫₀ᶜ dc ÷ (1 − h(c)) look-ups, with h(c) the hit rate of a
    cache of c entries by Che's approximation: nothing has left yet, so the cache is the LRU cache of just that size.

    Examples
    --------
    >>> look_ups, hit_rate = course_of(1000, 0.0, 500)[-1]  # all alike: −1000 · ln(1 − 500/1000) = 693
    >>> round(look_ups), round(hit_rate, 6)
    (693, 0.5)
    """
    full = min(entries, keys - 1)
    if full < 1:
        return ((0.0, 0.0),)
    sizes = np.unique(np.rint(np.concatenate([[0.0], np.geomspace(1, full, SIZES)])).astype(np.int64))
    rates = np.array([hit_rate_of(keys, exponent, int(size)) for size in sizes])
    return tuple(zip(_look_ups(sizes, rates).tolist(), rates.tolist(), strict=True))


def _look_ups(sizes: NDArray[np.int64], rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the look-ups that fill a cache to each size, with the rate of misses falling evenly between two sizes.

    ∫ dc ÷ m(c) over a step in which m goes from a to b is Δc · ln(a ÷ b) ÷ (a − b), the logarithmic mean.
    """
    misses = 1 - rates
    before, after = misses[:-1], misses[1:]
    fall = before - after
    even = np.log(before / after) / np.where(fall > 1e-12, fall, 1.0)
    each = np.where(fall > 1e-12, even, 1 / before)
    return np.concatenate([[0.0], np.cumsum(np.diff(sizes) * each)])


def warm_look_ups(course: tuple[tuple[float, float], ...], hit_rate: float) -> float:
    """Return the look-ups after which an empty cache has reached `WARM` of its hit rate.

    Examples
    --------
    >>> round(warm_look_ups(((0.0, 0.0), (100.0, 0.5)), 0.5), 6)
    99.0
    """
    counts, rates = zip(*course, strict=True)
    return float(np.interp(WARM * hit_rate, rates, counts))
