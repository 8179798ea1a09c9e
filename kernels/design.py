"""Which products tell a device's own parameters best: a Bayesian D-optimal design, chosen greedily.

One more row x (the derivatives of its ln seconds by the logarithms of the parameters, over the noise) turns the
information M into M + x·xᵀ. M starts with what is known before anything is measured: 1/spread² of each parameter's
prior. The row that raises ln det M − ln det M_nuisance most is chosen next: it shrinks the ellipsoid of the device's
own parameters whatever the constants of the kernel family are (D_s-optimality). Several devices are served by one
list: their gains add.

References
----------
Chaloner & Verdinelli 1995, "Bayesian experimental design: a review", Statistical Science 10 (3):273, §2.2. Atkinson,
Donev & Tobias 2007, Optimum Experimental Designs, with SAS, §10.3 (D_s).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Seconds: TypeAlias = Callable[[Mapping[str, float]], Array]
"""Values of a form's parameters → seconds of every candidate, shape (candidates,)."""

ROWS = (1, 4, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
SIDES = (256, 512, 768, 1024, 1536, 2304, 3072, 4096, 5120, 8192, 11264, 14336)
"""m, and n or k, of the products to choose from: widths of models; multiples of 16, which narrow dtypes ask for."""
MOST_BYTES, MOST_FLOP = 600e6, 3e11
"""Operands of two bytes a value, and work, of the largest product: a card of 16 GB still holds a batch of them."""
PRODUCTS = (
    (3072, 4096, 11264), (1, 4096, 256), (4, 14336, 14336), (4096, 3072, 11264), (16, 11264, 256), (4096, 4096, 8192),
    (1, 14336, 14336), (32, 1536, 256), (1536, 2304, 3072), (16, 14336, 14336), (3072, 3072, 14336), (4, 14336, 11264),
    (4, 11264, 256), (2048, 8192, 8192), (8192, 14336, 256), (384, 256, 256),
    (1, 256, 3072), (16, 768, 1024), (256, 1024, 4096), (1, 256, 1536), (8192, 11264, 256), (64, 256, 256),
    (192, 5120, 11264), (16, 256, 1024), (192, 256, 1024), (8192, 8192, 256), (256, 768, 4096), (1, 256, 512),
    (256, 14336, 14336), (4, 256, 3072), (16, 1536, 2304), (4096, 14336, 256),
)  # fmt: skip
"""m, n, k chosen for the typical values of `capacity.timing.gemm` on T4, L4, A100, H100 and B200: the first half for
launch time, efficiencies and derating whatever the family's constants are, the second half for the constants as well
(waves, splits, prologue); tests/test_design.py chooses anew and compares. Derating needs a sustained run as well."""
STEP = 0.02
"""Step of a derivative in the logarithm of a parameter: wide enough that a change of tile shows as a slope."""


def candidates() -> Array:
    """Return the products to choose from, shape (candidates, 3): m, n, k."""
    shapes = np.array(list(product(ROWS, SIDES, SIDES)), dtype=float)
    m, n, k = shapes.T
    return np.asarray(shapes[(2 * (m * k + n * k + m * n) <= MOST_BYTES) & (2 * m * n * k <= MOST_FLOP)])


def sensitivities(seconds: Seconds, values: Mapping[str, float], names: Sequence[str]) -> Array:
    """Return ∂ ln seconds / ∂ ln parameter by central differences, shape (candidates, parameters).

    Examples
    --------
    >>> sensitivities(lambda v: np.array([v["a"] ** 2, v["a"] * v["b"]]), {"a": 3.0, "b": 5.0}, ("a", "b")).round(6)
    array([[2., 0.],
           [1., 1.]])
    """
    columns = []
    for name in names:
        up, down = (seconds({**values, name: values[name] * np.exp(sign * STEP)}) for sign in (1, -1))
        columns.append(np.log(up / down) / (2 * STEP))
    return np.stack(columns, axis=1)


def chosen(rows: Array, spread: Array, own: int, size: int, before: Sequence[int] = ()) -> list[int]:
    """Return the numbers of `size` candidates beside those chosen `before`, the most telling first.

    Parameters
    ----------
    rows
        Sensitivities over the noise of a measurement, shape (devices, candidates, parameters).
    spread
        Prior standard deviation of each parameter's logarithm, shape (parameters,).
    own
        So many parameters, the first, are what is asked for; the others only may not be mistaken for them.

    Examples
    --------
    The longest row first, then what it leaves open, not its near double:

    >>> chosen(np.array([[[9.0, 0.0], [8.9, 0.0], [0.0, 3.0]]]), np.array([1.0, 1.0]), 2, 2)
    [0, 2]
    """
    taken = list(before)
    while len(taken) < min(len(before) + size, rows.shape[1]):
        known = rows[:, taken]
        information = np.einsum("dcp,dcq->dpq", known, known) + np.diag(1 / np.square(spread))
        gains = (_gain(rows, information) - _gain(rows[..., own:], information[:, own:, own:])).sum(axis=0)
        gains[taken] = -np.inf
        taken.append(int(np.argmax(gains)))
    return taken[len(before) :]


def _gain(rows: Array, information: Array) -> Array:
    """Return what each row adds to ln det of the information, shape (devices, candidates)."""
    return np.asarray(np.log1p(np.einsum("dcp,dpq,dcq->dc", rows, np.linalg.inv(information), rows)))


def remaining(rows: Array, spread: Array) -> Array:
    """Return the covariance of the parameters' logarithms that the rows of one device leave, (parameters, parameters).

    Examples
    --------
    >>> remaining(np.array([[2.0, 0.0]]), np.array([1.0, 1.0]))  # 1/(1 + 2²), and what nobody measured
    array([[0.2, 0. ],
           [0. , 1. ]])
    """
    return np.asarray(np.linalg.inv(np.diag(1 / np.square(spread)) + rows.T @ rows))
