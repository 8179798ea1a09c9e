"""Embedding tables that the devices of a training run share: who keeps which, what a step reads, sends and updates.

Layers are copied and tables are not: a device keeps some of them, or some of their rows, looks up for everybody, and
sends what it found (Mudigere et al. 2022, arXiv:2104.05158, §4). `work.sharding` says how each table is shared,
`work.placement` where it goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from capacity.phases import memory
from capacity.spec.hardware import Hardware
from capacity.spec.model import DlrmModel, EncoderTower, HstuModel, TwoTowerModel
from capacity.spec.scenario import Scenario
from capacity.spec.training import TrainingJob
from capacity.work import interaction, sequential, two_tower
from capacity.work.models import parameters, two_towers
from capacity.work.operations import Amount, Operation
from capacity.work.optimizer import STATE_VALUES
from capacity.work.placement import Exchange, Placement, Table, place
from capacity.work.sharding import best_sharding

TableModel: TypeAlias = DlrmModel | HstuModel | TwoTowerModel
"""Models that are nearly all tables, of which a sample reads a few rows."""
TARGETS = 32
"""Labeled targets of a user's sequence in a training step of HSTU (assumed)."""


def training_step(
    job: TrainingJob, model: TableModel, scenario: Scenario, batch: Amount, devices: int
) -> tuple[Operation, ...]:
    """Return forward and backward of one device's step; what it sends is that of the in-batch negatives alone."""
    match model:
        case DlrmModel():
            return interaction.training_step(model, batch, job.dtype)
        case HstuModel():
            return sequential.training_step(model, batch, scenario.audience.history, TARGETS, job.dtype)
        case TwoTowerModel():
            return two_tower.training_step(two_towers(model), batch, job.dtype, devices)


def tables(job: TrainingJob, model: TableModel, scenario: Scenario) -> tuple[Table, ...]:
    """Return the tables of a model with what an example looks up in each, and the optimizer's state beside a row."""
    match model:
        case DlrmModel():
            return _bags(job, "table", model.tables, model.lookups, model.embedding_size)
        case HstuModel():
            positions = scenario.audience.history + TARGETS
            sequences = tuple(
                Table(
                    name=f"table {number}", rows=rows, width=model.embedding_size, dtype=job.dtype, lookups=positions,
                    pooled=False, state_bytes=_state_bytes(job) * model.embedding_size,
                )
                for number, rows in enumerate(model.tables, start=1)
            )  # fmt: skip
            return sequences + _bags(job, "context", model.contexts, (), model.embedding_size)
        case TwoTowerModel():
            return _tower("user", job, model.user) + _tower("item", job, model.item)


def _tower(name: str, job: TrainingJob, tower: EncoderTower) -> tuple[Table, ...]:
    return _bags(job, f"{name} table", tower.tables, tower.lookups, tower.embedding_size)


def _bags(job: TrainingJob, name: str, rows: Sequence[int], lookups: Sequence[int], width: int) -> tuple[Table, ...]:
    """Return tables whose rows are summed where they lie."""
    pairs = zip(rows, lookups or [1] * len(rows), strict=True)
    return tuple(
        Table(
            name=f"{name} {number}", rows=count, width=width, dtype=job.dtype, lookups=seen,
            state_bytes=_state_bytes(job) * width,
        )
        for number, (count, seen) in enumerate(pairs, start=1)
    )  # fmt: skip


def _state_bytes(job: TrainingJob) -> float:
    """Return what the optimizer keeps of a table's entry [byte]."""
    return 4.0 * STATE_VALUES[job.optimizer]


def entries(found: Sequence[Table]) -> int:
    """Return the values of all tables."""
    return sum(table.rows * table.width for table in found)


def touched(found: Sequence[Table], batch: float, devices: float = 1) -> float:
    """Return the table entries that each of `devices` devices updates in a step, the mean of all.

    A row that several samples read is updated once, and a table has no more rows than it has.

    Examples
    --------
    >>> small, large = (Table(name="", rows=rows, width=8, dtype="fp32", lookups=2) for rows in (5, 100))
    >>> touched([small, large], batch=10), touched([small, large], batch=10, devices=2)  # 25 · 8, 45 · 8 / 2
    (200.0, 180.0)
    """
    return sum(min(table.rows, devices * batch * table.lookups) * table.width for table in found) / devices


def memory_parts(
    job: TrainingJob, model: TableModel, scenario: Scenario, devices: float, placed: Placement | None = None
) -> dict[str, float]:
    """Return the memory of the fullest of `devices` devices by component [byte].

    Parameters
    ----------
    placed
        Who keeps which table; without it every device keeps as much as every other, the least there is.
    """
    found = tables(job, model, scenario)
    whole, width = entries(found), memory.value_bytes(job.dtype)
    kept = whole / devices if placed is None else placed.kept_bytes.max() / (width + _state_bytes(job))
    share = memory.Share(
        layers=parameters(model) - whole, kept=float(kept), touched=touched(found, job.batch, devices)
    )  # fmt: skip
    parts = memory.training_of_tables(share, job.dtype, job.optimizer, _activations(job, model, scenario, devices))
    return {name: float(size) for name, size in parts.items()}


def _activations(job: TrainingJob, model: TableModel, scenario: Scenario, devices: float) -> Amount:
    """Return what a step keeps for its backward pass [byte]."""
    if isinstance(model, TwoTowerModel):
        return two_tower.activation_bytes(two_towers(model), job.batch, job.dtype, devices)
    candidates = 1 if isinstance(model, DlrmModel) else TARGETS
    events = scenario.audience.history
    return memory.look_up_activations(model, job.batch, events, candidates, job.dtype, kept=True)


def placement(
    job: TrainingJob, model: TableModel, scenario: Scenario, devices: int, hardware: Hardware
) -> Placement | None:
    """Return who keeps which table in the room that a step leaves, and what is sent; None of a model without tables."""
    found = tables(job, model, scenario)
    if not found:
        return None
    exchange = Exchange(devices=devices, batch=job.batch, dtype=job.dtype)
    if hardware.memory_bandwidth is not None and hardware.link is not None:
        pace = hardware.memory_bandwidth.value / hardware.link.value.bandwidth
        exchange = replace(exchange, read_per_sent=pace)
    room = _room_bytes(job, model, scenario, devices, hardware)
    ways = [choice.sharding for choice in best_sharding(found, exchange, room)]
    return place(found, ways, exchange, room)


def _room_bytes(job: TrainingJob, model: TableModel, scenario: Scenario, devices: int, hardware: Hardware) -> float:
    """Return what layers, gradients and activations leave of a device for tables and their states [byte]."""
    if hardware.memory is None:
        return math.inf
    whole = entries(tables(job, model, scenario))
    even = whole / devices * (memory.value_bytes(job.dtype) + _state_bytes(job))
    beside = sum(memory_parts(job, model, scenario, devices).values()) - even
    return hardware.memory.value - memory.reserve(hardware.memory.value, hardware.kind) - beside


def fewest_devices(job: TrainingJob, model: TableModel, scenario: Scenario, hardware: Hardware) -> int:
    """Return the fewest devices that hold tables and step; where none do, those that lack least by an even share.

    More devices keep fewer rows each, but more scores of in-batch negatives.
    """
    if hardware.memory is None:
        return 1
    room = hardware.memory.value - memory.reserve(hardware.memory.value, hardware.kind)
    counts = range(1, job.max_devices + 1)

    def needed(devices: int, placed: Placement | None = None) -> float:
        return sum(memory_parts(job, model, scenario, devices, placed).values())

    def held(devices: int) -> bool:
        return needed(devices, placement(job, model, scenario, devices, hardware)) <= room

    return next((count for count in counts if needed(count) <= room and held(count)), min(counts, key=needed))
