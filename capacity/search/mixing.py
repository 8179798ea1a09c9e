"""The cheapest mix of devices and terms for a scenario's day: what each device's replicas carry, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from capacity.errors import CapacityError
from capacity.fleet.grid import sizes, tails
from capacity.fleet.mixed import Mixed, Share
from capacity.fleet.pool import Pool
from capacity.fleet.pools import shares_of_a_day
from capacity.fleet.searched import Refused, Variant
from capacity.fleet.ways import Array
from capacity.money.lines import HOURS
from capacity.money.prices import price_range
from capacity.planner import Inputs
from capacity.search.place import Place
from capacity.search.portfolio import Block, mix
from capacity.spec.prices import Term
from capacity.spec.scenario import Scenario
from capacity.spec.space import Space

TERMS: tuple[Term, ...] = ("1-year", "3-year")
MOST = 96
"""Most replicas of one kind of device whose rate is asked for."""
HALVINGS = 24


def mixed(variants: Sequence[Variant], space: Space, given: Inputs) -> Mixed:
    """Return the cheapest mix for the day's load, replicas following it hour by hour at once.

    Parameters
    ----------
    variants
        One choice of engine, dtype and levers on several devices.

    Raises
    ------
    CapacityError
        For a scenario of several pools, and where no mix carries the peak.
    """
    scenario = variants[0].scenario
    shares = shares_of_a_day(scenario) * scenario.traffic.peak_rate * (1 + scenario.resilience.headroom)
    blocks, refused = _blocks(variants, space, given, float(shares.max()))
    found = mix(blocks, shares.tolist()) if blocks else None
    if found is None:
        reasons = "; ".join(f"{item.what}: {item.reason}" for item in refused)
        raise CapacityError(f"no mix carries the peak within the objective{f' ({reasons})' if reasons else ''}")
    used = [
        Share(
            hardware=block.name, committed=dict(found.committed[block.name]), hourly=found.hourly[block.name],
            most_rate=float(block.rates[-1]),
        )
        for block in blocks
        if found.committed[block.name] or any(found.hourly[block.name])
    ]  # fmt: skip
    return Mixed(
        scenario=scenario.id, title=scenario.title, shares=tuple(used), rates=tuple(shares.tolist()),
        usd_per_month=found.usd_per_hour * HOURS, refused=tuple(refused),
        bound_usd_per_month=found.bound_usd_per_hour * HOURS,
    )  # fmt: skip


def _blocks(
    variants: Sequence[Variant], space: Space, given: Inputs, most_rate: float
) -> tuple[list[Block], list[Refused]]:
    blocks, refused = [], []
    for variant in variants:
        try:
            blocks.append(_block(variant, space, given, most_rate))
        except CapacityError as error:
            refused.append(Refused(what=variant.hardware, reason=str(error).splitlines()[0]))
    return blocks, refused


def _block(variant: Variant, space: Space, given: Inputs, most_rate: float) -> Block:
    place = Place.of(variant, given)
    if len(place.pools) > 1:
        raise CapacityError("a mix is found for a scenario of one pool; this one has several")
    if place.violations:
        raise CapacityError(f"misses {place.violations[0].constraint}")
    pool = next((pool for pool in place.pools[0] if pool.largest_batch), place.pools[0][0])
    stock = space.stock.get(variant.hardware)
    each = pool.devices_per_replica
    most = MOST if stock is None else min(MOST, int(stock / each))
    if most < 1:
        raise CapacityError("none in stock")
    return _priced(variant, given, carried(pool, variant.scenario, space, most, most_rate), each)


def _priced(variant: Variant, given: Inputs, rates: Array, each: float) -> Block:
    buying = variant.scenario.pricing
    if buying.term == "purchase":
        raise CapacityError("a mix is of devices rented by the hour or for a term; set pricing.term to on-demand")
    prices = {
        term: found.usd_per_device_hour * each
        for term in dict.fromkeys((buying.term, *TERMS))
        if (found := price_range(variant.hardware, term, buying.provider, buying.region, today=given.today))
    }
    if not prices:
        raise CapacityError("no price")
    hourly = prices.get(buying.term) if buying.term not in TERMS else None
    return Block(
        name=variant.hardware, rates=rates, most=len(rates), usd_per_hour=hourly,
        committed_usd_per_hour={term: prices[term] for term in TERMS if term in prices},
        spare=variant.scenario.resilience.spare_replicas,
    )  # fmt: skip


def carried(pool: Pool, scenario: Scenario, space: Space, most: int, most_rate: float) -> Array:
    """Return the rate that 1, 2, … replicas carry within the objective at their best batch size [1/s].

    Ends with the first number of replicas that carries `most_rate`, or with `most`.
    """
    limit, share = scenario.objective.latency, scenario.objective.quantile
    loads = [pool.load(size) for size in sizes(pool, space)]
    found: list[float] = []
    for count in range(1, most + 1):
        replicas = np.array([float(count)])
        best = 0.0
        for load in loads:
            low, high = 0.0, load.most_rate() * count
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                holds = middle > 0 and float(tails(load, replicas, middle, share)[0]) <= limit
                low, high = (middle, high) if holds else (low, middle)
            best = max(best, low)
        found.append(max(best, found[-1] if found else 0.0))
        if found[-1] >= most_rate:
            break
    return np.array(found)
