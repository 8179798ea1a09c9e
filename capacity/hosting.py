"""From a scenario to what a seller would charge for it, beside devices of one's own at many loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from capacity import planner
from capacity.errors import CapacityError, InputError
from capacity.money import break_even, hosted, tables
from capacity.money.break_even import ENDS, LOADS, BreakEven, Comparison, Hosted
from capacity.money.hosted import End, Part
from capacity.money.unit_costs import monthly_requests
from capacity.plan import Option
from capacity.planner import Inputs
from capacity.spec.apis import ApiPrice
from capacity.spec.scenario import Scenario

FOLDER = "prices/apis"


@dataclass(slots=True)
class Bench:
    """One scenario on one device at many loads, each planned once."""

    scenario: Scenario
    given: Inputs
    hardware: str
    chosen: tuple[str, ...]
    prices: tuple[ApiPrice, ...]
    _known: dict[float, tuple[Part, ...]] = field(default_factory=dict)

    def parts(self, load: float) -> tuple[Part, ...]:
        """Return the parts at a load.

        Raises
        ------
        CapacityError
            Where the device misses a constraint or has no price.
        """
        if load not in self._known:
            there = at(self.scenario, load)
            option = planner.option(there, planner.profile(self.hardware, self.given), self.given)
            self._known[load] = hosted.parts(
                hosted.needs(there, self.given.models), self.prices, self.given.today, self.chosen, _own(option, load)
            )
        return self._known[load]

    def sold(self, load: float, name: str = "") -> tuple[Part, ...]:
        """Return the parts that somebody sells, all of them or the one called `name`."""
        return tuple(part for part in self.parts(load) if part.offers and name in {"", part.need.name})

    def own_usd(self, load: float, name: str = "") -> float:
        """Return what the devices of sold parts cost in a month [USD]."""
        return sum(part.own_usd or 0.0 for part in self.sold(load, name))

    def break_even(self, end: End, name: str = "") -> BreakEven:
        """Return where devices become cheaper than one end of the prices, for all sold parts or one."""

        def bought(load: float) -> float:
            return break_even.bought_usd(self.sold(load, name), end)

        load = break_even.break_even(lambda load: self.own_usd(load, name), bought, LOADS)
        return BreakEven(name=name, end=end, load=load)

    def break_evens(self) -> tuple[BreakEven, ...]:
        """Return those of all sold parts at each end of the prices, and of each part at the median."""
        names = [part.need.name for part in self.sold(1.0)]
        each = (self.break_even("median", name) for name in names)
        return (*(self.break_even(end) for end in ENDS), *each) if names else ()


def _own(option: Option, load: float) -> dict[str, float]:
    if option.violations:
        miss = option.violations[0]
        raise CapacityError(f"at {load:.3g} × today's traffic {miss.where} misses {miss.constraint}")
    found = break_even.own_usd(option)
    if not found:
        raise CapacityError("no price in any table")
    return found


def at(scenario: Scenario, load: float) -> Scenario:
    """Return the scenario with `load` times its traffic; jobs, catalogue and users as they are."""
    traffic = scenario.traffic.model_copy(update={"peak_rate": scenario.traffic.peak_rate * load})
    return scenario.model_copy(update={"traffic": traffic})


def compare(
    scenario: Scenario, given: Inputs, hardware: Sequence[str] | None = None, changes: Sequence[str] = (),
    chosen: Sequence[str] = (),
) -> Comparison:  # fmt: skip
    """Return the scenario bought and run, on each of `hardware`; by default on the device that its plan finds best.

    Parameters
    ----------
    chosen
        Sellers' names of models to price instead of those nearest to the scenario's.

    Raises
    ------
    InputError
        For unknown hardware, a chosen model in no table, and faulty tables of prices.
    """
    prices = tables.rows(FOLDER, ApiPrice)
    devices = list(dict.fromkeys(hardware or ())) or [planner.plan(scenario, given).options[0].hardware]
    benches = [Bench(scenario, given, name, tuple(chosen), prices) for name in devices]
    return Comparison(
        scenario=scenario.id, title=scenario.title, date=given.today.isoformat(), changes=tuple(changes),
        options=tuple(_hosted(bench) for bench in benches),
    )  # fmt: skip


def _hosted(bench: Bench) -> Hosted:
    name, requests = planner.profile(bench.hardware, bench.given).name, monthly_requests(bench.scenario)
    wanted = hosted.needs(bench.scenario, bench.given.models)
    bought = hosted.parts(wanted, bench.prices, bench.given.today, bench.chosen)
    try:
        parts, ends = bench.parts(1.0), bench.break_evens()
    except InputError:  # a faulty table is no answer of a device
        raise
    except CapacityError as error:
        return Hosted(hardware=bench.hardware, name=name, requests=requests, parts=bought, refused=str(error))
    return Hosted(
        hardware=bench.hardware, name=name, requests=requests, parts=parts, own_usd=bench.own_usd(1.0),
        break_evens=ends,
    )  # fmt: skip
