"""Time of one step of a generating engine on a device: its kernels, what it adds to them, and tables of both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from capacity.errors import CapacityError
from capacity.phases.step_table import Array, StepTable
from capacity.spec import kernel_names
from capacity.spec.hardware import Hardware
from capacity.spec.names import Precision
from capacity.spec.serving_engine import ServingEngine
from capacity.timing import collective as collective_form
from capacity.timing import families
from capacity.timing.band import Estimate, total
from capacity.timing.device import Device
from capacity.timing.form import Board
from capacity.work import decoder_step
from capacity.work.decoder_step import HALF, Served
from capacity.work.expert_layer import ExpertLayer
from capacity.work.operations import Amount, Attention, Collective, Gemm, Operation

CONTEXTS, STARTS, QUERIES = 64, 16, 64
"""Cells of the tables by mean context, by tokens before a prompt chunk, and by its new tokens."""
TIMED_CONTEXTS, TIMED_QUERIES = 11, 24
"""Of these, so many are timed and the others interpolated: kernels are smooth there."""
KNOTS_PER_DOUBLING = 4
Kernels = Iterable[Operation | ExpertLayer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large the tables must be: what one step of a replica may hold at most."""

    tokens: int
    sequences: int
    context: int
    beams: int = 1
    """Sequences of one request."""
    shared: float = 0.0
    """Positions that they share: its prompt [token]."""


def kernels_s(work: Kernels, served: Served, device: Device) -> Estimate:
    """Return the time of all launches back to back, each by the kernel that the engine would pick [s]."""
    return total(_time(operation, served, device) for operation in work)


def table(served: Served, device: Device, engine: ServingEngine, limits: Limits) -> StepTable:
    """Return the time of every step that fits `limits`.

    Raises
    ------
    MissingFactError
        When the device has no kernels, rate or link that the model needs.
    """
    tokens, sequences = _knots(limits.tokens), _knots(limits.sequences)
    groups = served.layout.pipeline  # as many micro-batches follow each other through as many groups of layers
    work = decoder_step.linear(served, np.maximum(tokens / groups, 1.0))
    whole = engine.devices.get(device.hardware.id, 1.0)
    pace = engine.kernels * whole
    linear = kernels_s([op for op in work if not isinstance(op, Collective)], served, device).scaled(pace)
    exchange = kernels_s([op for op in work if isinstance(op, Collective)], served, device).scaled(engine.exchange)
    contexts = _spread(limits.context, TIMED_CONTEXTS)
    decode = _decode(served, device, np.ceil(sequences[1:, None] / groups), contexts[None, :], limits)
    chunks = _spread(limits.tokens, TIMED_QUERIES)[:, None]
    starts = np.linspace(0, limits.context, STARTS + 1)[None, :]
    prefill = _attention(served, device, "prefill", 1.0, chunks, chunks + starts)
    projected = kernels_s(decoder_step.vocabulary(served, sequences), served, device).scaled(pace)
    step, added_s = total([linear, exchange]).scaled(groups), _layers_s(served, engine) * groups
    attended = decode.value * whole * groups
    carried = max((float(np.max(size)) for name, size in step.errors.items() if name.startswith("carried")), default=0)
    return StepTable(
        linear_s=_dense(tokens, _from_zero(step.value, tokens.shape) + added_s * (tokens > 0)),
        decode_s=_rows(sequences, np.vstack([np.zeros(CONTEXTS + 1), _even(contexts, attended, CONTEXTS)])),
        context_step=limits.context / CONTEXTS,
        prefill_s=_from_zero(_even(chunks[:, 0], np.asarray(prefill.value * whole).T, QUERIES).T),
        query_step=limits.tokens / QUERIES, start_step=limits.context / STARTS,
        host_s=_dense(sequences, _step_s(served, engine) + engine.sequence * sequences + projected.value),
        floor_s=np.zeros(limits.sequences + 1), prompt_s=engine.prompt,
        log_sigma=float(np.hypot(engine.log_sigma, carried)), basis=step.basis,
    )  # fmt: skip


def _step_s(served: Served, engine: ServingEngine) -> float:
    """Return the host's time of a step [s]; on one device the scheduler shares its process with the worker."""
    return engine.step + engine.single_step * (served.layout.devices == 1)


def _layers_s(served: Served, engine: ServingEngine) -> float:
    """Return what the engine adds to the kernels of all layers: gaps, and small kernels that no table times [s]."""
    layer, layout = served.model.layer, served.layout
    each_s = engine.layer
    each_s += engine.expert_layer * bool(layer.experts)
    each_s += engine.quantized_layer * served.quantized
    each_s += engine.grouped_layer * (layout.attention_data > 1)
    return served.layers * each_s


def _decode(served: Served, device: Device, batch: Array, contexts: Array, limits: Limits) -> Estimate:
    """Return the attention of sequences that decode; beams of one request attend to what they share in one pass."""
    alone = _attention(served, device, "decode", batch, 1.0, contexts)
    if limits.beams == 1:
        return alone
    own = _attention(served, device, "decode", batch, 1.0, np.maximum(contexts - limits.shared, 1.0))
    requests = np.maximum(batch / limits.beams, 1.0)
    shared = _attention(served, device, "prefill", requests, limits.beams, limits.shared + limits.beams)
    together = total([own, shared])
    return replace(together, value=np.minimum(together.value, alone.value))


def _attention(served: Served, device: Device, phase: str, batch: Amount, query: Amount, keys: Amount) -> Estimate:
    return kernels_s(decoder_step.attention(served, phase, batch, query, keys), served, device)


def _time(operation: Operation | ExpertLayer, served: Served, device: Device) -> Estimate:
    """Return the time of an operation by the engine's kernels [s].

    Engines pick a quantized product's kernel by trying all they have: the fastest of those measured counts.
    """
    if isinstance(operation, ExpertLayer) or (isinstance(operation, Gemm) and operation.dtype != HALF.compute):
        precision = served.products if isinstance(operation, Gemm) else served.expert_products
        found = _known(operation, precision, device)
        if found:
            return _fastest(found)
        if isinstance(operation, ExpertLayer) and precision.weight != precision.compute:
            return _unpacked(operation, served, device)
    return device.time(operation, family_names(operation, served, device.hardware))  # type: ignore[arg-type]


def _known(operation: Gemm | ExpertLayer, precision: Precision, device: Device) -> list[Estimate]:
    """Return the times by all kernels of a precision, whoever's engine brings them: those measured here, or carried."""
    wanted = (operation.operation, precision.compute, precision.weight)
    kernels = [
        kernel for (kind, family, dtype, stored), kernel in device.kernels.items()
        if (kind, dtype, stored) == wanted and "/" not in family
        and family.endswith("-block") == precision.block_scaled
    ]  # fmt: skip
    here = [kernel for kernel in kernels if kernel.basis != "projected"]
    return [kernel.time(operation, Board(device.hardware)).scaled(operation.count) for kernel in here or kernels]


def _unpacked(operation: ExpertLayer, served: Served, device: Device) -> Estimate:
    """Return the time of experts in a storage that no kernel was measured with: as unpacked ones, by the bytes read."""
    plain = replace(served.expert_products, weight=served.expert_products.compute, raw="")
    as_stored = replace(operation, weight_dtype=plain.weight)
    estimate = _time(as_stored, replace(served, expert_products=plain), device)
    fewer = np.asarray(operation.moved_bytes) / np.asarray(as_stored.moved_bytes)
    return estimate.scaled(fewer).widened("stand-in kernels", device.stand_in_log_sigma, "projected")


def _fastest(estimates: list[Estimate]) -> Estimate:
    """Return the least of several estimates by element, with the errors of the one that is least most often."""
    values = np.stack(np.broadcast_arrays(*(item.value for item in estimates)))
    usual = np.bincount(values.argmin(axis=0).ravel(), minlength=len(estimates)).argmax()
    return replace(estimates[int(usual)], value=values.min(axis=0))


def family_names(operation: Operation | ExpertLayer, served: Served, hardware: Hardware) -> tuple[str, ...]:
    """Return the kernel families by which the engine runs an operation, the one meant first."""
    engine = served.engine
    if isinstance(operation, Gemm):
        own = served.products if operation.dtype == served.products.compute else HALF
        return kernel_names.gemm("", engine.family, own)
    if isinstance(operation, Attention):
        return families.attention("", engine.family, operation.phase, hardware)
    if isinstance(operation, ExpertLayer):
        precision = served.expert_products
        return families.experts("", engine, precision.raw or precision.compute, block_scaled=precision.block_scaled)
    if isinstance(operation, Collective):
        kernel = "custom" if operation.kind == "all_reduce" else ""
        meant = collective_form.family(kernel, "", engine.family, operation.operation, engine.version)
        return (meant, collective_form.family("", "", "", operation.operation))
    return ()


def _knots(most: int) -> Array:
    """Return 0, 1, 2, 3, 4, then `KNOTS_PER_DOUBLING` whole numbers a doubling up to `most`."""
    doublings = np.log2(max(most, 2))
    grid = 2 ** np.linspace(0, doublings, int(np.ceil(doublings * KNOTS_PER_DOUBLING)) + 1)
    return np.unique(np.r_[0.0, np.rint(grid), float(most)])


def _spread(most: int, points: int) -> Array:
    """Return up to `points` whole lengths from 1 to `most`, closer together where they are short."""
    return np.unique(np.rint(np.linspace(1.0, np.sqrt(most), points) ** 2))


def _even(lengths: Array, values: Amount, cells: int) -> Array:
    """Return values known at `lengths` (along the last axis) at equal steps up to the longest, `cells` of them."""
    grid = np.linspace(0, lengths[-1], cells + 1)
    return np.stack([np.interp(grid, lengths, row) for row in np.atleast_2d(values)])


def _from_zero(values: Amount, shape: tuple[int, ...] | None = None) -> Array:
    """Return the values with nothing in the first row: no tokens take no time."""
    full = np.array(values if shape is None else np.broadcast_to(values, shape), dtype=float)
    full[0] = 0.0
    return full


def _dense(knots: Array, values: Array) -> Array:
    return np.interp(np.arange(knots[-1] + 1), knots, values)


def _rows(knots: Array, values: Array) -> Array:
    """Return the table with a row for every whole number up to the last knot."""
    return np.stack([_dense(knots, column) for column in values.T], axis=1)


def chosen(engines: Sequence[ServingEngine], family: str, version: str = "") -> ServingEngine:
    """Return what is known of an engine: that version's fit, else the family's, else what holds for the others.

    Raises
    ------
    CapacityError
        When not even that is known.
    """
    family_only = [item for item in engines if item.engine == family]
    exact = [item for item in family_only if version and version.startswith(item.versions)]
    usual = [item for item in family_only if not item.versions]
    other = [item for item in engines if item.engine == "other"]
    found = [*exact, *usual, *other]
    if not found:
        raise CapacityError(f"no calibration says how {family} runs an LLM")
    return found[0]
