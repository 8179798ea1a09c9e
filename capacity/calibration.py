"""Calibrations: from measurements or a table of them to a document, and that document to text a person can read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Literal

import yaml

from capacity.errors import CapacityError, InputError
from capacity.spec.calibration import Calibration, Composition, Efficiency, Machine, Power, Shared
from capacity.spec.hardware import Hardware
from capacity.timing import calibrate, transfer
from capacity.timing.calibrate import LEAST_ROWS
from capacity.timing.device import MissingFactError
from capacity.work.measurement import Measurement

if TYPE_CHECKING:
    import pandas as pd


def from_measurements(
    measurements: Sequence[Measurement], profile: Hardware, machine: Machine, shared: Shared, today: date
) -> Calibration:
    """Return the calibration of the machine that was measured.

    Parameters
    ----------
    measurements
        Single operations, and whole models that judge their sums. Classes with too few rows are left to `shared`.

    Raises
    ------
    CapacityError
        When no class of operations has enough rows: the run was cut too short.
    """
    fits, refused = _fits(measurements, profile)
    if not fits:
        why = refused or "too little was measured to fit anything; run it again with the same samples file"
        raise CapacityError(f"no calibration: {why}")
    draft = Calibration(
        id=profile.id, hardware=profile.id, engine="eager", source="capacity calibrate on this machine",
        date=today.isoformat(), machine=machine, profile=profile, efficiencies=fits,
    )  # fmt: skip
    return draft.model_copy(update={"composition": _compositions(draft, profile, measurements, shared)})


def _fits(measurements: Sequence[Measurement], profile: Hardware) -> tuple[tuple[Efficiency, ...], str]:
    """Return the fit of every class with enough rows, and why the last one without a datasheet rate has none."""
    fits, refused = [], ""
    for key, rows in sorted(calibrate.grouped(measurements).items()):
        if len(rows.measured) >= LEAST_ROWS:
            try:
                fits.append(calibrate.efficiency(key, rows, profile))
            except MissingFactError as error:  # a card without the dtype's units has no rate to be a share of
                refused = str(error)
    return tuple(fits), refused


def _compositions(
    draft: Calibration, profile: Hardware, measurements: Sequence[Measurement], shared: Shared
) -> tuple[Composition, ...]:
    device = transfer.device(profile, draft.engine, [(draft, profile)], shared)
    dtypes = {fit.dtype for fit in draft.efficiencies}
    models = [item for item in measurements if item.mode and item.operations[0].dtype in dtypes]
    parts = [
        calibrate.composition("inference", device, [item for item in models if item.mode == "inference"]),
        calibrate.composition("training", device, [item for item in models if item.mode == "training"]),
    ]
    return tuple(part for part in parts if part is not None)


def from_table(
    tables: Sequence[tuple[str, str, pd.DataFrame]], hardware: Hardware, engine: Literal["eager", "fused"], today: date
) -> Calibration:
    """Return a calibration fitted to measurement tables instead of a run.

    Parameters
    ----------
    tables
        (path, kind, frame) of each table; kind is gemm or attention, rows of other hardware are passed over.

    Raises
    ------
    InputError
        When a table has no rows of this hardware.
    """
    from capacity.timing.tables import rows_to_fit

    efficiencies: dict[tuple[str, str], Efficiency] = {}
    sources = []
    for path, kind, frame in tables:
        own = frame[frame["hardware"] == hardware.id]
        if own.empty:
            known = ", ".join(sorted(frame["hardware"].unique())[:8])
            raise InputError(f"{path}: no rows of hardware {hardware.id}; it has {known or 'no usable row at all'}")
        for key, rows in rows_to_fit(own, kind, hardware).items():
            efficiencies[key] = calibrate.efficiency(key, rows, hardware)
        sources.append(f"{len(own):,} rows of kind {kind} ({', '.join(sorted(own['engine'].unique()))})")
    if not efficiencies:
        raise InputError(f"no class of operations of {hardware.id} has {LEAST_ROWS} usable rows")
    return Calibration(
        id=f"{hardware.id}-{engine}", hardware=hardware.id, engine=engine, source="; ".join(sources),
        date=today.isoformat(), efficiencies=tuple(efficiencies[key] for key in sorted(efficiencies)),
    )  # fmt: skip


def with_power(calibration: Calibration, power: Power | Literal["not measured"]) -> Calibration:
    """Return the calibration with the measured power."""
    return calibration.model_copy(update={"power": power})


def to_yaml(calibration: Calibration) -> str:
    """Return the document as YAML: one line an efficiency, a heading comment, no line wrapped.

    Reading it back gives an equal calibration.
    """
    data = calibration.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    data |= {"method": calibration.method, "method_version": calibration.method_version}  # tomorrow's default differs
    rows = data.pop("efficiencies")
    head = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)
    lines = [yaml.safe_dump(row, sort_keys=False, default_flow_style=True, width=10_000).strip() for row in rows]
    comment = (
        "# yaml-language-server: $schema=../../docs/reference/schemas/calibration.json\n"
        "# Fitted numbers. flop_efficiency and bandwidth_efficiency are shares of the profile's rate and bandwidth;\n"
        "# t0 and launch are seconds; log_sigma and median_error come from rows held out of the fit.\n"
    )
    return comment + head + "efficiencies:\n" + "".join(f"  - {line}\n" for line in lines)
