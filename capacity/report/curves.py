"""Kernel families of a device as curves: the band against the predicted time, and the time against the size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from capacity.report.kernels import factor, log_sigma, precision, runs
from capacity.spec.hardware import Hardware
from capacity.timing.carried import knots
from capacity.timing.device import reference_bandwidth, reference_rate
from capacity.timing.form import Board, MissingFactError
from capacity.timing.kernel import Kernel, Key
from capacity.work.expert_layer import ExpertLayer
from capacity.work.operations import Attention, Collective, Gemm

Array: TypeAlias = NDArray[np.float64]
BEYOND_KNOTS = 3.0
"""How far beyond its outermost knots a band is drawn [1]."""
USUAL_TIMES_S = (1e-6, 1.0)
"""Range drawn of a band that is the same everywhere [s]."""
POINTS = 200
PRODUCT, DEVICES = 4096.0, 8.0
"""Columns and depth of the products drawn; devices of the collectives drawn."""


@dataclass(frozen=True, slots=True)
class Band:
    """A kernel family's 90 % band: factors at predicted times [s], and those at the knots the calibration states."""

    title: str
    predicted_s: Array
    measured: Array
    """By the scatter of shapes held out of the fit."""
    total: Array
    """With what carrying the values over costs."""
    knots_s: Array
    knots: Array


@dataclass(frozen=True, slots=True)
class Sweep:
    """Operations of growing size."""

    label: str
    """What grows, with its unit."""
    fixed: str
    """What stays the same, in words."""
    size: Array
    operation: Gemm | Attention | Collective | ExpertLayer


@dataclass(frozen=True, slots=True)
class Curve:
    """Predicted time of one launch by size, with its 90 % band [s]."""

    title: str
    label: str
    fixed: str
    size: Array
    seconds: Array
    low: Array
    high: Array
    bound_s: Array | None
    """What the datasheet's rate or bandwidth alone would take; None where the profile lacks them."""


def name(key: Key) -> str:
    """Return a kernel family as a person reads it.

    Examples
    --------
    >>> name(("gemm", "cutlass", "fp8", "fp8"))
    'gemm · cutlass · fp8'
    """
    return " · ".join((key[0], key[1], precision(key)))


def band(key: Key, kernel: Kernel) -> Band:
    """Return the band of a kernel family against its predicted time."""
    stated = knots(kernel.scatter)
    knots_s = np.array([knot.seconds for knot in stated])
    first, last = (knots_s[0] / BEYOND_KNOTS, knots_s[-1] * BEYOND_KNOTS) if stated else USUAL_TIMES_S
    times = np.unique(np.concatenate([np.geomspace(first, last, POINTS), knots_s]))
    measured, total = (np.asarray(factor(log_sigma(kernel, times, carried=carried))) for carried in (False, True))
    return Band(name(key), times, measured, total, knots_s, np.asarray(factor([knot.log_sigma for knot in stated])))


def sweep(key: Key) -> Sweep | None:
    """Return launches of growing size that a kernel family may run; None where there is no usual size to grow."""
    operation, _, dtype, stored = key
    if operation == "gemm":
        rows = _doubling(1, 2**16)
        product = Gemm(m=rows, n=PRODUCT, k=PRODUCT, dtype=dtype, weight_dtype=stored)
        return Sweep("Rows m [1]", "n = k = 4096, weights read from memory", rows, product)
    if operation.startswith("attention."):
        return _attention(operation.removeprefix("attention."), dtype, stored)
    if operation.startswith("collective."):
        message_bytes = _doubling(2**10, 2**30)
        kind = operation.removeprefix("collective.")
        collective = Collective(kind=kind, message_bytes=message_bytes, devices=DEVICES, dtype=dtype)  # type: ignore[arg-type]
        return Sweep("Message [byte]", f"{DEVICES:.0f} devices", message_bytes, collective)
    if operation == "experts":
        tokens = _doubling(1, 2**14)
        layer = ExpertLayer(
            tokens=tokens, hidden=4096, intermediate=1536, experts=128, per_token=8, dtype=dtype, weight_dtype=stored
        )
        return Sweep("Tokens [1]", "128 experts of 4096 × 1536, 8 a token, balanced, one device", tokens, layer)
    return None


def _attention(phase: str, dtype: str, stored: str) -> Sweep:
    lengths = _doubling(64, 2**15)
    if phase == "decode":
        call = Attention(
            batch=32, heads=32, kv_heads=8, query=1, keys=lengths, head_dim=128, dtype=dtype, phase="decode",
            causal=True, kv_dtype=stored,
        )  # fmt: skip
        return Sweep("Keys in the cache [1]", "32 sequences, 32 heads of 128, 8 KV heads", lengths, call)
    call = Attention(
        batch=1, heads=32, kv_heads=8 if phase == "prefill" else 32, query=lengths, keys=lengths, head_dim=128,
        dtype=dtype, phase=phase, causal=phase == "prefill", kv_dtype=stored,  # type: ignore[arg-type]
    )  # fmt: skip
    heads = "32 heads of 128, 8 KV heads, causal" if phase == "prefill" else "32 heads of 128, every pair"
    return Sweep("Sequence length [1]", f"one sequence, {heads}", lengths, call)


def _doubling(first: int, last: int) -> Array:
    """Return whole sizes, four to a doubling where there are so many."""
    count = 4 * int(np.log2(last / first)) + 1
    return np.unique(np.round(np.geomspace(first, last, count)))


def curve(key: Key, kernel: Kernel, hardware: Hardware) -> Curve | None:
    """Return the predicted time of launches of growing size; None where there is no usual size to grow.

    Raises
    ------
    MissingFactError
        When the profile lacks a fact that the form needs.
    """
    dtype = runs(key, hardware) or key[2]
    found = sweep((key[0], key[1], dtype, dtype if key[3] == key[2] else key[3]))
    if found is None:
        return None
    estimate = kernel.time(found.operation, Board(hardware))
    seconds, low, high = (np.asarray(part, dtype=float) for part in (estimate.value, estimate.low, estimate.high))
    return Curve(
        title=f"{name(key)} on {hardware.name}", label=found.label, fixed=found.fixed, size=found.size,
        seconds=seconds, low=low, high=high, bound_s=_bound_s(found, hardware),
    )  # fmt: skip


def _bound_s(found: Sweep, hardware: Hardware) -> Array | None:
    """Return what the slower of the datasheet's dense rate and bandwidth would take [s] (Williams et al. 2009)."""
    operation = found.operation
    try:
        traffic_s = operation.moved_bytes / reference_bandwidth(hardware, operation)  # type: ignore[arg-type]
        if isinstance(operation, Collective):
            return np.asarray(traffic_s)
        return np.maximum(traffic_s, operation.flop / reference_rate(hardware, operation.operation, operation.dtype))
    except MissingFactError:
        return None
