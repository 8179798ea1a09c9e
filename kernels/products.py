"""Single operations as torch runs them: products, attention, norms, activations, sums."""

from __future__ import annotations

import itertools
import math

from capacity.work.operations import Attention, Gather, Gemm, Streaming, StreamKind
from capacity.work.optimizer import optimizer_step
from kernels.gpu import first_line
from kernels.timing import Case, Run
from kernels.torch_backend import Backend, torch

ROTATING_BYTES = 64e6
"""Weights rotate over copies of at least this size, so that a layer's weights are not warm from the last call."""

INDEX_SETS = 64
"""Sets of random rows that look-ups go through."""


def gemm_case(m: int, n: int, k: int, dtype: str, backend: Backend) -> Case:
    """Return the case of one linear layer: [m×k]·[k×n] + bias, weights rotating.

    On a GPU one set of operands is built a call: `gpu.replayed` goes through as many as its cache asks for.
    """
    operation = Gemm(m=m, n=n, k=k, dtype=dtype)

    def build() -> Run:
        linear = torch().nn.functional.linear
        copies = min(16, max(2, math.ceil(ROTATING_BYTES / (n * k * 4)))) if backend.device != "cuda" else 1
        weights = itertools.cycle([backend.random(n, k, dtype=dtype) for _ in range(copies)])
        rows, bias = backend.random(m, k, dtype=dtype), backend.random(n, dtype=dtype)
        return lambda: linear(rows, next(weights), bias)

    builders = {"fp8": lambda: _fp8(m, n, k, backend), "int8": lambda: _int8(m, n, k, backend)}
    return Case(f"gemm {m}x{n}x{k} {dtype}", (operation,), builders.get(dtype, build))


def _fp8(m: int, n: int, k: int, backend: Backend) -> Run:
    """Return a product as engines run it in fp8: 16-bit activations are cast, at a static scale, then multiplied."""
    module = torch()
    narrow = module.float8_e4m3fn
    rows, weight = backend.random(m, k, dtype="bf16"), backend.random(n, k, dtype="bf16").to(narrow).t()
    one = module.ones((), device=backend.device)
    return lambda: module._scaled_mm(rows.to(narrow), weight, scale_a=one, scale_b=one, out_dtype=module.bfloat16)


def _int8(m: int, n: int, k: int, backend: Backend) -> Run:
    """Return a product in int8: activations are cast, then multiplied; torch leaves the sums as 32-bit integers."""
    module = torch()
    rows = backend.random(m, k, dtype="fp16")
    weight = (backend.random(n, k) * 100).to(module.int8).t()
    return lambda: module._int_mm(rows.to(module.int8), weight)


def refused(dtype: str, backend: Backend) -> str:
    """Return why torch multiplies no matrices in `dtype` on this GPU, in its own words; empty where it does."""
    module = torch()
    if dtype == "bf16" and not module.cuda.is_bf16_supported(including_emulation=False):
        return "bf16: the card has no units for it, torch would emulate them"
    try:
        gemm_case(32, 64, 64, dtype, backend).build()()
        module.cuda.synchronize()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"{dtype}: {first_line(error)}"
    return ""


def attention_case(operation: Attention, backend: Backend) -> Case:
    """Return the case of scaled dot product attention in the layout that encoders hand over."""
    op = operation

    def build() -> Run:
        attend = torch().nn.functional.scaled_dot_product_attention
        shapes = ((op.query, op.heads), (op.keys, op.kv_heads), (op.keys, op.kv_heads))
        query, keys, values = (
            backend.random(int(op.batch), int(tokens), int(heads), int(op.head_dim), dtype=op.dtype).transpose(1, 2)
            for tokens, heads in shapes
        )
        grouped = op.heads != op.kv_heads
        return lambda: attend(query, keys, values, is_causal=op.causal and op.query == op.keys, enable_gqa=grouped)

    heads = f"{op.heads}" if op.heads == op.kv_heads else f"{op.heads}:{op.kv_heads}"
    shape = f"{op.batch}x{heads}x{op.query}x{op.keys}x{op.head_dim}"
    return Case(f"{op.operation} {shape} {op.dtype}", (operation,), build)


def gather_case(bags: int, pooled: int, width: int, table_bytes: float, backend: Backend) -> Case:
    """Return the case of pooled look-ups in a table beyond the cache, at random rows that change from call to call."""
    rows = math.ceil(table_bytes / (4 * width))

    def build() -> Run:
        module = torch()
        table = module.nn.EmbeddingBag(rows, width, mode="sum", device=backend.device).requires_grad_(False)
        places = [module.randint(0, rows, (bags, pooled), device=backend.device) for _ in range(INDEX_SETS)]
        turn = itertools.cycle(places)
        return lambda: table(next(turn))

    operation = Gather(rows=bags * pooled, width=width, pooled=pooled, dtype="fp32")
    return Case(f"gather {bags}x{pooled}x{width}", (operation,), build)


def streaming_case(kind: StreamKind, rows: int, width: int, dtype: str, backend: Backend) -> Case:
    """Return the case of one element-wise kernel over rows × width values (every kind but "optimizer")."""
    reads = 2 if kind == "add" else 1
    operation = Streaming(kind=kind, elements=rows * width, dtype=dtype, reads=reads)

    def build() -> Run:
        module = torch()
        functional = module.nn.functional
        values, weight = backend.random(rows, width, dtype=dtype), backend.random(width, dtype=dtype)
        other = backend.random(rows, width, dtype=dtype)
        strided = values.view(rows, width // 32, 32).transpose(0, 1)
        runs: dict[str, Run] = {
            "norm": lambda: functional.layer_norm(values, (width,), weight, weight),
            "activation": lambda: functional.gelu(values),
            "add": lambda: values + other,
            "softmax": lambda: functional.softmax(values, dim=-1),
            "copy": strided.contiguous,
        }
        return runs[kind]

    return Case(f"streaming.{kind} {rows}x{width} {dtype}", (operation,), build)


def optimizer_case(tensors: int, size: int, backend: Backend) -> Case:
    """Return the case of one AdamW step over `tensors` square weights of size × size."""

    def build() -> Run:
        module = torch()
        weights = [module.nn.Parameter(backend.random(size, size)) for _ in range(tensors)]
        for weight in weights:
            weight.grad = backend.random(size, size)
        return module.optim.AdamW(weights, lr=1e-9).step  # type: ignore[no-any-return]

    return Case(f"adamw {tensors}x{size}x{size}", optimizer_step(tensors * size * size, "adamw"), build)
