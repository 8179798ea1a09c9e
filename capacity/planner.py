"""From a scenario to a plan: each candidate device timed, sized, filled with jobs, priced, and ranked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TypeVar

import numpy as np

from capacity import catalogue, references
from capacity.documents import Document
from capacity.errors import InputError
from capacity.fleet.pools import HOUR_S, PoolResult, plan_pools, shares_of_a_day
from capacity.money import ownership, prices, spot
from capacity.money.unit_costs import unit_costs
from capacity.phases import batch, largest, schedule, training
from capacity.phases.batch import BatchRun
from capacity.phases.training import TrainingRun
from capacity.phases.transformer_run import Trainer
from capacity.plan import JobPlan, Option, Plan, PoolPlan, StagePlan, TrainingDetail, Violation
from capacity.spec.calibration import Calibration, Shared
from capacity.spec.convergence import Convergence
from capacity.spec.engine import PROCESSOR_ENGINES
from capacity.spec.hardware import Hardware
from capacity.spec.model import IndexPoints, Model, TransformerModel
from capacity.spec.prices import Rates
from capacity.spec.scenario import BatchJob, Scenario
from capacity.spec.training import TrainingJob
from capacity.timing import transfer
from capacity.timing.band import Estimate, total
from capacity.timing.device import Device
from capacity.timing.form import MissingFactError
from capacity.work.models import resized

MONTH_S = 730 * 3600.0
SPOT_ROUNDS = 5
"""Tries to find the devices with which a job on spot meets its deadline: more devices are interrupted more often."""
Job = TypeVar("Job", TrainingJob, BatchJob)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything a plan depends on besides the scenario; loaded once, reused for every slider."""

    calibrations: Sequence[tuple[Calibration, Hardware]]
    shared: Shared
    models: Mapping[str, Model]
    rates: Rates
    today: date
    references: Mapping[str, Convergence] = field(default_factory=dict)
    points: Mapping[str, IndexPoints] = field(default_factory=dict)


def inputs(
    scenario: Scenario, calibration_files: Sequence[str] = (), today: date | None = None,
    document: Document | None = None,
) -> Inputs:  # fmt: skip
    """Load what `scenario` refers to.

    Parameters
    ----------
    document
        What `scenario` was read from: wrong names are reported at their place in it.

    Raises
    ------
    InputError
        For unknown models, calibrations, rates, sellers or regions, with the nearest known name, and for models of a
        wrong family.
    """
    written = document or Document(scenario.id, {})
    _sold(scenario, written)
    return Inputs(
        calibrations=catalogue.calibrations(calibration_files), shared=catalogue.shared(),
        models=references.models(scenario, written), rates=references.rates(scenario, written),
        today=today or date.today(), references=references.convergences(scenario, written),
        points=references.points(scenario, written),
    )  # fmt: skip


def _sold(scenario: Scenario, document: Document) -> None:
    """Refuse a seller and a region that no price table knows: nothing would have a price, and nobody would see why."""
    asked = scenario.pricing
    for key, find in (("provider", prices.seller), ("region", prices.place)):
        said = getattr(asked, key)
        if said is not None and asked.term != "purchase":
            references.named(said, find, document, ("pricing", key))


def plan(scenario: Scenario, given: Inputs, hardware: Sequence[str] | None = None, changes: Sequence[str] = ()) -> Plan:
    """Return the plan of `scenario` on each of `hardware` (by default the scenario's own candidates)."""
    options = [option(scenario, profile(name, given), given) for name in dict.fromkeys(hardware or scenario.hardware)]
    return Plan(
        scenario=scenario.id, title=scenario.title, changes=tuple(changes), peak_rate=scenario.traffic.peak_rate,
        objective_percentile=scenario.objective.percentile, objective_latency_s=scenario.objective.latency,
        date=given.today.isoformat(), options=tuple(sorted(options, key=_rank)),
    )  # fmt: skip


def plan_scenario(scenario: Scenario, hardware: Sequence[str] | None = None, today: date | None = None) -> Plan:
    """Return the plan of `scenario` with everything it refers to looked up in the catalogue.

    Parameters
    ----------
    hardware
        Devices to compare; by default the scenario's own candidates.
    today
        Date at which prices are judged; by default today.
    """
    return plan(scenario, inputs(scenario, today=today), hardware)


def profile(name: str, given: Inputs) -> Hardware:
    """Return a hardware profile by name: one that a given calibration brings along, or one of the catalogue."""
    brought = {p.id: p for c, p in given.calibrations if c.profile is not None}
    if name.startswith("local-") and name not in brought:
        known = f"calibrated here: {', '.join(brought)}" if brought else "run `capacity calibrate` first"
        raise InputError(f"{name} is not calibrated on this machine; {known}")
    return brought.get(name) or catalogue.hardware(name)


def option(scenario: Scenario, hardware: Hardware, given: Inputs) -> Option:
    """Return what `scenario` needs on one device, or which constraints it misses there."""
    return sized(scenario, hardware, given)[0]


def sized(scenario: Scenario, hardware: Hardware, given: Inputs) -> tuple[Option, PoolResult | None]:
    """Return the option of one device with the fleet it was made of; None where its profile lacks a fact."""
    device = transfer.device(hardware, scenario.engine, given.calibrations, given.shared)
    models = sized_models(scenario, given.models)
    try:
        found = plan_pools(scenario, device, models, given.shared.serving_engines, given.points)
        work, missed = jobs(scenario, device, models, given)
    except MissingFactError as error:
        return _refused(hardware, device, str(error)), None
    found = replace(found, violations=(*found.violations, *missed))
    return assembled(scenario, device, found, work, given), found


def sized_models(scenario: Scenario, models: Mapping[str, Model]) -> dict[str, Model]:
    """Return models by name, their tables as large as the scenario's catalogue and audience."""
    items, users = scenario.catalogue.items, scenario.audience.users
    return {name: resized(model, items, users) for name, model in models.items()}


def assembled(
    scenario: Scenario, device: Device, found: PoolResult, work: Sequence[JobPlan], given: Inputs
) -> Option:  # fmt: skip
    """Return the option that pools and jobs make up: those on idle devices placed, all of it priced."""
    hardware, job_plans = device.hardware, list(work)
    if scenario.pricing.term == "spot":
        found = replace(found, pools=tuple(spot.covered(pool, scenario.pricing.spot) for pool in found.pools))
    if scenario.jobs_on_idle_serving:
        job_plans = _on_idle(job_plans, found.pools, scenario)
    hours = [Estimate(pool.devices * MONTH_S / 3600, {}, pool.service.basis) for pool in found.pools]
    hours = hours or [stage.time for stage in found.stages]
    hours += [job.device_hours_per_month for job in job_plans]
    option = Option(
        hardware=hardware.id, name=hardware.name, engine=scenario.engine, origin=device.origin,
        basis=total(hours).basis,
        stages=found.stages, pools=found.pools, jobs=tuple(job_plans), violations=found.violations,
        latency_median_s=found.median_s, latency_quantile_s=found.quantile_s,
        latency_quantile_p90_s=found.quantile_p90_s, bound=_bound(found), cost=None,
    )  # fmt: skip
    return billed(option, scenario, hardware, given)


def billed(option: Option, scenario: Scenario, hardware: Hardware, given: Inputs) -> Option:
    """Return an option with the monthly bill of what it holds, bought as `scenario` says; one that misses has none."""
    if option.violations:
        return option
    cost = ownership.cost(scenario, hardware, option.pools, option.jobs, given.rates, given.today)
    return replace(option, cost=replace(cost, units=unit_costs(scenario, option.pools, option.jobs, cost)))


def _refused(hardware: Hardware, device: Device, reason: str) -> Option:
    nothing = Violation(
        where=hardware.id, constraint=reason, needed=float("nan"), allowed=float("nan"), dimension="count"
    )
    return Option(
        hardware=hardware.id, name=hardware.name, engine=device.engine, origin=device.origin, basis="assumed",
        stages=(), pools=(), jobs=(), violations=(nothing,), latency_median_s=None, latency_quantile_s=None,
        latency_quantile_p90_s=None, bound="unknown", cost=None,
    )  # fmt: skip


def _bound(pools: PoolResult) -> str:
    """Return what limits the stage that takes longest."""
    longest = max(pools.stages, key=_time, default=None)
    return longest.bound if longest else "unknown"


def _time(stage: StagePlan) -> float:
    return float(stage.time.value)


def _rank(item: Option) -> tuple[int, float]:
    if not item.feasible:
        return 2, max((miss.needed / miss.allowed for miss in item.violations if miss.allowed > 0), default=math.inf)
    if item.cost is None or not item.cost.complete:
        return 1, item.devices
    return 0, item.cost.usd


def _trainer(scenario: Scenario, device: Device, models: Mapping[str, Model], given: Inputs) -> Trainer:
    """Return the device as what trains on it sees it: PyTorch does where the scenario's engine only runs models."""
    if scenario.engine in PROCESSOR_ENGINES:
        device = transfer.device(device.hardware, "eager", given.calibrations, given.shared)
    return Trainer(device, given.shared.training_steps, models, given.references)


def jobs(
    scenario: Scenario, device: Device, models: Mapping[str, Model], given: Inputs
) -> tuple[list[JobPlan], list[Violation]]:
    """Return the training and batch jobs on one device, and the constraints that they miss."""
    trainer = _trainer(scenario, device, models, given)
    found = [_timed(job, lambda job: _training(job, scenario, trainer, models), scenario) for job in scenario.training]
    found += [_timed(job, lambda job: _batch(job, scenario, device, models), scenario) for job in scenario.batch]
    return found, [miss for job in found for miss in _misses(job)]


def _timed(job: Job, planned: Callable[[Job], JobPlan], scenario: Scenario) -> JobPlan:
    """Return the plan of a job; on spot devices with its interruptions, and with the devices that make up for them."""
    if scenario.pricing.term != "spot":
        return planned(job)
    deadline_s = asked_s = job.deadline or job.every
    for _ in range(SPOT_ROUNDS):
        found = spot.interrupted(planned(job.model_copy(update={"deadline": asked_s})), scenario.pricing.spot)
        late = float(found.duration.value) / deadline_s
        if late <= 1 or found.devices >= job.max_devices:
            break
        asked_s /= late * (1 + 1e-9)
    return replace(found, deadline_s=deadline_s)


def _on_idle(jobs: Sequence[JobPlan], pools: Sequence[PoolPlan], scenario: Scenario) -> list[JobPlan]:
    """Return the jobs with what they still have to rent beside the devices that serving leaves idle.

    Autoscaled pools leave none. Periods are taken in whole hours; a job that comes back within an hour shares nothing.
    """
    idle, day = np.zeros(24), shares_of_a_day(scenario)
    for pool in pools:
        if pool.paid_replicas is None and pool.devices:
            needed = np.ceil((pool.replicas * day + pool.spare_replicas) * pool.devices_per_replica)
            idle += schedule.idle_devices(pool.devices, np.minimum(needed / pool.devices, 1.0))
    shared = {job.name: job for job in jobs if job.every_s >= HOUR_S and float(job.duration.value) <= job.deadline_s}
    wanted = [
        schedule.RecurringJob(
            name=job.name, device_s=float(job.duration.value) * job.devices,
            every_s=round(job.every_s / HOUR_S) * HOUR_S, devices=job.devices,
            deadline_s=min(job.deadline_s, round(job.every_s / HOUR_S) * HOUR_S),
        )
        for job in shared.values()
    ]  # fmt: skip
    if not wanted:
        return list(jobs)
    placed = {item.name: item for item in schedule.share(wanted, idle).placements}
    return [_rented(job, placed[job.name]) if job.name in placed else job for job in jobs]


def _rented(job: JobPlan, placed: schedule.Placement) -> JobPlan:
    whole = placed.free_device_s + placed.rented_device_s
    share = placed.rented_device_s / whole if whole else 1.0
    hours = job.device_hours_per_month
    free = float(hours.value) * (1 - share)
    return replace(job, device_hours_per_month=hours.scaled(share), free_device_hours_per_month=free, note=placed.told)


def _training(job: TrainingJob, scenario: Scenario, trainer: Trainer, models: Mapping[str, Model]) -> JobPlan:
    model = models[job.model]
    run = training.fewest_devices(job, model, scenario, trainer)
    plan = _job(job, "training", run, run.duration.scaled(run.devices), trainer.device.hardware)
    detail = TrainingDetail(
        steps=run.steps, step=run.step, parts_s=run.parts_s, layout=run.layout, mfu=run.mfu, hfu=run.hfu,
        useful=run.useful,
    )  # fmt: skip
    if isinstance(model, TransformerModel) and trainer.knows_frameworks:
        asked = (job, model, scenario, trainer, run.devices)
        read = job.batch * scenario.tokens(job.tokens) / float(run.step.value)
        detail = replace(
            detail, tokens_per_s=read * run.groups / run.devices, largest_batch=largest.batch(*asked),
            longest_tokens=largest.tokens(*asked),
        )  # fmt: skip
    return replace(plan, training=detail)


def _batch(job: BatchJob, scenario: Scenario, device: Device, models: Mapping[str, Model]) -> JobPlan:
    run = batch.fewest_devices(job, models[job.model] if job.model else None, scenario, device)
    return _job(job, f"batch {job.task}", run, run.device_time, device.hardware)


def _job(
    job: TrainingJob | BatchJob, kind: str, run: TrainingRun | BatchRun, device_time: Estimate, hardware: Hardware
) -> JobPlan:
    fit = training.fits(run.memory_bytes, hardware)
    return JobPlan(
        name=job.name, kind=kind, devices=run.devices, duration=run.duration, every_s=job.every,
        deadline_s=job.deadline or job.every, device_hours_per_month=device_time.scaled(MONTH_S / job.every / 3600),
        memory_bytes=run.memory_bytes, memory_available_bytes=fit[1] if fit else None,
    )  # fmt: skip


def _misses(job: JobPlan) -> list[Violation]:
    """Return the constraints a job misses: memory of a device, and its deadline."""
    found = []
    needed = sum(job.memory_bytes.values())
    if job.memory_available_bytes is not None and needed > job.memory_available_bytes:
        found.append(
            Violation(
                where=job.name, constraint="memory of one device", needed=needed, allowed=job.memory_available_bytes,
                dimension="bytes", advice="a smaller batch, a narrower dtype, or a larger device",
            )
        )  # fmt: skip
    if float(job.duration.value) > job.deadline_s:
        found.append(
            Violation(
                where=job.name, constraint=f"deadline with {job.devices} devices (max_devices)",
                needed=float(job.duration.value), allowed=job.deadline_s, dimension="seconds",
                advice="more max_devices, or a longer deadline",
            )
        )  # fmt: skip
    return found
