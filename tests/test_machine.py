"""The machine's profile: processors from recorded trees, and this very machine."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from replay_nvml import RECORDINGS, ReplayNvml

from capacity import catalogue
from capacity.spec.hardware import Hardware
from kernels import machine
from kernels.processor import Processor, flop_per_cycle, processor, usable_cpus

CPU = "sys/devices/system/cpu/cpu{}"
MiB, GiB = 2**20, 2**30


def written(root: Path, **files: object) -> Path:
    """Write files below root; `__` in a name stands for `/`."""
    for name, text in files.items():
        write(root, name.replace("__", "/"), text)
    return root


def write(root: Path, path: str, text: object) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{text}\n")


def tree(root: Path, cpuinfo: str, cores: int, threads_per_core: int = 1, memory_kib: int = 16 * 2**20) -> Path:
    """Write what Linux shows of a machine whose hyperthreads are numbered core by core, then again."""
    write(root, "proc/cpuinfo", (RECORDINGS / f"cpuinfo_{cpuinfo}.txt").read_text())
    write(root, "proc/meminfo", f"MemTotal:       {memory_kib} kB\nMemFree:         1024 kB")
    write(root, "proc/self/status", f"Name:\tpython\nCpus_allowed_list:\t0-{cores * threads_per_core - 1}")
    for cpu in range(cores * threads_per_core):
        siblings = ",".join(str(cpu % cores + cores * thread) for thread in range(threads_per_core))
        write(root, f"{CPU.format(cpu)}/topology/thread_siblings_list", siblings)
        caches = [("1", "Data", "48K", siblings), ("1", "Instruction", "32K", siblings)]
        caches += [("2", "Unified", "2048K", siblings), ("3", "Unified", "32M", f"0-{cores * threads_per_core - 1}")]
        for index, (level, kind, size, shared) in enumerate(caches):
            folder = f"{CPU.format(cpu)}/cache/index{index}"
            for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
                write(root, f"{folder}/{name}", text)
    return root


def test_instruction_sets_of_recorded_processors(tmp_path):
    xeon = machine.cpu_instruction_sets(tree(tmp_path / "xeon", "xeon_8480plus", 2))
    assert xeon == {"avx2", "avx512", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_bf16", "amx_int8"}
    epyc = machine.cpu_instruction_sets(tree(tmp_path / "epyc", "epyc_zen5", 2))
    assert epyc == {"avx2", "avx512", "avx512_bf16", "avx512_vnni"}
    graviton = machine.cpu_instruction_sets(tree(tmp_path / "graviton", "graviton3", 2))
    assert graviton == {"sve", "bf16", "i8mm"}


def test_nothing_to_read_is_nothing_known(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Windows")
    assert machine.cpu_instruction_sets(tmp_path) == frozenset()
    assert machine.cpu_clock_hz(tmp_path) is None
    assert machine.caches_bytes(tmp_path) == {}
    assert machine.cpu_cores(tmp_path) >= 1
    profile = machine.detect_cpu(tmp_path)
    assert profile.dense_rates == {}
    assert profile.clock is None
    assert profile.memory_bandwidth is None


def test_macos_answers_through_sysctl(tmp_path, monkeypatch):
    said = {"hw.optional.arm.FEAT_BF16": "1", "hw.optional.arm.FEAT_I8MM": "1", "machdep.cpu.brand_string": "Apple M3"}
    monkeypatch.setattr("kernels.processor._sysctl", lambda name: said.get(name, ""))
    assert processor(tmp_path).instruction_sets == {"bf16", "i8mm"}
    assert (processor(tmp_path).name, processor(tmp_path).vendor) == ("Apple M3", "Apple")


def test_names_and_architectures(tmp_path):
    xeon = processor(tree(tmp_path / "xeon", "xeon_8480plus", 1))
    assert (xeon.name, xeon.vendor, xeon.architecture) == ("Intel Xeon Platinum 8480+", "Intel", "sapphire-rapids")
    epyc = processor(tree(tmp_path / "epyc", "epyc_zen5", 1))
    assert (epyc.name, epyc.vendor, epyc.architecture) == ("AMD EPYC", "AMD", "zen5")
    graviton = processor(tree(tmp_path / "graviton", "graviton3", 1))
    assert (graviton.name, graviton.vendor, graviton.architecture) == ("Neoverse V1", "Arm", "neoverse-v1")
    assert graviton.arm


@pytest.mark.parametrize(
    ("family", "model", "flags", "expected"),
    [
        (25, 17, "avx2 avx512f", "zen4"),
        (25, 1, "avx2", "zen3"),
        (23, 49, "avx2", "zen2"),
        (23, 1, "avx2", "zen"),
        (99, 1, "avx2", None),
    ],
)
def test_amd_families(tmp_path, family, model, flags, expected):
    text = f"vendor_id : AuthenticAMD\ncpu family : {family}\nmodel : {model}\nmodel name : AMD\nflags : {flags}"
    assert processor(written(tmp_path, proc__cpuinfo=text)).architecture == expected


def test_flop_per_cycle_by_hand():
    def flop(architecture, *sets, arm=False):
        return {d: f for d, (f, _) in flop_per_cycle(Processor("", "", architecture, frozenset(sets), arm)).items()}

    # two units × lanes × 2 FLOP of a multiply-add
    assert flop(None, "avx2") == {"fp32": 2 * 8 * 2, "fp64": 2 * 4 * 2}
    assert flop(None, "avx2", "avx512")["fp32"] == 2 * 16 * 2
    assert flop("zen4", "avx2", "avx512", "avx512_bf16", "avx512_vnni") == {
        "fp32": 32, "fp64": 16, "bf16": 64, "int8": 128,
    }  # fmt: skip
    # AMX: 16 × 16 outputs × 32 products (bf16; 64 for int8) × 2, one such tile product in 16 cycles
    amx = flop("sapphire-rapids", "avx512", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_bf16", "amx_int8")
    assert amx == {"fp32": 64, "fp64": 32, "fp16": 128, "bf16": 16 * 16 * 32 * 2 / 16, "int8": 16 * 16 * 64 * 2 / 16}
    assert flop("neoverse-v1", "sve", "bf16", "i8mm", arm=True) == {"fp32": 32, "fp64": 16, "bf16": 64, "int8": 128}
    assert flop("neoverse-n2", "sve", "sve2", arm=True)["fp32"] == 2 * 4 * 2
    assert flop("neoverse-n1", arm=True)["fp32"] == 2 * 4 * 2
    assert flop("zen", "avx2")["fp32"] == 16
    assert flop(None) == {"fp32": 8, "fp64": 4}


def test_detected_xeon_equals_the_shipped_profile(tmp_path):
    root = tree(tmp_path, "xeon_8480plus", 56, threads_per_core=2)
    write(root, f"{CPU.format(0)}/cpufreq/base_frequency", 2_000_000)
    write(root, f"{CPU.format(0)}/cpufreq/cpuinfo_max_freq", 3_800_000)
    found, shipped = machine.detect_cpu(root), catalogue.hardware("xeon-8480plus")
    assert found.id == "local-intel-xeon-platinum-8480+-56c"
    assert found.clock.value == shipped.clock.value
    assert "boosts to 3.8 GHz" in found.clock.note
    for dtype, fact in shipped.dense_rates.items():
        assert found.rate(dtype) == pytest.approx(fact.value, rel=1e-3)
    assert found.memory_bandwidth is None  # a recorded tree cannot be timed
    assert set(shipped.instruction_sets) <= set(found.instruction_sets)


def test_graviton_takes_the_clock_its_kernel_hides_from_the_shipped_profile(tmp_path):
    root = tree(tmp_path, "graviton3", 64)
    unknown = machine.detect_cpu(root)
    assert unknown.clock is None
    assert unknown.dense_rates == {}
    write(root, "sys/class/dmi/id/sys_vendor", "Amazon EC2")
    found, shipped = machine.detect_cpu(root), catalogue.hardware("graviton3")
    assert found.clock.value == shipped.clock.value
    assert found.sources[found.clock.source] == shipped.sources[shipped.clock.source]
    assert found.rate("fp32") == pytest.approx(shipped.rate("fp32"), rel=1e-3)


def test_base_clock_goes_before_boost_and_momentary_clock(tmp_path):
    root = tree(tmp_path, "xeon_8480plus", 1)
    assert machine.cpu_clock_hz(root) == 3.8e9  # nothing but the momentary clock
    write(root, f"{CPU.format(0)}/cpufreq/cpuinfo_max_freq", 3_700_000)
    assert machine.cpu_clock_hz(root) == 3.7e9
    write(root, f"{CPU.format(0)}/acpi_cppc/nominal_freq", 2100)
    assert machine.cpu_clock_hz(root) == 2.1e9
    write(root, f"{CPU.format(0)}/cpufreq/base_frequency", 2_000_000)
    assert machine.cpu_clock_hz(root) == 2e9
    named = written(
        tmp_path / "named", proc__cpuinfo="model name : Xeon(R) CPU @ 2.20GHz\ncpu MHz : 2999.9\nflags : avx2"
    )
    assert machine.cpu_clock_hz(named) == pytest.approx(2.2e9)
    assert machine.cpu_clock_hz(tree(tmp_path / "vm", "epyc_zen5", 1)) == pytest.approx(2596.122e6)


def test_hyperthreads_share_a_core_and_affinity_counts(tmp_path):
    root = tree(tmp_path, "xeon_8480plus", 4, threads_per_core=2)
    assert machine.cpu_cores(root) == 4
    write(root, "proc/self/status", "Cpus_allowed_list:\t0-1,4-5")
    assert usable_cpus(root) == (0, 1, 4, 5)
    assert machine.cpu_cores(root) == 2
    write(root, "proc/self/status", "Cpus_allowed_list:\t3")
    assert machine.cpu_cores(root) == 1


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 8)]
)
def test_cpu_quota_of_cgroups_version_2(tmp_path, quota, cores):
    root = tree(tmp_path, "epyc_zen5", 8)
    write(root, "sys/fs/cgroup/cpu.max", quota)
    assert machine.cpu_cores(root) == cores  # no /proc/self/cgroup: the mount is the group


def test_the_tightest_of_nested_groups_holds(tmp_path):
    root = tree(tmp_path, "epyc_zen5", 8)
    write(root, "proc/self/cgroup", "0::/pod/container")
    write(root, "sys/fs/cgroup/pod/cpu.max", "300000 100000")
    write(root, "sys/fs/cgroup/pod/container/cpu.max", "600000 100000")
    write(root, "sys/fs/cgroup/pod/memory.max", 3 * GiB)
    write(root, "sys/fs/cgroup/pod/container/memory.max", "max")
    assert machine.cpu_quota(root) == 3
    assert machine.cpu_cores(root) == 3
    assert machine.memory_bytes(root) == 3 * GiB
    assert "grants the time of 3 processors" in machine.detect_cpu(root).cores.note


def test_a_group_path_outside_the_namespace_falls_back_to_the_mount(tmp_path):
    root = tree(tmp_path, "epyc_zen5", 8)
    write(root, "proc/self/cgroup", "0::/../../elsewhere")
    write(root, "sys/fs/cgroup/cpu.max", "400000 100000")
    assert machine.cpu_cores(root) == 4


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_cgroups_version_1(tmp_path, mount):
    root = tree(tmp_path, "epyc_zen5", 8, memory_kib=16 * 2**20)
    write(root, "proc/self/cgroup", "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n1:name=systemd:/\n0::/")
    write(root, f"sys/fs/cgroup/{mount}/docker/a/cpu.cfs_quota_us", 250000)
    write(root, f"sys/fs/cgroup/{mount}/docker/a/cpu.cfs_period_us", 100000)
    write(root, f"sys/fs/cgroup/{mount}/cpu.cfs_quota_us", -1)
    write(root, f"sys/fs/cgroup/{mount}/cpu.cfs_period_us", 100000)
    write(root, "sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes", 2 * GiB)
    write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)  # the kernel's "none"
    assert machine.cpu_quota(root) == 2.5
    assert machine.cpu_cores(root) == 2
    assert machine.memory_bytes(root) == 2 * GiB


def test_memory_without_a_limit_is_the_machines(tmp_path):
    assert machine.memory_bytes(tree(tmp_path, "epyc_zen5", 1)) == 16 * GiB


def test_shared_caches_count_once(tmp_path):
    root = tree(tmp_path, "xeon_8480plus", 4, threads_per_core=2)
    assert machine.caches_bytes(root) == {"L1d": 4 * 48 * 1024, "L2": 4 * 2 * MiB, "L3": 32 * MiB}
    assert machine.detect_cpu(root).last_level_cache.value == 32 * MiB


def test_this_machine():
    profile = machine.detect_cpu(measure=False)
    assert Hardware.model_validate_json(profile.model_dump_json()) == profile
    assert profile.kind == "cpu"
    assert profile.id.startswith("local-")
    assert profile.cores.value == machine.cpu_cores()
    assert machine.detect(measure=False, nvml=ReplayNvml()) == [profile]


def test_bandwidth_is_counted_from_bytes_and_time(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(machine, "caches_bytes", lambda: {"L3": 2 * MiB})
    monkeypatch.setattr(machine.time, "perf_counter", lambda: float(next(ticks)))
    # 4 × 2 MiB are copied a round, read and written, and each round is one tick of a second
    assert machine.measured_bandwidth(2, budget_s=0) == 2 * 4 * 2 * MiB


def test_bandwidth_of_this_machine(monkeypatch):
    monkeypatch.setattr(machine, "caches_bytes", lambda: {"L3": 2 * MiB})
    measured = machine.measured_bandwidth(1, budget_s=0)
    assert math.isfinite(measured)
    assert measured > 0


def test_measured_bandwidth_enters_the_profile(monkeypatch):
    monkeypatch.setattr(machine, "measured_bandwidth", lambda threads: 10e9 * threads)
    profile = machine.detect_cpu()
    assert profile.memory_bandwidth.value == 10e9 * profile.cores.value
    assert profile.memory_bandwidth.source == "measured"


def test_import_brings_neither_torch_nor_nvml():
    code = "import sys, kernels.machine, kernels.power; print({'torch', 'pynvml', 'psutil'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_detect_lists_the_processor_and_every_card(tmp_path):
    found = machine.detect(tree(tmp_path, "epyc_zen5", 2), nvml=ReplayNvml.of("t4", "h100"))
    assert [profile.id for profile in found] == ["local-amd-epyc-2c", "t4", "h100-sxm-80gb"]


def test_fingerprint(tmp_path):
    print_ = machine.fingerprint(2, tree(tmp_path, "epyc_zen5", 2), ReplayNvml.of("a100"))
    assert print_.name == "AMD EPYC, 2 cores + NVIDIA A100-SXM4-80GB"
    assert print_.driver == "550.90.07"
    assert print_.threads == 2
    assert {"python", "numpy"} <= set(print_.software)
    assert machine.fingerprint(1, nvml=ReplayNvml()).driver is None


def test_psutil_answers_where_proc_does_not(tmp_path, monkeypatch):
    answers = {"cpu_count": lambda logical: 6, "virtual_memory": lambda: SimpleNamespace(total=8 * GiB)}
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(**answers))
    assert machine.cpu_cores(tmp_path) == 6
    assert machine.memory_bytes(tmp_path) == 8 * GiB
    monkeypatch.setitem(sys.modules, "psutil", None)  # not installed
    assert machine.cpu_cores(tmp_path) >= 1
    assert machine.memory_bytes(tmp_path) is None
