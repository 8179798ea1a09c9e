"""Products in real fp32 on CUDA cores (cuBLAS sgemm, one eager PyTorch call): tiles, waves, a power-limited roofline.

The formula, for m×n×k products, `batch` of them in one launch:

- tile (bm, bn), split s of the k loop: c = ⌈m/bm⌉·⌈n/bn⌉·batch·s blocks on SM cores; waves w = 1 if c ≤ SM, else
  q·⌈c/SM⌉ + (1 − q)·c/SM. The library takes the fastest tile and split.
- Tc = w · 2·bm·bn·(k/s + kpro) / (ef·issue·hot·peak/SM · I/(I + ia)) · (1 + lk·x²/(1 + x²)), I = bm·bn/(bm + bn),
  divided by its value at 128×128; x = k/kd: long rows of k values miss the TLB and the L2. Batched products have an
  efficiency and an intensity constant of their own (`batched`, `ib`): there the library hardly leaves its largest tile.
- hot: the share of the clock that a card sustains within its power limit (see `sustained`)
- Tm = bytes/(eb·BW); t = t0 + (Tcᵖ + Tmᵖ)^(1/p)

The cuBLAS tiles are the ones named in its sgemm kernels (`ampere_sgemm_128x64_tn`, ...).
Mean error on unseen shapes of a measured card, linear and batched: A100 4 and 7 %, V100 4 and 11 %, P100 10 and 7 %,
P4 13 and 16 %, T4 8 and 21 % (its clock depends on what ran before). On a card left out of the fit: A100 6 and 11 %,
others 10 to 31 %.
"""

from __future__ import annotations

import numpy as np

from capacity.timing.form import Array, Board, Form, Parameter, Values
from capacity.work.operations import Gemm

TILES = np.array([(128, 128), (128, 64), (64, 128), (64, 64), (128, 32), (32, 128), (64, 32), (32, 32)], dtype=float)
LARGEST_INTENSITY = 64.0
"""bm·bn/(bm + bn) of the 128×128 tile."""
SPLITS = (1, 2, 4, 8)
LEAST_SPLIT_DEPTH = 128
"""Values of k that a part of a split product keeps at least."""
MOST_SPLIT_WAVES = 2
"""Blocks a core beyond which nothing is split."""
WIDE_LANES = 96
"""More fp32 lanes a core than this: four schedulers of 32 lanes, where every instruction takes an fp32 issue slot."""
REFERENCE_YEAR = 2018

PARAMETERS = (
    Parameter("p", 2.0, 1.2, 12.0, shared=True),
    Parameter("ia", 6.0, 0.1, 100.0, 1.0, shared=True),
    Parameter("kpro", 1.0, 0.5, 200.0, 1.0, shared=True),
    Parameter("q", 0.37, 0.02, 1.0, shared=True),
    Parameter("split_s", 1.5e-5, 1e-7, 1e-4, 1.0, shared=True),
    Parameter("kd", 25e3, 5e3, 1e5, shared=True),
    Parameter("issue", 0.83, 0.5, 1.0, 0.05, shared=True),
    Parameter("joule", 17e-12, 4e-12, 60e-12, 0.2, shared=True),
    Parameter("wide", 0.6, 0.2, 1.0, 0.1, shared=True),
    Parameter("halving_years", 8.0, 3.0, 40.0, 0.2, shared=True),
    Parameter("cap", 0.87, 0.3, 1.0, 0.15, shared=True),
    Parameter("t0_s", 3.8e-5, 1e-6, 1e-3, 0.5),
    Parameter("ef", 0.94, 0.3, 1.1, 0.08),
    Parameter("eb", 0.8, 0.5, 1.0, 0.1),
    Parameter("batched", 1.0, 0.5, 1.5, 0.1),
    Parameter("ib", 200.0, 1.0, 1000.0, 1.0),
    Parameter("watt", 1.0, 0.3, 3.0, 0.15),
    Parameter("lk", 0.15, 1e-3, 6.0, 1.0),
)


def seconds(operation: Gemm, board: Board, values: Values) -> Array:
    """Return the time of one launch [s], in the shape of the operation's fields.

    Parameters
    ----------
    operation
        Products with array fields; `dtype` must be fp32 for the profile's fp32 rate to apply.
    board
        Needs the fp32 rate, memory bandwidth and cores; power, clock and year are used where the profile has them.
    values
        One number for each of `PARAMETERS`.
    """
    shape = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in _fields(operation)))
    compute_s = _tiled(shape, board, values)
    depth = (shape[2] / values["kd"]) ** 2
    compute_s = compute_s * (1 + values["lk"] * depth / (1 + depth))
    traffic_s = np.asarray(operation.moved_bytes) / (values["eb"] * board.bandwidth)
    longer = np.maximum(compute_s, traffic_s)
    ratio = np.minimum(compute_s, traffic_s) / longer
    return np.asarray(values["t0_s"] + longer * (1 + ratio ** values["p"]) ** (1 / values["p"]))


def sustained(board: Board, values: Values) -> float:
    """Return the share of its clock that a card keeps under a long fp32 product [1], at most 1.

    A dense product draws `joule`·`watt` per FLOP of the peak rate at full clock: on SMs with 64 fp32 lanes in 2018,
    `wide` of it on those with 128, half of it every `halving_years`. What the power limit cannot feed costs clock:
    (power / draw)^`cap`, as voltage falls with the clock.

    Starting values of these four: T4, V100 and A100 of the NeuSight tables (64 lanes); for 128 lanes the 4096³ products
    of the KernelBench baselines (results/timing, 2025), in TFLOP/s: H100 SXM 51.7, H100 PCIe 37.3, L40S 47, A10 16.2
    and L4 12.2.
    """
    power, year = board.hardware.power, board.hardware.year
    if power is None or year is None:
        return 1.0
    joule = values["joule"] * values["watt"] * 2 ** ((REFERENCE_YEAR - year) / values["halving_years"])
    lanes, issue = (values["wide"], values["issue"]) if _is_wide(board) else (1.0, 1.0)
    fed = (power.value / (joule * lanes * board.rate("fp32"))) ** values["cap"] / (values["ef"] * issue)
    return float((1 + fed**-8.0) ** (-1 / 8))


def _fields(operation: Gemm) -> tuple[object, ...]:
    return operation.m, operation.n, operation.k, operation.batch


def _is_wide(board: Board) -> bool:
    clock = board.hardware.clock
    return clock is None or board.rate("fp32") > 2 * WIDE_LANES * board.cores * clock.value


def _tiled(shape: tuple[Array, ...], board: Board, values: Values) -> Array:
    """Return the compute time of the fastest tile and split [s]."""
    m, n, k, batch = (x[..., None] for x in shape)
    rows, columns = TILES.T
    intensity = rows * columns / (rows + columns)
    half = np.where(batch > 1, values["ib"], values["ia"])
    reach = intensity / (intensity + half) * (1 + half / LARGEST_INTENSITY)
    issue = (values["issue"] if _is_wide(board) else 1.0) * sustained(board, values)
    share = np.where(batch > 1, values["batched"], 1.0) * reach
    core_flop_per_s = values["ef"] * issue * share * board.rate("fp32") / board.cores
    tiles = np.ceil(m / rows) * np.ceil(n / columns) * batch
    best = np.full(shape[0].shape, np.inf)
    for split in SPLITS:
        blocks = tiles * split
        load = blocks / board.cores
        waves = np.where(load <= 1, 1.0, values["q"] * np.ceil(load) + (1 - values["q"]) * load)
        depth = np.maximum(k / split, LEAST_SPLIT_DEPTH if split > 1 else 0)
        found = waves * 2 * rows * columns * (depth + values["kpro"]) / core_flop_per_s
        if split > 1:
            found = np.where(load <= MOST_SPLIT_WAVES, found + values["split_s"], np.inf)
        best = np.minimum(best, found.min(axis=-1))
    return best


GEMM_FP32 = Form("gemm_fp32", PARAMETERS, seconds)
