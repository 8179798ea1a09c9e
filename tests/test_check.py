"""The verdict on synthetic rounds whose change is known, what makes a run untrustworthy, and what a baseline is."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_nvml import ReplayNvml
from synthetic_rounds import CPU, NOISY_CPU, QUIET_GPU, Noise, trial

from capacity.errors import InputError
from capacity.spec.calibration import Machine
from capacity.work.operations import Gemm
from kernels import check, disturbance
from kernels.baseline import Baseline, group_of, pairs, read_samples
from kernels.check import Pair, judged, run_error_of
from kernels.disturbance import Counters, between, contaminated, watched
from kernels.run import Samples
from kernels.timing import Case, Timing

MACHINE = "EPYC 9755, 2 cores Linux-6.8 cpu 2"


def exact(change: float, cases: int = 8) -> list[Pair]:
    """Return cases without any noise, all slower by one factor."""
    times = [1e-3 * 2**n for n in range(cases)]
    return [Pair(f"gemm {n}", "gemm", (t,) * 9, (t * change,) * 9) for n, t in enumerate(times)]


# --- the verdict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "verdict"),
    [(0.5, "pass"), (1.0, "pass"), (1.03, "pass"), (1.055, "inconclusive"), (1.08, "fail"), (4, "fail")],
)
def test_without_noise_the_ratio_is_exact_and_the_interval_that_of_whole_runs(change, verdict):
    found = judged(exact(change), 0.05)
    assert found.verdict == verdict
    assert found.overall.ratio == pytest.approx(change)
    # 1 % between whole runs, one-sided 95 %: ± 1.645 %
    assert math.log(found.overall.high / change) == pytest.approx(0.01645, rel=0.01)
    assert math.log(change / found.overall.low) == pytest.approx(0.01645, rel=0.01)
    assert found.detectable == pytest.approx(math.expm1((1.645 + 0.842) * 0.01), rel=0.01)
    assert judged(exact(change), 0.05, run_error=0).overall.low == pytest.approx(change)


def test_a_disturbed_machine_is_never_judged():
    for change in (0.5, 1.0, 4.0):
        found = judged(exact(change), 0.05, ["load from others", "throttled"])
        assert (found.verdict, found.reasons) == ("inconclusive", ("load from others", "throttled"))


def test_too_few_cases_are_not_judged():
    found = judged(exact(4.0, cases=4), 0.05)
    assert (found.verdict, *found.reasons) == ("inconclusive", "only 4 cases in common; at least 5 are needed")
    assert judged(exact(4.0, cases=1), 0.05).verdict == "inconclusive"


def test_one_class_fails_by_itself_and_is_named():
    slow = [Pair(f"topk {n}", "topk", (1.0,) * 9, (1.5,) * 9) for n in range(2)]
    found = judged([*exact(1.0, 60), *slow], 0.05)
    assert found.verdict == "fail"
    assert found.overall.ratio < 1.05
    assert found.reasons[0].startswith("topk: +50.0 %")
    assert [change.name for change in found.groups] == ["topk", "gemm"]
    assert [change.name for change in found.cases[:2]] == ["topk 0", "topk 1"]


def test_the_same_rounds_and_seed_give_the_same_finding():
    assert trial(3, CPU) == trial(3, CPU)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(-0.3, 0.5), st.floats(0.001, 0.5))
def test_a_stricter_limit_never_turns_a_failure_into_a_pass(seed, change, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "DRAWS", 100)
        draw = np.random.default_rng(seed)
        some = [
            Pair(str(n), "gemm", tuple(draw.lognormal(0, 0.1, 9)), tuple((1 + change) * draw.lognormal(0, 0.1, 5)))
            for n in range(7)
        ]
        order = {"pass": 0, "inconclusive": 1, "fail": 2}
        loose, strict = judged(some, 2 * limit), judged(some, limit)
    assert order[loose.verdict] <= order[strict.verdict]
    assert loose.overall.low <= loose.overall.ratio <= loose.overall.high


def shares(monkeypatch, noise: Noise, trials: int = 40, **change) -> dict[str, float]:
    monkeypatch.setattr(check, "DRAWS", 300)
    found = [trial(seed, noise, **change) for seed in range(trials)]
    true = 1 + change.get("overall", 0.0)
    return {name: np.mean([f.verdict == name for f in found]) for name in ("pass", "fail", "inconclusive")} | {
        "covered": np.mean([f.overall.low <= true <= f.overall.high for f in found])
    }


@pytest.mark.parametrize("noise", [QUIET_GPU, CPU, NOISY_CPU], ids=["quiet GPU", "CPU", "noisy CPU"])
def test_an_unchanged_machine_raises_no_alarm(monkeypatch, noise):
    found = shares(monkeypatch, noise)
    assert found["fail"] <= 0.025  # one of forty; 0 of 400 measured
    assert found["covered"] >= 0.8  # nominal 0.9
    if noise is QUIET_GPU:
        assert found["pass"] == 1.0


@pytest.mark.parametrize("noise", [QUIET_GPU, CPU, NOISY_CPU], ids=["quiet GPU", "CPU", "noisy CPU"])
def test_at_the_limit_itself_it_errs_in_one_run_of_twenty_each_way(monkeypatch, noise):
    found = shares(monkeypatch, noise, overall=0.05)
    assert found["fail"] <= 0.2  # nominal 0.05 of 40: more than 8 once in 10⁴ times
    assert found["pass"] <= 0.2


@pytest.mark.parametrize(
    ("noise", "change"),
    [
        (QUIET_GPU, {"overall": 0.08}),
        (CPU, {"overall": 0.12}),
        (NOISY_CPU, {"overall": 0.20}),
        (QUIET_GPU, {"classes": {"gemm bf16": 0.2}}),
        (CPU, {"classes": {"gemm bf16": 0.25}}),
        (QUIET_GPU, {"case": 0.5}),
        (CPU, {"case": 1.0}),
    ],
)
def test_a_real_slowdown_is_found(monkeypatch, noise, change):
    assert shares(monkeypatch, noise, **change)["fail"] >= 0.8


def test_whole_runs_that_scatter_widen_the_interval():
    calm, moody = (judged(exact(1.0), 0.05, run_error=error) for error in (0.001, 0.04))
    assert calm.verdict == "pass"
    assert moody.verdict == "inconclusive"
    assert run_error_of([[0.0]] * 5) is None
    level = np.random.default_rng(0).normal(0, 0.02, 4000)
    assert run_error_of([[value, value] for value in level]) == pytest.approx(0.02 * 2**0.5, rel=0.1)


# --- what makes a run untrustworthy ---------------------------------------------------------------------------------


def counters(time_s=0.0, busy_s=0.0, own_s=0.0, quota_s=0.0, thermal=0) -> Counters:
    return Counters(time_s, busy_s, own_s, quota_s, thermal)


@pytest.mark.parametrize(
    ("after", "usable", "threads", "said"),
    [
        (counters(10, 20, 19.9), 2, 2, []),
        (counters(10, 13, 9.9), 2, 1, []),  # another's third of a processor that we leave free
        (counters(10, 19, 9.9), 2, 2, ["load from others: 0.9 of 2 processors"]),
        (counters(10, 10, 10, quota_s=1.0), 2, 2, ["throttled: the cgroup's CPU quota held us back for 10%"]),
        (counters(10, 10, 10, thermal=3), 2, 2, ["throttled: the processor slowed down 3 times for its heat"]),
    ],
)
def test_load_from_others_and_throttling(after, usable, threads, said):
    found = between(counters(), after, usable, threads)
    assert len(found) == len(said)
    assert all(text in line for text, line in zip(said, found, strict=True))


def test_counters_are_read_from_files(tmp_path):
    for path, text in {
        "proc/stat": "cpu 1 1 1 1 1 1 1 1\ncpu0 100 0 50 9 30 0 0 50 0\ncpu1 100 0 0 9 0 0 0 0 0\ncpu7 9 9 9 9 9 9 9 9",
        "proc/self/status": "Cpus_allowed_list:\t0-1\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 7\nthrottled_usec 2500000\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "4\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = Counters.read(tmp_path)
    assert found.busy_s == pytest.approx(300 / disturbance._ticks_per_s())  # cpu7 is not ours; idle and iowait left out
    assert (found.quota_s, found.thermal) == (2.5, 4)
    nothing = Counters.read(tmp_path / "nowhere")
    assert (nothing.busy_s, nothing.quota_s, nothing.thermal) == (0, 0, 0)


def test_a_gpu_that_was_busy_or_throttled(monkeypatch):
    monkeypatch.setattr(Counters, "read", classmethod(lambda cls, root="/": counters()))
    violations = iter([{"1": type("V", (), {"violationTime": ns})} for ns in (0, 2_000_000_000)])
    nvml = ReplayNvml.of(
        "a100", nvmlDeviceGetUtilizationRates={"gpu": 40, "memory": 3}, nvmlDeviceGetCurrentClocksEventReasons=0x44,
        nvmlDeviceGetViolationStatus=lambda: next(violations),
    )  # fmt: skip
    with watched("cuda", 1, nvml) as watch:
        watch.glance()
    assert watch.reasons == [
        "load from others: the GPU was 40 % busy before the run",
        "throttled: the GPU reported hardware thermal slowdown",  # 0x04, the power cap, is part of normal work
        "throttled: the GPU slowed down for its heat for 2 s",
    ]


def timing(name: str = "a", samples=(1.0,) * 8, probes=(1e-3,) * 8) -> Timing:
    return Timing(name, tuple(samples), tuple(probes), min(probes), inner=1, warmup_calls=3)


def test_reference_kernels_that_never_settle():
    slow = (1e-3,) * 5 + (2e-3,) * 3  # 3 of 8 beside a disturbed reference
    assert contaminated({"a": timing()}, "this run") == []
    (said,) = contaminated({"a": timing(probes=slow)}, "the baseline")
    assert said.startswith("the baseline: a neighbor was at work at 37.5% of the samples")


# --- what a baseline is ---------------------------------------------------------------------------------------------


def test_a_samples_file_is_read_and_never_written(tmp_path):
    path = tmp_path / "x.samples.jsonl"
    samples = Samples.opened(path, MACHINE)
    samples.add(timing("a"))
    samples.add(timing("b"))
    path.write_text(path.read_text()[:-5])  # cut off in the middle of b
    before = path.read_bytes()
    found = read_samples(path)
    assert path.read_bytes() == before
    assert (found.name, found.system, found.device, found.threads) == ("EPYC 9755, 2 cores", "Linux-6.8", "cpu", 2)
    assert found.timings == {"a": timing("a")}
    path.write_text(path.read_text().replace("cpu 2", "cpu 2 openvino"))
    assert (read_samples(path).threads, read_samples(path).engine) == (2, "openvino")


HEADER = json.dumps({"method_version": 2, "machine": MACHINE}) + "\n"
ROW = {"name": "a", "samples_s": [1.0], "probes_s": [1.0], "quiet_s": 1.0, "inner": 1, "warmup_calls": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe", "is not a samples file"),
        (b"", "is not a samples file"),
        (b"{}\n", "is not a samples file"),
        (b"[" * 10_000 + b"\n", "is not a samples file"),
        (b'{"method_version": 2, "machine": "x y cpu many"}\n', "is not a samples file"),
        (HEADER.replace("2,", "0,").encode(), "was measured by method 0, this is 2; measure it anew"),
        ((HEADER + "{]\n").encode(), "x.jsonl:2: is not a line of a samples file"),
        ((HEADER + json.dumps(ROW) + "\n\n").encode(), "x.jsonl:3: is not a line"),
        *(
            ((HEADER + json.dumps(ROW | change) + "\n").encode(), "x.jsonl:2: is not a line")
            for change in (
                {"samples_s": [0.0]}, {"samples_s": [-1]}, {"samples_s": []}, {"samples_s": [1, 2]}, {"samples_s": "1"},
                {"samples_s": [float("nan")]}, {"samples_s": [10**400]}, {"quiet_s": None}, {"inner": "many"},
            )
        ),
    ],
)  # fmt: skip
def test_other_files_are_refused_with_the_line(tmp_path, content, said):
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        read_samples(path)


def test_hardware_must_be_the_same_and_software_may_differ():
    then = Machine(name="Xeon + H100", system="Linux-1", software={"torch": "2.6"}, threads=8, driver="550")
    found = Baseline.of_calibration("x.yaml", then, "cuda")
    updated = then.model_copy(update={"software": {"torch": "2.7"}, "driver": "570"})
    assert found.differences(updated, "cuda") == []
    assert found.changes(updated) == ["torch 2.6 → 2.7", "driver 550 → 570"]
    other = then.model_copy(update={"name": "Xeon + H200", "threads": 4})
    assert found.differences(other, "cpu") == [
        "machine was Xeon + H100, is Xeon + H200", "device was cuda, is cpu", "threads was 8, is 4"
    ]  # fmt: skip


def test_cases_are_paired_by_name_and_only_clean_rounds_count():
    work = Gemm(m=1, n=1, k=1, dtype="fp32")
    cases = [Case(name, (work,), lambda: None) for name in ("a", "b", "c")]
    spoiled = timing("a", samples=(1.0,) * 7 + (9.0,), probes=(1e-3,) * 7 + (5e-3,))
    assert pairs(cases, {"a": timing("a"), "c": timing("c")}, {"a": spoiled, "b": timing("b")}) == [
        Pair("a", "gemm fp32", (1.0,) * 8, (1.0,) * 7)
    ]
    assert pairs(cases, {"a": 0.5}, {"a": timing("a")})[0].baseline_s == (0.5,)
    assert group_of(Case("m", (work,), lambda: None, "training")) == "whole models, training"
