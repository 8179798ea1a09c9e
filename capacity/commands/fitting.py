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
from capacity.spec.engine import Engine

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
    fitted = calibrations.from_table(tables, profile, engine, date.today(), known)  # type: ignore[arg-type]
    target = files.write_text(output or FOLDER / f"{fitted.id}.yaml", calibrations.to_yaml(fitted))
    beside = target.with_suffix(".npz")
    if fitted.residuals:
        files.write_bytes(beside, calibrations.residual_file(fitted.residuals))
    elif beside.is_file():
        beside.unlink()  # of an earlier fit: it belongs to numbers that are gone
    report_fit(fitted, target, as_json=as_json)
    return 0


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
