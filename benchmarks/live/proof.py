"""The proof: calibrate, write it down, draw the requests, predict, write it down, and only then measure."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.live.calibrate import Calibration, calibrated
from benchmarks.live.encoder import agree, body
from benchmarks.live.load import drive
from benchmarks.live.predict import QUANTILES, Workload, drawn, predicted, quantiles
from benchmarks.live.server import ENCODE, Rig
from capacity.errors import CapacityError
from capacity.fleet.flow import Times

SIMULATIONS = 20
"""Runs of the same requests that a prediction is the mean of."""
CHECKED = 20
"""Answers of a run compared with the encoder's own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done: rounds of the calibration, loads, seconds of each, and how often all of them are measured."""

    rounds: int = 40
    loads: int = 3
    duration_s: float = 40.0
    passes: int = 2


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the simulator says of one load."""

    load: float
    rate: float
    requests: int
    mean_tokens: float
    mean_batch: float
    batch_s: float
    """Mean time of a batch in the encoder [s]."""
    latency_s: list[float]
    """At `QUANTILES` [s]."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one pass over one load gave.

    Attributes
    ----------
    latency_s
        At `QUANTILES` [s].
    batch_s
        Mean time that the worker had its core for a batch [s]: tells whether the machine still is what was calibrated.
    late_s
        The 0.99 quantile of how late the generator sent [s].
    waited, others
        Time that the server's threads waited for a core that others had, and time that others worked on any core
        (it takes from our caches), ÷ duration.
    shortest_s
        Least latency [s].
    """

    latency_s: list[float]
    mean_batch: float
    batch_s: float
    late_s: float
    waited: float
    others: float
    shortest_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """One load: said and measured, pass by pass."""

    predicted: Prediction
    measured: list[Measurement]

    @property
    def truth_s(self) -> Times:
        """Geometric mean of the passes at `QUANTILES` [s]."""
        return np.asarray(np.exp(np.mean(np.log([each.latency_s for each in self.measured]), axis=0)))

    @property
    def errors(self) -> Times:
        """Predicted ÷ measured − 1."""
        return np.array(self.predicted.latency_s) / self.truth_s - 1

    @property
    def noise(self) -> Times:
        """Last pass ÷ first − 1: below this nobody can predict."""
        first, last = np.array(self.measured[0].latency_s), np.array(self.measured[-1].latency_s)
        return np.asarray(last / first - 1)


def proof(rig: Rig, seed: int, plan: Plan, folder: Path) -> list[Row]:
    """Return predictions and measurements of the loads drawn from `seed`, and leave all files in `folder`."""
    calibration = calibrated(rig, plan.rounds)
    frozen = _written(folder / "calibration.json", asdict(calibration))
    workloads = drawn(seed, calibration, plan.loads, plan.duration_s)
    predictions = [_said(calibration, workload, seed) for workload in workloads]
    record = {"seed": seed, "calibration_sha256": frozen, "loads": [asdict(each) for each in predictions]}
    said = _written(folder / "predictions.json", record)
    passes = [[_measured(rig, each, seed) for each in workloads] for _ in range(plan.passes)]
    rows = [Row(before, list(after)) for before, after in zip(predictions, zip(*passes, strict=True), strict=True)]
    measured = [[asdict(each) for each in row.measured] for row in rows]
    _written(folder / "measurements.json", {"predictions_sha256": said, "loads": measured})
    return rows


def _written(path: Path, record: object) -> str:
    """Write a record with the time and return the file's SHA-256."""
    text = json.dumps({"quantiles": QUANTILES, "written_s": time.time(), "record": record}, indent=1)
    path.write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def _said(calibration: Calibration, workload: Workload, seed: int) -> Prediction:
    """Return what the simulator says of a workload: means over `SIMULATIONS` draws of how batch times vary."""
    runs = [predicted(calibration, workload, seed + number) for number in range(SIMULATIONS)]
    return Prediction(
        workload.load, workload.rate, len(workload.tokens), float(workload.tokens.mean()),
        mean_batch=float(np.mean([mean_batch for _, mean_batch, _ in runs])),
        batch_s=float(np.mean([batch_s for _, _, batch_s in runs])),
        latency_s=np.mean([quantiles(latency_s) for latency_s, _, _ in runs], axis=0).tolist(),
    )  # fmt: skip


def _books(rig: Rig) -> Times:
    return np.array([rig.waited_s(), rig.others_s(), rig.encoded_s(), *rig.texts_and_batches()])


def _measured(rig: Rig, workload: Workload, seed: int) -> Measurement:
    """Send a workload and return what came of it.

    Raises
    ------
    CapacityError
        When an answer is not what the encoder says.
    """
    random = np.random.default_rng([seed, 1])
    bodies = [body(random, int(tokens)) for tokens in workload.tokens]
    before = _books(rig)
    answers = rig.front.submit(drive, rig.port, ENCODE, workload.times_s, bodies).result()
    waited_s, others_s, encoded_s, texts, batches = (_books(rig) - before).tolist()
    some = random.choice(len(bodies), min(CHECKED, len(bodies)), replace=False)
    if not rig.worker.submit(agree, [bodies[row] for row in some], [answers.bodies[row] for row in some]).result():
        raise CapacityError("the server's answers are not those of the encoder")
    return Measurement(
        latency_s=quantiles(answers.latency_s), mean_batch=texts / batches, batch_s=encoded_s / batches,
        late_s=float(np.quantile(answers.late_s, 0.99)), shortest_s=float(answers.latency_s.min()),
        waited=waited_s / float(workload.times_s[-1]), others=others_s / float(workload.times_s[-1]),
    )  # fmt: skip
