"""Recommenders made of embedding tables: matrix factorization and the ID ranker with a transformer body."""

from __future__ import annotations

from capacity.spec.model import FactorizationModel, IdRankerModel
from capacity.work.architecture import Transformer
from capacity.work.huggingface import transformer
from capacity.work.operations import Amount, Gather, Gemm, Operation, Solve, Streaming, backward, repeated
from capacity.work.transformer import Fusion, Pass, attention_part, feed_forward_part


def factorization_parameters(model: FactorizationModel) -> int:
    """Return the entries of both factor matrices."""
    return (model.users + model.items) * model.factors


def alternating_least_squares(model: FactorizationModel, ratings: Amount, dtype: str = "fp32") -> tuple[Operation, ...]:
    """Return one sweep of ALS: every user's, then every item's ridge system built and solved (Hu et al. 2008, §4).

    Building the systems costs 2·ratings·factors·(factors + 1) FLOP a side; solving them one Cholesky a row.
    """
    operations: list[Operation] = []
    for side, rows in (("users", model.users), ("items", model.items)):
        operations += [
            Gather(rows=ratings, width=model.factors, dtype=dtype, label=f"factors of {side}"),
            Gemm(
                m=model.factors,
                n=model.factors,
                k=ratings / rows,
                batch=rows,
                dtype=dtype,
                label=f"normal matrices of {side}",
            ),
            Gemm(m=model.factors, n=1, k=ratings / rows, batch=rows, dtype=dtype, label=f"right-hand sides of {side}"),
            Solve(systems=rows, size=model.factors, dtype=dtype, label=f"solve {side}"),
        ]
    return tuple(operations)


def factorization_sgd_step(model: FactorizationModel, batch: Amount, dtype: str = "fp32") -> tuple[Operation, ...]:
    """Return one step of stochastic gradient descent on `batch` ratings: look-ups, dot products, scattered updates."""
    lookups = Gather(rows=2 * batch, width=model.factors, dtype=dtype, label="user and item factors")
    dot = Streaming(kind="add", elements=batch * model.factors, dtype=dtype, reads=2, flop_per_element=2, label="dot")
    forward = (lookups, dot)
    return forward + backward(forward)


def body(model: IdRankerModel) -> Transformer:
    """Return the transformer body of an ID ranker; only its blocks are used, not its token tables."""
    return transformer(model.body, name=f"{model.id} body", head="none")


def id_ranker_parameters(model: IdRankerModel) -> int:
    """Return tables + blocks + output unit."""
    blocks = body(model)
    tables = (model.users + model.items) * model.embedding_size
    return tables + blocks.layers * blocks.layer.parameters + model.embedding_size + 1


def rank_pairs(model: IdRankerModel, pairs: Amount, dtype: str, fusion: Fusion = "eager") -> tuple[Operation, ...]:
    """Return the operations that rate `pairs` (user, item) pairs: look-ups, the body over both, linear + sigmoid."""
    blocks = body(model)
    shape = Pass(batch=pairs, query=2, keys=2, dtype=dtype, fusion=fusion)
    block = attention_part(blocks.layer, shape) + feed_forward_part(blocks.layer, shape)
    return (
        Gather(rows=2 * pairs, width=model.embedding_size, dtype=dtype, label="user and item embedding"),
        *repeated(block, blocks.layers),
        Gemm(m=pairs, n=1, k=model.embedding_size, dtype=dtype, label="rating"),
        Streaming(kind="activation", elements=pairs, dtype=dtype, flop_per_element=4, label="sigmoid"),
    )


def id_ranker_training_step(model: IdRankerModel, pairs: Amount, dtype: str) -> tuple[Operation, ...]:
    """Return forward and backward of one step of squared error on ratings."""
    operations = rank_pairs(model, pairs, dtype)
    return operations + backward(operations)
