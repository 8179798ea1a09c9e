"""Whole encoder passes: the power limit, the engine's kernels, what a row of a table means, and anchors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from capacity import catalogue, validate
from capacity.errors import CapacityError
from capacity.spec.calibration import Calibration, Composition
from capacity.timing import engine_kernels, step_fit, step_tables
from capacity.timing.form import Board, MissingFactError
from capacity.timing.step_runs import Place, bert, runner
from capacity.work import transformer
from capacity.work.operations import Attention

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
SHARED = catalogue.shared()
STEPS = next(item for item in SHARED.engine_steps if item.engine == "tensorrt")
GPUS = ("t4", "a100-sxm-80gb", "a30", "l4", "h100-sxm-80gb", "b200-sxm")


def place(name: str, *calibrations: Calibration) -> Place:
    hardware = catalogue.hardware(name)
    return Place(hardware=hardware, calibrations=[(item, hardware) for item in calibrations], shared=SHARED)


def anchored(name: str, *compositions: Composition) -> Place:
    known = Calibration(
        id=f"{name}-fused", hardware=name, engine="fused", source="a test", date="2026-11-22", composition=compositions
    )
    return place(name, known)


def encoders(**changes: object) -> pd.DataFrame:
    row = {
        "hardware": "t4", "engine": "TensorRT 8.4 demo/BERT", "dtype": "fp16", "layers": 12, "hidden_size": 768,
        "heads": 12, "batch": 8, "sequence_length": 128, "latency_ms": 5.0,
    }  # fmt: skip
    return pd.DataFrame([row | changes])


def submissions(*changes: dict[str, object]) -> pd.DataFrame:
    row = {
        "round": "v3.0", "hardware": "a100-sxm-80gb", "benchmark": "bert-99", "scenario": "Offline",
        "weight_dtype": "int8", "software": "TensorRT 8.6.0, CUDA 12.0", "value": 8.0, "value_per_device": 1.0,
    }  # fmt: skip
    return pd.DataFrame([row | change for change in changes or ({},)])


def predicted(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    context = validate.Context(calibrations=[], shared=SHARED)
    return validate.predictions(validate.checked(frame, kind, "table"), kind, context)


# --- the power limit ------------------------------------------------------------------------------------------------


def test_power_limits_by_hand():
    joule = STEPS.sustained.joule["fp16"] * (12 / 5) ** STEPS.sustained.node_exponent  # a T4 is a 12 nm chip
    fed = (70 / (joule * 65e12)) ** STEPS.sustained.clock_exponent
    assert engine_kernels.sustained(catalogue.hardware("t4"), "fp16", STEPS) == pytest.approx((1 + fed**-4) ** (-1 / 4))


@pytest.mark.parametrize("name", GPUS)
def test_more_power_sustains_more_and_never_more_than_all(name):
    hardware = catalogue.hardware(name)
    watts = [0.5, 1, 2, 50]
    shares = []
    for factor in watts:
        power = hardware.power.model_copy(update={"value": hardware.power.value * factor})
        shares.append(engine_kernels.sustained(hardware.model_copy(update={"power": power}), "fp16", STEPS))
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1
    assert shares[-1] > 0.99


def test_unknown_power_or_generation_takes_nothing_away():
    hardware = catalogue.hardware("t4")
    for change in ({"power": None}, {"architecture": "tomorrow"}, {"architecture": None}):
        assert engine_kernels.sustained(hardware.model_copy(update=change), "fp16", STEPS) == 1


def test_a_consumer_card_sums_in_half_precision():
    card, server = catalogue.hardware("rtx-4090"), catalogue.hardware("a100-sxm-80gb")
    assert engine_kernels.tensor_rate(card, "fp16") == pytest.approx(card.rate("int8") / 2)
    assert engine_kernels.tensor_rate(card, "fp16") > card.rate("fp16")
    assert engine_kernels.tensor_rate(server, "fp16") == server.rate("fp16")


def test_an_engine_ages():
    hardware = catalogue.hardware("a100-sxm-80gb")  # Ampere came out in 2020.4
    excess, half_life = STEPS.maturity.excess, STEPS.maturity.half_life_years
    assert engine_kernels.maturity(hardware, 2020.4, STEPS) == pytest.approx(1 + excess)
    assert engine_kernels.maturity(hardware, 2020.4 + half_life, STEPS) == pytest.approx(1 + excess / 2)
    assert engine_kernels.maturity(hardware, 2019.0, STEPS) == pytest.approx(1 + excess)
    assert engine_kernels.maturity(hardware, None, STEPS) == 1
    assert engine_kernels.maturity(hardware, 2020.4, STEPS, tuned=True) == pytest.approx(1 + STEPS.submissions.excess)


# --- kernels --------------------------------------------------------------------------------------------------------


def test_fused_attention_by_hand():
    board = Board(catalogue.hardware("a100-sxm-80gb"))
    values = {
        "t0_s": 0.0, "flop_efficiency": 0.5, "bandwidth_efficiency": 1e9, "softmax_columns": 64.0,
        "softmax_rate_ratio": 1.0, "rows": 512.0,
    }  # fmt: skip
    one = Attention(batch=1, heads=12, kv_heads=12, query=128, keys=128, head_dim=64, dtype="fp16", phase="encoder")
    alone_s = 4 * 128 * 128 * (64 + 64) / (0.5 * 312e12 / 108)  # 12 heads on 108 cores: one wave of one block
    assert engine_kernels.attention_seconds(one, board, values) == pytest.approx(alone_s)
    full = dataclasses.replace(one, batch=18)  # 216 blocks: two waves
    assert engine_kernels.attention_seconds(full, board, values) == pytest.approx(2 * alone_s)
    odd = dataclasses.replace(one, query=100, keys=100)  # rounded up to 128
    assert engine_kernels.attention_seconds(odd, board, values) == pytest.approx(alone_s)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (name, dtype)
        for name in GPUS
        for dtype in ("fp16", "int8", "fp8")
        if engine_kernels.runs(catalogue.hardware(name), dtype, STEPS)
    ],
)
def test_a_step_is_positive_grows_and_stays_above_the_datasheet(name, dtype):
    found = runner(place(name), "TensorRT 8.6", dtype)
    model = bert(24, 1024, 16)
    times = [
        float(found.step(model, batch, tokens).value) for batch, tokens in ((1, 64), (1, 384), (8, 384), (64, 384))
    ]
    assert times == sorted(times)
    flop = sum(np.sum(item.flop * item.count) for item in transformer.encode(model, 64, 384, dtype, "fused"))
    assert times[0] > 0
    assert times[-1] > float(flop) / engine_kernels.tensor_rate(found.device.hardware, dtype)


def test_arrays_give_what_single_steps_give():
    found = runner(place("t4"), "TensorRT", "int8")
    batch, model = np.array([1.0, 8.0, 64.0]), bert(12, 768, 12)
    together = found.step(model, batch, 128.0).value
    assert together == pytest.approx([float(found.step(model, each, 128.0).value) for each in batch])


def test_a_card_without_eight_bit_units_runs_sixteen():
    wide, narrow = (runner(place("v100-sxm-32gb"), "TensorRT 7.2", dtype) for dtype in ("fp16", "int8"))
    assert (narrow.dtype, narrow.steps) == (wide.dtype, wide.steps)
    with pytest.raises(MissingFactError, match="no fp8 kernels for a100-sxm-80gb"):
        engine_kernels.device(catalogue.hardware("a100-sxm-80gb"), "fp8", STEPS)


def test_what_nobody_measured_is_projected_and_less_sure():
    known, sibling, newer = (runner(place(name), "TensorRT 10", "fp16").step(bert(12, 768, 12), 8, 128) for name in (
        "a100-sxm-80gb", "a30", "b200-sxm",
    ))  # fmt: skip
    assert (known.basis, sibling.basis, newer.basis) == ("calibrated", "projected", "projected")
    assert float(known.log_sigma) < float(sibling.log_sigma) < float(newer.log_sigma)
    other = runner(place("a30"), "FasterTransformer", "fp16").step(bert(12, 768, 12), 8, 128)
    assert float(other.value) == float(sibling.value)
    assert float(other.log_sigma) > float(sibling.log_sigma)


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "year"),
    [("TensorRT 8.4 demo/BERT", 2022.45), ("TensorRT 10.13", 2025.6), ("TensorRT 6.0", 2019.95), ("TensorRT", None),
     ("TensorRT 99.1", 2025.6)],
)  # fmt: skip
def test_when_an_engine_came_out(engine, year):
    assert step_tables.released(engine) == year


@pytest.mark.parametrize(
    ("hardware", "benchmark", "written", "meant"),
    [
        ("a100-sxm-80gb", "bert-99", None, ("int8", False)),
        ("a100-sxm-80gb", "bert-99.9", "int8,fp16", ("fp16", False)),
        ("a100-sxm-80gb", "bert-99.9", "fp16", ("fp16", True)),
        ("h100-sxm-80gb", "bert-99.9", "fp16", ("fp8", True)),
        ("h100-sxm-80gb", "bert-99", "int8", ("int8", True)),
        ("l40s", "bert-99.9", None, ("fp16", False)),
        ("t4", "bert-99", "fp32", ("int8", False)),
        ("xeon-8380", "bert-99", "fp32", ("fp32", True)),
    ],
)
def test_what_a_submission_multiplies_in(hardware, benchmark, written, meant):
    values = {"benchmark": benchmark, "weight_dtype": written}
    assert step_tables.precision(values, catalogue.hardware(hardware)) == meant


def test_scenarios_of_a_submission():
    frame = submissions(
        {}, {"scenario": "Server"}, {"scenario": "SingleStream", "value": 1.6, "value_per_device": None}
    )
    found = predicted(frame, "mlperf_inference")
    offline, server, single = found["predicted"]
    assert server < offline
    assert single == pytest.approx(1.6, rel=0.5)  # milliseconds, not samples per second
    assert found["measured"].tolist() == [1.0, 1.0, 1.6]
    assert found["basis"].tolist() == ["calibrated"] * 3


def test_other_benchmarks_and_scenarios_are_refused():
    frame = submissions({"benchmark": "resnet50"}, {"scenario": "Interactive"}, {"hardware": "a101"})
    reasons = predicted(frame, "mlperf_inference")["reason"]
    assert reasons[0].startswith("no step model runs resnet50; of this kind bert, ")
    assert reasons[1].startswith("unknown scenario 'Interactive'")
    assert reasons[2].startswith("unknown hardware 'a101'")


def test_a_submission_is_predicted_from_its_inputs_alone():
    frame = pd.concat([submissions({"hardware": name}, {"benchmark": "bert-99.9", "hardware": name}) for name in GPUS])
    found = predicted(frame.reset_index(drop=True), "mlperf_inference")["predicted"].tolist()
    blank = frame.assign(value=np.nan, value_per_device=np.nan, power_watts=3.0, submitter="anyone")[::-1]
    assert predicted(blank.reset_index(drop=True), "mlperf_inference")["predicted"].tolist() == found[::-1]


# --- anchors --------------------------------------------------------------------------------------------------------


def test_one_row_moves_its_dtype_most_of_what_it_should():
    found = {part.dtype: part for part in step_fit.levels({"fp16": np.array([0.3])}, STEPS, "a30")}
    prior, noise = STEPS.device_log_sigma**2, STEPS.log_sigma**2
    assert np.log(found["fp16"].slowdown) == pytest.approx(0.3 * prior / (prior + noise), abs=1e-3)
    assert np.log(found["int8"].slowdown) == pytest.approx(STEPS.common * np.log(found["fp16"].slowdown), abs=1e-3)
    assert (found["fp16"].rows, found["int8"].rows) == (1, 0)


def test_many_rows_give_the_level_itself():
    rows = np.random.default_rng(1).normal(np.log(1.4), 0.05, 400)
    found = {part.dtype: part for part in step_fit.levels({"int8": rows}, STEPS, "a30")}["int8"]
    assert found.slowdown == pytest.approx(1.4, rel=0.02)
    assert found.median_error == pytest.approx(0.034, abs=0.01)


@pytest.mark.parametrize("kind", ["encoder", "mlperf_inference"])
def test_an_anchor_moves_the_predictions_of_its_device(kind):
    frame = encoders(hardware="a30") if kind == "encoder" else submissions({"hardware": "a30"})
    bare, table = place("a30"), step_tables.TABLES[kind]
    values = frame.iloc[0].to_dict()
    before = table.seconds(values, frame, bare)[0]
    measured = 1.5 * float(before.value)
    frame = (
        frame.assign(latency_ms=1e3 * measured) if kind == "encoder" else frame.assign(value_per_device=1 / measured)
    )
    fits = step_fit.step_fits(kind, frame, bare)
    after = table.seconds(values, frame, anchored("a30", *fits))[0]
    assert float(before.value) < float(after.value) < measured
    assert after.basis == "calibrated"
    assert step_fit.step_fits(kind, frame, anchored("a30", *fits)) == fits  # a fit does not see an earlier one


def test_rows_that_teach_nothing_are_passed_over():
    assert step_fit.step_fits("encoder", encoders(engine="PyTorch 2.5"), place("t4")) == ()
    assert step_fit.step_fits("encoder", encoders(latency_ms=None), place("t4")) == ()
    assert step_fit.step_fits("mlperf_inference", submissions({"benchmark": "gptj-99"}), place("t4")) == ()


# --- published ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_errors_on_published_device_times():
    frame = pd.read_csv(DATA / "encoder.csv")
    frame = frame[(frame["scenario"] == "offline, device time") & frame["hardware"].isin(["t4", "a100-sxm-40gb"])]
    found = predicted(frame, "encoder")
    assert found["error"].abs().mean() <= 0.07  # 5 %; 7 % where the device took no part in the fit
    assert ((found["measured"] >= found["low"]) & (found["measured"] <= found["high"])).mean() >= 0.85


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_errors_on_submissions():
    frame = pd.read_csv(DATA / "mlperf_inference.csv")
    gpus = ["a100-pcie-80gb", "a100-sxm-80gb", "h100-sxm-80gb", "l4", "l40", "t4"]
    frame = frame[frame["benchmark"].str.startswith("bert") & frame["hardware"].isin(gpus)]
    found = predicted(frame, "mlperf_inference")
    assert found["predicted"].notna().all()
    errors = found["error"].abs().groupby(found["scenario"]).mean()
    assert errors["Offline"] <= 0.07
    assert errors["Server"] <= 0.12
    assert errors["SingleStream"] <= 0.15


def test_an_unknown_benchmark_is_an_error_of_the_product():
    with pytest.raises(CapacityError):
        step_tables.bert_runner({"benchmark": "dlrm-99"}, place("t4"))
