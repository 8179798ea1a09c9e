"""The life of replicas, moment by moment."""

from __future__ import annotations

import math

import numpy as np
import pytest

from capacity.errors import CapacityError
from capacity.fleet.flow import Flow
from capacity.fleet.replicas import (
    ABSENT,
    DRAINING,
    FAILED,
    STARTING,
    TIMELINE,
    UP,
    Autoscaling,
    Failures,
    Life,
    Replicas,
    apply,
    born,
    count,
    key_of,
    release,
    settle,
)  # fmt: skip
from capacity.fleet.servers import Policy, Servers, Station

INF = math.inf
KEY = key_of(1, "stage")


def lived(replicas: Replicas, until_s: float, load: float = 0.0, waiting: int = 0) -> tuple[Life, list]:
    """Return the replicas after `load` of them were busy until `until_s`, and their status at each change."""
    life, seen, busy_s, last_s = born(replicas, KEY), [], 0.0, 0.0
    while life.next_s[0] <= until_s:
        now_s = float(life.next_s[0])
        busy_s += min(load, count(life, UP)) * (now_s - last_s)
        apply(life, now_s, busy_s, waiting)
        last_s = now_s
        seen.append((now_s, life.status.tolist()))
    settle(life, until_s)
    return life, seen


def scaling(**how) -> Autoscaling:
    return Autoscaling(**({"kind": "utilization", "target": 0.5, "maximum": 4, "interval_s": 10.0} | how))


def test_nothing_happens_to_replicas_that_neither_fail_nor_scale():
    life = born(Replicas(count=3), KEY)
    assert life.next_s[0] == INF
    assert life.status.tolist() == [UP] * 3


def test_listed_outages_and_a_lost_region():
    failures = Failures(outages=((0, 5.0, 8.0), (0, 6.0, 12.0))).with_region([1, 2], 10.0, 11.0)
    life, seen = lived(Replicas(count=3, failures=failures), 20.0)
    assert seen == [
        (5.0, [FAILED, UP, UP]),
        (6.0, [FAILED, UP, UP]),  # down already: until the later of both ends
        (10.0, [FAILED, FAILED, FAILED]),
        (11.0, [FAILED, UP, UP]),
        (12.0, [UP, UP, UP]),
    ]
    assert life.now["paid_s"][0] == 60.0
    assert life.now["up_s"][0] == 60.0 - 7.0 - 2.0


def test_random_failures_have_their_means_and_their_seed():
    replicas = Replicas(count=20, failures=Failures(mean_between_s=90.0, mean_repair_s=10.0))
    life, seen = lived(replicas, 20_000.0)
    # a renewal of up and down: the share of time up has a standard error of √(2·u·(1−u)·τ/T), τ = 9 s, T = 400,000 s
    assert life.now["up_s"][0] / 400_000 == pytest.approx(0.9, abs=4 * math.sqrt(2 * 0.09 * 9 / 400_000))
    assert lived(replicas, 20_000.0)[1] == seen


def test_utilization_asks_for_what_brings_it_to_its_target():
    _, seen = lived(Replicas(count=2, scaling=scaling(cold_start_s=12.0)), 30.0, load=1.8)
    assert seen == [
        (10.0, [UP, UP, STARTING, STARTING]),  # 1.8 busy at a target of 0.5: 3.6
        (20.0, [UP, UP, STARTING, STARTING]),  # 4 are coming already
        (22.0, [UP, UP, UP, UP]),
        (30.0, [UP, UP, UP, UP]),
    ]


def test_fewer_only_after_a_while_and_the_most_asked_for_meanwhile():
    life = born(Replicas(count=4, scaling=scaling(scale_down_delay_s=20.0)), KEY)
    for now_s, busy_s in ((10.0, 5.0), (20.0, 17.0), (30.0, 22.0)):  # 0.5, 1.2, 0.5 busy: 1, 3, 1 wanted
        assert life.status.tolist() == [UP] * 4
        assert life.next_s[0] == now_s
        apply(life, now_s, busy_s, 0)
    assert life.status.tolist() == [UP, UP, UP, DRAINING]
    release(life, 3, 35.0)
    settle(life, 40.0)
    assert life.status.tolist() == [UP, UP, UP, ABSENT]
    assert (life.now["paid_s"][0], life.now["up_s"][0]) == (4 * 35.0 + 3 * 5.0, 4 * 30.0 + 3 * 10.0)


def test_a_replica_that_was_leaving_is_taken_back_before_another_starts():
    how = scaling(kind="schedule", schedule=((1.0, 1), (2.0, 3)), cold_start_s=5.0)
    _, seen = lived(Replicas(count=2, scaling=how), 10.0)
    assert seen == [
        (1.0, [UP, DRAINING, ABSENT, ABSENT]),
        (2.0, [UP, UP, STARTING, ABSENT]),
        (7.0, [UP, UP, UP, ABSENT]),
    ]


def test_queue_length_per_replica_but_no_fewer_than_are_busy():
    _, seen = lived(Replicas(count=1, scaling=scaling(kind="queue", target=5.0)), 10.0, waiting=11)
    assert seen == [(10.0, [UP, UP, UP, ABSENT])]
    _, seen = lived(Replicas(count=3, scaling=scaling(kind="queue", scale_down_delay_s=0.0)), 10.0, load=1.6)
    assert seen == [(10.0, [UP, UP, DRAINING, ABSENT])]


def test_perfect_is_what_the_busier_end_of_a_step_needs():
    how = Autoscaling.perfect(lambda time_s: 10 + 10 * time_s, 8.0, 9, [0.0, 1.0, 2.0])
    assert how.schedule == ((0.0, 3), (1.0, 4), (2.0, 4))
    assert how.cold_start_s == 0.0


def test_all_lost_for_good_is_the_end():
    life, _ = lived(Replicas(count=1, scaling=scaling(maximum=1), failures=Failures(outages=((0, 15.0, INF),))), 1e9)
    assert life.next_s[0] == INF
    stage = Station(Servers(mean_s=1.0), Replicas(count=1, failures=Failures(outages=((0, 0.5, INF),))))
    left = stage.advance(Flow.of(np.arange(2), np.array([0.0, 1.0])), INF)
    assert left.request.tolist() == [0]
    assert stage.statistics()["inside"] == 1


def test_the_timeline_is_bounded_and_right_at_its_points():
    failures = Failures(mean_between_s=10.0, mean_repair_s=1.0)
    life, seen = lived(Replicas(count=3, failures=failures), 30_000.0)
    points = life.timeline[: int(life.now["points"][0])]
    assert len(seen) > 3 * TIMELINE > 3 * len(points) > TIMELINE
    assert (np.diff(points[:, 0]) > 0).all()
    times_s = np.array([time_s for time_s, _ in seen])
    before = np.searchsorted(times_s, points[1:, 0]) - 1  # the last change before the next point
    assert points[:-1, 1].tolist() == [seen[place][1].count(UP) if place >= 0 else 3 for place in before]
    assert points[-1, 1] == seen[-1][1].count(UP)


def test_autoscaling_follows_a_day_and_costs_less_than_the_peak():
    times_s = 2000 * np.sort(1 - np.sqrt(np.random.default_rng(3).uniform(0, 1, 30_000)))  # 30 a second, ever less
    how = scaling(maximum=60, cold_start_s=5.0, scale_down_delay_s=30.0, target=0.7)
    stage = Station(Servers(mean_s=0.4), Replicas(count=20, scaling=how), Policy(timeout_s=5.0, retries=3))
    left = stage.advance(Flow.of(np.arange(len(times_s)), times_s), INF)
    figures = stage.statistics()
    assert figures["served"] == len(left) == 30_000
    assert 0.4 < figures["utilization"] < 0.75
    up = figures["timeline"][:, 1]
    assert up.max() > 2 * up[-1]


@pytest.mark.parametrize(
    "wrong", [{"minimum": 0}, {"minimum": 9}, {"target": 0.0}, {"interval_s": 0.0}, {"cold_start_s": -1}]
)
def test_what_no_autoscaler_can_be_is_refused(wrong):
    with pytest.raises(CapacityError):
        scaling(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"outages": ((0, 2.0, 1.0),)}, {"outages": ((-1, 1.0, 2.0),)}, {"mean_between_s": 0.0}, {"mean_repair_s": -1.0}],
)
def test_what_no_failure_can_be_is_refused(wrong):
    with pytest.raises(CapacityError):
        Failures(**wrong)


def test_replicas_that_are_not_there_are_refused():
    with pytest.raises(CapacityError, match="replica 3"):
        Replicas(count=3, failures=Failures(outages=((3, 1.0, 2.0),)))
    with pytest.raises(CapacityError, match="1 to 4 allowed"):
        Replicas(count=5, scaling=scaling())
