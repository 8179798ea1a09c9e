"""Predictions held against a user's own measurements: error figures as tables, rows to draw, residuals with bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capacity.report.cells import Column, Row, Table, finite

Array: TypeAlias = NDArray[np.float64]
MOST_POINTS = 20_000
"""Rows a chart draws: browsers stay quick."""
ROWS_OF_BIN, MOST_BINS = 25, 16
NUMBERS = ("measured", "predicted", "low", "high")
UNITS = {"us": "µs", "ms": "ms", "s": "s"}
_ERRORS = (
    Column("hardware", "Hardware"),
    Column("target", "Target"),
    Column("predicted", "Rows predicted", "whole"),
    Column("share", "of the rows", "fraction"),
    Column("median_ape", "Median error", "fraction"),
    Column("mean_ape", "Mean error", "fraction"),
    Column("p90_ape", "P90 error", "fraction"),
    Column("bias", "Bias (median, signed)", "fraction", signed=True),
    Column("band_coverage", "Inside the 90 % band", "fraction"),
    Column("band_width", "Band width, high ÷ low", "count"),
)


@dataclass(frozen=True, slots=True)
class Points:
    """Rows of a validation that can stand on logarithmic axes, and how many of them are drawn."""

    drawn: Mapping[str, NDArray[Any]]
    """measured, predicted, low, high [unit of the target] and hardware, at most `MOST_POINTS` rows."""
    residuals: Mapping[str, Array]
    """ln(measured/predicted) by predicted time, in bins over all usable rows; see `binned`."""
    usable: int
    total: int

    @property
    def said(self) -> str:
        """How many rows the charts show, in words."""
        count = len(self.drawn["measured"])
        said = f"{self.usable:,} of {self.total:,} rows have a measured and a predicted value"
        return said if count == self.usable else f"{said}; {count:,} of them, drawn at random, are shown"


def unit(target: str) -> str:
    """Return the unit of a target column.

    Examples
    --------
    >>> unit("latency_us"), unit("step_ms")
    ('µs', 'ms')
    """
    return UNITS.get(target.rsplit("_", 1)[-1], target.rsplit("_", 1)[-1])


def errors_table(figures: Mapping[str, Any]) -> Table:
    """Return error figures of `capacity.validate.summary`: all rows first, then by hardware."""
    groups = {"all": figures["targets"], **figures["by_hardware"]}
    rows = tuple(
        _errors(hardware, target, values) for hardware, targets in groups.items() for target, values in targets.items()
    )
    return Table("Errors by hardware", _ERRORS, rows)


def _errors(hardware: str, target: str, values: Mapping[str, float | None]) -> Row:
    numbers = {column.key: finite(values[column.key], "nothing measured") for column in _ERRORS[2:]}
    return {"hardware": hardware, "target": target, **numbers}


def refused_table(figures: Mapping[str, Any]) -> Table:
    """Return why rows were refused, most frequent first."""
    columns = (Column("reason", "Rows refused because"), Column("rows", "Rows", "whole"))
    ordered = sorted(figures["refused"].items(), key=lambda item: -item[1])
    return Table("Rows refused", columns, tuple({"reason": why, "rows": float(count)} for why, count in ordered))


def points(frame: Mapping[str, ArrayLike], most: int = MOST_POINTS) -> Points:
    """Return the rows to draw: all that have positive numbers, or `most` of them drawn at random, always the same ones.

    Parameters
    ----------
    frame
        Columns of one length: measured, predicted, low, high and hardware.
    """
    numbers = {name: np.asarray(frame[name], dtype=float) for name in NUMBERS}
    good = np.isfinite(numbers["measured"]) & np.isfinite(numbers["predicted"])
    index = np.flatnonzero(good & (numbers["measured"] > 0) & (numbers["predicted"] > 0))
    chosen = index
    if len(index) > most:
        chosen = np.sort(np.random.default_rng(0).choice(index, most, replace=False))
    hardware = np.asarray(frame["hardware"], dtype=str)
    drawn = {name: column[chosen] for name, column in numbers.items()} | {"hardware": hardware[chosen]}
    usable = {name: column[index] for name, column in numbers.items()}
    return Points(drawn, binned(usable), len(index), len(good))


def binned(frame: Mapping[str, Array]) -> dict[str, Array]:
    """Return the spread of ln(measured/predicted) in bins of equally many rows, against what the bands promise.

    Returns
    -------
    dict
        predicted (median of the bin), low, middle, high (5 %, 50 %, 95 % of the residuals), promised_low and
        promised_high (medians of the bands' ends); empty arrays below `ROWS_OF_BIN` rows.
    """
    names = ("predicted", "low", "middle", "high", "promised_low", "promised_high")
    count = min(len(frame["predicted"]) // ROWS_OF_BIN, MOST_BINS)
    if count == 0:
        return {name: np.empty(0) for name in names}
    logs = {name: np.log(frame[name] / frame["predicted"]) for name in ("measured", "low", "high")}
    rows = []
    for part in np.array_split(np.argsort(frame["predicted"], kind="stable"), count):
        middle = float(np.median(frame["predicted"][part]))
        spread = np.quantile(logs["measured"][part], [0.05, 0.5, 0.95])
        rows.append([middle, *spread, np.median(logs["low"][part]), np.median(logs["high"][part])])
    return dict(zip(names, np.array(rows).T, strict=True))
