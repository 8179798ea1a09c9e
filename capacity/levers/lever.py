"""A lever: a small change of a scenario, in the form of an override, and when it applies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from capacity.errors import CapacityError
from capacity.spec.model import Model
from capacity.spec.scenario import Scenario
from capacity.spec.stages import Stage
from capacity.spec.training import TrainingJob

Changes = dict[str, Any]
"""An override as a scenario's `overrides` has it: entries of lists by their name."""
Group = Literal["numbers", "model", "serving", "vectors", "training", "placement", "buying", "storage"]
Models = Mapping[str, Model]
Kind = TypeVar("Kind", bound=Stage)


class InapplicableError(CapacityError):
    """A lever that this scenario gives nothing to pull; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """One optimization.

    Attributes
    ----------
    id, title, group
        Its name, what it does, and what it belongs to.
    change
        Scenario and its models by name → override.
    exact
        Whether the model's answers stay as they are.
    note
        Name of its published effect on quality in levers/quality.yaml; empty where exact by construction or price only.
    assumes
        What the change takes for granted, in words.
    """

    id: str
    title: str
    group: Group
    change: Callable[[Scenario, Models], Changes]
    exact: bool = False
    note: str = ""
    assumes: str = ""


def stages(scenario: Scenario, kind: type[Kind]) -> Iterator[Kind]:
    """Yield the stages of one kind."""
    return (stage for stage in scenario.serving.stages if isinstance(stage, kind))


def of_stages(found: Iterable[tuple[str, Changes]], missing: str) -> Changes:
    """Return changes of stages by name.

    Raises
    ------
    InapplicableError
        With `missing`, when there is none.
    """
    changed = dict(found)
    if not changed:
        raise InapplicableError(missing)
    return {"serving": {"stages": changed}}


def of_jobs(jobs: Iterable[TrainingJob], change: Changes, missing: str) -> Changes:
    """Return the same change of several training jobs.

    Raises
    ------
    InapplicableError
        With `missing`, when there is none.
    """
    changed = {job.name: change for job in jobs}
    if not changed:
        raise InapplicableError(missing)
    return {"training": changed}


def listed(changes: Any, base: Any) -> Any:  # noqa: ANN401  (documents hold anything)
    """Return changes with entries by name as entries that carry it, where `base` has such a list; new ones join it."""
    if not isinstance(changes, dict):
        return changes
    if isinstance(base, list):
        known = {entry["name"]: entry for entry in base}
        return [{"name": name, **listed(value, known.get(name))} for name, value in changes.items()]
    inside = base if isinstance(base, dict) else {}
    return {key: listed(value, inside.get(key)) for key, value in changes.items()}


def merged(one: Mapping[str, Any], other: Mapping[str, Any], path: str = "") -> Changes:
    """Return both changes together.

    Raises
    ------
    InapplicableError
        Where both set the same value differently.
    """
    result = dict(one)
    for key, value in other.items():
        at, before = f"{path}{key}", result.get(key)
        if isinstance(before, dict) and isinstance(value, dict) and "kind" not in value:
            result[key] = merged(before, value, f"{at}.")
        elif key in result and before != value:
            raise InapplicableError(f"both set {at}: {before} and {value}")
        else:
            result[key] = value
    return result
