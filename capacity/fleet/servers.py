"""Stages of parallel servers: host work, fetches and index shards one request at a time, encoders in batches.

Each stage is simulated on its own: it takes the requests that reach it and returns those that left, in any cuts of time
with the same result. Events at the very end of a cut wait for the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import inf, isfinite, log1p, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from capacity.errors import CapacityError
from capacity.fleet.batching import (
    BUSY, BUSY_S, EXPONENTIAL, FIXED, LOGNORMAL, TABLE, DUE, ENDS, FREE, INSIDE, INSIDE_S, LOST, OUT, QUEUED, SHED, TIMED_OUT, WAITING, WAITING_S, Columns, Rules, State, Work,
    copy, enter, finish, forget, leave, pop, push, replica_of, retry, route, serve, slot_of, spend, station_of, withdraw,
)  # fmt: skip
from capacity.fleet.flow import Flow, Outcome, joined
from capacity.fleet.replicas import DRAINING, UP, Replicas, apply, born, compiled, key_of, mixed, release, settle

Routing = Literal["shared", "round-robin", "least-loaded"]
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
    spread
        Its distribution; "lognormal" has standard deviation ÷ mean `variation`.
    quantiles_s
        Equally likely service times from the 0 to the 1 quantile [s], straight lines between; they replace all of that.
    shards
        Each request goes to all of them, each with its own queue and servers, and is done when the slowest is.
    """

    servers: int = 1
    mean_s: float = 0.0
    spread: Literal["fixed", "lognormal", "exponential"] = "fixed"
    variation: float = 0.0
    quantiles_s: ArrayLike = ()
    shards: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Dynamic batching: a batch leaves when it is full or its first text has waited long enough, and a lane is free.

    Attributes
    ----------
    max_batch, max_wait_s
        Most texts of a batch; longest wait of the oldest before a smaller batch leaves [s].
    batch_s
        Time of a batch of 0, 1, … `max_batch` texts [s]; (lanes, max_batch + 1) where a replica is cut in lanes (MIG
        slices, shared devices) that work side by side.
    token_s, token_step
        Instead: time of a batch of 0, `token_step`, 2·`token_step`, … tokens [s], straight lines between and beyond.
    padded
        Whether every text counts as long as the longest of its batch.
    edges
        Most tokens of a text in each length bucket but the last; a batch holds texts of one bucket.
    sequences
        Texts of a request, each `Flow.input_tokens` long: the candidates of a cross-encoder. It is done when its last
        text is.
    lanes
        Of one replica.
    variation
        Standard deviation ÷ mean of the time of equal batches, log-normal.
    """

    max_batch: int
    max_wait_s: float = 0.0
    batch_s: ArrayLike = ()
    token_s: ArrayLike = ()
    token_step: float = 1.0
    padded: bool = False
    edges: tuple[int, ...] = ()
    sequences: int = 1
    lanes: int = 1
    variation: float = 0.0


@compiled
def _end(state: State, rules: Rules, now_s: float) -> None:
    """End the batch that is due and give its lane the next."""
    lane = pop(state)
    replica, station = replica_of(rules, lane), station_of(rules, lane)
    finish(state, rules, lane, now_s, True)
    if state.life.status[replica] == UP:
        state.idle[station, state.idling[station]] = lane
        state.idling[station] += 1
        serve(state, rules, station, now_s)
    else:
        _let_go(state, rules, replica, now_s)


@compiled
def _let_go(state: State, rules: Rules, replica: int, now_s: float) -> None:
    """Release a draining replica that works on nothing."""
    lanes = rules.lanes * rules.shards
    if state.life.status[replica] == DRAINING and not state.busy[replica * lanes : (replica + 1) * lanes].any():
        release(state.life, replica, now_s)


@compiled
def _change(state: State, rules: Rules, now_s: float) -> None:
    """Let replicas change; lost work is tried again, waiting work leaves queues that nobody serves."""
    life = state.life
    busy_s = state.area[BUSY_S] / (rules.lanes * rules.shards)
    apply(life, now_s, busy_s, state.count[WAITING])
    state.count[ENDS], kept_s, kept = 0, state.end_s[: state.count[ENDS]].copy(), state.end_lane.copy()
    for place in range(len(kept_s)):
        status = life.status[replica_of(rules, kept[place])]
        if status == UP or status == DRAINING:
            push(state, kept_s[place], kept[place])
    free_lanes(state, rules)
    for lane in range(len(state.busy)):
        status = life.status[replica_of(rules, lane)]
        if state.busy[lane] and status != UP and status != DRAINING:
            finish(state, rules, lane, now_s, False)
    for station in range(len(state.parts)):
        if not rules.shared:
            _clear(state, rules, station, now_s)
        serve(state, rules, station, now_s)
    for replica in range(len(life.status)):
        _let_go(state, rules, replica, now_s)


@compiled
def free_lanes(state: State, rules: Rules) -> None:
    """Count the free lanes of replicas that are up."""
    state.idling[:] = 0
    for lane in range(len(state.busy) - 1, -1, -1):
        if state.life.status[replica_of(rules, lane)] == UP and not state.busy[lane]:
            station = station_of(rules, lane)
            state.idle[station, state.idling[station]] = lane
            state.idling[station] += 1


@compiled
def _clear(state: State, rules: Rules, station: int, now_s: float) -> None:
    """Move what waits for a replica that takes no new work; losing it counts as a try, its draining does not."""
    status, replica = state.life.status, station // rules.shards
    nowhere = replica == len(status)
    if (status[replica] == UP) if not nowhere else not (status == UP).any():
        return
    for queue in range(station * rules.buckets, (station + 1) * rules.buckets):
        while state.waiting[queue] > 0:
            part = state.line[queue, 1]
            slot = slot_of(state, rules, part)
            withdraw(state, rules, part)
            if nowhere or status[replica] == DRAINING:
                serve(state, rules, enter(state, rules, route(state, rules), part, now_s), now_s)
            else:
                retry(state, rules, part, LOST, now_s)
            forget(state, slot)


@compiled
def _admit(state: State, rules: Rules, flow: Columns, row: int, now_s: float) -> None:
    """Take a request in, or shed it."""
    state.count[FREE] -= 1
    state.count[INSIDE] += 1
    slot = state.free[state.count[FREE]]
    copy(flow, row, state.held, slot)
    state.left[slot], state.ties[slot] = rules.shards * rules.sequences, 0
    state.tries[slot], state.tried_s[slot], state.bucket[slot] = 0, -1.0, 0
    while state.bucket[slot] < rules.buckets - 1 and flow.input_tokens[row] > state.work.edges[state.bucket[slot]]:
        state.bucket[slot] += 1
    replica, first = route(state, rules), len(state.waiting) + 1 + slot * rules.shards
    for station in range(replica * rules.shards, (replica + 1) * rules.shards):
        if state.parts[station] >= rules.queue_limit and state.idling[station] == 0:
            leave(state, rules, slot, SHED, now_s)
            forget(state, slot)
            return
    for part in range(first, first + rules.shards):
        state.texts[part] = rules.sequences
        station = enter(state, rules, replica, part, now_s)
        if state.idling[station] > 0 and state.waiting[state.queue[part]] >= rules.max_batch:
            serve(state, rules, station, now_s)


@compiled
def run(state: State, rules: Rules, flow: Columns, until_s: float) -> int:
    """Simulate to `until_s`, that moment left out, and return how many rows of `flow` have arrived.

    Those that left are in the first `state.count[OUT]` rows of `state.out`. Without an end it stops when all have left.
    """
    row, rows, end = 0, len(flow.time_s), len(state.waiting)
    while True:
        end_s = state.end_s[0] if state.count[ENDS] else inf
        due_s = state.entered_s[state.count[DUE]] + rules.max_wait_s if state.count[DUE] != end else inf
        late_s = state.entered_s[state.age[end, 1]] + rules.timeout_s if state.age[end, 1] != end else inf
        event_s = min(min(end_s, state.life.next_s[0]), min(due_s, late_s))
        if row < rows and flow.time_s[row] <= event_s:
            if flow.time_s[row] >= until_s:
                return row
            spend(state, flow.time_s[row])
            _admit(state, rules, flow, row, flow.time_s[row])
            row += 1
            continue
        if event_s >= until_s or (until_s == inf and row == rows and state.count[INSIDE] + state.count[ENDS] == 0):
            return row
        spend(state, event_s)
        if end_s == event_s:
            _end(state, rules, event_s)
        elif state.life.next_s[0] == event_s:
            _change(state, rules, event_s)
        elif due_s == event_s:
            station = state.queue[state.count[DUE]] // rules.buckets
            state.count[DUE] = state.age[state.count[DUE], 1]
            serve(state, rules, station, event_s)
        else:
            part = state.age[end, 1]
            withdraw(state, rules, part)
            retry(state, rules, part, TIMED_OUT, event_s)
            forget(state, slot_of(state, rules, part))


class Station:
    """A stage that the kernel simulates: its rules, what batches take, and the requests inside."""

    def __init__(self, rules: Rules, work: Work, replicas: Replicas, policy: Policy) -> None:
        self._rules, self._policy = rules, policy
        self._state = _empty(rules, work, replicas)
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
            later.append(flow.at(hit).delayed(self._policy.hit_s))
            flow, self._hits = flow.at(~hit), self._hits + int(hit.sum())
        if len(self._coming):
            flow = joined([self._coming, flow])
        self._state = state = _with_room(self._state, self._rules, len(flow))
        arrived = run(state, self._rules, _columns(flow), until_s)
        self._coming = flow.at(np.arange(arrived, len(flow)))
        left = Flow(*(column[: state.count[OUT]] for column in state.out))
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
            `served`, `cached`, `fallbacks`, `shed`, `timed_out`, `failed`, `inside` [requests]; `until_s` [s];
            `mean_inside`, `mean_waiting` (time averages); `busy_s` of all lanes, `lane_busy_s` of each [s]; `utilization` of
            replicas that were up; `replica_s` paid [s]; `batches` by texts; `queued_s` by parts waiting [s];
            `timeline`: rows of time [s], replicas up, replicas starting.
        """
        state, life = self._state, self._state.life
        until_s = float(state.area[0])
        settle(life, max(until_s, float(life.spent[0])))
        up_s, busy_s = life.spent[2] * self._rules.lanes * self._rules.shards, float(state.area[BUSY_S])
        tally = {name: int(state.tally[outcome]) for name, outcome in _TALLIED.items()}
        return {
            **tally, "cached": self._hits, "fallbacks": self._fallbacks, "inside": int(state.count[INSIDE]),
            "until_s": until_s, "mean_inside": float(state.area[INSIDE_S]) / until_s if until_s else 0.0,
            "mean_waiting": float(state.area[WAITING_S]) / until_s if until_s else 0.0, "busy_s": busy_s,
            "lane_busy_s": state.busy_s.copy(), "utilization": busy_s / up_s if up_s else 0.0,
            "replica_s": float(life.spent[1]), "batches": state.batches.copy(), "queued_s": state.queued_s.copy(),
            "timeline": life.timeline[: int(life.recorded[0])].copy(),
        }  # fmt: skip


class ServersStage(Station):
    """`Servers` as a stage.

    Examples
    --------
    >>> stage = ServersStage(Servers(mean_s=1.0))
    >>> stage.advance(Flow.of(np.arange(3), np.array([0.0, 0.5, 4.0])), inf).time_s.tolist()
    [1.0, 2.0, 5.0]
    """

    def __init__(
        self, servers: Servers, replicas: Replicas = Replicas(), policy: Policy = Policy(), seed: int = 0, name: str = ""
    ) -> None:
        quantiles_s = np.asarray(servers.quantiles_s, np.float64)
        table = bool(quantiles_s.size)
        work = Work(np.array([[0.0, 1.0 if table else servers.mean_s]]), np.zeros((0, 0)), _WHOLE, quantiles_s)
        rules = _rules(policy, key_of(seed, name))._replace(
            shards=servers.shards, lanes=servers.servers, sigma=sqrt(log1p(servers.variation**2)),
            spread=TABLE if table else SPREADS[servers.spread],
        )  # fmt: skip
        super().__init__(rules, work, replicas, policy)


class BatchingStage(Station):
    """`Batching` as a stage.

    Examples
    --------
    >>> stage = BatchingStage(Batching(max_batch=2, max_wait_s=1.0, batch_s=[0.0, 3.0, 4.0]))
    >>> stage.advance(Flow.of(np.arange(4), np.array([0.0, 0.5, 0.6, 9.0])), inf).time_s.tolist()
    [4.5, 4.5, 7.5, 13.0]
    """

    def __init__(
        self, batches: Batching, replicas: Replicas = Replicas(), policy: Policy = Policy(), seed: int = 0, name: str = ""
    ) -> None:
        batch_s, token_s = (np.array(times, np.float64, ndmin=2) for times in (batches.batch_s, batches.token_s))
        work = Work(batch_s, token_s, np.array(batches.edges, np.int64), np.zeros(0))
        rules = _rules(policy, key_of(seed, name))._replace(
            lanes=batches.lanes, buckets=len(batches.edges) + 1, sequences=batches.sequences,
            max_batch=batches.max_batch, max_wait_s=float(batches.max_wait_s), padded=batches.padded,
            token_step=float(batches.token_step), spread=LOGNORMAL if batches.variation else FIXED,
            sigma=sqrt(log1p(batches.variation**2)),
        )  # fmt: skip
        super().__init__(rules, work, replicas, policy)


def _rules(policy: Policy, key: np.uint64) -> Rules:
    """Return the rules of single servers that take one text at a time."""
    return Rules(
        shards=1, lanes=1, shared=policy.routing == "shared", least_loaded=policy.routing == "least-loaded", buckets=1,
        sequences=1, max_batch=1, max_wait_s=0.0, retries=policy.retries, timeout_s=float(policy.timeout_s),
        queue_limit=2**62 if policy.queue_limit is None else policy.queue_limit, padded=False, token_step=1.0,
        spread=FIXED, sigma=0.0, key=key,
    )  # fmt: skip


_WHOLE = np.zeros(0, np.int64)
_NOBODY = Flow.of(np.zeros(0, np.int64), np.zeros(0))
_TALLIED = {"served": Outcome.SERVED, "shed": Outcome.SHED, "timed_out": Outcome.TIMED_OUT, "failed": Outcome.FAILED}


def _columns(flow: Flow) -> Columns:
    """Return contiguous, writable columns: the kernel is compiled for nothing else."""
    return Columns(*(np.require(getattr(flow, item.name), requirements=("C", "W")) for item in fields(flow)))


def _nobody(rows: int) -> Columns:
    """Return columns of so many rows to be filled."""
    return Columns(*(np.empty(rows, getattr(_NOBODY, item.name).dtype) for item in fields(Flow)))


def _empty(rules: Rules, work: Work, replicas: Replicas) -> State:
    """Return a station without requests."""
    stations = rules.shards * (1 if rules.shared else replicas.most + 1)
    queues, lanes = stations * rules.buckets, replicas.most * rules.shards * rules.lanes
    ends = np.repeat(np.arange(queues + 1)[:, None], 2, axis=1)
    whole, real = np.int64, np.float64
    state = State(
        life=born(replicas, rules.key + np.uint64(1)), work=work, out=_nobody(0), held=_nobody(0),
        count=np.zeros(9, whole), area=np.zeros(4), left=np.zeros(0, whole), ties=np.zeros(0, whole),
        tries=np.zeros(0, whole), tried_s=np.zeros(0), bucket=np.zeros(0, whole), free=np.zeros(0, whole),
        entered_s=np.zeros(queues + 1), queue=np.zeros(queues + 1, whole), texts=np.zeros(queues + 1, whole),
        line=ends.copy(), age=ends, waiting=np.zeros(queues, whole), parts=np.zeros(stations, whole),
        load=np.zeros(stations, whole), idle=np.zeros((stations, lanes // rules.shards if rules.shared else rules.lanes), whole), idling=np.zeros(stations, whole),
        busy=np.zeros(lanes, np.bool_), started_s=np.zeros(lanes), filled=np.zeros(lanes, whole),
        batch=np.zeros((lanes, rules.max_batch, 2), whole), end_s=np.zeros(lanes), end_lane=np.zeros(lanes, whole),
        busy_s=np.zeros(lanes), batches=np.zeros(rules.max_batch + 1, whole), queued_s=np.zeros(QUEUED + 1),
        tally=np.zeros(len(Outcome), whole),
    )  # fmt: skip
    state.count[DUE] = queues
    free_lanes(state, rules)
    return state


def _with_room(state: State, rules: Rules, more: int) -> State:
    """Return the station with slots for so many more requests, and rows for all that may leave."""
    inside, slots, add = int(state.count[INSIDE]), len(state.left), 0
    if more > state.count[FREE]:
        add = max(more - int(state.count[FREE]), slots // 2, 1024)
        grown = {
            name: np.concatenate([getattr(state, name), np.zeros(add, getattr(state, name).dtype)])
            for name in ("left", "ties", "tries", "tried_s", "bucket", "free")
        } | {
            name: np.concatenate([getattr(state, name), np.full((add * rules.shards, *getattr(state, name).shape[1:]), -1, getattr(state, name).dtype)])
            for name in ("entered_s", "queue", "texts", "line", "age")
        }  # fmt: skip
        held = Columns(*(np.concatenate([old, new]) for old, new in zip(state.held, _nobody(add), strict=True)))
        state = state._replace(held=held, **grown)
        state.free[state.count[FREE] : state.count[FREE] + add] = np.arange(slots, slots + add)
        state.count[FREE] += add
    state.count[OUT] = 0
    return state._replace(out=_nobody(inside + more))
