"""Spot devices: re-work of jobs and stand-ins of pools, by hand, against simulation, and in a plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_plans import plan

from capacity.money.spot import extra_replicas, interrupted, wall_factor
from capacity.plan import JobPlan
from capacity.spec.buying import Spot
from capacity.timing.band import Estimate


def job(kind: str, devices: int = 8) -> JobPlan:
    return JobPlan(
        name="j", kind=kind, devices=devices, duration=Estimate(3600.0, {}, "calibrated"), every_s=86400.0,
        deadline_s=86400.0, device_hours_per_month=Estimate(100.0, {}, "calibrated"), memory_bytes={},
        memory_available_bytes=None,
    )  # fmt: skip


# Jobs


def test_nothing_is_lost_without_interruptions():
    assert wall_factor(1000, Spot(interruptions=0)) == 1


def test_a_job_saved_within_the_notice_pays_save_and_restart_alone():
    # 8 devices, each taken once in 80 h: once in 10 h; 60 s + 600 s of 36,000 s of work
    assert wall_factor(8, Spot(interruptions=1 / 80)) == pytest.approx(1 + 660 / 36_000)


def test_a_job_too_large_for_the_notice_does_work_again():
    small, large = (wall_factor(64, Spot(interruptions=0.01, checkpoint=size)) for size in (120, 121))
    assert large > small + 0.02


def test_the_factor_is_that_of_a_simulated_run():
    # saved in the notice: exponential stretches of work, each followed by a save and a restart
    spot, work_s = Spot(interruptions=0.5, checkpoint=60, notice=120, restart=540), 4e6
    stretches = np.random.default_rng(7).exponential(3600 / 0.5 / 4, 100_000)
    count = int(np.searchsorted(np.cumsum(stretches), work_s))
    assert (work_s + count * 600) / work_s == pytest.approx(wall_factor(4, spot), rel=0.01)


@given(st.integers(1, 512), st.floats(0, 0.2), st.floats(0, 0.2), st.floats(1, 600))
def test_more_interruptions_never_save_time(devices, rate, more, checkpoint):
    low, high = (wall_factor(devices, Spot(interruptions=r, checkpoint=checkpoint)) for r in (rate, rate + more))
    assert 1 <= low <= high * (1 + 1e-9)


def test_one_device_stops_a_training_run_but_only_its_part_of_a_batch_job():
    spot = Spot(interruptions=0.1)
    for kind, devices in (("training", 8), ("batch encode", 1)):
        found, factor = interrupted(job(kind), spot), 1 + 660 * 0.1 * devices / 3600
        assert float(found.duration.value) == pytest.approx(3600 * factor)
        assert float(found.device_hours_per_month.value) == pytest.approx(100 * factor)


# Pools


def test_stand_ins_by_hand():
    # a replica is gone for 480 s of each 100 h: q = 480 / 360,480 = 0.00133; one of one 0.13 %, both of two 1.8e-6
    assert extra_replicas(1, 1, Spot()) == 1
    assert extra_replicas(1, 1, Spot(short_share=0.002)) == 0
    assert extra_replicas(1000, 1, Spot(notice=600)) == 0  # another one works when the first goes
    assert extra_replicas(1000, 1, Spot(interruptions=0)) == 0


def test_stand_ins_are_the_fewest_by_the_binomial_distribution():
    spot, count = Spot(interruptions=0.2, restart=1200), 40
    extra = extra_replicas(count, 2, spot)
    gone = 2 * 0.2 / 3600 * 1080
    gone /= 1 + gone

    def short(more: int) -> float:
        total = count + more
        return sum(math.comb(total, k) * gone**k * (1 - gone) ** (total - k) for k in range(more + 1, total + 1))

    assert short(extra) <= spot.short_share < short(extra - 1)


@given(st.integers(1, 2000), st.floats(0, 1), st.floats(0, 1))
def test_more_interruptions_never_need_fewer(replicas, rate, more):
    low, high = (extra_replicas(replicas, 1, Spot(interruptions=r)) for r in (rate, rate + more))
    assert 0 <= low <= high


# A plan


SPOT = "pricing.term=spot"


def test_a_plan_on_spot_pays_stand_ins_and_says_so():
    option, rented = plan(("t4",), (SPOT,)).best, plan(("t4",)).best
    line = option.cost.lines[0]
    assert option.pools[0].replicas == rented.pools[0].replicas
    assert option.pools[0].spare_replicas == rented.pools[0].spare_replicas + 1
    assert "spot: 1 of the spares stand in for interrupted replicas (0.01 interruptions a device-hour, assumed)" in (
        line.flags
    )
    assert line.quantity == option.devices * 730
    jobs = [line for line in option.cost.lines if line.name == option.jobs[0].name]
    assert any("interruptions" in flag for flag in jobs[0].flags)


def test_a_deadline_is_missed_with_the_time_that_interruptions_take():
    calm = plan(("t4",)).best.jobs[0]
    tight = (f"training.0.deadline={float(calm.duration.value) * 1.05} s", "training.0.max_devices=1")
    found = plan(("t4",), (*tight, SPOT, "pricing.spot.interruptions=1")).options[0]
    (miss,) = found.violations
    assert (miss.where, miss.needed) == (calm.name, float(found.jobs[0].duration.value))
    assert miss.needed / miss.allowed == pytest.approx((1 + 660 / 3600) / 1.05)


def test_a_job_gets_the_devices_that_make_up_for_interruptions():
    calm = plan(("t4",)).best.jobs[0]
    tight = f"training.0.deadline={float(calm.duration.value) * 1.05} s"
    assert plan(("t4",), (tight,)).best.jobs[0].devices == calm.devices
    spot = plan(("t4",), (tight, SPOT, "pricing.spot.interruptions=1")).best.jobs[0]
    assert spot.devices > calm.devices
    assert float(spot.duration.value) <= spot.deadline_s == pytest.approx(float(calm.duration.value) * 1.05)


def test_what_the_scenario_says_is_not_called_assumed():
    line = plan(("t4",), (SPOT, "pricing.spot.interruptions=0.2")).best.cost.lines[0]
    assert any("(0.2 interruptions a device-hour)" in flag for flag in line.flags)
