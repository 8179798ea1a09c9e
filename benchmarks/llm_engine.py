"""How fast is the engine for continuous batching? Its quantiles beside those of stepping through every token.

    python benchmarks/llm_engine.py                      # 10⁵ requests, beside the plain engine of the tests
    python benchmarks/llm_engine.py --requests 1e7       # requests per CPU-second and peak memory
    python benchmarks/llm_engine.py --requests 1e8 --routing prefix-aware

Llama-3.1-8B on four H100 replicas: lognormal prompts of 1,024 and answers of 256 tokens on average (standard deviation
÷ mean 0.7), half of them with one of 64 shared prefixes of 256 tokens, Poisson arrivals at 80 % of saturation, memory
tight enough to preempt, a replica that fails. Step times are rounded from published kernels: they matter here only as
far as they are realistic.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from capacity.fleet.continuous import ContinuousStage, Engine, Policy
from capacity.fleet.flow import Flow, joined
from capacity.fleet.histogram import Histogram
from capacity.fleet.replicas import Failures, Replicas
from capacity.phases.step_table import StepTable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from plain_continuous import Plain

REPLICAS, CHUNK, VARIATION = 4, 1 << 16, 0.7
ENGINE = Engine(kv_blocks=7000, max_sequences=256, max_batched_tokens=8192, prefix_tokens=(256,) * 64)


def table() -> StepTable:
    """Return step times like those of an 8-billion-parameter model in bf16 on one H100 [s]."""
    tokens, sequences, contexts = np.arange(8193.0), np.arange(257.0)[:, None], 256 * np.arange(65.0)[None, :]
    queries, starts = 256 * np.arange(33.0)[:, None], 512 * np.arange(33.0)[None, :]
    linear_s = np.interp(tokens, [128, 8192], [7e-3, 60e-3])
    linear_s[0] = 0
    return StepTable(
        linear_s=linear_s, decode_s=sequences * contexts * 131072 / 3e12, context_step=256.0,
        prefill_s=queries * (starts + queries / 2) * 4 * 32 * 4096 / 5e14, query_step=256.0, start_step=512.0,
        host_s=np.full(257, 1.5e-3), floor_s=np.full(257, 3e-3),
    )  # fmt: skip


def requests(rate: float, count: int, seed: int) -> Iterator[Flow]:
    """Yield `count` requests in chunks, `rate` a second."""
    sigma = math.sqrt(math.log1p(VARIATION**2))
    last_s = 0.0
    for first in range(0, count, CHUNK):
        draw, size = np.random.default_rng([seed, first]), min(CHUNK, count - first)
        times = last_s + np.cumsum(draw.exponential(1 / rate, size))
        last_s = float(times[-1])
        deviates = np.exp(sigma * draw.standard_normal((2, size)) - sigma**2 / 2)
        prompts, answers = np.clip(np.rint(deviates * [[1024], [256]]), 1, 16384).astype(np.int64)
        prefixes = np.where(draw.random(size) < 0.5, draw.integers(0, 64, size), -1)
        none = np.full(size, np.nan)
        yield Flow(np.arange(first, first + size), times, times, prompts, answers, prefixes, np.zeros(size, int), none)


def saturation(seed: int) -> float:
    """Return the requests per second that replicas complete when there are always enough of them."""
    stage = ContinuousStage(table(), ENGINE, Replicas(count=REPLICAS))
    flow = stage.closed(4 * REPLICAS * ENGINE.max_sequences, next(requests(1.0, 40_000, seed)))
    middle = flow.time_s[len(flow) // 4], flow.time_s[len(flow) // 4 * 3]
    return len(flow) / 2 / float(middle[1] - middle[0])


def main() -> None:
    """Run the engine, and the plain one beside it where that takes minutes at most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=lambda text: int(float(text)), default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--load", type=float, default=0.8, help="share of saturation")
    parser.add_argument("--routing", default="least-loaded")
    parser.add_argument("--repeat", type=int, default=1, help="runs; the fastest is told")
    parser.add_argument("--plain", action=argparse.BooleanOptionalAction, help="by default up to 10⁵ requests")
    options = parser.parse_args()
    full = saturation(options.seed)
    rate = options.load * full
    span_s = options.requests / rate
    outages = ((1, 0.4 * span_s, 0.4 * span_s + min(60.0, 0.05 * span_s)),)
    policy = Policy(routing=options.routing, retries=3)
    _, down_s, up_s = outages[0]
    print(f"saturation {full:.1f} requests/s, load {rate:.1f}, replica 1 down for {up_s - down_s:.0f} s")
    runs = [engine(rate, outages, policy, options) for _ in range(options.repeat)]
    cpu_s = min(run[0] for run in runs)
    ours = runs[0][1]
    print(f"engine: {options.requests / cpu_s:,.0f} requests per CPU-second ({cpu_s:.2f} s)")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print_quantiles("engine", ours)
    if options.plain or (options.plain is None and options.requests <= 100_000):
        theirs, plain_s = plain(rate, outages, policy, options)
        print_quantiles("plain", theirs)
        worst = np.abs(ours / theirs - 1).max()
        print(f"largest difference {worst:.2%}; the plain engine does {options.requests / plain_s:,.0f} requests/s")


def engine(
    rate: float, outages: tuple[tuple[int, float, float], ...], policy: Policy, options: argparse.Namespace
) -> tuple[float, np.ndarray]:
    """Return CPU time [s], and p50, p99, p99.9 of time to first token and end to end [s]."""
    stage = ContinuousStage(table(), ENGINE, Replicas(count=REPLICAS, failures=Failures(outages=outages)), policy)
    histograms, cpu_s, left = (Histogram.empty(), Histogram.empty()), 0.0, 0

    def note(flow: Flow) -> int:
        zeros = np.zeros(len(flow), np.int64)
        histograms[0].add(flow.first_s - flow.arrival_s, zeros)
        histograms[1].add(np.where(flow.outcome == 0, flow.time_s - flow.arrival_s, np.nan), zeros)
        return len(flow)

    for flow in requests(rate, options.requests, options.seed):
        begin = time.process_time()
        gone = stage.advance(flow, float(np.nextafter(flow.time_s[-1], np.inf)))
        cpu_s += time.process_time() - begin
        left += note(gone)
    begin = time.process_time()
    gone = stage.advance(gone.at(np.zeros(0, np.int64)), math.inf)
    cpu_s += time.process_time() - begin
    left += note(gone)
    statistics = stage.statistics()
    tokens = statistics["prompt_tokens"] + statistics["cached_tokens"]
    print(
        f"{left} requests left, {statistics['preemptions'] / left:.2%} preempted, "
        f"{statistics['cached_tokens'] / tokens:.1%} of prompt tokens spared, "
        f"{statistics['steps'].sum() / left:.2f} steps a request"
    )
    return cpu_s, np.array([[h.quantile(share) for h in histograms] for share in (0.5, 0.99, 0.999)])


def plain(
    rate: float, outages: tuple[tuple[int, float, float], ...], policy: Policy, options: argparse.Namespace
) -> tuple[np.ndarray, float]:
    """Return the same quantiles of the plain engine, and the CPU time it takes [s]."""
    flow = joined(list(requests(rate, options.requests, options.seed)))
    begin = time.process_time()
    gone = np.array(Plain(table(), ENGINE, REPLICAS, policy, outages).run(flow))
    cpu_s = time.process_time() - begin
    gone = gone[gone[:, 3] == 0]
    since = flow.arrival_s[gone[:, 1].astype(int)]
    times = np.column_stack([gone[:, 2] - since, gone[:, 0] - since])
    return np.quantile(times, (0.5, 0.99, 0.999), axis=0), cpu_s


def print_quantiles(name: str, quantiles: np.ndarray) -> None:
    """Print p50, p99 and p99.9 of time to first token and end to end."""
    columns = zip(("first token", "end to end"), quantiles.T, strict=True)
    print(f"{name:>7}: " + "; ".join(f"{what} {p50:.4f} {p99:.4f} {p999:.4f} s" for what, (p50, p99, p999) in columns))


if __name__ == "__main__":
    main()
