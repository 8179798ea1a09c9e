"""Spot devices are taken away: what jobs do again, and the replicas that stand in while others are gone.

Devices are interrupted independently of each other and without memory; clouds that take many at once are worse.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import replace
from functools import lru_cache

from capacity.errors import CapacityError
from capacity.phases.failures import Reliability, goodput, job_mtbf
from capacity.plan import JobPlan, PoolPlan
from capacity.spec.buying import Spot

HOUR_S = 3600.0
MOST_DOUBLINGS = 18
"""Stand-ins of a pool are looked for up to 2^17."""
NEVER = 1e-9
"""Interruptions of a device in an hour below which there are none: one in 100,000 years."""


def wall_factor(devices: int, spot: Spot) -> float:
    """Return wall time ÷ useful time of a job that any of its devices stops when it is taken [1].

    A job that can be saved within the notice loses no work: an interruption costs the save and the restart, M ÷ (M +
    save + restart) is useful. Else it is saved at the best interval and does again what it had done since, see
    `capacity.phases.failures.goodput`.

    Raises
    ------
    CapacityError
        For a job that is interrupted so often that it gets nothing done.

    Examples
    --------
    One device, taken once in 10 hours, saved in 60 s of 120 s of notice, back after 540 s: 600 s in 36,000 s.

    >>> round(wall_factor(1, Spot(interruptions=0.1, checkpoint=60, notice=120, restart=540)), 6)
    1.016667
    """
    if spot.interruptions < NEVER:
        return 1.0
    device_mtbf_s = HOUR_S / spot.interruptions
    if spot.checkpoint <= spot.notice:
        return 1 + (spot.checkpoint + spot.restart) / float(job_mtbf(device_mtbf_s, devices))
    job = Reliability(checkpoint_s=spot.checkpoint, device_mtbf_s=device_mtbf_s, restart_s=spot.restart)
    useful = float(goodput(job, devices).useful)
    if not useful > 0:
        raise CapacityError(f"spot: on {devices} devices the job is interrupted before it is saved once; never ends")
    return 1 / useful


def interrupted(job: JobPlan, spot: Spot) -> JobPlan:
    """Return the job with the time and the device-hours that interruptions add."""
    factor = wall_factor(together(job), spot)
    return replace(
        job, duration=job.duration.scaled(factor), device_hours_per_month=job.device_hours_per_month.scaled(factor)
    )


def together(job: JobPlan) -> int:
    """Return the devices that stop when one of them is taken: all of a training run, one of a batch job."""
    return job.devices if job.kind == "training" else 1


def extra_replicas(replicas: int, devices_per_replica: float, spot: Spot) -> int:
    """Return the replicas to add so that fewer than `replicas` are up for at most `spot.short_share` of the time.

    A replica is gone for restart − notice whenever one of its devices is taken; the replicas that are gone at once
    follow the binomial distribution.

    Examples
    --------
    Replicas that are gone 1 % of the time: one is too few for 1 % of the time, both of two for 0.01 %.

    >>> hour = Spot(interruptions=0.01, restart=120 + 3600 / 0.99, notice=120, short_share=0.001)
    >>> extra_replicas(1, 1, hour)
    1
    """
    rate = spot.interruptions * max(devices_per_replica, 1.0) / HOUR_S
    away = rate * max(spot.restart - spot.notice, 0.0)
    return _stand_ins(replicas, away / (1 + away), spot.short_share)


@lru_cache(maxsize=2**16)
def _stand_ins(replicas: int, gone: float, short_share: float) -> int:
    """Return the replicas to add where each is gone for a share of the time; a search asks the same over and over."""

    def enough(extra: int) -> bool:
        return _more_than(extra, replicas + extra, gone) <= short_share

    most = next((2**power for power in range(MOST_DOUBLINGS) if enough(2**power)), None)
    if most is not None:
        return bisect_left(range(most), True, key=enough)
    raise CapacityError(f"spot: {replicas} replicas are never up; allowed: fewer interruptions or a faster restart")


def _more_than(lost: int, count: int, gone: float) -> float:
    """Return the chance that more than `lost` of `count` replicas are gone."""
    if gone <= 0 or count <= lost:
        return 0.0
    logs = (
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(gone) + (count - k) * math.log1p(-gone)
        for k in range(lost + 1)
    )  # fmt: skip
    return max(0.0, 1 - math.fsum(math.exp(value) for value in logs))


def covered(pool: PoolPlan, spot: Spot) -> PoolPlan:
    """Return the pool with the spares that stand in for replicas that are taken."""
    extra = extra_replicas(pool.replicas, pool.devices_per_replica, spot)
    return replace(pool, spare_replicas=pool.spare_replicas + extra)


def pool_flag(pool: PoolPlan, spot: Spot) -> str:
    """Return what spot means for a pool, in words."""
    extra = extra_replicas(pool.replicas, pool.devices_per_replica, spot)
    return f"spot: {extra} of the spares stand in for interrupted replicas ({_rate(spot)})"


def job_flag(job: JobPlan, spot: Spot) -> str:
    """Return what spot means for a job, in words."""
    more = wall_factor(together(job), spot) - 1
    return f"spot: {more:.1%} added by interruptions ({_rate(spot)})"


def _rate(spot: Spot) -> str:
    assumed = "" if "interruptions" in spot.model_fields_set else ", assumed"
    return f"{spot.interruptions:g} interruptions a device-hour{assumed}"
