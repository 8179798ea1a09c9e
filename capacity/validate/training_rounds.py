"""MLPerf Training submissions: samples, sequences or tokens per second of a device, over the whole time to train.

A row says which chips trained which benchmark with which global batch, and in which round, but not how the chips shared
the model: submissions are tuned, so the fastest of a few layouts that fit is taken. Evaluation, stragglers and whatever
else stands between a step and the time to train are a factor, a time of each step and a yearly gain for each benchmark,
fitted by benchmarks/fit_training_rounds.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import numpy as np
import pandas as pd

from capacity import catalogue
from capacity.errors import CapacityError, UnknownNameError
from capacity.phases import train_memory, train_step
from capacity.phases.memory import reserve
from capacity.phases.train_step import STREAM_SHARE, Job, Spent
from capacity.spec.hardware import Hardware
from capacity.spec.model import DlrmModel, TransformerModel
from capacity.spec.training_engine import TrainingRounds, TrainingSteps
from capacity.timing.band import Basis, Estimate, weakest
from capacity.timing.collective import wire_bytes
from capacity.timing.device import Device, reference_bandwidth, reference_rate
from capacity.timing.step_tables import optional_column
from capacity.validate.kind import Array, Context, Kind, Predicted
from capacity.validate.submissions import ONE_HOT
from capacity.work import exchanges, interaction
from capacity.work.architecture import Transformer
from capacity.work.huggingface import transformer
from capacity.work.models import architecture
from capacity.work.operations import Collective, Gemm, Operation, backward
from capacity.work.optimizer import optimizer_step
from capacity.work.trained import Method, Parallel, Sharding, Trained

Values = Mapping[str, Any]
TARGET = "units_per_s_per_accelerator"
ROUNDS = {
    "v0.7": 2020.6, "v1.0": 2021.5, "v1.1": 2021.9, "v2.0": 2022.5, "v2.1": 2022.9, "v3.0": 2023.5, "v3.1": 2023.9,
    "v4.0": 2024.4, "v4.1": 2024.9, "v5.0": 2025.4,
}  # fmt: skip
"""Year in which MLCommons published a round: summers and late autumns."""
TENSOR, PIPELINE, CONTEXT, MICRO = (1, 2, 4, 8), (1, 2, 4, 8, 16), (1, 2), (1, 2)
"""Degrees of parallelism and micro-batches that are tried."""
CHUNKS = 4
"""Chunks of blocks that a group of an interleaved pipeline holds (assumed)."""
SWITCHED = 0.5
"""Share of a card's own PCIe lanes that exchanges get (assumed): two cards share the uplink of a switch, unlike in the
hosts whose crowding was measured."""
KEPT = replace(train_memory.MAIN, gradient=2.0, compiled=True)
"""Memory of tuned submissions: gradients in 16 bits, as in NeMo's performance recipes (grad_reduce_in_fp32 = False),
and fused kernels that keep only what they cannot compute again at once (assumed)."""
SHOWN = 0.5
"""Part of a scorer's exchanges that shows (assumed): the next batch's rows travel while this one is computed."""


FULL = Method()
LORA = Method(kind="lora", rank=16, targets=("qkv", "query", "key", "value", "attention output"))
"""Low-rank updates of rank 16 on the attention's products (assumed; they take little of the time)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a benchmark trains.

    Attributes
    ----------
    tokens, predicted
        Mean real tokens of a sequence, and those whose word is predicted (None: all).
    units
        Units of the target in a sequence or sample.
    least, each
        Usual global batch: so many in all, and for each device where that is more (assumed).
    """

    tokens: int = 0
    predicted: int | None = None
    method: Method = FULL
    units: float = 1.0
    least: float
    each: float = 0.0


TEXTS = {
    "bert": Task(tokens=256, predicted=38, least=448, each=4),
    "gpt3": Task(tokens=2048, units=2048, least=2048, each=0.25),
    "llama2_70b_lora": Task(tokens=8192, method=LORA, least=8, each=0.125),
    "llama31_405b": Task(tokens=8192, least=1152, each=0.25),
}
"""BERT's sequences of at most 512 tokens are half padding (Krell et al. 2021, arXiv:2107.02027), which submissions
leave out; 15 % of the real ones are masked (Devlin et al. 2018, arXiv:1810.04805, §3.1)."""
CLICKS = {"dlrm": Task(least=55296), "dlrm_dcnv2": Task(least=55296)}
TASKS = TEXTS | CLICKS
GPT_3 = transformer({
    "model_type": "gpt2", "n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048, "vocab_size": 51200,
})  # fmt: skip
"""GPT-3 175B (Brown et al. 2020, arXiv:2005.14165, table 2.1), its vocabulary padded as Megatron does."""
PROFILES = {"bert": "bert-large", "llama2_70b_lora": "llama-2-70b", "llama31_405b": "llama-3.1-405b"}


def model(benchmark: str) -> Transformer:
    """Return the transformer that a benchmark trains."""
    if benchmark == "gpt3":
        return replace(GPT_3, head="language-model")
    found = architecture(cast(TransformerModel, catalogue.model(PROFILES[benchmark])))
    return replace(found, head="language-model" if found.layer.causal else "none")


def precisions(benchmark: str, hardware: Hardware) -> tuple[str, ...]:
    """Return what a submission may multiply in: narrow on chips that can, BERT in whatever is faster.

    NVIDIA's LLMs train in fp8 (Transformer Engine), Google's in int8 (said of the TPU v5e in round 3.1: Vahdat and
    Lohmeyer, "Announcing Cloud TPU v5e GA", 2023; assumed of its successors), recommenders in 16 bits.
    """
    wanted = ("fp16", "bf16") if benchmark in CLICKS or benchmark == "bert" else ("bf16", "fp16")
    half = next((dtype for dtype in wanted if hardware.rate(dtype)), wanted[0])
    if benchmark in CLICKS:
        return (half,)
    narrow = {"NVIDIA": "fp8", "Google": "int8"}.get(hardware.vendor, "fp8")
    if not hardware.rate(narrow) or (benchmark == "bert" and narrow == "int8"):
        return (half,)
    return (half, narrow) if benchmark == "bert" else (narrow,)


def layouts(benchmark: str, hardware: Hardware, devices: int, batch: float) -> Iterator[tuple[Trained, float]]:
    """Return the micro-batches, and how many a step has, of layouts that fit the devices' memory.

    BERT fits a device; its states are sharded or not. LLMs shard the optimizer's states, split sequences with the
    products, and recompute all or nothing, whatever fits first.
    """
    found, task = model(benchmark), TASKS[benchmark]
    for dtype in precisions(benchmark, hardware):
        plain = Trained(
            model=found, batch=1.0, tokens=task.tokens, dtype=dtype, method=task.method, fusion="eager",
            predicted=task.predicted,
        )  # fmt: skip
        if benchmark == "bert":
            yield from _replicas(plain, hardware, devices, batch)
        else:
            yield from _splits(plain, hardware, devices, batch)


def _replicas(plain: Trained, hardware: Hardware, devices: int, batch: float) -> Iterator[tuple[Trained, float]]:
    """Return data-parallel layouts, each device's batch halved until it fits."""
    shardings: tuple[Sharding, ...] = ("none", "optimizer") if devices > 1 else ("none",)
    for sharding in shardings:
        local, count = max(1.0, batch / devices), 1.0
        trained = replace(plain, batch=local, parallel=Parallel(data=devices, sharding=sharding))
        while not fits(trained, count, hardware) and trained.batch > 1:
            count *= 2
            trained = replace(trained, batch=max(1.0, local / count))
        if fits(trained, count, hardware):
            yield trained, count


def _splits(plain: Trained, hardware: Hardware, devices: int, batch: float) -> Iterator[tuple[Trained, float]]:
    """Return layouts of several degrees, each with the least recomputation that fits."""
    layers = plain.model.layers
    for tensor, pipeline, context in product(TENSOR, PIPELINE, CONTEXT):
        data, rest = divmod(devices, tensor * pipeline * context)
        # Llama 3.1's pipelines count the embedding and the head as a block each.
        if rest or batch < data or (layers % pipeline and (layers + 2) % pipeline):
            continue
        parallel = Parallel(
            data=data, tensor=tensor, pipeline=pipeline, context=context, sequence=tensor > 1, sharding="optimizer",
            virtual=CHUNKS if pipeline > 1 else 1,
        )  # fmt: skip
        for micro in (micro for micro in MICRO if micro * data <= batch):
            count = math.ceil(batch / data / micro)
            kept = replace(plain, batch=float(micro), parallel=parallel)
            tried = (kept, replace(kept, recompute="full"))
            yield from ((each, count) for each in [one for one in tried if fits(one, count, hardware)][:1])


def fits(trained: Trained, micro_batches: float, hardware: Hardware) -> bool:
    """Return whether a layout's memory fits a device, with what the device keeps for itself."""
    if hardware.memory is None:
        return True
    needed = sum(train_memory.components(trained, micro_batches, KEPT, "adamw").values())
    return needed <= hardware.memory.value - reserve(hardware.memory.value, hardware.kind)


def text_step_s(benchmark: str, device: Device, devices: int, batch: float, known: TrainingSteps) -> float:
    """Return the time of one step over `batch` sequences in the fastest layout that fits [s].

    Raises
    ------
    CapacityError
        When no layout that is tried fits the devices.
    """
    family = "nemo" if device.hardware.vendor == "NVIDIA" else "other"
    engine = known.engine(family, causal=True)
    times = []
    for trained, count in layouts(benchmark, device.hardware, devices, batch):
        job = Job(trained=trained, micro_batches=count, engine=engine)
        alone = kernels(benchmark, job.as_run, device)
        times.append(sum(train_step.composed(alone, job, device, known).values()))
    if not times:
        raise CapacityError(
            f"no layout of {benchmark} with a global batch of {batch:g} fits {devices} × {device.hardware.id}"
        )
    return min(times)


def kernels(benchmark: str, trained: Trained, device: Device) -> Spent:
    """Return the kernel times of a micro-batch as submissions run it.

    The fp8 kernels that were measured belong to serving engines and are slow at BERT's narrow products: there fp8 is
    assumed to gain on the kernels of 16 bits what the datasheet's rates promise.
    """
    alone = train_step.spent(trained, device)
    if _cards(device):
        alone = replace(alone, once_s=exchange_s(exchanges.data_parallel(trained)[1], device))
    if benchmark != "bert" or trained.dtype != "fp8":
        return alone
    half = train_step.spent(replace(trained, dtype="fp16"), device)
    gain = reference_rate(device.hardware, "gemm", "fp16") / reference_rate(device.hardware, "gemm", "fp8")
    return replace(alone, products_s=min(alone.products_s, gain * half.products_s))


def scorer(benchmark: str) -> DlrmModel:
    """Return the recommender that a benchmark trains."""
    found = cast(DlrmModel, catalogue.model("dlrm-dcnv2"))
    return found.model_copy(update=ONE_HOT) if benchmark == "dlrm" else found


def click_step_s(benchmark: str, device: Device, devices: int, batch: float) -> float:
    """Return the time of one step over `batch` samples, tables shared out over the devices [s].

    Bags are summed where their rows lie, so that one vector a table and sample travels there and its gradient back. A
    row that a batch reads often is updated once.
    """
    trained, local = scorer(benchmark), batch / devices
    forward = interaction.score_pairs(trained, local, precisions(benchmark, device.hardware)[0], "fused")
    dense = interaction.parameters(trained) - sum(trained.tables) * trained.embedding_size
    each = zip(trained.tables, trained.lookups or [1] * len(trained.tables), strict=True)
    touched = sum(min(rows, count * batch) for rows, count in each) / devices * trained.embedding_size
    work: tuple[Operation, ...] = (
        *forward, *(op for op in backward(forward) if op.label != "bottom 1 dx"),
        *optimizer_step(dense, "adamw"), *optimizer_step(touched, "sgd"),
    )  # fmt: skip
    seconds = sum(_fused_s(op, device) for op in work)
    if devices == 1:
        return seconds
    message = local * len(trained.tables) * trained.embedding_size * 2
    rows = Collective(kind="alltoall", message_bytes=message, devices=devices, count=2, label="rows")
    summed = Collective(kind="all_reduce", message_bytes=dense * 2, devices=devices, label="gradients")
    return seconds + SHOWN * exchange_s([rows, summed], device)


def _fused_s(op: Operation, device: Device) -> float:
    """Return the time of a scorer's operation [s], products of vectors with each other at the speed of memory."""
    if isinstance(op, Gemm) and op.label.startswith("dots"):
        return float(op.moved_bytes * op.count) / (STREAM_SHARE * reference_bandwidth(device.hardware, op))
    return float(device.time(op).value)


def _cards(device: Device) -> bool:
    """Return whether devices are cards that talk over PCIe."""
    link = device.hardware.link
    return device.hardware.host_bandwidth is not None and (link is None or "PCIe" in link.value.kind)


def exchange_s(collectives: Iterable[Collective], device: Device) -> float:
    """Return the time of exchanges [s]: as measured over a link, of cards at a share of their own PCIe lanes."""
    host = device.hardware.host_bandwidth
    if not _cards(device) or host is None:
        return sum(float(device.time(op).value) for op in collectives)
    return sum(float(wire_bytes(op) * op.count) for op in collectives) / (SWITCHED * host.value)


def usual_batch(benchmark: str, devices: float) -> float:
    """Return the global batch of a row that states none (assumed).

    Examples
    --------
    >>> usual_batch("bert", 8), usual_batch("bert", 1024)
    (448, 4096)
    """
    return max(TASKS[benchmark].least, TASKS[benchmark].each * devices)


def alone_s(benchmark: str, device: Device, devices: int, batch: float, known: TrainingSteps) -> float:
    """Return the time of one step as the model of its kernels and exchanges has it [s].

    Raises
    ------
    UnknownNameError
        For a benchmark without a step model.
    """
    if benchmark not in TASKS:
        raise UnknownNameError("benchmark", benchmark, TASKS)
    if benchmark in CLICKS:
        return click_step_s(benchmark, device, devices, batch)
    return text_step_s(benchmark, device, devices, batch, known)


def judged(alone: float, benchmark: str, year: float, known: TrainingRounds) -> float:
    """Return the time that a step takes of a submission's time to train [s].

    (factor · kernels and exchanges + step) · exp(−yearly · years since `release`).
    """
    found = known.benchmark(benchmark)
    return (found.factor * alone + found.step) * math.exp(-found.yearly * (year - known.release))


def _predicted(values: Values, rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    """Return the rate of each row of one round, benchmark, hardware and number of devices."""
    known, steps = context.shared.training_rounds, context.shared.training_steps
    if known is None or steps is None:
        raise CapacityError("no calibration says what training rounds add to their steps")
    name, devices, told = str(values["benchmark"]), int(values["devices"]), str(values["round"])
    if told not in ROUNDS:
        raise UnknownNameError("round", told, ROUNDS)
    if name not in TASKS:
        raise UnknownNameError("benchmark", name, TASKS)
    device = context.device(str(values["hardware"]), "fused")
    batches = optional_column(rows, "global_batch_size")
    filled = np.where(np.isnan(batches), usual_batch(name, devices), batches)
    found = {
        batch: judged(alone_s(name, device, devices, batch, steps), name, ROUNDS[told], known)
        for batch in np.unique(filled).tolist()
    }
    spread, units = {"training rounds": known.benchmark(name).log_sigma}, TASKS[name].units
    told_basis: Basis = "calibrated" if device.basis in {"measured", "calibrated"} else device.basis
    rates = [
        Estimate(
            units * batch / devices / found[batch], spread, weakest([told_basis, "assumed" if blank else "calibrated"])
        )
        for batch, blank in zip(filled.tolist(), np.isnan(batches), strict=True)
    ]
    return {TARGET: Predicted.each(rates, np.arange(len(rates)))}


def _measured(frame: pd.DataFrame, target: str) -> Array:
    return optional_column(frame, target)


KINDS: dict[str, Kind] = {
    "mlperf_training": Kind(
        group_by=("hardware", "benchmark", "round", "devices"), sizes=(), whole=("devices",),
        optional=("global_batch_size",), targets=(TARGET,),
        twins=("time_to_train_min", "units_consumed_mean"), measured=_measured, predict=_predicted,
    ),
}  # fmt: skip
