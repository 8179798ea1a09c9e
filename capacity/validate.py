"""Predictions held against a table of measurements: every row predicted or refused with its reason, errors with bands.

A prediction sees the input columns of its own row and the calibration, nothing else: targets may be blank, rows may
come in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capacity import catalogue
from capacity.errors import CapacityError, InputError, Problem, UnknownNameError, suggestion
from capacity.spec import names
from capacity.spec.calibration import Calibration, Shared
from capacity.spec.hardware import Hardware
from capacity.timing import tables, transfer
from capacity.timing.band import Basis, Estimate
from capacity.timing.device import Device
from capacity.work import transformer
from capacity.work.huggingface import transformer as from_config

Array = NDArray[np.float64]
FUSED_ENGINES = {"tensorrt", "trtllm", "vllm", "sglang", "fastertransformer", "onnxruntime", "openvino"}
"""Engine families that fuse element-wise work into their products; the rest launch it operation by operation."""
MOST = 1e12
"""Largest size that is believed: products of sizes stay finite, and no machine holds more of anything."""
COLUMNS = ("row", "target", "measured", "predicted", "low", "high", "error", "basis", "reason")
"""First columns of the long format; the inputs follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What predictions depend on besides their row."""

    calibrations: Sequence[tuple[Calibration, Hardware]]
    shared: Shared


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions of some rows: medians, ends of the 90 % band, and one basis for all rows or one for each."""

    value: Array
    low: Array
    high: Array
    basis: Basis | NDArray[np.object_]

    @classmethod
    def of(cls, estimate: Estimate) -> Predicted:
        """Return the predictions of an estimate with one value a row."""
        value, low, high = (np.asarray(part, dtype=float) for part in (estimate.value, estimate.low, estimate.high))
        return cls(value, low, high, estimate.basis)

    @classmethod
    def each(cls, estimates: Sequence[Estimate], chosen: NDArray[np.intp]) -> Predicted:
        """Return the predictions of rows of which row i has the estimate number `chosen[i]`."""
        ends = np.array([(item.value, item.low, item.high) for item in estimates], dtype=float)[chosen]
        bases = np.array([item.basis for item in estimates], dtype=object)[chosen]
        return cls(ends[:, 0], ends[:, 1], ends[:, 2], bases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of measurement table."""

    group_by: tuple[str, ...]
    """Input columns that are names or fix an architecture; rows that agree in them are predicted together."""
    sizes: tuple[str, ...]
    """Numeric input columns; all must be positive."""
    whole: tuple[str, ...] = ()
    """Columns of `group_by` that count something: positive whole numbers."""
    optional: tuple[str, ...] = ()
    """Numeric input columns that may be absent or blank; positive where given."""
    targets: tuple[str, ...]
    measured: Callable[[pd.DataFrame, str], Array]
    predict: Callable[[Mapping[str, Any], pd.DataFrame, Context], Mapping[str, Predicted]]
    """Values of `group_by` and the group's rows → a prediction for each target, one value a row."""
    impossible: Callable[[pd.DataFrame], dict[str, pd.Series[bool]]] = lambda _: {}
    """Reasons, and the rows whose sizes contradict each other in that way."""
    twins: tuple[str, ...] = ()
    """Numeric columns that say a target in another way; never an input."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns a table must have."""
        return self.group_by + self.sizes


def read_table(path: str | Path) -> pd.DataFrame:
    """Return the rows of a CSV or Parquet file, or say in one line why there are none."""
    source = Path(path)
    if not source.is_file():
        raise InputError([Problem(str(path), "is a folder; name a file in it" if source.is_dir() else "no such file")])
    try:
        if source.suffix == ".parquet":
            return pd.read_parquet(source)
        return pd.read_csv(source, low_memory=False)
    except OSError as error:
        raise InputError([Problem(str(path), f"cannot be read: {error.strerror or error}")]) from None
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError([Problem(str(path), f"is not a CSV or Parquet table: {said[:120]}")]) from None


def checked(frame: pd.DataFrame, kind: str, path: str) -> pd.DataFrame:
    """Return the table with names as text and numeric columns as float64.

    Raises
    ------
    InputError
        When columns are missing, all of them named, or there are no rows.
    """
    wanted, present = KINDS[kind], [str(name) for name in frame.columns]
    missing = [name for name in wanted.columns if name not in present]
    if missing:
        what = f"kind {kind} needs column {{!r}}; {{}}"
        raise InputError([Problem(path, what.format(name, suggestion(name, present))) for name in missing])
    if frame.empty:
        raise InputError([Problem(path, "holds no rows; a measurement is one row below the line of column names")])
    texts = [name for name in wanted.group_by if name not in wanted.whole]
    odd = [name for name in texts if pd.api.types.infer_dtype(frame[name], skipna=True) not in {"string", "empty"}]
    frame = frame.assign(**{name: frame[name].astype(str).where(frame[name].notna()) for name in odd})
    every = wanted.whole + wanted.sizes + wanted.optional + wanted.targets + wanted.twins
    numeric = {name: pd.to_numeric(frame[name], errors="coerce") for name in every if name in frame.columns}
    return frame.assign(**{name: values.astype(float) for name, values in numeric.items()}).reset_index(drop=True)


def usable(frame: pd.DataFrame, kind: str) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows of a checked table that a fit can use, and how many were left out for which reason."""
    target = KINDS[kind].targets[0]
    reasons = _invalid(frame, KINDS[kind])
    timed = np.isfinite(frame[target]) & (frame[target] > 0)
    reasons[(reasons == "") & ~timed] = f"{target} must be a positive number"
    left_out = reasons[reasons != ""].value_counts()
    return frame[reasons == ""], {str(reason): int(count) for reason, count in left_out.items()}


def predictions(frame: pd.DataFrame, kind: str, context: Context) -> pd.DataFrame:
    """Return one row for each input row × target, in input order: the long format of the contract.

    Columns: row, target, measured, predicted, low, high, error (= predicted/measured − 1, where the measured value is
    positive), basis, reason, then inputs; an input of one of these names is called `<name>_input`.
    """
    wanted = KINDS[kind]
    inputs = frame.reset_index(drop=True)
    parts = {target: _blank(len(inputs)) for target in wanted.targets}
    invalid = _invalid(inputs, wanted)
    for target in wanted.targets:
        parts[target].loc[invalid != "", "reason"] = invalid[invalid != ""]
    valid = inputs[invalid == ""]
    for key, index in valid.groupby(list(wanted.group_by), dropna=False, sort=False).indices.items():
        rows = valid.iloc[index]
        values = dict(zip(wanted.group_by, key if isinstance(key, tuple) else (key,), strict=True))
        _fill(parts, rows, wanted, values, context)
    long = []
    for target, part in parts.items():
        measured = wanted.measured(inputs, target)
        part.insert(0, "row", np.arange(len(inputs)))
        part.insert(1, "target", target)
        part.insert(2, "measured", measured)
        known = np.where(np.isfinite(measured) & (measured > 0), measured, np.nan)
        part.insert(6, "error", part["predicted"].to_numpy() / known - 1)
        long.append(pd.concat([part, _apart(inputs)], axis=1))
    return pd.concat(long, ignore_index=True).sort_values(["row", "target"], kind="stable", ignore_index=True)


def _apart(inputs: pd.DataFrame) -> pd.DataFrame:
    """Return the inputs with names that no column of the long format has, even when they are such a table."""
    taken, renamed = set(COLUMNS), {}
    for name in map(str, inputs.columns):
        renamed[name] = name
        while renamed[name] in taken:
            renamed[name] += "_input"
        taken.add(renamed[name])
    return inputs.rename(columns=renamed)


def _blank(rows: int) -> pd.DataFrame:
    numbers = {name: np.full(rows, np.nan) for name in ("predicted", "low", "high")}
    return pd.DataFrame(numbers | {"basis": np.full(rows, "", dtype=object), "reason": np.full(rows, "", dtype=object)})


def _invalid(inputs: pd.DataFrame, kind: Kind) -> pd.Series[str]:
    """Return, for each row, why it cannot be predicted whatever the model; empty when it can."""
    reasons = pd.Series("", index=inputs.index, dtype=object)
    for reason, rows in kind.impossible(inputs).items():
        reasons[rows] = reason
    for name in reversed(kind.sizes + kind.optional):
        if name in inputs:
            good = (inputs[name] > 0) & (inputs[name] <= MOST)
            good |= inputs[name].isna() & (name in kind.optional)
            reasons[~good] = f"{name} must be a positive number, at most {MOST:.0e}"
    for name in reversed(kind.whole):
        good = (inputs[name] > 0) & (inputs[name] <= MOST) & (inputs[name] == np.floor(inputs[name]))
        reasons[~good] = f"{name} must be a positive whole number"
    for name in reversed(kind.group_by):
        if name not in kind.whole:
            reasons[inputs[name].isna()] = f"{name} is blank"
    return reasons


def _fill(
    parts: Mapping[str, pd.DataFrame], rows: pd.DataFrame, kind: Kind, values: Mapping[str, Any], context: Context
) -> None:
    try:
        found = kind.predict(values, rows, context)
    except CapacityError as error:
        for part in parts.values():
            part.loc[rows.index, "reason"] = str(error)
        return
    for target, predicted in found.items():
        part = parts[target]
        part.loc[rows.index, "predicted"] = predicted.value
        part.loc[rows.index, "low"] = predicted.low
        part.loc[rows.index, "high"] = predicted.high
        part.loc[rows.index, "basis"] = predicted.basis


def summary(frame: pd.DataFrame, kind: str, rows: int) -> dict[str, Any]:
    """Return the error figures of `predictions` as the contract's JSON: overall and by hardware."""
    refused = frame[frame["reason"] != ""].drop_duplicates("row")["reason"].value_counts()
    ids = {name: _id(str(name)) for name in frame["hardware"].dropna().unique()}
    by_hardware = {
        str(name): {target: _figures(part[part["target"] == target]) for target in KINDS[kind].targets}
        for name, part in frame.groupby(frame["hardware"].map(ids), sort=True)
    }
    return {
        "kind": kind, "rows": rows, "refused": {str(reason): int(count) for reason, count in refused.items()},
        "targets": {target: _figures(frame[frame["target"] == target]) for target in KINDS[kind].targets},
        "by_hardware": by_hardware,
    }  # fmt: skip


def _id(name: str) -> str:
    """Return the profile id that a table's hardware name means, or the name itself where none does."""
    try:
        return names.hardware_id(name)
    except UnknownNameError:
        return name


def _figures(part: pd.DataFrame) -> dict[str, float | int | None]:
    """Return count, share, median, mean and P90 |error|, bias, band coverage and width (fractions)."""
    predicted = part["predicted"].notna()
    known = part[predicted & part["error"].notna()]
    error = known["error"].to_numpy(dtype=float)
    inside = (known["measured"] >= known["low"]) & (known["measured"] <= known["high"])
    figures: dict[str, float | int | None] = {"predicted": int(predicted.sum())}
    figures["share"] = float(predicted.mean()) if len(part) else None
    empty = len(error) == 0
    figures["median_ape"] = None if empty else float(np.median(np.abs(error)))
    figures["mean_ape"] = None if empty else float(np.mean(np.abs(error)))
    figures["p90_ape"] = None if empty else float(np.quantile(np.abs(error), 0.9))
    figures["bias"] = None if empty else float(np.median(error))
    figures["band_coverage"] = None if empty else float(inside.mean())
    figures["band_width"] = None if empty else float(np.median(known["high"] / known["low"]))
    return figures


def gate(figures: Mapping[str, Any], max_median_error: float | None, min_share: float) -> list[str]:
    """Return why the result fails the gate, in words; empty when it passes."""
    failures = []
    for target, values in figures["targets"].items():
        share, error = values["share"], values["median_ape"]
        if share is None or share < min_share:
            failures.append(
                f"{target}: {0 if share is None else share:.1%} of the rows predicted, at least {min_share:.1%} wanted"
            )
        if max_median_error is not None and (error is None or error > max_median_error):
            said = "no row could be compared" if error is None else f"median error {error:.1%}"
            failures.append(f"{target}: {said}, at most {max_median_error:.1%} wanted")
    return failures


def _device(name: str, engine: str, context: Context) -> tuple[Device, str]:
    """Return the device of a table's hardware name, and the fusion of its engine."""
    brought = {profile.id: profile for _, profile in context.calibrations}
    profile = brought.get(name) or catalogue.hardware(names.hardware_id(name))
    xla = "xla" in engine.casefold()
    fusion = "fused" if xla or names.engine(engine).family in FUSED_ENGINES else "eager"
    return transfer.device(profile, fusion, context.calibrations, context.shared), fusion


def _milliseconds(frame: pd.DataFrame, target: str) -> Array:
    """Return an encoder table's latency: as given, else batch ÷ throughput [ms]."""
    empty = np.full(len(frame), np.nan)
    given = frame[target].to_numpy(dtype=float) if target in frame else empty
    rate = frame["sequences_per_s"].to_numpy(dtype=float) if "sequences_per_s" in frame else empty
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isfinite(given), given, 1e3 * frame["batch"].to_numpy(dtype=float) / rate)


def _column(frame: pd.DataFrame, target: str) -> Array:
    return frame[target].to_numpy(dtype=float) if target in frame else np.full(len(frame), np.nan)


def _encoder(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    device, fusion = _device(str(values["hardware"]), str(values["engine"]), context)
    hidden = int(values["hidden_size"])
    config = {
        "model_type": "bert", "hidden_size": hidden, "num_hidden_layers": int(values["layers"]), "vocab_size": 30522,
        "num_attention_heads": int(values["heads"]), "intermediate_size": 4 * hidden, "max_position_embeddings": 512,
    }  # fmt: skip
    tokens = tables.column(rows, "sequence_length")
    if _packs(str(values["engine"])) and "mean_tokens" in rows:
        real = tables.column(rows, "mean_tokens")
        tokens = np.where(np.isfinite(real), real, tokens)
    dtype, model = names.dtype(str(values["dtype"])).compute, from_config(config, head="none")
    shapes, chosen = np.unique(np.stack([tables.column(rows, "batch"), tokens], axis=1), axis=0, return_inverse=True)
    other = context.shared.engine_log_sigma
    steps = [  # shape by shape: which terms of a sum matter, and so its basis, must not depend on other rows
        device.step(transformer.encode(model, batch, length, dtype, fusion)).widened("engine not measured", other)  # type: ignore[arg-type]
        for batch, length in shapes
    ]
    return {"latency_ms": Predicted.each([step.scaled(1e3) for step in steps], chosen.reshape(-1))}


def _packs(engine: str) -> bool:
    """Tell engines that remove padding: they compute the real tokens, the others the padded length."""
    return "eff-ft" in engine.casefold() or "padding removed" in engine.casefold()


def _gemm(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    device, _ = _device(str(values["hardware"]), str(values["engine"]), context)
    product = tables.gemm(rows, names.dtype(str(values["dtype"])))
    return {"latency_us": Predicted.of(device.time(product).scaled(1e6))}


def _attention(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    device, _ = _device(str(values["hardware"]), str(values["engine"]), context)
    phase = str(values["phase"])
    if phase not in {"encoder", "prefill", "decode"}:
        raise UnknownNameError("phase", phase, ("encoder", "prefill", "decode"))
    call = tables.attention(rows, names.dtype(str(values["dtype"])), phase)
    return {"latency_us": Predicted.of(device.time(call).scaled(1e6))}


def _unmasked(rows: pd.DataFrame) -> dict[str, pd.Series[bool]]:
    """Return the causal rows that would have queries without a key: the keys include the queries' own."""
    short = (rows["phase"] != "encoder") & (rows["kv_length"] < rows["query_length"])
    return {"kv_length must be at least query_length": short}


KINDS: dict[str, Kind] = {
    "gemm": Kind(
        group_by=("hardware", "engine", "dtype"), sizes=("m", "n", "k"), targets=("latency_us",), measured=_column,
        predict=_gemm,
    ),
    "attention": Kind(
        group_by=("hardware", "engine", "phase", "dtype"),
        sizes=("batch", "query_length", "kv_length", "heads", "kv_heads", "head_dim"), targets=("latency_us",),
        measured=_column, predict=_attention, impossible=_unmasked,
    ),
    "encoder": Kind(
        group_by=("hardware", "engine", "dtype", "layers", "hidden_size", "heads"), sizes=("batch", "sequence_length"),
        targets=("latency_ms",), measured=_milliseconds, predict=_encoder, whole=("layers", "hidden_size", "heads"),
        optional=("mean_tokens",), twins=("sequences_per_s",),
    ),
}  # fmt: skip
