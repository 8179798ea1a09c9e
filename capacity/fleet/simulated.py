"""What a simulation is told and what it found: latencies and how sure they are, outcomes, and whether it kept up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from capacity.errors import InputError, UnknownNameError
from capacity.fleet.flow import Counts, Flow, Outcome, Times
from capacity.fleet.histogram import Histogram, standard_error

OBJECTIVES = ("ttft", "tpot", "end_to_end")
QUANTILES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
SURE = 3.0
"""Standard deviations beyond which a queue is no accident."""
LOST = 0.05
"""Share of requests shed or timed out from which a pipeline counts as overloaded, however short its queues are."""
STANDS_OUT = 4.0
"""Times the usual time inside from which the slowest part of a run is named [1]."""
LEAST, SEGMENTS, SEGMENT = 4, 25, 80
"""Fewest and most parts of the run in which the queue is looked at; requests of one if they are enough for four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How long and how to simulate.

    Attributes
    ----------
    requests, duration_s
        Where the run ends: after so many requests, or when no more may come [s]; neither: with the arrivals.
    warm_up
        Share of the run that is left out of the statistics.
    seed
        Seed of arrivals and lengths; stages have their own.
    chunk
        Requests drawn and handed on at once; changes the speed, never the result.
    keep
        So many requests, the first ones, are recorded one by one.
    objectives
        Limits of `ttft`, `tpot` and `end_to_end` that a good answer keeps [s].
    most_inside
        The run is stopped as overloaded when more requests are in flight.
    progress
        Called after each chunk with the number of requests that have come.
    """

    requests: int | None = None
    duration_s: float | None = None
    warm_up: float = 0.1
    seed: int = 0
    chunk: int = 1 << 16
    keep: int = 0
    objectives: Mapping[str, float] = field(default_factory=dict)
    most_inside: int = 1_000_000
    progress: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise UnknownNameError("objective", name, OBJECTIVES)
        if not (0 <= self.warm_up < 1 and self.chunk > 0 and self.seed >= 0 and self.keep >= 0):
            raise InputError("settings need 0 <= warm_up < 1, chunk > 0, seed >= 0 and keep >= 0")
        if (self.requests is not None and self.requests < 1) or (self.duration_s is not None and self.duration_s <= 0):
            raise InputError("a run needs at least one request, and a duration above 0")


@dataclass(frozen=True, slots=True)
class Sampled:
    """A figure and its standard error from the Monte Carlo, by batch means; NaN where too little was seen."""

    value: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of the requests that got through [s].

    Attributes
    ----------
    count
        How many they are.
    mean, quantiles
        Mean, and p50, p90, p95, p99, p99.9 [s].
    histogram
        The times themselves, in 20 batches in order of arrival.
    """

    count: int
    mean: Sampled
    quantiles: Mapping[str, Sampled]
    histogram: Histogram

    @classmethod
    def of(cls, histogram: Histogram) -> Latency:
        """Return what a histogram says; a quantile of which a batch sees less than one request has no known error."""
        smallest = int(histogram.sizes.min())
        by_batch = histogram.quantiles(tuple(QUANTILES.values()))
        quantiles = {
            name: Sampled(
                histogram.quantile(share), standard_error(batches) if smallest * (1 - share) >= 1 else math.nan
            )
            for (name, share), batches in zip(QUANTILES.items(), by_batch.T, strict=True)
        }
        return cls(histogram.count, Sampled(histogram.mean_s, histogram.mean_error_s), quantiles, histogram)


@dataclass(frozen=True, slots=True)
class NodeResult:
    """One node of the pipeline.

    Attributes
    ----------
    latency
        Time in the node, queue included, of requests that went on from it [s].
    outcomes
        Requests by how they left it.
    statistics
        What the stage says about itself.
    """

    latency: Latency
    outcomes: Mapping[Outcome, int]
    statistics: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Saturation:
    """Whether the pipeline kept up with what came, and why this is said.

    Attributes
    ----------
    state
        `stable`; `backlogged`: a queue built up that chance does not explain, but it drained or stopped growing;
        `overloaded`: it grew to the end, or too many requests were lost. Latencies of an overloaded run are those of
        the requests that got through while it lasted: they say nothing about a longer one.
    """

    state: Literal["stable", "backlogged", "overloaded"]
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The run in at most 256 parts of equal length.

    Attributes
    ----------
    start_s
        Begin of each part [s].
    width_s
        Length of a part [s].
    arrivals_per_s
        Requests that came, per second.
    mean_s, p50_s, p99_s
        Latency of the requests that came in each part, lost ones included; NaN where none came [s].
    in_flight
        Requests inside at the end of each part.
    replicas_up
        Replicas that were up at the end of each part, by node whose stage says so.
    """

    start_s: Times
    width_s: float
    arrivals_per_s: Times
    mean_s: Times
    p50_s: Times
    p99_s: Times
    in_flight: Counts
    replicas_up: Mapping[str, Times]


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Single requests as columns, by request number.

    Attributes
    ----------
    requests
        `time_s` is when they left the pipeline [s].
    entered_s, left_s
        By node: when they entered and left it; NaN where they never did [s].
    """

    requests: Flow
    entered_s: Mapping[str, Times]
    left_s: Mapping[str, Times]

    @property
    def end_to_end_s(self) -> Times:
        """Time from the front door to the answer [s]."""
        return self.requests.time_s - self.requests.arrival_s

    @property
    def ttft_s(self) -> Times:
        """Time to first token; NaN where nothing was generated [s]."""
        return self.requests.first_s - self.requests.arrival_s

    @property
    def tpot_s(self) -> Times:
        """Time per output token after the first; NaN below two tokens [s]."""
        return time_per_output_token(self.requests)


@dataclass(frozen=True, slots=True)
class Simulated:
    """Result of one run. Latencies, outcomes and rates leave the warm-up out; the timeline shows all.

    Attributes
    ----------
    requests, measured
        Requests that came, and those of them after the warm-up.
    unfinished
        Requests inside when the run was stopped, or that no stage ever gave back.
    span_s
        Time from the first measured arrival to the last arrival [s].
    outcomes
        Measured requests by how they ended.
    end_to_end, ttft, tpot
        Latencies of requests that got through; lost ones are counted in `outcomes` only.
    nodes
        The same by node.
    offered_per_s
        Measured arrivals per second.
    throughput_per_s
        Requests answered per second while others still came.
    goodput_share, goodput_per_s
        Measured requests that were answered within all objectives, as a share of all and per second.
    """

    requests: int
    measured: int
    unfinished: int
    span_s: float
    outcomes: Mapping[Outcome, int]
    end_to_end: Latency
    ttft: Latency
    tpot: Latency
    nodes: Mapping[str, NodeResult]
    offered_per_s: float
    throughput_per_s: float
    goodput_share: Sampled
    saturation: Saturation
    timeline: Timeline
    records: Records | None

    @property
    def goodput_per_s(self) -> Sampled:
        """Requests per second answered within all objectives."""
        good = self.goodput_share
        return Sampled(good.value * self.offered_per_s, good.standard_error * self.offered_per_s)


def time_per_output_token(flow: Flow) -> Times:
    """Return (end-to-end − TTFT) ÷ (output tokens − 1) of each request; NaN below two tokens [s]."""
    gaps = np.where(flow.output_tokens > 1, flow.output_tokens - 1, np.nan)
    return np.asarray((flow.time_s - flow.first_s) / gaps)


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """How the mean time inside changed with the time of arrival, by segment.

    Attributes
    ----------
    middle_s
        Middle of each segment [s].
    arrived
        Requests that came in it.
    mean_s, error_s
        Their mean time inside, and its standard error if they knew nothing of each other [s].
    width_s
        Length of a segment [s].
    scv
        Squared coefficient of variation of the times between arrivals.
    """

    middle_s: Times
    arrived: Counts
    mean_s: Times
    error_s: Times
    width_s: float
    scv: float


def saturation(course: Course, lost_share: float) -> Saturation:
    """Return whether a run kept up, from the mean time inside of those that came one after the other.

    Parameters
    ----------
    course
        The measured part of the run.
    lost_share
        Share of measured requests that were shed or timed out.

    Notes
    -----
    By Little's law, a mean time inside that rises by w at rate λ means w·λ more requests inside. A stage at the very
    edge of its capacity makes a random walk: after n arrivals its queue has a variance of n·(scv + 1), about. A rise
    above an earlier segment by more than three standard deviations of that, and by half, is no accident. It is overload
    if it lasts to the end and a third of it or more came in the second half (least squares), else a backlog.
    """
    if lost_share > LOST:
        return Saturation("overloaded", f"{lost_share:.1%} of the requests were shed or timed out")
    if len(course.middle_s) < LEAST:
        return Saturation("stable", "too few requests to see a queue grow")
    rises = [_rise(course, row) for row in range(1, len(course.middle_s))]
    if max(rise.sigmas for rise in rises) < SURE:
        return Saturation("stable", f"the time inside did not grow beyond what chance explains{_slowest(course)}")
    half = slice(len(course.middle_s) // 2, None)
    slope = float(np.polyfit(course.middle_s[half], course.mean_s[half], 1)[0])
    late_s, last = slope * float(np.ptp(course.middle_s[half])), rises[-1]
    if last.sigmas >= SURE and late_s >= last.rise_s / 3:
        said = f"the time inside grew by {last.rise_s:.3g} s in all, by {slope:.3g} s per second in the second half"
        return Saturation("overloaded", f"{said} ({last.sigmas:.0f} σ)")
    worst = max(rises, key=lambda rise: rise.sigmas)
    said = f"a queue built up until {worst.when_s:.4g} s, where requests stayed {worst.rise_s:.3g} s longer"
    return Saturation("backlogged", f"{said} ({worst.sigmas:.0f} σ); it did not go on growing")


def _slowest(course: Course) -> str:
    """Return, where one segment stands out, how long requests stayed in it."""
    most, usual = float(course.mean_s.max()), float(np.median(course.mean_s))
    if most < STANDS_OUT * usual:
        return ""
    times = f", {most / usual:.3g} times as long as usual" if usual > 0 else ""
    return f"; but those around {course.middle_s[course.mean_s.argmax()]:.4g} s stayed {most:.3g} s on average{times}"


@dataclass(frozen=True, slots=True)
class _Rise:
    """How much longer requests of a segment stay than those of an earlier one, where chance explains that least."""

    when_s: float
    rise_s: float
    sigmas: float
    """The rise in standard deviations of what chance makes; 0 below half of what it was before."""


def _rise(course: Course, row: int) -> _Rise:
    return max((_rise_above(course, row, base) for base in range(row)), key=lambda rise: rise.sigmas)


def _rise_above(course: Course, row: int, base: int) -> _Rise:
    rise_s = float(course.mean_s[row] - course.mean_s[base])
    arrived = course.arrived[base : row + 1].sum()
    rate = arrived / (course.middle_s[row] - course.middle_s[base] + course.width_s)
    walk_s = math.sqrt((1 + course.scv) * arrived) / rate
    random_s = math.hypot(walk_s, course.error_s[row], course.error_s[base])
    return _Rise(float(course.middle_s[row]), rise_s, rise_s / random_s if rise_s > course.mean_s[base] / 2 else 0.0)


def course_of(timeline: Timeline, latencies: Histogram, measured_s: tuple[float, float], scv: float) -> Course:
    """Return the parts of a timeline that lie within `measured_s` [s], taken together to at most 25 segments."""
    begin_s, end_s = measured_s
    within = (timeline.start_s >= begin_s) & (timeline.start_s + timeline.width_s <= end_s)
    parts = np.flatnonzero(within)
    each = len(parts) // min(SEGMENTS, max(LEAST, int(latencies.sizes[parts].sum()) // SEGMENT)) or 1
    rows = parts[len(parts) % each :].reshape(-1, each)
    rows = rows[latencies.sizes[rows].sum(axis=1) > 0]
    segments = latencies.grouped(rows)
    return Course(
        middle_s=timeline.start_s[rows].mean(axis=1) + timeline.width_s / 2, arrived=segments.sizes,
        mean_s=segments.means_s, error_s=segments.spreads_s / np.sqrt(segments.sizes),
        width_s=each * timeline.width_s, scv=scv,
    )  # fmt: skip
