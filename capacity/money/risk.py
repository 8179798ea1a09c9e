"""How sure a forecast is: bands of its months and total by common random numbers, what moves it most, and regret.

A draw is one future, the same one for every option, so that options differ by what they are and not by their luck. Only
what is not known of a device, its timing and its price, is drawn for each by itself. Growth and prices hold for all
months of a draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from capacity.money.course import Course, Shocks, charged
from capacity.money.curve import Array
from capacity.money.forecast import Ahead, Forecast
from capacity.money.lines import Z10
from capacity.spec.outlook import Spread

INPUTS = {
    "load": "traffic of today", "growth": "traffic growth", "price": "device prices to come",
    "today": "device prices of today", "error": "step times", "utilization": "utilization",
}  # fmt: skip
"""What is drawn, as `Shocks` and people call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """P10, P50 and P90 of an amount [USD], and the probability that it is over its budget; None without one."""

    p10: float
    p50: float
    p90: float
    over_budget: float | None = None

    @classmethod
    def of(cls, draws: Array, budget: float | None = None) -> Self:
        """Return the band of draws."""
        p10, p50, p90 = (float(value) for value in np.quantile(draws, (0.1, 0.5, 0.9)))
        over = None if budget is None else float(np.mean(draws > budget))
        return cls(p10=p10, p50=p50, p90=p90, over_budget=over)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swing:
    """The total with one input at its P10 and at its P90, the others at their medians [USD]."""

    name: str
    at_p10: float
    at_p90: float

    @property
    def width(self) -> float:
        """Distance of both totals [USD]."""
        return abs(self.at_p90 - self.at_p10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """What may become of one option.

    Attributes
    ----------
    totals
        All months together, by draw [USD].
    months
        Band of each.
    any_over_budget
        Probability that at least one month is over the budget; None without one.
    short
        Probability that the fleet planned for each month's expected load is too small in it.
    any_short
        The same of at least one month.
    swings
        Widest first.
    """

    totals: Array
    total: Band
    months: tuple[Band, ...]
    any_over_budget: float | None
    short: tuple[float, ...]
    any_short: float
    swings: tuple[Swing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """What an option costs beyond the option that would have been best in the same draw [USD].

    Attributes
    ----------
    best_share
        Share of the draws in which it is the best itself.
    """

    mean: float
    p90: float
    best_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One option, what may become of it, and its regret."""

    option: Ahead
    risk: Risk
    regret: Regret


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospects:
    """What may become of every option of a forecast, the one to regret least first."""

    forecast: Forecast
    draws: int
    seed: int
    outcomes: tuple[Outcome, ...]


def prospects(forecast: Forecast, draws: int, seed: int) -> Prospects:
    """Return what may become of every option that was not refused, in the same draws."""
    options = [(option, option.course) for option in forecast.options if option.course is not None]
    risks = [risk(course, shocks(course, draws, seed)) for _, course in options]
    regretted = regrets([found.totals for found in risks]) if risks else ()
    outcomes = [
        Outcome(option=option, risk=found, regret=regret)
        for (option, _), found, regret in zip(options, risks, regretted, strict=True)
    ]
    ranked = tuple(sorted(outcomes, key=lambda item: regret_rank(item.regret)))
    return Prospects(forecast=forecast, draws=draws, seed=seed, outcomes=ranked)


def factor(spread: Spread, standard: Array) -> Array:
    """Return the factor that a spread takes where a standard normal takes `standard`.

    Normal and lognormal: below and above 1 each by its own end: the median is 1. A normal factor is at least 0.01.

    Examples
    --------
    >>> z = np.array([-Z10, 0.0, Z10])
    >>> factor(Spread(low=0.5, high=2), z).round(6).tolist()
    [0.5, 1.0, 2.0]
    >>> factor(Spread(shape="triangular", low=0.5, high=1.5), np.array([-9.0, 0.0, 9.0])).tolist()
    [0.5, 1.0, 1.5]
    """
    if spread.shape == "triangular":
        return _triangular(spread, standard)
    part = standard / Z10
    if spread.shape == "lognormal":
        return np.exp(np.where(part < 0, -math.log(spread.low), math.log(spread.high)) * part)
    return np.maximum(1 + np.where(part < 0, 1 - spread.low, spread.high - 1) * part, 0.01)


def _triangular(spread: Spread, standard: Array) -> Array:
    """Return the quantile function of the triangle low–1–high at Φ(standard)."""
    low, high = spread.low, spread.high
    if high == low:
        return np.ones_like(standard)
    errors = np.fromiter(map(math.erf, standard / math.sqrt(2)), dtype=np.float64, count=standard.size)
    below = (1 + errors) / 2
    rising = low + np.sqrt(below * (high - low) * (1 - low))
    falling = high - np.sqrt((1 - below) * (high - low) * (high - 1))
    return np.where(below < (1 - low) / (high - low), rising, falling)


def shocks(course: Course, count: int, seed: int) -> Shocks:
    """Return `count` futures; the same seed gives the same ones, to every option."""
    own = {name: [seed, *name.encode(), *course.hardware.encode()] for name in ("today", "error")}
    names = {name: [seed, *name.encode()] for name in INPUTS} | own
    standard = {name: np.random.default_rng(key).standard_normal(count) for name, key in names.items()}
    return _shocks(course, standard)


def _shocks(course: Course, standard: dict[str, Array]) -> Shocks:
    outlook = course.outlook
    return Shocks(
        load=factor(outlook.load_spread, standard["load"]), growth=factor(outlook.traffic_spread, standard["growth"]),
        price=factor(outlook.price_spread, standard["price"]), today=standard["today"], error=standard["error"],
        utilization=factor(outlook.utilization_spread, standard["utilization"]),
    )  # fmt: skip


def risk(course: Course, drawn: Shocks) -> Risk:
    """Return the bands of a course over some futures: of what accrues, undiscounted; and how often it is too small."""
    budget, count = course.outlook.budget, drawn.growth.size
    totals, over, missed = np.zeros(count), np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
    bands, short = [], []
    for month in range(course.outlook.months):
        found = charged(course, month, drawn)
        totals += found.usd
        over |= found.usd > (np.inf if budget is None else budget)
        missed |= found.short
        bands.append(Band.of(found.usd, budget))
        short.append(float(np.mean(found.short)))
    whole = None if budget is None else budget * course.outlook.months
    return Risk(
        totals=totals, total=Band.of(totals, whole), months=tuple(bands), swings=tornado(course),
        any_over_budget=None if budget is None else float(np.mean(over)), short=tuple(short),
        any_short=float(np.mean(missed)),
    )  # fmt: skip


def total(course: Course, drawn: Shocks) -> Array:
    """Return what all months cost together, by draw [USD]."""
    found = np.zeros_like(drawn.growth)
    for month in range(course.outlook.months):
        found += charged(course, month, drawn).usd
    return found


def tornado(course: Course) -> tuple[Swing, ...]:
    """Return how far each input moves the total from its P10 to its P90, widest first; the others at their medians."""
    names = list(INPUTS)
    standard = {name: np.zeros(2 * len(names)) for name in names}
    for index, name in enumerate(names):
        standard[name][2 * index : 2 * index + 2] = (-Z10, Z10)
    found = total(course, _shocks(course, standard))
    swings = [
        Swing(name=INPUTS[name], at_p10=float(found[2 * index]), at_p90=float(found[2 * index + 1]))
        for index, name in enumerate(names)
    ]
    return tuple(sorted(swings, key=lambda swing: -swing.width))


def regrets(totals: Sequence[Array]) -> tuple[Regret, ...]:
    """Return the regret of each option, from its total in the same draws.

    Examples
    --------
    >>> [found.mean for found in regrets([np.array([1.0, 9.0]), np.array([3.0, 3.0])])]
    [3.0, 1.0]
    """
    every = np.stack(totals)
    beyond = every - every.min(axis=0)
    return tuple(
        Regret(mean=float(row.mean()), p90=float(np.quantile(row, 0.9)), best_share=float(np.mean(row == 0)))
        for row in beyond
    )


def regret_rank(found: Regret) -> tuple[float, float]:
    """Return what options are sorted by, least regret first: the P90 of the regret, then its mean.

    Examples
    --------
    >>> often, seldom = Regret(mean=3, p90=9, best_share=0.9), Regret(mean=1, p90=2, best_share=0.1)
    >>> min([often, seldom], key=regret_rank).best_share
    0.1
    """
    return found.p90, found.mean
