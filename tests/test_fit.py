"""The fit of forms: known parameters come back from noisy rows, shared by devices or a device's own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_up import board, measured, products

from capacity.timing.fit import Sample, fitted, residuals
from capacity.timing.form import Form, Parameter
from capacity.timing.gemm import GEMM
from capacity.work.operations import Gemm

NOISE = 0.05
OWN = ("t0_s", "flop_efficiency", "bandwidth_efficiency", "derating")
TRUTH = GEMM.typical | {"t0_s": 4e-6, "flop_efficiency": 0.65, "bandwidth_efficiency": 0.85, "derating": 0.4}
SHARED = {"sharpness": 2.0, "half_rate_intensity": 90.0, "wave_rounding": 0.4, "prologue_columns": 300.0}
BOARDS = (
    board(),
    board(cores=60, memory_bandwidth=3e11),
    board(rates={"bf16": 900e12}, memory_bandwidth=3e12, cores=140),
)


def sample(count: int = 400, seed: int = 0, values=TRUTH, where=BOARDS[0], noise: float = NOISE) -> Sample:
    rows = measured(products(count, seed), where, values, noise, seed + 100)
    return rows.as_sample


def far(found, truth=TRUTH, names=OWN) -> float:
    """Return the largest distance of fitted values from the true ones, on the log scale."""
    return max(abs(np.log(found[name] / truth[name])) for name in names)


def error(found, truth=TRUTH, where=BOARDS[0]) -> float:
    """Return the mean error of fitted values on other shapes, without noise."""
    other = products(300, seed=77)
    return float(np.mean(np.abs(GEMM.seconds(other, where, found) / GEMM.seconds(other, where, truth) - 1)))


@pytest.mark.parametrize("seed", range(3))
def test_known_values_come_back_from_noisy_rows(seed):
    (found,) = fitted(GEMM, [sample(seed=seed)])
    assert far(found, names=OWN[:3]) < 0.08
    assert error(found) < 0.02
    assert found.keys() == GEMM.typical.keys()


def test_devices_of_one_family_share_its_constants_and_nothing_else():
    own = [
        TRUTH | SHARED | {"flop_efficiency": share, "t0_s": t0_s}
        for share, t0_s in ((0.6, 2e-6), (0.75, 5e-6), (0.9, 3e-6))
    ]
    samples = [sample(250, seed, values, where) for seed, (values, where) in enumerate(zip(own, BOARDS, strict=True))]
    found = fitted(GEMM, samples)
    shared = [
        {parameter.name: each[parameter.name] for parameter in GEMM.parameters if parameter.shared} for each in found
    ]
    assert shared[0] == shared[1] == shared[2]
    assert far(found[0], TRUTH | SHARED, tuple(SHARED)) < 0.3
    for each, truth, where in zip(found, own, BOARDS, strict=True):
        assert far(each, truth, ("t0_s", "flop_efficiency")) < 0.12
        assert error(each, truth, where) < 0.03


def test_gross_outliers_hardly_move_it():
    clean = sample()
    times = clean.seconds.copy()
    wrong = np.random.default_rng(3).choice(len(times), 40, replace=False)
    times[wrong] *= np.where(np.arange(40) % 2, 8.0, 0.2)
    before, after = (fitted(GEMM, [each])[0] for each in (clean, dataclasses.replace(clean, seconds=times)))
    assert error(after) < error(before) + 0.02
    assert far(after, names=OWN[:3]) < 0.15


def test_few_rows_move_only_what_they_say():
    # Large products tell the rate, at a tenth of the prior's spread; of t0, bandwidth and the rest they say nothing.
    large = np.array([8192.0, 12288.0, 16384.0])
    prior = [dataclasses.replace(parameter, shared=False) for parameter in GEMM.parameters]
    truth = TRUTH | {"derating": GEMM.typical["derating"]}
    few = Sample(
        Gemm(m=large, n=large, k=large, dtype="bf16"), BOARDS[0],
        GEMM.seconds(Gemm(m=large, n=large, k=large, dtype="bf16"), BOARDS[0], truth),
    )  # fmt: skip
    (found,) = fitted(GEMM, [few], prior)
    moved = {p.name: abs(np.log(found[p.name] / p.start)) / p.spread for p in prior}
    assert found["flop_efficiency"] == pytest.approx(0.65, rel=0.12)
    assert moved["flop_efficiency"] > 0.5
    for name in ("t0_s", "bandwidth_efficiency", "split_s", "cache_bytes_per_cycle", "fill"):
        assert moved[name] < 0.05, name


def test_no_rows_leave_the_prior():
    empty = Gemm(m=np.array([]), n=np.array([]), k=np.array([]), dtype="bf16")
    prior = [parameter.started_at(1.1 * parameter.start) for parameter in GEMM.parameters]
    (found,) = fitted(GEMM, [Sample(empty, BOARDS[0], np.array([]))], prior)
    assert found == pytest.approx({parameter.name: parameter.start for parameter in prior}, rel=1e-6)


def test_a_closer_relative_counts_for_more():
    moved = []
    for closeness in (1.0, 0.1):
        prior = [parameter.started_at(parameter.start, closeness) for parameter in GEMM.parameters]
        (found,) = fitted(GEMM, [sample(10)], prior)
        moved.append(abs(np.log(found["flop_efficiency"] / GEMM.typical["flop_efficiency"])))
    assert moved[0] > 1.5 * moved[1] > 0


def test_fixed_names_stay():
    prior = [parameter.started_at((GEMM.typical | SHARED)[parameter.name]) for parameter in GEMM.parameters]
    fixed = frozenset(parameter.name for parameter in GEMM.parameters if parameter.shared)
    (found,) = fitted(GEMM, [sample(values=TRUTH | SHARED)], prior, fixed)
    assert {name: found[name] for name in fixed} == {p.name: p.start for p in prior if p.shared}
    assert far(found, names=OWN[:3]) < 0.05


def test_values_stay_within_their_bounds():
    slow = sample(100, values=TRUTH | {"flop_efficiency": 0.01})
    (found,) = fitted(GEMM, [slow])
    low = {parameter.name: parameter.low for parameter in GEMM.parameters}
    high = {parameter.name: parameter.high for parameter in GEMM.parameters}
    assert all(low[name] * (1 - 1e-9) <= value <= high[name] * (1 + 1e-9) for name, value in found.items())
    assert found["flop_efficiency"] < 0.12


def test_the_fit_is_deterministic():
    assert fitted(GEMM, [sample(100)]) == fitted(GEMM, [sample(100)])


def test_residuals_are_of_the_measured_over_the_predicted():
    line = Form("line", (Parameter("slope", 2.0, 0.1, 10),), lambda operation, _, values: values["slope"] * operation)
    rows = Sample(np.array([1.0, 2.0, 4.0]), BOARDS[0], np.array([3.0, 6.0, 12.0]))
    np.testing.assert_allclose(residuals(line, rows, {"slope": 2.0}), np.log(1.5))
    assert fitted(line, [rows])[0]["slope"] == pytest.approx(3.0, rel=0.01)  # the prior at 2 ± 50 % is one row of three


def test_a_prior_stays_inside_its_bounds():
    parameter = Parameter("share", 0.5, 0.1, 1.2, spread=0.2)
    assert [parameter.started_at(value).start for value in (0.01, 0.7, 9.0)] == [0.1, 0.7, 1.2]
    assert parameter.started_at(0.7, 0.5).spread == pytest.approx(0.1)
