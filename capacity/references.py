"""What a scenario names, looked up: models of the family their stage needs, recalls, rates, devices, else an error.

A name may stand in the scenario's file, in an override or in a setting; its document knows which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from capacity import catalogue
from capacity.documents import Document
from capacity.errors import CapacityError, InputError, Problem, UnknownNameError
from capacity.problems import Location
from capacity.spec.convergence import Convergence
from capacity.spec.hardware import Hardware
from capacity.spec.model import IndexPoints, Model, TransformerModel
from capacity.spec.prices import Rates
from capacity.spec.scenario import Scenario
from capacity.spec.stages import (
    EncodeStage,
    FuseStage,
    GenerateStage,
    NextItemStage,
    RankStage,
    RetrieveStage,
    ScoreStage,
    Stage,
    TowerStage,
)
from capacity.work.models import pruned, reading
from capacity.work.retrieval import effort_between

T = TypeVar("T")
ENCODERS = ("transformer", "two-tower")
"""Families that encode a catalogue: from texts, or from ids and features."""


@dataclass(frozen=True, slots=True)
class _Use:
    """A stage or a job that runs a model: where it stands, and what the model must be able to do."""

    location: Location
    model: str
    families: tuple[str, ...]
    """Those that can do it; none: all can."""
    length: Location = ()
    """Where it stands how many tokens the model reads."""
    tokens: int = 0
    key: str = "model"
    """Where its name stands below `location`."""


def models(scenario: Scenario, document: Document) -> dict[str, Model]:
    """Return every model that a stage or a job of `scenario` names, by that name.

    Raises
    ------
    InputError
        With every unknown model, every one of a family that its stage or job cannot run, and every text that is longer
        than its model reads.
    """
    found: dict[str, Model] = {}
    problems: list[Problem] = []
    for use in _uses(scenario):
        try:
            model = found.get(use.model) or named(use.model, catalogue.model, document, (*use.location, use.key))
        except InputError as error:
            problems += error.problems
            continue
        found[use.model] = pruned(model, scenario.pruning.get(use.model, 1.0))
        problems += _misuse(use, model, document)
    if problems:
        raise InputError(dict.fromkeys(problems))
    return found


def _misuse(use: _Use, model: Model, document: Document) -> Iterator[Problem]:
    if use.families and model.family not in use.families:
        wanted = " or ".join(repr(family) for family in use.families)
        what = f"model {use.model} is of family {model.family!r}; what it is for needs {wanted}"
        yield _problem(document, (*use.location, use.key), what)
    elif isinstance(model, TransformerModel):
        try:
            reading(model, use.tokens)
        except CapacityError as error:
            yield _problem(document, use.length, str(error))


def points(scenario: Scenario, document: Document) -> dict[str, IndexPoints]:
    """Return the recalls by search effort that retrieve stages with a recall name, by that name.

    Raises
    ------
    InputError
        For unknown points, points of another kind or shape of index, and a recall that they do not reach.
    """
    found: dict[str, IndexPoints] = {}
    problems: list[Problem] = []
    for number, stage in enumerate(scenario.serving.stages):
        if not isinstance(stage, RetrieveStage) or stage.recall is None or stage.points is None:
            continue
        place = ("serving", "stages", number)
        run = found[stage.points] = named(stage.points, catalogue.index_points, document, (*place, "points"))
        problems += (_problem(document, (*place, key), what) for key, what in _unlike(stage, run))
    if problems:
        raise InputError(problems)
    return found


def _unlike(stage: RetrieveStage, run: IndexPoints) -> Iterator[tuple[str, str]]:
    """Yield which fields of a stage a run of an index says nothing about, and why."""
    kind = "ivf-pq" if stage.index == "pq" else stage.index
    if run.kind != kind:
        yield "points", f"points {run.id} are of an index of kind {run.kind!r}; this stage needs {kind!r}"
        return
    for key in ("lists", "links", "code_bytes"):
        known, asked = getattr(run, key), getattr(stage, key)
        if known not in {None, asked}:
            yield key, f"points {run.id} are of an index with {key} {known}, not {asked}: take {known}, or other points"
    try:
        effort_between(run, stage.recall or 0.0)
    except CapacityError as error:
        yield "recall", str(error)


def rates(scenario: Scenario, document: Document) -> Rates:
    """Return the table of rates that `scenario` names."""
    return named(scenario.pricing.rates, catalogue.rates, document, ("pricing", "rates"))


def convergences(scenario: Scenario, document: Document) -> dict[str, Convergence]:
    """Return the references that training jobs of `scenario` converge by, by name."""
    wanted = ((index, job.converge) for index, job in enumerate(scenario.training))
    return {
        name: named(name, catalogue.convergence, document, ("training", index, "converge"))
        for index, name in wanted if name is not None
    }  # fmt: skip


def devices(scenario: Scenario, document: Document, find: Callable[[str], Hardware]) -> list[Hardware]:
    """Return the devices that `scenario` compares; `find` knows the catalogue's and those of calibrations."""
    places = {name: ("hardware", index) for index, name in reversed(tuple(enumerate(scenario.hardware)))}
    return [named(name, find, document, place) for name, place in reversed(places.items())]


def named(name: str, find: Callable[[str], T], document: Document, location: Location) -> T:
    """Return what `find` knows under `name`; a name it does not know is a problem at `location` of `document`."""
    try:
        return find(name)
    except UnknownNameError as error:
        raise InputError([_problem(document, location, str(error))]) from None


def _problem(document: Document, location: Location, what: str) -> Problem:
    return Problem(document.where(location), f"{'.'.join(str(part) for part in location)}: {what}")


def _uses(scenario: Scenario) -> Iterator[_Use]:
    for index, stage in enumerate(scenario.serving.stages):
        yield from _of_stage(stage, ("serving", "stages", index), scenario)
    for index, job in enumerate(scenario.training):
        place = ("training", index)
        yield _Use(place, job.model, (), (*place, "tokens"), scenario.tokens(job.tokens))
        if job.teacher is not None:
            yield _Use(place, job.teacher, ("transformer",), (*place, "tokens"), scenario.tokens(job.tokens), "teacher")
    for index, work in enumerate(scenario.batch):
        if work.model is not None:
            place, encodes = ("batch", index), work.task == "encode"
            tokens = scenario.tokens(work.tokens) if encodes else 0
            yield _Use(place, work.model, ENCODERS if encodes else (), (*place, "tokens"), tokens)


def _of_stage(stage: Stage, place: Location, scenario: Scenario) -> Iterator[_Use]:
    match stage:
        case EncodeStage():
            yield _Use(place, stage.model, (stage.family,), (*place, "tokens"), scenario.tokens(stage.tokens))
        case GenerateStage():
            length = (*place, "prompt_tokens")
            tokens = scenario.tokens(stage.prompt_tokens) + stage.output_tokens
            yield _Use(place, stage.model, (stage.family,), length, tokens)
            if stage.speculation is not None and stage.speculation.model is not None:
                yield _Use((*place, "speculation"), stage.speculation.model, (stage.family,), length, tokens)
        case ScoreStage() | NextItemStage():
            yield _Use(place, stage.model, stage.families)
        case RankStage() | FuseStage() | TowerStage():
            yield _Use(place, stage.model, (stage.family,))
