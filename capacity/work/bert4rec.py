"""BERT4Rec: items of a history as tokens of a bidirectional transformer, masked ones predicted over the catalogue.

The states of masked positions pass one more layer (linear, activation, norm) and meet every item's embedding in a dot:
output and input share their table. Training may score a sample of the catalogue instead, shared by the whole batch.

References
----------
Sun et al. 2019, arXiv:1904.06690, §3; its code, github.com/FeiSun/BERT4Rec, run.py: get_masked_lm_output (the head, and
the bias of each item); tf.nn.sampled_softmax_loss and Jean et al. 2015, arXiv:1412.2007, §3 (sampled softmax).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from capacity.errors import CapacityError, InputError
from capacity.spec.hardware import DTYPE_BYTES
from capacity.work.architecture import Transformer
from capacity.work.huggingface import transformer
from capacity.work.operations import Amount, Gather, Gemm, Operation, Streaming, backward
from capacity.work.transformer import LAUNCHES, Fusion, Pass, forward

SPECIAL_TOKENS = 2
"""Rows of the table that are no item: padding and the mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bert4Rec:
    """A bidirectional body whose vocabulary are the items and the special tokens."""

    body: Transformer

    def __post_init__(self) -> None:
        if self.body.layer.causal or self.body.head != "none":
            raise InputError(f"BERT4Rec needs an encoder without a head for its body, not {self.body.name}")

    @property
    def items(self) -> int:
        """Items of the catalogue."""
        return self.body.vocabulary - SPECIAL_TOKENS

    @property
    def vector_width(self) -> int:
        """Values of an item's embedding, and of a position's state."""
        return self.body.layer.hidden


def bert4rec(items: int, hidden: int, layers: int, heads: int, positions: int) -> Bert4Rec:
    """Return the model of the paper's form: BERT's blocks with a feed-forward part four times as wide.

    The table of token types that BERT has keeps one row, as the smallest that transformers builds.

    Examples
    --------
    >>> model = bert4rec(items=1000, hidden=64, layers=2, heads=2, positions=200)
    >>> model.items, model.body.layer.intermediate, model.body.vocabulary
    (1000, 256, 1002)
    """
    config = {
        "model_type": "bert", "vocab_size": items + SPECIAL_TOKENS, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": 4 * hidden, "max_position_embeddings": positions,
        "type_vocab_size": 1,
    }  # fmt: skip
    return Bert4Rec(body=transformer(config, name="BERT4Rec", head="none"))


def parameters(model: Bert4Rec) -> int:
    """Return the parameters of body, last layer with its norm, and the items' biases; the shared table counts once."""
    hidden = model.vector_width
    return model.body.parameters + (hidden + 1) * hidden + 2 * hidden + model.body.vocabulary


def next_item(
    model: Bert4Rec, requests: Amount, events: int, dtype: str, fusion: Fusion = "eager"
) -> tuple[Operation, ...]:
    """Return the operations that score every item after histories of `events` items, a mask in the place of the next.

    Raises
    ------
    CapacityError
        When the position table is shorter than history and mask.
    """
    shape = _shape(model, requests, events + 1, dtype, fusion)
    return forward(model.body, shape) + _head(model, shape, requests) + _scores(model, requests, dtype)


def training_step(
    model: Bert4Rec, batch: Amount, length: int, masked: Amount, dtype: str, negatives: Amount = 0
) -> tuple[Operation, ...]:
    """Return forward and backward of one step on sequences of `length` positions, `masked` of them predicted in each.

    Parameters
    ----------
    negatives
        Items that the whole batch shares as a sample of the catalogue; with 0 all of it is scored.

    Raises
    ------
    CapacityError
        When the position table is shorter than the sequences, or more positions are masked than there are.
    """
    if np.any(np.asarray(masked) > length):
        raise InputError(f"{masked} positions are masked of {length}: at most all of them can be")
    shape, rows = _shape(model, batch, length, dtype, "eager"), batch * masked
    scores = _sampled_scores(model, rows, negatives, dtype) if negatives else _scores(model, rows, dtype)
    operations = forward(model.body, shape) + _head(model, shape, rows) + scores
    return operations + backward(operations)


def score_bytes(model: Bert4Rec, rows: Amount, dtype: str, negatives: Amount = 0) -> Amount:
    """Return the scores and their softmax that `rows` predicted positions keep for the backward pass [byte].

    They often outgrow the body: 2 · rows · vocabulary values, or 2 · rows · (negatives + 1) of a sampled softmax.

    Examples
    --------
    >>> model = bert4rec(items=998, hidden=64, layers=2, heads=2, positions=200)
    >>> score_bytes(model, 10, "fp32"), score_bytes(model, 10, "fp32", negatives=99)  # 2 · 10 · (1000 | 100) · 4
    (80000, 8000)
    """
    columns = negatives + 1 if negatives else model.body.vocabulary
    return 2 * rows * columns * max(DTYPE_BYTES[dtype], 2)


def _shape(model: Bert4Rec, batch: Amount, length: int, dtype: str, fusion: Fusion) -> Pass:
    if model.body.positions and length > model.body.positions:
        most = model.body.positions
        raise CapacityError(f"{model.body.name} reads at most {most} positions, and {length} are asked for")
    return Pass(batch=batch, query=length, keys=length, dtype=dtype, phase="encoder", fusion=fusion)


def _head(model: Bert4Rec, shape: Pass, rows: Amount) -> tuple[Operation, ...]:
    """Take the states of the predicted positions and pass them through the last layer."""
    hidden, dtype = model.vector_width, shape.dtype
    transform = Gemm(m=rows, n=hidden, k=hidden, dtype=dtype, label="transform")
    taken = Streaming(kind="copy", elements=rows * hidden, dtype=dtype, label="masked positions")
    activation = Streaming(
        kind="activation", elements=rows * hidden, dtype=dtype, flop_per_element=8, label="transform activation"
    )
    norm = Streaming(kind="norm", elements=rows * hidden, dtype=dtype, flop_per_element=5, label="transform norm")
    return (taken, transform, *((activation,) if LAUNCHES[shape.fusion].activation else ()), norm)


def _scores(model: Bert4Rec, rows: Amount, dtype: str) -> tuple[Operation, ...]:
    """Score every row of the table, and norm to probabilities."""
    items = model.body.vocabulary
    return (
        Gemm(m=rows, n=items, k=model.vector_width, dtype=dtype, label="item scores"),
        Streaming(kind="softmax", elements=rows * items, dtype=dtype, flop_per_element=5, label="softmax"),
    )


def _sampled_scores(model: Bert4Rec, rows: Amount, negatives: Amount, dtype: str) -> tuple[Operation, ...]:
    """Fetch targets and sampled items, score each row against its target and the sample, and norm."""
    hidden = model.vector_width
    return (
        Gather(rows=rows + negatives, width=hidden, dtype=dtype, label="targets and sampled items"),
        Streaming(
            kind="add", elements=rows * hidden, dtype=dtype, reads=2, writes=0, flop_per_element=2, label="target score"
        ),
        Gemm(m=rows, n=negatives, k=hidden, dtype=dtype, label="sampled scores"),
        Streaming(
            kind="softmax", elements=rows * (negatives + 1), dtype=dtype, flop_per_element=5, label="sampled softmax"
        ),
    )


def resized(model: Bert4Rec, items: int) -> Bert4Rec:
    """Return the model with a table for `items` items."""
    return replace(model, body=replace(model.body, vocabulary=items + SPECIAL_TOKENS))
