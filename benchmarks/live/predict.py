"""What the simulator says of the server, from the calibration and the requests that will be sent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import numpy as np

from benchmarks.live.calibrate import LONGEST, MOST_TOKENS, TOKEN_STEP, Calibration
from benchmarks.live.server import MAX_BATCH
from capacity.fleet.flow import Counts, Flow, Times
from capacity.fleet.servers import Batching, Servers, Station

SHORTEST = 3
FRONT = 64
"""Requests that may be on their way at once: as good as any number."""
WARM_UP = 0.1
"""Share of the requests, the first ones, that no figure counts."""
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of one run.

    Attributes
    ----------
    load
        Share of the rate at which full batches, one after the other, are served.
    times_s
        When they are sent [s].
    tokens
        Their lengths.
    """

    load: float
    times_s: Times
    tokens: Counts

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.times_s) / float(self.times_s[-1])


def drawn(seed: int, calibration: Calibration, count: int, duration_s: float) -> list[Workload]:
    """Return `count` workloads between 40 and 80 % load, Poisson, log-normal lengths, all drawn from `seed`."""
    random = np.random.default_rng(seed)
    median, sigma = random.uniform(6, 12), random.uniform(0.3, 0.7)

    def lengths(*size: int) -> Counts:
        drawn = median * np.exp(sigma * random.standard_normal(size))
        return np.clip(np.rint(drawn), SHORTEST, LONGEST).astype(np.int64)

    longest = lengths(20_000, MAX_BATCH).max(axis=1)
    full_s = np.interp(MAX_BATCH * longest, _grid(), calibration.token_s).mean() + calibration.worker_s
    edges = np.linspace(0.4, 0.8, count + 1)
    workloads = []
    for load in random.uniform(edges[:-1], edges[1:]):
        rate = load * MAX_BATCH / full_s
        times_s = np.cumsum(random.exponential(1 / rate, max(2, round(rate * duration_s))))
        workloads.append(Workload(float(load), times_s, lengths(len(times_s))))
    return workloads


def predicted(calibration: Calibration, workload: Workload, seed: int) -> tuple[Times, float, float]:
    """Return the latency of each request [s], the mean texts of a batch and its mean time in the encoder [s].

    Half of a round trip to the front comes before the batch and half after it.
    """
    way = Servers(servers=FRONT, quantiles_s=np.array(calibration.front_s) / 2)
    batch_s = np.array(calibration.token_s) + calibration.worker_s
    worker = Station(
        Batching(
            max_batch=MAX_BATCH, max_wait_s=calibration.hold_s, waits_from="lane", batch_s=batch_s,
            token_step=TOKEN_STEP, padded=True, variation=calibration.variation,
        ), seed=seed, name="worker",
    )  # fmt: skip
    count = len(workload.times_s)
    flow = replace(Flow.of(np.arange(count), workload.times_s), input_tokens=workload.tokens)
    for stage in (Station(way, seed=seed, name="before"), worker, Station(way, seed=seed, name="after")):
        flow = stage.advance(flow, inf)
    batches, busy_s = (float(worker.statistics()[name].sum()) for name in ("batches", "lane_busy_s"))
    latency_s = (flow.time_s - flow.arrival_s)[np.argsort(flow.request)]
    return latency_s, count / batches, busy_s / batches - calibration.worker_s


def _grid() -> Counts:
    return np.arange(0, MOST_TOKENS + 1, TOKEN_STEP)


def quantiles(latency_s: Times) -> list[float]:
    """Return `QUANTILES` of the latency after the warm-up [s]."""
    return [float(np.quantile(latency_s[int(WARM_UP * len(latency_s)) :], share)) for share in QUANTILES]
