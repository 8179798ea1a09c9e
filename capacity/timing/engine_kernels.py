"""Kernels of an engine that is only ever timed in whole models: products, fused attention, streams, the power limit.

Products follow the form `gemm`; a block of the fused attention holds one head of one sequence with all its keys, as
TensorRT's multi-head attention kernels do. All numbers are shared by GPUs; a device differs by its datasheet and by
the share of its clock that its power limit leaves: a T4's 70 W feed less than half of its 65 TFLOP/s.

Measured error: docs/explanation/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from capacity.spec.calibration import Composition, Efficiency
from capacity.spec.hardware import DTYPE_BYTES, Dtype, Hardware
from capacity.spec.steps import EngineSteps
from capacity.timing.band import Basis
from capacity.timing.device import Device
from capacity.timing.form import Array, Board, Form, MissingFactError, Parameter, Values
from capacity.timing.forms import named
from capacity.timing.kernel import Kernel, Scatter
from capacity.work.operations import Attention

GENERATIONS = {
    "volta": (12.0, 2017.4), "turing": (12.0, 2018.7), "ampere": (7.0, 2020.4), "ada": (5.0, 2022.8),
    "hopper": (5.0, 2022.8), "blackwell": (5.0, 2024.9),
}  # fmt: skip
"""Chip generation → process node [nm] (TSMC's 12, 7 and 4N, which counts as 5), date of its first products [year]: as
NVIDIA's architecture whitepapers say, from memory, dates to a quarter of a year."""
SAMSUNG_NM = 8.0
"""Node of the Ampere chips beside the A100 and A30, which are known by their memory: no HBM (GA102 whitepaper)."""
REFERENCE_NM = 5.0
REFERENCE_HZ = 1.41e9
"""Clock of an A100."""
CORNER = 4.0
"""Steepness of the passage from full clock to a clock that power limits [1]."""
SMALL_TILES = ("volta", "turing")
"""Generations with at most 96 KiB of shared memory a core: an attention block holds 128 query rows, elsewhere 512."""
KEY_TILE = 64.0
PARAMETERS = (
    Parameter("t0_s", 3e-6, 1e-7, 1e-4),
    Parameter("flop_efficiency", 0.6, 0.05, 1.2),
    Parameter("bandwidth_efficiency", 0.7, 0.1, 1.2),
    Parameter("softmax_columns", 70, 5, 500),
    Parameter("softmax_rate_ratio", 1, 0.25, 8),
    Parameter("rows", 512, 64, 512),
)
"""`softmax_columns` are columns of the head at 16 bits; `softmax_rate_ratio` is the dtype's rate over that."""


def attention_seconds(operation: Attention, board: Board, values: Values) -> Array:
    """Return the time of one fused encoder attention [s], in the shape of the operation's fields.

    b = batch · heads · ⌈query/rows⌉ blocks, w = 1 if b ≤ cores else (⌈b/cores⌉ + b/cores)/2 waves;
    T = 4 · rows · keys · (head_dim + softmax_columns · ratio) · w / (flop_efficiency · rate/cores),
    t = t0 + (T³ + (bytes/bandwidth)³)^(1/3), rows and keys rounded up to 64.
    """
    query = np.asarray(operation.query, dtype=float)
    rows = np.clip(np.ceil(query / KEY_TILE) * KEY_TILE, KEY_TILE, values["rows"])
    keys = np.ceil(np.asarray(operation.keys, dtype=float) / KEY_TILE) * KEY_TILE
    load = operation.batch * operation.heads * np.ceil(query / rows) / board.cores
    waves = np.where(load <= 1, 1.0, (np.ceil(load) + load) / 2)
    columns = operation.head_dim + values["softmax_columns"] * values["softmax_rate_ratio"]
    rate = values["flop_efficiency"] * board.rate(operation.dtype) / board.cores
    compute_s = 4 * rows * keys * columns * waves / rate
    traffic_s = np.asarray(operation.moved_bytes) / (values["bandwidth_efficiency"] * board.bandwidth)
    return np.asarray(values["t0_s"] + (compute_s**3 + traffic_s**3) ** (1 / 3))


ATTENTION = Form("attention.fused", PARAMETERS, attention_seconds)


def looked_up(table: Mapping[str, float], dtype: str, hardware: Hardware) -> float | None:
    """Return what a table of shared numbers says of a dtype, its own chip generation first; bf16 counts as fp16."""
    for name in (dtype, {"bf16": "fp16"}.get(dtype, dtype)):
        for key in (f"{name}/{hardware.architecture}", name):
            if key in table:
                return table[key]
    return None


def tensor_rate(hardware: Hardware, dtype: str) -> float:
    """Return the rate of products [FLOP/s]: in fp16 with half-precision sums, where a card is faster at those.

    Consumer cards halve the rate of products with fp32 sums; the int8 rate gives the other away.

    Raises
    ------
    MissingFactError
        When the profile states no rate of the dtype.
    """
    rate = Board(hardware).rate(dtype)
    doubled = hardware.rate("int8") if dtype == "fp16" else None
    return max(rate, doubled / 2) if doubled else rate


def sustained(hardware: Hardware, dtype: str, steps: EngineSteps) -> float:
    """Return the share of the tensor rate that the power limit leaves in the long run [1], at most 1.

    A generation this product does not know, or a profile without power, keeps all of it.
    """
    joule = looked_up(steps.sustained.joule, dtype, hardware)
    if hardware.power is None or joule is None or hardware.architecture not in GENERATIONS:
        return 1.0
    node = GENERATIONS[hardware.architecture][0]
    if hardware.architecture == "ampere" and "HBM" not in (hardware.memory_type or ""):
        node = SAMSUNG_NM
    joule *= (node / REFERENCE_NM) ** steps.sustained.node_exponent
    fed = (hardware.power.value / (joule * tensor_rate(hardware, dtype))) ** steps.sustained.clock_exponent
    return float((1 + fed**-CORNER) ** (-1 / CORNER))


def maturity(hardware: Hardware, released: float | None, steps: EngineSteps, *, tuned: bool = False) -> float:
    """Return how much longer steps take on an engine that was new when the chip was [1], at least 1.

    Parameters
    ----------
    released
        When the engine came out [year]; None counts as long after the chip.
    tuned
        Whether the vendor tuned the run by hand.
    """
    known = GENERATIONS.get(hardware.architecture or "")
    if known is None or released is None:
        return 1.0
    excess = steps.submissions.excess if tuned else steps.maturity.excess
    return float(1 + excess * 0.5 ** (max(released - known[1], 0.0) / steps.maturity.half_life_years))


def launch_s(hardware: Hardware, steps: EngineSteps) -> float:
    """Return the fixed time of one kernel [s]: cycles, not seconds, so that fast clocks shorten it."""
    if hardware.clock is None:
        return steps.launch
    return float(steps.launch * (REFERENCE_HZ / hardware.clock.value) ** steps.launch_exponent)


def runs(hardware: Hardware, dtype: str, steps: EngineSteps) -> bool:
    """Tell whether the engine's shared numbers can answer for a device and a dtype."""
    known = hardware.vendor == "NVIDIA" and hardware.kind == "gpu" and hardware.rate(dtype) is not None
    return known and looked_up(steps.flop_efficiency, dtype, hardware) is not None


def device(hardware: Hardware, dtype: str, steps: EngineSteps, own: Composition | None = None) -> Device:
    """Return a device that runs the engine's kernels in one dtype; `Device.step` answers for whole models.

    Parameters
    ----------
    own
        What measured steps of this device say, see `timing.step_fit`.

    Raises
    ------
    MissingFactError
        When the engine has no kernels for the dtype on this device.
    """
    if not runs(hardware, dtype, steps):
        raise MissingFactError(f"{steps.engine} has no {dtype} kernels for {hardware.id}")
    known = (own is not None and own.rows > 0) or hardware.id in steps.devices
    said = {} if known or own is not None else unmeasured(hardware, steps)
    basis: Basis = "calibrated" if known else "projected"
    composition = own or Composition(
        mode="inference", log_sigma=steps.log_sigma, median_error=steps.median_error, rows=steps.rows,
    )  # fmt: skip
    kernels = {
        (operation, steps.engine, dtype, dtype): Kernel(
            form, values, Scatter.constant(steps.log_sigma), basis, f"{steps.engine} kernels", errors=said
        )
        for operation, form, values in (
            ("gemm", named("gemm"), gemm_values(hardware, dtype, steps)),
            ("attention.encoder", ATTENTION, attention_values(hardware, dtype, steps)),
        )
    }
    return Device(
        hardware=hardware, fitted={}, shared=streams(hardware, dtype, steps), compositions={"inference": composition},
        engine="fused", origin=steps.engine, errors=said, basis=basis, stand_in_log_sigma=0.0, kernels=kernels,
    )  # fmt: skip


def unmeasured(hardware: Hardware, steps: EngineSteps) -> dict[str, float]:
    """Return the errors of a device that nobody ran the engine on: log standard deviations by source."""
    errors = {f"never measured with {steps.engine}": steps.device_log_sigma}
    if hardware.architecture not in steps.generations:
        errors[f"{hardware.architecture} never measured with {steps.engine}"] = steps.generation_log_sigma
    return errors


def gemm_values(hardware: Hardware, dtype: str, steps: EngineSteps) -> dict[str, float]:
    """Return the values of the form `gemm` on a device whose power limit has settled."""
    efficiency = looked_up(steps.flop_efficiency, dtype, hardware) or 1.0
    faster = tensor_rate(hardware, dtype) / Board(hardware).rate(dtype)
    share = efficiency * faster * sustained(hardware, dtype, steps)
    return {**named("gemm").typical, **steps.gemm, "t0_s": launch_s(hardware, steps), "flop_efficiency": share}


def attention_values(hardware: Hardware, dtype: str, steps: EngineSteps) -> dict[str, float]:
    """Return the values of the fused attention on a device whose power limit has settled."""
    rate = tensor_rate(hardware, dtype)
    half = tensor_rate(hardware, "fp16") if hardware.rate("fp16") else rate
    own = {
        "t0_s": launch_s(hardware, steps), "bandwidth_efficiency": steps.gemm["bandwidth_efficiency"],
        "flop_efficiency": steps.attention["flop_efficiency"] * sustained(hardware, dtype, steps)
        * rate / Board(hardware).rate(dtype),
        "softmax_columns": steps.attention["softmax_columns"], "softmax_rate_ratio": rate / half,
        "rows": 128.0 if hardware.architecture in SMALL_TILES else 512.0,
    }  # fmt: skip
    return {**ATTENTION.typical, **own}


def streams(hardware: Hardware, dtype: str, steps: EngineSteps) -> dict[tuple[str, str], Efficiency]:
    """Return the efficiencies of norms, element-wise work and look-ups; eight-bit engines pass eight bits on."""
    narrow = DTYPE_BYTES[dtype] / DTYPE_BYTES["fp16"] if dtype in {"int8", "fp8"} else 1.0
    found: dict[tuple[str, str], Efficiency] = {}
    stored: tuple[Dtype, ...] = ("fp16", "bf16", "fp32", "int8", "fp8", "tf32")
    for operation in ("streaming.norm", "streaming.add", "streaming.activation", "streaming.copy", "gather"):
        share = steps.stream_share / (narrow if operation != "gather" else 1.0)
        for each in stored:
            found[operation, each] = Efficiency(
                operation=operation, dtype=each, t0=launch_s(hardware, steps), flop_efficiency=1,
                bandwidth_efficiency=share, log_sigma=steps.log_sigma, median_error=steps.median_error, rows=0,
            )  # fmt: skip
    return found
