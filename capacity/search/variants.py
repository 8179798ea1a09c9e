"""The variants of a scenario that a space asks for: what changes the work, before batches, replicas and prices do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product

from capacity import documents, levers, planner, references
from capacity.documents import Document
from capacity.errors import CapacityError
from capacity.fleet.searched import Refused, Variant
from capacity.levers.lever import Changes, listed, merged
from capacity.levers.shelf import lever
from capacity.money import prices
from capacity.money.purchase import hourly
from capacity.planner import Inputs
from capacity.spec.scenario import Scenario
from capacity.spec.space import EVERYTHING, Space


def variants(
    document: Document, given: Inputs, space: Space, hardware: Sequence[str]
) -> tuple[list[Variant], list[Refused]]:
    """Return every variant that `space` asks for, and the choices that cannot be made.

    Parameters
    ----------
    document
        What the scenario was read from.
    hardware
        Ids of the devices.
    """
    scenario = documents.validated(document, Scenario)
    found: list[Variant] = []
    refused: list[Refused] = []
    for engine, dtype, pulled in _choices(scenario, space):
        try:
            changes = _changes(scenario, given, engine, dtype, pulled)
            over = documents.merged(document, Document("search", listed(changes, document.data)))
            changed = documents.validated(over, Scenario)
            models = references.models(changed, over)
            references.points(changed, over)
        except CapacityError as error:
            what = " + ".join(part for part in (engine, dtype, *pulled) if part)
            refused.append(Refused(what=what, reason=str(error).splitlines()[0]))
            continue
        known = listed(changes, document.data)
        found += [
            Variant(
                hardware=name, name=planner.profile(name, given).name, engine=changed.engine, dtype=dtype,
                levers=pulled, scenario=changed, models=models, changes=known,
            )
            for name in hardware
        ]  # fmt: skip
    return found, refused


def _choices(scenario: Scenario, space: Space) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    pulled = [
        chosen
        for count in range(min(space.most_levers, len(space.levers)) + 1)
        for chosen in combinations(dict.fromkeys(space.levers), count)
    ]
    yield from product(space.engines or (scenario.engine,), space.dtypes or ("",), pulled)


def _changes(scenario: Scenario, given: Inputs, engine: str, dtype: str, pulled: Sequence[str]) -> Changes:
    changes: Changes = {} if engine == scenario.engine else {"engine": engine}
    if dtype:
        stages = [stage.name for stage in scenario.serving.stages if getattr(stage, "model", None) is not None]
        changes["serving"] = {"stages": {name: {"dtype": dtype} for name in stages}}
        encoding = [job.name for job in scenario.batch if job.task == "encode"]
        changes |= {"batch": {name: {"dtype": dtype} for name in encoding}} if encoding else {}
    for name in pulled:
        changes = merged(changes, lever(name).change(scenario, given.models))
    return changes


def checked(names: Sequence[str]) -> tuple[levers.Lever, ...]:
    """Return levers by their ids.

    Raises
    ------
    UnknownNameError
        For an id that no lever has.
    """
    return tuple(lever(name) for name in names)


def devices(named: Sequence[str], space: Space, scenario: Scenario, given: Inputs) -> tuple[str, ...]:
    """Return the ids of the devices to choose from: those named, those of the space, or the scenario's own.

    Raises
    ------
    InputError
        For an unknown one and for an unknown region, with the nearest known.
    """
    for region in space.regions:
        prices.place(region)
    asked = tuple(named) or space.hardware or scenario.hardware
    if EVERYTHING in asked:
        buying = scenario.pricing
        ways = [
            buying.model_copy(update={"term": term, "region": region})
            for term in space.terms or (buying.term,)
            for region in space.regions or (buying.region,)
        ]
        known = documents.catalogue("hardware_profiles")
        asked = tuple(name for name in known if any(hourly(name, way, given.today) for way in ways))
    return tuple(planner.profile(name, given).id for name in dict.fromkeys(asked))
