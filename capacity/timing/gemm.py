"""Matrix products: tiles, waves, split-k, a smooth roofline, and the clock that falls under sustained power.

A library cuts the result into tiles of bm×bn, perhaps the sum over k into s parts, and picks the fastest cut; so does
this form. For one candidate, with c blocks on `cores` SMs:

- waves w = 1 if c ≤ cores, else q·⌈c/cores⌉ + (1 − q)·c/cores
- compute = w · 2·bm·bn·(⌈k/s⌉₃₂ + prologue) / (share of the tile's rate · rate/cores)
- traffic = bytes · ((1 − h)/BW + h/cache BW) / min(1, c/(fill·cores)), h = what stays in cache between calls
- t = t0 + (computeᵖ + trafficᵖ)^(1/p) + split cost + derating

The constants of the family (p, q, prologue, …) are shared by devices; t0, the two efficiencies and the derating are a
device's own. Measured error on shapes and devices left out: docs/explanation/kernel-time.md.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from capacity.spec.hardware import DTYPE_BYTES
from capacity.timing.form import Array, Board, Form, Parameter, Values
from capacity.work.operations import Gemm

TILES = np.array([(256, 128), (128, 128), (128, 64), (64, 128), (64, 64), (32, 128), (16, 128)], dtype=float)
"""Output tiles (bm, bn) of one thread block that cuBLAS and CUTLASS choose among."""
SPLITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Parts that the sum over k is cut into; partial results are added in a second pass."""
LEAST_K = 128.0
"""Shortest part of k worth a block."""
LARGEST = 256 * 128 / 384
"""FLOP intensity bm·bn/(bm + bn) of the largest tile, whose share of the rate counts as 1."""
CACHE_SHARE = 0.8
"""Share of the last-level cache that weights can stay in between two calls."""
CLOCK_SETTLES_S = 1e-3
"""How long a product runs before the power limit has lowered the clock [s]."""
LEAST = 1e-9
"""Smallest size: a batch that a cache answers whole still launches."""
SMALL = 500
"""Shapes below which numpy answers sooner than the compiled loop is loaded."""

PARAMETERS = (
    Parameter("t0_s", 2e-6, 1e-7, 1e-3, spread=0.4),
    Parameter("flop_efficiency", 0.8, 0.1, 1.2, spread=0.2),
    Parameter("bandwidth_efficiency", 0.77, 0.1, 1.2, spread=0.1),
    Parameter("derating", 0.15, 1e-3, 2, spread=1.0),
    Parameter("sharpness", 3.0, 1, 20, shared=True),
    Parameter("half_rate_intensity", 40, 2, 600, shared=True),
    Parameter("prologue_columns", 150, 5, 1500, spread=0.7, shared=True),
    Parameter("fill", 0.12, 0.01, 1, spread=0.7, shared=True),
    Parameter("wave_rounding", 0.19, 0.01, 1, shared=True),
    Parameter("split_s", 2.5e-6, 1e-7, 2e-4, spread=0.8, shared=True),
    Parameter("cache_bytes_per_cycle", 5, 0.5, 100, shared=True),
)
"""Per device: launch time, shares of the dense rate and of the bandwidth, slowdown once the clock has settled.

Of the family: p of the roofline's corner; tile intensity at half rate; k columns that filling the pipeline costs;
share of the SMs that saturates the memory; how much of a last, partly filled wave counts; time of a split's second
pass [s]; cache bandwidth of one SM [byte/cycle].
"""
QUANTIZED = (Parameter("quantization_bytes", 3, 0.1, 60, spread=0.7, shared=True),)
"""Traffic of quantizing one activation on the fly [byte]."""


def seconds(product: Gemm, board: Board, values: Values) -> Array:
    """Return the time of one launch [s], shape of the product's fields broadcast together.

    `batch` products run as one launch of `batch` times the blocks. Products whose weights stay in the cache between
    two calls are faster: `weight_copies` says how many sets of weights the caller goes through before it returns.
    """
    shape = np.broadcast_shapes(*(np.shape(getattr(product, name)) for name in ("m", "n", "k", "batch")))
    fields = [np.broadcast_to(getattr(product, name), shape).ravel() for name in ("m", "n", "k", "batch")]
    m, n, k, batch = (np.maximum(np.ascontiguousarray(field, dtype=float), LEAST) for field in fields)
    numbers = judging_numbers(product, board, values)
    if m.size < SMALL:
        best = vectorized(m, n, k, batch, numbers)
    else:
        from capacity.timing import compiled

        best = compiled.best_seconds(m, n, k, batch, numbers)
    rate, bandwidth = numbers[1] * numbers[0], numbers[3]
    compute_s = 2 * batch * m * n * k / rate
    derated_s = values["derating"] * compute_s**2 / (compute_s + CLOCK_SETTLES_S)
    quantize_s = values.get("quantization_bytes", 0.0) * batch * m * k / bandwidth
    return cast(Array, (values["t0_s"] + best + derated_s + quantize_s).reshape(shape))


def judging_numbers(product: Gemm, board: Board, values: Values) -> Array:
    """Return what the candidates of a launch are judged by, in one array.

    cores, FLOP/s of a core, intensity at half rate, byte/s, cache byte/s, cache bytes that stay, weight copies, bytes
    of an activation, a weight and a result, p, prologue, fill, q, split time.
    """
    bandwidth, width = values["bandwidth_efficiency"] * board.bandwidth, DTYPE_BYTES[product.dtype]
    cache_bytes = cache = 0.0
    if math.isfinite(product.weight_copies):  # else nothing stays, and the facts of the cache are not needed
        cache_bytes = CACHE_SHARE * board.cache_bytes
        cache = values["cache_bytes_per_cycle"] * board.cores * board.clock_hz
    return np.array([
        board.cores, values["flop_efficiency"] * board.rate(product.dtype) / board.cores,
        values["half_rate_intensity"], bandwidth, max(bandwidth, cache), cache_bytes,
        product.weight_copies, width, DTYPE_BYTES[product.weight_dtype or product.dtype], max(width, 2.0),
        values["sharpness"], values["prologue_columns"], values["fill"], values["wave_rounding"], values["split_s"],
    ])  # fmt: skip


def vectorized(m: Array, n: Array, k: Array, batch: Array, numbers: Array) -> Array:
    """Return the time of the fastest candidate without t0 [s]; all candidates at once, so for a few shapes only."""
    cores, flop_per_s, half, bandwidth, *_, sharpness, prologue, fill, rounding, split_s = numbers
    m, n, k, batch, traffic_s = (
        part[:, None, None] for part in (m, n, k, batch, cached_traffic_s(m, n, k, batch, numbers))
    )
    (rows, columns), split = TILES.T[:, :, None], np.array(SPLITS)
    intensity = rows * columns / (rows + columns)
    share = intensity / (intensity + half) * (LARGEST + half) / LARGEST
    blocks = batch * np.ceil(m / rows) * np.ceil(n / columns) * split
    waves = np.where(blocks <= cores, 1, rounding * np.ceil(blocks / cores) + (1 - rounding) * blocks / cores)
    depth = np.ceil(k / split / 32) * 32 + prologue
    compute_s = waves * 2 * rows * columns * depth / (share * flop_per_s)
    moved_s = traffic_s / np.minimum(1, blocks / (fill * cores))
    moved_s = moved_s + (split > 1) * split * (batch * m * n) * 4 / bandwidth
    longer = np.maximum(compute_s, moved_s)
    ratio = np.minimum(compute_s, moved_s) / longer
    time_s = longer * (1 + ratio**sharpness) ** (1 / sharpness) + (split > 1) * split_s
    allowed = (split == 1) | ((k >= LEAST_K * split) & (blocks <= 2 * cores))
    best: Array = np.where(allowed, time_s, np.inf).min(axis=(1, 2))
    return best


def cached_traffic_s(m: Array, n: Array, k: Array, batch: Array, numbers: Array) -> Array:
    """Return the time that the operands and the result take from memory and cache at full width [s]."""
    _, _, _, bandwidth, cache_bandwidth, cache_bytes, copies, width, weight_width, out_width, *_ = numbers
    weights, activations, result = batch * n * k * weight_width, batch * m * k * width, batch * m * n * out_width
    reused = 2 * activations + result + copies * weights if math.isfinite(copies) else math.inf
    share = np.minimum(1.0, cache_bytes / reused)
    return np.asarray((weights + activations + result) * ((1 - share) / bandwidth + share / cache_bandwidth))


GEMM = Form("gemm", PARAMETERS, seconds)
GEMM_QUANTIZED = Form("gemm_quantized", PARAMETERS + QUANTIZED, seconds)
