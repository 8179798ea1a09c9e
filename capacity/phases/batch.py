"""Recurring work on many items: encoding a catalogue or all users, and building an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from capacity.errors import CapacityError
from capacity.phases import memory
from capacity.spec.model import Model, TransformerModel, TwoTowerModel
from capacity.spec.scenario import BatchJob, Scenario
from capacity.timing.band import Estimate
from capacity.timing.device import Device
from capacity.work import transformer, two_tower
from capacity.work.building import BREADTH, build, learnt
from capacity.work.models import architecture, reading, two_towers, vector_width
from capacity.work.operations import Amount, Operation
from capacity.work.retrieval import CODEWORDS, ExactIndex, GraphIndex, Index, InvertedIndex

VISIT_S = 49e-9
"""What a processor's core waits for each vector that an insertion into a graph visits: fitted on seven builds of faiss
1.15.1 on one core of an EPYC of Zen 5 (benchmarks/faiss_indexes.py); other processors are assumed alike."""
BUILD_LOG_SIGMA = {"k-means": 0.3, "graph": 0.4}
"""Standard deviation of the logarithm of faiss' builds on that core: of ten by k-means, to which nothing was fitted
(0.30; four more: 0.20), and of five graphs that `VISIT_S` was not fitted on (0.37)."""
UNSURE = 1.0
"""The same on devices other than processors, where nobody measured a build (assumed)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRun:
    """One run of a batch job on `devices` independent devices."""

    devices: int
    step: Estimate
    """Time of one batch on one device [s]."""
    duration: Estimate
    """Wall time of the run [s]."""
    device_time: Estimate
    """Device-seconds of the run: what is paid."""
    memory_bytes: Mapping[str, float]


def batch_operations(job: BatchJob, model: Model | None, scenario: Scenario, items: Amount) -> tuple[Operation, ...]:
    """Return what one batch of `items` items executes; of an index, what building one of `items` vectors does."""
    if job.task == "index":
        return build(index_of(job, model, items), job.build_effort, job.learn_share)
    if isinstance(model, TwoTowerModel):
        return two_tower.encode(two_towers(model).item, items, job.dtype, scenario.engine, normed=model.normed)
    if not isinstance(model, TransformerModel):
        raise CapacityError(f"batch job {job.name}: an encode job needs a model of family 'transformer' or 'two-tower'")
    tokens = scenario.tokens(job.tokens)
    return transformer.encode(reading(model, tokens), items, tokens, job.dtype, scenario.engine)


def index_of(job: BatchJob, model: Model | None, items: Amount) -> Index:
    """Return the index of `items` vectors that a job builds."""
    width = _width(job, model)
    match job.index:
        case "exact":
            return ExactIndex(items=items, width=width, dtype=job.dtype)
        case "hnsw":
            return GraphIndex(items=items, width=width, dtype=job.dtype, links=job.links, breadth=job.build_effort)
        case "ivf" | "pq":
            code_bytes = job.code_bytes if job.index == "pq" else None
            return InvertedIndex(
                items=items, width=width, dtype=job.dtype, lists=job.lists, probes=1, code_bytes=code_bytes
            )


def build_time(index: Index, device: Device, breadth: float = BREADTH, learn_share: float = 1) -> Estimate:
    """Return the time in which one device builds an index of its vectors [s].

    A processor that inserts into a graph waits for every vector it visits, `VISIT_S` on each of its cores, or for the
    traffic, whichever is longer. How well the cores share the work is assumed: all of it at once.
    """
    time = device.step(build(index, breadth, learn_share))
    if isinstance(index, ExactIndex):
        return time
    if device.hardware.kind != "cpu":
        return time.widened("building an index", UNSURE, "assumed")
    if isinstance(index, GraphIndex):
        waited_s = VISIT_S * index.items * replace(index, breadth=breadth).evaluated / _cores(device)
        longer = np.maximum(time.value, waited_s)
        return Estimate(longer, time.errors, time.basis).widened("inserting", BUILD_LOG_SIGMA["graph"], "projected")
    return time.widened("k-means", BUILD_LOG_SIGMA["k-means"], "projected")


def _cores(device: Device) -> int:
    return device.hardware.cores.value if device.hardware.cores else 1


def fewest_devices(job: BatchJob, model: Model | None, scenario: Scenario, device: Device) -> BatchRun:
    """Return the run on the fewest devices that meets the deadline, at most `max_devices`.

    Batches are independent, so device time does not depend on how many devices share it. Devices that share an index
    build a part each; that they do so without loss is assumed.
    """
    items = scenario.amount(job.items, job.every)
    size = max(1, min(job.batch, items))
    if job.task == "index" and job.index != "exact":
        whole = index_of(job, model, max(items, 1))
        device_time = build_time(whole, device, job.build_effort, job.learn_share)
        step = device_time.scaled(size / max(items, 1))
    else:
        step = device.step(batch_operations(job, model, scenario, size))
        device_time = step.scaled(items / size)
    deadline = job.deadline or job.every
    devices = max(1, min(ceil(float(device_time.value) / deadline), job.max_devices))
    return BatchRun(
        devices=devices, step=step, duration=device_time.scaled(1 / devices), device_time=device_time,
        memory_bytes=_memory(job, model, scenario, size, items / devices),
    )  # fmt: skip


def _memory(job: BatchJob, model: Model | None, scenario: Scenario, size: int, mine: float) -> dict[str, float]:
    """Return what one device holds when it runs batches of `size` of its `mine` items [byte].

    An exact index is streamed, batch by batch; every other one is held whole, with the vectors k-means learns from.
    """
    if job.task == "index":
        if job.index == "exact":
            return {"vectors": size * _width(job, model) * memory.value_bytes(job.dtype)}
        return _index_memory(index_of(job, model, mine), job.learn_share)
    if isinstance(model, TwoTowerModel):
        parts = memory.tower(two_towers(model).item, size, job.dtype)
    elif isinstance(model, TransformerModel):
        parts = memory.inference(architecture(model), size * scenario.tokens(job.tokens), job.dtype)
    else:
        return {}
    return {name: float(part) for name, part in parts.items()}


def _index_memory(index: Index, learn_share: float) -> dict[str, float]:
    parts = {"index": float(index.memory_bytes)}
    if isinstance(index, InvertedIndex):
        centroids = max(index.lists, CODEWORDS if index.code_bytes else 0)
        vectors = learnt(index.items, centroids, learn_share)
        parts["vectors to learn from"] = float(vectors) * index.width * memory.value_bytes("fp32")
    return parts


def _width(job: BatchJob, model: Model | None) -> int:
    if job.width is not None:
        return job.width
    if model is None:
        raise CapacityError(f"batch job {job.name}: an index job needs a model or a width")
    return vector_width(model)
