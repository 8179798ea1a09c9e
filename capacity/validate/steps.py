"""The kind whose rows are whole encoder passes: an engine's published latencies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from capacity import catalogue
from capacity.spec import names
from capacity.timing import step_tables
from capacity.timing.step_runs import Place
from capacity.validate import submissions
from capacity.validate.kind import Array, Context, Kind, Predicted

MILLISECONDS = 1e3


def _latency(frame: pd.DataFrame, _: str) -> Array:
    """Return an encoder table's latency: as given, else batch ÷ throughput [ms]."""
    return MILLISECONDS * step_tables.encoder_measured_s(frame)


def _predicted(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    name = str(values["hardware"])
    brought = {profile.id: profile for _, profile in context.calibrations}
    hardware = brought.get(name) or catalogue.hardware(names.hardware_id(name))
    place = Place(hardware=hardware, calibrations=context.calibrations, shared=context.shared)
    told = [step.scaled(MILLISECONDS) for step in ENCODER.seconds(values, rows, place)]
    return {TARGET: Predicted.each(told, np.arange(len(told)))}


TARGET = "latency_ms"
ENCODER = step_tables.TABLES["encoder"]
KINDS: dict[str, Kind] = {
    "encoder": Kind(
        group_by=ENCODER.names, sizes=ENCODER.sizes, whole=("layers", "hidden_size", "heads"),
        optional=("mean_tokens",), targets=(TARGET,), twins=("sequences_per_s",), measured=_latency,
        predict=_predicted,
    ),
    **submissions.KINDS,
}  # fmt: skip
