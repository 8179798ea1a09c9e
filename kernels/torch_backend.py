"""torch, imported in one place and only when kernels really run: device, dtypes, clock, reference kernel."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from capacity.errors import CapacityError
from kernels.timing import Clock, HostClock, Run


class MissingExtraError(CapacityError):
    """torch is not installed; says how to get it."""


def torch() -> Any:  # noqa: ANN401  (torch ships its own dynamic types)
    """Return the torch module.

    Raises
    ------
    MissingExtraError
        When the extra `calibrate` is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise MissingExtraError(
            "torch is not installed: `make calibrate` installs it, or `pip install 'capacity-planner[calibrate]'`"
        ) from None


class CudaClock:
    """CUDA events: time between two marks in the stream, host work excluded while the queue is full."""

    def __init__(self) -> None:
        self._cuda = torch().cuda

    def time(self, run: Run, inner: int) -> float:
        """Return the device time of all `inner` calls [s]."""
        start, end = self._cuda.Event(enable_timing=True), self._cuda.Event(enable_timing=True)
        self._cuda.synchronize()
        start.record()
        for _ in range(inner):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


@dataclass(frozen=True, slots=True)
class Backend:
    """Where kernels run: `cpu` or `cuda`, with the number of CPU threads."""

    device: str
    threads: int

    @classmethod
    def local(cls, device: str = "auto", threads: int | None = None) -> Backend:
        """Return the backend of this machine; `auto` takes a GPU when there is one."""
        module = torch()
        available = bool(module.cuda.is_available())
        if device == "cuda" and not available:
            raise CapacityError("no CUDA device: torch.cuda.is_available() is false on this machine; use --device cpu")
        if device not in {"auto", "cpu", "cuda"}:
            raise CapacityError(f"unknown device {device!r}; use auto, cpu or cuda")
        chosen = "cuda" if device == "cuda" or (device == "auto" and available) else "cpu"
        if threads is not None:
            module.set_num_threads(threads)
        return cls(chosen, int(module.get_num_threads()))

    def clock(self) -> Clock:
        """Return the clock that sees a kernel's end on this backend."""
        return CudaClock() if self.device == "cuda" else HostClock()

    def dtype(self, name: str) -> Any:  # noqa: ANN401
        """Return torch's dtype object for one of our dtype names."""
        module = torch()
        return {"fp32": module.float32, "bf16": module.bfloat16, "fp16": module.float16, "fp64": module.float64}[name]

    def random(self, *shape: int, dtype: str = "fp32") -> Any:  # noqa: ANN401
        """Return a tensor of small random values on the device."""
        return (torch().randn(*shape, device=self.device) * 0.1).to(self.dtype(dtype))

    def reference(self) -> Run:
        """Return the probe kernel: one square fp32 product, the same in every run."""
        size = 256 if self.device == "cpu" else 2048
        left, right = self.random(size, size), self.random(size, size)
        return lambda: left @ right

    def matrix_dtypes(self) -> tuple[str, ...]:
        """Return the dtypes whose matrix products have units of their own on this machine."""
        if self.device == "cuda":
            return ("fp32", "fp16", "bf16")
        from kernels.machine import cpu_instruction_sets

        flags = cpu_instruction_sets()
        return ("fp32", "bf16") if flags & {"avx512_bf16", "amx_bf16", "bf16"} else ("fp32",)
