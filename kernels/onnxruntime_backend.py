"""ONNX Runtime on the processor: a torch module exported, optimized as far as the runtime goes, and run.

Its CPU provider multiplies in fp32, and in int8 after dynamic quantization: weights to int8 ahead of time, activations
at every call; attention, norms and activations stay in fp32. It has no bf16 or fp16 matrix products worth the name:
the few bf16 kernels convert to fp32 and back, so those dtypes are refused by name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capacity.errors import CapacityError
from capacity.spec.engine import Engine, refused
from kernels.onnx_export import exported, required, silent
from kernels.processor import cpu_instruction_sets
from kernels.timing import Clock, HostClock, Run
from kernels.torch_backend import torch

INT8_UNITS = frozenset({"avx512_vnni", "amx_int8", "i8mm"})
_WARNINGS_OFF = 3
"""Severity of ONNX Runtime's log from which on it speaks: errors only."""


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """ONNX Runtime's CPU provider with a number of threads."""

    threads: int
    name: Engine = "onnxruntime"
    device: str = "cpu"

    def clock(self) -> Clock:
        """Return the clock of the host: a run returns when its results are there."""
        return HostClock()

    def matrix_dtypes(self) -> tuple[str, ...]:
        """Return fp32, and int8 where the processor multiplies it in units of its own."""
        return ("fp32", "int8") if cpu_instruction_sets() & INT8_UNITS else ("fp32",)

    def prepared(self, module: Any, inputs: Sequence[Any], dtype: str) -> Run:  # noqa: ANN401
        """Return what runs a torch module once on `inputs`, its products in `dtype`.

        Raises
        ------
        CapacityError
            For dtypes that the CPU provider has no products of: named, not run as something else.
        """
        if refused(self.name, dtype):
            raise CapacityError(refused(self.name, dtype))
        runtime = required("onnxruntime", "onnxruntime")
        model = exported(module, inputs)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = _WARNINGS_OFF
        # threads that wait for the next call by spinning would slow down the case that is timed next
        options.add_session_config_entry("session.force_spinning_stop", "1")
        graph = _quantized(model) if dtype == "int8" else model
        session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        feed = {f"input_{index}": value.numpy() for index, value in enumerate(inputs)}
        return lambda: session.run(None, feed)

    def reference(self) -> Run:
        """Return the probe kernel: one square fp32 product, the same in every run."""
        return self.prepared(torch().nn.Linear(256, 256).eval(), [torch().randn(256, 256)], "fp32")


def _quantized(model: bytes) -> bytes:
    """Return the model with the weights of its products in int8, its activations quantized at every call."""
    quantization = required("onnxruntime.quantization", "onnxruntime")
    onnx = required("onnx", "onnxruntime")
    with tempfile.TemporaryDirectory() as folder, silent():
        path = Path(folder) / "int8.onnx"
        quantization.quantize_dynamic(
            onnx.load_from_string(model),
            path,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
        )
        return path.read_bytes()
