"""MLPerf Training rows: layouts that fit, steps by hand, what a row may depend on, and errors of what was left out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fit_training_rounds as fit
from capacity import catalogue, validate
from capacity.errors import CapacityError, UnknownNameError
from capacity.phases import train_step
from capacity.spec.training_engine import TrainingRound, TrainingRounds
from capacity.validate import training_rounds
from capacity.validate.training_rounds import TARGET, TASKS, layouts, precisions
from capacity.work import interaction
from capacity.work.operations import Collective

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "mlperf_training.csv"
CONTEXT = validate.Context(calibrations=catalogue.calibrations(), shared=catalogue.shared())
STEPS, ROUNDS = CONTEXT.shared.training_steps, CONTEXT.shared.training_rounds
ROW = {
    "round": "v4.0", "hardware": "h100-sxm-80gb", "devices": 8, "benchmark": "bert", "global_batch_size": 768,
    "framework": "PyTorch", "submitter": "somebody", "time_to_train_min": 5.5, "units_consumed_mean": 2.6e6,
    TARGET: 940.0,
}  # fmt: skip


def predicted(*changes: dict[str, object]) -> pd.DataFrame:
    frame = pd.DataFrame([ROW | change for change in changes or ({},)])
    return validate.predictions(validate.checked(frame, "mlperf_training", "table"), "mlperf_training", CONTEXT)


def alone_s(benchmark: str, hardware: str, devices: int, batch: float) -> float:
    return training_rounds.alone_s(benchmark, CONTEXT.device(hardware, "fused"), devices, batch, STEPS)


# --- by hand --------------------------------------------------------------------------------------------------------


def test_a_step_of_the_time_to_train():
    # (2 · 0.1 s + 0.05 s) · e^(−0.1 · 3 years) = 0.1852 s
    item = TrainingRound(benchmark="bert", factor=2, step="50 ms", yearly=0.1, log_sigma=0.1, rows=1)
    known = TrainingRounds(release=2020, benchmarks=(item,), source="by hand")
    assert training_rounds.judged(0.1, "bert", 2023, known) == pytest.approx(0.25 * math.exp(-0.3))
    assert training_rounds.judged(0.1, "bert", 2020, known) == pytest.approx(0.25)


def test_the_rate_is_what_a_device_takes_of_a_batch():
    device = CONTEXT.device("h100-sxm-80gb", "fused")
    step_s = training_rounds.alone_s("gpt3", device, 512, 2048, STEPS)
    taken_s = training_rounds.judged(step_s, "gpt3", 2024.4, ROUNDS)
    row = {"benchmark": "gpt3", "devices": 512, "global_batch_size": 2048}
    # tokens: a sequence of gpt3 counts 2,048
    assert predicted(row)["predicted"].item() == pytest.approx(2048 * 2048 / 512 / taken_s)


def test_cards_exchange_over_half_of_their_own_lanes():
    # 8 devices put 2 · 7/8 of 1 GB on 31.5 GB/s, of which they get half
    op = Collective(kind="all_reduce", message_bytes=1e9, devices=8, label="gradients")
    card, board = (CONTEXT.device(name, "fused") for name in ("a100-pcie-80gb", "a100-sxm-80gb"))
    assert training_rounds.exchange_s([op], card) == pytest.approx(1.75e9 / (0.5 * 31.5e9))
    assert training_rounds.exchange_s([op], board) == pytest.approx(float(board.time(op).value))


def test_chips_multiply_in_what_they_can():
    told = {
        (name, chip): precisions(name, catalogue.hardware(chip))
        for name in ("bert", "gpt3", "dlrm")
        for chip in ("a100-sxm-80gb", "h100-sxm-80gb", "tpu-v4", "tpu-v5p")
    }
    assert [told["bert", chip] for chip in ("a100-sxm-80gb", "h100-sxm-80gb", "tpu-v5p")] == [
        ("fp16",), ("fp16", "fp8"), ("bf16",),
    ]  # fmt: skip
    assert [told["gpt3", chip] for chip in ("a100-sxm-80gb", "h100-sxm-80gb", "tpu-v5p")] == [
        ("bf16",), ("fp8",), ("int8",),
    ]  # fmt: skip
    assert told["dlrm", "h100-sxm-80gb"] == ("fp16",)


def test_fp8_gains_on_bert_what_the_rates_promise():
    device = CONTEXT.device("h100-sxm-80gb", "fused")
    (half, _), *_, (narrow, _) = layouts("bert", device.hardware, 8, 768)
    found = training_rounds.kernels("bert", narrow, device)
    stood_in = train_step.spent(replace(narrow, dtype="fp16"), device)
    assert (half.dtype, narrow.dtype) == ("fp16", "fp8")
    assert found.products_s == pytest.approx(989 / 1979 * stood_in.products_s)
    assert replace(found, products_s=0.0) == replace(train_step.spent(narrow, device), products_s=0.0)


def test_the_scorers_of_both_versions():
    # 26 tables: 26 vectors and the dense one make 27 · 26 / 2 dots beside 128 values; crossed, 27 · 128 values
    first, second = (training_rounds.scorer(name) for name in ("dlrm", "dlrm_dcnv2"))
    assert (interaction.interacted(first), interaction.lookups(first)) == (479, 26)
    assert (interaction.interacted(second), interaction.lookups(second)) == (3456, 214)


# --- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("benchmark", "chip", "devices", "batch"),
    [
        ("bert", "a100-sxm-40gb", 8, 448), ("gpt3", "h100-sxm-80gb", 512, 2048), ("gpt3", "tpu-v5e", 4096, 2048),
        ("llama2_70b_lora", "b200-sxm", 8, 8), ("llama2_70b_lora", "gb200", 72, 9),
        ("llama31_405b", "h100-sxm-80gb", 2432, 1216),
    ],
)  # fmt: skip
def test_layouts_use_all_devices_fit_them_and_take_the_whole_batch(benchmark, chip, devices, batch):
    hardware = catalogue.hardware(chip)
    found = list(layouts(benchmark, hardware, devices, batch))
    assert found
    for trained, count in found:
        assert trained.parallel.devices == devices
        assert count * trained.batch * trained.parallel.data >= batch
        assert training_rounds.fits(trained, count, hardware)


def test_a_batch_is_cut_until_it_fits():
    local = {count: trained.batch for trained, count in layouts("bert", catalogue.hardware("l4"), 6, 6 * 256)}
    assert set(local) != {1.0}
    assert all(count * micro == 256 for count, micro in local.items())


def test_what_fits_nowhere_is_refused():
    with pytest.raises(CapacityError, match="no layout of gpt3 with a global batch of 2048 fits 8 × a100-sxm-80gb"):
        alone_s("gpt3", "a100-sxm-80gb", 8, 2048)
    with pytest.raises(UnknownNameError, match="unknown benchmark 'resnet'"):
        alone_s("resnet", "a100-sxm-80gb", 8, 2048)


# --- what a row depends on ------------------------------------------------------------------------------------------


def test_results_and_names_of_submitters_are_no_inputs():
    changed = {TARGET: 1.0, "time_to_train_min": 1e3, "units_consumed_mean": 1.0, "submitter": "x", "framework": "y"}
    first, second = predicted({}, changed)["predicted"]
    assert first == second > 0


def test_a_batch_that_is_not_told_is_assumed():
    found = predicted({"round": "v5.0"}, {"global_batch_size": None}, {"global_batch_size": 448})
    blank, told = found.iloc[1], found.iloc[2]
    assert (blank["predicted"], blank["basis"], told["basis"]) == (told["predicted"], "assumed", "calibrated")


def test_later_rounds_are_no_slower():
    row = {"benchmark": "dlrm", "global_batch_size": 55296}
    found = predicted(*(row | {"round": name} for name in training_rounds.ROUNDS))
    assert np.all(np.diff(found["predicted"]) > 0)


def test_unknown_names_are_refused_one_by_one():
    found = predicted({}, {"round": "v9.9"}, {"benchmark": "resnet"}, {"hardware": "gaudi1-32gb"}, {"devices": 2.5})
    assert found["reason"].str.split(";").str[0].tolist() == [
        "", "unknown round 'v9.9'", "unknown benchmark 'resnet'", "unknown hardware 'gaudi1-32gb'",
        "devices must be a positive whole number",
    ]  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(
    benchmark=st.sampled_from(["bert", "dlrm", "dlrm_dcnv2"]), doubled=st.integers(0, 5),
    chip=st.sampled_from(["a100-sxm-80gb", "a100-pcie-40gb", "gb200", "tpu-v4"]),
)  # fmt: skip
def test_more_work_takes_longer_and_more_devices_less(benchmark, doubled, chip):
    batch = 4096.0 * 2**doubled
    step_s = alone_s(benchmark, chip, 8, batch)
    assert 0 < step_s < alone_s(benchmark, chip, 8, 2 * batch)
    # twice the devices for twice the batch: nothing is gained, and only exchanges may be lost
    assert alone_s(benchmark, chip, 16, 2 * batch) > 0.8 * step_s


# --- the fit --------------------------------------------------------------------------------------------------------


def test_the_fit_finds_what_made_the_runs():
    truth = TrainingRounds(
        release=fit.RELEASE, source="made up",
        benchmarks=tuple(
            TrainingRound(benchmark=name, factor=1.3, step=2 * fit.STEP[name], yearly=0.1, log_sigma=0.1, rows=0)
            for name in TASKS
        ),
    )  # fmt: skip
    made = [
        fit.Run(name, "chip", told, alone, training_rounds.judged(alone, name, year, truth), 1.0, 1.0)
        for name in TASKS
        for told, year in training_rounds.ROUNDS.items()
        for alone in fit.STEP[name] * np.geomspace(0.3, 30, 8)
    ]
    found = fit.document_of(fit.fitted(made), {}, {})
    for item in found.benchmarks:
        assert (item.factor, item.step / fit.STEP[item.benchmark]) == pytest.approx((1.3, 2.0), rel=0.05)
        assert item.yearly == pytest.approx(0.1, rel=0.1)


def test_a_document_says_what_was_fitted():
    text = fit.document(fit.document_of(fit.starts(tuple(TASKS)), {"bert": 0.2}, {"bert": 3}))
    assert "{benchmark: bert, factor: 1.1, step: 0.01, yearly: 0.06, log_sigma: 0.200, rows: 3}" in text
    assert text.startswith("training_rounds:\n")
    assert {item.benchmark for item in ROUNDS.benchmarks} == set(TASKS)


@pytest.fixture(scope="module")
def measured() -> list[fit.Run]:
    if not DATA.is_file():
        pytest.skip("the measurement tables of ../shared/data are not on this machine")
    return fit.runs(validate.checked(pd.read_csv(DATA), "mlperf_training", "table"), CONTEXT)


def test_published_runs_are_found(measured):
    assert len(measured) == 398
    shipped = {item.benchmark: item.rows for item in ROUNDS.benchmarks}
    assert {name: sum(run.benchmark == name for run in measured) for name in TASKS} == shipped


@pytest.mark.parametrize(
    ("by", "name", "most"),
    [
        ("round", "v4.1", 0.15), ("round", "v5.0", 0.2), ("hardware", "h100-sxm-80gb", 0.15),
        ("hardware", "b200-sxm", 0.2),
    ],
)  # fmt: skip
def test_left_out_runs_are_predicted(measured, by, name, most):
    part, others = ([run for run in measured if (getattr(run, by) == name) is left] for left in (True, False))
    flat = np.abs(fit.constant(part, others))
    table = fit.errors(part, fit.fitted(others), flat)
    assert len(part) > 30
    assert table["error"].abs().median() < most
    assert table["error"].abs().median() < np.nanmedian(flat)
