"""Engines: the software that runs a model, and the dtypes that those on the processor multiply matrices in."""

from __future__ import annotations

from typing import Literal

from capacity.spec.hardware import Dtype

Engine = Literal["eager", "fused", "onnxruntime", "openvino"]
"""eager: PyTorch modules one by one; fused: as TensorRT-like and compiled engines do; the last two on CPUs only."""
PROCESSOR_ENGINES: dict[str, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""Engines that run on processors only → the name people know them by."""
MATRIX_DTYPES: dict[str, tuple[Dtype, ...]] = {"onnxruntime": ("fp32", "int8"), "openvino": ("fp32", "bf16")}
"""Engine → dtypes of its products.

ONNX Runtime's CPU provider has fp32, and int8 by dynamic quantization; the few bf16 and fp16 kernels of it are no match
for fp32. OpenVINO's CPU plugin has fp32, and bf16 as an inference precision; int8 needs a model that NNCF quantized,
which this product cannot make.
"""


def refused(engine: str, dtype: str | None, kind: str = "cpu") -> str:
    """Return why an engine does not run on a kind of device or in a dtype, or nothing when it does.

    Parameters
    ----------
    dtype
        Of a matrix product; None for any other work.
    kind
        Kind of device: cpu, gpu or accelerator.

    Examples
    --------
    >>> refused("onnxruntime", "bf16")
    'ONNX Runtime on a processor multiplies matrices in fp32 and int8, not in bf16'
    >>> refused("openvino", "fp32", "gpu")
    'OpenVINO is planned for processors only'
    >>> refused("openvino", "bf16") or refused("eager", "fp64")
    ''
    """
    name, known = PROCESSOR_ENGINES.get(engine), MATRIX_DTYPES.get(engine, ())
    if name is None:
        return ""
    if kind != "cpu":
        return f"{name} is planned for processors only"
    if dtype is None or dtype in known:
        return ""
    return f"{name} on a processor multiplies matrices in {' and '.join(known)}, not in {dtype}"
