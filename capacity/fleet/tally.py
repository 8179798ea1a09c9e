"""The books of a simulation: what is counted while requests pass, and how it becomes a result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from capacity.errors import InputError
from capacity.fleet.arrivals import Arrivals
from capacity.fleet.flow import Counts, Flow, Outcome, Times, joined
from capacity.fleet.histogram import Histogram, standard_error
from capacity.fleet.simulated import (
    Latency,
    NodeResult,
    Records,
    Sampled,
    Saturation,
    Settings,
    Simulated,
    Timeline,
    course_of,
    saturation,
    time_per_output_token,
)  # fmt: skip  # isort: skip

BATCHES = 20
PARTS = 256
"""Most parts of a timeline; their length doubles when they are used up."""
COARSE = 5
"""Bits of the parts of an octave in the histograms of a timeline: bins 1.6 % to 3 % wide."""


class Batches:
    """Which measured requests belong together: equal shares of the run after the warm-up, in order of arrival."""

    def __init__(self, arrivals: Arrivals, settings: Settings) -> None:
        self.by_number = settings.requests is not None
        end = min(float(settings.requests or math.inf), arrivals.count)
        if not self.by_number:
            end = min(settings.duration_s or math.inf, arrivals.duration_s)
        if not math.isfinite(end):
            raise InputError("these arrivals never end: give `requests` or `duration_s`")
        self.start, self.length = end * settings.warm_up, (end * (1 - settings.warm_up) or 1.0) / BATCHES
        self.span_s = end / arrivals.mean_rate if self.by_number else end

    def of(self, flow: Flow) -> Counts:
        """Return the batch of each request; negative in the warm-up."""
        position = flow.request if self.by_number else flow.arrival_s
        return np.minimum(np.floor((position - self.start) / self.length), BATCHES - 1).astype(np.int64)


class Parts:
    """Arrivals, departures and latencies by part of the run."""

    def __init__(self, span_s: float) -> None:
        self.width_s = (span_s or 1.0) / 200
        self.arrived, self.left = np.zeros(PARTS, np.int64), np.zeros(PARTS, np.int64)
        self.latencies = Histogram.empty(PARTS, COARSE)

    def of(self, times_s: Times) -> Counts:
        """Return the part of each time, after making parts long enough for all."""
        while len(times_s) and times_s.max() >= PARTS * self.width_s:
            self.width_s *= 2
            self.latencies.halve()
            for column in (self.arrived, self.left):
                column[: PARTS // 2] = column[0::2] + column[1::2]
                column[PARTS // 2 :] = 0
        return (times_s / self.width_s).astype(np.int64)

    def timeline(self, statistics: Mapping[str, Mapping[str, object]]) -> Timeline:
        """Return what was counted, up to the last part in which anything happened."""
        used = int(np.flatnonzero(self.arrived + self.left).max()) + 1
        ends_s = np.arange(1, used + 1, dtype=np.float64) * self.width_s
        p50_s, p99_s = self.latencies.quantiles((0.5, 0.99)).T
        told = {name: said["timeline"] for name, said in statistics.items() if "timeline" in said}
        return Timeline(
            start_s=np.arange(used, dtype=np.float64) * self.width_s, width_s=self.width_s,
            arrivals_per_s=self.arrived[:used] / self.width_s, mean_s=self.latencies.means_s[:used],
            p50_s=p50_s[:used], p99_s=p99_s[:used],
            in_flight=np.cumsum(self.arrived - self.left)[:used],
            replicas_up={name: _up(points, ends_s) for name, points in told.items()},
        )  # fmt: skip


class Tally:
    """What is counted while requests come, leave nodes, and leave the pipeline."""

    def __init__(self, names: Sequence[str], arrivals: Arrivals, settings: Settings) -> None:
        self.names, self.settings, self.scv = names, settings, arrivals.scv
        self.batches = Batches(arrivals, settings)
        self.parts = Parts(self.batches.span_s)
        self.end_to_end, self.ttft, self.tpot, *self.by_node = (Histogram.empty(BATCHES) for _ in range(3 + len(names)))
        self.outcomes = np.zeros((len(names) + 1, len(Outcome)), np.int64)
        self.good, self.ended = np.zeros(BATCHES), np.zeros(BATCHES)
        self.requests = self.measured = self.answered = 0
        self.from_s, self.last_s, self.open = math.inf, 0.0, True
        self.kept: list[Flow] = []
        self.passed: list[tuple[int, Flow, Times]] = []

    def came(self, flow: Flow) -> None:
        """Count requests at the front door."""
        measured = self.batches.of(flow) >= 0
        self.requests += len(flow)
        self.measured += int(measured.sum())
        if self.from_s == math.inf and measured.any():
            self.from_s = float(flow.arrival_s[np.argmax(measured)])
        self.last_s = float(flow.arrival_s[-1]) if len(flow) else self.last_s
        self.parts.arrived += np.bincount(self.parts.of(flow.arrival_s), minlength=PARTS)

    def at_node(self, node: int, flow: Flow, entered_s: Times) -> None:
        """Count requests that left a node."""
        self._count(node, flow, flow.time_s - entered_s, self.by_node[node])
        kept = flow.request < self.settings.keep
        if kept.any():
            self.passed.append((node, flow.at(kept), entered_s[kept]))

    def left(self, flow: Flow) -> None:
        """Count requests that left the pipeline."""
        time_s = flow.time_s - flow.arrival_s
        batch = self._count(len(self.names), flow, time_s, self.end_to_end)
        good = batch >= 0
        good &= time_s <= self.settings.objectives.get("end_to_end", math.inf)
        if np.isnan(flow.first_s).all():
            good &= time_s <= self.settings.objectives.get("ttft", math.inf)
        else:
            good &= self._tokens(flow, time_s, batch)
        self.good += np.bincount(batch[good], minlength=BATCHES)
        if self.open:
            self.answered += int(((flow.outcome < Outcome.SHED) & (flow.time_s >= self.from_s)).sum())
        self.parts.left += np.bincount(self.parts.of(flow.time_s), minlength=PARTS)
        self.parts.latencies.add(time_s, self.parts.of(flow.arrival_s))
        kept = flow.request < self.settings.keep
        if kept.any():
            self.kept.append(flow.at(kept))

    def _tokens(self, flow: Flow, time_s: Times, batch: Counts) -> NDArray[np.bool_]:
        """Count times of tokens and return who keeps their objectives; an answer without tokens is its own first."""
        ttft_s, tpot_s = flow.first_s - flow.arrival_s, time_per_output_token(flow)
        self.ttft.add(ttft_s, batch)
        self.tpot.add(tpot_s, batch)
        limits = self.settings.objectives
        first_s = np.where(np.isnan(ttft_s), time_s, ttft_s)
        return (first_s <= limits.get("ttft", math.inf)) & ~(tpot_s > limits.get("tpot", math.inf))

    def _count(self, row: int, flow: Flow, time_s: Times, histogram: Histogram) -> Counts:
        """Count outcomes and times; return the batch of measured requests that got through, else a negative number."""
        batch = self.batches.of(flow)
        outcome = flow.outcome[batch >= 0]
        self.outcomes[row] += np.bincount(outcome, minlength=len(Outcome))
        if row == len(self.names):
            self.ended += np.bincount(batch[batch >= 0], minlength=BATCHES)
        batch = np.where(flow.outcome < Outcome.SHED, batch, -1)
        histogram.add(time_s, batch)
        return batch

    def close(self) -> None:
        """Note that nobody comes any more."""
        self.open = False

    def result(self, statistics: Sequence[Mapping[str, object]], unfinished: int) -> Simulated:
        """Return the books as a result."""
        span_s = self.last_s - self.from_s if self.measured else 0.0
        good, ended = self.good, self.ended
        known = np.divide(good, ended, out=np.full(BATCHES, math.nan), where=ended > 0)
        nodes = {
            name: NodeResult(Latency.of(times), _named(outcomes), said)
            for name, times, outcomes, said in zip(
                self.names, self.by_node, self.outcomes[:-1], statistics, strict=True
            )
        }
        timeline = self.parts.timeline(dict(zip(self.names, statistics, strict=True)))
        return Simulated(
            requests=self.requests, measured=self.measured, unfinished=unfinished, span_s=span_s,
            outcomes=_named(self.outcomes[-1]), end_to_end=Latency.of(self.end_to_end), ttft=Latency.of(self.ttft),
            tpot=Latency.of(self.tpot), offered_per_s=_per(self.measured, span_s),
            nodes=nodes, throughput_per_s=_per(self.answered, span_s), timeline=timeline,
            goodput_share=Sampled(_per(float(good.sum()), float(ended.sum())), standard_error(known)),
            saturation=self._saturation(timeline, unfinished), records=self._records() if self.settings.keep else None,
        )  # fmt: skip

    def _saturation(self, timeline: Timeline, unfinished: int) -> Saturation:
        if unfinished and self.open:
            said = f"stopped at {self.last_s:.4g} s with {unfinished:,} requests inside, more than allowed"
            return Saturation("overloaded", said)
        if unfinished:
            return Saturation("overloaded", f"{unfinished:,} requests were never answered")
        lost = self.outcomes[-1, [Outcome.SHED, Outcome.TIMED_OUT]].sum()
        course = course_of(timeline, self.parts.latencies, (self.from_s, self.last_s), self.scv)
        return saturation(course, _per(float(lost), self.measured))

    def _records(self) -> Records:
        flow = joined(self.kept) if self.kept else Flow.of(np.empty(0, np.int64), np.empty(0))
        flow = flow.at(np.argsort(flow.request))
        entered_s, left_s = (np.full((len(self.names), len(flow)), math.nan) for _ in range(2))
        for node, passed, since_s in self.passed:
            known = np.isin(passed.request, flow.request)  # others were still inside when the run was stopped
            found = np.searchsorted(flow.request, passed.request[known])
            entered_s[node, found], left_s[node, found] = since_s[known], passed.time_s[known]
        by_name = (dict(zip(self.names, times, strict=True)) for times in (entered_s, left_s))
        return Records(flow, *by_name)


def _up(points: object, times_s: Times) -> Times:
    """Return how many replicas were up at each time, from rows of (time [s], replicas up, …)."""
    rows = np.asarray(points, np.float64)
    return np.asarray(rows[np.maximum(np.searchsorted(rows[:, 0], times_s, side="right") - 1, 0), 1])


def _named(counts: Counts) -> dict[Outcome, int]:
    return {outcome: int(count) for outcome, count in zip(Outcome, counts, strict=True) if count}


def _per(amount: float, whole: float) -> float:
    return amount / whole if whole > 0 else math.nan
