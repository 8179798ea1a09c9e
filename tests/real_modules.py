"""The real torch and transformers modules behind the model profiles, on the meta device: shapes without storage.

`attn_implementation="eager"` makes attention the two products it is, which the counter sees as aten.bmm; a fused kernel
would hide them or count them by its own formula. `batched_mm` runs each routed token through its expert as one batched
product, aten.bmm again; the default loops over the experts that are hit, which meta tensors do not know.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import real_recommenders

from capacity import catalogue
from capacity.spec.model import (
    Bert4RecModel,
    DlrmModel,
    FactorizationModel,
    FusionScorerModel,
    HstuModel,
    IdRankerModel,
    LstmModel,
    Model,
    TransformerModel,
    TwoTowerModel,
)
from capacity.work.models import item_transformer, two_towers

torch = pytest.importorskip("torch", reason="the real modules need torch: pip install 'capacity-planner[calibrate]'")
transformers = pytest.importorskip("transformers", reason="the real modules need transformers")
transformers.logging.set_verbosity_error()
nn = torch.nn

_BUILDERS = {
    "none": transformers.AutoModel,
    "pooler": transformers.AutoModel,
    "classification": transformers.AutoModelForSequenceClassification,
    "language-model": transformers.AutoModelForCausalLM,
}


def transformer(config: dict[str, Any], head: str) -> Any:
    """Return the transformers module of a config dictionary and a head."""
    fields = {key: value for key, value in config.items() if key != "model_type"}
    real = transformers.AutoConfig.for_model(config["model_type"], attn_implementation="eager", **fields)
    real._experts_implementation = "batched_mm"
    real.pad_token_id = 0 if head == "classification" else real.pad_token_id
    bare = head == "none" and config["model_type"] in {"bert", "camembert", "roberta", "xlm-roberta"}
    with torch.device("meta"):
        module = _BUILDERS[head].from_config(real, **({"add_pooling_layer": False} if bare else {}))
    module.base_model.warn_if_padding_and_no_attention_mask = lambda *_: None  # it would look at token values
    return module


def tokens(batch: int, length: int) -> Any:
    """Return token ids without storage."""
    return torch.empty(batch, length, dtype=torch.long, device="meta")


def run(module: Any, batch: int, length: int, **more: Any) -> Any:
    """Return the output of a transformer for `batch` sequences of `length` tokens.

    RoBERTa derives positions from which tokens are padding, which meta tensors do not know: they are given.
    """
    if "roberta" in module.config.model_type or module.config.model_type == "camembert":
        more["position_ids"] = tokens(batch, length)
    return module(input_ids=tokens(batch, length), **more)


def train(module: Any, batch: int, length: int) -> None:
    """Run forward and backward of a loss that depends on the head's output."""
    output = run(module, batch, length)
    results = (output.get(key) for key in ("logits", "pooler_output", "last_hidden_state"))
    next(result for result in results if result is not None).sum().backward()


def counted(function: Callable[[], object], *, gradients: bool = False) -> SimpleNamespace:
    """Run a function under FlopCounterMode and return the FLOP of each operator and of all."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(gradients):
        function()
    by = {str(op).removeprefix("aten."): flop for op, flop in counter.get_flop_counts().get("Global", {}).items()}
    one = {name: by.get(name, 0) for name in ("mm", "addmm", "bmm")}
    return SimpleNamespace(total=counter.get_total_flops(), linear=one["mm"] + one["addmm"], **one)


def parameters(module: Any) -> int:
    """Return the number of parameters as torch counts them: a shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())


class NextItem(nn.Module):
    """Embedding → LSTM → scores of every item."""

    def __init__(self, model: LstmModel) -> None:
        super().__init__()
        self.embedding = nn.Embedding(model.items, model.embedding_size)
        self.lstm = nn.LSTM(model.embedding_size, model.hidden_size, model.layers, batch_first=True)
        self.output = nn.Linear(model.hidden_size, model.items)

    def forward(self, items: Any, positions: str = "last") -> Any:
        states, _ = self.lstm(self.embedding(items))
        return self.output(states if positions == "all" else states[:, -1]).softmax(-1)


class IdRanker(nn.Module):
    """User and item embeddings, BERT blocks over the pair, linear + sigmoid."""

    def __init__(self, model: IdRankerModel) -> None:
        super().__init__()
        from transformers.models.bert.modeling_bert import BertEncoder

        fields = {key: value for key, value in model.body.items() if key != "model_type"}
        self.users = nn.Embedding(model.users, model.embedding_size)
        self.items = nn.Embedding(model.items, model.embedding_size)
        self.body = BertEncoder(transformers.BertConfig(attn_implementation="eager", **fields))
        self.rating = nn.Linear(model.embedding_size, 1)

    def forward(self, users: Any, items: Any) -> Any:
        pair = torch.stack([self.users(users), self.items(items)], dim=1)
        return self.rating(self.body(pair).last_hidden_state.mean(dim=1)).sigmoid()


class Factorization(nn.Module):
    """Ratings ≈ U · Vᵀ."""

    def __init__(self, model: FactorizationModel) -> None:
        super().__init__()
        self.users = nn.Embedding(model.users, model.factors)
        self.items = nn.Embedding(model.items, model.factors)

    def forward(self, users: Any, items: Any) -> Any:
        return (self.users(users) * self.items(items)).sum(-1)


class FusionScorer(nn.Module):
    """score = zᵀ · W · σ(v ⊕ u)."""

    def __init__(self, model: FusionScorerModel) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(model.query_size, model.item_size + model.user_size))

    def forward(self, query: Any, items: Any, user: Any) -> Any:
        features = torch.cat([items, user[:, None].expand(-1, items.shape[1], -1)], dim=-1).sigmoid()
        return torch.bmm(features, (query @ self.weight)[..., None])


_MODULES = {
    LstmModel: NextItem,
    IdRankerModel: IdRanker,
    FactorizationModel: Factorization,
    FusionScorerModel: FusionScorer,
    DlrmModel: real_recommenders.Dlrm,
    HstuModel: real_recommenders.Hstu,
    TwoTowerModel: lambda model: real_recommenders.TwoTower(two_towers(model)),
    Bert4RecModel: lambda model: real_recommenders.Bert4Rec(item_transformer(model)).masked,
}


def module(model: Model) -> Any:
    """Return the real module of a model."""
    if isinstance(model, TransformerModel):
        return transformer(model.config, model.head)
    with torch.device("meta"):
        return _MODULES[type(model)](model)


@cache
def shipped(name: str) -> Any:
    """Return the real module of a shipped profile, built once a session."""
    return module(catalogue.model(name))
