"""The closed form beside the simulation that it stands in for: how far they are apart is a figure, and it stays one."""

from __future__ import annotations

from functools import cache

import pytest
from served_models import device

from capacity import catalogue, planner, simulation
from capacity.fleet import pools, verify
from capacity.fleet.online import Case
from capacity.fleet.pool import fitted
from capacity.fleet.simulated import Settings
from capacity.fleet.sizing import Demand, fleet

REQUESTS = 15_000
NO_CACHE = ("serving.stages.write-copy.cache_hit_rate=0",)  # else nine of ten requests take no time at all
PIPELINES = {
    "rerank": ("cross-encoder-rerank", "a100-sxm-80gb", ()),
    "copy": ("generated-copy", "h100-sxm-80gb", NO_CACHE),
}


@cache
def pipeline(name: str):
    scenario_name, hardware, overrides = PIPELINES[name]
    scenario = catalogue.scenario(scenario_name, (), overrides)
    found, _ = fitted(simulation._context(scenario, planner.inputs(scenario)), device(hardware))
    return scenario, found, pools.cheapest(found, scenario)


@cache
def ratios(name: str, replicas: int, share: float) -> dict[str, float]:
    """Return closed form ÷ simulation of p50 and p99 at a share of what the replicas carry."""
    scenario, found, choice = pipeline(name)
    counts = {pool.name: replicas for pool in found}
    rate = share * replicas * min(load.most_rate() for load in choice.loads)
    case = Case(replicas=counts, batches=choice.batches, rate=rate)
    seen = verify.run(found, scenario, case, Settings(requests=REQUESTS)).end_to_end.quantiles
    told = {}
    for percentile, quantile in (("p50", 0.5), ("p99", 0.99)):
        wanted = Demand(rate=rate, headroom=0.0, latency_s=1.0, quantile=quantile)
        told[percentile] = fleet(choice.loads, counts, wanted).quantile_s / seen[percentile].value
    return told


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("replicas", [1, 8])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_the_closed_form_is_as_close_as_is_said(name, replicas, share):
    """docs/explanation/serving.md: medians within 20 %, p99 within 30 %."""
    found = ratios(name, replicas, share)
    assert 0.8 <= found["p50"] <= 1.2
    assert 0.7 <= found["p99"] <= 1.3


@pytest.mark.parametrize("name", PIPELINES)
def test_an_overloaded_fleet_carries_what_the_closed_form_says(name):
    scenario, found, choice = pipeline(name)
    most = 4 * min(load.most_rate() for load in choice.loads)
    case = Case(replicas={pool.name: 4 for pool in found}, batches=choice.batches, rate=2 * most)
    result = verify.run(found, scenario, case, Settings(requests=30_000))
    assert result.saturation.state == "overloaded"
    assert 0.9 <= result.throughput_per_s / most <= 1.05
