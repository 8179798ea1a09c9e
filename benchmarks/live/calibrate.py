"""What this machine takes: batches of the encoder on the worker's core, and the way to it and back, all unloaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from benchmarks.live.encoder import TextEncoder, body
from benchmarks.live.load import drive
from benchmarks.live.server import ECHO, ECHO_IN_BATCHES, ENCODE, MAX_BATCH
from capacity.fleet.flow import Times
from kernels.machine import fingerprint
from kernels.timing import Case, Effort, Run, Timing, measured
from kernels.torch_backend import Backend

ITEMS = (1, 2, 3, 4, 6, MAX_BATCH)
LONGEST = (4, 8, 12, 16, 24, 32)
MOST_TOKENS = MAX_BATCH * LONGEST[-1]
TOKEN_STEP = 4
REST_S = 4e-3
"""Pause before a batch: a worker that waits for requests finds its caches and its core cold."""
VARIANTS = 8
"""Batches of one size that take turns, with other lengths below the longest."""
GAP_S = 0.03
"""Between requests that must not meet."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the prediction gets to know of this machine.

    Attributes
    ----------
    machine
        Its fingerprint.
    token_s
        Time of a batch of 0, `TOKEN_STEP`, 2·`TOKEN_STEP`, … tokens, padding included [s].
    variation
        Standard deviation ÷ mean of the time of equal batches.
    front_s
        From sending a request that the front answers itself until its answer, as quantiles from 0 to 1 [s].
    worker_s
        What one batch adds to that in the front and the worker besides `forward` [s].
    hold_s
        How long a lone request is held for others [s].
    contaminated, unstable
        Shares of the batch timings that a neighbor disturbed, and of the medians not worth trusting.
    """

    machine: dict[str, object]
    token_s: tuple[float, ...]
    variation: float
    front_s: tuple[float, ...]
    worker_s: float
    hold_s: float
    contaminated: float
    unstable: float


class _RestedClock:
    """Wall time of calls that each come after a pause."""

    def time(self, run: Run, inner: int) -> float:
        """Return the wall time of all `inner` calls without the pauses [s]."""
        total_s = 0.0
        for _ in range(inner):
            time.sleep(REST_S)
            start_s = time.perf_counter()
            run()
            total_s += time.perf_counter() - start_s
        return total_s


def batch_timings(rounds: int) -> list[tuple[int, Timing]]:
    """Return tokens, padding included, and timings of batches of all sizes; to be run on the worker's core."""
    encoder, random = TextEncoder(), np.random.default_rng(0)
    sizes = [(items, longest) for items in ITEMS for longest in LONGEST]
    cases = [
        Case(f"{items}x{longest}", (), lambda items=items, longest=longest: _batches(encoder, random, items, longest))
        for items, longest in sizes
    ]
    timings = measured(cases, Backend.local("cpu", threads=1).reference(), _RestedClock(), Effort(rounds, 0.1, 120.0))
    return [(items * longest, timing) for (items, longest), timing in zip(sizes, timings, strict=True)]


def _batches(encoder: TextEncoder, random: Generator, items: int, longest: int) -> Callable[[], object]:
    """Return a call that encodes the next of some batches with one text of the longest length and shorter ones."""
    lengths = random.integers(max(1, longest // 4), longest + 1, (VARIANTS, items))
    lengths[:, 0] = longest
    batches = [[body(random, int(tokens)) for tokens in row] for row in lengths]
    calls = 0

    def run() -> object:
        nonlocal calls
        calls += 1
        return encoder.answers(batches[calls % VARIANTS])

    return run


def calibrated(port: int, worker: ProcessPoolExecutor, generator: ProcessPoolExecutor, rounds: int) -> Calibration:
    """Return what this machine takes for batches and for all around them.

    Parameters
    ----------
    port
        Of the idle server.
    worker, generator
        Processes on the worker's core and on the core of the server's front.
    rounds
        Times each size of batch is run; five times as many lone requests.
    """
    timings = worker.submit(batch_timings, rounds).result()
    tokens = np.array([tokens for tokens, _ in timings])
    mean_s = np.array([np.mean(timing.clean_s) for _, timing in timings])
    spread = np.concatenate([np.log(np.array(timing.clean_s) / np.mean(timing.clean_s)) for _, timing in timings])
    random, text = np.random.default_rng(1), int(np.median(LONGEST))

    def alone(path: str, tokens: int = text) -> Times:
        bodies = [body(random, tokens) for _ in range(5 * rounds)]
        times_s = (np.arange(len(bodies)) + random.random(len(bodies)) / 4) * GAP_S
        return generator.submit(drive, port, path, times_s, bodies).result().latency_s

    front_s, echo_s, held_s = alone(ENCODE, 0), alone(ECHO), alone(ECHO_IN_BATCHES)
    return Calibration(
        fingerprint(threads=1).model_dump(mode="json"),
        token_s=tuple(_table(tokens, mean_s)), variation=float(spread.std()),
        front_s=tuple(np.quantile(front_s, np.linspace(0, 1, 21)).tolist()),
        worker_s=float(np.median(echo_s) - np.median(front_s)), hold_s=float(np.median(held_s) - np.median(echo_s)),
        contaminated=float(np.mean([bad for _, timing in timings for bad in timing.contaminated])),
        unstable=float(np.mean([timing.verdict == "unstable" for _, timing in timings])),
    )  # fmt: skip


def _table(tokens: Times, mean_s: Times) -> list[float]:
    """Return the time of 0, `TOKEN_STEP`, … `MOST_TOKENS` tokens [s]: means by tokens, straight lines between."""
    known = np.unique(tokens)
    known_s = np.array([mean_s[tokens == count].mean() for count in known])
    slope = (known_s[1] - known_s[0]) / (known[1] - known[0])
    grid = np.arange(0, MOST_TOKENS + 1, TOKEN_STEP)
    return np.where(grid < known[0], known_s[0] - slope * (known[0] - grid), np.interp(grid, known, known_s)).tolist()
