"""`capacity calibrate --check` from end to end: on a replayed clock, whose times are known, and once really run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command_line import Result, capacity
from replay_clock import Recorded, ReplayClock

from capacity import catalogue, history
from capacity.spec.hardware import Hardware
from capacity.timing.roofline import Roof, seconds
from capacity.work.operations import Gemm
from kernels import disturbance, machine, run, suite
from kernels.disturbance import Counters
from kernels.run import Plan
from kernels.timing import Case

ROOF = Roof(t0_s=2e-6, flop_per_s=1e12, bytes_per_s=5e10, sharpness=3)
Replay = Callable[..., ReplayClock]


@pytest.fixture
def replayed(monkeypatch, tmp_path) -> Replay:
    """Stand in for this machine: products that take what `ROOF` says times `slower`, beside a steady reference."""
    pytest.importorskip("torch", reason="`capacity calibrate` needs torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPACITY_PATH", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    shipped = catalogue.hardware("xeon-8480plus")
    profile = Hardware.model_validate(shipped.model_dump() | {"id": "local-replayed"})
    monkeypatch.setattr(machine, "detect_cpu", lambda: profile)
    monkeypatch.setattr(run, "power", lambda _backend: "not measured")
    monkeypatch.setattr(Counters, "read", classmethod(lambda cls, root="/": Counters(0, 0, 0, 0, 0)))

    def clock(
        slower: float = 1.0, interrupted_after: int | None = None, probe: tuple[float, ...] = (1e-3,)
    ) -> ReplayClock:
        found = ReplayClock(interrupted_after)
        works = [Gemm(m=2 ** (n % 12), n=512 + 64 * n, k=768, dtype="fp32") for n in range(24)]
        times = [slower * float(seconds(work, ROOF)) for work in works]
        cases = [
            Case(f"gemm {n}", (w,), lambda t=t: Recorded(t)) for n, (w, t) in enumerate(zip(works, times, strict=True))
        ]
        monkeypatch.setattr(suite, "cases", lambda _backend, quick: cases)
        monkeypatch.setattr(run.Backend, "reference", lambda _self: Recorded(*probe))
        monkeypatch.setattr(run.Backend, "clock", lambda _self: found)
        return found

    return clock


def calibrated(*more: object) -> Result:
    done = capacity("calibrate", "--device", "cpu", "--quick", *more)
    assert done.code == 0, done.err
    return done


def checked(*more: object, baseline: str = "calibrations/local-replayed.yaml") -> Result:
    return capacity("calibrate", "--check", baseline, "--quick", *more)


@pytest.mark.parametrize(
    ("slower", "code", "verdict"), [(1.0, 0, "pass"), (1.055, 75, "inconclusive"), (1.2, 1, "fail")]
)
def test_the_verdict_is_the_exit_code(replayed, slower, code, verdict):
    replayed()
    calibrated()
    replayed(slower)
    done = checked("--json")
    assert done.code == code, done.err
    assert (done.json["verdict"], done.json["basis"]) == (verdict, "measured")
    assert done.json["overall"]["ratio"] == pytest.approx(slower)
    assert done.json["overall"]["cases"] == 24
    assert done.json["reference_ratio"] == 1
    shown = checked()
    assert shown.code == code
    assert f"{verdict.upper()}: " in shown.out
    assert "smallest detectable change 2.5%; whole runs differ by 1.0% (assumed)" in shown.out


def test_the_limit_is_a_flag(replayed):
    replayed()
    calibrated()
    replayed(1.2)
    assert checked("--max-slowdown", "25%").code == 0
    assert checked("--max-slowdown", "much").code == 2
    assert checked("--max-slowdown=-1%").code == 2


def test_samples_and_id_name_the_same_baseline(replayed):
    replayed()
    calibrated()
    for name in ("calibrations/local-replayed.samples.jsonl", "local-replayed"):
        done = checked("--json", baseline=name)
        assert (done.code, done.json["basis"]) == (0, "measured"), done.err
    before = Path("calibrations/local-replayed.samples.jsonl").read_bytes()
    checked()
    assert Path("calibrations/local-replayed.samples.jsonl").read_bytes() == before


def test_without_its_samples_the_predictions_are_the_baseline_and_the_answer_says_so(replayed):
    replayed()
    calibrated()
    Path("calibrations/local-replayed.samples.jsonl").unlink()
    done = checked("--json")
    assert done.json["basis"] == "predicted"
    assert done.json["overall"]["ratio"] == pytest.approx(1, abs=0.03)
    replayed(2.0)
    shown = checked()
    assert shown.code == 1
    assert "compared with its predictions" in shown.out


def test_a_contaminated_machine_is_refused_with_the_reason(replayed, monkeypatch):
    replayed()
    calibrated()
    replayed(1.2, probe=(1e-3, 1e-3, 2e-3) * 200)  # two of three samples stand beside a slow reference
    shown = checked("--json")
    assert shown.code == 75
    assert "this run: a neighbor was at work at" in shown.json["reasons"][0]
    replayed(1.2)
    monkeypatch.setattr(disturbance, "between", lambda *_: ["load from others: 1.0 of 2 processors"])
    assert checked("--json").json["reasons"] == ["load from others: 1.0 of 2 processors"]


def test_another_machine_is_refused_by_what_differs(replayed, monkeypatch):
    replayed()
    calibrated()
    here = machine.fingerprint(2)
    monkeypatch.setattr(
        machine, "fingerprint", lambda threads: here.model_copy(update={"name": "Z80", "threads": threads})
    )
    done = checked()
    assert done.code == 2
    assert f"is of another machine: machine was {here.name}, is Z80" in done.err


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        ("nowhere.yaml", "nowhere.yaml: no such file"),
        ("nowhere.jsonl", "nowhere.jsonl: cannot be read"),
        ("fitted.yaml", "was not measured on this machine but fitted to a table"),
        ("l40z", "unknown calibration 'l40z'"),
    ],
)
def test_what_is_no_baseline_is_refused(replayed, baseline, said):
    replayed()
    calibrated()
    document = yaml.safe_load(Path("calibrations/local-replayed.yaml").read_text())
    del document["machine"]
    Path("fitted.yaml").write_text(yaml.safe_dump(document))
    done = checked(baseline=baseline)
    assert done.code == 2
    assert said in done.err


def test_samples_of_another_machine_beside_a_calibration_are_refused(replayed):
    replayed()
    calibrated()
    path = Path("calibrations/local-replayed.samples.jsonl")
    header, rest = path.read_text().split("\n", 1)
    path.write_text(json.dumps(json.loads(header) | {"machine": "Z80 CP/M cpu 1"}) + "\n" + rest)
    done = checked()
    assert done.code == 2
    assert "lies beside local-replayed.yaml but was measured on another machine or engine" in done.err


def test_a_baseline_is_not_compared_with_itself(replayed):
    replayed()
    calibrated()
    done = checked("--samples", "calibrations/../calibrations/local-replayed.samples.jsonl")
    assert done.code == 2
    assert "holds the baseline; --samples must name another file" in done.err


def test_interrupted_it_gives_no_verdict_and_goes_on_with_its_samples(replayed):
    replayed()
    calibrated()
    replayed(1.2, interrupted_after=8 * 3 + 9 * 17 + 40)
    done = checked("--output", "found.json", "--history", "history.jsonl", "--plot", "history.html")
    assert done.code == 130
    assert "no verdict; continue with --samples" in done.err
    assert not Path("found.json").exists()
    assert not Path("history.jsonl").exists()
    replayed(1.2)
    assert checked("--samples", "calibrations/local-replayed.check.samples.jsonl").code == 1


def test_files_for_other_tools(replayed):
    replayed()
    calibrated("--benchmark-json", "calibrated.json", "--bmf", "calibrated.bmf.json")
    replayed(1.2)
    assert checked("--benchmark-json", "b.json", "--bmf", "bmf.json", "--output", "found.json").code == 1
    times = {name: json.loads(Path(name).read_text()) for name in ("calibrated.json", "b.json", "bmf.json")}
    first, later = times["calibrated.json"][0], times["b.json"][0]
    assert set(first) == {"name", "unit", "value", "range", "extra"}
    assert (first["name"], first["unit"]) == ("gemm 0", "ns")
    assert later["value"] / first["value"] == pytest.approx(1.2, rel=1e-3)
    latency = times["bmf.json"]["gemm 0"]["latency"]
    assert latency["lower_value"] <= latency["value"] == later["value"] <= latency["upper_value"]
    assert json.loads(Path("found.json").read_text())["verdict"] == "fail"


def test_runs_make_a_history_that_tells_how_whole_runs_scatter(replayed, monkeypatch):
    monkeypatch.setenv("GITHUB_SHA", "0123456789abcdef")
    replayed()
    calibrated("--history", "history.jsonl")
    for slower in (1.02, 1.0, 1.02, 1.0, 1.02):
        replayed(slower)
        found = checked("--history", "history.jsonl", "--json").json
    assert found["run_error_from"] == "assumed"  # five runs before this one
    replayed(1.0)
    found = checked("--history", "history.jsonl", "--json").json
    assert found["run_error_from"] == "6 earlier runs"
    assert found["run_error"] == pytest.approx(1.4826 * 0.0198, rel=0.01)  # ln 1.02 from one run to the next
    entries, problems = history.read(Path("history.jsonl"))
    assert not problems
    assert [entry.kind for entry in entries] == ["calibrate", *["check"] * 6]
    assert entries[-1].commit == "0123456789abcdef"
    assert entries[-1].medians_s["gemm fp32"].keys() == {f"gemm {n}" for n in range(24)}


def test_drawing_a_history_runs_nothing(replayed):
    clock = replayed()
    calibrated("--history", "history.jsonl")
    asked = len(clock.asked)
    with Path("history.jsonl").open("a") as file:
        file.write("not json\n")
    done = capacity("calibrate", "--history", "history.jsonl", "--plot", "history.html", "--json")
    assert (done.code, done.json["runs"], len(clock.asked)) == (0, 1, asked)
    assert done.json["skipped"][0].startswith("history.jsonl:2: is skipped: ")
    assert "history.jsonl:2: is skipped" in done.err
    assert "plotly.js v" in Path("history.html").read_text()
    assert checked("--history", "history.jsonl", "--plot", "again.html").code == 0
    assert Path("again.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--plot", "x.html"), "--plot draws a history: name it with --history FILE"),
        (("--plot", "x.html", "--history", "nowhere.jsonl"), "nowhere.jsonl: cannot be read: No such file"),
        (("--plot", ".", "--history", "nowhere.jsonl"), ".: is a folder; name a file in it"),
        (
            ("--plot", "x.html", "--history", "h.jsonl", "--bmf", "b.json"),
            "--plot without --check runs nothing; it goes without --bmf",
        ),
        (("--from", "t.csv", "--check", "x"), "--from reads a table and runs nothing; it goes without --check"),
        (("--history", "."), ".: is a folder; name a file in it"),
        (("--check", "calibrations/local-replayed.yaml", "--output", "."), ".: is a folder; name a file in it"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_before_anything_runs(replayed, arguments, said):
    replayed()
    calibrated()
    clock = replayed()
    done = capacity("calibrate", *arguments)
    assert (done.code, clock.asked) == (2, [])
    assert said in done.err


def test_a_real_check_through_the_command_line(tmp_path, monkeypatch):
    """Real kernels of this machine, few and short: no time is asserted, only that a verdict comes out."""
    pytest.importorskip("transformers", reason="the suite's encoders need transformers")
    monkeypatch.chdir(tmp_path)
    backend = run.Backend.local("cpu")
    wanted = [
        case for case in suite.cases(backend, quick=True) if case.mode is None and case.operations[0].dtype == "fp32"
    ]
    few = [case for case in wanted if case.operations[0].operation in {"gemm", "streaming.softmax"}][:8]
    monkeypatch.setattr(suite, "cases", lambda _backend, quick: few)
    monkeypatch.setattr(Plan, "effort", property(lambda _self: run.Effort(rounds=5, warmup_s=0.02, round_limit_s=0.1)))
    assert calibrated("--output", "local.yaml").code == 0
    done = checked("--json", "--history", "history.jsonl", "--bmf", "bmf.json", baseline="local.yaml")
    assert done.code in {0, 1, 75}, done.err
    assert done.json["overall"]["cases"] == len(few)
    assert 0 < done.json["overall"]["low"] <= done.json["overall"]["ratio"] <= done.json["overall"]["high"]
    assert set(json.loads(Path("bmf.json").read_text())) == {case.name for case in few}
