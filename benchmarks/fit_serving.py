"""Fit what LLM engines add to their kernels on whole measured servers, and write it into calibrations/shared.yaml.

    python -m benchmarks.fit_serving ../shared/data [--write]

Time per output token is linear in all but the kernels' own share, so each round simulates every server once, fits the
rest, and simulates again. Printed errors are of servers left out: all of one model, or all of one device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from capacity import catalogue
from capacity.errors import CapacityError
from capacity.phases import engine_step
from capacity.spec import names
from capacity.spec.calibration import Shared
from capacity.spec.serving_engine import Scheduling, ServingEngine
from capacity.validate import serving
from capacity.validate.kind import Context
from capacity.validate.serving import Row
from capacity.work import decoder_step
from capacity.work.decoder_step import HALF
from capacity.work.operations import Collective

FILE = Path("hardware_profiles/calibrations/shared.yaml")
BEGIN, END = "# --- fitted by benchmarks/fit_serving.py ---\n", "# --- fitted by benchmarks/fit_recommenders.py"
TOKEN = (
    "kernels", "exchange", "layer", "expert_layer", "quantized_layer", "grouped_layer", "step", "single_step",
    "sequence",
)  # fmt: skip
FIRST = ("visible", "visible_steps", "visible_token", "visible_sequence")
START = {
    "kernels": 1.0, "exchange": 0.9, "layer": 3e-6, "expert_layer": 5e-6, "quantized_layer": 2e-6,
    "grouped_layer": 25e-6, "step": 0.8e-3, "single_step": 0.8e-3, "sequence": 8e-6, "visible": 40e-3,
    "visible_steps": 1.5, "visible_token": 5e-6, "visible_sequence": 0.5e-3,
}  # fmt: skip
SPREAD = {
    "kernels": 0.06, "exchange": 0.5, "layer": 4e-6, "expert_layer": 6e-6, "quantized_layer": 3e-6,
    "grouped_layer": 20e-6, "step": 0.8e-3, "single_step": 0.8e-3, "sequence": 8e-6, "visible": 40e-3,
    "visible_steps": 0.5, "visible_token": 5e-6, "visible_sequence": 0.5e-3,
}  # fmt: skip
"""Where parameters start, and how far the fit may pull them away: weak priors, so that few servers do not run wild."""
FIRST_SCATTER = 0.2
ROUNDS = 3
DEVICE_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Source:
    """Measured servers that share one engine entry."""

    engine: str
    versions: tuple[str, ...]
    table: str
    rows: pd.DataFrame
    scatter: float = 0.07
    """Standard deviation of ln(time per token) that repeats of one server show [1]."""
    no_first: str = ""
    """Model whose times to the first token are an artefact (they fall with the load)."""


def sources(folder: Path) -> list[Source]:
    """Return the servers of the tables by engine entry, artefacts left out."""
    closed = pd.read_csv(folder / "serving_closed_loop.csv")
    closed = closed[~closed["outlier"]]
    load = pd.read_csv(folder / "serving_load.csv")
    load = load[(load["stage"] != "summary") & (load["requests_failed"] == 0)]
    vllm, trtllm = (closed[closed["engine"] == name] for name in ("vllm", "trtllm"))
    early = trtllm["engine_version"].fillna("").str.startswith("1.0")
    return [
        Source("vllm", (), "serving_closed_loop", vllm),
        Source("vllm", ("0.14", "0.15"), "serving_load", load, scatter=0.025),
        Source("trtllm", (), "serving_closed_loop", trtllm[~early]),
        Source("trtllm", ("1.0",), "serving_closed_loop", trtllm[early], no_first="meta-llama/Llama-3.1-8B-Instruct"),
    ]


def observed(source: Source, entry: ServingEngine, shared: Shared) -> pd.DataFrame:
    """Return, for each server that can be simulated, its measured and simulated times and what its steps hold [s]."""
    bare = entry.model_copy(update={"versions": (), **dict.fromkeys(FIRST, 0.0)})
    told = shared.model_copy(update={"serving_engines": (bare,)})
    context = Context(calibrations=catalogue.calibrations(()), shared=told)
    found, runs = [], {}
    for values in source.rows.to_dict("records"):
        row = Row(values)
        try:
            if source.table == "serving_load":
                key = values["experiment"]
                runs[key] = runs.get(key) or serving.open_load(row, context)
                seen = serving._stage(*runs[key], row.text("stage")).within(serving.CLIENT_TIMEOUT_S)
            else:
                seen = serving.closed_loop(row, context)
            found.append(_observation(row, seen, entry, context))
        except CapacityError:
            continue
    return pd.DataFrame(found)


def _observation(row: Row, seen: serving.Seen, entry: ServingEngine, context: Context) -> dict[str, object]:
    served = row.served
    device = context.device(row.text("hardware"), "fused")
    token_s, first_s = float(np.nanmean(seen.token_s)), float(seen.first_s.mean())
    rate = len(seen.end_s) / max(float((seen.arrival_s + seen.end_s).max() - seen.arrival_s.min()), 1e-9)
    running = rate * float(seen.output_tokens.mean()) * token_s
    ends = np.sort(seen.arrival_s + seen.end_s)
    arrived = np.searchsorted(np.sort(seen.arrival_s), seen.arrival_s, side="right")
    inside = arrived - np.searchsorted(ends, seen.arrival_s)
    inside = float(np.minimum(inside, row.number("max_num_seqs", 1024.0)).mean())
    work = [op for op in decoder_step.linear(served, np.array([running])) if isinstance(op, Collective)]
    exchange_s = float(np.sum(engine_step.kernels_s(work, served, device).value)) if work else 0.0
    inputs = row.number("input_tokens", row.number("prompt_tokens_mean")) * 0.9
    flags = {
        "layer": served.layers, "expert_layer": served.layers * bool(served.model.layer.experts),
        "quantized_layer": served.layers * (served.products.compute != HALF.compute),
        "grouped_layer": served.layers * (served.layout.attention_data > 1), "step": 1.0,
        "single_step": float(served.layout.devices == 1), "sequence": running, "exchange": exchange_s,
    }  # fmt: skip
    added_s = sum(getattr(entry, name) * size for name, size in flags.items())
    visible = {"visible": 1.0, "visible_steps": token_s, "visible_token": inputs, "visible_sequence": inside}
    ttft, tpot = ("ttft_ms", "tpot_ms") if "ttft_ms" in row.values else ("ttft_mean_ms", "tpot_mean_ms")
    return {
        "model": row.text("model"), "hardware": row.text("hardware"), "measured_token_s": row.number(tpot) / 1e3,
        "measured_first_s": row.number(ttft) / 1e3, "kernels": (token_s - added_s) / entry.kernels,
        "engine_first_s": first_s, **flags, **visible,
    }  # fmt: skip


def token_s(parameters: Mapping[str, float], rows: pd.DataFrame) -> pd.Series[float]:
    """Return the time per output token with these parameters [s]."""
    return sum((parameters[name] * rows[name] for name in TOKEN), start=pd.Series(0.0, rows.index)).clip(lower=1e-6)


def first_s(parameters: Mapping[str, float], rows: pd.DataFrame) -> pd.Series[float]:
    """Return the time to the first token with these parameters [s]."""
    return rows["engine_first_s"] + sum(parameters[name] * rows[name] for name in FIRST)


def fitted(
    rows: pd.DataFrame, names: Sequence[str], center: Mapping[str, float], scatter: float = FIRST_SCATTER
) -> dict[str, float]:
    """Return the parameters of least error beside weak priors around `center`; none is negative."""
    first = names is FIRST
    start, spread = (np.array([table[name] for name in names]) for table in (center, SPREAD))

    def residuals(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        told = dict(zip(names, values, strict=True))
        ratio = (first_s if first else token_s)(told, rows) / rows["measured_first_s" if first else "measured_token_s"]
        return np.r_[np.log(ratio.clip(lower=1e-3)) / scatter, (values - start) / spread]

    found = least_squares(residuals, np.maximum(start, 1e-9), bounds=(0, np.inf), x_scale=spread, loss="soft_l1")
    return dict(zip(names, map(float, found.x), strict=True))


def left_out(
    rows: pd.DataFrame, names: Sequence[str], center: Mapping[str, float], by: str, scatter: float
) -> pd.Series[float]:
    """Return ln(predicted/measured) of each server by a fit without its group."""
    first = names is FIRST
    parts = []
    for _, part in rows.groupby(by):
        others = rows.drop(part.index)
        told = fitted(others, names, center, scatter) if len(others) else dict(center)
        ratio = (first_s if first else token_s)(told, part) / part["measured_first_s" if first else "measured_token_s"]
        parts.append(np.log(ratio.clip(lower=1e-3)))
    return pd.concat(parts).reindex(rows.index)


def entry_of(source: Source, center: Mapping[str, float], shared: Shared) -> tuple[ServingEngine, dict[str, float]]:
    """Return the fitted entry of one source, and its parameters; prints the errors of what was left out."""
    told, rows = dict(center), pd.DataFrame()
    for _ in range(ROUNDS):
        entry = _entry(source, told, 0.1, 0.3, 0)
        rows = observed(source, entry, shared)
        told |= fitted(rows, TOKEN, center, source.scatter)
        told |= fitted(rows[rows["model"] != source.no_first], FIRST, center)
    spreads = []
    for part, scatter in ((TOKEN, source.scatter), (FIRST, FIRST_SCATTER)):
        rows = rows[(rows["model"] != source.no_first) | (part is TOKEN)]
        errors = {by: left_out(rows, part, center, by, scatter) for by in ("model", "hardware")}
        usual = np.log((first_s if part is FIRST else token_s)(told, rows)) - np.log(
            rows["measured_first_s" if part is FIRST else "measured_token_s"]
        )
        print(f"{source.engine} {source.versions} {part[0]:8s} n={len(rows)} in sample {_told(usual)}", *(
            f"left out by {by}: {_told(found)}" for by, found in errors.items() if rows[by].nunique() > 1
        ), sep="; ")  # fmt: skip
        for model, found in errors["model"].groupby(rows["model"]):
            print(f"    without {model}: {_told(found)}")
        spreads.append(float(np.quantile(np.abs(errors["model"]), 0.9) / 1.645))
    print("   ", {name: float(f"{value:.3g}") for name, value in told.items()})
    return _entry(source, told, *spreads, len(rows)), told


def _told(errors: pd.Series[float]) -> str:
    share = np.abs(np.expm1(errors))
    return f"median {share.median():.1%} P90 {share.quantile(0.9):.1%} bias {np.expm1(errors).median():+.1%}"


def _entry(source: Source, told: Mapping[str, float], sigma: float, first_sigma: float, rows: int) -> ServingEngine:
    rounded = {name: float(f"{value:.3g}") if value > 1e-9 else 0.0 for name, value in told.items()}
    return ServingEngine(
        engine=source.engine, versions=source.versions, log_sigma=round(sigma, 3), rows=rows,
        first_log_sigma=round(first_sigma, 3), scheduling=Scheduling(), **rounded,
    )  # fmt: skip


def main() -> None:
    """Fit all entries; write them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    shared, entries, centers = catalogue.shared(), [], dict[str, dict[str, float]]()
    for source in sources(given.folder):
        entry, told = entry_of(source, centers.get(source.engine, START), shared)
        centers.setdefault(source.engine, told)
        entries.append(entry)
    usual = [entry for entry in entries if not entry.versions]
    mean = {name: float(np.mean([getattr(entry, name) for entry in usual])) for name in (*TOKEN, *FIRST)}
    sigmas = [max(getattr(entry, name) for entry in usual) + 0.05 for name in ("log_sigma", "first_log_sigma")]
    entries.append(_entry(Source("other", (), "", pd.DataFrame()), mean, *sigmas, 0))
    traces = sorted(given.folder.glob("serving_trace_*.csv"))
    entries = [with_devices(entry, traces, shared) if not entry.versions else entry for entry in entries]
    if given.write:
        write(entries)


def with_devices(entry: ServingEngine, traces: Sequence[Path], shared: Shared) -> ServingEngine:
    """Return the entry with the pace of devices whose kernels nobody measured, from requests of replayed traces."""
    for path in traces:
        frame = pd.read_csv(path)
        row = Row(frame.iloc[0].to_dict())
        measured = serving._trace_measured(frame, "tpot_s").mean()
        pace, device = 1.0, names.hardware_id(row.text("hardware"))
        if row.served.engine.family != entry.engine:
            continue
        for _ in range(DEVICE_ROUNDS):
            told = entry.model_copy(update={"devices": {**entry.devices, device: pace}})
            context = Context(
                calibrations=catalogue.calibrations(()), shared=shared.model_copy(update={"serving_engines": (told,)})
            )
            pace *= float(measured / np.nanmean(serving.replay(frame, context).token_s))
        print(f"{entry.engine} on {device}: kernels take {pace:.3f} of what was carried over ({len(frame)} requests)")
        entry = entry.model_copy(update={"devices": {**entry.devices, device: round(pace, 3)}})
    return entry


def write(entries: Sequence[ServingEngine]) -> None:
    """Put the entries between the marks of the shared calibration."""
    lines = ["serving_engines:\n"]
    for entry in entries:
        values = entry.model_dump(exclude_defaults=True)
        told = ", ".join(f"{name}: {_yaml(value)}" for name, value in values.items())
        lines.append(f"  - {{{told}}}\n")
    text = FILE.read_text(encoding="utf-8")
    head, _, rest = text.partition(END)
    head = head.split(BEGIN)[0]
    FILE.write_text(head + BEGIN + "".join(lines) + END + rest, encoding="utf-8")


def _yaml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
