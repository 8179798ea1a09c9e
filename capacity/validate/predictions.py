"""Predictions in the long format of the contract: every row predicted or refused with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from capacity.errors import CapacityError
from capacity.validate.kind import Context, Kind
from capacity.validate.kinds import KINDS
from capacity.validate.table import invalid

COLUMNS = ("row", "target", "measured", "predicted", "low", "high", "error", "basis", "reason")
"""First columns of the long format; the inputs follow."""


def predictions(frame: pd.DataFrame, kind: str, context: Context) -> pd.DataFrame:
    """Return one row for each input row × target, in input order: the long format of the contract.

    Columns: row, target, measured, predicted, low, high, error (= predicted/measured − 1, where the measured value is
    positive), basis, reason, then inputs; an input of one of these names is called `<name>_input`.
    """
    wanted = KINDS[kind]
    inputs = frame.reset_index(drop=True)
    parts = {target: _blank(len(inputs)) for target in wanted.targets}
    reasons = invalid(inputs, wanted)
    for target in wanted.targets:
        parts[target].loc[reasons != "", "reason"] = reasons[reasons != ""]
    valid = inputs[reasons == ""]
    agree = [*wanted.group_by, *(name for name in wanted.optional_names if name in inputs)]
    for key, index in valid.groupby(agree, dropna=False, sort=False).indices.items():
        values = dict(zip(agree, key if isinstance(key, tuple) else (key,), strict=True))
        for rows in np.split(index, len(index)) if wanted.alone else [index]:
            _fill(parts, valid.iloc[rows], wanted, values, context)
    long = []
    for target, part in parts.items():
        measured = wanted.measured(inputs, target)
        part.insert(0, "row", np.arange(len(inputs)))
        part.insert(1, "target", target)
        part.insert(2, "measured", measured)
        known = np.where(np.isfinite(measured) & (measured > 0), measured, np.nan)
        part.insert(6, "error", part["predicted"].to_numpy() / known - 1)
        long.append(pd.concat([part, _apart(inputs)], axis=1))
    return pd.concat(long, ignore_index=True).sort_values(["row", "target"], kind="stable", ignore_index=True)


def _apart(inputs: pd.DataFrame) -> pd.DataFrame:
    """Return the inputs with names that no column of the long format has, even when they are such a table."""
    taken, renamed = set(COLUMNS), {}
    for name in map(str, inputs.columns):
        renamed[name] = name
        while renamed[name] in taken:
            renamed[name] += "_input"
        taken.add(renamed[name])
    return inputs.rename(columns=renamed)


def _blank(rows: int) -> pd.DataFrame:
    numbers = {name: np.full(rows, np.nan) for name in ("predicted", "low", "high")}
    return pd.DataFrame(numbers | {"basis": np.full(rows, "", dtype=object), "reason": np.full(rows, "", dtype=object)})


def _fill(
    parts: Mapping[str, pd.DataFrame], rows: pd.DataFrame, kind: Kind, values: Mapping[str, Any], context: Context
) -> None:
    try:
        found = kind.predict(values, rows, context)
    except CapacityError as error:
        for part in parts.values():
            part.loc[rows.index, "reason"] = str(error)
        return
    for target, predicted in found.items():
        part = parts[target]
        part.loc[rows.index, "predicted"] = predicted.value
        part.loc[rows.index, "low"] = predicted.low
        part.loc[rows.index, "high"] = predicted.high
        part.loc[rows.index, "basis"] = predicted.basis
        blank = rows.index[np.isnan(predicted.value)]
        part.loc[blank, ["basis", "reason"]] = ["", predicted.blank]
