"""The fit of a form: measured seconds on one or several devices → its parameters, robustly, on the log scale.

ln(seconds) is fitted with a pseudo-Huber loss, so that a contaminated row counts once and not squared. Every parameter
has a log-normal prior: with thousands of rows the data decide, with ten rows what they do not say stays where other
devices put it. Shared parameters take one value for all devices of the fit, the others one a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capacity.timing.form import Array, Board, Form, Parameter

NOISE = 0.1
"""Log standard deviation of a single row around a good form [1]; also where the loss turns from square to linear."""
MOST_STEPS = 80


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of one kernel family measured on one device: an operation with array fields, and seconds of each entry."""

    operation: Any
    board: Board
    seconds: Array


def fitted(
    form: Form, samples: Sequence[Sample], prior: Sequence[Parameter] | None = None, fixed: frozenset[str] = frozenset()
) -> list[dict[str, float]]:
    """Return the values that fit each sample best, shared parameters equal in all of them.

    Parameters
    ----------
    samples
        One a device.
    prior
        Parameters with the medians and spreads to fall back on; the form's own by default.
    fixed
        Names that stay at the prior's median, e.g. the shared ones when a few rows meet a known family.
    """
    from scipy.optimize import least_squares
    from scipy.sparse import lil_matrix

    parameters = tuple(prior or form.parameters)
    slots = _slots(parameters, len(samples), fixed)
    free = [(parameter, device) for parameter, device in slots]
    start = np.log([parameter.start for parameter, _ in free])
    low, high = (np.log([getattr(parameter, end) for parameter, _ in free]) for end in ("low", "high"))
    spread = np.array([parameter.spread for parameter, _ in free])
    measured = [np.log(sample.seconds) for sample in samples]

    def loss(logs: Array) -> Array:
        each = _values(parameters, slots, logs, len(samples))
        residuals = [
            (np.log(form.seconds(sample.operation, sample.board, values)) - known) / NOISE
            for sample, known, values in zip(samples, measured, each, strict=True)
        ]
        return np.concatenate([*residuals, (logs - start) / spread])

    ends = np.cumsum([0, *(len(known) for known in measured)])
    pattern = lil_matrix((ends[-1] + len(free), len(free)), dtype=np.int8)
    for column, (_, device) in enumerate(free):
        rows = slice(0, ends[-1]) if device is None else slice(ends[device], ends[device + 1])
        pattern[rows, column] = 1
        pattern[ends[-1] + column, column] = 1
    one = len(samples) == 1
    result = least_squares(
        loss, np.clip(start, low + 1e-9, high - 1e-9), bounds=(low, high), loss="soft_l1", max_nfev=MOST_STEPS,
        jac_sparsity=None if one else pattern.tocsr(), x_scale=spread,
    )  # fmt: skip
    return _values(parameters, slots, result.x, len(samples))


def _slots(parameters: Sequence[Parameter], devices: int, fixed: frozenset[str]) -> list[tuple[Parameter, int | None]]:
    """Return what is fitted: each free parameter with its device, or None where all devices share it."""
    found: list[tuple[Parameter, int | None]] = []
    for parameter in parameters:
        if parameter.name not in fixed:
            places = [None] if parameter.shared else range(devices)
            found += [(parameter, place) for place in places]
    return found


def _values(
    parameters: Sequence[Parameter], slots: Sequence[tuple[Parameter, int | None]], logs: Array, devices: int
) -> list[dict[str, float]]:
    each = [{parameter.name: parameter.start for parameter in parameters} for _ in range(devices)]
    for (parameter, device), value in zip(slots, np.exp(logs), strict=True):
        for index in range(devices) if device is None else [device]:
            each[index][parameter.name] = float(value)
    return each


def residuals(form: Form, sample: Sample, values: Mapping[str, float]) -> NDArray[np.float64]:
    """Return ln(measured / predicted) of every row."""
    return np.log(sample.seconds / form.seconds(sample.operation, sample.board, values))
