"""`capacity calibrate --check`: whether this machine is as fast as when its calibration was made.

The baseline is a samples file, or a calibration with its samples beside it; only a calibration whose samples are lost
is compared by its predictions, and the answer says so.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from capacity import catalogue, documents, files, history
from capacity.commands import measuring, outputs
from capacity.commands.measuring import Exports
from capacity.commands.planning import console, share
from capacity.errors import CapacityError, InputError, Problem
from capacity.spec.calibration import Calibration
from capacity.timing import transfer

if TYPE_CHECKING:
    from capacity.spec.calibration import Machine
    from capacity.spec.hardware import Hardware
    from kernels.baseline import Baseline
    from kernels.check import Finding
    from kernels.timing import Case, Timing
    from kernels.torch_backend import Backend

screen = console()
EXIT = {"pass": 0, "fail": 1, "inconclusive": 75}
"""75 is EX_TEMPFAIL of sysexits.h: try again."""
SHOWN_CASES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What the user asked `capacity calibrate --check` for."""

    baseline: str
    device: str
    threads: int | None
    quick: bool
    max_slowdown: str
    output: Path | None
    samples: Path | None
    exports: Exports = field(default_factory=Exports)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The finding, and what a reader must know beside it."""

    finding: Finding
    baseline: str
    basis: str
    """measured: raw rounds were compared; predicted: only the calibration's predictions were there."""
    changes: Sequence[str]
    reference_ratio: float | None
    """Time of the undisturbed reference kernel over the baseline's: what moves the whole machine moves it too."""
    run_error_from: str
    samples: Path

    @property
    def data(self) -> dict[str, Any]:
        """The outcome as JSON."""
        beside = {
            "baseline": self.baseline, "basis": self.basis, "changes": list(self.changes), "samples": str(self.samples),
            "reference_ratio": self.reference_ratio, "run_error_from": self.run_error_from,
        }  # fmt: skip
        return dataclasses.asdict(self.finding) | beside


def check_machine(wish: Check, *, as_json: bool) -> int:
    """Time the baseline's cases again and say whether this machine became slower; return the exit code."""
    from kernels import disturbance, engine_suite, machine, run
    from kernels.torch_backend import Backend

    most = share("--max-slowdown", wish.max_slowdown, 0)
    baseline, calibration = read_baseline(wish.baseline)
    measuring.refuse_folders(wish.output, wish.exports)
    if wish.samples is not None and wish.samples.resolve() == Path(baseline.source).resolve():
        raise InputError([Problem(str(wish.samples), "holds the baseline; --samples must name another file")])
    backend = Backend.local(baseline.device if wish.device == "auto" else wish.device, wish.threads or baseline.threads)
    fingerprint = machine.fingerprint(backend.threads)
    _refuse_another_machine(baseline, fingerprint, backend)
    runner, cases = engine_suite.runner(baseline.engine, backend, quick=wish.quick)
    then = baseline.timings or _predicted(cases, calibration)
    cases = [case for case in cases if case.name in then]
    if not cases:
        raise InputError([Problem(baseline.source, "has no case in common with what this version of the suite runs")])
    path = wish.samples or measuring.FOLDER / f"{_stem(baseline.source)}.check.samples.jsonl"
    if wish.samples is None:
        path.unlink(missing_ok=True)
    where = f"{fingerprint.name} {fingerprint.system} {backend.device} {backend.threads}"
    samples = run.Samples.opened(path, where + ("" if baseline.engine == "eager" else f" {baseline.engine}"))
    with disturbance.watched(backend.device, backend.threads) as watch:
        cut_short = measuring.timed_with_bar(cases, runner, wish.quick, samples, watch.glance)
    if cut_short:
        said = f"interrupted: no verdict; continue with --samples {path}"
        console(stderr=True).print(said, style="yellow", markup=False, soft_wrap=True)
        return 130
    timed = outputs.Timed(cases, samples, fingerprint, backend.device, baseline.engine)
    outcome = _judged(baseline, then, timed, (most, tuple(watch.reasons)), wish.exports.history)
    _exported(outcome, timed, wish)
    _said(outcome, as_json=as_json)
    return EXIT[outcome.finding.verdict]


def read_baseline(name: str) -> tuple[Baseline, tuple[Calibration, Hardware] | None]:
    """Return the baseline that `--check` names: a samples file, or a calibration (file or id) with its samples.

    Returns
    -------
    tuple
        The baseline, and the calibration where its predictions must do because it has no samples.
    """
    from kernels.baseline import Baseline, read_samples

    if name.endswith(".jsonl"):
        return read_samples(Path(name)), None
    known = documents.catalogue(catalogue.SHIPPED) | documents.catalogue("calibrations")
    path = documents.find("calibrations", name, known)
    found = documents.validated(documents.read(path), Calibration)
    profile = found.profile or catalogue.hardware(found.hardware)
    if found.machine is None:
        raise InputError(
            [Problem(name, "was not measured on this machine but fitted to a table; nothing to check with")]
        )
    device = "cuda" if profile.kind == "gpu" else "cpu"
    beside = path.with_suffix(".samples.jsonl")
    if not beside.exists():
        return Baseline.of_calibration(str(path), found.machine, device, found.engine), (found, profile)
    measured = read_samples(beside)
    here = (found.machine.name, found.machine.threads, found.engine)
    if (measured.name, measured.threads, measured.engine) != here:
        raise InputError(
            [Problem(str(beside), f"lies beside {path.name} but was measured on another machine or engine")]
        )
    return dataclasses.replace(measured, software=found.machine.software, driver=found.machine.driver), None


def _refuse_another_machine(baseline: Baseline, fingerprint: Machine, backend: Backend) -> None:
    differences = baseline.differences(fingerprint, backend.device)
    if differences:
        raise InputError([Problem(baseline.source, f"is of another machine: {what}") for what in differences])


def _predicted(cases: Sequence[Case], calibration: tuple[Calibration, Hardware] | None) -> dict[str, float]:
    """Return the seconds a calibration predicts for each case that it can predict."""
    if calibration is None:
        return {}
    found, profile = calibration
    device = transfer.device(profile, found.engine, [calibration], catalogue.shared())
    seconds = {}
    for case in cases:
        try:
            if case.mode is not None:
                once_s = float(device.step(case.operations, case.mode).value)
            else:
                once_s = sum(float(device.time(operation).value) for operation in case.operations)
        except CapacityError:  # a class that this device has no rate for: the case is left out
            continue
        seconds[case.name] = once_s * case.calls
    return seconds


def _judged(
    baseline: Baseline, then: Mapping[str, Any], timed: outputs.Timed, judge: tuple[float, tuple[str, ...]],
    past: Path | None,
) -> Outcome:  # fmt: skip
    """Return the verdict; `judge` holds the limit, and what disturbed the run."""
    from kernels import check, disturbance
    from kernels.baseline import pairs

    now = timed.samples.judged()
    now = {case.name: now[case.name] for case in timed.cases if case.name in now}
    common = {name: timing for name, timing in baseline.timings.items() if name in now}
    reasons = (*judge[1], *disturbance.contaminated(now, "this run"), *disturbance.contaminated(common, "the baseline"))
    known, runs = _run_error(timed, past)
    finding = check.judged(
        pairs(timed.cases, then, now), judge[0], reasons, check.RUN_ERROR if known is None else known
    )
    return Outcome(
        finding=finding, baseline=baseline.source, basis="measured" if baseline.timings else "predicted",
        changes=baseline.changes(timed.machine), samples=timed.samples.path,
        reference_ratio=_quiet_s(now) / _quiet_s(common) if common else None,
        run_error_from="assumed" if known is None else f"{runs} earlier runs",
    )  # fmt: skip


def _quiet_s(judged: Mapping[str, Timing]) -> float:
    """Return the undisturbed reference of a run [s]; all its timings hold the same."""
    return next(iter(judged.values())).quiet_s


def _run_error(timed: outputs.Timed, past: Path | None) -> tuple[float | None, int]:
    """Return how whole runs scatter according to the history, if it knows, and how many runs say so."""
    from kernels.check import run_error_of
    from kernels.timing import METHOD_VERSION

    if past is None or not past.exists():
        return None, 0
    place = history.place_of(timed.machine, timed.device, timed.engine)
    runs = history.log_seconds(history.comparable(outputs.runs_of(past), place, METHOD_VERSION))
    return run_error_of(runs), len(runs)


def _exported(outcome: Outcome, timed: outputs.Timed, wish: Check) -> None:
    finding = outcome.finding
    facts = {
        "baseline": outcome.baseline, "verdict": finding.verdict, "ratio": finding.overall.ratio,
        "low": finding.overall.low, "high": finding.overall.high, "disturbed": finding.disturbed,
    }  # fmt: skip
    outputs.export(wish.exports, timed, "check", facts)
    if wish.output is not None:
        files.write_text(wish.output, json.dumps(outcome.data, indent=2, ensure_ascii=False) + "\n")


def _said(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome.data))
        return
    from kernels.check import slower

    finding = outcome.finding
    table = Table("class", "cases", "slower by", "at least", "at most", title=f"against {outcome.baseline}")
    for row in (finding.overall, *finding.groups):
        table.add_row(row.name, str(row.cases), *(slower(value) for value in (row.ratio, row.low, row.high)))
    screen.print(table)
    lines = [f"slowest cases: {'; '.join(f'{row.name} {slower(row.ratio)}' for row in finding.cases[:SHOWN_CASES])}"]
    if outcome.basis == "predicted":
        lines.append(
            "no samples lie beside the calibration: compared with its predictions, whose errors widen everything"
        )
    if outcome.reference_ratio is not None:
        lines.append(f"reference kernel: {slower(outcome.reference_ratio)}")
    lines += [f"changed since: {', '.join(outcome.changes)}"] if outcome.changes else []
    lines.append(
        f"smallest detectable change {finding.detectable:.1%}; whole runs differ by {finding.run_error:.1%} "
        f"({outcome.run_error_from}); raw samples in {outcome.samples}"
    )
    lines.append(f"{finding.verdict.upper()}: {sentence(finding)}")
    for line in lines:
        screen.print(line, markup=False, soft_wrap=True)


def sentence(finding: Finding) -> str:
    """Return the verdict in words."""
    from kernels.check import slower

    if finding.reasons:
        return "; ".join(finding.reasons)
    low, high = slower(finding.overall.low), slower(finding.overall.high)
    return f"{slower(finding.overall.ratio)} ({low} to {high}) is below the limit of {slower(1 + finding.max_slowdown)}"


def _stem(source: str) -> str:
    return Path(source).name.removesuffix(".yaml").removesuffix(".samples.jsonl").removesuffix(".jsonl")
