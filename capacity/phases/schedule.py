"""Jobs that recur, on devices that serving leaves idle: what fits, what is free of charge, what has to be rented.

Time is a circle of whole hours, as long as all periods take to come round together. Within its window a run may take
what is idle hour by hour, up to the devices it can use at once: it is assumed to stop and go on at checkpoints, and to
be as fast on few devices for long as on many for short. What then fits is a flow from runs to hours, found exactly as a
linear program. Giving the hours to the earliest deadline first would be as good if a run could use any number of
devices; with a limit it is not (tests/test_schedule.py holds a case).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capacity.errors import CapacityError

HOUR_S = 3600.0
DAY_H = 24
MOST_HOURS = 366 * DAY_H
"""Longest circle of hours that is looked at."""
NOISE = 1e-6
"""What the solver leaves of a device where exactly none is needed."""
Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RecurringJob:
    """Work that comes back.

    Attributes
    ----------
    name
        What people call it.
    device_s
        Work of one run [device-s].
    every_s
        Time between the starts of two runs [s], whole hours.
    deadline_s
        Time after its start when a run must be done [s], at most `every_s`.
    devices
        Most devices it can use at once.
    start_s
        First start [s after midnight]; it can wait up to the next whole hour.
    """

    name: str
    device_s: float
    every_s: float
    deadline_s: float
    devices: int
    start_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot recur."""
        for name in ("device_s", "every_s", "deadline_s", "devices"):
            if not getattr(self, name) > 0:
                raise CapacityError(f"job {self.name}: {name} is {getattr(self, name):g}; allowed: above 0")
        if self.every_s % HOUR_S:
            raise CapacityError(f"job {self.name}: every_s is {self.every_s:g}; allowed: whole hours")
        if self.deadline_s > self.every_s:
            what = f"deadline_s is {self.deadline_s:g}; allowed: up to every_s, {self.every_s:g}"
            raise CapacityError(f"job {self.name}: {what}")
        if not self.start_s >= 0:
            raise CapacityError(f"job {self.name}: start_s is {self.start_s:g}; allowed: 0 or more")

    @property
    def device_hours(self) -> float:
        """Work of one run [device-h]."""
        return self.device_s / HOUR_S

    @property
    def first_hour(self) -> int:
        """First whole hour of the first run's window [h after midnight]."""
        return math.ceil(self.start_s / HOUR_S)

    @property
    def window_hours(self) -> int:
        """Whole hours between start and deadline [h]."""
        return max(0, math.floor((self.start_s + self.deadline_s) / HOUR_S) - self.first_hour)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the runs of one job go.

    Attributes
    ----------
    name
        The job's.
    fits
        Whether idle devices do it in time, beside all jobs of shorter deadlines that fit.
    free_device_s
        Work of a mean run that idle devices do [device-s].
    rented_device_s
        Work of a mean run that rented devices do [device-s].
    alone_devices
        Fewest devices to rent if it were the only job; None where no number helps.
    told
        The same in words.
    """

    name: str
    fits: bool
    free_device_s: float
    rented_device_s: float
    alone_devices: int | None
    told: str


@dataclass(frozen=True, slots=True)
class Sharing:
    """All jobs together.

    Attributes
    ----------
    placements
        One a job, in the order given.
    rented_devices
        Fewest devices that must stand beside the serving fleet all the time, for every job that can be done at all.
    idle_device_s
        What serving leaves idle on a day [device-s].
    free_device_s
        What jobs use of it on a mean day [device-s].
    conflicts
        What does not fit, in words; empty where all does.
    """

    placements: tuple[Placement, ...]
    rented_devices: int
    idle_device_s: float
    free_device_s: float
    conflicts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Runs:
    """Every (run, hour of its window): indices of both, and the work and the job of each run."""

    hours: int
    run: NDArray[np.int64]
    hour: NDArray[np.int64]
    work: Values
    job: NDArray[np.int64]
    most: Values
    """Most devices of the run, for each pair."""


@dataclass(frozen=True, slots=True)
class _Flow:
    """Devices to rent, and device-hours that each run takes of idle and of rented ones on the whole circle."""

    rented: float
    free: Values
    paid: Values


def idle_devices(devices: int, shares: ArrayLike) -> Values:
    """Return the devices that serving leaves idle in each hour of a day.

    A device serves or it does not: shares are rounded up to whole devices.

    Parameters
    ----------
    devices
        Devices of the serving fleet.
    shares
        Share of them that serving needs in each of 24 hours [1], headroom and spares included.

    Examples
    --------
    >>> idle_devices(10, [0.31] * 12 + [1.0] * 12)[[0, 12]].tolist()
    [6.0, 0.0]
    """
    needed = np.asarray(shares, dtype=np.float64)
    if needed.shape != (DAY_H,):
        raise CapacityError(f"idle_devices: shares of shape {needed.shape}; allowed: one for each of 24 hours")
    if not np.all((needed >= 0) & (needed <= 1)):
        raise CapacityError(f"idle_devices: shares from {needed.min():g} to {needed.max():g}; allowed: 0 to 1")
    return devices - np.ceil(devices * needed - NOISE)


def share(jobs: Sequence[RecurringJob], idle: ArrayLike) -> Sharing:
    """Return which jobs fit into `idle` devices, how much of them is free of charge, and what must be rented.

    Parameters
    ----------
    jobs
        Jobs that recur.
    idle
        Devices that serving leaves idle in each hour of a day, (24,).

    Raises
    ------
    CapacityError
        For an `idle` that is not 24 numbers of 0 or more, and for periods that come round together too late.

    Examples
    --------
    Five devices idle through the night (0 to 8 h) give 40 device-hours, and 50 are wanted: a rented device does the
    other 10 by day.

    >>> night = [5.0] * 8 + [0.0] * 16
    >>> encode = RecurringJob("encode", 30 * HOUR_S, 24 * HOUR_S, 8 * HOUR_S, devices=5)
    >>> train = RecurringJob("train", 20 * HOUR_S, 24 * HOUR_S, 24 * HOUR_S, devices=4)
    >>> found = share([encode, train], night)
    >>> found.rented_devices, round(found.free_device_s / HOUR_S, 3)
    (1, 40.0)
    >>> [placement.told for placement in found.placements]
    ['encode fits: 30 device-hours a run are free', 'train fits alone but not beside encode']
    """
    free = np.asarray(idle, dtype=np.float64)
    if free.shape != (DAY_H,) or not np.all((free >= 0) & np.isfinite(free)):
        raise CapacityError(f"share: idle devices of shape {free.shape}; allowed: 24 numbers of 0 or more")
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise CapacityError(f"share: names of jobs must differ: {', '.join(names)}")
    possible = [job for job in jobs if _possible(job)]
    flow, runs = _cheapest(possible, free), _runs(possible)
    fitting = _fitting(possible, free)
    placements = tuple(
        _placement(job, fitting, free, _of_job(flow, runs, possible, job) if job in possible else (0.0, 0.0))
        for job in jobs
    )
    return Sharing(
        placements=placements,
        rented_devices=round(flow.rented),
        idle_device_s=float(free.sum()) * HOUR_S,
        free_device_s=float(flow.free.sum()) * HOUR_S * DAY_H / runs.hours,
        conflicts=tuple(one.told for one in placements if not one.fits),
    )


def _possible(job: RecurringJob) -> bool:
    return job.device_hours <= job.devices * job.window_hours + NOISE


def _fitting(jobs: Sequence[RecurringJob], idle: Values) -> list[RecurringJob]:
    """Return the jobs that need nothing rented, taken in the order of their deadlines."""
    taken: list[RecurringJob] = []
    for job in sorted(jobs, key=lambda job: job.deadline_s):
        if _fewest([*taken, job], idle) == 0:
            taken.append(job)
    return taken


def _of_job(flow: _Flow, runs: _Runs, possible: Sequence[RecurringJob], job: RecurringJob) -> tuple[float, float]:
    """Return the free and the rented device-hours of a mean run of `job`."""
    own = runs.job == possible.index(job)
    return float(flow.free[own].mean()), float(flow.paid[own].mean())


def _placement(
    job: RecurringJob, fitting: Sequence[RecurringJob], idle: Values, hours: tuple[float, float]
) -> Placement:
    alone = _fewest([job], idle) if _possible(job) else None
    if job in fitting:
        told = f"{job.name} fits: {job.device_hours:,.3g} device-hours a run are free"
    elif alone is None:
        what = f"{job.device_hours:,.0f} device-hours in {job.window_hours} whole hours"
        told = f"{job.name} can never be done in time: {what}, on at most {job.devices} devices"
    elif alone:
        wanted = "1 device" if alone == 1 else f"{alone:,} devices"
        told = f"{job.name} needs {wanted} beside the idle ones even if it were alone"
    else:
        told = f"{job.name} fits alone but not beside {', '.join(other.name for other in fitting)}"
    return Placement(job.name, job in fitting, hours[0] * HOUR_S, hours[1] * HOUR_S, alone, told)


def _runs(jobs: Sequence[RecurringJob]) -> _Runs:
    """Return all runs of `jobs` on the circle of hours after which everything repeats."""
    periods = [round(job.every_s / HOUR_S) for job in jobs]
    hours = math.lcm(DAY_H, *periods)
    if hours > MOST_HOURS:
        names = ", ".join(f"{job.name} {period} h" for job, period in zip(jobs, periods, strict=True))
        raise CapacityError(f"share: periods ({names}) repeat after {hours} h; allowed: up to {MOST_HOURS} h")
    starts = [(index, start) for index, period in enumerate(periods) for start in range(0, hours, period)]
    job = np.array([index for index, _ in starts], dtype=np.int64)
    windows = np.array([jobs[index].window_hours for index in job], dtype=np.int64)
    first = np.array([start + jobs[index].first_hour for index, start in starts], dtype=np.int64)
    run = np.repeat(np.arange(len(job)), windows)
    since = np.arange(len(run)) - np.repeat(np.cumsum(windows) - windows, windows)
    return _Runs(
        hours=hours, run=run, hour=(first[run] + since) % hours, job=job,
        work=np.array([jobs[index].device_hours for index in job]),
        most=np.array([float(jobs[index].devices) for index in job])[run],
    )  # fmt: skip


def _fewest(jobs: Sequence[RecurringJob], idle: Values) -> int:
    """Return the fewest whole devices to rent so that every run is done in time."""
    return math.ceil(_solved(_runs(jobs), idle, None).rented - NOISE) if jobs else 0


def _cheapest(jobs: Sequence[RecurringJob], idle: Values) -> _Flow:
    """Return the flow on the fewest rented devices that uses them least."""
    if not jobs:
        return _Flow(0.0, np.zeros(0), np.zeros(0))
    return _solved(_runs(jobs), idle, _fewest(jobs, idle))


def _solved(runs: _Runs, idle: Values, rented: int | None) -> _Flow:
    """Return the flow that rents least (`rented` None), or that uses `rented` devices least.

    Unknowns are the device-hours of each (run, hour) on idle and on rented devices, and the number of rented ones.
    """
    from scipy import optimize, sparse  # noqa: PLC0415  (planning starts without scipy)

    pairs = len(runs.run)
    of_hour = sparse.csr_matrix((np.ones(pairs), (runs.hour, np.arange(pairs))), (runs.hours, pairs))
    of_run = sparse.csr_matrix((np.ones(pairs), (runs.run, np.arange(pairs))), (len(runs.work), pairs))
    each = sparse.identity(pairs)
    limits = sparse.bmat([
        [of_hour, None, sparse.csr_matrix((runs.hours, 1))],
        [None, of_hour, -np.ones((runs.hours, 1))],
        [each, each, None],
    ])  # fmt: skip
    work = sparse.hstack([of_run, of_run, sparse.csr_matrix((len(runs.work), 1))])
    least = np.zeros(2 * pairs + 1)
    least[-1 if rented is None else slice(pairs, 2 * pairs)] = 1.0
    done = optimize.linprog(
        least, A_ub=limits.tocsr(), A_eq=work.tocsr(), b_eq=runs.work, method="highs",
        b_ub=np.concatenate([np.tile(idle, runs.hours // DAY_H), np.zeros(runs.hours), runs.most]),
        bounds=[(0.0, None)] * (2 * pairs) + [(0.0, None) if rented is None else (rented, rented + 2 * NOISE)],
    )  # fmt: skip
    if not done.success:
        raise CapacityError(f"share: the linear program of {len(runs.work)} runs was not solved: {done.message}")
    return _Flow(float(done.x[-1]), of_run @ done.x[:pairs], of_run @ done.x[pairs : 2 * pairs])
