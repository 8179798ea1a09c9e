"""Requests on their way between stages, as columns: what one stage of the simulation hands to the next."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
Counts = NDArray[np.int64]


class Outcome(IntEnum):
    """How a request left a stage, or the whole pipeline."""

    SERVED = 0
    CACHED = 1
    """Answered from a cache in front of the stage."""
    FALLBACK = 2
    """The stage gave up on it and the pipeline went on without its result."""
    SHED = 3
    """Refused at the door: the queue was full."""
    TIMED_OUT = 4
    FAILED = 5
    """Its replica died and no retry was left."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Columns of equal length, one row a request, in the order of `time_s`.

    Attributes
    ----------
    request
        Number of the request in order of arrival at the front door, from 0.
    arrival_s
        When it reached the front door [s].
    time_s
        When it reaches the stage that gets this flow, or left the stage that returned it [s].
    input_tokens, output_tokens
        Its lengths; 0 where a pipeline has no text.
    prefix
        Which shared prefix its prompt begins with; -1: none.
    outcome
        `Outcome` so far.
    first_s
        When its first token was out [s]; NaN before, and where nothing is generated.
    """

    request: Counts
    arrival_s: Times
    time_s: Times
    input_tokens: Counts
    output_tokens: Counts
    prefix: Counts
    outcome: Counts
    first_s: Times

    def __len__(self) -> int:
        return len(self.request)

    @classmethod
    def of(cls, request: Counts, arrival_s: Times) -> Flow:
        """Return requests at the front door, without text."""
        count = len(request)
        nothing, none = np.zeros(count, np.int64), np.full(count, -1, np.int64)
        return cls(request, arrival_s, arrival_s, nothing, nothing, none, nothing, np.full(count, np.nan))

    def at(self, rows: Counts | NDArray[np.bool_]) -> Flow:
        """Return some rows, in the order asked for."""
        return Flow(*(getattr(self, item.name)[rows] for item in fields(self)))

    def sorted(self) -> Flow:
        """Return the same rows in the order of `time_s`; equal times keep their order."""
        return self.at(np.argsort(self.time_s, kind="stable"))

    def delayed(self, seconds: float | Times) -> Flow:
        """Return the same requests later [s]."""
        return replace(self, time_s=self.time_s + seconds)


def joined(flows: list[Flow]) -> Flow:
    """Return the rows of all flows, unsorted."""
    return Flow(*(np.concatenate([getattr(flow, item.name) for flow in flows]) for item in fields(Flow)))
