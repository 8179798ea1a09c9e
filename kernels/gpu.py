"""Profile of the NVIDIA GPU in this machine: the shipped datasheet where its name is known, else its own facts."""

from __future__ import annotations

import datetime
import re
from typing import Any

from capacity import catalogue
from capacity.errors import UnknownNameError
from capacity.spec.hardware import Hardware
from capacity.spec.names import hardware_id
from kernels.nvml import asked, driver_version, gpu_name, handle_of, session

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
_SM, _MEMORY = 1, 2
"""NVML_CLOCK_SM and NVML_CLOCK_MEM."""


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
    sm_mhz = asked(api, "nvmlDeviceGetMaxClockInfo", handle, _SM)
    if sm_mhz:
        clocks["clock"] = _fact(sm_mhz * 1e6, "highest SM clock")
    width_bit = asked(api, "nvmlDeviceGetMemoryBusWidth", handle)
    memory_mhz = asked(api, "nvmlDeviceGetMaxClockInfo", handle, _MEMORY)
    if width_bit and memory_mhz:
        note = f"derived: {width_bit} bit / 8 × {memory_mhz} MHz × 2"
        clocks["memory_bandwidth"] = _fact(width_bit / 8 * memory_mhz * 1e6 * 2, note)
    return clocks


def _fact(value: float, note: str) -> dict[str, Any]:
    return {"value": value, "source": "detected", "note": note}
