"""Scoring vectors against a catalogue: dot and L2 scores, exact top-k, and the fusion scorer zᵀ·W·σ(v ⊕ u)."""

from __future__ import annotations

from typing import Literal

from capacity.spec.model import FusionScorerModel
from capacity.work.operations import Amount, Distance, Gather, Gemm, Operation, Streaming, TopK

Metric = Literal["dot", "l2"]


def exact_top_k(
    queries: Amount, vectors: Amount, width: Amount, top: Amount, dtype: str, metric: Metric = "dot"
) -> tuple[Operation, ...]:
    """Return the operations that find the `top` nearest of `vectors` catalogue vectors for each query."""
    score: Operation
    if metric == "dot":
        score = Gemm(m=queries, n=vectors, k=width, dtype=dtype, label="dot scores")
    else:
        score = Distance(m=queries, n=vectors, k=width, dtype=dtype, label="L2 distances")
    return (score, TopK(rows=queries, columns=vectors, k=top, dtype=dtype))


def fusion_parameters(model: FusionScorerModel) -> int:
    """Return the entries of the bilinear matrix W."""
    return model.query_size * (model.item_size + model.user_size)


def fusion_scores(model: FusionScorerModel, requests: Amount, candidates: Amount, dtype: str) -> tuple[Operation, ...]:
    """Return the operations of zᵀ·W·σ(v ⊕ u) for `candidates` items of each of `requests` requests.

    zᵀ·W is computed once a request; each candidate then costs a gather, a concatenation, σ and one dot product.
    """
    width = model.item_size + model.user_size
    pairs = requests * candidates
    return (
        Gemm(m=requests, n=width, k=model.query_size, dtype=dtype, label="zᵀ·W"),
        Gather(rows=pairs, width=model.item_size, dtype=dtype, label="item vectors"),
        Streaming(kind="copy", elements=pairs * width, dtype=dtype, label="v ⊕ u"),
        Streaming(kind="activation", elements=pairs * width, dtype=dtype, flop_per_element=4, label="sigmoid"),
        Gemm(m=candidates, n=1, k=width, batch=requests, dtype=dtype, label="scores"),
    )
