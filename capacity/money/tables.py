"""Tables of the user's and the product's folders as validated rows: CSV whose faults are told at file:line:column."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from capacity import documents
from capacity.documents import Document, Place
from capacity.errors import InputError, Problem, suggestion
from capacity.problems import Location
from capacity.spec.quantity import Spec

Row = TypeVar("Row", bound=Spec)
_Stamp = tuple[str, int, int]


def rows(folder: str, form: type[Row], wanted: Callable[[str], bool] = bool) -> tuple[Row, ...]:
    """Return the rows of every `*.csv` in the folders called `folder`, the user's first.

    A table replaces those of the same file name in later folders, any other name adds rows. Rows are kept in memory
    until the time or size of a table changes on disk. Columns are the fields of `form`; a blank cell is no value.

    Parameters
    ----------
    wanted
        Whether a table of that file name is one of them.

    Raises
    ------
    InputError
        With every problem of every table as ``file:line:column: what``, where column counts fields from 1.
    """
    tables: dict[str, Path] = {}
    for place in documents.folders(folder):
        for path in sorted(place.glob("*.csv")):
            if wanted(path.name):
                tables.setdefault(path.name, path)
    found: list[Row] = []
    problems: list[Problem] = []
    for path in tables.values():
        try:
            found += _kept(_stamp(path), form)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return tuple(found)


def _stamp(path: Path) -> _Stamp:
    try:
        state = path.stat()
    except OSError:  # reading it says why
        return str(path), 0, 0
    return str(path), state.st_mtime_ns, state.st_size


@lru_cache(maxsize=16)
def _kept(stamp: _Stamp, form: type[Row]) -> tuple[Row, ...]:
    return read(documents.read_text(stamp[0]), stamp[0], form)


def read(text: str, name: str, form: type[Row]) -> tuple[Row, ...]:
    """Return the rows of one table; `name` stands for it in messages.

    Raises
    ------
    InputError
        With every problem of the table.
    """
    lines = records(text, name)
    line, header = next(lines, (0, []))
    problems = list(_header_problems(header, f"{name}:{line}" if line else name, form))
    if problems:
        raise InputError(problems)
    found: list[Row] = []
    for line, cells in lines:
        try:
            found.append(_row(name, line, dict(_pairs(name, line, header, cells)), form))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return tuple(found)


def records(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line on which each record starts, and its fields; blank lines are passed over."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError([Problem(f"{name}:{line}:1", f"is not a line of CSV: {error}")]) from None
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, [cell.strip() for cell in cells]


def _header_problems(header: list[str], where: str, form: type[Spec]) -> Iterator[Problem]:
    known = tuple(form.model_fields)
    if not header:
        yield Problem(where, f"is empty; its first line must name the columns {', '.join(known)}")
        return
    for column, name in enumerate(header, start=1):
        if name not in known:
            yield Problem(f"{where}:{column}", f"unknown column {name[:60]!r}; {suggestion(name[:60], known)}")
        elif name in header[: column - 1]:
            yield Problem(f"{where}:{column}", f"duplicate column {name!r}")
    for name, field in form.model_fields.items():
        if field.is_required() and name not in header:
            yield Problem(f"{where}:{len(header) + 1}", f"missing column {name!r}")


def _pairs(name: str, line: int, header: list[str], cells: list[str]) -> Iterator[tuple[str, str]]:
    if len(cells) != len(header):
        raise InputError([Problem(f"{name}:{line}:{len(cells)}", f"has {len(cells)} fields, expected {len(header)}")])
    return zip(header, cells, strict=True)


def _row(name: str, line: int, cells: dict[str, str], form: type[Row]) -> Row:
    columns = {key: column for column, key in enumerate(cells, start=1)}
    places: dict[Location, Place] = {(): (name, line, 1)}
    places |= {(key,): (name, line, column) for key, column in columns.items()}
    blank = [key for key, cell in cells.items() if not cell and form.model_fields[key].is_required()]
    problems = [Problem(f"{name}:{line}:{columns[key]}", f"{key}: is blank") for key in blank]
    try:
        row = documents.validated(Document(name, {key: cell for key, cell in cells.items() if cell}, places), form)
    except InputError as error:
        missing = {f"missing key {key!r}" for key in blank}
        problems += [problem for problem in error.problems if problem.what not in missing]
        raise InputError(sorted(problems, key=lambda problem: int(problem.where.rpartition(":")[2]))) from None
    return row
