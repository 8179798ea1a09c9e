"""State of continuous batching as arrays, and what its events are made of: order, lists, memory, time of steps.

Compiled by numba and imported only where something is simulated. Requests, replicas and prefixes are rows of record
arrays. Rows of `slots` are requests inside; the first 2 · replicas rows are the ends of circular lists: row r of those
that wait at replica r, row replicas + r of those that run there, in order of admission.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])
Routing = Literal["round-robin", "least-loaded", "prefix-aware"]
Records: TypeAlias = Any
"""A numpy record array (or one row of it), whose fields numba reads as attributes."""


def _layout(floats: str, counts: str) -> np.dtype[np.void]:
    return np.dtype([(name, "f8") for name in floats.split()] + [(name, "i8") for name in counts.split()])


FLOW = _layout("arrival_s time_s first_s", "request input_tokens output_tokens prefix outcome")
SLOT = _layout(
    "arrival_s deadline_s first_s last_s context",
    "request input_tokens output_tokens prefix outcome client tries next prev due_next due_prev "
    "tokens level left length remaining started shares fresh",
)
"""A request inside. `tokens`: KV it has once read; `level`, `context`: its tokens less those that the replica's steps
have grown (whole, and on average); `left` of `length`: tokens to read; `remaining`: decode steps to go; `due_*`:
neighbors among those that finish at the same step; `shares`: its prefix's blocks are shared; `fresh`: it created them.
"""
REPLICA = _layout(
    "start_s end_s deadline_s back_s attention_s contexts token_s tallied_s "
    "busy_s running_area_s waiting_area_s kv_area_s",
    "routable up step steps decoding decodes running waiting lost partial reader readers prompt_tokens used cached "
    "most_running most_waiting most_used",
)
PREFIX = _layout("", "resident users next prev")
RULES = _layout(
    "tokens_per_step prefix_hit_rate timeout_s visible_after_s visible_after_steps prompt_s context_step query_step "
    "start_step",
    "replicas prefixes kv_blocks block_tokens max_sequences max_batched_tokens chunked mixed beams verified_tokens "
    "prompts_cached routing imbalance queue_limit retries closed",
)
TOTALS = _layout("", "taken left free turn inside preemptions prefix_hits cached_tokens prompt_tokens generated_tokens")

FIRST_GAP_S, GAP_RATIO, GAP_BINS = 1e-6, 1.005, 4700
"""Bins of the histogram of gaps: the first one's lower edge [s], each 0.5 % wide, up to four hours."""


def lean(function: Function) -> Function:
    """Return the function compiled without counting references to arrays: it may make none.

    Counting took 4 of 5 µs a request, as every call passes on all arrays of the state.
    """
    options: Any = {"cache": True, "error_model": "numpy", "_nrt": False}
    quick: Any = njit(**options)(function)
    return cast("Function", quick)


class State(NamedTuple):
    """All that a stage of LLM replicas knows."""

    incoming: Records
    """Requests that reach the stage, in order of time."""
    outgoing: Records
    """Room for those that leave it."""
    rules: Records
    linear_s: Floats
    decode_s: Floats
    prefill_s: Floats
    host_s: Floats
    floor_s: Floats
    slots: Records
    replicas: Records
    residues: Counts
    """(replicas, block_tokens): decoding sequences by `level` modulo block."""
    due: Counts
    """(replicas, ring): first request that finishes at each decode step, modulo ring; -1: none."""
    prefixes: Records
    """Per replica one row a prefix and one more: the ends of the list of those no request uses, oldest first."""
    prefix_tokens: Counts
    events: Floats
    """Tree of each replica's next event [s]."""
    loads: Floats
    """Tree of requests at each replica; infinite where none may be sent."""
    clients: Floats
    """Tree of when each client of a closed loop sends its next request [s]."""
    gaps: Counts
    """Histogram of the time between tokens."""
    batches: Counts
    """Steps by sequences in them."""
    totals: Records


@lean
def put(tree: Floats, leaf: int, key: float) -> None:
    """Set the key of a leaf in a tree of minima."""
    node = leaf + len(tree) // 2
    tree[node] = key
    while node > 1:
        node //= 2
        tree[node] = min(tree[2 * node], tree[2 * node + 1])


@lean
def first(tree: Floats) -> int:
    """Return the leaf with the least key, the lowest such."""
    node, half = 1, len(tree) // 2
    while node < half:
        node *= 2
        if tree[node] > tree[1]:
            node += 1
    return node - half


@lean
def link(rows: Records, before: int, row: int) -> None:
    """Put `row` into a circular list, in front of `before`."""
    last = rows[before].prev
    rows[row].prev, rows[row].next = last, before
    rows[last].next = row
    rows[before].prev = row


@lean
def unlink(rows: Records, row: int) -> None:
    """Take `row` out of its circular list."""
    before, after = rows[row].prev, rows[row].next
    rows[before].next = after
    rows[after].prev = before


@lean
def grown(state: State, step: int) -> int:
    """Return the tokens that every decoding sequence gains in the first `step` decode steps."""
    return int(step * state.rules[0].tokens_per_step)


@lean
def crossings(state: State, replica: int, begin: int, end: int) -> int:
    """Return the blocks that decoding sequences take while each grows from `begin` to `end` of the replica's tokens."""
    block = state.rules[0].block_tokens
    rounds, rest = divmod(end - begin, block)
    blocks = rounds * state.replicas[replica].decoding * state.rules[0].beams
    place = -begin % block
    while rest > 0:
        blocks += state.residues[replica, place]
        place = place - 1 if place > 0 else block - 1
        rest -= 1
    return int(blocks)


@lean
def own_blocks(state: State, slot: Records, tokens: int) -> int:
    """Return the blocks that a request with `tokens` tokens a sequence holds beside those of its shared prefix.

    Whole blocks of the prompt are held once for all beams.
    """
    rules = state.rules[0]
    common = slot.input_tokens // rules.block_tokens
    blocks = common + rules.beams * (-(-tokens // rules.block_tokens) - common)
    return int(blocks - slot.shares * (state.prefix_tokens[slot.prefix] // rules.block_tokens))


@lean
def evict(state: State, index: int, room: int) -> None:
    """Forget prefixes that no request uses, the longest unused first, until `room` blocks hold all."""
    replica, width = state.replicas[index], state.rules[0].prefixes + 1
    end = (index + 1) * width - 1
    while replica.used + replica.cached > room and replica.cached > 0:
        oldest = state.prefixes[end].next
        unlink(state.prefixes, oldest)
        state.prefixes[oldest].resident = 0
        replica.cached -= state.prefix_tokens[oldest - index * width] // state.rules[0].block_tokens


@lean
def hold(state: State, index: int, slot: Records, most_tokens: int) -> bool:
    """Give a request its blocks and say what is left to read, if blocks and `most_tokens` new tokens suffice."""
    rules, replica = state.rules[0], state.replicas[index]
    block = rules.block_tokens
    shared, node = 0, -1
    if slot.prefix >= 0 and slot.input_tokens > state.prefix_tokens[slot.prefix]:
        shared = state.prefix_tokens[slot.prefix] // block
        node = index * (rules.prefixes + 1) + slot.prefix
    slot.shares = 1 if shared > 0 else 0
    hit = slot.shares == 1 and state.prefixes[node].resident == 1
    skipped = min(int(rules.prefix_hit_rate * slot.input_tokens), slot.input_tokens - 1) // block * block
    if hit:
        skipped = max(skipped, shared * block)
    if slot.left < 0:  # its prompt came with its KV
        skipped = slot.input_tokens
    blocks = own_blocks(state, slot, slot.tokens)
    if slot.shares == 1 and state.prefixes[node].users == 0:
        blocks += shared
    too_long = rules.chunked == 0 and slot.length - skipped > most_tokens
    if too_long or (replica.used + blocks > rules.kv_blocks and replica.running > 0):
        return False
    if slot.shares == 1:
        if hit and state.prefixes[node].users == 0:
            unlink(state.prefixes, node)
            replica.cached -= shared
        state.prefixes[node].users += 1
        state.prefixes[node].resident = 1
        slot.fresh = 0 if hit else 1
        state.totals[0].prefix_hits += 1 if hit else 0
    replica.used += blocks
    evict(state, index, rules.kv_blocks)
    slot.left = slot.length - skipped
    state.totals[0].cached_tokens += skipped
    return True


@lean
def let_go(state: State, index: int, slot: Records, tokens: int) -> None:
    """Free the blocks of a request with `tokens` tokens a sequence; a prefix that was read through stays resident."""
    rules, replica = state.rules[0], state.replicas[index]
    replica.used -= own_blocks(state, slot, tokens)
    if slot.shares == 0:
        return
    width = rules.prefixes + 1
    node = index * width + slot.prefix
    state.prefixes[node].users -= 1
    if state.prefixes[node].users > 0:
        return
    shared = state.prefix_tokens[slot.prefix] // rules.block_tokens
    replica.used -= shared
    if slot.fresh == 1 and slot.left > 0:
        state.prefixes[node].resident = 0
    else:
        link(state.prefixes, (index + 1) * width - 1, node)
        replica.cached += shared


@lean
def line_value(row: Floats, position: float) -> float:
    """Return the value of a row of a table between its grid points; beyond the last one straight on."""
    left = min(int(position), len(row) - 2)
    return float(row[left] + (row[left + 1] - row[left]) * (position - left))


@lean
def grid_value(table: Floats, row: float, column: float) -> float:
    """Return the value of a table between its grid points; beyond the last ones straight on."""
    above = min(int(row), table.shape[0] - 2)
    top = line_value(table[above], column)
    return float(top + (line_value(table[above + 1], column) - top) * (row - above))


@lean
def note_gap(state: State, gap_s: float, count: int) -> None:
    """Count `count` gaps of `gap_s` between tokens [s]."""
    place = int(math.log(max(gap_s, FIRST_GAP_S) / FIRST_GAP_S) / math.log(GAP_RATIO))
    state.gaps[min(place, GAP_BINS - 1)] += count


@lean
def walk(state: State, index: int, steps: int, limit_s: float, streams: int) -> tuple[int, float, float]:
    """Return how many of `steps` decode steps, at least 1, begin within `limit_s`, their time, and the last one's [s].

    Only contexts grow from step to step: within a cell of the table, and on one side of the floor, times are an
    arithmetic series. Each step is noted as the gap of `streams` streams.
    """
    rules, replica = state.rules[0], state.replicas[index]
    sequences = replica.decoding * rules.beams
    row, floor_s, host_s = state.decode_s[sequences], state.floor_s[sequences], state.host_s[sequences]
    linear_s = state.linear_s[sequences * rules.verified_tokens]
    mean, pace = replica.contexts / sequences / rules.context_step, rules.tokens_per_step / rules.context_step
    done, elapsed_s, last_s = 0, 0.0, 0.0
    while done < steps and (done == 0 or elapsed_s < limit_s):
        position = mean + pace * (replica.step + done + 1)
        cell, count = min(int(position), len(row) - 2), steps - done
        if cell < len(row) - 2:
            count = min(count, int((cell + 1 - position) / pace) + 1)
        slope_s = row[cell + 1] - row[cell]
        time_s, rise_s = linear_s + row[cell] + slope_s * (position - cell), slope_s * pace
        if (time_s < floor_s) != (time_s + rise_s * (count - 1) < floor_s):
            count = min(count, int((floor_s - time_s) / rise_s) + 1)
        if time_s < floor_s:
            time_s, rise_s = floor_s, 0.0
        time_s += host_s
        count = reached(time_s, rise_s, count, limit_s - elapsed_s)
        elapsed_s += series(time_s, rise_s, count)
        last_s = time_s + rise_s * (count - 1)
        done += count
        if streams > 0:
            note_gaps(state, time_s, rise_s, count, streams)
    return done, elapsed_s, last_s


@lean
def series(first_s: float, rise_s: float, count: int) -> float:
    """Return the sum of `count` terms of an arithmetic series [s]."""
    return count * first_s + rise_s * (count * (count - 1) / 2)


@lean
def reached(first_s: float, rise_s: float, count: int, limit_s: float) -> int:
    """Return the least number of terms, at most `count`, whose sum is at least `limit_s`."""
    if series(first_s, rise_s, count) <= limit_s:
        return count
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        if series(first_s, rise_s, middle) >= limit_s:
            high = middle
        else:
            low = middle
    return high


@lean
def note_gaps(state: State, first_s: float, rise_s: float, count: int, streams: int) -> None:
    """Count the gaps of `count` steps whose times are an arithmetic series."""
    if abs(rise_s) * count < 1e-4 * first_s:  # far less than the width of a bin
        note_gap(state, first_s + rise_s * count / 2, count * streams)
    else:
        for step in range(count):
            note_gap(state, first_s + rise_s * step, streams)
