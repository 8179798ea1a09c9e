"""The largest batch and the longest example that a training job's devices hold, everything else as it is."""

from __future__ import annotations

from collections.abc import Callable

from capacity.errors import CapacityError
from capacity.phases import transformer_run
from capacity.phases.memory import reserve
from capacity.phases.transformer_run import Trainer
from capacity.spec.model import TransformerModel
from capacity.spec.scenario import Scenario
from capacity.spec.training import TrainingJob

MOST = 2**24
"""Largest batch or length that is tried."""


def batch(job: TrainingJob, model: TransformerModel, scenario: Scenario, trainer: Trainer, devices: int) -> int:
    """Return the most examples per device and step; 0 where not one fits."""

    def held(count: int) -> float:
        return _held(job.model_copy(update={"batch": count, "accumulation": 1}), model, scenario, trainer, devices)

    return _largest(held, _room(trainer))


def tokens(job: TrainingJob, model: TransformerModel, scenario: Scenario, trainer: Trainer, devices: int) -> int:
    """Return the most tokens of an example at the job's batch, within what the model reads; 0 where none fit."""

    def held(count: int) -> float:
        return _held(job.model_copy(update={"tokens": count}), model, scenario, trainer, devices)

    return _largest(held, _room(trainer))


def _held(job: TrainingJob, model: TransformerModel, scenario: Scenario, trainer: Trainer, devices: int) -> float:
    """Return the memory of the fullest device [byte]; infinite where the model does not read so many tokens."""
    try:
        fitting = transformer_run.fitting(job, model, scenario, trainer, devices)
    except CapacityError:
        return float("inf")
    return sum(transformer_run.memory(job, fitting).values())


def _room(trainer: Trainer) -> float:
    """Return what a program can use of a device's memory [byte]."""
    memory = trainer.device.hardware.memory
    return float("inf") if memory is None else memory.value - reserve(memory.value, trainer.device.hardware.kind)


def _largest(held: Callable[[int], float], room: float) -> int:
    """Return the largest count up to `MOST` that is held: by doubling, then by halves.

    Examples
    --------
    >>> _largest(lambda count: 10.0 * count, 123.0), _largest(lambda count: 10.0, 5.0)
    (12, 0)
    """
    good, bad = 0, 1
    while bad <= MOST and held(bad) <= room:
        good, bad = bad, 2 * bad
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if held(middle) <= room else (good, middle)
    return good
