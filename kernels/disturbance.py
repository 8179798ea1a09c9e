"""Whether a measurement can be trusted: load from others, throttling, and reference kernels that never settled."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernels.nvml import NvmlUnavailableError, asked, handle_of, session
from kernels.processor import Root, usable_cpus
from kernels.timing import Timing

MOST_CONTAMINATED = 0.25
"""Share of samples beside a slow reference kernel above which a run is not trusted."""
MOST_FROM_OTHERS = 0.10
"""Share of our processors that other processes and guests may take."""
MOST_THROTTLED = 0.05
"""Share of the run that a cgroup's quota may hold us back."""
BUSY_GPU_PERCENT = 5
_SLOWDOWNS = {
    0x08: "hardware slowdown", 0x20: "software thermal slowdown", 0x40: "hardware thermal slowdown",
    0x80: "power brake",
}  # fmt: skip
"""Bits of nvmlClocksEventReasons that are no part of normal work; the power cap (0x04) is."""
_THERMAL = 1
"""NVML_PERF_POLICY_THERMAL."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What the kernel counted up to a time; absent counters are 0 and so never move."""

    time_s: float
    busy_s: float
    """Of the processors we may use: time not idle, other guests' (steal) included."""
    own_s: float
    quota_s: float
    """Time that the cgroup's quota held us back."""
    thermal: int
    """Thermal slowdowns of the processor's packages."""

    @classmethod
    def read(cls, root: Root = "/") -> Counters:
        """Return the counters of this moment."""
        wanted = {f"cpu{number}" for number in usable_cpus(root)}
        busy = 0
        for line in _text(root, "proc/stat").splitlines():
            name, *ticks = line.split()
            if name in wanted and len(ticks) >= 8:
                busy += sum(int(value) for index, value in enumerate(ticks[:8]) if index not in {3, 4})  # idle, iowait
        throttled = re.search(r"^throttled_usec (\d+)", _text(root, "sys/fs/cgroup/cpu.stat"), re.MULTILINE)
        folders = Path(root, "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")
        events = [_text(folder, "package_throttle_count") for folder in folders]
        return cls(
            time_s=time.monotonic(), busy_s=busy / _ticks_per_s(), own_s=sum(os.times()[:4]),
            quota_s=int(throttled[1]) / 1e6 if throttled else 0.0,
            thermal=max((int(count) for count in events if count), default=0),
        )  # fmt: skip


def between(before: Counters, after: Counters, usable: int, threads: int) -> list[str]:
    """Return what disturbed `threads` threads on `usable` processors between two readings.

    Others may keep the processors that we leave free; what they take beyond is taken from us.
    """
    elapsed_s = max(after.time_s - before.time_s, 1e-9)
    others = ((after.busy_s - before.busy_s) - (after.own_s - before.own_s)) / elapsed_s
    held_back = (after.quota_s - before.quota_s) / elapsed_s
    found = []
    if others - max(usable - threads, 0) > MOST_FROM_OTHERS * min(threads, usable):
        found.append(f"load from others: {others:.1f} of {usable} processors busy beside our {threads}")
    if held_back > MOST_THROTTLED:
        found.append(f"throttled: the cgroup's CPU quota held us back for {held_back:.0%} of the time")
    if after.thermal > before.thermal:
        found.append(f"throttled: the processor slowed down {after.thermal - before.thermal} times for its heat")
    return found


@dataclass(slots=True)
class Watch:
    """What is noted while a run lasts; `reasons` is complete after it."""

    reasons: list[str] = field(default_factory=list)
    _api: Any = None
    _handle: Any = None
    _seen: int = 0

    def glance(self) -> None:
        """Note why the GPU's clocks are held down at this moment."""
        if self._api is None:
            return
        for function in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            bits = asked(self._api, function, self._handle)
            if bits is not None:
                self._seen |= int(bits)
                return

    def begin_gpu(self, api: Any) -> float:  # noqa: ANN401
        """Look at the GPU before our own work starts; return the thermal violation time so far [s]."""
        self._api, self._handle = api, handle_of(api, 0)
        used = asked(api, "nvmlDeviceGetUtilizationRates", self._handle)
        if used is not None and used.gpu > BUSY_GPU_PERCENT:
            self.reasons.append(f"load from others: the GPU was {used.gpu} % busy before the run")
        return self._thermal_s()

    def end_gpu(self, thermal_s: float) -> None:
        """Add what the GPU counted and what the glances saw."""
        self.reasons += [f"throttled: the GPU reported {name}" for bit, name in _SLOWDOWNS.items() if self._seen & bit]
        held_s = self._thermal_s() - thermal_s
        if held_s > 0:
            self.reasons.append(f"throttled: the GPU slowed down for its heat for {held_s:.2g} s")

    def _thermal_s(self) -> float:
        status = asked(self._api, "nvmlDeviceGetViolationStatus", self._handle, _THERMAL)
        return float(status.violationTime) / 1e9 if status is not None else 0.0


@contextmanager
def watched(device: str, threads: int, nvml: Any = None) -> Iterator[Watch]:  # noqa: ANN401
    """Watch the machine while a run lasts.

    Parameters
    ----------
    device
        cpu or cuda. A GPU needs one processor to launch its kernels, so load beside that one does no harm.
    threads
        Threads the run computes with.
    """
    watch, usable = Watch(), len(usable_cpus())
    with ExitStack() as stack:
        thermal_s, api = 0.0, None
        if device == "cuda":
            with suppress(NvmlUnavailableError):
                api = stack.enter_context(session(nvml))
                thermal_s = watch.begin_gpu(api)
        before = Counters.read()
        yield watch
        watch.reasons += between(before, Counters.read(), usable, 1 if device == "cuda" else threads)
        if api is not None:
            watch.end_gpu(thermal_s)


def contaminated(timings: Mapping[str, Timing], whose: str) -> list[str]:
    """Return why the timings of a run are not trusted: too many samples beside a disturbed reference kernel.

    Parameters
    ----------
    timings
        Judged by the quietest reference of their run.
    whose
        Name of the run, for the message.
    """
    share = contaminated_share(timings.values())
    said = (
        f"{whose}: a neighbor was at work at {share:.1%} of the samples; at most {MOST_CONTAMINATED:.0%} are accepted"
    )
    return [said] if share > MOST_CONTAMINATED else []


def contaminated_share(timings: Iterable[Timing]) -> float:
    """Return the share of samples beside a slow reference kernel."""
    marks = [mark for timing in timings for mark in timing.contaminated]
    return sum(marks) / len(marks) if marks else 0.0


def _ticks_per_s() -> float:
    return float(os.sysconf("SC_CLK_TCK")) if hasattr(os, "sysconf") else 100.0


def _text(root: Root, path: str) -> str:
    try:
        return Path(root, path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
