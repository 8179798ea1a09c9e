"""Small measurement tables of every kind, good rows and others, and their predictions by the shipped calibrations."""

from __future__ import annotations

import numpy as np
import pandas as pd

from capacity import catalogue, validate

CONTEXT = validate.Context(calibrations=catalogue.calibrations(), shared=catalogue.shared())
BASE = {
    "gemm": {
        "hardware": "a100-sxm-80gb", "engine": "vllm 0.14.0", "dtype": "bf16", "m": 64, "n": 4096, "k": 4096,
        "latency_us": 40.0,
    },
    "attention": {
        "hardware": "a100-sxm-80gb", "engine": "vllm 0.14.0", "phase": "prefill", "dtype": "bf16", "batch": 4,
        "query_length": 256, "kv_length": 512, "heads": 32, "kv_heads": 8, "head_dim": 128, "latency_us": 50.0,
    },
    "encoder": {
        "hardware": "t4", "engine": "TensorRT 8.4 demo/BERT", "dtype": "fp16", "layers": 12, "hidden_size": 768,
        "heads": 12, "batch": 8, "sequence_length": 128, "mean_tokens": None, "latency_ms": 5.0,
        "sequences_per_s": None,
    },
}  # fmt: skip
TARGETS = {kind: validate.KINDS[kind].targets[0] for kind in BASE}
PACKING, PADDING = "FasterTransformer EFF-FT (PyTorch op)", "FasterTransformer FT (PyTorch op)"


def rows(kind: str, *changes: dict) -> pd.DataFrame:
    """Return a table with one row for each set of changes to a good row."""
    return pd.DataFrame([BASE[kind] | change for change in changes or ({},)])


def predicted(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    return validate.predictions(validate.checked(frame, kind, "table"), kind, CONTEXT)


def varied(kind: str, count: int = 40) -> pd.DataFrame:
    """Return rows of several devices, engines, dtypes and sizes, some of them refused."""
    draw = np.random.default_rng(3)
    devices = {
        "a100-sxm-80gb": ("bf16", "fp16"),
        "h100-sxm-80gb": ("bf16", "fp8"),
        "t4": ("fp16", "int8"),
        "t5": ("fp16",),
    }
    found = []
    for _ in range(count):
        hardware = str(draw.choice(list(devices)))
        change = {"hardware": hardware, "dtype": str(draw.choice(devices[hardware]))}
        for name in validate.KINDS[kind].sizes:
            if name not in {"heads", "kv_heads", "head_dim"}:
                change[name] = int(2 ** draw.integers(4, 9))
        if kind == "attention":
            change["kv_length"] = change["query_length"] * 2
        if kind == "encoder":
            change |= {"engine": str(draw.choice([PACKING, "PyTorch 2.5", "TensorRT 8.4"])), "sequences_per_s": 7.0}
            change["mean_tokens"] = change["sequence_length"] / 2
        found.append(change | {TARGETS[kind]: float(draw.lognormal())})
    return rows(kind, *found, {TARGETS[kind]: None}, {"dtype": None})
