"""Published runs of recommenders and vector searches: throughput of a network in its framework, and of an index.

A run's time is that of the network's operations on the device, plus what its framework adds: something for every call,
and something for every byte that a sample brings. These two numbers are fitted for each framework on published runs
(`recommender_frameworks` of calibrations/shared.yaml, by benchmarks/fit_recommenders.py); everything else is counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from capacity.errors import CapacityError, UnknownNameError
from capacity.spec import names
from capacity.spec.hardware import Hardware
from capacity.timing import step_tables
from capacity.timing.band import Estimate, total, weakest
from capacity.timing.tables import said
from capacity.validate import searches
from capacity.validate.kind import Array, Context, Kind, Predicted
from capacity.validate.recommender_work import NETWORKS, Network
from capacity.validate.searches import board, number
from capacity.work.operations import Collective, Operation, backward
from capacity.work.optimizer import optimizer_step

Values = Mapping[str, Any]
Mode = Literal["inference", "training"]
MODES: Mapping[str, Mode] = {"infer": "inference", "evaluate": "inference", "train": "training"}
VALUE = "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row: a network in a framework on a device."""

    network: Network
    framework: str
    phase: str
    hardware: str
    precision: str
    batch: float
    """Samples that one device takes at a time."""
    devices: float

    @property
    def mode(self) -> Mode:
        """Whether weights are updated."""
        return MODES[self.phase]

    @property
    def fused(self) -> bool:
        """Whether a compiler fuses element-wise kernels into products."""
        return "TensorRT" in self.framework

    @property
    def sent_bytes(self) -> float:
        """What the samples of one call bring to a device [byte]."""
        return self.batch * self.network.sent_bytes

    def step(self, context: Context) -> Estimate:
        """Return the time of the operations of one call on every device [s].

        Raises
        ------
        CapacityError
            For hardware without a profile, or without a rate for the precision.
        """
        fusion: Literal["fused", "eager"] = "fused" if self.fused else "eager"
        device = context.device(self.hardware, fusion)
        dtype = multiplied(self.precision, device.hardware)
        work = self.network.forward(self.batch, dtype, fusion)
        if self.mode == "inference":
            return device.step(work)
        step = device.step(work + backward(work) + self._update(), "training")
        return total([step, *(device.time(each) for each in self._exchange(dtype))])

    def _update(self) -> tuple[Operation, ...]:
        network = self.network
        touched = network.table_entries or self.batch * network.table_values
        return optimizer_step(network.parameters + touched, network.optimizer)

    def _exchange(self, dtype: str) -> tuple[Operation, ...]:
        """Return the gradients' sum, and the way of rows there and back where devices share the tables."""
        if self.devices <= 1:
            return ()
        network, width = self.network, 2 if dtype in {"fp16", "bf16"} else 4
        rows = self.batch * network.table_values
        summed = network.parameters + (0.0 if network.sharded else network.table_entries or rows)
        gradients = Collective(kind="all_reduce", message_bytes=summed * width, devices=self.devices, label="gradients")
        if not network.sharded:
            return (gradients,)
        shared = Collective(
            kind="alltoall", message_bytes=rows * width, devices=self.devices, count=2, label="rows"
        )  # fmt: skip
        return (gradients, shared)


def multiplied(precision: str, hardware: Hardware) -> str:
    """Return what the layers multiply in: frameworks multiply fp32 in tf32 wherever the device can.

    Reference: NVIDIA, "Accelerating AI training with TF32 tensor cores" (on by default in its containers and TensorRT).
    """
    compute = names.dtype(precision).compute
    return "tf32" if compute == "fp32" and hardware.rate("tf32") is not None else compute


def run(values: Values, row: pd.Series[Any]) -> Run:
    """Return the run that a row describes.

    Raises
    ------
    CapacityError
        For a network that is not known, or an input that the row leaves blank.
    """
    model, phase = str(values["model"]), str(values["phase"])
    known = next((name for name in NETWORKS if re.match(rf"{re.escape(name)}(?![\w-])", model)), None)
    if known is None:
        raise CapacityError(f"no model profile for {model}; known are {', '.join(NETWORKS)}")
    if phase not in MODES:
        raise UnknownNameError("phase", phase, MODES)
    devices = number(row, "n_devices", 1.0)
    batch = number(row, "batch_per_device", number(row, "batch_global") / devices)
    if not np.isfinite(batch):
        raise CapacityError(
            "the row states neither batch_per_device nor batch_global: how much a call holds is unknown"
        )
    held = number(row, "concurrency", 1.0) if said(values, "scenario") == "online" else 1.0
    return Run(
        network=NETWORKS[known], framework=_stated(values, "framework"), phase=phase,
        hardware=board(values), precision=_stated(values, "precision"), batch=batch * held,
        devices=devices,
    )  # fmt: skip


def samples_per_s(wanted: Run, context: Context) -> Estimate:
    """Return the samples per second of all devices together [1/s].

    Requests that wait at an online server are one call: its batch is concurrency × batch. How framework and operations
    together scatter was judged on whole runs, so it replaces what is known of single operations.

    Raises
    ------
    CapacityError
        For a framework that no number was fitted for.
    """
    known = {(item.framework, item.phase): item for item in context.shared.recommender_frameworks}
    if (wanted.framework, wanted.phase) not in known:
        others = ", ".join(name for name, phase in known if phase == wanted.phase)
        raise CapacityError(f"what {wanted.framework} adds to phase {wanted.phase} is not known; known are {others}")
    added, step = known[wanted.framework, wanted.phase], wanted.step(context)
    sent_s = wanted.sent_bytes / added.samples if added.samples else 0.0
    call_s = step.value + added.call + sent_s
    errors = {f"{wanted.phase} in {wanted.framework}": added.log_sigma}
    return Estimate(wanted.batch * wanted.devices / call_s, errors, weakest([step.basis, "calibrated"]))


def _stated(values: Values, name: str) -> str:
    found = said(values, name)
    if not found:
        raise CapacityError(f"the row does not state its {name}")
    return found


def _predicted(values: Values, rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    row = rows.iloc[0]
    if str(values["category"]).startswith("recsys"):
        found = samples_per_s(run(values, row), context)
    else:
        found = searches.result(values, row, context)
    return {VALUE: Predicted.each([found], np.zeros(1, dtype=np.intp))}


def _measured(frame: pd.DataFrame, target: str) -> Array:
    return step_tables.optional_column(frame, target)


KINDS: dict[str, Kind] = {
    "recommender": Kind(
        group_by=("category", "model", "phase", "hardware"), sizes=(),
        optional_names=("dataset", "hardware_id", "precision", "framework", "scenario", "unit"),
        optional=("n_devices", "batch_per_device", "batch_global", "concurrency"), targets=(VALUE,),
        twins=("latency_avg_ms", "latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms"),
        measured=_measured, predict=_predicted, alone=True,
    ),
}  # fmt: skip
