"""The coming months as expected: cash and accrual, what the cash is worth today, and what is planned to know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from capacity.money.course import NEUTRAL, Course, Curve, Level, Term, charged, load
from capacity.spec.outlook import MONTHS_OF_A_YEAR, Outlook


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """One month as expected: what accrues, and what is paid at its start (terms) and at its end (all else) [USD]."""

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
    share = 0.0 if outlook.commitment is None else outlook.commitment.upfront_share
    at_once = sum(_term_usd(course, term) * term.months for term in course.terms if term.start == month)
    committed, extra, other = (float(part[0]) for part in (found.committed_usd, found.extra_usd, found.other_usd))
    return Month(
        number=month + 1, hardware=course.stay(month).hardware, load=float(load(outlook, month, np.ones(1))[0]),
        needed_hours=float(found.needed_hours[0]), used_hours=float(found.used_hours[0]),
        paid_hours=float(found.paid_hours[0]), devices_usd=committed + extra, other_usd=other,
        upfront_usd=share * at_once, billed_usd=extra + other + (1 - share) * committed,
    )  # fmt: skip


def present_value(months: Sequence[Month], discount_rate: float) -> float:
    """Return what the cash is worth today [USD]: terms paid at the start of their month, all else at its end.

    Σ upfront ÷ w^(n − 1) + billed ÷ w^n, n the month's number, w = (1 + discount rate of a year)^(1 ÷ 12).
    """
    worth = float((1 + discount_rate) ** (1 / MONTHS_OF_A_YEAR))
    return sum((month.upfront_usd * worth + month.billed_usd) / worth**month.number for month in months)


def beyond(course: Course) -> float:
    """Return what terms cost after the last month [USD], paid by then or still owed."""
    end = course.outlook.months
    return sum(_term_usd(course, term) * max(0, term.start + term.months - end) for term in course.terms)


def _term_usd(course: Course, term: Term) -> float:
    return float(term.usd(course.outlook, np.ones(1))[0])


def levels(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return the loads to plan between two, evenly spaced in their logarithm, and today's load.

    Examples
    --------
    >>> levels(1, 4, 3)
    (1.0, 2.0, 4.0)
    >>> levels(1, 1, 3)
    (1.0,)
    """
    spaced = np.geomspace(low, high, count).round(12).tolist() if high > low else [low]
    return tuple(sorted({*map(float, spaced), 1.0}))


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
