"""The kind training: published runs with their errors, what rows mean, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tables_by_hand import BASE

from capacity import catalogue, validate
from capacity.errors import InputError, UnknownNameError
from capacity.validate import training_rows
from capacity.validate.training_rows import habits, job

CONTEXT = validate.Context(calibrations=catalogue.calibrations(), shared=catalogue.shared())
STEPS = CONTEXT.shared.training_steps
DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
MEGATRON = {
    "engine": "Megatron-LM", "release": "2022", "method": "pretrain", "hardware": "a100-sxm-80gb", "dtype": "fp16",
    "vocab_size": 51200, "ffn_multiple": 4, "sequence_length": 2048, "tensor_parallel": 8,
}  # fmt: skip
PUBLISHED = (
    # Korthikanti et al. 2022, arXiv:2205.05198, table 5: seconds of an iteration become tokens per second and device.
    MEGATRON | {"model": "megatron-22B", "layers": 48, "hidden_size": 6144, "heads": 64, "devices": 8,
                "global_batch": 4, "micro_batch": 4, "pipeline_parallel": 1, "recompute": "full", "rate": 721.13},
    MEGATRON | {"model": "gpt3-175B", "layers": 96, "hidden_size": 12288, "heads": 96, "devices": 64,
                "global_batch": 64, "micro_batch": 1, "pipeline_parallel": 8, "virtual_pipeline": 3,
                "recompute": "selective + sequence parallel", "rate": 148.95},
    MEGATRON | {"model": "megatron-1T", "layers": 128, "hidden_size": 25600, "heads": 160, "devices": 512,
                "global_batch": 512, "micro_batch": 1, "pipeline_parallel": 64, "recompute": "full", "rate": 21.69},
    # NVIDIA-NeMo/Megatron-Bridge, docs/performance-summary-archive.md, 25.11 and 26.06.
    {"engine": "Megatron-Bridge/NeMo", "release": "25.11", "method": "pretrain", "hardware": "h100-sxm-80gb",
     "dtype": "FP8-CS", "model": "LLAMA3_8B", "sequence_length": 8192, "devices": 8, "global_batch": 128,
     "micro_batch": 1, "tensor_parallel": 1, "pipeline_parallel": 1, "rate": 14451.0},
    {"engine": "Megatron-Bridge/NeMo", "release": "26.06", "method": "lora", "hardware": "h100-sxm-80gb",
     "dtype": "FP8", "model": "LLAMA3_70B", "sequence_length": 4096, "devices": 8, "global_batch": 32,
     "micro_batch": 1, "tensor_parallel": 2, "pipeline_parallel": 4, "virtual_pipeline": 20, "rate": 2643.0},
    # mosaicml/llm-foundry, scripts/train/benchmarking/README.md.
    {"engine": "llm-foundry/Composer FSDP", "method": "pretrain", "hardware": "h100-sxm-80gb", "dtype": "amp_bf16",
     "model": "MPT-7b", "layers": 32, "hidden_size": 4096, "heads": 32, "ffn_multiple": 4, "vocab_size": 50368,
     "sequence_length": 8192, "devices": 8, "global_batch": 128, "micro_batch": 8, "sharding": "FULL_SHARD",
     "recompute": "full", "rate": 6935.0},
)  # fmt: skip
"""Runs that the fit of frameworks has seen: this holds the code to its figures, it is no test of accuracy."""


def predicted(*rows: dict) -> pd.DataFrame:
    frame = validate.checked(pd.DataFrame(rows), "training", "table")
    return validate.predictions(frame, "training", CONTEXT)


def told(**changes) -> training_rows.Job:
    row = BASE["training"] | changes
    profile = catalogue.hardware(row["hardware"])
    return job(row, pd.Series(row), profile, STEPS)


def test_published_runs_come_out_within_a_fifth():
    rows = [{name: value for name, value in row.items() if name != "rate"} for row in PUBLISHED]
    found = predicted(*rows)
    rates = found[found["target"] == "tokens_per_s_per_device"]
    assert not rates["reason"].any()
    error = rates["predicted"].to_numpy() / np.array([row["rate"] for row in PUBLISHED]) - 1
    assert np.abs(error).max() < 0.2
    assert np.abs(error).mean() < 0.1


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
def test_the_whole_table_is_predicted_as_the_docs_say():
    frame = validate.checked(pd.read_csv(DATA / "training.csv"), "training", "table")
    figures = validate.summary(validate.predictions(frame, "training", CONTEXT), "training", len(frame))
    rate = figures["targets"]["tokens_per_s_per_device"]
    assert rate["share"] > 0.9
    assert rate["median_ape"] < 0.08  # in sample for the frameworks' numbers
    assert rate["band_coverage"] > 0.8


def test_blanks_are_filled_with_the_frameworks_habits():
    assert told(sharding=None, engine="torchtitan", sequence_length=None).trained.tokens == 8192
    assert told(sharding=None, engine="NeMo").trained.parallel.sharding == "optimizer"
    assert told(engine="torchtune", recompute=None, sharding=None).trained.recompute == "full"
    assert told(engine="LitGPT", method="lora").trained.method.targets == ("query", "value")
    assert habits({"engine": "jax"}).sharding == "none"


def test_methods_and_precisions_are_read():
    assert told(method="sft").trained.method.kind == "full"
    assert told(method="qlora").trained.stored == "int4"
    assert told(dtype="bnb.nf4", method="lora", engine="litgpt").trained.stored == "int4"
    assert told(dtype="FP8-CS", hardware="h100-sxm-80gb").trained.dtype == "fp8"
    assert told(dtype="fp32", engine="TensorFlow 2").trained.dtype == "tf32"
    with pytest.raises(UnknownNameError, match="method"):
        told(method="osmosis")


def test_layouts_must_divide_and_fit():
    with pytest.raises(InputError, match="no multiple of tensor × pipeline × context = 16"):
        told(tensor_parallel=8, pipeline_parallel=2)
    big = {"model": "LLAMA3.1_405B", "sharding": None, "engine": "NeMo", "devices": 8, "release": "26.04"}
    with pytest.raises(InputError, match=r"does not fit 8 × .*name tensor_parallel"):
        told(**big)
    whole = told(model="LLAMA3_70B", sharding=None, engine="NeMo", devices=64, hardware="gb200")
    assert whole.trained.parallel.sharding == "full"  # its states would not fit otherwise


def test_micro_batches_follow_the_global_batch_or_the_accumulation():
    assert told(global_batch=64, micro_batch=4, devices=8).micro_batches == 2
    assert told(global_batch=None, gradient_accumulation=5, devices=8).micro_batches == 5
    split = told(engine="torchtitan", pipeline_parallel=8, global_batch=None, micro_batch=16, sharding=None)
    assert (split.trained.batch, split.micro_batches) == (1.0, 16)


def test_a_release_is_a_date():
    assert training_rows._year({"release": "26.04.01"}) == pytest.approx(2026.25)
    assert training_rows._year({"release": "2024-12"}) == pytest.approx(2024 + 11 / 12)
    assert training_rows._year({"release": "v2.5"}) is None


def test_models_come_by_name_or_by_their_dimensions():
    assert told(model="Llama-3.1-8B").trained.model.parameters == 8_030_261_248
    assert told().trained.model.layers == 24
    bart = training_rows._spelled("BART-large", pd.Series({"layers": 24, "hidden_size": 1024, "heads": 16}))
    assert bart.layers == 28
    assert not bart.layer.causal
    with pytest.raises(UnknownNameError, match="model"):
        told(model="nobody-7b", layers=None)


def test_a_job_that_no_layout_can_run_is_refused_where_it_stands():
    from capacity.spec.training import TrainingJob

    good = {"name": "job", "model": "bert-base", "samples": 10, "every": "1 d", "batch": 8, "max_devices": 8}
    assert TrainingJob(**good, parallel={"tensor": 8}).parallel.tensor == 8
    with pytest.raises(ValueError, match="= 16 devices, and max_devices is 8"):
        TrainingJob(**good, parallel={"tensor": 8, "pipeline": 2})
    with pytest.raises(ValueError, match="accumulation 3 does not divide a batch of 8"):
        TrainingJob(**good, accumulation=3)
