"""Training runs as measurements: tokens per second and device, and the peak of a device's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from capacity.errors import CapacityError, UnknownNameError
from capacity.phases import train_memory, train_step
from capacity.phases.train_step import Job
from capacity.timing.band import Estimate
from capacity.timing.step_tables import optional_column
from capacity.validate import training_rows
from capacity.validate.kind import Array, Context, Kind, Predicted
from capacity.work.trained import Parallel

Values = Mapping[str, Any]
RATE, MEMORY = "tokens_per_s_per_device", "peak_memory_gib"
NUMBERS = (
    "layers", "hidden_size", "heads", "ffn_multiple", "vocab_size", "sequence_length", "global_batch", "micro_batch",
    "gradient_accumulation", "tensor_parallel", "pipeline_parallel", "virtual_pipeline", "data_parallel",
    "context_parallel", "expert_parallel",
)  # fmt: skip
MEMORY_LOG_SIGMA = 0.2
"""Standard deviation of ln(measured/predicted) peak memory (docs/explanation/training.md)."""


def _predicted(values: Values, rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    """Return throughput and memory of one row; memory alone where nobody knows the device."""
    known = context.shared.training_steps
    if known is None:
        raise CapacityError("no calibration says what training frameworks add to their kernels")
    try:
        device = context.device(str(values["hardware"]), "fused")
    except UnknownNameError as error:  # what a run keeps does not depend on the device, how long it takes does
        run = training_rows.job(values, rows.iloc[0], None, known)
        blank = np.full(1, np.nan)
        return {RATE: Predicted(blank, blank, blank, "assumed", str(error)), MEMORY: _single(peak(values, run))}
    run = training_rows.job(values, rows.iloc[0], device.hardware, known)
    return {RATE: _single(train_step.step(run, device, known).rate), MEMORY: _single(peak(values, run))}


def peak(values: Values, run: Job) -> Estimate:
    """Return the peak of a device's memory [GiB]: of the step, or of loading the model before it is sharded."""
    usual, trained = training_rows.habits(values), run.as_run
    needed = sum(train_memory.components(trained, run.micro_batches, usual.kept, run.optimizer).values())
    if usual.loads_whole and trained.parallel.devices > 1:
        whole = replace(trained, parallel=Parallel())
        shards = trained.parallel.divided("weights")
        needed = max(needed, train_memory.states(whole, usual.kept, "sgd")["weights"] * (1 + 1 / shards))
    return Estimate(needed / usual.gigabyte, {"memory of a run": MEMORY_LOG_SIGMA}, "calibrated")


def _single(found: Estimate) -> Predicted:
    return Predicted.each([found], np.zeros(1, dtype=np.intp))


def _measured(frame: pd.DataFrame, target: str) -> Array:
    return optional_column(frame, target)


KINDS: dict[str, Kind] = {
    "training": Kind(
        group_by=("hardware", "engine", "method", "model", "dtype"), sizes=("devices",),
        optional_names=("release", "sharding", "recompute"), optional=NUMBERS, targets=(RATE, MEMORY), twins=(
            RATE, MEMORY,
        ), measured=_measured, predict=_predicted, alone=True,
    ),
}  # fmt: skip
