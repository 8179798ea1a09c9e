"""What this machine takes: batches of the encoder on the worker's core, and the way to it and back, all unloaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator

from benchmarks.live.encoder import body, own_encoder
from benchmarks.live.load import drive
from benchmarks.live.server import ECHO, ECHO_IN_BATCHES, ENCODE, MAX_BATCH, MAX_WAIT_MS, Rig
from capacity.fleet.flow import Counts, Times
from kernels.machine import fingerprint
from kernels.timing import Case, Effort, Run, Timing, measured
from kernels.torch_backend import Backend

LONGEST = 32
MOST_TOKENS = MAX_BATCH * LONGEST
TOKEN_STEP = 4
SIZES = [(items, longest) for items in range(1, MAX_BATCH + 1) for longest in range(3 + items % 3, LONGEST + 1, 9)]
"""Texts and longest text. Odd counts too: lengths that are multiples of 8 alone would be up to 10 % too fast."""
KNOTS = (4, 8, 16, 32, 64, 128, MOST_TOKENS)
"""Tokens where the straight lines of the table meet."""
REST_S = 1e-3 * (MAX_WAIT_MS + 1)
"""Pause before a batch: a worker that waits for requests finds its caches and its core cold."""
MIDDLE = (0.159, 0.841)
"""Quantiles between which a normal distribution has two standard deviations: outliers are not the encoder's."""
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
        Standard deviation ÷ mean of the time of batches of as many tokens.
    front_s
        From sending a request that the front answers itself until its answer, as quantiles from 0 to 1 [s].
    worker_s
        What one batch adds to that in the front and the worker besides `forward` [s].
    hold_s
        How long a lone request is held for others [s].
    shared, contaminated, unstable
        Shares of the time that others had the core, of the batches beside a slow reference kernel, and of the sizes
        whose median is not worth trusting.
    """

    machine: dict[str, object]
    token_s: tuple[float, ...]
    variation: float
    front_s: tuple[float, ...]
    worker_s: float
    hold_s: float
    shared: float
    contaminated: float
    unstable: float


@dataclass(slots=True)
class _RestedClock:
    """What calls take of the core, each after a pause: while others have the core the clock stands still."""

    wall_s: float = 0.0
    own_s: float = 0.0

    def time(self, run: Run, inner: int) -> float:
        """Return the time of the core that all `inner` calls take [s]."""
        before_s = self.own_s
        for _ in range(inner):
            time.sleep(REST_S)
            wall_s, own_s = time.perf_counter(), time.process_time()
            run()
            self.own_s += time.process_time() - own_s
            self.wall_s += time.perf_counter() - wall_s
        return self.own_s - before_s


def batch_timings(rounds: int) -> tuple[list[tuple[int, Timing]], float]:
    """Time batches of all sizes; to be run on the worker's core.

    Returns
    -------
    list
        Tokens, padding included, and timing of each size.
    float
        Share of the time that others had the core.
    """
    random, clock = np.random.default_rng(0), _RestedClock()
    cases = [Case(f"{items}x{longest}", (), partial(_batches, random, items, longest)) for items, longest in SIZES]
    effort = Effort(rounds, warmup_s=0.1, round_limit_s=120.0)
    timings = list(measured(cases, Backend.local("cpu", threads=1).reference(), clock, effort))
    found = [(items * longest, timing) for (items, longest), timing in zip(SIZES, timings, strict=True)]
    return found, 1 - clock.own_s / clock.wall_s


def _batches(random: Generator, items: int, longest: int) -> Callable[[], object]:
    """Return a call that encodes the next of some batches with one text of the longest length and shorter ones."""
    lengths = random.integers(max(1, longest // 4), longest + 1, (VARIANTS, items))
    lengths[:, 0] = longest
    batches = [[body(random, int(tokens)) for tokens in row] for row in lengths]
    encoder, calls = own_encoder(), 0

    def run() -> object:
        nonlocal calls
        calls += 1
        return encoder.answers(batches[calls % VARIANTS])

    return run


def calibrated(rig: Rig, rounds: int) -> Calibration:
    """Return what this machine takes for batches and for all around them.

    Parameters
    ----------
    rig
        The server, idle.
    rounds
        Times each size of batch is run; three times as many lone requests.
    """
    timings, shared = rig.worker.submit(batch_timings, rounds).result()
    tokens = np.array([tokens for tokens, _ in timings])
    mean_s = np.array([np.mean(timing.samples_s) for _, timing in timings])  # slow moments come under load, too
    table_s = table_of(tokens, mean_s)
    grid = TOKEN_STEP * np.arange(len(table_s))
    spread = np.concatenate([np.array(timing.samples_s) / np.interp(count, grid, table_s) for count, timing in timings])
    random = np.random.default_rng(1)

    def alone(path: str, tokens: int) -> Times:
        bodies = [body(random, tokens) for _ in range(3 * rounds)]
        times_s = (np.arange(len(bodies)) + random.random(len(bodies)) / 4) * GAP_S
        return rig.front.submit(drive, rig.port, path, times_s, bodies).result().latency_s

    front_s, echo_s, held_s = (alone(path, tokens) for path, tokens in ((ENCODE, 0), (ECHO, 8), (ECHO_IN_BATCHES, 8)))
    return Calibration(
        machine=fingerprint(threads=1).model_dump(mode="json"), token_s=tuple(table_s),
        variation=float(np.diff(np.quantile(spread, MIDDLE))[0] / 2),
        front_s=tuple(np.quantile(front_s, np.linspace(0, 1, 21)).tolist()),
        worker_s=float(np.median(echo_s) - np.median(front_s)), hold_s=float(np.median(held_s) - np.median(echo_s)),
        shared=shared, contaminated=float(np.mean([bad for _, timing in timings for bad in timing.contaminated])),
        unstable=float(np.mean([timing.verdict == "unstable" for _, timing in timings])),
    )  # fmt: skip


def table_of(tokens: Counts, mean_s: Times) -> list[float]:
    """Return the time of 0, `TOKEN_STEP`, … `MOST_TOKENS` tokens [s]: the lines between `KNOTS` of least squares."""
    hats = np.eye(len(KNOTS))
    shares = np.stack([np.interp(tokens, KNOTS, hat) for hat in hats], axis=1)
    knots_s = np.linalg.lstsq(shares / mean_s[:, None], np.ones(len(tokens)))[0]
    return [float(seconds) for seconds in np.interp(np.arange(0, MOST_TOKENS + 1, TOKEN_STEP), KNOTS, knots_s)]
