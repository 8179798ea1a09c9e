"""One entry for every model family: its parameters, and the width of the vector it makes."""

from __future__ import annotations

from typing import TypeAlias

from capacity.errors import CapacityError
from capacity.spec.model import (
    Bert4RecModel,
    DlrmModel,
    EncoderTower,
    FactorizationModel,
    FusionScorerModel,
    HstuModel,
    IdRankerModel,
    LstmModel,
    Model,
    TransformerModel,
    TwoTowerModel,
)
from capacity.work import bert4rec, embedding, interaction, recurrent, retrieval, sequential, two_tower
from capacity.work.architecture import Transformer
from capacity.work.bert4rec import Bert4Rec
from capacity.work.huggingface import transformer
from capacity.work.operations import Amount
from capacity.work.two_tower import Tower, TwoTower

LookUpModel: TypeAlias = DlrmModel | HstuModel
"""Models that are nearly all tables, of which a request reads a few rows."""


def architecture(model: TransformerModel) -> Transformer:
    """Return the dimensions of a transformer profile, with the head the profile names."""
    named = model.head if "head" in model.model_fields_set else None
    return transformer(model.config, model.name, named)


def reading(model: TransformerModel, tokens: int) -> Transformer:
    """Return the dimensions of a transformer that is to read `tokens` tokens.

    Raises
    ------
    CapacityError
        When its position table is shorter: the real module would fail there.
    """
    built = architecture(model)
    if built.positions and tokens > built.positions:
        raise CapacityError(f"model {model.id} reads at most {built.positions} tokens, and {tokens} are asked for")
    return built


def item_transformer(model: Bert4RecModel) -> Bert4Rec:
    """Return the transformer over items of a BERT4Rec profile."""
    return bert4rec.bert4rec(model.items, model.hidden_size, model.layers, model.heads, model.positions)


def two_towers(model: TwoTowerModel) -> TwoTower:
    """Return both encoders of a two-tower profile."""
    return TwoTower(user=_tower("user", model.user), item=_tower("item", model.item), normed=model.normed)


def _tower(name: str, tower: EncoderTower) -> Tower:
    return Tower(
        name=name, tables=tower.tables, embedding_size=tower.embedding_size, layers=tower.layers,
        lookups=tower.lookups, dense_features=tower.dense_features,
    )  # fmt: skip


def parameters(model: Model) -> int:
    """Return the number of parameters; equal to that of the real torch module."""
    match model:
        case TransformerModel():
            count = architecture(model).parameters
        case LstmModel():
            count = recurrent.parameters(model)
        case FactorizationModel():
            count = embedding.factorization_parameters(model)
        case IdRankerModel():
            count = embedding.id_ranker_parameters(model)
        case FusionScorerModel():
            count = retrieval.fusion_parameters(model)
        case DlrmModel():
            count = interaction.parameters(model)
        case HstuModel():
            count = sequential.parameters(model)
        case TwoTowerModel():
            count = two_tower.parameters(two_towers(model))
        case Bert4RecModel():
            count = bert4rec.parameters(item_transformer(model))
    return count


def table_rows(model: LookUpModel) -> int:
    """Return the rows of all embedding tables; each holds `embedding_size` values."""
    return sum(model.tables) + (sum(model.contexts) if isinstance(model, HstuModel) else 0)


def rows_read(model: LookUpModel, requests: Amount, events: Amount, candidates: Amount) -> Amount:
    """Return the table rows that scoring `candidates` candidates for each of `requests` requests reads."""
    if isinstance(model, DlrmModel):
        return requests * candidates * interaction.lookups(model)
    return requests * ((events + candidates) * len(model.tables) + len(model.contexts))


def vector_width(model: Model) -> int:
    """Return the length of the vector that represents a text or an item."""
    match model:
        case TransformerModel():
            width = architecture(model).layer.hidden
        case LstmModel() | HstuModel() | Bert4RecModel():
            width = model.hidden_size
        case FactorizationModel():
            width = model.factors
        case IdRankerModel() | DlrmModel():
            width = model.embedding_size
        case FusionScorerModel():
            width = model.item_size
        case TwoTowerModel():
            width = model.item.layers[-1]
    return width


def pruned(model: Model, kept: float) -> Model:
    """Return a transformer with `kept` of its feed-forward width, other models as they are.

    Examples
    --------
    >>> from capacity.spec.model import TransformerModel
    >>> config = {"model_type": "bert", "hidden_size": 8, "intermediate_size": 32}
    >>> half = pruned(TransformerModel(id="m", name="", source="", config=config), 0.5)
    >>> half.config["intermediate_size"]
    16
    """
    if kept == 1 or not isinstance(model, TransformerModel):
        return model
    config = {"n_inner": 4 * model.config["n_embd"]} if "n_embd" in model.config else {}
    config |= model.config
    narrower = {name: max(1, round(config[name] * kept)) for name in FEED_FORWARD if config.get(name)}
    return model.model_copy(update={"config": config | narrower})


FEED_FORWARD = ("intermediate_size", "moe_intermediate_size", "n_inner", "hidden_dim")
"""Fields of a config.json that say how wide the feed-forward part is."""


def resized(model: Model, items: int, users: int) -> Model:
    """Return `model` with tables for `items` items and `users` users; models without such tables as they are.

    Of an HSTU the first table is that of the items and the first context that of the users; of two towers the first
    table of each.

    Examples
    --------
    >>> from capacity.spec.model import FactorizationModel
    >>> model = FactorizationModel(id="mf", name="", family="factorization", source="", users=10, items=20, factors=8)
    >>> resized(model, 200, 100).items
    200
    """
    if isinstance(model, LstmModel | Bert4RecModel):
        return model.model_copy(update={"items": items})
    if isinstance(model, FactorizationModel | IdRankerModel):
        return model.model_copy(update={"items": items, "users": users})
    if isinstance(model, HstuModel):
        contexts = (users, *model.contexts[1:]) if model.contexts else ()
        return model.model_copy(update={"tables": (items, *model.tables[1:]), "contexts": contexts})
    if isinstance(model, TwoTowerModel):
        return model.model_copy(update={"user": _first(model.user, users), "item": _first(model.item, items)})
    return model


def _first(tower: EncoderTower, rows: int) -> EncoderTower:
    """Return the tower with `rows` rows in its first table, if it has one."""
    return tower.model_copy(update={"tables": (rows, *tower.tables[1:])}) if tower.tables else tower
