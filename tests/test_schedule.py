"""Recurring jobs on idle serving devices: by hand, against a bound from intervals, and what more load must do."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity.errors import CapacityError
from capacity.fleet.arrivals import Diurnal
from capacity.phases.schedule import HOUR_S, RecurringJob, idle_devices, share

DAY_S = 24 * HOUR_S
ALL_DAY = [2.0] * 24
NOBODY = [0.0] * 24


def job(name="train", hours=10.0, every=24, deadline=24, devices=100, start=0.0) -> RecurringJob:
    """Return a job from device-hours of work and hours of the clock."""
    return RecurringJob(name, hours * HOUR_S, every * HOUR_S, deadline * HOUR_S, devices, start * HOUR_S)


def test_a_device_serves_or_it_does_not():
    shares = np.zeros(24)
    shares[:4] = [0, 0.01, 0.5, 0.51]
    assert idle_devices(10, shares)[:5].tolist() == [10, 9, 5, 4, 10]
    assert idle_devices(49, np.full(24, 28 / 49)).tolist() == [21.0] * 24  # 28/49·49 is a hair above 28


def test_a_job_that_fits_is_free():
    found = share([job(hours=48)], ALL_DAY)  # 2 devices for 24 h
    (placement,) = found.placements
    assert (placement.fits, found.rented_devices, found.conflicts) == (True, 0, ())
    assert placement.free_device_s == pytest.approx(48 * HOUR_S)
    assert placement.rented_device_s == pytest.approx(0, abs=1e-3)
    assert found.free_device_s == pytest.approx(found.idle_device_s) == pytest.approx(48 * HOUR_S)


def test_what_does_not_fit_rents_the_fewest_devices():
    found = share([job(hours=49)], ALL_DAY)  # an hour too many
    (placement,) = found.placements
    assert (placement.fits, found.rented_devices, placement.alone_devices) == (False, 1, 1)
    assert placement.rented_device_s == pytest.approx(HOUR_S)  # rented devices do no more than they must
    assert found.conflicts == ("train needs 1 device beside the idle ones even if it were alone",)


def test_only_the_hours_of_its_window_count():
    idle = np.zeros(24)
    idle[[6, 7, 12]] = 3
    cases = {
        (6, 2): 0,  # 6 and 7 h give 6 device-hours
        (5, 2): 2,  # 5 and 6 h give 3, two devices the other 3 and more
        (5.5, 2): 3,  # from 5:30 to 7:30 there is one whole hour, at 6 h
        (22, 9): 1,  # until 7 h: 3 are missing in nine hours
        (22, 10): 0,  # until 8 h
    }
    for (start, deadline), rented in cases.items():
        assert share([job(hours=6, deadline=deadline, start=start)], idle).rented_devices == rented


def test_a_window_past_midnight_goes_on_in_the_morning():
    idle = np.zeros(24)
    idle[[23, 0, 1]] = 2
    found = share([job(hours=6, deadline=6, start=21)], idle)
    assert (found.rented_devices, found.placements[0].fits) == (0, True)


def test_two_jobs_that_fit_alone_may_not_fit_together():
    found = share([job("train", 40), job("encode", 9, deadline=5)], ALL_DAY)
    train, encode = found.placements
    assert (encode.fits, train.fits, train.alone_devices) == (True, False, 0)  # the earlier deadline goes first
    assert found.conflicts == ("train fits alone but not beside encode",)
    assert found.rented_devices == 1  # 49 of 48 device-hours
    assert found.free_device_s == pytest.approx(48 * HOUR_S)


def test_a_weekly_job_uses_every_night_of_the_week():
    idle = [5.0] * 8 + [0.0] * 16
    weekly = job("train", 280, every=168, deadline=168)
    assert share([weekly], idle).rented_devices == 0  # 7 nights of 40
    nightly = job("encode", 5, deadline=8)
    both = share([weekly, nightly], idle)
    assert both.rented_devices == 1  # 35 more in the week, which one device does by day
    assert both.free_device_s * 7 == pytest.approx(280 * HOUR_S)
    of_week, of_night = (placement.rented_device_s for placement in both.placements)
    assert of_week + 7 * of_night == pytest.approx(35 * HOUR_S)


def test_a_job_that_no_number_of_devices_saves_is_told_and_left_out():
    found = share([job("slow", 20, deadline=4, devices=4), job("train", 48)], ALL_DAY)
    slow, train = found.placements
    assert (slow.alone_devices, slow.fits, slow.free_device_s) == (None, False, 0)
    assert train.fits
    assert found.rented_devices == 0
    assert found.conflicts == (
        "slow can never be done in time: 20 device-hours in 4 whole hours, on at most 4 devices",
    )


def test_earliest_deadline_first_would_fail_where_a_job_can_use_few_devices():
    """Idle 2, 2, 1: the first by deadline takes both devices of the first hour, and the second, on one device, is late.

    Sharing the first two hours does both.
    """
    idle = [2.0, 2.0, 1.0] + [0.0] * 21
    first, second = job("first", 2, deadline=2, devices=2), job("second", 3, deadline=3, devices=1)
    found = share([first, second], idle)
    assert found.rented_devices == 0
    assert all(placement.fits for placement in found.placements)


def test_a_job_uses_no_more_devices_at_once_than_it_can():
    idle = [0.0, 0.0, 4.0, 4.0] + [0.0] * 20
    # 12 device-hours in 4 h on at most 3 devices: 3 in every hour, so 3 rented in the first two and none after
    found = share([job(hours=12, deadline=4, devices=3)], idle)
    assert found.rented_devices == 3
    assert found.free_device_s == pytest.approx(6 * HOUR_S)


def test_no_jobs_need_nothing():
    found = share([], ALL_DAY)
    assert (found.placements, found.rented_devices, found.free_device_s) == ((), 0, 0)
    assert found.idle_device_s == 48 * HOUR_S


HOURS = st.integers(1, 24)
FEW, ANY = st.integers(1, 8), st.just(10_000)


@st.composite
def daily(draw, name: str, devices=FEW) -> RecurringJob:
    deadline = draw(HOURS)
    return job(name, draw(st.floats(0.1, 40)), 24, deadline, draw(devices), draw(st.integers(0, 23)))


JOBS = st.tuples(daily("a"), daily("b"), daily("c"))
UNLIMITED = st.tuples(*(daily(name, ANY) for name in "abc"))
IDLE = st.lists(st.integers(0, 6), min_size=24, max_size=24).map(lambda idle: np.array(idle, dtype=float))


@settings(deadline=None, max_examples=40)
@given(JOBS, IDLE)
def test_no_more_idle_hours_are_used_than_there_are_and_all_work_is_done(jobs, idle):
    found = share(jobs, idle)
    assert found.free_device_s <= found.idle_device_s * (1 + 1e-9) + 1e-3
    for wanted, placement in zip(jobs, found.placements, strict=True):
        done = placement.free_device_s + placement.rented_device_s
        assert done == pytest.approx(0 if placement.alone_devices is None else wanted.device_s, abs=1)
        assert placement.fits <= (placement.alone_devices == 0)
    assert (found.rented_devices == 0) == all(one.fits for one in found.placements if one.alone_devices is not None)


@settings(deadline=None, max_examples=40)
@given(JOBS, IDLE, IDLE)
def test_more_serving_load_never_makes_it_cheaper(jobs, idle, load):
    assert share(jobs, np.maximum(idle - load, 0)).rented_devices >= share(jobs, idle).rented_devices


def rented_by_intervals(jobs, idle) -> int:
    """Return the fewest devices by the worst interval: work that must lie within it, less what is idle in it.

    Exact for runs that may use any number of devices (Hall's condition). Days are laid end to end, so that windows past
    midnight lie in one piece, and intervals up to three days are looked at.
    """
    starts = [(one.first_hour + 24 * day, one) for day in range(5) for one in jobs]
    worst = 0.0
    for begin in range(24):
        for end in range(begin + 1, begin + 73):
            inside = sum(one.device_hours for at, one in starts if begin <= at and at + one.window_hours <= end)
            free = sum(idle[hour % 24] for hour in range(begin, end))
            worst = max(worst, (inside - free) / (end - begin))
    return math.ceil(worst - 1e-6)


@settings(deadline=None, max_examples=30)
@given(UNLIMITED, IDLE)
def test_the_fewest_devices_are_those_of_the_worst_interval(jobs, idle):
    # work over all days can exceed what is idle over all days: that interval is as long as time
    over_all = math.ceil((sum(one.device_hours for one in jobs) - idle.sum()) / 24 - 1e-6)
    assert share(jobs, idle).rented_devices == max(rented_by_intervals(jobs, idle), over_all)


def test_the_day_of_the_traffic_leaves_the_night():
    """The hours of a day as the simulation has them: half the peak on average, busiest at 20 h."""
    day = Diurnal(1.0, 0.5, 20.0)
    shares = day.rate_at((np.arange(24) + 0.5) * HOUR_S)
    idle = idle_devices(10, shares)
    assert idle.sum() == pytest.approx(120, abs=24)  # half of 240, less what rounding to whole devices takes
    assert idle[8] > idle[20]
    found = share([job("train", 7 * 60, every=168, deadline=168)], idle)
    assert (found.rented_devices, found.conflicts) == (0, ())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hours": 0.0}, "job train: device_s is 0; allowed: above 0"),
        ({"every": 1.5, "deadline": 1}, "every_s is 5400; allowed: whole hours"),
        ({"deadline": 25}, "deadline_s is 90000; allowed: up to every_s, 86400"),
        ({"start": -1}, "start_s is -3600; allowed: 0 or more"),
        ({"devices": 0}, "devices is 0; allowed: above 0"),
    ],
)
def test_wrong_jobs_are_refused(wrong, message):
    with pytest.raises(CapacityError, match=message):
        job(**wrong)


def test_wrong_days_and_periods_are_refused():
    with pytest.raises(CapacityError, match=r"shape \(23,\); allowed: 24 numbers"):
        share([job()], [1.0] * 23)
    with pytest.raises(CapacityError, match=r"shares of shape \(3,\); allowed: one for each of 24 hours"):
        idle_devices(10, [0.1, 0.2, 0.3])
    with pytest.raises(CapacityError, match=r"shares from 0 to 1\.2; allowed: 0 to 1"):
        idle_devices(10, [0.0] * 23 + [1.2])
    with pytest.raises(CapacityError, match=r"periods \(train 24 h, odd 997 h\) repeat after 23928 h"):
        share([job(), job("odd", every=997)], ALL_DAY)
    with pytest.raises(CapacityError, match="names of jobs must differ: train, train"):
        share([job(), job()], NOBODY)
