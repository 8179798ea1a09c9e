"""Levers alone, ranked; then the best combination that adding one after the other finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from capacity import catalogue, documents, planner, references
from capacity.documents import Document
from capacity.errors import CapacityError
from capacity.fleet.levered import Figures, Levered, Pulled
from capacity.levers.lever import Changes, Lever, listed, merged
from capacity.planner import Inputs
from capacity.spec.hardware import Hardware
from capacity.spec.levers import QualityNotes
from capacity.spec.scenario import Scenario

WORTH = 0.002
"""Part of the bill by which a lever must lower it to be added to a combination."""
MOST_STEPS = 12


@dataclass(slots=True)
class Bench:
    """Plans changes of one scenario on one device, each once.

    Attributes
    ----------
    document
        What the scenario was read from.
    tried
        Plans by the changes they were made with.
    """

    document: Document
    given: Inputs
    hardware: Hardware
    tried: dict[str, Figures] = field(default_factory=dict)

    def figures(self, changes: Changes) -> Figures:
        """Return the option with `changes` in a few numbers.

        Raises
        ------
        CapacityError
            Where the changed scenario is none, or names what does not exist.
        """
        key = repr(changes)
        if key not in self.tried:
            scenario, document = self.changed(changes)
            models, points = references.models(scenario, document), references.points(scenario, document)
            given = replace(self.given, models=models, points=points)
            self.tried[key] = Figures.of(planner.option(scenario, self.hardware, given))
        return self.tried[key]

    def changed(self, changes: Changes) -> tuple[Scenario, Document]:
        """Return the scenario with `changes` put over it."""
        over = Document("lever", listed(changes, self.document.data))
        document = documents.merged(self.document, over)
        return documents.validated(document, Scenario), document


def ranked(
    document: Document, given: Inputs, hardware: Hardware, levers: Sequence[Lever],
    told: Callable[[str], None] = lambda _: None,
) -> Levered:  # fmt: skip
    """Return every lever alone and the best combination found, on one device.

    The combination grows by the lever that lowers the bill most (or first lets the scenario hold) until none lowers it
    by `WORTH`; then each is left out once more, and stays out where that costs nothing. That is no proof of the best.

    Parameters
    ----------
    told
        Hears what is being planned.
    """
    bench = Bench(document, given, hardware)
    scenario, _ = bench.changed({})
    before, notes = bench.figures({}), catalogue.quality_notes()
    alone = []
    for lever in levers:
        told(f"{lever.id} alone")
        alone.append(_pulled(lever, scenario, bench, notes))
    chosen = _grown([item for item in alone if item.after is not None], bench, before, told)
    chosen = _pruned(chosen, bench)
    steps, changes = [], Changes()
    for item in chosen:
        changes = merged(changes, item.changes)
        steps.append(replace(item, after=bench.figures(changes)))
    return Levered(
        scenario=scenario.id, title=scenario.title, hardware=hardware.id, name=hardware.name,
        percentile=scenario.objective.percentile, before=before,
        alone=tuple(sorted(alone, key=lambda item: rank(item.after))), steps=tuple(steps),
        changes=listed(changes, document.data),
        tried=len(bench.tried),
    )  # fmt: skip


def rank(found: Figures | None) -> tuple[int, float]:
    """Return what options are sorted by: cheap, then unpriced, then missing a constraint, then refused."""
    if found is None:
        return 3, 0.0
    if found.missed:
        return 2, found.over
    return (1, float(found.devices)) if found.usd is None else (0, found.usd)


def _pulled(lever: Lever, scenario: Scenario, bench: Bench, notes: QualityNotes) -> Pulled:
    blank = Pulled(
        id=lever.id, title=lever.title, group=lever.group, exact=lever.exact, assumes=lever.assumes,
        quality=scenario.quality.get(lever.id), note=notes.notes.get(lever.note),
    )  # fmt: skip
    try:
        changes = lever.change(scenario, bench.given.models)
        after = bench.figures(changes)
    except CapacityError as error:
        return replace(blank, refused=_reason(error))
    if after.missed and not after.devices:  # the device lacks a fact that the changed work needs
        return replace(blank, changes=changes, refused=after.missed)
    return replace(blank, changes=changes, after=after)


def _reason(error: CapacityError) -> str:
    return str(error).splitlines()[0]


def _grown(candidates: Sequence[Pulled], bench: Bench, before: Figures, told: Callable[[str], None]) -> list[Pulled]:
    """Return the levers that lower the bill one after the other."""
    chosen: list[Pulled] = []
    changes, now = Changes(), before
    useful = [item for item in candidates if rank(item.after) < _worth(before)] or list(candidates)
    while len(chosen) < MOST_STEPS:
        told(f"combination of {len(chosen) + 1}")
        trials = [(rank(found), item) for item in useful if (found := _with(bench, changes, item)) is not None]
        best = min(trials, key=lambda trial: trial[0], default=None)
        if best is None or best[0] >= _worth(now):
            return chosen
        chosen.append(best[1])
        useful = [item for item in useful if item.id != best[1].id]
        changes = merged(changes, best[1].changes)
        now = bench.figures(changes)
    return chosen


def _worth(now: Figures) -> tuple[int, float]:
    """Return the rank that a change must reach to be worth it."""
    kind, value = rank(now)
    return kind, value if kind == 1 else value * (1 - WORTH)


def _with(bench: Bench, changes: Changes, item: Pulled) -> Figures | None:
    try:
        return bench.figures(merged(changes, item.changes))
    except CapacityError:
        return None


def _pruned(chosen: list[Pulled], bench: Bench) -> list[Pulled]:
    """Return the levers without those that cost nothing to leave out."""
    kept = list(chosen)
    for item in chosen:
        rest = [other for other in kept if other.id != item.id]
        if rank(bench.figures(_together(rest))) <= rank(bench.figures(_together(kept))):
            kept = rest
    return kept


def _together(items: Sequence[Pulled]) -> Changes:
    changes = Changes()
    for item in items:
        changes = merged(changes, item.changes)
    return changes
