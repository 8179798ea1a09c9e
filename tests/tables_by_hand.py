"""A few rows of every kind of measurement table, and a device whose kernels were all fitted by hand."""

from __future__ import annotations

import pandas as pd
from made_up import RATES, calibration, hardware, kernel_fit, shared, typical

from capacity import catalogue, validate

BOARD = hardware(rates=RATES | {"fp8": 200e12})
ENGINE = {"hardware": BOARD.id, "engine": "vllm 0.14.0", "dtype": "bf16"}
SERVER = {
    "hardware": "h100-sxm-80gb", "engine": "vllm 0.15.1", "model": "meta-llama/Llama-2-7b-hf", "dtype": "bf16",
    "tensor_parallel": 1,
}  # fmt: skip
BASE = {
    "gemm": ENGINE | {"m": 64, "n": 4096, "k": 1024, "latency_us": 40.0},
    "gemm_fp32": {"hardware": BOARD.id, "batch": 2, "m": 64, "n": 512, "k": 1024, "latency_ms": 0.2},
    "attention": ENGINE | {
        "phase": "prefill", "batch": 4, "query_length": 256, "kv_length": 512, "heads": 32, "kv_heads": 8,
        "head_dim": 128, "latency_us": 50.0,
    },
    "moe": ENGINE | {
        "distribution": "balanced", "tokens": 64, "hidden_size": 512, "intermediate_size": 256, "experts": 16,
        "experts_per_token": 2, "moe_tensor_parallel": 1, "expert_parallel": 1, "latency_us": 60.0,
    },
    "collective": ENGINE | {"operation": "all_reduce", "devices": 8, "message_bytes": 1e6, "latency_us": 30.0},
    "fp32_steps": {
        "hardware": BOARD.id, "model": "bert_large", "mode": "train", "sequence_length": 128, "batch": 8,
        "option": None, "step_ms": 400.0, "forward_ms": 100.0, "backward_ms": 300.0,
    },
    "encoder": {
        "hardware": "t4", "engine": "TensorRT 8.4 demo/BERT", "dtype": "fp16", "layers": 12, "hidden_size": 768,
        "heads": 12, "batch": 8, "sequence_length": 128, "mean_tokens": 60.0, "latency_ms": 5.0,
        "sequences_per_s": 1600.0,
    },
    "mlperf_inference": {
        "hardware": "t4", "benchmark": "bert-99", "scenario": "Offline", "round": "v2.0", "weight_dtype": "int8",
        "software": "TensorRT 8.4", "value": 800.0, "value_per_device": 400.0,
    },
    "serving_closed_loop": SERVER | {
        "gemm_dtype": "bf16", "input_tokens": 256, "output_tokens": 32, "concurrency": 4, "ttft_ms": 40.0,
        "tpot_ms": 8.0,
    },
    "serving_load": SERVER | {
        "load": "2rps x 20s;6rps x 20s", "arrivals": "constant", "stage": "summary", "max_model_len": 4096,
        "max_num_batched_tokens": 2048, "max_num_seqs": 128, "prefix_groups": 3, "users_per_group": 2,
        "system_prompt_tokens": 100, "question_tokens": 400, "requested_output_tokens": 50, "ttft_mean_ms": 30.0,
        "tpot_mean_ms": 8.0, "e2e_mean_ms": 400.0,
    },
    "serving_trace": SERVER | {
        "arrival_s": 1.0, "input_tokens": 300, "output_tokens": 40, "ttft_s": 0.03, "end_to_end_s": 0.4,
    },
    "recommender": {
        "hardware": "t4", "category": "recsys_infer", "model": "DLRM", "phase": "infer", "precision": "FP16",
        "framework": "Triton Merlin HPS + TensorRT", "n_devices": 1, "batch_per_device": 4096, "batch_global": None,
        "concurrency": 1, "scenario": "offline", "unit": "samples/s", "dataset": "Criteo 1TB", "value": 1e6,
        "latency_avg_ms": 3.0,
    },
    "training": {
        "hardware": "a100-sxm-80gb", "engine": "llm-foundry/Composer FSDP", "method": "pretrain", "model": "MPT-1b",
        "dtype": "bf16", "devices": 8, "layers": 24, "hidden_size": 2048, "heads": 16, "ffn_multiple": 4,
        "vocab_size": 50368, "sequence_length": 2048, "global_batch": 64, "micro_batch": 4, "sharding": "FULL_SHARD",
        "recompute": None, "release": None, "tokens_per_s_per_device": 19000.0, "peak_memory_gib": 40.0,
    },
    "mlperf_training": {
        "hardware": "a100-sxm-80gb", "benchmark": "bert", "round": "v2.0", "devices": 8, "global_batch_size": 448,
        "units_per_s_per_accelerator": 298.0, "time_to_train_min": 19.0, "units_consumed_mean": 2.7e6,
    },
}  # fmt: skip
"""A good row of each kind."""
CHANGES: dict[str, tuple[dict, ...]] = {
    "gemm": (
        {"m": 1}, {"dtype": "fp8"}, {"engine": "trtllm 1.0", "kernel": "torch_flow"}, {"dtype": "int4_weightonly"},
    ),
    "gemm_fp32": ({"m": 1}, {"batch": None}, {"k": 7, "batch": 30}),
    "attention": (
        {"phase": "decode", "query_length": 1}, {"phase": "encoder", "kv_length": 256}, {"head_dim": 64},
        {"engine": "trtllm 1.0", "kv_dtype": "fp8"},
    ),
    "moe": (
        {"distribution": "power_law_1.2"}, {"dtype": "fp8"}, {"expert_parallel": 4, "tokens": 4096},
        {"engine": "trtllm 1.0"}, {"experts": 0},
    ),
    "collective": (
        {"operation": "all_gather", "devices": 2}, {"operation": "alltoall", "message_bytes": 1e3},
        {"operation": "reduce_scatter", "message_bytes": 1e9}, {"operation": "sendrecv", "devices": 2}, {"devices": 1},
    ),
    "fp32_steps": ({"mode": "inf"}, {"batch": 2}, {"model": "gpt2_large", "option": "fusion"}, {"mode": "other"}),
    "encoder": (
        {"engine": "FasterTransformer EFF-FT (PyTorch op)"}, {"hardware": "a100-sxm-40gb"}, {"batch": 64},
        {"engine": "PyTorch 2.5"}, {"dtype": "int8"},
    ),
    "mlperf_inference": (
        {"scenario": "Server"}, {"scenario": "SingleStream", "value": 9.0}, {"hardware": "a100-sxm-80gb"},
        {"weight_dtype": None, "benchmark": "bert-99.9"}, {"benchmark": "resnet50"},
    ),
    "serving_closed_loop": ({"concurrency": 32}, {"tensor_parallel": 4}, {"model": "llama"}, {"input_tokens": 500_000}),
    "serving_load": ({"stage": "stage_1"}, {"load": "4rps x 10s"}, {"stage": "stage_7"}, {"load": "often"}),
    "serving_trace": ({"arrival_s": 0.0}, {"arrival_s": 9.5, "output_tokens": 3}, {"model": "llama"}),
    "recommender": (
        {"model": "NCF", "framework": "PyTorch", "phase": "train"}, {"scenario": "online", "concurrency": 8},
        {"category": "ann_gpu", "model": "faiss IVF4096,PQ64 nprobe=8", "phase": "search k=10", "dataset": "SIFT1B",
         "unit": "s", "batch_global": 1e4},
        {"model": "TFT"}, {"batch_per_device": -1},
    ),
    "training": (
        {"recompute": "full"}, {"method": "lora"}, {"model": "Llama-3.1-8B", "release": "26.04", "engine": "NeMo"},
        {"hardware": "v100-sxm-32gb", "dtype": "fp16 mixed", "engine": "TensorFlow 2", "devices": 1},
        {"method": "prayer"}, {"devices": 6, "tensor_parallel": 4}, {"micro_batch": -1},
    ),
    "mlperf_training": (
        {"devices": 64, "global_batch_size": 3072}, {"global_batch_size": None},
        {"benchmark": "gpt3", "hardware": "h100-sxm-80gb", "devices": 512, "global_batch_size": 2048, "round": "v4.0"},
        {"benchmark": "dlrm_dcnv2", "global_batch_size": 55296}, {"benchmark": "gpt3"}, {"benchmark": "resnet"},
        {"round": "v9.0"}, {"devices": 0.5}, {"global_batch_size": -1},
    ),
}  # fmt: skip
"""Changes to a good row that make other kernels run, or none."""
FITS = (
    ("gemm", "library", "bf16", "bf16"), ("gemm", "cutlass", "fp8", "fp8"), ("gemm", "cutlass", "bf16", "int4"),
    ("gemm", "simt", "fp32", "fp32"), ("attention.prefill", "fa3.hopper", "bf16", "bf16"),
    ("attention.decode", "fa3.hopper", "bf16", "bf16"), ("attention.encoder", "fa3.hopper", "bf16", "bf16"),
    ("attention.prefill", "trtllm.hopper", "bf16", "fp8"), ("experts", "triton", "bf16", "bf16"),
    ("experts", "cutlass", "bf16", "bf16"), ("experts", "triton", "fp8", "fp8"),
    *((f"collective.{name}", f"nccl.{name}", "fp16", "fp16") for name in
      ("all_reduce", "all_gather", "reduce_scatter", "alltoall")),
)  # fmt: skip
CONTEXT = validate.Context(
    calibrations=[calibration(BOARD, *(kernel_fit(key, typical(key)) for key in FITS))],
    shared=shared(
        engine_steps=catalogue.shared().engine_steps,
        training_steps=catalogue.shared().training_steps,
        recommender_frameworks=catalogue.shared().recommender_frameworks,
        training_rounds=catalogue.shared().training_rounds,
    ),
)


def rows(kind: str, *changes: dict) -> pd.DataFrame:
    """Return a table with one row for each set of changes to a good row."""
    return pd.DataFrame([BASE[kind] | change for change in changes or ({},)])


def varied(kind: str) -> pd.DataFrame:
    """Return good rows, rows of other kernels, and rows that are refused."""
    return rows(kind, {}, *CHANGES[kind], {"hardware": "t5"}, {"hardware": None})


def predicted(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    return validate.predictions(validate.checked(frame, kind, "table"), kind, CONTEXT)
