"""Memory of one device in a training step, by component, each with its formula. All functions return bytes.

References
----------
Rajbhandari et al. 2020, arXiv:1910.02054 (states by sharding); Korthikanti et al. 2022, arXiv:2205.05198 (activations
and what recomputation keeps of them; micro-batches in flight); Dettmers et al. 2022, arXiv:2110.02861 (8-bit states).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from capacity.work import training_step
from capacity.work.trained import ACTIVATION_BYTES, Trained

Component = Literal[
    "weights", "master weights", "gradients", "optimizer states", "activations", "logits", "communication buffers"
]
FORMULAS: Mapping[str, str] = {
    "weights": "parameters of the device × bytes ÷ devices that shard them; frozen ones as they are stored",
    "master weights": "trained parameters × 4 bytes ÷ devices that shard the optimizer's states",
    "gradients": "trained parameters × bytes ÷ devices that shard them",
    "optimizer states": "trained parameters × bytes of its moments ÷ devices that shard them",
    "activations": "bytes kept a token and block × tokens of a micro-batch × blocks × micro-batches in flight",
    "logits": "projected positions × vocabulary ÷ tensor-parallel devices × (2 + 4 + 4) bytes, or a chunk of them",
    "communication buffers": "two blocks' weights gathered, where they are sharded",
}
STATE_SHARE = {"adamw": 1.0, "adamw-8bit": 0.25, "adafactor": 0.0, "momentum": 0.5, "sgd": 0.0}
"""Bytes of an optimizer's states beside Adam's two moments."""
LOGIT_BYTES, COMPILED_LOGIT_BYTES = 10.0, 6.0
"""A position's score of one word: as the product writes it, in fp32, and the gradient of that, which a compiler never
writes."""
STORED_BYTES = {"int4": 0.5625, "fp4": 0.5625, "int8": 1.0, "fp8": 1.0}
"""A frozen weight's bytes: four bits and an fp32 scale for each 64 of them (Dettmers et al. 2023, §3)."""
CHUNKS = 8.0
"""Parts of the sequence that a chunked loss projects one after the other (torchtune's default)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """In what a framework keeps weights, gradients and states, in bytes for each parameter.

    Attributes
    ----------
    master
        Of a second copy of the weights, in fp32.
    moments
        Of Adam's two moments together.
    compiled
        Whether a compiler keeps only what it cannot compute again at once.
    chunked_loss
        Whether the vocabulary is projected in parts.
    """

    weight: float = 2.0
    master: float = 4.0
    gradient: float = 4.0
    moments: float = 8.0
    compiled: bool = False
    chunked_loss: bool = False


MAIN = Kept()
"""Megatron: 16-bit weights, fp32 main weights and gradients."""
MIXED = Kept(weight=4.0, master=0.0)
"""FSDP and autocast: fp32 weights, cast to 16 bits where they are used."""
PURE = Kept(master=0.0, gradient=2.0, moments=4.0)
"""All in 16 bits."""


def components(trained: Trained, micro_batches: float, kept: Kept, optimizer: str) -> dict[Component, float]:
    """Return the memory of the fullest device by component [byte]."""
    found = states(trained, kept, optimizer)
    found["activations"] = activations(trained, micro_batches, kept)
    found["logits"] = logits(trained, kept)
    if trained.parallel.divided("weights") > 1:
        block = training_step.block_parameters(trained)
        found["communication buffers"] = 2 * block * ACTIVATION_BYTES
    return found


def states(trained: Trained, kept: Kept, optimizer: str) -> dict[Component, float]:
    """Return what outlives a step: weights, gradients and the optimizer's states [byte]."""
    parallel = trained.parallel
    changed = training_step.trainable_parameters(trained)
    return {
        "weights": (changed * kept.weight + _frozen(trained)) / parallel.divided("weights"),
        "master weights": changed * kept.master / parallel.divided("optimizer"),
        "gradients": changed * kept.gradient / parallel.divided("gradients"),
        "optimizer states": changed * kept.moments * STATE_SHARE[optimizer] / parallel.divided("optimizer"),
    }


def _frozen(trained: Trained) -> float:
    """Return the weights that stay as they are [byte]: blocks as they are stored, what stands outside in 16 bits."""
    if trained.method.kind == "full":
        return 0.0
    blocks = trained.layers * training_step.block_parameters(trained)
    stored = STORED_BYTES.get(str(trained.stored), ACTIVATION_BYTES)
    return blocks * stored + (training_step.own_parameters(trained) - blocks) * ACTIVATION_BYTES


def activations(trained: Trained, micro_batches: float, kept: Kept) -> float:
    """Return what the backward pass finds of the forward pass [byte], of all micro-batches in flight.

    The first of p groups holds p micro-batches of L/p blocks; v chunks a group make it 1 + (p − 1)/(p·v) of all blocks
    (Korthikanti et al. 2022, §4.2.3).
    """
    groups, virtual = trained.parallel.pipeline, trained.parallel.virtual
    flight = min(float(groups), micro_batches)
    if virtual > 1 and flight == groups:
        flight *= 1 + (groups - 1) / (groups * virtual)
    each = bytes_per_token(trained, kept)
    stored = trained.layers * flight * each * trained.local_tokens
    if trained.recompute == "full":  # one block at a time is whole
        stored += bytes_per_token(trained, kept, "none") * trained.local_tokens
    return stored + 2 * trained.model.layer.hidden * ACTIVATION_BYTES * trained.local_tokens


def bytes_per_token(trained: Trained, kept: Kept, recompute: str | None = None) -> float:
    """Return what one block keeps of one token on one device [byte].

    With h hidden, q and k widths of query and key, i inner values: full recomputation keeps 2h; of single
    operations 2h, the attention's result and every other product's. Else two norms' inputs
    and outputs 8h (16h where eager RMS norms keep fp32 copies), query, keys and values 2(q + 2k), the attention's
    result 2q, residual sums 2h, and of the feed-forward part 2i for each of: up, activation, and gate and product where
    it is gated. Unfused attention keeps 2 + 2 + 1 bytes of each score. A compiler keeps no activation; inputs of frozen
    products are not kept, see `_spared`.
    """
    layer, tensor = trained.model.layer, trained.parallel.tensor
    recompute = recompute or trained.recompute
    along = tensor if trained.parallel.sequence else 1
    hidden = float(layer.hidden)
    if recompute == "full":
        return 2 * hidden / along
    if recompute == "operations":
        outputs = 2 * hidden + layer.query_width + 2 * layer.kv_width + (2 if layer.gated else 1) * layer.intermediate
        return 2 * hidden / along + (2 * layer.query_width + outputs) / tensor
    norms = 8 * hidden if kept.compiled or layer.norm == "layer" else 16 * hidden
    inner = layer.intermediate * max(layer.experts_per_token, 1) + layer.shared_intermediate
    copies = (2 if kept.compiled else 4) if layer.gated else (1 if kept.compiled else 2)
    attention = 2 * (2 * layer.query_width + 2 * layer.kv_width)
    scores = 0.0 if trained.fused_attention or recompute == "selective" else 5.0 * layer.heads * trained.tokens
    spared_hidden, spared_inner = _spared(trained)
    along_bytes = norms + 2 * hidden - 2 * hidden * spared_hidden
    return along_bytes / along + (attention + 2 * inner * (copies - spared_inner) + scores) / tensor


def _spared(trained: Trained) -> tuple[int, int]:
    """Return the inputs of frozen products that are not kept: of hidden width, and of inner width.

    The gradient of a frozen product's input needs the weights only. Products on unpacked weights keep theirs all the
    same (bitsandbytes), and so do those that get a low-rank update.
    """
    method = trained.method
    if method.kind == "full" or trained.stored is not None:
        return 0, 0
    updated = set(method.targets) if method.kind == "lora" else set()
    hidden = (not updated & {"qkv", "query", "key", "value"}) + ("up" not in updated)
    return hidden, int("down" not in updated and trained.model.layer.gated)


def logits(trained: Trained, kept: Kept) -> float:
    """Return the scores of the vocabulary, in fp32 for the loss, and their gradient [byte]."""
    if trained.model.head != "language-model" and trained.predicted is None:
        return 0.0
    rows = trained.local_tokens * (trained.predicted or trained.tokens) / trained.tokens
    each = COMPILED_LOGIT_BYTES if kept.compiled else LOGIT_BYTES
    whole = rows * trained.model.vocabulary / trained.parallel.tensor * each
    return whole / CHUNKS if kept.chunked_loss else whole
