"""The command that searches for the best plan: optimize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capacity.cli.app import app
from capacity.cli.options import AsJson, CalibrationFile, Hardware, Override, Scenario, Setting, Today


@app.command()
def optimize(
    scenario: Scenario,
    space: Annotated[Path | None, typer.Option("--space", help="YAML of what to choose from, and within what.")] = None,
    how: Annotated[
        list[str] | None, typer.Option("--with", "-w", help="KEY=VALUE of the space, e.g. hardware=all; repeatable.")
    ] = None,
    simulate: Annotated[int, typer.Option(min=0, max=20, help="Candidates to play request by request.")] = 1,
    engine: Annotated[str, typer.Option(help="local, or ray: a cluster (optional extra).")] = "local",
    mix: Annotated[bool, typer.Option("--mix", help="Find the cheapest mix of devices and terms too.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for results; a search that was stopped goes on from it.")
    ] = None,
    hardware: Hardware = None, override: Override = None, settings: Setting = None, calibration: CalibrationFile = None,
    today: Today = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Search hardware, engines, dtypes, levers, sharing, batches, replicas and ways of buying for the best plan.

    Exit 1 if none keeps every constraint.
    """
    from capacity.commands import planning, searching

    request = planning.Request.of(scenario, hardware, override, settings, calibration, today)
    wish = searching.Wish(file=space, how=tuple(how or ()), simulate=simulate, engine=engine, folder=keep, mix=mix)
    raise typer.Exit(searching.show(request, wish, as_json=as_json))
