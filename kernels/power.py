"""Board power while kernels run: energy counters of NVML and RAPL, or the plain statement that nothing was measured.

A monitor gives readings, each a time and the energy counted so far; mean power is the difference of two energies over
the difference of their times. Time belongs to the monitor too, so that a recorded sequence replays without waiting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from capacity.errors import CapacityError
from capacity.spec.calibration import Power
from kernels.meters import NotMeasuredError, NvmlMonitor, RaplMonitor, Reading
from kernels.nvml import NvmlUnavailableError, nvml_index, session
from kernels.timing import Run

__all__ = [
    "NotMeasuredError",
    "NullMonitor",
    "NvmlMonitor",
    "PowerMonitor",
    "RaplMonitor",
    "Reading",
    "Recording",
    "ReplayMonitor",
    "measured_power",
    "monitor_for",
]

MIN_WINDOW_S = 5.0
"""Shortest window whose mean counts: boards report power averaged over up to a second."""
SETTLE_S = 1.0
"""Work before the window, while clocks and the board's own averages settle [s]."""
IDLE_S = 2.0
"""Length of the idle window before the work [s]."""
BLOCK_S = 0.1
"""Work between two readings, so that reading a meter does not leave the device idle [s]."""
MOST_CALLS = 2**14
"""Most calls between two readings."""
NOT_MEASURED: Literal["not measured"] = "not measured"


class PowerMonitor(Protocol):
    """Counts the energy of one device from `start` to `stop`.

    Attributes
    ----------
    method
        How energy is counted, in words.
    reason
        Why nothing was measured; empty while all is well.
    """

    method: str
    reason: str

    def start(self) -> None:
        """Begin to count; NotMeasuredError when that cannot be done."""

    def reading(self) -> Reading:
        """Return the energy so far; NotMeasuredError when it can no longer be read."""

    def pause(self, seconds: float) -> None:
        """Let time pass on the monitor's clock [s]."""

    def stop(self) -> None:
        """Stop counting; harmless when nothing was started."""


class NullMonitor:
    """Where there is nothing to read: says so, and never gives a number."""

    method = "none"

    def __init__(self, reason: str = "this device has no power meter that can be read") -> None:
        self.reason = reason

    def start(self) -> None:
        """Refuse, with the reason."""
        raise NotMeasuredError(self.reason)

    def reading(self) -> Reading:
        """Refuse, with the reason."""
        raise NotMeasuredError(self.reason)

    def pause(self, seconds: float) -> None:
        """Return at once."""

    def stop(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Readings of a real or written run, in order, and what stopped it, if something did."""

    readings: tuple[Reading, ...]
    method: str = "replayed recording"
    failure: str = ""

    @classmethod
    def of(cls, pairs: Iterable[Iterable[float]], failure: str = "") -> Recording:
        """Return the recording of (time [s], energy [J]) pairs."""
        return cls(tuple(Reading(*map(float, pair)) for pair in pairs), failure=failure)


class ReplayMonitor:
    """Gives the readings of a recording one by one; everything above a meter can be tested with it."""

    def __init__(self, recording: Recording) -> None:
        self.method, self.reason = recording.method, ""
        self._recording = recording
        self._next = 0

    def start(self) -> None:
        """Rewind."""
        self._next = 0

    def reading(self) -> Reading:
        """Return the next recorded reading; after the last one, what stopped the recording."""
        if self._next >= len(self._recording.readings):
            ended = f"the recording ended after {len(self._recording.readings)} readings"
            raise NotMeasuredError(self._recording.failure or ended)
        self._next += 1
        return self._recording.readings[self._next - 1]

    def pause(self, seconds: float) -> None:
        """Return at once: recorded readings carry their own times."""

    def stop(self) -> None:
        """Do nothing."""


def monitor_for(device: str, root: str | Path = "/", nvml: Any = None) -> PowerMonitor:  # noqa: ANN401
    """Return the monitor of a torch device: `cpu`, `cuda` or `cuda:1`; a NullMonitor with the reason where none works.

    Raises
    ------
    CapacityError
        When the device's number is none.
    """
    kind, _, number = device.partition(":")
    if number and not number.isdigit():
        raise CapacityError(f"unknown device {device!r}; use cpu, cuda or cuda:0")
    if kind not in {"cpu", "cuda"}:
        return NullMonitor(f"no power meter is known for device {device!r}")
    monitor: PowerMonitor = RaplMonitor(root)
    try:
        if kind == "cuda":
            with session(nvml) as api:
                monitor = NvmlMonitor(nvml_index(int(number or 0), api), nvml)
        monitor.start()
    except (NotMeasuredError, NvmlUnavailableError) as error:
        return NullMonitor(str(error))
    monitor.stop()
    return monitor


def measured_power(monitor: PowerMonitor, run: Run, window_s: float = MIN_WINDOW_S) -> Power | Literal["not measured"]:
    """Return mean power while `run` is called again and again, and before that while nothing ran.

    busy = (energy at the end − energy at the start) / time between them [W], after a second of work to settle.

    Parameters
    ----------
    monitor
        Where energy is read. When nothing can be measured, its `reason` says why.
    run
        Keeps the device busy; calls that only queue work are fine, the queue never runs empty.
    window_s
        Shortest length of the busy window [s], at least 5.

    Raises
    ------
    CapacityError
        When the window is shorter than 5 s.
    """
    if not window_s >= MIN_WINDOW_S:
        raise CapacityError(f"a power window of {window_s:g} s is too short; use at least {MIN_WINDOW_S:g} s")
    try:
        monitor.start()
        try:
            idle_w, busy_w, length_s = _watched(monitor, run, window_s)
        finally:
            monitor.stop()
    except NotMeasuredError as error:
        monitor.reason = str(error)
        return NOT_MEASURED
    monitor.reason = ""
    return Power(busy=busy_w, idle=idle_w if idle_w > 0 else None, window=length_s, method=monitor.method)


def _watched(monitor: PowerMonitor, run: Run, window_s: float) -> tuple[float, float, float]:
    """Return idle and busy power [W] and the length of the busy window [s]."""
    before = monitor.reading()
    monitor.pause(IDLE_S)
    idle_w, _ = _mean_w(before, monitor.reading())
    _worked(monitor, run, SETTLE_S)
    busy_w, length_s = _mean_w(*_worked(monitor, run, window_s))
    if busy_w == 0:
        raise NotMeasuredError("the energy counter did not move while the device was busy")
    return idle_w, busy_w, length_s


def _worked(monitor: PowerMonitor, run: Run, seconds: float) -> tuple[Reading, Reading]:
    """Run until `seconds` have passed on the monitor's clock. Return the readings at both ends."""
    first = last = monitor.reading()
    calls = 1
    while last.time_s - first.time_s < seconds:
        for _ in range(calls):
            run()
        earlier, last = last, monitor.reading()
        if last.time_s - earlier.time_s < BLOCK_S:
            calls = min(2 * calls, MOST_CALLS)
    return first, last


def _mean_w(first: Reading, last: Reading) -> tuple[float, float]:
    """Return mean power [W] and the time between two readings [s]."""
    length_s, energy_j = last.time_s - first.time_s, last.energy_j - first.energy_j
    if length_s <= 0 or energy_j < 0:
        raise NotMeasuredError(f"the counter ran backwards: {energy_j:g} J in {length_s:g} s")
    return energy_j / length_s, length_s
