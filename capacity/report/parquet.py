"""A plan as one Parquet table: a row for each cost line of each option, the option's own numbers repeated in it.

Units stand in the columns' names and in their metadata; what the plan is stands in the metadata of the file. An option
without a bill is one row whose line is null. `usd_per_month` summed over the rows of rank 1 is the best option's total.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pyarrow as pa
from pyarrow import parquet

from capacity.plan import Plan
from capacity.report import csv_report, sentence
from capacity.report.cells import Cell, Column, Missing, Row, Table
from capacity.report.csv_report import NOTES, PLAN, notes
from capacity.report.table import cost_table, options_table

SCHEMA = "capacity.costs"
VERSION = 1
OPTION = "option_"
"""Starts the names of the columns that repeat the option's numbers."""
UNITS = {
    "usd": "USD", "seconds": "s", "per second": "1/s", "fraction": "1", "bytes": "bytes", "FLOP": "FLOP", "whole": "1",
}  # fmt: skip
"""Unit in a column's metadata by dimension; `count` stands for the unit of the row's column `unit`."""


def render(plan: Plan) -> bytes:
    """Return the Parquet file; the same plan gives the same bytes."""
    content = costs(plan)
    about = {
        "schema": SCHEMA, "version": str(VERSION), "scenario": plan.scenario, "title": plan.title, "date": plan.date,
        "changes": "; ".join(plan.changes), "answer": sentence.answer(plan),
    }  # fmt: skip
    schema = pa.schema([*map(_field, content.columns), pa.field(NOTES, pa.string())], metadata=about)
    arrays = [pa.array([_value(row[column.key], column) for row in content.rows], field.type)
              for column, field in zip(content.columns, schema, strict=False)]  # fmt: skip
    arrays.append(pa.array([notes(content, row) for row in content.rows], pa.string()))
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), out, compression="zstd")
    return out.getvalue()


def costs(plan: Plan) -> Table:
    """Return the rows of the file as a table."""
    options = options_table(plan)
    mine = tuple(replace(column, key=f"{OPTION}{column.key}") for column in options.columns if column.key != "rank")
    rank = next(column for column in options.columns if column.key == "rank")
    lines = cost_table(plan.options[0]).columns if plan.options else ()
    return Table("Costs", (*PLAN, rank, *mine, *lines), tuple(_rows(plan, options, lines)))


def _rows(plan: Plan, options: Table, lines: tuple[Column, ...]) -> Iterator[Row]:
    shared = csv_report.shared(plan)
    for option, cells in zip(plan.options, options.rows, strict=True):
        own = {key if key == "rank" else f"{OPTION}{key}": cell for key, cell in cells.items()}
        bill = cost_table(option).rows or ({column.key: Missing("no bill") for column in lines},)
        yield from ({**shared, **own, **line} for line in bill)


def _field(column: Column) -> pa.Field:
    kinds: Mapping[str, pa.DataType] = {"text": pa.string(), "whole": pa.int64()}
    about = {"label": column.label} | ({} if column.dimension == "text" else {"unit": _unit(column)})
    return pa.field(column.key, kinds.get(column.dimension, pa.float64()), metadata=about)


def _unit(column: Column) -> str:
    """Return the unit: what the head says in brackets, else that of the dimension."""
    _, bracket, rest = column.label.partition("[")
    return rest.rstrip("]") if bracket and rest != "%]" else UNITS.get(column.dimension, column.dimension)


def _value(cell: Cell, column: Column) -> str | float | int | None:
    if isinstance(cell, Missing):
        return None
    return int(cell) if column.dimension == "whole" and not isinstance(cell, str) else cell
