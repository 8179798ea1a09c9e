"""What devices exchange in a training step: by tensor, context, expert, pipeline and data parallelism."""

from __future__ import annotations

from typing import Literal

from capacity.work.operations import Collective
from capacity.work.trained import ACTIVATION_BYTES, Trained
from capacity.work.training_step import own_parameters, trainable_parameters


def of_a_block(trained: Trained) -> tuple[Collective, ...]:
    """Return what devices exchange while one micro-batch passes one block there and back."""
    return (*_tensor_exchanges(trained), *_context_exchanges(trained), *_expert_exchanges(trained))


def _tensor_exchanges(trained: Trained) -> tuple[Collective, ...]:
    """Return an all-reduce after each half of a block there and back, as gather and scatter where sequences are split.

    A recomputed pass exchanges once more; the backward pass gathers its inputs again for the weights' gradients.
    """
    devices = trained.parallel.tensor
    if devices == 1:
        return ()
    message = trained.local_tokens * trained.model.layer.hidden * ACTIVATION_BYTES
    halves = 4 + 2 * (trained.recompute == "full")
    if not trained.parallel.sequence:
        return (Collective(kind="all_reduce", message_bytes=message, devices=devices, count=halves, label="tensor"),)
    return (
        Collective(kind="all_gather", message_bytes=message, devices=devices, count=halves + 2, label="tensor"),
        Collective(kind="reduce_scatter", message_bytes=message, devices=devices, count=halves, label="tensor"),
    )


def _context_exchanges(trained: Trained) -> tuple[Collective, ...]:
    """Return the keys and values that devices of one sequence gather there and back, and their gradients' scatter."""
    devices, layer = trained.parallel.context, trained.model.layer
    if devices == 1:
        return ()
    width = 2 * max(layer.kv_width / trained.parallel.tensor, layer.head_dim) * ACTIVATION_BYTES
    message = trained.batch * trained.tokens * width
    return (
        Collective(kind="all_gather", message_bytes=message, devices=devices, count=2, label="context"),
        Collective(kind="reduce_scatter", message_bytes=message, devices=devices, label="context"),
    )


def _expert_exchanges(trained: Trained) -> tuple[Collective, ...]:
    """Return the tokens sent to the devices of their experts and back, forward and backward."""
    devices, layer = trained.parallel.expert, trained.model.layer
    if devices == 1 or not layer.experts:
        return ()
    message = trained.local_tokens * layer.experts_per_token * layer.hidden * ACTIVATION_BYTES
    return (Collective(kind="alltoall", message_bytes=message, devices=devices, count=4, label="experts"),)


def sends(trained: Trained) -> tuple[Collective, ...]:
    """Return the hidden states that a group of blocks hands on, and the gradients that come back."""
    if trained.parallel.pipeline == 1:
        return ()
    message = trained.local_tokens * trained.model.layer.hidden * ACTIVATION_BYTES
    message /= trained.parallel.tensor if trained.parallel.sequence else 1
    count = 2 * trained.parallel.virtual
    return (Collective(kind="send", message_bytes=message, devices=2, count=count, label="send"),)


def data_parallel(trained: Trained) -> tuple[tuple[Collective, ...], tuple[Collective, ...]]:
    """Return what data-parallel devices exchange for each micro-batch, and once for each step.

    Sharded weights are gathered twice and their gradients scattered for each micro-batch; a hybrid sharding then
    reduces its shard over the hosts. Otherwise gradients are reduced once, or scattered and the weights gathered.
    """
    parallel, devices = trained.parallel, trained.parallel.data * trained.parallel.context
    weights = own_parameters(trained) * ACTIVATION_BYTES
    gradients = trainable_parameters(trained) * ACTIVATION_BYTES
    if devices == 1:
        return (), ()
    if parallel.sharding not in {"full", "hybrid"}:
        if parallel.sharding == "none":
            return (), (_collective("all_reduce", gradients, devices),)
        return (), (_collective("reduce_scatter", gradients, devices), _collective("all_gather", gradients, devices))
    shards = parallel.shards
    each = (_collective("all_gather", weights, shards, 2), _collective("reduce_scatter", gradients, shards))
    hosts = devices // shards
    return each, (_collective("all_reduce", gradients / shards, hosts),) if hosts > 1 else ()


def _collective(
    kind: Literal["all_reduce", "all_gather", "reduce_scatter"], message: float, devices: int, count: int = 1
) -> Collective:
    return Collective(kind=kind, message_bytes=message, devices=devices, count=count, label="data")
