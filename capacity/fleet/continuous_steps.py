"""Steps of a replica with continuous batching: who is in the next one, how long it takes, what it brings about."""

from __future__ import annotations

import math

import numpy as np

from capacity.fleet.continuous_state import (
    Records,
    State,
    crossings,
    evict,
    grid_value,
    grown,
    hold,
    lean,
    let_go,
    line_value,
    link,
    note_gap,
    put,
    unlink,
    walk,
)
from capacity.fleet.flow import Outcome

SERVED = int(Outcome.SERVED)


@lean
def begin(state: State, index: int, now_s: float) -> None:
    """Form the next step: decoding sequences first, then prompts; or as many decode steps as nothing interrupts."""
    rules, replica = state.rules[0], state.replicas[index]
    replica.start_s, replica.steps, replica.decodes, replica.readers = now_s, 1, 0, 0
    calm = True
    if rules.mixed == 0:
        read(state, index, rules.max_batched_tokens, True)
    if rules.mixed == 1 or replica.readers == 0:
        calm = grow(state, index)
        replica.decodes = 1 if replica.decoding > 0 else 0
    if rules.mixed == 1:
        taken = replica.decoding * rules.beams * rules.verified_tokens
        read(state, index, rules.max_batched_tokens - taken, calm)
    replica.most_running = max(replica.most_running, replica.running)
    replica.most_used = max(replica.most_used, replica.used)
    if replica.readers > 0:
        replica.end_s = now_s + mixed_step_s(state, index)
    elif replica.decoding > 0:
        if calm and replica.token_s == now_s:
            replica.steps = ahead(state, index)
        replica.end_s = now_s + walk(state, index, replica.steps, np.inf, 0)[1]
    else:
        replica.end_s = np.inf
    schedule(state, index)


@lean
def ahead(state: State, index: int) -> int:
    """Return how many decode steps go by before a request finishes or the free blocks run out."""
    rules, replica = state.rules[0], state.replicas[index]
    ring, steps = state.due.shape[1], 1
    while state.due[index, (replica.step + steps) % ring] < 0:
        steps += 1
    blocks = rules.kv_blocks - replica.used - replica.cached
    token = grown(state, replica.step + 1)
    if crossings(state, index, token, grown(state, replica.step + steps)) <= blocks:
        return steps
    fitting = 1
    while True:
        after = grown(state, replica.step + fitting + 1)
        blocks -= crossings(state, index, token, after)
        if blocks < 0:
            return fitting
        token, fitting = after, fitting + 1


@lean
def grow(state: State, index: int) -> bool:
    """Give decoding sequences the blocks of their next tokens; return whether nobody had to be preempted for it."""
    rules, replica, calm = state.rules[0], state.replicas[index], True
    while True:
        need = crossings(state, index, grown(state, replica.step), grown(state, replica.step + 1))
        if replica.used + need <= rules.kv_blocks or replica.running == 1:
            break
        evict(state, index, 0)
        preempt(state, index)
        calm = False
    replica.used += need
    evict(state, index, rules.kv_blocks)
    return calm


@lean
def preempt(state: State, index: int) -> None:
    """Send the request admitted last back to the front of the queue, to be read again with what it wrote."""
    rules, replica = state.rules[0], state.replicas[index]
    row = state.slots[rules.replicas + index].prev
    slot = state.slots[row]
    tokens = slot.tokens
    if slot.left == 0:
        tokens = slot.level + grown(state, replica.step)
        slot.last_s = max(slot.last_s, replica.token_s)
        stop_decoding(state, index, row)
        remove_due(state, index, row)
        slot.remaining -= replica.step
    let_go(state, index, slot, tokens)
    if slot.left == 0:
        slot.tokens = tokens + 1
        slot.length = slot.input_tokens + rules.beams * (slot.tokens - slot.input_tokens)
    else:
        replica.partial = -1
    slot.left, slot.deadline_s = 0, np.inf
    unlink(state.slots, row)
    link(state.slots, state.slots[index].next, row)
    replica.running -= 1
    replica.waiting += 1
    replica.most_waiting = max(replica.most_waiting, replica.waiting)
    state.totals[0].preemptions += 1


@lean
def read(state: State, index: int, budget: int, admit: bool) -> None:
    """Choose the prompt tokens of a step: the rest of a prompt begun, then, if `admit`, prompts from the queue."""
    rules, replica = state.rules[0], state.replicas[index]
    replica.reader, replica.readers, replica.prompt_tokens, replica.attention_s = -1, 0, 0, 0.0
    if replica.partial >= 0:
        budget = read_chunk(state, index, replica.partial, budget)
    while admit and budget > 0 and replica.waiting > 0 and (replica.running + 1) * rules.beams <= rules.max_sequences:
        row = state.slots[index].next
        if not hold(state, index, state.slots[row], budget):
            break
        unlink(state.slots, row)
        link(state.slots, rules.replicas + index, row)
        replica.waiting -= 1
        replica.running += 1
        budget = read_chunk(state, index, row, budget)


@lean
def read_chunk(state: State, index: int, row: int, budget: int) -> int:
    """Read what fits of a prompt; return the tokens that are left of the budget."""
    rules, replica, slot = state.rules[0], state.replicas[index], state.slots[row]
    tokens = min(slot.left, budget)
    before = slot.length - slot.left
    replica.attention_s += grid_value(state.prefill_s, tokens / rules.query_step, before / rules.start_step)
    slot.left -= tokens
    replica.partial = row if slot.left > 0 else -1
    replica.reader = row if replica.readers == 0 else replica.reader
    replica.readers += 1
    replica.prompt_tokens += tokens
    state.totals[0].prompt_tokens += tokens
    return int(budget - tokens)


@lean
def mixed_step_s(state: State, index: int) -> float:
    """Return the time of a step that reads prompt tokens [s]."""
    rules, replica = state.rules[0], state.replicas[index]
    decoding = replica.decoding * rules.beams * replica.decodes
    sequences = decoding + replica.readers * rules.beams
    device_s = state.linear_s[decoding * rules.verified_tokens + replica.prompt_tokens] + replica.attention_s
    if decoding > 0:
        context = replica.contexts / decoding + rules.tokens_per_step * (replica.step + 1)
        device_s += line_value(state.decode_s[decoding], context / rules.context_step)
    return float(max(device_s, state.floor_s[sequences]) + state.host_s[sequences] + rules.prompt_s)


@lean
def end(state: State, index: int, now_s: float) -> None:
    """Finish the steps that end now: tokens come out, prompts are read, requests leave."""
    rules, replica = state.rules[0], state.replicas[index]
    tally(replica, now_s)
    if replica.steps == 0:
        return
    used, last_s = replica.used, now_s - replica.start_s
    state.batches[rules.beams * (replica.readers + replica.decoding * replica.decodes)] += replica.steps
    if replica.decodes == 1:
        last_s = advance(state, index, replica.steps, now_s)
    replica.busy_s += now_s - replica.start_s
    replica.kv_area_s += (used + replica.used) / 2 * (now_s - replica.start_s)
    seen_s = now_s + rules.visible_after_s + rules.visible_after_steps * last_s
    reader = replica.reader
    for _ in range(replica.readers):
        row, reader = reader, state.slots[reader].next
        if state.slots[row].left == 0:
            start_decoding(state, index, row, now_s, seen_s)
    if replica.decodes == 1:
        ring = state.due.shape[1]
        while state.due[index, replica.step % ring] >= 0:
            row = state.due[index, replica.step % ring]
            slot = state.slots[row]
            remove_due(state, index, row)
            stop_decoding(state, index, row)
            finish(state, index, row, slot.level + grown(state, replica.step), seen_s)
    if replica.decodes == 1 or rules.mixed == 1:
        replica.token_s = now_s


@lean
def advance(state: State, index: int, steps: int, now_s: float) -> float:
    """Let every decoding sequence take `steps` steps, the last of which ends now; return that one's time [s]."""
    replica = state.replicas[index]
    last_s = now_s - replica.start_s
    if replica.token_s < replica.start_s:
        row = state.slots[state.rules[0].replicas + index].next
        for _ in range(replica.decoding):
            note_gap(state, now_s - max(replica.token_s, state.slots[row].last_s), 1)
            row = state.slots[row].next
    elif steps > 1:
        begun = grown(state, replica.step + 1)
        replica.used += crossings(state, index, begun, grown(state, replica.step + steps))
        replica.most_used = max(replica.most_used, replica.used)
        last_s = walk(state, index, steps, np.inf, replica.decoding)[2]
    else:
        note_gap(state, last_s, replica.decoding)
    replica.step += steps
    return float(last_s)


@lean
def start_decoding(state: State, index: int, row: int, now_s: float, seen_s: float) -> None:
    """Let a request whose prompt is read write its tokens, the first of which is out."""
    rules, replica, slot = state.rules[0], state.replicas[index], state.slots[row]
    if slot.started == 1:
        slot.remaining -= 1
        if slot.last_s == slot.last_s:
            note_gap(state, now_s - slot.last_s, 1)
    slot.started, slot.last_s = 1, now_s
    if math.isnan(slot.first_s):
        slot.first_s = seen_s
    if slot.remaining <= 0:
        finish(state, index, row, slot.tokens, seen_s)
        return
    slot.level = slot.tokens - grown(state, replica.step)
    slot.context = slot.tokens - rules.tokens_per_step * replica.step
    slot.remaining += replica.step
    state.residues[index, slot.level % rules.block_tokens] += rules.beams
    replica.contexts += slot.context * rules.beams
    replica.decoding += 1
    place = slot.remaining % state.due.shape[1]
    slot.due_prev, slot.due_next = -1, state.due[index, place]
    if slot.due_next >= 0:
        state.slots[slot.due_next].due_prev = row
    state.due[index, place] = row


@lean
def stop_decoding(state: State, index: int, row: int) -> None:
    """Take a request out of those that decode."""
    rules, replica, slot = state.rules[0], state.replicas[index], state.slots[row]
    state.residues[index, slot.level % rules.block_tokens] -= rules.beams
    replica.decoding -= 1
    replica.contexts = replica.contexts - slot.context * rules.beams if replica.decoding > 0 else 0.0


@lean
def remove_due(state: State, index: int, row: int) -> None:
    """Take a request out of those that finish at the same step."""
    slot = state.slots[row]
    if slot.due_next >= 0:
        state.slots[slot.due_next].due_prev = slot.due_prev
    if slot.due_prev >= 0:
        state.slots[slot.due_prev].due_next = slot.due_next
    else:
        state.due[index, slot.remaining % state.due.shape[1]] = slot.due_next


@lean
def finish(state: State, index: int, row: int, tokens: int, seen_s: float) -> None:
    """Hand out a request that has all its tokens."""
    replica = state.replicas[index]
    let_go(state, index, state.slots[row], tokens)
    unlink(state.slots, row)
    replica.running -= 1
    leave(state, row, seen_s, SERVED)


@lean
def leave(state: State, row: int, time_s: float, outcome: int) -> None:
    """Hand a request out and free its row."""
    totals, slot = state.totals[0], state.slots[row]
    result = state.outgoing[totals.left]
    totals.left += 1
    totals.inside -= 1
    result.request, result.arrival_s, result.time_s, result.prefix = slot.request, slot.arrival_s, time_s, slot.prefix
    result.input_tokens, result.output_tokens = slot.input_tokens, slot.output_tokens
    result.outcome, result.first_s = outcome, slot.first_s
    if outcome == SERVED:
        totals.generated_tokens += slot.output_tokens
    if slot.client >= 0:
        put(state.clients, slot.client, time_s)
    slot.next = totals.free
    totals.free = row


@lean
def schedule(state: State, index: int) -> None:
    """Tell the trees when a replica acts next and how loaded it is."""
    replica = state.replicas[index]
    replica.deadline_s = np.inf
    if replica.waiting > 0 and state.rules[0].timeout_s < np.inf:
        row = state.slots[index].next
        while row >= 2 * state.rules[0].replicas and state.slots[row].deadline_s == np.inf:
            row = state.slots[row].next
        if row != index:
            replica.deadline_s = state.slots[row].deadline_s
    put(state.events, index, min(replica.end_s, replica.deadline_s))
    put(state.loads, index, float(replica.waiting + replica.running) if replica.routable == 1 else np.inf)


@lean
def tally(replica: Records, now_s: float) -> None:
    """Add what ran and waited since the last change to its time-weighted sums."""
    replica.running_area_s += replica.running * (now_s - replica.tallied_s)
    replica.waiting_area_s += replica.waiting * (now_s - replica.tallied_s)
    replica.tallied_s = now_s


@lean
def cut(state: State, index: int, now_s: float) -> None:
    """End a row of decode steps with the one that goes on now: the next may admit someone."""
    replica = state.replicas[index]
    if replica.steps > 1:
        replica.steps, elapsed_s, _ = walk(state, index, replica.steps, now_s - replica.start_s, 0)
        replica.end_s = replica.start_s + elapsed_s
