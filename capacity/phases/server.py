"""A server of a generating engine: the model as it is served, its step times, and the room for keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from capacity.phases import engine_step, memory
from capacity.phases.engine_step import Limits
from capacity.phases.step_table import StepTable
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

    @property
    def sequences(self) -> int:
        """Most sequences that run at once."""
        return self.max_sequences or self.engine.scheduling.max_sequences * self.served.layout.attention_data

    @property
    def batched_tokens(self) -> int:
        """Most new tokens of one step."""
        return self.max_batched_tokens or self.engine.scheduling.max_batched_tokens

    @cached_property
    def table(self) -> StepTable:
        """Time of every step."""
        limits = Limits(tokens=self.batched_tokens, sequences=self.sequences, context=self.context)
        return engine_step.table(self.served, self.device, self.engine, limits)

    @cached_property
    def memory_bytes(self) -> dict[str, float]:
        """What one device holds besides keys and values, by component [byte]."""
        layer = self.served.model.layer
        widest = max(layer.query_width + 2 * layer.kv_width, (2 if layer.gated else 1) * layer.intermediate)
        activations = self.batched_tokens * (2 * layer.hidden + widest / self.served.layout.tensor) * ACTIVATION_BYTES
        return {"weights": self.served.weight_bytes, "activations": activations, "engine": GRAPH_BYTES}

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
        layout = self.served.layout
        per_token = float(
            memory.kv_cache(self.served.model, 1, self.context, self.served.kv_dtype, layout.tensor)
        ) / self.context
        return free / (per_token / layout.pipeline) * layout.attention_data
