"""Stages of parallel servers: host work, fetches and index shards one request at a time, encoders in batches.

Each stage is simulated on its own: it takes the requests that reach it and returns those that left, in any cuts of time
with the same result. Events at the very end of a cut wait for the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log1p, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capacity.errors import CapacityError
from capacity.fleet.batching import (
    END,
    EXPONENTIAL,
    FIXED,
    LANE,
    LOGNORMAL,
    LOST,
    NOW,
    PART,
    ROW,
    SHED,
    SLOT,
    STATION,
    TABLE,
    TIMED_OUT,
    Rules,
    State,
)  # fmt: skip
from capacity.fleet.flow import Counts, Flow, Outcome, Times, joined
from capacity.fleet.replicas import Records, Replicas, born, key_of, mixed, settle
from capacity.fleet.station import free_lanes, run

Routing = Literal["shared", "round-robin", "least-loaded"]
QUEUED = 4096
"""Queue lengths counted one by one."""
Tables = tuple[Rules, Times, Counts, Times]
SPREADS = {"fixed": FIXED, "lognormal": LOGNORMAL, "exponential": EXPONENTIAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a stage does besides serving.

    Attributes
    ----------
    routing
        One queue for all replicas, or one each that requests join in turn or where the fewest texts are.
    queue_limit
        Most requests that wait in one queue; more are shed.
    timeout_s
        Longest wait in a queue before service begins [s].
    retries
        How often a request that timed out, or whose replica died, joins a queue again.
    fallback_s
        A request that is given up goes on without the stage's result after this time [s]; None: it has failed.
    hit_rate, hit_s
        Share of requests answered from a cache in front of the stage, and how long that takes [s].
    """

    routing: Routing = "shared"
    queue_limit: int | None = None
    timeout_s: float = inf
    retries: int = 0
    fallback_s: float | None = None
    hit_rate: float = 0.0
    hit_s: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.hit_rate <= 1 and self.hit_s >= 0 and (self.fallback_s or 0) >= 0):
            raise CapacityError("a stage's hit rate is from 0 to 1, its times are at least 0")
        if not (self.timeout_s > 0 and self.retries >= 0 and (self.queue_limit or 0) >= 0):
            raise CapacityError("a stage's time-out is positive, its retries and queue limit are at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Parallel servers that take one request at a time, first come, first served.

    Attributes
    ----------
    servers
        Of one replica (and shard).
    mean_s
        Mean service time [s].
    spread, variation
        Its distribution; "lognormal" has standard deviation ÷ mean `variation`.
    quantiles_s
        Instead: equally likely service times from the least to the longest [s], straight lines between.
    shards
        Each request goes to all of them, each with its own queue and servers, and is done when the slowest is.
    """

    servers: int = 1
    mean_s: float = 0.0
    spread: Literal["fixed", "lognormal", "exponential"] = "fixed"
    variation: float = 0.0
    quantiles_s: ArrayLike = ()
    shards: int = 1

    def of(self, rules: Rules) -> Tables:
        """Return the rules of such a stage, the time of a batch, bucket edges and factors of the time."""
        table = np.size(self.quantiles_s) > 0
        if min(self.servers, self.shards) < 1 or self.mean_s < 0 or np.size(self.quantiles_s) == 1:
            raise CapacityError("servers: at least 1 server and shard, times of at least 0, no or several quantiles")
        rules = rules._replace(
            shards=self.shards, lanes=self.servers, spread=TABLE if table else SPREADS[self.spread],
            sigma=sqrt(log1p(self.variation**2)),
        )  # fmt: skip
        times_s = np.array([[0.0, 1.0 if table else self.mean_s]])
        return rules, times_s, np.zeros(0, np.int64), np.array(self.quantiles_s, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Dynamic batching: a batch leaves when it is full or its first text has waited long enough, and a lane is free.

    Attributes
    ----------
    max_batch, max_wait_s
        Most texts of a batch; longest wait of the oldest before a smaller batch leaves [s].
    waits_from
        Whether that wait begins when the oldest arrives, or not before a free lane has taken it, one lane at a time
        (TorchServe, `Model.pollBatch`; mosec, `get_batch`): then a busy stage holds every batch that is not full.
    batch_s
        Time of a batch of 0, 1, … `max_batch` texts [s]. Rows, where a replica is cut in lanes that differ.
    token_step
        Where positive, `batch_s` goes by tokens in steps of so many instead, straight lines between and beyond.
    padded
        Whether every text counts as long as the longest of its batch.
    edges
        Most tokens of a text in each length bucket but the last; a batch holds texts of one bucket.
    sequences
        Texts of a request, each `Flow.input_tokens` long (the candidates of a cross-encoder); it is done when all are.
    lanes
        Batches at once on one replica: MIG slices, shared devices.
    variation
        Standard deviation ÷ mean of the time of equal batches, log-normal.
    """

    max_batch: int
    max_wait_s: float = 0.0
    waits_from: Literal["arrival", "lane"] = "arrival"
    batch_s: ArrayLike
    token_step: float = 0.0
    padded: bool = False
    edges: tuple[int, ...] = ()
    sequences: int = 1
    lanes: int = 1
    variation: float = 0.0

    def of(self, rules: Rules) -> Tables:
        """Return the rules of such a stage, the time of a batch, bucket edges and factors of the time."""
        times_s = np.array(self.batch_s, np.float64, ndmin=2)
        if min(self.max_batch, self.sequences, self.lanes) < 1 or not 0 <= self.max_wait_s < inf:
            raise CapacityError("batching: at least 1 text, sequence and lane; the longest wait is finite")
        if times_s.shape[0] not in {1, self.lanes} or not (self.token_step or times_s.shape[1] > self.max_batch):
            raise CapacityError(f"batching: times of 0 to {self.max_batch} texts are needed, for all lanes or for each")
        rules = rules._replace(
            lanes=self.lanes, buckets=len(self.edges) + 1, sequences=self.sequences, max_batch=self.max_batch,
            max_wait_s=float(self.max_wait_s), from_lane=self.waits_from == "lane", padded=self.padded,
            token_step=float(self.token_step), spread=LOGNORMAL if self.variation else FIXED,
            sigma=sqrt(log1p(self.variation**2)),
        )  # fmt: skip
        return rules, times_s, np.array(sorted(self.edges), np.int64), np.zeros(0)


_NOBODY = Flow.of(np.zeros(0, np.int64), np.zeros(0))
ONE, PLAIN = Replicas(), Policy()


class Station:
    """A stage of `Servers` or `Batching`.

    Examples
    --------
    >>> coming = Flow.of(np.arange(4), np.array([0.0, 0.5, 0.6, 9.0]))
    >>> Station(Servers(mean_s=1.0)).advance(coming, inf).time_s.tolist()
    [1.0, 2.0, 3.0, 10.0]
    >>> encoder = Batching(max_batch=2, max_wait_s=1.0, batch_s=[0.0, 3.0, 4.0])
    >>> Station(encoder).advance(coming, inf).time_s.tolist()
    [4.5, 4.5, 7.5, 13.0]
    """

    def __init__(
        self, work: Servers | Batching, replicas: Replicas = ONE, policy: Policy = PLAIN, seed: int = 0, name: str = ""
    ) -> None:
        self._rules, *tables = work.of(_rules(policy, key_of(seed, name)))
        self._state, self._policy = _empty(self._rules, tables, replicas), policy
        self._coming, self._later = _NOBODY, _NOBODY
        self._hits = self._fallbacks = 0

    def advance(self, flow: Flow, until_s: float) -> Flow:
        """Take the requests that reach the stage and return those that left before `until_s`, in the order of time.

        Parameters
        ----------
        flow
            In the order of `time_s`, none before the last `until_s` and none after this one.
        until_s
            Simulate up to here [s]; without an end, until all have left that ever will.
        """
        later = [self._later]
        if self._policy.hit_rate:
            hit = mixed(self._rules.key + np.uint64(2), flow.request.astype(np.uint64)) < self._policy.hit_rate
            found = flow.at(hit).delayed(self._policy.hit_s)
            later.append(replace(found, outcome=np.full(len(found), int(Outcome.CACHED))))
            flow, self._hits = flow.at(~hit), self._hits + int(hit.sum())
        if len(self._coming):
            flow = joined([self._coming, flow])
        self._state = state = _with_room(self._state, self._rules, len(flow))
        arrived = run(state, self._rules, _rows(flow), until_s)
        self._coming = flow.at(np.arange(arrived, len(flow)))
        out = state.out[: state.now["out"][0]]
        left = Flow(*(np.ascontiguousarray(out[name]) for name in _NOBODY.__slots__))
        return self._merged([*self._given_up(left), *later], until_s)

    def _given_up(self, left: Flow) -> list[Flow]:
        """Return those served, and those that go on without the stage's result a little later."""
        if self._policy.fallback_s is None:
            return [left]
        lost = np.isin(left.outcome, (SHED, TIMED_OUT, LOST))
        fallen = left.at(lost).delayed(self._policy.fallback_s)
        self._fallbacks += len(fallen)
        return [left.at(~lost), replace(fallen, outcome=np.full(len(fallen), int(Outcome.FALLBACK)))]

    def _merged(self, flows: list[Flow], until_s: float) -> Flow:
        """Return what leaves before `until_s`, in the order of time; keep the rest."""
        flows = [flow for flow in flows if len(flow)]
        if len(flows) <= 1 and not (flows and flows[0].time_s[-1] >= until_s):
            self._later = _NOBODY
            return flows[0] if flows else _NOBODY
        every = joined(flows).sorted()
        gone = int(np.searchsorted(every.time_s, until_s)) if until_s < inf else len(every)
        self._later = every.at(np.arange(gone, len(every)))
        return every.at(np.arange(gone))

    def statistics(self) -> Mapping[str, Any]:
        """Return what the stage did so far, up to its last event.

        Returns
        -------
        dict
            `served`, `cached`, `fallback` (of the next three), `shed`, `timed_out`, `failed`, `inside` [requests];
            `until_s` [s]; `mean_inside`, `mean_waiting`: averages over time; `lane_busy_s` [s]; `utilization` of
            replicas that were up; `replica_s` paid until `settled_s` [s]; `batches` by texts;
            `queued_s` by parts waiting [s]; `timeline`: rows of time [s], replicas up, replicas starting.
        """
        now, life, lanes = self._state.now[0], self._state.life, self._rules.lanes * self._rules.shards
        until_s = float(now["time_s"])
        settle(life, max(until_s, float(life.now["settled_s"][0])))
        up_s, span_s = float(life.now["up_s"][0]), until_s or 1.0
        left = {outcome.name.lower(): int(self._state.tally[outcome]) for outcome in Outcome}
        return {
            **left, "cached": self._hits, "fallback": self._fallbacks, "inside": int(now["inside"]), "until_s": until_s,
            "mean_inside": float(now["inside_s"]) / span_s, "mean_waiting": float(now["waiting_s"]) / span_s,
            "lane_busy_s": self._state.lanes["busy_s"].copy(), "replica_s": float(life.now["paid_s"][0]),
            "settled_s": float(life.now["settled_s"][0]),
            "utilization": float(now["busy_s"]) / lanes / up_s if up_s else 0.0,
            "batches": self._state.batches.copy(), "queued_s": self._state.queued_s.copy(),
            "timeline": life.timeline[: int(life.now["points"][0])].copy(),
        }  # fmt: skip


def _rows(flow: Flow) -> Records:
    """Return the columns of a flow as rows."""
    rows = np.empty(len(flow), ROW)
    for name in _NOBODY.__slots__:
        rows[name] = getattr(flow, name)
    return rows


def _rules(policy: Policy, key: np.uint64) -> Rules:
    """Return the rules of single servers that take one text at a time."""
    return Rules(
        shards=1, lanes=1, shared=policy.routing == "shared", least_loaded=policy.routing == "least-loaded", buckets=1,
        sequences=1, max_batch=1, max_wait_s=0.0, from_lane=False, retries=policy.retries,
        timeout_s=float(policy.timeout_s), padded=False, token_step=0.0, spread=FIXED, sigma=0.0, key=key,
        queue_limit=2**62 if policy.queue_limit is None else policy.queue_limit,
    )  # fmt: skip


def _empty(rules: Rules, tables: Sequence[NDArray[Any]], replicas: Replicas) -> State:
    """Return a station without requests."""
    batch_s, edges, factors = tables
    stations = rules.shards * (1 if rules.shared else replicas.most + 1)
    queues, lanes = stations * rules.buckets, replicas.most * rules.shards * rules.lanes
    ends = np.repeat(np.arange(queues + 1)[:, None], 2, axis=1)
    state = State(
        life=born(replicas, rules.key + np.uint64(1)), batch_s=batch_s, edges=edges, factors=factors,
        now=np.zeros(1, NOW), out=np.zeros(0, ROW), held=np.zeros(0, ROW), slots=np.zeros(0, SLOT),
        free=np.zeros(0, np.int64), parts=np.zeros(queues + 1, PART), line=ends.copy(), age=ends,
        waiting=np.zeros(queues, np.int64), stations=np.zeros(stations, STATION),
        freed=np.concatenate([np.full((stations, 2), -1), [[stations, stations]]]),
        idle=np.zeros((stations, replicas.most * rules.lanes if rules.shared else rules.lanes), np.int64),
        lanes=np.zeros(lanes, LANE), batch=np.zeros((lanes, rules.max_batch, 2), np.int64), ends=np.zeros(lanes, END),
        batches=np.zeros(rules.max_batch + 1, np.int64), queued_s=np.zeros(QUEUED + 1),
        tally=np.zeros(len(Outcome), np.int64),
    )  # fmt: skip
    state.now["due"] = state.now["late"] = queues
    free_lanes(state, rules)
    return state


def _with_room(state: State, rules: Rules, more: int) -> State:
    """Return the station with slots for so many more requests, and rows for all that may leave."""
    free, slots = int(state.now["free"][0]), len(state.slots)
    if more > free:
        add = max(more - free, slots // 2, 1024)
        state.now["free"] += add
        state = state._replace(
            held=_longer(state.held, add), slots=_longer(state.slots, add),
            parts=_longer(state.parts, add * rules.shards),
            free=np.concatenate([state.free[:free], np.arange(slots, slots + add), state.free[free:]]),
            line=_longer(state.line, add * rules.shards), age=_longer(state.age, add * rules.shards),
        )  # fmt: skip
    state.now["out"] = 0
    return state._replace(out=np.empty(int(state.now["inside"][0]) + more, ROW))


def _longer(array: Any, more: int) -> Any:  # noqa: ANN401  (numbers or records)
    """Return an array with more rows: none of them is in a list."""
    rows = np.zeros((more, *array.shape[1:]), array.dtype)
    return np.concatenate([array, rows if array.dtype.names else rows - 1])
