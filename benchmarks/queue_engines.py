"""Our engine beside simpy and ciw on the same queues: requests per CPU second as ratios, and means beside theory.

    python benchmarks/queue_engines.py [--requests 10000000] [--others 100000] [--encoder 10000000] [--seed 1]

Times are CPU seconds of the simulation alone, after one short run that compiles; our arrivals are drawn outside of
them, simpy and ciw draw theirs as they go. Means are of the time in the stage [s]; "Little" is by how much the requests
inside, integrated over time, differ from the sum of their times in the stage.
"""

from __future__ import annotations

import argparse
import math
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import ciw
import numpy as np
import simpy

from capacity.fleet.flow import Flow
from capacity.fleet.queueing import waiting
from capacity.fleet.replicas import Replicas
from capacity.fleet.servers import Batching, Policy, Servers, Station

CHUNK = 2**16
LOAD = 0.8


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue with mean service time 1 s, and the mean time in it by theory [s]."""

    name: str
    servers: int
    exponential: bool
    batch: int
    mean_s: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return LOAD * self.servers * self.batch

    def stage(self, seed: int) -> Station:
        """Return the queue in our engine."""
        if self.batch > 1:
            return Station(Batching(max_batch=self.batch, batch_s=[1.0] * (self.batch + 1)), seed=seed)
        spread = "exponential" if self.exponential else "fixed"
        return Station(Servers(servers=self.servers, mean_s=1.0, spread=spread), seed=seed)


def bulk_s(rate: float, batch: int, most: int = 400) -> float:
    """Return the mean time in M/D/1 with service 1 of up to `batch` at once [s], from the states at ends of batches."""
    arriving = np.exp([n * math.log(rate) - rate - math.lgamma(n + 1) for n in range(most)])
    step = np.zeros((most, most))
    for now in range(most):
        left = max(now - batch, 0)
        step[now, left:] = arriving[: most - left]
        step[now, -1] += 1 - step[now].sum()
    state = np.full(most, 1 / most) @ np.linalg.matrix_power(step, 2**14)
    behind = np.maximum(np.arange(most) - batch, 0)
    return float(1 + (state * (behind + rate / 2)).sum() / (1 + state[0] / rate) / rate)


def queues() -> list[Queue]:
    """Return the queues compared."""
    return [
        Queue("M/M/1", 1, True, 1, 1 + waiting(1, LOAD, 1.0, 1.0, 1.0).average_s),
        Queue("M/M/8", 8, True, 1, 1 + waiting(8, 8 * LOAD, 1.0, 1.0, 1.0).average_s),
        Queue("M/D/1", 1, False, 1, 1 + waiting(1, LOAD, 1.0, 1.0, 0.0).average_s),
        Queue("M/D[8]/1", 1, False, 8, bulk_s(8 * LOAD, 8)),
    ]


def ours(stage: Station, rate: float, requests: int, seed: int) -> tuple[float, float, float]:
    """Return CPU seconds, the mean time in the stage [s], and how far Little's law is off."""
    draws, now_s, spent_s, sum_s = np.random.default_rng(seed), 0.0, 0.0, 0.0
    for first in range(0, requests + CHUNK, CHUNK):
        count = max(0, min(CHUNK, requests - first))
        times_s = now_s + np.cumsum(draws.exponential(1 / rate, count))
        now_s = float(times_s[-1]) if count else math.inf
        flow = Flow.of(np.arange(first, first + count), times_s)
        began_s = time.process_time()
        left = stage.advance(flow, now_s)
        spent_s += time.process_time() - began_s
        sum_s += float((left.time_s - left.arrival_s).sum())
    figures = stage.statistics()
    return spent_s, sum_s / requests, abs(figures["mean_inside"] * figures["until_s"] / sum_s - 1)


def by_simpy(queue: Queue, requests: int, seed: int) -> tuple[float, float]:
    """Return CPU seconds and the mean time in the queue [s]."""
    draw, world, times_s = random.Random(seed), simpy.Environment(), []
    store = simpy.Store(world)

    def source():  # noqa: ANN202
        for _ in range(requests):
            yield world.timeout(draw.expovariate(queue.rate))
            store.put(world.now)

    def server():  # noqa: ANN202
        while True:
            batch = [(yield store.get())]
            while len(batch) < queue.batch and store.items:
                batch.append(store.items.pop(0))
            yield world.timeout(draw.expovariate(1.0) if queue.exponential else 1.0)
            times_s.extend(world.now - came_s for came_s in batch)

    world.process(source())
    for _ in range(queue.servers):
        world.process(server())
    began_s = time.process_time()
    world.run()
    return time.process_time() - began_s, float(np.mean(times_s))


def by_ciw(queue: Queue, requests: int, seed: int) -> tuple[float, float] | None:
    """Return CPU seconds and the mean time in the queue [s]; ciw has no batches."""
    if queue.batch > 1:
        return None
    ciw.seed(seed)
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(queue.rate)], number_of_servers=[queue.servers],
        service_distributions=[ciw.dists.Exponential(1.0) if queue.exponential else ciw.dists.Deterministic(1.0)],
    )  # fmt: skip
    world = ciw.Simulation(network)
    began_s = time.process_time()
    world.simulate_until_max_customers(requests, method="Finish")
    spent_s = time.process_time() - began_s
    return spent_s, float(np.mean([record.exit_date - record.arrival_date for record in world.get_all_records()]))


def encoder(routing: str) -> Station:
    """Return eight replicas with dynamic batching: up to 32 texts, 4 ms a batch and 0.1 ms a text, 2 ms waiting."""
    how = Batching(max_batch=32, max_wait_s=2e-3, batch_s=[4e-3 + 1e-4 * texts for texts in range(33)])
    return Station(how, Replicas(count=8), Policy(routing=routing))


def compare(arguments: argparse.Namespace) -> None:
    """Print a line for each queue."""
    requests, others, seed = arguments.requests, arguments.others, arguments.seed
    print(
        f"{'queue':9} {'theory':>8} {'ours':>8} {'off':>7} {'Little':>8} {'simpy':>8} {'ciw':>8}   ours ÷ simpy   ÷ ciw"
    )
    for queue in queues():
        ours(queue.stage(seed), queue.rate, 1000, seed)
        spent_s, mean_s, little = ours(queue.stage(seed), queue.rate, requests, seed)
        theirs: list[Callable[[Queue, int, int], tuple[float, float] | None]] = [by_simpy, by_ciw]
        found = [engine(queue, others, seed) for engine in theirs]
        means = " ".join(f"{other[1]:8.4f}" if other else f"{'-':>8}" for other in found)
        ratios = "  ".join(
            f"{requests / spent_s * other[0] / others:10.0f}" if other else f"{'-':>10}" for other in found
        )
        off = mean_s / queue.mean_s - 1
        print(f"{queue.name:9} {queue.mean_s:8.4f} {mean_s:8.4f} {off:+7.2%} {little:8.0e} {means}  {ratios}")


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000_000, help="in our engine")
    parser.add_argument("--others", type=int, default=100_000, help="in simpy and ciw")
    parser.add_argument("--encoder", type=int, default=10_000_000, help="through eight encoder replicas")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    compare(arguments)
    for routing in ("shared", "round-robin", "least-loaded"):
        rate = LOAD * 8 * 32 / 7.2e-3
        spent_s = min(ours(encoder(routing), rate, arguments.encoder, arguments.seed)[0] for _ in range(3))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        speed = arguments.encoder / spent_s / 1e6
        print(f"8 encoder replicas, {routing:12}: {speed:5.1f} M requests a CPU second; {peak:.2f} GiB at most")


if __name__ == "__main__":
    main()
