"""Commands about prices: what the tables hold, and catalogs of other tools taken in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capacity.cli.app import app
from capacity.cli.options import AsJson, Hardware, Today

prices_app = typer.Typer(no_args_is_help=True, help="Price tables: every offer with its doubts; catalogs taken in.")
app.add_typer(prices_app, name="prices")


@prices_app.command("list")
def prices_list(hardware: Hardware = None, today: Today = None, as_json: AsJson = False) -> None:
    """List every offer with its flags: old, assumed, superseded, implausible, spot above on-demand."""
    from capacity.commands import pricing

    raise typer.Exit(pricing.prices_list(hardware or [], today, as_json=as_json))


@prices_app.command("import")
def prices_import(
    file: Annotated[Path, typer.Argument(help="CSV like SkyPilot's catalog (vms.csv) or gpuhunt's.")],
    provider: Annotated[str, typer.Option("--provider", help="Whose prices: the catalog does not say.")],
    date: Annotated[str, typer.Option("--date", help="Day of the prices: YYYY, YYYY-MM or YYYY-MM-DD.")],
    output: Annotated[Path, typer.Option("--output", "-O", help="Table to write; prices/mine.csv is read by plans.")],
    source: Annotated[str | None, typer.Option("--source", help="Where they stem from; default: the file.")] = None,
    meant: Annotated[
        list[str] | None, typer.Option("--as", help="NAME=ID: the device that a name means; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take a catalog in as a price table; say what was refused. Exit 1 if no offer could be read."""
    from capacity.commands import pricing

    told = pricing.Told(provider=provider, date=date, source=source or str(file), meant=tuple(meant or ()))
    raise typer.Exit(pricing.prices_import(file, told, output, as_json=as_json))
