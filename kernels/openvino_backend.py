"""OpenVINO on the processor: a torch module exported to ONNX, compiled by the CPU plugin for latency, and run.

The plugin multiplies in fp32, and in bf16 by `INFERENCE_PRECISION_HINT` where the processor has units for it. Its int8
needs a model with quantization nodes, which NNCF makes from calibration data; a dynamically quantized ONNX model runs
no faster than fp32 in it (measured, docs/explanation/engines.md), so int8 is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capacity.errors import CapacityError
from capacity.spec.engine import Engine, refused
from kernels.onnx_export import exported, required
from kernels.processor import cpu_instruction_sets
from kernels.timing import Clock, HostClock, Run
from kernels.torch_backend import torch

BF16_UNITS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_HINTS = {"fp32": "f32", "bf16": "bf16"}


@dataclass(frozen=True, slots=True)
class OpenVino:
    """OpenVINO's CPU plugin with a number of threads and one stream."""

    threads: int
    name: Engine = "openvino"
    device: str = "cpu"

    def clock(self) -> Clock:
        """Return the clock of the host: a request returns when its results are there."""
        return HostClock()

    def matrix_dtypes(self) -> tuple[str, ...]:
        """Return fp32, and bf16 where the processor multiplies it in units of its own."""
        return ("fp32", "bf16") if cpu_instruction_sets() & BF16_UNITS else ("fp32",)

    def prepared(self, module: Any, inputs: Sequence[Any], dtype: str) -> Run:  # noqa: ANN401
        """Return what runs a torch module once on `inputs`, in `dtype` wherever the plugin can.

        Raises
        ------
        CapacityError
            For dtypes that this backend does not run: named, not run as something else.
        """
        if refused(self.name, dtype):
            raise CapacityError(refused(self.name, dtype))
        openvino = required("openvino", "openvino")
        core = openvino.Core()
        model = core.read_model(exported(module, inputs))
        if dtype == "bf16" and all(value.is_floating_point() for value in inputs):
            model, inputs = _taken_in_bf16(model, inputs)
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[dtype], "INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }  # fmt: skip
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        for index, value in enumerate(inputs):
            request.set_input_tensor(index, _tensor(value))
        return lambda: request.infer(share_outputs=True)

    def reference(self) -> Run:
        """Return the probe kernel: one square fp32 product, the same in every run."""
        return self.prepared(torch().nn.Linear(256, 256).eval(), [torch().randn(256, 256)], "fp32")


def _taken_in_bf16(model: Any, inputs: Sequence[Any]) -> tuple[Any, list[Any]]:  # noqa: ANN401
    """Return a single operation that takes and gives bf16, as it does inside a model, and its inputs in bf16.

    With fp32 at its edges an addition would spend two thirds of its time on conversions that no model has.
    """
    openvino = required("openvino", "openvino")
    edges = required("openvino.preprocess", "openvino").PrePostProcessor(model)
    for index in range(len(model.inputs)):
        edges.input(index).tensor().set_element_type(openvino.Type.bf16)
    for index in range(len(model.outputs)):
        edges.output(index).tensor().set_element_type(openvino.Type.bf16)
    return edges.build(), [value.to(torch().bfloat16) for value in inputs]


def _tensor(value: Any) -> Any:  # noqa: ANN401
    """Return a copy of a torch tensor as OpenVINO's own; numpy has no bf16, so its bits are copied."""
    openvino = required("openvino", "openvino")
    if value.dtype != torch().bfloat16:
        return openvino.Tensor(value.numpy())
    tensor = openvino.Tensor(openvino.Type.bf16, list(value.shape))
    tensor.data.view("uint16")[...] = value.view(torch().int16).numpy().view("uint16")
    return tensor
