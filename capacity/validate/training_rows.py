"""A row of a table of training runs as a job: its model, its layout, and what its framework does where it is silent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from capacity import catalogue, documents
from capacity.errors import InputError, UnknownNameError
from capacity.phases import train_memory
from capacity.phases.train_memory import MAIN, MIXED, PURE, Kept
from capacity.phases.train_step import Job
from capacity.spec import names
from capacity.spec.hardware import Hardware
from capacity.spec.model import TransformerModel
from capacity.spec.names import Precision
from capacity.spec.training_engine import TrainingSteps
from capacity.timing.tables import said
from capacity.work.architecture import Layer, Transformer
from capacity.work.models import architecture
from capacity.work.trained import Method, Parallel, Recompute, Sharding, Trained

GIB = 2**30
Values = Mapping[str, Any]
DIMENSIONS = {"phi-1.5": (24, 2048, 32, 51200), "stablelm alpha 3b": (16, 4096, 32, 50688)}
"""Layers, hidden size, heads and vocabulary of models of plain blocks without a profile (litgpt/config.py)."""
SQUAD_TOKENS = 177
"""Mean tokens of an example of SQuAD, on which NVIDIA's fine-tuning runs train (MLPerf's BERT has the same texts)."""
MORE_BLOCKS = {"electra": 1 + 1 / 9, "bart": 1 + 1 / 6, "t5": 1 + 1 / 6}
"""Blocks that stand for what a plain stack lacks: ELECTRA's generator of a third of the width; the cross-attention of
half of the blocks, 4h² beside 12h² parameters each."""
METHODS = {
    "pretrain": "full", "bert_pretrain": "full", "bert_finetune_squad": "full", "sft": "full", "full": "full",
    "full finetune": "full", "lora": "lora", "qlora": "qlora", "adapter": "adapter", "prefix": "prefix",
}  # fmt: skip
SHARDINGS: dict[str, Sharding] = {
    "full_shard": "full", "fsdp": "full", "zero3": "full", "shard_grad_op": "gradients", "zero2": "gradients",
    "zero1": "optimizer", "hybrid_shard": "hybrid", "no_shard": "none", "ddp": "none", "none": "none",
}  # fmt: skip
MASKED = {128: 20, 512: 80}
"""Positions of a sequence that BERT's pretraining predicts (max_predictions_per_seq of its published settings)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What a framework does where a table does not say it: its defaults, from its documentation.

    Attributes
    ----------
    sequence
        Whether tensor parallelism splits sequences, too.
    tokens
        Length of a sequence.
    packed
        Tokens of the examples that fine-tuning packs into one.
    recompute
        What it computes again; what it means by selective.
    split_batch
        Whether its batch of a device is cut into sequences for a pipeline.
    loads_whole
        Whether several devices each load the whole model before they shard it, and then recompute everything.
    rank, targets
        Of low-rank updates.
    kept
        In what it keeps weights and states.
    gigabyte
        Bytes of the unit in which it prints memory: LitGPT divides by 10⁹ (litgpt/finetune/lora.py), others by 2³⁰.
    """

    sharding: Sharding = "none"
    sequence: bool = False
    tokens: int | None = None
    packed: int | None = None
    recompute: Recompute = "none"
    split_batch: bool = False
    loads_whole: bool = False
    kept: Kept = MIXED
    gigabyte: float = GIB
    rank: int = 16
    targets: tuple[str, ...] = ("qkv", "query", "key", "value", "attention output", "up", "down")


NVIDIA = Habits(
    sharding="optimizer", sequence=True, kept=MAIN, packed=SQUAD_TOKENS, targets=("qkv", "query", "key", "value"),
)  # fmt: skip
HABITS = {
    "nemo": NVIDIA,
    "megatron-bridge": NVIDIA,
    "megatron-lm": Habits(kept=MAIN),
    "torchtitan": Habits(
        sharding="full", sequence=True, tokens=8192, recompute="operations", split_batch=True,
        kept=replace(MIXED, compiled=True),
    ),
    "torchtune": Habits(
        sharding="full", rank=8, recompute="full", targets=("query", "value", "attention output", "up", "down"),
        kept=replace(PURE, compiled=True, chunked_loss=True),
    ),
    "litgpt": Habits(
        sharding="full", rank=8, tokens=1304, targets=("query", "value"), kept=PURE, loads_whole=True, gigabyte=1e9,
    ),
    "composer": Habits(sharding="full"),
    "colossal-ai": Habits(sharding="gradients"),
    "maxtext": Habits(sharding="full"),
}  # fmt: skip
"""NeMo and Megatron-Bridge: distributed optimizer, sequence parallelism, low-rank updates of the fused query-key-value
product; torchtitan: 8,192 tokens; torchtune: rank 8 on query, value, output and feed-forward; LitGPT: rank 8 on query
and value, Alpaca's longest example of 1,304 tokens. Read in their repositories' configurations."""


def described(values: Values, row: pd.Series[Any]) -> Transformer:
    """Return the architecture that a row names, or else spells out.

    Raises
    ------
    UnknownNameError
        When the name means no profile and the row does not give layers, hidden size and heads.
    """
    name = re.sub(r"(?<=\d) B\b", "b", str(values["model"]).split(" (")[0])
    try:
        profile = catalogue.model(names.model(name))
    except UnknownNameError:
        return _spelled(name, row)
    if not isinstance(profile, TransformerModel):
        raise InputError(f"{name} is no transformer")
    model = architecture(profile)
    return replace(model, head="language-model") if model.layer.causal else replace(model, head="none")


def _spelled(name: str, row: pd.Series[Any]) -> Transformer:
    """Return a plain block's model (GPT-like, or BERT-like by its name) of the row's dimensions or published ones."""
    key = next((known for known in DIMENSIONS if known in name.casefold()), "")
    columns = ("layers", "hidden_size", "heads", "vocab_size")
    told = [_number(row, column) for column in columns]
    layers, hidden, heads, vocabulary = DIMENSIONS.get(key, told)
    if layers is None or hidden is None or heads is None:
        raise UnknownNameError("model", name, documents.catalogue("model_profiles"))
    causal = re.match(r"bert|electra|bart|roberta|t5|deberta", name.casefold()) is None
    more = next((times for kind, times in MORE_BLOCKS.items() if kind in name.casefold()), 1.0)
    layer = Layer(
        hidden=int(hidden), heads=int(heads), kv_heads=int(heads), head_dim=int(hidden / heads),
        intermediate=int((_number(row, "ffn_multiple") or 4) * hidden), gated=False, activation="gelu", norm="layer",
        attention_bias=True, output_bias=True, mlp_bias=True, fused_qkv=causal, causal=causal,
    )  # fmt: skip
    return Transformer(
        name=name, layer=layer, layers=round(layers * more), vocabulary=int(vocabulary or 50_000), positions=0,
        embedding_norm=not causal, final_norm=causal, tied=not key, head="language-model" if causal else "none",
    )  # fmt: skip


def habits(values: Values) -> Habits:
    """Return what a row's framework does where the row is silent."""
    return HABITS.get(names.engine(str(values["engine"])).family, Habits())


def job(values: Values, row: pd.Series[Any], hardware: Hardware | None, known: TrainingSteps) -> Job:
    """Return a row's training job, blanks filled with its framework's habits; `hardware` says whether it fits.

    Raises
    ------
    InputError
        For a method or sharding that is not known, or devices that the degrees of parallelism do not divide.
    """
    model = described(values, row)
    software, usual = names.engine(str(values["engine"])), habits(values)
    method = str(values["method"]).casefold()
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    tokens = int(_number(row, "sequence_length") or usual.tokens or 0)
    if not tokens:
        raise InputError(f"the row gives no sequence_length, and {software.family} has no usual one")
    masked = _predicted_positions(model, tokens) if method == "bert_pretrain" else None
    precision = _precision(str(values["dtype"]), hardware, software.family)
    trained = Trained(
        model=model, batch=_number(row, "micro_batch") or 1.0, tokens=tokens, dtype=precision.compute,
        stored=_stored(method, precision),
        parallel=_parallel(values, row, usual), recompute=_recompute(values, usual, int(row["devices"])),
        method=Method(kind=METHODS[method], rank=usual.rank, targets=usual.targets),  # type: ignore[arg-type]
        fusion="eager", predicted=masked, packed=usual.packed if method in {"sft", "lora"} else None,
    )  # fmt: skip
    engine = known.engine(software.family, causal=model.layer.causal)
    if usual.split_batch and trained.parallel.pipeline > 1:
        trained = replace(trained, batch=1.0)
    found = Job(trained=trained, micro_batches=_micro_batches(row, trained), engine=engine, year=_year(values))
    return found if said(values, "sharding") else _held(found, hardware, usual.kept)


def _predicted_positions(model: Transformer, tokens: int) -> int:
    """Return the positions whose word pretraining predicts: BART's decoder writes all of them, BERT fills in a few."""
    return tokens if "bart" in model.name.casefold() else MASKED.get(tokens, tokens)


def _held(found: Job, hardware: Hardware | None, kept: Kept) -> Job:
    """Return the job with all its states sharded where they would not fit a device otherwise."""
    parallel = found.trained.parallel
    if hardware is None or hardware.memory is None:
        return found
    for sharding in dict.fromkeys((parallel.sharding, "full")):
        trained = replace(found.trained, parallel=replace(parallel, sharding=sharding))
        needed = sum(train_memory.states(trained, kept, found.optimizer).values())
        if needed <= hardware.memory.value:
            return replace(found, trained=trained)
    raise InputError(
        f"{trained.model.name} does not fit {parallel.devices} × {hardware.id} as the row splits it: its states take "
        f"{needed / GIB:.0f} GiB a device; name tensor_parallel, pipeline_parallel or sharding"
    )


def _parallel(values: Values, row: pd.Series[Any], habits: Habits) -> Parallel:
    degree = {name: int(_number(row, f"{name}_parallel") or 1) for name in ("tensor", "pipeline", "context", "expert")}
    devices, told = int(row["devices"]), said(values, "sharding").casefold()
    apart = degree["tensor"] * degree["pipeline"] * degree["context"]
    if devices % apart:
        raise InputError(f"{devices} devices are no multiple of tensor × pipeline × context = {apart}")
    sharding = habits.sharding if not told else next((SHARDINGS[key] for key in SHARDINGS if key in told), None)
    if sharding is None:
        raise UnknownNameError("sharding", told, SHARDINGS)
    return Parallel(
        data=devices // apart, tensor=degree["tensor"], pipeline=degree["pipeline"], context=degree["context"],
        expert=degree["expert"], virtual=int(_number(row, "virtual_pipeline") or 1), sharding=sharding,
        sequence=degree["tensor"] > 1 and (habits.sequence or "sequence" in said(values, "recompute")),
    )  # fmt: skip


def _precision(raw: str, hardware: Hardware | None, family: str) -> Precision:
    """Return what a run multiplies in; fp32 products run in tf32 where TensorFlow finds its units."""
    found = names.dtype(raw.replace("/", "-"))
    if found.compute == "fp32" and family == "tensorflow" and hardware and hardware.rate("tf32"):
        return replace(found, compute="tf32")
    return found


def _stored(method: str, precision: Precision) -> str | None:
    """Return in what frozen weights are stored, if narrower than they are multiplied: QLoRA means four bits."""
    if precision.weight in {"int4", "int8"}:
        return precision.weight
    return "int4" if METHODS[method] == "qlora" else None


def _recompute(values: Values, habits: Habits, devices: int) -> Recompute:
    told = said(values, "recompute").casefold()
    if not told:
        return "full" if devices > 1 and habits.loads_whole else habits.recompute
    if told.startswith("selective"):
        return "operations" if habits.recompute == "operations" else "selective"
    return "full" if told.startswith("full") else "none"


def _micro_batches(row: pd.Series[Any], trained: Trained) -> float:
    """Return the micro-batches of a group in a step: as the global batch says, else the accumulation, else 1."""
    batch = _number(row, "global_batch")
    if batch is not None:
        return max(1.0, batch / trained.batch / trained.parallel.data)
    return (_number(row, "gradient_accumulation") or 1.0) * (_number(row, "micro_batch") or 1.0) / trained.batch


def _year(values: Values) -> float | None:
    """Return the date of a release that is named by year and month, in years.

    Examples
    --------
    >>> _year({"release": "26.04.01"}), _year({"release": "v2.5"})
    (2026.25, None)
    """
    dated = re.match(r"(?:20)?(2\d)[.-](0[1-9]|1[0-2])", said(values, "release"))
    return 2000 + int(dated[1]) + (int(dated[2]) - 1) / 12 if dated else None


def _number(row: pd.Series[Any], column: str) -> float | None:
    value = row.get(column)
    return None if value is None or pd.isna(value) else float(value)
