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
from capacity.timing.band import Estimate
from capacity.timing.device import Device
from capacity.work import transformer
from capacity.work.huggingface import transformer as from_config

Array = NDArray[np.float64]
FUSED_ENGINES = {"tensorrt", "trtllm", "vllm", "sglang", "fastertransformer", "onnxruntime", "openvino"}
"""Engine families that fuse element-wise work into their products; the rest launch it operation by operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What predictions depend on besides their row."""

    calibrations: Sequence[tuple[Calibration, Hardware]]
    shared: Shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of measurement table."""

    group_by: tuple[str, ...]
    """Input columns that are names or fix an architecture; rows that agree in them are predicted together."""
    sizes: tuple[str, ...]
    """Numeric input columns; all must be positive."""
    targets: tuple[str, ...]
    measured: Callable[[pd.DataFrame, str], Array]
    predict: Callable[[Mapping[str, Any], pd.DataFrame, Context], Mapping[str, Estimate]]
    """Values of `group_by` and the group's rows → an estimate for each target, one value a row."""
    optional: tuple[str, ...] = ()

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
    """Return the table with numeric columns as float64, or name every missing column."""
    wanted = KINDS[kind]
    missing = [name for name in wanted.columns if name not in frame.columns]
    if missing:
        what = f"kind {kind} needs column {{}}; {suggestion(missing[0], frame.columns)}"
        raise InputError([Problem(path, what.format(repr(name))) for name in missing])
    numeric = [name for name in wanted.sizes + wanted.optional + wanted.targets if name in frame.columns]
    return frame.assign(**{name: pd.to_numeric(frame[name], errors="coerce").astype(float) for name in numeric})


def predictions(frame: pd.DataFrame, kind: str, context: Context) -> pd.DataFrame:
    """Return one row for each input row × target, in input order: the long format of the contract.

    Columns: row, target, measured, predicted, low, high, error (= predicted/measured − 1), basis, reason, then inputs.
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
        part.insert(6, "error", part["predicted"].to_numpy() / measured - 1)
        long.append(part.join(inputs, rsuffix="_input"))
    return pd.concat(long, ignore_index=True).sort_values(["row", "target"], kind="stable", ignore_index=True)


def _blank(rows: int) -> pd.DataFrame:
    numbers = {name: np.full(rows, np.nan) for name in ("predicted", "low", "high")}
    return pd.DataFrame(numbers | {"basis": np.full(rows, "", dtype=object), "reason": np.full(rows, "", dtype=object)})


def _invalid(inputs: pd.DataFrame, kind: Kind) -> pd.Series[str]:
    """Return, for each row, why it cannot be predicted whatever the model; empty when it can."""
    reasons = pd.Series("", index=inputs.index, dtype=object)
    for name in reversed(kind.sizes):
        bad = ~(np.isfinite(inputs[name]) & (inputs[name] > 0))
        reasons[bad] = f"{name} must be a positive number"
    for name in reversed(kind.group_by):
        reasons[inputs[name].isna()] = f"{name} is blank"
    return reasons


def _fill(
    parts: Mapping[str, pd.DataFrame], rows: pd.DataFrame, kind: Kind, values: Mapping[str, Any], context: Context
) -> None:
    try:
        estimates = kind.predict(values, rows, context)
    except CapacityError as error:
        for part in parts.values():
            part.loc[rows.index, "reason"] = str(error)
        return
    for target, estimate in estimates.items():
        part = parts[target]
        part.loc[rows.index, "predicted"] = estimate.value
        part.loc[rows.index, "low"] = estimate.low
        part.loc[rows.index, "high"] = estimate.high
        part.loc[rows.index, "basis"] = estimate.basis


def summary(frame: pd.DataFrame, kind: str, rows: int) -> dict[str, Any]:
    """Return the error figures of `predictions` as the contract's JSON: overall and by hardware."""
    refused = frame[frame["reason"] != ""].drop_duplicates("row")["reason"].value_counts()
    by_hardware = {
        str(name): {target: _figures(part[part["target"] == target]) for target in KINDS[kind].targets}
        for name, part in frame.groupby("hardware", sort=True)
    }
    return {
        "kind": kind, "rows": rows, "refused": {str(reason): int(count) for reason, count in refused.items()},
        "targets": {target: _figures(frame[frame["target"] == target]) for target in KINDS[kind].targets},
        "by_hardware": by_hardware,
    }  # fmt: skip


def _figures(part: pd.DataFrame) -> dict[str, float | int | None]:
    """Return count, share, median, mean and P90 |error|, bias, band coverage and width (fractions)."""
    predicted = part["predicted"].notna()
    known = part[predicted & part["error"].notna() & np.isfinite(part["error"].astype(float))]
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


def _encoder(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Estimate]:
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
    dtype = names.dtype(str(values["dtype"])).compute
    work = transformer.encode(from_config(config, head="none"), tables.column(rows, "batch"), tokens, dtype, fusion)  # type: ignore[arg-type]
    step = device.step(work).widened("engine not measured", context.shared.engine_log_sigma)
    return {"latency_ms": step.scaled(1e3)}


def _packs(engine: str) -> bool:
    """Tell engines that remove padding: they compute the real tokens, the others the padded length."""
    return "eff-ft" in engine.casefold() or "padding removed" in engine.casefold()


def _gemm(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Estimate]:
    device, _ = _device(str(values["hardware"]), str(values["engine"]), context)
    return {"latency_us": device.time(tables.gemm(rows, names.dtype(str(values["dtype"])))).scaled(1e6)}


def _attention(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Estimate]:
    device, _ = _device(str(values["hardware"]), str(values["engine"]), context)
    phase = str(values["phase"])
    if phase not in {"encoder", "prefill", "decode"}:
        raise UnknownNameError("phase", phase, ("encoder", "prefill", "decode"))
    return {"latency_us": device.time(tables.attention(rows, names.dtype(str(values["dtype"])), phase)).scaled(1e6)}


KINDS: dict[str, Kind] = {
    "gemm": Kind(
        group_by=("hardware", "engine", "dtype"), sizes=("m", "n", "k"), targets=("latency_us",), measured=_column,
        predict=_gemm,
    ),
    "attention": Kind(
        group_by=("hardware", "engine", "phase", "dtype"),
        sizes=("batch", "query_length", "kv_length", "heads", "kv_heads", "head_dim"), targets=("latency_us",),
        measured=_column, predict=_attention,
    ),
    "encoder": Kind(
        group_by=("hardware", "engine", "dtype", "layers", "hidden_size", "heads"), sizes=("batch", "sequence_length"),
        targets=("latency_ms",), measured=_milliseconds, predict=_encoder, optional=("mean_tokens", "sequences_per_s"),
    ),
}  # fmt: skip
