"""Rows of measurement tables as operations: one record of arrays a dtype and phase, ready to be timed or fitted."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capacity.errors import UnknownNameError
from capacity.spec import names
from capacity.spec.hardware import DTYPE_BYTES, Hardware
from capacity.timing.calibrate import LEAST_ROWS, Rows
from capacity.work.operations import Attention, Gemm

Array = NDArray[np.float64]
PHASES = ("encoder", "prefill", "decode")


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
    """Return the attention calls of all rows of one phase (encoder, prefill or decode).

    Raises
    ------
    UnknownNameError
        For any other phase.
    """
    if phase not in PHASES:
        raise UnknownNameError("phase", phase, PHASES)
    return Attention(
        batch=column(frame, "batch"), heads=column(frame, "heads"), kv_heads=column(frame, "kv_heads"),
        query=column(frame, "query_length"), keys=column(frame, "kv_length"), head_dim=column(frame, "head_dim"),
        dtype=precision.compute, phase=phase, causal=phase != "encoder",  # type: ignore[arg-type]
    )  # fmt: skip


ROTATING_COPIES = 6
"""Weight copies that the benchmark behind `gemm` tables rotates through; small weights stay in cache all the same."""
MOST_ROWS = 4000
"""Rows of one class and dtype that a fit looks at, drawn with a fixed seed."""


def rows_to_fit(frame: pd.DataFrame, kind: str, hardware: Hardware) -> dict[tuple[str, str], Rows]:
    """Return what can be fitted from the rows of one device: class and dtype → operations with their seconds.

    Parameters
    ----------
    frame
        A measurement table of kind gemm or attention; `latency_us` is the target.
    kind
        "gemm" or "attention".

    Notes
    -----
    Products whose weights fit in the last-level cache through all rotating copies would teach a cache's bandwidth
    instead of the memory's; models of many layers never see it, so they are left out.
    """
    found: dict[tuple[str, str], Rows] = {}
    for raw in sorted(frame["dtype"].unique()):
        precision = names.dtype(str(raw))
        if precision.weight != precision.compute:
            continue  # weight-only quantization unpacks as it goes: no class of its own yet
        part = frame[(frame["dtype"] == raw) & (frame["latency_us"] > 0)]
        if kind == "gemm":
            part = _cold(part, hardware, precision)
        phases = sorted(part["phase"].unique()) if kind == "attention" else [""]
        for phase in phases:
            chosen = _sample(part[part["phase"] == phase] if phase else part)
            if len(chosen) < LEAST_ROWS:
                continue
            operation = attention(chosen, precision, phase) if phase else gemm(chosen, precision)
            found.setdefault(
                (operation.operation, operation.dtype), Rows([operation], [column(chosen, "latency_us") * 1e-6])
            )
    return found


def _cold(frame: pd.DataFrame, hardware: Hardware, precision: names.Precision) -> pd.DataFrame:
    cache = hardware.last_level_cache.value if hardware.last_level_cache else 0.0
    weight_bytes = column(frame, "n") * column(frame, "k") * DTYPE_BYTES[precision.weight]
    return frame[weight_bytes * ROTATING_COPIES > 2 * cache]


def _sample(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sample(MOST_ROWS, random_state=0) if len(frame) > MOST_ROWS else frame
