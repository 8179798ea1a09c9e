"""`capacity validate`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from capacity import catalogue, files
from capacity.commands.planning import console, share
from capacity.errors import UnknownNameError
from capacity.report import csv_report

screen = console()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What the user asked `capacity validate` for."""

    table: Path
    kind: str
    output: Path | None
    calibration: tuple[str, ...]
    plot: Path | None
    max_median_error: str | None
    min_share: str


def validate_table(wish: Check, *, as_json: bool) -> int:
    """Predict every row of a table, print the errors, and apply the gates."""
    from capacity import validate

    if wish.kind not in validate.KINDS:
        raise UnknownNameError("kind", wish.kind, validate.KINDS)
    most = None if wish.max_median_error is None else share("--max-median-error", wish.max_median_error, 0)
    least = share("--min-share", wish.min_share, 0, 1)
    frame = validate.checked(validate.read_table(wish.table), wish.kind, str(wish.table))
    context = validate.Context(calibrations=catalogue.calibrations(wish.calibration), shared=catalogue.shared())
    found = validate.predictions(frame, wish.kind, context)
    figures = validate.summary(found, wish.kind, len(frame))
    if wish.output is not None:
        _write_frame(found, wish.output)
    if wish.plot is not None:
        from capacity import charts
        from capacity.report.residuals import MOST_POINTS

        drawn = found.sample(min(len(found), MOST_POINTS), random_state=0)  # more than that no browser shows
        shown = {str(name): drawn[name].to_numpy() for name in ("measured", "predicted", "low", "high", "hardware")}
        unit = found["target"].iloc[0].rsplit("_", 1)[-1] if len(found) else "s"
        files.write_text(wish.plot, charts.page(charts.predicted_measured(shown, unit)))
    if as_json:
        print(json.dumps(figures))
    else:
        _show_figures(figures)
    failures = validate.gate(figures, most, least)
    for failure in failures:
        console(stderr=True).print(f"gate failed: {failure}", style="red")
    return 1 if failures else 0


def _write_frame(frame: Any, path: Path) -> None:  # noqa: ANN401  (pandas is imported lazily)
    if path.suffix == ".parquet":
        files.write_bytes(path, frame.to_parquet(index=False))
    else:
        files.write_text(path, csv_report.neutral_frame(frame).to_csv(index=False))


def _show_figures(figures: dict[str, Any]) -> None:
    headings = ("hardware", "target", "predicted", "median error", "mean", "P90", "bias", "90 % band holds", "high/low")
    table = Table(*headings, title=f"{figures['kind']}: {figures['rows']:,} rows")
    rows = [("all", figures["targets"]), *figures["by_hardware"].items()]
    for name, targets in rows:
        for target, values in targets.items():
            shown = [_share(values[key]) for key in ("median_ape", "mean_ape", "p90_ape", "bias", "band_coverage")]
            width = "–" if values["band_width"] is None else f"{values['band_width']:.2f}×"
            table.add_row(name, target, f"{values['predicted']:,}", *shown, width)
    screen.print(table)
    for run in figures.get("runs", ()):
        _show_run(run)
    for reason, count in figures["refused"].items():
        screen.print(f"refused {count:,}: {reason}", style="yellow", markup=False)


def _show_run(run: dict[str, Any]) -> None:
    """Print mean and quantiles of one run of requests, predicted beside measured."""
    named = [f"{value}" for value in run.values() if not isinstance(value, dict | None)]
    table = Table("target", "of the run", "measured", "predicted", "error", title=" · ".join(named))
    for target, parts in run.items():
        for name, values in parts.items() if isinstance(parts, dict) else ():
            compared = (f"{values[each]:.4g}" for each in ("measured", "predicted"))
            table.add_row(target, name, *compared, f"{values['error']:+.1%}")
    screen.print(table)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
