"""How wrong is a plan for an encoder nobody timed? Calibrate, freeze, predict, then measure.

    python benchmarks/unseen_encoders.py --seed 7            # calibrates first (about three minutes)
    python benchmarks/unseen_encoders.py --seed 7 --quick    # the one-minute calibration
    python benchmarks/unseen_encoders.py --seed 7 --engine openvino    # or onnxruntime; eager PyTorch by default

The encoders and shapes are drawn from the seed: other depths, widths, batches and lengths than the suite's, in fp32,
and in bf16 or int8 where engine and CPU have units for it. Predictions are written to a file before anything of
theirs is measured; the calibration's SHA-256 stands in it. Each encoder is measured twice, in two separate rounds: the
ratio of the two is the repeat noise, below which nobody can predict.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np

from capacity import catalogue
from capacity.spec.engine import Engine
from capacity.timing import transfer
from capacity.timing.band import Estimate
from kernels import engine_cases, engine_suite, suite
from kernels.encoders import EncoderShape, encoder_case
from kernels.timing import Case, Effort, measured
from kernels.torch_backend import Backend

TYPES = ("bert", "bert", "xlm-roberta", "gpt2", "llama")
WIDTHS = (192, 256, 320, 384, 448, 512, 576, 640, 768, 896, 1024)
MOST_TOKENS = 4096
MOST_PARAMETERS = 120e6


def drawn(seed: int, count: int, dtypes: tuple[str, ...]) -> list[EncoderShape]:
    """Return `count` encoders drawn from `seed`, none of them in the calibration suite."""
    rng = np.random.default_rng(seed)
    known = set(suite.ENCODERS + suite.MORE_ENCODERS + engine_suite.DEEP_ENCODERS)
    shapes: list[EncoderShape] = []
    while len(shapes) < count:
        hidden = int(rng.choice(WIDTHS))
        head_dim = int(rng.choice([d for d in (32, 64) if hidden % d == 0]))
        shape = EncoderShape(
            model_type=str(rng.choice(TYPES)), layers=int(rng.integers(1, 13)), hidden=hidden, heads=hidden // head_dim,
            intermediate=hidden * int(rng.choice([2, 3, 4])), batch=int(2 ** rng.integers(0, 6)),
            tokens=int(rng.integers(8, 513)), dtype=dtypes[len(shapes) % len(dtypes)],
        )  # fmt: skip
        small = shape.layers * 12 * hidden**2 <= MOST_PARAMETERS and shape.batch * shape.tokens <= MOST_TOKENS
        key = (shape.model_type, shape.layers, hidden, shape.heads, shape.intermediate, shape.batch, shape.tokens)
        if small and key not in known:
            shapes.append(shape)
    return shapes


def calibrated(path: Path, engine: Engine, *, quick: bool) -> str:
    """Run `capacity calibrate` into `path` and return the file's SHA-256."""
    command = [sys.executable, "-m", "capacity", "calibrate", "--device", "cpu", "--engine", engine]
    command += ["--output", str(path)]
    subprocess.run(command + (["--quick"] if quick else []), check=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def predicted(path: Path, engine: Engine, shapes: list[EncoderShape]) -> list[Estimate]:
    """Return the time of each shape by the frozen calibration [s]."""
    (calibration, profile), *_ = catalogue.calibrations([str(path)])
    device = transfer.device(profile, engine, [(calibration, profile)], catalogue.shared())
    return [device.step(shape.operations(engine)) for shape in shapes]


def case_of(shape: EncoderShape, runner: Backend | engine_cases.Engine) -> Case:
    """Return the case that times one pass of `shape` on what runs it."""
    if isinstance(runner, Backend):
        return encoder_case(shape, runner)
    return engine_cases.encoder_case(shape, runner)


def measured_twice(shapes: list[EncoderShape], runner: Backend | engine_cases.Engine) -> list[tuple[float, float]]:
    """Return two medians for each shape, taken in two passes over all of them [s]."""
    clock, reference = runner.clock(), runner.reference()
    passes = []
    for _ in range(2):
        medians = []
        for start in range(0, len(shapes), 4):
            cases = [case_of(shape, runner) for shape in shapes[start : start + 4]]
            effort = Effort(rounds=7, round_limit_s=8.0)
            medians += [timing.median_s for timing in measured(cases, reference, clock, effort)]
        passes.append(medians)
    return list(zip(*passes, strict=True))


def report(shapes: list[EncoderShape], estimates: list[Estimate], times: list[tuple[float, float]], path: Path) -> None:
    """Write one row an encoder and print the errors beside the repeat noise."""
    truth = np.array([np.sqrt(first * second) for first, second in times])
    value = np.array([float(item.value) for item in estimates])
    error = np.abs(value / truth - 1)
    noise = np.abs(np.array([second / first - 1 for first, second in times]))
    inside = np.mean([item.low <= t <= item.high for item, t in zip(estimates, truth, strict=True)])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["encoder", "predicted_s", "low_s", "high_s", "first_s", "second_s", "error"])
        for shape, item, (first, second), t in zip(shapes, estimates, times, truth, strict=True):
            writer.writerow([shape.name, item.value, item.low, item.high, first, second, float(item.value) / t - 1])
    for shape, p, t in zip(shapes, value, truth, strict=True):
        print(f"{shape.name:45s} predicted {p * 1e3:9.2f} ms  measured {t * 1e3:9.2f} ms  {p / t - 1:+.1%}")
    for dtype in dict.fromkeys(shape.dtype for shape in shapes):
        part = np.array([shape.dtype == dtype for shape in shapes])
        print(f"{dtype}: median error {np.median(error[part]):.1%}, P90 {np.quantile(error[part], 0.9):.1%}")
    bias = np.median(value / truth) - 1
    print(
        f"all {len(shapes)}: median error {np.median(error):.1%}, P90 {np.quantile(error, 0.9):.1%}, bias {bias:+.1%}"
    )
    print(
        f"repeat noise: median {np.median(noise):.1%}, P90 {np.quantile(noise, 0.9):.1%}; 90 % band holds {inside:.0%}"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--engine", choices=("eager", "onnxruntime", "openvino"), default="eager")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--calibration", type=Path, help="use this calibration instead of running one")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    wish = parser.parse_args()
    wish.folder.mkdir(parents=True, exist_ok=True)
    name = f"unseen_{wish.seed}" + ("" if wish.engine == "eager" else f"_{wish.engine}")
    path = wish.calibration or wish.folder / f"{name}.yaml"
    if wish.calibration:
        frozen = hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        frozen = calibrated(path, wish.engine, quick=wish.quick)
    runner, _ = engine_suite.runner(wish.engine, Backend.local("cpu"), quick=wish.quick)
    shapes = drawn(wish.seed, wish.count, runner.matrix_dtypes())
    estimates = predicted(path, wish.engine, shapes)
    predictions = wish.folder / f"{name}_predictions.csv"
    lines = [f"{shape.name},{float(item.value)}" for shape, item in zip(shapes, estimates, strict=True)]
    predictions.write_text(
        "\n".join([f"# calibration sha256 {frozen}", "encoder,predicted_s", *lines]) + "\n", encoding="utf-8"
    )
    print(f"calibration {path} sha256 {frozen[:16]}…; predictions in {predictions}; measuring {len(shapes)} encoders")
    times = measured_twice(shapes, runner)
    report(shapes, estimates, times, wish.folder / f"{name}.csv")
    if hashlib.sha256(path.read_bytes()).hexdigest() != frozen:
        sys.exit("the calibration changed after it was frozen")


if __name__ == "__main__":
    main()
