"""From a server of an LLM engine to replicas that the event engine simulates, and what its clients see of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from capacity.errors import CapacityError
from capacity.fleet.continuous import Engine
from capacity.fleet.flow import Flow
from capacity.phases.server import BLOCK_TOKENS, Server


def engine(server: Server, **changes: float | bool | tuple[int, ...]) -> Engine:
    """Return the limits of one replica of `server`.

    Parameters
    ----------
    changes
        Fields of `Engine` that the scenario sets.

    Raises
    ------
    CapacityError
        When the weights leave no room for keys and values.
    """
    blocks = int(server.kv_tokens / BLOCK_TOKENS)
    if blocks < 1:
        needed = sum(server.memory_bytes.values())
        raise CapacityError(
            f"the model needs {needed / 1e9:.0f} GB on each device and leaves no room for its keys and values"
        )
    limits = Engine(
        kv_blocks=blocks, max_sequences=server.sequences,
        max_batched_tokens=server.batched_tokens, block_tokens=BLOCK_TOKENS, chunked=server.engine.scheduling.chunked,
        mixed=server.engine.scheduling.mixed,
    )  # fmt: skip
    return replace(limits, **changes)  # type: ignore[arg-type]


def seen(flow: Flow, server: Server) -> Flow:
    """Return when clients see the first and the last token of requests that left replicas of `server`.

    Scheduling ahead, detokenization and the way to the client take some steps, and a time for each token of the prompt
    and for each request that is in the system when this one arrives.
    """
    adds, decoded = server.engine, flow.output_tokens > 1
    step_s = np.where(decoded, flow.time_s - flow.first_s, np.nan) / np.maximum(flow.output_tokens - 1, 1)
    usual_s = float(np.nanmean(step_s)) if np.isfinite(step_s).any() else 0.0
    arrived = np.searchsorted(np.sort(flow.arrival_s), flow.arrival_s, side="right")
    inside = np.minimum(arrived - np.searchsorted(np.sort(flow.time_s), flow.arrival_s), server.sequences)
    later_s = adds.visible + adds.visible_steps * usual_s + adds.visible_sequence * inside
    later_s = later_s + adds.visible_token * flow.input_tokens
    return replace(flow, first_s=flow.first_s + later_s, time_s=flow.time_s + later_s)
