"""NVIDIA's management library: started and ended in one place, asked without fear of what a card does not support.

Functions take `nvml`, the module to ask: pynvml unless a test hands over a recording that answers like it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from capacity.errors import CapacityError

SM_CLOCK, MEMORY_CLOCK = 1, 2
"""NVML_CLOCK_SM and NVML_CLOCK_MEM."""
CLOCK_REASONS = {
    0x01: "nothing to do", 0x02: "the clocks that were set", 0x04: "the power cap", 0x08: "a hardware slowdown",
    0x10: "the clocks of other GPUs (sync boost)", 0x20: "a software thermal slowdown",
    0x40: "a hardware thermal slowdown", 0x80: "the power brake", 0x100: "the display's clocks",
}  # fmt: skip
"""Bits of nvmlDeviceGetCurrentClocksEventReasons → what holds the clock down."""
SLOWDOWNS = 0x08 | 0x20 | 0x40 | 0x80
"""Those that are no part of normal work: heat, and a power supply that asks for less. The power cap is."""


class NvmlUnavailableError(CapacityError):
    """NVML cannot be used here; says why."""


def library(nvml: Any = None) -> Any:  # noqa: ANN401  (pynvml ships no types)
    """Return the module to ask: `nvml` itself, or pynvml.

    Raises
    ------
    NvmlUnavailableError
        When pynvml is not installed.
    """
    if nvml is not None:
        return nvml
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        raise NvmlUnavailableError("pynvml is not installed: pip install nvidia-ml-py") from None


@contextmanager
def session(nvml: Any = None) -> Iterator[Any]:  # noqa: ANN401
    """Start NVML, give the module to ask, and end NVML again.

    Raises
    ------
    NvmlUnavailableError
        When there is no pynvml, no driver or no permission.
    """
    api = library(nvml)
    try:
        api.nvmlInit()
    except api.NVMLError as error:
        raise NvmlUnavailableError(f"NVML does not start: {error}") from None
    try:
        yield api
    finally:
        with suppress(api.NVMLError):
            api.nvmlShutdown()


def asked(api: Any, function: str, *arguments: object) -> Any:  # noqa: ANN401
    """Return what an NVML function answers, or None when this card, driver or pynvml does not support it."""
    try:
        return getattr(api, function)(*arguments)
    except (AttributeError, api.NVMLError):
        return None


def clock_reasons(api: Any, handle: Any) -> int:  # noqa: ANN401
    """Return what holds the clock down at this moment, in bits of `CLOCK_REASONS`; 0 where the card does not say."""
    for function in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        bits = asked(api, function, handle)
        if bits is not None:
            return int(bits)
    return 0


def handle_of(api: Any, index: int) -> Any:  # noqa: ANN401
    """Return NVML's handle of the GPU with that number.

    Raises
    ------
    NvmlUnavailableError
        When there is no such GPU, or it is lost.
    """
    try:
        return api.nvmlDeviceGetHandleByIndex(index)
    except api.NVMLError as error:
        raise NvmlUnavailableError(f"NVML has no GPU {index}: {error}") from None


def gpu_name(api: Any, handle: Any) -> str:  # noqa: ANN401
    """Return the product name, e.g. `NVIDIA A100-SXM4-80GB`; older pynvml answers with bytes."""
    name = asked(api, "nvmlDeviceGetName", handle)
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "unknown NVIDIA GPU")


def driver_version(api: Any) -> str | None:  # noqa: ANN401
    """Return the driver's version, or None."""
    version = asked(api, "nvmlSystemGetDriverVersion")
    return version.decode(errors="replace") if isinstance(version, bytes) else version


def gpu_count(api: Any) -> int:  # noqa: ANN401
    """Return how many GPUs NVML sees."""
    return int(asked(api, "nvmlDeviceGetCount") or 0)


def nvml_index(cuda_index: int, api: Any, environment: Mapping[str, str] | None = None) -> int:  # noqa: ANN401
    """Return NVML's number of the GPU that CUDA calls `cuda:<cuda_index>`.

    CUDA_VISIBLE_DEVICES hides and reorders GPUs for CUDA, not for NVML; it lists numbers or the starts of UUIDs.

    Raises
    ------
    NvmlUnavailableError
        When CUDA sees no such GPU, or it is a slice (MIG) whose power NVML does not tell apart.
    """
    visible = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return cuda_index
    entries = [entry.strip() for entry in visible.split(",") if entry.strip()]
    if not 0 <= cuda_index < len(entries):
        raise NvmlUnavailableError(f"CUDA_VISIBLE_DEVICES={visible} leaves no device cuda:{cuda_index}")
    entry = entries[cuda_index]
    if entry.isdigit():
        return int(entry)
    for index in range(gpu_count(api)):
        uuid = asked(api, "nvmlDeviceGetUUID", handle_of(api, index)) or ""
        uuid = uuid.decode(errors="replace") if isinstance(uuid, bytes) else uuid
        if entry.startswith("GPU-") and uuid.startswith(entry):
            return index
    raise NvmlUnavailableError(f"CUDA_VISIBLE_DEVICES names {entry}, which NVML does not know as a whole GPU")
