"""The course of a bill over months: the load along its growth, what is committed or owned, and what a month then costs.

`charged` is the arithmetic of one month for any number of draws at once: a forecast is its single draw without shocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from capacity.money.curve import Array, Curve
from capacity.money.lines import Z10
from capacity.spec.buying import Ownership
from capacity.spec.outlook import MONTHS_OF_A_YEAR, Commitment, Outlook
from capacity.timing.band import Z90


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price of a device-hour today [USD/h]: the median of its offers, their lowest and their highest.

    Attributes
    ----------
    flags
        What a reader should know before trusting it, in words.
    """

    usd: float
    low: float
    high: float
    flags: tuple[str, ...] = ()

    def factor(self, standard: Array) -> Array:
        """Return the price ÷ its median where a standard normal is drawn: `low` and `high` are about P5 and P95.

        Examples
        --------
        >>> Price(usd=2, low=1, high=3).factor(np.array([-Z90, 0.0, Z90])).round(9).tolist()
        [0.5, 1.0, 1.5]
        """
        ends = np.where(standard < 0, -math.log(self.low / self.usd), math.log(self.high / self.usd))
        return np.asarray(np.exp(ends / Z90 * standard))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """The months, counted from 0, in which one device serves, and its bill in each.

    Attributes
    ----------
    first, end
        First month, and the first one after the stay.
    curves
        One a month.
    price, committed
        Of a device-hour today, and of one committed today for the outlook's term; None without a commitment.
    ownership
        How its devices are owned; None where hours are rented.
    """

    hardware: str
    name: str
    first: int
    end: int
    curves: tuple[Curve, ...]
    price: Price
    committed: Price | None = None
    ownership: Ownership | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Device-hours a month that are paid from month `start` for `months`, at the price of a contract signed today.

    Attributes
    ----------
    useful_until
        Month in which their fleet ends.
    ownership
        Of devices that are bought: `months` is their life, and the price that of their annuity. None: hours are rented.
    """

    start: int
    months: int
    hours: float
    price: Price
    useful_until: int
    ownership: Ownership | None = None

    def usd(self, outlook: Outlook, shocks: Shocks) -> Array:
        """Return what a month of the term costs [USD]: the price of the month in which it is signed."""
        price = self.price.usd * self.price.factor(shocks.today)
        return self.hours * price * price_factor(outlook, self.start, shocks.price)

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
    load
        Factor of the traffic in all months.
    growth
        Factor of (1 + growth of the traffic) in every month.
    price
        Factor of (1 − price decline) in every year.
    today
        Standard normal of what a device costs today.
    error
        Standard normal of step times: ±1.2816 takes the device-hours to their P90 and P10.
    utilization
        Work that a device carries ÷ what the plan lets it carry.
    """

    load: Array
    growth: Array
    price: Array
    today: Array
    error: Array
    utilization: Array


NOTHING = 1e-9
"""A difference that is none [1]."""
_ONE, _ZERO = np.ones(1), np.zeros(1)
NEUTRAL = Shocks(load=_ONE, growth=_ONE, price=_ONE, today=_ZERO, error=_ZERO, utilization=_ONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """A month's amounts, arrays [draws]: device-hours needed, used and paid [h]; USD that accrue.

    Attributes
    ----------
    short
        Whether the fleet planned for the expected load, headroom included, is too small: the objective is missed.
    """

    needed_hours: Array
    used_hours: Array
    paid_hours: Array
    committed_usd: Array
    extra_usd: Array
    other_usd: Array
    short: NDArray[np.bool_]

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

    needed = hours(load ÷ utilization) × model error; extra = max(0, needed − committed hours of this device). Room,
    maintenance and licenses go with the hours of this device that are paid, a support plan with what devices cost;
    the other lines follow the load alone.
    """
    outlook, curve = course.outlook, course.curve(month)
    loads = load(outlook, month, shocks.growth) * shocks.load
    expected = load(outlook, month, np.ones(1))
    down, up = (float(np.log(curve.at(expected, ratio)[0])) / Z10 for ratio in (curve.fast, curve.slow))
    error = np.exp(np.where(shocks.error < 0, -down, up) * shocks.error)
    needed = curve.at(loads / shocks.utilization, curve.hours) * error
    price = course.stay(month).price
    active = [term for term in course.terms if term.active(month)]
    useful = sum(term.hours for term in active if month < term.useful_until)
    extra = np.maximum(needed - useful, 0.0)
    committed = np.zeros_like(needed)
    for term in active:
        committed = committed + term.usd(outlook, shocks)
    extra_usd = extra * price.usd * price.factor(shocks.today) * price_factor(outlook, month, shocks.price)
    other_usd = curve.at(loads, curve.other_usd) + curve.at(loads, curve.hourly_usd) * (useful + extra)
    return Charged(
        needed_hours=needed, used_hours=np.minimum(curve.at(loads, curve.used_hours) * error, needed),
        paid_hours=sum(term.hours for term in active) + extra, committed_usd=committed,
        extra_usd=extra_usd, other_usd=other_usd + curve.at(loads, curve.support) * (committed + extra_usd),
        short=_short(course, month, shocks),
    )  # fmt: skip


def _short(course: Course, month: int, shocks: Shocks) -> NDArray[np.bool_]:
    """Return in which draws the fleet of the expected load is too small for the load that comes, array [draws].

    It is where load ÷ utilization × step time ÷ its median is more than that fleet carries within the objective; and
    with step times at their P90 or more where the objective is then missed by any fleet.
    """
    curve, expected = course.curve(month), load(course.outlook, month, np.ones(1))
    carries, sigma, missed = (float(curve.at(expected, of)[0]) for of in (curve.carries, curve.sigma, curve.missed))
    comes = load(course.outlook, month, shocks.growth) * shocks.load / shocks.utilization
    late = comes * np.exp(sigma * shocks.error) > carries * (1 + NOTHING)
    return np.asarray(late | ((shocks.error >= Z10) & (missed > 0)))


def course(outlook: Outlook, stays: Sequence[Stay]) -> Course:
    """Return the course with what is committed to and what is bought, sized on the expected load."""
    bare = Course(outlook=outlook, stays=tuple(stays))
    terms: list[Term] = []
    for stay in stays:
        if stay.ownership is not None:
            terms += _bought(bare, stay, stay.ownership)
        elif outlook.commitment is not None and stay.committed is not None:
            starts = range(stay.first, stay.end, outlook.commitment.months)
            terms += [_term(bare, stay.committed, (start, stay.end), outlook.commitment) for start in starts]
    return replace(bare, terms=tuple(terms))


def _term(bare: Course, price: Price, months: tuple[int, int], commitment: Commitment) -> Term:
    start, end = months
    hours = float(charged(bare, start, NEUTRAL).needed_hours[0]) * commitment.share
    return Term(start=start, months=commitment.months, hours=hours, price=price, useful_until=end)


def _bought(bare: Course, stay: Stay, ownership: Ownership) -> list[Term]:
    """Return the purchases of a stay: each month what is needed beyond the devices that are there."""
    found: list[Term] = []
    for month in range(stay.first, stay.end):
        there = sum(term.hours for term in found if term.active(month))
        more = float(charged(bare, month, NEUTRAL).needed_hours[0]) - there
        if more > NOTHING:
            found.append(
                Term(
                    start=month, months=round(ownership.years * MONTHS_OF_A_YEAR), hours=more, price=stay.price,
                    useful_until=stay.end, ownership=ownership,
                )
            )  # fmt: skip
    return found
