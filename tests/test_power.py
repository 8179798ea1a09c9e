"""Power: replayed readings, replayed NVML, recorded RAPL counters. No meter is needed and no time passes."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replay_nvml import ReplayNvml, lost, unsupported

from capacity.errors import CapacityError
from capacity.spec.calibration import Power
from kernels.power import (
    NullMonitor,
    NvmlMonitor,
    RaplMonitor,
    Recording,
    ReplayMonitor,
    measured_power,
    monitor_for,
)

NOTHING = lambda: None  # noqa: E731
ENERGY, POWER = "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"


class Clock:
    """A clock that only work and pauses move, at 50 W idle and 300 W busy."""

    def __init__(self) -> None:
        self.now_s, self.energy_j, self.watts = 100.0, 1000.0, 50.0

    def __call__(self) -> float:
        return self.now_s

    def _pass(self, seconds: float, watts: float) -> None:
        self.now_s, self.energy_j, self.watts = self.now_s + seconds, self.energy_j + seconds * watts, watts

    def pause(self, seconds: float) -> None:
        self._pass(seconds, 50.0)

    def work(self) -> None:
        self._pass(0.25, 300.0)


def readings(busy_s: float = 8.0, step_s: float = 0.5, start_s: float = 0.0) -> list[tuple[float, float]]:
    """Two readings idle at 50 W, 2 s apart, then work at 300 W, read every step."""
    steps = int(busy_s / step_s)
    idle = [(start_s, 0.0), (start_s + 2, 100.0)]
    return idle + [(start_s + 2 + n * step_s, 100.0 + n * step_s * 300) for n in range(steps + 1)]


def test_busy_and_idle_power_of_a_recording():
    power = measured_power(ReplayMonitor(Recording.of(readings())), NOTHING)
    # 50 W × 2 s idle; one second at 300 W to settle, then at least 5 s of which the mean is taken
    assert power == Power(busy=300, idle=50, window=5, method="replayed recording")


def test_work_runs_between_the_readings():
    calls = itertools.count()
    measured_power(ReplayMonitor(Recording.of(readings())), lambda: next(calls))
    assert next(calls) == 12  # 2 steps of 0.5 s to settle, 10 in the window, one call each


def test_short_calls_are_grouped_so_that_reading_costs_no_idle_time():
    calls = itertools.count()
    clock = Clock()
    monitor, _ = nvml_monitor(clock)

    def short() -> None:
        next(calls)
        clock._pass(0.01, 300.0)

    asked = itertools.count()
    reading = monitor.reading
    monitor.reading = lambda: (next(asked), reading())[1]
    assert measured_power(monitor, short).busy == pytest.approx(300, rel=1e-3)
    # 10 ms a call: 1, 2, 4, 8 and then 16 calls a reading, so about 6 readings a second where there were 100
    assert next(calls) / next(asked) > 10


@pytest.mark.parametrize("window_s", [4.99, 0, -1, float("nan")])
def test_short_windows_are_refused(window_s):
    with pytest.raises(CapacityError, match="too short"):
        measured_power(ReplayMonitor(Recording.of(readings())), NOTHING, window_s)


def test_a_longer_window():
    assert measured_power(ReplayMonitor(Recording.of(readings(busy_s=12))), NOTHING, 7.5).window == 7.5


@pytest.mark.parametrize("kept", range(10))
def test_a_recording_that_stops_midway_is_not_measured(kept):
    monitor = ReplayMonitor(Recording.of(readings()[:kept], failure="GPU is lost"))
    assert measured_power(monitor, NOTHING) == "not measured"
    assert monitor.reason == "GPU is lost"


def test_a_recording_without_a_failure_says_that_it_ended():
    monitor = ReplayMonitor(Recording.of(readings()[:5]))
    assert measured_power(monitor, NOTHING) == "not measured"
    assert monitor.reason == "the recording ended after 5 readings"


def test_a_success_clears_the_reason_and_replays_again():
    monitor = ReplayMonitor(Recording.of(readings()))
    monitor.reason = "earlier"
    first = measured_power(monitor, NOTHING)
    assert monitor.reason == ""
    assert measured_power(monitor, NOTHING) == first


def test_a_counter_that_runs_backwards_or_stands_still():
    reset = [(time_s, energy_j if time_s < 5 else energy_j - 1900) for time_s, energy_j in readings()]
    monitor = ReplayMonitor(Recording.of(reset))
    assert measured_power(monitor, NOTHING) == "not measured"
    assert "backwards" in monitor.reason
    monitor = ReplayMonitor(Recording.of([(time_s, 7.0) for time_s, _ in readings()]))
    assert measured_power(monitor, NOTHING) == "not measured"
    assert "did not move" in monitor.reason


def test_unknown_idle_power_is_absent_not_zero():
    standing = [(0.0, 100.0), *readings()[1:]]
    assert measured_power(ReplayMonitor(Recording.of(standing)), NOTHING).idle is None


@given(
    steps=st.lists(st.floats(0.1, 2.0), min_size=80, max_size=80),
    watts=st.floats(1.0, 1500.0),
    start_s=st.floats(0.0, 1e6),
)
def test_constant_power_is_found_whatever_the_rhythm(steps, watts, start_s):
    times = [0.0, *itertools.accumulate(steps)]
    recording = Recording.of((start_s + time_s, watts * time_s) for time_s in times)
    power = measured_power(ReplayMonitor(recording), NOTHING)
    assert power.busy == pytest.approx(watts, rel=1e-6)
    assert power.idle == pytest.approx(watts, rel=1e-6)
    assert power.window >= 5


@given(changes=st.lists(st.floats(10.0, 700.0), min_size=30, max_size=30))
def test_the_mean_lies_between_the_extremes(changes):
    energies = [0.0, *itertools.accumulate(watts * 0.5 for watts in changes)]
    power = measured_power(ReplayMonitor(Recording.of((n * 0.5, e) for n, e in enumerate(energies))), NOTHING)
    assert min(changes) * (1 - 1e-9) <= power.busy <= max(changes) * (1 + 1e-9)


def test_the_null_monitor_gives_a_reason_and_no_number():
    monitor = NullMonitor("no meter here")
    assert measured_power(monitor, NOTHING) == "not measured"
    assert monitor.reason == "no meter here"


def nvml_monitor(clock: Clock, **overrides: object) -> tuple[NvmlMonitor, ReplayNvml]:
    counters = {ENERGY: lambda: int(clock.energy_j * 1e3), POWER: lambda: int(clock.watts * 1e3)} | overrides
    nvml = ReplayNvml.of("a100", **counters)
    monitor = NvmlMonitor(0, nvml, clock)
    monitor.pause = clock.pause
    return monitor, nvml


def test_nvml_energy_counter():
    clock = Clock()
    monitor, nvml = nvml_monitor(clock)
    power = measured_power(monitor, clock.work)
    assert (power.busy, power.idle, power.window) == (300, 50, 5)
    assert power.method == "NVML total energy counter of NVIDIA A100-SXM4-80GB"
    assert nvml.sessions == 0


def test_nvml_power_samples_where_there_is_no_energy_counter():
    clock = Clock()
    monitor, nvml = nvml_monitor(clock, **{ENERGY: unsupported(), POWER: 210_000})
    power = measured_power(monitor, clock.work)
    assert (power.busy, power.idle) == (pytest.approx(210), pytest.approx(210))
    assert "power samples" in power.method
    assert nvml.sessions == 0


def test_nvml_samples_in_its_own_thread_against_the_real_clock():
    nvml = ReplayNvml.of("a100", **{ENERGY: unsupported(), POWER: 100_000})
    monitor = NvmlMonitor(0, nvml)
    monitor.start()
    first = monitor.reading()
    monitor.pause(0.2)
    last = monitor.reading()
    monitor.stop()
    assert last.energy_j - first.energy_j == pytest.approx(100 * (last.time_s - first.time_s))
    assert nvml.sessions == 0


@pytest.mark.parametrize("answered", [1, 2, 3, 6])
@pytest.mark.parametrize("counter", [True, False])
def test_nvml_that_fails_midway_is_not_measured(answered, counter):
    clock, asked = Clock(), itertools.count()

    def value() -> object:
        good = next(asked) < answered
        return int(clock.energy_j * 1e3) if good else lost()

    answers = {ENERGY: value} if counter else {ENERGY: unsupported(), POWER: value}
    monitor, nvml = nvml_monitor(clock, **answers)
    assert measured_power(monitor, clock.work) == "not measured"
    assert "lost" in monitor.reason
    assert nvml.sessions == 0


def test_nvml_that_supports_neither_is_not_measured():
    clock = Clock()
    monitor, nvml = nvml_monitor(clock, **{ENERGY: unsupported(), POWER: unsupported()})
    assert measured_power(monitor, clock.work) == "not measured"
    assert "Not Supported" in monitor.reason
    assert nvml.sessions == 0


def test_no_driver_or_no_such_gpu_is_not_measured():
    for monitor in (NvmlMonitor(0, ReplayNvml()), NvmlMonitor(5, ReplayNvml.of("t4"))):
        assert measured_power(monitor, NOTHING) == "not measured"
        assert "NVML" in monitor.reason


def test_a_kernel_that_fails_is_its_callers_business_and_the_monitor_stops():
    clock = Clock()
    monitor, nvml = nvml_monitor(clock)

    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measured_power(monitor, broken)
    assert nvml.sessions == 0


def zone(root: Path, name: str, label: str, energy_uj: float, range_uj: float = 1e9) -> Path:
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, value in (("name", label), ("energy_uj", f"{energy_uj:.0f}"), ("max_energy_range_uj", f"{range_uj:.0f}")):
        (folder / file).write_text(f"{value}\n")
    return folder / "energy_uj"


def test_rapl_counts_packages_and_memory_once_and_wraps_around(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 900e6)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 10e6)
    zone(tmp_path, "intel-rapl:0:0", "core", 500e6)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 900e6)
    monitor = RaplMonitor(tmp_path, Clock())
    monitor.start()
    assert monitor.method == "RAPL energy counters of dram (intel-rapl:0:1), package-0"
    assert monitor.reading().energy_j == 0
    package.write_text("50000000\n")  # 900 J → wrap at 1000 J → 50 J: 150 J
    memory.write_text("30000000\n")  # 20 J more
    assert monitor.reading().energy_j == pytest.approx(170)
    assert monitor.reading().energy_j == pytest.approx(170)
    monitor.stop()


def test_rapl_power(tmp_path):
    clock = Clock()
    file = zone(tmp_path, "intel-rapl:0", "package-0", clock.energy_j * 1e6)
    monitor = RaplMonitor(tmp_path, clock)

    def counted(passing):
        def run(*arguments):
            passing(*arguments)
            file.write_text(f"{clock.energy_j * 1e6 % 1e9:.0f}\n")

        return run

    monitor.pause = counted(clock.pause)
    file.write_text(f"{clock.energy_j * 1e6 % 1e9:.0f}\n")
    power = measured_power(monitor, counted(clock.work))
    assert (power.busy, power.idle) == (pytest.approx(300), pytest.approx(50))


def test_rapl_that_only_root_may_read(tmp_path, monkeypatch):
    zone(tmp_path, "intel-rapl:0", "package-0", 1e6)
    read_text = Path.read_text

    def guarded(self, *arguments, **options):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", guarded)
    monitor = RaplMonitor(tmp_path)
    assert measured_power(monitor, NOTHING) == "not measured"
    assert "root only" in monitor.reason
    assert isinstance(monitor_for("cpu", tmp_path), NullMonitor)


def test_rapl_that_vanishes_or_is_absent(tmp_path):
    monitor = RaplMonitor(tmp_path)
    assert measured_power(monitor, NOTHING) == "not measured"
    assert "no RAPL counters" in monitor.reason
    file = zone(tmp_path, "intel-rapl:0", "package-0", 1e6)
    clock = Clock()
    monitor = RaplMonitor(tmp_path, clock)
    monitor.pause = lambda seconds: file.unlink()
    assert measured_power(monitor, NOTHING) == "not measured"
    assert "cannot be read" in monitor.reason


def test_monitor_for_each_device(tmp_path):
    assert isinstance(monitor_for("cuda", nvml=ReplayNvml.of("t4")), NvmlMonitor)
    assert isinstance(monitor_for("cpu", tmp_path), NullMonitor)
    zone(tmp_path, "intel-rapl:0", "package-0", 1e6)
    assert isinstance(monitor_for("cpu", tmp_path), RaplMonitor)
    without = monitor_for("cuda:0", nvml=ReplayNvml())
    assert isinstance(without, NullMonitor)
    assert "does not start" in without.reason
    assert isinstance(monitor_for("mps"), NullMonitor)
    with pytest.raises(CapacityError, match="unknown device"):
        monitor_for("cuda:first")


def test_monitor_for_follows_cuda_visible_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monitor = monitor_for("cuda:0", nvml=ReplayNvml.of("t4", "h100"))
    monitor.start()
    assert "H100" in monitor.method
    monitor.stop()
    assert "leaves no device" in monitor_for("cuda:1", nvml=ReplayNvml.of("t4", "h100")).reason


@pytest.mark.gpu
def test_the_gpu_of_this_machine():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    matrix = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    power = measured_power(monitor_for("cuda"), lambda: matrix @ matrix)
    assert power != "not measured"
    assert power.busy > power.idle
