"""`capacity plan`, `compare` and `report`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capacity import catalogue, documents, files, planner, references
from capacity.errors import InputError, Problem, UnitError, UnknownNameError
from capacity.plan import Option, Plan
from capacity.report import figures, sentence, table
from capacity.report.training import training_table
from capacity.report.unit_costs import energy, unit_table, use_table
from capacity.spec.scenario import Scenario
from capacity.units import parse

if TYPE_CHECKING:
    from rich.console import Console

    from capacity.report.cells import Table as ReportTable

WIDTH = 120
FORMATS = ("markdown", "html", "csv", "json", "focus")
"""Formats that are text: to a file, or to standard output."""
BINARY = ("parquet", "pdf", "xlsx")
"""Formats that are no text: to a file only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What plan, compare and report have in common."""

    scenario: str
    hardware: tuple[str, ...]
    overrides: tuple[str, ...]
    settings: tuple[str, ...]
    calibrations: tuple[str, ...]
    today: date

    @classmethod
    def of(
        cls, scenario: str, hardware: Sequence[str] | None, overrides: Sequence[str] | None,
        settings: Sequence[str] | None, calibrations: Sequence[str] | None, today: str | None,
    ) -> Request:  # fmt: skip
        """Return the request that the command's options say."""
        try:
            day = date.today() if today is None else date.fromisoformat(today)
        except ValueError:
            raise InputError([Problem("--today", f"{today!r} is no date; write it as YYYY-MM-DD")]) from None
        return cls(
            scenario=scenario, hardware=tuple(hardware or ()), overrides=tuple(overrides or ()),
            settings=tuple(settings or ()), calibrations=tuple(calibrations or ()), today=day,
        )  # fmt: skip

    def read(self) -> tuple[documents.Document, Scenario]:
        """Return the scenario with overrides and settings, as written and as data."""
        document = catalogue.scenario_document(self.scenario, self.overrides, self.settings)
        return document, documents.validated(document, Scenario)

    def plan(self) -> Plan:
        """Return the plan that is asked for."""
        document, scenario = self.read()
        given = planner.inputs(scenario, self.calibrations, self.today, document)
        if not self.hardware:
            references.devices(scenario, document, partial(planner.profile, given=given))
        return planner.plan(scenario, given, self.hardware or None, (*self.overrides, *self.settings))


def share(flag: str, value: str, least: float = -math.inf, most: float = math.inf) -> float:
    """Return the share that a flag says, e.g. 0.05 for "5%"; `least` and `most` bound it."""
    try:
        number = parse(value, "fraction")
    except UnitError as error:
        raise InputError([Problem(flag, str(error))]) from None
    if not least <= number <= most:
        limit = f"at least {least:.0%}" + (f" and at most {most:.0%}" if math.isfinite(most) else "")
        raise InputError([Problem(flag, f"{value} is out of range; write {limit}")])
    return number


def show_plan(request: Request, *, as_json: bool) -> int:
    """Print the plan; exit 1 when no option is feasible."""
    plan = request.plan()
    if as_json:
        from capacity.report import json_report

        print(json_report.dumps(plan), end="")
    else:
        _print_plan(plan)
    return 0 if plan.best else 1


def _print_plan(plan: Plan) -> None:
    from rich.markup import escape

    screen = console()
    said = "".join(f"[bold]{escape(p.text)}[/bold]" if p.strong else escape(p.text) for p in sentence.pieces(plan))
    screen.print(said, soft_wrap=True)
    screen.print()
    options = table.options_table(plan)
    screen.print(rich_table(_only(options, "options")))
    for option in plan.options:
        if option.violations:
            screen.print(f"✗ {escape(option.name)} misses {escape(figures.first_missed(option))}", soft_wrap=True)
    best = plan.options[0] if plan.options else None
    if best is not None:
        for name, part in _worth_showing(best).items():
            screen.print(rich_table(_only(part, name)))
        if said := energy(best):
            screen.print(said, soft_wrap=True)
    if best is not None:
        for caveat in sentence.option_caveats(plan, best):
            screen.print(f"• {escape(best.name)}: {escape(caveat)}", soft_wrap=True)
        if len(plan.options) > 1:
            screen.print("• What is not known of the other options stands in `capacity report`.")


SHOWN = {
    "training": ("name", "devices", "layout", "step_s", "basis", "mfu_fraction", "useful_fraction", "bound"),
    "options": (
        "name",
        "devices",
        "latency_quantile_s",
        "usd_per_month",
        "p10_usd_per_month",
        "p90_usd_per_month",
        "against_best_fraction",
        "bound",
        "basis",
    ),
    "stages": ("name", "time_s", "time_low_s", "time_high_s", "basis", "bound", "work_flop"),
    "pools": (
        "name",
        "replicas",
        "spare_replicas",
        "devices",
        "batch_requests",
        "service_s",
        "wait_p99_s",
        "utilization_fraction",
        "memory_bytes",
    ),
    "jobs": (
        "name",
        "kind",
        "devices",
        "duration_s",
        "duration_low_s",
        "duration_high_s",
        "every_s",
        "device_hours_per_month",
    ),
    "cost": (
        "group",
        "name",
        "quantity",
        "unit",
        "unit_price_usd",
        "usd_per_month",
        "p10_usd_per_month",
        "p90_usd_per_month",
    ),
    "units": ("name", "per_month", "bill_usd", "serving_devices_usd", "per_usd", "counted"),
    "uses": (
        "name",
        "used_fraction",
        "used_hours_per_month",
        "idle_hours_per_month",
        "used_usd_per_month",
        "idle_usd_per_month",
    ),
}
"""Columns that fit on a terminal; the reports show all."""


def _only(content: ReportTable, name: str) -> ReportTable:
    hidden = [column.key for column in content.columns if column.key not in SHOWN[name]]
    return content.without(*hidden)


def _worth_showing(option: Option) -> dict[str, ReportTable]:
    parts = {
        "stages": table.stage_table(option), "pools": table.pool_table(option), "jobs": table.job_table(option),
        "training": training_table(option), "cost": table.cost_table(option), "units": unit_table(option),
        "uses": use_table(option),
    }  # fmt: skip
    return {
        name: replace(part, title=f"{option.name}: {part.title.lower()}") for name, part in parts.items() if part.rows
    }


def rich_table(content: ReportTable) -> Any:  # noqa: ANN401  (rich is imported lazily)
    """Return a report's table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=content.title, title_justify="left")
    for column in content.columns:
        shown.add_column(Text(column.label), justify="left" if column.dimension == "text" else "right")
    for line in content.lines():
        shown.add_row(*[Text(cell) for cell in line])
    return shown


def console(*, stderr: bool = False) -> Console:
    """Return the terminal, or 120 columns where the output is no terminal: a file or a CI log."""
    from rich.console import Console

    screen = Console(highlight=False, stderr=stderr)
    return screen if screen.is_terminal else Console(highlight=False, stderr=stderr, width=WIDTH)


def list_scenarios(*, as_json: bool) -> int:
    """Print every scenario with its overrides, and the domains that apply to all."""
    rows: list[dict[str, Any]] = []
    for name in sorted(documents.catalogue("scenarios")):
        found = catalogue.scenario(name)
        rows.append({"id": found.id, "title": found.title, "overrides": sorted(found.overrides)})
    domains = {name: catalogue.domain(name).title for name in sorted(documents.catalogue("scenarios/domains"))}
    if as_json:
        print(json.dumps({"scenarios": rows, "domains": domains}))
        return 0
    from rich.table import Table

    shown = Table("scenario", "title", "overrides")
    for row in rows:
        shown.add_row(row["id"], row["title"], ", ".join(row["overrides"]))
    screen = console()
    screen.print(shown)
    screen.print(f"domains, for any scenario: {', '.join(domains)}", markup=False)
    return 0


def show_comparison(request: Request, fail_over: str | None, *, as_json: bool) -> int:
    """Print what overrides and settings change; exit 1 when infeasible or the cost rises by more than allowed."""
    from capacity.report import comparison, json_report

    if not request.overrides and not request.settings:
        raise InputError("nothing to compare: name at least one --override or --set")
    allowed = None if fail_over is None else share("--fail-over", fail_over)
    before = replace(request, overrides=(), settings=()).plan()
    after = request.plan()
    found = comparison.compare(json_report.to_dict(before), json_report.to_dict(after))
    if as_json:
        print(json.dumps(comparison.to_dict(found)))
    else:
        screen = console()
        screen.print(rich_table(comparison.totals_table(found)))
        for option in found.options:
            screen.print(
                rich_table(replace(comparison.groups_table(option), title=f"{option.name}: monthly cost by group"))
            )
    failure = "" if allowed is None else comparison.gate(found.best, allowed)
    if failure:
        console(stderr=True).print(f"gate failed: {failure}", style="red")
        return 1
    return 0 if after.best else 1


def write_report(request: Request, format_: str, output: Path | None) -> int:
    """Write the report of a plan to a file or standard output; exit 1 when no option is feasible."""
    if format_ not in {*FORMATS, *BINARY}:
        raise UnknownNameError("format", format_, (*FORMATS, *BINARY))
    if format_ in BINARY and output is None:
        raise InputError(f"--format {format_} is no text for the screen; name a file with --output")
    plan = request.plan()
    write(_bytes(request, plan, format_) if format_ in BINARY else rendered(plan, format_), output)
    return 0 if plan.best else 1


def write(content: str | bytes, output: Path | None) -> None:
    """Write a report to a file, or a text to standard output where no file is named."""
    if output is None:
        print(content, end="")
    else:
        files.write_bytes(output, content.encode() if isinstance(content, str) else content)
        console(stderr=True).print(f"wrote {output}", markup=False)


def _bytes(request: Request, plan: Plan, format_: str) -> bytes:
    """Return a plan in one of `BINARY`."""
    if format_ == "parquet":
        from capacity.report import parquet

        return parquet.render(plan)
    if format_ == "pdf":
        from capacity.report import pdf

        return pdf.render(plan)
    from capacity.report import xlsx

    return xlsx.render(plan, request.read()[1])


def rendered(plan: Plan, format_: str) -> str:
    """Return a plan in one of `FORMATS`."""
    from capacity.report import csv_report, focus, html, json_report, markdown

    writers: dict[str, Callable[[Plan], str]] = {
        "markdown": markdown.render, "html": html.render, "csv": csv_report.costs, "json": json_report.dumps,
        "focus": focus.render,
    }  # fmt: skip
    return writers[format_](plan)
