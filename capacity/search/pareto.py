"""The Pareto front of many rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BLOCK = 4096
"""Rows compared with the front at once."""


def front(*lower: Array) -> NDArray[np.intp]:
    """Return the rows that no other row beats: nowhere higher and somewhere lower; of equal ones the first.

    Examples
    --------
    >>> front(np.array([1.0, 2.0, 3.0, 1.0]), np.array([3.0, 2.0, 2.0, 3.0])).tolist()
    [0, 1]
    """
    values = np.stack(lower, axis=1)
    order = np.lexsort(tuple(reversed(values.T)))
    kept = np.empty((0, values.shape[1]))
    found: list[int] = []
    ends = [*range(0, len(order), BLOCK), len(order)]
    for start, end in pairwise(ends):
        block = order[start:end]
        if len(kept):
            block = block[~_beaten(values[block], kept)]
        for row in block:
            if not len(kept) or not _beaten(values[row : row + 1], kept)[0]:
                found.append(int(row))
                kept = np.vstack([kept, values[row]])
    return np.array(found, dtype=np.intp)


def _beaten(rows: Array, front_: Array) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = np.all(front_[None, :, :] <= rows[:, None, :], axis=2)
    return np.asarray(np.any(within, axis=1))
