"""The kernel of stages that serve batches one after the other: queues, batches that form, lanes, retries, lost replicas.

A lane works on one batch at a time. A host's core, an index shard and an encoder differ in their largest batch, what a
batch takes and which lanes share a queue: `capacity.fleet.servers` sets that and keeps the books. Events of one moment
happen in this order: arrivals, ends of batches, changes of replicas, batches that waited long enough, time-outs.
"""

from __future__ import annotations

from math import cos, exp, inf, log, pi, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from capacity.fleet.flow import Counts, Outcome, Times
from capacity.fleet.replicas import UP, Life, compiled, uniform

INSIDE, WAITING, BUSY, ENDS, FREE, DUE, TURN, STARTED, OUT = range(9)
LAST, INSIDE_S, WAITING_S, BUSY_S = range(4)
QUEUED = 4096
"""Queue lengths counted one by one."""
FIXED, LOGNORMAL, EXPONENTIAL, TABLE = range(4)
SERVED, SHED, TIMED_OUT, LOST = (
    int(outcome) for outcome in (Outcome.SERVED, Outcome.SHED, Outcome.TIMED_OUT, Outcome.FAILED)
)


class Columns(NamedTuple):
    """The columns of a `Flow`, in its order."""

    request: Counts
    arrival_s: Times
    time_s: Times
    input_tokens: Counts
    output_tokens: Counts
    prefix: Counts
    outcome: Counts
    first_s: Times


class Rules(NamedTuple):
    """How a stage works, as plain numbers: see `Batching`, `Servers` and `Policy`."""

    shards: int
    lanes: int
    """Lanes of one replica and shard."""
    shared: bool
    least_loaded: bool
    buckets: int
    sequences: int
    max_batch: int
    max_wait_s: float
    queue_limit: int
    timeout_s: float
    retries: int
    padded: bool
    token_step: float
    spread: int
    sigma: float
    key: np.uint64


class Work(NamedTuple):
    """Time of a batch [s]."""

    batch_s: Times
    """(lanes or 1, largest batch + 1) by texts; empty where tokens count."""
    token_s: Times
    """(lanes or 1, points) by tokens in steps of `token_step`."""
    edges: Counts
    """(buckets − 1,) Most tokens of a text in each length bucket but the last."""
    factors: Times
    """Equally likely factors of the time from 0 to the highest, for `TABLE`."""


class State(NamedTuple):
    """All requests inside, in slots, a waiting part of each for every shard; changed in place.

    A station is a set of lanes with queues of its own, one for each length bucket: one station for each shard, and where
    queues are not shared, for each replica; the last is where requests wait when none is up. `line` and `age` are
    doubly linked lists (before, after): each queue, and all parts that wait untouched, the oldest first; their ends
    are places before the first part's. −1: not in the list.
    """

    life: Life
    work: Work
    out: Columns
    held: Columns
    count: Counts
    area: Times
    left: Counts
    """(slots,) Texts to be done; 0: the request has left."""
    ties: Counts
    """(slots,) Queues and batches that name the slot."""
    tries: Counts
    tried_s: Times
    bucket: Counts
    free: Counts
    """Stack of free slots."""
    entered_s: Times
    queue: Counts
    texts: Counts
    """(parts,) Texts of a part that no batch has taken."""
    line: Counts
    age: Counts
    waiting: Counts
    """(queues,) Texts that wait."""
    parts: Counts
    """(stations,) Parts that wait."""
    load: Counts
    """(stations,) Texts that wait or are being served."""
    idle: Counts
    """(stations, lanes) Stacks of free lanes."""
    idling: Counts
    busy: NDArray[np.bool_]
    started_s: Times
    filled: Counts
    batch: Counts
    """(lanes, largest batch, 2) Part, and its texts in the batch."""
    end_s: Times
    """Heap of the ends of batches [s], beside `end_lane`."""
    end_lane: Counts
    busy_s: Times
    """(lanes,)"""
    batches: Counts
    """(largest batch + 1,) Batches by texts."""
    queued_s: Times
    """Time with so many parts waiting in the stage [s]; the last: that many or more."""
    tally: Counts
    """Requests that left, by outcome."""


@compiled
def _append(chain: Counts, end: int, part: int) -> None:
    last = chain[end, 0]
    chain[last, 1], chain[part, 0], chain[part, 1], chain[end, 0] = part, last, end, part


@compiled
def _remove(chain: Counts, part: int) -> None:
    before, after = chain[part, 0], chain[part, 1]
    chain[before, 1], chain[after, 0], chain[part, 0] = after, before, -1


@compiled
def push(state: State, end_s: float, lane: int) -> None:
    """Add the end of a batch to the heap."""
    place = state.count[ENDS]
    state.count[ENDS] += 1
    while place > 0 and state.end_s[(place - 1) // 2] > end_s:
        above = (place - 1) // 2
        state.end_s[place], state.end_lane[place] = state.end_s[above], state.end_lane[above]
        place = above
    state.end_s[place], state.end_lane[place] = end_s, lane


@compiled
def pop(state: State) -> int:
    """Remove the earliest end from the heap and return its lane."""
    state.count[ENDS] -= 1
    size, lane, place = state.count[ENDS], state.end_lane[0], 0
    last_s, last_lane = state.end_s[size], state.end_lane[size]
    while 2 * place + 1 < size:
        below = 2 * place + 1
        below += below + 1 < size and state.end_s[below + 1] < state.end_s[below]
        if state.end_s[below] >= last_s:
            break
        state.end_s[place], state.end_lane[place] = state.end_s[below], state.end_lane[below]
        place = below
    state.end_s[place], state.end_lane[place] = last_s, last_lane
    return int(lane)


@compiled
def copy(source: Columns, row: int, target: Columns, place: int) -> None:
    """Copy a request from one place to another."""
    target.request[place], target.arrival_s[place] = source.request[row], source.arrival_s[row]
    target.time_s[place], target.first_s[place] = source.time_s[row], source.first_s[row]
    target.input_tokens[place], target.output_tokens[place] = source.input_tokens[row], source.output_tokens[row]
    target.prefix[place], target.outcome[place] = source.prefix[row], source.outcome[row]


@compiled
def spend(state: State, now_s: float) -> None:
    """Add up what Little's law needs until `now_s`."""
    count, area = state.count, state.area
    seconds = now_s - area[LAST]
    area[LAST] = now_s
    area[INSIDE_S] += seconds * count[INSIDE]
    area[WAITING_S] += seconds * count[WAITING]
    area[BUSY_S] += seconds * count[BUSY]
    state.queued_s[min(count[WAITING], len(state.queued_s) - 1)] += seconds


@compiled
def slot_of(state: State, rules: Rules, part: int) -> int:
    """Return the slot of a part's request."""
    return (part - len(state.waiting) - 1) // rules.shards


@compiled
def replica_of(rules: Rules, lane: int) -> int:
    """Return the replica of a lane."""
    return lane // (rules.lanes * rules.shards)


@compiled
def station_of(rules: Rules, lane: int) -> int:
    """Return the station of a lane."""
    return lane // rules.lanes % rules.shards if rules.shared else lane // rules.lanes


@compiled
def route(state: State, rules: Rules) -> int:
    """Return the replica that gets the next request: the one beyond the last when none is up."""
    if rules.shared:
        return 0
    status, most = state.life.status, len(state.life.status)
    best = most
    for step in range(most):
        replica = step if rules.least_loaded else (state.count[TURN] + step) % most
        if status[replica] != UP:
            continue
        if not rules.least_loaded:
            state.count[TURN] = replica + 1
            return int(replica)
        if best == most or state.load[replica * rules.shards] < state.load[best * rules.shards]:
            best = replica
    return best


@compiled
def enter(state: State, rules: Rules, replica: int, part: int, now_s: float) -> int:
    """Put a part at the end of a queue and return its station."""
    slot = slot_of(state, rules, part)
    station = replica * rules.shards + (part - len(state.waiting) - 1) % rules.shards
    queue, end, texts = station * rules.buckets + state.bucket[slot], len(state.waiting), state.texts[part]
    state.queue[part], state.entered_s[part] = queue, now_s
    _append(state.line, queue, part)
    _append(state.age, end, part)
    if state.count[DUE] == end:
        state.count[DUE] = part
    state.waiting[queue] += texts
    state.parts[station] += 1
    state.load[station] += texts
    state.count[WAITING] += 1
    state.ties[slot] += 1
    return station


@compiled
def touch(state: State, part: int) -> None:
    """Take a part off the list of those that wait untouched."""
    if state.age[part, 0] >= 0:
        if state.count[DUE] == part:
            state.count[DUE] = state.age[part, 1]
        _remove(state.age, part)


@compiled
def withdraw(state: State, rules: Rules, part: int) -> None:
    """Take a part out of its queue, unserved."""
    queue, texts = state.queue[part], state.texts[part]
    touch(state, part)
    _remove(state.line, part)
    state.waiting[queue] -= texts
    state.parts[queue // rules.buckets] -= 1
    state.load[queue // rules.buckets] -= texts
    state.count[WAITING] -= 1
    state.ties[slot_of(state, rules, part)] -= 1


@compiled
def forget(state: State, slot: int) -> None:
    """Free the slot of a request that has left, once nothing names it."""
    if state.left[slot] == 0 and state.ties[slot] == 0:
        state.free[state.count[FREE]] = slot
        state.count[FREE] += 1


@compiled
def leave(state: State, rules: Rules, slot: int, outcome: int, now_s: float) -> None:
    """Let a request go; what still waits of it goes with it. The caller forgets the slot."""
    out, place, first = state.out, state.count[OUT], len(state.waiting) + 1 + slot * rules.shards
    copy(state.held, slot, out, place)
    out.time_s[place] = now_s
    if outcome != SERVED:
        out.outcome[place] = outcome
    state.tally[outcome] += 1
    state.count[OUT] += 1
    state.count[INSIDE] -= 1
    state.left[slot] = 0
    for part in range(first, first + rules.shards):
        if state.line[part, 0] >= 0:
            withdraw(state, rules, part)


@compiled
def _seconds(state: State, rules: Rules, lane: int, texts: int, tokens: int) -> float:
    """Return what a batch takes [s]."""
    work, number = state.work, np.uint64(2 * state.count[STARTED])
    if work.token_s.size == 0:
        seconds = work.batch_s[lane % rules.lanes % len(work.batch_s), texts]
    else:
        row = work.token_s[lane % rules.lanes % len(work.token_s)]
        cell = min(int(tokens / rules.token_step), len(row) - 2)
        seconds = row[cell] + (row[cell + 1] - row[cell]) * (tokens / rules.token_step - cell)
    if rules.spread == FIXED:
        return seconds
    chance = uniform(rules.key, number)
    if rules.spread == EXPONENTIAL:
        return -seconds * log(chance)
    if rules.spread == TABLE:
        place = chance * (len(work.factors) - 1)
        cell = min(int(place), len(work.factors) - 2)
        return seconds * (work.factors[cell] + (work.factors[cell + 1] - work.factors[cell]) * (place - cell))
    normal = sqrt(-2 * log(chance)) * cos(2 * pi * uniform(rules.key, number + np.uint64(1)))
    return seconds * exp(rules.sigma * normal - rules.sigma**2 / 2)


@compiled
def start(state: State, rules: Rules, queue: int, lane: int, now_s: float) -> None:
    """Fill a batch from the head of a queue and start it."""
    room, filled, longest, tokens = rules.max_batch, 0, 0, 0
    while room > 0 and state.waiting[queue] > 0:
        part = state.line[queue, 1]
        slot, taken = slot_of(state, rules, part), min(room, state.texts[part])
        touch(state, part)
        state.texts[part] -= taken
        state.waiting[queue] -= taken
        room -= taken
        if state.texts[part] == 0:
            _remove(state.line, part)
            state.parts[queue // rules.buckets] -= 1
            state.count[WAITING] -= 1
        else:
            state.ties[slot] += 1
        state.batch[lane, filled, 0], state.batch[lane, filled, 1] = part, taken
        filled += 1
        longest = max(longest, state.held.input_tokens[slot])
        tokens += taken * state.held.input_tokens[slot]
    texts = rules.max_batch - room
    state.filled[lane], state.started_s[lane], state.busy[lane] = filled, now_s, True
    state.batches[texts] += 1
    push(state, now_s + _seconds(state, rules, lane, texts, texts * longest if rules.padded else tokens), lane)
    state.count[STARTED] += 1
    state.count[BUSY] += 1


@compiled
def serve(state: State, rules: Rules, station: int, now_s: float) -> None:
    """Start batches on free lanes of a station while one is ready: full, or its oldest text has waited long enough."""
    while state.idling[station] > 0:
        best, oldest_s = -1, inf
        for queue in range(station * rules.buckets, (station + 1) * rules.buckets):
            entered_s = state.entered_s[state.line[queue, 1]] if state.waiting[queue] else inf
            ready = state.waiting[queue] >= rules.max_batch or entered_s + rules.max_wait_s <= now_s
            if ready and entered_s < oldest_s:
                best, oldest_s = queue, entered_s
        if best < 0:
            return
        state.idling[station] -= 1
        start(state, rules, best, state.idle[station, state.idling[station]], now_s)


@compiled
def retry(state: State, rules: Rules, part: int, outcome: int, now_s: float) -> None:
    """Let a part that is in no queue join one again, or give its request up. The caller forgets the slot."""
    slot = slot_of(state, rules, part)
    if state.tried_s[slot] != now_s:
        state.tries[slot] += 1
        state.tried_s[slot] = now_s
    if state.tries[slot] > rules.retries:
        leave(state, rules, slot, outcome, now_s)
    else:
        serve(state, rules, enter(state, rules, route(state, rules), part, now_s), now_s)


@compiled
def finish(state: State, rules: Rules, lane: int, now_s: float, done: bool) -> None:
    """End a batch: its texts are done, or lost with the replica."""
    state.busy[lane] = False
    state.busy_s[lane] += now_s - state.started_s[lane]
    state.count[BUSY] -= 1
    for place in range(state.filled[lane]):
        part, texts = state.batch[lane, place]
        slot = slot_of(state, rules, part)
        state.ties[slot] -= 1
        state.load[station_of(rules, lane)] -= texts
        if state.left[slot] > 0 and done:
            state.left[slot] -= texts
            if state.left[slot] == 0:
                leave(state, rules, slot, SERVED, now_s)
        elif state.left[slot] > 0:
            if state.line[part, 0] >= 0:
                withdraw(state, rules, part)
            state.texts[part] += texts
            retry(state, rules, part, LOST, now_s)
        forget(state, slot)
