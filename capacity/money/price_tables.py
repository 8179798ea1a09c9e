"""Price tables as files: found in the folders `prices`, read, and checked as a whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from capacity import documents
from capacity.errors import InputError, Problem, suggestion
from capacity.spec.prices import DevicePrice, Offer, PurchasePrice

PURCHASES = "purchase"
"""A table whose file name starts so holds prices of devices to buy; every other one prices of device-hours."""
_Stamp = tuple[str, int, int]


def device_prices() -> tuple[DevicePrice, ...]:
    """Return the rows of every table of device-hours, the user's tables first.

    Tables are the `*.csv` of the folders `prices`. A table replaces those of the same file name in later folders, so a
    user's `devices.csv` stands in for the shipped one and any other name adds to it. Rows are kept in memory until the
    time or size of a table changes on disk.

    Raises
    ------
    InputError
        With every problem of every table as ``file:line:column: what``, where column counts fields from 1.
    """
    return cast("tuple[DevicePrice, ...]", _all(DevicePrice))


def purchase_prices() -> tuple[PurchasePrice, ...]:
    """Return the rows of every table of devices to buy: the `purchase*.csv` of the folders, by the same rules.

    Raises
    ------
    InputError
        As of `device_prices`.
    """
    return cast("tuple[PurchasePrice, ...]", _all(PurchasePrice))


def _all(kind: type[Offer]) -> tuple[Offer, ...]:
    tables: dict[str, Path] = {}
    for folder in documents.folders("prices"):
        for path in sorted(folder.glob("*.csv")):
            if path.name.startswith(PURCHASES) == (kind is PurchasePrice):
                tables.setdefault(path.name, path)
    return _tables(tuple(_stamp(path) for path in tables.values()), kind)


def first_day(text: str) -> date:
    """Return the first day of the year, month or day that `text` names: the earliest a price may stem from.

    Raises
    ------
    ValueError
        When there is no such day.

    Examples
    --------
    >>> first_day("2024-03"), first_day("2026")
    (datetime.date(2024, 3, 1), datetime.date(2026, 1, 1))
    """
    return date(*[int(part) for part in f"{text}-01-01".split("-")[:3]])


def _stamp(path: Path) -> _Stamp:
    try:
        state = path.stat()
    except OSError:  # reading it says why
        return str(path), 0, 0
    return str(path), state.st_mtime_ns, state.st_size


@lru_cache(maxsize=8)
def _tables(stamps: tuple[_Stamp, ...], kind: type[Offer]) -> tuple[Offer, ...]:
    rows: list[Offer] = []
    problems: list[Problem] = []
    for path, _, _ in stamps:
        try:
            rows += _table(documents.read_text(path), path, kind)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return tuple(rows)


def _table(text: str, path: str, kind: type[Offer]) -> list[Offer]:
    lines = _lines(text, path)
    header = next(lines, None)
    if header is None:
        columns = ", ".join(kind.model_fields)
        raise InputError([Problem(path, f"is empty; its first line must name the columns {columns}")])
    names = header[1]
    problems = list(_header_problems(names, f"{path}:{header[0]}", kind))
    if problems:
        raise InputError(problems)
    rows: list[Offer] = []
    for line, cells in lines:
        where = f"{path}:{line}"
        if len(cells) != len(names):
            problems.append(Problem(f"{where}:{len(cells)}", f"has {len(cells)} fields, expected {len(names)}"))
            continue
        found = _row(dict(zip(names, cells, strict=True)), where, kind)
        rows += [found] if isinstance(found, Offer) else []
        problems += [] if isinstance(found, Offer) else found
    if problems:
        raise InputError(problems)
    return rows


def _lines(text: str, path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line on which each record starts, and its fields; blank lines are passed over."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError([Problem(f"{path}:{line}:1", f"is not a line of CSV: {error}")]) from None
        if cells is None:
            return
        cells = [cell.strip() for cell in cells]
        if any(cells):
            yield line, cells


def _header_problems(names: list[str], where: str, kind: type[Offer]) -> Iterator[Problem]:
    columns = kind.model_fields
    for column, name in enumerate(names, start=1):
        if name not in columns:
            yield Problem(f"{where}:{column}", f"unknown column {name[:60]!r}; {suggestion(name[:60], columns)}")
        elif name in names[: column - 1]:
            yield Problem(f"{where}:{column}", f"duplicate column {name!r}")
    for name in _required(kind):
        if name not in names:
            yield Problem(f"{where}:{len(names) + 1}", f"missing column {name!r}")


def _required(kind: type[Offer]) -> list[str]:
    return [name for name, field in kind.model_fields.items() if field.is_required()]


def _row(cells: dict[str, str], where: str, kind: type[Offer]) -> Offer | list[Problem]:
    details = [(name, "Value error, is blank") for name in _required(kind) if not cells[name]]
    blank = {name for name, _ in details}
    try:
        row = kind.model_validate(cells)
        first_day(row.date)
    except ValidationError as error:
        found = [(str(detail["loc"][0]), detail["msg"]) for detail in error.errors(include_url=False)]
        details += [item for item in found if item[0] not in blank]
    except ValueError:
        details.append(("date", "there is no such day"))
    else:
        if not details:
            return row
    places = {name: number for number, name in enumerate(cells, start=1)}
    return [
        Problem(f"{where}:{places[name]}", _said(name, message, cells[name]))
        for name, message in sorted(details, key=lambda detail: places[detail[0]])
    ]


def _said(name: str, message: str, cell: str) -> str:
    message = message.removeprefix("Value error, ")
    got = "" if not cell or repr(cell)[:50] in message else f" (got {cell[:60]!r})"
    return f"{name}: {message[:1].lower()}{message[1:]}{got}"
