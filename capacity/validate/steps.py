"""Kinds whose rows are whole model steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from capacity.spec import names
from capacity.spec.engine import Engine
from capacity.timing import tables
from capacity.validate.kind import Array, Context, Kind, Predicted
from capacity.work import transformer
from capacity.work.huggingface import transformer as from_config

FUSED_ENGINES = {"tensorrt", "trtllm", "vllm", "sglang", "fastertransformer", "onnxruntime", "openvino"}
"""Engine families that fuse element-wise work into their products; the rest launch it operation by operation."""


def _milliseconds(frame: pd.DataFrame, target: str) -> Array:
    """Return an encoder table's latency: as given, else batch ÷ throughput [ms]."""
    empty = np.full(len(frame), np.nan)
    given = frame[target].to_numpy(dtype=float) if target in frame else empty
    rate = frame["sequences_per_s"].to_numpy(dtype=float) if "sequences_per_s" in frame else empty
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isfinite(given), given, 1e3 * frame["batch"].to_numpy(dtype=float) / rate)


def _encoder(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    engine = str(values["engine"])
    fused = "xla" in engine.casefold() or names.engine(engine).family in FUSED_ENGINES
    fusion: Engine = "fused" if fused else "eager"
    device = context.device(str(values["hardware"]), fusion)
    hidden = int(values["hidden_size"])
    config = {
        "model_type": "bert", "hidden_size": hidden, "num_hidden_layers": int(values["layers"]), "vocab_size": 30522,
        "num_attention_heads": int(values["heads"]), "intermediate_size": 4 * hidden, "max_position_embeddings": 512,
    }  # fmt: skip
    tokens = tables.column(rows, "sequence_length")
    if _packs(str(values["engine"])) and "mean_tokens" in rows:
        real = tables.column(rows, "mean_tokens")
        tokens = np.where(np.isfinite(real), real, tokens)
    dtype, model = names.dtype(str(values["dtype"])).compute, from_config(config, head="none")
    shapes, chosen = np.unique(np.stack([tables.column(rows, "batch"), tokens], axis=1), axis=0, return_inverse=True)
    other = context.shared.engine_log_sigma
    steps = [  # shape by shape: which terms of a sum matter, and so its basis, must not depend on other rows
        device.step(transformer.encode(model, batch, length, dtype, fusion)).widened("engine not measured", other)  # type: ignore[arg-type]
        for batch, length in shapes
    ]
    return {"latency_ms": Predicted.each([step.scaled(1e3) for step in steps], chosen.reshape(-1))}


def _packs(engine: str) -> bool:
    """Tell engines that remove padding: they compute the real tokens, the others the padded length."""
    return "eff-ft" in engine.casefold() or "padding removed" in engine.casefold()



KINDS: dict[str, Kind] = {
    "encoder": Kind(
        group_by=("hardware", "engine", "dtype", "layers", "hidden_size", "heads"), sizes=("batch", "sequence_length"),
        targets=("latency_ms",), measured=_milliseconds, predict=_encoder, whole=("layers", "hidden_size", "heads"),
        optional=("mean_tokens",), twins=("sequences_per_s",),
    ),
}  # fmt: skip
