"""Look-up scorers with feature interaction: DLRM (pairwise dots) and DCNv2 (a low-rank cross network).

Every (user, item) pair passes the whole model: dense features through the bottom layers, one bag of embeddings a table,
their interaction, and the top layers to one score.

References
----------
Naumov et al. 2019, arXiv:1906.00091 (DLRM); Wang et al. 2021, arXiv:2008.13535, §3.4 (DCNv2, low rank); MLPerf's
reference in mlcommons/inference, recommendation/dlrm_v2.
"""

from __future__ import annotations

from itertools import pairwise

from capacity.spec.model import DlrmModel
from capacity.work.operations import Amount, Gather, Gemm, Operation, Streaming, backward
from capacity.work.transformer import LAUNCHES, Fusion


def interacted(model: DlrmModel) -> int:
    """Return how many values the interaction hands to the top layers.

    Dots keep one value a pair of vectors beside the dense vector; a cross network keeps every value of every vector.
    """
    vectors = len(model.tables) + 1
    if model.interaction == "dot":
        return model.embedding_size + vectors * (vectors - 1) // 2
    return vectors * model.embedding_size


def lookups(model: DlrmModel) -> int:
    """Return the embedding rows that one pair reads."""
    return sum(model.lookups) or len(model.tables)


def parameters(model: DlrmModel) -> int:
    """Return the entries of tables, layers with bias, and cross matrices with bias, as torch counts them."""
    width = interacted(model)
    cross = model.cross_layers * (2 * width * model.cross_rank + width)
    dense = _perceptron((model.dense_features, *model.bottom)) + _perceptron((width, *model.top))
    return sum(model.tables) * model.embedding_size + dense + cross


def score_pairs(model: DlrmModel, pairs: Amount, dtype: str, fusion: Fusion = "eager") -> tuple[Operation, ...]:
    """Return the operations that score `pairs` (user, item) pairs; one fused kernel looks up the bags of all tables."""
    tables, rows = len(model.tables), pairs * lookups(model)
    return (
        Gather(
            rows=rows, width=model.embedding_size, dtype=dtype, pooled=lookups(model) / tables, label="embedding bags"
        ),
        *_layers("bottom", (model.dense_features, *model.bottom), pairs, dtype, fusion),
        *_interaction(model, pairs, dtype, fusion),
        *_layers("top", (interacted(model), *model.top), pairs, dtype, fusion),
    )  # fmt: skip


def training_step(model: DlrmModel, pairs: Amount, dtype: str) -> tuple[Operation, ...]:
    """Return forward and backward of one step of click prediction; nothing needs the dense features' gradient."""
    forward = score_pairs(model, pairs, dtype)
    return forward + tuple(op for op in backward(forward) if op.label != "bottom 1 dx")


def _perceptron(widths: tuple[int, ...]) -> int:
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths))


def _layers(name: str, widths: tuple[int, ...], rows: Amount, dtype: str, fusion: Fusion) -> tuple[Operation, ...]:
    """Linear layers, each followed by a rectifier, or by a sigmoid where a single score comes out."""
    operations: list[Operation] = []
    for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        operations.append(Gemm(m=rows, n=outputs, k=inputs, dtype=dtype, label=f"{name} {number}"))
        if LAUNCHES[fusion].activation:
            operations.append(
                Streaming(kind="activation", elements=rows * outputs, dtype=dtype, label=f"{name} {number} activation")
            )
    return tuple(operations)


def _interaction(model: DlrmModel, pairs: Amount, dtype: str, fusion: Fusion) -> tuple[Operation, ...]:
    """Return products and copies; where residuals are fused, the epilogue of a cross product only reads x₀ and x."""
    vectors, size, width = len(model.tables) + 1, model.embedding_size, interacted(model)
    eager = LAUNCHES[fusion].residual
    together = Streaming(kind="copy", elements=pairs * vectors * size, dtype=dtype, label="vectors side by side")
    beside = (together,) if eager else ()
    if model.interaction == "dot":
        dots = Gemm(m=vectors, n=vectors, k=size, batch=pairs, dtype=dtype, label="dots")
        return (*beside, dots, Streaming(kind="copy", elements=pairs * width, dtype=dtype, label="dots beside dense"))
    count = model.cross_layers
    # Adding the bias, multiplying by x₀ and adding x as three kernels read five times.
    kernels, reads = (3, 5 / 3) if eager else (1, 2)
    return (
        *beside,
        Gemm(m=pairs, n=model.cross_rank, k=width, dtype=dtype, count=count, label="cross down"),
        Gemm(m=pairs, n=width, k=model.cross_rank, dtype=dtype, count=count, label="cross up"),
        Streaming(
            kind="add", elements=pairs * width, dtype=dtype, reads=reads, writes=1 if eager else 0,
            flop_per_element=3 / kernels, count=count * kernels, label="x₀ · (W·x + b) + x",
        ),
    )  # fmt: skip
