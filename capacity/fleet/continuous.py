"""Replicas of an LLM engine with continuous batching: requests join and leave the running batch at every step.

Orca (Yu et al. 2022, §3) with paged KV (Kwon et al. 2023, §4), chunked prefill (Agrawal et al. 2024, §4) and prefix
caching, as vLLM V1 schedules it: decoding sequences first, prompts fill the rest of the step's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from capacity.errors import CapacityError
from capacity.fleet.flow import Flow
from capacity.phases.step_table import StepTable

Routing = Literal["round-robin", "least-loaded", "prefix-aware"]
Failure = tuple[int, float, float]
"""Replica, when it goes down and when it serves again, cold start included [s]."""
UNLIMITED = 2**62


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
    queue_limit: int = UNLIMITED
    """Requests waiting at a replica beyond which it sheds."""
    timeout_s: float = float("inf")
    """Longest a request waits for its first step before it tries elsewhere [s]."""
    retries: int = 0
    """Times a request tries again after a timeout or the loss of its replica."""


class ContinuousStage:
    """Replicas that serve a flow of requests; `advance` takes it chunk by chunk, cut at any time.

    Parameters
    ----------
    table
        Time of a step.
    engine, policy
        How replicas work, and who gets which request.
    replicas
        How many there are.
    prefix_tokens
        Length of each shared prefix that `Flow.prefix` may name. A prompt no longer than its prefix shares nothing.
    failures
        (replica, down_s, up_s) of each: requests of the replica begin anew elsewhere, its cached prefixes are lost.

    Raises
    ------
    CapacityError
        If the table is smaller than the engine's limits, or these contradict each other.
    """

    def __init__(
        self, table: StepTable, engine: Engine, policy: Policy, *, replicas: int = 1,
        prefix_tokens: Sequence[int] = (), failures: Sequence[Failure] = (),
    ) -> None:  # fmt: skip
        _check(table, engine, policy, replicas)
        from capacity.fleet import continuous_kernel, continuous_setup  # noqa: PLC0415  (numba takes a second)

        self._run, self._setup = continuous_kernel.run, continuous_setup
        self._state = continuous_setup.state(table, engine, policy, replicas, prefix_tokens, failures)
        self._held = np.zeros(0, self._state.outgoing.dtype)

    def advance(self, flow: Flow, until_s: float) -> Flow:
        """Take requests that arrive until `until_s`, simulate to there and return those that left.

        Parameters
        ----------
        flow
            In order of `time_s`, none after `until_s`; all later flows come after it.
        until_s
            When to stop [s]; infinite to let all finish.

        Returns
        -------
        Flow
            In order of `time_s`, when their last token was seen [s]; with `first_s` and `outcome`.
        """
        self._simulate(self._setup.rows(flow), until_s)
        order = np.lexsort((self._held["request"], self._held["time_s"]))
        rows = self._held[order]
        ready = int(np.searchsorted(rows["time_s"], until_s, side="right"))
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
        self._state = self._state._replace(clients=self._setup.tree(starts))
        flow = self.advance(lengths, float("inf"))
        self._state.rules["closed"] = 0
        return flow

    def statistics(self) -> Mapping[str, Any]:
        """Return what the replicas did so far.

        Returns
        -------
        Mapping
            By replica: `busy_s`, and `running`, `waiting`, `kv_blocks` as sums over time [s] and as `most_...`;
            `gap_s` and `gaps`: upper edges and counts of the time between a request's tokens; `steps`: steps by
            sequences in them; totals of `preemptions`, `prefix_hits`, tokens read (`prompt_tokens`), spared
            (`cached_tokens`) and written (`generated_tokens`, of requests served).
        """
        return self._setup.statistics(self._state)  # type: ignore[no-any-return]

    def _simulate(self, incoming: NDArray[np.void], until_s: float) -> None:
        setup, totals = self._setup, self._state.totals
        outgoing = np.zeros(len(incoming) + setup.inside(self._state), incoming.dtype)
        self._state = self._state._replace(
            incoming=incoming, outgoing=outgoing, due=setup.ring(self._state, incoming["output_tokens"])
        )
        totals["taken"] = totals["left"] = 0
        while not self._run(self._state, until_s):
            self._state = self._state._replace(slots=setup.more_slots(self._state))
        self._held = np.concatenate([self._held, outgoing[: int(totals["left"][0])]])
        self._state = self._state._replace(incoming=incoming[:0], outgoing=outgoing[:0])


def _flow(rows: NDArray[np.void]) -> Flow:
    return Flow(*(np.ascontiguousarray(rows[item.name]) for item in fields(Flow)))


def _check(table: StepTable, engine: Engine, policy: Policy, replicas: int) -> None:
    """Refuse limits that contradict each other or go beyond the table."""
    tokens = engine.max_sequences * engine.verified_tokens
    rules = (
        (replicas >= 1, "replicas must be at least 1"),
        (policy.routing in get_args(Routing), f"routing {policy.routing!r}; allowed: {', '.join(get_args(Routing))}"),
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
