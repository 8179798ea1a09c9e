"""The history of calibrations and checks: one line of JSON a run, only ever appended to.

A line is written by one `write` to a file opened for appending, so runs that end at the same time do not mix their
lines (POSIX: the offset is set and the data written as one step; on a local file system). A line that cannot be read
is reported with its place and passed over; it is never removed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from capacity.errors import InputError, Problem
from capacity.spec.calibration import Machine
from capacity.spec.quantity import Spec

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LEAST_COMMON = 5
"""Cases that all runs must share for their scatter to be told."""
RECENT = 30
"""Runs that are looked back at."""


class Entry(Spec):
    """One run."""

    time: AwareDatetime
    kind: Literal["calibrate", "check"]
    machine: Machine
    device: str
    engine: str = "eager"
    method_version: int
    medians_s: dict[str, dict[str, Positive]]
    """Class of operations → case → median seconds a call."""
    baseline: str | None = None
    verdict: Literal["pass", "fail", "inconclusive"] | None = None
    ratio: Positive | None = None
    """Time over the baseline's, with its 90 % interval."""
    low: Positive | None = None
    high: Positive | None = None
    disturbed: tuple[str, ...] = ()
    commit: str | None = None

    @property
    def place(self) -> str:
        """The machine whose runs can be compared with this one."""
        return place_of(self.machine, self.device, self.engine)

    @property
    def cases_s(self) -> dict[tuple[str, str], float]:
        """Median seconds by (class, case)."""
        return {(group, name): value for group, part in self.medians_s.items() for name, value in part.items()}


def place_of(machine: Machine, device: str, engine: str = "eager") -> str:
    """Return what two runs must have in common to be compared: hardware, device, threads and engine."""
    return f"{machine.name}, {device}, {machine.threads} threads" + ("" if engine == "eager" else f", {engine}")


def append(path: Path, entry: Entry) -> None:
    """Add a run to the history; a last line that was cut off is ended first, so that it takes no other along.

    Raises
    ------
    InputError
        When the file cannot be written, or not as a whole.
    """
    line = (entry.model_dump_json(exclude_defaults=True) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            whole = (b"\n" if _torn(path) else b"") + line
            if os.write(handle, whole) != len(whole):
                raise InputError([Problem(str(path), "could not be written as a whole: is the disk full?")])
        finally:
            os.close(handle)
    except OSError as error:
        raise InputError([Problem(str(path), f"cannot be written: {error.strerror or error}")]) from None


def _torn(path: Path) -> bool:
    """Tell whether the last line has no end."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        return size > 0 and file.seek(size - 1) >= 0 and file.read(1) != b"\n"


def read(path: Path) -> tuple[list[Entry], list[Problem]]:
    """Return the runs of a history in the order of time, and the lines that could not be read.

    Raises
    ------
    InputError
        When there is no such file or it cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError([Problem(str(path), f"cannot be read: {error.strerror or error}")]) from None
    entries, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entries.append(Entry.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            problems.append(Problem(f"{path}:{number}", f"is skipped: {where + ': ' if where else ''}{first['msg']}"))
    return sorted(entries, key=_time), problems


def comparable(entries: Iterable[Entry], place: str, method_version: int) -> list[Entry]:
    """Return the latest undisturbed runs of a machine that were measured in the same way."""
    found = [e for e in entries if e.place == place and e.method_version == method_version and not e.disturbed]
    return found[-RECENT:]


def log_seconds(entries: Sequence[Entry]) -> list[list[float]]:
    """Return the log seconds of the cases that all runs share, shape (runs, cases); empty when they share too few."""
    common = set.intersection(*(set(entry.cases_s) for entry in entries)) if entries else set()
    if len(common) < LEAST_COMMON:
        return []
    return [[math.log(entry.cases_s[case]) for case in sorted(common)] for entry in entries]


def trend(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return rows for a chart: each run's time over that of the first run on its machine, overall and by class.

    Returns
    -------
    list of dict
        machine, part ("all" or a class of operations), time, ratio (geometric mean over the cases that both runs
        measured), cases, verdict and note.
    """
    rows: list[dict[str, Any]] = []
    first: dict[tuple[str, int], Entry] = {}
    for entry in entries:
        then, now = first.setdefault((entry.place, entry.method_version), entry).cases_s, entry.cases_s
        parts: dict[str, list[float]] = {}
        for group, name in now.keys() & then.keys():
            for part in ("all", group):
                parts.setdefault(part, []).append(math.log(now[group, name] / then[group, name]))
        rows += [
            {
                "machine": entry.place, "part": part, "time": entry.time, "cases": len(logs), "note": _note(entry),
                "ratio": math.exp(math.fsum(logs) / len(logs)), "verdict": entry.verdict or entry.kind,
            }
            for part, logs in sorted(parts.items())
        ]  # fmt: skip
    return rows


def _note(entry: Entry) -> str:
    facts: Mapping[str, str | None] = {
        "commit": entry.commit and entry.commit[:12], "driver": entry.machine.driver, **entry.machine.software
    }  # fmt: skip
    said = ", ".join(f"{name} {value}" for name, value in facts.items() if value)
    return "; ".join([said, *entry.disturbed])


def _time(entry: Entry) -> datetime:
    return entry.time
