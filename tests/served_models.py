"""Servers of LLM engines for tests: a shipped model on a shipped device, with additions that are easy to follow."""

from __future__ import annotations

from functools import cache

import numpy as np

from capacity import catalogue
from capacity.phases.server import Server
from capacity.phases.step_table import StepTable
from capacity.spec.serving_engine import ServingEngine
from capacity.timing import transfer
from capacity.timing.device import Device
from capacity.work.decoder_step import Layout, Served
from capacity.work.models import architecture

PLAIN = ServingEngine(engine="vllm", step=1e-3, sequence=1e-5, log_sigma=0.1, first_log_sigma=0.2, rows=1)
"""An engine that adds 1 ms to a step and 10 µs for each sequence in it."""


@cache
def device(name: str = "h100-sxm-80gb") -> Device:
    return transfer.device(catalogue.hardware(name), "fused", catalogue.calibrations(()), catalogue.shared())


def served(model: str = "llama-3.1-8b", layout: Layout | None = None, **changes) -> Served:
    return Served(model=architecture(catalogue.model(model)), layout=layout or Layout(), **changes)


def server(engine: ServingEngine = PLAIN, what: Served | None = None, **changes) -> Server:
    """Return a server of up to 32 sequences, 512 tokens a step and 2,048 positions."""
    limits = {"context": 2048, "max_sequences": 32, "max_batched_tokens": 512}
    return Server(served=what or served(), device=device(), engine=engine, **(limits | changes))


def table(tokens: int = 100, sequences: int = 10, **changes) -> StepTable:
    """Return a step of 10 µs a new token, 1 ms a hundred positions of a decoding sequence, and 2 ms for the host.

    A prompt's attention takes 1 µs a token, and as much for each hundred tokens before it.
    """
    context, query, start = 100.0, 10.0, 100.0
    rows, columns = np.arange(sequences + 1.0)[:, None], np.arange(11.0)[None, :]
    queries = np.arange(tokens / query + 1)[:, None] * query
    parts = {
        "linear_s": 1e-5 * np.arange(tokens + 1.0), "decode_s": 1e-3 * rows * columns, "context_step": context,
        "prefill_s": 1e-6 * queries * (1 + columns), "query_step": query, "start_step": start,
        "host_s": np.full(sequences + 1, 2e-3), "floor_s": np.zeros(sequences + 1),
    }  # fmt: skip
    return StepTable(**(parts | changes))
