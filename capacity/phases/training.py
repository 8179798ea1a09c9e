"""A training run: its step on some devices, its length with failures, and the fewest devices by a deadline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from capacity.phases import failures, memory, transformer_run
from capacity.phases.convergence import samples_to_converge
from capacity.phases.transformer_run import Trainer
from capacity.spec.hardware import Hardware
from capacity.spec.model import (
    DlrmModel,
    FactorizationModel,
    FusionScorerModel,
    HstuModel,
    IdRankerModel,
    LstmModel,
    Model,
    TransformerModel,
)
from capacity.spec.scenario import Scenario
from capacity.spec.training import TrainingJob
from capacity.timing.band import Estimate, product, total
from capacity.timing.device import Device
from capacity.timing.form import MissingFactError
from capacity.work import embedding, interaction, recurrent, retrieval, sequential, transformer
from capacity.work.models import LookUpModel, architecture, parameters, reading, rows_read, table_rows
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
    parts_s: Mapping[str, float] = field(default_factory=dict)
    """Where a step's time goes, by part [s]; empty where the step is one number."""
    layout: str = "data-parallel"
    """How devices share the step."""
    mfu: float | None = None
    """Model FLOP utilization [1]; None where the device states no rate."""
    hfu: float | None = None
    """The same with what is computed twice."""
    groups: int = 1
    """Devices, or groups of them, that take examples of their own."""
    useful: float = 1.0
    """Share of the wall time that failures and checkpoints leave [1]."""


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
        case DlrmModel() | HstuModel():
            return _look_up_step(model, batch, scenario.audience.history, job.dtype)


def _look_up_step(model: LookUpModel, batch: Amount, events: int, dtype: str) -> tuple[Operation, ...]:
    if isinstance(model, DlrmModel):
        return interaction.training_step(model, batch, dtype)
    return sequential.training_step(model, batch, events, TARGETS, dtype)


def run(job: TrainingJob, model: Model, scenario: Scenario, trainer: Trainer, devices: int) -> TrainingRun:
    """Return the run of `job` on `devices` devices of one kind.

    Transformers on GPUs are laid out as `transformer_run` says; all else is data-parallel. Failures stretch it.
    """
    if isinstance(model, TransformerModel) and trainer.knows_frameworks:
        found = transformer_run.planned(job, model, scenario, trainer, devices)
        once = TrainingRun(
            devices=devices, step=found.time, steps=_steps(job, scenario, trainer, found.trained.parallel.data),
            duration=found.time, memory_bytes=found.memory_bytes, flop_per_step=found.flop, parts_s=found.parts_s,
            layout=found.layout, mfu=found.mfu, hfu=found.hfu, groups=found.trained.parallel.data,
        )  # fmt: skip
    else:
        once = _data_parallel(job, model, scenario, trainer, devices)
    return _lasting(once, job, model, trainer.device)


def _lasting(once: TrainingRun, job: TrainingJob, model: Model, device: Device) -> TrainingRun:
    """Return the run with its wall time: all steps of all repeats, federated rounds, failures and checkpoints."""
    duration = once.step.scaled(once.steps * job.runs)
    if job.federated is not None:
        sent = 2 * parameters(model) * memory.value_bytes(job.dtype) / job.federated.uplink
        duration = replace(duration, value=duration.value + job.federated.rounds * sent)
    useful = 1.0
    if device.hardware.kind == "gpu":
        stretched = failures.wall_factor(failures.Reliability(checkpoint_s=job.checkpoint), once.devices)
        useful = 1 / float(stretched.value)
        duration = product(duration, stretched)
    return replace(once, duration=duration, useful=useful)


def _steps(job: TrainingJob, scenario: Scenario, trainer: Trainer, data: int) -> float:
    """Return the steps of one repeat: as a published reference says for this global batch, or samples × epochs."""
    batch = job.batch * data
    if job.converge is not None:
        return max(1.0, float(samples_to_converge(trainer.references[job.converge], batch).value) / batch)
    return max(1.0, scenario.amount(job.samples, job.every) * job.epochs / batch)


def _data_parallel(job: TrainingJob, model: Model, scenario: Scenario, trainer: Trainer, devices: int) -> TrainingRun:
    """Return the run on data-parallel devices, its wall time left out.

    Every device computes a batch of its own; gradients are summed by one all-reduce a step, half of it hidden behind
    the backward pass (assumed). Rows touched by a batch are what table models exchange and update, dense models all
    their parameters. Devices share the tables of a look-up model: rows go to whoever reads them, and their gradients
    back.
    """
    device, work = trainer.device, step_operations(job, model, scenario, job.batch)
    touched = touched_parameters(job, model, scenario)
    compute = device.step(work + optimizer_step(touched, job.optimizer), "training")
    parts = [compute, *_exchange(job, model, scenario, device, devices)] if devices > 1 else [compute]
    step = total(parts)
    flop = float(sum(op.flop * op.count for op in work))
    rate = device.hardware.rate(job.dtype)
    use = flop / float(step.value) / rate if rate else None
    return TrainingRun(
        devices=devices, step=step, steps=_steps(job, scenario, trainer, devices), duration=step,
        memory_bytes=training_memory(job, model, scenario, devices), flop_per_step=flop, mfu=use, hfu=use,
        groups=devices,
    )  # fmt: skip


OVERLAP = 0.5
TARGETS = 32
"""Labeled targets of a user's sequence in a training step of HSTU (assumed)."""


def _exchange(job: TrainingJob, model: Model, scenario: Scenario, device: Device, devices: int) -> list[Estimate]:
    """Return the all-reduce of the gradients and, where devices share tables, the way of rows there and back."""
    width, summed, parts = memory.value_bytes(job.dtype), touched_parameters(job, model, scenario), []
    if isinstance(model, LookUpModel):
        summed -= _rows_touched(job, model, scenario) * model.embedding_size
        bags = isinstance(model, DlrmModel)  # their rows are summed where they lie
        sent = job.batch * len(model.tables) if bags else _rows_read(job, model, scenario)
        message = sent * model.embedding_size * width
        rows = Collective(kind="alltoall", message_bytes=message, devices=devices, count=2, label="rows")
        parts.append(device.time(rows))
    gradients = Collective(kind="all_reduce", message_bytes=summed * width, devices=devices, label="gradients")
    return [*parts, device.time(gradients).scaled(1 - OVERLAP)]


def _rows_read(job: TrainingJob, model: LookUpModel, scenario: Scenario) -> float:
    """Return the table rows that one device's batch reads: a pair is one candidate of one request."""
    candidates = 1 if isinstance(model, DlrmModel) else TARGETS
    return float(rows_read(model, job.batch, scenario.audience.history, candidates))


def _rows_touched(job: TrainingJob, model: LookUpModel, scenario: Scenario) -> float:
    """Return the table rows that one device's batch changes: at most all there are."""
    return min(_rows_read(job, model, scenario), table_rows(model))


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
        case DlrmModel() | HstuModel():
            spared = table_rows(model) - _rows_touched(job, model, scenario)
            return parameters(model) - spared * model.embedding_size
        case _:
            return float(parameters(model))


def training_memory(job: TrainingJob, model: Model, scenario: Scenario, devices: float = 1) -> dict[str, float]:
    """Return the memory of one of `devices` devices by component [byte]."""
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
        case DlrmModel() | HstuModel():
            return _tables_memory(job, model, scenario, devices)
        case _:
            kept = job.batch * 4.0 * 1024
    parts = memory.training(model, job.dtype, job.optimizer, kept)
    return {name: float(size) for name, size in parts.items()}


def _tables_memory(job: TrainingJob, model: LookUpModel, scenario: Scenario, devices: float) -> dict[str, float]:
    """Return the memory of one device where `devices` devices share the tables [byte]."""
    candidates = 1 if isinstance(model, DlrmModel) else TARGETS
    kept = memory.look_up_activations(
        model, job.batch, scenario.audience.history, candidates, job.dtype, kept=True
    )  # fmt: skip
    touched = touched_parameters(job, model, scenario)
    parts = memory.training_of_tables(model, job.dtype, job.optimizer, touched, devices, kept)
    return {name: float(size) for name, size in parts.items()}


def fewest_devices(job: TrainingJob, model: Model, scenario: Scenario, trainer: Trainer) -> TrainingRun:
    """Return the run with the fewest devices that hold it and meet the deadline, or the fastest allowed one.

    Devices whose profile knows no link train alone.
    """
    deadline = job.deadline or job.every
    devices = _fewest(job, model, scenario, trainer)
    best = run(job, model, scenario, trainer, devices)
    while float(best.duration.value) > deadline and devices < job.max_devices:
        devices = min(devices * 2, job.max_devices) if devices >= 8 else devices + 1
        try:
            candidate = run(job, model, scenario, trainer, devices)
        except MissingFactError:
            return best
        if float(candidate.duration.value) < float(best.duration.value):
            best = candidate
    return best


def _fewest(job: TrainingJob, model: Model, scenario: Scenario, trainer: Trainer) -> int:
    """Return the fewest devices that a layout needs and that hold the job, `max_devices` where none do."""
    hardware = trainer.device.hardware
    if not isinstance(model, TransformerModel) or not trainer.knows_frameworks:
        return _fewest_that_hold(job, model, scenario, hardware)
    layout = job.parallel
    devices = 1 if layout == "auto" else layout.tensor * layout.pipeline * layout.context
    while devices < job.max_devices:
        held = transformer_run.memory(job, transformer_run.fitting(job, model, scenario, trainer, devices))
        fit = fits(held, hardware)
        if fit is None or fit[0] <= fit[1]:
            return devices
        devices = min(2 * devices, job.max_devices)
    return devices


def _fewest_that_hold(job: TrainingJob, model: Model, scenario: Scenario, hardware: Hardware) -> int:
    """Return the fewest devices that share what can be shared and each hold the rest; 1 where nothing is shared."""
    whole, alone = (sum(training_memory(job, model, scenario, devices).values()) for devices in (1, math.inf))
    if hardware.memory is None or whole == alone:
        return 1
    room = hardware.memory.value - memory.reserve(hardware.memory.value, hardware.kind) - alone
    return min(math.ceil((whole - alone) / room), job.max_devices) if room > 0 else job.max_devices


def fits(parts: Mapping[str, float], hardware: Hardware) -> tuple[float, float] | None:
    """Return (needed, available) bytes, or None when the profile does not know its memory."""
    if hardware.memory is None:
        return None
    available = hardware.memory.value - memory.reserve(hardware.memory.value, hardware.kind)
    return sum(parts.values()), available
