"""Parallel servers against theory, simpy and ciw, and what must hold whatever is simulated."""

from __future__ import annotations

import math
from collections import deque

import ciw
import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity.errors import CapacityError
from capacity.fleet.flow import Flow, Outcome
from capacity.fleet.queueing import erlang_c
from capacity.fleet.replicas import Autoscaling, Failures, Replicas
from capacity.fleet.servers import Policy, Servers, Station

INF = math.inf


def arrivals(count: int, rate: float, seed: int = 1) -> Flow:
    times_s = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))
    return Flow.of(np.arange(count), times_s)


def at(*times_s: float) -> Flow:
    return Flow.of(np.arange(len(times_s)), np.array(times_s, np.float64))


def sojourns(flow: Flow) -> np.ndarray:
    """Return the time in the stage by number of request [s]."""
    return (flow.time_s - flow.arrival_s)[np.argsort(flow.request)]


def in_cuts(stage: Station, flow: Flow, cuts_s: list[float]) -> Flow:
    """Return what leaves when the same requests come in cuts of time."""
    parts, first = [], 0
    for until_s in [*sorted(cuts_s), INF]:
        last = int(np.searchsorted(flow.time_s, until_s, side="right")) if until_s < INF else len(flow)
        parts.append(stage.advance(flow.at(np.arange(first, last)), until_s))
        assert (parts[-1].time_s <= until_s).all()
        first = last
    return Flow(*(np.concatenate([getattr(part, name) for part in parts]) for name in Flow.__slots__))


def mean_within(values: np.ndarray, expected: float, batches: int = 30) -> bool:
    """Say whether a mean is within four standard errors, by batch means, of what is expected."""
    means = np.array([part.mean() for part in np.array_split(values[len(values) // 20 :], batches)])
    error = means.std(ddof=1) / math.sqrt(batches)
    assert error < 0.05 * expected, "the test would see nothing"
    return abs(means.mean() - expected) < 4 * error


# By hand


def test_one_server_by_hand():
    left = Station(Servers(mean_s=2.0)).advance(at(0.0, 1.0, 9.0), INF)
    assert left.time_s.tolist() == [2.0, 4.0, 11.0]


def test_the_slowest_shard_decides():
    # shard 0 is idle at 1.0 and so is shard 1: both take 2 s, each from its own queue
    left = Station(Servers(mean_s=2.0, shards=3)).advance(at(0.0, 1.0), INF)
    assert left.time_s.tolist() == [2.0, 4.0]


def test_shards_of_random_speed_are_the_largest_of_as_many():
    left = Station(Servers(servers=500, mean_s=1.0, spread="exponential", shards=4)).advance(arrivals(100_000, 5), INF)
    assert mean_within(sojourns(left), 1 + 1 / 2 + 1 / 3 + 1 / 4)  # mean of the largest of 4 exponentials


def test_a_full_queue_sheds_and_a_fallback_goes_on():
    servers = Servers(mean_s=10.0)
    left = Station(servers, policy=Policy(queue_limit=1)).advance(at(0.0, 1.0, 2.0), INF)
    assert left.time_s.tolist() == [2.0, 10.0, 20.0]
    assert left.outcome.tolist() == [Outcome.SHED, Outcome.SERVED, Outcome.SERVED]
    stage = Station(servers, policy=Policy(queue_limit=1, fallback_s=15.0))
    first = stage.advance(at(0.0, 1.0, 2.0), 12.0)
    rest = stage.advance(at(), INF)
    assert (first.time_s.tolist(), rest.time_s.tolist()) == ([10.0], [17.0, 20.0])
    assert rest.outcome.tolist() == [Outcome.FALLBACK, Outcome.SERVED]


def test_a_request_times_out_and_tries_again_at_the_tail():
    left = Station(Servers(mean_s=10.0), policy=Policy(timeout_s=3.0, retries=1)).advance(at(0.0, 1.0, 5.0), INF)
    # 1.0 waits till 4, again till 7; 5.0 waits till 8, again till 11 but is served from 10
    assert left.request.tolist() == [1, 0, 2]
    assert left.time_s.tolist() == [7.0, 10.0, 20.0]
    assert left.outcome.tolist() == [Outcome.TIMED_OUT, Outcome.SERVED, Outcome.SERVED]


def test_a_replica_that_dies_takes_its_work_along():
    replicas = Replicas(count=1, failures=Failures(outages=((0, 5.0, 20.0),)))
    once = Station(Servers(mean_s=10.0), replicas, Policy(retries=1)).advance(at(0.0, 6.0), INF)
    assert once.time_s.tolist() == [30.0, 40.0]
    never = Station(Servers(mean_s=10.0), replicas).advance(at(0.0, 6.0), INF)
    assert never.time_s.tolist() == [5.0, 30.0]
    assert never.outcome.tolist() == [Outcome.FAILED, Outcome.SERVED]


def test_requests_wait_where_no_replica_is_up_and_join_the_first_that_is():
    replicas = Replicas(count=2, failures=Failures().with_region([0, 1], 1.0, 9.0))
    for routing in ("shared", "round-robin", "least-loaded"):
        left = Station(Servers(mean_s=2.0), replicas, Policy(routing=routing)).advance(at(3.0, 4.0, 5.0), INF)
        assert left.time_s.tolist() == [11.0, 11.0, 13.0]


def test_round_robin_takes_turns_and_least_loaded_looks():
    flow, two = at(0.0, 1.0, 2.0, 3.5), Replicas(count=2)
    servers = Servers(servers=1, mean_s=3.0)
    turns = Station(servers, two, Policy(routing="round-robin")).advance(flow, INF)
    assert sojourns(turns).tolist() == [3.0, 3.0, 4.0, 3.5]
    looks = Station(servers, two, Policy(routing="least-loaded")).advance(at(0.0, 1.0, 3.5, 3.6), INF)
    assert sojourns(looks).tolist() == pytest.approx([3.0, 3.0, 3.0, 5.9])  # at 3.6 both have one: the first gets it


def test_a_draining_replica_ends_its_work_and_is_paid_until_then():
    scaling = Autoscaling(kind="schedule", maximum=2, schedule=((1.0, 1),))
    stage = Station(Servers(mean_s=4.0), Replicas(count=2, scaling=scaling), Policy(routing="round-robin"))
    left = stage.advance(at(0.0, 0.5, 0.6, 0.7), INF)
    assert left.time_s.tolist() == [4.0, 4.5, 8.0, 12.0]  # the fourth moves from the second replica to the first
    found = stage.statistics()
    assert found["replica_s"] == pytest.approx(12.0 + 4.5)
    assert found["settled_s"] == 12.0


def test_a_cache_answers_its_share_whatever_the_cuts():
    policy = Policy(hit_rate=0.3, hit_s=0.001)
    stage = Station(Servers(servers=64, mean_s=1.0), policy=policy, seed=3)
    left = stage.advance(arrivals(50_000, 10.0), INF)
    hits = stage.statistics()["cached"]
    assert hits == (sojourns(left) < 0.5).sum()
    assert hits / 50_000 == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 50_000))
    assert ((left.outcome == Outcome.CACHED) == (left.time_s - left.arrival_s < 0.5)).all()


@pytest.mark.parametrize("wrong", [{"servers": 0}, {"shards": 0}, {"mean_s": -1.0}, {"quantiles_s": [1.0]}])
def test_what_no_server_can_be_is_refused(wrong):
    with pytest.raises(CapacityError):
        Station(Servers(**wrong))


@pytest.mark.parametrize("wrong", [{"hit_rate": 1.5}, {"timeout_s": 0.0}, {"retries": -1}, {"fallback_s": -1.0}])
def test_what_no_policy_can_be_is_refused(wrong):
    with pytest.raises(CapacityError):
        Policy(**wrong)


# Theory


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (8, 0.8), (50, 0.9)])
def test_m_m_c(servers, load):
    left = Station(Servers(servers=servers, mean_s=1.0, spread="exponential"), seed=servers).advance(
        arrivals(600_000, load * servers), INF
    )
    assert mean_within(sojourns(left), 1 + erlang_c(servers, load * servers) / (servers * (1 - load)))


@pytest.mark.parametrize("variation", [0.0, 0.5, 2.0])
def test_m_g_1_is_pollaczek_khinchine(variation):
    left = Station(Servers(mean_s=1.0, spread="lognormal", variation=variation)).advance(arrivals(800_000, 0.6), INF)
    assert mean_within(sojourns(left), 1 + 0.6 * (1 + variation**2) / (2 * 0.4))


def test_a_table_of_quantiles_is_its_distribution():
    left = Station(Servers(quantiles_s=[1.0, 3.0])).advance(arrivals(400_000, 0.3), INF)  # uniform
    mean, square = 2.0, 13 / 3
    assert mean_within(sojourns(left), mean + 0.3 * square / (2 * (1 - 0.6)))


def m_d_c(servers: int, rate: float, most: int = 400) -> float:
    """Return the mean wait in M/D/c with service 1 from its states one service time apart (Crommelin 1932)."""
    poisson = np.exp([n * math.log(rate) - rate - math.lgamma(n + 1) for n in range(most)])
    step = np.zeros((most, most))
    for now in range(most):
        left = max(now - servers, 0)
        step[now, left:] = poisson[: most - left]
        step[now, -1] += 1 - step[now].sum()
    state = np.full(most, 1 / most)
    for _ in range(12):
        step = step @ step
    state = state @ step
    return float((state * np.maximum(np.arange(most) - servers, 0)).sum() / rate)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.8), (4, 0.85)])
def test_m_d_c(servers, load):
    expected = m_d_c(servers, load * servers)
    if servers == 1:
        assert expected == pytest.approx(load / (2 * (1 - load)), rel=1e-6)
    left = Station(Servers(servers=servers, mean_s=1.0)).advance(arrivals(600_000, load * servers), INF)
    assert mean_within(sojourns(left) - 1, expected)


def test_erlang_b_without_a_waiting_room():
    load, servers = 6.0, 8
    left = Station(Servers(servers=servers, mean_s=1.0, spread="exponential"), policy=Policy(queue_limit=0)).advance(
        arrivals(400_000, load), INF
    )
    terms = [load**k / math.factorial(k) for k in range(servers + 1)]
    assert mean_within((left.outcome == Outcome.SHED).astype(float), terms[-1] / sum(terms))


# Other engines


def test_the_same_queue_in_simpy_request_by_request():
    """Deterministic service and the same arrivals: every request leaves at the same moment."""
    flow, ended = arrivals(3000, 2.5, seed=5), {}
    world = simpy.Environment()
    servers = simpy.Resource(world, 3)

    def request(number: int, time_s: float):
        yield world.timeout(time_s)
        with servers.request() as turn:
            yield turn
            yield world.timeout(1.0)
        ended[number] = world.now

    for number, time_s in enumerate(flow.time_s):
        world.process(request(number, time_s))
    world.run()
    left = Station(Servers(servers=3, mean_s=1.0)).advance(flow, INF)
    order = np.argsort(left.request)
    assert left.time_s[order] == pytest.approx([ended[number] for number in range(3000)], rel=1e-12)


def test_the_same_queue_in_ciw():
    ciw.seed(4)
    times_s = np.cumsum(np.random.default_rng(4).exponential(1 / 1.6, 3000))
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*np.diff(times_s, prepend=0.0), INF])],
        service_distributions=[ciw.dists.Deterministic(1.0)], number_of_servers=[2],
    )  # fmt: skip
    world = ciw.Simulation(network)
    world.simulate_until_max_time(1e6)
    theirs = sorted((record.arrival_date, record.exit_date) for record in world.get_all_records())
    left = Station(Servers(servers=2, mean_s=1.0)).advance(Flow.of(np.arange(3000), times_s), INF)
    assert left.time_s == pytest.approx([ended for _, ended in theirs], rel=1e-9)


# Whatever is simulated

POLICIES = st.builds(
    Policy, routing=st.sampled_from(["shared", "round-robin", "least-loaded"]),
    queue_limit=st.sampled_from([None, 0, 3]), timeout_s=st.sampled_from([INF, 0.7]), retries=st.integers(0, 2),
    hit_rate=st.sampled_from([0.0, 0.2]), fallback_s=st.sampled_from([None, 0.4]), hit_s=st.just(0.1),
)  # fmt: skip
STAGES = st.fixed_dictionaries({
    "work": st.builds(
        Servers, servers=st.integers(1, 3), mean_s=st.just(1.0), spread=st.sampled_from(["fixed", "exponential"]),
        shards=st.integers(1, 3),
    ),
    "replicas": st.sampled_from([
        Replicas(count=1), Replicas(count=3),
        Replicas(count=2, failures=Failures(outages=((0, 3.0, 9.0),), mean_between_s=20, mean_repair_s=2)),
        Replicas(count=2, scaling=Autoscaling(
            kind="utilization", maximum=5, interval_s=4, cold_start_s=3, scale_down_delay_s=5)),
        Replicas(count=1, scaling=Autoscaling(kind="queue", target=2, maximum=3, interval_s=2, scale_down_delay_s=3)),
    ]),
    "policy": POLICIES, "seed": st.integers(0, 3),
})  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(how=STAGES, load=st.floats(0.3, 1.5), cuts=st.lists(st.floats(0.0, 300.0), max_size=5), round_s=st.booleans())
def test_cuts_conservation_and_little(how, load, cuts, round_s):
    flow = arrivals(300, load * how["replicas"].count * how["work"].servers)
    if round_s:  # many arrivals at one moment, some of them at a cut
        whole = np.round(flow.time_s)
        flow, cuts = Flow.of(flow.request, whole), [round(cut) for cut in cuts]
    stage = Station(**how)
    left, cut = stage.advance(flow, INF), Station(**how)
    again = in_cuts(cut, flow, cuts)
    for name in Flow.__slots__:
        np.testing.assert_array_equal(getattr(again, name), getattr(left, name))
    assert sorted(left.request) == list(range(300))
    assert (np.diff(left.time_s) >= 0).all()
    figures, others = stage.statistics(), cut.statistics()
    assert figures["inside"] == 0
    assert figures["served"] + figures["shed"] + figures["timed_out"] + figures["failed"] + figures["cached"] == 300
    inside_s = figures["mean_inside"] * figures["until_s"]
    assert inside_s == pytest.approx(others["mean_inside"] * others["until_s"], rel=1e-12)
    if how["policy"].hit_rate == 0 and how["policy"].fallback_s is None:
        assert inside_s == pytest.approx(sojourns(left).sum())  # Little's law


def test_memory_holds_only_those_inside():
    stage = Station(Servers(servers=4, mean_s=1.0))
    sizes = deque(maxlen=2)
    times_s = np.cumsum(np.random.default_rng(2).exponential(1 / 3.0, 400_000))
    for first in range(0, len(times_s), 8192):
        part = times_s[first : first + 8192]
        stage.advance(Flow.of(np.arange(first, first + len(part)), part), part[-1])
        sizes.append(len(stage._state.slots))
    assert sizes[0] == sizes[1] < 20_000
