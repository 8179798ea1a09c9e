"""The driver of the simulation: requests go through a graph of stages, chunk by chunk, in memory that stays bounded.

A stage simulates itself as far as it is told and keeps what is still inside, so nodes are asked one after the other in
topological order. All that reaches a stage until some time is handed over before it goes on from there: results do not
depend on how the run is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numba
import numpy as np
from numpy.typing import NDArray

from capacity.errors import InputError, UnknownNameError
from capacity.fleet.arrivals import Arrivals
from capacity.fleet.flow import Counts, Flow, Outcome, Times, joined
from capacity.fleet.lengths import Columns, Lengths
from capacity.fleet.simulated import Settings, Simulated
from capacity.fleet.tally import Tally

Bits = NDArray[np.bool_]
FALLBACK = int(Outcome.FALLBACK)


class Stage(Protocol):
    """What the driver needs of a stage."""

    def advance(self, flow: Flow, until_s: float) -> Flow:
        """Take the requests of `flow`, simulate to `until_s` [s], and return those that left, in the order of `time_s`.

        Whether that very moment is part of it is up to the stage. Without an end all leave that ever will.
        """

    def statistics(self) -> Mapping[str, object]:
        """Return what the stage says about its run; `timeline`: rows of time [s] and replicas up."""


@dataclass(frozen=True, slots=True)
class Node:
    """A stage in the pipeline.

    Attributes
    ----------
    after
        Names of the nodes that a request must have left before it enters this one; none: it enters on arrival.
    answers
        A hit in the cache of this stage answers the whole request.
    """

    name: str
    stage: Stage
    after: tuple[str, ...] = ()
    answers: bool = False


def simulate(nodes: Sequence[Node], arrivals: Arrivals, lengths: Lengths, settings: Settings) -> Simulated:
    """Return how requests fare that come as `arrivals` says and go through `nodes`.

    A request enters the nodes that come after nothing, goes on to all successors, waits where several nodes must have
    let it go, and leaves when the last nodes are done with it. If a node sheds, times out or fails it, it leaves at
    once; what other branches do with it goes on without it.

    Raises
    ------
    InputError
        When the nodes are no directed acyclic graph, or nothing ends the run.
    """
    order = ordered(nodes)
    tally = Tally([node.name for node in order], arrivals, settings)
    pipeline = _Pipeline(order, tally)
    for flow in _chunks(arrivals, lengths, settings):
        pipeline.advance(flow, float(flow.time_s[-1]))
        if settings.progress is not None:
            settings.progress(pipeline.came)
        if pipeline.in_flight > settings.most_inside:
            break
    else:
        tally.close()
        pipeline.advance(Flow.of(np.empty(0, np.int64), np.empty(0)), math.inf)
    return tally.result([node.stage.statistics() for node in order], pipeline.in_flight)


def ordered(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes so that each comes after those it needs.

    Raises
    ------
    InputError
        When a name is unknown or stands twice, or nodes wait for each other.
    """
    names = [node.name for node in nodes]
    if not nodes or len(set(names)) < len(names):
        raise InputError("a pipeline needs at least one node, and each a name of its own")
    for node in nodes:
        for name in node.after:
            if name not in names:
                raise UnknownNameError(f"node (which {node.name} comes after)", name, names)
    done: list[Node] = []
    left = list(nodes)
    while left:
        known = {node.name for node in done}
        ready = [node for node in left if known.issuperset(node.after)]
        if not ready:
            raise InputError(f"nodes wait for each other: {', '.join(node.name for node in left)}")
        done += ready
        left = [node for node in left if node not in ready]
    return done


def _chunks(arrivals: Arrivals, lengths: Lengths, settings: Settings) -> Iterator[Flow]:
    """Yield requests at the front door; requests that come at the same time stay together."""
    first, kept = 0, np.empty(0)
    most = math.inf if settings.requests is None else settings.requests
    end_s = math.inf if settings.duration_s is None else settings.duration_s
    for drawn in arrivals.chunks(settings.seed, settings.chunk):
        times = np.concatenate([kept, drawn])
        whole = int(min(most - first, np.searchsorted(times, end_s)))
        last = int(np.searchsorted(times, times[-1])) if whole == len(times) < most - first else whole
        if last:
            yield _requests(times[:last], lengths.columns(settings.seed, first, first + last), first)
        first, kept = first + last, times[last:]
        if whole < len(times) or first >= most:
            return
    if len(kept):
        yield _requests(kept, lengths.columns(settings.seed, first, first + len(kept)), first)


def _requests(times_s: Times, columns: Columns, first: int) -> Flow:
    flow = Flow.of(np.arange(first, first + len(times_s)), times_s)
    return replace(flow, **columns._asdict())


class _Inside(NamedTuple):
    """Requests that some node holds: row `request` modulo the number of rows, a power of two.

    The last column stands for the way out, which comes after all nodes that nothing comes after.
    """

    ready_s: Times
    """(rows, nodes + 1) When the request entered each node, or the latest that any node before it let it go [s]."""
    missing: Counts
    """(rows, nodes + 1) Nodes before each that still hold it."""
    held: Counts
    """(rows,) Nodes that hold it."""
    gone: Bits
    """(rows,) Whether it has left the pipeline."""
    first_s: Times
    fell_back: Bits

    @classmethod
    def empty(cls, rows: int, nodes: int) -> _Inside:
        """Return room for `rows` requests."""
        wide = (rows, nodes + 1)
        return cls(
            np.empty(wide), np.empty(wide, np.int64), np.zeros(rows, np.int64), np.empty(rows, np.bool_),
            np.empty(rows), np.empty(rows, np.bool_),
        )  # fmt: skip


class _Pipeline:
    """Nodes in topological order, and the requests inside them."""

    def __init__(self, order: Sequence[Node], tally: Tally) -> None:
        self.order, self.tally = order, tally
        names = [node.name for node in order]
        before = [[names.index(name) for name in node.after] for node in order]
        before.append([row for row in range(len(order)) if not any(row in others for others in before)])
        self.after = [
            np.array([row for row, others in enumerate(before) if node in others]) for node in range(len(order))
        ]
        self.before = np.array([len(others) for others in before])
        self.inside = _Inside.empty(1024, len(order))
        self.oldest = self.came = self.left = 0

    @property
    def in_flight(self) -> int:
        return self.came - self.left

    def advance(self, flow: Flow, until_s: float) -> None:
        """Let requests in and simulate all nodes through `until_s` [s]."""
        self._enter(flow)
        to: list[list[Flow]] = [[] for _ in self.before]
        for node, (item, wanted) in enumerate(zip(self.order, self.before[:-1], strict=True)):
            got = flow if not wanted else _in_order(to[node])
            self._leave(node, item.stage.advance(got, until_s), to)
        gone = _in_order(to[-1])
        gone = gone.at(_first_time(self.inside, gone.request))
        self.left += len(gone)
        self.tally.left(gone)
        self.oldest = _oldest(self.inside.held, self.oldest, self.came)

    def _enter(self, flow: Flow) -> None:
        rows = len(self.inside.held)
        while self.came + len(flow) - self.oldest > rows:
            self._grow()
            rows *= 2
        _enter(self.inside, flow.request, flow.arrival_s, self.before)
        self.came += len(flow)
        self.tally.came(flow)

    def _grow(self) -> None:
        """Double the rows."""
        requests, old = np.arange(self.oldest, self.came), self.inside
        self.inside = _Inside.empty(2 * len(old.held), len(self.order))
        for column, grown in zip(old, self.inside, strict=True):
            grown[requests % len(grown)] = column[requests % len(column)]

    def _leave(self, node: int, flow: Flow, to: list[list[Flow]]) -> None:
        """Note what left a node, and hand it to the nodes that are ready for it."""
        inside, rows = self.inside, flow.request & (len(self.inside.held) - 1)
        self.tally.at_node(node, flow, inside.ready_s[rows, node])
        ends = flow.outcome >= Outcome.SHED
        if self.order[node].answers:
            ends |= flow.outcome == Outcome.CACHED
        ready = np.zeros((len(self.before), len(flow)), np.bool_)
        left = _Left(flow.request, flow.time_s, flow.first_s, flow.outcome, ends)
        _leave(inside, node, self.after[node], left, ready)
        if ends.any():
            to[-1].append(flow.at(ends))
        for successor in self.after[node]:
            on = flow if ready[successor].all() else flow.at(ready[successor])
            to[successor].append(self._passed(on, successor))

    def _passed(self, flow: Flow, successor: int) -> Flow:
        """Return requests as their next node gets them, or as they leave."""
        inside, rows = self.inside, flow.request & (len(self.inside.held) - 1)
        if successor < len(self.order):
            time_s = flow.time_s if self.before[successor] == 1 else inside.ready_s[rows, successor]
            return replace(flow, time_s=time_s, outcome=np.zeros_like(flow.outcome))
        outcome = np.where(inside.fell_back[rows], int(Outcome.FALLBACK), int(Outcome.SERVED))
        return replace(flow, time_s=inside.ready_s[rows, successor], first_s=inside.first_s[rows], outcome=outcome)


def _in_order(flows: list[Flow]) -> Flow:
    """Return flows as one, in the order of time."""
    if len(flows) == 1 and np.all(flows[0].time_s[1:] >= flows[0].time_s[:-1]):
        return flows[0]
    return joined(flows).sorted()


@numba.njit(cache=True)
def _enter(inside: _Inside, request: Counts, arrival_s: Times, before: Counts) -> None:
    """Let requests into the nodes that come after nothing."""
    fronts = (before == 0).sum()
    for item in range(len(request)):
        row = request[item] & (len(inside.held) - 1)
        inside.ready_s[row] = -np.inf
        for node in range(len(before)):
            inside.missing[row, node] = before[node]
            if before[node] == 0:
                inside.ready_s[row, node] = arrival_s[item]
        inside.held[row] = fronts
        inside.gone[row] = inside.fell_back[row] = False
        inside.first_s[row] = np.nan


class _Left(NamedTuple):
    """Requests that left a node: what the kernel needs of a flow."""

    request: Counts
    time_s: Times
    first_s: Times
    outcome: Counts
    ends: Bits


@numba.njit(cache=True)
def _leave(inside: _Inside, node: int, after: Counts, flow: _Left, ready: Bits) -> None:
    """Tell the nodes after `node` that it let requests go, and mark which of them are `ready` for which."""
    for item in range(len(flow.request)):
        row = flow.request[item] & (len(inside.held) - 1)
        inside.held[row] -= 1
        if flow.ends[item]:
            continue
        inside.first_s[row] = np.fmax(inside.first_s[row], flow.first_s[item])
        inside.fell_back[row] |= flow.outcome[item] == FALLBACK
        for successor in after:
            inside.ready_s[row, successor] = max(inside.ready_s[row, successor], flow.time_s[item])
            inside.missing[row, successor] -= 1
            if inside.missing[row, successor] == 0:
                ready[successor, item] = True
                inside.held[row] += successor < ready.shape[0] - 1


@numba.njit(cache=True)
def _first_time(inside: _Inside, request: Counts) -> Bits:
    """Return which requests have not left before: one that two branches lost leaves once, with the first."""
    first = np.empty(len(request), np.bool_)
    for item in range(len(request)):
        row = request[item] & (len(inside.held) - 1)
        first[item] = not inside.gone[row]
        inside.gone[row] = True
    return first


@numba.njit(cache=True)
def _oldest(held: Counts, oldest: int, came: int) -> int:
    """Return the first request that some node holds."""
    while oldest < came and held[oldest & (len(held) - 1)] == 0:
        oldest += 1
    return oldest
