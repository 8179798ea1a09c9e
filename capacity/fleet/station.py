"""The event loop of a station: arrivals, ends of batches, changes of replicas, batches that waited, time-outs."""

from __future__ import annotations

from math import inf

from capacity.fleet.batching import (
    LOST,
    SHED,
    TIMED_OUT,
    Rules,
    State,
    collect,
    enter,
    fill,
    finish,
    forget,
    leave,
    pop,
    push,
    remove,
    replica_of,
    retry,
    route,
    serve,
    slot_of,
    spend,
    station_of,
    withdraw,
)  # fmt: skip
from capacity.fleet.replicas import DRAINING, FAILED, UP, Records, apply, compiled, count, inlined, release


@compiled
def free_lanes(state: State, rules: Rules) -> None:
    """Count the free lanes of replicas that are up, and the ends of batches of those that work."""
    now, ends, life, kept = state.now[0], state.ends, state.life, 0
    for place in range(now.ends):
        status = life.status[replica_of(rules, ends[place].lane)]
        if status in (UP, DRAINING):
            push(ends, kept, ends[place].time_s, ends[place].lane)
            kept += 1
    now.ends = kept
    for station in range(len(state.stations)):
        state.stations[station].idle = 0
    for lane in range(len(state.lanes) - 1, -1, -1):
        if life.status[replica_of(rules, lane)] == UP and not state.lanes[lane].busy:
            station = station_of(rules, lane)
            state.idle[station, state.stations[station].idle] = lane
            state.stations[station].idle += 1
    for station in range(len(state.stations)):
        if state.stations[station].idle == 0:
            fill(state, station)
        elif state.stations[station].freed_s == inf:
            collect(state, rules, station)


@compiled
def _let_go(state: State, rules: Rules, replica: int, now_s: float) -> None:
    """Release a draining replica that works on nothing."""
    lanes = rules.lanes * rules.shards
    busy = state.life.status[replica] != DRAINING
    for lane in range(replica * lanes, (replica + 1) * lanes):
        busy = busy or state.lanes[lane].busy
    if not busy:
        release(state.life, replica, now_s)


@inlined
def _end(state: State, rules: Rules, now_s: float) -> int:
    """End the batch that is due and return the station."""
    lane = pop(state.ends, state.now[0].ends)
    state.now[0].ends -= 1
    replica, station = replica_of(rules, lane), station_of(rules, lane)
    finish(state, rules, lane, now_s, True)
    if state.life.status[replica] == UP:
        if state.stations[station].idle == 0:
            collect(state, rules, station)
        state.idle[station, state.stations[station].idle] = lane
        state.stations[station].idle += 1
    else:
        _let_go(state, rules, replica, now_s)
    return station


@compiled
def _change(state: State, rules: Rules, now_s: float) -> None:
    """Let replicas change; lost work is tried again, waiting work leaves queues that nobody serves."""
    status = state.life.status
    apply(state.life, now_s, state.now[0].busy_s / (rules.lanes * rules.shards), state.now[0].waiting)
    free_lanes(state, rules)
    for lane in range(len(state.lanes)):
        if state.lanes[lane].busy and status[replica_of(rules, lane)] not in (UP, DRAINING):
            finish(state, rules, lane, now_s, False)
    for replica in range(len(status)):
        _let_go(state, rules, replica, now_s)
    if not rules.shared:
        for queue in range(len(state.waiting)):
            _clear(state, rules, queue, now_s)


@compiled
def _clear(state: State, rules: Rules, queue: int, now_s: float) -> None:
    """Move what waits for a replica that takes no new work; losing it counts as a try, its draining does not."""
    status, replica = state.life.status, queue // rules.buckets // rules.shards
    nowhere = replica == len(status)
    if count(state.life, UP) == 0 if nowhere else status[replica] == UP:
        return
    while state.waiting[queue] > 0:
        part = state.line[queue, 1]
        withdraw(state, rules, part)
        if nowhere or status[replica] != FAILED:
            enter(state, rules, route(state, rules), part, now_s)
        else:
            retry(state, rules, part, LOST, now_s)
            forget(state, slot_of(state, rules, part))


@inlined
def _admit(state: State, rules: Rules, row: Records, now_s: float) -> int:
    """Take a request in and return the first of its stations, or shed it and return −1."""
    now = state.now[0]
    now.free -= 1
    now.inside += 1
    number = state.free[now.free]
    state.held[number] = row
    slot, bucket = state.slots[number], 0
    while bucket < rules.buckets - 1 and row.input_tokens > state.edges[bucket]:
        bucket += 1
    slot.left, slot.ties, slot.tries, slot.tried_s, slot.bucket = rules.shards * rules.sequences, 0, 0, -1.0, bucket
    replica, first = route(state, rules), len(state.waiting) + 1 + number * rules.shards
    for station in range(replica * rules.shards, (replica + 1) * rules.shards):
        if state.stations[station].parts >= rules.queue_limit and state.stations[station].idle == 0:
            leave(state, rules, number, SHED, now_s)
            forget(state, number)
            return -1
    for part in range(first, first + rules.shards):
        state.parts[part].texts = rules.sequences
        enter(state, rules, replica, part, now_s)
    full = state.waiting[state.parts[first].queue] >= rules.max_batch
    return int(replica * rules.shards) if full else -1


@compiled
def _time_out(state: State, rules: Rules, now_s: float) -> int:
    """Let the part that has waited too long try again and return its station, or −1; one that is being served stays."""
    part = state.now[0].late
    if state.parts[part].touched:
        state.now[0].late = state.age[part, 1]
        return -1
    withdraw(state, rules, part)
    station = retry(state, rules, part, TIMED_OUT, now_s)
    forget(state, slot_of(state, rules, part))
    return station


@compiled
def run(state: State, rules: Rules, flow: Records, until_s: float) -> int:
    """Simulate to `until_s`, that moment left out, and return how many rows of `flow` have arrived.

    Those that left are the first `state.now[0].out` of `state.out`. Without an end it stops when all have left.
    """
    row, rows, end, now = 0, len(flow), len(state.waiting), state.now[0]
    while True:
        end_s = state.ends[0].time_s if now.ends else inf
        due_s = state.parts[now.due].entered_s + rules.max_wait_s if now.due != end else inf
        freed = state.freed[len(state.stations), 1]
        held_s = state.stations[freed].freed_s + rules.max_wait_s if freed != len(state.stations) else inf
        late_s = state.parts[now.late].entered_s + rules.timeout_s if now.late != end else inf
        event_s = min(end_s, state.life.next_s[0], due_s, held_s, late_s)
        arrives = row < rows and flow[row].time_s <= event_s
        now_s = flow[row].time_s if arrives else event_s
        if now_s >= until_s or (until_s == inf and row == rows and now.inside + now.ends == 0):
            return row
        spend(state, now_s)
        stations = 1
        if arrives:
            first, stations = _admit(state, rules, flow[row], now_s), rules.shards
            row += 1
        elif end_s == event_s:
            first = _end(state, rules, now_s)
        elif state.life.next_s[0] == event_s:
            _change(state, rules, now_s)
            first, stations = 0, len(state.stations)
        elif due_s == event_s:
            first = state.parts[now.due].queue // rules.buckets
            now.due = state.age[now.due, 1]
        elif held_s == event_s:
            first = freed
            remove(state.freed, freed)
        else:
            first = _time_out(state, rules, now_s)
        if first >= 0:
            for station in range(first, first + stations):
                serve(state, rules, station, now_s)
