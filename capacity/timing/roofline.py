"""The form: t0 + (computeᵖ + trafficᵖ)^(1/p), per class of operations. Vectorized over the operation's fields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from capacity.work.operations import Amount, Attention, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """What one class of operations reaches on one device at one dtype."""

    t0_s: float
    flop_per_s: float
    bytes_per_s: float
    sharpness: float = 20.0
    softmax_columns: float = 0.0


def seconds(operation: Operation, roof: Roof) -> Amount:
    """Return the time of one launch [s], shape of the operation's fields broadcast together.

    Reference: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009; the corner smoothed by a p-norm.

    Examples
    --------
    >>> from capacity.work.operations import Gemm
    >>> roof = Roof(t0_s=1e-6, flop_per_s=1e12, bytes_per_s=1e30)
    >>> float(seconds(Gemm(m=1000, n=1000, k=1000, dtype="fp32"), roof))  # 2e9 FLOP at 1e12 FLOP/s, plus t0
    0.002001
    """
    compute_s = executed_flop(operation, roof.softmax_columns) / roof.flop_per_s
    traffic_s = operation.moved_bytes / roof.bytes_per_s
    longer = np.maximum(np.maximum(compute_s, traffic_s), 1e-30)
    ratio = np.minimum(compute_s, traffic_s) / longer
    return roof.t0_s + longer * (1 + ratio**roof.sharpness) ** (1 / roof.sharpness)


def executed_flop(operation: Operation, softmax_columns: float = 0.0) -> Amount:
    """Return the FLOP a kernel executes, the softmax of attention counted as extra columns of the head."""
    flop = operation.flop
    if isinstance(operation, Attention) and softmax_columns:
        flop = flop * (1 + softmax_columns / operation.head_dim)
    return flop
