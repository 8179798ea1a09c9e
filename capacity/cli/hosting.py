"""The command about buying instead of running: hosted."""

from __future__ import annotations

from typing import Annotated

import typer

from capacity.cli.app import app
from capacity.cli.options import AsJson, CalibrationFile, Hardware, Override, Scenario, Setting, Today


@app.command()
def hosted(
    scenario: Scenario,
    buy: Annotated[
        list[str] | None, typer.Option("--buy", "-b", help="Sold model to price, as its seller calls it; repeatable.")
    ] = None,
    hardware: Hardware = None, override: Override = None, settings: Setting = None,
    calibration: CalibrationFile = None, today: Today = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compare the best device (or each -H) with buying its models as APIs. Exit 1 if no device can be compared."""
    from capacity.commands import hosting, planning

    request = planning.Request.of(scenario, hardware, override, settings, calibration, today)
    raise typer.Exit(hosting.show_hosted(request, tuple(buy or ()), as_json=as_json))
