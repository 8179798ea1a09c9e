"""Events of continuous batching: requests arrive, steps end, requests wait too long, replicas come and go."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from capacity.fleet.continuous_state import (
    Floats,
    Records,
    State,
    crossings,
    evict,
    first,
    grown,
    lean,
    link,
    own_blocks,
    put,
    unlink,
    walk,
)
from capacity.fleet.continuous_steps import (
    begin,
    cut,
    end,
    leave,
    schedule,
    tally,
)
from capacity.fleet.flow import Outcome
from capacity.fleet.replicas import DRAINING, FAILED, STARTING, UP, Life, apply, compiled, release

ROUND_ROBIN, LEAST_LOADED, PREFIX_AWARE = 0, 1, 2
SHED, TIMED_OUT, LOST = int(Outcome.SHED), int(Outcome.TIMED_OUT), int(Outcome.FAILED)
Statuses: TypeAlias = NDArray[np.int8]


@compiled
def run(state: State, life: Life, until_s: float) -> bool:
    """Simulate to `until_s`, that moment left out; return False when requests wait for more rows in `slots`.

    At equal times replicas change first, then requests arrive, then steps end: who arrives as a step ends is in the
    next one, and a client that answers at once is in the one after. Without an end it stops when all have left.
    """
    totals, incoming = state.totals[0], state.incoming
    while True:
        arrival_s = np.inf
        if totals.taken < len(incoming):
            arrival_s = state.clients[1] if state.rules[0].closed == 1 else incoming[totals.taken].time_s
        now_s = min(life.next_s[0], arrival_s, state.events[1])
        if now_s >= until_s or (until_s == np.inf and arrival_s == np.inf and totals.inside == 0):
            return True
        if life.next_s[0] <= now_s:
            apply(life, now_s, worked_s(state, now_s), waiting(state))
            change(state, life.status, life.change_s, now_s)
            for index in range(len(life.status)):
                release_idle(state, life, index, now_s)
        elif arrival_s <= now_s:
            if totals.free < 0:
                return False
            take(state, now_s)
        else:
            index = first(state.events)
            if state.replicas[index].end_s <= now_s:
                end(state, index, now_s)
                begin(state, index, now_s)
            else:
                drop_late(state, index, now_s)
            release_idle(state, life, index, now_s)


@compiled
def release_idle(state: State, life: Life, index: int, now_s: float) -> None:
    """Let a draining replica go when its last request has left."""
    replica = state.replicas[index]
    if life.status[index] == DRAINING and replica.running + replica.waiting == 0:
        replica.up = 0
        release(life, index, now_s)


@lean
def worked_s(state: State, now_s: float) -> float:
    """Return the replica-seconds worked so far, a replica counted by its sequences or its KV, whichever is fuller [s].

    An engine with one request computes all the time, so being busy would tell an autoscaler nothing.
    """
    rules, running_s, kv_s = state.rules[0], 0.0, 0.0
    for index in range(rules.replicas):
        tally(state.replicas[index], now_s)
        running_s += state.replicas[index].running_area_s
        kv_s += state.replicas[index].kv_area_s
    return float(max(running_s * rules.beams / rules.max_sequences, kv_s / rules.kv_blocks))


@lean
def waiting(state: State) -> int:
    """Return how many requests wait."""
    count = 0
    for index in range(state.rules[0].replicas):
        count += state.replicas[index].waiting
    return count


@lean
def take(state: State, now_s: float) -> None:
    """Let the next request in; one that no replica can ever hold fails."""
    rules, totals = state.rules[0], state.totals[0]
    row, source = totals.free, state.incoming[totals.taken]
    slot = state.slots[row]
    totals.free = slot.next
    totals.taken += 1
    totals.inside += 1
    slot.request, slot.arrival_s, slot.prefix = source.request, source.arrival_s, source.prefix
    slot.input_tokens, slot.output_tokens = source.input_tokens, source.output_tokens
    slot.first_s, slot.tries, slot.client = source.first_s, 0, -1
    if rules.closed == 1:
        slot.arrival_s, slot.client = now_s, first(state.clients)
        put(state.clients, slot.client, np.inf)
    renew(state, slot)
    slot.shares = 0
    most = slot.tokens + math.ceil(slot.remaining * rules.tokens_per_step)
    longest = slot.input_tokens + rules.beams * (most - slot.input_tokens)
    if own_blocks(state, slot, most) > rules.kv_blocks or (rules.chunked == 0 and longest > rules.max_batched_tokens):
        leave(state, row, now_s, LOST)
    else:
        arrive(state, row, now_s)


@lean
def renew(state: State, slot: Records) -> None:
    """Make a request as it was when it came."""
    rules = state.rules[0]
    cached = rules.prompts_cached
    slot.remaining = max(math.ceil((slot.output_tokens - 1) / rules.tokens_per_step), cached)
    slot.tokens, slot.left, slot.started = slot.input_tokens + cached, -cached, cached
    slot.length = slot.input_tokens + cached * rules.beams
    slot.first_s = slot.first_s if cached == 1 else np.nan
    slot.last_s = slot.first_s


@lean
def arrive(state: State, row: int, now_s: float) -> None:
    """Put a request at the end of a replica's queue, or turn it away."""
    rules, slot = state.rules[0], state.slots[row]
    index = route(state, slot)
    if index < 0:
        leave(state, row, now_s, LOST)
        return
    replica = state.replicas[index]
    if replica.waiting >= rules.queue_limit:
        leave(state, row, now_s, SHED)
        return
    tally(replica, now_s)
    link(state.slots, index, row)
    slot.deadline_s = now_s + rules.timeout_s
    replica.waiting += 1
    replica.most_waiting = max(replica.most_waiting, replica.waiting)
    if replica.up == 1 and replica.end_s == np.inf:
        replica.end_s, replica.steps = now_s, 0
    elif replica.waiting == 1:
        cut(state, index, now_s)
    schedule(state, index)


@lean
def route(state: State, slot: Records) -> int:
    """Return the replica that gets a request; where none is up, that which is back first; -1 if none ever is."""
    rules, totals, count = state.rules[0], state.totals[0], state.rules[0].replicas
    least = first(state.loads)
    if state.loads[1] == np.inf:
        back_s, soonest = np.inf, -1
        for index in range(count):
            if state.replicas[index].back_s < back_s:
                back_s, soonest = state.replicas[index].back_s, index
        return soonest
    if rules.routing == ROUND_ROBIN:
        while state.replicas[totals.turn].routable == 0:
            totals.turn = (totals.turn + 1) % count
        chosen = totals.turn
        totals.turn = (totals.turn + 1) % count
        return int(chosen)
    if rules.routing == PREFIX_AWARE and slot.prefix >= 0:
        half, best = len(state.loads) // 2, state.loads[1] + rules.imbalance
        holder = -1
        for index in range(count):
            load = state.loads[half + index]
            if state.prefixes[index * (rules.prefixes + 1) + slot.prefix].resident == 1 and (
                load < best or (load == best and holder < 0)
            ):
                holder, best = index, load
        return holder if holder >= 0 else least
    return least


@lean
def drop_late(state: State, index: int, now_s: float) -> None:
    """Take those out of a queue that waited too long."""
    replica = state.replicas[index]
    tally(replica, now_s)
    row = state.slots[index].next
    while row != index and state.slots[row].deadline_s == np.inf:
        row = state.slots[row].next
    while row != index and state.slots[row].deadline_s <= now_s:
        late, row = row, state.slots[row].next
        unlink(state.slots, late)
        replica.waiting -= 1
        schedule(state, index)
        try_again(state, late, now_s, TIMED_OUT)
    if replica.waiting > 0:
        cut(state, index, now_s)
    schedule(state, index)


@lean
def try_again(state: State, row: int, now_s: float, outcome: int) -> None:
    """Send a request to a replica once more, or give it up with `outcome`."""
    slot = state.slots[row]
    slot.tries += 1
    if slot.tries > state.rules[0].retries:
        leave(state, row, now_s, outcome)
    else:
        arrive(state, row, now_s)


@lean
def change(state: State, status: Statuses, change_s: Floats, now_s: float) -> None:
    """Let replicas come and go: requests of those lost begin anew elsewhere."""
    for index in range(len(status)):
        replica = state.replicas[index]
        tally(replica, now_s)
        replica.routable = 1 if status[index] == UP else 0
        replica.back_s = change_s[index] if status[index] in (STARTING, FAILED) else np.inf
        if replica.up == 0 and status[index] == UP:
            replica.up = 1
            if replica.waiting > 0:
                replica.end_s, replica.steps = now_s, 0
        schedule(state, index)
    for index in range(len(status)):
        replica = state.replicas[index]
        stuck = replica.waiting > 0 and replica.back_s == np.inf
        if status[index] not in (UP, DRAINING) and (replica.up == 1 or stuck):
            lose(state, index, now_s)
    for index in range(len(status)):
        while state.replicas[index].lost > 0:
            state.replicas[index].lost -= 1
            state.replicas[index].waiting -= 1
            row = state.slots[index].next
            unlink(state.slots, row)
            renew(state, state.slots[row])
            try_again(state, row, now_s, LOST)
        schedule(state, index)


@lean
def lose(state: State, index: int, now_s: float) -> None:
    """Take a replica down; its requests are in its queue then, to be sent elsewhere."""
    replica = state.replicas[index]
    if replica.end_s < np.inf and replica.steps > 0:
        stop_short(state, index, now_s)
    replica.up, replica.steps, replica.end_s = 0, 0, np.inf
    for _ in range(replica.running):
        row = state.slots[index + state.rules[0].replicas].prev
        unlink(state.slots, row)
        link(state.slots, state.slots[index].next, row)
    replica.waiting += replica.running
    replica.lost = replica.waiting
    forget(state, index)


@lean
def stop_short(state: State, index: int, now_s: float) -> None:
    """Count what a replica that dies did since the last event."""
    replica = state.replicas[index]
    replica.busy_s += now_s - replica.start_s
    replica.kv_area_s += replica.used * (now_s - replica.start_s)
    if replica.decodes == 1 and replica.readers == 0:
        steps = walk(state, index, replica.steps, now_s - replica.start_s, 0)[0]
        begun = grown(state, replica.step + 1)
        replica.used += crossings(state, index, begun, grown(state, replica.step + steps))
        replica.most_used = max(replica.most_used, replica.used)
        state.batches[state.rules[0].beams * replica.decoding] += steps - 1
        walk(state, index, steps - 1, np.inf, replica.decoding)
        replica.step += steps - 1


@lean
def forget(state: State, index: int) -> None:
    """Empty the memory of a replica."""
    replica, width = state.replicas[index], state.rules[0].prefixes + 1
    evict(state, index, 0)
    replica.used = replica.decoding = replica.running = 0
    replica.partial, replica.contexts = -1, 0.0
    state.residues[index, :] = 0
    state.due[index, :] = -1
    for node in range(index * width, (index + 1) * width - 1):
        state.prefixes[node].resident = state.prefixes[node].users = 0
