"""Levers of training jobs: number formats, what is trained, what is kept, and how devices share the work."""

from __future__ import annotations

from collections.abc import Callable

from capacity.levers.lever import Changes, InapplicableError, Lever, Models, of_jobs
from capacity.spec.model import Model, TransformerModel
from capacity.spec.scenario import Scenario
from capacity.spec.training import TrainingJob
from capacity.work.models import architecture

WIDE = ("fp32", "tf32")
HALF = ("bf16", "fp16")


def _narrower(scenario: Scenario, models: Models) -> Changes:
    changed = {job.name: {"dtype": "bf16"} for job in scenario.training if job.dtype in WIDE}
    changed |= {job.name: {"dtype": "fp8"} for job in scenario.training if job.dtype in HALF and _laid_out(job, models)}
    if not changed:
        raise InapplicableError("no training job multiplies in 16 bits or more")
    return {"training": changed}


def _method(kind: str) -> Callable[[Scenario, Models], Changes]:
    def change(scenario: Scenario, models: Models) -> Changes:
        jobs = (job for job in scenario.training if job.method.kind == "full" and _laid_out(job, models))
        return of_jobs(jobs, {"method": {"kind": kind}}, "no job trains all weights of a transformer")

    return change


def _recompute(scenario: Scenario, models: Models) -> Changes:
    jobs = (job for job in scenario.training if job.recompute != "full" and _laid_out(job, models))
    return of_jobs(jobs, {"recompute": "full"}, "no transformer is trained without full recomputation")


def _shared(**degrees: int | str | bool) -> Callable[[Scenario, Models], Changes]:
    needed = max((value for value in degrees.values() if type(value) is int), default=2)

    def change(scenario: Scenario, models: Models) -> Changes:
        jobs = (job for job in scenario.training if job.max_devices >= needed and _laid_out(job, models))
        missing = f"no transformer may be trained on {needed} devices (max_devices)"
        return of_jobs(jobs, {"parallel": dict(degrees)}, missing)

    return change


def _optimizer_8bit(scenario: Scenario, models: Models) -> Changes:
    jobs = (job for job in scenario.training if job.optimizer == "adamw")
    return of_jobs(jobs, {"optimizer": "adamw-8bit"}, "no job trains with AdamW")


def _offloaded(scenario: Scenario, models: Models) -> Changes:
    jobs = (job for job in scenario.training if job.offload == "none" and _laid_out(job, models))
    return of_jobs(jobs, {"offload": "optimizer"}, "no transformer is trained")


def _tuned(scenario: Scenario, models: Models) -> Changes:
    jobs = (job for job in scenario.training if job.software == "other" and _laid_out(job, models))
    return of_jobs(jobs, {"software": "nemo"}, "no transformer is trained with a framework of average speed")


def _experts(scenario: Scenario, models: Models) -> Changes:
    jobs = [job for job in scenario.training if job.max_devices > 1 and _experts_of(models.get(job.model)) > 1]
    missing = f"none of the {_count(scenario)} training jobs has a mixture of experts and more than one device"
    return of_jobs(jobs, {"parallel": {"expert": 2}}, missing)


def _experts_of(model: Model | None) -> int:
    return architecture(model).layer.experts if isinstance(model, TransformerModel) else 0


def _private(scenario: Scenario, models: Models) -> Changes:
    raise InapplicableError(
        f"what per-example gradients cost depends on the model: set training.JOB.private of {_count(scenario)} jobs to "
        "the slowdown you measured"
    )


def _federated(scenario: Scenario, models: Models) -> Changes:
    raise InapplicableError(f"say rounds, clients and uplink: training.JOB.federated of {_count(scenario)} jobs")


def _laid_out(job: TrainingJob, models: Models) -> bool:
    """Return whether a job trains a transformer, whose layout is planned; others are data-parallel."""
    return isinstance(models.get(job.model), TransformerModel)


def _count(scenario: Scenario) -> int:
    return len(scenario.training)


TRAINING = (
    Lever(
        id="low-precision-training", title="training in narrower numbers", group="training", change=_narrower,
        note="low-precision-training",
    ),
    Lever(
        id="lora", title="low-rank updates of frozen weights", group="training", change=_method("lora"), note="lora",
    ),
    Lever(
        id="qlora", title="the same on weights of four bits", group="training", change=_method("qlora"), note="qlora",
    ),
    Lever(
        id="adapter", title="small adapters in each block", group="training", change=_method("adapter"),
        note="adapter",
    ),
    Lever(id="prefix", title="trained prefixes", group="training", change=_method("prefix"), note="prefix-tuning"),
    Lever(
        id="recompute", title="activations computed again", group="training", change=_recompute, exact=True,
        note="recompute",
    ),
    Lever(
        id="optimizer-8bit", title="optimizer states in eight bits", group="training", change=_optimizer_8bit,
        note="optimizer-8bit",
    ),
    Lever(
        id="offload", title="the optimizer in the host's memory", group="training", change=_offloaded, exact=True,
        assumes="50 GB/s of the host's memory bandwidth for each device",
    ),
    Lever(
        id="zero", title="optimizer states sharded", group="training", change=_shared(sharding="optimizer"),
        exact=True, note="zero",
    ),
    Lever(
        id="fsdp", title="all states sharded", group="training", change=_shared(sharding="full"), exact=True,
        note="fsdp",
    ),
    Lever(
        id="tensor-parallel", title="products split over 2 devices", group="training",
        change=_shared(tensor=2, sequence=True), exact=True, note="tensor-parallel",
    ),
    Lever(
        id="pipeline-parallel", title="blocks in 2 groups", group="training", change=_shared(pipeline=2), exact=True,
        note="pipeline-parallel",
    ),
    Lever(
        id="context-parallel", title="sequences split over 2 devices", group="training", change=_shared(context=2),
        exact=True, note="context-parallel",
    ),
    Lever(
        id="expert-parallel", title="experts shared out", group="training", change=_experts, exact=True,
        note="expert-parallel",
    ),
    Lever(
        id="tuned-framework", title="a framework tuned as NeMo is", group="training", change=_tuned, exact=True,
        assumes="the overhead that NVIDIA's published runs show",
    ),
    Lever(
        id="differential-privacy", title="private gradients", group="training", change=_private,
        note="differential-privacy",
    ),
    Lever(id="federated", title="training on clients", group="training", change=_federated, note="federated"),
)  # fmt: skip
