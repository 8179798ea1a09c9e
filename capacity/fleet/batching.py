"""The kernel of stages that serve batches: queues, batches that form, lanes, retries, lost replicas.

A lane works on one batch at a time. A host's core, an index shard and an encoder differ in their largest batch, what a
batch takes and which lanes share a queue: `capacity.fleet.servers` sets that and keeps the books. Events of one moment
happen in this order: arrivals, ends of batches, changes of replicas, batches that waited long enough, time-outs.
"""

from __future__ import annotations

from math import cos, exp, inf, log, pi, sqrt
from typing import NamedTuple

import numpy as np

from capacity.fleet.flow import Counts, Outcome, Times
from capacity.fleet.replicas import UP, Life, Records, compiled, inlined, uniform

FIXED, LOGNORMAL, EXPONENTIAL, TABLE = range(4)
SERVED, SHED, TIMED_OUT, LOST = (
    int(outcome) for outcome in (Outcome.SERVED, Outcome.SHED, Outcome.TIMED_OUT, Outcome.FAILED)
)
WHOLE, REAL = np.int64, np.float64
ROW = np.dtype([
    ("request", WHOLE), ("arrival_s", REAL), ("time_s", REAL), ("input_tokens", WHOLE), ("output_tokens", WHOLE),
    ("prefix", WHOLE), ("outcome", WHOLE), ("first_s", REAL),
])  # fmt: skip
"""A row of a `Flow`."""
SLOT = np.dtype([("left", WHOLE), ("ties", WHOLE), ("tries", WHOLE), ("tried_s", REAL), ("bucket", WHOLE)])
"""A request inside: texts to be done (0: it has left), queues and batches that name the slot, tries, length bucket."""
PART = np.dtype([("entered_s", REAL), ("queue", WHOLE), ("texts", WHOLE), ("touched", np.bool_)])
"""What of a request waits for one shard: since when, where, texts that no batch has taken, whether one took some."""
STATION = np.dtype([("parts", WHOLE), ("load", WHOLE), ("idle", WHOLE), ("freed_s", REAL)])
"""Parts that wait, texts that wait or are being served, free lanes, since when there are some (inf: there are none; 0
where that does not matter because waits begin at arrival)."""
LANE = np.dtype([("busy", np.bool_), ("filled", WHOLE), ("started_s", REAL), ("busy_s", REAL)])
END = np.dtype([("time_s", REAL), ("lane", WHOLE)])
NOW = np.dtype([
    ("time_s", REAL), ("inside", WHOLE), ("waiting", WHOLE), ("busy", WHOLE), ("ends", WHOLE), ("free", WHOLE),
    ("due", WHOLE), ("late", WHOLE), ("turn", WHOLE), ("started", WHOLE), ("out", WHOLE), ("inside_s", REAL),
    ("waiting_s", REAL), ("busy_s", REAL),
])  # fmt: skip
"""Last event [s]; requests inside, parts waiting, lanes busy, ends in the heap, free slots; the parts next to have
waited long enough and too long; whose turn it is; batches started; rows returned; integrals over time [s]."""


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
    from_lane: bool
    queue_limit: int
    timeout_s: float
    retries: int
    padded: bool
    token_step: float
    spread: int
    sigma: float
    key: np.uint64


class State(NamedTuple):
    """A stage and all requests inside, in slots, each with a part for every shard; changed in place.

    A station is a set of lanes with queues of its own, one for each length bucket: one station for each shard, and
    where queues are not shared, for each replica; the last is where requests wait when none is up. `line` and `age` are
    doubly linked lists (before, after): each queue, and all parts that wait, the oldest first. Their ends
    are places before the first part's; −1: not in the list. `freed` lists stations where waits begin at lanes.
    """

    life: Life
    batch_s: Times
    """(lanes or 1, largest batch + 1) by texts, or by tokens in steps of `Rules.token_step` [s]."""
    edges: Counts
    factors: Times
    """Equally likely factors of a batch's time, for `TABLE`."""
    now: Records
    out: Records
    """`ROW`: those that left."""
    held: Records
    slots: Records
    free: Counts
    """Stack of free slots."""
    parts: Records
    line: Counts
    age: Counts
    waiting: Counts
    """(queues,) Texts that wait."""
    stations: Records
    freed: Counts
    """Stations with a lane that waits for its batch to fill, in the order of `freed_s`; the end is the last place."""
    idle: Counts
    """(stations, lanes) Stacks of free lanes."""
    lanes: Records
    batch: Counts
    """(lanes, largest batch, 2) Part, and its texts in the batch."""
    ends: Records
    """Heap of `END`."""
    batches: Counts
    """(largest batch + 1,) Batches by texts."""
    queued_s: Times
    """Time with so many parts waiting [s]; the last: that many or more."""
    tally: Counts
    """Requests that left, by outcome."""


@inlined
def append(chain: Counts, end: int, part: int) -> None:
    """Add a part to the end of a list."""
    last = chain[end, 0]
    chain[last, 1], chain[part, 0], chain[part, 1], chain[end, 0] = part, last, end, part


@inlined
def remove(chain: Counts, part: int) -> None:
    """Take a part off a list."""
    before, after = chain[part, 0], chain[part, 1]
    chain[before, 1], chain[after, 0], chain[part, 0] = after, before, -1


@inlined
def push(ends: Records, size: int, time_s: float, lane: int) -> None:
    """Add the end of a batch to the heap."""
    place = size
    while place > 0 and ends[(place - 1) // 2].time_s > time_s:
        ends[place] = ends[(place - 1) // 2]
        place = (place - 1) // 2
    ends[place].time_s, ends[place].lane = time_s, lane


@inlined
def pop(ends: Records, size: int) -> int:
    """Remove the earliest end from the heap and return its lane."""
    lane, place = ends[0].lane, 0
    last_s, last_lane = ends[size - 1].time_s, ends[size - 1].lane
    while 2 * place + 1 < size - 1:
        below = 2 * place + 1
        if below + 1 < size - 1 and ends[below + 1].time_s < ends[below].time_s:
            below += 1
        if ends[below].time_s >= last_s:
            break
        ends[place] = ends[below]
        place = below
    ends[place].time_s, ends[place].lane = last_s, last_lane
    return int(lane)


@inlined
def spend(state: State, now_s: float) -> None:
    """Add up what Little's law needs until `now_s`."""
    now = state.now[0]
    seconds = now_s - now.time_s
    now.time_s = now_s
    now.inside_s += seconds * now.inside
    now.waiting_s += seconds * now.waiting
    now.busy_s += seconds * now.busy
    state.queued_s[min(now.waiting, len(state.queued_s) - 1)] += seconds


@inlined
def slot_of(state: State, rules: Rules, part: int) -> int:
    """Return the slot of a part's request."""
    return (part - len(state.waiting) - 1) // rules.shards


@inlined
def replica_of(rules: Rules, lane: int) -> int:
    """Return the replica of a lane."""
    return lane // (rules.lanes * rules.shards)


@inlined
def station_of(rules: Rules, lane: int) -> int:
    """Return the station of a lane."""
    return lane // rules.lanes % rules.shards if rules.shared else lane // rules.lanes


@inlined
def route(state: State, rules: Rules) -> int:
    """Return the replica that gets the next request: the one beyond the last when none is up."""
    if rules.shared:
        return 0
    status, most, now = state.life.status, len(state.life.status), state.now[0]
    best = most
    for step in range(most):
        replica = step if rules.least_loaded else (now.turn + step) % most
        if status[replica] != UP:
            continue
        if not rules.least_loaded:
            now.turn = replica + 1
            return int(replica)
        if best == most or state.stations[replica * rules.shards].load < state.stations[best * rules.shards].load:
            best = replica
    return best


@inlined
def enter(state: State, rules: Rules, replica: int, part: int, now_s: float) -> int:
    """Put a part at the end of a queue and return its station."""
    now, slot, end, waits = (
        state.now[0],
        state.slots[slot_of(state, rules, part)],
        len(state.waiting),
        state.parts[part],
    )
    number = replica * rules.shards + (part - end - 1) % rules.shards
    waits.entered_s, waits.queue, waits.touched = now_s, number * rules.buckets + slot.bucket, False
    append(state.line, waits.queue, part)
    append(state.age, end, part)
    now.due = part if now.due == end else now.due
    now.late = part if now.late == end else now.late
    state.waiting[waits.queue] += waits.texts
    state.stations[number].parts += 1
    state.stations[number].load += waits.texts
    now.waiting += 1
    slot.ties += 1
    return int(number)


@inlined
def unlink(state: State, part: int) -> None:
    """Take a part off its queue's list and that of all parts that wait."""
    now = state.now[0]
    now.due = state.age[part, 1] if now.due == part else now.due
    now.late = state.age[part, 1] if now.late == part else now.late
    remove(state.age, part)
    remove(state.line, part)


@compiled
def withdraw(state: State, rules: Rules, part: int) -> None:
    """Take a part out of its queue, unserved."""
    waits = state.parts[part]
    station = state.stations[waits.queue // rules.buckets]
    unlink(state, part)
    state.waiting[waits.queue] -= waits.texts
    station.parts -= 1
    station.load -= waits.texts
    state.now[0].waiting -= 1
    state.slots[slot_of(state, rules, part)].ties -= 1


@inlined
def collect(state: State, rules: Rules, station: int) -> None:
    """Note that a station has a free lane again: where waits begin at lanes, that of what is there begins now."""
    state.stations[station].freed_s = state.now[0].time_s if rules.from_lane else 0.0
    if rules.from_lane and state.stations[station].parts > 0:
        append(state.freed, len(state.stations), station)


@inlined
def fill(state: State, station: int) -> None:
    """Note that a station has no free lane."""
    state.stations[station].freed_s = inf
    if state.freed[station, 0] >= 0:
        remove(state.freed, station)


@inlined
def forget(state: State, slot: int) -> None:
    """Free the slot of a request that has left, once nothing names it."""
    if state.slots[slot].left == 0 and state.slots[slot].ties == 0:
        state.free[state.now[0].free] = slot
        state.now[0].free += 1


@inlined
def leave(state: State, rules: Rules, slot: int, outcome: int, now_s: float) -> None:
    """Let a request go; what still waits of it goes with it. The caller forgets the slot."""
    now, first = state.now[0], len(state.waiting) + 1 + slot * rules.shards
    state.out[now.out] = state.held[slot]
    state.out[now.out].time_s = now_s
    if outcome != SERVED:
        state.out[now.out].outcome = outcome
    state.tally[outcome] += 1
    now.out += 1
    now.inside -= 1
    state.slots[slot].left = 0
    for part in range(first, first + rules.shards):
        if state.line[part, 0] >= 0:
            withdraw(state, rules, part)


@inlined
def factor(state: State, rules: Rules) -> float:
    """Return by what the time of the next batch differs from its mean."""
    number = np.uint64(2 * state.now[0].started)
    if rules.spread == FIXED:
        return 1.0
    chance = uniform(rules.key, number)
    if rules.spread == EXPONENTIAL:
        return -log(chance)
    if rules.spread == TABLE:
        place = chance * (len(state.factors) - 1)
        cell = min(int(place), len(state.factors) - 2)
        return float(state.factors[cell] + (state.factors[cell + 1] - state.factors[cell]) * (place - cell))
    normal = sqrt(-2 * log(chance)) * cos(2 * pi * uniform(rules.key, number + np.uint64(1)))
    return exp(rules.sigma * normal - rules.sigma**2 / 2)


@inlined
def start(state: State, rules: Rules, queue: int, lane: int, now_s: float) -> None:
    """Fill a batch from the head of a queue and start it."""
    now, works, room, filled, longest, tokens = state.now[0], state.lanes[lane], rules.max_batch, 0, 0, 0
    while room > 0 and state.waiting[queue] > 0:
        part = state.line[queue, 1]
        slot, taken = slot_of(state, rules, part), min(room, state.parts[part].texts)
        state.parts[part].texts -= taken
        state.parts[part].touched = True
        state.waiting[queue] -= taken
        room -= taken
        if state.parts[part].texts == 0:
            unlink(state, part)
            state.stations[queue // rules.buckets].parts -= 1
            now.waiting -= 1
        else:
            state.slots[slot].ties += 1
        state.batch[lane, filled, 0], state.batch[lane, filled, 1] = part, taken
        filled += 1
        longest = max(longest, state.held[slot].input_tokens)
        tokens += taken * state.held[slot].input_tokens
    texts = rules.max_batch - room
    times_s, place = state.batch_s[lane % rules.lanes % len(state.batch_s)], float(texts)
    if rules.token_step > 0:
        place = (texts * longest if rules.padded else tokens) / rules.token_step
    cell = min(int(place), len(times_s) - 2)
    seconds = (times_s[cell] + (times_s[cell + 1] - times_s[cell]) * (place - cell)) * factor(state, rules)
    works.filled, works.started_s, works.busy = filled, now_s, True
    push(state.ends, now.ends, now_s + seconds, lane)
    state.batches[texts] += 1
    now.ends += 1
    now.started += 1
    now.busy += 1


@inlined
def serve(state: State, rules: Rules, station: int, now_s: float) -> None:
    """Start batches on free lanes of a station while one is ready: full, or its oldest text has waited long enough."""
    freed_s = state.stations[station].freed_s
    while state.stations[station].idle > 0:
        best, oldest_s = -1, inf
        for queue in range(station * rules.buckets, (station + 1) * rules.buckets):
            entered_s = state.parts[state.line[queue, 1]].entered_s if state.waiting[queue] else inf
            held = max(entered_s, freed_s) + rules.max_wait_s <= now_s
            ready = state.waiting[queue] >= rules.max_batch or held
            if ready and entered_s < oldest_s:
                best, oldest_s = queue, entered_s
        if best < 0:
            return
        state.stations[station].idle -= 1
        if state.stations[station].idle == 0:
            fill(state, station)
        start(state, rules, best, state.idle[station, state.stations[station].idle], now_s)


@compiled
def retry(state: State, rules: Rules, part: int, outcome: int, now_s: float) -> int:
    """Let a part that is in no queue join one again and return its station, or give its request up and return −1."""
    number = slot_of(state, rules, part)
    slot = state.slots[number]
    if slot.tried_s != now_s:
        slot.tries += 1
        slot.tried_s = now_s
    if slot.tries <= rules.retries:
        return enter(state, rules, route(state, rules), part, now_s)
    leave(state, rules, number, outcome, now_s)
    return -1


@inlined
def finish(state: State, rules: Rules, lane: int, now_s: float, done: bool) -> None:
    """End a batch: its texts are done, or lost with the replica."""
    works = state.lanes[lane]
    works.busy = False
    works.busy_s += now_s - works.started_s
    state.now[0].busy -= 1
    for place in range(works.filled):
        part, texts = state.batch[lane, place, 0], state.batch[lane, place, 1]
        slot = slot_of(state, rules, part)
        state.slots[slot].ties -= 1
        state.stations[station_of(rules, lane)].load -= texts
        if state.slots[slot].left > 0 and done:
            state.slots[slot].left -= texts
            if state.slots[slot].left == 0:
                leave(state, rules, slot, SERVED, now_s)
        elif state.slots[slot].left > 0:
            if state.line[part, 0] >= 0:
                withdraw(state, rules, part)
            state.parts[part].texts += texts
            retry(state, rules, part, LOST, now_s)
        forget(state, slot)
