"""Which kernel families may run an operation: those a measurement names, or the usual ones of a plan.

The first is the one meant; the others may answer where nobody measured it, nearest first.
"""

from __future__ import annotations

from typing import Any

from capacity.spec import kernel_names
from capacity.spec.hardware import Hardware
from capacity.spec.names import Engine, Precision
from capacity.timing import attention as attention_form
from capacity.timing import collective as collective_form
from capacity.timing import experts as experts_form
from capacity.work.expert_layer import ExpertLayer
from capacity.work.operations import Attention, Collective, Gemm, Operation

ENGINES = ("trtllm", "vllm", "sglang")
RELATED = {
    "turing": ("ampere", "ada"), "volta": ("ampere", "ada"), "ampere": ("ada", "hopper"), "ada": ("ampere", "hopper"),
    "hopper": ("blackwell", "ampere"), "blackwell": ("hopper", "ada"), "pascal": ("ampere", "ada"),
}  # fmt: skip
"""Chip generation → those whose attention kernels are most like its own."""


def attention(kernel: str, engine: str, phase: Any, hardware: Hardware) -> tuple[str, ...]:  # noqa: ANN401
    """Return the families of an attention call: by engine, then anybody's, then those of related generations."""
    architecture = attention_form.generation(hardware)
    meant = attention_form.kernel_family(kernel, engine, phase, architecture)
    names = [f"{meant}/{engine}", meant]
    for other in (architecture, *RELATED.get(architecture, ("ampere", "hopper"))):
        usual = [attention_form.kernel_family(kernel, engine, phase, other)]
        usual += [attention_form.kernel_family("", each, phase, other) for each in ENGINES]
        names += usual
    return tuple(dict.fromkeys(names))


def experts(kernel: str, engine: Engine, dtype: str, *, block_scaled: bool) -> tuple[str, ...]:
    """Return the families of a fused expert layer: engines rewrite them from version to version."""
    block = "-block" if block_scaled else ""
    meant = experts_form.family(kernel, engine.family, dtype) + block
    others = (f"{name}{block}" for name in ("triton", "cutlass", "trtllm_gen", "marlin"))
    named = (f"{meant}/{engine.family}-{engine.version}",) if engine.version else ()
    return tuple(dict.fromkeys((*named, meant, *others)))


def usual(operation: Operation | ExpertLayer, hardware: Hardware) -> tuple[str, ...]:
    """Return the families that a plan expects, in which no engine is named."""
    if isinstance(operation, Gemm):
        stored: Any = operation.weight_dtype or operation.dtype
        dtype: Any = operation.dtype
        names = kernel_names.gemm("", "", Precision(dtype, stored, dtype))
        return ("simt", *names) if operation.dtype == "fp32" else names
    if isinstance(operation, Attention):
        return attention("", "", operation.phase, hardware)
    if isinstance(operation, Collective):
        return (collective_form.family("", "", "", operation.kind),)
    if isinstance(operation, ExpertLayer):
        return experts("", Engine(""), operation.dtype, block_scaled=False)
    return ()
