"""`capacity optimize`: the best plan among very many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capacity import documents, planner, search, wishes
from capacity.commands.planning import Request, console, rich_table
from capacity.errors import InputError, Problem, suggestion
from capacity.fleet.mixed import Mixed
from capacity.fleet.searched import Found, Variant
from capacity.report import mix
from capacity.report import search as report
from capacity.spec.space import Space

HIDDEN = {"Cheapest of each": ("energy_kwh_per_month",), "Front": ("against_best_fraction", "simulated_s")}
"""Columns that do not fit on a terminal; `--json` shows all."""
ROWS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to choose from, and how.

    Attributes
    ----------
    file
        YAML of a space; None: the scenario's own choices.
    how
        KEY=VALUE of the space, put over it.
    simulate
        Candidates to play request by request.
    engine, folder
        Where variants are tried, and where results are kept.
    mix
        Whether to look for the cheapest mix of devices and terms for the day as well.
    """

    file: Path | None = None
    how: tuple[str, ...] = ()
    simulate: int = 1
    engine: str = "local"
    folder: Path | None = None
    mix: bool = False

    def space(self) -> Space:
        """Return the space that is asked for.

        Raises
        ------
        InputError
            For an unknown key or a value out of range, at its place in the file or its flag.
        """
        return wishes.read(Space, self.how, None if self.file is None else documents.read(self.file))


def show(request: Request, wish: Wish, *, as_json: bool) -> int:
    """Print the best plan and its alternatives; exit 1 when none keeps every constraint."""
    if wish.engine not in search.ENGINES:
        raise InputError([Problem("--engine", f"unknown {wish.engine!r}; {suggestion(wish.engine, search.ENGINES)}")])
    found, mixed = searched(request, wish)
    if as_json:
        print(report.dumps(found, mixed), end="")
    else:
        _print(found)
        if mixed is not None:
            _print_mix(mixed)
    return 0 if found.best else 1


def searched(request: Request, wish: Wish) -> tuple[Found, Mixed | None]:
    """Return the answer of the search that is asked for, and the cheapest mix if one is."""
    space = wish.space()
    document, scenario = request.read()
    given = planner.inputs(scenario, request.calibrations, request.today, document)
    screen = console(stderr=True)
    with screen.status("searching") as status:
        variants, refused = search.variants(
            document, given, space, search.devices(request.hardware, space, scenario, given)
        )
        tried = search.run(
            variants, space, given, engine=wish.engine, folder=wish.folder,
            told=lambda said: status.update(f"searching: {said}"),
        )  # fmt: skip
        found = search.found(scenario, space, given, tried, refused)
        if wish.simulate:
            status.update("simulating")
            found = search.simulated(found, given, wish.simulate, lambda said: status.update(f"simulating {said}"))
        mixed = None
        if wish.mix:
            status.update("mixing devices and terms")
            mixed = search.mixed(_alike(found, variants), space, given)
    return found, mixed


def _alike(found: Found, variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants that make the choices of the best one, on every device."""
    first = found.best.variant if found.best else variants[0]
    return [item for item in variants if item.told == first.told]


def _print_mix(found: Mixed) -> None:
    from rich.markup import escape

    screen = console()
    said = "".join(escape(part.text) for part in mix.pieces(found))
    screen.print(f"\n{said}", soft_wrap=True)
    screen.print(rich_table(mix.table(found)))
    for item in found.refused:
        screen.print(f"✗ {escape(item.what)}: {escape(item.reason)}", soft_wrap=True)
    screen.print(f"• Takes for granted that {mix.ASSUMES}.", soft_wrap=True)


def _print(found: Found) -> None:
    from rich.markup import escape

    screen = console()
    parts = report.pieces(found)
    said = "".join(f"[bold]{escape(part.text)}[/bold]" if part.strong else escape(part.text) for part in parts)
    screen.print(said, soft_wrap=True)
    screen.print()
    for table in (report.ranked_table(found, ROWS), report.near_table(found, ROWS), report.front_table(found)):
        if table.rows:
            screen.print(rich_table(table.without(*HIDDEN.get(table.title, ()))))
    if found.refused:
        screen.print(f"{len(found.refused)} choices refused; the first of each reason:")
        for reason, what in {item.reason: item.what for item in reversed(found.refused)}.items():
            screen.print(f"✗ {escape(what)}: {escape(reason)}", soft_wrap=True)
    if found.best is not None:
        for caveat in report.caveats(found.best):
            screen.print(f"• {escape(caveat)}", soft_wrap=True)
        screen.print(f"\nThe best again: {escape(report.command(found, found.best))}", soft_wrap=True)
