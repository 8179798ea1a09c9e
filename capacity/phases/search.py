"""A search of vectors: the index that a device holds, how far a search goes in it, and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from capacity.spec.model import IndexPoints
from capacity.spec.stages import RetrieveStage
from capacity.timing.band import Estimate
from capacity.timing.device import Device
from capacity.work import retrieval
from capacity.work.operations import Amount

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


def index(stage: RetrieveStage, items: Amount, reach: float) -> retrieval.Index:
    """Return the index of `items` vectors as a stage searches it, going as far as `reach` lists or candidates."""
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


def waits(index: retrieval.Index, device: Device) -> Estimate:
    """Return how long a search of a graph waits for reads, neighbors' numbers before their vectors; else 0 [s]."""
    if not isinstance(index, retrieval.GraphIndex):
        return Estimate(0.0)
    reads = 2.0 * (index.breadth + retrieval.GRAPH_HOPS)
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
