"""A calibration run: the suite timed batch by batch, every raw sample written to a file the moment it exists.

Interrupting it loses nothing: the samples file holds what was measured, the fit uses it, and a run with the same file
goes on where the last one stopped. Cases that did not settle are measured once more at the end.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from capacity.errors import InputError, Problem
from capacity.spec.calibration import Power
from capacity.work.measurement import Measurement
from kernels import collectives, gpu, suite
from kernels.meters import ClockLog
from kernels.nvml import NvmlUnavailableError, handle_of, nvml_index, session
from kernels.power import measured_power, monitor_for
from kernels.timing import METHOD_VERSION, Case, Clock, Effort, Run, Runner, Timing, measured
from kernels.torch_backend import Backend, torch

BATCH = 8
Progress = Callable[[int, int, str], None]
"""Called with (cases done, cases in all, name of the last one)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run may take."""

    quick: bool
    limit_s: float
    """No new batch starts after this time."""

    @property
    def effort(self) -> Effort:
        """Rounds a batch gets."""
        return Effort(rounds=9, round_limit_s=3.0) if self.quick else Effort(rounds=15, round_limit_s=6.0)


QUICK = Plan(quick=True, limit_s=45.0)
FULL = Plan(quick=False, limit_s=150.0)


@dataclass(slots=True)
class Samples:
    """What was measured so far, and the file that keeps it (JSON Lines: a header, then one line a case)."""

    path: Path
    timings: dict[str, Timing] = field(default_factory=dict)

    @classmethod
    def opened(cls, path: Path, fingerprint: str) -> Samples:
        """Return the samples in `path`, or start the file. Samples of another machine or method are refused.

        A last line that was cut off in the middle of writing is dropped.
        """
        samples = cls(path)
        header = {"method_version": METHOD_VERSION, "machine": fingerprint}
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(header) + "\n", encoding="utf-8")
                return samples
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            first, *lines = whole.splitlines()
            found, timings = json.loads(first), [_timing(json.loads(line)) for line in lines]
        except OSError as error:
            raise InputError([Problem(str(path), f"cannot be used: {error.strerror or error}")]) from None
        except (ValueError, TypeError, KeyError, UnicodeDecodeError):
            raise InputError([Problem(str(path), "is not a samples file of `capacity calibrate`")]) from None
        if found != header:
            raise InputError([Problem(str(path), "holds samples of another machine or method; name another file")])
        if whole != text:
            path.write_text(whole, encoding="utf-8")  # or the next line would continue the torn one
        for timing in timings:
            samples.timings[timing.name] = timing
        return samples

    def add(self, timing: Timing) -> None:
        """Keep a timing, joined with what was known of its case, and write it out."""
        known = self.timings.get(timing.name)
        self.timings[timing.name] = timing if known is None else known.joined(timing)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(self.timings[timing.name])) + "\n")

    def judged(self) -> dict[str, Timing]:
        """Return every timing judged by the quietest reference of the whole run."""
        probes = sorted(probe for timing in self.timings.values() for probe in timing.probes_s)
        quiet = probes[len(probes) // 10] if probes else 0.0
        return {name: dataclasses.replace(timing, quiet_s=quiet) for name, timing in self.timings.items()}


def _timing(row: dict[str, Any]) -> Timing:
    """Return the timing that a line of the samples file holds."""
    return Timing(
        name=str(row["name"]), samples_s=tuple(row["samples_s"]), probes_s=tuple(row["probes_s"]),
        quiet_s=float(row["quiet_s"]), inner=int(row["inner"]), warmup_calls=int(row["warmup_calls"]),
        note=str(row.get("note", "")),
    )  # fmt: skip


def time_suite(cases: Sequence[Case], backend: Runner, plan: Plan, samples: Samples, progress: Progress) -> None:
    """Time every case that `samples` lacks, then the unsettled ones again while time is left.

    KeyboardInterrupt passes through: what was measured is already in `samples`.
    """
    clock, reference = backend.clock(), backend.reference()
    deadline = time.monotonic() + plan.limit_s
    missing = [case for case in cases if case.name not in samples.timings]
    done = len(cases) - len(missing)
    for timing in _timed(missing, reference, clock, plan, deadline):
        samples.add(timing)
        done += 1
        progress(done, len(cases), timing.name)
    judged = samples.judged()
    unsettled = [case for case in cases if case.name in judged and judged[case.name].verdict == "unstable"]
    for timing in _timed(unsettled, reference, clock, plan, deadline):
        samples.add(timing)
        progress(done, len(cases), f"again: {timing.name}")


def measurements(cases: Sequence[Case], samples: Samples) -> list[Measurement]:
    """Return what the samples say of each case: its operations and the median seconds of executing them once."""
    judged = samples.judged()
    return [
        Measurement(case.name, case.operations, judged[case.name].median_s / case.calls, case.mode)
        for case in cases
        if case.name in judged
    ]


def notes(samples: Samples) -> dict[str, str]:
    """Return what was unusual about running a case, by case: launches that were timed with the host's gaps."""
    return {name: timing.note for name, timing in samples.timings.items() if timing.note}


@dataclass(frozen=True, slots=True)
class Sustained:
    """What a device did under a busy product for several seconds.

    Attributes
    ----------
    clocks
        Clock and what held it down, in words; empty where nothing could be read.
    slowdowns
        What is no part of normal work, heat or a power brake: a run with any is not what the card can do.
    """

    power: Power | Literal["not measured"]
    clocks: str = ""
    slowdowns: tuple[str, ...] = ()


def sustained(backend: Backend, nvml: Any = None) -> Sustained:  # noqa: ANN401
    """Return power, and on a GPU the clock and its limits, under a busy product; "not measured" without a counter."""
    if backend.device != "cuda":
        left, right = backend.random(1024, 1024), backend.random(1024, 1024)
        return Sustained(_power(measured_power(monitor_for(backend.device), lambda: left @ right)))
    dtype = "fp16" if "bf16" in suite.refusals(backend) else "bf16"
    work = gpu.paced(suite.sustained_case(dtype, backend, gpu.Card.local(nvml)).build())
    try:
        with session(nvml) as api:
            log = ClockLog(api, handle_of(api, nvml_index(0, api)))

            def noted() -> None:
                work()
                log.note()

            found = _power(measured_power(monitor_for(backend.device, nvml=nvml), noted))
            clocks, slowdowns = log.said, log.slowdowns
    except NvmlUnavailableError:
        return Sustained("not measured")
    if isinstance(found, Power) and clocks:
        found = found.model_copy(update={"method": f"{found.method}; {clocks}"})
    return Sustained(found, clocks, slowdowns)


def power(backend: Backend) -> Power | Literal["not measured"]:
    """Return the board's power under a busy product, or "not measured" where no counter can be read."""
    return sustained(backend).power


def collective_measurements(
    backend: Backend, plan: Plan, progress: Progress, *, asked: bool = False
) -> tuple[list[Measurement], Mapping[str, str]]:
    """Return what devices take to tell each other, and the kinds their library cannot do, with its words.

    Two or more GPUs are always measured; processes on a CPU only when `asked`.

    Raises
    ------
    CapacityError
        When a rank fails, dies or falls silent, or `asked` with a single GPU.
    """
    if not asked and (backend.device != "cuda" or torch().cuda.device_count() < 2):
        return [], {}
    found = collectives.measure(collectives.Exchange.local(backend.device, quick=plan.quick), progress)
    return list(found.measurements), found.skipped


def _power(reading: object) -> Power | Literal["not measured"]:
    return reading if isinstance(reading, Power) else "not measured"


def _timed(cases: Sequence[Case], reference: Run, clock: Clock, plan: Plan, deadline: float) -> Iterator[Timing]:
    for batch in _batches(cases):
        if time.monotonic() > deadline:
            return
        yield from measured(batch, reference, clock, plan.effort)


def _batches(cases: Iterable[Case]) -> Iterator[list[Case]]:
    """Yield cases that run together: whole models by fours, since each holds its weights in memory."""
    batch: list[Case] = []
    for case in cases:
        full = len(batch) >= (4 if case.mode else BATCH) or case.alone or (bool(batch) and batch[0].alone)
        if batch and (full or batch[0].mode != case.mode):
            yield batch
            batch = []
        batch.append(case)
    if batch:
        yield batch
