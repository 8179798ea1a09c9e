"""What a model sees until it converges: by hand, held-out points, and the shipped references against their table."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capacity import catalogue, documents
from capacity.errors import CapacityError, InputError, UnknownNameError
from capacity.phases.convergence import BATCH, RUNS, samples_to_converge, to_converge
from capacity.spec.convergence import Convergence, Point

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT.parent / "shared" / "data" / "mlperf_rcp.csv"
EPOCH = 4_195_197_692
"""Samples in an epoch of the DLRM benchmarks, as their table says."""
NAMES = {
    "bert": "mlperf-bert",
    "dlrm": "mlperf-dlrm",
    "dlrm_dcnv2": "mlperf-dlrm-dcnv2",
    "gpt3": "mlperf-gpt3",
    "gpt_oss_20b": "mlperf-gpt-oss-20b",
    "llama2_70b_lora": "mlperf-llama-2-70b-lora",
    "llama31_405b": "mlperf-llama-3.1-405b",
    "llama31_8b": "mlperf-llama-3.1-8b",
}
SHIPPED = [catalogue.convergence(str(path)) for path in sorted((ROOT / "convergence").glob("*.yaml"))]


def reference(*rows, **more) -> Convergence:
    points = [{"batch": batch, "mean": mean, "std": std, "runs": runs} for batch, mean, std, runs in rows]
    given = {"id": "hand", "title": "by hand", "unit": "samples", "source": "made up", "date": "2026"}
    return Convergence.model_validate({**given, **more, "points": points})


def without(found: Convergence, index: int) -> Convergence:
    return found.model_copy(update={"points": found.points[:index] + found.points[index + 1 :]})


DOUBLING = reference((100, 1000, 50, 25), (400, 4000, 400, 4))


def test_between_points_the_count_is_a_power_of_the_batch():
    # a line in both logarithms: half way from 100 to 400 is 200, half way from 1000 to 4000 is 2000
    found = to_converge(DOUBLING, 200)
    assert found.value == pytest.approx(2000)
    assert found.errors[BATCH] == pytest.approx(math.log(4) / math.sqrt(12))
    at_ends = (0.05 * math.sqrt(1 + 1 / 25), 0.1 * math.sqrt(1 + 1 / 4))
    assert found.errors[RUNS] == pytest.approx(sum(at_ends) / 2)
    assert found.basis == "calibrated"


def test_a_point_is_what_was_measured():
    found = to_converge(DOUBLING, 400)
    assert (found.value, found.errors[BATCH], found.basis) == (pytest.approx(4000), 0, "measured")


def test_below_the_smallest_batch_it_is_flat_and_less_sure():
    found = to_converge(DOUBLING, 50)
    assert found.value == pytest.approx(1000)
    assert found.errors[BATCH] == pytest.approx(math.log(2))  # the slope of the first segment is 1
    assert found.basis == "projected"


def test_beyond_the_largest_batch_there_is_no_answer():
    with pytest.raises(CapacityError, match="401 is beyond the largest that was shown to converge, 400"):
        to_converge(DOUBLING, np.array([100.0, 401.0]))
    with pytest.raises(CapacityError, match="a global batch of 0; allowed: above 0 to 400"):
        to_converge(DOUBLING, 0)


def test_runs_that_end_at_the_same_evaluation_are_not_known_exactly():
    alike = reference((1, 1000, 0, 2), (2, 1000, 0, 2), resolution=120)
    assert to_converge(alike, 1).errors[RUNS] == pytest.approx(0.12 / math.sqrt(12) * math.sqrt(1.5))


def test_tokens_become_samples():
    texts = reference((1, 4096, 0, 2), (2, 8192, 0, 2), unit="tokens", sample_tokens=2048)
    assert samples_to_converge(texts, np.array([1.0, 2.0])).value == pytest.approx(np.array([2, 4]))
    assert samples_to_converge(DOUBLING, 100).value == to_converge(DOUBLING, 100).value


def test_an_array_of_batches_is_the_batches_one_by_one():
    batches = np.array([50.0, 100.0, 150.0, 400.0])
    found = to_converge(DOUBLING, batches)
    each = [to_converge(DOUBLING, batch) for batch in batches]
    assert found.value == pytest.approx([one.value for one in each])
    assert found.errors[BATCH] == pytest.approx([one.errors[BATCH] for one in each])


@given(
    st.lists(st.floats(1, 1e9), min_size=2, max_size=6), st.floats(0.5, 1), st.floats(0.5, 1), st.integers(2, 50)
)  # fmt: skip
def test_a_larger_batch_never_needs_fewer_where_the_points_rise(means, low, high, runs):
    rising = reference(*((10 * 2**k, mean, mean / 10, runs) for k, mean in enumerate(sorted(means))))
    largest = rising.points[-1].batch
    small, large = sorted([low * largest, high * largest])
    assert to_converge(rising, small).value <= to_converge(rising, large).value * (1 + 1e-9)
    inside = to_converge(rising, large)
    assert min(means) * (1 - 1e-9) <= inside.value <= max(means) * (1 + 1e-9)
    assert inside.low <= inside.value <= inside.high


def held_out(predict) -> np.ndarray:
    return np.array([
        predict(without(found, index), found.points[index])
        for found in SHIPPED
        for index in range(1, len(found.points) - 1)
    ])  # fmt: skip


def test_inner_points_are_predicted_from_their_neighbors():
    def error(found: Convergence, point: Point) -> float:
        return math.log(to_converge(found, point.batch).value / point.mean)

    errors = held_out(error)
    assert len(errors) == 27
    assert np.sqrt(np.mean(errors**2)) < 0.04
    assert np.median(np.abs(errors)) < 0.025
    assert np.max(np.abs(errors)) < 0.09


def test_the_band_holds_what_it_says_of_points_held_out():
    def inside(found: Convergence, point: Point) -> bool:
        predicted = to_converge(found, point.batch)
        return bool(predicted.low <= point.mean <= predicted.high)

    assert held_out(inside).mean() >= 0.9


def test_the_line_extended_beyond_the_largest_batch_would_promise_too_little():
    errors = []
    for found in SHIPPED:
        before, last, beyond = found.points[-3:]
        slope = math.log(last.mean / before.mean) / math.log(last.batch / before.batch)
        told = last.mean * (beyond.batch / last.batch) ** slope
        errors.append(math.log(told / beyond.mean))
    assert sum(error < 0 for error in errors) == len(errors) - 1
    assert np.exp(min(errors)) - 1 == pytest.approx(-0.11, abs=0.005)
    assert np.exp(max(errors)) - 1 == pytest.approx(0.18, abs=0.005)


def test_every_reference_is_named_by_its_file_and_found():
    assert sorted(found.id for found in SHIPPED) == sorted(NAMES.values())
    assert catalogue.convergences().keys() >= set(NAMES.values())
    assert catalogue.convergence("mlperf-gpt3").unit == "tokens"
    with pytest.raises(UnknownNameError, match=r"unknown convergence 'mlperf-gpt'; did you mean .*mlperf-gpt3"):
        catalogue.convergence("mlperf-gpt")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch: 2", "batch: 1", "batches must rise from point to point, 1 comes after 1"),
        ("unit: samples", "unit: tokens", "points in tokens need sample_tokens"),
        ("runs: 3", "runs: 1", "runs"),
        ("mean: 10", "mean: 0", "mean"),
    ],
)
def test_a_wrong_reference_is_refused_with_its_place(old, new, message):
    text = """\
id: a
title: a
unit: samples
source: made up
date: "2026"
points:
  - {batch: 1, mean: 10, std: 1, runs: 3}
  - {batch: 2, mean: 20, std: 1, runs: 4}
"""
    documents.validated(documents.parse(text, "a.yaml"), Convergence)
    with pytest.raises(InputError, match=message):
        documents.validated(documents.parse(text.replace(old, new), "a.yaml"), Convergence)


def version(row: dict[str, str]) -> tuple[int, ...]:
    return tuple(int(part) for part in row["round"].split("."))


@pytest.mark.skipif(not TABLE.exists(), reason="the reference data (../shared/data) is not here")
@pytest.mark.parametrize("benchmark", NAMES)
def test_the_points_are_those_of_the_newest_round(benchmark):
    with TABLE.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
    newest = {int(row["global_batch_size"]): row for row in rows if version(row) == max(map(version, rows))}
    found = catalogue.convergence(NAMES[benchmark])
    assert [point.batch for point in found.points] == sorted(newest)
    assert {row["source"] for row in newest.values()} == {found.source}
    factor = EPOCH if "epochs of" in rows[0]["unit"] else 1
    for point in found.points:
        row = newest[point.batch]
        if (benchmark, point.batch) == ("gpt3", 3072):
            # the document says why: one run of seven is left out
            assert point.runs == int(row["n_runs"]) - 1
            left_out = int(row["n_runs"]) * float(row["mean_to_converge"]) - point.runs * point.mean
            assert left_out == pytest.approx(13_790_871_552, rel=1e-6)
            continue
        assert point.mean == pytest.approx(float(row["mean_to_converge"]) * factor, rel=1e-6)
        assert point.std == pytest.approx(float(row["std_to_converge"]) * factor, rel=1e-5, abs=1)
        assert point.runs == int(row["n_runs"])
