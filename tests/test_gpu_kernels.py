"""Kernels as a calibration runs them on a GPU, on a replayed CUDA: graphs, cold operands, the grid, sustained runs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from replay_cuda import ReplayCuda
from replay_nvml import ReplayNvml

from capacity.work.measurement import Measurement
from capacity.work.operations import Gemm
from kernels import collectives, gpu, products, run, suite
from kernels.gpu import Card, Replay, replayed
from kernels.meters import NvmlMonitor
from kernels.timing import Case, Effort, measured
from kernels.torch_backend import Backend

MiB = 2**20
H100 = Card(50e6, {"bf16": 989e12, "fp16": 989e12, "fp8": 1979e12, "int8": 1979e12, "fp32": 67e12})
META = Backend("meta", 1)
LEFT_OUT = {"solve", "streaming.optimizer", "recurrent"}
"""Classes that are not captured, for they look at their results; an LSTM is captured but slow on the meta device."""


@pytest.fixture
def cuda(monkeypatch):
    torch = pytest.importorskip("torch", reason="kernels need torch: pip install 'capacity-planner[calibrate]'")
    found = ReplayCuda(torch.cuda)
    monkeypatch.setattr(torch, "cuda", found)
    return found


def kernel(cuda: ReplayCuda, ms: float, operation: object) -> Case:
    return Case("a kernel", (operation,), lambda: lambda: cuda.work(ms))


def timed(case: Case) -> tuple[float, str]:
    """Return seconds a launch and the note of a case, by the suite's own timing."""
    clock = Backend("cuda", 1).clock()
    (timing,) = measured([case], lambda: None, clock, Effort(rounds=5))
    return timing.median_s / case.calls, timing.note


def test_launches_are_replayed_as_one_graph_over_all_sets_of_operands(cuda):
    called: list[int] = []
    runs = [lambda n=n: (called.append(n), cuda.work(n)) for n in (1, 2, 3)]
    replay = Replay(runs, 6)
    assert called == [1, 2, 3] * 3  # a warm-up of each, then six captured
    before = cuda.now_ms
    replay()
    assert (len(called), cuda.now_ms - before, replay.note) == (9, 12.0, "")


def test_a_graph_times_the_kernel_without_the_gaps_of_its_launches(cuda):
    product = Gemm(m=64, n=4096, k=4096, dtype="bf16")  # 34 MB: four sets between two uses of one
    case = replayed(kernel(cuda, 0.25, product), H100)
    assert case.calls == 64
    assert timed(case) == (pytest.approx(0.25e-3), "")


def test_a_capture_that_fails_is_launched_one_by_one_and_says_why(cuda, tmp_path):
    cuda.refuses = "operation not permitted when stream is capturing\nCompile with `TORCH_USE_CUDA_DSA`"
    case = replayed(kernel(cuda, 0.25, Gemm(m=64, n=4096, k=4096, dtype="bf16")), H100)
    seconds, note = timed(case)
    assert seconds == pytest.approx(1.25e-3)  # the host's share is in it
    assert note == "launched one by one, no CUDA graph: operation not permitted when stream is capturing"
    samples = run.Samples.opened(tmp_path / "samples.jsonl", "a machine")
    (timing,) = measured([case], lambda: None, Backend("cuda", 1).clock(), Effort(rounds=5))
    samples.add(timing)
    assert run.Samples.opened(samples.path, "a machine").timings[case.name].note == note


def test_what_broke_a_capture_off_is_named_not_that_it_is_broken(cuda):
    def looks() -> None:
        if cuda.captured_ms is not None:
            raise RuntimeError("Cannot copy between CPU and CUDA tensors during CUDA graph capture")

    cuda.refuses = "operation failed due to a previous error during capture"
    assert Replay([looks], 3).note.endswith("Cannot copy between CPU and CUDA tensors during CUDA graph capture")


def test_a_kernel_that_fails_by_itself_is_not_a_matter_of_graphs(cuda):
    def broken() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Replay([broken], 3)


def test_a_burst_waits_for_the_one_before_the_last(cuda, monkeypatch):
    waited: list[int] = []
    marks = iter(range(9))

    def event():
        number = next(marks)
        return SimpleNamespace(record=lambda: None, synchronize=lambda: waited.append(number))

    monkeypatch.setattr(cuda, "Event", event, raising=False)
    go = gpu.paced(lambda: None)
    for _ in range(4):
        go()
    assert waited == [0, 1, 2]


def test_the_card_as_torch_and_nvml_tell_it(cuda, monkeypatch):
    told = {"L2_cache_size": 40 * MiB}
    monkeypatch.setattr(cuda, "get_device_properties", lambda _: SimpleNamespace(**told), raising=False)
    card = Card.local(ReplayNvml.of("a100"))
    assert (card.cache_bytes, card.rates_flop_per_s["bf16"]) == (40 * MiB, 312e12)
    assert Card.local(ReplayNvml()).rates_flop_per_s == {}
    told.clear()
    assert Card.local(ReplayNvml()).cache_bytes == 128e6


# --- the grid -------------------------------------------------------------------------------------------------------


@pytest.fixture
def grid(cuda) -> list[Case]:
    pytest.importorskip("transformers", reason="the suite's encoders need transformers")
    return list(suite.gpu_cases(META, H100, quick=False))


def test_the_grid_of_a_gpu(grid):
    assert len({case.name for case in grid}) == len(grid)
    of = {case.operations[0].operation for case in grid if not case.mode}
    assert {"gemm", "attention.encoder", "attention.prefill", "attention.decode", "gather", "topk"} < of
    assert {f"streaming.{kind}" for kind in suite.STREAMS} < of
    products = [case.operations[0] for case in grid if case.name.startswith("gemm")]
    counts = {dtype: sum(op.dtype == dtype for op in products) for dtype in ("bf16", "fp16", "fp8", "int8", "fp32")}
    assert all(15 <= count <= 40 for count in counts.values()), counts
    assert min(op.m for op in products if op.dtype == "int8") > 16
    quick = list(suite.gpu_cases(META, H100, quick=True))
    assert {case.name for case in quick} < {case.name for case in grid}


def test_sustained_runs_come_after_all_products_and_alone(grid):
    long = [case for case in grid if case.alone]
    last = max(number for number, case in enumerate(grid) if case.name.startswith("gemm"))
    assert grid[last + 1 : last + 1 + len(long)] == long
    assert [case.operations[0].dtype for case in long] == ["bf16", "fp8", "int8", "fp32"]
    assert all(case.operations[0].flop / H100.rates_flop_per_s[case.operations[0].dtype] >= 0.01 for case in long)
    assert [len(batch) for batch in run._batches(grid) if any(case.alone for case in batch)] == [1] * len(long)


def test_operands_are_cold(grid):
    """Between two uses of a weight twice the cache passes: what `weight_copies = inf` says."""
    for case in grid:
        operation = case.operations[0]
        if case.mode is None and isinstance(operation, Gemm) and not case.alone:
            sets = min(case.calls, H100.sets(operation))
            between = (sets - 1) * operation.moved_bytes
            assert case.calls % sets == 0
            assert between >= 2 * H100.cache_bytes or sets == gpu.MOST_LAUNCHES, case.name
            assert operation.weight_copies == float("inf")


def test_cases_of_the_grid_build_and_run(cuda, monkeypatch):
    """On the meta device: shapes, dtypes and arguments fit torch's operators."""
    monkeypatch.setattr(gpu, "LEAST_LAUNCHES", 1)
    monkeypatch.setattr(suite, "SUSTAINED_LAUNCHES", 1)
    for case in suite.gpu_cases(META, replace(H100, cache_bytes=1.0), quick=False):
        if case.mode is None and case.operations[0].operation not in LEFT_OUT:
            assert isinstance(case.build(), Replay), case.name


def test_slow_cards_are_spared_long_products(cuda):
    slow = Card(4e6, {"fp16": 65e12, "fp32": 8.1e12})
    longest = max(slow.seconds(case.operations[0]) for case in suite._products("fp32", META, slow, quick=False))
    assert longest <= suite.LONGEST_S


def test_refused_dtypes_are_named_and_left_out(cuda, monkeypatch):
    said = "torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9\nException raised"

    def built(m, n, k, dtype, backend):
        def build():
            raise {"fp8": RuntimeError(said), "int8": AttributeError("no _int_mm")}.get(dtype, ZeroDivisionError())

        plain = lambda: lambda: None  # noqa: E731
        return Case(f"gemm {m}x{n}x{k} {dtype}", (Gemm(m=m, n=n, k=k, dtype=dtype),), build if "8" in dtype else plain)

    monkeypatch.setattr(cuda, "is_bf16_supported", lambda including_emulation: False, raising=False)
    monkeypatch.setattr(products, "gemm_case", built)
    monkeypatch.setattr(suite, "gemm_case", built)
    backend = Backend("cuda", 1)
    assert suite.refusals(backend) == {
        "bf16": "bf16: the card has no units for it, torch would emulate them",
        "fp8": f"fp8: {said.splitlines()[0]}", "int8": "int8: no _int_mm",
    }  # fmt: skip
    found = list(suite.gpu_cases(backend, H100, quick=True))
    assert {case.operations[0].dtype for case in found if isinstance(case.operations[0], Gemm)} == {"fp16", "fp32"}
    assert suite.refusals(Backend("cpu", 1)) == {}


# --- sustained ------------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(cuda, monkeypatch):
    """Return what tells power and clocks under a replayed burst of 0.4 s at 300 W, on an H100 with `overrides`."""
    clock = SimpleNamespace(now_s=0.0, energy_j=0.0)

    def passed(seconds: float, watts: float) -> None:
        clock.now_s, clock.energy_j = clock.now_s + seconds, clock.energy_j + seconds * watts

    def found(**overrides: object) -> run.Sustained:
        counter = {"nvmlDeviceGetTotalEnergyConsumption": lambda: int(clock.energy_j * 1e3)}
        nvml = ReplayNvml.of("h100", **(counter | overrides))
        monitor = NvmlMonitor(0, nvml, lambda: clock.now_s)
        monitor.pause = lambda seconds: passed(seconds, 70.0)
        monkeypatch.setattr(run, "monitor_for", lambda device, nvml=None: monitor)
        sustained = run.sustained(Backend("cuda", 1), nvml)
        assert nvml.sessions == 0
        return sustained

    burst = Case("a burst", (), lambda: lambda: passed(0.4, 300.0), alone=True)
    monkeypatch.setattr(suite, "refusals", lambda backend: {})
    monkeypatch.setattr(suite, "sustained_case", lambda dtype, backend, card: burst)
    monkeypatch.setattr(gpu.Card, "local", classmethod(lambda cls, nvml=None: H100))
    return found


def test_power_and_clocks_of_a_sustained_run(busy):
    found = busy()
    clocks = "SM clock 1.755 of at most 1.98 GHz, held down by the power cap"
    assert (found.clocks, found.slowdowns) == (clocks, ())
    assert (found.power.busy, found.power.idle, found.power.window) == pytest.approx((300, 70, 5.2), rel=1e-3)
    assert found.power.method == f"NVML total energy counter of NVIDIA H100 80GB HBM3; {clocks}"


def test_a_throttled_run_is_flagged(busy):
    found = busy(nvmlDeviceGetCurrentClocksEventReasons=0x44, nvmlDeviceGetClockInfo={"1": 1005, "2": 2619})
    assert found.slowdowns == ("a hardware thermal slowdown",)
    assert "SM clock 1.005 of at most 1.98 GHz, held down by the power cap and a hardware" in found.power.method


def test_without_nvml_nothing_is_measured(busy, monkeypatch):
    monkeypatch.setattr(run, "session", gpu.session)
    assert run.sustained(Backend("cuda", 1), ReplayNvml()) == run.Sustained("not measured")


# --- collectives ----------------------------------------------------------------------------------------------------


def test_collectives_run_between_gpus_and_on_a_processor_only_when_asked(cuda, monkeypatch):
    asked = []
    exchanged = collectives.Exchanged((Measurement("a", (), 1.0),), {"send": "nccl cannot"})
    monkeypatch.setattr(collectives, "measure", lambda plan, progress: (asked.append(plan), exchanged)[1])
    monkeypatch.setattr(cuda, "is_available", lambda: True, raising=False)
    nothing = lambda *_: None  # noqa: E731
    for devices, quick in ((1, True), (4, False)):
        monkeypatch.setattr(cuda, "device_count", lambda devices=devices: devices, raising=False)
        found = run.collective_measurements(Backend("cuda", 1), run.Plan(quick, 45.0), nothing)
        assert found == (([], {}) if devices < 2 else (list(exchanged.measurements), exchanged.skipped))
    assert run.collective_measurements(Backend("cpu", 1), run.QUICK, nothing) == ([], {})
    assert [(plan.device, plan.ranks) for plan in asked] == [("cuda", 4)]
    run.collective_measurements(Backend("cpu", 1), run.QUICK, nothing, asked=True)
    assert (asked[-1].backend, asked[-1].sizes_bytes) == ("gloo", collectives.SIZES["cpu", "quick"])


# --- a real GPU -----------------------------------------------------------------------------------------------------


@pytest.fixture
def real():
    torch = pytest.importorskip("torch", reason="kernels need torch: pip install 'capacity-planner[calibrate]'")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return Backend("cuda", 1), Card.local()


@pytest.mark.gpu
def test_every_case_of_the_quick_grid_runs_on_a_real_gpu(real):
    torch, (backend, card) = pytest.importorskip("torch"), real
    pytest.importorskip("transformers", reason="the suite's encoders need transformers")
    notes = {}
    for case in suite.gpu_cases(backend, card, quick=True):
        with torch.no_grad() if case.mode is None else torch.enable_grad():
            built = case.build()
            built()
        torch.cuda.synchronize()
        notes[case.name] = getattr(built, "note", "")
    assert not {name: note for name, note in notes.items() if note}  # what is to be captured can be
    assert not {name for name in notes if name.startswith("gemm") and "bf16" in name} - set(notes)


@pytest.mark.gpu
def test_cold_weights_come_from_memory_on_a_real_gpu(real):
    backend, card = real
    dtype = "fp16" if "bf16" in suite.refusals(backend) else "bf16"
    side = int((card.cache_bytes / 4 / 2) ** 0.5) // 64 * 64  # a quarter of the cache
    case = products.gemm_case(1, side, side, dtype, backend)
    cold, warm = (np.median([clocked(replayed(case, card, sets), backend) for _ in range(5)]) for sets in (None, 1))
    assert cold > warm


def clocked(case: Case, backend: Backend) -> float:
    kernel = case.build()
    kernel()
    return backend.clock().time(kernel, 3) / 3 / case.calls


@pytest.mark.gpu
def test_a_sustained_run_on_a_real_gpu(real):
    found = run.sustained(real[0])
    if found.power == "not measured":
        pytest.skip("this GPU's power cannot be read")
    assert found.power.busy > 0
    assert "SM clock" in found.clocks
