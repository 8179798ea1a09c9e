"""Whole steps of eager fp32 PyTorch, attention unfused: BERT, GPT-2/3 and OPT forward or forward and backward.

The products, norms and element-wise kernels come from `capacity.work.transformer`; here every fused `Attention` is
taken apart into what eager modules launch (two batched products, scaling, mask, softmax, copies); dropout, gradients of
biases and their accumulation are added for training. Switch transformers (T5 blocks with experts) are written out.

Dimensions: the model configurations of NeuSight (ASPLOS 2025; github.com/sitar-lab/NeuSight,
scripts/asplos/data/DLmodel_configs), which measures one forward without gradients ("inf") or a forward in training mode
and a backward ("train", no optimizer step; gradients accumulate), logits of every position, attention "eager".
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from capacity.errors import InputError, UnknownNameError
from capacity.work.architecture import Layer, Transformer
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
from capacity.work.transformer import Pass, forward

Mode = Literal["inf", "train"]
DTYPE = "fp32"
MASK_SHARE = 0.25
"""Bytes of a dropout mask beside fp32 values."""
SWITCH = "switchxl4"
SWITCH_HIDDEN, SWITCH_INNER, SWITCH_HEADS, SWITCH_HEAD_DIM = 1024, 16384, 32, 128
SWITCH_LAYERS, SWITCH_EXPERTS, SWITCH_CAPACITY, SWITCH_VOCABULARY = 24, 4, 64, 32128
DISPATCH_KERNELS = 12
"""Launches that gather one expert's rows and scatter its results: masks, counts, indexing, copies (by hand)."""


def _decoder(name: str, hidden: int, heads: int, layers: int, *, opt: bool = False) -> Transformer:
    layer = Layer(
        hidden=hidden, heads=heads, kv_heads=heads, head_dim=hidden // heads, intermediate=4 * hidden, gated=False,
        activation="relu" if opt else "gelu_new", norm="layer", attention_bias=True, output_bias=True, mlp_bias=True,
        fused_qkv=not opt, causal=True,
    )  # fmt: skip
    return Transformer(
        name=name, layer=layer, layers=layers, vocabulary=50272 if opt else 50257, positions=2048,
        final_norm=True, head="language-model",
    )  # fmt: skip


_BERT = Transformer(
    name="bert_large", layers=24, vocabulary=30522, positions=512, token_types=2, embedding_norm=True,
    head="classification", labels=2,
    layer=Layer(
        hidden=1024, heads=16, kv_heads=16, head_dim=64, intermediate=4096, gated=False, activation="gelu",
        norm="layer", attention_bias=True, output_bias=True, mlp_bias=True,
    ),
)  # fmt: skip
MODELS: dict[str, Transformer] = {
    "bert_large": _BERT,
    "gpt2_large": _decoder("gpt2_large", 1280, 20, 36),
    "gpt3_xl": _decoder("gpt3_xl", 3072, 24, 24),
    "gpt3_27": _decoder("gpt3_27", 2560, 32, 32),
    "opt_13": _decoder("opt_13", 2048, 32, 24, opt=True),
}


def operations(
    model: str, sequence_length: int, batch: int, mode: Mode = "inf", *, fusion: bool = False, tensor_parallel: int = 1
) -> tuple[Operation, ...]:
    """Return the operations of one step: its `passes` one after the other."""
    forward, backward = passes(model, sequence_length, batch, mode, fusion=fusion, tensor_parallel=tensor_parallel)
    return forward + backward


def passes(
    model: str, sequence_length: int, batch: int, mode: Mode = "inf", *, fusion: bool = False, tensor_parallel: int = 1
) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
    """Return the operations of the forward and of the backward pass of one step; inference has no backward pass.

    Parameters
    ----------
    model
        A name of `MODELS`, or "switchxl4".
    sequence_length, batch
        Tokens of a sequence; sequences.
    mode
        "inf": forward; "train": forward with dropout, then backward.
    fusion
        Element-wise kernels merged as `torch.compile` does; the products stay the same.
    tensor_parallel
        Devices that share each layer: heads, inner columns and vocabulary are divided (Megatron-LM, §3), their sums
        exchanged by collectives that are not part of this list.

    Raises
    ------
    UnknownNameError
        For another model.
    InputError
        For heads that do not divide, or a Switch transformer on several devices.

    Examples
    --------
    >>> step, _ = passes("opt_13", 2048, 2)
    >>> round(float(sum(op.flop * op.count for op in step)) / 1e12, 1)  # 2 · 4096 · 1.31e9, attention 1.65e12
    12.4
    """
    if model != SWITCH and model not in MODELS:
        raise UnknownNameError("model", model, [*MODELS, SWITCH])
    if tensor_parallel > 1 and (model == SWITCH or MODELS[model].layer.heads % tensor_parallel):
        raise InputError(f"{model} cannot be divided among {tensor_parallel} devices")
    if model == SWITCH:
        passed = _switch(sequence_length, batch, training=mode == "train")
    else:
        passed = _dense(_divided(MODELS[model], tensor_parallel), sequence_length, batch, training=mode == "train")
    if fusion:
        passed = tuple(_merged(op) for op in passed if op.label not in _MERGED_AWAY)
    if mode == "inf":
        return passed, ()
    return passed, _backward(passed, parameters(model) / tensor_parallel, biased=model != SWITCH)


def parameters(model: str) -> float:
    """Return the number of weights of a model of this module."""
    if model != SWITCH:
        return float(MODELS[model].parameters)
    width = SWITCH_HEADS * SWITCH_HEAD_DIM
    feed_forward = 2 * SWITCH_HIDDEN * SWITCH_INNER
    blocks = 3 * 4 * SWITCH_HIDDEN * width + (1 + SWITCH_EXPERTS) * feed_forward
    return float(SWITCH_LAYERS * blocks + SWITCH_VOCABULARY * SWITCH_HIDDEN)


_MERGED_AWAY = {"activation pass", "residual", "scale", "mask", "merge heads", "dropout", "attention dropout"}


def _merged(op: Operation) -> Operation:
    """Return a norm that adds the residual on its way; anything else as it is."""
    if isinstance(op, Streaming) and op.label == "norm":
        return dataclasses.replace(op, reads=2, writes=2)
    return op


def _divided(model: Transformer, devices: int) -> Transformer:
    heads = model.layer.heads // devices
    layer = dataclasses.replace(
        model.layer, heads=heads, kv_heads=heads, intermediate=model.layer.intermediate // devices
    )
    return dataclasses.replace(model, layer=layer, vocabulary=-(-model.vocabulary // devices))


def _dense(model: Transformer, length: int, batch: int, *, training: bool) -> tuple[Operation, ...]:
    phase: Literal["prefill", "encoder"] = "prefill" if model.layer.causal else "encoder"
    shape = Pass(batch=batch, query=length, keys=length, dtype=DTYPE, phase=phase, fusion="eager", logits="all")
    tokens, hidden = batch * length, model.layer.hidden
    found: list[Operation] = []
    for op in forward(model, shape):
        found += _unfused(op, training=training) if isinstance(op, Attention) else [op]
        if training and op.label == "residual":
            found.append(_dropout(tokens * hidden, op.count, "dropout"))
    if training and model.name == "bert_large":  # trained with the masked-language-model head over every position
        found += [
            _product(tokens, hidden, hidden, "transform"),
            _stream("activation", tokens * hidden, label="gelu"),
            _stream("norm", tokens * hidden, label="head norm"),
            _product(tokens, model.vocabulary, hidden, "vocabulary"),
        ]
    return tuple(found)


def _unfused(op: Attention, *, training: bool, mask_passes: int = 2) -> list[Operation]:
    """Return what eager attention launches: queries, keys and values made contiguous, scores, softmax, their product.

    `mask_passes` element-wise kernels stand between scores and softmax: scaling and mask (BERT, GPT), mask and clamp
    (OPT), one position bias (T5).
    """
    products, pairs = op.batch * op.heads, op.batch * op.heads * op.query * op.keys
    copied = op.batch * op.heads * op.head_dim * (op.query + 2 * op.keys)
    scores = Gemm(m=op.query, n=op.keys, k=op.head_dim, batch=products, dtype=DTYPE, label="scores")
    found: list[Operation] = [
        _stream("copy", copied / 3, count=3, label="contiguous"),
        scores,
        _stream("add", pairs, label="scale"),
    ]
    found += [_stream("add", pairs, label="mask") for _ in range(mask_passes - 1)]
    found.append(_stream("softmax", pairs, label="softmax"))
    if training:
        found.append(_dropout(pairs, 1, "attention dropout"))
    found.append(Gemm(m=op.query, n=op.head_dim, k=op.keys, batch=products, dtype=DTYPE, label="context"))
    return list(repeated(found, op.count))


def _backward(passed: tuple[Operation, ...], weights: float, *, biased: bool) -> tuple[Operation, ...]:
    """Return the backward pass with gradients of biases, their accumulation, and the loss on the logits."""
    found: list[Operation] = []
    for op in passed:
        if isinstance(op, Streaming):
            found.append(dataclasses.replace(op, reads=op.reads + _EXTRA_READS.get(op.kind, 0)))
            continue
        found += backward((op,))
        if isinstance(op, Gemm) and op.label not in _WITHOUT_BIAS and biased:
            found.append(_stream("add", op.m * op.n, reads=1, writes=0, count=op.count, label="bias gradient"))
        if isinstance(op, Gemm) and op.label == "vocabulary":
            found.append(_stream("softmax", op.m * op.n, reads=2, writes=2, label="loss"))
    found.append(_stream("add", weights, reads=2, label="accumulate"))
    return tuple(found)


_WITHOUT_BIAS = {"vocabulary", "scores", "context"}
_EXTRA_READS: dict[StreamKind, int] = {"softmax": 1, "activation": 1, "norm": 3}


def _switch(length: int, batch: int, *, training: bool) -> tuple[Operation, ...]:
    """Return a forward of encoder and decoder: 72 attentions, dense and expert feed-forward parts in turn."""
    tokens, hidden, width = batch * length, SWITCH_HIDDEN, SWITCH_HEADS * SWITCH_HEAD_DIM
    attention = Attention(
        batch=batch, heads=SWITCH_HEADS, kv_heads=SWITCH_HEADS, query=length, keys=length, head_dim=SWITCH_HEAD_DIM,
        dtype=DTYPE,
    )  # fmt: skip
    residual: list[Operation] = [_stream("add", tokens * hidden, reads=2, label="residual")]
    if training:
        residual.append(_dropout(tokens * hidden, 1, "dropout"))
    norm: list[Operation] = [
        _stream("norm", tokens * hidden, label="norm"),
        _stream("copy", tokens * hidden, count=3, label="rms"),
    ]
    attend: list[Operation] = [*norm, *(_product(tokens, width, hidden, name) for name in ("query", "key", "value"))]
    attend += _unfused(attention, training=training, mask_passes=1)
    attend += [_stream("copy", tokens * width, label="merge heads"), _product(tokens, hidden, width, "output")]
    dense: list[Operation] = [*norm, *_feed_forward(tokens), *residual]
    routed: list[Operation] = [
        _product(tokens, SWITCH_EXPERTS, hidden, "router"),
        _stream("softmax", tokens * SWITCH_EXPERTS),
    ]
    rows = batch * SWITCH_CAPACITY
    expert: list[Operation] = [
        *_feed_forward(rows),
        _stream("copy", rows * hidden, count=DISPATCH_KERNELS, label="dispatch"),
    ]
    sparse = [*norm, *routed, *repeated(expert, SWITCH_EXPERTS), *residual]
    return (
        Gather(rows=2 * tokens, width=hidden, dtype=DTYPE, label="token embedding"),
        *repeated([*attend, *residual], 3 * SWITCH_LAYERS),
        *repeated([*dense, *sparse], SWITCH_LAYERS),
        _product(tokens, SWITCH_VOCABULARY, hidden, "vocabulary"),
    )


def _feed_forward(rows: int) -> list[Operation]:
    return [
        _product(rows, SWITCH_INNER, SWITCH_HIDDEN, "up"),
        _stream("activation", rows * SWITCH_INNER, label="relu"),
        _product(rows, SWITCH_HIDDEN, SWITCH_INNER, "down"),
    ]


def _product(m: int, n: int, k: int, label: str) -> Gemm:
    return Gemm(m=m, n=n, k=k, dtype=DTYPE, label=label)


def _dropout(elements: Amount, count: Amount, label: str) -> Streaming:
    return Streaming(kind="add", elements=elements, dtype=DTYPE, writes=1 + MASK_SHARE, count=count, label=label)


def _stream(
    kind: StreamKind, elements: Amount, *, reads: float = 1, writes: float = 1, count: Amount = 1, label: str = ""
) -> Streaming:
    return Streaming(kind=kind, elements=elements, dtype=DTYPE, reads=reads, writes=writes, count=count, label=label)
