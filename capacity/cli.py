"""The command line: options and help only. Each command imports what it needs when it runs, so `--help` is instant.

Exit codes: 0 fine, 1 infeasible or a gate failed, 2 bad input, 3 a defect of ours, 75 a check could not tell,
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from capacity.errors import CapacityError, InputError

app = typer.Typer(
    name="capacity", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Cost and hardware capacity planning for LLM recommenders: from measured kernels to dollars, with error bars.",
)  # fmt: skip
hardware_app = typer.Typer(no_args_is_help=True, help="Device profiles: datasheet facts, each with its source.")
model_app = typer.Typer(no_args_is_help=True, help="Model architectures: parameters, FLOP, memory.")
app.add_typer(hardware_app, name="hardware")
app.add_typer(model_app, name="model")

Scenario = Annotated[str, typer.Argument(help="Scenario id (see `capacity plan --list`) or path of a YAML file.")]
Hardware = Annotated[list[str] | None, typer.Option("--hardware", "-H", help="Device to plan for; repeat to compare.")]
Override = Annotated[list[str] | None, typer.Option("--override", "-o", help="Named override or domain; repeatable.")]
Setting = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="path=value, e.g. traffic.peak_rate=3000/s; repeatable.")
]
CalibrationFile = Annotated[
    list[str] | None, typer.Option("--calibration", "-c", help="Calibration file to use first.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
OutlookFile = Annotated[Path | None, typer.Option("--outlook", help="YAML of what to expect; default: assumed.")]
How = Annotated[list[str] | None, typer.Option("--with", "-w", help="KEY=VALUE of the outlook; repeatable.")]
Today = Annotated[str | None, typer.Option("--today", help="Date prices are judged at, YYYY-MM-DD; default today.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(version("capacity-planner"))
        except PackageNotFoundError:
            print("unknown: run from a source tree that is not installed")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Cost and hardware capacity planning for LLM recommenders: from measured kernels to dollars, with error bars."""


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
        str, typer.Option("--format", "-f", help="markdown, html, csv, json, focus or xlsx (to a file).")
    ] = "markdown",
    output: Annotated[Path | None, typer.Option("--output", "-O", help="File to write; default stdout.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write the plan as a report file. Exit 1 if no option is feasible (the report says why)."""
    from capacity.commands import planning

    request = planning.Request.of(scenario, hardware, override, settings, calibration, today)
    if as_json and format_ not in {"markdown", "json"}:
        raise InputError(f"--json and --format {format_} ask for two formats; name one")
    raise typer.Exit(planning.write_report(request, "json" if as_json else format_, output))


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


@app.command()
def forecast(
    scenario: Scenario, outlook: OutlookFile = None, how: How = None, hardware: Hardware = None,
    override: Override = None, settings: Setting = None, calibration: CalibrationFile = None, today: Today = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Forecast the bill of the coming months: growth, seasons, terms, new hardware. Exit 1 if no device will do."""
    from capacity.commands import forecasting, planning

    request = planning.Request.of(scenario, hardware, override, settings, calibration, today)
    wish = forecasting.Wish(file=outlook, how=tuple(how or ()))
    raise typer.Exit(forecasting.show_forecast(request, wish, as_json=as_json))


@app.command()
def risk(
    scenario: Scenario, outlook: OutlookFile = None, how: How = None,
    draws: Annotated[int, typer.Option(min=100, max=1_000_000, help="Futures to draw.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same futures.")] = 0, hardware: Hardware = None,
    override: Override = None, settings: Setting = None, calibration: CalibrationFile = None, today: Today = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show how sure a forecast is: bands, budget, what moves it most, least regret. Exit 1 if no device will do."""
    from capacity.commands import forecasting, planning

    request = planning.Request.of(scenario, hardware, override, settings, calibration, today)
    wish = forecasting.Wish(file=outlook, how=tuple(how or ()), draws=draws, seed=seed)
    raise typer.Exit(forecasting.show_risk(request, wish, as_json=as_json))


@app.command()
def calibrate(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, max=4096, help="CPU threads; default all cores.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="At most a minute: fewer shapes and rounds.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-O", help="Default calibrations/<machine>.yaml.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Raw samples (JSON Lines); an existing file is resumed.")] = None,
    from_table: Annotated[list[str] | None, typer.Option("--from", help="Fit a measurement table instead.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Kind of each --from table, e.g. gemm.")] = None,
    hardware: Annotated[str | None, typer.Option("--hardware", "-H", help="Device of the table's rows to fit.")] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="eager (default), onnxruntime, openvino or all; repeatable. With --from: fused or eager."),
    ] = None,
    check: Annotated[
        str | None, typer.Option(help="Compare with a baseline: calibration or samples file. Exit 1 slower, 75 unsure.")
    ] = None,
    max_slowdown: Annotated[str, typer.Option(help="With --check: largest slowdown that passes.")] = "5%",
    history: Annotated[Path | None, typer.Option(help="JSON Lines; the run's line is appended.")] = None,
    plot: Annotated[Path | None, typer.Option(help="HTML file: draw --history; runs nothing without --check.")] = None,
    benchmark_json: Annotated[Path | None, typer.Option(help="File for github-action-benchmark.")] = None,
    bmf: Annotated[Path | None, typer.Option(help="File in Bencher Metric Format.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Time the real kernels on this machine (or read a table) and fit the efficiencies that plans use."""
    from capacity.commands import checking, fitting, measuring, outputs

    exports = measuring.Exports(benchmark_json=benchmark_json, bmf=bmf, history=history)
    drawing = plot is not None and check is None
    outputs.refuse_mixture(exports, plot, table=bool(from_table), check=check is not None)
    if from_table:
        code = fitting.calibrate_from_tables(
            from_table, kind or [], hardware, (engine or ["fused"])[-1], output, as_json=as_json
        )
    elif drawing:
        code = 0
    elif check is not None:
        asked = checking.Check(
            baseline=check, device=device, threads=threads, quick=quick, max_slowdown=max_slowdown, output=output,
            samples=samples, exports=exports,
        )  # fmt: skip
        code = checking.check_machine(asked, as_json=as_json)
    else:
        wish = measuring.Wish(
            device=device, threads=threads, quick=quick, output=output, samples=samples, exports=exports
        )
        code = measuring.calibrate_engines(wish, engine or ["eager"], as_json=as_json)
    if plot is not None and history is not None and code != 130:
        outputs.draw(history, plot, as_json=as_json and drawing)
    raise typer.Exit(code)


@app.command()
def validate(
    table: Annotated[Path, typer.Argument(help="CSV or Parquet of measurements.")],
    kind: Annotated[str, typer.Option("--kind", "-k", help="gemm, attention, moe, collective, encoder, …")],
    output: Annotated[Path | None, typer.Option("--output", "-O", help="Table of predictions, CSV or Parquet.")] = None,
    calibration: CalibrationFile = None,
    max_median_error: Annotated[str | None, typer.Option(help="Gate: exit 1 above, e.g. 15%.")] = None,
    min_share: Annotated[str, typer.Option(help="Gate: least share of rows predicted.")] = "0.9",
    plot: Annotated[Path | None, typer.Option(help="HTML file: predicted against measured.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Hold predictions against your measurements: errors and band coverage by hardware. Exit 1 if a gate fails."""
    from capacity.commands import validating

    wish = validating.Check(
        table=table, kind=kind, output=output, calibration=tuple(calibration or ()), plot=plot,
        max_median_error=max_median_error, min_share=min_share,
    )  # fmt: skip
    raise typer.Exit(validating.validate_table(wish, as_json=as_json))


@hardware_app.command("list")
def hardware_list(as_json: AsJson = False) -> None:
    """List every device profile with its headline facts."""
    from capacity.commands import looking

    raise typer.Exit(looking.hardware_list(as_json=as_json))


@hardware_app.command("show")
def hardware_show(name: Annotated[str, typer.Argument(help="Profile id or file.")], as_json: AsJson = False) -> None:
    """Show one profile: every fact with source and date, and which calibration its times come from."""
    from capacity.commands import looking

    raise typer.Exit(looking.hardware_show(name, as_json=as_json))


@hardware_app.command("check")
def hardware_check(
    names: Annotated[list[str] | None, typer.Argument(help="Profiles or files; default all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check profiles: well-formed, sourced, plausible. Exit 1 if one looks wrong, 2 if one cannot be read."""
    from capacity.commands import looking

    raise typer.Exit(looking.hardware_check(names or [], as_json=as_json))


@hardware_app.command("detect")
def hardware_detect(
    output: Annotated[Path | None, typer.Option("--output", "-O", help="Folder to write the profiles to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Profile this machine: cores, matrix units, caches, measured bandwidth; GPUs through NVML."""
    from capacity.commands import looking

    raise typer.Exit(looking.hardware_detect(output, as_json=as_json))


@model_app.command("list")
def model_list(as_json: AsJson = False) -> None:
    """List every model profile with its parameters."""
    from capacity.commands import looking

    raise typer.Exit(looking.model_list(as_json=as_json))


@model_app.command("show")
def model_show(
    name: Annotated[str, typer.Argument(help="Profile id, YAML file, or Hugging Face config.json.")],
    tokens: Annotated[int, typer.Option(min=1, max=10_000_000, help="Tokens of the example pass.")] = 128,
    as_json: AsJson = False,
) -> None:
    """Show one model: parameters, FLOP and bytes of a pass, weights by dtype, KV bytes a token."""
    from capacity.commands import looking

    raise typer.Exit(looking.model_show(name, tokens, as_json=as_json))


@app.command()
def schema(
    kind: Annotated[str | None, typer.Argument(help="hardware, model, scenario, calibration, …; default all.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-O", help="Folder to write <kind>.json files to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the JSON Schemas that editors use to complete and check the YAML files."""
    from capacity.commands import looking

    raise typer.Exit(looking.schema(kind, output, as_json=as_json))


@app.command()
def dashboard(
    scenario: Annotated[str | None, typer.Argument(help="Scenario to open first.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 8501,
    as_json: AsJson = False,
) -> None:
    """Open the dashboard in the browser."""
    from capacity.commands import looking

    raise typer.Exit(looking.dashboard(scenario, port, as_json=as_json))


def main() -> None:
    """Run the CLI; every refusal is one clear message on standard error, never a traceback."""
    try:
        app()
    except CapacityError as error:
        sys.exit(_said(str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_said("interrupted", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            sys.exit(_said("the output cannot be written: no space left on the device", 2))
        if os.environ.get("CAPACITY_DEBUG"):
            raise
        kind = type(error).__name__
        sys.exit(_said(f"a defect of ours ({kind}: {error}); CAPACITY_DEBUG=1 shows where. Please report it.", 3))


def _said(message: str, code: int) -> int:
    lines = [f"error: {line}" for line in message.splitlines()] or ["error"]
    print(*lines, sep="\n", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
