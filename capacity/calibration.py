"""Calibrations: from measurements or a table of them to a document, and that document to text a person can read."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Literal

import numpy as np
import yaml

from capacity.errors import CapacityError, InputError
from capacity.spec.calibration import (
    Calibration,
    Composition,
    Efficiency,
    KernelFamily,
    KernelFit,
    Machine,
    Power,
    Shared,
)
from capacity.spec.engine import Engine
from capacity.spec.hardware import Hardware
from capacity.timing import calibrate, carried, transfer
from capacity.timing.calibrate import LEAST_ROWS
from capacity.timing.device import HALF
from capacity.timing.families import usual
from capacity.timing.form import Board, MissingFactError
from capacity.timing.forms import form_of, named
from capacity.timing.kernel import Kernel, Key, key_of
from capacity.timing.learn import LEAST_TREE_ROWS, Rows, learned
from capacity.timing.residual import Trees
from capacity.timing.step_fit import step_fits
from capacity.timing.step_runs import Place
from capacity.timing.step_tables import TABLES as STEPS
from capacity.timing.tables import TABLES, joined
from capacity.work.measurement import Measurement
from capacity.work.operations import Attention, Collective, Gemm

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Known:
    """What is known before anything is measured: calibrations with their devices, and what devices share."""

    calibrations: Sequence[tuple[Calibration, Hardware]]
    shared: Shared


def from_measurements(
    measurements: Sequence[Measurement], profile: Hardware, machine: Machine, known: Known, today: date,
    engine: Engine = "eager",
) -> Calibration:  # fmt: skip
    """Return the calibration of the machine that was measured.

    On a GPU products, attention and collectives are also fitted as kernels, which answer before the efficiencies.

    Parameters
    ----------
    measurements
        Single operations, and whole models that judge their sums. Classes with too few rows are left to `shared`.
    known
        Relatives say what few rows of kernels leave open.

    Raises
    ------
    CapacityError
        When no class of operations has enough rows: the run was cut too short.
    """
    fits, refused = _fits(measurements, profile)
    kernels = kernel_fits_of(measurements, profile, known) if profile.kind == "gpu" else ()
    if not (fits or kernels):
        why = refused or "too little was measured to fit anything; run it again with the same samples file"
        raise CapacityError(f"no calibration: {why}")
    draft = Calibration(
        id=profile.id if engine == "eager" else f"{profile.id}-{engine}", hardware=profile.id, engine=engine,
        source="capacity calibrate on this machine", date=today.isoformat(), machine=machine,
        profile=profile, efficiencies=fits, kernels=kernels,
    )  # fmt: skip
    return draft.model_copy(update={"composition": _compositions(draft, profile, measurements, known.shared)})


def kernel_fits_of(measurements: Sequence[Measurement], hardware: Hardware, known: Known) -> tuple[KernelFit, ...]:
    """Return the fits of the kernel families that ran the measured products, attention calls and collectives.

    Families with fewer rows than a class of efficiencies needs, or without the datasheet fact their form leans on, are
    left out. A dtype that no relative has starts from the one that runs through the same units.
    """
    found: dict[Key, list[Measurement]] = {}
    for item in measurements:
        operation = item.operations[0]
        if item.mode is None and isinstance(operation, Gemm | Attention | Collective):
            family = next(name for name in usual(operation, hardware) if not name.endswith("/"))  # no engine's own
            found.setdefault(key_of(operation, family), []).append(item)
    relatives = [pair for pair in known.calibrations if pair[1].id != hardware.id]
    prior = carried.kernels(hardware, relatives, known.shared)
    families = {family.key: family for family in known.shared.families}
    fits = []
    for key, items in sorted(found.items()):
        if len(items) < LEAST_ROWS:
            continue
        operations = joined([item.operations[0] for item in items], [1] * len(items))
        rows = Rows(operations, Board(hardware), np.array([item.seconds for item in items]), np.arange(len(items)))
        with suppress(MissingFactError):
            fits.append(kernel_fit(key, rows, prior.get(key) or prior.get(_twin(key)), families.get(key))[0])
    return tuple(fits)


def _twin(key: Key) -> Key:
    """Return the same kernels at the dtype that runs through the same units."""
    return key[0], key[1], HALF.get(key[2], key[2]), HALF.get(key[3], key[3])


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


FAR = 0.3
"""Log standard deviation of a carried-over kernel at which a relative's numbers are no better than any device's [1]."""


def from_table(
    tables: Sequence[tuple[str, str, pd.DataFrame]], hardware: Hardware, engine: Engine, today: date, known: Known
) -> Calibration:
    """Return a calibration fitted to measurement tables instead of a run; relatives say what few rows leave open.

    Parameters
    ----------
    tables
        (path, kind, frame) of each table; kind is one of `timing.tables.TABLES`, rows of other hardware are passed
        over.

    Raises
    ------
    InputError
        When a table has no rows of this hardware.
    """
    fits, residuals, sources, steps = [], {}, [], list[Composition]()
    prior = carried.kernels(hardware, [pair for pair in known.calibrations if pair[1].id != hardware.id], known.shared)
    families = {family.key: family for family in known.shared.families}
    for path, kind, frame in tables:
        own = frame[frame["hardware"] == hardware.id]
        if own.empty:
            names = ", ".join(sorted(frame["hardware"].unique())[:8])
            raise InputError(f"{path}: no rows of hardware {hardware.id}; it has {names or 'no usable row at all'}")
        if kind in STEPS:
            place = Place(hardware=hardware, calibrations=known.calibrations, shared=known.shared)
            steps += step_fits(kind, own, place)
            sources.append(f"{len(own):,} rows of kind {kind}")
            continue
        for key, rows in TABLES[kind].by_family(own, Board(hardware)).items():
            fit, trees = kernel_fit(key, rows, prior.get(key) or prior.get(_twin(key)), families.get(key))
            fits.append(fit)
            if trees is not None:
                residuals[str(fit.learned)] = trees
        engines = f" ({', '.join(sorted(own['engine'].unique()))})" if "engine" in own else ""
        sources.append(f"{len(own):,} rows of kind {kind}{engines}")
    return Calibration(
        id="-".join([hardware.id, engine, *([] if fits else ["steps"])]),  # hides no kernels
        hardware=hardware.id, engine=engine, source="; ".join(sources), date=today.isoformat(),
        kernels=tuple(sorted(fits, key=lambda fit: fit.key)), composition=tuple(steps),
    ).with_residuals(residuals)  # fmt: skip


def kernel_fit(
    key: Key, rows: Rows, prior: Kernel | None, shared: KernelFamily | None
) -> tuple[KernelFit, Trees | None]:
    """Return the fit of one kernel family on one device, and its learned residual where that helped.

    Parameters
    ----------
    prior
        The same kernels on the nearest relatives, if any were measured.
    shared
        The family's constants, if they are known: then only the device's own numbers are fitted.
    """
    operation, family, dtype, stored = key
    form = named(form_of(operation, family), family)
    known = (dict(prior.values) if prior else {}) | (dict(shared.values) if shared else {})
    carried_sigma = math.hypot(*prior.errors.values()) if prior else 1.0
    closeness = min(1.0, carried_sigma / FAR)
    start = [
        parameter.started_at(known.get(parameter.name, parameter.start), closeness) for parameter in form.parameters
    ]
    fixed = frozenset(shared.values) if shared else frozenset()
    widest = math.hypot(float(np.median(prior.scatter.log_sigma)), carried_sigma) if prior else 0.0
    if prior is not None and len(rows) < LEAST_TREE_ROWS:
        rows = rows.corrected(prior)
    found = learned(form, rows, start, fixed, widest)
    name = "/".join(dict.fromkeys(key))
    fit = KernelFit(
        operation=operation, family=family, dtype=dtype, weight_dtype=None if stored == dtype else stored,
        form=form.name, values={name: _round(value, 4) for name, value in found.values.items() if name not in fixed},
        log_sigma=_round(found.log_sigma), median_error=_round(found.median_error), mean_error=_round(found.mean_error),
        rows=found.rows, band=carried.knots(found.scatter), learned=None if found.trees is None else name,
    )  # fmt: skip
    return fit, found.trees


def _round(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}g}")


def with_power(calibration: Calibration, power: Power | Literal["not measured"]) -> Calibration:
    """Return the calibration with the measured power."""
    return calibration.model_copy(update={"power": power})


def residual_file(residuals: Mapping[str, Trees]) -> bytes:
    """Return learned residuals as the file that lies beside their calibration (compressed numpy arrays)."""
    arrays = {f"{key}:{part}": value for key, trees in residuals.items() for part, value in trees.packed().items()}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def to_yaml(calibration: Calibration) -> str:
    """Return the document as YAML: one line an efficiency, a heading comment, no line wrapped.

    Reading it back gives an equal calibration.
    """
    data = calibration.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    data |= {"method": calibration.method, "method_version": calibration.method_version}  # tomorrow's default differs
    parts = {name: data.pop(name, []) for name in ("efficiencies", "kernels")}
    head = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)
    comment = (
        "# yaml-language-server: $schema=../../docs/reference/schemas/calibration.json\n"
        "# Fitted numbers in SI units; efficiencies are shares of the profile's rate and bandwidth. log_sigma and\n"
        "# errors come from rows held out of the fit. What a form's values mean: docs/explanation/kernel-time.md.\n"
    )
    text = comment + head
    for name, rows in parts.items():
        lines = [yaml.safe_dump(row, sort_keys=False, default_flow_style=True, width=10_000).strip() for row in rows]
        text += f"{name}:\n" + "".join(f"  - {line}\n" for line in lines) if lines else ""
    return text
