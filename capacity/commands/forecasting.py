"""`capacity forecast` and `capacity risk`: the bill of the coming months, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from capacity import catalogue, documents, outlook, planner, references
from capacity.commands.planning import Request, console, rich_table
from capacity.money.forecast import Forecast
from capacity.money.risk import Prospects, prospects
from capacity.report import forecast as report
from capacity.report.cells import Table
from capacity.spec.outlook import Outlook
from capacity.spec.scenario import Scenario

SHOWN = {
    "Options": (
        "name", "buying", "usd", "present_usd", "first_usd", "last_usd", "most_cash_usd", "beyond_usd",
        "left_usd",
    ),
    "Months": (
        "number", "hardware", "load", "needed_hours", "paid_hours", "idle_fraction", "accrued_usd", "cash_usd",
    ),
    "Risk": (
        "name", "buying", "p10_usd", "p50_usd", "p90_usd", "over_budget_fraction", "any_short_fraction",
        "p90_regret_usd",
    ),
    "Months at risk": ("number", "p10_usd", "p50_usd", "p90_usd", "over_budget_fraction", "short_fraction"),
    "What moves the total": ("name", "at_p10_usd", "at_p90_usd", "change_usd"),
}  # fmt: skip
"""Columns that fit on a terminal; `--json` shows all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is expected of the coming months.

    Attributes
    ----------
    file
        YAML of an outlook; None: the assumed defaults.
    how
        KEY=VALUE of the outlook, put over it.
    draws, seed
        Of the risk.
    """

    file: Path | None = None
    how: tuple[str, ...] = ()
    draws: int = 20_000
    seed: int = 0

    def outlook(self) -> Outlook:
        """Return the outlook that is asked for.

        Raises
        ------
        InputError
            For an unknown key or a value out of range, at its place in the file or its flag.
        """
        return outlook.expected(self.how, None if self.file is None else documents.read(self.file))


def show_forecast(request: Request, wish: Wish, *, as_json: bool) -> int:
    """Print the forecast; exit 1 when no device will do."""
    found = _asked(request, wish, at_risk=False)
    if as_json:
        print(report.dumps(found), end="")
    else:
        _print(found, [report.options_table(found), *([report.month_table(found.best)] if found.best else [])])
    return 0 if found.best else 1


def show_risk(request: Request, wish: Wish, *, as_json: bool) -> int:
    """Print the risk; exit 1 when no device will do."""
    found = prospects(_asked(request, wish, at_risk=True), wish.draws, wish.seed)
    if as_json:
        print(report.dumps(found), end="")
    else:
        tables = [report.outcome_table(found)]
        if found.outcomes:
            best = found.outcomes[0]
            tables += [
                replace(table, title=f"{best.option.name} ({best.option.buying}): {table.title}")
                for table in (report.swing_table(best), report.band_table(best))
            ]
        _print(found, tables)
    return 0 if found.outcomes else 1


def _asked(request: Request, wish: Wish, *, at_risk: bool) -> Forecast:
    expected = wish.outlook()
    document = catalogue.scenario_document(request.scenario, request.overrides, request.settings)
    scenario = documents.validated(document, Scenario)
    given = planner.inputs(scenario, request.calibrations, request.today, document)
    if not request.hardware:
        references.devices(scenario, document, partial(planner.profile, given=given))
    made = outlook.ways if at_risk else outlook.forecasts
    return made(scenario, given, expected, request.hardware or None, (*request.overrides, *request.settings))


def _print(found: Forecast | Prospects, tables: Sequence[Table]) -> None:
    from rich.markup import escape

    screen = console()
    parts = report.pieces(found)
    said = "".join(f"[bold]{escape(part.text)}[/bold]" if part.strong else escape(part.text) for part in parts)
    screen.print(said, soft_wrap=True)
    screen.print()
    for table in tables:
        keep = SHOWN[table.title.rpartition(": ")[2]]
        if table.rows:
            screen.print(rich_table(table.without(*(item.key for item in table.columns if item.key not in keep))))
    forecast = found.forecast if isinstance(found, Prospects) else found
    for option in forecast.options:
        if option.refused:
            screen.print(f"✗ {escape(option.name)}: {escape(option.refused)}", soft_wrap=True)
    for caveat in report.caveats(forecast):
        screen.print(f"• {escape(caveat)}", soft_wrap=True)
