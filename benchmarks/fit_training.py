"""Fit what training frameworks add to their kernels on published runs, and write it into calibrations/shared.yaml.

    python -m benchmarks.fit_training ../shared/data [--write]

Each framework's numbers are those of its class (fused or unfused attention) times an offset that few rows cannot pull
far; a framework that nobody measured gets the class. Printed errors are of rows left out: all of one framework, or all
of one device, beside a constant utilization by dtype fitted on the same rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from capacity import catalogue, validate
from capacity.errors import CapacityError
from capacity.phases import train_step
from capacity.phases.train_step import Job, Spent
from capacity.spec import names
from capacity.spec.training_engine import TrainingEngine, TrainingSteps
from capacity.timing.device import Device
from capacity.validate import training_rows
from capacity.validate.kind import Context

FILE = Path("hardware_profiles/calibrations/shared.yaml")
BEGIN, END = "# --- fitted by benchmarks/fit_training.py ---\n", "# --- fitted by benchmarks/fit_training_rounds.py"
SCORES = {
    "nemo": "newest", "megatron-bridge": "newest", "composer": "flash2", "paddle": "flash2", "megatron-lm": "unfused",
    "pytorch": "unfused", "tensorflow": "unfused", "deepspeed": "unfused",
}  # fmt: skip
"""Attention that each framework ran: Transformer Engine's cuDNN kernels; FlashAttention; none before it existed."""
SAME = {"megatron-bridge": "nemo"}
"""Names of one code base."""
FLASH2 = {"hopper": 2.1, "blackwell": 2.1}
"""FlashAttention 2 on an H100: 335 of 989 TFLOP/s, on an A100 225 of 312, forward and backward (Dao 2023,
arXiv:2307.08691, figures 5 and 6; Shah et al. 2024, arXiv:2407.08608, §1: 35 % of the H100's peak); Blackwell assumed
to be the same."""
CLASS = {"products": (1.05, 0.15), "elementwise": (1.5, 0.5), "attention": (1.5, 0.5), "exchange": (0.6, 0.5)}
OFFSET = {"products": 0.12, "elementwise": 0.35, "attention": 0.4, "exchange": 0.4}
"""Start and spread of a class's numbers, and spread of a framework's around them, as logarithms."""
DTYPES, DTYPE_SPREAD = ("half", "tf32", "fp32", "fp8", "fp4"), 0.1
BINNED = ("paddle", "pytorch")
"""DeepLearningExamples pretrain BERT on batches of like length (LDDL) in these."""
METHODS = {"lora": "LoRA and SFT", "sft": "LoRA and SFT", "bert_finetune_squad": "SQuAD"}
"""Methods that are left out together."""
SCATTER = 0.08
RELEASE = 2025.5


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run with its kernels' time."""

    job: Job
    device: Device
    alone: Spent
    rate: float
    method: str
    family: str
    row: int
    weight: float

    @property
    def fused(self) -> bool:
        """Class of its framework."""
        return SCORES.get(self.family, "flash2") != "unfused"


def half(dtype: str) -> str:
    """Return the dtype under which a run's products are fitted."""
    return "half" if dtype in {"fp16", "bf16"} else dtype


class Model:
    """The parameter vector: logarithms by name, their starts and spreads."""

    def __init__(self, families: list[str]) -> None:
        self.families = families
        entries: dict[str, tuple[float, float]] = {"binned": (np.log(0.55), 0.3), "yearly": (np.log(0.05), 0.5)}
        for group in ("fused", "unfused"):
            entries |= {f"{group}.{name}": (float(np.log(start)), spread) for name, (start, spread) in CLASS.items()}
        entries |= {f"dtype.{name}": (0.0, DTYPE_SPREAD) for name in DTYPES}
        entries |= {f"{family}.{name}": (0.0, spread) for family in families for name, spread in OFFSET.items()}
        self.names = list(entries)
        self.start, self.spread = (np.array(column) for column in zip(*entries.values(), strict=True))

    def known(self, logs: NDArray[np.float64]) -> TrainingSteps:
        """Return the document that a vector describes."""
        value = dict(zip(self.names, np.exp(logs).tolist(), strict=True))
        engines = [
            self._engine(value, family, "fused" if SCORES[family] != "unfused" else "unfused")
            for family in self.families
        ]
        others = [
            self._engine(value, name, group) for name, group in (("other", "fused"), ("other-unfused", "unfused"))
        ]
        dtypes = {name: value[f"dtype.{name}"] for name in DTYPES if name != "half"}
        dtypes |= dict.fromkeys(("fp16", "bf16"), value["dtype.half"])
        return TrainingSteps(
            dtypes=dtypes, flash2=FLASH2, engines=(*engines, *others), source="benchmarks/fit_training.py"
        )

    def _engine(self, value: Mapping[str, float], family: str, group: str) -> TrainingEngine:
        numbers = {name: value[f"{group}.{name}"] * value.get(f"{family}.{name}", 1.0) for name in CLASS}
        scores = SCORES.get(family, "flash2" if group == "fused" else "unfused")
        dated = {"yearly": value["yearly"], "release": RELEASE} if family == "nemo" else {}
        binned = {"binned": value["binned"]} if family in BINNED else {}
        also = tuple(name for name, same in SAME.items() if same == family)
        numbers |= {**dated, **binned}
        return TrainingEngine(engine=family, also=also, scores=scores, log_sigma=0.1, rows=0, **numbers)  # type: ignore[arg-type]


def runs(frame: pd.DataFrame, context: Context, start: TrainingSteps) -> list[Run]:
    """Return the rows that can be predicted, their kernels timed."""
    found, sizes = [], frame.groupby(["engine", "hardware", "dtype", "sequence_length", "method"])["devices"]
    weight = 1 / np.sqrt(sizes.transform("size") / 3 + 1)
    for place, row in enumerate(frame.to_dict("records")):
        try:
            device = context.device(str(row["hardware"]), "fused")
            job = training_rows.job(row, frame.iloc[place], device.hardware, start)
            family = names.engine(str(row["engine"])).family
            alone = train_step.spent(job.as_run, device)
        except CapacityError as error:
            print(f"row {place}: {error}", file=sys.stderr)
            continue
        rate = float(row["tokens_per_s_per_device"])
        method = METHODS.get(str(row["method"]), "pretraining")
        found.append(Run(job, device, alone, rate, method, SAME.get(family, family), place, float(weight.iloc[place])))
    return [run for run in found if np.isfinite(run.rate)]


def predicted(items: list[Run], known: TrainingSteps) -> NDArray[np.float64]:
    """Return the tokens per second and device of each run."""
    rates = []
    for run in items:
        engine = known.engine(run.family, causal=run.fused)
        job = replace(run.job, engine=engine)
        seconds = sum(train_step.composed(run.alone, job, run.device, known).values())
        trained = job.trained
        rates.append(
            job.micro_batches
            * trained.batch
            * trained.tokens
            * trained.parallel.data
            / trained.parallel.devices
            / seconds
        )
    return np.array(rates)


def fitted(items: list[Run], families: list[str]) -> TrainingSteps:
    """Return the numbers that fit the runs best, robustly, near their priors."""
    model = Model(families)
    measured, weight = (np.array([getattr(run, name) for run in items]) for name in ("rate", "weight"))

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        errors = np.log(predicted(items, model.known(logs)) / measured) * weight / SCATTER
        return np.concatenate([errors, (logs - model.start) / model.spread])

    return model.known(least_squares(residuals, model.start, loss="soft_l1", max_nfev=30).x)


def constant(items: list[Run], others: list[Run]) -> NDArray[np.float64]:
    """Return the rates of a constant utilization by dtype, the median of `others`."""

    def flop(run: Run) -> float:
        model, tokens = run.job.trained.model, run.job.trained.tokens
        return 6 * model.active_parameters + 6 * model.layers * model.layer.query_width * tokens

    def use(run: Run) -> float:
        return run.rate * flop(run) / float(run.device.hardware.rate(run.job.trained.dtype) or np.nan)

    dtypes = {half(run.job.trained.dtype) for run in items}
    every = float(np.median([use(run) for run in others]))
    known = {
        name: float(np.median(mine))
        if (mine := [use(run) for run in others if half(run.job.trained.dtype) == name])
        else every
        for name in dtypes
    }
    return np.array([known[half(run.job.trained.dtype)] * run.rate / use(run) for run in items])


def left_out(items: list[Run], by: str) -> pd.DataFrame:
    """Return the errors of each run with all runs of its framework, device or method left out of the fit."""
    key = [{"framework": run.family, "device": run.device.hardware.id, "method": run.method}[by] for run in items]
    table = []
    for name in sorted(set(key)):
        others = [run for run, mine in zip(items, key, strict=True) if mine != name]
        part = [run for run, mine in zip(items, key, strict=True) if mine == name]
        known = fitted(others, sorted({run.family for run in others}))
        rates, plain = predicted(part, known), constant(part, others)
        table += [
            {"left out": name, "fused": run.fused, "error": rate / run.rate - 1, "constant": flat / run.rate - 1}
            for run, rate, flat in zip(part, rates, plain, strict=True)
        ]
    return pd.DataFrame(table)


def report(errors: pd.DataFrame, title: str) -> None:
    """Print mean and median errors, by what was left out and of all."""
    print(f"{title} left out: rows   bias   MAPE  median | constant utilization: MAPE")
    groups = [*errors.groupby("left out"), ("all", errors), ("all, fused attention", errors[errors["fused"]])]
    for name, part in groups:
        error = part["error"]
        print(
            f"  {name!s:22s} {len(part):5d} {error.mean():+7.1%} {error.abs().mean():6.1%} {error.abs().median():6.1%}"
            f" | {part['constant'].abs().mean():6.1%}"
        )


def main() -> None:
    """Read the table, fit, print what was left out, and write the numbers if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    frame = pd.read_csv(wish.data / "training.csv")
    context = Context(calibrations=catalogue.calibrations(), shared=catalogue.shared())
    start = Model(sorted(set(SCORES) - set(SAME)))
    items = runs(validate.checked(frame, "training", "table"), context, start.known(start.start))
    everything = fitted(items, sorted({run.family for run in items}))
    inside = pd.DataFrame({
        "left out": [run.family for run in items], "fused": [run.fused for run in items],
        "error": predicted(items, everything) / [run.rate for run in items] - 1,
        "constant": constant(items, items) / [run.rate for run in items] - 1,
    })  # fmt: skip
    report(inside, "nothing (in sample)")
    outside = {by: left_out(items, by) for by in ("framework", "device", "method")}
    for by, errors in outside.items():
        report(errors, by)
    text = document(everything, inside, outside["framework"])
    print(text)
    if wish.write:
        write(text)


def document(known: TrainingSteps, inside: pd.DataFrame, outside: pd.DataFrame) -> str:
    """Return the numbers as YAML; log_sigma is the spread in sample, or of frameworks left out for the others."""
    lines = ["training_steps:", f"  source: {known.source}"]
    for name in ("dtypes", "flash2"):
        values = ", ".join(f"{key}: {value:.3g}" for key, value in getattr(known, name).items())
        lines.append(f"  {name}: {{{values}}}")
    lines.append("  engines:")
    for engine in known.engines:
        mine = inside[inside["left out"] == engine.engine]
        rest = outside[outside["fused"] == (engine.scores != "unfused")]
        spread = robust(mine if len(mine) else rest)
        shown = {name: f"{getattr(engine, name):.3g}" for name in CLASS}
        shown |= {"binned": f"{engine.binned:.3g}"} if engine.binned != 1 else {}
        shown |= {"yearly": f"{engine.yearly:.2g}", "release": f"{engine.release}"} if engine.yearly else {}
        text = ", ".join(f"{name}: {value}" for name, value in shown.items())
        also = f", also: [{', '.join(engine.also)}]" if engine.also else ""
        name = f"engine: {engine.engine}{also}, scores: {engine.scores}"
        lines.append(f"    - {{{name}, {text}, log_sigma: {spread:.3f}, rows: {len(mine)}}}")
    return "\n".join(lines) + "\n"


def robust(errors: pd.DataFrame) -> float:
    """Return the standard deviation of ln(predicted/measured) that the central 80 % show."""
    return float(np.quantile(np.abs(np.log1p(errors["error"])), 0.8) / 1.2816)


def write(text: str) -> None:
    """Put the numbers between their marks."""
    whole = FILE.read_text(encoding="utf-8")
    before, _, after = whole.partition(END)
    before = before.partition(BEGIN)[0]
    FILE.write_text(f"{before}{BEGIN}{text}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
