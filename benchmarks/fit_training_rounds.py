"""Fit what MLPerf Training submissions take beside their steps, and write it into calibrations/shared.yaml.

    python -m benchmarks.fit_training_rounds ../shared/data [--write]

Three numbers a benchmark (factor, time of a step, yearly gain), pulled to the same starts where rows are few. Printed
errors are of rows left out, all of one chip or all of one round, beside a constant utilization of each benchmark fitted
on the same rows: of the peak in 16 bits where several precisions are tried.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from capacity import catalogue, validate
from capacity.errors import CapacityError
from capacity.spec.training_engine import TrainingRound, TrainingRounds
from capacity.validate import training_rounds
from capacity.validate.kind import Context
from capacity.validate.training_rounds import ROUNDS, TARGET, TASKS

FILE = Path("hardware_profiles/calibrations/shared.yaml")
BEGIN, END = "# --- fitted by benchmarks/fit_training_rounds.py ---\n", "# --- fitted by benchmarks/fit_shipped.py"
NAMES = ("factor", "step", "yearly")
START = {"factor": 1.1, "yearly": 0.06}
SPREAD = {"factor": 0.3, "step": 1.0, "yearly": 0.5}
"""Starts of every benchmark's numbers, and spreads around them, as logarithms."""
STEP = {
    "bert": 1e-2, "dlrm": 1e-4, "dlrm_dcnv2": 4e-4, "gpt3": 5e-2, "llama2_70b_lora": 5e-2, "llama31_405b": 5e-2,
}  # fmt: skip
"""Where the time of a step starts [s]: the order of magnitude of a benchmark's shortest steps, a quarter of them."""
SCATTER = 0.1
RELEASE = 2025.4


@dataclass(frozen=True, slots=True)
class Run:
    """One submission: what its step takes alone, and what it took of the time to train [s]."""

    benchmark: str
    hardware: str
    round: str
    alone: float
    step: float
    peak: float
    weight: float

    @property
    def use(self) -> float:
        """Steps per second and FLOP/s of peak, of samples that one device takes: a utilization but for a constant."""
        return 1 / self.step / self.peak


def runs(frame: pd.DataFrame, context: Context) -> list[Run]:
    """Return the rows that have a result and can be predicted, their steps timed once for each system."""
    known, found = context.shared.training_steps, []
    timed = frame[frame[TARGET].notna()].reset_index(drop=True)
    cells = timed.groupby(["benchmark", "hardware", "devices", "round"], dropna=False)["devices"].transform("size")
    steps: dict[tuple[object, ...], float] = {}
    for row, size in zip(timed.to_dict("records"), cells, strict=True):
        name, devices = str(row["benchmark"]), int(row["devices"])
        batch = float(row["global_batch_size"])
        batch = training_rounds.usual_batch(name, devices) if math.isnan(batch) else batch
        key = (name, row["hardware"], devices, batch)
        try:
            device = context.device(str(row["hardware"]), "fused")
            if key not in steps and known is not None:
                steps[key] = training_rounds.alone_s(name, device, devices, batch, known)
        except CapacityError:
            continue
        taken = TASKS[name].units * batch / devices / float(row[TARGET])
        dtype = training_rounds.precisions(name, device.hardware)[0]
        peak = float(device.hardware.rate(dtype) or math.nan) / (batch / devices)
        weight = 1 / math.sqrt(size / 3 + 1)
        found.append(Run(name, str(row["hardware"]), str(row["round"]), steps[key], taken, peak, weight))
    return found


def starts(benchmarks: tuple[str, ...]) -> NDArray[np.float64]:
    """Return where the logarithms of all benchmarks' numbers start."""
    return np.log([[START["factor"], STEP[name], START["yearly"]] for name in benchmarks]).ravel()


def document_of(logs: NDArray[np.float64], sigma: Mapping[str, float], rows: Mapping[str, int]) -> TrainingRounds:
    """Return the document that a vector of logarithms describes."""
    table = np.exp(logs).reshape(len(TASKS), len(NAMES)).tolist()
    return TrainingRounds(
        release=RELEASE, source="benchmarks/fit_training_rounds.py",
        benchmarks=tuple(
            TrainingRound(
                benchmark=name, **dict(zip(NAMES, numbers, strict=True)), log_sigma=sigma.get(name, 0.0),
                rows=rows.get(name, 0),
            )
            for name, numbers in zip(TASKS, table, strict=True)
        ),
    )  # fmt: skip


def predicted(items: list[Run], logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the time that each run's step takes of its time to train [s]."""
    known = document_of(logs, {}, {})
    return np.array([training_rounds.judged(run.alone, run.benchmark, ROUNDS[run.round], known) for run in items])


def fitted(items: list[Run]) -> NDArray[np.float64]:
    """Return the logarithms of the numbers that fit the runs best, robustly, near their starts."""
    start, spread = starts(tuple(TASKS)), np.tile([SPREAD[name] for name in NAMES], len(TASKS))
    measured, weight = (np.array([getattr(run, name) for run in items]) for name in ("step", "weight"))

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        errors = np.log(predicted(items, logs) / measured) * weight / SCATTER
        return np.concatenate([errors, (logs - start) / spread])

    return np.asarray(least_squares(residuals, start, loss="soft_l1", max_nfev=40).x)


def constant(items: list[Run], others: list[Run]) -> NDArray[np.float64]:
    """Return the errors of a constant utilization by benchmark, the median of `others`; NaN where they have none."""
    use = {name: [run.use for run in others if run.benchmark == name] for name in TASKS}
    known = {name: float(np.median(mine)) for name, mine in use.items() if mine}
    return np.array([known.get(run.benchmark, np.nan) / run.use - 1 for run in items])


def left_out(items: list[Run], by: str) -> pd.DataFrame:
    """Return the errors of each run with all runs of its chip or round left out of the fit."""
    table = []
    for name in sorted({str(getattr(run, by)) for run in items}):
        part = [run for run in items if getattr(run, by) == name]
        others = [run for run in items if getattr(run, by) != name]
        table.append(errors(part, fitted(others), constant(part, others)).assign(**{"left out": name}))
    return pd.concat(table, ignore_index=True)


def errors(items: list[Run], logs: NDArray[np.float64], flat: NDArray[np.float64]) -> pd.DataFrame:
    """Return the errors of the predicted rates of some runs."""
    rates = np.array([run.step for run in items]) / predicted(items, logs) - 1
    return pd.DataFrame({
        "benchmark": [run.benchmark for run in items], "hardware": [run.hardware for run in items], "error": rates,
        "constant": flat,
    })  # fmt: skip


def report(table: pd.DataFrame, title: str) -> None:
    """Print median and mean errors by benchmark and of all."""
    print(f"{title}: rows   bias  median    MAPE    P90 | constant utilization: median    MAPE")
    for name, part in [*table.groupby("benchmark"), ("all", table)]:
        size, flat = part["error"].abs(), part["constant"].abs()
        print(
            f"  {name!s:16s} {len(part):5d} {part['error'].median():+7.1%} {size.median():6.1%} {size.mean():7.1%} "
            f"{size.quantile(0.9):7.1%} | {flat.median():6.1%} {flat.mean():7.1%} ({flat.notna().sum()} rows)"
        )


def main() -> None:
    """Read the table, fit, print what was left out, and write the numbers if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    frame = validate.checked(pd.read_csv(wish.data / "mlperf_training.csv"), "mlperf_training", "table")
    items = runs(frame, Context(calibrations=catalogue.calibrations(), shared=catalogue.shared()))
    everything = fitted(items)
    report(errors(items, everything, constant(items, items)), "nothing left out (in sample)")
    outside = {by: left_out(items, by) for by in ("hardware", "round")}
    for by, table in outside.items():
        report(table, f"each {by} left out")
    print(outside["hardware"].groupby(["benchmark", "hardware"])["error"].agg(["size", "median"]).round(2).to_string())
    spread = {str(name): robust(part) for name, part in outside["hardware"].groupby("benchmark")}
    counts = {name: sum(run.benchmark == name for run in items) for name in TASKS}
    text = document(document_of(everything, spread, counts))
    print(text)
    if wish.write:
        write(text)


def robust(table: pd.DataFrame) -> float:
    """Return the standard deviation of ln(predicted/measured) that the central 80 % show."""
    return float(np.quantile(np.abs(np.log1p(table["error"])), 0.8) / 1.2816)


def document(known: TrainingRounds) -> str:
    """Return the numbers as YAML."""
    lines = ["training_rounds:", f"  source: {known.source}", f"  release: {known.release}", "  benchmarks:"]
    for item in known.benchmarks:
        numbers = ", ".join(f"{name}: {getattr(item, name):.3g}" for name in NAMES)
        lines.append(
            f"    - {{benchmark: {item.benchmark}, {numbers}, log_sigma: {item.log_sigma:.3f}, rows: {item.rows}}}"
        )
    return "\n".join(lines) + "\n"


def write(text: str) -> None:
    """Put the numbers between their marks."""
    whole = FILE.read_text(encoding="utf-8")
    before, _, after = whole.partition(END)
    before = before.partition(BEGIN)[0]
    FILE.write_text(f"{before}{BEGIN}{text}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
