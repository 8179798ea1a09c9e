"""Whole recommenders in training, random weights at sizes that fit: two towers, and BERT4Rec of its own library."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from capacity.work import bert4rec, two_tower
from capacity.work.bert4rec import Bert4Rec
from capacity.work.operations import Collective
from capacity.work.optimizer import optimizer_step
from capacity.work.two_tower import Tower, TwoTower
from kernels.timing import Case, Run
from kernels.torch_backend import Backend, torch


@dataclass(frozen=True, slots=True)
class TowersShape:
    """Two towers of one table each, and the pairs that a step learns from."""

    users: int
    items: int
    embedding_size: int
    layers: tuple[int, ...]
    batch: int

    @property
    def model(self) -> TwoTower:
        """Both encoders."""
        user, item = (
            Tower(name=name, tables=(rows,), embedding_size=self.embedding_size, layers=self.layers)
            for name, rows in (("user", self.users), ("item", self.items))
        )
        return TwoTower(user=user, item=item)

    @property
    def name(self) -> str:
        """One line that says it all."""
        layers = "-".join(map(str, (self.embedding_size, *self.layers)))
        return f"two towers {self.users}+{self.items} {layers} fp32 {self.batch}"


@dataclass(frozen=True, slots=True)
class HistoryShape:
    """A BERT4Rec, and the histories that a step learns from."""

    items: int
    hidden: int
    layers: int
    heads: int
    batch: int
    length: int
    masked: int

    @property
    def model(self) -> Bert4Rec:
        """The transformer over items."""
        return bert4rec.bert4rec(self.items, self.hidden, self.layers, self.heads, self.length)

    @property
    def name(self) -> str:
        """One line that says it all."""
        return f"bert4rec {self.items} {self.layers}x{self.hidden} fp32 {self.batch}x{self.length}/{self.masked}"


def towers(model: TwoTower, backend: Backend, *, sparse: bool = True) -> Any:  # noqa: ANN401
    """Return the towers' tables and layers by side: bags whose gradients hold the rows of a batch alone if `sparse`."""
    nn = torch().nn

    def side(tower: Tower) -> Any:  # noqa: ANN401
        bags = [nn.EmbeddingBag(rows, tower.embedding_size, mode="sum", sparse=sparse) for rows in tower.tables]
        pairs = pairwise((tower.inputs, *tower.layers))
        layers = [module for pair in pairs for module in (nn.Linear(*pair), nn.ReLU())]
        return nn.ModuleDict({"tables": nn.ModuleList(bags), "layers": nn.Sequential(*layers[:-1])})

    with torch().device(backend.device):
        return nn.ModuleDict({tower.name: side(tower) for tower in model.towers}).train()


def in_batch_loss(module: Any, users: Any, items: Any) -> Any:  # noqa: ANN401
    """Return the softmax loss of every user against the items of the whole batch; vectors have length one."""
    functional = torch().nn.functional
    vectors = []
    for name, rows in (("user", users), ("item", items)):
        bags = [table(rows) for table in module[name]["tables"]]
        vectors.append(functional.normalize(module[name]["layers"](torch().cat(bags, dim=1))))
    scores = vectors[0] @ vectors[1].T
    return functional.cross_entropy(scores, torch().arange(len(users), device=scores.device))


def two_tower_case(shape: TowersShape, backend: Backend) -> Case:
    """Return the case of one training step on the other items of the batch, plain gradient descent on touched rows."""

    def build() -> Run:
        module = towers(shape.model, backend)
        optimizer = torch().optim.SGD(module.parameters(), lr=0.01)
        users, items = (
            torch().randint(0, rows, (shape.batch, 1), device=backend.device) for rows in (shape.users, shape.items)
        )

        def run() -> object:
            loss = in_batch_loss(module, users, items)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss

        return run

    model = shape.model
    step = two_tower.training_step(model, shape.batch, "fp32")
    rows = sum(min(shape.batch, count) for count in (shape.users, shape.items))
    touched = sum(tower.layer_parameters for tower in model.towers) + rows * shape.embedding_size
    operations = (*(op for op in step if not isinstance(op, Collective)), *optimizer_step(touched, "sgd"))
    return Case(shape.name, operations, build, "training")


def masked_model(model: Bert4Rec, backend: Backend) -> Any:  # noqa: ANN401
    """Return BERT with the head of the masked language model, whose output shares the item table."""
    library, layer = importlib.import_module("transformers"), model.body.layer
    config = library.BertConfig(
        vocab_size=model.body.vocabulary, hidden_size=layer.hidden, num_hidden_layers=model.body.layers,
        num_attention_heads=layer.heads, intermediate_size=layer.intermediate,
        max_position_embeddings=model.body.positions, type_vocab_size=1,
    )  # fmt: skip
    with torch().device(backend.device):
        return library.BertForMaskedLM(config).train()


def masked_loss(module: Any, history: Any, masked: Any) -> Any:  # noqa: ANN401
    """Return the loss of predicting the items at the `masked` positions of every history, over all items."""
    states = module.bert(input_ids=history).last_hidden_state
    places = masked[..., None].expand(-1, -1, states.shape[-1])
    scores = module.cls(states.gather(1, places).flatten(0, 1))
    return torch().nn.functional.cross_entropy(scores, history.gather(1, masked).flatten())


def bert4rec_case(shape: HistoryShape, backend: Backend) -> Case:
    """Return the case of one training step over all items: forward, backward, AdamW."""

    def build() -> Run:
        module = masked_model(shape.model, backend)
        optimizer = torch().optim.AdamW(module.parameters(), lr=1e-4)
        history = torch().randint(0, shape.items, (shape.batch, shape.length), device=backend.device)
        masked = torch().rand(shape.batch, shape.length, device=backend.device).argsort(dim=1)[:, : shape.masked]

        def run() -> object:
            loss = masked_loss(module, history, masked)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss

        return run

    model = shape.model
    step = bert4rec.training_step(model, shape.batch, shape.length, shape.masked, "fp32")
    return Case(shape.name, step + optimizer_step(bert4rec.parameters(model), "adamw"), build, "training")
