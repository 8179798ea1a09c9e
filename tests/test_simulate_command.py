"""`capacity simulate`: the sentence, the tables, the JSON of `capacity.serving`, files, refusals, and goldens.

`pytest tests/test_simulate_command.py --regenerate` writes the goldens anew.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from command_line import Result, capacity
from report_plans import TODAY

from capacity.report import serving_json
from capacity.report.serving_figures import OVERLOADED

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).parent / "golden" / "serving"
ENCODER, LLM = "cross-encoder-rerank", "generated-copy"
ON_L4 = (ENCODER, "-H", "l4", "--requests", "2000", "--today", TODAY.isoformat())
NO_NUMBER = re.compile(r"\b(nan|inf|infinity)\b", re.IGNORECASE)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("CAPACITY_PATH", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@lru_cache(maxsize=32)
def simulated(*arguments: str) -> Result:
    return capacity("simulate", *arguments)


def option(*arguments: str) -> dict:
    said = simulated(*arguments, "--json")
    assert not said.err
    return said.json["options"][0]


def test_the_answer_names_fleet_tail_errors_cost_and_alternatives():
    said = simulated(ENCODER, "-H", "l4", "-H", "t4", "--requests", "2000", "--today", TODAY.isoformat())
    assert said.code == 0
    first = said.out.splitlines()[0]
    for part in (
        r"7 × L4 \(6 \+ 1 spare\) hold p99 ≤ 2 s at 37.5 requests/s", r"p99 \d+ ms \(\d+ ms – \d+ ms by the error",
        r"by the run\)", r"\$0\.\d+ for 1,000 recommendations \(all of \$\d\.\d\d an hour\)", r"one replica fewer and",
        r"perfect autoscaler would keep 2\.\d+ of the 6", r"next best is \d+ × T4 at \$[\d.]+ an hour \(\+\d+ %\)",
    ):  # fmt: skip
        assert re.search(part, first), part
    for title in ("Options", "L4: The run", "L4: Latency", "L4: Pools of replicas", "L4: Outcomes"):
        assert title in said.out
    assert "stable: " in said.out
    assert not NO_NUMBER.search(said.out)
    assert not said.err  # no progress where nobody watches


def test_tokens_are_named_where_text_is_generated():
    said = simulated(LLM, "-H", "l40s", "--requests", "2000")
    assert re.search(r"1 M tokens: \$[\d.]+ input, \$[\d.]+ output, \$[\d.]+ in all", said.out)
    assert all(name in said.out for name in ("TTFT", "TPOT", "ITL", "KV mean"))
    found = option(LLM, "-H", "l40s", "--requests", "2000")
    cost, (pool,) = found["cost"], found["pools"]
    hour = cost["usd_per_hour"]
    per_second = hour / 3600 / cost["usd_per_thousand_recommendations"] * 1000
    assert per_second == pytest.approx(found["run"]["throughput_per_s"])
    assert cost["usd_per_million_total_tokens"] < cost["usd_per_million_input_tokens"]
    assert 0 < pool["kv_mean_fraction"] < pool["kv_most_fraction"] <= 1


def test_the_json_holds_finite_numbers_with_units_or_reasons():
    said = simulated(*ON_L4, "--json")
    found = said.json
    assert (found["schema"], found["version"]) == (serving_json.SCHEMA, serving_json.VERSION)
    assert (found["requests"], found["seed"], found["best"]) == (2000, 0, "l4")
    assert found["answer"] == simulated(*ON_L4).out.splitlines()[0]

    def walked(value, path):
        if isinstance(value, dict):
            for key, inner in value.items():
                assert inner is not None or f"{key}_reason" in value, f"{path}.{key}"
                walked(inner, f"{path}.{key}")
        elif isinstance(value, list):
            for inner in value:
                walked(inner, path)
        elif isinstance(value, float):
            assert math.isfinite(value), path

    walked(found, "")
    (first,) = found["options"]
    names = [row["name"] for row in first["latencies"]]
    assert names == ["end to end", "tokenize", "rerank"]
    whole = first["latencies"][0]
    assert whole["p50_s"] < whole["p90_s"] < whole["p99_s"] == first["latency_quantile_s"]
    assert whole["p99_9_error_s"] is None  # 100 requests a batch cannot tell
    assert first["latency_quantile_low_s"] < first["latency_quantile_s"] < first["latency_quantile_high_s"]
    for row in first["outcomes"]:
        assert sum(value for key, value in row.items() if key.endswith("_fraction")) == pytest.approx(1)


def test_the_same_seed_gives_the_same_text():
    assert capacity("simulate", *ON_L4, "--json").out == simulated(*ON_L4, "--json").out
    assert simulated(*ON_L4, "--seed", "1", "--json").json["options"] != simulated(*ON_L4, "--json").json["options"]


def test_a_fixed_fleet_that_is_too_small_is_overloaded():
    said = simulated(*ON_L4, "--replicas", "online=4")
    assert said.code == 1
    assert "no option holds p99 ≤ 2 s" in said.out.splitlines()[0]
    assert OVERLOADED in said.out
    assert "overloaded: " in said.out
    found = option(*ON_L4, "--replicas", "online=4")
    assert (found["pools"][0]["replicas"], found["run"]["state"], found["meets"]) == (4, "overloaded", False)
    assert found["latency_quantile_s"] is None


def test_the_closed_forms_fleet_is_taken_without_sizing():
    found = option(*ON_L4, "--no-size")
    assert found["trials"] == 0
    assert found["pools"][0]["replicas"] == found["pools"][0]["closed_form_replicas"]


def test_an_objective_nothing_holds_exits_with_1():
    said = simulated(*ON_L4, "--set", "objective.latency=20ms")
    assert said.code == 1
    assert "no option holds p99 ≤ 20 ms" in said.out
    assert not NO_NUMBER.search(said.out)


def test_a_large_fleet_is_simulated_by_a_share_and_says_so():
    arguments = (*ON_L4, "--set", "traffic.peak_rate=4000/s")
    assert option(*arguments)["simulated_one_in"] > 1
    assert "a representative share of the fleet" in simulated(*arguments).out


def test_a_trace_is_replayed(tmp_path):
    path = tmp_path / "trace.csv"
    rows = "\n".join(f"{place / 30},100,1" for place in range(600))
    path.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}\n", encoding="utf-8")
    said = capacity("simulate", ENCODER, "-H", "l4", "--trace", path, "--json")
    assert said.code == 0
    (found,) = said.json["options"]
    assert (found["run"]["requests"], found["trials"]) == (600, 0)
    assert found["run"]["offered_per_s"] == pytest.approx(30, rel=0.02)
    assert f"for the requests of {path}" in said.json["answer"]


def test_what_is_wrong_in_a_trace_is_said_at_its_place(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n1,2,3\n0.5,2,3\n", encoding="utf-8")
    said = capacity("simulate", ENCODER, "--trace", path)
    assert said.code == 2
    assert f"{path}:3" in said.err
    assert "sort by time" in said.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--replicas", "online"), "POOL=N"),
        (("--replicas", "online=0"), "POOL=N"),
        (("--replicas", "onlin=3"), "no stage runs in pool onlin; pools are online"),
        (("--output", "x.pdf"), "names no format"),
        (("--day", "--requests", "5"), "without --requests"),
        (("--day", "--trace", "x.csv"), "name two loads"),
        (("--hardware", "l5"), "unknown hardware"),
        (("--set", "objective.latency=soon"), "objective.latency"),
        (("--requests", "0"), "--requests"),
        (("--trace", "nobody.csv"), "nobody.csv"),
    ],
)
def test_nonsense_is_refused_with_one_message(arguments, expected):
    said = capacity("simulate", ENCODER, *arguments)
    assert said.code == 2
    assert expected in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("suffix", ["json", "csv", "md", "html"])
def test_files_hold_the_answer(tmp_path, suffix):
    path = tmp_path / f"serving.{suffix}"
    said = capacity("simulate", *ON_L4, "--output", path)
    assert (said.code, said.out) == (0, "")
    content = path.read_text(encoding="utf-8")
    assert "L4" in content
    if suffix == "json":
        assert json.loads(content) == simulated(*ON_L4, "--json").json
    elif suffix == "csv":
        (row,) = csv.DictReader(io.StringIO(content))
        assert float(row["latency_quantile_s"]) == option(*ON_L4)["latency_quantile_s"]
    else:
        drawn = re.sub(r"<script.*?</script>", "", content, flags=re.DOTALL)
        assert not NO_NUMBER.search(drawn)
        assert "7 × L4" in drawn
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", drawn)
    if suffix == "html":
        assert "A mean request:" in content


def test_planning_does_not_load_the_engine():
    code = (
        "import sys, capacity.cli, capacity.commands.simulating;"
        "print({'numba', 'plotly', 'capacity.simulation'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def rounded(value):
    """Return numbers at three digits: the last bits may differ between processors."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items() if key not in {"answer", "caveats"}}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


@pytest.mark.parametrize(("name", "hardware"), [(ENCODER, "l4"), (LLM, "l40s")])
def test_golden(name, hardware, request):
    said = simulated(name, "-H", hardware, "--requests", "2000", "--today", TODAY.isoformat(), "--json").json
    text = json.dumps(rounded(said), indent=1, ensure_ascii=False) + "\n"
    path = GOLDEN / f"{name}.json"
    if request.config.getoption("--regenerate"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text
