"""Energy meters of real devices: an NVIDIA GPU through NVML, a processor's sockets through RAPL."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capacity.errors import CapacityError
from kernels.nvml import (
    CLOCK_REASONS,
    SLOWDOWNS,
    SM_CLOCK,
    NvmlUnavailableError,
    asked,
    clock_reasons,
    gpu_name,
    handle_of,
    session,
)

SAMPLE_S = 0.05
"""Distance of two samples where a board has no energy counter: 20 Hz."""


class NotMeasuredError(CapacityError):
    """Power cannot be read, or can no longer be; says why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Energy counted since the monitor started [J], at a time of the monitor's clock [s]."""

    time_s: float
    energy_j: float


@dataclass(slots=True)
class Integral:
    """Energy as the integral of power samples, by the trapezoidal rule."""

    energy_j: float = 0.0
    _last: tuple[float, float] | None = field(default=None)

    def add(self, time_s: float, watts: float) -> float:
        """Take one more sample and return the energy so far [J].

        Examples
        --------
        >>> integral = Integral()
        >>> [integral.add(time_s, watts) for time_s, watts in ((0.0, 100.0), (1.0, 200.0), (3.0, 200.0))]
        [0.0, 150.0, 550.0]
        """
        if self._last is not None:
            earlier_s, earlier_w = self._last
            self.energy_j += (time_s - earlier_s) * (watts + earlier_w) / 2
        self._last = (time_s, watts)
        return self.energy_j


class NvmlMonitor:
    """An NVIDIA GPU: its own energy counter, or power samples at 20 Hz integrated where it has none.

    Parameters
    ----------
    index
        NVML's number of the GPU.
    nvml
        The module to ask; pynvml when absent.
    clock
        Seconds, monotonic.
    """

    def __init__(self, index: int = 0, nvml: Any = None, clock: Callable[[], float] = time.perf_counter) -> None:  # noqa: ANN401
        self.method, self.reason = "NVML total energy counter", ""
        self._index, self._nvml, self._clock = index, nvml, clock
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._open = ExitStack()
        self._counting, self._first_j = True, 0.0
        self._integral, self._failure = Integral(), ""

    def start(self) -> None:
        """Start NVML, find out what the GPU supports and begin to count."""
        try:
            self._api = self._open.enter_context(session(self._nvml))
            self._handle = handle_of(self._api, self._index)
        except NvmlUnavailableError as error:
            self.stop()
            raise NotMeasuredError(str(error)) from None
        first_mj = asked(self._api, "nvmlDeviceGetTotalEnergyConsumption", self._handle)
        self._counting, self._failure = first_mj is not None, ""
        if first_mj is not None:
            self.method, self._first_j = f"NVML total energy counter of {self._name()}", first_mj / 1e3
            return
        self.method, self._integral = f"NVML power samples of {self._name()}, 20 Hz, integrated", Integral()
        try:
            self._sample()
        except NotMeasuredError:
            self.stop()
            raise
        self._ended.clear()
        sampler = threading.Thread(target=self._sample_on, name="power", daemon=True)
        self._open.callback(sampler.join)
        self._open.callback(self._ended.set)
        sampler.start()

    def reading(self) -> Reading:
        """Return the energy since `start`."""
        if not self._counting:
            return self._sample()
        now_j = self._answer("nvmlDeviceGetTotalEnergyConsumption") / 1e3
        return Reading(self._clock(), now_j - self._first_j)

    def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def stop(self) -> None:
        """End the sampling and NVML."""
        self._open.close()

    def _name(self) -> str:
        return gpu_name(self._api, self._handle)

    def _answer(self, function: str) -> float:
        try:
            return float(getattr(self._api, function)(self._handle))
        except (AttributeError, self._api.NVMLError) as error:
            raise NotMeasuredError(f"{function} failed: {error}") from None

    def _sample(self) -> Reading:
        with self._lock:
            if self._failure:
                raise NotMeasuredError(self._failure)
            try:
                watts = self._answer("nvmlDeviceGetPowerUsage") / 1e3
            except NotMeasuredError as error:
                self._failure = str(error)
                raise
            now_s = self._clock()
            return Reading(now_s, self._integral.add(now_s, watts))

    def _sample_on(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            try:
                self._sample()
            except NotMeasuredError:
                return  # kept in `_failure`; the next reading says it


@dataclass(slots=True)
class ClockLog:
    """SM clock of a GPU and what held it down, noted while it works; the first half of the notes is settling.

    Attributes
    ----------
    api, handle
        The module to ask, and NVML's handle of the GPU.
    notes
        (clock [Hz] or None, bits of `nvml.CLOCK_REASONS`) of each moment.
    """

    api: Any
    handle: Any
    notes: list[tuple[float | None, int]] = field(default_factory=list)

    def note(self) -> None:
        """Note the clock and the reasons of this moment."""
        mhz = asked(self.api, "nvmlDeviceGetClockInfo", self.handle, SM_CLOCK)
        self.notes.append((None if mhz is None else mhz * 1e6, clock_reasons(self.api, self.handle)))

    @property
    def clock_hz(self) -> float | None:
        """Median clock once it had settled [Hz]; None where the card does not tell it."""
        known = [clock_hz for clock_hz, _ in self._settled if clock_hz is not None]
        return statistics.median(known) if known else None

    @property
    def reasons(self) -> tuple[str, ...]:
        """What held the clock down once it had settled; waiting for work does not count."""
        return tuple(name for bit, name in CLOCK_REASONS.items() if bit > 1 and self._bits & bit)

    @property
    def slowdowns(self) -> tuple[str, ...]:
        """Those of the reasons that are no part of normal work: what was measured then is not what the card can do."""
        return tuple(name for bit, name in CLOCK_REASONS.items() if bit & SLOWDOWNS and self._bits & bit)

    @property
    def said(self) -> str:
        """The log in words, empty when nothing could be read."""
        if self.clock_hz is None:
            return ""
        highest_mhz = asked(self.api, "nvmlDeviceGetMaxClockInfo", self.handle, SM_CLOCK)
        most = f" of at most {highest_mhz / 1e3:.4g}" if highest_mhz else ""
        held = f", held down by {' and '.join(self.reasons)}" if self.reasons else ""
        return f"SM clock {self.clock_hz / 1e9:.4g}{most} GHz{held}"

    @property
    def _settled(self) -> list[tuple[float | None, int]]:
        return self.notes[len(self.notes) // 2 :]

    @property
    def _bits(self) -> int:
        bits = 0
        for _, more in self._settled:
            bits |= more
        return bits


class RaplMonitor:
    """Packages and their memory, counted by RAPL: the whole sockets, other processes on them included.

    Linux lets only root read the counters; without that permission nothing is measured.

    Parameters
    ----------
    root
        Folder that stands for `/`.
    clock
        Seconds, monotonic.
    """

    def __init__(self, root: str | Path = "/", clock: Callable[[], float] = time.perf_counter) -> None:
        self.method, self.reason = "RAPL energy counters", ""
        self._root, self._clock = Path(root), clock
        self._ranges_uj: dict[Path, float] = {}
        self._last_uj: dict[Path, float] = {}
        self._energy_j = 0.0

    def start(self) -> None:
        """Find the counters and begin to count."""
        zones = self._zones()
        if not zones:
            raise NotMeasuredError("no RAPL counters under /sys/class/powercap (a virtual machine, or not Linux)")
        self._last_uj = {zone: _microjoules(zone / "energy_uj") for zone in zones}
        self._ranges_uj = {zone: _microjoules(zone / "max_energy_range_uj") for zone in zones}
        self._energy_j = 0.0
        names = ", ".join(sorted(zones.values()))
        self.method = f"RAPL energy counters of {names}"

    def reading(self) -> Reading:
        """Return the energy since `start`; a counter that went back to 0 counts its range in, once a reading."""
        for zone, last_uj in self._last_uj.items():
            now_uj = _microjoules(zone / "energy_uj")
            wrapped_uj = self._ranges_uj[zone] if now_uj < last_uj else 0.0
            self._energy_j += (now_uj + wrapped_uj - last_uj) / 1e6
            self._last_uj[zone] = now_uj
        return Reading(self._clock(), self._energy_j)

    def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def stop(self) -> None:
        """Do nothing: files are opened a reading at a time."""

    def _zones(self) -> dict[Path, str]:
        """Return packages and their memory; cores lie inside packages, and intel-rapl-mmio counts packages again."""
        zones = {}
        for path in sorted((self._root / "sys/class/powercap").glob("intel-rapl:*")):
            try:
                name = (path / "name").read_text(encoding="utf-8").strip()
            except OSError:
                continue
            if name.startswith("package") or name == "dram":
                zones[path] = name if name != "dram" else f"{name} ({path.name})"
        return zones


def _microjoules(path: Path) -> float:
    try:
        return float(path.read_text(encoding="utf-8"))
    except PermissionError:
        raise NotMeasuredError(f"{path} may be read by root only") from None
    except (OSError, ValueError) as error:
        raise NotMeasuredError(f"{path} cannot be read: {error}") from None
