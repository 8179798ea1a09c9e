"""MLPerf Inference submissions: encoders, LLM servers and scorers, saturated (Offline) or under a limit (Server)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from capacity import catalogue
from capacity.errors import CapacityError, UnknownNameError
from capacity.phases import engine_step
from capacity.phases.server import Server
from capacity.phases.step_table import StepTable, Texts
from capacity.spec import names
from capacity.spec.hardware import Hardware
from capacity.spec.model import DlrmModel, HstuModel, TransformerModel
from capacity.timing import server_rule, step_tables
from capacity.timing.band import Basis, Estimate
from capacity.timing.form import MissingFactError
from capacity.timing.step_runs import Place
from capacity.timing.tables import said
from capacity.validate.kind import Array, Context, Kind, Predicted
from capacity.work import interaction, sequential
from capacity.work.decoder_step import Layout, Served
from capacity.work.huggingface import transformer
from capacity.work.models import architecture
from capacity.work.operations import Operation

Values = Mapping[str, Any]
TARGET = "value_per_device"
MILLISECONDS = 1e3
PAIRS = 270
"""Mean user-item pairs of one dlrm sample."""
EVENTS, CANDIDATES = 6720, 2048
"""Mean history and candidates of one dlrm-v3 request."""
BATCH = 128
"""Samples of one step of a saturated scorer; more change little."""
MOST_SEQUENCES, BATCHED_TOKENS, FEWEST_SLOTS = 2048, 8192, 16
"""Limits of a submission's LLM engine (assumed), and the batch below which more devices share the model."""
LAYOUTS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A benchmark that a submission is tuned for.

    Attributes
    ----------
    model
        Id of its profile; GPT-J has none and is `GPT_J`.
    prompt, output, beams
        Mean lengths of its texts [token], and sequences that each is written in.
    """

    model: str
    prompt: float = 0.0
    output: float = 0.0
    beams: int = 1


TASKS = {
    "dlrm": Task(model="dlrm-dcnv2"),
    "dlrm-v2": Task(model="dlrm-dcnv2"),
    "dlrm-v3": Task(model="hstu-mlperf"),
    "gptj": Task(model="gpt-j", prompt=870, output=69, beams=4),
    "gptj-static": Task(model="gpt-j", prompt=870, output=69, beams=4),
    "llama2-70b": Task(model="llama-2-70b", prompt=294, output=294),
    "llama3.1-8b": Task(model="llama-3.1-8b", prompt=778, output=128),
    "llama3.1-405b": Task(model="llama-3.1-405b", prompt=9428, output=650),
    "mixtral-8x7b": Task(model="mixtral-8x7b", prompt=300, output=145),
}  # fmt: skip
"""Lengths: outputs as MLPerf states them (145 of mixtral and all prompts are assumed: its data sets, from memory)."""
GPT_J = transformer({
    "model_type": "gpt2", "n_embd": 4096, "n_layer": 28, "n_head": 16, "n_positions": 2048, "vocab_size": 50400,
})  # fmt: skip
"""GPT-J 6B as a wide GPT-2: that its attention and feed-forward part run side by side changes little."""


def family(benchmark: str) -> str:
    """Return a benchmark's name without its accuracy target.

    Examples
    --------
    >>> family("llama2-70b-99.9"), family("dlrm-v2-99"), family("dlrm-v3")
    ('llama2-70b', 'dlrm-v2', 'dlrm-v3')
    """
    return benchmark.removesuffix("-99.9").removesuffix("-99")


def name(values: Values) -> str:
    """Return the key of a row's benchmark in `TASKS`: gptj in round 3.1 waited for whole batches to end."""
    found = family(str(values["benchmark"]))
    return "gptj-static" if found == "gptj" and said(values, "round") == "v3.1" else found


def anchor_name(values: Values) -> str:
    """Return what anchors call a row's benchmark: its name, apart where gptj waited for whole batches to end.

    Examples
    --------
    >>> anchor_name({"benchmark": "gptj-99", "round": "v3.1"}), anchor_name({"benchmark": "dlrm-v3", "round": "v6.0"})
    ('gptj-static-99', 'dlrm-v3')
    """
    benchmark = str(values["benchmark"])
    return benchmark.replace("gptj", "gptj-static", 1) if name(values) == "gptj-static" else benchmark


def other_accuracy(benchmark: str) -> str | None:
    """Return the benchmark with its other accuracy target; None where it has one, and for bert, whose dtypes differ.

    Examples
    --------
    >>> other_accuracy("llama2-70b-99.9"), other_accuracy("gptj-static-99"), other_accuracy("bert-99")
    ('llama2-70b-99', 'gptj-static-99.9', None)
    """
    if benchmark.startswith("bert") or not benchmark.endswith(("-99", "-99.9")):
        return None
    return benchmark.removesuffix(".9") if benchmark.endswith("-99.9") else f"{benchmark}.9"


def task(values: Values) -> Task:
    """Return what is known of a row's benchmark.

    Raises
    ------
    CapacityError
        For a benchmark without a step model.
    """
    if name(values) not in TASKS:
        known = ", ".join(key for key in TASKS if key != "gptj-static")
        raise CapacityError(f"no step model runs {values['benchmark']}; of this kind bert, {known} are predicted")
    return TASKS[name(values)]


def precision(values: Values, hardware: Hardware) -> str:
    """Return what a submission multiplies in; rows that say fp16 state what the model was published in.

    dlrm runs in int8; dlrm-v2 does from round 4.0 on where the lower accuracy is asked for.
    """
    benchmark, half = str(values["benchmark"]), "bf16" if hardware.rate("bf16") else "fp16"
    if family(benchmark) == "dlrm-v3":
        return half
    if family(benchmark).startswith("dlrm"):
        coarse = family(benchmark) == "dlrm" or (benchmark.endswith("-99") and said(values, "round") != "v3.1")
        return "int8" if coarse and hardware.rate("int8") else "fp16"
    raw = said(values, "weight_dtype")
    told = names.dtype(raw).compute if raw and "," not in raw else half
    usual = "fp4" if hardware.architecture == "blackwell" else "fp8" if hardware.rate("fp8") else half
    return usual if told in {"fp32", "fp16", "bf16"} else told


def saturated_rate(table: StepTable, texts: Texts, slots: float) -> float:
    """Return the texts per second of a server that always has `slots` texts in service [1/s].

    Each step advances all of them and reads as many prompts as end; a step's limit of new tokens lowers their number.
    """
    unread = texts.prompt / texts.steps
    count = min(slots, (len(table.linear_s) - 1) / (texts.beams + unread))
    return count / (texts.steps * table.step_s(texts, count * texts.beams, count * unread))


def text_s(found: Task, values: Values, systems: float, context: Context) -> Estimate:
    """Return the time that one text takes of a device when as many as fit are served at once [s].

    The fewest devices that hold a useful batch share the model; two layouts are tried and the faster one counts.

    Raises
    ------
    MissingFactError
        When the model does not fit the system.
    """
    device = context.device(str(values["hardware"]), "fused")
    engine = names.engine("trtllm" if device.hardware.vendor == "NVIDIA" else "vllm")
    adds = engine_step.chosen(context.shared.serving_engines, engine.family)
    model = GPT_J if found.model == "gpt-j" else architecture(cast(TransformerModel, catalogue.model(found.model)))
    dtype = names.dtype(precision(values, device.hardware))
    texts, rates = Texts(prompt=found.prompt, output=found.output, beams=found.beams), []
    for tensor in (each for each in LAYOUTS if each <= systems):
        layout = Layout(tensor=tensor, expert_tensor=tensor if model.layer.experts else 1)
        served = Served(
            model=model, engine=engine, layout=layout, products=dtype, expert_products=dtype, kv_dtype=KV_DTYPE,
        )  # fmt: skip
        server = Server(
            served=served, device=device, engine=adds, context=int(found.prompt + 2 * found.output),
            max_sequences=MOST_SEQUENCES, max_batched_tokens=BATCHED_TOKENS,
        )  # fmt: skip
        slots = min(server.kv_tokens / texts.kv_tokens, MOST_SEQUENCES / found.beams)
        if slots >= FEWEST_SLOTS:
            rates.append(saturated_rate(server.table, texts, slots) / tensor)
        if len(rates) == 2:
            break
    if not rates:
        raise MissingFactError(f"{found.model} does not fit {systems:.0f} × {device.hardware.id}")
    carried = max((float(np.max(error)) for error in device.errors.values()), default=0.0)
    basis: Basis = "projected" if device.basis in {"projected", "assumed"} else "calibrated"
    return Estimate(1 / max(rates), {"servers": float(adds.log_sigma), "carried": carried}, basis)


KV_DTYPE = "fp8"
"""Keys and values of tuned submissions (assumed)."""


def scored_s(found: Task, values: Values, context: Context) -> Estimate:
    """Return the time that one sample takes of a saturated device that looks up, interacts and scores [s]."""
    device = context.device(str(values["hardware"]), "fused")
    dtype = precision(values, device.hardware)
    model = catalogue.model(found.model)
    work: tuple[Operation, ...]
    if isinstance(model, HstuModel):
        work = sequential.score_candidates(model, BATCH, EVENTS, CANDIDATES, dtype, "fused")
    else:
        scorer = cast(DlrmModel, model)
        if family(str(values["benchmark"])) == "dlrm":
            scorer = scorer.model_copy(update=ONE_HOT)
        work = interaction.score_pairs(scorer, BATCH * PAIRS, dtype, "fused")
    return device.step(work).scaled(1 / BATCH)


ONE_HOT: dict[str, Any] = {"lookups": (), "interaction": "dot", "cross_layers": 0, "cross_rank": 0}
"""What dlrm (v1) has unlike dlrm-v2: one look-up a table, and dots instead of a cross network."""


def _saturated(values: Values, rows: pd.DataFrame, context: Context) -> list[Estimate]:
    """Return the time of one sample of each row [s], bert aside."""
    found, hardware = task(values), _hardware(values, context)
    scenario = str(values["scenario"])
    if scenario not in {"Offline", "Server"}:
        raise UnknownNameError("scenario", scenario, ("Offline", "Server"))
    if hardware.kind != "gpu":
        raise CapacityError(f"{values['benchmark']} is predicted on GPUs only, and {hardware.id} is none")
    known, key = _place(values, context).submissions, name(values)
    slowdown, log_sigma = known.slowdown.get(key, 1.0), known.offline_log_sigma.get(key, 0.0)
    systems = server_rule.devices(rows, hardware)
    told: dict[float, Estimate] = {}
    for count in np.unique(systems):
        sample = text_s(found, values, float(count), context) if found.output else scored_s(found, values, context)
        told[float(count)] = sample.scaled(slowdown).widened("tuned submission", log_sigma)
    return [
        server_rule.scenario(told[float(count)], scenario, known.server[key], rows.iloc[[place]], hardware)[0]
        for place, count in enumerate(systems)
    ]


def _hardware(values: Values, context: Context) -> Hardware:
    board = str(values["hardware"])
    brought = {profile.id: profile for _, profile in context.calibrations}
    return brought.get(board) or catalogue.hardware(names.hardware_id(board))


def _place(values: Values, context: Context) -> Place:
    return Place(hardware=_hardware(values, context), calibrations=context.calibrations, shared=context.shared)


def unit(values: Values) -> float:
    """Return what one sample counts in the unit of the row's result [1]: tokens of LLMs, else samples or queries.

    Round 4.0 counts the Server results of llama2-70b in queries, rounds before 4.1 all of gptj in samples.
    """
    found, early = TASKS.get(name(values)), said(values, "round") in {"v3.1", "v4.0"}
    counted = early and (family(str(values["benchmark"])) == "gptj" or values["scenario"] == "Server")
    return found.output if found is not None and found.output and not counted else 1.0


def anchored(found: list[Estimate], values: Values, place: Place) -> list[Estimate]:
    """Return the times of samples as the device's own earlier submissions correct them, if there are any [s].

    Rows of a later round than those are also as much faster as software usually gets. Where the device has results for
    another accuracy only, those count, and the benchmark's error is added to the anchor's.
    """
    benchmark, scenario, errors = anchor_name(values), str(values["scenario"]), dict[str, float]()
    known, other = place.submitted(benchmark, scenario), other_accuracy(benchmark)
    if known is None and other is not None:
        known = place.submitted(other, scenario)
        errors["another accuracy"] = place.submissions.offline_log_sigma.get(name(values), 0.0)
    if known is None:
        return found
    anchor, own = step_tables.round_number(known.round or ""), step_tables.round_number(said(values, "round"))
    later = anchor is not None and own is not None and own > anchor
    factor = known.factor * known.later if later else known.factor
    errors["own submissions"] = known.log_sigma
    errors["later round"] = known.later_log_sigma if later else 0.0
    return [Estimate(sample.value * factor, errors, "calibrated") for sample in found]


def _predicted(values: Values, rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    if str(values["benchmark"]).startswith("bert"):
        found = SUBMISSIONS.seconds(values, rows, _place(values, context))
    else:
        found = _saturated(values, rows, context)
    found = anchored(found, values, _place(values, context))
    if values["scenario"] == "SingleStream":
        told = [step.scaled(MILLISECONDS) for step in found]
    else:
        told = [Estimate(unit(values) / step.value, step.errors, step.basis) for step in found]
    return {TARGET: Predicted.each(told, np.arange(len(told)))}


def _measured(frame: pd.DataFrame, _: str) -> Array:
    """Return the result: samples or tokens per second and device, of a single stream the latency [ms]."""
    single = frame["scenario"].to_numpy() == "SingleStream"
    value, rate = (step_tables.optional_column(frame, name) for name in ("value", TARGET))
    return np.where(single, value, rate)


SUBMISSIONS = step_tables.TABLES["mlperf_inference"]
KINDS: dict[str, Kind] = {
    "mlperf_inference": Kind(
        group_by=SUBMISSIONS.names, sizes=SUBMISSIONS.sizes, optional_names=SUBMISSIONS.optional, targets=(TARGET,),
        twins=("value",), measured=_measured, predict=_predicted,
    ),
}  # fmt: skip
