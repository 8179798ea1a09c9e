"""A model architecture: dimensions only, enough to count its parameters, FLOP and bytes. Weights are never needed."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from capacity.spec.quantity import Count, CountAmount, Fraction, Id, Spec

Widths = Annotated[tuple[Count, ...], Field(min_length=1)]
"""Widths of the layers of a perceptron, the first one's input left out."""
Perceptron = Annotated[tuple[Count, ...], Field(min_length=2)]
"""Widths of a perceptron from its input to its output."""


class TransformerModel(Spec):
    """A Hugging Face transformer: the fields of its `config.json` that set its shape."""

    id: Id
    name: str
    family: Literal["transformer"] = "transformer"
    source: str
    """Where the dimensions were read."""
    head: Literal["none", "language-model", "classification", "pooler"] = "none"
    """What stands on the body: nothing, a vocabulary projection, a classifier (reranker), or BERT's pooler."""
    config: dict[str, Any]
    """Fields of config.json; `model_type` is one of those `capacity model list --types` names."""


class LstmModel(Spec):
    """Embedding → LSTM → dense softmax over the catalogue."""

    id: Id
    name: str
    family: Literal["lstm"]
    source: str
    items: Count
    """Rows of the item embedding and columns of the output matrix."""
    embedding_size: Count
    hidden_size: Count
    layers: Count = 1


class FactorizationModel(Spec):
    """Matrix factorization: ratings ≈ U · Vᵀ."""

    id: Id
    name: str
    family: Literal["factorization"]
    source: str
    users: Count
    items: Count
    factors: Count


class IdRankerModel(Spec):
    """User and item ID embeddings, a transformer body over the pair, linear + sigmoid."""

    id: Id
    name: str
    family: Literal["id-ranker"]
    source: str
    users: Count
    items: Count
    embedding_size: Count = 256
    body: dict[str, Any]
    """Hugging Face config fields of the BERT-like body; its hidden_size equals `embedding_size`."""


class FusionScorerModel(Spec):
    """score = zᵀ · W · σ(v ⊕ u): query encoding z, item vector v and user-behavior vector u."""

    id: Id
    name: str
    family: Literal["fusion-scorer"]
    source: str
    query_size: Count
    item_size: Count
    user_size: Count


class DlrmModel(Spec):
    """DLRM or DCNv2: embedding bags and dense features that meet in pairwise dots or in a low-rank cross network."""

    id: Id
    name: str
    family: Literal["dlrm"]
    source: str
    dense_features: Count
    tables: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Rows of each embedding table."""
    lookups: tuple[Count, ...] = ()
    """Rows that one pair looks up in each table and sums (multi-hot); one when left out."""
    embedding_size: Count
    bottom: Widths
    """Layers over the dense features; the last is as wide as an embedding."""
    interaction: Literal["dot", "cross"]
    cross_layers: CountAmount = 0
    cross_rank: CountAmount = 0
    top: Widths
    """Layers over what the interaction makes, down to one score."""

    @model_validator(mode="after")
    def _fitting(self) -> DlrmModel:
        if self.lookups and len(self.lookups) != len(self.tables):
            raise ValueError(f"lookups names {len(self.lookups)} tables, and there are {len(self.tables)}")
        if self.bottom[-1] != self.embedding_size:
            raise ValueError(f"bottom ends with {self.bottom[-1]} values, an embedding has {self.embedding_size}")
        cross = (self.cross_layers > 0, self.cross_rank > 0)
        if cross != (self.interaction == "cross",) * 2:
            raise ValueError("a cross interaction needs cross_layers and cross_rank, another has none")
        return self


class HstuModel(Spec):
    """HSTU: a user's history and the candidates in one sequence, pointwise attention with SiLU instead of softmax."""

    id: Id
    name: str
    family: Literal["hstu"]
    source: str
    tables: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Rows of the tables that every event and every candidate is looked up in."""
    contexts: tuple[Count, ...] = ()
    """Rows of tables looked up once a request; each result is one more position of the sequence."""
    actions: CountAmount = 0
    """Values that stand for what the user did at an event; candidates have their own."""
    encodings: tuple[Count, ...] = ()
    """Rows of the learned tables (position, time) added to every position."""
    embedding_size: Count
    hidden_size: Count
    layers: Count
    heads: Count
    query_size: Count
    """Width of a head's query and key."""
    value_size: Count
    """Width of a head's value and gate."""
    position_mlps: tuple[Perceptron, ...] = ()
    """Perceptrons over each event and candidate before the layers, their results summed."""
    candidate_mlps: tuple[Perceptron, ...] = ()
    """Perceptrons over each candidate beside and after the layers."""
    head: Perceptron
    """Perceptron from a candidate's state to its scores."""

    @model_validator(mode="after")
    def _fitting(self) -> HstuModel:
        if any(widths[-1] != self.hidden_size for widths in self.position_mlps) or self.head[0] != self.hidden_size:
            raise ValueError(f"position_mlps end, and head starts, with the hidden_size of {self.hidden_size} values")
        return self


class EncoderTower(Spec):
    """One side of a two-tower model: a bag of embeddings a table beside dense features, then linear layers."""

    tables: tuple[Count, ...] = ()
    """Rows of each embedding table; the first is that of the users, or of the items."""
    lookups: tuple[Count, ...] = ()
    """Rows that a sample looks up in each table and sums (multi-hot); one when left out."""
    embedding_size: Count = 1
    """Values of a row."""
    dense_features: CountAmount = 0
    layers: Widths
    """Layers with rectifiers between; the last is as wide as the vector."""

    @model_validator(mode="after")
    def _fitting(self) -> EncoderTower:
        if self.lookups and len(self.lookups) != len(self.tables):
            raise ValueError(f"lookups names {len(self.lookups)} tables, and there are {len(self.tables)}")
        if not self.tables and not self.dense_features:
            raise ValueError("a tower needs tables or dense_features")
        return self


class TwoTowerModel(Spec):
    """Two towers: the vectors of a user and of an item meet in a dot; the other items of a batch are negatives."""

    id: Id
    name: str
    family: Literal["two-tower"]
    source: str
    user: EncoderTower
    item: EncoderTower
    normed: bool = True
    """Whether vectors are brought to length one before their dot."""

    @model_validator(mode="after")
    def _equally_wide(self) -> TwoTowerModel:
        widths = self.user.layers[-1], self.item.layers[-1]
        if widths[0] != widths[1]:
            raise ValueError(f"vectors must be equally wide, not {widths[0]} (user) and {widths[1]} (item)")
        return self


class Bert4RecModel(Spec):
    """BERT4Rec: a history of items as tokens of a bidirectional transformer that predicts masked ones."""

    id: Id
    name: str
    family: Literal["bert4rec"]
    source: str
    items: Count
    hidden_size: Count
    """Values of an item's embedding and of a position's state; the feed-forward part is four times as wide."""
    layers: Count
    heads: Count
    positions: Count
    """Longest sequence, the mask of the next item included."""
    masked: Annotated[Fraction, Field(gt=0)]
    """Share of a sequence's positions that training masks and predicts; at least one is."""
    negatives: CountAmount = 0
    """Items that a training step scores instead of all: a sample that the whole batch shares; 0: all."""

    @model_validator(mode="after")
    def _divisible(self) -> Bert4RecModel:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        return self


class Point(Spec):
    """How far a search went, and what it found."""

    effort: Count
    """Lists probed (IVF) or ef, the breadth of the search (HNSW)."""
    recall: Annotated[Fraction, Field(gt=0)]


class IndexPoints(Spec):
    """Recall by search effort of one index over one catalogue, as published or measured."""

    id: Id
    kind: Literal["ivf", "ivf-pq", "hnsw"]
    items: Count
    width: Count
    lists: Count | None = None
    """Lists of an inverted index."""
    links: Count | None = None
    """Links a node of a graph gets on the upper levels (M)."""
    code_bytes: Count | None = None
    recall: Literal["1@1", "1@10", "10@10"]
    """`a@b`: share of the true nearest a found among the b returned."""
    basis: Literal["published", "measured", "assumed"]
    source: str
    points: Annotated[tuple[Point, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> IndexPoints:
        needs = {"ivf": {"lists"}, "ivf-pq": {"lists", "code_bytes"}, "hnsw": {"links"}}[self.kind]
        has = {name for name in ("lists", "links", "code_bytes") if getattr(self, name) is not None}
        if has != needs:
            raise ValueError(f"an index of kind {self.kind} has {', '.join(sorted(needs))} of lists, links, code_bytes")
        for before, after in pairwise(self.points):
            if after.effort <= before.effort or after.recall <= before.recall:
                raise ValueError(f"effort and recall must rise from point to point, not {before} to {after}")
        return self


Model: TypeAlias = (
    TransformerModel | LstmModel | FactorizationModel | IdRankerModel | FusionScorerModel | DlrmModel | HstuModel
    | TwoTowerModel | Bert4RecModel
)  # fmt: skip
MODEL_FAMILIES: dict[str, type[Model]] = {
    "transformer": TransformerModel,
    "lstm": LstmModel,
    "factorization": FactorizationModel,
    "id-ranker": IdRankerModel,
    "fusion-scorer": FusionScorerModel,
    "dlrm": DlrmModel,
    "hstu": HstuModel,
    "two-tower": TwoTowerModel,
    "bert4rec": Bert4RecModel,
}
