"""All ways to run a pool at once, held against the closed forms one by one."""

from __future__ import annotations

import numpy as np
import pytest

from capacity.fleet import ways
from capacity.fleet.queueing import Service, Wait, quantile, waiting
from capacity.fleet.sizing import PoolLoad
from capacity.fleet.ways import Ways, quantiles, waits


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_quantiles_agree_with_those_of_one_fleet(share):
    random = np.random.default_rng(int(share * 100))
    for _ in range(150):
        servers, service_s = int(random.integers(1, 60)), 10 ** random.uniform(-3, 0)
        rate = random.uniform(0.3, 0.995) * servers / service_s
        scv = random.uniform(0, 1)
        wait = waiting(servers, rate, service_s, 1.0, scv)
        one = Ways(
            forming_s=np.zeros(1), probability=np.array([wait.probability]), wait_s=np.array([wait.mean_s]),
            service_s=np.array([service_s]), scv=np.array([scv]),
        )  # fmt: skip
        exact = quantile(Service(service_s, scv), [wait], share)
        assert quantiles(one, share)[0] == pytest.approx(exact, rel=ways.NEAR)


def test_waits_are_those_of_one_fleet():
    servers = np.arange(1.0, 200.0)
    probability, mean_s = waits(servers, 37.5, 0.9, (1 + 0.09) / 2)
    for place in (0, 20, 33, 34, 50, 198):
        one = waiting(int(servers[place]), 37.5, 0.9, 1.0, 0.09)
        assert (probability[place], mean_s[place]) == pytest.approx((one.probability, one.mean_s), rel=1e-6)


def test_a_pool_takes_the_same_parts_of_a_latency():
    load = PoolLoad(name="a", batch=4, service_s=0.2, service_scv=0.02, max_wait_s=0.05, share=0.7)
    found = Ways.of(load, np.array([3.0, 9.0]), 40.0)
    for place, count in enumerate((3, 9)):
        one = load.latency(count, 40.0)
        assert found.forming_s[place] == pytest.approx(one.forming_s)
        assert Wait(found.probability[place], found.wait_s[place]).average_s == pytest.approx(one.wait.average_s)


def test_more_than_it_carries_takes_for_ever():
    load = PoolLoad(name="a", batch=1, service_s=1.0, service_scv=0.0)
    found = quantiles(Ways.of(load, np.array([1.0, 2.0, 3.0]), 2.0), 0.99)
    assert np.isinf(found[:2]).all()
    assert np.isfinite(found[2])
