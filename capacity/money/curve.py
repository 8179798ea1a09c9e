"""A bill over the load: what is planned at a few loads, and straight lines between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from capacity.errors import CapacityError
from capacity.money.lines import HOURS, Z10
from capacity.plan import CostLine, Option

Array = NDArray[np.float64]
MOST = 1e9
"""Traffic ÷ traffic today that nothing reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """An option's month at one load.

    Attributes
    ----------
    load
        Traffic ÷ traffic today [1].
    hours
        Device-hours to pay for [h].
    used_hours
        Those in which a device works [h]: utilization at the peak × mean ÷ peak rate, and all of the jobs.
    other_usd
        Lines that go neither with the device-hours that are paid nor with what they cost; those without a price are
        left out [USD].
    hourly_usd
        Room and maintenance of owned devices, and licenses, for each device-hour that is paid [USD/h].
    support
        Support plan ÷ what the devices cost [1].
    fast, slow
        Device-hours where step times are at their P10 and P90 ÷ `hours` [1].
    carries
        Largest load at which what is planned holds the objective, step times as expected; `MOST` where nothing serves.
    sigma
        Standard deviation of the logarithm of step times, of the pool that is least sure.
    missed
        1 where the objective is missed at their P90 however many devices there are, else 0.
    """

    load: float
    hours: float
    used_hours: float
    other_usd: float
    hourly_usd: float = 0.0
    support: float = 0.0
    fast: float = 1.0
    slow: float = 1.0
    carries: float = MOST
    sigma: float = 0.0
    missed: float = 0.0

    @classmethod
    def of(cls, option: Option, load: float, mean_to_peak: float, carries: float) -> Self:
        """Return the month of a planned option.

        Parameters
        ----------
        carries
            Largest rate at which it holds the objective ÷ its peak rate [1].

        Raises
        ------
        CapacityError
            Where the option misses a constraint, has no device-hour to pay, or its device has no price.
        """
        if option.violations:
            miss = option.violations[0]
            raise CapacityError(f"at {load:.3g} × today's traffic {miss.where} misses {miss.constraint}")
        lines = () if option.cost is None else option.cost.lines
        hours = sum(line.quantity for line in lines if line.group == "devices")
        if option.cost is None or not hours or not option.cost.complete:
            raise CapacityError("no price in any table" if hours else "there is no device to pay for")
        usd = sum(line.usd or 0.0 for line in lines if line.group == "devices")
        hourly_usd = sum(line.usd or 0.0 for line in lines if _by_the_hour(line))
        support = sum(line.unit_price_usd or 0.0 for line in lines if line.group == "support" and line.usd is not None)
        busy = sum(pool.busy_devices for pool in option.pools)
        jobs = sum(float(job.device_hours_per_month.value) for job in option.jobs)
        return cls(
            load=load, hours=hours, used_hours=min(busy * mean_to_peak * HOURS + jobs, hours),
            other_usd=option.cost.usd - usd * (1 + support) - hourly_usd, hourly_usd=hourly_usd / hours,
            support=support, fast=min(_at(option, -Z10), 1.0), slow=max(_at(option, Z10), 1.0),
            carries=min(load * carries, MOST),
            sigma=max((float(pool.service.log_sigma) for pool in option.pools), default=0.0),
            missed=float(any(pool.replicas_p90 is None for pool in option.pools)),
        )  # fmt: skip


def _by_the_hour(line: CostLine) -> bool:
    return line.group == "ownership" or (line.group == "software" and line.unit == "device-hours")


def _at(option: Option, z: float) -> float:
    """Return the device-hours where step times are off by `z` standard deviations, at a P10 or P90, ÷ theirs [1].

    Where a pool misses the objective at that step time, it is taken to grow in step with it.
    """
    usual = moved = 0.0
    for pool in option.pools:
        found = pool.replicas_p10 if z < 0 else pool.replicas_p90
        replicas = found or pool.replicas * float(np.exp(z * pool.service.log_sigma))
        usual += (pool.replicas + pool.spare_replicas) * pool.devices_per_replica * HOURS
        moved += (replicas + pool.spare_replicas) * pool.devices_per_replica * HOURS
    for job in option.jobs:
        usual += float(job.device_hours_per_month.value)
        moved += float(job.device_hours_per_month.value) * float(np.exp(z * job.device_hours_per_month.log_sigma))
    return moved / usual


_CURVES = ("hours", "used_hours", "other_usd", "hourly_usd", "support", "fast", "slow", "carries", "sigma", "missed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A fleet's month over the load: the fields of `Level` as arrays [loads], loads rising."""

    load: Array
    hours: Array
    used_hours: Array
    other_usd: Array
    hourly_usd: Array
    support: Array
    fast: Array
    slow: Array
    carries: Array
    sigma: Array
    missed: Array

    @classmethod
    def of(cls, levels: Sequence[Level]) -> Self:
        """Return the curve through `levels`, in any order."""
        rising = sorted(levels, key=lambda level: level.load)
        names = ("load", *_CURVES)
        return cls(**{name: np.array([getattr(level, name) for level in rising]) for name in names})

    def toward(self, other: Curve, share: float) -> Curve:
        """Return the curve `share` of the way to another with the same loads."""
        between = {name: (1 - share) * getattr(self, name) + share * getattr(other, name) for name in _CURVES}
        return Curve(load=self.load, **between)

    def at(self, load: Array, values: Array) -> Array:
        """Return one of the curve's arrays at any loads: straight lines between its loads.

        Beyond them it goes on as from the first to the last, never below 0: the end pieces are stairs of a fleet.

        Examples
        --------
        >>> levels = [Level(load=x, hours=10 * x, used_hours=0, other_usd=0) for x in (1.0, 2.0)]
        >>> curve = Curve.of(levels)
        >>> curve.at(np.array([1.0, 1.5, 3.0]), curve.hours).tolist()
        [10.0, 15.0, 30.0]
        """
        found = np.interp(load, self.load, values)
        width = self.load[-1] - self.load[0]
        if width > 0:
            slope = (values[-1] - values[0]) / width
            found = found + slope * (np.minimum(load - self.load[0], 0) + np.maximum(load - self.load[-1], 0))
        return np.maximum(found, 0.0)
