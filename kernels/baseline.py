"""What a check compares with: the raw rounds of an earlier run, and the machine they were taken on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capacity.errors import InputError, Problem
from capacity.spec.calibration import Machine
from kernels.check import Pair
from kernels.run import Samples
from kernels.timing import METHOD_VERSION, Case, Timing

LARGEST_BYTES = 400_000_000
PLACE = re.compile(r"(?P<name>.+) (?P<system>\S+) (?P<device>cpu|cuda) (?P<threads>[0-9]{1,6})(?: (?P<engine>\S+))?")
"""How the first line of a samples file names its machine; PyTorch (eager) is not named."""
Seconds = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Where and on what a baseline was measured. Software may differ: finding out what it does is the purpose."""

    source: str
    name: str
    """Processor, cores and GPUs."""
    device: str
    """cpu or cuda."""
    threads: int | None
    system: str
    engine: str = "eager"
    software: Mapping[str, str] = field(default_factory=dict)
    driver: str | None = None
    timings: Mapping[str, Timing] = field(default_factory=dict)
    """By case; empty for a calibration without its samples."""

    @classmethod
    def of_calibration(cls, source: str, machine: Machine, device: str, engine: str = "eager") -> Baseline:
        """Return the baseline of a calibration whose samples are lost."""
        return cls(
            source=source, name=machine.name, device=device, threads=machine.threads, system=machine.system,
            software=machine.software, driver=machine.driver, engine=engine,
        )  # fmt: skip

    def differences(self, now: Machine, device: str) -> list[str]:
        """Return how the machine differs from the one of the baseline: what makes times incomparable."""
        pairs = {"machine": (self.name, now.name), "device": (self.device, device)}
        if self.threads is not None:
            pairs["threads"] = (str(self.threads), str(now.threads))
        return [f"{what} was {then}, is {is_}" for what, (then, is_) in pairs.items() if then != is_]

    def changes(self, now: Machine) -> list[str]:
        """Return which software changed since, as far as the baseline knows: what a slowdown may be due to."""
        then = {"system": self.system, **self.software} | ({"driver": self.driver} if self.driver else {})
        known = {"system": now.system, **now.software} | ({"driver": now.driver} if now.driver else {})
        return [f"{what} {old} → {known.get(what, 'none')}" for what, old in then.items() if known.get(what) != old]


def read_samples(path: Path) -> Baseline:
    """Return what a samples file of `capacity calibrate` holds; it is only read, a line cut off at its end is dropped.

    Raises
    ------
    InputError
        When it is no samples file, its method is another one, or a line is broken; says which.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError([Problem(str(path), f"is larger than {LARGEST_BYTES:,} bytes")])
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError([Problem(str(path), f"cannot be read: {error.strerror or error}")]) from None
    except UnicodeDecodeError:
        raise InputError([Problem(str(path), "is not a samples file of `capacity calibrate`")]) from None
    first, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
    header = _loaded(first)
    place = PLACE.fullmatch(str(header.get("machine", "")))
    if place is None:
        raise InputError([Problem(str(path), "is not a samples file of `capacity calibrate`")])
    if header.get("method_version") != METHOD_VERSION:
        said = f"was measured by method {header.get('method_version')}, this is {METHOD_VERSION}; measure it anew"
        raise InputError([Problem(str(path), said)])
    timings = {}
    for number, line in enumerate(lines, start=2):
        timing = _timing(_loaded(line))
        if timing is None:
            raise InputError([Problem(f"{path}:{number}", "is not a line of a samples file")])
        timings[timing.name] = timing
    return Baseline(
        source=str(path), name=place["name"], device=place["device"], threads=int(place["threads"]),
        engine=place["engine"] or "eager", system=place["system"], timings=Samples(path, timings).judged(),
    )  # fmt: skip


def pairs(cases: Iterable[Case], then: Mapping[str, Timing] | Seconds, now: Mapping[str, Timing]) -> list[Pair]:
    """Return the clean rounds of every case that was measured now and was measured (or predicted) then."""
    both = [case for case in cases if case.name in then and case.name in now]
    return [Pair(case.name, group_of(case), _rounds(then[case.name]), now[case.name].clean_s) for case in both]


def group_of(case: Case) -> str:
    """Return the class of operations and dtype of a case, or the kind of whole model."""
    if case.mode is not None:
        return f"whole models, {case.mode}"
    return f"{case.operations[0].operation} {case.operations[0].dtype}"


def _rounds(then: Timing | float) -> tuple[float, ...]:
    return then.clean_s if isinstance(then, Timing) else (then,)


def _loaded(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _timing(row: Mapping[str, Any]) -> Timing | None:
    """Return the timing of a line, or None when it holds none: every time must be a positive number."""
    try:
        if not isinstance(row["samples_s"], list) or not isinstance(row["probes_s"], list):
            return None
        samples, probes = (tuple(float(value) for value in row[key]) for key in ("samples_s", "probes_s"))
        numbers = (*samples, *probes, quiet := float(row["quiet_s"]))
        if not samples or len(samples) != len(probes) or not all(0 < value < math.inf for value in numbers):
            return None
        return Timing(str(row["name"]), samples, probes, quiet, int(row["inner"]), int(row["warmup_calls"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
