"""What a month costs every fleet of a variant, one way of buying at a time, as arrays.

A bill is affine in the fleet's devices and in its energy, so two bills tell those of all fleets: that of the first
fleet, and that of a larger one. Bills of the fleets that are shown are made in full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from capacity.errors import CapacityError, InputError
from capacity.fleet import pools as sizing
from capacity.fleet.grid import Fleets
from capacity.fleet.searched import Buying, Variant
from capacity.fleet.ways import Array
from capacity.money import ownership, spot
from capacity.money.devices import powers
from capacity.money.lines import HOURS
from capacity.money.purchase import hourly
from capacity.plan import Cost, PoolPlan
from capacity.planner import Inputs
from capacity.search.place import SPOT, Place
from capacity.spec.scenario import Scenario
from capacity.spec.space import Space

ENERGY = "energy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """All fleets of a variant, bought each way.

    Attributes
    ----------
    usd
        A month's bill [USD], array [fleets, ways of buying].
    devices
        Serving devices, array [fleets, ways of buying]: on spot with those that stand in for others.
    kwh
        Energy of serving a month at the wall [kWh], array [fleets]; None where the profile knows no power.
    refused
        Ways of buying that cannot be had, and why.
    """

    buying: tuple[Buying, ...]
    usd: Array
    devices: Array
    kwh: Array | None
    refused: tuple[str, ...]


def priced(place: Place, found: Fleets, space: Space, given: Inputs) -> Priced:
    """Return what the fleets cost in each way of buying that `space` asks for."""
    buying, refused = offers(place.variant, space, given)
    kwh = _kwh(found.devices, found, place, given)
    kept: list[Buying] = []
    columns: list[tuple[Array, Array]] = []
    for way in buying:
        try:
            columns.append(_column(place, found, way, given))
        except InputError:
            raise
        except CapacityError as error:
            refused.append(f"{way.told}: {error}")
        else:
            kept.append(way)
    held, usd = (np.zeros((len(found.devices), len(kept))) for _ in range(2))
    for place_of_way, column in enumerate(columns):
        held[:, place_of_way], usd[:, place_of_way] = column
    return Priced(buying=tuple(kept), usd=usd, devices=held, kwh=kwh, refused=tuple(refused))


def offers(variant: Variant, space: Space, given: Inputs) -> tuple[list[Buying], list[str]]:
    """Return the ways of buying a variant's device that have a price, and those that have none."""
    asked = variant.scenario.pricing
    found: list[Buying] = []
    missing: list[str] = []
    ways = [(term, region) for term in space.terms or (asked.term,) for region in space.regions or (asked.region,)]
    for term, region in dict.fromkeys((term, None if term == "purchase" else region) for term, region in ways):
        way = Buying(term=term, region=region or "", usd_per_hour=0.0)
        price = hourly(variant.hardware, way.of(variant.scenario).pricing, given.today)
        if price is None:
            missing.append(f"no {way.told} price")
        else:
            found.append(replace(way, usd_per_hour=price.usd_per_device_hour, flags=price.flags))
    return found, missing


def _column(place: Place, found: Fleets, way: Buying, given: Inputs) -> tuple[Array, Array]:
    """Return the devices and the bill of every fleet, bought one way, arrays [fleets]."""
    scenario = way.of(place.variant.scenario)
    jobs, missed = place.work(way, given)
    if missed:
        raise CapacityError(f"{missed[0].where} misses {missed[0].constraint}")
    owned, (spread, paid_spread) = scenario.pricing.term == "purchase", _stand_ins(place, found, scenario)
    held = found.devices + spread
    paid = held if owned else found.paid_devices + paid_spread
    chosen, choice = place.choice(found, 0)
    pools = sizing.plans(chosen, choice, scenario)
    if scenario.pricing.term == SPOT:
        pools = tuple(spot.covered(pool, scenario.pricing.spot) for pool in pools)
    once, twice = pools, [_larger(pool) for pool in pools]
    bill, more = (
        ownership.cost(scenario, place.device.hardware, of, jobs, given.rates, given.today) for of in (once, twice)
    )
    devices = [sum(pool.devices if owned else pool.paid_devices for pool in of) for of in (once, twice)]
    each_usd = (_unplugged_usd(more) - _unplugged_usd(bill)) / (devices[1] - devices[0]) if pools else 0.0
    usd = bill.usd + each_usd * (paid - devices[0])
    serving = _kwh(paid, found, place, given)
    if serving is not None and pools and scenario.pricing.energy == "separate":
        system = scenario.pricing.ownership.system_power if owned else 1.0
        usd = usd + (serving - serving[0]) * system * given.rates.electricity.value
    return held, usd


def _stand_ins(place: Place, found: Fleets, scenario: Scenario) -> tuple[Array, Array]:
    """Return the devices that stand in for interrupted ones, held and paid on average, arrays [fleets]; none off spot.

    Slices are held as whole devices.
    """
    held, paid = np.zeros(len(found.devices)), np.zeros(len(found.devices))
    if scenario.pricing.term != SPOT:
        return held, paid
    spare = scenario.resilience.spare_replicas
    for column, tried in enumerate(place.pools):
        each = {pool.context.tensor_parallel: pool.devices_per_replica for pool in tried}
        pairs = np.column_stack([found.replicas[:, column], found.degree[:, column]])
        unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
        size = np.array([each[int(degree)] for _, degree in unique])
        extra = np.array([
            spot.extra_replicas(int(count), each[int(degree)], scenario.pricing.spot) for count, degree in unique
        ])  # fmt: skip
        usual = unique[:, 0] + spare
        whole = np.ceil((usual + extra) * size) - np.ceil(usual * size)
        held += whole[inverse.reshape(-1)]
        paid += (extra * size if tried[0].spec.autoscaling else whole)[inverse.reshape(-1)]
    return held, paid


def _larger(pool: PoolPlan) -> PoolPlan:
    """Return a pool of more whole devices: twice as large, of slices as many times as makes two devices of one."""
    times = 2 * max(1, math.ceil(1 / pool.devices_per_replica))
    paid = None if pool.paid_replicas is None else times * pool.paid_replicas
    return replace(pool, replicas=times * pool.replicas, spare_replicas=times * pool.spare_replicas, paid_replicas=paid)


def _unplugged_usd(bill: Cost) -> float:
    return bill.usd - sum(line.usd or 0.0 for line in bill.lines if line.group == ENERGY)


def _kwh(held: Array, found: Fleets, place: Place, given: Inputs) -> Array | None:
    """Return the energy of each fleet a month [kWh], array [fleets], as a bill has it; None without a power.

    Parameters
    ----------
    held
        Devices that are powered all month, array [fleets].
    """
    watts = powers(place.device.hardware)
    if watts is None:
        return None
    idle_w, more_w = watts
    busy = found.busy_devices * place.variant.scenario.traffic.mean_to_peak
    return (held * idle_w + busy * more_w) * HOURS * given.rates.power_usage_effectiveness.value / 1000
