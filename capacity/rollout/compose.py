"""A rollout on each candidate device: its phases put together and priced.

Two fleets stand only of pools that change; the others serve both. What a phase costs is what is paid beyond the fleets
that the same requests would take anyway: (1 − share) of the whole old fleet and `share` of the whole new one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from capacity import planner
from capacity.errors import CapacityError
from capacity.fleet.rollout import ColdCache, IndexMemory, Phase, Rolled, Step
from capacity.money import ownership
from capacity.money.lines import MONTH_S
from capacity.phases import nearest
from capacity.phases.context import Context
from capacity.plan import Cost, CostLine, JobPlan, Option
from capacity.planner import Inputs
from capacity.rollout import jobs
from capacity.rollout.change import Touched, cold_caches, notes, touched
from capacity.rollout.steps import UNTIL_WARM, Fleets, steps
from capacity.spec.hardware import Hardware
from capacity.spec.rollout import Rollout
from capacity.spec.scenario import BatchJob, Network, People, Scenario, Storage
from capacity.spec.stages import RetrieveStage
from capacity.timing import transfer
from capacity.timing.band import Estimate, total
from capacity.work.models import resized

HOUR_S = 3600.0
STORED = "weights, vectors, features"
"""What the bill calls storage of vectors."""


def rolled(
    old: Scenario, new: Scenario, given: Inputs, policy: Rollout, hardware: Sequence[str] | None = None
) -> tuple[Rolled, ...]:
    """Return the rollout from `old` to `new` on each device, first the one that serves `old` at the least cost.

    Parameters
    ----------
    given
        Inputs with the models of both.

    Raises
    ------
    InputError
        For unknown hardware, and where no stage changes.
    """
    change = touched(old, new, policy)
    profiles = [planner.profile(name, given) for name in dict.fromkeys(hardware or old.hardware)]
    return tuple(sorted((_one(_Rolling(old, new, given, policy, change, item)) for item in profiles), key=_rank))


def _rank(item: Rolled) -> tuple[bool, float]:
    cost = item.old.cost if item.old else None
    return bool(item.refused), cost.usd if cost and cost.complete else math.inf


def _one(rolling: _Rolling) -> Rolled:
    blank = Rolled(hardware=rolling.hardware.id, name=rolling.hardware.name)
    try:
        return rolling.rolled(blank)
    except CapacityError as error:
        return replace(blank, refused=str(error))


@dataclass(frozen=True)
class _Rolling:
    """A rollout on one device before it is computed."""

    old: Scenario
    new: Scenario
    given: Inputs
    policy: Rollout
    change: Touched
    hardware: Hardware

    def rolled(self, blank: Rolled) -> Rolled:
        """Return the rollout with its phases and what they cost."""
        plans = [self.plan(scenario, when) for scenario, when in ((self.old, "today"), (self.new, "afterwards"))]
        fleets = Fleets(
            old=self.old, new=self.new, given=self.given, hardware=self.hardware, pools=self.change.pools
        )  # fmt: skip
        cold = cold_caches(self.change.cold, self.context(self.new), self.policy)
        filled = [cache for cache in cold if cache.prefill]
        empty = steps(fleets, self.policy, cold)
        prefill = list(self.prefill([cache.stage for cache in filled]))
        others = [cache for cache in cold if not cache.prefill]
        warm = steps(fleets, self.policy, others) if others and filled else tuple(_filled(empty, cold))
        takes = self.takes_prefill(prefill, _stampede(empty), _stampede(warm))
        chosen = warm if takes else empty
        memory = self.memory(plans)
        phases = [
            *jobs.phases("re-encode", self.encoding, self.new, self.hardware, self.given), *self.builds(),
            *(replace(phase, counted=takes) for phase in prefill), *self.fleet_phases(chosen, plans),
            *_alternative(takes, _stampede(empty)),
        ]  # fmt: skip
        found = replace(
            blank, old=plans[0], new=plans[1], steps=chosen, caches=cold, memory=memory, phases=tuple(phases),
            notes=notes(self.old, self.new, self.change),
        )  # fmt: skip
        return self.priced(found)

    def plan(self, scenario: Scenario, when: str) -> Option:
        """Return the plan of a scenario, or refuse with what it misses."""
        found = planner.option(scenario, self.hardware, self.given)
        if found.violations:
            raise CapacityError(f"{when} {jobs.missed(found.violations[0])}")
        return found

    @property
    def encoding(self) -> tuple[BatchJob, ...]:
        """The jobs that encode everything anew."""
        return jobs.encode_jobs(self.new, self.change.jobs, self.policy)

    def context(self, scenario: Scenario) -> Context:
        """Return what stages of a scenario need to know besides themselves."""
        items, users = scenario.catalogue.items, scenario.audience.users
        models = {name: resized(model, items, users) for name, model in self.given.models.items()}
        engines, points = self.given.shared.serving_engines, self.given.points
        return Context(scenario=scenario, models=models, engines=engines, points=points)

    def builds(self) -> Iterator[Phase]:
        """Yield a phase for each index that must be built anew."""
        device = transfer.device(self.hardware, self.new.engine, self.given.calibrations, self.given.shared)
        for stage in self.change.indexes:
            yield jobs.build_phase(stage, device, self.context(self.new), self.policy)

    def prefill(self, stages: Sequence[str]) -> Iterator[Phase]:
        """Yield a phase for each cache that a job can fill."""
        wanted = jobs.prefill_jobs(self.new, stages, self.policy)
        return jobs.phases("prefill", wanted, self.new, self.hardware, self.given)

    def takes_prefill(self, prefill: Sequence[Phase], empty: Phase | None, warm: Phase | None) -> bool:
        """Return whether caches are filled by a job: as asked, else if that takes fewer device-hours.

        Both run on the same device at the same price.
        """
        if not prefill or self.policy.prefill is not None:
            return bool(prefill) and bool(self.policy.prefill)
        hours = [float(phase.device_hours.value) for phase in prefill]
        return sum(hours) + _hours(warm) < _hours(empty)

    def fleet_phases(self, found: Sequence[Step], plans: Sequence[Option]) -> Iterator[Phase]:
        """Yield what both fleets take beyond one, what cold caches take, and what keeps both catalogues fresh."""
        for name in ("shadow", "ramp", "standby"):
            part = [step for step in found if step.name.split()[0] == name]
            if part:
                yield _fleets(name, part)
        yield from filter(None, [_stampede(found)])
        yield from self.refresh(plans)

    def refresh(self, plans: Sequence[Option]) -> Iterator[Phase]:
        """Yield the recurring jobs that run for both models: the new one's until all have moved, then the old one's."""
        names = {job.name for job in self.change.jobs}
        until, after = self.policy.shadow_time + self.policy.overlap_time, self.policy.standby_time
        hours = [
            job.device_hours_per_month.scaled(time / MONTH_S)
            for option, time in ((plans[1], until), (plans[0], after)) for job in option.jobs if job.name in names
        ]  # fmt: skip
        if hours and until + after > 0:
            yield Phase(
                name="refresh both", devices=0, duration=Estimate(until + after, {}, "assumed"),
                device_hours=total(hours), line=None,
                formula=f"{', '.join(sorted(names))} for both models: device-hours a month × time ÷ a month",
            )  # fmt: skip

    def memory(self, plans: Sequence[Option]) -> IndexMemory | None:
        """Return the memory of both indexes, and whether a device holds both."""
        if not self.change.indexes:
            return None
        before = [stage for stage in self.old.serving.stages if stage.name in {i.name for i in self.change.indexes}]
        sizes = [
            sum(_index_bytes(stage, self.context(scenario)) for stage in stages if isinstance(stage, RetrieveStage))
            for scenario, stages in ((self.old, before), (self.new, self.change.indexes))
        ]  # fmt: skip
        pool = self.change.indexes[0].pool
        old, new = (next((item for item in plan.pools if item.name == pool), None) for plan in plans)
        fits = None
        if old is not None and new is not None and new.memory_available_bytes is not None:
            fits = sum(old.memory_bytes.values()) + sum(new.memory_bytes.values()) <= new.memory_available_bytes
        return IndexMemory(old_bytes=sizes[0], new_bytes=sizes[1], side_by_side=fits)

    def priced(self, found: Rolled) -> Rolled:
        """Return the rollout with the line of each phase and their sum."""
        counted = [phase for phase in found.phases if phase.counted]
        beside = [phase for phase in found.phases if not phase.counted]
        stored = found.memory.new_bytes if found.memory else 0.0
        stored *= float(found.duration.value) / MONTH_S
        cost = self.cost(counted, stored)
        lines = {line.name: line for line in (*cost.lines, *self.cost(beside, 0.0).lines)}
        phases = [replace(phase, line=lines.get(phase.name)) for phase in found.phases]
        if STORED in lines:
            phases.append(_storage(lines[STORED], found))
        return replace(found, cost=cost, phases=tuple(phases))

    def cost(self, phases: Sequence[Phase], stored_bytes: float) -> Cost:
        """Return what some phases cost once, by the bill of a month in which nothing else happens."""
        licenses = self.new.pricing.software
        monthly = licenses is not None and licenses.per_month is not None  # paid with or without the rollout
        once = self.new.model_copy(
            update={
                "pricing": self.new.pricing.model_copy(update={"software": None} if monthly else {}),
                "storage": Storage(features=stored_bytes, log_bytes_per_request=0, checkpoints=0),
                "network": Network(response_bytes=0), "people": People(),
            }
        )  # fmt: skip
        made = [_job(phase) for phase in phases]
        found = ownership.cost(once, self.hardware, (), made, self.given.rates, self.given.today)
        words = {phase.name: phase.formula for phase in phases}
        lines = tuple(
            replace(line, formula=f"{words.get(line.name, line.formula)}, {self.new.pricing.term}")
            for line in found.lines if line.quantity != 0 or line.name in words
        )  # fmt: skip
        return replace(found, lines=lines, missing=tuple(line.name for line in lines if line.usd is None))


def _job(phase: Phase) -> JobPlan:
    return JobPlan(
        name=phase.name, kind="rollout", devices=math.ceil(phase.devices), duration=phase.duration,
        every_s=MONTH_S, deadline_s=MONTH_S, device_hours_per_month=phase.device_hours,
        memory_bytes={}, memory_available_bytes=None,
    )  # fmt: skip


def _index_bytes(stage: RetrieveStage, context: Context) -> float:
    return float(nearest.index(stage, context).memory_bytes) * stage.shards


def _storage(line: CostLine, found: Rolled) -> Phase:
    return Phase(
        name="keep second index", devices=0, duration=found.duration, device_hours=Estimate(0.0, {}, "assumed"),
        line=line, formula="bytes of the new index on block storage for as long as the rollout lasts",
    )  # fmt: skip


def _filled(found: Sequence[Step], cold: Sequence[ColdCache]) -> Iterator[Step]:
    """Yield the steps as they are where a job has filled all cold caches before."""
    rates = {cache.stage: cache.hit_rate for cache in cold}
    for step in found:
        if step.name != UNTIL_WARM:
            yield replace(step, cold=0, cold_s=0.0, hit_rates=rates)


def _hours(phase: Phase | None) -> float:
    return float(phase.device_hours.value) if phase else 0.0


def _alternative(takes_prefill: bool, stampede: Phase | None) -> Iterator[Phase]:
    if takes_prefill and stampede is not None:
        yield replace(stampede, counted=False)


def _fleets(name: str, part: Sequence[Step]) -> Phase:
    """Return what two fleets take beyond one in the steps of a phase."""
    extra = [step.old + step.new + step.shared - step.baseline for step in part]
    hours = [
        Estimate(more * step.duration_s / HOUR_S, {"devices of the fleets": step.sigma}, step.basis)
        for more, step in zip(extra, part, strict=True)
    ]  # fmt: skip
    words = "; ".join(
        f"({step.old} old + {step.new} new + {step.shared} shared − {step.baseline:.4g} anyway) × "
        f"{step.duration_s / HOUR_S:.3g} h" for step in part
    )  # fmt: skip
    return Phase(
        name=name, devices=max(extra), duration=Estimate(sum(step.duration_s for step in part), {}, "assumed"),
        device_hours=total(hours), line=None, formula=words,
    )  # fmt: skip


def _stampede(found: Sequence[Step]) -> Phase | None:
    """Return what the new fleet takes on top while its caches are cold; None where none is."""
    part = [step for step in found if step.cold_s > 0]
    if not part:
        return None
    hours = [
        Estimate(step.cold * step.cold_s / HOUR_S, {"devices of the fleets": step.sigma}, step.basis) for step in part
    ]  # fmt: skip
    words = "; ".join(f"{step.name}: {step.cold} more × {step.cold_s / HOUR_S:.3g} h" for step in part)
    return Phase(
        name="cold caches", devices=max(step.cold for step in part), line=None, device_hours=total(hours),
        duration=Estimate(sum(step.cold_s for step in part), {}, "assumed"),
        formula=f"larger new fleet until the caches are warm: {words}",
    )  # fmt: skip
