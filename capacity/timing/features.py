"""What a learned residual may ask of a launch: logarithms of its sizes, and how well they fill tiles and cores."""

from __future__ import annotations

from typing import Any

import numpy as np

from capacity.timing.form import Array, Board
from capacity.work.expert_layer import ExpertLayer
from capacity.work.operations import Amount, Attention, Gemm, Operation

LEAST = 1e-9
SIZES: dict[type[Any], tuple[str, ...]] = {
    Gemm: ("m", "n", "k", "batch"),
    Attention: ("batch", "query", "keys", "heads", "kv_heads", "head_dim"),
}
OTHERS = ("tokens", "hidden", "intermediate", "experts", "per_token", "tensor_parallel", "expert_parallel")
"""Sizes of every other operation that has them."""


def features(operation: Operation | ExpertLayer, board: Board, predicted_s: Array) -> tuple[tuple[str, ...], Array]:
    """Return names and values, shape (launches, features), of what describes each launch.

    Parameters
    ----------
    predicted_s
        Time by the form [s], in the shape that the operation's fields broadcast to.
    """
    columns: dict[str, Any] = {}
    for name in SIZES.get(type(operation), OTHERS):
        if hasattr(operation, name):
            columns[f"ln {name}"] = _log(getattr(operation, name))
    columns["ln FLOP"] = _log(operation.flop)
    columns["ln bytes"] = _log(operation.moved_bytes)
    columns["ln seconds"] = _log(predicted_s)
    if isinstance(operation, Gemm):
        columns["ln m·n"] = _log(operation.m) + _log(operation.n)
        columns["ln m/n"] = _log(operation.m) - _log(operation.n)
        columns |= {f"unfilled, {tile}": _unfilled(operation, tile, board) for tile in (64, 128)}
    if hasattr(operation, "skew"):
        columns["skew"] = operation.skew
    shape = predicted_s.shape
    flat = [np.broadcast_to(np.asarray(column, dtype=float), shape).ravel() for column in columns.values()]
    # tables repeat a few sizes and thresholds lie on them: in the precision they are stored in, sides are never changed
    return tuple(columns), np.stack(flat, axis=1).astype(np.float32).astype(np.float64)


def _log(size: Amount) -> Array:
    """Return ln(size), of nothing at all that of next to nothing; integers beyond 64 bits are sizes too."""
    return np.asarray(np.log(np.maximum(np.asarray(size, dtype=float), LEAST)))


def _unfilled(product: Gemm, tile: int, board: Board) -> Array:
    """Return waves of square tiles, rounded up, over waves [1]: 1 when the last wave is full."""
    m, n, batch = (np.maximum(np.asarray(size, dtype=float), LEAST) for size in (product.m, product.n, product.batch))
    waves = batch * np.ceil(m / tile) * np.ceil(n / tile) / board.cores
    return np.asarray(np.ceil(waves) / waves, dtype=float)
