"""A calibration run: samples are kept and resumed, an interrupt keeps what was measured, a real run ends in a plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import Result, capacity
from replay_clock import Recorded, ReplayClock

from capacity import catalogue
from capacity.commands import measuring
from capacity.errors import CapacityError, InputError
from capacity.spec.calibration import Calibration
from capacity.spec.hardware import Hardware
from capacity.timing.band import BASES
from capacity.timing.form import Board
from capacity.timing.gemm import GEMM
from capacity.timing.roofline import Roof, seconds
from capacity.work.operations import Gemm, Operation
from kernels import machine, run, suite
from kernels.run import Plan, Samples
from kernels.timing import Case, Timing

MACHINE = "a machine Linux cpu 2"
ROOF = Roof(t0_s=2e-6, flop_per_s=1e12, bytes_per_s=5e10, sharpness=3)


def timing(name: str, *samples: float, probe: float = 1e-3) -> Timing:
    samples = samples or (1.0, 1.01, 0.99, 1.0, 1.0)
    return Timing(name, samples, (probe,) * len(samples), probe, inner=1, warmup_calls=3)


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- the samples file -----------------------------------------------------------------------------------------------


def test_samples_are_written_at_once_and_read_back(tmp_path):
    path = tmp_path / "new folder" / "run.jsonl"
    samples = Samples.opened(path, MACHINE)
    samples.add(timing("a"))
    assert [line.get("name") for line in written(path)] == [None, "a"]
    samples.add(timing("b"))
    assert Samples.opened(path, MACHINE).timings == samples.timings


def test_a_case_measured_again_is_joined_and_the_last_line_counts(tmp_path):
    path = tmp_path / "run.jsonl"
    samples = Samples.opened(path, MACHINE)
    samples.add(timing("a", 1.0, 3.0))
    samples.add(timing("a", 1.0, 1.0))
    assert samples.timings["a"].samples_s == (1.0, 3.0, 1.0, 1.0)
    assert Samples.opened(path, MACHINE).timings == samples.timings
    assert [line.get("name") for line in written(path)] == [None, "a", "a"]


@pytest.mark.parametrize("cut", [1, 2, 40, 100])
def test_a_line_that_was_cut_off_is_dropped_and_the_file_goes_on(tmp_path, cut):
    path = tmp_path / "run.jsonl"
    samples = Samples.opened(path, MACHINE)
    samples.add(timing("a"))
    samples.add(timing("b"))
    path.write_text(path.read_text()[:-cut])
    resumed = Samples.opened(path, MACHINE)
    assert list(resumed.timings) == ["a"]
    resumed.add(timing("b"))
    again = Samples.opened(path, MACHINE)
    assert again.timings == samples.timings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a samples file"),
        ("not json\n", "is not a samples file"),
        ("id: a-yaml-file\nname: x\n", "is not a samples file"),
        ('{"method_version": 2, "machine"', "is not a samples file"),
        ('{"method_version": 2, "machine": "another machine"}\n', "another machine or method"),
        (json.dumps({"method_version": 0, "machine": MACHINE}) + "\n", "another machine or method"),
        (json.dumps({"method_version": 2, "machine": MACHINE}) + '\n{"name": "a"}\n', "is not a samples file"),
        (json.dumps({"method_version": 2, "machine": MACHINE}) + "\n[1, 2]\n", "is not a samples file"),
        ("[]\n", "another machine or method"),
        (b"PAR1\xff\xfe\x00", "is not a samples file"),
    ],
)
def test_other_files_are_refused_and_left_alone(tmp_path, text, message):
    path = tmp_path / "run.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = path.read_bytes()
    with pytest.raises(InputError, match=message) as caught:
        Samples.opened(path, MACHINE)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "run.jsonl"):
        with pytest.raises(InputError, match="cannot be used"):
            Samples.opened(path, MACHINE)


def test_every_timing_is_judged_by_the_quietest_reference_of_the_run(tmp_path):
    samples = Samples.opened(tmp_path / "run.jsonl", MACHINE)
    samples.add(timing("disturbed throughout", probe=2e-3))
    samples.add(timing("quiet", probe=1e-3))
    judged = samples.judged()
    assert {name: item.verdict for name, item in judged.items()} == {
        "disturbed throughout": "unstable",
        "quiet": "stable",
    }


# --- interrupted and resumed, on a replayed clock -------------------------------------------------------------------


def replayed_cases(count: int = 24) -> list[Case]:
    """Return products that take exactly what `ROOF` says: recorded seconds, no kernel."""
    found = []
    for number in range(count):
        work: Operation = Gemm(m=2 ** (number % 12), n=512 + 64 * number, k=768, dtype="fp32")
        recorded = float(seconds(work, ROOF))
        found.append(Case(f"gemm {number}", (work,), lambda recorded=recorded: Recorded(recorded)))
    return found


@pytest.fixture
def replayed(monkeypatch) -> Callable[[int | None], ReplayClock]:
    """Stand in for this machine: replayed cases and clock, a profile of its own, no power meter."""
    shipped = catalogue.hardware("xeon-8480plus")
    profile = Hardware.model_validate(shipped.model_dump() | {"id": "local-replayed"})
    monkeypatch.setattr(machine, "detect_cpu", lambda: profile)
    monkeypatch.setattr(suite, "cases", lambda _backend, quick: replayed_cases())
    monkeypatch.setattr(run, "power", lambda _backend: "not measured")
    monkeypatch.setattr(run.Backend, "reference", lambda _self: Recorded(1e-3))

    def clock(interrupted_after: int | None = None) -> ReplayClock:
        found = ReplayClock(interrupted_after)
        monkeypatch.setattr(run.Backend, "clock", lambda _self: found)
        return found

    return clock


def calibrated(folder: Path, *more: str, code: int = 0) -> Calibration | None:
    pytest.importorskip("torch", reason="`capacity calibrate` needs torch")
    path = folder / "local.yaml"
    done = capacity("calibrate", "--device", "cpu", "--quick", "--output", path, *more)
    assert done.code == code, done.err
    return catalogue.calibrations([str(path)])[0][0] if path.exists() else None


def test_a_whole_run_on_a_replayed_clock(replayed, tmp_path):
    replayed()
    found = calibrated(tmp_path)
    (fit,) = found.efficiencies
    assert (found.id, found.engine, fit.operation, fit.dtype, fit.rows) == (
        "local-replayed",
        "eager",
        "gemm",
        "fp32",
        24,
    )
    assert fit.median_error < 0.02
    assert fit.t0 == pytest.approx(ROOF.t0_s, rel=0.2)
    assert (found.power, found.unstable, found.profile.id) == ("not measured", (), "local-replayed")


def test_an_interrupt_keeps_what_was_measured_and_fits_it(replayed, tmp_path):
    # a batch of eight: 3 warm-up calls each, then 9 rounds of 1 + 2·8 measurements; the second batch is not finished
    replayed(interrupted_after=(8 * 3 + 9 * 17) + 40)
    found = calibrated(tmp_path, code=130)
    names = [line["name"] for line in written(tmp_path / "local.samples.jsonl")[1:]]
    assert names == [f"gemm {number}" for number in range(8)]
    assert found.efficiencies[0].rows == 8


def test_an_interrupted_run_is_resumed_where_it_stopped(replayed, tmp_path):
    replayed(interrupted_after=8 * 3 + 9 * 17 + 40)
    calibrated(tmp_path, code=130)
    clock = replayed()
    found = calibrated(tmp_path, "--samples", str(tmp_path / "local.samples.jsonl"))
    assert found.efficiencies[0].rows == 24
    assert len(clock.asked) == 2 * (8 * 3 + 9 * 17)  # the other two batches, and nothing twice
    replayed()
    calibrated(tmp_path)  # without --samples a run measures anew
    assert [line["name"] for line in written(tmp_path / "local.samples.jsonl")[1:]] == [f"gemm {n}" for n in range(24)]


def test_an_interrupt_before_anything_was_measured_says_so(replayed, tmp_path):
    replayed(interrupted_after=5)
    wish = measuring.Wish(
        device="cpu", threads=None, quick=True, output=tmp_path / "local.yaml", samples=tmp_path / "kept.jsonl"
    )
    with pytest.raises(CapacityError, match="too little was measured to fit anything"):
        measuring.calibrate_machine(wish, as_json=False)
    assert not (tmp_path / "local.yaml").exists()
    assert (tmp_path / "kept.jsonl").exists()


def test_an_interrupt_while_power_is_measured_keeps_the_fit(replayed, tmp_path, monkeypatch):
    replayed()
    monkeypatch.setattr(run, "power", lambda _backend: (_ for _ in ()).throw(KeyboardInterrupt))
    assert calibrated(tmp_path, code=130).efficiencies[0].rows == 24


def test_json_stays_json_when_interrupted(replayed, tmp_path):
    replayed(interrupted_after=8 * 3 + 9 * 17 + 40)
    output = tmp_path / "local.yaml"
    done = capacity("calibrate", "--device", "cpu", "--quick", "--json", "--output", output)
    assert (done.code, done.json["file"]) == (130, str(output))
    assert "continue with --samples" in done.err


def test_a_folder_as_output_is_refused_before_measuring(replayed, tmp_path):
    clock = replayed()
    wish = measuring.Wish(device="cpu", threads=None, quick=True, output=tmp_path, samples=None)
    with pytest.raises(InputError, match="is a folder"):
        measuring.calibrate_machine(wish, as_json=False)
    assert clock.asked == []


# --- really run -----------------------------------------------------------------------------------------------------


def few_cases(backend: run.Backend) -> list[Case]:
    """Return four small fp32 cases of each class that the LSTM scenario executes."""
    kept: dict[str, list[Case]] = {name: [] for name in ("gemm", "recurrent", "streaming.softmax", "topk", "gather")}
    for case in suite.cases(backend, quick=True):
        chosen = kept.get(case.operations[0].operation, [])
        if case.mode is None and case.operations[0].dtype == "fp32" and "1000000" not in case.name and len(chosen) < 4:
            chosen.append(case)
    return [case for chosen in kept.values() for case in chosen]


def test_a_real_run_ends_in_a_plan(tmp_path, monkeypatch):
    """Real kernels of this machine, few and short: no time is asserted, only that the numbers get through."""
    pytest.importorskip("transformers", reason="the suite's encoders need transformers")
    cases = few_cases(run.Backend.local("cpu"))
    monkeypatch.setattr(suite, "cases", lambda _backend, quick: cases)
    monkeypatch.setattr(run, "QUICK", Plan(quick=True, limit_s=5.0))
    monkeypatch.setattr(Plan, "effort", property(lambda _self: run.Effort(rounds=5, warmup_s=0.02, round_limit_s=0.1)))
    found = calibrated(tmp_path)
    assert "gemm" in {fit.operation for fit in found.efficiencies}  # first in line, whatever time there is
    assert all(fit.basis == "calibrated" and np.isfinite(fit.log_sigma) for fit in found.efficiencies)
    assert found.machine.software["torch"]

    path, local = str(tmp_path / "local.yaml"), found.hardware
    done = capacity("plan", "lstm-sequence", "--hardware", local, "--calibration", path, "--json")
    assert done.code in {0, 1}, done.err  # feasible or not is this machine's business
    (option,) = done.json["options"]
    assert (option["hardware"], option["origin"]) == (local, found.id)
    (stage,) = option["stages"]
    assert stage["time_s"]["basis"] in BASES[: BASES.index("projected") + 1]  # kernels measured, launch cost assumed
    assert option["basis"] in BASES


# --- from tables ----------------------------------------------------------------------------------------------------


def table() -> pd.DataFrame:
    hardware, draw = catalogue.hardware("a100-sxm-80gb"), np.random.default_rng(0)
    m = np.round(2 ** draw.uniform(0, 13, 60))
    n, k = (np.round(2 ** draw.uniform(12, 14, 60)) for _ in range(2))
    values = GEMM.typical | {"t0_s": 5e-6, "flop_efficiency": 0.8, "bandwidth_efficiency": 0.75}
    times = GEMM.seconds(Gemm(m=m, n=n, k=k, dtype="bf16"), Board(hardware), values)
    times = times * draw.lognormal(sigma=0.05, size=60) * 1e6
    names = {"hardware": hardware.id, "engine": "vllm 0.14.0", "dtype": "bf16"}
    return pd.DataFrame(names | {"m": m, "n": n, "k": k, "latency_us": times})


def from_table(folder: Path, frame: pd.DataFrame, *more: str) -> Result:
    source = folder / "table.csv"
    frame.to_csv(source, index=False)
    fixed = ("--from", source, "--kind", "gemm", "--hardware", "a100-sxm-80gb", "--output", folder / "fitted.yaml")
    return capacity("calibrate", *fixed, *more)


def test_a_table_becomes_a_calibration_that_plans_use(tmp_path):
    assert from_table(tmp_path, table()).code == 0
    found, profile = catalogue.calibrations([str(tmp_path / "fitted.yaml")])[0]
    assert (found.hardware, profile.id, found.engine, found.machine) == (
        "a100-sxm-80gb",
        "a100-sxm-80gb",
        "fused",
        None,
    )
    (fit,) = found.kernels
    assert fit.key == ("gemm", "library", "bf16", "bf16")
    assert fit.values["flop_efficiency"] == pytest.approx(0.8, rel=0.1)
    assert fit.values["bandwidth_efficiency"] == pytest.approx(0.75, rel=0.1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"m": 0}, "m must be a positive number"),
        ({"m": -1}, "m must be a positive number"),
        ({"m": "many"}, "m must be a positive number"),
        ({"n": None}, "n must be a positive number"),
        ({"k": 1e300}, "k must be a positive number, at most 1e+12"),
        ({"latency_us": 0}, "latency_us must be a positive number"),
        ({"latency_us": -3}, "latency_us must be a positive number"),
        ({"latency_us": "inf"}, "latency_us must be a positive number"),
        ({"engine": None}, "engine is blank"),
        ({"dtype": None}, "dtype is blank"),
        ({"hardware": None}, "hardware is blank"),
    ],
)
def test_rows_that_cannot_be_fitted_are_left_out_and_counted(tmp_path, change, reason):
    good = table()
    bad = good.iloc[:2].astype(object).assign(**change)
    done = from_table(tmp_path, pd.concat([good.astype(object), bad], ignore_index=True), "--json")
    assert done.code == 0, done.err
    assert f"rows left out: 2 ({reason}" in done.err
    (fit,) = done.json["kernels"]
    assert fit["rows"] == 60


@pytest.mark.parametrize(
    ("frame", "arguments", "message"),
    [
        (table(), ("--kind", "gemm"), "1 --from tables need as many --kind, got 2"),
        (table(), ("--engine", "quick"), "unknown engine 'quick'"),
        (table(), ("--hardware", "a100-sxm"), "'a100-sxm'; did you mean"),
        (table(), ("--hardware", "l40s"), "no rows of hardware l40s; it has a100-sxm-80gb"),
        (table().drop(columns="latency_us"), (), "a fit needs column 'latency_us'"),
        (table().drop(columns="m"), (), "kind gemm needs column 'm'"),
        (table().assign(m=0), (), "no rows of hardware a100-sxm-80gb; it has no usable row at all"),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_what_is_allowed(tmp_path, frame, arguments, message):
    done = from_table(tmp_path, frame, *arguments)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "fitted.yaml").exists()


def test_a_kind_without_a_fit_is_refused_with_those_that_have_one(tmp_path):
    table().to_csv(tmp_path / "t.csv", index=False)
    done = capacity("calibrate", "--from", tmp_path / "t.csv", "--kind", "fp32_steps", "--hardware", "a100-sxm-80gb")
    assert done.code == 2
    known = "attention, collective, encoder, gemm, gemm_fp32, mlperf_inference, moe"
    assert f"unknown kind 'fp32_steps'; known: {known}" in done.err
