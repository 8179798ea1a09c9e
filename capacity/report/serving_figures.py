"""Numbers of simulated serving that no record holds: ends of a band, what a node's statistics say, where time goes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from capacity.fleet.served import PoolServing, Serving
from capacity.fleet.simulated import NodeResult, Sampled, Simulated
from capacity.report.cells import Missing, Number, finite

Array = NDArray[np.float64]
Ends = tuple[Number, Number]
OVERLOADED = "does not keep up"
NO_RUN = "not simulated"
NO_BAND = "band not run"
TOO_FEW = "too few requests"
NO_PRICE = "no price"
SHORTEST_S = 1e-6
"""Latencies below are those of cached answers, which take no time in the simulation [s]."""


def run_of(option: Serving) -> Simulated:
    """Return the run of an option that has one."""
    if option.result is None:
        raise ValueError(f"{option.name} was not simulated: {option.refused}")
    return option.result


def tail_s(run: Simulated | None, name: str) -> Number:
    """Return a quantile of the end-to-end latency [s]; missing where it would say nothing about a longer run."""
    if run is None or not run.end_to_end.count:
        return Missing(NO_RUN)
    if run.saturation.state == "overloaded":
        return Missing(OVERLOADED)
    return finite(run.end_to_end.quantiles[name].value, TOO_FEW)


def band_s(option: Serving, name: str) -> Ends:
    """Return a quantile of the end-to-end latency with step times at both ends of their 90 % band [s]."""
    if option.result is None:
        return Missing(NO_RUN), Missing(NO_RUN)
    if option.fast is None or option.slow is None:
        return Missing(NO_BAND), Missing(NO_BAND)
    return tail_s(option.fast, name), tail_s(option.slow, name)


def without_spare_s(option: Serving) -> Number:
    """Return the tail latency at peak with one replica of each pool gone and no spare [s]."""
    if min((pool.replicas for pool in option.pools), default=1) < 2:
        return Missing("none left")
    return finite(option.without_spare_s, OVERLOADED)


def error_of(sampled: Sampled) -> Number:
    """Return the standard error of a figure from the Monte Carlo."""
    return finite(sampled.standard_error, TOO_FEW)


def numbers(node: NodeResult, name: str) -> Array:
    """Return what a node's stage says under a name; empty where it says nothing of the kind."""
    return np.asarray(node.statistics.get(name, ()), np.float64)


def busy(node: NodeResult) -> Number:
    """Return the simulated busy share of the replicas that were up [1]."""
    if "utilization" in node.statistics:
        return float(numbers(node, "utilization"))
    up_s = numbers(node, "up_s")
    return float(numbers(node, "busy_s").sum() / up_s) if up_s.size and up_s > 0 else Missing("not counted")


def batches(node: NodeResult) -> Array:
    """Return how many batches had 0, 1, 2, … requests; of an LLM, how many steps had so many sequences."""
    counts = numbers(node, "batches") if "batches" in node.statistics else numbers(node, "steps")
    used = np.flatnonzero(counts)
    return counts[: used[-1] + 1] if used.size else counts[:0]


def mean_batch(node: NodeResult) -> Number:
    """Return the mean size of a batch, or of an LLM's step [request, sequence]."""
    counts = batches(node)
    whole = counts[1:].sum()
    return float(counts @ np.arange(len(counts)) / whole) if whole else Missing("no batches")


def kv_use(node: NodeResult, pool: PoolServing) -> tuple[Array, Array] | None:
    """Return the share of the KV blocks that each replica used on average and at most [1]; None without an LLM."""
    used, most = numbers(node, "kv_area_s"), numbers(node, "most_used")
    up_s = numbers(node, "up_s")
    if not used.size or not pool.kv_blocks or not up_s > 0:
        return None
    return used * used.size / float(up_s) / pool.kv_blocks, most / pool.kv_blocks


def queue_s(node: NodeResult, requests: int) -> float:
    """Return the mean time that a request waits in a node, by Little's law; forming a batch included [s]."""
    if "waiting_area_s" in node.statistics:
        waited_s = float(numbers(node, "waiting_area_s").sum())
    else:
        waited_s = float(np.prod([node.statistics.get(key, 0.0) for key in ("mean_waiting", "until_s")]))  # type: ignore[arg-type]
    mean_s = node.latency.mean.value if node.latency.count else 0.0
    return min(waited_s / max(requests, 1), mean_s)


def between_tokens_s(node: NodeResult, shares: Mapping[str, float]) -> dict[str, float]:
    """Return the mean (`mean`) and quantiles of the times between a request's tokens [s]; nothing without an LLM."""
    counts, edges_s = numbers(node, "gaps"), numbers(node, "gap_s")
    if not counts.sum():
        return {}
    reached = np.cumsum(counts) / counts.sum()
    found = {name: float(edges_s[np.searchsorted(reached, share)]) for name, share in shares.items()}
    return {"mean": float(counts @ edges_s / counts.sum()), **found}


def usd(option: Serving, field: str) -> Number:
    """Return a cost by its field in `UnitCost` [USD]; missing without a price, or where nothing is served."""
    return (
        Missing(NO_PRICE) if option.cost is None else finite(getattr(option.cost, field), "nothing to set it against")
    )


def against_best(best: Serving | None, option: Serving) -> Number:
    """Return how much more an option costs an hour than the best one, as a share of the best one's cost."""
    first = Missing("no option holds the objective") if best is None else usd(best, "hour_usd")
    mine = usd(option, "hour_usd")
    if isinstance(mine, Missing):
        return mine
    if isinstance(first, Missing):
        return Missing(f"best: {first.reason}")
    return mine / first - 1 if first > 0 else Missing("the best costs nothing")
