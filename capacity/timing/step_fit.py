"""Anchors: what one or a few measured steps of a device say about all the others that an engine runs there.

ln(measured / predicted) of a device's steps is its level plus scatter. Levels of devices scatter by
`device_log_sigma` and those of one device's dtypes are correlated by `common`: the usual Gaussian posterior gives each
dtype's level, so that one row moves its dtype most of the way and the other dtypes some of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd

from capacity.errors import CapacityError
from capacity.spec.calibration import Composition
from capacity.spec.hardware import Dtype
from capacity.spec.steps import EngineSteps
from capacity.timing.form import Array
from capacity.timing.step_runs import Place
from capacity.timing.step_tables import TABLES, StepTable


def step_fits(kind: str, rows: pd.DataFrame, place: Place) -> tuple[Composition, ...]:
    """Return the level of every dtype of every engine that the measured rows of one device are about.

    Rows of engines without shared kernels (`EngineSteps`) and rows that cannot be predicted are passed over.
    """
    table = TABLES[kind]
    residuals: dict[str, dict[str, list[Array]]] = {}
    engines: dict[str, EngineSteps] = {}
    texts = [name for name in (*table.names, *table.optional) if name in rows]
    for key, index in rows.groupby(texts, dropna=False, sort=False).indices.items():
        values = dict(zip(texts, key if isinstance(key, tuple) else (key,), strict=True))
        try:
            found = _residual(table, values, rows.iloc[index], place)
        except CapacityError:
            continue
        if found is not None and len(found[2]):
            steps, dtype, logs = found
            engines[steps.engine] = steps
            residuals.setdefault(steps.engine, {}).setdefault(dtype, []).append(logs)
    fits = [
        levels({dtype: np.concatenate(parts) for dtype, parts in by_dtype.items()}, engines[engine], place.hardware.id)
        for engine, by_dtype in residuals.items()
    ]
    return tuple(fit for part in fits for fit in part)


def _residual(
    table: StepTable, values: Mapping[str, object], rows: pd.DataFrame, place: Place
) -> tuple[EngineSteps, str, Array] | None:
    """Return the engine and dtype of rows, and ln(measured/predicted) of those that were timed, anchors apart."""
    bare = place.unanchored()
    runner = table.runner(values, bare)
    if runner.steps is None or runner.error:
        return None
    predicted = np.array([float(step.value) for step in table.seconds(values, rows, bare)])
    measured = table.measured_s(rows)
    timed = np.isfinite(measured) & (measured > 0)
    return runner.steps, runner.dtype, np.log(measured[timed] / predicted[timed])


def levels(residuals: Mapping[str, Array], steps: EngineSteps, hardware: str) -> tuple[Composition, ...]:
    """Return the posterior level of every dtype of the engine on a device.

    Parameters
    ----------
    residuals
        ln(measured/predicted) by dtype.

    Notes
    -----
    Prior covariance D = σ_d² (c + (1 − c) I); mean of n rows of a dtype: level ± σ/√n. A device whose rows the shared
    numbers were fitted on has spent its level there: its prior is as narrow as the scatter of rows.
    """
    dtypes = list(dict.fromkeys([name.partition("/")[0] for name in steps.flop_efficiency]))
    counts = np.array([len(residuals.get(dtype, ())) for dtype in dtypes], dtype=float)
    means = np.array([np.mean(residuals[dtype]) if len(residuals.get(dtype, ())) else 0.0 for dtype in dtypes])
    sigma = min(steps.device_log_sigma, steps.log_sigma / 2) if hardware in steps.devices else steps.device_log_sigma
    prior = sigma**2 * (steps.common + (1 - steps.common) * np.eye(len(dtypes)))
    precision = np.diag(counts / steps.log_sigma**2)
    covariance = np.linalg.inv(np.linalg.inv(prior) + precision)
    level = covariance @ precision @ means
    scatter = _scatter([residuals[dtype] - level[place] for place, dtype in enumerate(dtypes) if dtype in residuals])
    return tuple(
        Composition(
            mode="inference", engine=steps.engine, dtype=cast(Dtype, dtype), slowdown=_round(np.exp(level[place])),
            log_sigma=_round(np.hypot(np.sqrt(covariance[place, place]), max(scatter, steps.log_sigma))),
            median_error=_round(_median(residuals.get(dtype, np.zeros(0)) - level[place], steps.median_error)),
            rows=int(counts[place]),
        )
        for place, dtype in enumerate(dtypes)
    )  # fmt: skip


def _scatter(residuals: Sequence[Array]) -> float:
    every = np.concatenate([*residuals, np.zeros(0)])
    return float(np.sqrt(np.mean(every**2))) if len(every) else 0.0


def _median(residual: Array, otherwise: float) -> float:
    return float(np.median(np.abs(np.expm1(-residual)))) if len(residual) > 1 else otherwise


def _round(value: float) -> float:
    return float(f"{value:.4g}")
