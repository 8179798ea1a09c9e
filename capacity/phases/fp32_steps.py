"""Time of a whole eager fp32 step (forward, or forward and backward) from its operations.

Device time is the sum of the products at their sustained pace and of the element-wise kernels at a share of the memory
bandwidth, with a gap between launches; the host needs its own time for each launch, and the slower of the two decides.

Mean error on the NeuSight steps, P4 excepted: 4 % with products fitted on the same card, 8 % with products carried over
from other cards (a roofline: 22 %). The P4, throttled by heat, takes up to twice what is predicted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from capacity.errors import InputError
from capacity.spec.calibration import EagerSteps
from capacity.timing.form import Board, MissingFactError, Values
from capacity.timing.gemm_fp32 import GEMM_FP32
from capacity.work.fp32_models import MODELS, Mode, parameters, passes
from capacity.work.operations import Collective, Gemm, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One measured step: a model of `capacity.work.fp32_models` at a length and batch.

    Attributes
    ----------
    option
        "": one device; "fusion": `torch.compile`; "dp4", "tp4", "pp4_1": that many devices, one micro-batch.
    """

    model: str
    sequence_length: int
    batch: int
    mode: Mode = "inf"
    option: str = ""


def parts_s(workload: Workload, board: Board, values: Values, constants: EagerSteps) -> tuple[float, float, float]:
    """Return the time of one step, of its forward pass and of its backward pass [s].

    Parameters
    ----------
    values
        Parameters of `GEMM_FP32` on this device; its launch time is replaced by the gap between queued kernels.
    """
    kind, devices = _layout(workload.option)
    batch = max(1, workload.batch // devices) if kind == "dp" else workload.batch
    split = devices if kind == "tp" else 1
    forward, backward = (
        composed_s(work, board, values, constants)
        for work in passes(
            workload.model, workload.sequence_length, batch, workload.mode,
            fusion=kind == "fusion", tensor_parallel=split,
        )
    )  # fmt: skip
    exchange_s = _exchange_s(workload, kind, devices, board, constants.link_share)
    return forward + backward + exchange_s, forward, backward


def composed_s(work: Iterable[Operation], board: Board, values: Values, constants: EagerSteps) -> float:
    """Return max(Σ kernels + gaps, launches × host time) [s] of queued operations."""
    queued = {**values, "t0_s": constants.gap, "watt": values["watt"] * constants.draw}
    device_s = launches = 0.0
    for op in work:
        if isinstance(op, Gemm):
            each_s = float(np.sum(GEMM_FP32.seconds(op, board, queued)))
        else:
            each_s = constants.gap + float(op.moved_bytes) / (constants.stream_share * board.bandwidth)
        device_s += each_s * float(op.count)
        launches += float(op.count)
    return max(device_s, launches * constants.host)


def _layout(option: str) -> tuple[str, int]:
    """Return the kind of parallelism and its devices."""
    if option in {"", "fusion"}:
        return option, 1
    kind, number = option[:2], option[2:].partition("_")[0]
    if kind not in {"dp", "tp", "pp"} or not number.isdecimal() or int(number) < 1:
        raise InputError(f"option {option!r} is none of '', fusion, dpN, tpN, ppN_1")
    return kind, int(number)


def _exchange_s(workload: Workload, kind: str, devices: int, board: Board, link_share: float) -> float:
    """Return what the devices wait for each other [s].

    Data parallel: half the all-reduce of the gradients (the other half hides behind the backward pass, assumed). Tensor
    parallel: an all-reduce of the hidden states after each attention and feed-forward part, and of their gradients.
    A pipeline with one micro-batch runs its stages one after the other; what it sends is negligible.
    """
    if devices == 1 or kind == "pp":
        return 0.0
    link = board.hardware.link
    if link is None:
        raise MissingFactError(f"{board.hardware.id} has no link in its profile")
    if kind == "dp":
        messages, message_bytes = 0.5 * (workload.mode == "train"), 4 * parameters(workload.model)
    else:
        layer = MODELS[workload.model]
        messages = 2 * layer.layers * (2 if workload.mode == "train" else 1)
        message_bytes = 4 * workload.batch * workload.sequence_length * layer.layer.hidden
    moved = Collective(kind="all_reduce", message_bytes=message_bytes, devices=devices).moved_bytes
    return float(messages * moved / (link_share * link.value.bandwidth))
