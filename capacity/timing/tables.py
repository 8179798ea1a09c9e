"""Rows of measurement tables as operations: what each kind of kernel table holds, for fitting and for validating.

A table names devices, engines, kernels and dtypes in its own words; here they become operations of arrays and kernel
families. What a row's prediction may see is exactly what `KernelTable` reads.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capacity.errors import UnknownNameError
from capacity.spec import kernel_names, names
from capacity.spec.hardware import Hardware
from capacity.timing import collective as collective_form
from capacity.timing import experts as experts_form
from capacity.timing import families
from capacity.timing.form import Board
from capacity.timing.kernel import Key, key_of
from capacity.timing.learn import Rows
from capacity.work.expert_layer import ExpertLayer
from capacity.work.operations import Attention, Collective, Gemm, Operation

Array = NDArray[np.float64]
Row = Mapping[str, Any]
PHASES = ("encoder", "prefill", "decode")
ROTATING_COPIES = 6.0
"""Weight copies that the benchmark behind `gemm` tables rotates through; small weights stay in cache all the same."""


@dataclass(frozen=True, slots=True)
class KernelTable:
    """One kind of table whose rows are single launches.

    Attributes
    ----------
    names
        Text columns; rows that agree in them are one family of kernels at one dtype.
    sizes
        Numeric columns that must be positive.
    target, unit_s
        Measured column, and the seconds of its unit.
    shape
        Columns that make a shape: held out of a fit together.
    operation
        Values of `names`, rows and the device → their launches.
    families
        Values of `names` and the device → kernel families, the one meant first, then what may stand in for it.
    optional
        Text columns that may be absent or blank.
    """

    names: tuple[str, ...]
    sizes: tuple[str, ...]
    target: str
    unit_s: float
    shape: tuple[str, ...]
    operation: Callable[[Row, pd.DataFrame, Hardware], Operation | ExpertLayer]
    families: Callable[[Row, Hardware], tuple[str, ...]]
    optional: tuple[str, ...] = ()

    def by_family(self, frame: pd.DataFrame, board: Board) -> dict[Key, Rows]:
        """Return the rows of one device by kernel family, as a fit reads them.

        A family "library/vllm" is the vllm part of "library": its rows teach both.
        """
        texts = [name for name in (*self.names, *self.optional) if name in frame]
        shapes = frame.groupby(list(self.shape), dropna=False).ngroup().to_numpy()
        found: dict[Key, list[tuple[Any, Any]]] = {}
        for key, index in frame.groupby(texts, dropna=False, sort=True).indices.items():
            values = dict(zip(texts, key if isinstance(key, tuple) else (key,), strict=True))
            operation = self.operation(values, frame.iloc[index], board.hardware)
            meant, *others = self.families(values, board.hardware)
            for family in (meant, *(name for name in others if meant.startswith(f"{name}/"))):
                found.setdefault(key_of(operation, family), []).append((operation, index))
        seconds = column(frame, self.target) * self.unit_s
        result = {}
        for known, parts in found.items():
            index = np.concatenate([each for _, each in parts])
            joined_op = joined([operation for operation, _ in parts], [len(each) for _, each in parts])
            result[known] = Rows(joined_op, board, seconds[index], shapes[index])
        return {key: rows for key, rows in result.items() if not _only_part(key, result)}


def _only_part(key: Key, found: Mapping[Key, Rows]) -> bool:
    """Tell an engine's part of a family that is all of it: one fit is enough."""
    whole = (key[0], key[1].rpartition("/")[0], key[2], key[3])
    return whole in found and len(found[whole]) == len(found[key])


def joined(operations: Sequence[Any], rows: Sequence[int]) -> Any:  # noqa: ANN401  (any operation)
    """Return operations of array fields one after the other; fields that all agree on one number stay numbers."""
    changed = {}
    for item in dataclasses.fields(operations[0]):
        parts = [getattr(operation, item.name) for operation in operations]
        if any(isinstance(part, np.ndarray) for part in parts) or len(set(parts)) > 1:
            changed[item.name] = np.concatenate(
                [np.broadcast_to(part, (count,)) for part, count in zip(parts, rows, strict=True)]
            )
    return dataclasses.replace(operations[0], **changed)


def column(frame: pd.DataFrame, name: str) -> Array:
    """Return a numeric column as float64: products of dimensions overflow integers."""
    return frame[name].to_numpy(dtype=np.float64)


def said(values: Row, name: str) -> str:
    """Return a text that a row may leave blank."""
    value = values.get(name)
    return "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value)


def gemm(values: Row, frame: pd.DataFrame, hardware: Hardware) -> Gemm:
    """Return the products of all rows (columns m, n, k).

    A device without units for a narrow dtype multiplies in bf16 what it stores in it.
    """
    precision = names.dtype(str(values["dtype"]))
    compute = precision.compute if hardware.rate(precision.compute) is not None else "bf16"
    return Gemm(
        m=column(frame, "m"), n=column(frame, "n"), k=column(frame, "k"), dtype=compute,
        weight_dtype=precision.weight, weight_copies=ROTATING_COPIES,
    )  # fmt: skip


def _gemm_families(values: Row, _: Hardware) -> tuple[str, ...]:
    engine = names.engine(str(values["engine"])).family
    precision = names.dtype(str(values["dtype"]))
    return kernel_names.gemm(said(values, "kernel"), engine, precision)


def gemm_fp32(_values: Row, frame: pd.DataFrame, _: Hardware) -> Gemm:
    """Return the fp32 products of all rows: (batch, m, n)·(n, k), so `n` is what is summed over.

    The published columns follow the operands' shapes, not BLAS: kernels split along `n`, and half-filled tiles show in
    `k`.
    """
    batch = frame["batch"].fillna(1).to_numpy(dtype=np.float64) if "batch" in frame else np.ones(len(frame))
    return Gemm(m=column(frame, "m"), n=column(frame, "k"), k=column(frame, "n"), batch=batch, dtype="fp32")


def attention(values: Row, frame: pd.DataFrame, _: Hardware) -> Attention:
    """Return the attention calls of all rows of one phase (encoder, prefill or decode).

    Raises
    ------
    UnknownNameError
        For any other phase.
    """
    phase = str(values["phase"])
    if phase not in PHASES:
        raise UnknownNameError("phase", phase, PHASES)
    compute = names.dtype(str(values["dtype"])).compute
    cache = names.dtype(said(values, "kv_dtype") or str(values["dtype"])).compute
    return Attention(
        batch=column(frame, "batch"), heads=column(frame, "heads"), kv_heads=column(frame, "kv_heads"),
        query=column(frame, "query_length"), keys=column(frame, "kv_length"), head_dim=column(frame, "head_dim"),
        dtype=compute, phase=phase, causal=phase != "encoder", kv_dtype=cache,  # type: ignore[arg-type]
    )  # fmt: skip


def _attention_families(values: Row, hardware: Hardware) -> tuple[str, ...]:
    engine = names.engine(str(values["engine"])).family
    return families.attention(said(values, "kernel"), engine, str(values["phase"]), hardware)


def experts(values: Row, frame: pd.DataFrame, _: Hardware) -> ExpertLayer:
    """Return the expert layers of all rows."""
    compute, weights = experts_form.precision(str(values["dtype"]))
    kernel, engine = said(values, "kernel"), str(values["engine"])
    shape = ("hidden_size", "intermediate_size", "experts", "experts_per_token")
    shapes, place = np.unique(frame[list(shape)].to_numpy(dtype=np.int64), axis=0, return_inverse=True)
    told: list[tuple[int, int, int, int]] = [tuple(map(int, row)) for row in shapes]  # type: ignore[misc]
    gated = np.array([experts_form.gated(engine, kernel, each) for each in told])[place.reshape(-1)]
    arriving = np.array([experts_form.arriving(engine, kernel, each) for each in told])[place.reshape(-1)]
    return ExpertLayer(
        tokens=column(frame, "tokens"), hidden=column(frame, "hidden_size"),
        intermediate=column(frame, "intermediate_size"), experts=column(frame, "experts"),
        per_token=column(frame, "experts_per_token"), tensor_parallel=column(frame, "moe_tensor_parallel"),
        expert_parallel=column(frame, "expert_parallel"), skew=skew(str(values["distribution"])), gated=gated,
        arriving=arriving, warm=True, dtype=compute, weight_dtype=weights,
    )  # fmt: skip


def skew(distribution: str) -> float:
    """Return the exponent of the power law that a distribution is called by; 0 for a balanced one.

    Raises
    ------
    UnknownNameError
        For any other name.

    Examples
    --------
    >>> skew("balanced"), skew("power_law_1.2")
    (0.0, 1.2)
    """
    match = re.fullmatch(r"(?:balanced|uniform)|power_law_(\d+(?:\.\d+)?)", distribution.strip())
    if match is None:
        raise UnknownNameError("distribution", distribution, ("balanced", "power_law_1.2"))
    return float(match[1] or 0.0)


def _experts_families(values: Row, _: Hardware) -> tuple[str, ...]:
    dtype = str(values["dtype"])
    block = names.dtype(dtype).block_scaled
    return families.experts(said(values, "kernel"), names.engine(str(values["engine"])), dtype, block_scaled=block)


def collective(values: Row, frame: pd.DataFrame, _: Hardware) -> Collective:
    """Return the collectives of all rows of one operation.

    Raises
    ------
    UnknownNameError
        For an operation the product has no term for.
    """
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "send")
    kind = {"sendrecv": "send", "send_recv": "send", "p2p": "send", "all_to_all": "alltoall"}.get(
        str(values["operation"]), str(values["operation"])
    )
    if kind not in kinds:
        raise UnknownNameError("operation", kind, kinds)
    return Collective(
        kind=kind, message_bytes=column(frame, "message_bytes"), devices=column(frame, "devices"),  # type: ignore[arg-type]
    )  # fmt: skip


def _collective_families(values: Row, _: Hardware) -> tuple[str, ...]:
    engine = names.engine(str(values["engine"]))
    kernel, variant = said(values, "kernel"), said(values, "variant")
    return (collective_form.family(kernel, variant, engine.family, str(values["operation"]), engine.version),)


TABLES: dict[str, KernelTable] = {
    "gemm": KernelTable(
        ("hardware", "engine", "dtype"), ("m", "n", "k"), "latency_us", 1e-6, ("n", "k"), gemm, _gemm_families,
        optional=("kernel",),
    ),
    "gemm_fp32": KernelTable(
        ("hardware",), ("m", "n", "k"), "latency_ms", 1e-3, ("m", "n", "k"), gemm_fp32, lambda *_: ("simt",),
    ),
    "attention": KernelTable(
        ("hardware", "engine", "phase", "dtype"),
        ("batch", "query_length", "kv_length", "heads", "kv_heads", "head_dim"), "latency_us", 1e-6,
        ("heads", "kv_heads", "head_dim", "batch"), attention, _attention_families, optional=("kernel", "kv_dtype"),
    ),
    "moe": KernelTable(
        ("hardware", "engine", "dtype", "distribution"),
        ("tokens", "hidden_size", "intermediate_size", "experts", "experts_per_token", "moe_tensor_parallel",
         "expert_parallel"), "latency_us", 1e-6,
        ("hidden_size", "intermediate_size", "experts", "experts_per_token"), experts, _experts_families,
        optional=("kernel",),
    ),
    "collective": KernelTable(
        ("hardware", "engine", "operation", "dtype"), ("devices", "message_bytes"), "latency_us", 1e-6,
        ("devices", "message_bytes"), collective, _collective_families, optional=("kernel", "variant"),
    ),
}  # fmt: skip
"""Kinds of tables whose rows are single launches."""
