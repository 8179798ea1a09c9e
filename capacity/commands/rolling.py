"""`capacity rollout`: a new model or index takes over, as a plan with its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from capacity import catalogue, documents, planner, references, rollout
from capacity.commands.planning import Request, console, rich_table
from capacity.documents import Document
from capacity.errors import InputError, Problem
from capacity.fleet.rollout import RolloutPlan
from capacity.report import rollout as report
from capacity.spec.rollout import Rollout
from capacity.spec.scenario import Scenario

SHOWN = {
    "Devices": (
        "name", "usd", "p10_usd", "p90_usd", "duration_s", "peak_devices", "old_devices", "new_devices", "basis",
    ),
    "Phases": ("name", "devices", "duration_s", "device_hours", "usd", "p10_usd", "p90_usd", "counted", "basis"),
    "Fleets": (
        "name", "share_fraction", "duration_s", "old_devices", "new_devices", "shared_devices", "cold_devices",
        "devices",
    ),
    "Cold caches": ("stage", "hit_rate_fraction", "factor", "look_ups_per_s", "warm_s", "known"),
}  # fmt: skip
"""Columns that fit on a terminal; `--json` shows all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to roll out, and how.

    Attributes
    ----------
    stage
        The stage that changes.
    model
        Its new model; None where only `to` changes.
    to
        KEY=VALUE of the stage.
    how
        KEY=VALUE of the rollout itself.
    """

    stage: str
    model: str | None = None
    to: tuple[str, ...] = ()
    how: tuple[str, ...] = ()


def policy(how: Sequence[str]) -> Rollout:
    """Return how it is rolled out: the assumed defaults with each KEY=VALUE put over them.

    Raises
    ------
    InputError
        For an unknown key or a value out of range, at its flag.
    """
    found = Document("--with", {})
    for said in how:
        try:
            found = documents.merged(found, documents.setting(said))
        except InputError as error:
            raise InputError([Problem(p.where.replace("--set", "--with"), p.what) for p in error.problems]) from None
    try:
        return documents.validated(found, Rollout)
    except InputError as error:
        raise InputError([Problem(p.where.replace("--set", "--with"), p.what) for p in error.problems]) from None


def show(request: Request, wish: Wish, *, as_json: bool) -> int:
    """Print the rollout; exit 1 when it can be done on no device."""
    plan = planned(request, wish)
    if as_json:
        print(report.dumps(plan), end="")
    else:
        _print(plan)
    return 0 if plan.best else 1


def planned(request: Request, wish: Wish) -> RolloutPlan:
    """Return the rollout that is asked for."""
    how = policy(wish.how)
    document = catalogue.scenario_document(request.scenario, request.overrides, request.settings)
    old = documents.validated(document, Scenario)
    today = planner.inputs(old, request.calibrations, request.today, document)
    if not request.hardware:
        references.devices(old, document, partial(planner.profile, given=today))
    changes = rollout.settings(old, today.models, wish.stage, wish.model, wish.to)
    changed = catalogue.scenario_document(document, (), changes)
    new = documents.validated(changed, Scenario)
    models = {**today.models, **references.models(new, changed)}
    given = replace(today, models=models, points={**today.points, **references.points(new, changed)})
    return RolloutPlan(
        scenario=old.id, title=old.title, stage=wish.stage, changes=changes, policy=how,
        what=", ".join(filter(None, [wish.model, *wish.to])) + f" ({wish.stage})",
        given=(*request.overrides, *request.settings), date=request.today.isoformat(),
        options=rollout.rolled(old, new, given, how, request.hardware or None),
    )  # fmt: skip


def _print(plan: RolloutPlan) -> None:
    from rich.markup import escape

    screen = console()
    parts = report.pieces(plan)
    said = "".join(f"[bold]{escape(part.text)}[/bold]" if part.strong else escape(part.text) for part in parts)
    screen.print(said, soft_wrap=True)
    screen.print()
    tables = [report.options_table(plan)]
    best = plan.best
    if best is not None:
        tables += [replace(table, title=f"{best.name}: {table.title}") for table in report.detail_tables(best)]
    for table in tables:
        keep = SHOWN[table.title.rpartition(": ")[2]]
        screen.print(rich_table(table.without(*(column.key for column in table.columns if column.key not in keep))))
    for option in plan.options:
        if option.refused:
            screen.print(f"✗ {escape(option.name)}: {escape(option.refused)}", soft_wrap=True)
    if best is not None:
        for phase in best.phases:
            screen.print(f"• {escape(phase.name)}: {escape(phase.formula)}", soft_wrap=True)
        for caveat in report.caveats(plan, best):
            screen.print(f"• {escape(best.name)}: {escape(caveat)}", soft_wrap=True)
    screen.print(f"• changes: {escape(' '.join(plan.changes))}", soft_wrap=True)
