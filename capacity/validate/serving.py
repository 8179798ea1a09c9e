"""Kinds whose rows are whole LLM servers: at a fixed concurrency, under an open load, and a trace replayed."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capacity import catalogue
from capacity.errors import InputError
from capacity.fleet.flow import Counts, Flow, Outcome
from capacity.phases import engine_step
from capacity.phases.server import Server
from capacity.spec import names
from capacity.spec.model import TransformerModel
from capacity.spec.names import Precision
from capacity.timing.band import Basis, Estimate
from capacity.validate.kind import Array, Context, Kind, Predicted
from capacity.work.decoder_step import HALF, Layout, Served, as_run, usual_kv_dtype
from capacity.work.models import architecture

MILLISECONDS = 1e3
SHORTEST = 0.8
"""Lengths of a benchmark at fixed concurrency are uniform between this share of the nominal ones and all of it (the
random range ratio of vLLM's and InferenceMAX' clients; measured means are 0.9 of the nominal)."""
ROUNDS = 10
"""Requests sent for each client (InferenceMAX: ten prompts a client)."""
CLIENT_TIMEOUT_S = 300.0
"""Clients of the load tables give up after this time, and only completed requests are counted."""
MOST_TOKENS, MOST_REQUESTS = 10_000_000, 1_000_000
"""Longest sequence, and largest run, that is simulated."""
UNANSWERED = "the server has no room for such a request"
EARLY_END_CV = 0.08
"""Standard deviation ÷ mean of output lengths where the model ends before it must (assumed)."""


@dataclass(frozen=True)
class Row:
    """One row of a table of servers, with blanks as absent values."""

    values: Mapping[Hashable, Any]

    def text(self, name: str) -> str:
        """Return a column's text, or nothing where it is blank or absent."""
        value = self.values.get(name)
        return "" if value is None or value != value else str(value)  # noqa: PLR0124  (a blank is not itself)

    def number(self, name: str, default: float = 1.0) -> float:
        """Return a column's number, or the default where it is blank or absent."""
        value = self.values.get(name)
        return default if value is None or value != value else float(value)  # noqa: PLR0124

    @cached_property
    def served(self) -> Served:
        """The model as this row's server runs it.

        Raises
        ------
        UnknownNameError, NotModeledError
            For a model, an engine or a dtype that is not known.
        """
        profile = catalogue.model(names.model(self.text("model")))
        if not isinstance(profile, TransformerModel):
            raise InputError(f"{self.text('model')} is no language model")
        model = architecture(profile)
        tensor = int(self.number("tensor_parallel"))
        expert = int(self.number("expert_parallel")) if model.layer.experts else 1
        layout = Layout(
            tensor=tensor, pipeline=int(self.number("pipeline_parallel")),
            attention_data=int(self.number("attention_data_parallel")), expert=expert,
            expert_tensor=int(self.number("moe_tensor_parallel", tensor)) if model.layer.experts else 1,
        )  # fmt: skip
        products = self._precision("gemm_dtype", self._precision("dtype", HALF))
        return Served(
            model=model, engine=names.engine(f"{self.text('engine')} {self.text('engine_version')}"), layout=layout,
            products=products, expert_products=self._precision("moe_dtype", products),
            kv_dtype=usual_kv_dtype(products, experts=bool(model.layer.experts)),
        )  # fmt: skip

    def _precision(self, column: str, default: Precision) -> Precision:
        name = self.text(column)
        return names.dtype(name) if name else default

    def server(self, context: Context, longest: float) -> Server:
        """Return the row's server, which holds sequences of up to `longest` tokens."""
        device = context.device(self.text("hardware"), "fused")
        engine = self.served.engine
        limits = {name: self.number(name, 0.0) or None for name in ("max_num_seqs", "max_num_batched_tokens")}
        sequences, tokens = (int(value) if value else None for value in limits.values())
        served = replace(
            self.served, products=as_run(self.served.products, device.hardware),
            expert_products=as_run(self.served.expert_products, device.hardware),
        )  # fmt: skip
        return Server(
            served=served, device=device, context=int(longest),
            engine=engine_step.chosen(context.shared.serving_engines, engine.family, engine.version),
            max_sequences=sequences, max_batched_tokens=tokens,
            given_kv_tokens=self.number("kv_cache_tokens", 0.0) or None,
            memory_share=self.number("gpu_memory_utilization", 0.0) or None,
        )  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What clients saw of the requests that were answered [s]; one value a request."""

    arrival_s: Array
    first_s: Array
    end_s: Array
    output_tokens: Array

    @classmethod
    def of(cls, flow: Flow) -> Seen:
        """Return the requests that were served."""
        served = flow.at(flow.outcome == Outcome.SERVED)
        return cls(
            served.arrival_s, served.first_s - served.arrival_s, served.time_s - served.arrival_s,
            served.output_tokens.astype(float),
        )  # fmt: skip

    def at(self, rows: NDArray[np.bool_]) -> Seen:
        """Return some of the requests."""
        return Seen(self.arrival_s[rows], self.first_s[rows], self.end_s[rows], self.output_tokens[rows])

    def within(self, limit_s: float) -> Seen:
        """Return the requests answered within `limit_s`."""
        return self.at(self.end_s <= limit_s)

    @property
    def token_s(self) -> Array:
        """Time per output token after the first [s]; blank for answers of one token."""
        return (self.end_s - self.first_s) / np.where(self.output_tokens > 1, self.output_tokens - 1, np.nan)


def text_flow(arrival_s: Array, inputs: Array, outputs: Array, prefix: Counts | None = None) -> Flow:
    """Return requests with these arrivals and lengths."""
    count = len(arrival_s)
    nothing = np.zeros(count, np.int64)
    groups = nothing - 1 if prefix is None else prefix
    blank = np.full(count, np.nan)
    whole = [np.maximum(np.rint(part), 1).astype(np.int64) for part in (inputs, outputs)]
    return Flow(np.arange(count), arrival_s, arrival_s, whole[0], whole[1], groups, nothing, blank)


def closed_loop(row: Row, context: Context) -> Seen:
    """Return what the clients of one row at fixed concurrency see."""
    from capacity.fleet import generation  # noqa: PLC0415  (numba takes a second)
    from capacity.fleet.continuous import ContinuousStage  # noqa: PLC0415

    clients = int(row.number("concurrency"))
    longest = row.number("input_tokens"), row.number("output_tokens")
    server = row.server(context, sum(longest))
    shares = np.random.default_rng(0).uniform(SHORTEST, 1.0, (2, ROUNDS * clients))
    stage = ContinuousStage(server.table, generation.engine(server))
    flow = stage.closed(clients, text_flow(np.zeros(ROUNDS * clients), longest[0] * shares[0], longest[1] * shares[1]))
    return Seen.of(generation.seen(flow, server))


def open_load(row: Row, context: Context) -> tuple[Seen, list[float]]:
    """Return what the clients of one experiment see, and when each of its stages begins [s]."""
    from capacity.fleet import generation  # noqa: PLC0415  (numba takes a second)
    from capacity.fleet.continuous import ContinuousStage, Policy  # noqa: PLC0415

    parts = [part.split("rps x ") for part in row.text("load").split(";")]
    try:
        rates = [(float(rate), float(length.rstrip("s "))) for rate, length in parts]
    except ValueError:
        raise InputError(f"load {row.text('load')!r} is no list of stages like '8rps x 600s;20rps x 600s'") from None
    if sum(rate * length for rate, length in rates) > MOST_REQUESTS:
        raise InputError(f"load {row.text('load')!r} is more than {MOST_REQUESTS:,} requests")
    starts = np.cumsum([0.0] + [length for _, length in rates])
    times = [start + np.arange(int(rate * length)) / rate for (rate, length), start in zip(rates, starts, strict=False)]
    arrival_s = np.concatenate(times)
    prompt = row.number("prompt_tokens_mean", row.number("system_prompt_tokens") + row.number("question_tokens"))
    wanted = row.number("requested_output_tokens")
    output = row.number("output_tokens_mean", wanted)
    cv = EARLY_END_CV if output < 0.95 * wanted else 0.0
    groups = int(row.number("prefix_groups") * row.number("users_per_group"))
    server = row.server(context, max(prompt + 2 * output, row.number("max_model_len", 0.0)))
    drawn = np.random.default_rng(0).normal(1.0, cv, len(arrival_s)).clip(0.2, 2.0)
    flow = text_flow(arrival_s, np.full(len(arrival_s), prompt), output * drawn, np.arange(len(arrival_s)) % groups)
    limits = generation.engine(server, prefix_tokens=(int(prompt) - 1,) * groups)
    stage = ContinuousStage(server.table, limits, policy=Policy(timeout_s=CLIENT_TIMEOUT_S))
    left = stage.advance(flow, np.inf)
    return Seen.of(generation.seen(left, server)), [float(start) for start in starts]


def replay(rows: pd.DataFrame, context: Context) -> Seen:
    """Return what the clients of one replayed trace see, in the order of `rows`."""
    from capacity.fleet import generation  # noqa: PLC0415  (numba takes a second)
    from capacity.fleet.continuous import ContinuousStage  # noqa: PLC0415

    order = np.lexsort((rows["output_tokens"], rows["input_tokens"], rows["arrival_s"]))
    sorted_rows = rows.iloc[order]
    row = next(_rows(sorted_rows))
    inputs, outputs = (sorted_rows[name].to_numpy(float) for name in ("input_tokens", "output_tokens"))
    server = row.server(context, float((inputs + outputs).max()) + 1)
    stage = ContinuousStage(server.table, generation.engine(server))
    left = stage.advance(text_flow(sorted_rows["arrival_s"].to_numpy(float), inputs, outputs), np.inf)
    left = generation.seen(left, server)
    back = np.empty(len(rows), np.int64)
    back[order] = np.argsort(left.request, kind="stable")
    left = left.at(back)
    end_s = np.where(left.outcome == Outcome.SERVED, left.time_s, np.nan)
    return Seen(left.arrival_s, left.first_s - left.arrival_s, end_s - left.arrival_s, outputs[np.argsort(order)])


def _rows(frame: pd.DataFrame) -> Iterator[Row]:
    return (Row(values) for values in frame.to_dict("records"))


def _estimates(values: list[float], row: Row, context: Context, *, first: bool) -> Predicted:
    """Return predictions with the band that servers left out of the fit showed."""
    engine = row.served.engine
    adds = engine_step.chosen(context.shared.serving_engines, engine.family, engine.version)
    device = context.device(row.text("hardware"), "fused")
    sigma = adds.first_log_sigma if first else adds.log_sigma
    carried = max((float(np.max(error)) for error in device.errors.values()), default=0.0)
    basis: Basis = "projected" if device.basis in {"projected", "assumed"} else "calibrated"
    blank = f"{UNANSWERED}, or its answer has one token" if not first else UNANSWERED
    return Predicted.of(Estimate(np.array(values), {"servers": np.hypot(sigma, carried)}, basis), blank)


def _closed(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    row = next(_rows(rows))
    del values
    seen = closed_loop(row, context)
    return {
        "ttft_ms": _estimates([MILLISECONDS * _mean(seen.first_s)], row, context, first=True),
        "tpot_ms": _estimates([MILLISECONDS * _mean(seen.token_s)], row, context, first=False),
    }


def _mean(values: Array) -> float:
    """Return the mean of what is known; blank if nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


LOAD_TARGETS = {
    "ttft_mean_ms": ("first_s", None), "ttft_p90_ms": ("first_s", 0.9), "ttft_p99_ms": ("first_s", 0.99),
    "tpot_mean_ms": ("", None), "e2e_mean_ms": ("end_s", None), "e2e_p90_ms": ("end_s", 0.9),
    "e2e_p99_ms": ("end_s", 0.99),
}  # fmt: skip


def _load(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    del values
    row = next(_rows(rows))
    seen, starts = open_load(row, context)
    found = _figures_s(_stage(seen, starts, row.text("stage")))
    return {
        name: _estimates([MILLISECONDS * seconds], row, context, first=name.startswith("ttft"))
        for name, seconds in found.items()
    }


def _figures_s(stage: Seen) -> dict[str, float]:
    """Return the figures of a stage [s]; where nobody is answered in time, the time at which clients give up."""
    part = stage.within(CLIENT_TIMEOUT_S)
    served = part if len(part.end_s) else stage
    if not len(served.end_s):
        return dict.fromkeys(LOAD_TARGETS, CLIENT_TIMEOUT_S)
    after = served.output_tokens.mean() - 1
    token_s = (served.end_s.mean() - served.first_s.mean()) / after if after > 0 else np.nan
    if served is stage:
        return dict.fromkeys(LOAD_TARGETS, CLIENT_TIMEOUT_S) | {"tpot_mean_ms": float(token_s)}
    found = {}
    for name, (column, share) in LOAD_TARGETS.items():
        each = getattr(part, column) if column else np.array([token_s])
        found[name] = float(each.mean() if share is None else np.quantile(each, share))
    return found


def _stage(seen: Seen, starts: list[float], name: str) -> Seen:
    """Return the requests that arrived in one stage of a load, or all for its summary.

    Raises
    ------
    InputError
        For a stage that the load does not have.
    """
    if name in {"", "summary"}:
        return seen
    number = name.removeprefix("stage_")
    if not number.isdecimal() or int(number) >= len(starts) - 1:
        raise InputError(f"stage {name!r} is none of summary, stage_0 … stage_{len(starts) - 2}")
    begin, end = starts[int(number)], starts[int(number) + 1]
    return seen.at((seen.arrival_s >= begin) & (seen.arrival_s < end))


def _trace(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    del values
    seen, row = replay(rows, context), next(_rows(rows))
    told = {"ttft_s": seen.first_s, "end_to_end_s": seen.end_s, "tpot_s": seen.token_s}
    return {
        name: _estimates(list(part), row, context, first=name == "ttft_s") for name, part in told.items()
    }  # fmt: skip


def _given(frame: pd.DataFrame, target: str) -> Array:
    return frame[target].to_numpy(dtype=float) if target in frame else np.full(len(frame), np.nan)


def _trace_measured(frame: pd.DataFrame, target: str) -> Array:
    """Return a request's times; the time per output token follows from the other two."""
    if target != "tpot_s":
        return _given(frame, target)
    tokens = frame["output_tokens"].to_numpy(dtype=float)
    return (_given(frame, "end_to_end_s") - _given(frame, "ttft_s")) / np.where(tokens > 1, tokens - 1, np.nan)


def _impossible(frame: pd.DataFrame) -> dict[str, pd.Series[bool]]:
    """Return what is too large to be simulated, and the rows that ask for it."""
    lengths = ("input_tokens", "output_tokens", "system_prompt_tokens", "question_tokens", "requested_output_tokens")
    tokens = frame[[name for name in lengths if name in frame]].apply(pd.to_numeric, errors="coerce").sum(axis=1)
    reasons = {f"a sequence has at most {MOST_TOKENS:,} tokens": tokens > MOST_TOKENS}
    for name, most in {
        "concurrency": MOST_REQUESTS / ROUNDS, "max_num_seqs": MOST_REQUESTS, "max_num_batched_tokens": MOST_REQUESTS,
    }.items():  # fmt: skip
        if name in frame:
            reasons[f"{name} is at most {most:,.0f}"] = frame[name] > most
    return reasons


OPTIONAL_NAMES = ("engine_version", "dtype", "gemm_dtype", "moe_dtype")
KINDS: dict[str, Kind] = {
    "serving_closed_loop": Kind(
        group_by=("hardware", "engine", "model"), sizes=("input_tokens", "output_tokens", "concurrency"),
        optional_names=OPTIONAL_NAMES, targets=("ttft_ms", "tpot_ms"), measured=_given, predict=_closed, alone=True,
        impossible=_impossible,
        optional=(
            "tensor_parallel", "pipeline_parallel", "attention_data_parallel", "moe_tensor_parallel", "expert_parallel",
        ),
    ),
    "serving_load": Kind(
        group_by=("hardware", "engine", "model", "load", "tensor_parallel"), whole=("tensor_parallel",),
        sizes=("requested_output_tokens", "question_tokens"), optional_names=("dtype", "arrivals"),
        targets=tuple(LOAD_TARGETS), measured=_given, predict=_load, alone=True, impossible=_impossible,
        optional=("max_num_batched_tokens", "max_num_seqs", "prefix_groups", "users_per_group", "max_model_len"),
    ),
    "serving_trace": Kind(
        group_by=("hardware", "engine", "model", "tensor_parallel"), whole=("tensor_parallel",),
        sizes=("input_tokens", "output_tokens"), amounts=("arrival_s",), optional_names=("dtype",),
        optional=("max_num_seqs", "max_num_batched_tokens", "kv_cache_tokens"),
        impossible=_impossible, targets=("ttft_s", "end_to_end_s", "tpot_s"), measured=_trace_measured, predict=_trace,
        runs=True,
    ),
}  # fmt: skip
