"""Budget against actual: a plan's monthly bill beside what was spent, line by line, and what moved each line.

Difference = (quantity − planned quantity) · planned price        more of it
           + quantity · (list price − planned price)               dearer
           + cost − quantity · list price                          discounts, credits, rounding
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from capacity.plan import CostLine, Option, Plan
from capacity.report import figures
from capacity.report.cells import Column, Missing, Number, Row, Table, shown
from capacity.report.comparison import Change, plain
from capacity.report.csv_report import neutral
from capacity.report.focus import UNITS
from capacity.report.spend import NO_MONTH, Ledger, Spend

SCHEMA, VERSION = "capacity.actual", 1
PLANNED, UNPLANNED, UNSPENT = "planned", "not planned", "nothing spent"
"""What a line is: in plan and bill, only in the bill, only in the plan."""
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the plan, of the bill, or of both."""

    group: str
    status: str
    amount: Change
    """Planned and actual [USD/month]."""
    by_quantity: Number
    by_price: Number
    by_discount: Number
    """What moved it [USD/month]; they add up to the difference where all are known."""


@dataclass(frozen=True, slots=True)
class Actual:
    """A plan's bill against what was spent in a mean month."""

    plan: Plan
    option: Option
    ledger: Ledger
    months: tuple[Change, ...]
    """Total of each month, named as YYYY-MM."""
    groups: tuple[Change, ...]
    lines: tuple[Line, ...]
    total: Change


def against(plan: Plan, option: Option, ledger: Ledger) -> Actual:
    """Return the bill of `option`, which has a cost, against the mean of the ledger's months."""
    bill = option.cost.lines if option.cost is not None else ()
    planned: dict[_Key, list[CostLine]] = {}
    for line in bill:
        planned.setdefault(_key(line.group, line.name), []).append(line)
    spent: dict[_Key, list[Spend]] = {}
    for row in ledger.rows:
        spent.setdefault(_key(row.group, row.name), []).append(row)
    count = len(ledger.months)
    lines = tuple(_line(planned.get(key, ()), spent.get(key, ()), count) for key in dict.fromkeys((*planned, *spent)))
    total = _total(option)
    by_month = {month: math.fsum(row.usd for row in ledger.rows if row.month == month) for month in ledger.months}
    return Actual(
        plan=plan, option=option, ledger=ledger, lines=lines, groups=_groups(lines),
        months=tuple(Change(month, total, usd) for month, usd in by_month.items()),
        total=Change("total", total, math.fsum(row.usd for row in ledger.rows) / count),
    )  # fmt: skip


def _key(group: str, name: str) -> _Key:
    """Return what tells a line from others: a text that was made safe for spreadsheets is the same line."""
    return neutral(group.strip()).casefold(), neutral(name.strip()).casefold()


def _total(option: Option) -> Number:
    """Return the sum of the planned lines that have a price [USD/month]; missing where the devices have none."""
    told = figures.monthly_usd(option)
    amounts = [line.usd for line in (option.cost.lines if option.cost else ()) if line.usd is not None]
    return told if isinstance(told, Missing) else math.fsum(amounts)


def _line(planned: Sequence[CostLine], spent: Sequence[Spend], count: int) -> Line:
    """Return one line; `count` months are averaged."""
    usd = math.fsum(row.usd for row in spent) / count
    if not planned:
        change = Change(spent[0].name, 0.0, usd)
        return Line(spent[0].group, UNPLANNED, change, usd, 0.0, 0.0)
    amounts = [figures.line_usd(line) for line in planned]
    gap = next((amount for amount in amounts if isinstance(amount, Missing)), None)
    before: Number = gap or math.fsum(amount for amount in amounts if not isinstance(amount, Missing))
    change = Change(planned[0].name, before, usd)
    line = Line(planned[0].group, PLANNED, change, change.delta, 0.0, 0.0)
    if not spent:
        return replace(line, status=UNSPENT)
    return line if isinstance(before, Missing) else _moved(line, planned, spent, count)


def _moved(line: Line, planned: Sequence[CostLine], spent: Sequence[Spend], count: int) -> Line:
    """Return a line with its difference split, as far as the bill tells quantities and list prices."""
    before, after = line.amount.old, line.amount.new
    why = _untold(planned, spent)
    if why or isinstance(before, Missing) or isinstance(after, Missing):
        return replace(line, by_quantity=Missing(why), by_price=Missing(why), by_discount=Missing(why))
    quantity = math.fsum(item.quantity for item in planned)
    used = math.fsum(row.quantity or 0.0 for row in spent) / count
    at_old_price = before if used == quantity else used * before / quantity
    if any(row.list_price_usd is None for row in spent):
        unknown = Missing("the bill tells no list price")
        return replace(line, by_quantity=at_old_price - before, by_price=after - at_old_price, by_discount=unknown)
    listed = math.fsum((row.quantity or 0.0) * (row.list_price_usd or 0.0) for row in spent) / count
    return replace(line, by_quantity=at_old_price - before, by_price=listed - at_old_price, by_discount=after - listed)


def _untold(planned: Sequence[CostLine], spent: Sequence[Spend]) -> str:
    """Return why quantities cannot be compared; empty where they can."""
    if any(row.quantity is None for row in spent):
        return "the bill tells no quantity"
    if math.fsum(item.quantity for item in planned) <= 0:
        return "no quantity of it is planned"
    told, known = {row.unit for row in spent} - {""}, {item.unit for item in planned}
    same = {unit.casefold() for unit in known} | {UNITS.get(unit, unit).casefold() for unit in known}
    if len(known) > 1 or not {unit.casefold() for unit in told} <= same:
        return f"counted in {', '.join(sorted(told))}, planned in {', '.join(sorted(known))}"
    return ""


def _groups(lines: Sequence[Line]) -> tuple[Change, ...]:
    """Return the sum of each group, named as its first line names it: case does not tell groups apart."""
    found: dict[_Key, list[Line]] = {}
    for line in lines:
        found.setdefault(_key(line.group, ""), []).append(line)
    return tuple(
        Change(same[0].group, _sum([line.amount.old for line in same]), _sum([line.amount.new for line in same]))
        for same in found.values()
    )


def _sum(amounts: Sequence[Number]) -> Number:
    gap = next((amount for amount in amounts if isinstance(amount, Missing)), None)
    return gap or math.fsum(amount for amount in amounts if not isinstance(amount, Missing))


def answer(found: Actual) -> str:
    """Return planned and actual, their difference, and whether it lies within the plan's range, in one sentence."""
    total, months = found.total, found.ledger.months
    span = months[0] if len(months) == 1 else f"the mean of {len(months)} months, {months[0]} to {months[-1]}"
    when = "" if months == (NO_MONTH,) else f" in {span}" if len(months) == 1 else f" ({span})"
    start = f"Planned {shown(total.old, 'usd')} a month on {found.option.name}; spent {shown(total.new, 'usd')}{when}"
    if isinstance(total.delta, Missing):
        return f"{start}."
    share = shown(total.fraction, "fraction", signed=True)
    return f"{start}: {shown(total.delta, 'usd', signed=True)} ({share}), {_within(found)}."


def _within(found: Actual) -> str:
    low, high = (figures.monthly_usd_at(found.option, end) for end in ("p10", "p90"))
    spent = found.total.new
    if isinstance(low, Missing) or isinstance(high, Missing) or isinstance(spent, Missing):
        return "the plan has no range"
    where = "below" if spent < low else "above" if spent > high else "within"
    return f"{where} its P10 – P90 ({shown(low, 'usd')} – {shown(high, 'usd')})"


def gate(found: Actual, allowed: float) -> str:
    """Return why the spending fails a limit on what it may exceed the plan by, a fraction; empty where it holds."""
    over = found.total.fraction
    if isinstance(over, Missing):
        return f"nothing to compare with ({over.reason}), at most {allowed:.1%} allowed"
    return f"{over:.1%} more was spent than planned, at most {allowed:.1%} allowed" if over > allowed else ""


def caveats(found: Actual) -> tuple[str, ...]:
    """Return what a reader should know before trusting the difference."""
    said = [f"Amounts are those of the column {found.ledger.cost}; a planned month has 730 h, whatever its length."]
    missing = found.option.cost.missing if found.option.cost else ()
    if missing:
        said.append(f"Without a price, and not in the planned total: {', '.join(missing)}.")
    for status, words in ((UNPLANNED, "Spent, but in no line of the plan"), (UNSPENT, "Planned, but not in the bill")):
        names = [f"{line.group}/{line.amount.name}" for line in found.lines if line.status == status]
        if names:
            said.append(f"{words}: {', '.join(names)}.")
    return tuple(said)


_AMOUNTS = (
    Column("planned_usd_per_month", "Planned", "usd"),
    Column("actual_usd_per_month", "Actual", "usd"),
    Column("delta_usd_per_month", "Difference", "usd", signed=True),
    Column("delta_fraction", "[%]", "fraction", signed=True),
)
_MOVED = (
    Column("by_quantity_usd_per_month", "By quantity", "usd", signed=True),
    Column("by_price_usd_per_month", "By price", "usd", signed=True),
    Column("by_discount_usd_per_month", "By discount", "usd", signed=True),
)


def _cells(change: Change) -> Row:
    values = (change.old, change.new, change.delta, change.fraction)
    return {"name": change.name, **{column.key: value for column, value in zip(_AMOUNTS, values, strict=True)}}


def lines_table(found: Actual) -> Table:
    """Return every line of plan and bill, the largest difference first, and the total."""
    columns = (Column("group", "Group"), Column("name", "Line"), Column("status", "What it is"), *_AMOUNTS, *_MOVED)
    rows = tuple(_row(line) for line in sorted(found.lines, key=_size, reverse=True))
    blank = dict.fromkeys((column.key for column in columns), "")
    return Table("Planned and spent, USD a month", columns, rows, {**blank, **_cells(found.total)})


def _size(line: Line) -> float:
    delta = line.amount.delta
    return math.inf if isinstance(delta, Missing) else abs(delta)


def _row(line: Line) -> Row:
    moved = (line.by_quantity, line.by_price, line.by_discount)
    parts = {column.key: value for column, value in zip(_MOVED, moved, strict=True)}
    return {"group": line.group, "status": line.status, **_cells(line.amount), **parts}


def groups_table(found: Actual) -> Table:
    """Return the groups and the total."""
    columns = (Column("name", "Group"), *_AMOUNTS)
    return Table("By group, USD a month", columns, tuple(map(_cells, found.groups)), _cells(found.total))


def months_table(found: Actual) -> Table:
    """Return the total of each month; no rows where the file tells no months."""
    rows = () if found.ledger.months == (NO_MONTH,) else tuple(map(_cells, found.months))
    return Table("By month, USD", (Column("name", "Month"), *_AMOUNTS), rows)


def to_dict(found: Actual) -> dict[str, Any]:
    """Return everything as plain data; a missing number is null beside its reason."""
    tables: Mapping[str, Table] = {
        "months": months_table(found),
        "groups": groups_table(found),
        "lines": lines_table(found),
    }
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "scenario": found.plan.scenario,
        "changes": list(found.plan.changes),
        "date": found.plan.date,
        "hardware": found.option.hardware,
        "source": found.ledger.path,
        "cost": found.ledger.cost,
        "answer": answer(found),
        "caveats": list(caveats(found)),
        "total": plain(_cells(found.total)),
        **{name: [plain(row) for row in table.rows] for name, table in tables.items()},
    }


def dumps(found: Actual, failure: str) -> str:
    """Return `to_dict` as JSON text, and why a gate failed; empty where none did."""
    content = {**to_dict(found), "gate_failed": failure}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
