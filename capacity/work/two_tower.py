"""Two towers: a user encoder and an item encoder, each a perceptron over embeddings and dense features, meet in a dot.

Training takes the other items of the batch as negatives: a softmax over the scores of every user against every item.
Devices gather the item vectors of all of them first, so that a batch has as many negatives as all devices have items.

References
----------
Yi et al. 2019, doi:10.1145/3298689.3346996 (in-batch softmax, vectors normed to length one); torchrec's example
examples/retrieval (bags of embeddings, concatenated, and a perceptron on each side).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from capacity.errors import InputError
from capacity.spec.hardware import DTYPE_BYTES
from capacity.work.operations import Amount, Collective, Gather, Gemm, Operation, Streaming, StreamKind, backward
from capacity.work.transformer import LAUNCHES, Fusion


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """An encoder: one bag of embeddings a table beside the dense features, then linear layers with rectifiers between.

    Attributes
    ----------
    tables
        Rows of each embedding table.
    lookups
        Rows that a sample looks up in each table and sums; one each when left out.
    layers
        Widths of the linear layers; the last is that of the vector, and has no rectifier.
    """

    name: str
    tables: tuple[int, ...]
    embedding_size: int
    layers: tuple[int, ...]
    lookups: tuple[int, ...] = ()
    dense_features: int = 0

    def __post_init__(self) -> None:
        sizes = (*self.tables, *self.lookups, *self.layers, self.embedding_size)
        if not self.layers or min(sizes) < 1 or self.dense_features < 0:
            raise InputError(f"tower {self.name}: needs layers and sizes from 1, not {self}")
        if self.lookups and len(self.lookups) != len(self.tables):
            raise InputError(f"tower {self.name}: {len(self.lookups)} lookups for {len(self.tables)} tables")
        if self.inputs < 1:
            raise InputError(f"tower {self.name}: needs tables or dense features")

    @property
    def inputs(self) -> int:
        """Values that the first layer reads."""
        return len(self.tables) * self.embedding_size + self.dense_features

    @property
    def rows_read(self) -> int:
        """Embedding rows that a sample reads."""
        return sum(self.lookups) or len(self.tables)

    @property
    def table_parameters(self) -> int:
        """Entries of the embedding tables."""
        return sum(self.tables) * self.embedding_size

    @property
    def parameters(self) -> int:
        """Entries of tables and layers."""
        return self.table_parameters + self.layer_parameters

    @property
    def live_values(self) -> int:
        """Most values of a sample that are live at once: a layer's input beside its output."""
        return max(inputs + outputs for inputs, outputs in pairwise((self.inputs, *self.layers)))

    @property
    def layer_parameters(self) -> int:
        """Entries of the linear layers, with bias."""
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise((self.inputs, *self.layers)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoTower:
    """A user tower and an item tower whose vectors are equally wide."""

    user: Tower
    item: Tower
    normed: bool = True
    """Vectors are brought to length one before their dot."""

    def __post_init__(self) -> None:
        if self.user.layers[-1] != self.item.layers[-1]:
            widths = f"{self.user.layers[-1]} (user) and {self.item.layers[-1]} (item)"
            raise InputError(f"two towers: vectors must be equally wide, not {widths}")

    @property
    def towers(self) -> tuple[Tower, Tower]:
        """Both encoders, the user's first."""
        return self.user, self.item

    @property
    def vector_width(self) -> int:
        """Values of a user's, and of an item's, vector."""
        return self.user.layers[-1]


def parameters(model: TwoTower) -> int:
    """Return the entries of tables and layers of both towers, as torch counts them.

    Examples
    --------
    >>> user = Tower(name="user", tables=(10,), embedding_size=2, layers=(3,))  # 10 · 2 + (2 + 1) · 3
    >>> item = Tower(name="item", tables=(), embedding_size=1, dense_features=4, layers=(3,))  # (4 + 1) · 3
    >>> parameters(TwoTower(user=user, item=item))
    44
    """
    return sum(tower.parameters for tower in model.towers)


def encode(
    tower: Tower, samples: Amount, dtype: str, fusion: Fusion = "eager", *, normed: bool = True
) -> tuple[Operation, ...]:
    """Return the operations that make the vectors of `samples` users, or items."""
    operations: list[Operation] = []
    label, eager = tower.name, LAUNCHES[fusion].activation
    if tower.tables:
        operations.append(
            Gather(
                rows=samples * tower.rows_read, width=tower.embedding_size, dtype=dtype,
                pooled=tower.rows_read / len(tower.tables), label=f"{label} embedding bags",
            )
        )  # fmt: skip
    if eager and len(tower.tables) + (tower.dense_features > 0) > 1:
        operations.append(_stream("copy", samples * tower.inputs, dtype, f"{label} features side by side"))
    for number, (inputs, outputs) in enumerate(pairwise((tower.inputs, *tower.layers)), start=1):
        operations.append(Gemm(m=samples, n=outputs, k=inputs, dtype=dtype, label=f"{label} {number}"))
        if eager and number < len(tower.layers):
            operations.append(_stream("activation", samples * outputs, dtype, f"{label} {number} activation"))
    if normed:
        operations.append(_stream("norm", samples * tower.layers[-1], dtype, f"{label} norm"))
    return tuple(operations)


def training_step(
    model: TwoTower, batch: Amount, dtype: str, devices: Amount = 1, fusion: Fusion = "eager"
) -> tuple[Operation, ...]:
    """Return forward and backward of one device's step on `batch` pairs, with what in-batch negatives send.

    All devices' item vectors are gathered, [devices · batch × width]; the gradients of all go back to their owners and
    are summed there. Sums of the layers' gradients and the way of embedding rows are left to who shards the model.
    """
    width, candidates = model.vector_width, batch * devices
    scores = Gemm(m=batch, n=candidates, k=width, dtype=dtype, label="scores")
    softmax = Streaming(
        kind="softmax", elements=batch * candidates, dtype=dtype, flop_per_element=5, label="in-batch softmax"
    )
    towers = [op for tower in model.towers for op in encode(tower, batch, dtype, fusion, normed=model.normed)]
    forward: tuple[Operation, ...] = (*towers, scores, softmax)
    unneeded = {f"{tower.name} 1 dx" for tower in model.towers if not tower.tables}
    gradients = tuple(op for op in backward(forward) if op.label not in unneeded)
    message = candidates * width * DTYPE_BYTES[dtype]
    gathered = Collective(kind="all_gather", message_bytes=message, devices=devices, dtype=dtype, label="item vectors")
    summed = Collective(
        kind="reduce_scatter", message_bytes=message, devices=devices, dtype=dtype, label="item vectors' gradients"
    )
    return (*forward, *gradients, gathered, summed)


def activation_bytes(model: TwoTower, batch: Amount, dtype: str, devices: Amount = 1) -> Amount:
    """Return what a training step keeps for its backward pass [byte].

    Inputs of every layer, vectors, all devices' item vectors, and the batch × (devices · batch) scores, which grow with
    the square of the batch and stand twice: as scores and as their softmax.
    """
    width, candidates = model.vector_width, batch * devices
    layers = sum(tower.inputs + sum(tower.layers) for tower in model.towers)
    return (batch * layers + candidates * width + 2 * batch * candidates) * max(DTYPE_BYTES[dtype], 2)


def _stream(kind: StreamKind, elements: Amount, dtype: str, label: str) -> Streaming:
    return Streaming(
        kind=kind, elements=elements, dtype=dtype, flop_per_element=3 if kind == "norm" else 1, label=label
    )
