"""The history file: whole lines whoever writes at once, broken ones named and kept, and what is drawn from it."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from capacity import charts, history
from capacity.errors import InputError
from capacity.history import Entry
from capacity.spec.calibration import Machine

ROOT = Path(__file__).resolve().parent.parent
START = datetime(2026, 11, 22, tzinfo=UTC)


def entry(day: float = 0, factor: float = 1.0, name: str = "Xeon", **more) -> Entry:
    """Return a run of six cases, all `factor` slower than the first day's."""
    medians_s = {
        "gemm fp32": {f"gemm {n}": factor * 1e-3 * (n + 1) for n in range(4)},
        "topk fp32": {f"topk {n}": factor * 2e-3 for n in range(2)},
    }
    known = {"kind": "check", "verdict": "pass", "device": "cpu", "method_version": 1, "medians_s": medians_s} | more
    machine = Machine(name=name, system="Linux", software={"torch": "2.7"}, threads=2, driver="570")
    return Entry(time=START + timedelta(days=day), machine=machine, **known)


def test_what_is_appended_is_read_back_in_the_order_of_time(tmp_path):
    path = tmp_path / "made" / "history.jsonl"
    for day in (2, 1, 3):
        history.append(path, entry(day))
    entries, problems = history.read(path)
    assert entries == [entry(1), entry(2), entry(3)]
    assert problems == []


def test_runs_that_append_at_once_lose_nothing(tmp_path):
    path = tmp_path / "history.jsonl"
    big = {"gemm fp32": {f"gemm {n} {'x' * 60}": 1e-3 for n in range(400)}}  # 30 kB a line: more than a pipe's page

    def write(number: int) -> None:
        for step in range(10):
            history.append(path, entry(number + step / 100, medians_s=big))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    entries, problems = history.read(path)
    assert (len(entries), problems) == (80, [])


def test_processes_that_append_at_once_lose_nothing(tmp_path):
    path = tmp_path / "history.jsonl"
    history.append(path, entry())
    code = (
        "import sys; from pathlib import Path; from capacity import history; path = Path(sys.argv[1]);"
        "(first,), _ = history.read(Path(sys.argv[2])); [history.append(path, first) for _ in range(50)]"
    )
    seed = tmp_path / "seed.jsonl"
    history.append(seed, entry())
    command = [sys.executable, "-c", code, str(path), str(seed)]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [each.wait(120) for each in running] == [0, 0, 0]
    entries, problems = history.read(path)
    assert (len(entries), problems) == (151, [])


@pytest.mark.parametrize("cut", [1, 2, 50])
def test_a_line_that_was_cut_off_takes_no_other_along(tmp_path, cut):
    path = tmp_path / "history.jsonl"
    history.append(path, entry(1))
    history.append(path, entry(2))
    path.write_bytes(path.read_bytes()[:-cut])
    history.append(path, entry(3))
    entries, problems = history.read(path)
    kept = [entry(1), entry(2), entry(3)] if cut == 1 else [entry(1), entry(3)]
    assert entries == kept
    assert [problem.where for problem in problems] == ([] if cut == 1 else [f"{path}:2"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "should be an object"),
        (b"[" * 100_000, "Invalid JSON"),
        (b'{"time": "2026-11-22"}', "time: "),
        (entry().model_dump_json().replace("0.001", "-1").encode(), "medians_s.gemm fp32.gemm 0: "),
        (entry().model_dump_json().replace("0.001", "1e999").encode(), "medians_s.gemm fp32.gemm 0: "),
        (entry().model_dump_json().replace('"kind"', '"kin"').encode(), "kind: Field required"),
    ],
)
def test_a_broken_line_is_named_skipped_and_kept(tmp_path, line, said):
    path = tmp_path / "history.jsonl"
    history.append(path, entry(1))
    with path.open("ab") as file:
        file.write(line + b"\n\n")
    history.append(path, entry(2))
    before = path.read_bytes()
    entries, (problem,) = history.read(path)
    assert entries == [entry(1), entry(2)]
    assert problem.where == f"{path}:2"
    assert problem.what.startswith("is skipped: ")
    assert said in problem.what
    assert path.read_bytes() == before


def test_places_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "history.jsonl"):
        with pytest.raises(InputError, match="cannot be written"):
            history.append(path, entry())
        with pytest.raises(InputError, match="cannot be read"):
            history.read(path)


def test_a_full_disk_is_said():
    with pytest.raises(InputError, match="No space left"):
        history.append(Path("/dev/full"), entry())


def test_a_trend_starts_at_one_for_each_machine():
    rows = history.trend([entry(0), entry(1, 1.1), entry(2, 2.0, name="Epyc"), entry(3, 2.2, name="Epyc")])
    overall = [(row["machine"], row["ratio"]) for row in rows if row["part"] == "all"]
    assert [name for name, _ in overall] == ["Xeon, cpu, 2 threads"] * 2 + ["Epyc, cpu, 2 threads"] * 2
    assert [ratio for _, ratio in overall] == pytest.approx([1, 1.1, 1, 1.1])
    assert {row["part"] for row in rows} == {"all", "gemm fp32", "topk fp32"}
    assert {row["cases"] for row in rows if row["part"] == "all"} == {6}
    assert rows[0]["note"] == "driver 570, torch 2.7"


def test_only_cases_that_both_runs_measured_are_compared():
    fewer = entry(1, 1.1).model_copy(update={"medians_s": {"gemm fp32": {"gemm 0": 2e-3, "new": 9.0}}})
    rows = [row for row in history.trend([entry(0), fewer]) if row["time"] == fewer.time]
    assert [(row["part"], row["cases"], row["ratio"]) for row in rows] == [("all", 1, 2.0), ("gemm fp32", 1, 2.0)]
    other = fewer.model_copy(update={"medians_s": {"gemm fp32": {"new": 9.0}}})
    assert [row["time"] for row in history.trend([entry(0), other]) if row["part"] == "all"] == [START]


def test_disturbed_runs_and_other_machines_tell_nothing_about_scatter():
    runs = [entry(0), entry(1, disturbed=("load",)), entry(2, name="Epyc"), entry(3, method_version=2), entry(4, 1.1)]
    found = history.comparable(runs, history.place_of(entry().machine, "cpu"), 1)
    assert [run.time for run in found] == [START, START + timedelta(days=4)]
    first, second = history.log_seconds(found)
    assert len(first) == 6
    assert [b - a for a, b in zip(first, second, strict=True)] == pytest.approx([math.log(1.1)] * 6)
    assert history.log_seconds([]) == []


def test_the_chart_shows_verdicts_and_hides_classes_until_asked():
    runs = [entry(0, kind="calibrate", verdict=None), entry(1, 1.1, verdict="fail"), entry(2, verdict="inconclusive")]
    figure = charts.history_lines(history.trend(runs))
    assert [trace.visible for trace in figure.data] == [True, "legendonly", "legendonly"]
    assert list(figure.data[0].y) == pytest.approx([1, 1.1, 1])
    assert list(figure.data[0].marker.symbol) == ["diamond", "x", "circle-open"]
    assert "driver 570" in figure.data[0].hovertext[0]
    assert charts.history_lines([]).data == ()
