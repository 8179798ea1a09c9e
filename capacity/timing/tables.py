"""Rows of measurement tables as operations: one record of arrays a dtype and phase, ready to be timed or fitted."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capacity.spec import names
from capacity.work.operations import Attention, Gemm

Array = NDArray[np.float64]


def column(frame: pd.DataFrame, name: str) -> Array:
    """Return a numeric column as float64: products of dimensions overflow integers."""
    return frame[name].to_numpy(dtype=np.float64)


def gemm(frame: pd.DataFrame, precision: names.Precision) -> Gemm:
    """Return the products of all rows (columns m, n, k), which share one precision."""
    return Gemm(
        m=column(frame, "m"), n=column(frame, "n"), k=column(frame, "k"), dtype=precision.compute,
        weight_dtype=precision.weight,
    )  # fmt: skip


def attention(frame: pd.DataFrame, precision: names.Precision, phase: str) -> Attention:
    """Return the attention calls of all rows of one phase (encoder, prefill or decode)."""
    return Attention(
        batch=column(frame, "batch"), heads=column(frame, "heads"), kv_heads=column(frame, "kv_heads"),
        query=column(frame, "query_length"), keys=column(frame, "kv_length"), head_dim=column(frame, "head_dim"),
        dtype=precision.compute, phase=phase, causal=phase != "encoder",  # type: ignore[arg-type]
    )  # fmt: skip
