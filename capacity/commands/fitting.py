"""`capacity calibrate --from`: a calibration from measurement tables instead of a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from capacity import calibration as calibrations
from capacity import catalogue, files
from capacity.commands.measuring import FOLDER, report_fit
from capacity.commands.planning import console
from capacity.errors import InputError, Problem, UnknownNameError
from capacity.spec import names
from capacity.spec.calibration import Calibration
from capacity.spec.engine import Engine
from capacity.spec.hardware import Hardware

if TYPE_CHECKING:
    import pandas as pd


def calibrate_from_tables(
    paths: Sequence[str], kinds: Sequence[str], hardware: str | None, engine: str, output: Path | None, *, as_json: bool
) -> int:
    """Fit the rows of one device in measurement tables and write the calibration, learned residuals beside it."""
    from capacity.timing.step_tables import TABLES as STEPS
    from capacity.timing.tables import TABLES
    from capacity.validate import checked, read_table

    if hardware is None:
        raise InputError("--from needs --hardware ID: the device whose rows are fitted")
    if len(kinds) != len(paths):
        raise InputError(f"{len(paths)} --from tables need as many --kind, got {len(kinds)}")
    if engine not in get_args(Engine):
        raise UnknownNameError("engine", engine, get_args(Engine))
    for kind in kinds:
        if kind not in {**TABLES, **STEPS}:
            raise UnknownNameError("kind", kind, (*TABLES, *STEPS))
    profile = catalogue.hardware(hardware)
    read = [(path, kind, checked(read_table(path), kind, path)) for path, kind in zip(paths, kinds, strict=True)]
    kernels = [(path, TABLES[kind].target, frame) for path, kind, frame in read if kind in TABLES]
    targets = [(path, name) for path, name, frame in kernels if name not in frame]
    if targets:
        raise InputError([Problem(path, f"a fit needs column {name!r}: what was measured") for path, name in targets])
    tables = [(path, kind, _usable(path, kind, frame)) for path, kind, frame in read]
    known = calibrations.Known(catalogue.calibrations(), catalogue.shared())
    fitted = fit(tables, profile, engine, known)  # type: ignore[arg-type]
    target = files.write_text(output or FOLDER / f"{fitted.id}.yaml", calibrations.to_yaml(fitted))
    beside = target.with_suffix(".npz")
    if fitted.residuals:
        files.write_bytes(beside, calibrations.residual_file(fitted.residuals))
    elif beside.is_file():
        beside.unlink()  # of an earlier fit: it belongs to numbers that are gone
    report_fit(fitted, target, as_json=as_json)
    if not as_json:
        report_submissions(fitted)
    return 0


def fit(
    tables: Sequence[tuple[str, str, pd.DataFrame]], hardware: Hardware, engine: Engine, known: calibrations.Known
) -> Calibration:
    """Return the calibration of a device from (path, kind, frame) of each table, its own submissions as anchors in it.

    Results of other devices in a table of submissions tell what software gains between rounds.
    """
    import pandas as pd

    from capacity.validate import Context, submission_anchors

    fitted = calibrations.from_table(tables, hardware, engine, date.today(), known)
    frames = [frame for _, kind, frame in tables if kind == submission_anchors.KIND]
    if not frames:
        return fitted
    context = Context(calibrations=((fitted, hardware), *known.calibrations), shared=known.shared)
    found = submission_anchors.anchors(pd.concat(frames, ignore_index=True), hardware, context)
    return fitted.model_copy(update={"submissions": found})


def report_submissions(fitted: Calibration) -> None:
    """Print what the device's own submissions say of each benchmark and scenario."""
    for part in fitted.submissions:
        later = f", later rounds ×{part.later:.3g} of it" if part.later != 1 else ""
        console().print(
            f"{part.benchmark}, {part.scenario}: ×{part.factor:.3g} of the model's time up to "
            f"{part.round or 'an unknown round'} ({part.rows} results, ±{part.log_sigma:.0%}){later}", soft_wrap=True,
        )  # fmt: skip


def _usable(path: str, kind: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that can be fitted, devices by their id; say how many cannot on standard error, and why."""
    from capacity.validate import usable

    rows, left_out = usable(frame, kind)
    for reason, count in left_out.items():
        text = f"{path}: rows left out: {count:,} ({reason})"
        console(stderr=True).print(text, style="yellow", markup=False, soft_wrap=True)
    return rows.assign(hardware=rows["hardware"].map({name: _id(str(name)) for name in rows["hardware"].unique()}))


def _id(name: str) -> str:
    try:
        return names.hardware_id(name)
    except UnknownNameError:
        return name
