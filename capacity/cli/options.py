"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
