"""Commands that measure and hold predictions against measurements: calibrate, validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capacity.cli.app import app
from capacity.cli.options import AsJson, CalibrationFile


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
