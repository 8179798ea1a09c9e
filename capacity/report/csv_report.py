"""Options and cost lines as CSV (RFC 4180): raw numbers, and texts that no spreadsheet runs as a formula."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from capacity.plan import Plan
from capacity.report.cells import Cell, Column, Missing, Row, Table
from capacity.report.table import cost_table, options_table

DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""First characters that make a spreadsheet run a cell (OWASP, CSV injection)."""
_INSIDE = re.compile(r"([;\t\r\n])(?=[=+\-@＝＋－＠])")
"""Where a cell of its own begins for a spreadsheet that separates by semicolons or tabs."""
NOTES = "notes"
PLAN = (
    Column("scenario", "Scenario"),
    Column("title", "Title"),
    Column("date", "Date"),
    Column("peak_rate_per_s", "Peak rate", "per second"),
    Column("objective_percentile", "Percentile"),
    Column("objective_latency_s", "Objective", "seconds"),
)
"""What the plan is: the first columns of every record."""
_OPTION = (Column("rank", "Rank", "whole"), Column("hardware", "Profile"))


def options(plan: Plan) -> str:
    """Return one record for each option, best first."""
    return dumps(options_table(plan).before(PLAN, shared(plan)))


def costs(plan: Plan) -> str:
    """Return one record for each cost line of each option; a missing price is an empty field explained in `notes`."""
    tables = [
        cost_table(option).before((*PLAN, *_OPTION), {**shared(plan), "rank": rank, "hardware": option.hardware})
        for rank, option in enumerate(plan.options, start=1)
    ]
    if not tables:
        return ""
    return dumps(Table("Costs", tables[0].columns, tuple(row for table in tables for row in table.rows)))


def shared(plan: Plan) -> Row:
    """Return what every record says of the plan: the cells of `PLAN`."""
    return {
        "scenario": plan.scenario,
        "title": plan.title,
        "date": plan.date,
        "peak_rate_per_s": float(plan.peak_rate),
        "objective_percentile": plan.objective_percentile,
        "objective_latency_s": float(plan.objective_latency_s),
    }


def dumps(table: Table) -> str:
    r"""Return any table as CSV text: its column keys, its rows without the total, and a last field `notes`.

    A missing number is an empty field; `notes` says which and why. Write the text with ``newline=""``.

    Examples
    --------
    >>> columns = (Column("name", "Name"), Column("usd", "Cost", "usd"))
    >>> dumps(Table("", columns, ({"name": "=1+1", "usd": -2.5}, {"name": "a", "usd": Missing("no price")})))
    "name,usd,notes\r\n'=1+1,-2.5,\r\na,,usd: no price\r\n"
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([column.key for column in table.columns] + [NOTES])
    for row in table.rows:
        cells = [row[column.key] for column in table.columns]
        writer.writerow([*map(_field, cells), _field(notes(table, row))])
    return out.getvalue()


def notes(table: Table, row: Row) -> str:
    """Return which numbers of a row are missing, and why."""
    missing = [(column.key, row[column.key]) for column in table.columns]
    return "; ".join(f"{key}: {cell.reason}" for key, cell in missing if isinstance(cell, Missing))


def _field(cell: Cell) -> str | float:
    if isinstance(cell, Missing):
        return ""
    return neutral(cell) if isinstance(cell, str) else cell


def neutral(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula: a quote stands where a formula would begin.

    Examples
    --------
    >>> neutral("=1+1"), neutral("L4 (6 + 1 spare)"), neutral("x;=1+1"), neutral("'=1+1")
    ("'=1+1", 'L4 (6 + 1 spare)', "x;'=1+1", "'=1+1")
    """
    safe = _INSIDE.sub(r"\1'", text)
    return f"'{safe}" if safe.startswith(DANGEROUS) else safe


def neutral_frame(frame: Any) -> Any:  # noqa: ANN401  (pandas is imported lazily)
    """Return a data frame whose column names and texts no spreadsheet runs; its numbers are untouched."""
    texts = frame.select_dtypes(exclude=["number", "bool"])
    safe = {name: [neutral(cell) if isinstance(cell, str) else cell for cell in texts[name]] for name in texts}
    return frame.assign(**safe).rename(columns=lambda name: neutral(str(name)))
