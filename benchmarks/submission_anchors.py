"""Predict MLPerf Inference: a chip's next round from its earlier ones, chips that nobody measured, and dlrm-v3.

    python -m benchmarks.submission_anchors ../shared/data

Next round: what `capacity calibrate --from` fits to the results of all earlier rounds (a chip's own as anchors, those
of other chips for what software gains) predicts a round, of benchmarks and scenarios that the chip has in the round
before. No result of that round, or of a later one, is among the anchors; the shipped numbers have seen many of them.
Unseen chips: without the chip's own kernels, and with the factor of each benchmark taken from the other chips.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from capacity import calibration, catalogue, validate
from capacity.commands import fitting
from capacity.errors import UnknownNameError
from capacity.spec import names
from capacity.spec.calibration import Shared
from capacity.timing.step_tables import round_number
from capacity.validate import submissions

KIND = "mlperf_inference"
KNOWN = calibration.Known(catalogue.calibrations(), catalogue.shared())
STEPS = KNOWN.shared.engine_steps[0]
CELL = ["hardware", "benchmark", "scenario"]


def read(path: Path) -> pd.DataFrame:
    """Return the results on known chips, with the place of their round in the table's rounds."""
    frame = validate.checked(pd.read_csv(path).drop(columns="source"), KIND, str(path))
    frame = frame.assign(hardware=[chip(str(name)) for name in frame["hardware"]])
    rounds = sorted(frame["round"].unique(), key=lambda name: round_number(name) or 0.0)
    rows, _ = validate.usable(frame[frame["hardware"] != ""], KIND)
    unit = [submissions.unit(row) for row in rows.to_dict("records")]
    family = [submissions.family(str(name)) for name in rows["benchmark"]]
    return rows.assign(place=rows["round"].map(rounds.index), unit=unit, family=family).reset_index(drop=True)


def chip(name: str) -> str:
    """Return the id of a chip, or nothing where it has no profile."""
    try:
        return names.hardware_id(name)
    except UnknownNameError:
        return ""


def told(rows: pd.DataFrame, context: validate.Context) -> pd.DataFrame:
    """Return the predictions of rows, under the rows' index."""
    return validate.predictions(rows, KIND, context).set_index(rows.index)


def carried(before: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Return the median of the round before, in the unit of each row; blank where the chip has none."""
    single = before["scenario"] == "SingleStream"
    value = np.where(single, before["value"], before["value_per_device"] / before["unit"])
    medians = before.assign(value=value).groupby(CELL)["value"].median()
    found = pd.Series([medians.get(tuple(row)) for row in rows[CELL].to_numpy()], rows.index, dtype=float)
    return found * rows["unit"]


def next_rounds(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the results of each round of chips that had results before, with their predictions from those."""
    context = validate.Context(calibrations=KNOWN.calibrations, shared=KNOWN.shared)
    for place in sorted(rows["place"].unique())[1:]:
        now, earlier = rows[rows["place"] == place], rows[rows["place"] < place]
        value = carried(earlier[earlier["place"] == place - 1], now)
        for hardware, part in now[now["hardware"].isin(earlier["hardware"])].groupby("hardware"):
            profile = catalogue.hardware(str(hardware))
            fitted = fitting.fit([("table", KIND, earlier)], profile, "fused", KNOWN)
            own = validate.Context(calibrations=((fitted, profile), *KNOWN.calibrations), shared=KNOWN.shared)
            found, plain = told(part, own), told(part, context)
            inside = found["measured"].between(found["low"], found["high"])
            yield part.assign(
                anchored=found["error"], carried=value[part.index] / found["measured"] - 1, plain=plain["error"],
                inside=inside,
            )  # fmt: skip


def without(hardware: str, gaps: pd.DataFrame) -> validate.Context:
    """Return what is known without a chip: no kernels of its own, factors of benchmarks from the other chips."""
    others = gaps[gaps["hardware"] != hardware].groupby(["name", "hardware"])["gap"].median()
    slowdown = {
        name: float(known * np.exp(others[name].median())) if name in others else 1.0
        for name, known in STEPS.submissions.slowdown.items()
    }
    steps = STEPS.model_copy(update={"submissions": STEPS.submissions.model_copy(update={"slowdown": slowdown})})
    shared: Shared = KNOWN.shared.model_copy(update={"engine_steps": (steps, *KNOWN.shared.engine_steps[1:])})
    left = [pair for pair in KNOWN.calibrations if pair[1].id != hardware]
    return validate.Context(calibrations=left, shared=shared)


def unseen(rows: pd.DataFrame) -> pd.DataFrame:
    """Return all results, each predicted as if nothing of its chip had been measured."""
    plain = told(rows, validate.Context(calibrations=KNOWN.calibrations, shared=KNOWN.shared))
    gap = np.log(plain["predicted"] / plain["measured"])
    gaps = rows.assign(gap=gap, name=[submissions.name(row) for row in rows.to_dict("records")])
    gaps = gaps[(gaps["scenario"] == "Offline") & gaps["gap"].notna()]
    parts = [
        part.assign(unseen=told(part, without(str(hardware), gaps))["error"], plain=plain["error"][part.index])
        for hardware, part in rows.groupby("hardware")
    ]
    return pd.concat(parts)


def show(title: str, rows: pd.DataFrame, columns: list[str]) -> None:
    """Print the median and mean error of each column over the rows that all of them have, if there are any."""
    both = rows.dropna(subset=columns)
    if both.empty:
        return
    errors = "  ".join(f"{name} {both[name].abs().median():6.1%} ({both[name].abs().mean():6.1%})" for name in columns)
    inside = f"  in the band {both['inside'].mean():.0%}" if "inside" in both else ""
    print(f"{title:34s} {len(both):4d} rows {both['hardware'].nunique():2d} chips: {errors}{inside}")


def main() -> None:
    """Read the table, predict, and print median and (mean) errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    rows = read(parser.parse_args().data / "mlperf_inference.csv")
    after, columns = pd.concat(next_rounds(rows)), ["anchored", "carried", "plain"]
    show("next round", after, columns)
    cells = after.groupby([*CELL, "round", "family"], as_index=False)[columns].median()
    show("  by chip, benchmark, scenario", cells, columns)
    for by in ("family", "scenario", "round"):
        for name, part in after.groupby(by):
            show(f"  {name}", part, columns)
    show("no result in the round before", after[after["carried"].isna()], ["anchored", "plain"])
    alone, columns = unseen(rows), ["unseen", "plain"]
    fitted = (alone["family"] == "bert") & alone["hardware"].isin(STEPS.devices)
    show("unseen chips", alone[~fitted], columns)
    for (family, seen), part in alone.assign(fitted=fitted).groupby(["family", "fitted"]):
        show(f"  {family}{', its steps saw the chip' if seen else ''}", part, columns)
    show("dlrm-v3, the chip left out", alone[alone["family"] == "dlrm-v3"], columns)


if __name__ == "__main__":
    main()
