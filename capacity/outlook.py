"""From a scenario and an outlook to its courses: the planner asked at a few loads, on each device, each way to buy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from capacity import planner, wishes
from capacity.documents import Document
from capacity.errors import CapacityError, InputError, Problem
from capacity.fleet import pools as sizing
from capacity.money import course as courses
from capacity.money import forecast, purchase
from capacity.money.course import Course, Price, Stay
from capacity.money.curve import Curve, Level
from capacity.money.forecast import Ahead, Forecast
from capacity.money.risk import factor
from capacity.plan import Option
from capacity.planner import Inputs
from capacity.spec.outlook import Commitment, Outlook
from capacity.spec.prices import Buying
from capacity.spec.scenario import Pricing, Scenario

Z99 = 2.3263
"""Growth up to its P1 and P99 is planned; what lies beyond goes on in a straight line."""
FORECAST_LEVELS, RISK_LEVELS = 6, 10
"""Loads that are planned, besides today's: risk reaches farther."""
BY_THE_HOUR = ("on-demand", "spot")
OWNED: Buying = "purchase"
PRICED_LATER = ("budget", "discount_rate", "price_decline", "price_spread")
"""What of an outlook needs no plan: it only prices what was planned."""
UPFRONT = {"none": "", "partial": ", half upfront", "all": ", upfront"}
TERMS: tuple[Commitment, ...] = (Commitment(term="1-year"), Commitment(term="3-year"))


@dataclass(frozen=True, slots=True)
class Way:
    """A way of buying: hours of a term of the price tables or devices, with what of the hours is committed to."""

    term: Buying
    commitment: Commitment | None = None

    @property
    def told(self) -> str:
        """The way in words."""
        if self.commitment is None:
            return self.term
        return f"{self.commitment.share:.0%} {self.commitment.term}{UPFRONT[self.commitment.upfront]}"


@dataclass(slots=True)
class Bench:
    """Plans one scenario at many loads, each once.

    Attributes
    ----------
    loads
        Traffic ÷ traffic today of the levels that are planned.
    """

    scenario: Scenario
    given: Inputs
    outlook: Outlook
    loads: tuple[float, ...]
    missing: set[str] = field(default_factory=set)
    _rented: dict[tuple[str, float, int], tuple[Option, float]] = field(default_factory=dict)
    _known: dict[tuple[str, int, int, Buying], tuple[Curve, ...]] = field(default_factory=dict)

    def level(self, hardware: str, load: float, month: int, term: Buying) -> Level:
        """Return what is planned on a device at a load, with the catalogue and users of a month, bought for `term`.

        Raises
        ------
        CapacityError
            Where nothing can serve there, or what serves has no price.
        """
        there = at(self.scenario, self.outlook, load, month)
        if term != there.pricing.term:
            there = there.model_copy(update={"pricing": owned(there.pricing)})
        option, carries = self._option(there, hardware, (load, month))
        found = Level.of(option, load, there.traffic.mean_to_peak, carries)
        self.missing |= set(option.cost.missing if option.cost else ())
        return found

    def _option(self, there: Scenario, hardware: str, at_once: tuple[float, int]) -> tuple[Option, float]:
        """Return what is planned, and what it carries; only on spot do bought or rented devices serve differently."""
        key, profile = (hardware, *at_once), planner.profile(hardware, self.given)
        if there.pricing.term == OWNED and key in self._rented:
            option, carries = self._rented[key]
            return planner.billed(option, there, profile, self.given), carries
        option, fleet = planner.sized(there, profile, self.given)
        carries = math.inf if fleet is None or option.violations else sizing.carries(fleet, there)
        if there.pricing.term != "spot":
            self._rented[key] = option, carries
        return option, carries

    def stay(self, hardware: str, first: int, end: int, way: Way) -> Stay:
        """Return a device's months from `first` to before `end`, bought one way."""
        key, price = (hardware, first, end, way.term), self.price(hardware, way.term)
        if key not in self._known:
            self._known[key] = forecast.curves(
                self.outlook, lambda load, month: self.level(hardware, load, month, way.term), self.loads, first, end
            )
        return Stay(
            hardware=hardware, name=planner.profile(hardware, self.given).name, first=first, end=end,
            curves=self._known[key], price=price,
            committed=None if way.commitment is None else self.price(hardware, way.commitment.term),
            ownership=self.scenario.pricing.ownership if way.term == OWNED else None,
        )  # fmt: skip

    def price(self, hardware: str, term: Buying) -> Price:
        """Return what a device-hour costs.

        Raises
        ------
        CapacityError
            Where no table holds a price.
        """
        pricing = self.scenario.pricing.model_copy(update={"term": term})
        found = purchase.hourly(hardware, pricing, self.given.today)
        if found is None:
            raise CapacityError(f"no {term} price of {hardware} in any table")
        return Price(usd=found.usd_per_device_hour, low=found.low, high=found.high, flags=found.flags)

    def course(self, hardware: str, way: Way) -> Course:
        """Return the months of a device, those after a refresh on the new one."""
        outlook = self.outlook.model_copy(update={"commitment": way.commitment})
        refresh = outlook.refresh
        turn = outlook.months if refresh is None else refresh.month - 1
        stays = [self.stay(hardware, 0, turn, way)]
        if refresh is not None:
            stays.append(self.stay(refresh.hardware, turn, outlook.months, way))
        return courses.course(outlook, stays)


def owned(pricing: Pricing) -> Pricing:
    """Return the pricing with devices that are bought; they pay for their energy."""
    return pricing.model_copy(update={"term": OWNED, "energy": "separate"})


def at(scenario: Scenario, outlook: Outlook, load: float, month: int) -> Scenario:
    """Return the scenario at `load` × today's traffic, with the catalogue and users of a month counted from 0."""
    growth, items = outlook.growth, scenario.catalogue
    more, people = (1 + growth.catalogue) ** month, (1 + growth.users) ** month
    users = {"users": max(1, round(scenario.audience.users * people))}
    grown = {
        "items": max(1, round(items.items * more)), "new_items_per_day": round(items.new_items_per_day * more),
    }  # fmt: skip
    return scenario.model_copy(
        update={
            "traffic": scenario.traffic.model_copy(update={"peak_rate": scenario.traffic.peak_rate * load}),
            "catalogue": items.model_copy(update=grown), "audience": scenario.audience.model_copy(update=users),
        }
    )  # fmt: skip


def loads(outlook: Outlook, reach: float = 0.0) -> tuple[float, ...]:
    """Return the loads to plan: those between the least and the most of the path, `reach` standard normals around it.

    Examples
    --------
    >>> loads(Outlook.model_validate({"growth": {"traffic": 0.0}}))
    (1.0,)
    """
    ends = np.array([-reach, 0.0, reach])
    growth = factor(outlook.traffic_spread, ends) if reach else np.ones(1)
    carried = factor(outlook.utilization_spread, ends) if reach else np.ones(1)
    known = factor(outlook.load_spread, ends) if reach else np.ones(1)
    path = [courses.load(outlook, month, growth) for month in range(outlook.months)]
    low = float(np.min(path) * min(known.min(), 1) / max(carried.max(), 1))
    high = float(np.max(path) * max(known.max(), 1) / min(carried.min(), 1))
    return forecast.levels(low, high, RISK_LEVELS if reach else FORECAST_LEVELS)


def forecasts(
    scenario: Scenario, given: Inputs, outlook: Outlook, hardware: Sequence[str] | None = None,
    changes: Sequence[str] = (),
) -> Forecast:  # fmt: skip
    """Return the forecast of `scenario` on each device, bought as the outlook says.

    Raises
    ------
    InputError
        For unknown hardware, and for a commitment where the scenario already buys by the term.
    """
    _bought_once(scenario, outlook)
    bench = Bench(scenario, given, outlook, loads(outlook))
    devices = dict.fromkeys(hardware or scenario.hardware)
    way = Way(scenario.pricing.term, outlook.commitment)
    return _forecast(bench, [_ahead(bench, name, way) for name in devices], changes)


def ways(
    scenario: Scenario, given: Inputs, outlook: Outlook, hardware: Sequence[str] | None = None,
    changes: Sequence[str] = (),
) -> Forecast:  # fmt: skip
    """Return the forecast on each device, by the hour, for each term with a price and bought, as far as risk reaches.

    The outlook's own commitment stands in for that of its term and is told where it has no price; others take the
    assumed share.

    Raises
    ------
    InputError
        For unknown hardware, and for a commitment where the scenario already buys by the term.
    """
    _bought_once(scenario, outlook)
    bench = Bench(scenario, given, outlook, loads(outlook, Z99))
    devices = dict.fromkeys(hardware or scenario.hardware)
    return _forecast(bench, [found for name in devices for found in _ways(bench, name)], changes)


def _ways(bench: Bench, hardware: str) -> Iterator[Ahead]:
    term = bench.scenario.pricing.term
    usual = _ahead(bench, hardware, Way(term))
    yield usual
    if usual.refused or term not in BY_THE_HOUR:
        return
    mine = bench.outlook.commitment
    for commitment in TERMS:
        asked = mine is not None and mine.term == commitment.term
        found = _ahead(bench, hardware, Way(term, mine if asked else commitment))
        if asked or not found.refused:
            yield found
    found = _ahead(bench, hardware, Way(OWNED))
    if not found.refused:
        yield found


def _ahead(bench: Bench, hardware: str, way: Way) -> Ahead:
    refresh = bench.outlook.refresh
    profiles = [planner.profile(name, bench.given) for name in (hardware, *([refresh.hardware] if refresh else []))]
    blank = Ahead(hardware=hardware, name=" → ".join(item.name for item in profiles), buying=way.told)
    try:
        course = bench.course(hardware, way)
    except InputError:  # a faulty table is no answer of a device
        raise
    except CapacityError as error:
        return replace(blank, refused=str(error))
    return _followed(blank, course)


def _followed(option: Ahead, course: Course) -> Ahead:
    """Return an option with its months and their worth."""
    months = forecast.months(course)
    worth = forecast.present_value(months, course.outlook.discount_rate, forecast.left(course))
    return replace(option, course=course, months=months, present_usd=worth)


def _forecast(bench: Bench, options: Sequence[Ahead], changes: Sequence[str]) -> Forecast:
    ranked = sorted(options, key=lambda option: math.inf if option.refused else option.present_usd)
    return Forecast(
        scenario=bench.scenario.id, title=bench.scenario.title, date=bench.given.today.isoformat(),
        outlook=bench.outlook, changes=tuple(changes), missing=tuple(sorted(bench.missing)), options=tuple(ranked),
    )  # fmt: skip


def _bought_once(scenario: Scenario, outlook: Outlook) -> None:
    term = scenario.pricing.term
    if outlook.commitment is not None and term not in BY_THE_HOUR:
        what = f"the scenario already buys for {term}; set pricing.term to {' or '.join(BY_THE_HOUR)}"
        raise InputError([Problem("--with commitment", what)])


def expected(how: Sequence[str], base: Document | None = None) -> Outlook:
    """Return the outlook that KEY=VALUE texts say, put over `base`.

    Raises
    ------
    InputError
        For an unknown key or a value out of range, at its place in the file or its flag.

    Examples
    --------
    >>> expected(["months=12", "growth.traffic=0.05"]).growth.traffic
    0.05
    """
    return wishes.read(Outlook, how, base)


def repriced(parts: Sequence[Forecast], said: Outlook) -> Forecast:
    """Return forecasts of several devices as one, with all of `said` that needs no plan (`PRICED_LATER`).

    The rest of `said` is what the parts were made with.
    """
    later = {name: getattr(said, name) for name in PRICED_LATER}
    options = [_repriced(option, later) for part in parts for option in part.options]
    ranked = sorted(options, key=lambda option: math.inf if option.refused else option.present_usd)
    missing = sorted({name for part in parts for name in part.missing})
    return replace(parts[0], outlook=said, missing=tuple(missing), options=tuple(ranked))


def _repriced(option: Ahead, later: dict[str, object]) -> Ahead:
    if option.course is None:
        return option
    made = option.course
    return _followed(option, courses.course(made.outlook.model_copy(update=later), made.stays))
