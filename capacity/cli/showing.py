"""Commands that show what is known, and the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capacity.cli.app import app
from capacity.cli.options import AsJson

hardware_app = typer.Typer(no_args_is_help=True, help="Device profiles: datasheet facts, each with its source.")
model_app = typer.Typer(no_args_is_help=True, help="Model architectures: parameters, FLOP, memory.")
app.add_typer(hardware_app, name="hardware")
app.add_typer(model_app, name="model")


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
