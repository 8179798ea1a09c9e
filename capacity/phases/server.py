"""A server of a generating engine: the model as it is served, its step times, and the room for keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from capacity.phases import engine_step, memory
from capacity.phases.engine_step import CONTEXTS, Limits
from capacity.phases.step_table import StepTable, Texts
from capacity.spec.serving_engine import ServingEngine
from capacity.timing.device import Device
from capacity.timing.form import MissingFactError
from capacity.work.decoder_step import ACTIVATION_BYTES, Served

BLOCK_TOKENS = 16
"""Tokens of one block of paged keys and values (vLLM's default)."""
GRAPH_BYTES = 2e9
"""CUDA graphs, communication buffers and what the allocator keeps (assumed; vLLM logs 1 to 3 GB)."""


@dataclass(frozen=True)
class Server:
    """One replica: a model on the devices of its layout, with the engine's limits.

    Attributes
    ----------
    context
        Longest sequence it must hold [token]: sizes the tables.
    max_sequences, max_batched_tokens
        Limits of one step; the engine's own where absent.
    given_kv_tokens
        Room for keys and values as the server itself reports it [token]; from the device's memory where absent.
    """

    served: Served
    device: Device
    engine: ServingEngine
    context: int
    max_sequences: int | None = None
    max_batched_tokens: int | None = None
    given_kv_tokens: float | None = None
    memory_share: float | None = None
    beams: int = 1
    shared_tokens: float = 0.0
    """Positions that the beams of a request share [token]."""
    draft: Server | None = None
    """What proposes tokens before each step, as many as `drafted`."""
    drafted: int = 0

    @property
    def sequences(self) -> int:
        """Most sequences that run at once; each has a new token in every step."""
        most = self.max_sequences or self.engine.scheduling.max_sequences * self.served.layout.attention_data
        return min(most, self.batched_tokens)

    @property
    def batched_tokens(self) -> int:
        """Most new tokens of one step."""
        return self.max_batched_tokens or self.engine.scheduling.max_batched_tokens

    @cached_property
    def table(self) -> StepTable:
        """Time of every step."""
        limits = Limits(
            tokens=self.batched_tokens, sequences=self.sequences, context=self.context, beams=self.beams,
            shared=self.shared_tokens,
        )  # fmt: skip
        own = engine_step.table(self.served, self.device, self.engine, limits)
        if self.draft is None:
            return own
        other = self.draft.table
        running = np.arange(self.sequences + 1)
        each_s = other.linear_s[running] + other.decode_s[:, CONTEXTS // 2] + other.host_s
        return replace(own, host_s=own.host_s + self.drafted * each_s)

    @cached_property
    def memory_bytes(self) -> dict[str, float]:
        """What one device holds besides keys and values, by component [byte]."""
        layer = self.served.model.layer
        widest = max(layer.query_width + 2 * layer.kv_width, (2 if layer.gated else 1) * layer.intermediate)
        activations = self.batched_tokens * (2 * layer.hidden + widest / self.served.layout.tensor) * ACTIVATION_BYTES
        parts = {"weights": self.served.weight_bytes, "activations": activations, "engine": GRAPH_BYTES}
        return parts if self.draft is None else {**parts, "draft weights": self.draft.served.weight_bytes}

    @cached_property
    def kv_tokens(self) -> float:
        """Positions whose keys and values the replica has room for, all groups together [token]; at most 0 if none.

        Raises
        ------
        MissingFactError
            When the profile does not state the device's memory.
        """
        if self.given_kv_tokens is not None:
            return self.given_kv_tokens
        capacity = self.device.hardware.memory
        if capacity is None:
            raise MissingFactError(f"{self.device.hardware.id} has no memory in its profile")
        share = self.memory_share or self.engine.scheduling.memory_share
        free = share * capacity.value - sum(self.memory_bytes.values())
        return free / self.kv_bytes_per_token * self.served.layout.attention_data

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of one position on one device, the draft's too; windows as in the longest sequence [byte]."""
        layout = self.served.layout
        whole = memory.kv_cache(self.served.model, 1, self.context, self.served.kv_dtype, layout.tensor)
        drafted = 0.0 if self.draft is None else self.draft.kv_bytes_per_token
        return float(whole) / self.context / layout.pipeline + drafted

    def slots(self, texts: Texts) -> float:
        """Return how many requests like `texts` run at once: by the limit of sequences, and by the room for their keys.

        Requests are on average half way through their output.
        """
        held = texts.prompt + texts.output * texts.beams / 2
        return max(min(self.sequences / texts.beams, self.kv_tokens / held), 0.0)
