"""What a rollout changes: settings that put a new model in, and the stages, indexes, caches and pools they touch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from capacity import catalogue
from capacity.errors import InputError, UnknownNameError
from capacity.fleet.rollout import ColdCache, course_of, warm_look_ups
from capacity.phases.context import Context
from capacity.spec.model import Model
from capacity.spec.rollout import Rollout
from capacity.spec.scenario import BatchJob, Scenario
from capacity.spec.stages import Cache, EncodeStage, FuseStage, RetrieveStage, Stage, TowerStage
from capacity.work.models import vector_width

BUILT = ("task", "width", "dtype", "metric", "index", "lists", "links", "code_bytes", "shards")
"""Fields of a retrieve stage that its index is built by."""


def settings(
    scenario: Scenario, models: Mapping[str, Model], stage: str, model: str | None, to: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the settings that turn the scenario of today into that of tomorrow, as `--set` takes them.

    A model is replaced wherever the scenario names it: vectors of two models cannot be compared. Indexes as wide as its
    vectors become as wide as the new one's.

    Parameters
    ----------
    models
        Those of `scenario`.
    model
        What takes the place of the stage's model.
    to
        KEY=VALUE of the stage, such as ``index=hnsw``.

    Raises
    ------
    InputError
        For an unknown stage or model, a stage that runs no model, and where nothing would change.
    """
    found = {item.name: item for item in scenario.serving.stages}
    if stage not in found:
        raise UnknownNameError("stage", stage, found)
    direct = tuple(f"serving.stages.{stage}.{item.strip()}" for item in to)
    if model is None:
        if not to:
            raise InputError("nothing to roll out; name the new --model, or what of the stage changes: --to KEY=VALUE")
        return direct
    old: str | None = getattr(found[stage], "model", None)
    if old is None:
        raise InputError(f"stage {stage} ({found[stage].task}) runs no model; say what changes: --to KEY=VALUE")
    if old == model:
        raise InputError(f"stage {stage} runs {model} already; name another --model")
    widths = vector_width(models[old]), vector_width(catalogue.model(model))
    return (*_replaced(scenario, old, model), *_widths(scenario, old, widths), *direct)


def _replaced(scenario: Scenario, old: str, new: str) -> Iterator[str]:
    lists = {"serving.stages": scenario.serving.stages, "training": scenario.training, "batch": scenario.batch}
    for path, entries in lists.items():
        for entry in entries:
            if getattr(entry, "model", None) == old:
                yield f"{path}.{entry.name}.model={new}"


def _widths(scenario: Scenario, old: str, widths: tuple[int, int]) -> Iterator[str]:
    before, after = widths
    if before == after:
        return
    for stage in scenario.serving.stages:
        if isinstance(stage, RetrieveStage) and stage.width == before and _encoded_by(scenario, stage, old):
            yield f"serving.stages.{stage.name}.width={after}"
    for job in scenario.batch:
        if job.width == before and job.model in {None, old}:
            yield f"batch.{job.name}.width={after}"


def _encoded_by(scenario: Scenario, stage: Stage, model: str) -> bool:
    """Return whether texts of a request come to a stage as vectors of a model."""
    before = (scenario.serving.stage(name) for name in scenario.serving.before(stage.name))
    return any(isinstance(item, EncodeStage | TowerStage) and item.model == model for item in before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """What differs between the scenarios of today and tomorrow.

    Attributes
    ----------
    stages
        Stages that change, those with a new index included.
    indexes
        Retrieve stages that need a new index: what is built changes, or the vectors that they search do.
    cold
        Stages whose caches start empty.
    pools
        Pools of these stages, and of those that a cold cache of whole answers kept requests from.
    jobs
        Recurring batch jobs that change.
    """

    stages: tuple[str, ...]
    indexes: tuple[RetrieveStage, ...]
    cold: tuple[str, ...]
    pools: frozenset[str]
    jobs: tuple[BatchJob, ...]


def touched(old: Scenario, new: Scenario, policy: Rollout) -> Touched:
    """Return what differs from `old` to `new`.

    Raises
    ------
    InputError
        Where no stage differs, and for a stage of `policy.cold` that is unknown or has no cache.
    """
    before = {stage.name: stage for stage in old.serving.stages}
    changed = {stage.name for stage in new.serving.stages if before.get(stage.name) != stage}
    if not changed:
        raise InputError("nothing to roll out: no stage changes")
    encoders = {name for name in changed if isinstance(new.serving.stage(name), EncodeStage | TowerStage)}
    indexes = tuple(
        stage for stage in new.serving.stages
        if isinstance(stage, RetrieveStage)
        and (_built_anew(before.get(stage.name), stage) or encoders & {*new.serving.before(stage.name)})
    )  # fmt: skip
    stages = tuple(
        stage.name for stage in new.serving.stages if stage.name in changed | {item.name for item in indexes}
    )
    cold = _cold(new, stages, policy)
    return Touched(
        stages=stages, indexes=indexes, cold=cold, pools=_pools(new, stages, cold),
        jobs=tuple(job for job in new.batch if job not in old.batch),
    )  # fmt: skip


def _built_anew(old: Stage | None, new: RetrieveStage) -> bool:
    """Return whether the index itself changes; how far it is searched, and what for, needs no new one."""
    return old is None or any(getattr(old, key, None) != getattr(new, key) for key in BUILT)


def _cached(stage: Stage) -> bool:
    return stage.cache is not None or stage.cache_hit_rate > 0


def _cold(scenario: Scenario, stages: Sequence[str], policy: Rollout) -> tuple[str, ...]:
    cached = [stage.name for stage in scenario.serving.stages if _cached(stage)]
    for name in policy.cold:
        if name not in cached:
            raise UnknownNameError("stage with a cache", name, cached)
    return tuple(name for name in cached if name in {*stages, *policy.cold})


def _pools(scenario: Scenario, stages: Sequence[str], cold: Sequence[str]) -> frozenset[str]:
    answering = {name for name in cold if scenario.serving.stage(name).cache_answers}
    behind = {
        stage.name for stage in scenario.serving.stages if answering & {*scenario.serving.before(stage.name)}
    }  # fmt: skip
    return frozenset(scenario.serving.stage(name).pool for name in {*stages, *cold, *behind})


def cold_caches(names: Sequence[str], context: Context, policy: Rollout) -> tuple[ColdCache, ...]:
    """Return the caches of some stages as they start: empty."""
    return tuple(_cold_cache(context.scenario.serving.stage(name), context, policy) for name in names)


def _cold_cache(stage: Stage, context: Context, policy: Rollout) -> ColdCache:
    traffic, rate = context.scenario.traffic, context.hit_rate(stage)
    look_ups_per_s = traffic.peak_rate * traffic.mean_to_peak * context.reaching(stage)
    course: tuple[tuple[float, float], ...] = ()
    if stage.cache is not None:
        course = course_of(keys(stage.cache, context.scenario), stage.cache.exponent, stage.cache.entries)
    return ColdCache(
        stage=stage.name, pool=stage.pool, hit_rate=rate, look_ups_per_s=look_ups_per_s, course=course,
        warm_s=warm_look_ups(course, rate) / look_ups_per_s if course else policy.warm_time,
        prefill=stage.cache is not None and isinstance(stage, EncodeStage),
    )  # fmt: skip


def keys(cache: Cache, scenario: Scenario) -> int:
    """Return the distinct results that a cache can be asked for."""
    known = {"users": scenario.audience.users, "items": scenario.catalogue.items}
    return cache.keys if isinstance(cache.keys, int) else known[cache.keys]


def notes(old: Scenario, new: Scenario, change: Touched) -> tuple[str, ...]:
    """Return what the change touches but the rollout does not count, in words."""
    return tuple(_notes(old, new, change))


def _notes(old: Scenario, new: Scenario, change: Touched) -> Iterator[str]:
    trained = [job.name for job in new.training if job not in old.training]
    if trained:
        yield f"the first run of {', '.join(trained)} for the new model is not counted; the monthly bill has its price"
    widths = {(stage.width, item.width) for stage, item in _pairs(old, new) if stage.width != item.width}
    readers = [stage.name for stage in new.serving.stages if isinstance(stage, FuseStage)]
    for before, after in sorted(widths):
        if readers:
            yield f"vectors change from {before} to {after} values; {', '.join(readers)} is planned as it stands"
    yield from filter(None, (stage.borrowed for stage in new.serving.stages if isinstance(stage, RetrieveStage)))
    if change.indexes:
        yield "an index takes at least the time of its memory traffic to build; no build was measured"


def _pairs(old: Scenario, new: Scenario) -> Iterator[tuple[RetrieveStage, RetrieveStage]]:
    before = {stage.name: stage for stage in old.serving.stages}
    for stage in new.serving.stages:
        other = before.get(stage.name)
        if isinstance(stage, RetrieveStage) and isinstance(other, RetrieveStage):
            yield other, stage
