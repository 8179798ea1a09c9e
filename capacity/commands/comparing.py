"""`capacity report --compare`, a plan against an earlier report, and `capacity actual`, against what was spent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capacity import documents
from capacity.commands.planning import Request, console, rich_table, share, write
from capacity.errors import InputError, Problem

if TYPE_CHECKING:
    from capacity.report.actual import Actual

LARGEST_BYTES = 64_000_000
"""Of a file that is read as a report."""
FORMATS = ("markdown", "json")
HOW = "write one with `capacity report SCENARIO --format json`"


def write_change(request: Request, old: Path, format_: str, output: Path | None, fail_over: str | None) -> int:
    """Write what changed since an earlier JSON report; exit 1 when infeasible or dearer by more than allowed."""
    from capacity.report import comparison, json_report, markdown

    if format_ not in FORMATS:
        raise InputError(f"--compare writes {' or '.join(FORMATS)}, not {format_}")
    allowed = None if fail_over is None else share("--fail-over", fail_over)
    before = _report(old)
    plan = request.plan()
    after = json_report.to_dict(plan)
    found = comparison.compare(before, after)
    failure = "" if allowed is None else comparison.gate(found.best, allowed)
    if format_ == "json":
        write(json.dumps({**comparison.to_dict(found), "gate_failed": failure}) + "\n", output)
    else:
        passed = "" if allowed is None else f"Gate passed: the cost rises by at most {allowed:.1%}."
        write(markdown.compare(before, after, f"Gate failed: {failure}." if failure else passed), output)
    if failure:
        console(stderr=True).print(f"gate failed: {failure}", style="red")
    return 0 if plan.best and not failure else 1


def _report(path: Path) -> dict[str, Any]:
    text = documents.read_text(path, LARGEST_BYTES)
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise InputError([Problem(where, f"is not JSON: {error.msg}; {HOW}")]) from None
    except (RecursionError, ValueError) as error:
        raise InputError([Problem(str(path), f"is not JSON: {error}; {HOW}")]) from None
    if not isinstance(found, dict):
        raise InputError([Problem(str(path), f"holds no report; {HOW}")])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What the user asked `capacity actual` for."""

    file: Path
    months: Sequence[str]
    """As YYYY-MM; empty: all of the file."""
    mapped: Sequence[str]
    """SERVICE=GROUP or SERVICE=GROUP/LINE."""
    fail_over: str | None


def show_actual(request: Request, bill: Bill, *, as_json: bool) -> int:
    """Print planned beside spent; exit 1 when nothing feasible is planned or more was spent than allowed."""
    from capacity.report import actual, spend

    allowed = None if bill.fail_over is None else share("--fail-over", bill.fail_over)
    ledger = spend.read(bill.file, _aliases(bill.mapped))
    if bill.months:
        ledger = ledger.during(bill.months)
    plan = request.plan()
    if plan.best is None:
        console(stderr=True).print("no option is feasible: `capacity plan` says why", style="red")
        return 1
    found = actual.against(plan, plan.best, ledger)
    failure = "" if allowed is None else actual.gate(found, allowed)
    if as_json:
        print(actual.dumps(found, failure), end="")
    else:
        _print_actual(found)
    if failure:
        console(stderr=True).print(f"gate failed: {failure}", style="red")
    return 1 if failure else 0


def _print_actual(found: Actual) -> None:
    from capacity.report import actual

    screen = console()
    screen.print(actual.answer(found), soft_wrap=True, markup=False)
    screen.print()
    for table in (actual.lines_table(found), actual.groups_table(found), actual.months_table(found)):
        if table.rows:
            screen.print(rich_table(table))
    for caveat in actual.caveats(found):
        screen.print(f"• {caveat}", soft_wrap=True, markup=False)


def _aliases(mapped: Sequence[str]) -> dict[str, tuple[str, str]]:
    found = {}
    for said in mapped:
        service, _, line = said.rpartition("=")
        group, _, name = line.partition("/")
        if not service.strip() or not group.strip():
            raise InputError([Problem("--map", f"{said!r}: write it as SERVICE=GROUP or SERVICE=GROUP/LINE")])
        found[service.strip().casefold()] = (group.strip(), name.strip())
    return found
