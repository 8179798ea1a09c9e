"""What a run of the kernels leaves behind besides its own file: benchmark files, and a line of history."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from capacity import files, history
from capacity.commands.planning import console
from capacity.errors import InputError, Problem
from capacity.report import benchmarks
from capacity.spec.calibration import Machine

if TYPE_CHECKING:
    from capacity.commands.measuring import Exports
    from kernels.run import Samples
    from kernels.timing import Case, Timing

COMMIT = "GITHUB_SHA"
"""Environment variable in which GitHub Actions names the commit of a run."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A finished run: its cases, what was measured, and where."""

    cases: Sequence[Case]
    samples: Samples
    machine: Machine
    device: str
    engine: str = "eager"


def export(
    wanted: Exports, run: Timed, kind: Literal["calibrate", "check"], facts: Mapping[str, Any] | None = None
) -> None:
    """Write the benchmark files that are wanted, and append to the history.

    Parameters
    ----------
    facts
        What the history keeps of a check: baseline, verdict, ratio, low, high, disturbed.
    """
    judged = run.samples.judged()
    done = [(case, judged[case.name]) for case in run.cases if case.name in judged]
    rows = [_benchmark(case, timing, run.machine.name) for case, timing in done]
    if wanted.benchmark_json is not None:
        files.write_text(wanted.benchmark_json, benchmarks.github_action_benchmark(rows))
    if wanted.bmf is not None:
        files.write_text(wanted.bmf, benchmarks.bencher_metric_format(rows))
    if wanted.history is not None:
        history.append(wanted.history, _entry(run, kind, facts or {}))


def _benchmark(case: Case, timing: Timing, where: str) -> benchmarks.Benchmark:
    low_s, high_s = timing.interval_s
    value_s, low_s, high_s = (seconds / case.calls for seconds in (timing.median_s, low_s, high_s))
    return benchmarks.Benchmark(case.name, value_s, low_s, high_s, f"{where}; {timing.verdict}")


def _entry(run: Timed, kind: Literal["calibrate", "check"], facts: Mapping[str, Any]) -> history.Entry:
    from kernels.baseline import group_of
    from kernels.timing import METHOD_VERSION

    judged = run.samples.judged()
    medians_s: dict[str, dict[str, float]] = {}
    for case in run.cases:
        if case.name in judged:
            medians_s.setdefault(group_of(case), {})[case.name] = float(
                f"{judged[case.name].median_s / case.calls:.6g}"
            )
    return history.Entry(
        time=datetime.now(UTC), kind=kind, machine=run.machine, device=run.device, method_version=METHOD_VERSION,
        engine=run.engine, medians_s=medians_s, commit=os.environ.get(COMMIT) or None, **facts,
    )  # fmt: skip


def runs_of(path: Path) -> list[history.Entry]:
    """Return the runs of a history that can be read; say on standard error which lines cannot."""
    entries, problems = history.read(path)
    _warned(problems)
    return entries


def refuse_mixture(exports: Exports, plot: Path | None, *, table: bool, check: bool) -> None:
    """Refuse flags that contradict each other."""
    measured = {"--benchmark-json": exports.benchmark_json, "--bmf": exports.bmf, "--history": exports.history}
    given = [flag for flag, path in measured.items() if path is not None] + ["--check"] * check
    if table and given:
        raise InputError(f"--from reads a table and runs nothing; it goes without {' and '.join(given)}")
    if plot is None:
        return
    if exports.history is None:
        raise InputError("--plot draws a history: name it with --history FILE")
    if plot.is_dir():
        raise InputError([Problem(str(plot), "is a folder; name a file in it")])
    unused = [flag for flag in given if flag not in {"--history", "--check"}]
    if unused and not check:
        raise InputError(f"--plot without --check runs nothing; it goes without {' and '.join(unused)}")


def draw(path: Path, plot: Path, *, as_json: bool) -> None:
    """Draw a history as an HTML page and say what it shows; lines that cannot be read are named on standard error."""
    from capacity import charts

    entries, problems = history.read(path)
    _warned(problems)
    if not entries:
        raise InputError([Problem(str(path), "holds no run that can be drawn")])
    files.write_text(plot, charts.page(charts.history_lines(history.trend(entries))))
    if as_json:
        skipped = [str(problem) for problem in problems]
        print(json.dumps({"file": str(plot), "runs": len(entries), "skipped": skipped}))
    else:
        console(stderr=True).print(f"{len(entries)} runs drawn: {plot}", markup=False, soft_wrap=True)


def _warned(problems: Sequence[Problem]) -> None:
    for problem in problems:
        console(stderr=True).print(str(problem), style="yellow", markup=False, soft_wrap=True)
