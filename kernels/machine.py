"""The machine as a hardware profile and as a fingerprint: what was detected, what was measured, what was derived."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from capacity import catalogue
from capacity.spec.calibration import Machine
from capacity.spec.hardware import Hardware, Source
from kernels.gpu import detect_gpu
from kernels.nvml import NvmlUnavailableError, driver_version, gpu_count, gpu_name, handle_of, session
from kernels.processor import (
    Processor,
    Root,
    boost_clock_hz,
    caches_bytes,
    cpu_clock,
    cpu_clock_hz,
    cpu_cores,
    cpu_instruction_sets,
    cpu_quota,
    flop_per_cycle,
    memory_bytes,
    processor,
)

__all__ = [
    "boost_clock_hz",
    "caches_bytes",
    "cpu_clock",
    "cpu_clock_hz",
    "cpu_cores",
    "cpu_instruction_sets",
    "cpu_quota",
    "detect",
    "detect_cpu",
    "detect_gpu",
    "fingerprint",
    "measured_bandwidth",
    "memory_bytes",
]

SOFTWARE = ("torch", "transformers", "numpy", "onnxruntime", "openvino")
_CLOUD_CPUS = {
    ("Neoverse V1", "Amazon EC2"): "graviton3",
    ("Neoverse V2", "Amazon EC2"): "graviton4",
    ("Neoverse V2", "NVIDIA"): "grace",
}
"""Arm core and system vendor → shipped profile, for machines whose kernel does not tell the clock."""


def detect(root: Root = "/", *, measure: bool = True, nvml: Any = None) -> list[Hardware]:  # noqa: ANN401
    """Return the profiles of this machine: its processor first, then every GPU that NVML sees."""
    try:
        with session(nvml) as api:
            count = gpu_count(api)
    except NvmlUnavailableError:
        count = 0
    return [detect_cpu(root, measure=measure), *(detect_gpu(index, nvml) for index in range(count))]


def detect_cpu(root: Root = "/", *, measure: bool = True) -> Hardware:
    """Return the profile of the processor as far as this process may use it.

    Dense rates are cores × base clock × FLOP per cycle of the widest units; a processor that boosts above its base
    clock reaches efficiencies above 1. Facts that cannot be read are absent.

    Parameters
    ----------
    root
        Folder that stands for `/`.
    measure
        Whether to time memory copies for about a second; never when `root` is not this machine's.
    """
    cpu, cores = processor(root), cpu_cores(root)
    sources = {
        "detected": _source("read from /proc/cpuinfo, /sys/devices/system/cpu and cgroup limits on this machine")
    }
    facts = _read_facts(root, cores)
    clock = _clock(cpu, root, sources)
    if clock:
        facts |= {"clock": clock, "dense_rates": _rates(cpu, cores, clock["value"])}
        sources["derived"] = _source("cores × clock × FLOP per cycle of the instruction sets (kernels/processor.py)")
    if measure and Path(root) == Path("/"):
        note = (
            f"best of several numpy.copyto of arrays beyond the caches, {cores} threads; read and written bytes count"
        )
        facts["memory_bandwidth"] = _fact(measured_bandwidth(cores), "measured", note)
        sources["measured"] = _source("timed on this machine (kernels/machine.py)")
    known = {
        "id": f"local-{_slug(cpu.name)}-{cores}c",
        "name": f"{cpu.name}, {_counted(cores)} of this machine",
        "vendor": cpu.vendor,
        "architecture": cpu.architecture,
        "instruction_sets": sorted(cpu.instruction_sets),
    }
    return Hardware.model_validate(known | {"kind": "cpu", "sources": sources} | facts)


def _source(citation: str) -> Source:
    return Source(citation=citation, date=datetime.date.today().isoformat())


def _counted(cores: int) -> str:
    return f"{cores} core" if cores == 1 else f"{cores} cores"


def _read_facts(root: Root, cores: int) -> dict[str, Any]:
    quota = cpu_quota(root)
    limited = "" if quota == float("inf") else f"; the cgroup grants the time of {quota:g} processors"
    facts = {"cores": _fact(cores, "detected", f"physical cores that this process may use{limited}")}
    memory, caches = memory_bytes(root), caches_bytes(root)
    if memory:
        facts["memory"] = _fact(memory, "detected", "MemTotal, or the cgroup's limit when that is smaller")
    if caches:
        shown = ", ".join(f"{level} {size / 2**10:g} KiB" for level, size in caches.items())
        facts["last_level_cache"] = _fact(caches[max(caches)], "detected", f"all that the usable cores share: {shown}")
    return facts


def _clock(cpu: Processor, root: Root, sources: dict[str, Source]) -> dict[str, Any] | None:
    """Return the clock as a fact; for a cloud's Arm processor, whose kernel does not tell it, the shipped one."""
    clock, boost = cpu_clock(root), boost_clock_hz(root)
    if clock:
        value_hz, how = clock
        above = f"; boosts to {boost / 1e9:.4g} GHz" if boost and boost > 1.01 * value_hz else ""
        return _fact(value_hz, "detected", how + above)
    shipped = _CLOUD_CPUS.get((cpu.name, _system_vendor(root)))
    profile = catalogue.hardware(shipped) if shipped else None
    if profile is None or profile.clock is None:
        return None
    sources["datasheet"] = profile.sources[profile.clock.source]
    return _fact(profile.clock.value, "datasheet", f"not readable here; that of the shipped profile {shipped}")


def _system_vendor(root: Root) -> str:
    try:
        return Path(root, "sys/class/dmi/id/sys_vendor").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _rates(cpu: Processor, cores: int, clock_hz: float) -> dict[str, Any]:
    """Return dtype → dense rate as a fact: cores × clock × FLOP per cycle."""
    rates = {}
    for dtype, (flop, units) in flop_per_cycle(cpu).items():
        note = f"{cores} × {clock_hz / 1e9:.4g} GHz × {flop:g} FLOP per cycle ({units})"
        rates[dtype] = _fact(cores * clock_hz * flop, "derived", note)
    return rates


def _fact(value: float, source: str, note: str) -> dict[str, Any]:
    return {"value": value, "source": source, "note": note}


def _slug(name: str) -> str:
    """Return a name as part of an id.

    Examples
    --------
    >>> _slug("Intel Xeon Platinum 8480+")
    'intel-xeon-platinum-8480+'
    """
    return re.sub(r"[^a-z0-9+]+", "-", name.lower()).strip("-")[:60] or "cpu"


def measured_bandwidth(threads: int, budget_s: float = 1.0) -> float:
    """Return the memory bandwidth that `threads` copying threads reach together [byte/s], the best of several rounds.

    The copy of McCalpin's STREAM: arrays of at least four times the last-level cache, as far as an eighth of the memory
    holds them; bytes read and bytes written count, the cache's own fetches of written lines do not.

    Parameters
    ----------
    threads
        Threads, each with arrays of its own; numpy copies without the interpreter's lock.
    budget_s
        Time to spend [s]; at least three rounds are timed.
    """
    caches = caches_bytes()
    wanted = 4 * caches[max(caches)] if caches else 256e6
    allowed = (memory_bytes() or 4e9) / 16
    items = int(max(1e6, min(wanted, allowed)) / threads / 8)
    with ThreadPoolExecutor(threads) as pool:
        source = list(pool.map(lambda value: np.full(items, float(value)), range(threads)))
        target = list(pool.map(np.zeros_like, source))
        best_s, rounds, started = float("inf"), 0, time.perf_counter()
        while rounds < 3 or time.perf_counter() - started < budget_s:
            before = time.perf_counter()
            list(pool.map(np.copyto, target, source))
            best_s, rounds = min(best_s, time.perf_counter() - before), rounds + 1
    return 2 * 8 * items * threads / best_s


def fingerprint(threads: int | None = None, root: Root = "/", nvml: Any = None) -> Machine:  # noqa: ANN401
    """Return what a measurement must carry to be compared: name, system, software, driver and threads."""
    names, driver = [f"{processor(root).name}, {_counted(cpu_cores(root))}"], None
    with suppress(NvmlUnavailableError), session(nvml) as api:
        driver = driver_version(api)
        names += [gpu_name(api, handle_of(api, index)) for index in range(gpu_count(api))]
    software = {"python": platform.python_version()}
    for package in SOFTWARE:
        try:
            software[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    name, system = " + ".join(names), platform.platform()
    return Machine(name=name, system=system, software=software, threads=threads, driver=driver)
