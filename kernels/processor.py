"""What the processor is and how much of it this process may use, read from files.

Every function takes `root`, the folder that stands for `/`, so that a recorded tree reads like the machine itself.
Without `/proc/cpuinfo` (macOS, Windows) the answers come from `sysctl` and psutil, or are unknown: `None` or empty.
"""

from __future__ import annotations

import importlib
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Root = str | Path

INSTRUCTION_SETS = {
    "avx2": "avx2", "avx512f": "avx512", "avx512_bf16": "avx512_bf16", "avx512_vnni": "avx512_vnni",
    "avx512_fp16": "avx512_fp16", "amx_bf16": "amx_bf16", "amx_int8": "amx_int8",
    "sve": "sve", "sve2": "sve2", "bf16": "bf16", "i8mm": "i8mm",
}  # fmt: skip
"""Linux's name of a flag (x86) or feature (Arm) → our name."""
_SYSCTL = {
    "hw.optional.avx2_0": "avx2", "hw.optional.avx512f": "avx512", "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.arm.FEAT_BF16": "bf16", "hw.optional.arm.FEAT_I8MM": "i8mm",
}  # fmt: skip
_VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD", "0x41": "Arm", "0x4e": "NVIDIA", "0xc0": "Ampere"}
_ARM_CORES = {"0xd0c": "Neoverse N1", "0xd40": "Neoverse V1", "0xd49": "Neoverse N2", "0xd4f": "Neoverse V2"}
_INTEL_MODELS = {
    79: "broadwell", 85: "skylake-sp", 106: "ice-lake-sp", 108: "ice-lake-sp", 143: "sapphire-rapids",
    207: "emerald-rapids", 173: "granite-rapids", 174: "granite-rapids",
}  # fmt: skip
_NARROW = {
    "zen4": (32.0, "AVX-512 in two passes of two 256-bit FMA units"),
    "zen": (16.0, "AVX2 in two passes of two 128-bit FMA units"),
    "neoverse-n2": (16.0, "SVE2, two 128-bit FMA units"),
}
"""Architectures whose fp32 units are narrower than their instruction set suggests."""
_AMD_FAMILIES = {23: "zen2", 25: "zen3", 26: "zen5"}


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor's name and what its cores can execute."""

    name: str
    vendor: str
    architecture: str | None
    instruction_sets: frozenset[str]
    arm: bool = False


def processor(root: Root = "/") -> Processor:
    """Return what `/proc/cpuinfo` says about the first processor; families are told by model numbers."""
    info = _cpuinfo(root)
    sets = cpu_instruction_sets(root)
    if "CPU implementer" in info:
        name = _ARM_CORES.get(info.get("CPU part", ""), f"Arm {info.get('CPU part', 'unknown')}")
        known = info.get("CPU part") in _ARM_CORES
        architecture = name.lower().replace(" ", "-") if known else None
        return Processor(name, _VENDORS.get(info["CPU implementer"], "unknown"), architecture, sets, arm=True)
    arm = platform.machine().lower() in {"arm64", "aarch64"} if not info else False
    name = info.get("model name") or _sysctl("machdep.cpu.brand_string") or platform.processor() or "unknown processor"
    vendor = _VENDORS.get(info.get("vendor_id", ""), "Apple" if name.startswith("Apple") else "unknown")
    return Processor(_plain(name), vendor, _architecture(info, sets), sets, arm)


def _plain(name: str) -> str:
    """Return a brand string without trademarks, clock and core count."""
    name = re.sub(r"\((R|TM|r|tm)\)|\bCPU\b|@.*|\b\d+-Core\b|\bProcessor\b", " ", name)
    return " ".join(name.split()) or "unknown processor"


def _architecture(info: dict[str, str], sets: frozenset[str]) -> str | None:
    family, model = (int(_number(info.get(key)) or 0) for key in ("cpu family", "model"))
    if info.get("vendor_id") == "GenuineIntel" and family == 6:
        return "cascade-lake" if model == 85 and "avx512_vnni" in sets else _INTEL_MODELS.get(model)
    if info.get("vendor_id") == "AuthenticAMD":
        if family == 25 and "avx512" in sets:
            return "zen4"
        return "zen" if family == 23 and model < 0x30 else _AMD_FAMILIES.get(family)
    return None


def cpu_instruction_sets(root: Root = "/") -> frozenset[str]:
    """Return the instruction sets that matter for matrix work, in our names; empty where nothing can be read.

    Returns
    -------
    frozenset of str
        A subset of `INSTRUCTION_SETS`' values.
    """
    info = _cpuinfo(root)
    if info:
        words = (info.get("flags") or info.get("Features") or "").split()
        return frozenset(INSTRUCTION_SETS[word] for word in words if word in INSTRUCTION_SETS)
    return frozenset(ours for name, ours in _SYSCTL.items() if _sysctl(name) == "1")


def flop_per_cycle(cpu: Processor) -> dict[str, tuple[float, str]]:
    """Return dtype → (FLOP per cycle and core, which units that counts); a multiply-add is 2.

    Dtypes without units of their own are absent. References: Intel 64 and IA-32 Optimization Reference Manual
    (AMX: one 16 × 16 × 32 bf16 tile product in 16 cycles = 1024 FLOP per cycle, int8 twice that); AMD Zen 4 software
    optimization guide 57647 (512-bit operations take two passes); Arm Neoverse V1, V2, N1 software optimization guides.

    Examples
    --------
    >>> zen5 = Processor("EPYC 9755", "AMD", "zen5", frozenset({"avx2", "avx512", "avx512_bf16"}))
    >>> {dtype: flop for dtype, (flop, _) in flop_per_cycle(zen5).items()}
    {'fp32': 64.0, 'fp64': 32.0, 'bf16': 128.0}
    """
    fp32, units = _fp32_per_cycle(cpu)
    sets = cpu.instruction_sets
    rates = {"fp32": (fp32, units), "fp64": (fp32 / 2, f"half of fp32's {fp32:g}: {units}")}
    if "amx_bf16" in sets:
        rates["bf16"] = 1024.0, "AMX tiles"
    elif "avx512_bf16" in sets:
        rates["bf16"] = 2 * fp32, "AVX-512 BF16 dot products, twice fp32"
    elif cpu.arm and "bf16" in sets:
        rates["bf16"] = 2 * fp32, "BFDOT, twice fp32; BFMMLA may exceed it"
    if "avx512_fp16" in sets:
        rates["fp16"] = 2 * fp32, "AVX-512 FP16, twice fp32"
    if "amx_int8" in sets:
        rates["int8"] = 2048.0, "AMX tiles"
    elif "avx512_vnni" in sets:
        rates["int8"] = 4 * fp32, "AVX-512 VNNI, four times fp32"
    elif cpu.arm and "i8mm" in sets:
        rates["int8"] = 4 * fp32, "SDOT, four times fp32; SMMLA may exceed it"
    return rates


def _fp32_per_cycle(cpu: Processor) -> tuple[float, str]:
    sets = cpu.instruction_sets
    if cpu.architecture in _NARROW:
        return _NARROW[cpu.architecture]
    if "avx512" in sets:
        return 64.0, "two 512-bit FMA units; parts with one of them reach half"
    if "avx2" in sets:
        return 32.0, "two 256-bit FMA units"
    if "sve" in sets:
        return 32.0, "SVE, two 256-bit or four 128-bit FMA units"
    if cpu.arm:
        return 16.0, "two 128-bit FMA units; cores with four reach twice as much"
    return 8.0, "one 128-bit addition and one 128-bit product"


def usable_cpus(root: Root = "/") -> tuple[int, ...]:
    """Return the numbers of the logical processors that this process may run on."""
    if Path(root) == Path("/") and hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    allowed = _field(_text(root, "proc/self/status"), "Cpus_allowed_list")
    if allowed:
        return _listed(allowed)
    count = len(re.findall(r"^processor\s*:", _text(root, "proc/cpuinfo") or "", flags=re.MULTILINE))
    return tuple(range(count or os.cpu_count() or 1))


def cpu_cores(root: Root = "/") -> int:
    """Return the physical cores that this process may use: its affinity and its cgroup's quota respected, at least 1.

    Logical processors that share a core count once. A quota of 1.5 processors is 1 core.
    """
    if not _cpuinfo(root):
        return _psutil_cores()
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {(_text(root, topology.format(cpu)) or str(cpu)).strip() for cpu in usable_cpus(root)}
    return max(1, int(min(len(cores), cpu_quota(root))))


def _psutil_cores() -> int:
    try:
        cores = importlib.import_module("psutil").cpu_count(logical=False)
    except ImportError:
        cores = None
    return int(cores or os.cpu_count() or 1)


def cpu_quota(root: Root = "/") -> float:
    """Return how many processors' time the cgroups grant this process [1]; infinite when they set no quota."""
    quota = math.inf
    for folder in _groups(root, "cpu"):
        words = (_text(folder, "cpu.max") or "").split()
        if not words:
            words = [_text(folder, name) or "" for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        granted, period = (_number(word) for word in [*words, ""][:2])
        if granted and period and granted > 0:
            quota = min(quota, granted / period)
    return quota


def memory_bytes(root: Root = "/") -> float | None:
    """Return the memory that this process may use [byte]: the machine's, or its cgroup's limit when that is smaller."""
    total_kib = _number((_field(_text(root, "proc/meminfo"), "MemTotal") or "").removesuffix("kB"))
    if total_kib is None:
        try:
            return float(importlib.import_module("psutil").virtual_memory().total)
        except ImportError:
            return None
    limits = [_number(_text(folder, "memory.max")) for folder in _groups(root, "memory")]
    limits += [_number(_text(folder, "memory.limit_in_bytes")) for folder in _groups(root, "memory")]
    return min([total_kib * 1024, *(limit for limit in limits if limit)])


def cpu_clock(root: Root = "/") -> tuple[float, str] | None:
    """Return the base clock [Hz] and where it was read; the boost clock only where no base clock can be read.

    In a virtual machine `cpu MHz` is the time stamp counter's rate, which is the base clock.
    """
    info = _cpuinfo(root)
    folder = "sys/devices/system/cpu/cpu0"
    named = re.search(r"@\s*([\d.]+)\s*GHz", info.get("model name", "") or _sysctl("machdep.cpu.brand_string"))
    virtual = "hypervisor" in info.get("flags", "").split()
    counter = _number(info.get("cpu MHz"))
    candidates = [
        (_number(_text(root, f"{folder}/cpufreq/base_frequency")), 1e3, "base clock, cpufreq/base_frequency"),
        (_number(_text(root, f"{folder}/acpi_cppc/nominal_freq")), 1e6, "base clock, acpi_cppc/nominal_freq"),
        (float(named[1]) if named else None, 1e9, "base clock, in the processor's name"),
        (counter if virtual else None, 1e6, "time stamp counter's clock of a virtual machine, cpu MHz"),
        (_number(_text(root, f"{folder}/cpufreq/cpuinfo_max_freq")), 1e3, "highest clock, cpufreq/cpuinfo_max_freq"),
        (counter, 1e6, "clock at the time of reading, cpu MHz"),
    ]
    return next(((value * scale, how) for value, scale, how in candidates if value), None)


def cpu_clock_hz(root: Root = "/") -> float | None:
    """Return the base clock [Hz], or None where none can be read (virtual machines on Arm, Apple silicon)."""
    clock = cpu_clock(root)
    return clock[0] if clock else None


def boost_clock_hz(root: Root = "/") -> float | None:
    """Return the highest clock of one core [Hz], or None where cpufreq does not say (most virtual machines)."""
    value = _number(_text(root, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"))
    return value * 1e3 if value else None


def caches_bytes(root: Root = "/") -> dict[str, float]:
    """Return L1d, L2, L3 → size [byte], summed over the usable processors; a cache that several share counts once."""
    found: dict[tuple[str, str], float] = {}
    for cpu in usable_cpus(root):
        for folder in sorted(Path(root, f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")):
            kind = (_text(folder, "type") or "").strip()
            size = _size(_text(folder, "size") or "")
            if kind == "Instruction" or size is None:
                continue
            level = f"L{(_text(folder, 'level') or '').strip()}" + ("d" if kind == "Data" else "")
            found[level, (_text(folder, "shared_cpu_list") or str(cpu)).strip()] = size
    result: dict[str, float] = {}
    for (level, _), size in sorted(found.items()):
        result[level] = result.get(level, 0.0) + size
    return result


def _groups(root: Root, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroups of a controller, version 2 or 1, from its own up to the mount."""
    base = Path(root, "sys/fs/cgroup")
    for line in (_text(root, "proc/self/cgroup") or "0::/").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        mounts = [base / controllers, base / controller] if controllers else [base, base / "unified"]
        parts = [part for part in path.split("/") if part]
        parts = [] if ".." in parts else parts  # a path outside this namespace: only the mount can be seen
        for mount in mounts:
            for length in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:length])


def _text(root: Root, path: str) -> str | None:
    try:
        return Path(root, path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _field(text: str | None, name: str) -> str | None:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text or "", flags=re.MULTILINE)
    return match[1].strip() if match else None


def _cpuinfo(root: Root) -> dict[str, str]:
    """Return the keys of the first processor in `/proc/cpuinfo`."""
    block = (_text(root, "proc/cpuinfo") or "").strip().split("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs if key.strip()}


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").strip())
    except ValueError:
        return None


def _size(text: str) -> float | None:
    match = re.fullmatch(r"\s*(\d+)([KMG]?)\s*", text)
    return float(match[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[match[2]] if match else None


def _listed(text: str) -> tuple[int, ...]:
    """Return the numbers of a kernel list.

    Examples
    --------
    >>> _listed("0-2,8")
    (0, 1, 2, 8)
    """
    ends = [part.split("-") for part in text.split(",") if part.strip()]
    return tuple(number for pair in ends for number in range(int(pair[0]), int(pair[-1]) + 1))


def _sysctl(name: str) -> str:
    if platform.system() != "Darwin":
        return ""
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
