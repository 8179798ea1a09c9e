"""The fit: measured seconds of one class of operations → the parameters of its roof, robustly, on the log scale.

Parameters are fitted to ln(seconds) with a pseudo-Huber loss, so that a contaminated row counts once and not squared.
How wrong the form is comes from rows held out: five folds, each predicted by a fit that never saw it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from capacity.spec.calibration import Composition, Efficiency
from capacity.spec.hardware import Dtype, Hardware
from capacity.timing.band import Z90, total
from capacity.timing.device import Device, reference_bandwidth, reference_rate
from capacity.timing.roofline import Roof, seconds
from capacity.work.measurement import Measurement
from capacity.work.operations import Operation

Array = NDArray[np.float64]
FOLDS = 5
LEAST_ROWS = 3
LEAST_SIGMA = 0.03
"""No fit is believed to be better: two runs of the same model differ by as much on a quiet machine."""
SHARPNESS = (1.0, 20.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted roof and how far it is from rows it did not see."""

    roof: Roof
    log_sigma: float
    median_error: float
    rows: int
    attention: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """Measurements of one class of operations: operations in groups that share a shape of fields, and their seconds."""

    operations: Sequence[Operation]
    seconds: Sequence[Array]

    @property
    def measured(self) -> Array:
        """All measured times in one array [s]."""
        return np.concatenate([np.atleast_1d(np.asarray(part, dtype=float)) for part in self.seconds])

    def predicted(self, roof: Roof) -> Array:
        """Return the time of every row by `roof` [s]."""
        parts = [
            np.broadcast_to(seconds(operation, roof), np.shape(np.atleast_1d(measured)))
            for operation, measured in zip(self.operations, self.seconds, strict=True)
        ]
        return np.concatenate(parts)


def fitted(rows: Rows, *, attention: bool = False) -> Fit:
    """Return the roof that fits `rows` best, with its error on rows held out.

    Raises
    ------
    ValueError
        With fewer than three rows: nothing could be held out.
    """
    measured = rows.measured
    if len(measured) < LEAST_ROWS:
        raise ValueError(f"{len(measured)} rows are too few to fit; at least {LEAST_ROWS}")
    everything = np.ones(len(measured), dtype=bool)
    roof = _fit(rows, everything, attention=attention)
    folds = np.random.default_rng(0).permutation(len(measured)) % min(FOLDS, len(measured))
    residual = np.empty(len(measured))
    for fold in np.unique(folds):
        held_out = folds == fold
        partial = _fit(rows, ~held_out, attention=attention, start=roof)
        residual[held_out] = np.log(measured[held_out] / rows.predicted(partial)[held_out])
    sigma = max(float(np.quantile(np.abs(residual), 0.9)) / Z90, 0.01)
    error = float(np.median(np.abs(np.expm1(-residual))))
    return Fit(roof=roof, log_sigma=sigma, median_error=error, rows=len(measured), attention=attention)


def _fit(rows: Rows, chosen: NDArray[np.bool_], *, attention: bool, start: Roof | None = None) -> Roof:
    from scipy.optimize import least_squares

    measured = rows.measured
    low, high = _bounds(rows, attention=attention)

    def loss(logs: Array) -> Array:
        residual: Array = np.log(rows.predicted(_roof(logs)) / measured)[chosen]
        prior = 0.02 * (logs - start_logs)  # keeps a parameter that the rows do not identify where it started
        return np.concatenate([residual / 0.1, prior])

    best: tuple[float, Array] | None = None
    for guess in [_logs(start)] if start else _guesses(rows, low, high):
        start_logs = np.clip(guess, low + 1e-9, high - 1e-9)
        result = least_squares(loss, start_logs, bounds=(low, high), loss="soft_l1", max_nfev=60)
        if best is None or result.cost < best[0]:
            best = (float(result.cost), result.x)
    return _roof(best[1]) if best else Roof(t0_s=0, flop_per_s=1, bytes_per_s=1)


def _roof(logs: Array) -> Roof:
    t0, flop, traffic, sharpness, columns = np.exp(logs)
    return Roof(t0_s=t0, flop_per_s=flop, bytes_per_s=traffic, sharpness=sharpness, softmax_columns=columns)


def _logs(roof: Roof) -> Array:
    values = [roof.t0_s, roof.flop_per_s, roof.bytes_per_s, roof.sharpness, max(roof.softmax_columns, 1e-9)]
    logs: Array = np.log(np.asarray(values))
    return logs


def _bounds(rows: Rows, *, attention: bool) -> tuple[Array, Array]:
    """Bounds of (t0, FLOP/s, byte/s, p, softmax columns): generous multiples of the best rates seen."""
    measured = rows.measured
    flop, traffic = _amounts(rows, "flop"), _amounts(rows, "moved_bytes")
    fastest = float(np.min(measured))
    rate = max(float(np.max(flop / measured)), 1.0)
    bandwidth = max(float(np.max(traffic / measured)), 1.0)
    columns = (1.0, 2000.0) if attention else (1e-9, 2e-9)
    low = np.log([fastest * 1e-3, rate * 0.3, bandwidth * 0.1, SHARPNESS[0], columns[0]])
    high = np.log([fastest * 1.2, rate * 4, bandwidth * 30, SHARPNESS[1], columns[1]])
    return low, high


def _guesses(rows: Rows, low: Array, high: Array) -> list[Array]:
    """Return start points with the roof's corner sharp, medium and round."""
    top = high - np.log([2.4, 3.5, 25, 1, 1])
    result = []
    for sharpness in (1.2, 3.0, 12.0):
        guess = top.copy()
        guess[3], guess[4] = np.log(sharpness), (low[4] + high[4]) / 2
        result.append(guess)
    return result


def _amounts(rows: Rows, name: str) -> Array:
    parts = [
        np.broadcast_to(getattr(operation, name), np.shape(np.atleast_1d(measured)))
        for operation, measured in zip(rows.operations, rows.seconds, strict=True)
    ]
    return np.concatenate(parts).astype(float)


def grouped(measurements: Sequence[Measurement]) -> dict[tuple[str, str], Rows]:
    """Return the single operations among `measurements`, one `Rows` for each class and dtype."""
    found: dict[tuple[str, str], tuple[list[Operation], list[Array]]] = {}
    for item in measurements:
        if item.mode is None:
            operation = item.operations[0]
            operations, times = found.setdefault((operation.operation, operation.dtype), ([], []))
            operations.append(operation)
            times.append(np.asarray([item.seconds]))
    return {key: Rows(*parts) for key, parts in found.items()}


def efficiency(key: tuple[str, str], rows: Rows, hardware: Hardware) -> Efficiency:
    """Return the fit of one class and dtype as shares of the profile's rate and bandwidth.

    Raises
    ------
    CapacityError
        When the profile states neither a rate for the dtype nor one for fp32, or no bandwidth.
    """
    operation, dtype = key
    fit = fitted(rows, attention=operation.startswith("attention"))
    rate, bandwidth = reference_rate(hardware, operation, dtype), reference_bandwidth(hardware, rows.operations[0])
    roof = fit.roof
    return Efficiency(
        operation=operation, dtype=cast(Dtype, dtype), t0=_round(roof.t0_s),
        flop_efficiency=_round(roof.flop_per_s / rate), bandwidth_efficiency=_round(roof.bytes_per_s / bandwidth),
        sharpness=_round(roof.sharpness), softmax_columns=_round(roof.softmax_columns) if fit.attention else 0,
        log_sigma=_round(fit.log_sigma), median_error=_round(fit.median_error), rows=fit.rows,
    )  # fmt: skip


def composition(
    mode: Literal["inference", "training"], device: Device, models: Sequence[Measurement]
) -> Composition | None:
    """Return launch cost and slowdown that bring the sums of operations to the measured models, or None for none.

    Each model's error comes from a fit to the other models; with fewer than three the device's assumed scatter stays.
    """
    if not models:
        return None
    sums = np.array([float(total(device.time(op) for op in item.operations).value) for item in models])
    launches = np.array([float(sum(op.count for op in item.operations)) for item in models])
    measured = np.array([item.seconds for item in models])
    launch, slowdown = _launch_and_slowdown(sums, launches, measured)
    residual = []
    for index in range(len(models)):
        others = np.arange(len(models)) != index
        if others.sum() >= 2:
            part_launch, part_slowdown = _launch_and_slowdown(sums[others], launches[others], measured[others])
            predicted = part_launch * launches[index] + part_slowdown * sums[index]
            residual.append(float(np.log(measured[index] / predicted)))
    if not residual:
        known = device.compositions[mode]
        sigma, error = known.log_sigma, known.median_error
    else:
        sigma = max(float(np.quantile(np.abs(residual), 0.9)) / Z90, LEAST_SIGMA)
        error = float(np.median(np.abs(residual)))
    return Composition(
        mode=mode, launch=_round(launch), slowdown=_round(slowdown), rows=len(models), log_sigma=_round(sigma),
        median_error=_round(error),
    )  # fmt: skip


def _launch_and_slowdown(sums: Array, launches: Array, measured: Array) -> tuple[float, float]:
    from scipy.optimize import least_squares

    def loss(logs: Array) -> Array:
        launch, slowdown = np.exp(logs)
        residual = np.log((launch * launches + slowdown * sums) / measured) / 0.05
        return np.concatenate([residual, [(logs[0] - start[0]) / 1.0, logs[1] / 0.2]])

    start = np.log([10e-6, 1.0])
    result = least_squares(loss, start, loss="soft_l1", bounds=(np.log([1e-8, 0.5]), np.log([1e-3, 3.0])))
    return float(np.exp(result.x[0])), float(np.exp(result.x[1]))


def _round(value: float) -> float:
    """Three significant digits: what a person reads, and more than the measurement knows."""
    return float(f"{value:.3g}")
