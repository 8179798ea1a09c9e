"""`capacity calibrate` and `capacity validate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from capacity import calibration as calibrations
from capacity import catalogue, files
from capacity.commands.planning import console
from capacity.errors import InputError, Problem, UnknownNameError
from capacity.spec.calibration import Calibration
from capacity.spec.engine import PROCESSOR_ENGINES, Engine

if TYPE_CHECKING:
    from capacity.work.measurement import Measurement
    from kernels.run import Samples
    from kernels.timing import Case, Runner
    from kernels.torch_backend import Backend

screen = console()
FOLDER = Path("calibrations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """Files that a run or a check writes besides its own."""

    benchmark_json: Path | None = None
    bmf: Path | None = None
    history: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asked `capacity calibrate` for."""

    device: str
    threads: int | None
    quick: bool
    output: Path | None
    samples: Path | None
    exports: Exports = field(default_factory=Exports)
    engine: Engine = "eager"


def calibrate_engines(wish: Wish, engines: Sequence[str], *, as_json: bool) -> int:
    """Calibrate this machine once an engine; "all" is every one that runs here. An interrupt ends the row."""
    known = ("eager", *PROCESSOR_ENGINES)
    for name in engines:
        if name not in {*known, "all"}:
            raise UnknownNameError("engine", name, (*known, "all"))
    asked = known if "all" in engines else tuple(dict.fromkeys(engines))
    if len(asked) > 1 and (wish.output or wish.samples or wish.exports != Exports()):
        raise InputError(f"{len(asked)} engines write a calibration each; files can be named for one --engine only")
    code = 0
    for name in asked:
        code = calibrate_machine(replace(wish, engine=cast(Engine, name)), as_json=as_json)
        if code:
            break
    return code


def calibrate_machine(wish: Wish, *, as_json: bool) -> int:
    """Time the suite on this machine, fit, write the calibration. Interrupted, it fits what was measured."""
    from capacity.commands import outputs
    from kernels import disturbance, engine_suite, machine, run
    from kernels.torch_backend import Backend

    only_cpu = wish.device == "auto" and wish.engine in PROCESSOR_ENGINES
    backend = Backend.local("cpu" if only_cpu else wish.device, wish.threads)
    runner, cases = engine_suite.runner(wish.engine, backend, quick=wish.quick)
    profile = machine.detect_gpu() if backend.device == "cuda" else machine.detect_cpu()
    suffix = "" if wish.engine == "eager" else f"-{wish.engine}"
    output = wish.output or FOLDER / f"{profile.id}{suffix}.yaml"
    refuse_folders(output, wish.exports)
    path = wish.samples or output.with_suffix(".samples.jsonl")
    if wish.samples is None:
        path.unlink(missing_ok=True)  # a new run measures anew; --samples resumes one
    fingerprint = machine.fingerprint(backend.threads)
    where = f"{fingerprint.name} {fingerprint.system} {backend.device} {backend.threads}"
    samples = run.Samples.opened(path, where + suffix.replace("-", " "))
    with disturbance.watched(backend.device, backend.threads) as watch:
        cut_short = timed_with_bar(cases, runner, wish.quick, samples, watch.glance)
    measurements = [*run.measurements(cases, samples), *_exchanges(backend, wish.quick)]
    _remark(backend, samples)
    known, today = calibrations.Known(catalogue.calibrations(), catalogue.shared()), date.today()
    fitted = calibrations.from_measurements(measurements, profile, fingerprint, known, today, wish.engine)
    if not cut_short:
        try:
            fitted = calibrations.with_power(fitted, run.power(backend))
        except KeyboardInterrupt:
            cut_short = True
    unstable = tuple(sorted(name for name, timing in samples.judged().items() if timing.verdict == "unstable"))
    fitted = fitted.model_copy(update={"unstable": unstable})
    files.write_text(output, calibrations.to_yaml(fitted))
    if not cut_short:
        reasons = (*watch.reasons, *disturbance.contaminated(samples.judged(), "this run"))
        timed = outputs.Timed(cases, samples, fingerprint, backend.device, wish.engine)
        outputs.export(wish.exports, timed, "calibrate", {"disturbed": reasons})
    report_fit(fitted, output, as_json=as_json)
    if cut_short:
        said = f"interrupted: fitted to what was measured; continue with --samples {path}"
        _aside(said)
    return 130 if cut_short else 0


def _exchanges(backend: Backend, quick: bool) -> list[Measurement]:
    """Return what two or more GPUs take to tell each other; say on standard error what their library cannot do."""
    from kernels import run

    plan = run.QUICK if quick else run.FULL
    found, skipped = run.collective_measurements(backend, plan, lambda *_: None)
    for kind, reason in skipped.items():
        _aside(f"{kind} was not measured: {reason}")
    return found


def _remark(backend: Backend, samples: Samples) -> None:
    """Say on standard error what was not run, and what ran otherwise than it should."""
    from kernels import run, suite

    for dtype, reason in suite.refusals(backend).items():
        _aside(f"no products in {dtype}: {reason}")
    notes = run.notes(samples)
    for note in sorted(set(notes.values())):
        _aside(f"{sum(each == note for each in notes.values())} cases: {note}")


def _aside(text: str) -> None:
    console(stderr=True).print(text, style="yellow", markup=False, soft_wrap=True)


def refuse_folders(output: Path | None, exports: Exports) -> None:
    """Refuse places that cannot be written: before minutes of measuring, not after."""
    targets = [path for path in (output, exports.benchmark_json, exports.bmf, exports.history) if path is not None]
    problems = [Problem(str(path), "is a folder; name a file in it") for path in targets if path.is_dir()]
    if problems:
        raise InputError(problems)


def timed_with_bar(
    cases: Sequence[Case], runner: Runner, quick: bool, samples: Samples, glance: Callable[[], None] | None = None
) -> bool:
    """Run the suite under a progress bar on standard error; return whether it was cut short.

    `glance` is called after each case.
    """
    from kernels import run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("timing kernels", total=len(cases))

        def progress(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name[:48])
            if glance is not None:
                glance()

        try:
            run.time_suite(cases, runner, run.QUICK if quick else run.FULL, samples, progress)
        except KeyboardInterrupt:
            return True
    return False


def report_fit(fitted: Calibration, path: Path, *, as_json: bool) -> None:
    """Print a calibration that was written to `path`: what was fitted, and how wrong it is on what was held out."""
    if as_json:
        print(json.dumps({"file": str(path), **fitted.model_dump(mode="json", exclude_none=True)}))
        return
    if fitted.efficiencies:
        headings = ("operation", "dtype", "of rate", "of bandwidth", "t0 [µs]", "held-out error", "rows")
        table = Table(*headings, title=f"{fitted.id}: fitted")
        for row in fitted.efficiencies:
            shares = (f"{row.flop_efficiency:.3g}", f"{row.bandwidth_efficiency:.3g}", f"{row.t0 * 1e6:.3g}")
            table.add_row(row.operation, row.dtype, *shares, f"{row.median_error:.1%}", str(row.rows))
        screen.print(table)
    if fitted.kernels:
        columns = ("operation", "kernels", "dtype", "values", "median error left out", "mean", "rows", "residual")
        table = Table(*columns, title=f"{fitted.id}: kernel families")
        for fit in fitted.kernels:
            values = ", ".join(f"{name} {value:.3g}" for name, value in fit.values.items())
            dtypes = fit.dtype if fit.weight_dtype is None else f"{fit.dtype}, {fit.weight_dtype}"
            errors = (f"{fit.median_error:.1%}", f"{fit.mean_error:.1%}", f"{fit.rows:,}")
            table.add_row(fit.operation, fit.family, dtypes, values, *errors, "learned" if fit.learned else "–")
        screen.print(table)
    for part in fitted.composition:
        ran = f" by {part.engine} in {part.dtype}" if part.engine else ""
        screen.print(
            f"whole models, {part.mode}{ran}: {part.launch * 1e6:.3g} µs a launch, ×{part.slowdown:.3g}; "
            f"median error left out {part.median_error:.1%} over {part.rows} models"
        )
    power = fitted.power if isinstance(fitted.power, str) else f"{fitted.power.busy:.0f} W busy ({fitted.power.method})"
    screen.print(f"power: {power}; cases that did not settle: {len(fitted.unstable)}; written to {path}")
