"""Measurement tables: reading them, and which rows can be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from capacity.errors import InputError, Problem, suggestion
from capacity.validate.kind import Kind
from capacity.validate.kinds import KINDS

MOST = 1e12
"""Largest size that is believed: products of sizes stay finite, and no machine holds more of anything."""


def read_table(path: str | Path) -> pd.DataFrame:
    """Return the rows of a CSV or Parquet file, or say in one line why there are none."""
    source = Path(path)
    if not source.is_file():
        raise InputError([Problem(str(path), "is a folder; name a file in it" if source.is_dir() else "no such file")])
    try:
        if source.suffix == ".parquet":
            return pd.read_parquet(source)
        return pd.read_csv(source, low_memory=False)
    except OSError as error:
        raise InputError([Problem(str(path), f"cannot be read: {error.strerror or error}")]) from None
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError([Problem(str(path), f"is not a CSV or Parquet table: {said[:120]}")]) from None


def checked(frame: pd.DataFrame, kind: str, path: str) -> pd.DataFrame:
    """Return the table with names as text and numeric columns as float64.

    Raises
    ------
    InputError
        When columns are missing, all of them named, or there are no rows.
    """
    wanted, present = KINDS[kind], [str(name) for name in frame.columns]
    missing = [name for name in wanted.columns if name not in present]
    if missing:
        what = f"kind {kind} needs column {{!r}}; {{}}"
        raise InputError([Problem(path, what.format(name, suggestion(name, present))) for name in missing])
    if frame.empty:
        raise InputError([Problem(path, "holds no rows; a measurement is one row below the line of column names")])
    texts = [name for name in wanted.group_by if name not in wanted.whole]
    texts += [name for name in wanted.optional_names if name in present]
    odd = [name for name in texts if pd.api.types.infer_dtype(frame[name], skipna=True) not in {"string", "empty"}]
    frame = frame.assign(**{name: frame[name].astype(str).where(frame[name].notna()) for name in odd})
    every = wanted.whole + wanted.sizes + wanted.amounts + wanted.optional + wanted.targets + wanted.twins
    numeric = {name: pd.to_numeric(frame[name], errors="coerce") for name in every if name in frame.columns}
    return frame.assign(**{name: values.astype(float) for name, values in numeric.items()}).reset_index(drop=True)


def usable(frame: pd.DataFrame, kind: str) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows of a checked table that a fit can use, and how many were left out for which reason."""
    target = KINDS[kind].targets[0]
    reasons = invalid(frame, KINDS[kind])
    measured = KINDS[kind].measured(frame, target)
    timed = np.isfinite(measured) & (measured > 0)
    reasons[(reasons == "") & ~timed] = f"{target} must be a positive number"
    left_out = reasons[reasons != ""].value_counts()
    return frame[reasons == ""], {str(reason): int(count) for reason, count in left_out.items()}


def invalid(inputs: pd.DataFrame, kind: Kind) -> pd.Series[str]:
    """Return, for each row, why it cannot be predicted whatever the model; empty when it can."""
    reasons = pd.Series("", index=inputs.index, dtype=object)
    for reason, rows in kind.impossible(inputs).items():
        reasons[rows] = reason
    for name in reversed(kind.sizes + kind.optional):
        if name in inputs:
            good = (inputs[name] > 0) & (inputs[name] <= MOST)
            good |= inputs[name].isna() & (name in kind.optional)
            reasons[~good] = f"{name} must be a positive number, at most {MOST:.0e}"
    for name in reversed(kind.amounts):
        reasons[~((inputs[name] >= 0) & (inputs[name] <= MOST))] = f"{name} must be zero or more, at most {MOST:.0e}"
    for name in reversed(kind.whole):
        good = (inputs[name] > 0) & (inputs[name] <= MOST) & (inputs[name] == np.floor(inputs[name]))
        reasons[~good] = f"{name} must be a positive whole number"
    for name in reversed(kind.group_by):
        if name not in kind.whole:
            reasons[inputs[name].isna()] = f"{name} is blank"
    return reasons
