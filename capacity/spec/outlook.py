"""What the coming months may bring: growth, seasons, prices, commitments, new hardware, and how unsure each of them is.

Every default is assumed: the team's own numbers replace it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from capacity.spec.quantity import Change, Count, Factor, Fraction, Id, Spec, UsdPerMonth

MONTHS_OF_A_YEAR = 12
Rate = Annotated[Change, Field(ge=-0.5)]
"""Relative change of a month or year; 0.02 is 2 % more."""
Upfront = Annotated[
    Literal["none", "partial", "all"],
    BeforeValidator(lambda value: ("all" if value else "none") if isinstance(value, bool) else value),
    WithJsonSchema({"enum": ["none", "partial", "all", True, False]}),
]
Season = tuple[Factor, Factor, Factor, Factor, Factor, Factor, Factor, Factor, Factor, Factor, Factor, Factor]


class Spread(Spec):
    """How far something may be off what is expected of it, as a factor whose middle is 1."""

    shape: Literal["normal", "lognormal", "triangular"] = "lognormal"
    """Of a triangle, 1 is the likeliest value and `low` and `high` are its ends, not its P10 and P90."""
    low: Annotated[Factor, Field(le=1)]
    """P10, or the end of a triangle."""
    high: Annotated[Factor, Field(ge=1)]
    """P90, or the end of a triangle."""


class Growth(Spec):
    """Relative change from one month to the next."""

    traffic: Rate = 0.02
    """Of the requests (assumed)."""
    catalogue: Rate = 0.0
    """Of the items, those added a day included (assumed)."""
    users: Rate = 0.0
    """Of the users (assumed)."""


class Commitment(Spec):
    """Devices paid for a whole term, whether they are needed or not; renewed until the forecast or their fleet ends."""

    term: Literal["1-year", "3-year"]
    share: Annotated[Fraction, Field(gt=0)] = 0.7
    """Of the device-hours expected in the first month of each term (assumed)."""
    upfront: Upfront = "all"
    """What of a term is paid at its start: none, half (partial) or all of it; the rest by the month (assumed: all).
    True is all and false none. The price is the same: tables hold one for a term."""

    @property
    def upfront_share(self) -> float:
        """What of a term is paid at its start ÷ all of it."""
        return {"none": 0.0, "partial": 0.5, "all": 1.0}[self.upfront]

    @property
    def months(self) -> int:
        """Months of a term."""
        return int(self.term[0]) * MONTHS_OF_A_YEAR


class Refresh(Spec):
    """A change to other hardware."""

    month: Annotated[Count, Field(ge=2, le=60)]
    """First month on the new hardware; the first of the forecast is 1."""
    hardware: Id


class Outlook(Spec):
    """What a forecast takes for granted and what it leaves open."""

    months: Annotated[Count, Field(ge=12, le=60)] = 36
    growth: Growth = Growth()
    seasonality: Season = (1.0,) * 12
    """Factors of the traffic in twelve months in a row; the first is of the forecast's first month (assumed: none)."""
    price_decline: Annotated[Rate, Field(le=0.9)] = 0.0
    """Fall of device prices in a year (assumed: none)."""
    discount_rate: Fraction = 0.08
    """Interest of a year at which later money counts less (assumed)."""
    commitment: Commitment | None = None
    refresh: Refresh | None = None
    budget: UsdPerMonth | None = None
    """USD a month; none: no probability of exceeding it."""
    load_spread: Spread = Spread(low=1, high=1)
    """Of the traffic in all months (assumed: today's is known)."""
    traffic_spread: Spread = Spread(low=0.99, high=1.01)
    """Of (1 + growth of the traffic) in every month (assumed: 1 % a month either way)."""
    price_spread: Spread = Spread(low=0.8, high=1.2)
    """Of (1 − price decline) in every year (assumed)."""
    utilization_spread: Spread = Spread(shape="triangular", low=0.7, high=1.1)
    """Work that a device carries ÷ what the plan lets it carry (assumed)."""

    @model_validator(mode="after")
    def _within(self) -> Outlook:
        if self.refresh is not None and self.refresh.month > self.months:
            raise ValueError(f"refresh in month {self.refresh.month} of a forecast of {self.months} months")
        return self
