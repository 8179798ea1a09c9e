"""Kinds whose rows are whole encoder passes: an engine's published latencies, and MLPerf submissions of bert."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from capacity import catalogue
from capacity.spec import names
from capacity.timing import step_tables
from capacity.timing.band import Estimate
from capacity.timing.step_runs import Place
from capacity.validate.kind import Array, Context, Kind, Predicted

MILLISECONDS = 1e3


def _latency(frame: pd.DataFrame, _: str) -> Array:
    """Return an encoder table's latency: as given, else batch ÷ throughput [ms]."""
    return MILLISECONDS * step_tables.encoder_measured_s(frame)


def _per_device(frame: pd.DataFrame, _: str) -> Array:
    """Return an MLPerf table's result: samples per second and device, of a single stream the latency [ms]."""
    single = frame["scenario"].to_numpy() == "SingleStream"
    value, rate = (step_tables.optional_column(frame, name) for name in ("value", "value_per_device"))
    return np.where(single, value, rate)


def _predicted(kind: str, values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    name = str(values["hardware"])
    brought = {profile.id: profile for _, profile in context.calibrations}
    hardware = brought.get(name) or catalogue.hardware(names.hardware_id(name))
    place = Place(hardware=hardware, calibrations=context.calibrations, shared=context.shared)
    found = step_tables.TABLES[kind].seconds(values, rows, place)
    rate = kind == "mlperf_inference" and values["scenario"] != "SingleStream"
    told = [Estimate(1 / step.value, step.errors, step.basis) if rate else step.scaled(MILLISECONDS) for step in found]
    return {TARGETS[kind]: Predicted.each(told, np.arange(len(told)))}


TARGETS = {"encoder": "latency_ms", "mlperf_inference": "value_per_device"}
ENCODER, SUBMISSIONS = step_tables.TABLES["encoder"], step_tables.TABLES["mlperf_inference"]
KINDS: dict[str, Kind] = {
    "encoder": Kind(
        group_by=ENCODER.names, sizes=ENCODER.sizes, whole=("layers", "hidden_size", "heads"),
        optional=("mean_tokens",), targets=(TARGETS["encoder"],), twins=("sequences_per_s",), measured=_latency,
        predict=partial(_predicted, "encoder"),
    ),
    "mlperf_inference": Kind(
        group_by=SUBMISSIONS.names, sizes=SUBMISSIONS.sizes, optional_names=SUBMISSIONS.optional,
        targets=(TARGETS["mlperf_inference"],), twins=("value",), measured=_per_device,
        predict=partial(_predicted, "mlperf_inference"),
    ),
}  # fmt: skip
