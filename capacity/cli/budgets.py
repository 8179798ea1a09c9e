"""Commands about money over time: forecast, risk."""

from __future__ import annotations

from typing import Annotated

import typer

from capacity.cli.app import app
from capacity.cli.options import AsJson, CalibrationFile, Hardware, How, OutlookFile, Override, Scenario, Setting, Today


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
