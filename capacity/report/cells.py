"""What a report's table is made of: cells that hold a text, a number or the reason for its absence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import SupportsFloat

from capacity import units

MINUS = "−"


@dataclass(frozen=True, slots=True)
class Missing:
    """A number that does not exist, and why: shown as its reason, never as 0."""

    reason: str


Number = float | Missing
Cell = str | float | Missing
Row = Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name for machines (unit included), its head for people, and what its numbers are."""

    key: str
    label: str
    dimension: str = "text"
    """"text", or a dimension that `capacity.units.text` formats."""
    signed: bool = False
    """Whether a number shows its sign: differences do."""

    def shown(self, cell: Cell) -> str:
        """Return a cell of this column as a person reads it."""
        return shown(cell, self.dimension, signed=self.signed)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns, and a row of totals where there is one."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    total: Row | None = None

    def lines(self) -> Iterator[list[str]]:
        """Yield each row, then the total, as texts for people."""
        for row in (*self.rows, *([] if self.total is None else [self.total])):
            yield [column.shown(row[column.key]) for column in self.columns]

    def without(self, *keys: str) -> Table:
        """Return the table without some columns: for narrow pages."""
        return replace(self, columns=tuple(column for column in self.columns if column.key not in keys))

    def before(self, columns: Sequence[Column], cells: Row) -> Table:
        """Return the table with columns in front that hold the same cells in every row, and without its total."""
        rows = tuple({**cells, **row} for row in self.rows)
        return Table(title=self.title, columns=(*columns, *self.columns), rows=rows)


def finite(value: SupportsFloat | None, reason: str) -> Number:
    """Return `value` as a plain float, or what is missing where it is None, infinite or no number.

    Examples
    --------
    >>> finite(2, "unknown"), finite(float("nan"), "unknown")
    (2.0, Missing(reason='unknown'))
    """
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else Missing(reason)


def shown(cell: Cell, dimension: str, *, digits: int = 3, signed: bool = False) -> str:
    """Return a cell as a person reads it: a text as it is, a number with its unit, a missing number as its reason.

    Examples
    --------
    >>> shown(0.155, "seconds"), shown(0.112, "fraction", digits=2, signed=True), shown(Missing("no price"), "usd")
    ('155 ms', '+11 %', 'no price')
    """
    if isinstance(cell, Missing):
        return cell.reason
    if isinstance(cell, str):
        return cell
    if not signed or cell == 0:
        return units.text(cell, dimension, digits)
    return f"{MINUS if cell < 0 else '+'}{units.text(abs(cell), dimension, digits)}"
