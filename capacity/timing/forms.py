"""Every form by name: what calibrations refer to."""

from __future__ import annotations

from typing import cast

from capacity.errors import UnknownNameError
from capacity.timing import attention, collective, experts
from capacity.timing.form import Form
from capacity.timing.gemm import GEMM, GEMM_QUANTIZED
from capacity.timing.gemm_fp32 import GEMM_FP32

PLAIN: dict[str, Form] = {form.name: form for form in (GEMM, GEMM_QUANTIZED, GEMM_FP32)}
OF_FAMILY = ("attention.encoder", "attention.prefill", "attention.decode", "experts", "collective")
"""Forms whose equation depends on the kernel family: how it cuts its work, which protocols it has."""


def named(name: str, family: str = "") -> Form:
    """Return a form by its name and the kernel family it is for.

    Raises
    ------
    UnknownNameError
        For a form this version does not have.
    """
    if name in PLAIN:
        return PLAIN[name]
    if name not in OF_FAMILY:
        raise UnknownNameError("form", name, (*PLAIN, *OF_FAMILY))
    if name == "collective":
        return collective.form(family)
    if name == "experts":
        return experts.form(family)
    return attention.form(cast(attention.Phase, name.removeprefix("attention.")), family)


def form_of(operation: str, family: str) -> str:
    """Return the name of the form that a class of operations has in a kernel family.

    Examples
    --------
    >>> form_of("gemm", "library"), form_of("gemm", "cutlass/vllm"), form_of("collective.send", "nccl")
    ('gemm', 'gemm_quantized', 'collective')
    """
    if operation == "gemm":
        if family == "simt":
            return "gemm_fp32"
        return "gemm" if family.startswith("library") else "gemm_quantized"
    return operation.split(".", maxsplit=1)[0] if operation.startswith("collective") else operation
