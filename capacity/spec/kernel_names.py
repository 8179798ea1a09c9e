"""From an engine's raw kernel names to kernel families: the kernels whose fitted parameters carry over to one another.

A name nobody has met still gets a family, the usual one of its engine and dtype: an engine that renames a kernel has
rarely rewritten it. The same shape differs 1.26× between families in the median, 2.3× at P90.
"""

from __future__ import annotations

import re

from capacity.spec.names import Precision

USUAL_GEMM = {"vllm": "cutlass", "sglang": "sgl", "trtllm": "trtllm", "tensorrt": "trtllm"}
"""Engine → whose quantized products it runs when the kernel's name says nothing."""
GEMM_FAMILIES = {
    family: re.compile(pattern, re.IGNORECASE)
    for family, pattern in {
        "deepgemm": r"deep_?gemm",
        "cutedsl": r"cutedsl",
        "flashinfer": r"flashinfer",
        "triton": r"triton",
        "marlin": r"marlin",
        "cutlass": r"cutlass",
        "sgl": r"sgl_kernel|^sglang$",
        "smooth-quant": r"smooth_?quant",
        "weight-only": r"weight_?only",
        "trtllm": r"torch_flow|trt_flow",
    }.items()
}
"""First match wins: what the kernel is made of stands before who calls it."""
STAND_INS = ("cutlass", "trtllm", "sgl", "deepgemm", "triton", "cutedsl", "smooth-quant", "weight-only")
"""Families that may answer for one nobody measured at that dtype, likeliest first."""


LIBRARY_DTYPES = {"fp64", "fp32", "tf32", "fp16", "bf16"}


def gemm(kernel: str, engine: str, precision: Precision) -> tuple[str, ...]:
    """Return the families of a matrix product: the one meant first, then what may stand in for it.

    16- and 32-bit products are the vendor's library (cuBLAS, oneDNN) whoever calls it. Engines bring versions of their
    own and count different work, such as quantizing the activations: the engine's fit, "family/engine", comes before
    everybody's. Block-scaled products are families of their own: every 128
    columns of k are rescaled.

    Parameters
    ----------
    kernel
        Name as the engine reports it; may be empty.
    engine
        Engine family, see `names.engine`.

    Examples
    --------
    >>> from capacity.spec.names import dtype
    >>> gemm("torch_flow", "trtllm", dtype("bf16")), gemm("torch_flow", "trtllm", dtype("fp8_block"))[:2]
    (('library/trtllm', 'library'), ('trtllm-block/trtllm', 'trtllm-block'))
    >>> gemm("BrandNewLinearKernel", "vllm", dtype("fp8"))[:3]
    ('cutlass/vllm', 'cutlass', 'trtllm')
    """
    if precision.compute in LIBRARY_DTYPES and precision.weight == precision.compute:
        return (f"library/{engine}", "library")
    block = "-block" if precision.block_scaled else ""
    named = (family for family, pattern in GEMM_FAMILIES.items() if pattern.search(kernel))
    meant = next(named, USUAL_GEMM.get(engine, "cutlass"))
    others = (family + block for family in STAND_INS)
    return tuple(dict.fromkeys((f"{meant}{block}/{engine}", meant + block, *others)))
