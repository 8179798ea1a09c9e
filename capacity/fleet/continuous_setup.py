"""Arrays of a stage with continuous batching: made from its settings, enlarged as requests come, read at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from capacity.errors import CapacityError
from capacity.fleet.continuous_state import (
    FIRST_GAP_S,
    FLOW,
    GAP_BINS,
    GAP_RATIO,
    PREFIX,
    REPLICA,
    RULES,
    SLOT,
    TOTALS,
    Counts,
    Floats,
    Records,
    Routing,
    State,
)
from capacity.fleet.flow import Flow
from capacity.fleet.replicas import UP, Life, settle
from capacity.phases.step_table import StepTable

if TYPE_CHECKING:
    from capacity.fleet.continuous import Engine, Policy


def state(table: StepTable, engine: Engine, policy: Policy, life: Life) -> State:
    """Return the state of idle replicas at time 0."""
    replicas, prefix_tokens = len(life.status), engine.prefix_tokens
    idle = np.full(replicas, np.inf)
    running = np.zeros(replicas, REPLICA)
    for name in ("end_s", "deadline_s", "back_s"):
        running[name] = np.inf
    running["partial"], running["up"], running["routable"] = -1, life.status == UP, life.status == UP
    totals = np.zeros(1, TOTALS)
    totals["free"] = -1
    slots = np.zeros(2 * replicas, SLOT)
    slots["next"] = slots["prev"] = np.arange(2 * replicas)
    prefixes = np.zeros(replicas * (len(prefix_tokens) + 1), PREFIX)
    prefixes["next"] = prefixes["prev"] = np.arange(len(prefixes))
    return State(
        incoming=np.zeros(0, FLOW), outgoing=np.zeros(0, FLOW),
        rules=_rules(table, engine, policy, replicas, len(prefix_tokens)),
        linear_s=_extended(table.linear_s, engine.max_batched_tokens), decode_s=np.ascontiguousarray(table.decode_s),
        prefill_s=np.ascontiguousarray(table.prefill_s), host_s=_extended(table.host_s, engine.max_sequences),
        floor_s=_extended(table.floor_s, engine.max_sequences), slots=slots, replicas=running,
        residues=np.zeros((replicas, engine.block_tokens), np.int64), due=np.full((replicas, 1024), -1, np.int64),
        prefixes=prefixes, prefix_tokens=np.asarray(prefix_tokens, np.int64), events=tree(idle),
        loads=tree(np.where(life.status == UP, 0.0, np.inf)), clients=tree(idle[:1]),
        gaps=np.zeros(GAP_BINS, np.int64), batches=np.zeros(engine.max_sequences + 1, np.int64), totals=totals,
    )  # fmt: skip


def _rules(table: StepTable, engine: Engine, policy: Policy, replicas: int, prefixes: int) -> Records:
    rules = np.zeros(1, RULES)
    for source in (engine, policy, table):
        for name in {item.name for item in fields(source)} & {*(RULES.names or ())} - {"routing", "queue_limit"}:
            rules[name] = getattr(source, name)
    rules["routing"] = get_args(Routing).index(policy.routing)
    rules["queue_limit"] = 2**62 if policy.queue_limit is None else policy.queue_limit
    rules["replicas"], rules["prefixes"] = replicas, prefixes
    return rules


def _extended(values: Floats, last: int) -> Floats:
    """Return a table up to index `last`, straight on beyond its end."""
    slope = values[-1] - values[-2] if len(values) > 1 else 0.0
    beyond = np.arange(1, last + 2 - len(values))
    return np.concatenate([values, values[-1] + slope * beyond])


def tree(keys: Floats) -> Floats:
    """Return a tree of minima over `keys`: node n is the lesser of 2n and 2n + 1, the leaves are its second half."""
    half = 1 << (len(keys) - 1).bit_length()
    nodes = np.full(2 * half, np.inf)
    nodes[half : half + len(keys)] = keys
    for node in range(half - 1, 0, -1):
        nodes[node] = min(nodes[2 * node], nodes[2 * node + 1])
    return nodes


def rows(flow: Flow, prefixes: int) -> Records:
    """Return a flow as records, whose prefixes are below `prefixes`."""
    if int(flow.input_tokens.min(initial=1)) < 1:
        raise CapacityError(f"request {flow.request[flow.input_tokens.argmin()]} has no prompt; at least 1 token")
    if int(flow.prefix.max(initial=-1)) >= prefixes:
        raise CapacityError(f"a request names prefix {flow.prefix.max()}; prefix_tokens gives {prefixes}, from 0")
    records = np.empty(len(flow), FLOW)
    for item in fields(Flow):
        records[item.name] = getattr(flow, item.name)
    return records


def more_slots(state: State) -> Records:
    """Return twice the rows for requests, the new ones free."""
    before, more = len(state.slots), max(len(state.slots), 1024)
    slots = np.concatenate([state.slots, np.zeros(more, SLOT)])
    slots["next"][before:] = [*range(before + 1, before + more), -1]
    state.totals["free"] = before
    return slots


def ring(state: State, output_tokens: Counts) -> Counts:
    """Return `due` wide enough for requests of `output_tokens`."""
    width = state.due.shape[1]
    wanted = 1 << (int(output_tokens.max(initial=0)) + 1).bit_length()
    if wanted <= width:
        return state.due
    due = np.full((len(state.due), wanted), -1, np.int64)
    for replica, place in np.argwhere(state.due >= 0):
        head = state.due[replica, place]
        due[replica, state.slots["remaining"][head] % wanted] = head
    return due


def statistics(state: State, life: Life) -> Mapping[str, Any]:
    """Return what the replicas did so far; `ContinuousStage.statistics` says what."""
    replicas, totals = state.replicas, state.totals[0]
    settle(life, max(float(replicas["tallied_s"].max()), float(life.now["settled_s"][0])))
    counted = ("inside", "preemptions", "prefix_hits", "cached_tokens", "prompt_tokens", "generated_tokens")
    sums = ("busy_s", "running_area_s", "waiting_area_s", "kv_area_s", "most_running", "most_waiting", "most_used")
    return {
        **{name: int(totals[name]) for name in counted}, **{name: replicas[name].copy() for name in sums},
        "steps": state.batches.copy(), "gaps": state.gaps.copy(),
        "gap_s": FIRST_GAP_S * GAP_RATIO ** np.arange(1, GAP_BINS + 1), "up_s": float(life.now["up_s"][0]),
        "replica_s": float(life.now["paid_s"][0]), "settled_s": float(life.now["settled_s"][0]),
        "timeline": life.timeline[: int(life.now["points"][0])].copy(),
    }  # fmt: skip
