"""Devices of one replica share a step: its time, and what they tell each other."""

from __future__ import annotations

from typing import Literal

from capacity.phases.context import Context
from capacity.phases.memory import value_bytes
from capacity.timing.band import Estimate, total
from capacity.timing.device import Device
from capacity.work.architecture import Layer
from capacity.work.operations import Amount, Collective, Operation


def step(device: Device, work: tuple[Operation, ...], context: Context) -> Estimate:
    """Return the time of a step shared by `tensor_parallel` devices that then exchange their parts [s]."""
    degree = context.tensor_parallel
    parts = [operation for operation in work if isinstance(operation, Collective)]
    kernels = device.step(operation for operation in work if not isinstance(operation, Collective))
    return total([kernels.scaled(1 / degree), *(device.time(operation) for operation in parts)])


def exchange(layer: Layer, layers: int, tokens: Amount, dtype: str, context: Context) -> tuple[Operation, ...]:
    """Return two all-reduces of the hidden states in every block (Shoeybi et al. 2019, §3)."""
    if context.tensor_parallel == 1:
        return ()
    width = value_bytes(dtype)
    message = tokens * layer.hidden * max(width, 2)
    return (
        Collective(
            kind="all_reduce",
            message_bytes=message,
            devices=context.tensor_parallel,
            count=2 * layers,
            label="all-reduce",
        ),
    )


def shards(kind: Literal["all_gather", "alltoall"], message: Amount, context: Context) -> tuple[Operation, ...]:
    """Return what devices that share the rows of a catalogue or a table tell each other: results, or rows looked up."""
    if context.tensor_parallel == 1:
        return ()
    return (Collective(kind=kind, message_bytes=message, devices=context.tensor_parallel, label="shards"),)


def looked_up(rows: Amount, width: int, dtype: str, context: Context) -> tuple[Operation, ...]:
    """Return the exchange of looked-up rows: each device gets those of its share of the batch."""
    return shards("alltoall", rows * width * value_bytes(dtype) / context.tensor_parallel, context)
