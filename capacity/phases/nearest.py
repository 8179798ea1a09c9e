"""A search of vectors: the index that a device holds, how far a search goes in it, and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import NamedTuple

import numpy as np

from capacity.phases import memory, sharing
from capacity.phases.context import Context
from capacity.spec.model import IndexPoints
from capacity.spec.stages import RetrieveStage
from capacity.timing.band import Estimate, total
from capacity.timing.device import Device
from capacity.work import retrieval
from capacity.work.operations import Amount, Operation, repeated

READ_S = {"cpu": 1e-7, "gpu": 5e-7, "accelerator": 5e-7}
"""Latency of a scattered read that the next one waits for [s] (assumed; about 480 cycles on an idle H100, Luo et al.
2024, arXiv:2402.13499, and more where the translation of the address misses)."""
EFFORT_LOG_SIGMA = 0.2
"""Error of an effort between two points: ln(effort found ÷ point's) of 33 inner points left out one by one has a root
mean square of 0.19, each in a gap of a factor of four; 29 measured between points of faiss, 0.15."""


class Effort(NamedTuple):
    """Lists that a query searches, or candidates that it keeps in a graph."""

    value: float
    log_sigma: float = 0.0
    """Standard deviation of its logarithm: 0 where it was given, or is that of a published point [1]."""


def effort(stage: RetrieveStage, points: Mapping[str, IndexPoints]) -> Effort:
    """Return how far the searches of a stage go: as given, or for its recall by the points that it names.

    Parameters
    ----------
    points
        Runs by the name under which a stage names them.

    Raises
    ------
    CapacityError
        When the run never reached the recall, or always reached more.
    """
    if stage.recall is None or stage.points is None:
        return Effort(stage.breadth)
    run = points[stage.points]
    known = any(point.recall == stage.recall for point in run.points)
    return Effort(retrieval.effort_between(run, stage.recall), 0.0 if known else EFFORT_LOG_SIGMA)


def index(stage: RetrieveStage, context: Context) -> retrieval.Index:
    """Return the part of the index that one device of one shard holds."""
    return _part(stage, effort(stage, context.points).value, context)


def _part(stage: RetrieveStage, reach: float, context: Context) -> retrieval.Index:
    """Return it as a search sees it that goes as far as `reach` lists or candidates."""
    items = context.scenario.catalogue.items / (stage.shards * context.tensor_parallel)
    match stage.index:
        case "exact":
            return retrieval.ExactIndex(items=items, width=stage.width, dtype=stage.dtype, metric=stage.metric)
        case "hnsw":
            breadth = max(reach, stage.top)  # a search keeps at least what it is to return
            return retrieval.GraphIndex(
                items=items, width=stage.width, dtype=stage.dtype, links=stage.links, breadth=breadth
            )  # fmt: skip
        case "ivf" | "pq":
            return retrieval.InvertedIndex(
                items=items, width=stage.width, dtype=stage.dtype, lists=stage.lists, probes=min(reach, stage.lists),
                code_bytes=stage.code_bytes if stage.index == "pq" else None, metric=stage.metric,
            )  # fmt: skip


def operations(stage: RetrieveStage, requests: Amount, context: Context) -> tuple[Operation, ...]:
    """Return what a batch of `requests` requests executes: every device searches its own part for every query."""
    return _searches(stage, index(stage, context), requests, context)


def _searches(stage: RetrieveStage, part: retrieval.Index, requests: Amount, context: Context) -> tuple[Operation, ...]:
    queries, devices = requests * stage.queries, context.tensor_parallel
    work = repeated(part.search(queries, stage.top), devices)
    found = queries * stage.top * (memory.value_bytes(stage.dtype) + 8) * devices
    return work + sharing.shards("all_gather", found, context)


def time(stage: RetrieveStage, requests: Amount, device: Device, context: Context) -> Estimate:
    """Return the time of a batch; an effort read between points is off by as much as the time it makes of it [s]."""
    reach = effort(stage, context.points)
    found = _time(_part(stage, reach.value, context), stage, requests, device, context)
    if not reach.log_sigma:
        return found
    further = _part(stage, reach.value * exp(reach.log_sigma), context)
    longer = _time(further, stage, requests, device, context).value / found.value
    return found.widened("effort of the recall", np.log(longer))


def _time(part: retrieval.Index, stage: RetrieveStage, requests: Amount, device: Device, context: Context) -> Estimate:
    step = sharing.step(device, _searches(stage, part, requests, context), context)
    return total([step, _waits(part, device)]) if isinstance(part, retrieval.GraphIndex) else step


def _waits(graph: retrieval.GraphIndex, device: Device) -> Estimate:
    """Return how long a search waits for reads, those of neighbors' numbers before those of their vectors [s]."""
    reads = 2.0 * (graph.breadth + retrieval.GRAPH_HOPS)
    return Estimate(reads * READ_S[device.hardware.kind], {"latency of scattered reads": 0.4}, "assumed")


def taken_from(stage: RetrieveStage, points: Mapping[str, IndexPoints]) -> str:
    """Return what a recall stands on, in words; nothing where none is asked for."""
    if stage.recall is None or stage.points is None:
        return ""
    run, (found, _) = points[stage.points], effort(stage, points)
    what = f"ef {max(found, stage.top)}" if run.kind == "hnsw" else f"{found} probes"
    return (
        f"recall {stage.recall:g} of stage {stage.name} is taken to need {what}, as {run.recall} did with "
        f"{run.items:,} vectors of {run.width} values ({run.id}, {run.basis}); yours may need more"
    )
