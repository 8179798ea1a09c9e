"""What one device computes in a training step of a transformer: its blocks and its head, there and back.

All functions count one micro-batch on one device; `work.exchanges` says what devices tell each other meanwhile, and
`phases.train_step` puts both together in time.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from capacity.spec.hardware import DTYPE_BYTES
from capacity.work import transformer
from capacity.work.architecture import Layer
from capacity.work.operations import Attention, Gemm, GroupedGemm, Operation, Streaming
from capacity.work.operations import backward as whole_backward
from capacity.work.trained import ACTIVATION_BYTES, Method, Recompute, Trained
from capacity.work.transformer import Pass


def block(trained: Trained) -> tuple[Operation, ...]:
    """Return the forward pass of one block."""
    layer = _split(trained.model.layer, trained.parallel.tensor)
    phase: Literal["prefill", "encoder"] = "prefill" if layer.causal else "encoder"
    # Devices that split a sequence balance their causal halves: each attends like one of fewer whole sequences.
    shape = Pass(
        batch=trained.local_tokens / trained.span, query=trained.span, keys=trained.span, dtype=trained.dtype,
        phase=phase, fusion=trained.fusion,
    )  # fmt: skip
    work = transformer.attention_part(layer, shape) + transformer.feed_forward_part(layer, shape)
    parts = [part for op in work for part in _placed(op, trained)]
    if trained.dtype in {"fp8", "fp4", "int8"}:
        parts = [part for op in parts for part in _quantized(op)]
    return (*parts, *_added(parts, trained))


def block_backward(trained: Trained) -> tuple[Operation, ...]:
    """Return the backward pass of one block, recomputed forward work included.

    Frozen weights need the gradient of their input only: one product instead of two.
    """
    forward = block(trained)
    return (*recomputed(forward, trained.recompute), *_gradients(forward, trained))


def recomputed(forward: tuple[Operation, ...], recompute: Recompute) -> tuple[Operation, ...]:
    """Return the part of a block's forward pass that runs again before its backward pass."""
    if recompute == "selective":
        return tuple(op for op in forward if op.label.startswith("scores"))
    if recompute == "operations":
        kept = [op for op in forward if isinstance(op, Gemm)][::2]
        return tuple(op for op in forward if not isinstance(op, Attention) and all(op is not one for one in kept))
    return forward if recompute == "full" else ()


def head(trained: Trained) -> tuple[Operation, ...]:
    """Return final norm, vocabulary or classifier and the loss, forward and backward, and the token look-up."""
    model, tensor = trained.model, trained.parallel.tensor
    shape = Pass(
        batch=trained.batch / trained.parallel.context, query=trained.tokens, keys=trained.tokens,
        dtype=trained.dtype if trained.dtype in {"fp32", "tf32", "fp16"} else "bf16", logits="all",
        fusion=trained.fusion,
    )  # fmt: skip
    forward = [*transformer.embeddings(model, shape), *transformer.head(model, shape)]
    columns = 0
    if model.head == "language-model" or trained.predicted is not None:
        columns = max(1, model.vocabulary // tensor)
        rows = trained.local_tokens * (trained.predicted or trained.tokens) / trained.tokens
        forward = [op for op in forward if op.label != "vocabulary"]
        forward.append(Gemm(m=rows, n=columns, k=model.layer.hidden, dtype=shape.dtype, label="vocabulary"))
        scores = rows * columns
        forward.append(
            Streaming(kind="softmax", elements=scores, dtype="fp32", reads=2, flop_per_element=5, label="loss")
        )
    return (*forward, *_gradients(tuple(forward), trained, inside=False))


def own_parameters(trained: Trained) -> float:
    """Return the model's parameters that one device computes with: its blocks and its share of what stands outside."""
    model, parallel = trained.model, trained.parallel
    outside = (model.parameters - model.layers * model.layer.parameters) / parallel.tensor / parallel.pipeline
    return trained.layers * block_parameters(trained) + outside


def block_parameters(trained: Trained) -> float:
    """Return the parameters of one block that a device holds: its part of each product, and its experts."""
    layer, parallel = trained.model.layer, trained.parallel
    experts = layer.experts * layer.expert_parameters
    return (layer.parameters - experts + experts / parallel.expert) / parallel.tensor


def trainable_parameters(trained: Trained) -> float:
    """Return the parameters of one device that a step changes."""
    if trained.method.kind == "full":
        return own_parameters(trained)
    return trained.layers * added_parameters(trained)


def added_parameters(trained: Trained) -> float:
    """Return the parameters that a method adds to one block on one device.

    Low-rank updates r·(n + k) of each product; two adapters 2·h·r; a prefix of r keys and values 2·r·kv width.
    """
    rank, layer = trained.method.rank, _split(trained.model.layer, trained.parallel.tensor)
    if trained.method.kind == "adapter":
        return 4.0 * layer.hidden * rank
    if trained.method.kind == "prefix":
        return 2.0 * rank * layer.kv_width
    products = [op for op in block(dataclasses.replace(trained, method=Method())) if isinstance(op, Gemm)]
    return float(sum(rank * (op.n + op.k) for op in products if op.label in trained.method.targets))


def updated(trained: Trained) -> float:
    """Return the parameters that one device's optimizer changes: its shard where states are sharded."""
    return trainable_parameters(trained) / trained.parallel.divided("optimizer")


def _split(layer: Layer, devices: int) -> Layer:
    """Return the part of a block that one of `devices` tensor-parallel devices holds."""
    if devices == 1:
        return layer
    return dataclasses.replace(
        layer, heads=max(1, layer.heads // devices), kv_heads=max(1, layer.kv_heads // devices),
        intermediate=max(1, layer.intermediate // devices), shared_intermediate=layer.shared_intermediate // devices,
    )  # fmt: skip


def _placed(op: Operation, trained: Trained) -> tuple[Operation, ...]:
    """Return an operation as the framework runs it: along the split sequence, and unfused attention in its parts."""
    hidden = trained.local_tokens * trained.model.layer.hidden
    if isinstance(op, Streaming) and trained.parallel.sequence and op.elements == hidden:
        return (dataclasses.replace(op, elements=op.elements / trained.parallel.tensor),)
    if isinstance(op, GroupedGemm) and trained.parallel.expert > 1:
        return (dataclasses.replace(op, groups=max(1.0, float(op.groups) / trained.parallel.expert)),)
    if isinstance(op, Attention) and not trained.fused_attention:
        return _unfused(op)
    return (op,)


def _unfused(op: Attention) -> tuple[Operation, ...]:
    """Return attention that writes its scores: two batched products, mask, softmax and dropout over all pairs."""
    pairs = op.batch * op.heads * op.query * op.keys
    width = op.dtype if op.dtype in {"fp32", "fp16", "bf16"} else "bf16"
    many = op.batch * op.heads
    return (
        Gemm(m=op.query, n=op.keys, k=op.head_dim, batch=many, dtype=op.dtype, label="scores"),
        Streaming(kind="add", elements=pairs, dtype=width, label="scores mask"),
        Streaming(kind="softmax", elements=pairs, dtype=width, flop_per_element=5, label="scores softmax"),
        Streaming(kind="add", elements=pairs, dtype=width, label="scores dropout"),
        Gemm(m=op.query, n=op.head_dim, k=op.keys, batch=many, dtype=op.dtype, label="scores times values"),
    )


def _quantized(op: Operation) -> tuple[Operation, ...]:
    """Return a narrow product with the cast of its input, for itself and transposed for the weight's gradient."""
    if not isinstance(op, Gemm) or DTYPE_BYTES[op.dtype] >= ACTIVATION_BYTES:
        return (op,)
    cast = Streaming(kind="copy", elements=op.batch * op.m * op.k, dtype="bf16", label="cast")
    return op, cast


def _added(parts: list[Operation], trained: Trained) -> tuple[Operation, ...]:
    """Return what the method adds to a block's forward pass."""
    rank, tokens, dtype = trained.method.rank, trained.local_tokens, trained.float_dtype
    if trained.method.kind in {"lora", "qlora"}:
        wanted = [op for op in parts if isinstance(op, Gemm) and op.label in trained.method.targets]
        down = [Gemm(m=op.m, n=rank, k=op.k, dtype=dtype, label="update down") for op in wanted]
        up = [Gemm(m=op.m, n=op.n, k=rank, dtype=dtype, label="update up") for op in wanted]
        sums = [Streaming(kind="add", elements=op.m * op.n, dtype=dtype, reads=2, label="update") for op in wanted]
        return (*down, *up, *sums, *_unpacked(parts, trained))
    if trained.method.kind == "adapter":
        hidden = trained.model.layer.hidden
        down_ = Gemm(m=tokens, n=rank, k=hidden, dtype=dtype, count=2, label="update down")
        return down_, Gemm(m=tokens, n=hidden, k=rank, dtype=dtype, count=2, label="update up")
    return ()


def _unpacked(parts: list[Operation], trained: Trained) -> tuple[Operation, ...]:
    """Return the pass that unpacks narrow frozen weights into 16 bits before each product."""
    if trained.stored is None or DTYPE_BYTES[trained.stored] >= ACTIVATION_BYTES:
        return ()
    weights = sum(float(op.n * op.k) for op in parts if isinstance(op, Gemm) and op.label in trained.method.targets)
    reads = DTYPE_BYTES[trained.stored] / ACTIVATION_BYTES
    return (Streaming(kind="copy", elements=weights, dtype="bf16", reads=reads, label="unpack"),)


def _gradients(forward: tuple[Operation, ...], trained: Trained, *, inside: bool = True) -> tuple[Operation, ...]:
    """Return the backward pass: without the gradients of weights that stay as they are."""
    every = whole_backward(forward)
    if trained.method.kind == "full":
        return every
    kept = [op for op in every if not op.label.endswith(" dW") or op.label.startswith(("update", "scores"))]
    return tuple(kept) if inside else tuple(op for op in kept if op.label != "token embedding backward")
