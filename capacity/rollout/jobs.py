"""What must be computed before a new model or index can serve: everything encoded, indexes built, caches filled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from capacity import planner
from capacity.errors import CapacityError
from capacity.fleet.rollout import Phase
from capacity.money.lines import MONTH_S
from capacity.phases import batch, nearest
from capacity.phases.context import Context
from capacity.plan import JobPlan, Violation
from capacity.planner import Inputs
from capacity.rollout.change import keys
from capacity.spec.hardware import Hardware
from capacity.spec.rollout import Rollout
from capacity.spec.scenario import BatchJob, Scenario
from capacity.spec.stages import EncodeStage, RetrieveStage
from capacity.timing.band import Estimate
from capacity.timing.device import Device
from capacity.work import building
from capacity.work.operations import Operation, repeated
from capacity.work.retrieval import Index


def encode_jobs(new: Scenario, changed: Sequence[BatchJob], policy: Rollout) -> tuple[BatchJob, ...]:
    """Return a job for everything that the changed jobs keep encoded: all items where one encodes the new ones."""
    found: dict[tuple[object, ...], BatchJob] = {}
    for job in changed:
        if job.task == "encode":
            items = "catalogue" if job.items == "new-items" else job.items
            once = job.model_copy(update={"items": items, **_once(policy)})
            found.setdefault((items, job.tokens, job.model), once)
    return tuple(found.values())


def _once(policy: Rollout) -> dict[str, float]:
    return {"every": MONTH_S, "deadline": policy.deadline, "max_devices": policy.max_devices}


def prefill_jobs(new: Scenario, stages: Sequence[str], policy: Rollout) -> tuple[BatchJob, ...]:
    """Return a job for each cache of an encoder's results that encodes the most wanted texts until it is full."""
    found = []
    for name in stages:
        stage = new.serving.stage(name)
        if isinstance(stage, EncodeStage) and stage.cache is not None:
            texts = min(stage.cache.entries, keys(stage.cache, new)) * stage.sequences
            job = BatchJob(
                name=name, task="encode", model=stage.model, items=texts, tokens=stage.tokens, dtype=stage.dtype,
                every=MONTH_S,
            )  # fmt: skip
            found.append(job.model_copy(update=_once(policy)))
    return tuple(found)


def phases(verb: str, jobs: Sequence[BatchJob], new: Scenario, hardware: Hardware, given: Inputs) -> Iterator[Phase]:
    """Yield a phase for each of `jobs`, run once on the fewest devices that meet the deadline.

    Raises
    ------
    CapacityError
        For a job that fits no device's memory, or misses the deadline on the most devices allowed.
    """
    if not jobs:
        return
    found = planner.option(new.model_copy(update={"batch": tuple(jobs), "training": ()}), hardware, given)
    if found.violations:
        raise CapacityError(f"{verb} {missed(found.violations[0])}")
    for job, plan in zip(jobs, found.jobs, strict=True):
        yield Phase(
            name=f"{verb} {job.name}", devices=plan.devices, duration=plan.duration,
            device_hours=_hours(plan), line=None, job=True,
            formula=f"{new.amount(job.items):,} texts ÷ {job.batch} × time of a batch; fewest devices within "
            f"{job.deadline or job.every:,.0f} s",
        )  # fmt: skip


def _hours(plan: JobPlan) -> Estimate:
    return plan.device_hours_per_month.scaled(plan.every_s / MONTH_S)


def missed(violation: Violation) -> str:
    """Return what is missed, in words."""
    if math.isnan(violation.needed) or violation.allowed <= 0:
        return f"{violation.where}: {violation.constraint}"
    times = violation.needed / violation.allowed
    return f"{violation.where} misses {violation.constraint}: {times:.3g} × the limit"


def build_phase(stage: RetrieveStage, device: Device, context: Context, policy: Rollout) -> Phase:
    """Return the phase in which the index of a retrieve stage is built from its vectors.

    Raises
    ------
    CapacityError
        When it misses the deadline on the most devices allowed.
    """
    time = batch.build_time(_part(stage, context), device, policy.build_effort).scaled(stage.shards)
    devices = max(1, min(math.ceil(float(time.value) / policy.deadline), policy.max_devices))
    duration = time.scaled(1 / devices)
    if float(duration.value) > policy.deadline:
        times = float(duration.value) / policy.deadline
        raise CapacityError(f"build {stage.name} misses the deadline with {devices} devices: {times:.3g} × the limit")
    return Phase(
        name=f"build {stage.name}", devices=devices, duration=duration, device_hours=time.scaled(1 / 3600), line=None,
        formula=f"{context.scenario.catalogue.items:,} vectors: {_BUILDS[stage.index]}", job=True,
    )  # fmt: skip


_BUILDS = {
    "exact": "each is read and written",
    "hnsw": "each searches the graph for its neighbors with the candidates of build_effort, and is written",
    "ivf": "k-means, the nearest list of each, and writing it",
    "pq": "k-means, the nearest list of each, its code, and writing it",
}


def build_operations(stage: RetrieveStage, context: Context, effort: int) -> tuple[Operation, ...]:
    """Return what building all shards of an index executes; each shard learns lists and codewords of its own.

    Examples
    --------
    Of an exact index of 1,000 vectors of 128 values in 2 bytes, 256 kB are read and as much is written.

    >>> from capacity import catalogue
    >>> tower = catalogue.scenario("gpt2-two-tower", settings=["catalogue.items=1000"])
    >>> stage = RetrieveStage(name="a", task="retrieve", width=128, top=5, dtype="fp16")
    >>> [op.moved_bytes * op.count for op in build_operations(stage, Context(scenario=tower, models={}), 200)]
    [512000.0]
    """
    return repeated(building.build(_part(stage, context), effort), stage.shards)


def _part(stage: RetrieveStage, context: Context) -> Index:
    return nearest.index(stage, replace(context, tensor_parallel=1))
