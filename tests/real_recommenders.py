"""Recommenders as real torch modules: DLRM and DCNv2 after torchrec, HSTU after MLPerf, two towers, BERT4Rec."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from capacity.spec.model import DlrmModel, HstuModel
from capacity.work import bert4rec, two_tower

torch = pytest.importorskip("torch", reason="the real modules need torch: pip install 'capacity-planner[calibrate]'")
transformers = pytest.importorskip("transformers", reason="the real modules need transformers")
nn = torch.nn
silu = nn.functional.silu


class Dlrm(nn.Module):
    """Bags of embeddings and dense features, their dots or a low-rank cross network, top layers to one score."""

    def __init__(self, model: DlrmModel) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(rows, model.embedding_size, mode="sum") for rows in model.tables)
        self.bottom = _rectified((model.dense_features, *model.bottom))
        vectors = len(model.tables) + 1
        width = vectors * model.embedding_size
        kept = width if model.interaction == "cross" else model.embedding_size + vectors * (vectors - 1) // 2
        shape = (model.cross_layers, width, model.cross_rank)
        self.down, self.up = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(model.cross_layers, width))
        self.top = _rectified((kept, *model.top))

    def forward(self, dense: Any, rows: list[Any]) -> Any:
        dense = self.bottom(dense)
        together = torch.stack([dense, *(table(row) for table, row in zip(self.tables, rows, strict=True))], dim=1)
        return self.top(self.crossed(together.flatten(1)) if len(self.bias) else self.dotted(dense, together)).sigmoid()

    def crossed(self, first: Any) -> Any:
        state = first
        for down, up, bias in zip(self.down, self.up, self.bias, strict=True):
            state = first * (state @ down @ up.T + bias) + state
        return state

    @staticmethod
    def dotted(dense: Any, together: Any) -> Any:
        row, column = torch.tril_indices(together.shape[1], together.shape[1], offset=-1, device=dense.device)
        return torch.cat([dense, torch.bmm(together, together.mT)[:, row, column]], dim=1)


def _rectified(widths: tuple[int, ...]) -> Any:
    pairs = list(pairwise(widths))
    layers = [module for pair in pairs for module in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers)


class Hstu(nn.Module):
    """Contexts, events and candidates in one sequence; gated pointwise attention; a score a candidate."""

    def __init__(self, model: HstuModel) -> None:
        super().__init__()
        hidden, size = model.hidden_size, model.embedding_size
        self.tables = nn.ModuleList(nn.Embedding(rows, size) for rows in model.tables)
        self.contexts = nn.ModuleList(nn.Embedding(rows, size) for rows in model.contexts)
        self.actions = nn.Parameter(torch.ones(2, model.actions))
        self.encodings = nn.ModuleList(nn.Embedding(rows, hidden) for rows in model.encodings)
        self.context_weight = nn.Parameter(torch.randn(len(model.contexts), size, hidden) / size)
        self.context_bias = nn.Parameter(torch.zeros(len(model.contexts), hidden))
        self.position_mlps = nn.ModuleList(_normed(widths) for widths in model.position_mlps)
        self.layers = nn.ModuleList(HstuLayer(model) for _ in range(model.layers))
        self.candidate_mlps = nn.ModuleList(_normed(widths) for widths in model.candidate_mlps)
        self.head = _normed(model.head)[:-1]

    def forward(self, rows: Any, context: Any, candidates: int, *, masked: bool = False) -> Any:
        """Score the last `candidates` of rows [requests, positions]; every table is asked for the same rows."""
        looked = [table(rows) for table in self.tables]
        events = rows.shape[1] - candidates
        acted = torch.cat([self.actions[:1].expand(events, -1), self.actions[1:].expand(candidates, -1)])
        inputs = [*looked, acted.expand(len(rows), -1, -1)]
        position = sum(mlp(given) for mlp, given in zip(self.position_mlps, inputs, strict=True))
        one = torch.stack([table(context) for table in self.contexts])  # contexts × requests × values
        first = torch.baddbmm(self.context_bias[:, None], one, self.context_weight)
        state = torch.cat([first.transpose(0, 1), position], dim=1)
        places = torch.arange(state.shape[1], device=state.device)
        state = state + sum(table(places % table.num_embeddings) for table in self.encodings)
        for layer in self.layers:
            state = layer(state, candidates, masked=masked)
        item, after = self.candidate_mlps
        time = state.new_ones(len(rows), candidates, after[0].in_features - state.shape[-1])
        mine = torch.cat([looked_up[:, events:] for looked_up in looked], dim=-1)
        return self.head(item(mine) * after(torch.cat([state[:, -candidates:], time], dim=-1)))


class HstuLayer(nn.Module):
    """Norm, one projection to gate, value, query and key, pointwise attention, gate, projection back."""

    def __init__(self, model: HstuModel) -> None:
        super().__init__()
        self.heads, gated = model.heads, model.heads * model.value_size
        self.split = (gated, gated, model.heads * model.query_size, model.heads * model.query_size)
        self.norm, self.output_norm = nn.LayerNorm(model.hidden_size), nn.LayerNorm(gated)
        self.project = nn.Linear(model.hidden_size, sum(self.split))
        self.output = nn.Linear(3 * gated, model.hidden_size, bias=False)

    def forward(self, state: Any, candidates: int, *, masked: bool) -> Any:
        gate, *parts = self.project(self.norm(state)).split(self.split, dim=-1)
        value, query, key = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attend = self.over_all if masked else self.in_parts
        found = attend(query, key, value, candidates).transpose(1, 2).flatten(2)
        gate = silu(gate)
        return state + self.output(torch.cat([gate, found, gate * self.output_norm(found)], dim=-1))

    @staticmethod
    def over_all(query: Any, key: Any, value: Any, candidates: int) -> Any:
        """Every pair of positions computed, those a position must not see masked away: the reference."""
        length = query.shape[2]
        mask = torch.ones(length, length).tril()
        mask[-candidates:, -candidates:] = torch.eye(candidates)
        return (silu(query @ key.mT) / length * mask) @ value

    @staticmethod
    def in_parts(query: Any, key: Any, value: Any, candidates: int) -> Any:
        """Events among themselves; candidates to all events in one product, and each to itself in a small one."""
        length = query.shape[2]
        past = length - candidates
        early, late = query[:, :, :past], query[:, :, past:]
        events = (silu(early @ key[:, :, :past].mT) / length).tril() @ value[:, :, :past]
        seen = silu(late @ key[:, :, :past].mT) / length @ value[:, :, :past]
        own = silu(late[..., None, :] @ key[:, :, past:, :, None]) / length @ value[:, :, past:, None, :]
        return torch.cat([events, seen + own[..., 0, :]], dim=2)


class Tower(nn.Module):
    """Bags of embeddings beside dense features, linear layers with rectifiers between them."""

    def __init__(self, tower: two_tower.Tower) -> None:
        super().__init__()
        self.tower = tower
        self.tables = nn.ModuleList(nn.EmbeddingBag(rows, tower.embedding_size, mode="sum") for rows in tower.tables)
        layers = [m for pair in pairwise((tower.inputs, *tower.layers)) for m in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, samples: int) -> Any:
        tower = self.tower
        rows = [torch.zeros(samples, n, dtype=torch.long, device="meta") for n in tower.lookups or [1] * 99]
        bags = [table(row) for table, row in zip(self.tables, rows, strict=False)]
        dense = torch.empty(samples, tower.dense_features, device="meta")
        return nn.functional.normalize(self.layers(torch.cat([*bags, dense], dim=1)))


class TwoTower(nn.Module):
    """Both towers; item vectors of the other devices arrive as they are, and their gradients are wanted."""

    def __init__(self, model: two_tower.TwoTower) -> None:
        super().__init__()
        self.user, self.item = Tower(model.user), Tower(model.item)

    def forward(self, batch: int, devices: int = 1) -> Any:
        items = self.item(batch)
        others = torch.empty((devices - 1) * batch, items.shape[1], device="meta", requires_grad=True)
        scores = self.user(batch) @ torch.cat([items, others]).T
        return nn.functional.cross_entropy(scores, torch.zeros(batch, dtype=torch.long, device="meta"))


class Bert4Rec(nn.Module):
    """BERT's blocks and the head of the masked language model, whose output shares the item table."""

    def __init__(self, model: bert4rec.Bert4Rec) -> None:
        super().__init__()
        layer = model.body.layer
        config = transformers.BertConfig(
            attn_implementation="eager", vocab_size=model.body.vocabulary, hidden_size=layer.hidden,
            num_hidden_layers=model.body.layers, num_attention_heads=layer.heads, intermediate_size=layer.intermediate,
            max_position_embeddings=model.body.positions, type_vocab_size=1,
        )  # fmt: skip
        self.masked = transformers.BertForMaskedLM(config)
        self.masked.base_model.warn_if_padding_and_no_attention_mask = lambda *_: None


def _normed(widths: tuple[int, ...]) -> Any:
    pairs = list(pairwise(widths))
    return nn.Sequential(*(module for pair in pairs for module in (nn.Linear(*pair), nn.LayerNorm(pair[1]))))
