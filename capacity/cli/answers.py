"""Commands that answer a scenario: plan, compare, report, simulate, levers, rollout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capacity.cli.app import app
from capacity.cli.options import AsJson, CalibrationFile, Hardware, Override, Scenario, Setting, Today
from capacity.errors import InputError


@app.command()
def plan(
    scenario: Annotated[str | None, typer.Argument(help="Scenario id or path of a YAML file.")] = None,
    hardware: Hardware = None, override: Override = None, settings: Setting = None, calibration: CalibrationFile = None,
    today: Today = None, as_json: AsJson = False,
    list_all: Annotated[bool, typer.Option("--list", help="List shipped scenarios, overrides and domains.")] = False,
) -> None:  # fmt: skip
    """Answer: how much hardware does this recommender need, and what does it cost? Exit 1 if no option is feasible."""
    from capacity.commands import planning

    if list_all or scenario is None:
        raise typer.Exit(planning.list_scenarios(as_json=as_json))
    request = planning.Request.of(scenario, hardware, override, settings, calibration, today)
    raise typer.Exit(planning.show_plan(request, as_json=as_json))


@app.command()
def compare(
    scenario: Scenario, hardware: Hardware = None, override: Override = None, settings: Setting = None,
    calibration: CalibrationFile = None, today: Today = None, as_json: AsJson = False,
    fail_over: Annotated[str | None, typer.Option("--fail-over", help="Exit 1 if cost rises by more, e.g. 5%.")] = None,
) -> None:  # fmt: skip
    """Show what overrides and settings change against the scenario as it stands: devices, latency, cost by group."""
    from capacity.commands import planning

    request = planning.Request.of(scenario, hardware, override, settings, calibration, today)
    raise typer.Exit(planning.show_comparison(request, fail_over, as_json=as_json))


@app.command()
def report(
    scenario: Scenario, hardware: Hardware = None, override: Override = None, settings: Setting = None,
    calibration: CalibrationFile = None, today: Today = None,
    format_: Annotated[
        str, typer.Option("--format", "-f", help="markdown, html, csv, json, focus; to a file: xlsx, parquet, pdf.")
    ] = "markdown",
    output: Annotated[Path | None, typer.Option("--output", "-O", help="File to write; default stdout.")] = None,
    old: Annotated[Path | None, typer.Option("--compare", help="Earlier JSON report: write what changed.")] = None,
    fail_over: Annotated[
        str | None, typer.Option("--fail-over", help="With --compare: exit 1 if cost rises by more, e.g. 5%.")
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write the plan, or what changed since an earlier one, as a report file. Exit 1 if no option is feasible."""
    from capacity.commands import comparing, planning

    request = planning.Request.of(scenario, hardware, override, settings, calibration, today)
    if as_json and format_ not in {"markdown", "json"}:
        raise InputError(f"--json and --format {format_} ask for two formats; name one")
    if fail_over is not None and old is None:
        raise InputError("--fail-over needs an earlier report to compare with; name it with --compare OLD.json")
    form = "json" if as_json else format_
    if old is not None:
        raise typer.Exit(comparing.write_change(request, old, form, output, fail_over))
    raise typer.Exit(planning.write_report(request, form, output))


@app.command()
def simulate(
    scenario: Scenario, hardware: Hardware = None, override: Override = None, settings: Setting = None,
    calibration: CalibrationFile = None, today: Today = None,
    domain: Annotated[list[str] | None, typer.Option("--domain", "-d", help="Same as --override.")] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, max=1_000_000_000, help="Requests of a run; default 50,000, or all of a trace.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random: the same seed, the same answer.")] = 0,
    day: Annotated[bool, typer.Option("--day", help="Let the rate follow a whole day instead of its peak.")] = False,
    trace: Annotated[
        Path | None, typer.Option(help="CSV or JSONL to replay: arrival_s, input_tokens, output_tokens.")
    ] = None,
    replicas: Annotated[list[str] | None, typer.Option("--replicas", help="POOL=N: a fixed fleet; repeatable.")] = None,
    size: Annotated[bool, typer.Option("--size/--no-size", help="Size by simulation, or as the closed form.")] = True,
    output: Annotated[Path | None, typer.Option("--output", "-O", help="File: .json, .csv, .md or .html.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Play serving request by request: latencies, fleet and cost under queues, batching, caches and failures.

    Exit 1 if no option holds the objective.
    """
    from capacity.commands import planning, simulating

    request = planning.Request.of(
        scenario, hardware, [*(override or ()), *(domain or ())], settings, calibration, today
    )
    wish = simulating.Wish(
        requests=requests, seed=seed, day=day, size=size, trace=trace, replicas=tuple(replicas or ()), output=output,
        as_json=as_json,
    )  # fmt: skip
    raise typer.Exit(simulating.simulate(request, wish))


@app.command(name="levers")
def levers_(
    scenario: Scenario,
    only: Annotated[list[str] | None, typer.Option("--only", help="Lever to pull; repeatable. Default: all.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Only levers that change no answer.")] = False,
    hardware: Hardware = None, override: Override = None, settings: Setting = None, calibration: CalibrationFile = None,
    today: Today = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Rank optimizations alone, and find the best combination: cost, latency, memory, quality notes.

    Exit 1 if the scenario holds with none of them.
    """
    from capacity.commands import levering, planning

    request = planning.Request.of(scenario, hardware, override, settings, calibration, today)
    wish = levering.Wish(only=tuple(only or ()), exact=exact)
    raise typer.Exit(levering.show(request, wish, as_json=as_json))


@app.command()
def rollout(
    scenario: Scenario,
    stage: Annotated[str, typer.Argument(help="Stage that changes.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Its new model: id or file.")] = None,
    to: Annotated[list[str] | None, typer.Option("--to", help="KEY=VALUE of the stage, e.g. index=hnsw.")] = None,
    how: Annotated[
        list[str] | None, typer.Option("--with", "-w", help="KEY=VALUE of the rollout, e.g. shadow_time=7d.")
    ] = None,
    hardware: Hardware = None, override: Override = None, settings: Setting = None, calibration: CalibrationFile = None,
    today: Today = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Plan how a new encoder or index takes over: what it costs once, how long it takes, what both fleets need.

    Exit 1 if it can be done on no device.
    """
    from capacity.commands import planning, rolling

    request = planning.Request.of(scenario, hardware, override, settings, calibration, today)
    wish = rolling.Wish(stage=stage, model=model, to=tuple(to or ()), how=tuple(how or ()))
    raise typer.Exit(rolling.show(request, wish, as_json=as_json))
