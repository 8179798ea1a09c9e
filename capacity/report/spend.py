"""What was really spent, read from a bill: FOCUS rows of a provider, or a plain CSV of groups and lines.

Of FOCUS the effective cost counts where it is told (commitments spread over what they cover), else the billed one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from capacity import documents
from capacity.errors import InputError, Problem, UnknownNameError, suggestion
from capacity.money.tables import records
from capacity.problems import MOST
from capacity.report.focus import SERVICES

LARGEST_BYTES = 256_000_000
MOST_OF_ANYTHING = 1e15
"""Amounts, quantities and prices beyond it are mistakes."""
COSTS = ("EffectiveCost", "BilledCost")
PLAIN = ("group", "name", "usd", "month", "quantity", "unit", "unit_price_usd")
REQUIRED = ("group", "name", "usd")
"""Columns of a plain file, and those it cannot do without."""
CHARGES = ("Usage", "Purchase", "Tax", "Credit", "Adjustment")
GROUP_TAG, LINE_TAG = "capacity_group", "capacity_line"
"""Keys of `Tags` that say to which line of a plan a charge belongs."""
GROUPS = {category: group for group, (category, _) in SERVICES.items()} | {"AI and Machine Learning": "devices"}
"""Cost group of a ServiceCategory; all others are `other`."""
NO_MONTH = "all"
"""Month of rows in a file that tells none."""
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?")
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
Aliases = Mapping[str, tuple[str, str]]
"""Group and line that a service of a bill stands for, by its name in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """One row of a bill."""

    month: str
    """As YYYY-MM, or `NO_MONTH`."""
    group: str
    name: str
    usd: float
    quantity: float | None
    unit: str
    """Of the quantity; empty where the file tells none."""
    list_price_usd: float | None
    """Price of a unit without discounts [USD/unit]."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The rows of a bill."""

    path: str
    cost: str
    """Column that the amounts stand in."""
    rows: tuple[Spend, ...]

    @property
    def months(self) -> tuple[str, ...]:
        """Months in which something was spent, in order."""
        return tuple(sorted({row.month for row in self.rows}))

    def during(self, months: Sequence[str]) -> Ledger:
        """Return the rows of some months.

        Raises
        ------
        UnknownNameError
            For a month in which nothing was spent.
        """
        for month in months:
            if month not in self.months:
                raise UnknownNameError("month", month, self.months)
        return replace(self, rows=tuple(row for row in self.rows if row.month in months))


@dataclass(frozen=True, slots=True)
class _Record:
    """A line of the file: its fields by the name of their column, and what is wrong with them."""

    where: str
    places: Mapping[str, int]
    cells: Sequence[str]
    problems: list[Problem]

    def text(self, *names: str) -> str:
        """Return the first of some fields that is there and not blank."""
        found = (self.cells[self.places[name]] for name in names if name in self.places)
        return next(filter(None, found), "")

    def wrong(self, name: str, what: str) -> None:
        """Note what is wrong with a field."""
        place = self.places.get(name, len(self.cells))
        self.problems.append(Problem(f"{self.where}:{place + 1}", f"{name}: {what}"))

    def number(self, name: str) -> float | None:
        """Return a field's number; None where it is blank or not there."""
        said = self.text(name)
        if not said:
            return None
        if not _NUMBER.fullmatch(said):
            self.wrong(name, f"{said[:40]!r} is no number; write it as 1234.56")
        elif abs(float(said)) > MOST_OF_ANYTHING:
            self.wrong(name, f"{said[:40]!r} is beyond {MOST_OF_ANYTHING:g}")
        else:
            return float(said)
        return None

    def cost(self, name: str) -> float:
        """Return an amount, which may not be blank."""
        if not self.text(name):
            self.wrong(name, "is blank")
        return self.number(name) or 0.0

    def required(self, name: str) -> str:
        """Return a text that may not be blank."""
        if not self.text(name):
            self.wrong(name, "is blank")
        return self.text(name)


def read(path: Path, aliases: Aliases) -> Ledger:
    """Return the bill in a CSV file.

    Parameters
    ----------
    aliases
        What services stand for; FOCUS only.

    Raises
    ------
    InputError
        With every problem as ``file:line:column: what``, where column counts fields from 1.
    """
    lines = records(documents.read_text(path, LARGEST_BYTES), str(path))
    line, names = next(lines, (1, []))
    cost = next((name for name in COSTS if name in names), "usd")
    problems = list(_header_problems(names, f"{path}:{line}", plain=cost == "usd"))
    if problems:
        raise InputError(problems)
    places = {name: place for place, name in enumerate(names)}
    rows: list[Spend] = []
    for line, cells in lines:
        if len(cells) != len(names):
            problems.append(Problem(f"{path}:{line}:{len(cells)}", f"has {len(cells)} fields, expected {len(names)}"))
            continue
        record = _Record(f"{path}:{line}", places, cells, problems)
        rows += [_plain(record)] if cost == "usd" else _focus(record, cost, aliases)
    if not rows and not problems:
        problems = [Problem(str(path), "holds no spending; a charge is one row below the line of column names")]
    if problems:
        more = len(problems) - MOST
        raise InputError([*problems[:MOST], *([Problem(str(path), f"and {more:,} more problems")] if more > 0 else [])])
    return Ledger(str(path), cost, tuple(rows))


def _header_problems(names: Sequence[str], where: str, *, plain: bool) -> Iterator[Problem]:
    forms = f"a plain file has {', '.join(REQUIRED)}, FOCUS rows have {' or '.join(COSTS)}"
    if plain and not {*REQUIRED} & {*names}:
        yield Problem(where, f"is no bill that can be read; {forms}")
        return
    for column, name in enumerate(names, start=1):
        if name in names[: column - 1]:
            yield Problem(f"{where}:{column}", f"duplicate column {name!r}")
        elif plain and name not in PLAIN:
            yield Problem(f"{where}:{column}", f"unknown column {name[:60]!r}; {suggestion(name[:60], PLAIN)}")
    for name in REQUIRED if plain else ("ChargePeriodStart", "ServiceName"):
        if name not in names:
            yield Problem(f"{where}:{len(names) + 1}", f"missing column {name!r}; {forms}")


def _plain(record: _Record) -> Spend:
    month = record.required("month")[:7] if "month" in record.places else NO_MONTH
    if month not in {NO_MONTH, ""} and not _MONTH.fullmatch(month):
        record.wrong("month", f"{month!r} is no month; write it as YYYY-MM")
    return Spend(
        month=month, group=record.required("group"), name=record.required("name"), usd=record.cost("usd"),
        quantity=record.number("quantity"), unit=record.text("unit"), list_price_usd=record.number("unit_price_usd"),
    )  # fmt: skip


def _focus(record: _Record, cost: str, aliases: Aliases) -> list[Spend]:
    """Return the row of a charge; nothing for a line of our own forecasts that has no price."""
    if record.text("x_Missing") and not record.text(cost):
        return []
    currency, charge = record.text("BillingCurrency"), record.text("ChargeCategory")
    if currency not in {"", "USD"}:
        record.wrong("BillingCurrency", f"{currency[:20]!r} is not USD; convert the file first")
    if charge not in {"", *CHARGES}:
        record.wrong("ChargeCategory", f"{charge[:40]!r} is none of {', '.join(CHARGES)}")
    group, name = _line(record, charge, aliases)
    price, unit, consumed = record.number("ListUnitPrice"), record.text("PricingUnit"), record.text("ConsumedUnit")
    quantity = record.number("PricingQuantity")
    if quantity is None:
        quantity, price = record.number("ConsumedQuantity"), price if unit in {"", consumed} else None
        unit = consumed
    return [
        Spend(
            month=_month(record), group=group, name=name, usd=record.cost(cost), quantity=quantity, unit=unit,
            list_price_usd=price,
        )
    ]  # fmt: skip


def _line(record: _Record, charge: str, aliases: Aliases) -> tuple[str, str]:
    """Return group and line of a charge: what its columns or tags say, else its service's alias, else its category."""
    tags = _tags(record)
    service = record.text("ServiceName") or record.text("x_Line")
    group, name = record.text("x_Group") or tags.get(GROUP_TAG, ""), record.text("x_Line") or tags.get(LINE_TAG, "")
    alias = aliases.get(service.casefold(), ("", ""))
    if not service and not name:
        record.wrong("ServiceName", "is blank")
    told = GROUPS.get(record.text("ServiceCategory"), "other")
    usual = told if charge in {"", "Usage", "Purchase"} else charge.casefold()
    return group or alias[0] or usual, name or alias[1] or service


def _tags(record: _Record) -> dict[str, str]:
    said = record.text("Tags")
    try:
        found = json.loads(said) if said else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        record.wrong("Tags", "is no JSON object")
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _month(record: _Record) -> str:
    said = record.required("ChargePeriodStart")
    try:
        start = datetime.fromisoformat(said)
        return (start.astimezone(UTC) if start.tzinfo else start).strftime("%Y-%m")
    except (ValueError, OverflowError):
        if said:
            record.wrong("ChargePeriodStart", f"{said[:40]!r} is no moment; write it as 2026-12-01T00:00:00Z")
        return NO_MONTH
