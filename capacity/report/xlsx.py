"""A plan as an Excel workbook whose bills compute: quantity × price by named assumptions, each with its value kept.

Sheets: Answer, Assumptions, Options, one "Bill <hardware>" an option, Jobs, Memory. Texts are written as texts, never
as formulas. The same plan gives the same bytes.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from xlsxwriter import Workbook
from xlsxwriter.utility import xl_rowcol_to_cell as cell_name

from capacity.plan import Option, Plan
from capacity.report import assumptions, sentence
from capacity.report.assumptions import Assumption, Assumptions
from capacity.report.cells import Cell, Column, Missing, Number, Row, Table, finite
from capacity.report.table import cost_table, job_table, memory_table, options_table
from capacity.spec.scenario import Scenario

Formulas = Mapping[tuple[int, str], str]
"""Formula of a cell, by row of the table from 0 and key of the column; it shows only where the cell is a number."""
LONGEST_TEXT = 32_767
"""Characters of a cell, and of a sheet's name: limits of Excel."""
LONGEST_NAME = 31
UNITS = {"seconds": "s", "bytes": "bytes", "FLOP": "FLOP", "per second": "1/s"}
FORMATS = {"usd": "#,##0.00", "fraction": "0.0%", "bytes": "#,##0", "whole": "#,##0"}
PRICES = ("unit_price_usd", "usd_per_thousand_requests")
"""Columns of small amounts: four decimals."""
RATIOS = (Column("p10_ratio", "P10 ÷ cost", "count"), Column("p90_ratio", "P90 ÷ cost", "count"))
HOW = (
    "Numbers in blue on the sheet Assumptions can be changed: bills and options follow. Nothing is sized or timed "
    "anew: quantities that are no formulas, latencies and memory stay those of the plan."
)
ABOUT_BILL = (
    "Cost = quantity × price. P10 and P90 keep the plan's ratio to the cost; those of the total are no sums, since "
    "not every line is at its worst at once."
)
ABOUT_HOURS = "Hours of a month move serving, requests and egress; device-hours of jobs and energy are the plan's."


@dataclass(frozen=True, slots=True)
class _Book:
    """A workbook that is written, and its cell formats by name."""

    file: Any
    formats: dict[str, Any]

    def format(self, name: str, **properties: object) -> Any:  # noqa: ANN401  (xlsxwriter is not typed)
        """Return a cell format, the same object for the same name."""
        if name not in self.formats:
            self.formats[name] = self.file.add_format(properties)
        return self.formats[name]

    @property
    def head(self) -> Any:  # noqa: ANN401
        """Format of a header."""
        return self.format("head", bold=True, bottom=1, text_wrap=True, valign="top")

    @property
    def wrapped(self) -> Any:  # noqa: ANN401
        """Format of a sentence."""
        return self.format("wrapped", text_wrap=True, valign="top")

    def number(self, column: Column) -> Any:  # noqa: ANN401
        """Return the format of a column's numbers."""
        shape = "#,##0.0000" if column.key in PRICES else FORMATS.get(column.dimension, "General")
        return self.format(shape, num_format=shape)


def render(plan: Plan, scenario: Scenario) -> bytes:
    """Return the workbook of `plan`, a plan of `scenario`."""
    out = io.BytesIO()
    book = _Book(Workbook(out, {"in_memory": True}), {})
    book.file.set_properties({"title": _text(plan.title), "created": datetime.fromisoformat(plan.date)})
    named = assumptions.collected(plan, scenario)
    bills = _bill_names(plan.options)
    _answer(book, plan)
    _assumptions(book, named, assumptions.settings(plan, scenario))
    totals = {rank: f"'{bills[rank]}'!" for rank, option in enumerate(plan.options) if option.cost is not None}
    _write(book, "Options", options_table(plan), _option_formulas(plan, totals))
    for rank, option in enumerate(plan.options):
        if rank in totals:
            _bill(book, bills[rank], option, _bill_formulas(named, rank, option))
    _write(book, "Jobs", _of_all(plan, job_table))
    _write(book, "Memory", _of_all(plan, memory_table))
    book.file.close()
    return out.getvalue()


def _answer(book: _Book, plan: Plan) -> None:
    sheet = book.file.add_worksheet("Answer")
    sheet.set_column(0, 0, 18)
    sheet.set_column(1, 1, 110)
    lines = [
        ("Question", plan.title),
        ("Answer", sentence.answer(plan)),
        ("Prices as of", plan.date),
        ("Scenario", plan.scenario),
        ("Changes", "; ".join(plan.changes) or "none"),
        ("Basis", plan.best.basis if plan.best else "no option is feasible"),
        *(("Not known", caveat) for caveat in (sentence.option_caveats(plan, plan.best) if plan.best else ())),
        ("How to use", HOW),
    ]
    for row, (label, text) in enumerate(lines):
        sheet.write_string(row, 0, label, book.head)
        sheet.write_string(row, 1, _text(text), book.wrapped)


def _assumptions(book: _Book, named: Assumptions, settings: Sequence[tuple[str, Cell, str]]) -> None:
    sheet = book.file.add_worksheet("Assumptions")
    for column, width in enumerate((34, 48, 16, 18, 14, 14, 80)):
        sheet.set_column(column, column, width)
    _texts(sheet, 0, ("Name", "What", "Value", "Unit", "P10", "P90", "Source"), book.head)
    for row, assumption in enumerate(named.rows, start=1):
        _assumption(book, sheet, row, assumption)
    top = len(named.rows) + 2
    sheet.write_string(top, 0, ABOUT_HOURS)
    _texts(sheet, top + 2, ("", "Settings of the plan: a change needs a new plan", "Value", "Unit"), book.head)
    for row, (label, value, unit) in enumerate(settings, start=top + 3):
        _texts(sheet, row, ("", label, "", unit))
        _cell(sheet, row, 2, value, None)


def _assumption(book: _Book, sheet: Any, row: int, given: Assumption) -> None:  # noqa: ANN401
    _texts(sheet, row, (given.name, given.label, "", given.unit, "", "", given.source))
    if given.formula:
        sheet.write_formula(row, 2, f"={given.formula}", None, given.value)
    else:
        sheet.write_number(row, 2, given.value, book.format("input", font_color="#0000FF"))
    _cell(sheet, row, 4, given.p10, None)
    _cell(sheet, row, 5, given.p90, None)
    book.file.define_name(given.name, f"=Assumptions!{cell_name(row, 2, row_abs=True, col_abs=True)}")


def _bill(book: _Book, name: str, option: Option, formulas: Formulas) -> None:
    table = _with_ratios(cost_table(option))
    _write(book, name, table, formulas)
    sheet = book.file.get_worksheet_by_name(name)
    sheet.write_string(len(table.rows) + 3, 0, ABOUT_BILL)


def _with_ratios(table: Table) -> Table:
    """Return a bill with the ratio of each range's ends to its amount: what stays when a price is changed."""
    total = None if table.total is None else {**table.total, **_ratios(table.total)}
    rows = tuple({**row, **_ratios(row)} for row in table.rows)
    return replace(table, columns=(*table.columns, *RATIOS), rows=rows, total=total)


def _ratios(row: Row) -> dict[str, Number]:
    cost = row["usd_per_month"]

    def ratio(end: Cell) -> Number:
        if isinstance(cost, float) and isinstance(end, float) and cost > 0:
            return end / cost
        return cost if isinstance(cost, Missing) else Missing("costs nothing")

    return {"p10_ratio": ratio(row["p10_usd_per_month"]), "p90_ratio": ratio(row["p90_usd_per_month"])}


def _bill_formulas(named: Assumptions, rank: int, option: Option) -> Formulas:
    """Return the formulas of a bill: price by name, quantity by names where it follows from them, cost, range, sum."""
    table = _with_ratios(cost_table(option))
    place = {column.key: number for number, column in enumerate(table.columns)}
    found: dict[tuple[int, str], str] = {}
    for line in range(len(table.rows) + 1):
        at = {key: cell_name(line + 1, number) for key, number in place.items()}
        found[line, "usd_per_month"] = f"={at['quantity']}*{at['unit_price_usd']}"
        if (rank, line) in named.prices:
            found[line, "unit_price_usd"] = f"={named.prices[rank, line]}"
        if (rank, line) in named.quantities:
            found[line, "quantity"] = f"={named.quantities[rank, line]}"
        cells = table.rows[line] if line < len(table.rows) else table.total
        if cells is not None and isinstance(cells["p10_ratio"], float):
            found[line, "p10_usd_per_month"] = f"={at['usd_per_month']}*{at['p10_ratio']}"
            found[line, "p90_usd_per_month"] = f"={at['usd_per_month']}*{at['p90_ratio']}"
    last, column = len(table.rows), place["usd_per_month"]
    found[last, "usd_per_month"] = f"=SUM({cell_name(1, column)}:{cell_name(last, column)})"
    return found


def _option_formulas(plan: Plan, totals: Mapping[int, str]) -> Formulas:
    """Return the formulas of the comparison: each total from its bill, and what follows from totals."""
    bill = {column.key: number for number, column in enumerate(cost_table(plan.options[0]).columns)} if totals else {}
    place = {column.key: number for number, column in enumerate(options_table(plan).columns)}
    found: dict[tuple[int, str], str] = {}
    for rank, sheet in totals.items():
        cost = plan.options[rank].cost
        total_row = 1 + (len(cost.lines) if cost is not None else 0)
        for key in ("usd_per_month", "p10_usd_per_month", "p90_usd_per_month"):
            found[rank, key] = f"={sheet}{cell_name(total_row, bill[key])}"
        mine, best = (cell_name(row + 1, place["usd_per_month"]) for row in (rank, 0))
        found[rank, "usd_per_thousand_requests"] = f"={mine}/{assumptions.REQUESTS_NAME}*1000"
        found[rank, "against_best_fraction"] = f"={mine}/{best}-1"
    return found


def _of_all(plan: Plan, build: Callable[[Option], Table]) -> Table:
    """Return a table of every option as one, the option's profile in front."""
    columns = (Column("option", "Profile"),)
    parts = [build(option).before(columns, {"option": option.hardware}) for option in plan.options]
    return replace(parts[0], rows=tuple(row for part in parts for row in part.rows)) if parts else Table("", (), ())


def _write(book: _Book, name: str, table: Table, formulas: Formulas | None = None) -> None:
    """Write a table on a sheet of its own: units in the header, numbers as numbers, texts as texts."""
    sheet = book.file.add_worksheet(name)
    sheet.freeze_panes(1, 0)
    _texts(sheet, 0, [_header(column) for column in table.columns], book.head)
    rows = (*table.rows, *([] if table.total is None else [table.total]))
    for number, column in enumerate(table.columns):
        sheet.set_column(number, number, 30 if column.dimension == "text" else 16)
        for row, cells in enumerate(rows):
            formula = None if formulas is None else formulas.get((row, column.key))
            _cell(sheet, row + 1, number, cells[column.key], book.number(column), formula)


def _header(column: Column) -> str:
    unit = UNITS.get(column.dimension)
    return column.label if unit is None or "[" in column.label else f"{column.label} [{unit}]"


def _texts(sheet: Any, row: int, texts: Sequence[str], shape: Any = None) -> None:  # noqa: ANN401
    for column, text in enumerate(texts):
        if text:
            sheet.write_string(row, column, _text(text), shape)


def _cell(sheet: Any, row: int, column: int, cell: Cell, shape: Any, formula: str | None = None) -> None:  # noqa: ANN401
    if isinstance(cell, str):
        _texts(sheet, row, [""] * column + [cell])
        return
    number = cell if isinstance(cell, Missing) else finite(cell, "unknown")
    if isinstance(number, Missing):
        sheet.write_string(row, column, _text(number.reason))
    elif formula is not None:
        sheet.write_formula(row, column, formula, shape, number)
    else:
        sheet.write_number(row, column, number, shape)


def _text(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def _bill_names(options: Sequence[Option]) -> tuple[str, ...]:
    """Return the sheet of each option's bill: plain characters only, and no two the same."""
    found: list[str] = []
    for option in options:
        plain = re.sub(r"[^\w .()-]", "-", f"Bill {option.hardware}")
        found.append(next(name for name in _tries(plain) if name.lower() not in {old.lower() for old in found}))
    return tuple(found)


def _tries(plain: str) -> Iterator[str]:
    yield plain[:LONGEST_NAME].rstrip()
    for number in itertools.count(2):
        tail = f" {number}"
        yield plain[: LONGEST_NAME - len(tail)].rstrip() + tail
