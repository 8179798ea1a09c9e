"""Stages made of others or of nothing: a delay, stages in series, texts of their own, a cache and a fallback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log1p, sqrt

import numpy as np

from capacity.fleet.flow import Flow, Outcome, Times, joined
from capacity.fleet.lengths import Lengths
from capacity.fleet.replicas import key_of, mixed
from capacity.fleet.simulator import Stage


class Held:
    """Requests that wait for a moment to pass."""

    def __init__(self) -> None:
        self.flow = Flow.of(np.zeros(0, np.int64), np.zeros(0))

    def released(self, later: Sequence[Flow], until_s: float) -> Flow:
        """Return those whose moment comes by `until_s`, in the order of time; keep the rest."""
        inside = joined([self.flow, *later]).sorted()
        ready = int(np.searchsorted(inside.time_s, until_s, side="right"))
        self.flow = inside.at(np.arange(ready, len(inside)))
        return inside.at(np.arange(ready))


class Delay:
    """A stage without a queue.

    Parameters
    ----------
    mean_s, variation
        Mean time, and its standard deviation ÷ mean (log-normal, the same for a request however the run is cut) [s].
    first
        Whether the first token is seen later by as much: what delays answers delays it too.

    Examples
    --------
    >>> flow = Flow.of(np.arange(2), np.array([0.0, 1.0]))
    >>> Delay(0.5).advance(flow, 1.2).time_s.tolist()
    [0.5]
    """

    def __init__(
        self, mean_s: float, variation: float = 0.0, *, seed: int = 0, name: str = "", first: bool = False
    ) -> None:
        self._mean_s, self._sigma, self._first = mean_s, sqrt(log1p(variation**2)), first
        self._keys = key_of(seed, name, "radius"), key_of(seed, name, "angle")
        self._held = Held()

    def advance(self, flow: Flow, until_s: float) -> Flow:
        """Return the requests whose time has passed by `until_s`, in the order of time."""
        times_s = self._times_s(flow)
        later = flow.delayed(times_s)
        if self._first:
            later = replace(later, first_s=later.first_s + times_s)
        return self._held.released([later], until_s)

    def _times_s(self, flow: Flow) -> Times:
        if not self._sigma:
            return np.full(len(flow), self._mean_s)
        one, other = (np.asarray(mixed(key, flow.request.astype(np.uint64))) for key in self._keys)
        deviate = np.sqrt(-2 * np.log(one)) * np.cos(2 * np.pi * other)
        return np.asarray(self._mean_s * np.exp(self._sigma * deviate - self._sigma**2 / 2))

    def statistics(self) -> Mapping[str, object]:
        """Return how many requests are on their way."""
        return {"inside": len(self._held.flow)}


class Texted:
    """A stage whose requests have texts of their own: each stage of a pipeline reads and writes something else.

    Parameters
    ----------
    lengths
        What requests ask of this stage, by request number.
    name
        Stages of different names draw independently; reading and writing of one stage share a name.
    outputs
        Whether outputs are this stage's too; else a later stage still sees those of the last that wrote.
    """

    def __init__(self, stage: Stage, lengths: Lengths, *, seed: int = 0, name: str = "", outputs: bool = True) -> None:
        self._stage, self._lengths, self._outputs = stage, lengths, outputs
        self._seed = int(key_of(seed, name, "texts") % np.uint64(2**32)) if name else seed

    def advance(self, flow: Flow, until_s: float) -> Flow:
        """Return what leaves the stage, see there."""
        if len(flow):
            first, last = int(flow.request.min()), int(flow.request.max()) + 1
            told, row = self._lengths.columns(self._seed, first, last), flow.request - first
            flow = replace(flow, input_tokens=told.input_tokens[row])
            if self._outputs:
                flow = replace(flow, output_tokens=told.output_tokens[row], prefix=told.prefix[row])
        return self._stage.advance(flow, until_s)

    def statistics(self) -> Mapping[str, object]:
        """Return what the stage says about its run."""
        return self._stage.statistics()


class InSeries:
    """Stages one after the other as one: what leaves the first enters the next.

    Parameters
    ----------
    stages
        In order.
    speaks
        Which of them says about the run what the whole says.
    """

    def __init__(self, stages: Sequence[Stage], speaks: int = 0) -> None:
        self._stages, self._speaks = stages, speaks

    def advance(self, flow: Flow, until_s: float) -> Flow:
        """Return what leaves the last stage."""
        for stage in self._stages:
            flow = stage.advance(flow, until_s)
        return flow

    def statistics(self) -> Mapping[str, object]:
        """Return what the stage that speaks says about its run."""
        return self._stages[self._speaks].statistics()


LOST = tuple(map(int, (Outcome.SHED, Outcome.TIMED_OUT, Outcome.FAILED)))


class Guarded:
    """A stage behind a cache, and with a fallback for what it gives up.

    Parameters
    ----------
    hit_rate
        Share of the requests that the cache answers at once.
    fallback_s
        Time after which a request goes on without the stage's result once it is given up [s]; None: it has failed.
    """

    def __init__(
        self, stage: Stage, hit_rate: float, fallback_s: float | None = None, *, seed: int = 0, name: str = ""
    ) -> None:
        self._stage, self._hit_rate, self._fallback_s = stage, hit_rate, fallback_s
        self._key, self._held, self._fallbacks = key_of(seed, name, "cache"), Held(), 0

    def advance(self, flow: Flow, until_s: float) -> Flow:
        """Return cached answers, answers, and what goes on without one, in the order of time."""
        drawn = np.asarray(mixed(self._key, flow.request.astype(np.uint64)))
        hit = drawn < self._hit_rate
        cached = flow.at(hit)
        left = self._stage.advance(flow.at(~hit), until_s)
        parts = [replace(cached, outcome=np.full(len(cached), int(Outcome.CACHED))), left]
        if self._fallback_s is not None:
            lost = np.isin(left.outcome, LOST)
            fallen = left.at(lost).delayed(self._fallback_s)
            self._fallbacks += len(fallen)
            parts[1:] = [left.at(~lost), replace(fallen, outcome=np.full(len(fallen), int(Outcome.FALLBACK)))]
        return self._held.released(parts, until_s)

    def statistics(self) -> Mapping[str, object]:
        """Return what the stage says, and how many requests went on without it."""
        return {**self._stage.statistics(), "fallbacks": self._fallbacks}
