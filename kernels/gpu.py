"""The NVIDIA GPU in this machine: its profile, and kernels run on it as a calibration needs them.

The profile is the shipped datasheet where the card's name is known, else the card's own facts. Kernels are replayed as
CUDA graphs, so that the device is timed and not the host that launches them, and on so many sets of operands that the
cache has forgotten each before it returns: what `Gemm.weight_copies = inf` means, and what a model of many layers sees.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from capacity import catalogue
from capacity.errors import UnknownNameError
from capacity.spec.hardware import Hardware
from capacity.spec.names import hardware_id
from capacity.work.operations import Operation
from kernels.nvml import (
    MEMORY_CLOCK,
    SM_CLOCK,
    NvmlUnavailableError,
    asked,
    driver_version,
    gpu_name,
    handle_of,
    nvml_index,
    session,
)
from kernels.timing import Case, Run
from kernels.torch_backend import torch

SHIPPED = {
    "v100-sxm2-32gb": "v100-sxm-32gb",
    "v100-sxm2-16gb": "v100-sxm-32gb",  # the same chip and rates; the memory is the card's own
    "a100-80gb-pcie": "a100-pcie-80gb",
    "a100-sxm4-40gb": "a100-sxm-40gb",
    "a100-sxm4-80gb": "a100-sxm-80gb",
    "h100-pcie": "h100-pcie-80gb",
    "h100-80gb-hbm3": "h100-sxm-80gb",
    "h100-nvl": "h100-nvl-94gb",
    "h200": "h200-sxm-141gb",
    "h200-nvl": "h200-nvl-141gb",
    "gh200-480gb": "gh200-96gb",  # 480 GB is the memory of the Grace beside it
    "gh200-144g-hbm3e": "gh200-144gb",
    "b200": "b200-sxm",
    "b300-sxm6-ac": "b300-sxm",
    "rtx-6000-ada-generation": "rtx-6000-ada",
    "rtx-pro-6000-blackwell-server-edition": "rtx-pro-6000-server",
}
"""NVML's product name, plain → profile id, where they differ. Exact: a laptop's RTX 4090 is another chip."""
_ARCHITECTURES = {4: "pascal", 5: "volta", 6: "turing", 7: "ampere", 8: "ada", 9: "hopper", 10: "blackwell"}
_CORES_PER_SM = {(6, 0): 64, (7, 0): 64, (7, 5): 64, (8, 0): 64, (6, 1): 128, (8, 6): 128, (8, 9): 128, (9, 0): 128}
_CORES_PER_SM |= {(10, 0): 128, (10, 3): 128, (12, 0): 128}
"""CUDA cores of one SM by compute capability (CUDA C++ Programming Guide, arithmetic throughput, 32-bit)."""
_PCIE_LANE = {1: 0.25e9, 2: 0.5e9, 3: 8e9 / 8 * 128 / 130, 4: 16e9 / 8 * 128 / 130, 5: 32e9 / 8 * 128 / 130}
_PCIE_LANE |= {6: 64e9 / 8 * 242 / 256}
"""Bytes per second and direction of one lane by PCIe generation, after encoding [byte/s]."""
LARGEST_CACHE_BYTES = 128e6
"""Taken for the L2 cache where torch does not tell it: as large as any so far (B200: 126 MB)."""
LEAST_LAUNCHES, MOST_LAUNCHES = 64, 2048
"""Launches in one graph: enough to spread what starting it costs; few enough to be captured in a moment."""
BURST_S = 4e-3
"""A graph of longer launches holds fewer: no more than compute for so long."""


def plain_name(name: str) -> str:
    """Return an NVML product name without its brand, as the key of `SHIPPED`.

    Examples
    --------
    >>> plain_name("NVIDIA A100-SXM4-80GB"), plain_name("Tesla T4"), plain_name("NVIDIA GeForce RTX 4090")
    ('a100-sxm4-80gb', 't4', 'rtx-4090')
    """
    bare = re.sub(r"\b(nvidia|tesla|geforce)\b", " ", name.casefold())
    return re.sub(r"[^a-z0-9]+", "-", bare).strip("-") or "nvidia-gpu"


def hardware_id_of(name: str) -> str | None:
    """Return the id of the profile in the catalogue that an NVML product name means, or None."""
    plain = plain_name(name)
    try:
        return hardware_id(SHIPPED.get(plain, plain))
    except UnknownNameError:
        return None


def detect_gpu(index: int = 0, nvml: Any = None) -> Hardware:  # noqa: ANN401
    """Return the profile of one GPU of this machine.

    A recognized name brings the shipped profile's rates, bandwidth and clock; memory, power limit, SMs and PCIe link
    are the card's own. An unknown name, or a card cut into slices (MIG), has only what NVML tells: no rates.

    Parameters
    ----------
    index
        NVML's number of the GPU.
    nvml
        The module to ask; pynvml when absent.

    Raises
    ------
    NvmlUnavailableError
        When NVML does not run or has no such GPU.
    """
    with session(nvml) as api:
        handle = handle_of(api, index)
        name = gpu_name(api, handle)
        sliced = (asked(api, "nvmlDeviceGetMigMode", handle) or [0])[0] == 1
        facts = _facts(api, handle)
        clocks = _clocks(api, handle)
        architecture = _ARCHITECTURES.get(asked(api, "nvmlDeviceGetArchitecture", handle))
        driver = driver_version(api) or "unknown"
    source = {"citation": f"read from NVML on this machine, driver {driver}", "date": datetime.date.today().isoformat()}
    shipped = None if sliced else hardware_id_of(name)
    if shipped:
        return _merged(catalogue.hardware(shipped), facts, clocks, source)
    known = {
        "id": f"local-{plain_name(name)}"[:70] + ("-mig" if sliced else ""),
        "name": name + (", in slices (MIG)" if sliced else ""),
        "architecture": architecture,
        "sources": {"detected": source},
    }
    return Hardware.model_validate(known | {"vendor": "NVIDIA", "kind": "gpu"} | facts | clocks)


def _merged(profile: Hardware, facts: dict[str, Any], clocks: dict[str, Any], source: dict[str, str]) -> Hardware:
    """Put a card's own facts over a shipped profile, whose clock stays: it is the one the dense rates are quoted at."""
    data = profile.model_dump() | facts
    data["sources"] |= {"detected": source}
    if profile.clock is None:
        data |= {key: clocks[key] for key in ("clock",) if key in clocks}
    elif "clock" in clocks:
        highest = f"NVML allows {clocks['clock']['value'] / 1e9:.4g} GHz"
        data["clock"]["note"] = "; ".join(part for part in (profile.clock.note, highest) if part)
    if profile.memory_bandwidth is None and "memory_bandwidth" in clocks:
        data["memory_bandwidth"] = clocks["memory_bandwidth"]
    return Hardware.model_validate(data)


def _facts(api: Any, handle: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what a card says about itself whatever its name: memory, power limit, SMs, PCIe link."""
    facts: dict[str, Any] = {}
    memory = asked(api, "nvmlDeviceGetMemoryInfo", handle)
    if memory is not None:
        facts["memory"] = _fact(float(memory.total), "total of nvmlDeviceGetMemoryInfo")
    for function in ("nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPowerManagementLimit"):
        limit_mw = asked(api, function, handle)
        if limit_mw:
            facts["power"] = _fact(limit_mw / 1e3, "power limit in force, as set on this machine")
            break
    cores = asked(api, "nvmlDeviceGetNumGpuCores", handle)
    capability = asked(api, "nvmlDeviceGetCudaComputeCapability", handle)
    per_sm = _CORES_PER_SM.get(tuple(capability)) if capability else None
    if cores and per_sm:
        facts["cores"] = _fact(cores // per_sm, f"derived: {cores} CUDA cores / {per_sm} an SM")
    generation = asked(api, "nvmlDeviceGetMaxPcieLinkGeneration", handle)
    lanes = asked(api, "nvmlDeviceGetMaxPcieLinkWidth", handle)
    if generation in _PCIE_LANE and lanes:
        note = f"derived: PCIe {generation}.0 x{lanes}, the most that card and slot allow"
        facts["host_bandwidth"] = _fact(_PCIE_LANE[generation] * lanes, note)
    return facts


def _clocks(api: Any, handle: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the highest SM clock, and the memory bandwidth = bus width / 8 × memory clock × 2 (double data rate)."""
    clocks: dict[str, Any] = {}
    sm_mhz = asked(api, "nvmlDeviceGetMaxClockInfo", handle, SM_CLOCK)
    if sm_mhz:
        clocks["clock"] = _fact(sm_mhz * 1e6, "highest SM clock")
    width_bit = asked(api, "nvmlDeviceGetMemoryBusWidth", handle)
    memory_mhz = asked(api, "nvmlDeviceGetMaxClockInfo", handle, MEMORY_CLOCK)
    if width_bit and memory_mhz:
        note = f"derived: {width_bit} bit / 8 × {memory_mhz} MHz × 2"
        clocks["memory_bandwidth"] = _fact(width_bit / 8 * memory_mhz * 1e6 * 2, note)
    return clocks


def _fact(value: float, note: str) -> dict[str, Any]:
    return {"value": value, "source": "detected", "note": note}


# --- kernels on it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Card:
    """What the suite must know of a GPU to choose sizes: its L2 cache, and its dense rates by dtype."""

    cache_bytes: float
    rates_flop_per_s: Mapping[str, float]

    @classmethod
    def local(cls, nvml: Any = None) -> Card:  # noqa: ANN401
        """Return the GPU that torch calls `cuda`; without NVML, or unknown to it, a card of no known rate."""
        properties = torch().cuda.get_device_properties(torch().cuda.current_device())
        rates: dict[str, float] = {}
        with suppress(NvmlUnavailableError):
            with session(nvml) as api:
                index = nvml_index(0, api)
            rates = {dtype: float(fact.value) for dtype, fact in detect_gpu(index, nvml).dense_rates.items()}
        return cls(float(getattr(properties, "L2_cache_size", 0) or LARGEST_CACHE_BYTES), rates)

    def seconds(self, operation: Operation) -> float:
        """Return the least time that an operation computes [s]; by a slow card's rate where it is not known."""
        return float(operation.flop) / self.rates_flop_per_s.get(operation.dtype, 8e12)

    def sets(self, operation: Operation) -> int:
        """Return how many sets of operands make each of them cold: 2 × cache of others' data lies between two uses.

        Examples
        --------
        >>> from capacity.work.operations import Gemm
        >>> card = Card(50e6, {})
        >>> card.sets(Gemm(m=1, n=5000, k=1000, dtype="bf16"))  # 10 MB each: ten others, and itself
        11
        >>> card.sets(Gemm(m=1, n=16384, k=16384, dtype="bf16")), card.sets(Gemm(m=1, n=16, k=16, dtype="bf16"))
        (2, 2048)
        """
        return min(MOST_LAUNCHES, math.ceil(2 * self.cache_bytes / float(operation.moved_bytes)) + 1)


class Replay:
    """Launches of one kernel on one set of operands after the other, as one CUDA graph.

    What cannot be captured is launched one by one, and `note` says why: then its time holds the host's gaps too.

    Parameters
    ----------
    runs
        The kernel on each set of operands.
    launches
        Calls in one replay.
    """

    def __init__(self, runs: Sequence[Run], launches: int) -> None:
        self._runs, self._launches, self.note = runs, launches, ""
        self._go = self._captured()

    def __call__(self) -> object:
        """Run all launches once."""
        return self._go()

    def _launch(self) -> list[object]:
        """Launch everything; results of different sets get memory of their own, as the operands have."""
        results: list[object] = [None] * len(self._runs)
        for number in range(self._launches):
            place = number % len(self._runs)
            results[place] = self._runs[place]()
        return results

    def _captured(self) -> Run:
        """Return the replay of a capture.

        Not by `torch.cuda.graph`: it empties the memory pools each time, and cannot after a capture that broke off
        (pytorch pull request 180395).
        """
        cuda = torch().cuda
        graph, side = cuda.CUDAGraph(), cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for number in range(3):  # libraries choose kernels and take workspace before a capture
                self._runs[number % len(self._runs)]()
            cuda.synchronize()
            try:
                graph.capture_begin()
                try:
                    self._launch()
                finally:
                    graph.capture_end()
                graph.replay()
                cuda.synchronize()
            except RuntimeError as error:
                cause = error.__context__ if isinstance(error.__context__, Exception) else error  # what broke it off
                self.note = f"launched one by one, no CUDA graph: {first_line(cause)}"
        cuda.current_stream().wait_stream(side)
        return self._launch if self.note else graph.replay


def replayed(case: Case, card: Card, sets: int | None = None) -> Case:
    """Return the case of a single operation, replayed as a graph on cold operands.

    Parameters
    ----------
    sets
        Sets of operands; by default so many that each is cold. One keeps it warm, as attention finds what the
        projections before it have just written.
    """
    (operation,) = case.operations
    copies = card.sets(operation) if sets is None else sets
    wanted = min(LEAST_LAUNCHES, BURST_S / max(card.seconds(operation), 1e-9))
    launches = copies * math.ceil(wanted / copies)

    def build() -> Run:
        return Replay([case.build() for _ in range(copies)], launches)

    return dataclasses.replace(case, build=build, calls=launches * case.calls)


def paced(run: Run) -> Run:
    """Return a run that waits for the end of the one before: the queue neither grows without bound nor runs empty."""
    cuda = torch().cuda
    earlier: list[Any] = []

    def go() -> None:
        run()
        mark = cuda.Event()
        mark.record()
        earlier.append(mark)
        if len(earlier) > 1:
            earlier.pop(0).synchronize()

    return go


def first_line(error: Exception) -> str:
    """Return what an error says, without the pages that torch adds to it."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
