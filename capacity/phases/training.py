"""A training run: its step on some devices, its length with failures, and the fewest devices by a deadline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from capacity.phases import failures, memory, shared_tables, transformer_run
from capacity.phases.convergence import samples_to_converge
from capacity.phases.shared_tables import TableModel
from capacity.phases.transformer_run import Trainer
from capacity.spec.hardware import Hardware
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
from capacity.spec.scenario import Scenario
from capacity.spec.training import TrainingJob
from capacity.timing.band import Estimate, product, total
from capacity.timing.device import Device
from capacity.timing.form import MissingFactError
from capacity.work import bert4rec, embedding, recurrent, retrieval, transformer
from capacity.work.models import architecture, item_transformer, parameters, reading
from capacity.work.operations import Amount, Collective, Gather, Operation, backward
from capacity.work.optimizer import optimizer_step
from capacity.work.placement import Placement


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


def step_operations(
    job: TrainingJob, model: Model, scenario: Scenario, batch: Amount, devices: int = 1
) -> tuple[Operation, ...]:
    """Return forward and backward of one of `devices` devices' step over `batch` examples, without the optimizer.

    In-batch negatives meet the examples of all devices: what is sent for them is among the operations.
    """
    tokens = scenario.tokens(job.tokens)
    match model:
        case TransformerModel():
            return transformer.training_step(reading(model, tokens), batch, tokens, job.dtype)
        case LstmModel() | Bert4RecModel():
            return _sequence_step(model, batch, scenario.audience.history, job.dtype)
        case FactorizationModel():
            return embedding.factorization_sgd_step(model, batch, job.dtype)
        case IdRankerModel():
            return embedding.id_ranker_training_step(model, batch, job.dtype)
        case FusionScorerModel():
            forward = retrieval.fusion_scores(model, batch, 1, job.dtype)
            return forward + backward(forward)
        case DlrmModel() | HstuModel() | TwoTowerModel():
            work = shared_tables.training_step(job, model, scenario, batch, devices)
            return work if devices > 1 else tuple(op for op in work if not isinstance(op, Collective))


def _sequence_step(model: LstmModel | Bert4RecModel, batch: Amount, events: int, dtype: str) -> tuple[Operation, ...]:
    if isinstance(model, LstmModel):
        return recurrent.training_step(model, batch, events, dtype)
    return bert4rec.training_step(
        item_transformer(model), batch, events, masked_positions(model, events), dtype, model.negatives
    )


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
    back; the device that looks up most keeps the others waiting.
    """
    device, work = trainer.device, step_operations(job, model, scenario, job.batch, devices)
    placed = _placed(job, model, scenario, device.hardware, devices)
    touched = touched_parameters(job, model, scenario, devices)
    compute = device.step((*_busiest(work, placed), *optimizer_step(touched, job.optimizer)), "training")
    sent = [op for op in work if isinstance(op, Collective)]
    exchange = [device.time(op) for op in (*sent, *(placed.forward + placed.backward if placed else ()))]
    if devices > 1:
        exchange.append(device.time(_gradients(job, model, scenario, devices)).scaled(1 - OVERLAP))
    parts = [compute, *exchange]
    step = total(parts)
    flop = float(sum(op.flop * op.count for op in work))
    rate = device.hardware.rate(job.dtype)
    use = flop / float(step.value) / rate if rate else None
    return TrainingRun(
        devices=devices, step=step, steps=_steps(job, scenario, trainer, devices), duration=step,
        memory_bytes=training_memory(job, model, scenario, devices, device.hardware), flop_per_step=flop,
        mfu=use, hfu=use, groups=devices,
    )  # fmt: skip


OVERLAP = 0.5


def _placed(job: TrainingJob, model: Model, scenario: Scenario, hardware: Hardware, devices: int) -> Placement | None:
    """Return who keeps which table, where several devices share them."""
    if devices == 1 or not isinstance(model, TableModel):
        return None
    return shared_tables.placement(job, model, scenario, devices, hardware)


def _busiest(work: tuple[Operation, ...], placed: Placement | None) -> list[Operation]:
    """Return what the device that looks up most computes: the mean device's work, and its own rows."""
    own: list[Operation] = [op for op in work if not isinstance(op, Collective)]
    if placed is None:
        return own
    more = float(placed.read_bytes.max() / placed.read_bytes.mean())
    return [replace(op, rows=op.rows * more) if isinstance(op, Gather) else op for op in own]


def _gradients(job: TrainingJob, model: Model, scenario: Scenario, devices: int) -> Collective:
    """Return the all-reduce of the gradients that every device has a copy of."""
    summed = touched_parameters(job, model, scenario, devices)
    if isinstance(model, TableModel):
        summed -= shared_tables.touched(shared_tables.tables(job, model, scenario), job.batch, devices)
    message = summed * memory.value_bytes(job.dtype)
    return Collective(kind="all_reduce", message_bytes=message, devices=devices, label="gradients")


def masked_positions(model: Bert4RecModel, length: int) -> int:
    """Return the positions of a sequence that training masks, at least one."""
    return max(1, round(model.masked * length))


def touched_parameters(job: TrainingJob, model: Model, scenario: Scenario, devices: int = 1) -> float:
    """Return the parameters one device's step updates: all of a dense model, the looked-up rows of tables."""
    match model:
        case FactorizationModel():
            return 2.0 * job.batch * model.factors
        case IdRankerModel():
            tables = (model.users + model.items) * model.embedding_size
            return parameters(model) - tables + 2.0 * job.batch * model.embedding_size
        case LstmModel():
            rows = min(job.batch * scenario.audience.history, model.items)
            return parameters(model) - (model.items - rows) * model.embedding_size
        case Bert4RecModel():
            return _touched_items(model, job.batch * scenario.audience.history)
        case DlrmModel() | HstuModel() | TwoTowerModel():
            found = shared_tables.tables(job, model, scenario)
            read = shared_tables.touched(found, job.batch, devices)
            return parameters(model) - shared_tables.entries(found) + read
        case _:
            return float(parameters(model))


def _touched_items(model: Bert4RecModel, positions: int) -> float:
    """Return what a step updates: everything where all items are scored, else rows and biases of those it met."""
    rows = model.items + bert4rec.SPECIAL_TOKENS
    met = min(rows, positions + model.negatives) if model.negatives else rows
    return float(parameters(model) - (rows - met) * (model.hidden_size + 1))


def training_memory(
    job: TrainingJob, model: Model, scenario: Scenario, devices: int = 1, hardware: Hardware | None = None
) -> dict[str, float]:
    """Return the memory of the fullest of `devices` devices by component [byte].

    Parameters
    ----------
    hardware
        Whose memory decides how devices share tables; without it all keep as much, the least there is.
    """
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
        case Bert4RecModel():
            kept = _item_activations(job, model, scenario.audience.history)
        case DlrmModel() | HstuModel() | TwoTowerModel():
            placed = None if hardware is None else _placed(job, model, scenario, hardware, devices)
            return shared_tables.memory_parts(job, model, scenario, devices, placed)
        case _:
            kept = job.batch * 4.0 * 1024
    parts = memory.training(model, job.dtype, job.optimizer, kept)
    return {name: float(size) for name, size in parts.items()}


def _item_activations(job: TrainingJob, model: Bert4RecModel, events: int) -> Amount:
    """Return what BERT4Rec keeps for its backward pass [byte]: body, four states of each mask, scores."""
    built, rows = item_transformer(model), job.batch * masked_positions(model, events)
    states = 4 * rows * model.hidden_size * max(memory.value_bytes(job.dtype), 2)
    scores = bert4rec.score_bytes(built, rows, job.dtype, model.negatives)
    return memory.transformer_activations(built.body, job.batch, events, job.dtype) + states + scores


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
    if isinstance(model, TableModel):
        return shared_tables.fewest_devices(job, model, scenario, hardware)
    if not isinstance(model, TransformerModel) or not trainer.knows_frameworks:
        return 1
    layout = job.parallel
    devices = 1 if layout == "auto" else layout.tensor * layout.pipeline * layout.context
    while devices < job.max_devices:
        held = transformer_run.memory(job, transformer_run.fitting(job, model, scenario, trainer, devices))
        fit = fits(held, hardware)
        if fit is None or fit[0] <= fit[1]:
            return devices
        devices = min(2 * devices, job.max_devices)
    return devices


def fits(parts: Mapping[str, float], hardware: Hardware) -> tuple[float, float] | None:
    """Return (needed, available) bytes, or None when the profile does not know its memory."""
    if hardware.memory is None:
        return None
    available = hardware.memory.value - memory.reserve(hardware.memory.value, hardware.kind)
    return sum(parts.values()), available
