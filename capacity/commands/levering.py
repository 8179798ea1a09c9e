"""`capacity levers`: what each optimization would save, alone and together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from capacity import catalogue, documents, levers, planner
from capacity.commands.planning import Request, console, rich_table
from capacity.errors import InputError, Problem
from capacity.fleet.levered import Levered
from capacity.levers.shelf import lever
from capacity.report import levers as report
from capacity.spec.hardware import Hardware
from capacity.spec.scenario import Scenario

SHOWN = {
    "Levers alone": (
        "id", "usd_per_month", "cost_fraction", "latency_s", "devices", "memory_fraction", "training_fraction",
        "missed",
    ),
    "Best combination found": ("id", "usd_per_month", "saved_usd_per_month", "latency_s", "devices"),
}  # fmt: skip
"""Columns that fit on a terminal; `--json` shows all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which levers to pull.

    Attributes
    ----------
    only
        Their ids; none: all.
    exact
        Whether to leave out those that change the model's answers.
    """

    only: tuple[str, ...] = ()
    exact: bool = False

    def chosen(self) -> list[levers.Lever]:
        """Return the levers that are asked for.

        Raises
        ------
        UnknownNameError
            For an id that no lever has.
        """
        named = [lever(name) for name in self.only] or list(levers.LEVERS.values())
        return [item for item in named if item.exact or not self.exact]


def show(request: Request, wish: Wish, *, as_json: bool) -> int:
    """Print the levers; exit 1 when the scenario holds on no device with any of them."""
    screen = console(stderr=True)
    with screen.status("planning") as status:
        found = pulled(request, wish, lambda said: status.update(f"planning {said}"))
    if as_json:
        print(report.dumps(found), end="")
    else:
        _print(found)
    return 1 if found.best.missed else 0


def pulled(request: Request, wish: Wish, told: Callable[[str], None] = lambda _: None) -> Levered:
    """Return the levers that are asked for, on the device named or on that of the scenario's best option."""
    chosen = wish.chosen()
    document = catalogue.scenario_document(request.scenario, request.overrides, request.settings)
    scenario = documents.validated(document, Scenario)
    given = planner.inputs(scenario, request.calibrations, request.today, document)
    if len(request.hardware) > 1:
        what = "levers are compared on one device; name one, or none for that of the best option"
        raise InputError([Problem("--hardware", what)])
    return levers.ranked(document, given, _device(request.hardware, scenario, given), chosen, told)


def _device(named: Sequence[str], scenario: Scenario, given: planner.Inputs) -> Hardware:
    best = named[0] if named else planner.plan(scenario, given).options[0].hardware
    return planner.profile(best, given)


def _print(found: Levered) -> None:
    from rich.markup import escape

    screen = console()
    said = "".join(
        f"[bold]{escape(part.text)}[/bold]" if part.strong else escape(part.text) for part in report.pieces(found)
    )
    screen.print(said, soft_wrap=True)
    screen.print()
    for table in (report.step_table(found), report.alone_table(found)):
        if table.rows:
            hidden = [column.key for column in table.columns if column.key not in SHOWN[table.title]]
            screen.print(rich_table(table.without(*hidden)))
    for item in found.steps:
        screen.print(f"• {item.id}: {escape(report.quality(item))}", soft_wrap=True)
        if item.assumes:
            screen.print(f"  takes for granted: {escape(item.assumes)}", soft_wrap=True)
    for item in found.alone:
        if item.after is None:
            screen.print(f"✗ {item.id}: {escape(item.refused)}", soft_wrap=True)
    if found.steps:
        screen.print("\nAs an override of the scenario's file:")
        screen.print(escape(report.override(found)), soft_wrap=True)
