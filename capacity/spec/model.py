"""A model architecture: dimensions only, enough to count its parameters, FLOP and bytes. Weights are never needed."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from capacity.spec.quantity import Count, Id, Spec


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


Model: TypeAlias = TransformerModel | LstmModel | FactorizationModel | IdRankerModel | FusionScorerModel
MODEL_FAMILIES: dict[str, type[Model]] = {
    "transformer": TransformerModel,
    "lstm": LstmModel,
    "factorization": FactorizationModel,
    "id-ranker": IdRankerModel,
    "fusion-scorer": FusionScorerModel,
}
