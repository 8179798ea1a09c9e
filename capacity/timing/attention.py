"""Kernel time of attention: encoder and prefill passes in tiles and waves, decode steps split over their keys.

A whole pass gives each block of threads one (sequence, head, tile of query rows); a block walks over the key columns
its rows see. A decode step has one row a head, too few to fill the device, so its keys are split over more blocks and a
second pass joins the parts (flash decoding). Which tile a kernel takes, and whether the query heads that share a
key-value head share a block, are facts of the kernel; how well it does so are the parameters.

References
----------
Dao et al. 2022 and 2023 (FlashAttention 1 and 2), Shah et al. 2024 (FlashAttention 3), Dao et al. 2023
(Flash-Decoding), Ye et al. 2025 (FlashInfer, §3.2: query heads fused into rows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np

from capacity.spec.hardware import DTYPE_BYTES, Hardware
from capacity.timing.form import Array, Board, Form, Parameter, Values
from capacity.work.operations import Attention

Phase = Literal["encoder", "prefill", "decode"]
Packing = Literal["never", "single", "always"]

COLD = MappingProxyType({"kept": 1e-3})
"""Values to lay over a decode step's own where other layers' keys have washed the cache, as in a real model.

A benchmark repeats one call, so that keys smaller than the last-level cache never leave it.
"""
DROOP_S = 1e-3
"""Work of this length costs half of a device's loss of clock under sustained power [s] (as for products)."""
KEY_TILE = 64
"""Key columns a block takes at a time, at least [1]."""
WIDE = 96
"""Head dimensions beyond it take a kernel's `wide_rows` [1]."""
EDGE = 6
"""Steepness of the passage from cache to memory: a cyclic reader of twice the cache finds nothing in it [1]."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What is known of a kernel from its source: how it cuts the work.

    Attributes
    ----------
    rows, wide_rows
        Query rows of a block, for head dimensions up to 96 and above.
    packs
        Whether query heads of one key-value head fill a block's rows together: never, for single queries, always.
    step_rows
        Query heads of one key-value head that a block of a decode step holds.
    most_shared
        Query heads per key-value head up to which a decode step packs them at all; beyond, each reads its own keys.
    light_shared
        Query heads per key-value head up to which a decode step runs without matrix units, in blocks quick to start.
    splits_alone
        Whether a decode step is split over its keys even where every query head has keys of its own.
    """

    rows: int = 128
    wide_rows: int = 128
    packs: Packing = "never"
    step_rows: int = 64
    most_shared: float = np.inf
    light_shared: int = 1
    splits_alone: bool = True


KERNELS = {
    "fa2": Kernel(rows=128, wide_rows=64, packs="single", splits_alone=False),  # csrc/flash_attn
    "fa3": Kernel(rows=192, packs="always"),  # hopper/tile_size.h: 192 rows up to 96, 128 for 128; PackGQA
    "fa4": Kernel(rows=256, wide_rows=256),  # two tiles of 128 rows in flight
    "flashinfer": Kernel(packs="always", light_shared=4),
    "flashinfer.blackwell": Kernel(rows=256, wide_rows=128),
    "triton": Kernel(rows=64, wide_rows=64, step_rows=16),
    "trtllm": Kernel(step_rows=32, most_shared=32),  # XQA serves up to 32 heads a key-value head
    "trtllm.ada": Kernel(rows=64, wide_rows=64, step_rows=32, most_shared=32),
    "trtllm.ada/fp8": Kernel(rows=128, wide_rows=16, step_rows=32, most_shared=32),
    "trtllm.blackwell": Kernel(rows=256, wide_rows=256, step_rows=32, most_shared=32),
    "trtllm-gen": Kernel(rows=256, wide_rows=256, step_rows=16),
    "step": Kernel(rows=64, wide_rows=64, packs="always"),  # a decode kernel that an engine calls for short prefills
    "sycl": Kernel(rows=64, wide_rows=64, step_rows=16),  # Intel GPUs
}
"""By kernel family, with architecture, with dtype of the products where these differ. Sizes without a source are those
that fit the measurements best, of 16 to 256."""
NAMES = (
    ("triton", "triton"), ("torch_flow", "trtllm"), ("trtllm", "trtllm-gen"), ("fa4", "fa4"), ("_v4", "fa4"),
    ("fa3", "fa3"), ("_v3", "fa3"), ("fa2", "fa2"), ("vllm_flash_attn", "fa2"), ("flashinfer", "flashinfer"),
)  # fmt: skip
"""Part of a kernel's name → its family; the first that fits."""
USUAL = {"hopper": "fa3", "blackwell": "trtllm-gen", "battlemage": "sycl"}
"""Family of an unknown kernel by architecture; elsewhere flash-attention 2."""


def generation(hardware: Hardware) -> str:
    """Return the architecture whose attention kernels the device runs.

    Blackwell boards with GDDR memory (sm_120) lack the tensor memory of the data-center parts: they run Ada's kernels.
    """
    known = hardware.architecture or "unknown"
    return "ada" if known == "blackwell" and "GDDR" in (hardware.memory_type or "") else known


def kernel_family(kernel: str, engine: str, phase: Phase, architecture: str) -> str:
    """Return the kernel's family, "name.architecture", by its name and failing that by what the engine usually runs.

    Examples
    --------
    >>> kernel_family("vllm_flash_attn_fa3", "vllm", "decode", "hopper")
    'fa3.hopper'
    >>> kernel_family("", "sglang", "prefill", "ampere")
    'flashinfer.ampere'
    """
    name = next((family for part, family in NAMES if part in kernel), None)
    if "decode" in kernel and phase == "prefill":
        name = "step"
    if architecture == "battlemage":
        name = "sycl"
    if name is None and engine == "trtllm":
        name = "trtllm"
    if name is None and engine == "sglang" and architecture in {"ampere", "ada"} and phase != "encoder":
        name = "flashinfer"
    name = name or USUAL.get(architecture, "fa2")
    return f"{name}.{architecture}"


def family(kernel: str, engine: str, phase: Phase, architecture: str, dtypes: tuple[str, str]) -> str:
    """Return the key under which parameters carry over: engine, kernel family with architecture, dtypes.

    Parameters
    ----------
    dtypes
        Of the products and of the key-value cache.

    Examples
    --------
    >>> family("vllm_flash_attn_fa3", "vllm", "decode", "hopper", ("bf16", "fp8"))
    'vllm/fa3.hopper/bf16/fp8'
    """
    return "/".join((engine, kernel_family(kernel, engine, phase, architecture), *dtypes))


def form(phase: Phase, name: str = "") -> Form:
    """Return the form of a phase that cuts the work as the kernel family does (`name` of `family` or `kernel_family`).

    An unknown family gets tiles of 128 rows.
    """
    parts = name.split("/")
    place = next((index for index, part in enumerate(parts) if "." in part), 0)
    keys = ("/".join(parts[place : place + 2]), parts[place], parts[place].split(".")[0])
    kernel = next((KERNELS[key] for key in keys if key in KERNELS), Kernel())
    seconds: Callable[[Attention, Board, Values], Array] = partial(_step if phase == "decode" else _whole, kernel)
    return Form(f"attention.{phase}", STEP if phase == "decode" else WHOLE, seconds)


def _traffic_s(moved_bytes: Array, again_bytes: Array, board: Board, values: Values) -> Array:
    """Return the time of reading `moved_bytes` from memory or cache and `again_bytes` from the cache [s]."""
    kept = 1 / (1 + (moved_bytes / (values["kept"] * board.cache_bytes)) ** EDGE)
    memory = values["eb"] * board.bandwidth
    return (moved_bytes * (1 - kept) + (moved_bytes * kept + again_bytes) / values["cache_gain"]) / memory


def _waves(filled: Array, quantized: float) -> Array:
    """Return the rounds that `filled` times the device's blocks take: whole ones in part, never less than one."""
    return np.maximum(quantized * np.ceil(filled) + (1 - quantized) * filled, 1)


def _norm(first: Array, second: Array, power: float) -> Array:
    """Return the smooth maximum of two times [s]."""
    most = np.maximum(first, second)
    result: Array = most * (1 + (np.minimum(first, second) / most) ** power) ** (1 / power)
    return result


def _whole(kernel: Kernel, operation: Attention, board: Board, values: Values) -> Array:
    """Return the time of an encoder or prefill call [s].

    With r rows a tile, g heads packed, D = head_dim + pad·(next power of two − head_dim), columns L a tile sees:
    c = batch·heads/g·⌈query·g/r⌉ blocks, w = waves(c/cores), one = 4·r·(D + softmax) / (ef·rate/cores),
    Tc = one·max(w·(L + prologue), keys + prologue), Tm = bytes over memory or cache, Tk = passes·bytes(K, V)/bandwidth,
    T = (Tcᵖ + Tmᵖ)^(1/p) + Tk, t = t0 + T·(1 + droop·T/(T + 1 ms)).
    """
    query, keys = np.asarray(operation.query, float), np.asarray(operation.keys, float)
    depth = np.asarray(operation.head_dim, float)
    rows = np.where(depth > WIDE, kernel.wide_rows, kernel.rows)
    shared = np.asarray(operation.heads, float) / operation.kv_heads
    longest_packed = {"never": 0.0, "single": 1.0, "always": np.inf}[kernel.packs]
    packed = np.where(query <= longest_packed, shared, 1.0)
    blocks = operation.batch * operation.heads / packed * np.ceil(query * packed / rows)
    seen = operation.visible_pairs / query
    seen = seen + (np.clip(rows / packed, 1, query) - 1 + KEY_TILE) / 2 if operation.causal else _up(seen, KEY_TILE)
    padded = depth + values["pad"] * (2 ** np.ceil(np.log2(depth)) - depth)
    rate = values["ef"] * board.rate(operation.dtype) / board.cores
    one = 4 * rows * (padded + values["softmax"]) / rate * np.where(depth % 16, values["odd"], 1)
    one = one * (2.5 if operation.backward else 1)  # five products for two
    longest = np.minimum(keys, seen * 2 if operation.causal else seen)
    waves = _waves(blocks / board.cores, values["quantized"])
    compute = one * np.maximum(waves * (seen + values["prologue"]), longest + values["prologue"])
    memory = _traffic_s(np.asarray(operation.moved_bytes, float), np.zeros(()), board, values)
    held = 2 * operation.batch * operation.kv_heads * keys * depth * DTYPE_BYTES[operation.dtype]
    work = _norm(compute, memory, values["p"]) + values["passes"] * held / board.bandwidth
    return np.asarray(values["t0"] + work * (1 + values["droop"] * work / (work + DROOP_S)))


def _up(size: Array, step: int) -> Array:
    return np.ceil(size / step) * step


def _step(kernel: Kernel, operation: Attention, board: Board, values: Values) -> Array:
    """Return the time of a decode step [s].

    With g = heads/kv_heads in ⌈g/rows⌉ blocks, c = batch·kv_heads·⌈g/rows⌉ and S = slots·cores places:
    s = clip(S/c, 1, keys/chunk) parts, Tf = flop/(ef·rate), Tm = bytes over memory or cache,
    Tb = waves(c·s/S)·(latency·packing + (heads in a block − 1)·head_s + max(keys/s, 64)·head_dim/128·key_s),
    t = t0 + batched·[batch > 1, g > 1] + split·(1 − 1/s) + (Tbᵖ + Tfᵖ + Tmᵖ)^(1/p).
    """
    keys = np.asarray(operation.keys, float)
    keys = keys if operation.window is None else np.minimum(keys, operation.window)
    shared = np.asarray(operation.heads, float) / operation.kv_heads
    packed = shared <= kernel.most_shared
    groups = np.where(packed, np.ceil(shared / kernel.step_rows), shared)
    inside = np.where(packed, np.minimum(shared, kernel.step_rows), 1.0)
    quick = (inside <= kernel.light_shared) | ~packed
    start = values["latency"] * np.where(quick, 1, values["packing"]) + (inside - 1) * values["head_s"]
    blocks = operation.batch * operation.kv_heads * groups
    places = board.cores * values["slots"]
    most_parts = np.where(kernel.splits_alone | (shared > 1), np.maximum(keys / values["chunk"], 1), 1)
    parts = np.clip(places / blocks, 1, most_parts)
    each = np.maximum(keys / parts, KEY_TILE) * operation.head_dim / 128
    rounds = _waves(blocks * parts / places, values["quantized"])
    latency = rounds * (start + each * values["key_s"])
    product = np.asarray(operation.flop, float) / (values["ef"] * board.rate(operation.dtype))
    width = DTYPE_BYTES[operation.kv_dtype or operation.dtype]
    held = 2 * operation.batch * operation.kv_heads * keys * operation.head_dim * width
    memory = _traffic_s(np.asarray(operation.moved_bytes, float), held * (groups - 1), board, values)
    work = _norm(_norm(product, latency, values["p"]), memory, values["p"])
    several = (np.asarray(operation.batch) > 1) & (shared > 1)
    joined = values["split"] * (1 - 1 / parts) + values["batched"] * several
    return np.asarray(values["t0"] + joined + work)


WHOLE = (
    Parameter("t0", 8e-6, 1e-6, 3e-4, 0.5),
    Parameter("ef", 0.7, 0.05, 1.0, 0.3),
    Parameter("eb", 0.6, 0.1, 1.3, 0.3),
    Parameter("droop", 0.1, 0.001, 0.5, 0.7),
    Parameter("cache_gain", 3, 1, 12, 0.3),
    Parameter("kept", 0.7, 0.2, 2, 0.3),
    Parameter("softmax", 75, 10, 300, 0.4, shared=True),
    Parameter("prologue", 100, 1, 1000, 1, shared=True),
    Parameter("quantized", 0.5, 0.01, 1, 1, shared=True),
    Parameter("pad", 0.4, 0.01, 4, 1, shared=True),
    Parameter("odd", 1.05, 1, 10, 1, shared=True),
    Parameter("p", 2.5, 1, 6, 0.3, shared=True),
    Parameter("passes", 0.3, 0.001, 30, 1, shared=True),
)
"""t0 [s]; ef, eb, droop, kept: shares of the datasheet's [1]; cache_gain: over memory bandwidth [1]; softmax, prologue
[columns]; pad, odd: cost of padding and of head dimensions off 16; passes: K and V moved again, e.g. converted [1]."""
STEP = (
    Parameter("t0", 7e-6, 1e-6, 3e-4, 0.5),
    Parameter("ef", 0.3, 0.01, 1.0, 0.7),
    Parameter("eb", 0.8, 0.2, 1.05, 0.3),
    Parameter("cache_gain", 3, 1, 12, 0.4),
    Parameter("kept", 0.7, 0.1, 2, 0.3),
    Parameter("slots", 1, 0.5, 8, 0.5, shared=True),
    Parameter("chunk", 150, 16, 2048, 0.7, shared=True),
    Parameter("split", 3e-6, 1e-8, 1e-4, 1, shared=True),
    Parameter("batched", 2e-7, 1e-9, 1e-5, 1, shared=True),
    Parameter("latency", 1.7e-6, 1e-8, 3e-5, 0.7, shared=True),
    Parameter("packing", 1.3, 0.3, 10, 0.5, shared=True),
    Parameter("head_s", 2e-8, 1e-11, 1e-6, 1, shared=True),
    Parameter("key_s", 4e-9, 1e-11, 1e-6, 1, shared=True),
    Parameter("quantized", 0.5, 0.01, 1, 1, shared=True),
    Parameter("p", 2.5, 1, 8, 0.3, shared=True),
)
"""t0, split, batched, latency [s]; packing: of latency, where heads share a block [1]; head_s: a head more in it [s];
key_s: a key of 128 columns [s]; chunk [keys]; slots: blocks at once a core; the others shares [1]."""
ENCODER, PREFILL, DECODE = form("encoder"), form("prefill"), form("decode")
