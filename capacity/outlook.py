"""From a scenario and an outlook to its courses: the planner asked at a few loads, on each device, each way to buy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from capacity import documents, planner
from capacity.documents import Document
from capacity.errors import CapacityError, InputError, Problem
from capacity.money import course as courses
from capacity.money import forecast
from capacity.money.course import Course, Curve, Level, Stay
from capacity.money.forecast import Ahead, Forecast
from capacity.money.prices import price_range
from capacity.money.risk import factor
from capacity.planner import Inputs
from capacity.spec.outlook import Commitment, Outlook
from capacity.spec.scenario import Scenario

Z99 = 2.3263
"""Growth up to its P1 and P99 is planned; what lies beyond goes on in a straight line."""
FORECAST_LEVELS, RISK_LEVELS = 6, 10
"""Loads that are planned, besides today's: risk reaches farther."""
BY_THE_HOUR = ("on-demand", "spot")
PRICED_LATER = ("budget", "discount_rate", "price_decline", "price_spread")
"""What of an outlook needs no plan: it only prices what was planned."""
UPFRONT = {"none": "", "partial": ", half upfront", "all": ", upfront"}
TERMS: tuple[Commitment, ...] = (Commitment(term="1-year"), Commitment(term="3-year"))


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
    _known: dict[tuple[str, int, int], tuple[Curve, ...]] = field(default_factory=dict)

    def level(self, hardware: str, load: float, month: int) -> Level:
        """Return what is planned on a device at a load, with the catalogue and users of a month.

        Raises
        ------
        CapacityError
            Where nothing can serve there, or what serves has no price.
        """
        there = at(self.scenario, self.outlook, load, month)
        option = planner.option(there, planner.profile(hardware, self.given), self.given)
        self.missing |= set(option.cost.missing if option.cost else ())
        return Level.of(option, load, there.traffic.mean_to_peak)

    def stay(self, hardware: str, first: int, end: int, commitment: Commitment | None) -> Stay:
        """Return a device's months from `first` to before `end`."""
        key = (hardware, first, end)
        if key not in self._known:
            self._known[key] = forecast.curves(
                self.outlook, lambda load, month: self.level(hardware, load, month), self.loads, first, end
            )
        committed = None if commitment is None else self._committed(hardware, commitment)
        return Stay(
            hardware=hardware, name=planner.profile(hardware, self.given).name, first=first, end=end,
            curves=self._known[key], committed_usd_per_hour=committed,
        )  # fmt: skip

    def _committed(self, hardware: str, commitment: Commitment) -> float:
        buying = self.scenario.pricing
        price = price_range(hardware, commitment.term, buying.provider, buying.region, today=self.given.today)
        if price is None:
            raise CapacityError(f"no {commitment.term} price of {hardware} in any table")
        return price.usd_per_device_hour

    def course(self, hardware: str, commitment: Commitment | None) -> Course:
        """Return the months of a device, those after a refresh on the new one."""
        outlook = self.outlook.model_copy(update={"commitment": commitment})
        refresh = outlook.refresh
        turn = outlook.months if refresh is None else refresh.month - 1
        stays = [self.stay(hardware, 0, turn, commitment)]
        if refresh is not None:
            stays.append(self.stay(refresh.hardware, turn, outlook.months, commitment))
        return courses.course(outlook, stays)


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
    path = [courses.load(outlook, month, growth) for month in range(outlook.months)]
    low, high = float(np.min(path) / max(carried.max(), 1)), float(np.max(path) / min(carried.min(), 1))
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
    return _forecast(bench, [_ahead(bench, name, outlook.commitment) for name in devices], changes)


def ways(
    scenario: Scenario, given: Inputs, outlook: Outlook, hardware: Sequence[str] | None = None,
    changes: Sequence[str] = (),
) -> Forecast:  # fmt: skip
    """Return the forecast on each device, by the hour and for each term with a price, planned as far as risk reaches.

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
    hourly = _ahead(bench, hardware, None)
    yield hourly
    if hourly.refused or bench.scenario.pricing.term not in BY_THE_HOUR:
        return
    mine = bench.outlook.commitment
    for term in TERMS:
        asked = mine is not None and mine.term == term.term
        found = _ahead(bench, hardware, mine if asked else term)
        if asked or not found.refused:
            yield found


def _ahead(bench: Bench, hardware: str, commitment: Commitment | None) -> Ahead:
    refresh = bench.outlook.refresh
    profiles = [planner.profile(name, bench.given) for name in (hardware, *([refresh.hardware] if refresh else []))]
    buying: str = bench.scenario.pricing.term
    if commitment is not None:
        buying = f"{commitment.share:.0%} {commitment.term}{UPFRONT[commitment.upfront]}"
    blank = Ahead(hardware=hardware, name=" → ".join(item.name for item in profiles), buying=buying)
    try:
        course = bench.course(hardware, commitment)
    except CapacityError as error:
        return replace(blank, refused=str(error))
    months = forecast.months(course)
    worth = forecast.present_value(months, bench.outlook.discount_rate)
    return replace(blank, course=course, months=months, present_usd=worth)


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
    found = base or Document("--with", {})
    try:
        for said in how:
            found = documents.merged(found, documents.setting(said))
        return documents.validated(found, Outlook)
    except InputError as error:
        raise InputError([Problem(p.where.replace("--set", "--with"), p.what) for p in error.problems]) from None


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
    course = courses.course(option.course.outlook.model_copy(update=later), option.course.stays)
    months = forecast.months(course)
    worth = forecast.present_value(months, course.outlook.discount_rate)
    return replace(option, course=course, months=months, present_usd=worth)
