"""What failures cost a long run: how often a job dies, how often to save it, and which share of its time is useful.

Failures of devices are independent and have no memory (exponential times), and any one stops the whole job. The job
computes τ seconds, writes a checkpoint, and goes on; after a failure it restarts from the last checkpoint that was
written whole. Everything broadcasts over arrays of devices.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from capacity.errors import CapacityError
from capacity.timing.band import Z90, Estimate
from capacity.work.operations import Amount

DAY_S = 86400.0
HALVINGS = 60
"""Bisections that find the best interval: more than a float resolves."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Interruptions that somebody counted over many devices.

    Attributes
    ----------
    fleet
        Whose devices.
    device_days
        Devices × days watched.
    interruptions
        Unplanned ones within them.
    source
        Where it is published.
    """

    fleet: str
    device_days: float
    interruptions: float
    source: str

    @property
    def device_mtbf_s(self) -> float:
        """Mean time between interruptions that one device brings on [s]."""
        return self.device_days * DAY_S / self.interruptions


OBSERVED = (
    Observed(
        "Llama 3 405B, 16,384 H100 for 54 days", 16384 * 54.0, 419.0,
        "arXiv:2407.21783, section 3.3.4 and table 5: unexpected interruptions, network and software included",
    ),
    Observed(
        "Meta RSC-1, A100, per 1,000 nodes of 8 for a day", 8 * 1000.0, 6.50,
        "Kokolis et al. 2024, arXiv:2410.21680 (HPCA 2025): failures per 1,000 node-days",
    ),
    Observed(
        "Meta RSC-2, A100, per 1,000 nodes of 8 for a day", 8 * 1000.0, 2.34,
        "Kokolis et al. 2024, arXiv:2410.21680 (HPCA 2025): failures per 1,000 node-days",
    ),
)  # fmt: skip
"""Fleets of 8,000 to 16,384 devices. Smaller jobs die more often than these say: those of 1,024 GPUs on RSC-1 every
7.9 h (same paper), where its node rate says 28.8 h. What else stopped them is not in these rates."""


def device_mtbf(observed: tuple[Observed, ...] = OBSERVED) -> Estimate:
    """Return the mean time between interruptions that one device brings on [s], as wide as fleets differ.

    The geometric mean of the fleets; the error is the standard deviation of their logarithms.

    Raises
    ------
    CapacityError
        With fewer than two fleets: one says nothing of the next.

    Examples
    --------
    >>> found = device_mtbf()
    >>> [round(float(time) / DAY_S) for time in (found.low, found.value, found.high)]
    [894, 2071, 4801]
    """
    if len(observed) < 2:
        raise CapacityError(f"device_mtbf: {len(observed)} fleet(s) observed; allowed: two or more")
    logs = np.log([one.device_mtbf_s for one in observed])
    return Estimate(float(np.exp(logs.mean())), {"reliability": float(logs.std(ddof=1))}, "projected")


def _published_mtbf_s() -> Amount:
    return device_mtbf().value


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How often devices fail and what saving and restarting a job costs.

    Attributes
    ----------
    checkpoint_s
        Time to write one checkpoint [s], see `checkpoint_time`.
    device_mtbf_s
        Mean time between interruptions that one device brings on [s]; by default what is published, see `device_mtbf`.
    restart_s
        Time from a failure until the job computes again [s]: notice, replace, load. 600 s assumed.
    blocking
        Share of the write during which the job stands still [1]; the rest goes on beside the next interval, which is
        assumed not to slow it down. 1: a plain blocking write.
    """

    checkpoint_s: Amount
    device_mtbf_s: Amount = field(default_factory=_published_mtbf_s)
    restart_s: Amount = 600.0
    blocking: Amount = 1.0

    def __post_init__(self) -> None:
        """Refuse what no job can be."""
        for name in ("device_mtbf_s", "checkpoint_s"):
            if not np.all(np.asarray(getattr(self, name)) > 0):
                raise CapacityError(f"reliability: {name} is {np.min(getattr(self, name)):g}; allowed: above 0")
        if not np.all(np.asarray(self.restart_s) >= 0):
            raise CapacityError(f"reliability: restart_s is {np.min(self.restart_s):g}; allowed: 0 or more")
        share = np.asarray(self.blocking)
        if not np.all((share > 0) & (share <= 1)):
            raise CapacityError(f"reliability: blocking is {np.min(share):g} to {np.max(share):g}; allowed: (0, 1]")

    @property
    def pause_s(self) -> Amount:
        """Time the job stands still for one checkpoint [s]."""
        return self.blocking * self.checkpoint_s

    @property
    def tail_s(self) -> Amount:
        """Time a checkpoint is still being written while the job computes [s]."""
        return (1 - self.blocking) * self.checkpoint_s


@dataclass(frozen=True, slots=True)
class Goodput:
    """Where the time of a long run goes.

    Attributes
    ----------
    mtbf_s
        Mean time between failures of the job [s].
    interval_s
        Time it computes between two checkpoints [s].
    useful
        Share of the time that is work kept [1].
    saving
        Share that it stands still for checkpoints that held [1].
    lost
        Share that goes into work done again and restarts [1]; the three sum to 1.
    """

    mtbf_s: Amount
    interval_s: Amount
    useful: Amount
    saving: Amount
    lost: Amount


def job_mtbf(device_mtbf_s: Amount, devices: Amount) -> Amount:
    """Return the mean time between failures of a job on `devices` devices [s]: failures add up.

    Examples
    --------
    >>> job_mtbf(6.5 * 3600, 13)
    1800.0
    """
    if not np.all(np.asarray(devices) > 0):
        raise CapacityError(f"job_mtbf: devices is {np.min(devices):g}; allowed: above 0")
    return device_mtbf_s / devices


def checkpoint_time(state_bytes: Amount, bytes_per_s: Amount) -> Amount:
    """Return the time to write the state of a job [s]: weights, master weights, optimizer states.

    Examples
    --------
    >>> checkpoint_time(14 * 8e9, 2e9)
    56.0
    """
    if not np.all(np.asarray(bytes_per_s) > 0):
        raise CapacityError(f"checkpoint_time: bytes_per_s is {np.min(bytes_per_s):g}; allowed: above 0")
    return state_bytes / bytes_per_s


def young_interval(mtbf_s: Amount, pause_s: Amount) -> Amount:
    """Return √(2·δ·M), the best interval to first order [s] (Young 1974, CACM 17(9), 530-531).

    Examples
    --------
    >>> float(young_interval(24 * 60, 5))
    120.0
    """
    return np.sqrt(2 * np.asarray(pause_s) * mtbf_s)[()]


def daly_interval(mtbf_s: Amount, pause_s: Amount) -> Amount:
    """Return √(2δM)·(1 + ⅓·√(δ/2M) + ⅑·δ/2M) − δ below δ = 2M, else M [s] (Daly 2006, FGCS 22(3), 303-312).

    Examples
    --------
    Figures 3 to 5 of the paper, in minutes: M = 24 h, 6 h and 15 min, a pause of 5 min.

    >>> daly_interval(np.array([24 * 60.0, 6 * 60.0, 15.0]), 5.0).round(1).tolist()
    [116.7, 56.7, 9.1]
    """
    ratio = np.asarray(pause_s) / (2 * np.asarray(mtbf_s))
    series = young_interval(mtbf_s, pause_s) * (1 + np.sqrt(ratio) / 3 + ratio / 9) - pause_s
    return np.where(ratio < 1, series, mtbf_s)[()]


def best_interval(job: Reliability, devices: Amount) -> Amount:
    """Return the interval with the highest goodput [s]: the root τ of 1 − τ/M = e^(−(τ + δ)/M), by bisection.

    That is τ = M·(1 + W₀(−e^(−1 − δ/M))) with Lambert's W; restart time and the tail of a write do not move it (so
    Vaidya 1997, IEEE Transactions on Computers 46(8), 942-947, of the latency of a checkpoint). No interval is shorter
    than the tail: a write ends before the next begins.
    """
    mtbf = np.asarray(job_mtbf(job.device_mtbf_s, devices))
    pause = np.asarray(job.pause_s) / mtbf
    low, high = np.zeros(np.broadcast(mtbf, pause).shape), np.ones(np.broadcast(mtbf, pause).shape)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = -np.expm1(-(middle + pause)) > middle
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.maximum(mtbf * (low + high) / 2, job.tail_s)[()]


def goodput(job: Reliability, devices: Amount, interval_s: Amount | None = None) -> Goodput:
    """Return where the time goes when the job is saved every `interval_s` of work, by default the best interval.

    The job is renewed whenever a checkpoint is written whole. With a blocking write of δ that takes, for τ of work,
    M·e^(R/M)·(e^((τ + δ)/M) − 1) on average (Daly 2006), failures during restarts and writes included. Where the
    job stands still for δ only and the write goes on for a tail of a, a failure within the tail falls back one
    checkpoint further; the same renewal then gives M·e^((R + a)/M)·(e^((τ + δ)/M) − 1). Both are exact: the tail
    costs what a longer restart costs.

    Raises
    ------
    CapacityError
        For an interval shorter than the tail of a write, or not above 0.

    Examples
    --------
    A job that fails once a day and is saved each hour for a minute keeps 95.6 % of its time: 60 of 61 minutes compute,
    a failure loses half of an hour and 10 minutes of restart, 40.5 of 1,440 minutes.

    >>> job = Reliability(device_mtbf_s=1000 * DAY_S, checkpoint_s=60.0)
    >>> found = goodput(job, 1000.0, 3600.0)
    >>> round(float(found.useful), 3), round(float(found.saving), 3), round(float(found.lost), 3)
    (0.956, 0.016, 0.028)
    """
    mtbf = np.asarray(job_mtbf(job.device_mtbf_s, devices))
    interval = np.asarray(best_interval(job, devices) if interval_s is None else interval_s)
    if not np.all((interval > 0) & (interval >= np.asarray(job.tail_s))):
        raise CapacityError(
            f"goodput: interval_s is {np.min(interval):g}; allowed: above 0 and no shorter than the "
            f"{np.max(job.tail_s):g} s for which a checkpoint is still written"
        )
    with np.errstate(over="ignore"):  # a job that fails all the time: infinite time, no goodput
        growth = np.exp((job.restart_s + job.tail_s) / mtbf) * np.expm1((interval + job.pause_s) / mtbf)
    useful = interval / mtbf / growth
    saving = useful * job.pause_s / interval
    return Goodput(mtbf[()], interval[()], useful[()], saving[()], (1 - useful - saving)[()])


def expected_failures(found: Goodput, useful_s: Amount) -> Amount:
    """Return how many failures a run of `useful_s` of work meets on average [1]: its wall time ÷ MTBF.

    Examples
    --------
    >>> expected_failures(Goodput(mtbf_s=100.0, interval_s=10.0, useful=0.5, saving=0.1, lost=0.4), 1000.0)
    20.0
    """
    return useful_s / found.useful / found.mtbf_s


def wall_factor(job: Reliability, devices: Amount, device_mtbf_s: Estimate | None = None) -> Estimate:
    """Return wall time ÷ useful time of a job saved at its best interval [1], as unsure as the devices' failures are.

    Parameters
    ----------
    job
        Its own `device_mtbf_s` is not looked at.
    devices
        Devices of the job.
    device_mtbf_s
        Mean time between interruptions that one device brings on [s]; by default what is published of three fleets.

    Raises
    ------
    CapacityError
        For a job that fails so often that it gets nothing done.
    """
    known = device_mtbf() if device_mtbf_s is None else device_mtbf_s
    low, middle, high = (
        goodput(replace(job, device_mtbf_s=mtbf_s), devices).useful for mtbf_s in (known.low, known.value, known.high)
    )
    if not np.all(np.asarray(low) > 0):
        raise CapacityError(
            f"wall_factor: on {np.max(devices):g} devices the job fails long before it is saved once, and never ends"
        )
    return Estimate(1 / middle, {"reliability": np.log(high / low) / (2 * Z90)}, known.basis)
