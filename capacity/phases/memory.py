"""Memory by component, each with its formula. All functions return bytes on one device."""

from __future__ import annotations

from typing import NamedTuple

from capacity.spec.hardware import DTYPE_BYTES
from capacity.spec.model import DlrmModel, FactorizationModel, Model
from capacity.work import interaction
from capacity.work.architecture import Transformer
from capacity.work.models import LookUpModel, parameters
from capacity.work.operations import Amount
from capacity.work.optimizer import STATE_VALUES
from capacity.work.retrieval import Index
from capacity.work.two_tower import Tower

RESERVE_BYTES = 1.0e9
"""CUDA context, library workspaces and allocator slack on a GPU [byte]; assumed, typical of PyTorch processes."""
RESERVE_SHARE = 0.05
"""Fragmentation and what the framework keeps, as a share of the device (assumed)."""


def value_bytes(dtype: str) -> float:
    """Return the bytes of one value."""
    return DTYPE_BYTES[dtype]


def weights(model: Model, dtype: str, degree: int = 1) -> float:
    """Return parameters × bytes ÷ devices that share them [byte]."""
    return parameters(model) * value_bytes(dtype) / degree


def inference(model: Transformer, tokens: Amount, dtype: str, degree: int = 1) -> dict[str, Amount]:
    """Return weights and the largest live activations of a forward pass over `tokens` tokens [byte].

    Live at once: two hidden states, and the wider of query+key+value or the feed-forward's inner states.
    """
    layer, width = model.layer, max(value_bytes(dtype), 2)
    inner = (2 if layer.gated else 1) * layer.intermediate * max(layer.experts_per_token, 1)
    widest = max(layer.query_width + 2 * layer.kv_width, inner) / degree
    return {
        "weights": model.parameters * value_bytes(dtype) / degree,
        "activations": tokens * (2 * layer.hidden + widest) * width,
    }


def kv_cache(model: Transformer, sequences: Amount, tokens: Amount, dtype: str, degree: int = 1) -> Amount:
    """Return keys and values of all layers for `sequences` × `tokens` positions [byte].

    2 · layers · kv heads · head_dim · bytes a token; a sliding window caps the positions of its layers; KV heads are
    shared by up to `kv_heads` devices and copied beyond.
    """
    layer, full = model.layer, model.full_layers
    positions = tokens if layer.window is None else min(float(tokens), layer.window)
    per_token = 2 * layer.kv_width * max(value_bytes(dtype), 1)
    values = sequences * positions * ((model.layers - full) * per_token) + sequences * tokens * (full * per_token)
    return values / min(degree, layer.kv_heads)


def vectors(index: Index, queries: Amount) -> dict[str, Amount]:
    """Return an index, its ids, links and centroids included, and the scores that a search selects from [byte]."""
    selection = index.search(queries, 1)[-1]
    return {"catalogue vectors": index.memory_bytes, "scores": selection.moved_bytes}


def table(rows: int, width: int, dtype: str) -> float:
    """Return rows × width × bytes [byte]."""
    return rows * width * value_bytes(dtype)


def tables(model: Model, dtype: str, degree: int = 1) -> dict[str, Amount]:
    """Return what a model of embedding tables keeps resident, rows shared by `degree` devices [byte]."""
    return {"weights": weights(model, dtype, degree)}


def tower(encoder: Tower, samples: Amount, dtype: str, degree: int = 1) -> dict[str, Amount]:
    """Return what one encoder of two towers keeps while it encodes `samples`, shared by `degree` devices [byte]."""
    width = value_bytes(dtype)
    return {
        "weights": encoder.parameters * width / degree,
        "activations": samples * encoder.live_values * max(width, 2) / degree,
    }


def training(model: Model, dtype: str, optimizer: str, activations: Amount) -> dict[str, Amount]:
    """Return the memory of a training step by component [byte].

    Mixed precision keeps fp32 master weights and states beside the working copy (Rajbhandari et al. 2020, §3).
    """
    count, width = parameters(model), value_bytes(dtype)
    master = 4 if width < 4 and not isinstance(model, FactorizationModel) else 0
    return {
        "weights": count * width,
        "master weights": count * float(master),
        "gradients": count * width,
        "optimizer states": count * 4.0 * STATE_VALUES[optimizer],
        "activations": activations,
    }


class Share(NamedTuple):
    """Parameters of one device of several that share the tables of a model."""

    layers: float
    """Outside the tables: every device keeps them."""
    kept: float
    """Table entries that the device keeps."""
    touched: float
    """Table entries that it updates in a step."""


def training_of_tables(share: Share, dtype: str, optimizer: str, activations: Amount) -> dict[str, Amount]:
    """Return the memory of a training step of a device with its share of the tables [byte].

    Rows are kept once, in the working precision; gradients only of the rows that a step touches (Mudigere et al. 2022,
    arXiv:2104.05158, §4).
    """
    own, width = share.layers + share.kept, value_bytes(dtype)
    return {
        "weights": own * width,
        "master weights": share.layers * (4.0 if width < 4 else 0.0),
        "gradients": (share.layers + share.touched) * width,
        "optimizer states": own * 4.0 * STATE_VALUES[optimizer],
        "activations": activations,
    }


def look_up_activations(
    model: LookUpModel, requests: Amount, events: Amount, candidates: Amount, dtype: str, *, kept: bool = False
) -> Amount:
    """Return the activations of scoring, live at once or all `kept` for the backward pass [byte].

    DLRM: the rows' sums and the two widest states; kept, the inputs of every layer. HSTU: of one layer or of all, two
    hidden states, the projection, and the attention's result normed, gated and beside itself.
    """
    if isinstance(model, DlrmModel):
        widest, bags = interaction.interacted(model), len(model.tables) * model.embedding_size
        layers = sum(model.bottom) + sum(model.top) + (model.cross_layers + 1) * (widest + model.cross_rank)
        values = requests * candidates * (bags + (layers if kept else 2 * widest))
    else:
        head = 2 * (model.query_size + model.value_size) + 3 * model.value_size
        values = requests * (events + candidates) * (2 * model.hidden_size + model.heads * head)
        values *= model.layers if kept else 1
    return values * max(value_bytes(dtype), 2)


def transformer_activations(model: Transformer, batch: Amount, tokens: Amount, dtype: str) -> Amount:
    """Return the activations kept for the backward pass, attention scores never stored [byte].

    A block keeps s·b·h·(10 + 24·…) bytes at 2 bytes a value (Korthikanti et al. 2022, eq. 1 without the 5·a·s/h term):
    34·s·b·h for a 4× feed-forward part; here the feed-forward share scales with its real width.
    """
    layer = model.layer
    wide = layer.intermediate / layer.hidden * (3 if layer.gated else 2) * max(layer.experts_per_token, 1)
    values = batch * tokens * layer.hidden * (9 + wide) * model.layers
    logits = batch * tokens * model.vocabulary * 2 if model.head == "language-model" else 0
    return (values + logits) * max(value_bytes(dtype), 2)


def reserve(capacity_bytes: float, kind: str) -> float:
    """Return what is not available to the model [byte]."""
    return RESERVE_BYTES * (kind != "cpu") + RESERVE_SHARE * capacity_bytes
