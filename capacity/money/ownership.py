"""The monthly bill of one option: every line with its formula and source, and their sum.

A line whose price nobody published has no amount and says so. Ranges come from common random numbers: one draw of the
step-time error moves every line that depends on it together, one draw of each price moves that price.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np

from capacity.money import upkeep
from capacity.money.devices import Fleet, energy_item
from capacity.money.lines import DRAWS, MONTH_S, Draws, Item
from capacity.money.purchase import hourly
from capacity.plan import Cost, JobPlan, PoolPlan
from capacity.spec.hardware import Hardware
from capacity.spec.prices import Rates
from capacity.spec.scenario import Scenario


def cost(
    scenario: Scenario,
    hardware: Hardware,
    pools: Sequence[PoolPlan],
    jobs: Sequence[JobPlan],
    rates: Rates,
    today: date,
) -> Cost:
    """Return the monthly bill of `scenario` on `hardware`."""
    draws, buying = Draws(), scenario.pricing
    price, mean_to_peak = hourly(hardware.id, buying, today), scenario.traffic.mean_to_peak
    fleet = Fleet.of(hardware, buying, price, pools, jobs, mean_to_peak)
    devices = fleet.items(draws)
    items = [*devices, *fleet.upkeep(draws)]
    energy_kwh = fleet.energy_kwh(rates)
    if energy_kwh is not None and buying.energy == "separate":
        items.append(energy_item(energy_kwh, fleet, rates, draws))
    items += upkeep.storage_items(scenario, pools, jobs, rates, draws)
    items += upkeep.network_items(scenario, rates, draws)
    items += upkeep.people_items(scenario, rates, draws)
    items += upkeep.software_items(scenario, devices, rates, draws)
    items += upkeep.support_items(scenario, items, rates, draws)
    return _summed(items, scenario, energy_kwh, rates)


def _summed(items: Sequence[Item], scenario: Scenario, energy_kwh: float | None, rates: Rates) -> Cost:
    lines = tuple(item.line() for item in items)
    usd = sum(line.usd for line in lines if line.usd is not None)
    everything = sum((item.draws for item in items if item.price is not None), start=np.zeros(DRAWS))
    p10, p90 = (float(value) for value in np.quantile(everything, [0.1, 0.9]))
    requests = scenario.traffic.peak_rate * scenario.traffic.mean_to_peak * MONTH_S
    return Cost(
        lines=lines, usd=usd, p10_usd=p10, p90_usd=p90, missing=tuple(line.name for line in lines if line.usd is None),
        usd_per_thousand_requests=usd / requests * 1000, energy_kwh=energy_kwh,
        carbon_kg=None if energy_kwh is None else energy_kwh * rates.grid_carbon.value,
    )  # fmt: skip
