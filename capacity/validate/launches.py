"""Kinds whose rows are single launches: products, attention, expert layers, collectives."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from capacity.timing.tables import TABLES
from capacity.validate.kind import Array, Context, Kind, Predicted


def measured(frame: pd.DataFrame, target: str) -> Array:
    """Return a target's column, or blanks where the table has none."""
    return frame[target].to_numpy(dtype=float) if target in frame else np.full(len(frame), np.nan)


def _predicted(kind: str, values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    table = TABLES[kind]
    device = context.device(str(values["hardware"]), "fused")
    operation = table.operation(values, rows, device.hardware)
    estimate = device.time(operation, table.families(values, device.hardware))  # type: ignore[arg-type]
    return {table.target: Predicted.of(estimate.scaled(1 / table.unit_s))}


def _unmasked(rows: pd.DataFrame) -> dict[str, pd.Series[bool]]:
    """Return the causal rows that would have queries without a key: the keys include the queries' own."""
    short = (rows["phase"] != "encoder") & (rows["kv_length"] < rows["query_length"])
    return {"kv_length must be at least query_length": short}


def _alone(rows: pd.DataFrame) -> dict[str, pd.Series[bool]]:
    return {"a collective needs at least 2 devices": rows["devices"] < 2}


IMPOSSIBLE = {"attention": _unmasked, "collective": _alone}
KINDS: dict[str, Kind] = {
    name: Kind(
        group_by=table.names, sizes=table.sizes, optional_names=table.optional, targets=(table.target,),
        measured=measured, predict=partial(_predicted, name), impossible=IMPOSSIBLE.get(name, lambda _: {}),
        optional=("batch",) if name == "gemm_fp32" else (),
    )
    for name, table in TABLES.items()
}  # fmt: skip
