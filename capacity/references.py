"""What a scenario names, looked up: models of the family their stage needs, rates, devices. Wrong names at their place.

A name may stand in the scenario's file, in an override or in a setting; its document knows which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from capacity import catalogue
from capacity.documents import Document
from capacity.errors import InputError, Problem, UnknownNameError
from capacity.problems import Location
from capacity.spec.hardware import Hardware
from capacity.spec.model import Model
from capacity.spec.prices import Rates
from capacity.spec.scenario import BatchJob, Scenario

T = TypeVar("T")


def models(scenario: Scenario, document: Document) -> dict[str, Model]:
    """Return every model that a stage or a job of `scenario` names, by that name.

    Raises
    ------
    InputError
        With every unknown model, and every one of a family that its stage or job cannot run.
    """
    found: dict[str, Model] = {}
    problems: list[Problem] = []
    for location, name, family in _models(scenario):
        try:
            model = found[name] = found.get(name) or named(name, catalogue.model, document, location)
        except InputError as error:
            problems += error.problems
            continue
        if family is not None and model.family != family:
            what = f"model {name} is of family {model.family!r}; what it is for needs {family!r}"
            problems.append(_problem(document, location, what))
    if problems:
        raise InputError(dict.fromkeys(problems))
    return found


def rates(scenario: Scenario, document: Document) -> Rates:
    """Return the table of rates that `scenario` names."""
    return named(scenario.pricing.rates, catalogue.rates, document, ("pricing", "rates"))


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


def _models(scenario: Scenario) -> Iterator[tuple[Location, str, str | None]]:
    """Yield where each model is named, its name, and the family it must be of."""
    for index, stage in enumerate(scenario.serving.stages):
        if stage.family is not None:
            yield ("serving", "stages", index, "model"), getattr(stage, "model", ""), stage.family
    for index, job in enumerate(scenario.training):
        yield ("training", index, "model"), job.model, None
    for index, work in enumerate(scenario.batch):
        if work.model is not None:
            yield ("batch", index, "model"), work.model, _family(work)


def _family(job: BatchJob) -> str | None:
    return "transformer" if job.task == "encode" else None
