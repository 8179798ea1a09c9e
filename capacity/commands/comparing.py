"""`capacity report --compare`: a plan against an earlier report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from capacity import documents
from capacity.commands.planning import Request, console, share, write
from capacity.errors import InputError, Problem

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
