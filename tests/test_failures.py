"""Failures of long runs: by hand, against published figures, Lambert's W and a simulation that knows no formula."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import lambertw

from capacity.errors import CapacityError
from capacity.phases.failures import (
    DAY_S,
    OBSERVED,
    Goodput,
    Reliability,
    best_interval,
    checkpoint_time,
    daly_interval,
    device_mtbf,
    expected_failures,
    goodput,
    job_mtbf,
    wall_factor,
    young_interval,
)
from capacity.timing.band import Estimate

HOUR_S = 3600.0
JOBS = st.builds(
    Reliability,
    device_mtbf_s=st.floats(100 * DAY_S, 10_000 * DAY_S),
    checkpoint_s=st.floats(1, 600),
    restart_s=st.floats(0, 1800),
    blocking=st.floats(0.01, 1),
)
DEVICES = st.integers(1, 20_000)


def test_failures_of_devices_add_up():
    # 419 in 54 days on 16,384 devices: one in 11,135 s
    llama = OBSERVED[0]
    assert job_mtbf(llama.device_mtbf_s, 16_384) == pytest.approx(54 * DAY_S / 419)
    assert job_mtbf(1000.0, np.array([1.0, 10.0])) == pytest.approx(np.array([1000, 100]))


def test_rsc_1_as_its_paper_projects_it():
    """Kokolis et al. 2024: 1.8 h at 16,384 GPUs, 0.23 h at 131,072."""
    hours = job_mtbf(OBSERVED[1].device_mtbf_s, np.array([16_384, 131_072])) / HOUR_S
    assert hours == pytest.approx([1.8, 0.23], rel=0.025)


def test_small_jobs_fail_more_often_than_the_rates_of_nodes_say():
    """A limit, held here: RSC-1's jobs of 1,024 GPUs failed every 7.9 h (same paper), not every 28.8 h."""
    assert job_mtbf(OBSERVED[1].device_mtbf_s, 1024) / HOUR_S == pytest.approx(28.8, abs=0.1)


def test_the_band_of_devices_covers_the_fleets_it_is_made_of():
    found = device_mtbf()
    assert all(found.low < one.device_mtbf_s < found.high for one in OBSERVED)
    assert found.basis == "projected"
    with pytest.raises(CapacityError, match="allowed: two or more"):
        device_mtbf(OBSERVED[:1])


def test_a_checkpoint_is_bytes_over_bandwidth():
    assert checkpoint_time(100.0, np.array([10.0, 20.0])) == pytest.approx(np.array([10, 5]))
    with pytest.raises(CapacityError, match="bytes_per_s is 0; allowed: above 0"):
        checkpoint_time(1.0, 0.0)


def test_daly_s_published_best_intervals():
    """Figures 3 to 5 of Daly 2006: M of 24 h, 6 h and 15 min with a pause of 5 min, in minutes."""
    mtbf, pause = np.array([24 * 60.0, 6 * 60.0, 15.0]), 5.0
    assert daly_interval(mtbf, pause) == pytest.approx([117, 57, 9.1], abs=0.5)
    job = Reliability(device_mtbf_s=mtbf, checkpoint_s=pause, restart_s=10.0)
    assert best_interval(job, 1.0) == pytest.approx([117, 57, 9.1], abs=0.5)
    assert young_interval(mtbf, pause) == pytest.approx([120, 60, 12.2], abs=0.1)
    assert daly_interval(10.0, 20.0) == 10  # no use to save oftener than it fails


@given(JOBS, DEVICES)
def test_the_best_interval_is_lambert_s(job, devices):
    mtbf, pause = job_mtbf(job.device_mtbf_s, devices), job.pause_s
    lambert = mtbf * (1 + lambertw(-np.exp(-1 - pause / mtbf)).real)
    assert best_interval(job, devices) == pytest.approx(max(lambert, job.tail_s), rel=1e-5)


@given(JOBS, DEVICES, st.floats(0.2, 5))
def test_no_other_interval_does_better(job, devices, times):
    best = best_interval(job, devices)
    other = max(best * times, job.tail_s)
    assert goodput(job, devices, other).useful <= goodput(job, devices).useful * (1 + 1e-9)


@given(JOBS, st.lists(DEVICES, min_size=2, max_size=5, unique=True))
def test_goodput_is_a_share_and_falls_with_devices(job, devices):
    found = goodput(job, np.array(sorted(devices), dtype=float))
    assert np.all((found.useful > 0) & (found.useful <= 1))
    assert np.all(np.diff(found.useful) <= 1e-12)
    assert np.all(found.lost >= -1e-12)
    assert found.useful + found.saving + found.lost == pytest.approx(1)


@given(JOBS, DEVICES)
def test_a_write_beside_the_work_is_never_worse(job, devices):
    blocking = replace(job, blocking=1.0)
    interval = max(best_interval(blocking, devices), job.tail_s)
    assert goodput(job, devices, interval).useful >= goodput(blocking, devices, interval).useful * (1 - 1e-9)


def test_a_job_that_hardly_fails_loses_only_its_checkpoints():
    found = goodput(Reliability(device_mtbf_s=1e15, checkpoint_s=10.0), 1.0, 90.0)
    assert (found.useful, found.saving, found.lost) == pytest.approx((0.9, 0.1, 0), abs=1e-9)


def test_a_job_that_fails_all_the_time_gets_nothing_done():
    assert goodput(Reliability(device_mtbf_s=100.0, checkpoint_s=10.0), 1e6, 3600.0).useful == 0


def test_a_job_that_never_ends_has_no_wall_time():
    with pytest.raises(CapacityError, match="on 1e\\+09 devices the job fails long before it is saved once"):
        wall_factor(Reliability(checkpoint_s=3600.0), 1e9)


def simulated(job: Reliability, mtbf_s: float, interval_s: float, checkpoints: int) -> tuple[float, float]:
    """Return (seconds a checkpoint, failures a checkpoint), stepping from failure to failure."""
    random = np.random.default_rng(7)
    cycle_s, whole_s = interval_s + job.pause_s, interval_s + job.pause_s + job.tail_s
    start, written, failures = 0.0, 0, 0
    while True:
        fails = start + random.exponential(mtbf_s)
        held = max(0, int((fails - start - whole_s) // cycle_s) + 1)
        if written + held >= checkpoints:
            end = start + whole_s + (checkpoints - written - 1) * cycle_s
            return end / checkpoints, failures / checkpoints
        written, failures, start = written + held, failures + 1, fails
        while (again := random.exponential(mtbf_s)) < job.restart_s:
            start, failures = start + again, failures + 1
        start += job.restart_s  # memoryless: the time to the next failure may be drawn anew


@pytest.mark.parametrize("blocking", [1.0, 0.5, 0.05])
@pytest.mark.parametrize("interval_s", [900.0, 3000.0, 9000.0])
def test_a_simulation_spends_as_long_and_fails_as_often(blocking, interval_s):
    job, mtbf_s = Reliability(device_mtbf_s=5e5, checkpoint_s=800.0, restart_s=700.0, blocking=blocking), 5e3
    seconds, failures = simulated(job, mtbf_s, interval_s, 150_000)
    found = goodput(job, 100.0, interval_s)
    assert interval_s / found.useful == pytest.approx(seconds, rel=0.01)
    assert expected_failures(found, interval_s) == pytest.approx(failures, rel=0.01)


def test_a_run_meets_its_wall_time_over_mtbf():
    found = Goodput(mtbf_s=50.0, interval_s=10.0, useful=0.25, saving=0.5, lost=0.25)
    assert expected_failures(found, 100.0) == 8  # 400 s of wall time, one each 50 s


def test_what_is_not_known_of_devices_widens_the_wall_time():
    job = Reliability(checkpoint_s=30.0)
    sure = wall_factor(job, 1000.0, Estimate(2000 * DAY_S, {}, "measured"))
    unsure = wall_factor(job, np.array([8.0, 1000.0, 16_384.0]))
    assert sure.errors["reliability"] == pytest.approx(0)
    assert sure.basis == "measured"
    assert unsure.basis == "projected"
    assert np.all(unsure.value > 1)
    assert job.device_mtbf_s == device_mtbf().value
    assert np.all(np.diff(unsure.value) > 0)
    assert np.all(np.diff(unsure.errors["reliability"]) > 0)
    assert sure.value == pytest.approx(1 / goodput(replace(job, device_mtbf_s=2000 * DAY_S), 1000.0).useful)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device_mtbf_s": 0.0}, "device_mtbf_s is 0; allowed: above 0"),
        ({"checkpoint_s": np.array([1.0, -1.0])}, "checkpoint_s is -1; allowed: above 0"),
        ({"restart_s": -1.0}, "restart_s is -1; allowed: 0 or more"),
        ({"blocking": 1.5}, r"blocking is 1.5 to 1.5; allowed: \(0, 1\]"),
        ({"blocking": float("nan")}, "blocking is nan"),
    ],
)
def test_wrong_jobs_are_refused(wrong, message):
    with pytest.raises(CapacityError, match=message):
        Reliability(**{"device_mtbf_s": 1e6, "checkpoint_s": 10.0} | wrong)


def test_an_interval_shorter_than_a_write_is_refused():
    job = Reliability(device_mtbf_s=1e9, checkpoint_s=100.0, blocking=0.1)
    with pytest.raises(CapacityError, match="interval_s is 50; allowed: above 0 and no shorter than the 90 s"):
        goodput(job, 10.0, 50.0)
    with pytest.raises(CapacityError, match="devices is 0"):
        goodput(job, 0.0)
