"""Error figures of predictions, overall and by hardware, and the gate that CI jobs set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from capacity.errors import UnknownNameError
from capacity.spec import names
from capacity.validate.kinds import KINDS


def summary(frame: pd.DataFrame, kind: str, rows: int) -> dict[str, Any]:
    """Return the error figures of `predictions` as the contract's JSON: overall and by hardware."""
    refused = frame[frame["reason"] != ""].drop_duplicates("row")["reason"].value_counts()
    ids = {name: _id(str(name)) for name in frame["hardware"].dropna().unique()}
    by_hardware = {
        str(name): {target: _figures(part[part["target"] == target]) for target in KINDS[kind].targets}
        for name, part in frame.groupby(frame["hardware"].map(ids), sort=True)
    }
    runs = {"runs": _runs(frame, kind)} if KINDS[kind].runs else {}
    return {
        "kind": kind, "rows": rows, "refused": {str(reason): int(count) for reason, count in refused.items()},
        "targets": {target: _figures(frame[frame["target"] == target]) for target in KINDS[kind].targets},
        "by_hardware": by_hardware, **runs,
    }  # fmt: skip


def _id(name: str) -> str:
    """Return the profile id that a table's hardware name means, or the name itself where none does."""
    try:
        return names.hardware_id(name)
    except UnknownNameError:
        return name


def _figures(part: pd.DataFrame) -> dict[str, float | int | None]:
    """Return count, share, median, mean and P90 |error|, bias, band coverage and width (fractions)."""
    predicted = part["predicted"].notna()
    known = part[predicted & part["error"].notna()]
    error = known["error"].to_numpy(dtype=float)
    inside = (known["measured"] >= known["low"]) & (known["measured"] <= known["high"])
    figures: dict[str, float | int | None] = {"predicted": int(predicted.sum())}
    figures["share"] = float(predicted.mean()) if len(part) else None
    empty = len(error) == 0
    figures["median_ape"] = None if empty else float(np.median(np.abs(error)))
    figures["mean_ape"] = None if empty else float(np.mean(np.abs(error)))
    figures["p90_ape"] = None if empty else float(np.quantile(np.abs(error), 0.9))
    figures["bias"] = None if empty else float(np.median(error))
    figures["band_coverage"] = None if empty else float(inside.mean())
    figures["band_width"] = None if empty else float(np.median(known["high"] / known["low"]))
    return figures


RUN_FIGURES = {"mean": None, "p50": 0.5, "p90": 0.9, "p99": 0.99}


def _runs(frame: pd.DataFrame, kind: str) -> list[dict[str, Any]]:
    """Return mean and quantiles of each run and target, measured and predicted, over the requests that have both."""
    wanted, found = KINDS[kind], []
    for key, run in frame.groupby(list(wanted.group_by), sort=False):
        told: dict[str, Any] = dict(zip(wanted.group_by, key, strict=True))
        for target in wanted.targets:
            both = run[(run["target"] == target) & run["measured"].notna() & run["predicted"].notna()]
            told[target] = {name: _compared(both, share) for name, share in RUN_FIGURES.items()} if len(both) else None
        found.append(told)
    return found


def _compared(both: pd.DataFrame, share: float | None) -> dict[str, float]:
    measured, predicted = (
        float(both[name].mean() if share is None else both[name].quantile(share)) for name in ("measured", "predicted")
    )
    return {"measured": measured, "predicted": predicted, "error": predicted / measured - 1}


def gate(figures: Mapping[str, Any], max_median_error: float | None, min_share: float) -> list[str]:
    """Return why the result fails the gate, in words; empty when it passes."""
    failures = []
    for target, values in figures["targets"].items():
        share, error = values["share"], values["median_ape"]
        if share is None or share < min_share:
            failures.append(
                f"{target}: {0 if share is None else share:.1%} of the rows predicted, at least {min_share:.1%} wanted"
            )
        if max_median_error is not None and (error is None or error > max_median_error):
            said = "no row could be compared" if error is None else f"median error {error:.1%}"
            failures.append(f"{target}: {said}, at most {max_median_error:.1%} wanted")
    return failures
