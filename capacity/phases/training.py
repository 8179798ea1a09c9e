"""A training run: step time on one device or data-parallel on several, memory, and the fewest devices by a deadline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from capacity.phases import memory
from capacity.spec.hardware import Hardware
from capacity.spec.model import FactorizationModel, FusionScorerModel, IdRankerModel, LstmModel, Model, TransformerModel
from capacity.spec.scenario import Scenario, TrainingJob
from capacity.timing.band import Estimate, total
from capacity.timing.device import Device
from capacity.timing.form import MissingFactError
from capacity.work import embedding, recurrent, retrieval, transformer
from capacity.work.models import architecture, parameters, reading
from capacity.work.operations import Amount, Collective, Operation, backward
from capacity.work.optimizer import optimizer_step


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """One run of a job on `devices` devices."""

    devices: int
    step: Estimate
    """Time of one step [s]."""
    steps: float
    duration: Estimate
    """Wall time of the run [s], all epochs."""
    memory_bytes: Mapping[str, float]
    flop_per_step: float
    """Model FLOP of one device's step: forward and backward."""


def step_operations(job: TrainingJob, model: Model, scenario: Scenario, batch: Amount) -> tuple[Operation, ...]:
    """Return forward and backward of one device's step over `batch` examples, without the optimizer."""
    tokens = scenario.tokens(job.tokens)
    match model:
        case TransformerModel():
            return transformer.training_step(reading(model, tokens), batch, tokens, job.dtype)
        case LstmModel():
            return recurrent.training_step(model, batch, scenario.audience.history, job.dtype)
        case FactorizationModel():
            return embedding.factorization_sgd_step(model, batch, job.dtype)
        case IdRankerModel():
            return embedding.id_ranker_training_step(model, batch, job.dtype)
        case FusionScorerModel():
            forward = retrieval.fusion_scores(model, batch, 1, job.dtype)
            return forward + backward(forward)


def run(job: TrainingJob, model: Model, scenario: Scenario, device: Device, devices: int) -> TrainingRun:
    """Return the run of `job` on `devices` data-parallel devices of one kind.

    Every device computes a batch of its own; gradients are summed by one all-reduce a step, half of it hidden behind
    the backward pass (assumed; overlap is modeled by topology later). Rows touched by a batch are what table models
    exchange and update, dense models all their parameters.
    """
    work = step_operations(job, model, scenario, job.batch)
    touched = touched_parameters(job, model, scenario)
    compute = device.step(work + optimizer_step(touched, job.optimizer), "training")
    parts = [compute]
    if devices > 1:
        gradient_bytes = touched * memory.value_bytes(job.dtype)
        exchange = Collective(kind="all_reduce", message_bytes=gradient_bytes, devices=devices, label="gradients")
        parts.append(device.time(exchange).scaled(1 - OVERLAP))
    step = total(parts)
    steps = max(1.0, scenario.amount(job.samples, job.every) * job.epochs / (job.batch * devices))
    return TrainingRun(
        devices=devices, step=step, steps=steps, duration=step.scaled(steps * job.runs),
        memory_bytes=training_memory(job, model, scenario),
        flop_per_step=float(sum(op.flop * op.count for op in work)),
    )  # fmt: skip


OVERLAP = 0.5


def touched_parameters(job: TrainingJob, model: Model, scenario: Scenario) -> float:
    """Return the parameters one step updates: all of a dense model, the looked-up rows of tables."""
    match model:
        case FactorizationModel():
            return 2.0 * job.batch * model.factors
        case IdRankerModel():
            tables = (model.users + model.items) * model.embedding_size
            return parameters(model) - tables + 2.0 * job.batch * model.embedding_size
        case LstmModel():
            rows = min(job.batch * scenario.audience.history, model.items)
            return parameters(model) - (model.items - rows) * model.embedding_size
        case _:
            return float(parameters(model))


def training_memory(job: TrainingJob, model: Model, scenario: Scenario) -> dict[str, float]:
    """Return the memory of one device by component [byte]."""
    match model:
        case TransformerModel():
            kept = memory.transformer_activations(
                architecture(model), job.batch, scenario.tokens(job.tokens), job.dtype
            )
        case LstmModel():
            rows = job.batch * scenario.audience.history
            kept = rows * (8 * model.hidden_size + 2 * model.items) * memory.value_bytes(job.dtype)
        case IdRankerModel():
            kept = memory.transformer_activations(embedding.body(model), job.batch, 2, job.dtype)
        case _:
            kept = job.batch * 4.0 * 1024
    parts = memory.training(model, job.dtype, job.optimizer, kept)
    return {name: float(size) for name, size in parts.items()}


def fewest_devices(job: TrainingJob, model: Model, scenario: Scenario, device: Device) -> TrainingRun:
    """Return the run with the fewest devices that meets the deadline, or the fastest allowed one when none does.

    Devices whose profile knows no link train alone.
    """
    deadline = job.deadline or job.every
    best = run(job, model, scenario, device, 1)
    devices = 1
    while float(best.duration.value) > deadline and devices < job.max_devices:
        devices = min(devices * 2, job.max_devices) if devices >= 8 else devices + 1
        try:
            candidate = run(job, model, scenario, device, devices)
        except MissingFactError:
            return best
        if float(candidate.duration.value) < float(best.duration.value):
            best = candidate
    return best


def fits(parts: Mapping[str, float], hardware: Hardware) -> tuple[float, float] | None:
    """Return (needed, available) bytes, or None when the profile does not know its memory."""
    if hardware.memory is None:
        return None
    available = hardware.memory.value - memory.reserve(hardware.memory.value, hardware.kind)
    return sum(parts.values()), available
