"""A bill that goes with the load: device-hours along its growth, what is committed, and what a month then costs.

A fleet is planned at a few loads; between them its bill is taken as a straight line.
`charged` is the arithmetic of one month for any number of draws at once: a forecast is its single draw without shocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from capacity.errors import CapacityError
from capacity.money.lines import HOURS, Z10
from capacity.plan import Option
from capacity.spec.outlook import MONTHS_OF_A_YEAR, Commitment, Outlook

Array = NDArray[np.float64]


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
    usd_per_hour
        Of a device [USD/h].
    other_usd
        Lines that are no devices; those without a price are left out [USD].
    low, high
        P10 and P90 of the device lines ÷ their amount [1].
    """

    load: float
    hours: float
    used_hours: float
    usd_per_hour: float
    other_usd: float
    low: float = 1.0
    high: float = 1.0

    @classmethod
    def of(cls, option: Option, load: float, mean_to_peak: float) -> Self:
        """Return the month of a planned option.

        Raises
        ------
        CapacityError
            Where the option misses a constraint, has no device-hour to pay, or its device has no price.
        """
        if option.violations:
            miss = option.violations[0]
            raise CapacityError(f"at {load:.3g} × today's traffic {miss.where} misses {miss.constraint}")
        lines = [] if option.cost is None else [line for line in option.cost.lines if line.group == "devices"]
        hours = sum(line.quantity for line in lines)
        if option.cost is None or not hours or not option.cost.complete:
            raise CapacityError("no price in any table" if hours else "there is no device to pay for")
        usd, low, high = (_sum(values) for values in zip(*((x.usd, x.p10_usd, x.p90_usd) for x in lines), strict=True))
        busy = sum(pool.replicas * pool.devices_per_replica * min(pool.utilization, 1.0) for pool in option.pools)
        jobs = sum(float(job.device_hours_per_month.value) for job in option.jobs)
        return cls(
            load=load, hours=hours, used_hours=min(busy * mean_to_peak * HOURS + jobs, hours), usd_per_hour=usd / hours,
            other_usd=option.cost.usd - usd, low=min(low / usd, 1.0), high=max(high / usd, 1.0),
        )  # fmt: skip


def _sum(values: Sequence[float | None]) -> float:
    return sum(value for value in values if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A fleet's month over the load: the fields of `Level` as arrays [loads], loads rising."""

    load: Array
    hours: Array
    used_hours: Array
    other_usd: Array
    low: Array
    high: Array
    usd_per_hour: float

    @classmethod
    def of(cls, levels: Sequence[Level]) -> Self:
        """Return the curve through `levels`, in any order."""
        rising = sorted(levels, key=lambda level: level.load)
        names = ("load", "hours", "used_hours", "other_usd", "low", "high")
        return cls(
            **{name: np.array([getattr(level, name) for level in rising]) for name in names},
            usd_per_hour=rising[0].usd_per_hour,
        )

    def toward(self, other: Curve, share: float) -> Curve:
        """Return the curve `share` of the way to another with the same loads."""
        names = ("hours", "used_hours", "other_usd", "low", "high")
        between = {name: (1 - share) * getattr(self, name) + share * getattr(other, name) for name in names}
        return Curve(load=self.load, usd_per_hour=self.usd_per_hour, **between)

    def at(self, load: Array, values: Array) -> Array:
        """Return one of the curve's arrays at any loads: straight lines between its loads.

        Beyond them it goes on as from the first to the last, never below 0: the end pieces are stairs of a fleet.

        Examples
        --------
        >>> levels = [Level(load=x, hours=10 * x, used_hours=0, usd_per_hour=1, other_usd=0) for x in (1.0, 2.0)]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """The months, counted from 0, in which one device serves, and its bill in each.

    Attributes
    ----------
    first, end
        First month, and the first one after the stay.
    curves
        One a month.
    committed_usd_per_hour
        Of a device-hour committed today for the outlook's term [USD/h]; None without a commitment.
    """

    hardware: str
    name: str
    first: int
    end: int
    curves: tuple[Curve, ...]
    committed_usd_per_hour: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Device-hours a month that are paid from month `start` for `months`, at the price of a contract signed today."""

    start: int
    months: int
    hours: float
    usd_per_hour: float
    useful_until: int

    def usd(self, outlook: Outlook, price: Array) -> Array:
        """Return what a month of the term costs [USD]: the price of the month in which it is signed."""
        return self.hours * self.usd_per_hour * price_factor(outlook, self.start, price)

    def active(self, month: int) -> bool:
        """Return whether the term is being paid."""
        return self.start <= month < self.start + self.months


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """All that the months of one option depend on."""

    outlook: Outlook
    stays: tuple[Stay, ...]
    terms: tuple[Term, ...] = ()

    @property
    def hardware(self) -> str:
        """The profile of each stay's device."""
        return " → ".join(stay.hardware for stay in self.stays)

    def stay(self, month: int) -> Stay:
        """Return the stay that a month belongs to."""
        return next(stay for stay in self.stays if stay.first <= month < stay.end)

    def curve(self, month: int) -> Curve:
        """Return the bill over the load in a month."""
        stay = self.stay(month)
        return stay.curves[month - stay.first]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shocks:
    """What may differ from the outlook, arrays [draws].

    Attributes
    ----------
    growth
        Factor of (1 + growth of the traffic) in every month.
    price
        Factor of (1 − price decline) in every year.
    error
        Standard normal: ±1.2816 takes the device lines to their P90 and P10.
    utilization
        Work that a device carries ÷ what the plan lets it carry.
    """

    growth: Array
    price: Array
    error: Array
    utilization: Array


NEUTRAL = Shocks(growth=np.ones(1), price=np.ones(1), error=np.zeros(1), utilization=np.ones(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """A month's amounts, arrays [draws]: device-hours needed, used and paid [h]; USD that accrue."""

    needed_hours: Array
    used_hours: Array
    paid_hours: Array
    committed_usd: Array
    extra_usd: Array
    other_usd: Array

    @property
    def usd(self) -> Array:
        """What the month costs [USD]."""
        return self.committed_usd + self.extra_usd + self.other_usd


def load(outlook: Outlook, month: int, growth: Array) -> Array:
    """Return traffic ÷ traffic today [1] in a month counted from 0: season × ((1 + growth) × shock)^month.

    Examples
    --------
    >>> outlook = Outlook.model_validate({"growth": {"traffic": 0.1}})
    >>> load(outlook, 2, np.ones(1)).round(4).tolist()
    [1.21]
    """
    return outlook.seasonality[month % MONTHS_OF_A_YEAR] * ((1 + outlook.growth.traffic) * growth) ** month


def price_factor(outlook: Outlook, month: int, price: Array) -> Array:
    """Return the price of a device ÷ its price today [1]: ((1 − decline) × shock)^(month ÷ 12)."""
    return ((1 - outlook.price_decline) * price) ** (month / MONTHS_OF_A_YEAR)


def charged(course: Course, month: int, shocks: Shocks) -> Charged:
    """Return a month's amounts: terms are paid whole, what is needed beyond them is bought by the hour.

    needed = hours(load ÷ utilization) × model error; extra = max(0, needed − committed hours of this device). The
    lines that are no devices follow the load alone.
    """
    outlook, curve = course.outlook, course.curve(month)
    loads = load(outlook, month, shocks.growth)
    expected = load(outlook, month, np.ones(1))
    down, up = (float(np.log(curve.at(expected, ratio)[0])) / Z10 for ratio in (curve.low, curve.high))
    error = np.exp(np.where(shocks.error < 0, -down, up) * shocks.error)
    needed = curve.at(loads / shocks.utilization, curve.hours) * error
    active = [term for term in course.terms if term.active(month)]
    useful = sum(term.hours for term in active if month < term.useful_until)
    extra = np.maximum(needed - useful, 0.0)
    committed = np.zeros_like(needed)
    for term in active:
        committed = committed + term.usd(outlook, shocks.price)
    return Charged(
        needed_hours=needed, used_hours=np.minimum(curve.at(loads, curve.used_hours) * error, needed),
        paid_hours=sum(term.hours for term in active) + extra, committed_usd=committed,
        extra_usd=extra * curve.usd_per_hour * price_factor(outlook, month, shocks.price),
        other_usd=curve.at(loads, curve.other_usd),
    )  # fmt: skip


def course(outlook: Outlook, stays: Sequence[Stay]) -> Course:
    """Return the course with the terms that the outlook's commitment leads to, sized on the expected load."""
    bare = Course(outlook=outlook, stays=tuple(stays))
    terms: list[Term] = []
    for stay in stays:
        if outlook.commitment is not None and stay.committed_usd_per_hour is not None:
            starts = range(stay.first, stay.end, outlook.commitment.months)
            terms += [_term(bare, stay, start, outlook.commitment) for start in starts]
    return Course(outlook=outlook, stays=tuple(stays), terms=tuple(terms))


def _term(bare: Course, stay: Stay, start: int, commitment: Commitment) -> Term:
    hours = float(charged(bare, start, NEUTRAL).needed_hours[0]) * commitment.share
    return Term(
        start=start, months=commitment.months, hours=hours, usd_per_hour=stay.committed_usd_per_hour or 0.0,
        useful_until=stay.end,
    )  # fmt: skip
