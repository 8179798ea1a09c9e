"""Waiting and sizing against textbooks, exact sums and simulations that share no code with them."""

from __future__ import annotations

import math
from fractions import Fraction

import ciw
import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity.fleet.queueing import Wait, erlang_c, quantile_of_sum, waiting
from capacity.fleet.sizing import Demand, Fleet, Miss, PoolLoad, fleet, least, sized

SERVERS = st.integers(1, 2000)
BUSY = st.floats(0.001, 0.999)


def states(servers: int, load: Fraction) -> tuple[list[Fraction], Fraction]:
    """Return P(n in system) for n < c, and P(n ≥ c), of M/M/c by its balance equations, exactly."""
    terms = [Fraction(1)]
    for count in range(1, servers + 1):
        terms.append(terms[-1] * load / count)
    full = terms[-1] / (1 - load / servers)  # geometric from c on
    everything = sum(terms[:-1]) + full
    return [term / everything for term in terms[:-1]], full / everything


# Erlang C


@pytest.mark.parametrize(
    ("servers", "load", "expected"),
    [
        (1, 0.8, 0.8),  # M/M/1: ρ
        (2, 1.0, 1 / 3),
        (3, 2.0, 4 / 9),  # (2³/3!)·3 / (1 + 2 + 2 + 4)
        (2, 1.5, 9 / 14),  # 2ρ² / (1 + ρ) at ρ = 0.75
        (10, 8.0, 0.409180),  # Erlang C tables: ten agents, eight Erlang
    ],
)
def test_the_textbook_values(servers, load, expected):
    assert erlang_c(servers, load) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("servers", [1, 2, 3, 7, 20, 100])
@pytest.mark.parametrize("busy", [Fraction(1, 1000), Fraction(1, 3), Fraction(9, 10), Fraction(999, 1000)])
def test_the_exact_sum_over_all_states(servers, busy):
    _, full = states(servers, busy * servers)
    assert erlang_c(servers, float(busy * servers)) == pytest.approx(float(full), rel=1e-10)


@pytest.mark.parametrize("busy", [0.1, 0.9, 0.999, 0.99999])
def test_fifty_thousand_servers(busy):
    probability = erlang_c(50_000, busy * 50_000)
    assert math.isfinite(probability)
    assert 0 <= probability <= 1
    assert math.isfinite(waiting(50_000, busy * 50_000, 1.0).quantile(0.99))


def test_no_load_never_waits_and_too_much_always_does():
    assert erlang_c(3, 0.0) == 0
    assert erlang_c(3, 3.0) == 1
    assert waiting(3, 3.0, 1.0) == Wait(1.0, math.inf)
    assert waiting(3, 4.0, 1.0).quantile(0.5) == math.inf


@given(SERVERS, BUSY)
def test_a_probability_lies_between_0_and_the_load_of_one_server(servers, busy):
    assert 0 <= erlang_c(servers, busy * servers) <= busy * (1 + 1e-9)  # C ≤ ρ, equal for one server


@given(SERVERS, BUSY, BUSY)
def test_more_load_waits_more(servers, one, other):
    low, high = sorted((one, other))
    assert erlang_c(servers, low * servers) <= erlang_c(servers, high * servers) * (1 + 1e-9)


@given(SERVERS, st.integers(1, 100), BUSY)
def test_more_servers_wait_less(servers, more, busy):
    load = busy * servers
    assert erlang_c(servers + more, load) <= erlang_c(servers, load) * (1 + 1e-9)
    assert waiting(servers + more, load, 1.0).average_s <= waiting(servers, load, 1.0).average_s * (1 + 1e-9)


# The mean wait


def test_one_server_by_hand():
    rate, service = 0.8, 1.0  # ρ = 0.8
    assert waiting(1, rate, service, 1, 1).average_s == pytest.approx(4.0)  # M/M/1: ρ·S / (1 − ρ)
    assert waiting(1, rate, service, 1, 0).average_s == pytest.approx(2.0)  # M/D/1: half of it
    squared = 0.3**2  # M/G/1, Pollaczek and Khinchine: λ·E[S²] / (2(1 − ρ))
    assert waiting(1, rate, service, 1, squared).average_s == pytest.approx(rate * (1 + squared) / (2 * 0.2))


@pytest.mark.parametrize("servers", [1, 3, 12])
def test_littles_law_on_the_exact_states(servers):
    busy = Fraction(4, 5)
    _, full = states(servers, busy * servers)
    queue = full * busy / (1 - busy)  # Σ (n − c)·P(n) over n ≥ c
    rate = float(busy * servers)
    assert rate * waiting(servers, rate, 1.0, 1, 1).average_s == pytest.approx(float(queue), rel=1e-10)


def test_quantiles_of_a_wait():
    wait = waiting(1, 0.5, 1.0, 1, 1)  # M/M/1: P(wait > t) = ρ·e^(−(μ − λ)t)
    assert wait.quantile(0.4) == 0
    assert 0.5 * math.exp(-0.5 * wait.quantile(0.99)) == pytest.approx(0.01)


# Simulations


def batch_means(waits: np.ndarray, batches: int = 40) -> tuple[float, float]:
    """Return mean and standard error of correlated waits, the first tenth left out."""
    means = [part.mean() for part in np.array_split(waits[len(waits) // 10 :], batches)]
    return float(np.mean(means)), float(np.std(means, ddof=1) / math.sqrt(batches))


def simulated(servers: int, rate: float, draw, customers: int, seed: int) -> tuple[np.ndarray, float, float]:
    """Return waits, the mean queue length over time and the mean arrival rate of a simpy queue."""
    random = np.random.default_rng(seed)
    environment = simpy.Environment()
    desk = simpy.Resource(environment, servers)
    waits: list[float] = []
    waiting_time = 0.0

    def customer(service_s: float):
        nonlocal waiting_time
        came = environment.now
        with desk.request() as turn:
            yield turn
            waits.append(environment.now - came)
            waiting_time += environment.now - came
            yield environment.timeout(service_s)

    def source():
        for gap, service_s in zip(random.exponential(1 / rate, customers), draw(random, customers), strict=True):
            yield environment.timeout(gap)
            environment.process(customer(service_s))

    environment.process(source())
    environment.run()
    return np.array(waits), waiting_time / environment.now, customers / environment.now


def test_m_m_c_against_ciw():
    ciw.seed(7)
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(2.4)],
        service_distributions=[ciw.dists.Exponential(1.0)],
        number_of_servers=[3],
    )
    run = ciw.Simulation(network)
    run.simulate_until_max_customers(40_000)
    waits = np.array([record.waiting_time for record in sorted(run.get_all_records(), key=lambda r: r.arrival_date)])
    mean, error = batch_means(waits)
    expected = waiting(3, 2.4, 1.0, 1, 1)
    assert abs(mean - expected.average_s) < 4 * error
    assert (waits > 0).mean() == pytest.approx(expected.probability, abs=0.02)
    assert np.quantile(waits, 0.99) == pytest.approx(expected.quantile(0.99), rel=0.12)


def test_m_d_1_against_simpy():
    waits, _, _ = simulated(1, 0.7, lambda _, count: np.ones(count), 60_000, 1)
    mean, error = batch_means(waits)
    assert abs(mean - waiting(1, 0.7, 1.0, 1, 0).average_s) < 4 * error
    assert waiting(1, 0.7, 1.0, 1, 0).quantile(0.99) == pytest.approx(np.quantile(waits, 0.99), rel=0.15)


@pytest.mark.parametrize(("servers", "variation", "seed"), [(2, 0.3, 2), (4, 0.5, 3), (8, 1.5, 4)])
def test_m_g_c_against_simpy(servers, variation, seed):
    """Two moments do not fix M/G/c: 10 % is what the approximation is known for at this load."""
    squared = variation**2
    waits, _, _ = simulated(
        servers, 0.8 * servers, lambda random, count: random.gamma(1 / squared, squared, count), 60_000, seed
    )
    mean, error = batch_means(waits)
    assert waiting(servers, 0.8 * servers, 1.0, 1, squared).average_s == pytest.approx(mean, abs=4 * error + 0.1 * mean)


def test_batches_arrive_more_evenly_than_requests():
    """Full batches of b come at Erlang-b distances, squared variation 1/b: the approximation errs on the safe side."""
    size, service = 8, 1.0
    random = np.random.default_rng(5)
    gaps = random.exponential(1 / (0.8 * size), (40_000, size)).sum(axis=1)
    wait, waits = 0.0, []
    for gap in gaps:  # Lindley's recursion
        waits.append(wait)
        wait = max(wait + service - gap, 0.0)
    mean, error = batch_means(np.array(waits))
    load = PoolLoad(name="p", batch=size, service_s=service, service_scv=0.0)
    predicted = load.latency(1, 0.8 * size).wait.average_s
    assert mean - 4 * error < predicted < 2 * mean


def test_littles_law_in_a_simulation():
    waits, queue, rate = simulated(2, 1.6, lambda random, count: random.exponential(1.0, count), 20_000, 6)
    assert queue == pytest.approx(rate * waits.mean())


# Sums of waits


def drawn(wait: Wait, random: np.random.Generator, count: int) -> np.ndarray:
    return np.where(random.random(count) < wait.probability, random.exponential(wait.mean_s, count), 0.0)


@pytest.mark.parametrize(
    "waits",
    [
        [Wait(0.5, 1.0), Wait(0.5, 1.0)],
        [Wait(0.9, 0.2), Wait(0.1, 3.0)],
        [Wait(1.0, 1.0), Wait(1.0, 1.0), Wait(1.0, 1.0)],  # Gamma(3, 1)
        [Wait(0.02, 5.0), Wait(0.6, 0.5), Wait(0.3, 1.5), Wait(0.99, 0.05)],
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_sum_against_monte_carlo(waits, share):
    random = np.random.default_rng(8)
    total = sum(drawn(wait, random, 1_000_000) for wait in waits)
    assert quantile_of_sum(waits, share) == pytest.approx(np.quantile(total, share), rel=0.015, abs=0.01)


def test_sums_without_waiting_or_without_end():
    assert quantile_of_sum([], 0.99) == 0
    assert quantile_of_sum([Wait(0.0, 0.0), Wait(0.5, 0.0)], 0.99) == 0
    assert quantile_of_sum([Wait(0.5, 1.0), Wait(1.0, math.inf)], 0.99) == math.inf


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.builds(Wait, st.floats(0.05, 1), st.floats(0.01, 10)), min_size=2, max_size=4), st.floats(0.5, 0.999)
)
def test_a_sum_is_at_least_each_part_and_at_most_the_union_bound(waits, share):
    found = quantile_of_sum(waits, share)
    assert found >= max(wait.quantile(share) for wait in waits) * 0.99
    assert found <= sum(wait.quantile(1 - (1 - share) / len(waits)) for wait in waits) * 1.001


# Sizing


def pool(name: str = "p", **changes) -> PoolLoad:
    given_: dict = {"name": name, "batch": 1, "service_s": 0.02, "service_scv": 0.09, "max_wait_s": 0.01}
    return PoolLoad(**given_ | changes)


def demand(**changes) -> Demand:
    given_: dict = {"rate": 400.0, "headroom": 0.2, "latency_s": 0.1, "quantile": 0.99}
    return Demand(**given_ | changes)


LOADS = st.builds(
    pool,
    batch=st.sampled_from([1, 2, 8, 32]),
    service_s=st.floats(0.001, 0.2),
    service_scv=st.floats(0, 1),
    host_s=st.sampled_from([0.0, 0.01]),
)
DEMANDS = st.builds(
    demand,
    rate=st.floats(0.1, 3000),
    headroom=st.floats(0, 0.5),
    latency_s=st.floats(0.01, 1),
    quantile=st.sampled_from([0.5, 0.9, 0.99]),
)


@settings(max_examples=150, deadline=None)
@given(LOADS, DEMANDS)
def test_a_fleet_meets_the_objective_and_one_replica_less_does_not(load, wanted):
    found = sized([load], wanted)
    if isinstance(found, Miss):
        assert found.best_s > 0
        return
    replicas = found.replicas["p"]
    stressed = demand(rate=wanted.rate * (1 + wanted.headroom), latency_s=wanted.latency_s, quantile=wanted.quantile)
    assert found.quantile_s <= wanted.latency_s
    assert found.utilization["p"] < 1
    assert fleet([load], {"p": replicas}, stressed).quantile_s <= wanted.latency_s
    if replicas > 1 and replicas < 200:  # above, the search goes by strides of one percent
        fewer = fleet([load], {"p": replicas - 1}, stressed)
        assert fewer.quantile_s > wanted.latency_s or replicas - 1 < least(load, stressed.rate)


@settings(max_examples=50, deadline=None)
@given(LOADS, DEMANDS, st.floats(1, 4))
def test_more_traffic_or_less_patience_never_needs_fewer_replicas(load, wanted, factor):
    now = sized([load], wanted)
    if isinstance(now, Miss):
        return
    hurried = demand(
        **{field: getattr(wanted, field) for field in wanted.__slots__} | {"latency_s": wanted.latency_s / factor}
    )
    later = sized([load], hurried)
    assert isinstance(later, Miss) or later.replicas["p"] >= now.replicas["p"]
    assert least(load, wanted.rate * factor) >= least(load, wanted.rate)


def test_ten_replicas_by_hand():
    """480/s at 20 ms are 9.6 Erlang: ten keep up, but wait too long at the tail; two more do not."""
    assert least(pool(), 480.0) == 10
    found = sized([pool()], demand())
    assert isinstance(found, Fleet)
    assert found.replicas["p"] == 11
    assert found.devices([pool(devices_per_replica=2)]) == 22


@pytest.mark.parametrize(
    ("loads", "wanted", "said"),
    [
        ([pool(service_s=0.2)], demand(), "service time"),
        ([pool(service_s=0.09, host_s=0.02)], demand(), "service time"),
        ([pool("a", service_s=0.06), pool("b", service_s=0.06)], demand(), "service time"),
        ([pool(batch=8, service_s=0.06)], demand(), "99%"),  # the batch before it takes 60 ms too
        ([pool()], demand(rate=1e9), "replicas"),
    ],
)
def test_what_no_fleet_can_do_is_a_miss_with_its_reason(loads, wanted, said):
    found = sized(loads, wanted)
    assert isinstance(found, Miss)
    assert said in found.constraint


def test_two_pools_share_the_time():
    slow, fast = pool("slow", service_s=0.05), pool("fast", service_s=0.005, batch=4)
    found = sized([slow, fast], demand(latency_s=0.16))
    assert isinstance(found, Fleet)
    assert found.quantile_s <= 0.16
    alone = sized([slow], demand(latency_s=0.16))
    assert found.replicas["slow"] >= alone.replicas["slow"]


def test_a_batch_leaves_full_or_after_the_longest_wait_or_with_the_batch_before_it():
    load = pool(batch=8, service_s=0.02, max_wait_s=0.005)
    assert load.latency(1, 7000.0).forming_s == pytest.approx(0.001)
    assert load.latency(1, 10.0).forming_s == pytest.approx(0.02)
    assert pool(batch=8, service_s=0.02, max_wait_s=0.05).latency(1, 10.0).forming_s == pytest.approx(0.05)


def test_host_work_delays_and_occupies_nothing():
    plain, hosted = (sized([pool(host_s=host)], demand()) for host in (0.0, 0.03))
    assert hosted.replicas == plain.replicas
    assert hosted.median_s == pytest.approx(plain.median_s + 0.03)
