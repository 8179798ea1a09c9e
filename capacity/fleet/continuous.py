"""Replicas of an LLM engine with continuous batching: requests join and leave the running batch at every step.

Orca (Yu et al. 2022, §3) with paged KV (Kwon et al. 2023, §4), chunked prefill (Agrawal et al. 2024, §4) and prefix
caching, as vLLM V1 schedules it: decoding sequences first, prompts fill the rest of the step's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any, get_args

import numpy as np

from capacity.errors import CapacityError
from capacity.fleet import continuous_kernel as kernel
from capacity.fleet import continuous_setup as setup
from capacity.fleet.continuous_state import Records, Routing
from capacity.fleet.flow import Flow
from capacity.fleet.replicas import Replicas, born, key_of
from capacity.phases.step_table import StepTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How one replica forms its steps and keeps its KV cache."""

    kv_blocks: int
    """Blocks of KV cache."""
    max_sequences: int = 256
    """Most sequences that run at once."""
    max_batched_tokens: int = 8192
    """Most new tokens in a step."""
    block_tokens: int = 16
    """Tokens of one sequence in a block."""
    chunked: bool = True
    """Whether a prompt may be read over several steps; if not it waits until it fits into one."""
    mixed: bool = True
    """Whether prompts are read beside decoding; if not in steps of their own, which go first."""
    beams: int = 1
    """Sequences of a request: they share the whole blocks of its prompt."""
    tokens_per_step: float = 1.0
    """Tokens a decoding sequence gains in a step on average, with speculative decoding or multi-token prediction."""
    verified_tokens: int = 1
    """Tokens of a decoding sequence that pass through the model in a step: 1 + those drafted."""
    prompts_cached: bool = False
    """Whether requests come with the KV of their prompt and their first token: the replica only decodes."""
    prefix_hit_rate: float = 0.0
    """Share of every prompt that need not be read; its KV is held all the same."""
    prefix_tokens: tuple[int, ...] = ()
    """Length of each shared prefix that `Flow.prefix` may name. A prompt no longer than its prefix shares nothing."""
    visible_after_s: float = 0.0
    """Time from the end of a step until its tokens are seen [s]; holds nothing up."""
    visible_after_steps: float = 0.0
    """The same in times of that step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Where requests go, and how long and how often they try."""

    routing: Routing = "least-loaded"
    """The replica with the fewest requests; or, if no fuller than that by more than `imbalance`, one that holds the
    request's prefix."""
    imbalance: int = 8
    queue_limit: int | None = None
    """Most requests that wait at a replica; more are shed."""
    timeout_s: float = inf
    """Longest a request waits for its first step before it tries elsewhere [s]."""
    retries: int = 0
    """Times a request tries again after a timeout or the loss of its replica."""


ONE, PLAIN = Replicas(), Policy()


class ContinuousStage:
    """Replicas of an LLM engine as a stage.

    Parameters
    ----------
    table
        Time of a step.
    engine, replicas, policy
        How each replica works, how many there are and when, and who gets which request.
    seed, name
        Of random failures.

    Raises
    ------
    CapacityError
        If the table is smaller than the engine's limits, or these contradict each other.
    """

    def __init__(
        self, table: StepTable, engine: Engine, replicas: Replicas = ONE, policy: Policy = PLAIN,
        seed: int = 0, name: str = "",
    ) -> None:  # fmt: skip
        _check(table, engine, policy)
        self._life = born(replicas, key_of(seed, name))
        self._state = setup.state(table, engine, policy, self._life)
        self._coming, self._held = self._state.incoming, self._state.outgoing

    def advance(self, flow: Flow, until_s: float) -> Flow:
        """Take the requests that reach the stage and return those that left before `until_s`, in the order of time.

        Parameters
        ----------
        flow
            In the order of `time_s`, none before the last `until_s` and none after this one.
        until_s
            Simulate up to here [s]; without an end, until all have left.

        Returns
        -------
        Flow
            `time_s`: when their last token was seen [s]; with `first_s` and `outcome`.
        """
        self._simulate(setup.rows(flow, len(self._state.prefix_tokens)), until_s)
        order = np.lexsort((self._held["request"], self._held["time_s"]))
        rows = self._held[order]
        ready = len(rows) if until_s == inf else int(np.searchsorted(rows["time_s"], until_s))
        self._held = rows[ready:]
        return _flow(rows[:ready])

    def closed(self, clients: int, lengths: Flow, ramp_s: float = 0.0) -> Flow:
        """Return all of `lengths`, sent by `clients` clients each of which waits for its answer before it sends anew.

        Parameters
        ----------
        clients
            Requests under way at any time.
        lengths
            Requests in the order in which they are sent; their times count for nothing.
        ramp_s
            Time over which the clients begin [s].
        """
        starts = np.linspace(0.0, ramp_s, clients, endpoint=False) if ramp_s > 0 else np.zeros(clients)
        self._state.rules["closed"] = 1
        self._state = self._state._replace(clients=setup.tree(starts))
        flow = self.advance(lengths, inf)
        self._state.rules["closed"] = 0
        return flow

    def statistics(self) -> Mapping[str, Any]:
        """Return what the replicas did so far.

        Returns
        -------
        Mapping
            By replica `busy_s` [s], sums over time of requests running and waiting (`running_area_s`,
            `waiting_area_s`) and KV blocks (`kv_area_s`), and the most of each (`most_...`); `steps`: steps by
            sequences in them; `gaps`: times between a request's tokens, counted by upper edge `gap_s` [s]; totals:
            `preemptions`, `prefix_hits`, tokens read (`prompt_tokens`), spared (`cached_tokens`) and written
            (`generated_tokens`, of requests served), requests `inside`; replica-seconds paid (`replica_s`) and up
            (`up_s`) until `settled_s` [s]; `timeline`: rows of time [s], replicas up, replicas starting.
        """
        return setup.statistics(self._state, self._life)

    def _simulate(self, arriving: Records, until_s: float) -> None:
        incoming = np.concatenate([self._coming, arriving])
        totals = self._state.totals
        self._state = self._state._replace(
            incoming=incoming, outgoing=np.empty(len(incoming) + int(totals["inside"][0]), incoming.dtype),
            due=setup.ring(self._state, incoming["output_tokens"]),
        )  # fmt: skip
        totals["taken"] = totals["left"] = 0
        while not kernel.run(self._state, self._life, until_s):
            self._state = self._state._replace(slots=setup.more_slots(self._state))
        self._coming = incoming[int(totals["taken"][0]) :].copy()
        self._held = np.concatenate([self._held, self._state.outgoing[: int(totals["left"][0])]])


def _flow(rows: Records) -> Flow:
    return Flow(*(np.ascontiguousarray(rows[item.name]) for item in fields(Flow)))


def _check(table: StepTable, engine: Engine, policy: Policy) -> None:
    """Refuse limits that contradict each other or go beyond the table."""
    tokens = engine.max_sequences * engine.verified_tokens
    rules = (
        (policy.routing in get_args(Routing), f"routing {policy.routing!r}; allowed: {', '.join(get_args(Routing))}"),
        (min(engine.kv_blocks, engine.block_tokens) >= 1, "kv_blocks and block_tokens must be at least 1"),
        (0 <= engine.prefix_hit_rate <= 1, "prefix_hit_rate must be from 0 to 1"),
        (policy.timeout_s > 0, "timeout_s must be positive"),
        (1 <= engine.beams <= engine.max_sequences, "beams must be between 1 and max_sequences"),
        (engine.tokens_per_step >= 1, "tokens_per_step must be at least 1"),
        (tokens <= engine.max_batched_tokens, f"max_sequences decode {tokens} tokens, more than max_batched_tokens"),
        (engine.max_sequences <= table.sequences, f"max_sequences exceeds the step table's {table.sequences}"),
        (min(table.decode_s.shape[1], *table.prefill_s.shape) >= 2, "the step table needs two points each way"),
    )
    problems = [message for holds, message in rules if not holds]
    if problems:
        raise CapacityError("; ".join(problems))
