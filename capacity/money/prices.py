"""Dated price tables: read, checked as a whole, and summed up as one price with its range and its doubts.

A price that nobody published stays missing: `price_range` returns None, and the caller shows a "no price" line.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from statistics import median

from pydantic import ValidationError

from capacity import documents
from capacity.errors import InputError, Problem, suggestion
from capacity.spec.prices import DevicePrice, Term

ANYWHERE = "any"
"""Region of an offer that its provider does not tie to a place; every wanted region accepts it."""
STALE_DAYS = 365
"""Age from which a price is called old [day]."""
_COLUMNS = tuple(DevicePrice.model_fields)
_REQUIRED = tuple(name for name, field in DevicePrice.model_fields.items() if field.is_required())
_TIERS: tuple[tuple[str, ...], ...] = (("published", "secondary"), ("assumed",), ("marketplace",))
_Stamp = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class PriceRange:
    """What one device costs for an hour, over the offers that count.

    Parameters
    ----------
    hardware, term, region
        What was asked for; region is "any" when none was.
    usd_per_device_hour, low, high
        Median, lowest and highest of `rows` [USD/h].
    rows
        The offers that count, cheapest first.
    flags
        What a reader should know before trusting the price, in words.
    """

    hardware: str
    term: Term
    region: str
    usd_per_device_hour: float
    low: float
    high: float
    rows: tuple[DevicePrice, ...]
    flags: tuple[str, ...]


def price_range(
    hardware: str, term: Term, provider: str | None = None, region: str | None = None, *, today: date
) -> PriceRange | None:
    """Return the price of one device-hour with its range, or None when no table holds one.

    Contradicted rows never count. Published and secondary rows count; assumed ones only when there are none of those,
    marketplace offers only when there is nothing else. Of one offer (provider, sku, region) only the newest row counts.

    Parameters
    ----------
    hardware, term
        Profile id, and on-demand, spot, 1-year or 3-year.
    provider
        Only this provider's offers, in any case of letters.
    region
        Only offers of this region, of those whose name starts with it ("us-east" takes us-east-1), or of region "any".
    today
        Day from which the age of a price is counted.
    """
    offers = [row for row in device_prices() if row.hardware == hardware and _offered(row, provider, region)]
    rows, flags = _usable([row for row in offers if row.term == term])
    if not rows:
        return None
    nominal = median(row.usd_per_device_hour for row in rows)
    flags += _doubts(rows, today)
    on_demand, _ = _usable([row for row in offers if row.term == "on-demand"])
    if term == "spot" and on_demand and nominal > median(row.usd_per_device_hour for row in on_demand):
        flags.append("spot above on-demand")
    low, high = rows[0].usd_per_device_hour, rows[-1].usd_per_device_hour
    return PriceRange(hardware, term, region or ANYWHERE, nominal, low, high, tuple(rows), tuple(flags))


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


def _offered(row: DevicePrice, provider: str | None, region: str | None) -> bool:
    by = provider is None or row.provider.casefold() == provider.casefold()
    return by and (region is None or row.region == ANYWHERE or row.region.startswith(region))


def _usable(rows: list[DevicePrice]) -> tuple[list[DevicePrice], list[str]]:
    """Return the rows that count, cheapest first, and in words what was put aside."""
    tier = next((tier for tier in _TIERS if any(row.quality in tier for row in rows)), ())
    kept = [row for row in rows if row.quality in tier]
    aside = Counter(row.quality for row in rows if row.quality not in tier)
    flags = [f"{tier[0]} {'offer' if tier[0] == 'marketplace' else 'price'} only"] if tier in _TIERS[1:] else []
    if kept and aside:
        flags.append(f"left out: {', '.join(f'{count} {quality}' for quality, count in sorted(aside.items()))}")
    return sorted(_newest(kept), key=lambda row: row.usd_per_device_hour), flags


def _newest(rows: list[DevicePrice]) -> Iterator[DevicePrice]:
    latest: dict[tuple[str, str, str], date] = {}
    for row in rows:
        offer, day = (row.provider.casefold(), row.sku, row.region), first_day(row.date)
        latest[offer] = max(latest.get(offer, day), day)
    return (row for row in rows if first_day(row.date) == latest[row.provider.casefold(), row.sku, row.region])


def _doubts(rows: list[DevicePrice], today: date) -> list[str]:
    flags = []
    old = [row for row in rows if (today - first_day(row.date)).days > STALE_DAYS]
    if len(old) == len(rows):
        flags.append(f"older than a year ({max(row.date for row in rows)})")
    elif old:
        flags.append(f"{len(old)} of {len(rows)} rows older than a year")
    if len({row.source for row in rows}) == 1:
        flags.append("only 1 source")
    return flags


def device_prices() -> tuple[DevicePrice, ...]:
    """Return the rows of every device price table, the user's tables first.

    Tables are the `*.csv` of the folders `prices`. A table replaces those of the same file name in later folders, so a
    user's `devices.csv` stands in for the shipped one and any other name adds to it. Rows are kept in memory until the
    time or size of a table changes on disk; `_tables.cache_clear()` forgets them earlier.

    Raises
    ------
    InputError
        With every problem of every table as ``file:line:column: what``, where column counts fields from 1.
    """
    tables: dict[str, Path] = {}
    for folder in documents.folders("prices"):
        for path in sorted(folder.glob("*.csv")):
            tables.setdefault(path.name, path)
    return _tables(tuple(_stamp(path) for path in tables.values()))


def _stamp(path: Path) -> _Stamp:
    try:
        state = path.stat()
    except OSError:  # reading it says why
        return str(path), 0, 0
    return str(path), state.st_mtime_ns, state.st_size


@lru_cache(maxsize=8)
def _tables(stamps: tuple[_Stamp, ...]) -> tuple[DevicePrice, ...]:
    rows: list[DevicePrice] = []
    problems: list[Problem] = []
    for path, _, _ in stamps:
        try:
            rows += _table(documents.read_text(path), path)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return tuple(rows)


def _table(text: str, path: str) -> list[DevicePrice]:
    lines = records(text, path)
    header = next(lines, None)
    if header is None:
        raise InputError([Problem(path, f"is empty; its first line must name the columns {', '.join(_COLUMNS)}")])
    names = header[1]
    problems = list(_header_problems(names, f"{path}:{header[0]}"))
    if problems:
        raise InputError(problems)
    rows: list[DevicePrice] = []
    for line, cells in lines:
        where = f"{path}:{line}"
        if len(cells) != len(names):
            problems.append(Problem(f"{where}:{len(cells)}", f"has {len(cells)} fields, expected {len(names)}"))
            continue
        found = _row(dict(zip(names, cells, strict=True)), names, where)
        rows += [found] if isinstance(found, DevicePrice) else []
        problems += [] if isinstance(found, DevicePrice) else found
    if problems:
        raise InputError(problems)
    return rows


def records(text: str, path: str) -> Iterator[tuple[int, list[str]]]:
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


def _header_problems(names: list[str], where: str) -> Iterator[Problem]:
    for column, name in enumerate(names, start=1):
        if name not in _COLUMNS:
            yield Problem(f"{where}:{column}", f"unknown column {name[:60]!r}; {suggestion(name[:60], _COLUMNS)}")
        elif name in names[: column - 1]:
            yield Problem(f"{where}:{column}", f"duplicate column {name!r}")
    for name in _REQUIRED:
        if name not in names:
            yield Problem(f"{where}:{len(names) + 1}", f"missing column {name!r}")


def _row(cells: dict[str, str], names: list[str], where: str) -> DevicePrice | list[Problem]:
    blank = [name for name in _REQUIRED if not cells[name]]
    problems = [Problem(f"{where}:{names.index(name) + 1}", f"{name}: is blank") for name in blank]
    try:
        row = DevicePrice.model_validate(cells)
        first_day(row.date)
    except ValidationError as error:
        details = [(str(detail["loc"][0]), detail["msg"]) for detail in error.errors(include_url=False)]
    except ValueError:
        details = [("date", "there is no such day")]
    else:
        return problems or row
    return problems + [
        Problem(f"{where}:{names.index(name) + 1}", _said(name, message, cells[name]))
        for name, message in details
        if name not in blank
    ]


def _said(name: str, message: str, cell: str) -> str:
    message = message.removeprefix("Value error, ")
    got = "" if repr(cell)[:50] in message else f" (got {cell[:60]!r})"
    return f"{name}: {message[:1].lower()}{message[1:]}{got}"
