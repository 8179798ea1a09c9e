"""A transformer's training run: the least sharing of devices that fits, its step, and what stands beside the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from capacity.phases import train_memory, train_step
from capacity.phases.memory import reserve
from capacity.phases.train_memory import MIXED, Kept
from capacity.phases.train_step import Job
from capacity.spec.convergence import Convergence
from capacity.spec.model import Model, TransformerModel
from capacity.spec.scenario import Scenario
from capacity.spec.training import TrainingJob
from capacity.spec.training_engine import TrainingSteps
from capacity.timing.band import Estimate, total
from capacity.timing.device import Device
from capacity.work import trained as split
from capacity.work import training_step, transformer
from capacity.work.models import reading
from capacity.work.trained import Method, Parallel, Recompute, Trained

TARGETS = {
    "attention": ("qkv", "query", "key", "value", "attention output"), "feed-forward": ("up", "down"),
}  # fmt: skip
"""Products of a block by the words of a scenario."""
TOO_LITTLE = 1e-5
"""Share of a step below which a part is not told."""
HOST_ADAM_BYTES_PER_S = 50e9
"""Memory bandwidth of a host that one device's share of an offloaded optimizer gets (assumed: 400 GB/s for 8)."""
SHARDED = {
    "optimizer": "optimizer sharded", "gradients": "optimizer and gradients sharded", "full": "fully sharded",
    "hybrid": "sharded within a host",
}  # fmt: skip
SINGLE = Kept(weight=4.0, master=0.0, gradient=4.0, moments=8.0)
"""All in fp32."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """A device as what trains on it: with what frameworks add to its kernels, where that is known."""

    device: Device
    steps: TrainingSteps | None = None
    models: Mapping[str, Model] = field(default_factory=dict)
    """Teachers, by name."""
    references: Mapping[str, Convergence] = field(default_factory=dict)
    """Published samples to converge, by name."""

    @property
    def knows_frameworks(self) -> bool:
        """Whether whole training steps are known: on GPUs."""
        return self.steps is not None and self.device.hardware.kind == "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A step of a job on some devices, laid out.

    Attributes
    ----------
    parts_s
        Where its time goes [s].
    memory_bytes
        Of the fullest device, by component.
    """

    trained: Trained
    time: Estimate
    parts_s: dict[str, float]
    memory_bytes: dict[str, float]
    mfu: float
    hfu: float
    flop: float

    @property
    def layout(self) -> str:
        """How devices share the step, in words."""
        parallel, told = self.trained.parallel, list[str]()
        for name in ("tensor", "pipeline", "context", "expert"):
            told += [f"{name} {getattr(parallel, name)}"] if getattr(parallel, name) > 1 else []
        told += [f"data {parallel.data}"] if parallel.data > 1 or not told else []
        told += [SHARDED[parallel.sharding]] if parallel.sharding != "none" else []
        told += [f"{self.trained.recompute} recomputation"] if self.trained.recompute != "none" else []
        return ", ".join(told)


def planned(job: TrainingJob, model: TransformerModel, scenario: Scenario, trainer: Trainer, devices: int) -> Plan:
    """Return the step of `job` on `devices` devices, with the least sharing that fits their memory.

    Raises
    ------
    MissingFactError
        When the device lacks a fact that the step needs, a link for example.
    """
    known = cast(TrainingSteps, trainer.steps)
    chosen = fitting(job, model, scenario, trainer, devices)
    engine = known.engine(job.software, causal=True)
    run = Job(trained=chosen, micro_batches=job.accumulation, engine=engine, optimizer=job.optimizer)
    step = train_step.step(run, trainer.device, known)
    beside = dict(_beside(job, run, scenario, trainer))
    alone = replace(step.time, value=step.time.value * job.private)
    time = total([alone, *(Estimate(value, step.time.errors, step.time.basis) for value in beside.values())])
    waited = 0.0 if job.loader_rate is None else max(0.0, job.batch / job.loader_rate - float(time.value))
    parts = dict(step.parts_s) | beside | {"privacy": float(step.time.value) * (job.private - 1), "loading": waited}
    return Plan(
        trained=chosen, time=replace(time, value=time.value + waited),
        parts_s={name: seconds for name, seconds in parts.items() if seconds > TOO_LITTLE * float(time.value)},
        memory_bytes=memory(job, run.as_run), mfu=step.mfu, hfu=step.hfu, flop=step.model_flop,
    )  # fmt: skip


def fitting(job: TrainingJob, model: TransformerModel, scenario: Scenario, trainer: Trainer, devices: int) -> Trained:
    """Return the first layout whose memory fits the device, or the one that needs least."""
    hardware, tried = trainer.device.hardware, list[tuple[float, Trained]]()
    for parallel, recompute in layouts(job, devices):
        trained = _trained(job, model, scenario, parallel, recompute)
        needed = sum(memory(job, trained).values())
        if hardware.memory is None or needed <= hardware.memory.value - reserve(hardware.memory.value, hardware.kind):
            return trained
        tried.append((needed, trained))
    return min(tried, key=lambda pair: pair[0])[1]


def layouts(job: TrainingJob, devices: int) -> Iterator[tuple[Parallel, Recompute]]:
    """Yield layouts of `devices` devices, the least shared first; the given one alone where there is one."""
    recomputes: tuple[Recompute, ...] = ("none", "full") if job.recompute == "auto" else (job.recompute,)
    if job.parallel != "auto":
        given = job.parallel
        apart = given.tensor * given.pipeline * given.context
        yield from (
            (
                Parallel(
                    data=max(1, devices // apart), tensor=given.tensor, pipeline=given.pipeline, context=given.context,
                    expert=given.expert, virtual=given.virtual, sequence=given.sequence, sharding=given.sharding,
                ),
                recompute,
            )
            for recompute in recomputes
        )  # fmt: skip
        return
    shardings: tuple[split.Sharding, ...] = ("none", "optimizer", "full") if devices > 1 else ("none",)
    for sharding in shardings:
        yield Parallel(data=devices, sharding=sharding), recomputes[0]
    yield Parallel(data=devices, sharding="full" if devices > 1 else "none"), recomputes[-1]
    for tensor in (2, 4, 8):
        if devices % tensor == 0:
            part = Parallel(data=devices // tensor, tensor=tensor, sequence=True, sharding="optimizer")
            yield from ((part, recompute) for recompute in recomputes)
    for pipeline in (2, 4, 8, 16):
        if devices % (8 * pipeline) == 0:
            part = Parallel(
                data=devices // 8 // pipeline, tensor=8, pipeline=pipeline, sequence=True, sharding="optimizer"
            )
            yield part, recomputes[-1]


def memory(job: TrainingJob, trained: Trained) -> dict[str, float]:
    """Return the memory of the fullest device by component [byte], the optimizer's left out where it is offloaded."""
    kept = SINGLE if trained.dtype in {"fp32", "tf32"} else MIXED
    parts = train_memory.components(trained, job.accumulation, kept, job.optimizer)
    away = {"optimizer states"} if job.offload == "optimizer" else set[str]()
    return {name: size for name, size in parts.items() if size > 0 and name not in away}


def _trained(
    job: TrainingJob, model: TransformerModel, scenario: Scenario, parallel: Parallel, recompute: Recompute
) -> Trained:
    tokens = scenario.tokens(job.tokens)
    targets = tuple(label for word in job.method.targets for label in TARGETS[word])
    return Trained(
        model=reading(model, tokens), batch=job.batch / job.accumulation, tokens=tokens, dtype=job.dtype,
        stored="int4" if job.method.kind == "qlora" else None, parallel=parallel,
        method=Method(kind=job.method.kind, rank=job.method.rank, targets=targets), recompute=recompute, fusion="eager",
    )  # fmt: skip


def _beside(job: TrainingJob, run: Job, scenario: Scenario, trainer: Trainer) -> Iterator[tuple[str, float]]:
    """Yield what a step does beside training [s]: a teacher's labels, evaluation, the way to an offloaded optimizer."""
    tokens, batch = scenario.tokens(job.tokens), job.batch
    if job.teacher is not None:
        teacher = cast(TransformerModel, trainer.models[job.teacher])
        yield "teacher", _forward_s(teacher, batch, tokens, job, trainer.device)
    if job.evaluation:
        forward = train_step.forward_s(run, trainer.device, cast(TrainingSteps, trainer.steps))
        yield "evaluation", job.evaluation * forward
    if job.offload == "optimizer" and trainer.device.hardware.host_bandwidth is not None:
        changed = training_step.updated(run.trained)
        there_and_back = 2 * changed * split.ACTIVATION_BYTES / trainer.device.hardware.host_bandwidth.value
        yield "offload", there_and_back + changed * train_step.OPTIMIZER_BYTES[job.optimizer] / HOST_ADAM_BYTES_PER_S


def _forward_s(model: TransformerModel, batch: int, tokens: int, job: TrainingJob, device: Device) -> float:
    work = transformer.encode(reading(model, tokens), batch, tokens, job.dtype)
    return float(device.step(work).value)
