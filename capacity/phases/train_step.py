"""Time of a training step of a transformer: kernels, exchanges, the pipeline's bubble, and what nothing hides.

A framework's numbers (`TrainingEngine`) multiply sums of kernel times, so `spent` computes those once and `composed`
puts them together; a fit varies the numbers alone.

References
----------
Narayanan et al. 2021, arXiv:2104.04473, §2.2 (bubble of the interleaved schedule); Chowdhery et al. 2022,
arXiv:2204.02311, appendix B (MFU and HFU).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import exp

import numpy as np

from capacity.spec.training_engine import TrainingEngine, TrainingSteps
from capacity.timing.band import Basis, Estimate, weakest
from capacity.timing.device import Device, reference_bandwidth, reference_rate
from capacity.work import exchanges, training_step
from capacity.work.operations import (
    Amount,
    Attention,
    Collective,
    Gather,
    Gemm,
    GroupedGemm,
    Operation,
    Streaming,
)
from capacity.work.trained import Trained

STREAM_SHARE = 0.8
"""Share of the memory bandwidth that element-wise kernels reach (docs/explanation/kernel-time.md: 0.4 to 0.8)."""
HIDDEN = 0.8
"""Share of the compute beside which data-parallel exchanges can run (assumed)."""
SHOWN = 0.1
"""Part of a data-parallel exchange that always shows: the first gather and the last scatter (assumed)."""
SENT = 0.2
"""Part of the pipeline's sends that shows (assumed)."""
BACKWARD = 2 / 3
"""Part of a micro-batch's compute that is its backward pass: what an exchange once a step can run beside."""
BINNED_FROM = 128
"""Tokens of a pretraining sequence above which batches of like length are padded less."""
SHARPNESS = 6.0
"""How sharply the slower of host and device sets the pace [1]."""
MASTER_BYTES = 4.0
"""Written in 16 bits and read as a gradient beside the optimizer's own fp32 passes [byte] for each parameter."""
_STREAM = Streaming(kind="add", elements=1, dtype="fp32")
OPTIMIZER_BYTES = {"adamw": 28.0, "adamw-8bit": 18.0, "adafactor": 14.0, "momentum": 20.0, "sgd": 12.0}
"""Passes of an update over parameter, gradient and states [byte]: AdamW 7 of 4; 8-bit states 4 of 4 and 2 of 1;
Adafactor's row and column means instead of the second moment (Shazeer & Stern 2018, arXiv:1804.04235)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one micro-batch costs one device, as its kernels take alone.

    Attributes
    ----------
    products_s, attention_s, elementwise_s, cast_s
        Blocks and an even share of what stands outside them, forward and backward [s].
    outside_s
        What the last group of a pipeline has on top of the others: head and vocabulary [s].
    launches
        Kernels.
    tensor_s, send_s
        Exchanges of tensor, context and expert parallelism; what a pipeline hands on [s].
    sharded_s, once_s
        Data-parallel exchange of each micro-batch, and of each step [s].
    updated
        Parameters that this device's optimizer changes.
    """

    products_s: float
    attention_s: float
    elementwise_s: float
    cast_s: float
    outside_s: float
    launches: float
    tensor_s: float
    send_s: float
    sharded_s: float
    once_s: float
    updated: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One training step of a job.

    Attributes
    ----------
    time
        Of the step [s].
    parts_s
        Where it goes [s]; the values add up to `time`.
    tokens, devices
        Of the whole job.
    model_flop, hardware_flop
        One device's forward and backward pass, masked pairs of attention left out; the second with recomputation.
    flop_per_s
        Dense peak of the device at the products' dtype.
    """

    time: Estimate
    parts_s: Mapping[str, float]
    tokens: float
    devices: int
    model_flop: float
    hardware_flop: float
    flop_per_s: float

    @property
    def rate(self) -> Estimate:
        """Tokens per second and device [1/s]."""
        return Estimate(self.tokens / self.devices / self.time.value, self.time.errors, self.time.basis)

    @property
    def mfu(self) -> float:
        """Model FLOP utilization [1]: model FLOP ÷ (time × dense peak)."""
        return self.model_flop / (float(self.time.value) * self.flop_per_s)

    @property
    def hfu(self) -> float:
        """Hardware FLOP utilization [1]: as MFU, what is computed twice counted twice."""
        return self.hardware_flop / (float(self.time.value) * self.flop_per_s)

    @property
    def bound(self) -> str:
        """What takes most of the step."""
        return max(self.parts_s, key=lambda name: self.parts_s[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How a model is trained: a micro-batch, how many of them make a step, and by which software.

    Attributes
    ----------
    micro_batches
        Of each data-parallel group in a step.
    year
        Release of the software; None: that of the fit.
    """

    trained: Trained
    micro_batches: float
    engine: TrainingEngine
    optimizer: str = "adamw"
    year: float | None = None

    @property
    def as_run(self) -> Trained:
        """The micro-batch with the attention that the software has."""
        return replace(self.trained, fused_attention=self.engine.scores != "unfused")


def step(job: Job, device: Device, known: TrainingSteps) -> Step:
    """Return one step of a job on devices of one kind.

    Raises
    ------
    MissingFactError
        When the device has no rate for the products, or no link where devices must talk.
    """
    trained = job.as_run
    parts = composed(spent(trained, device), job, device, known)
    forward = training_step.block(trained)
    again = trained.layers * _flop(training_step.recomputed(forward, trained.recompute))
    blocks = trained.layers * _flop((*forward, *training_step.block_backward(trained))) - again
    outside = _flop(training_step.head(trained)) / trained.parallel.pipeline
    return Step(
        time=_judged(sum(parts.values()), job.engine, device), parts_s=parts,
        tokens=job.micro_batches * trained.batch * trained.tokens * trained.parallel.data,
        devices=trained.parallel.devices, model_flop=job.micro_batches * (blocks + outside),
        hardware_flop=job.micro_batches * (blocks + again + outside),
        flop_per_s=reference_rate(device.hardware, "gemm", trained.dtype),
    )  # fmt: skip


def forward_s(job: Job, device: Device, known: TrainingSteps) -> float:
    """Return the forward passes of one step alone [s]: a third of what training computes, exchanges left out."""
    parts = composed(spent(job.as_run, device), job, device, known)
    return sum(parts[name] for name in ("products", "attention", "element-wise", "host")) / 3


def spent(trained: Trained, device: Device) -> Spent:
    """Return the kernel times of one micro-batch."""
    layers, groups = trained.layers, trained.parallel.pipeline
    blocks = _sorted((*training_step.block(trained), *training_step.block_backward(trained)), device)
    outside = _sorted(training_step.head(trained), device)
    whole = {kind: layers * blocks[kind] + outside[kind] / groups for kind in blocks}
    sharded, once = exchanges.data_parallel(trained)
    return Spent(
        products_s=whole["products"], attention_s=whole["attention"], elementwise_s=whole["elementwise"],
        cast_s=whole["cast"], launches=whole["launches"], outside_s=outside["products"] * (1 - 1 / groups),
        tensor_s=layers * _seconds(exchanges.of_a_block(trained), device),
        send_s=_seconds(exchanges.sends(trained), device),
        sharded_s=_seconds(sharded, device), once_s=_seconds(once, device), updated=training_step.updated(trained),
    )  # fmt: skip


def composed(alone: Spent, job: Job, device: Device, known: TrainingSteps) -> dict[str, float]:
    """Return where a step's time goes [s], by part.

    With m micro-batches, p groups and v chunks each: m · micro-batch + (p − 1)/v · micro-batch + what nothing hides.
    """
    engine, trained, count = job.engine, job.trained, job.micro_batches
    parallel = trained.parallel
    products_s = engine.products * known.dtypes.get(trained.dtype, 1.0) * alone.products_s
    last_s = engine.products * known.dtypes.get(trained.dtype, 1.0) * alone.outside_s
    attention_s = engine.attention * _generation(device, engine, known) * alone.attention_s
    streams_s = engine.elementwise * alone.elementwise_s + alone.cast_s
    kept = engine.binned if _binned(trained) else 1.0
    compute_s = kept * (products_s + attention_s + streams_s)
    host_s = _smooth_max(compute_s, alone.launches * engine.launch) - compute_s
    exchange_s = engine.exchange * alone.tensor_s
    micro_s = compute_s + host_s + exchange_s
    exchanged_s = alone.sharded_s * count + alone.once_s
    beside_s = compute_s * (count if alone.sharded_s else BACKWARD)
    stored = (OPTIMIZER_BYTES[job.optimizer] + MASTER_BYTES) * alone.updated
    faster = exp(-engine.yearly * (job.year - engine.release)) if job.year and engine.release else 1.0
    parts = {
        "products": kept * products_s * count, "attention": kept * attention_s * count,
        "element-wise": kept * streams_s * count, "host": host_s * count, "tensor exchange": exchange_s * count,
        "pipeline bubble": micro_s * (parallel.pipeline - 1) / parallel.virtual + last_s * count,
        "pipeline sends": SENT * alone.send_s * (count + parallel.pipeline - 1),
        "data exchange": max(exchanged_s - HIDDEN * beside_s, SHOWN * exchanged_s),
        "optimizer": stored / _bandwidth(device),
    }  # fmt: skip
    return {name: faster * seconds for name, seconds in parts.items()}


def _binned(trained: Trained) -> bool:
    """Return whether the step pretrains on masked texts long enough to differ in length."""
    return trained.predicted is not None and trained.predicted < trained.tokens and trained.tokens > BINNED_FROM


def _generation(device: Device, engine: TrainingEngine, known: TrainingSteps) -> float:
    """Return the time of the engine's attention beside the newest kernels of the device's generation [1]."""
    return known.flash2.get(str(device.hardware.architecture), 1.0) if engine.scores == "flash2" else 1.0


def _sorted(operations: Iterable[Operation], device: Device) -> dict[str, float]:
    """Return the time of operations by kind [s], and how many kernels they are."""
    found = dict.fromkeys(("products", "attention", "elementwise", "cast", "launches"), 0.0)
    for op in _stacked(operations):
        if isinstance(op, Streaming | Gather):
            kind = "cast" if op.label == "cast" else "elementwise"
            found[kind] += float(np.sum(op.moved_bytes * op.count)) / _bandwidth(device)
        else:
            found["attention" if isinstance(op, Attention) else "products"] += float(np.sum(device.time(op).value))
        found["launches"] += float(np.sum(op.count))
    return found


SIZES = ("m", "n", "k", "batch", "count")


def _stacked(operations: Iterable[Operation]) -> Iterator[Operation]:
    """Yield operations, plain products of one dtype as one with arrays of sizes: one evaluation instead of many."""
    products: dict[tuple[str, str | None], list[Gemm]] = {}
    for op in operations:
        if isinstance(op, Gemm):
            products.setdefault((op.dtype, op.weight_dtype), []).append(op)
        else:
            yield op
    for (dtype, stored), each in products.items():
        sizes = {name: np.array([getattr(op, name) for op in each], dtype=float) for name in SIZES}
        yield Gemm(dtype=dtype, weight_dtype=stored, **sizes)  # type: ignore[arg-type]


def _bandwidth(device: Device) -> float:
    """Return what element-wise kernels get of the memory bandwidth [byte/s]."""
    return STREAM_SHARE * reference_bandwidth(device.hardware, _STREAM)


def _seconds(collectives: Iterable[Collective], device: Device) -> float:
    return sum(float(device.time(op).value) for op in collectives)


def _smooth_max(first: float, second: float) -> float:
    return float((first**SHARPNESS + second**SHARPNESS) ** (1 / SHARPNESS))


def _flop(operations: Iterable[Operation]) -> float:
    """Return the FLOP of products and attention, the fused backward pass counted as four products for two."""
    counted = (op for op in operations if isinstance(op, Gemm | GroupedGemm | Attention))
    return float(sum(op.flop * op.count * (0.8 if isinstance(op, Attention) and op.backward else 1) for op in counted))


def _judged(seconds: float, engine: TrainingEngine, device: Device) -> Estimate:
    """Return the time with the errors that whole runs showed, and those of kernels carried over from a relative."""
    errors: dict[str, Amount] = {"training runs": engine.log_sigma, **device.errors}
    basis: Basis = "calibrated" if engine.rows and device.basis in {"measured", "calibrated"} else "projected"
    return Estimate(seconds, errors, weakest([basis, device.basis]))
