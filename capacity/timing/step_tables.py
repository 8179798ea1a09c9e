"""Rows of tables of whole encoder passes as steps: what ran, and how long it takes, for fitting and for validating.

What a row's prediction may see is exactly what is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from capacity.errors import CapacityError, UnknownNameError
from capacity.spec import names
from capacity.spec.hardware import Hardware
from capacity.timing import engine_kernels, server_rule
from capacity.timing.band import Estimate
from capacity.timing.form import Array
from capacity.timing.step_runs import Place, Runner, bert, runner
from capacity.timing.tables import column, said

Row = Mapping[str, Any]
RELEASES = (
    ((7, 0), 2019.95), ((7, 1), 2020.4), ((7, 2), 2020.75), ((8, 0), 2021.5), ((8, 2), 2021.9), ((8, 4), 2022.45),
    ((8, 5), 2022.85), ((8, 6), 2023.35), ((9, 0), 2023.65), ((9, 2), 2023.9), ((10, 0), 2024.3), ((10, 13), 2025.6),
)  # fmt: skip
"""TensorRT version → year of its release. 8.2, 8.4: CHANGELOG.md of github.com/NVIDIA/TensorRT; 8.0, 8.6, 10.0: title
pages of NVIDIA's release notes RN-08624-001; the others from memory, to a quarter of a year."""
ROUNDS = (
    (0.5, 2019.85), (0.7, 2020.75), (1.0, 2021.3), (1.1, 2021.7), (2.0, 2022.25), (2.1, 2022.7), (3.0, 2023.25),
    (3.1, 2023.7), (4.0, 2024.25), (4.1, 2024.65), (5.0, 2025.25), (5.1, 2025.7),
)  # fmt: skip
"""MLPerf Inference round → year of its results: spring and autumn, from memory to a quarter of a year."""
SCENARIOS = ("Offline", "Server", "SingleStream")
BERT_TOKENS = 177.0
"""Mean real tokens of SQuAD at MLPerf's padded length of 384; engines on GPUs compute no others."""
OFFLINE_BATCH = 256.0
"""Large enough that nothing depends on it."""
EIGHT_BIT_FLOATS = ("h100", "h200", "gh200", "l4")
"""Boards, by the first word of their id, whose bert-99.9 counts as fp8 although rows say fp16. Read off the results:
87 % of an H100's 16-bit rate is out of reach, and most L4 submissions are 1.5 times those that look like 16 bits.
Other Ada boards (L40) do what 16 bits can. H200 and Blackwell boards are assumed to follow the H100."""


@dataclass(frozen=True, slots=True)
class StepTable:
    """One kind of table whose rows are whole encoder passes.

    Attributes
    ----------
    names, optional
        Text columns that say what ran, and those that may be blank or absent; rows that agree in them run alike.
    sizes
        Numeric columns that must be positive.
    runner
        Values of the text columns and the device → what runs the rows.
    seconds
        The same with the rows → time of each row's pass, or per sample [s].
    measured_s
        The rows → what was measured, as `seconds` counts it [s].
    """

    names: tuple[str, ...]
    optional: tuple[str, ...]
    sizes: tuple[str, ...]
    runner: Callable[[Row, Place], Runner]
    seconds: Callable[[Row, pd.DataFrame, Place], list[Estimate]]
    measured_s: Callable[[pd.DataFrame], Array]


def encoder_runner(values: Row, place: Place) -> Runner:
    """Return what runs the rows of an encoder table."""
    return runner(place, str(values["engine"]), names.dtype(str(values["dtype"])).compute)


def encoder_seconds(values: Row, rows: pd.DataFrame, place: Place) -> list[Estimate]:
    """Return the latency of each row of an encoder table [s]."""
    engine = str(values["engine"])
    found = encoder_runner(values, place)
    model = bert(int(values["layers"]), int(values["hidden_size"]), int(values["heads"]))
    tokens = column(rows, "sequence_length")
    if _packs(engine) and "mean_tokens" in rows:
        real = column(rows, "mean_tokens")
        tokens = np.where(np.isfinite(real), real, tokens)
    factor = 1.0
    if found.steps is not None and names.engine(engine).family == found.steps.engine:
        factor = engine_kernels.maturity(place.hardware, released(engine), found.steps)
    shapes, chosen = np.unique(np.stack([column(rows, "batch"), tokens], axis=1), axis=0, return_inverse=True)
    each = [found.step(model, batch, length).scaled(factor) for batch, length in shapes]
    return [each[index] for index in chosen.reshape(-1)]


def encoder_measured_s(rows: pd.DataFrame) -> Array:
    """Return an encoder table's latency: as given, else batch ÷ throughput [s]."""
    given, rate = optional_column(rows, "latency_ms"), optional_column(rows, "sequences_per_s")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isfinite(given), given / 1e3, column(rows, "batch") / rate)


def optional_column(frame: pd.DataFrame, name: str) -> Array:
    """Return a numeric column, or blanks where the table has none."""
    return column(frame, name) if name in frame else np.full(len(frame), np.nan)


def _packs(engine: str) -> bool:
    """Tell engines that remove padding: they compute the real tokens, the others the padded length."""
    return "eff-ft" in engine.casefold() or "padding removed" in engine.casefold()


def released(engine: str) -> float | None:
    """Return when a version of TensorRT came out [year], between the nearest known ones; None without a version.

    Examples
    --------
    >>> released("TensorRT 8.4 demo/BERT"), released("TensorRT 8.3"), released("TensorRT")
    (2022.45, 2022.175, None)
    """
    major, _, rest = names.engine(engine).version.partition(".")
    minor = rest.partition(".")[0]
    if not major.isdigit():
        return None
    order = int(major) + (int(minor) if minor.isdigit() else 0) / 100
    known = [version + part / 100 for (version, part), _ in RELEASES]
    return round(float(np.interp(order, known, [year for _, year in RELEASES])), 3)


def bert_runner(values: Row, place: Place) -> Runner:
    """Return what runs a bert submission to MLPerf.

    On NVIDIA's boards that is taken to be TensorRT, whatever the software column stresses: nearly all rows name it.

    Raises
    ------
    CapacityError
        For other benchmarks.
    """
    benchmark = str(values["benchmark"])
    if not benchmark.startswith("bert"):
        raise CapacityError(f"{benchmark} is no encoder pass; of this kind bert-99 and bert-99.9 are predicted")
    nvidia = place.hardware.vendor == "NVIDIA" and place.hardware.kind == "gpu"
    return runner(place, "tensorrt" if nvidia else said(values, "software"), precision(values, place.hardware)[0])


def bert_seconds(values: Row, rows: pd.DataFrame, place: Place) -> list[Estimate]:
    """Return the time of one sample of each row [s]: mean of a loaded device, of a single stream its latency.

    Raises
    ------
    UnknownNameError
        For scenarios the data-center and edge divisions do not have.
    """
    found, scenario, factor = bert_runner(values, place), str(values["scenario"]), 1.0
    if scenario not in SCENARIOS:
        raise UnknownNameError("scenario", scenario, SCENARIOS)
    known, single = place.submissions, scenario == "SingleStream"
    if found.steps is not None:
        factor = engine_kernels.maturity(place.hardware, _year(said(values, "round")), found.steps, tuned=True)
        factor *= engine_kernels.looked_up(known.tuned, found.dtype, place.hardware) or 1.0
    batch, tokens = (1.0, known.single_stream_tokens) if single else (OFFLINE_BATCH, BERT_TOKENS)
    sample = found.step(bert(24, 1024, 16), batch, tokens).scaled(factor / batch)
    if single:
        sample = sample.widened("query of the 90th percentile", known.single_stream_log_sigma)
    if not precision(values, place.hardware)[1]:
        sample = sample.widened("dtype not said", 0.0, "assumed")
    return server_rule.scenario(sample, scenario, known.server["bert"], rows, place.hardware)


def bert_measured_s(rows: pd.DataFrame) -> Array:
    """Return the measured time of one sample [s]: device ÷ throughput, of a single stream the latency."""
    single = rows["scenario"].to_numpy() == "SingleStream"
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(single, optional_column(rows, "value") / 1e3, 1 / optional_column(rows, "value_per_device"))


def precision(values: Row, hardware: Hardware) -> tuple[str, bool]:
    """Return what a bert submission multiplies in, and whether its row says so: blank and mixed entries do not.

    On a GPU, fp32 says in what the model was published, and fp16 may mean fp8 (`EIGHT_BIT_FLOATS`).
    """
    high = str(values["benchmark"]).endswith("99.9") and hardware.kind == "gpu"
    floats = hardware.id.partition("-")[0] in EIGHT_BIT_FLOATS or hardware.architecture == "blackwell"
    usual = ("fp8" if floats else "fp16") if high else "int8"
    raw = said(values, "weight_dtype")
    if not raw or "," in raw or "+" in raw:
        return usual, False
    told = names.dtype(raw).compute
    if told == "fp32" and hardware.kind == "gpu":
        return usual, False
    return (usual, True) if (told, usual) == ("fp16", "fp8") else (told, True)


LEAST_NO_ROUND = 1000.0
"""Larger numbers are something else."""


def round_number(name: str) -> float | None:
    """Return the number of a round, which grows with time; None for a name that is no round.

    Examples
    --------
    >>> round_number("v4.1"), round_number("preview")
    (4.1, None)
    """
    try:
        number = float(name.removeprefix("v"))
    except ValueError:
        return None
    return number if 0 < number < LEAST_NO_ROUND else None


def _year(name: str) -> float | None:
    """Return when the results of a round came out [year]; None for a name that is no round."""
    number = round_number(name)
    if number is None:
        return None
    return float(np.interp(number, [each for each, _ in ROUNDS], [year for _, year in ROUNDS]))


TABLES: dict[str, StepTable] = {
    "encoder": StepTable(
        ("hardware", "engine", "dtype", "layers", "hidden_size", "heads"), (), ("batch", "sequence_length"),
        encoder_runner, encoder_seconds, encoder_measured_s,
    ),
    "mlperf_inference": StepTable(
        ("hardware", "benchmark", "scenario"), ("round", "weight_dtype", "software"), (),
        bert_runner, bert_seconds, bert_measured_s,
    ),
}  # fmt: skip
"""Kinds of tables whose rows are whole encoder passes."""
