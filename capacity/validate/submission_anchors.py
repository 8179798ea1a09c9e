"""Anchors for submissions: a device's own results of MLPerf rounds, as its calibration keeps them for later rounds."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, cast

import numpy as np
import pandas as pd

from capacity.spec.calibration import Calibration
from capacity.spec.hardware import Hardware
from capacity.spec.steps import Scenario, SubmissionAnchor
from capacity.timing import step_anchors
from capacity.timing.band import Z90
from capacity.timing.step_anchors import Series
from capacity.timing.step_tables import round_number
from capacity.timing.tables import said
from capacity.validate import submissions
from capacity.validate.kind import Context
from capacity.validate.predictions import predictions

KIND = "mlperf_inference"
MOST_LOG = math.log(1000)
"""Results further than this from their prediction are in another unit, or of something else [1] (judgment)."""
Key = tuple[str, str, str]
"""Hardware, benchmark (`submissions.anchor_name`) and scenario."""


def anchors(rows: pd.DataFrame, hardware: Hardware, context: Context) -> tuple[SubmissionAnchor, ...]:
    """Return what the results of a device say of each of its benchmarks and scenarios; refused rows say nothing.

    Parameters
    ----------
    rows
        A checked table: results of the device, and of any others, which tell what software gains between rounds.
    context
        What is known without these rows; anchors in it are not heeded, levels of dtypes are.
    """
    steps = next(iter(context.shared.engine_steps), None)
    if steps is None:
        return ()
    own, texts = rows["hardware"] == hardware.id, rows["benchmark"].map(lambda name: _generates(str(name)))
    known = series_of(rows[own | texts] if (own & texts).any() else rows[own], context)
    gain = step_anchors.gain([known[key] for key in known if _generates(key[1])], steps.log_sigma)
    return tuple(
        _anchor(key, series, steps.log_sigma, gain if _generates(key[1]) else None)
        for key, series in sorted(known.items(), key=lambda item: item[0])
        if key[0] == hardware.id
    )


def series_of(rows: pd.DataFrame, context: Context) -> dict[Key, Series]:
    """Return ln(measured/predicted time) of every result that can be predicted without anchors, by what it is of.

    Those a thousand times off say nothing.
    """
    bare = [(_unanchored(item), profile) for item, profile in context.calibrations]
    found = predictions(rows, KIND, Context(calibrations=bare, shared=context.shared))
    records = cast(list[dict[str, Any]], found.to_dict("records"))
    slower = np.where(found["scenario"] == "SingleStream", -1.0, 1.0)
    timed = found["measured"] > 0
    told = pd.DataFrame({
        "hardware": found["hardware"], "scenario": found["scenario"],
        "benchmark": [submissions.anchor_name(row) for row in records],
        "log": slower * np.log(found["predicted"] / found["measured"].where(timed)),
        "round": [round_number(said(row, "round")) or 0.0 for row in records],
        "prior": np.log(found["high"] / found["low"]) / (2 * Z90),
    }).dropna()  # fmt: skip
    told = told[told["log"].abs() < MOST_LOG]
    return {
        _key(key): Series(part["log"].to_numpy(), part["round"].to_numpy(), float(part["prior"].median()))
        for key, part in told.groupby(["hardware", "benchmark", "scenario"])
    }


def _key(key: Hashable) -> Key:
    hardware, benchmark, scenario = cast(Key, key)
    return hardware, benchmark, scenario


def _unanchored(item: Calibration) -> Calibration:
    return item.model_copy(update={"submissions": ()}) if item.submissions else item


def _generates(benchmark: str) -> bool:
    """Tell benchmarks that write texts: their engines still get faster from round to round, on any chip."""
    found = submissions.TASKS.get(submissions.family(benchmark))
    return found is not None and found.output > 0


def _anchor(key: Key, series: Series, row_log_sigma: float, gain: tuple[float, float] | None) -> SubmissionAnchor:
    level, log_sigma = step_anchors.level(series, row_log_sigma)
    step, step_log_sigma = gain or (0.0, 0.0)
    newest = float(series.rounds.max())
    return SubmissionAnchor(
        benchmark=key[1], scenario=cast(Scenario, key[2]), round=f"v{newest}" if newest else None,
        factor=_round(math.exp(level)), log_sigma=_round(log_sigma), rows=len(series.logs),
        later=_round(math.exp(step)), later_log_sigma=_round(step_log_sigma),
    )  # fmt: skip


def _round(value: float) -> float:
    return float(f"{value:.4g}")
