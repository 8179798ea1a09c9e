"""The life of a stage's replicas, for the kernels of the stages: cold start, failure and repair, autoscaling.

A kernel asks when the next change is due (`life.next_s[0]`), lets it happen (`apply`) and then looks at `life.status`:
new work goes to `UP` replicas, work goes on at `UP` and `DRAINING` ones and is lost everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, log
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from capacity.errors import CapacityError
from capacity.fleet.flow import Counts, Times

ABSENT, STARTING, UP, DRAINING, FAILED = range(5)
NEVER, UTILIZATION, QUEUE, SCHEDULE = range(4)
KINDS = {"none": NEVER, "utilization": UTILIZATION, "queue": QUEUE, "schedule": SCHEDULE}
TIMELINE = 2048
"""Most points of a timeline; it is thinned by half when they are used up."""
Function = TypeVar("Function", bound=Callable[..., Any])
Records = Any
"""A structured array: kernels, whose compile time grows with every array they get, read its fields as attributes."""
OUTAGE = np.dtype([("replica", np.int64), ("down_s", np.float64), ("up_s", np.float64)])
STEP = np.dtype([("time_s", np.float64), ("replicas", np.int64)])
LOOK = np.dtype([
    ("look_s", np.float64), ("outages", np.int64), ("steps", np.int64), ("fewer_since_s", np.float64),
    ("fewer", np.int64), ("busy_s", np.float64), ("seen_up_s", np.float64), ("settled_s", np.float64),
    ("paid_s", np.float64), ("up_s", np.float64), ("points", np.int64), ("apart_s", np.float64),
])  # fmt: skip
"""The autoscaler's next look [s]; outages and schedule steps behind us; since when fewer replicas are asked for, how
many at most; busy time and replica-seconds up at the last look; until when accounts are settled, replica-seconds that
exist in whatever state, and up; points of the timeline and the least time between two [s]."""
_OPTIONS: dict[str, Any] = {"cache": True, "_nrt": False}
"""Kernels allocate nothing; counting references to a stage's arrays at every call takes 15 times the work itself."""


def compiled(function: Function) -> Function:
    """Return the function compiled by numba and kept on disk, still typed for mypy."""
    return cast("Function", njit(**_OPTIONS)(function))


def inlined(function: Function) -> Function:
    """Return it compiled into each caller: passing a stage's arrays takes three times as long as a small function."""
    return cast("Function", njit(**_OPTIONS, forceinline=True)(function))


def mixed(key: np.uint64, counter: Any) -> Any:  # noqa: ANN401  (a number in kernels, an array outside)
    """Return a number in (0, 1) that depends on nothing but `key` and `counter` (SplitMix64, Steele et al. 2014).

    Examples
    --------
    >>> draws = mixed(np.uint64(7), np.arange(100_000, dtype=np.uint64))
    >>> round(float(draws.mean()), 2), round(float(draws.std() ** 2 * 12), 2)
    (0.5, 1.0)
    """
    bits = key + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53 + 2.0**-54


uniform = compiled(mixed)


def key_of(seed: int, *words: str) -> np.uint64:
    """Return the key of an independent stream of `mixed` for a seed and, say, the names of a stage and of a use."""
    return np.uint64(np.random.SeedSequence([seed, *"\0".join(words).encode()]).generate_state(1, np.uint64)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaling:
    """How many replicas a stage asks for as time goes by.

    Attributes
    ----------
    kind
        "utilization": as many as bring the busy share since the last look to `target`; "queue": one per `target`
        waiting requests but no fewer than were busy; "schedule": as `schedule` says.
    interval_s
        Between two looks [s].
    cold_start_s
        From asking for a replica to its first request [s]: machine, image, weights, warm-up.
    minimum, maximum
        Replicas; failed ones do not count.
    scale_down_delay_s
        Fewer replicas are kept only after that long a time in which all looks asked for fewer: the highest of those
        asked for then (Kubernetes calls it the stabilization window) [s].
    schedule
        (time [s], replicas) in the order of time.
    """

    kind: Literal["utilization", "queue", "schedule"]
    target: float = 0.7
    interval_s: float = 15.0
    cold_start_s: float = 0.0
    minimum: int = 1
    maximum: int
    scale_down_delay_s: float = 300.0
    schedule: tuple[tuple[float, int], ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise CapacityError(f"autoscaling from {self.minimum} to {self.maximum} replicas: 1 ≤ minimum ≤ maximum")
        if not (self.target > 0 and self.interval_s > 0 and self.cold_start_s >= 0 and self.scale_down_delay_s >= 0):
            raise CapacityError("autoscaling: target and interval are positive, cold start and delay at least 0")
        if list(self.schedule) != sorted(self.schedule):
            raise CapacityError("autoscaling: the schedule goes forward in time")

    @classmethod
    def perfect(
        cls, rate_at: Callable[[float], float], replica_rate: float, maximum: int, times_s: Sequence[float]
    ) -> Autoscaling:
        """Return the lower bound: what the load just ahead needs, there at once.

        `rate_at`: arrivals per second at a time [s]; a replica is to get `replica_rate` of them. The number changes at
        `times_s` [s] and is that of the busier end of each stretch.
        """
        rates = [rate_at(time_s) for time_s in times_s]
        peaks = [max(pair) for pair in zip(rates, [*rates[1:], rates[-1]], strict=True)]
        steps = [(time_s, max(1, ceil(rate / replica_rate))) for time_s, rate in zip(times_s, peaks, strict=True)]
        return cls(kind="schedule", maximum=maximum, schedule=tuple(steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """When replicas fail: as listed, and at random.

    Attributes
    ----------
    outages
        (replica, down [s], up [s]); `up` already includes the restart.
    mean_between_s, mean_repair_s
        Mean time up and mean time down of each replica, both exponential [s].
    """

    outages: tuple[tuple[int, float, float], ...] = ()
    mean_between_s: float = inf
    mean_repair_s: float = 0.0

    def __post_init__(self) -> None:
        if any(replica < 0 or not 0 <= down_s < up_s for replica, down_s, up_s in self.outages):
            raise CapacityError("an outage is (replica from 0, down, up) with 0 ≤ down < up")
        if not (self.mean_between_s > 0 and self.mean_repair_s >= 0):
            raise CapacityError("mean time between failures is positive, mean time to repair at least 0")

    def with_region(self, replicas: Sequence[int], down_s: float, up_s: float) -> Failures:
        """Return these failures and the loss of many replicas at once."""
        return replace(self, outages=(*self.outages, *((replica, down_s, up_s) for replica in replicas)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """A stage's replicas: how many are there at first, all warm, and what becomes of them."""

    count: int = 1
    scaling: Autoscaling | None = None
    failures: Failures = Failures()

    def __post_init__(self) -> None:
        least, most = (self.scaling.minimum, self.scaling.maximum) if self.scaling else (1, self.count)
        if not least <= self.count <= most:
            raise CapacityError(f"{self.count} replicas to begin with, {least} to {most} allowed")
        beyond = [replica for replica, _, _ in self.failures.outages if replica >= most]
        if beyond:
            raise CapacityError(f"an outage names replica {beyond[0]}; there are 0 to {most - 1}")

    @property
    def most(self) -> int:
        """The most there can be."""
        return self.scaling.maximum if self.scaling else self.count


class Rules(NamedTuple):
    """What `Life` needs to know of autoscaling and random failures, as plain numbers."""

    kind: int
    minimum: int
    maximum: int
    key: np.uint64
    target: float
    interval_s: float
    cold_start_s: float
    scale_down_delay_s: float
    mean_between_s: float
    mean_repair_s: float


class Life(NamedTuple):
    """The state of all replicas, changed in place."""

    rules: Rules
    status: NDArray[np.int8]
    """(replicas,) `ABSENT`, `STARTING`, `UP`, `DRAINING` or `FAILED`."""
    change_s: Times
    """(replicas,) When a starting or failed one will be up, or one that is up fails [s]."""
    draws: Counts
    """(replicas,) Random numbers used."""
    next_s: Times
    """(1,) The next change of any replica [s]."""
    outages: Records
    """`OUTAGE`, in the order of `down_s`."""
    schedule: Records
    """`STEP`"""
    now: Records
    """(1,) `LOOK`"""
    timeline: Times
    """(`TIMELINE`, 3) Time [s], replicas up, replicas starting."""


def born(replicas: Replicas, key: np.uint64) -> Life:
    """Return the replicas at time 0: those of `replicas.count` up and warm."""
    scaling, failures = replicas.scaling, replicas.failures
    asks, kind = scaling or Autoscaling(kind="schedule", maximum=replicas.count), scaling.kind if scaling else "none"
    rules = Rules(
        KINDS[kind], asks.minimum, asks.maximum, key,
        *map(float, (asks.target, asks.interval_s, asks.cold_start_s, asks.scale_down_delay_s)),
        *map(float, (failures.mean_between_s, failures.mean_repair_s)),
    )  # fmt: skip
    steps = asks.schedule if kind == "schedule" else ()
    first_s = steps[0][0] if steps else rules.interval_s if rules.kind in {UTILIZATION, QUEUE} else inf
    life = Life(
        rules=rules, status=np.full(replicas.most, ABSENT, np.int8), change_s=np.full(replicas.most, inf),
        draws=np.zeros(replicas.most, np.int64), next_s=np.array([inf]),
        outages=np.array(sorted(failures.outages, key=lambda outage: outage[1]), OUTAGE),
        schedule=np.array(list(steps), STEP), now=np.zeros(1, LOOK), timeline=np.zeros((TIMELINE, 3)),
    )  # fmt: skip
    life.now["look_s"], life.now["fewer_since_s"] = first_s, inf
    for replica in range(replicas.count):
        _rise(life, replica, 0.0)
    _look_ahead(life)
    _record(life, 0.0)
    return life


@compiled
def count(life: Life, status: int) -> int:
    """Return how many replicas have a status."""
    found = 0
    for replica in range(len(life.status)):
        found += life.status[replica] == status
    return found


@compiled
def _drawn_s(life: Life, replica: int, mean_s: float) -> float:
    """Return the next exponential time of a replica [s]."""
    if mean_s == inf:
        return inf
    life.draws[replica] += 1
    return -mean_s * log(uniform(life.rules.key, np.uint64(replica) << np.uint64(32) | np.uint64(life.draws[replica])))


@compiled
def _look_ahead(life: Life) -> None:
    """Set when the next change is due; when all have failed for good there is none."""
    now, due_s = life.now[0], inf
    for replica in range(len(life.change_s)):
        due_s = min(due_s, life.change_s[replica])
    if due_s < inf or count(life, FAILED) < len(life.status):
        due_s = min(due_s, now.look_s)
    if now.outages < len(life.outages):
        due_s = min(due_s, life.outages[now.outages].down_s)
    life.next_s[0] = due_s


@compiled
def settle(life: Life, now_s: float) -> None:
    """Add up replica-seconds until `now_s`."""
    now, seconds = life.now[0], now_s - life.now[0].settled_s
    now.settled_s = now_s
    now.paid_s += seconds * (len(life.status) - count(life, ABSENT))
    now.up_s += seconds * count(life, UP)


@compiled
def release(life: Life, replica: int, now_s: float) -> None:
    """Let a draining replica go: it has nothing left to do."""
    settle(life, now_s)
    life.status[replica], life.change_s[replica] = ABSENT, inf
    _look_ahead(life)


@compiled
def apply(life: Life, now_s: float, busy_s: float, waiting: int) -> None:
    """Let what is due by `now_s` [s] (call it at `life.next_s[0]`) happen to the replicas.

    `busy_s`: replica-seconds that the stage has been busy since time 0; `waiting`: requests in its queues now.
    """
    settle(life, now_s)
    now = life.now[0]
    for replica in range(len(life.status)):
        if life.change_s[replica] <= now_s:
            if life.status[replica] == UP or life.status[replica] == DRAINING:
                _fail(life, replica, now_s + _drawn_s(life, replica, life.rules.mean_repair_s))
            else:
                _rise(life, replica, now_s)
    while now.outages < len(life.outages) and life.outages[now.outages].down_s <= now_s:
        _fail(life, life.outages[now.outages].replica, life.outages[now.outages].up_s)
        now.outages += 1
    if now.look_s <= now_s:
        _scale(life, _wanted(life, busy_s, waiting), now_s)
    _look_ahead(life)
    _record(life, now_s)


@compiled
def _rise(life: Life, replica: int, now_s: float) -> None:
    life.status[replica], life.change_s[replica] = UP, now_s + _drawn_s(life, replica, life.rules.mean_between_s)


@compiled
def _fail(life: Life, replica: int, up_s: float) -> None:
    """Take a replica down until `up_s`; one that was leaving anyway does not come back."""
    if life.status[replica] == UP or life.status[replica] == STARTING:
        life.status[replica], life.change_s[replica] = FAILED, up_s
    elif life.status[replica] == DRAINING:
        life.status[replica], life.change_s[replica] = ABSENT, inf
    elif life.status[replica] == FAILED:
        life.change_s[replica] = max(life.change_s[replica], up_s)


@compiled
def _wanted(life: Life, busy_s: float, waiting: int) -> int:
    """Return how many replicas the autoscaler asks for, and set when it looks next."""
    rules, now = life.rules, life.now[0]
    if rules.kind == SCHEDULE:
        wanted = life.schedule[now.steps].replicas
        now.steps += 1
        now.look_s = life.schedule[now.steps].time_s if now.steps < len(life.schedule) else inf
    else:
        up_s = now.up_s - now.seen_up_s
        busy = (busy_s - now.busy_s) / up_s * count(life, UP) if up_s > 0 else 0.0
        need = busy / rules.target if rules.kind == UTILIZATION else max(waiting / rules.target, busy)
        wanted = ceil(need - 1e-9)
        now.busy_s, now.seen_up_s = busy_s, now.up_s
        now.look_s += rules.interval_s
    return int(min(max(wanted, rules.minimum), rules.maximum))


@compiled
def _scale(life: Life, wanted: int, now_s: float) -> None:
    """Grow at once; shrink when fewer have been asked for long enough."""
    now, fewer = life.now[0], count(life, UP) + count(life, STARTING) - wanted
    if fewer > 0:
        now.fewer_since_s, now.fewer = min(now.fewer_since_s, now_s), max(now.fewer, wanted)
        if life.rules.kind == SCHEDULE:
            _shrink(life, fewer)
        elif now_s - now.fewer_since_s >= life.rules.scale_down_delay_s:
            _shrink(life, fewer + wanted - now.fewer)
        else:
            return
    now.fewer_since_s, now.fewer = inf, 0
    _grow(life, -fewer, now_s)


@compiled
def _grow(life: Life, more: int, now_s: float) -> None:
    """Take back replicas that were leaving, then start others."""
    for wanted in (DRAINING, ABSENT):
        for replica in range(len(life.status)):
            if more > 0 and life.status[replica] == wanted:
                more -= 1
                if wanted == DRAINING or life.rules.cold_start_s == 0:
                    _rise(life, replica, now_s)
                else:
                    life.status[replica], life.change_s[replica] = STARTING, now_s + life.rules.cold_start_s


@compiled
def _shrink(life: Life, fewer: int) -> None:
    """Give up replicas that start, then let others finish their work and go; the last first."""
    for wanted in (STARTING, UP):
        for replica in range(len(life.status) - 1, -1, -1):
            if fewer > 0 and life.status[replica] == wanted:
                fewer -= 1
                life.status[replica] = DRAINING if wanted == UP else ABSENT
                if wanted == STARTING:
                    life.change_s[replica] = inf


@compiled
def _record(life: Life, now_s: float) -> None:
    """Note how many are up and starting: a point tells how its stretch of time ended. A full one is thinned by half."""
    now, points = life.now[0], life.timeline
    if now.points == len(points):
        now.points //= 2
        for place in range(now.points):
            points[place, 0] = points[2 * place, 0]
            points[place, 1], points[place, 2] = points[2 * place + 1, 1], points[2 * place + 1, 2]
        now.apart_s = max(2 * now.apart_s, (now_s - points[0, 0]) / now.points)
    if now.points == 0 or now_s - points[now.points - 1, 0] >= now.apart_s:
        points[now.points, 0] = now_s
        now.points += 1
    points[now.points - 1, 1], points[now.points - 1, 2] = count(life, UP), count(life, STARTING)
