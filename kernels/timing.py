"""Timing that can be trusted on a shared machine: interleaved rounds, a reference kernel as probe, raw samples kept.

One measurement is a block of `inner` calls long enough for the clock. Blocks of different cases alternate, so that a
slow minute hits all of them alike, and each block stands between two runs of one reference kernel: where the reference
was slow, a neighbor was at work, and the sample is marked contaminated and kept out of the median.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from capacity.work.operations import Operation

METHOD_VERSION = 2
"""Raised when the way of measuring changes: numbers of different versions are not comparable."""
BLOCK_S = 2e-3
"""Shortest block worth timing; the clock's own cost is below 0.1 % of it."""
CONTAMINATED = 1.25
"""A sample counts as contaminated when its reference probes exceed the quiet reference by this factor."""
LEAST_CLEAN = 4
"""Clean samples below which a median is called unstable."""
STABLE = 0.05
"""A median is stable when half its 90 % bootstrap interval is at most this share of it."""
Run = Callable[[], object]
Mode = Literal["inference", "training"]


class Clock(Protocol):
    """Times `inner` calls of a kernel to their end on the device."""

    def time(self, run: Run, inner: int) -> float:
        """Return the wall time of all `inner` calls [s]."""


class Runner(Protocol):
    """What times a suite: PyTorch on a device, or an engine."""

    def clock(self) -> Clock:
        """Return the clock that sees a call's end."""

    def reference(self) -> Run:
        """Return the probe kernel, the same in every run."""


class HostClock:
    """The processor's monotonic clock, for kernels that return when they are done."""

    def time(self, run: Run, inner: int) -> float:
        """Return the wall time of all `inner` calls [s]."""
        start = time.perf_counter()
        for _ in range(inner):
            run()
        return time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to time: what it is called, the operations it executes, and how to set it up."""

    name: str
    operations: tuple[Operation, ...]
    build: Callable[[], Run]
    mode: Mode | None = None
    """Set for whole models: they check the sum of their operations and take no part in the fit of single ones."""
    calls: int = 1
    """Times that one run executes `operations`: graphs hold copies, to spread what a call of an engine costs."""
    alone: bool = False
    """Timed by itself: it changes the clocks that neighbors in a batch would run at."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured for one case. Samples are seconds per call, one a round, in order.

    `probes_s` holds, for each sample, the slower of the reference runs before and after it; `quiet_s` is what the
    reference takes on this machine when nobody disturbs it.
    """

    name: str
    samples_s: tuple[float, ...]
    probes_s: tuple[float, ...]
    quiet_s: float
    inner: int
    warmup_calls: int
    note: str = ""
    """What was unusual about running it, e.g. why its launches were not replayed as a graph."""

    @property
    def contaminated(self) -> tuple[bool, ...]:
        """For each sample, whether a neighbor was at work."""
        return tuple(probe > CONTAMINATED * self.quiet_s for probe in self.probes_s)

    @property
    def clean_s(self) -> tuple[float, ...]:
        """Samples whose probes were quiet; all of them when fewer than four were."""
        clean = tuple(s for s, bad in zip(self.samples_s, self.contaminated, strict=True) if not bad)
        return clean if len(clean) >= LEAST_CLEAN else self.samples_s

    @property
    def median_s(self) -> float:
        """Median of the clean samples [s]."""
        return float(np.median(self.clean_s))

    @property
    def interval_s(self) -> tuple[float, float]:
        """90 % bootstrap interval of the median [s] (Efron 1979; 400 resamples, fixed seed).

        A percentile interval of few samples is narrow: nine cover the true median 82 % of the time, fifteen 88 %.
        """
        samples = np.asarray(self.clean_s)
        draws = np.random.default_rng(0).integers(0, len(samples), size=(400, len(samples)))
        low, high = np.quantile(np.median(samples[draws], axis=1), [0.05, 0.95])
        return float(low), float(high)

    @property
    def verdict(self) -> Literal["stable", "unstable"]:
        """Whether the median is worth trusting: a narrow interval and enough clean samples."""
        low, high = self.interval_s
        enough = sum(not bad for bad in self.contaminated) >= LEAST_CLEAN
        return "stable" if enough and (high - low) / 2 <= STABLE * self.median_s else "unstable"

    def joined(self, other: Timing) -> Timing:
        """Return both measurements of the same case as one, judged by the quieter reference."""
        return replace(
            self, samples_s=self.samples_s + other.samples_s, probes_s=self.probes_s + other.probes_s,
            quiet_s=min(self.quiet_s, other.quiet_s), warmup_calls=self.warmup_calls + other.warmup_calls,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Effort:
    """How much time to spend on one batch of cases."""

    rounds: int = 9
    warmup_s: float = 0.15
    round_limit_s: float = 4.0
    """A batch stops after this time once it has five rounds."""


def warmed_up(run: Run, clock: Clock, limit_s: float) -> tuple[float, int]:
    """Run until two calls in a row agree within 10 %, or the limit. Return seconds a call and calls made."""
    calls, spent, previous = 0, 0.0, float("inf")
    while True:
        last = clock.time(run, 1)
        calls, spent = calls + 1, spent + last
        if calls >= 3 and abs(last - previous) <= 0.1 * previous:
            return last, calls
        if spent > limit_s and calls >= 2:
            return min(last, previous), calls
        previous = last


def measured(cases: Sequence[Case], reference: Run, clock: Clock, effort: Effort) -> Iterator[Timing]:
    """Time a batch of cases in interleaved rounds and yield one `Timing` a case.

    Parameters
    ----------
    cases
        Few enough that their tensors fit in memory together.
    reference
        The probe: a short compute-bound kernel, the same throughout a run.
    """
    runs = [case.build() for case in cases]
    warm = [warmed_up(run, clock, effort.warmup_s) for run in runs]
    inner = [max(1, int(np.ceil(BLOCK_S / max(seconds, 1e-7)))) for seconds, _ in warm]
    samples: list[list[float]] = [[] for _ in cases]
    probes: list[list[float]] = [[] for _ in cases]
    started = time.perf_counter()
    for number in range(effort.rounds):
        if number >= 5 and time.perf_counter() - started > effort.round_limit_s:
            break
        before = clock.time(reference, 1)
        for index, run in enumerate(runs):
            samples[index].append(clock.time(run, inner[index]) / inner[index])
            after = clock.time(reference, 1)
            probes[index].append(max(before, after))
            before = after
    quiet = float(np.quantile([probe for row in probes for probe in row], 0.25))
    for index, case in enumerate(cases):
        yield Timing(
            case.name, tuple(samples[index]), tuple(probes[index]), quiet, inner[index], warm[index][1],
            note=str(getattr(runs[index], "note", "")),
        )  # fmt: skip
