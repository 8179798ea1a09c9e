"""HSTU, the sequence model of generative recommenders: history and candidates in one sequence, scored together.

A layer projects its normed input to gate, value, query and key at once, attends pointwise, φ(Q·Kᵀ)·V with φ = SiLU and
no softmax, norms the result, multiplies it by the gate and projects [gate, result, product] back. Events see earlier
events; a candidate sees the whole history and itself, never another candidate.

References
----------
Zhai et al. 2024, arXiv:2402.17152, §3; MLPerf's reference in mlcommons/inference, recommendation/dlrm_v3.
"""

from __future__ import annotations

from itertools import pairwise

from capacity.spec.model import HstuModel
from capacity.work.operations import Amount, Attention, Gather, Gemm, Operation, Streaming, backward, repeated
from capacity.work.transformer import LAUNCHES, Fusion

GATE = "gate activation"
"""Label of the one element-wise kernel that fused engines run inside the projection."""


def parameters(model: HstuModel) -> int:
    """Return the entries of tables, perceptrons with their norms, and layers, as torch counts them."""
    hidden, contexts = model.hidden_size, len(model.contexts)
    projected, gated = _widths(model)
    layer = 2 * hidden + (hidden + 1) * projected + 2 * gated + 3 * gated * hidden
    normed = sum(_perceptron(widths, normed=True) for widths in model.position_mlps + model.candidate_mlps)
    tables = (sum(model.tables) + sum(model.contexts)) * model.embedding_size + sum(model.encodings) * hidden
    context = contexts * (model.embedding_size + 1) * hidden
    head = _perceptron(model.head, normed=False)
    return tables + 2 * model.actions + context + normed + model.layers * layer + head


def score_candidates(
    model: HstuModel, requests: Amount, events: Amount, candidates: Amount, dtype: str, fusion: Fusion = "eager"
) -> tuple[Operation, ...]:
    """Return the operations that score `candidates` items against a history of `events` events, for each request."""
    past = events + len(model.contexts)
    positions, targets = requests * (events + candidates), requests * candidates
    block = _layer(model, requests, past, candidates, dtype)
    if not LAUNCHES[fusion].activation:
        block = tuple(op for op in block if op.label != GATE)
    return (
        *_look_ups(model, requests, events + candidates, dtype),
        *(op for widths in model.position_mlps for op in _mlp(widths, positions, dtype)),
        *repeated(block, model.layers),
        *(op for widths in model.candidate_mlps for op in _mlp(widths, targets, dtype)),
        *_mlp(model.head, targets, dtype),
    )


def training_step(
    model: HstuModel, requests: Amount, events: Amount, candidates: Amount, dtype: str
) -> tuple[Operation, ...]:
    """Return forward and backward of one step over `requests` sequences with `candidates` labeled targets each."""
    forward = score_candidates(model, requests, events, candidates, dtype)
    return forward + backward(forward)


def _widths(model: HstuModel) -> tuple[int, int]:
    """Return the outputs of a layer's first projection, and of its attention."""
    return 2 * model.heads * (model.query_size + model.value_size), model.heads * model.value_size


def _perceptron(widths: tuple[int, ...], *, normed: bool) -> int:
    """Return the parameters of linear layers with a norm after each, the last one's only where `normed`."""
    layers = sum(inputs * outputs + 3 * outputs for inputs, outputs in pairwise(widths))
    return layers if normed else layers - 2 * widths[-1]


def _mlp(widths: tuple[int, ...], rows: Amount, dtype: str) -> tuple[Operation, ...]:
    operations: list[Operation] = []
    for inputs, outputs in pairwise(widths):
        operations.append(Gemm(m=rows, n=outputs, k=inputs, dtype=dtype, label="perceptron"))
        operations.append(Streaming(kind="norm", elements=rows * outputs, dtype=dtype, label="perceptron norm"))
    return tuple(operations)


def _look_ups(model: HstuModel, requests: Amount, length: Amount, dtype: str) -> tuple[Operation, ...]:
    positions, contexts = requests * length, len(model.contexts)
    rows = positions * len(model.tables) + requests * contexts
    operations: list[Operation] = [Gather(rows=rows, width=model.embedding_size, dtype=dtype)]
    if contexts:
        operations.append(
            Gemm(m=requests, n=model.hidden_size, k=model.embedding_size, batch=contexts, dtype=dtype, label="contexts")
        )
    added = len(model.encodings)
    if added:
        size = (positions + requests * contexts) * model.hidden_size
        operations.append(Streaming(kind="add", elements=size, dtype=dtype, reads=1 + added, label="encodings"))
    return tuple(operations)


def _layer(model: HstuModel, requests: Amount, past: Amount, candidates: Amount, dtype: str) -> tuple[Operation, ...]:
    """Return one layer: events attend causally, candidates to the events and to themselves.

    Query and value widths may differ: their mean as head_dim leaves the products' FLOP and bytes as they are.
    """
    projected, gated = _widths(model)
    rows, hidden = requests * (past + candidates), model.hidden_size
    head_dim = (model.query_size + model.value_size) / 2
    return (
        Streaming(kind="norm", elements=rows * hidden, dtype=dtype, flop_per_element=5, label="norm"),
        Gemm(m=rows, n=projected, k=hidden, dtype=dtype, label="gate, value, query, key"),
        Streaming(kind="activation", elements=rows * gated, dtype=dtype, flop_per_element=5, label=GATE),
        Attention(
            batch=requests, heads=model.heads, kv_heads=model.heads, query=past, keys=past, head_dim=head_dim,
            dtype=dtype, phase="prefill", causal=True, label="events to events",
        ),
        Attention(
            batch=requests, heads=model.heads, kv_heads=model.heads, query=candidates, keys=past + 1,
            head_dim=head_dim, dtype=dtype, phase="prefill", label="candidates to events",
        ),
        Streaming(
            kind="norm", elements=rows * gated, dtype=dtype, reads=2, writes=3, flop_per_element=6, label="gated norm"
        ),
        Gemm(m=rows, n=hidden, k=3 * gated, dtype=dtype, label="output"),
    )  # fmt: skip
