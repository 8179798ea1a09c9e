"""Commands about money over time: forecast, risk, actual."""

from __future__ import annotations

from pathlib import Path
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


@app.command()
def actual(
    scenario: Scenario,
    spending: Annotated[Path, typer.Argument(help="Bill: FOCUS 1.2 rows, or CSV with group,name,usd[,month].")],
    month: Annotated[list[str] | None, typer.Option("--month", help="YYYY-MM; repeatable. Default: all.")] = None,
    mapped: Annotated[
        list[str] | None, typer.Option("--map", help="SERVICE=GROUP/LINE: what a bill's service is; repeatable.")
    ] = None,
    fail_over: Annotated[str | None, typer.Option("--fail-over", help="Exit 1 if more is spent, e.g. 5%.")] = None,
    hardware: Hardware = None, override: Override = None, settings: Setting = None, calibration: CalibrationFile = None,
    today: Today = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Hold the plan's monthly bill against what was spent: by line, by group, by month. Exit 1 if a gate fails."""
    from capacity.commands import comparing, planning

    request = planning.Request.of(scenario, hardware, override, settings, calibration, today)
    bill = comparing.Bill(file=spending, months=tuple(month or ()), mapped=tuple(mapped or ()), fail_over=fail_over)
    raise typer.Exit(comparing.show_actual(request, bill, as_json=as_json))
