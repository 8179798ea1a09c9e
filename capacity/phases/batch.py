"""Recurring work on many items: encoding a catalogue or all users, and building an exact index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from capacity.errors import CapacityError
from capacity.phases import memory
from capacity.spec.model import Model, TransformerModel
from capacity.spec.scenario import BatchJob, Scenario
from capacity.timing.band import Estimate
from capacity.timing.device import Device
from capacity.work import transformer
from capacity.work.models import architecture, reading, vector_width
from capacity.work.operations import Amount, Operation, Streaming


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRun:
    """One run of a batch job on `devices` independent devices."""

    devices: int
    step: Estimate
    """Time of one batch on one device [s]."""
    duration: Estimate
    """Wall time of the run [s]."""
    device_time: Estimate
    """Device-seconds of the run: what is paid."""
    memory_bytes: Mapping[str, float]


def batch_operations(job: BatchJob, model: Model | None, scenario: Scenario, items: Amount) -> tuple[Operation, ...]:
    """Return what one batch of `items` items executes.

    An exact index is the matrix of vectors itself: building it reads and writes every vector once.
    """
    if job.task == "index":
        return (
            Streaming(kind="copy", elements=items * _width(job, model), dtype=_stream_dtype(job.dtype), label="index"),
        )
    if not isinstance(model, TransformerModel):
        raise CapacityError(f"batch job {job.name}: an encode job needs a model of family 'transformer'")
    tokens = scenario.tokens(job.tokens)
    return transformer.encode(reading(model, tokens), items, tokens, job.dtype, scenario.engine)


def fewest_devices(job: BatchJob, model: Model | None, scenario: Scenario, device: Device) -> BatchRun:
    """Return the run on the fewest devices that meets the deadline, at most `max_devices`.

    Batches are independent, so device time does not depend on how many devices share it.
    """
    items = scenario.amount(job.items, job.every)
    size = max(1, min(job.batch, items))
    step = device.step(batch_operations(job, model, scenario, size))
    device_time = step.scaled(items / size)
    deadline = job.deadline or job.every
    devices = max(1, min(ceil(float(device_time.value) / deadline), job.max_devices))
    return BatchRun(
        devices=devices, step=step, duration=device_time.scaled(1 / devices), device_time=device_time,
        memory_bytes=_memory(job, model, scenario, size),
    )  # fmt: skip


def _memory(job: BatchJob, model: Model | None, scenario: Scenario, size: int) -> dict[str, float]:
    if job.task == "index":
        return {"vectors": size * _width(job, model) * memory.value_bytes(job.dtype)}  # streamed, batch by batch
    if not isinstance(model, TransformerModel):
        return {}
    parts = memory.inference(architecture(model), size * scenario.tokens(job.tokens), job.dtype)
    return {name: float(part) for name, part in parts.items()}


def _width(job: BatchJob, model: Model | None) -> int:
    if job.width is not None:
        return job.width
    if model is None:
        raise CapacityError(f"batch job {job.name}: an index job needs a model or a width")
    return vector_width(model)


def _stream_dtype(dtype: str) -> str:
    return dtype if dtype in {"fp32", "fp16", "bf16"} else "fp16"
