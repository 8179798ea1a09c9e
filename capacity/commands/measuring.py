"""`capacity calibrate` and `capacity validate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from capacity import calibration as calibrations
from capacity import catalogue, files
from capacity.commands.planning import console, share
from capacity.errors import InputError, Problem, UnknownNameError
from capacity.spec.calibration import Calibration
from capacity.spec.engine import PROCESSOR_ENGINES, Engine

if TYPE_CHECKING:
    import pandas as pd

    from kernels.run import Samples
    from kernels.timing import Case, Runner

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
    measurements = run.measurements(cases, samples)
    today = date.today()
    fitted = calibrations.from_measurements(measurements, profile, fingerprint, catalogue.shared(), today, wish.engine)
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
    _said(fitted, output, as_json=as_json)
    if cut_short:
        said = f"interrupted: fitted to what was measured; continue with --samples {path}"
        console(stderr=True).print(said, style="yellow", markup=False, soft_wrap=True)
    return 130 if cut_short else 0


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


def calibrate_from_tables(
    paths: Sequence[str], kinds: Sequence[str], hardware: str | None, engine: str, output: Path | None, *, as_json: bool
) -> int:
    """Fit the rows of one device in measurement tables and write the calibration."""
    from capacity.validate import checked, read_table

    if hardware is None:
        raise InputError("--from needs --hardware ID: the device whose rows are fitted")
    if len(kinds) != len(paths):
        raise InputError(f"{len(paths)} --from tables need as many --kind, got {len(kinds)}")
    if engine not in {"fused", "eager"}:
        raise UnknownNameError("engine", engine, ("fused", "eager"))
    for kind in kinds:
        if kind not in {"gemm", "attention"}:
            raise UnknownNameError("kind", kind, ("gemm", "attention"))
    profile = catalogue.hardware(hardware)
    tables = [(path, kind, checked(read_table(path), kind, path)) for path, kind in zip(paths, kinds, strict=True)]
    unmeasured = [path for path, _, frame in tables if "latency_us" not in frame]
    if unmeasured:
        raise InputError([Problem(path, "a fit needs column 'latency_us': what was measured") for path in unmeasured])
    tables = [(path, kind, _usable(path, kind, frame)) for path, kind, frame in tables]
    fitted = calibrations.from_table(tables, profile, cast(Literal["eager", "fused"], engine), date.today())
    target = files.write_text(output or FOLDER / f"{fitted.id}.yaml", calibrations.to_yaml(fitted))
    _said(fitted, target, as_json=as_json)
    return 0


def _usable(path: str, kind: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that can be fitted; say on standard error how many cannot, and why."""
    from capacity.validate import usable

    rows, left_out = usable(frame, kind)
    for reason, count in left_out.items():
        said = f"{path}: rows left out: {count:,} ({reason})"
        console(stderr=True).print(said, style="yellow", markup=False, soft_wrap=True)
    return rows


def _said(fitted: Calibration, path: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"file": str(path), **fitted.model_dump(mode="json", exclude_none=True)}))
        return
    table = Table(
        "operation",
        "dtype",
        "of rate",
        "of bandwidth",
        "t0 [µs]",
        "held-out error",
        "rows",
        title=f"{fitted.id}: fitted",
    )
    for row in fitted.efficiencies:
        shares = (f"{row.flop_efficiency:.3g}", f"{row.bandwidth_efficiency:.3g}", f"{row.t0 * 1e6:.3g}")
        table.add_row(row.operation, row.dtype, *shares, f"{row.median_error:.1%}", str(row.rows))
    screen.print(table)
    for part in fitted.composition:
        screen.print(
            f"whole models, {part.mode}: {part.launch * 1e6:.3g} µs a launch, ×{part.slowdown:.3g}; "
            f"median error left out {part.median_error:.1%} over {part.rows} models"
        )
    power = fitted.power if isinstance(fitted.power, str) else f"{fitted.power.busy:.0f} W busy ({fitted.power.method})"
    screen.print(f"power: {power}; cases that did not settle: {len(fitted.unstable)}; written to {path}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What the user asked `capacity validate` for."""

    table: Path
    kind: str
    output: Path | None
    calibration: tuple[str, ...]
    plot: Path | None
    max_median_error: str | None
    min_share: str


def validate_table(wish: Check, *, as_json: bool) -> int:
    """Predict every row of a table, print the errors, and apply the gates."""
    from capacity import validate

    if wish.kind not in validate.KINDS:
        raise UnknownNameError("kind", wish.kind, validate.KINDS)
    most = None if wish.max_median_error is None else share("--max-median-error", wish.max_median_error, 0)
    least = share("--min-share", wish.min_share, 0, 1)
    frame = validate.checked(validate.read_table(wish.table), wish.kind, str(wish.table))
    context = validate.Context(calibrations=catalogue.calibrations(wish.calibration), shared=catalogue.shared())
    found = validate.predictions(frame, wish.kind, context)
    figures = validate.summary(found, wish.kind, len(frame))
    if wish.output is not None:
        _write_frame(found, wish.output)
    if wish.plot is not None:
        from capacity import charts

        shown = {str(name): found[name].to_numpy() for name in ("measured", "predicted", "low", "high", "hardware")}
        unit = found["target"].iloc[0].rsplit("_", 1)[-1] if len(found) else "s"
        files.write_text(wish.plot, charts.page(charts.predicted_measured(shown, unit)))
    if as_json:
        print(json.dumps(figures))
    else:
        _show_figures(figures)
    failures = validate.gate(figures, most, least)
    for failure in failures:
        console(stderr=True).print(f"gate failed: {failure}", style="red")
    return 1 if failures else 0


def _write_frame(frame: Any, path: Path) -> None:  # noqa: ANN401  (pandas is imported lazily)
    if path.suffix == ".parquet":
        files.write_bytes(path, frame.to_parquet(index=False))
    else:
        files.write_text(path, frame.to_csv(index=False))


def _show_figures(figures: dict[str, Any]) -> None:
    headings = ("hardware", "target", "predicted", "median error", "mean", "P90", "bias", "90 % band holds", "high/low")
    table = Table(*headings, title=f"{figures['kind']}: {figures['rows']:,} rows")
    rows = [("all", figures["targets"]), *figures["by_hardware"].items()]
    for name, targets in rows:
        for target, values in targets.items():
            shown = [_share(values[key]) for key in ("median_ape", "mean_ape", "p90_ape", "bias", "band_coverage")]
            width = "–" if values["band_width"] is None else f"{values['band_width']:.2f}×"
            table.add_row(name, target, f"{values['predicted']:,}", *shown, width)
    screen.print(table)
    for reason, count in figures["refused"].items():
        screen.print(f"refused {count:,}: {reason}", style="yellow", markup=False)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
