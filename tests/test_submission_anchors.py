"""Anchors of submissions: levels by hand, what a fit of a table changes and what it leaves, and rounds held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import capacity
from hypothesis import given
from hypothesis import strategies as st

from capacity import calibration, catalogue, validate
from capacity.commands import fitting
from capacity.timing import step_anchors
from capacity.timing.step_anchors import FADE, Series, gain, level, weighted_median
from capacity.validate import submissions

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "mlperf_inference.csv"
KIND = "mlperf_inference"
KNOWN = calibration.Known(catalogue.calibrations(), catalogue.shared())
H100, B200 = "h100-sxm-80gb", "b200-sxm"
LOGS = st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=30)


def series(logs: list[float], rounds: list[float] | float = 4.1, prior: float = 0.2) -> Series:
    return Series(np.array(logs), np.broadcast_to(np.asarray(rounds, dtype=float), len(logs)), prior)


def results(*changes: dict[str, object]) -> pd.DataFrame:
    row = {
        "round": "v4.0", "hardware": H100, "devices": 8, "benchmark": "llama2-70b-99.9", "scenario": "Offline",
        "weight_dtype": "fp8", "software": "TensorRT 10", "value": 1.0, "value_per_device": 1.0,
    }  # fmt: skip
    return validate.checked(pd.DataFrame([row | change for change in changes or ({},)]), KIND, "table")


def predicted(frame: pd.DataFrame, *fitted: object) -> pd.DataFrame:
    own = [(item, catalogue.hardware(item.hardware)) for item in fitted]
    context = validate.Context(calibrations=(*own, *KNOWN.calibrations), shared=KNOWN.shared)
    return validate.predictions(frame, KIND, context)


def measured(frame: pd.DataFrame, slower: float | np.ndarray) -> pd.DataFrame:
    """Return rows that measured what is predicted, so many times slower."""
    rate = predicted(frame)["predicted"].to_numpy() / slower
    return frame.assign(value_per_device=rate, value=rate)


def fit(frame: pd.DataFrame, hardware: str = H100) -> calibration.Calibration:
    return fitting.fit([("table", KIND, frame)], catalogue.hardware(hardware), "fused", KNOWN)


# --- levels by hand -------------------------------------------------------------------------------------------------


def test_many_rows_that_agree_give_their_level_and_few_are_drawn_to_the_model():
    # W p² / (W p² + s²): 0.04 / (0.04 + 0.01) of one row, 100 times 0.04 of a hundred
    assert level(series([0.5]), 0.1)[0] == pytest.approx(0.4)
    assert level(series([0.5] * 100), 0.1)[0] == pytest.approx(0.5 * 4 / 4.01)


def test_the_newest_round_weighs_most_and_an_untuned_system_does_not_count():
    old, new = [0.6] * 3, [0.2] * 3
    assert level(series(old + new, [3.0] * 3 + [4.0] * 3), 0.01)[0] == pytest.approx(0.2, abs=0.05)
    assert level(series([0.1, 0.11, 0.12, 1.5], 4.0), 0.01)[0] == pytest.approx(0.115, abs=0.002)


def test_a_gain_is_a_step_to_the_next_round_of_a_chip_that_had_one():
    alone, unknown = series([0.3, 0.4], 4.1), series([0.1, 0.9], 0.0)
    assert gain([alone, unknown], 0.1) == gain([], 0.1)
    pairs = [series([0.0, -0.2], [4.0, 4.1])] * 100
    assert gain(pairs, 0.01)[0] == pytest.approx(-0.2, rel=0.01)


@given(logs=LOGS, sigma=st.floats(0.01, 0.5))
def test_a_level_lies_between_the_model_and_the_median(logs, sigma):
    found, error = level(series(logs), sigma)
    middle = weighted_median(np.array(logs), np.ones(len(logs)))
    assert min(0.0, middle) - 1e-12 <= found <= max(0.0, middle) + 1e-12
    assert error >= sigma
    assert level(series(logs[::-1]), sigma) == (found, error)


@given(logs=st.lists(st.integers(-100, 100), min_size=1, max_size=20), shift=st.integers(-100, 100))
def test_a_median_moves_with_its_values_and_ignores_what_weighs_nothing(logs, shift):
    values, weights = np.array(logs, dtype=float), FADE ** np.arange(len(logs))
    assert weighted_median(values[::-1], weights[::-1]) == pytest.approx(weighted_median(values, weights))
    moved = weighted_median(values + shift, weights)
    assert moved == pytest.approx(weighted_median(values, weights) + shift, abs=1e-9)
    assert weighted_median(np.append(values, 999.0), np.append(weights, 0.0)) == weighted_median(values, weights)


# --- a table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("benchmark", ["bert-99", "dlrm-99.9", "dlrm-v2-99", "gptj-99", "llama2-70b-99.9", "dlrm-v3"])
@pytest.mark.parametrize("scenario", ["Offline", "Server"])
def test_anchors_move_their_benchmark_and_scenario_of_their_device(benchmark, scenario):
    frame = results(*[{"benchmark": benchmark, "scenario": scenario, "devices": count} for count in (4, 8, 8, 8)])
    fitted = fit(measured(frame, 1.3))
    (anchor,) = fitted.submissions
    assert (anchor.benchmark, anchor.scenario, anchor.round, anchor.rows) == (benchmark, scenario, "v4.0", 4)
    slower = predicted(frame)["predicted"] / predicted(frame, fitted)["predicted"]
    assert slower.between(1.15, 1.3).all()
    told = predicted(frame, fitted)
    assert set(told["basis"]) == {"calibrated"}
    assert (told["high"] / told["low"] < predicted(frame)["high"] / predicted(frame)["low"] * 1.2).all()
    others = results({"hardware": B200, "benchmark": benchmark, "scenario": scenario})
    if not benchmark.startswith("bert"):  # of bert, levels of dtypes carry over
        other = "Server" if scenario == "Offline" else "Offline"
        others = pd.concat([others, results({"benchmark": benchmark, "scenario": other})], ignore_index=True)
    pd.testing.assert_frame_equal(predicted(others, fitted), predicted(others))


def test_a_single_stream_is_a_latency():
    frame = results(*[{"benchmark": "bert-99", "scenario": "SingleStream", "devices": 1}] * 8)
    latency = 1.3 * predicted(frame)["predicted"].to_numpy()
    fitted = fit(frame.assign(value=latency, value_per_device=np.nan))
    assert predicted(frame, fitted)["predicted"][0] == pytest.approx(latency[0], rel=0.1)


def test_software_gains_of_any_chip_count_in_later_rounds_only():
    rounds = [{"round": name} for name in ("v4.0", "v4.1")]
    other = results(*[row | {"hardware": B200} for row in rounds * 20])
    table = pd.concat([measured(other, np.tile([1.0, 0.8], 20)), measured(results(*rounds[:1] * 20), 1.0)])
    fitted, alone = fit(table), fit(table[table["hardware"] == H100])
    (anchor,) = fitted.submissions
    assert 0.8 < anchor.later < 0.95
    assert alone.submissions[0].later == 1
    same, later, blank = (results({"round": name}) for name in ("v4.0", "v5.1", None))
    rates = [float(predicted(row, fitted)["predicted"][0]) for row in (same, later, blank)]
    assert rates[1] / rates[0] == pytest.approx(1 / anchor.later)
    assert rates[2] == rates[0]
    bands = [float(told["high"][0] / told["low"][0]) for told in (predicted(same, fitted), predicted(later, fitted))]
    assert bands[1] > bands[0]


def test_a_scorer_gains_nothing():
    rows = [{"round": name, "benchmark": "dlrm-v2-99"} for name in ("v4.0", "v4.1")]
    (anchor,) = fit(measured(results(*rows * 20), np.tile([1.0, 0.8], 20))).submissions
    assert (anchor.later, anchor.later_log_sigma) == (1, 0)


def test_gptj_that_waited_for_whole_batches_is_another_benchmark():
    old, new = {"benchmark": "gptj-99", "round": "v3.1"}, {"benchmark": "gptj-99", "round": "v4.0"}
    fitted = fit(measured(results(*[old] * 8), 1.3))
    assert [part.benchmark for part in fitted.submissions] == ["gptj-static-99"]
    pd.testing.assert_frame_equal(predicted(results(new), fitted), predicted(results(new)))


def test_another_accuracy_stands_in_less_surely_but_not_for_bert():
    fitted = fit(measured(results(*[{"benchmark": name} for name in ("llama2-70b-99.9", "bert-99")] * 8), 1.3))
    own, other = results(), results({"benchmark": "llama2-70b-99"})
    told, stands_in = predicted(own, fitted), predicted(other, fitted)
    assert stands_in["predicted"][0] == told["predicted"][0]
    assert stands_in["high"][0] > told["high"][0]
    assert submissions.other_accuracy("bert-99") is None
    assert submissions.other_accuracy("dlrm-v3") is None


def test_a_prediction_sees_no_result_and_a_fit_no_earlier_anchor():
    frame = measured(results(*[{}] * 4), 1.3)
    fitted = fit(frame)
    blank = frame.assign(value=np.nan, value_per_device=np.nan)
    pd.testing.assert_series_equal(predicted(frame, fitted)["predicted"], predicted(blank, fitted)["predicted"])
    known = calibration.Known([(fitted, catalogue.hardware(H100)), *KNOWN.calibrations], KNOWN.shared)
    assert fitting.fit([("table", KIND, frame)], catalogue.hardware(H100), "fused", known) == fitted


def test_rows_without_a_step_model_or_a_result_say_nothing():
    frame = results(
        {"benchmark": "resnet"}, {"scenario": "Interactive"}, {"value_per_device": np.nan}, {"value_per_device": 1e9}
    )
    assert fit(frame).submissions == ()


def test_the_command_writes_anchors_that_validate_reads_and_hides_no_kernels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = measured(results(*[{}] * 8), 1.3)
    frame.to_csv("t.csv", index=False)
    done = capacity("calibrate", "--from", "t.csv", "--kind", KIND, "--hardware", H100)
    assert done.code == 0, done.err
    assert "llama2-70b-99.9, Offline: ×1.3 of the model's time up to v4.0 (8 results" in done.out
    assert (tmp_path / "calibrations" / f"{H100}-fused-steps.yaml").is_file()
    told = capacity("validate", "t.csv", "--kind", KIND, "--json")
    assert told.code == 0, told.err
    assert told.json["targets"]["value_per_device"]["median_ape"] < 0.05


# --- published ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA.is_file(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("hardware", "benchmark", "held_out", "most", "unanchored"),
    [
        (B200, "llama2-70b", "v5.1", 0.05, 0.2),  # the round before as it was: 13 %
        (H100, "dlrm-v2", "v4.0", 0.04, 0.02),
    ],
)
def test_errors_on_the_next_round(hardware, benchmark, held_out, most, unanchored):
    table = pd.read_csv(DATA)
    chosen = table["benchmark"].map(submissions.family).isin([benchmark, "gptj"])
    table = validate.checked(table[chosen & table["hardware"].isin([hardware, H100])], KIND, "table")
    before = table["round"] < held_out
    asked = (table["round"] == held_out) & (table["hardware"] == hardware) & (table["scenario"] != "Interactive")
    rows = table[asked & table["benchmark"].str.startswith(benchmark)]
    errors = predicted(rows, fit(table[before], hardware))["error"].abs()
    assert len(rows) >= 10
    assert errors.median() <= most
    assert predicted(rows)["error"].abs().median() >= unanchored


def test_constants_are_what_the_page_says():
    assert (FADE, step_anchors.GAIN_LOG_SIGMA) == (0.25, 0.1)
