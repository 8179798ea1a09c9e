"""Single operations as torch runs them: products, attention, norms, activations, sums."""

from __future__ import annotations

import itertools
import math

from capacity.work.operations import Attention, Gemm, Streaming, StreamKind
from capacity.work.optimizer import optimizer_step
from kernels.timing import Case, Run
from kernels.torch_backend import Backend, torch

ROTATING_BYTES = 64e6
"""Weights rotate over copies of at least this size, so that a layer's weights are not warm from the last call."""


def gemm_case(m: int, n: int, k: int, dtype: str, backend: Backend) -> Case:
    """Return the case of one linear layer: [m×k]·[k×n] + bias, weights rotating."""
    operation = Gemm(m=m, n=n, k=k, dtype=dtype)

    def build() -> Run:
        linear = torch().nn.functional.linear
        copies = min(16, max(2, math.ceil(ROTATING_BYTES / (n * k * 4))))
        weights = itertools.cycle([backend.random(n, k, dtype=dtype) for _ in range(copies)])
        rows, bias = backend.random(m, k, dtype=dtype), backend.random(n, dtype=dtype)
        return lambda: linear(rows, next(weights), bias)

    return Case(f"gemm {m}x{n}x{k} {dtype}", (operation,), build)


def attention_case(operation: Attention, backend: Backend) -> Case:
    """Return the case of scaled dot product attention in the layout that encoders hand over."""
    op = operation

    def build() -> Run:
        attend = torch().nn.functional.scaled_dot_product_attention
        query = backend.random(int(op.batch), int(op.query), int(op.heads), int(op.head_dim), dtype=op.dtype)
        keys = backend.random(int(op.batch), int(op.keys), int(op.kv_heads), int(op.head_dim), dtype=op.dtype)
        query, keys = query.transpose(1, 2), keys.transpose(1, 2)
        grouped = op.heads != op.kv_heads
        return lambda: attend(query, keys, keys, is_causal=op.causal and op.query == op.keys, enable_gqa=grouped)

    shape = f"{op.batch}x{op.heads}x{op.query}x{op.keys}x{op.head_dim}"
    return Case(f"{op.operation} {shape} {op.dtype}", (operation,), build)


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
