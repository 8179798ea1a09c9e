"""`capacity hosted`: what sellers would charge for a pipeline's models, beside devices of one's own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from capacity import hosting, planner, references
from capacity.commands.planning import Request, console, rich_table
from capacity.money.break_even import Comparison
from capacity.report import hosted as report

PARTS = ("name", "read_tokens", "written_tokens", "low_usd", "median_usd", "high_usd", "own_usd",
         "break_even_requests", "priced_as")  # fmt: skip
OFFERS = ("name", "provider", "model", "relation", "usd_per_month", "prices", "date", "quality")
"""Columns that fit on a terminal; `--json` shows all."""
MOST = 4
"""Offers of a stage that a terminal shows."""


def show_hosted(request: Request, chosen: tuple[str, ...], *, as_json: bool) -> int:
    """Print the comparison; exit 1 when no device can be compared."""
    document, scenario = request.read()
    given = planner.inputs(scenario, request.calibrations, request.today, document)
    if not request.hardware:
        references.devices(scenario, document, partial(planner.profile, given=given))
    found = hosting.compare(scenario, given, request.hardware or None, (*request.overrides, *request.settings), chosen)
    if as_json:
        print(report.dumps(found), end="")
    else:
        _print(found)
    return 1 if all(option.refused for option in found.options) else 0


def _print(found: Comparison) -> None:
    from rich.markup import escape

    screen = console()
    said = (f"[bold]{escape(part.text)}[/bold]" if part.strong else escape(part.text) for part in report.pieces(found))
    screen.print("".join(said), soft_wrap=True)
    screen.print()
    for option in found.options:
        table = report.part_table(option)
        if table.rows:
            screen.print(rich_table(table.without(*(item.key for item in table.columns if item.key not in PARTS))))
    if found.options and found.options[0].sold:
        offers = report.offer_table(found.options[0], MOST)
        shown = offers.without(*(item.key for item in offers.columns if item.key not in OFFERS))
        screen.print(rich_table(replace(shown, title=f"Offers, at most {MOST} each; --json shows all with sources")))
    for caveat in report.caveats(found):
        screen.print(f"• {escape(caveat)}", soft_wrap=True)
