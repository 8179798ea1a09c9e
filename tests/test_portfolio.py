"""Mixes of devices and terms, held against counting through small ones and against what their replicas carry."""

from __future__ import annotations

from datetime import date
from itertools import product

import numpy as np
import pytest

from capacity import catalogue, documents, planner, search
from capacity.errors import CapacityError
from capacity.search.mixing import carried
from capacity.search.portfolio import Block, mix
from capacity.search.tried import Place
from capacity.spec.scenario import Scenario
from capacity.spec.space import Space

FAST = Block(
    name="fast", rates=np.array([50.0, 100.0]), committed_usd_per_hour={"1-year": 3.0}, usd_per_hour=5.0, most=2
)
SLOW = Block(
    name="slow", rates=np.arange(1.0, 7.0) * 10, committed_usd_per_hour={"1-year": 0.8}, usd_per_hour=1.2, most=6
)  # fmt: skip


def brute(blocks, rates) -> float:
    """Return the least USD an hour over all committed and hourly counts."""
    best = np.inf
    for held in product(*(range(block.most + 1) for block in blocks)):
        total = sum(count * block.committed_usd_per_hour["1-year"] for count, block in zip(held, blocks, strict=True))
        total += sum(hourly(blocks, held, rate) for rate in rates) / len(rates)
        best = min(best, total)
    return float(best)


def hourly(blocks, held, rate) -> float:
    """Return the least USD for what is bought in one hour beside what is held."""
    free = [range(block.most - count + 1) for count, block in zip(held, blocks, strict=True)]
    costs = [np.inf]
    for extra in product(*free):
        rate_then = sum(b.rates[0] * (c + more) for c, more, b in zip(held, extra, blocks, strict=True))
        if rate_then >= rate:
            costs.append(sum(more * block.usd_per_hour for more, block in zip(extra, blocks, strict=True)))
    return min(costs)


@pytest.mark.parametrize("rates", [[80.0, 20.0, 20.0, 60.0], [150.0, 5.0, 5.0, 5.0], [30.0] * 4])
def test_the_mix_is_that_of_counting_through_all(rates):
    found = mix([FAST, SLOW], rates)
    assert found.usd_per_hour == pytest.approx(brute([FAST, SLOW], rates), rel=3e-3)
    assert found.bound_usd_per_hour <= found.usd_per_hour + 1e-9


def test_no_mix_carries_more_than_all_devices_do():
    assert mix([FAST, SLOW], [161.0]) is None


def test_every_hour_is_carried_within_the_objective_with_spares():
    settings = ["traffic.peak_rate=120/s"]
    document = catalogue.scenario_document("cross-encoder-rerank", (), settings)
    scenario = documents.validated(document, Scenario)
    given = planner.inputs(scenario, today=date(2026, 11, 22), document=document)
    variants, _ = search.variants(document, given, Space(), ("l4", "a10g"))
    found = search.mixed(variants, Space(), given)
    assert found.bound_usd_per_month <= found.usd_per_month
    rates = {}
    for variant in variants:
        pool = Place.of(variant, given).pools[0][0]
        rates[variant.hardware] = carried(pool, scenario, Space(), 96, max(found.rates))
    spare = scenario.resilience.spare_replicas
    for hour, rate in enumerate(found.rates):
        working = {
            share.hardware: share.hourly[hour] + sum(share.committed.values()) - spare
            for share in found.shares
            if share.hourly[hour] + sum(share.committed.values())
        }
        assert sum(rates[name][count - 1] for name, count in working.items() if count) >= rate * (1 - 1e-6)


def test_several_pools_are_refused_with_the_reason():
    document = catalogue.scenario_document("cascade")
    scenario = documents.validated(document, Scenario)
    given = planner.inputs(scenario, today=date(2026, 11, 22), document=document)
    variants, _ = search.variants(document, given, Space(), ("l40s",))
    with pytest.raises(CapacityError, match="of one pool"):
        search.mixed(variants, Space(), given)
