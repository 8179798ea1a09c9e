"""The coming months as expected: cash and accrual, what the cash is worth today, and what is planned to know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from capacity.money import purchase
from capacity.money.course import NEUTRAL, Course, Term, charged, load
from capacity.money.curve import Curve, Level
from capacity.money.purchase import capital_month
from capacity.spec.outlook import MONTHS_OF_A_YEAR, Outlook


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """One month as expected: what accrues, and what is paid at its start and at its end [USD].

    At the start: terms, and devices that are bought. At the end: all else; what is sold counts against it.
    """

    number: int
    hardware: str
    load: float
    needed_hours: float
    used_hours: float
    paid_hours: float
    devices_usd: float
    other_usd: float
    upfront_usd: float
    billed_usd: float

    @property
    def accrued_usd(self) -> float:
        """What the month costs, whenever it is paid."""
        return self.devices_usd + self.other_usd

    @property
    def cash_usd(self) -> float:
        """What is paid in the month."""
        return self.upfront_usd + self.billed_usd

    @property
    def idle_share(self) -> float:
        """Share of the paid device-hours in which no device works [1]: spares, headroom, nights, unused terms."""
        return 1 - self.used_hours / self.paid_hours if self.paid_hours else 0.0


def months(course: Course) -> tuple[Month, ...]:
    """Return every month of a course as expected, without shocks."""
    return tuple(_month(course, number) for number in range(course.outlook.months))


def _month(course: Course, month: int) -> Month:
    found, outlook = charged(course, month, NEUTRAL), course.outlook
    committed, extra, other = (float(part[0]) for part in (found.committed_usd, found.extra_usd, found.other_usd))
    active = [term for term in course.terms if term.active(month)]
    upfront = sum(_upfront_usd(course, term) for term in active if term.start == month)
    billed = sum(_billed_usd(course, term, month) for term in active)
    return Month(
        number=month + 1, hardware=course.stay(month).hardware, load=float(load(outlook, month, np.ones(1))[0]),
        needed_hours=float(found.needed_hours[0]), used_hours=float(found.used_hours[0]),
        paid_hours=float(found.paid_hours[0]), devices_usd=committed + extra, other_usd=other,
        upfront_usd=upfront, billed_usd=extra + other + billed,
    )  # fmt: skip


def _upfront_usd(course: Course, term: Term) -> float:
    """Return what is paid at the start of a term [USD]: its part of all months, or the price of what is bought."""
    if term.ownership is not None:
        return _term_usd(course, term) / capital_month(1.0, term.ownership)
    return _upfront_share(course) * _term_usd(course, term) * term.months


def _billed_usd(course: Course, term: Term, month: int) -> float:
    """Return what is paid for a term at the end of a month [USD]; what is owned is sold when its life ends."""
    if term.ownership is None:
        return (1 - _upfront_share(course)) * _term_usd(course, term)
    sold = month == term.start + term.months - 1
    return -term.ownership.residual * _upfront_usd(course, term) if sold else 0.0


def _upfront_share(course: Course) -> float:
    return 0.0 if course.outlook.commitment is None else course.outlook.commitment.upfront_share


def present_value(months: Sequence[Month], discount_rate: float, left_usd: float = 0.0) -> float:
    """Return what the cash is worth today [USD]: terms paid at the start of their month, all else at its end.

    Σ upfront ÷ w^(n − 1) + billed ÷ w^n − left ÷ w^N, n the month's number of N, w = (1 + discount rate)^(1 ÷ 12).

    Parameters
    ----------
    left_usd
        What owned devices are worth after the last month [USD].
    """
    worth = float((1 + discount_rate) ** (1 / MONTHS_OF_A_YEAR))
    paid = sum((month.upfront_usd * worth + month.billed_usd) / worth**month.number for month in months)
    return paid - left_usd / worth ** len(months)


def left(course: Course) -> float:
    """Return the book value of owned devices after the last month [USD]: what their annuities have yet to pay."""
    end = course.outlook.months
    return sum(
        purchase.book_usd(_term_usd(course, term), term.start + term.months - end, term.ownership)
        for term in course.terms
        if term.ownership is not None and term.start + term.months > end
    )


def beyond(course: Course) -> float:
    """Return what terms of rented hours cost after the last month [USD], paid by then or still owed."""
    end = course.outlook.months
    rented = [term for term in course.terms if term.ownership is None]
    return sum(_term_usd(course, term) * max(0, term.start + term.months - end) for term in rented)


def _term_usd(course: Course, term: Term) -> float:
    return float(term.usd(course.outlook, NEUTRAL)[0])


def levels(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return the loads to plan between two, evenly spaced in their logarithm, and today's load.

    Examples
    --------
    >>> levels(1, 4, 3)
    (1.0, 2.0, 4.0)
    >>> levels(1, 1, 3)
    (1.0,)
    """
    spaced = np.geomspace(low, high, count).tolist() if high > low else [low]
    return tuple(sorted({*(float(f"{load:.12g}") for load in spaced), 1.0}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """One way to run a scenario over the coming months, with its months and what their cash is worth today [USD].

    Attributes
    ----------
    course
        None where it was refused.
    """

    hardware: str
    name: str
    buying: str
    course: Course | None = None
    months: tuple[Month, ...] = ()
    present_usd: float = 0.0
    refused: str = ""

    @property
    def usd(self) -> float:
        """What all months cost, whenever it is paid."""
        return sum(month.accrued_usd for month in self.months)

    @property
    def idle_share(self) -> float:
        """Share of all paid device-hours in which no device works [1]."""
        paid = sum(month.paid_hours for month in self.months)
        return 1 - sum(month.used_hours for month in self.months) / paid if paid else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A scenario over the coming months in several ways, least present value first, refused ones last."""

    scenario: str
    title: str
    date: str
    outlook: Outlook
    changes: tuple[str, ...]
    missing: tuple[str, ...]
    """Lines of the bill without a price: left out."""
    options: tuple[Ahead, ...]

    @property
    def best(self) -> Ahead | None:
        """The option of the least present value, or None."""
        return next((option for option in self.options if not option.refused), None)


Planned = Callable[[float, int], Level]
"""A load and a month, whose catalogue and users count, to what is planned there."""


def curves(outlook: Outlook, planned: Planned, loads: Sequence[float], first: int, end: int) -> tuple[Curve, ...]:
    """Return the curve of each month from `first` to before `end`.

    Where catalogue or users grow, the first month, the middle and the last are planned and the others lie between.
    """
    growth = outlook.growth
    last = end - 1
    ages = sorted({first, (first + last) // 2, last}) if growth.catalogue or growth.users else [first]
    known = [Curve.of([planned(load, age) for load in loads]) for age in ages]
    found = []
    for month in range(first, end):
        after = min(int(np.searchsorted(ages, month)), len(ages) - 1)
        before = max(after - 1, 0)
        share = (month - ages[before]) / (ages[after] - ages[before]) if after > before else 0.0
        found.append(known[before].toward(known[after], share))
    return tuple(found)
