"""What a transformer does: encoder pass, prefill, decode step and backward pass as operations.

The engine says how the element-wise work is launched: "eager" one kernel an operation, as PyTorch's modules do;
"fused" activations and residuals inside the products' epilogues, as TensorRT-like and compiled engines do; ONNX Runtime
and OpenVINO as `LAUNCHES` says. The matrix products are the same everywhere.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from capacity.spec.engine import PROCESSOR_ENGINES, Engine
from capacity.work.architecture import Layer, Transformer
from capacity.work.mixture_of_experts import experts
from capacity.work.operations import (
    Amount,
    Attention,
    Gather,
    Gemm,
    Operation,
    Streaming,
    StreamKind,
    backward,
    repeated,
)

ACTIVATION_FLOP = {"silu": 5, "relu": 1}
"""Hand count for one value; the error function's GELU and its relatives need 8."""
EAGER_ACTIVATION_PASSES = {"gelu_new": 7}
"""Element-wise kernels an eager activation launches besides its own: GPT-2's tanh form is written out in Python."""
Fusion = Engine
Phase = Literal["encoder", "prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launches:
    """Element-wise work that an engine launches by itself instead of inside a product, an attention or a norm."""

    residual: bool
    residual_norm: bool
    """A block that norms after the sum (BERT, not a decoder) does both in one kernel, of a class of its own."""
    split: bool
    """The copy that takes query, key and value apart after one projection for all three."""
    merge: bool
    """The copy that brings the heads' results together, where it is not part of the attention's own measurement."""
    activation: bool
    gate: bool
    rms_passes: int
    """Kernels of an RMS norm besides the norm's own."""
    rotary_passes: int


LAUNCHES: dict[str, Launches] = {
    "eager": Launches(
        residual=True, residual_norm=False, split=False, merge=True, activation=True, gate=True, rms_passes=3,
        rotary_passes=4,
    ),
    "fused": Launches(
        residual=False, residual_norm=False, split=False, merge=False, activation=False, gate=False, rms_passes=0,
        rotary_passes=1,
    ),
    "onnxruntime": Launches(
        residual=True, residual_norm=True, split=True, merge=False, activation=True, gate=True, rms_passes=0,
        rotary_passes=4,
    ),
    "openvino": Launches(
        residual=False, residual_norm=False, split=True, merge=False, activation=True, gate=False, rms_passes=0,
        rotary_passes=1,
    ),
}  # fmt: skip
"""Read off the graphs that ONNX Runtime 1.31 and OpenVINO 2026.4 execute (docs/explanation/engines.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The shape of one forward pass: `batch` sequences of `query` new tokens, each attending to `keys` positions."""

    batch: Amount
    query: Amount
    keys: Amount
    dtype: str
    phase: Phase = "encoder"
    fusion: Fusion = "eager"
    weight_dtype: str | None = None
    kv_dtype: str | None = None
    logits: Literal["all", "last"] = "last"
    """Positions a language-model head projects: every one (training) or the last (serving)."""

    @property
    def tokens(self) -> Amount:
        """New tokens of all sequences."""
        return self.batch * self.query

    @property
    def launches(self) -> Launches:
        """What the engine launches by itself."""
        return LAUNCHES[self.fusion]

    @property
    def float_dtype(self) -> str:
        """Dtype of what is no product of weights: processors quantize inside a product and go on in fp32."""
        return "fp32" if self.fusion in PROCESSOR_ENGINES and self.dtype == "int8" else self.dtype


def encode(
    model: Transformer, batch: Amount, tokens: Amount, dtype: str, fusion: Fusion = "eager"
) -> tuple[Operation, ...]:
    """Return the operations of a forward pass over whole sequences, as an encoder or a cross-encoder runs it.

    A language model used as an encoder is pooled over its hidden states: its vocabulary projection is not run.
    """
    body = dataclasses.replace(model, head="none") if model.head == "language-model" else model
    return prefill(body, batch, tokens, dtype, fusion)


def prefill(
    model: Transformer, batch: Amount, tokens: Amount, dtype: str, fusion: Fusion = "fused"
) -> tuple[Operation, ...]:
    """Return the operations that read `batch` prompts of `tokens` tokens, the last position projected."""
    phase: Phase = "prefill" if model.layer.causal else "encoder"
    return forward(model, Pass(batch=batch, query=tokens, keys=tokens, dtype=dtype, phase=phase, fusion=fusion))


def decode(
    model: Transformer, batch: Amount, context: Amount, dtype: str, fusion: Fusion = "fused"
) -> tuple[Operation, ...]:
    """Return the operations that generate one token for each of `batch` sequences with `context` cached positions.

    The new token attends to all of them and to itself.
    """
    return forward(model, Pass(batch=batch, query=1, keys=context + 1, dtype=dtype, phase="decode", fusion=fusion))


def training_step(model: Transformer, batch: Amount, tokens: Amount, dtype: str) -> tuple[Operation, ...]:
    """Return forward and backward of one step with every weight trained; the optimizer stands in phases.training."""
    phase: Phase = "prefill" if model.layer.causal else "encoder"
    shape = Pass(batch=batch, query=tokens, keys=tokens, dtype=dtype, phase=phase, logits="all")
    operations = forward(model, shape)
    return operations + backward(operations)


def forward(model: Transformer, shape: Pass) -> tuple[Operation, ...]:
    """Return every operation of a forward pass: embeddings, blocks, final norm, head."""
    block = attention_part(model.layer, shape) + feed_forward_part(model.layer, shape)
    blocks = [part for operation in repeated(block, model.layers) for part in _by_window(operation, model)]
    return (*embeddings(model, shape), *blocks, *head(model, shape))


def _by_window(operation: Operation, model: Transformer) -> tuple[Operation, ...]:
    """Return attention as that of the windowed blocks and that of those without a window; all else as it is."""
    if not model.full_layers or not isinstance(operation, Attention):
        return (operation,)
    windowed = dataclasses.replace(operation, count=model.layers - model.full_layers)
    return windowed, dataclasses.replace(operation, window=None, count=model.full_layers)


def embeddings(model: Transformer, shape: Pass) -> tuple[Operation, ...]:
    """Token look-up, then position and type tables added and normed where the architecture has them."""
    hidden = model.layer.hidden
    operations: list[Operation] = [
        Gather(rows=shape.tokens, width=hidden, dtype=shape.float_dtype, label="token embedding")
    ]
    added = _stream("add", shape.tokens * hidden, shape, reads=2, label="embedding add")
    operations += [added] * ((model.positions > 0) + (model.token_types > 0))
    if model.embedding_norm:
        operations.append(_stream("norm", shape.tokens * hidden, shape, flop_per_element=5, label="embedding norm"))
    return tuple(operations)


def attention_part(layer: Layer, shape: Pass) -> tuple[Operation, ...]:
    """Projections, rotary positions, attention, output projection, residual and norm of one block."""
    tokens, hidden = shape.tokens, layer.hidden
    operations: list[Operation] = list(_norm(layer, shape))
    if layer.fused_qkv:
        width = layer.query_width + 2 * layer.kv_width
        operations.append(_linear(width, hidden, shape, "qkv"))
        if shape.launches.split:
            operations.append(_stream("copy", tokens * width, shape, label="split heads"))
    else:
        operations.append(_linear(layer.query_width, hidden, shape, "query"))
        operations += [_linear(layer.kv_width, hidden, shape, label) for label in ("key", "value")]
    operations += _positions(layer, shape)
    operations.append(
        Attention(
            batch=shape.batch, heads=layer.heads, kv_heads=layer.kv_heads, query=shape.query, keys=shape.keys,
            head_dim=layer.head_dim, dtype=shape.float_dtype, kv_dtype=shape.kv_dtype, phase=shape.phase,
            causal=layer.causal, window=layer.window,
        )
    )  # fmt: skip
    if shape.launches.merge:
        operations.append(_stream("copy", tokens * layer.query_width, shape, label="merge heads"))
    operations.append(_linear(hidden, layer.query_width, shape, "attention output"))
    if shape.launches.residual and not _sums_in_norm(layer, shape):
        operations.append(_stream("add", tokens * hidden, shape, reads=2, label="residual"))
    return tuple(operations)


def feed_forward_part(layer: Layer, shape: Pass) -> tuple[Operation, ...]:
    """Norm, then the dense feed-forward products or the experts, activation and residual of one block."""
    tokens, hidden, inner = shape.tokens, layer.hidden, layer.intermediate
    operations: list[Operation] = list(_norm(layer, shape))
    if layer.experts:
        operations += experts(layer, tokens, shape.dtype, shape.weight_dtype)
    else:
        operations += [_linear(inner, hidden, shape, "up") for _ in range(2 if layer.gated else 1)]
        if shape.launches.activation or layer.gated:
            flop = ACTIVATION_FLOP.get(layer.activation, 8)
            operations.append(
                _stream("activation", tokens * inner, shape, flop_per_element=flop, label=layer.activation)
            )
        if shape.fusion == "eager":
            extra = EAGER_ACTIVATION_PASSES.get(layer.activation, 0)
            operations += [_stream("add", tokens * inner, shape, label="activation pass") for _ in range(extra)]
        if shape.launches.gate and layer.gated:
            operations.append(_stream("add", tokens * inner, shape, reads=2, label="gate"))
        operations.append(_linear(hidden, inner, shape, "down"))
    if shape.launches.residual and not _sums_in_norm(layer, shape):
        operations.append(_stream("add", tokens * hidden, shape, reads=2, label="residual"))
    return tuple(operations)


def head(model: Transformer, shape: Pass) -> tuple[Operation, ...]:
    """Return the final norm and what stands on the body."""
    hidden, operations = model.layer.hidden, list[Operation]()
    if model.final_norm:
        operations.append(_stream("norm", shape.tokens * hidden, shape, flop_per_element=5, label="final norm"))
    if model.head == "language-model":
        rows = shape.tokens if shape.logits == "all" else shape.batch
        operations.append(_product(rows, model.vocabulary, hidden, shape, "vocabulary"))
    elif model.head in {"pooler", "classification"} and not model.layer.causal:
        operations.append(_product(shape.batch, hidden, hidden, shape, "pooler"))
    if model.head == "classification":
        rows = shape.tokens if model.layer.causal else shape.batch  # a decoder's classifier scores every position
        operations.append(_product(rows, model.labels, hidden, shape, "classifier"))
    return tuple(operations)


def _linear(n: int, k: int, shape: Pass, label: str) -> Gemm:
    return _product(shape.tokens, n, k, shape, label)


def _product(m: Amount, n: int, k: int, shape: Pass, label: str) -> Gemm:
    return Gemm(m=m, n=n, k=k, dtype=shape.dtype, weight_dtype=shape.weight_dtype, label=label)


def _stream(
    kind: StreamKind, elements: Amount, shape: Pass, *, reads: float = 1, flop_per_element: float = 1, label: str
) -> Streaming:
    dtype = shape.float_dtype if shape.float_dtype in {"fp32", "fp16", "bf16"} else "fp16"
    return Streaming(
        kind=kind, elements=elements, dtype=dtype, reads=reads, flop_per_element=flop_per_element, label=label
    )


def _sums_in_norm(layer: Layer, shape: Pass) -> bool:
    """Tell whether the engine's norm adds the residual: decoders norm before their products, and need the sum later."""
    return shape.launches.residual_norm and not layer.causal


def _norm(layer: Layer, shape: Pass) -> tuple[Operation, ...]:
    """One norm: a single kernel for LayerNorm, and for any fused engine; six element-wise kernels for eager RMSNorm."""
    elements = shape.tokens * layer.hidden
    if _sums_in_norm(layer, shape):
        return (_stream("residual_norm", elements, shape, reads=2, flop_per_element=6, label="residual and norm"),)
    reads = 2 if shape.fusion == "fused" else 1  # the fused kernel adds the residual first
    norm = _stream("norm", elements, shape, reads=reads, flop_per_element=5, label="norm")
    passes = 0 if layer.norm == "layer" else shape.launches.rms_passes
    return (norm, *(_stream("copy", elements, shape, label="rms norm pass") for _ in range(passes)))


def _positions(layer: Layer, shape: Pass) -> tuple[Operation, ...]:
    """Per-head norms and the rotation of queries and keys."""
    elements = shape.tokens * (layer.query_width + layer.kv_width)
    operations: list[Operation] = []
    if layer.query_key_norm != "none":
        operations.append(_stream("norm", elements, shape, flop_per_element=5, label="query-key norm"))
    if layer.rotary:
        passes = shape.launches.rotary_passes  # of four: rotate-half copy, two products, one sum
        flop = 3 if passes == 1 else 1
        operations.append(_stream("add", elements * passes, shape, reads=2, flop_per_element=flop, label="rotary"))
    return tuple(operations)
