"""Time of a fused expert layer: two grouped products on the most loaded device, and the rows moved around them.

With few tokens the weights of every expert hit are read for a handful of rows; with many, tiles fill and the matrix
units decide. Skewed loads, tile quantization per expert and idle SMs lie between.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from capacity.errors import UnknownNameError
from capacity.spec.hardware import DTYPE_BYTES
from capacity.timing.form import Array, Board, Form, Parameter, Values
from capacity.work.expert_layer import ExpertLayer

TILE_ROWS = (16, 32, 64, 128, 256)
TILE_COLUMNS = (64, 128, 256)
LARGEST_INTENSITY = TILE_ROWS[-1] * TILE_COLUMNS[-1] / (TILE_ROWS[-1] + TILE_COLUMNS[-1])
ACTIVATION_BYTES = 2.0
"""Width of rows between the kernels of a layer: 16-bit floats whatever the product's operands are [byte]."""
CACHE_SHARE = 0.8
"""Part of the last-level cache that weights can hold from one launch to the next [1], the GEMM form's."""
WARP_RATE = 4e12
"""16-bit rate of one SM by warp-level mma: 2048 FLOP a cycle (NVIDIA A100 whitepaper, 2020) at 1.95 GHz [FLOP/s].

Marlin is built on it: at 16k tokens it reaches 0.48 of the datasheet's rate on an A100, 0.27 on an H100, 0.14 on a
B200, and on all three about half of 2048 FLOP a cycle and SM.
"""
SUSTAINED_S = 1e-3
"""Full load that lasts this long costs half of the clock that it costs in the end [s]; the GEMM form's."""
PRECISION = {
    "bf16": ("bf16", "bf16"), "fp16": ("fp16", "fp16"), "fp8": ("fp8", "fp8"), "fp8_block": ("fp8", "fp8"),
    "int8": ("int8", "int8"), "nvfp4": ("fp4", "fp4"), "w4a8_mxfp4_mxfp8": ("fp8", "fp4"),
    "w4afp8": ("fp8", "int4"), "w4a16_mxfp4": ("bf16", "fp4"), "int4_wo": ("bf16", "int4"),
}  # fmt: skip
"""Name of a quantization → the dtype whose rate the product runs at, and the dtype the weights are stored in."""
FAMILIES = (
    ("marlin", "marlin"), ("deep_?gemm", "deepgemm"), ("cute_?dsl", "cutedsl"), ("min_latency", "min_latency"),
    ("trtllm(?!.*triton)", "trtllm_gen"), ("flashinfer_mxfp4|flashinfer_trtllm", "trtllm_gen"),
    ("triton|fused_moe", "triton"), ("cutlass|nongated", "cutlass"),
)  # fmt: skip
"""Pattern in a kernel's name → its family; the first that matches."""
SQUARED_RELU = frozenset({(2688, 1856, 128, 6), (4096, 2688, 512, 22), (2048, 5120, 512, 22)})
"""Expert shapes (hidden, intermediate, experts, per token) of the Nemotron models: one up projection, relu²."""


def family(kernel: str, engine: str, dtype: str) -> str:
    """Return the family whose parameters a kernel shares, from the name an engine gives it.

    Parameters
    ----------
    kernel, engine
        E.g. `sglang_fused_moe_triton` and `sglang`, with or without a version.
    dtype
        Name of the quantization, a key of `PRECISION`.

    Examples
    --------
    >>> family("vllm_fp8moe_flashinfer_trtllm_trtllmfp8expertsmodular", "vllm", "fp8_block")
    'trtllm_gen'
    >>> family("brand_new", "vllm 0.30", "int4_wo"), family("brand_new", "trtllm", "bf16")
    ('marlin', 'cutlass')
    """
    name = kernel.casefold()
    for pattern, found in FAMILIES:
        if re.search(pattern, name):
            return found
    if engine.casefold().startswith("trtllm"):  # its plain `moe_torch_flow` runs trtllm-gen where weights are mxfp4
        return "trtllm_gen" if "mxfp4" in dtype else "cutlass"
    return "marlin" if precision(dtype)[1] in {"int4", "fp4"} else "triton"


def precision(dtype: str) -> tuple[str, str]:
    """Return the dtype whose rate the products run at and the dtype the weights are stored in.

    Raises
    ------
    UnknownNameError
        For a quantization that `PRECISION` does not hold.

    Examples
    --------
    >>> precision("int4_wo")
    ('bf16', 'int4')
    """
    if dtype not in PRECISION:
        raise UnknownNameError("quantization of experts", dtype, PRECISION)
    return PRECISION[dtype]


def gated(engine: str, kernel: str, shape: tuple[int, int, int, int]) -> bool:
    """Return whether a published row ran two up projections, which its columns do not say.

    TensorRT-LLM names most of its kernels; SGLang from 0.5.14 and vLLM from 0.24 seem to run the Nemotron shapes with
    one: counted with two, their rate above 2k tokens is mostly 1.1 to 1.9 times that of other shapes. An inference.

    Examples
    --------
    >>> gated("sglang 0.5.14", "x", (2688, 1856, 128, 6)), gated("vllm 0.14.0", "x", (2688, 1856, 128, 6))
    (False, True)
    """
    name, version = _engine(engine)
    plain = shape in SQUARED_RELU and version >= {"sglang": (0, 5, 14), "vllm": (0, 24)}.get(name, (0,))
    return not (plain or "nongated" in kernel)


def arriving(engine: str, kernel: str, shape: tuple[int, int, int, int]) -> bool:
    """Return whether a published row gave the device only the tokens that chose one of its experts.

    So did SGLang's Triton and Marlin rows up to 0.5.10; of 0.5.14 still those of at most 8 experts and of Gemma 4.

    Examples
    --------
    >>> arriving("sglang 0.5.10", "sglang_marlin_moe", (4096, 1536, 128, 8))
    True
    """
    name, version = _engine(engine)
    early = version <= (0, 5, 10) or shape[2] <= 8 or shape == (2816, 704, 128, 8)
    return name == "sglang" and early and re.search("fused_moe_triton$|marlin_moe$", kernel) is not None


def _engine(engine: str) -> tuple[str, tuple[int, ...]]:
    name, _, version = engine.casefold().partition(" ")
    return name, tuple(int(part) for part in re.findall(r"\d+", version)[:3]) or (10**6,)


@dataclass(frozen=True, slots=True)
class _Product:
    """One grouped product: in each class, `count` experts with `rows` rows each times their own n×k weights."""

    rows: Array
    count: Array
    n: Array
    k: Array
    weight_bytes: Array


def seconds(layer: ExpertLayer, board: Board, values: Values) -> Array:
    """Return the time of one launch of the layer on the most loaded device [s], its products at the device's best rate.

    See `_seconds`.
    """
    return _seconds(layer, board, values, board.rate(layer.dtype))


def warp_seconds(layer: ExpertLayer, board: Board, values: Values) -> Array:
    """Return the same for kernels built on Ampere's warp-level mma, which later chips run no faster per SM and cycle.

    See `_seconds` and `WARP_RATE`.
    """
    limit = WARP_RATE * 2 / DTYPE_BYTES[layer.dtype] * board.cores
    return _seconds(layer, board, values, min(board.rate(layer.dtype), limit))


def _seconds(layer: ExpertLayer, board: Board, values: Values, peak: float) -> Array:
    """Return the time of one launch of the layer on the most loaded device [s], in the shape of its fields.

    t = launch + expert·E + passes·moved/(memory·BW) + Σ over up and down of minₜᵢₗₑₛ (Tcᵖ + Tmᵖ)^(1/p)
    + throttle·Tf²/(Tf + 1 ms), with Tf = FLOP/(compute·peak), where for a tile bm×bn and the classes of
    `ExpertLayer.load`, each of `count` experts with `rows` rows:

    - blocks c = Σ count·⌈rows/bm⌉·⌈n/bn⌉; Tc = max(c/SM, 1)·2·bm·bn·(k + prologue) / (compute·reach·peak/SM), with
      reach = I/(I + intensity), I = bm·bn/(bm + bn), divided by its value at the largest tile
    - Tm = weights of the experts hit / (memory·BW·min(1, hit·⌈n/bn⌉/(occupancy·SM)))
    - E: experts on the device; moved: every token-expert pair a device sees, in and out, and the intermediate rows
    - where only the tokens that chose it arrive, the share `foreign` of their other pairs is computed as well
    - warm weights: the share that the cache holds comes at near·SM where that beats main memory

    Parameters
    ----------
    values
        launch_s, expert_s [s]; near_bytes_per_s [byte/s per SM]; prologue [columns]; intensity [rows]; the others [1].

    Raises
    ------
    MissingFactError
        Where the profile lacks the rate, the bandwidth or the number of SMs. Without a cache size nothing stays warm.
    """
    load = layer.load
    hidden, width = np.asarray(layer.hidden, dtype=np.float64), np.asarray(layer.width, dtype=np.float64)
    pairs = np.where(layer.arriving, load.tokens, layer.tokens) * layer.per_token
    rows = load.rows + np.where(layer.arriving, values["foreign"] * np.maximum(pairs - load.rows, 0.0), 0.0)
    each = load.each * (rows / load.rows)[..., None]
    weight = DTYPE_BYTES[layer.weight_dtype or layer.dtype] * _coldness(layer, rows, board, values)
    inner = width * (layer.projections - 1)
    up = _Product(each, load.count, inner, hidden, weight * inner * hidden)
    down = _Product(each, load.count, hidden, width, weight * hidden * width)
    moved = ACTIVATION_BYTES * (pairs * hidden + rows * width * layer.projections)
    fixed = values["launch_s"] + values["expert_s"] * np.asarray(layer.experts / layer.expert_parallel)
    streamed = values["passes"] * moved / (values["memory"] * board.bandwidth)
    full = 2 * rows * layer.projections * hidden * width / (values["compute"] * peak)
    slowed = values["throttle"] * full**2 / (full + SUSTAINED_S)
    return np.asarray(fixed + streamed + _time(up, board, values, peak) + _time(down, board, values, peak) + slowed)


def _time(product: _Product, board: Board, values: Values, peak: float) -> Array:
    """Return the time of one grouped product with the fastest tile [s]."""
    peak_each = values["compute"] * peak / board.cores
    hit = product.count.sum(axis=-1)
    read = hit * product.weight_bytes / (values["memory"] * board.bandwidth)
    least = LARGEST_INTENSITY / (LARGEST_INTENSITY + values["intensity"])
    power, best = values["sharpness"], np.full(np.shape(read), np.inf)
    for high in TILE_ROWS:
        tiles = (product.count * np.ceil(product.rows / high)).sum(axis=-1)
        for wide in TILE_COLUMNS:
            across = np.ceil(product.n / wide)
            intensity = high * wide / (high + wide)
            reach = intensity / (intensity + values["intensity"]) / least
            waves = np.maximum(tiles * across / board.cores, 1.0)
            compute = waves * 2 * high * wide * (product.k + values["prologue"]) / (peak_each * reach)
            memory = read / np.minimum(1.0, hit * across / (values["occupancy"] * board.cores))
            best = np.minimum(best, (compute**power + memory**power) ** (1 / power))
    return best


def _coldness(layer: ExpertLayer, rows: Array, board: Board, values: Values) -> Array:
    """Return the time to read the weights over the time from main memory [1]; 1 unless a cache still holds some."""
    cache = board.hardware.last_level_cache
    if not layer.warm or cache is None:
        return np.ones(np.shape(rows))
    used = layer.load.hit * layer.weight_bytes + 2 * ACTIVATION_BYTES * rows * (layer.hidden + layer.width)
    held = np.minimum(1.0, CACHE_SHARE * cache.value / used)
    gain = values["near_bytes_per_s"] * board.cores / (values["memory"] * board.bandwidth)
    return np.asarray(1 - held + held / np.maximum(gain, 1.0))


EXPERTS = Form(
    "experts",
    (
        Parameter("launch_s", 30e-6, 2e-6, 4e-4, spread=0.4),
        Parameter("compute", 0.6, 0.02, 1.0, spread=0.4),
        Parameter("memory", 0.75, 0.05, 1.0, spread=0.25),
        Parameter("passes", 2.0, 0.1, 20.0, spread=0.5),
        Parameter("throttle", 0.15, 0.005, 1.5, spread=0.7),
        Parameter("foreign", 0.8, 0.01, 1.0, spread=0.5),
        Parameter("expert_s", 2e-8, 1e-10, 2e-6, spread=1.0, shared=True),
        Parameter("sharpness", 2.0, 1.0, 8.0, spread=0.3, shared=True),
        Parameter("intensity", 50.0, 1.0, 1000.0, spread=1.0, shared=True),
        Parameter("prologue", 400.0, 5.0, 20000.0, spread=1.0, shared=True),
        Parameter("occupancy", 0.3, 0.02, 3.0, spread=0.7, shared=True),
        Parameter("near_bytes_per_s", 12e9, 2e9, 60e9, spread=0.4, shared=True),
    ),
    seconds,
)

WARP_EXPERTS = Form("experts", EXPERTS.parameters, warp_seconds)
"""The form of kernels on warp-level mma."""


def form(family_name: str) -> Form:
    """Return the form of a kernel family.

    Examples
    --------
    >>> form("marlin") is WARP_EXPERTS, form("triton") is EXPERTS
    (True, True)
    """
    return WARP_EXPERTS if family_name == "marlin" else EXPERTS
