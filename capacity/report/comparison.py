"""Two JSON reports set against each other: totals and deltas by option and group, and what moved each line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capacity.errors import InputError, Problem
from capacity.report.cells import Column, Missing, Number, Row, Table
from capacity.report.json_report import SCHEMA, VERSION

Json = Mapping[str, Any]
NOTHING = "not there"
_Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Change:
    """An amount before and after [USD/month]."""

    name: str
    old: Number
    new: Number

    @property
    def delta(self) -> Number:
        """New minus old [USD/month]; missing where either is."""
        if isinstance(self.old, Missing):
            return Missing(f"before: {self.old.reason}")
        if isinstance(self.new, Missing):
            return Missing(f"now: {self.new.reason}")
        return self.new - self.old

    @property
    def fraction(self) -> Number:
        """Delta as a share of the old amount; missing where that is 0."""
        delta = self.delta
        if isinstance(delta, Missing) or isinstance(self.old, Missing):
            return delta
        if self.old == 0:
            return Missing("was nothing") if delta else 0.0
        return delta / self.old


@dataclass(frozen=True, slots=True)
class LineChange:
    """A cost line before and after, its delta split into more of it and dearer: Δq · old price + new q · Δprice."""

    group: str
    amount: Change
    by_quantity: Number
    by_price: Number


@dataclass(frozen=True, slots=True)
class OptionChange:
    """One hardware before and after."""

    hardware: str
    name: str
    devices: Change
    """Serving devices, spares included; a count, not money."""
    total: Change
    groups: tuple[Change, ...]
    lines: tuple[LineChange, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two reports: their answers, the cost of the best option of each, and every option."""

    title: str
    """Title of the new report."""
    old_answer: str
    new_answer: str
    old_from: str
    new_from: str
    """Scenario of each report, and the day its prices are judged at."""
    best: Change
    best_groups: tuple[Change, ...]
    """Groups of the best options' bills, which may be bills of two devices."""
    options: tuple[OptionChange, ...]


def compare(old: Json, new: Json) -> Comparison:
    """Return what changed from one JSON report to another.

    Raises
    ------
    InputError
        When one is no report of this schema and version, or lacks a part of it.
    """
    problems = [problem for name, report in (("old", old), ("new", new)) for problem in _problems(name, report)]
    if problems:
        raise InputError(problems)
    try:
        return _compared(old, new)
    except (AttributeError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"a report of schema {SCHEMA!r} lacks a part or holds a wrong one: {error}") from None


def _compared(old: Json, new: Json) -> Comparison:
    before, after = ({option["hardware"]: option for option in report["options"]} for report in (old, new))
    names = dict.fromkeys([*after, *before])
    return Comparison(
        title=_text(new, "title"),
        old_answer=_text(old, "answer"),
        new_answer=_text(new, "answer"),
        old_from=_origin(old),
        new_from=_origin(new),
        best_groups=_groups(*(_bill(_best(report)).get("groups_usd_per_month", {}) for report in (old, new))),
        best=Change(_best_name(old, new), _total(_best(old)), _total(_best(new))),
        options=tuple(_option(before.get(name), after.get(name)) for name in names),
    )


def _problems(name: str, report: Json) -> Iterable[Problem]:
    found = (report.get("schema"), report.get("version"))
    if found != (SCHEMA, VERSION):
        yield Problem(name, f"is not a report of schema {SCHEMA!r}, version {VERSION} (got {found[0]!r}, {found[1]!r})")


def _origin(report: Json) -> str:
    return f"{_text(report, 'scenario')}, prices as of {_text(report, 'date')}"


def _best(report: Json) -> Json | None:
    return next((option for option in report["options"] if option["hardware"] == report["best"]), None)


def _best_name(old: Json, new: Json) -> str:
    names = [_text(best, "name") if best else "none feasible" for best in (_best(old), _best(new))]
    return names[0] if names[0] == names[1] else " → ".join(names)


def _text(holder: Json, key: str) -> str:
    if not isinstance(holder[key], str):
        raise TypeError(f"{key} is {holder[key]!r}, no text")
    return str(holder[key])


def _read(holder: Json, key: str) -> Number:
    value = holder.get(key)
    if value is None:
        return Missing(str(holder.get(f"{key}_reason", NOTHING)))
    if isinstance(value, bool) or not math.isfinite(value):
        raise TypeError(f"{key} is {value!r}, no number")
    return float(value)


def _number(holder: Json, key: str) -> float:
    value = _read(holder, key)
    if isinstance(value, Missing):
        raise TypeError(f"{key} is null")
    return value


def _bill(option: Json | None) -> Json:
    return (option["cost"] or {}) if option else {}


def _total(option: Json | None) -> Number:
    if option is None:
        return Missing("no feasible option")
    cost = option["cost"]
    return Missing(_text(option, "cost_reason")) if cost is None else _read(cost, "usd_per_month")


def _option(old: Json | None, new: Json | None) -> OptionChange:
    either = new or old or {}
    totals = [Missing("not compared") if option is None else _total(option) for option in (old, new)]
    counts = [Missing("not compared") if option is None else _read(option, "devices") for option in (old, new)]
    before, after = _bill(old), _bill(new)
    return OptionChange(
        hardware=_text(either, "hardware"),
        name=_text(either, "name"),
        devices=Change("devices", *counts),
        total=Change("total", *totals),
        groups=_groups(before.get("groups_usd_per_month", {}), after.get("groups_usd_per_month", {})),
        lines=_lines(before.get("lines", ()), after.get("lines", ())),
    )


def _groups(old: Json, new: Json) -> tuple[Change, ...]:
    names = [name for name in dict.fromkeys([*new, *old]) if not name.endswith("_reason")]
    return tuple(Change(name, _group(old, name), _group(new, name)) for name in names)


def _group(groups: Json, name: str) -> Number:
    """Return a group's amount; a group that a priced bill does not have costs nothing."""
    return _read(groups, name) if name in groups else 0.0 if groups else Missing("no bill")


def _lines(old: Sequence[Json], new: Sequence[Json]) -> tuple[LineChange, ...]:
    """Return the lines of two bills; none where one of the bills does not exist."""
    if not old or not new:
        return ()
    before, after = _keyed(old), _keyed(new)
    return tuple(_line(key, before.get(key), after.get(key)) for key in dict.fromkeys([*after, *before]))


def _keyed(lines: Sequence[Json]) -> dict[_Key, Json]:
    """Return lines by group, name and, for equal names, their place among them."""
    found: dict[_Key, Json] = {}
    for line in lines:
        name = _text(line, "group"), _text(line, "name")
        found[*name, sum(key[:2] == name for key in found)] = line
    return found


def _line(key: _Key, old: Json | None, new: Json | None) -> LineChange:
    group, name, _ = key
    amounts = [0.0 if line is None else _read(line, "usd_per_month") for line in (old, new)]
    change = Change(name, *amounts)
    if isinstance(change.delta, Missing):
        return LineChange(group, change, change.delta, change.delta)
    if old is None or new is None:
        return LineChange(group, change, change.delta, 0.0)
    quantity = _number(new, "quantity")
    if quantity == _number(old, "quantity"):
        return LineChange(group, change, 0.0, change.delta)
    by_price = quantity * (_number(new, "unit_price_usd") - _number(old, "unit_price_usd"))
    return LineChange(group, change, change.delta - by_price, by_price)


_CHANGE = (
    Column("old_usd_per_month", "Before [USD/month]", "usd"),
    Column("new_usd_per_month", "Now [USD/month]", "usd"),
    Column("delta_usd_per_month", "Change [USD/month]", "usd", signed=True),
    Column("delta_fraction", "Change [%]", "fraction", signed=True),
)
_NAMED = (Column("hardware", "Hardware"), Column("name", "What"))


def _cells(change: Change) -> Row:
    return {
        "name": change.name,
        "old_usd_per_month": change.old,
        "new_usd_per_month": change.new,
        "delta_usd_per_month": change.delta,
        "delta_fraction": change.fraction,
    }


def totals_table(comparison: Comparison) -> Table:
    """Return the best option's cost and every option's total: before, now, change."""
    devices = (Column("old_devices", "Devices before", "whole"), Column("new_devices", "Devices now", "whole"))
    rows: list[Row] = [
        {
            **_cells(option.total),
            "hardware": option.name,
            "old_devices": option.devices.old,
            "new_devices": option.devices.new,
        }
        for option in comparison.options
    ]
    return Table("Totals", (_NAMED[0], *devices, *_CHANGE), tuple(rows))


def best_table(comparison: Comparison) -> Table:
    """Return the groups of the best options' bills and their total: before, now, change."""
    return _by_group("Best option", comparison.best_groups, comparison.best)


def groups_table(option: OptionChange) -> Table:
    """Return the groups of one option's bill and their total: before, now, change."""
    return _by_group("Groups", option.groups, option.total)


def _by_group(title: str, groups: Sequence[Change], total: Change) -> Table:
    rows = tuple(_cells(change) for change in groups)
    return Table(title, (_NAMED[1], *_CHANGE), rows, {**_cells(total), "name": "total"})


def gate(best: Change, allowed: float) -> str:
    """Return why the best option's cost fails a limit on its rise, a fraction; empty where it holds.

    Examples
    --------
    >>> gate(Change("a", 100.0, 104.0), 0.05), gate(Change("a", 100.0, 110.0), 0.05)
    ('', 'the cost of the best option rises by 10.0%, at most 5.0% allowed')
    >>> gate(Change("a", Missing("no price"), 1.0), 0.05)
    'no price to compare (before: no price), at most 5.0% allowed'
    """
    rise = best.fraction
    if isinstance(rise, Missing):
        return f"no price to compare ({rise.reason}), at most {allowed:.1%} allowed"
    return f"the cost of the best option rises by {rise:.1%}, at most {allowed:.1%} allowed" if rise > allowed else ""


def lines_table(option: OptionChange) -> Table:
    """Return the lines that changed, each with what more of it and what a new price did."""
    split = (
        Column("by_quantity_usd_per_month", "By quantity [USD/month]", "usd", signed=True),
        Column("by_price_usd_per_month", "By price [USD/month]", "usd", signed=True),
    )
    rows: tuple[Row, ...] = tuple(
        {**_cells(line.amount), "group": line.group}
        | dict(zip((c.key for c in split), (line.by_quantity, line.by_price), strict=True))
        for line in option.lines
        if line.amount.delta != 0
    )
    return Table("Lines that changed", (Column("group", "Group"), _NAMED[1], *_CHANGE, *split), rows)


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain data for `capacity compare --json`; a missing number is null beside its reason."""
    return {
        "schema": "capacity.comparison",
        "version": 1,
        "title": comparison.title,
        "old_answer": comparison.old_answer,
        "new_answer": comparison.new_answer,
        "old_from": comparison.old_from,
        "new_from": comparison.new_from,
        "best": plain(_cells(comparison.best)),
        "best_groups": [plain(_cells(change)) for change in comparison.best_groups],
        "options": [
            {
                "hardware": option.hardware,
                "total": plain(_cells(option.total)),
                "groups": [plain(_cells(change)) for change in option.groups],
                "lines": [plain(row) for row in lines_table(option).rows],
            }
            for option in comparison.options
        ],
    }


def plain(row: Row) -> dict[str, Any]:
    """Return a row as plain data: a missing number is null beside its reason."""
    found: dict[str, Any] = {}
    for key, cell in row.items():
        found |= {key: None, f"{key}_reason": cell.reason} if isinstance(cell, Missing) else {key: cell}
    return found
