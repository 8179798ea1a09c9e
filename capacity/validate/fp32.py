"""Kind fp32_steps: whole forward or training steps of eager PyTorch in fp32, composed of products nobody fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from capacity.errors import UnknownNameError
from capacity.phases import fp32_steps
from capacity.timing.band import Estimate
from capacity.timing.form import Board
from capacity.timing.tables import said
from capacity.validate.kind import Context, Kind, Predicted
from capacity.validate.launches import measured
from capacity.work.fp32_models import MODELS
from capacity.work.operations import Gemm

MODES = ("inf", "train")
TARGETS = ("step_ms", "forward_ms", "backward_ms")
"""Of inference the backward pass takes 0 ms."""


def _predicted(values: Mapping[str, Any], rows: pd.DataFrame, context: Context) -> dict[str, Predicted]:
    model, mode = str(values["model"]), str(values["mode"])
    if mode not in MODES:
        raise UnknownNameError("mode", mode, MODES)
    if model not in MODELS and model != "switchxl4":
        raise UnknownNameError("model", model, (*MODELS, "switchxl4"))
    device = context.device(str(values["hardware"]), "eager")
    kernel, _ = device.kernel(Gemm(m=1, n=1, k=1, dtype="fp32"), ("simt",)) or (None, False)
    constants = context.shared.eager_steps
    if kernel is None or constants is None:
        raise UnknownNameError("calibrated kernels", "simt", ("none; capacity calibrate --kind gemm_fp32 fits them",))
    board = Board(device.hardware)
    shapes, place = np.unique(rows[["sequence_length", "batch"]].to_numpy(dtype=np.int64), axis=0, return_inverse=True)
    steps: dict[str, list[Estimate]] = {target: [] for target in TARGETS}
    for length, batch in shapes:
        workload = fp32_steps.Workload(
            model=model, sequence_length=int(length), batch=int(batch), mode="train" if mode == "train" else "inf",
            option=said(values, "option"),
        )  # fmt: skip
        parts = fp32_steps.parts_s(workload, board, kernel.values, constants)
        for target, seconds in zip(TARGETS, parts, strict=True):
            errors = {"eager fp32 step": constants.log_sigma, **kernel.errors}
            steps[target].append(Estimate(1e3 * seconds, errors, kernel.basis))
    return {target: Predicted.each(each, place.reshape(-1)) for target, each in steps.items()}


KINDS: dict[str, Kind] = {
    "fp32_steps": Kind(
        group_by=("model", "hardware", "mode"), sizes=("sequence_length", "batch"), optional_names=("option",),
        targets=TARGETS, measured=measured, predict=_predicted,
    ),
}  # fmt: skip
