"""The CLI: every command, its exit codes, and the same numbers as the Python API and the reports."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command_line import capacity
from report_plans import TODAY

from capacity import catalogue, cli, documents, planner
from capacity.commands.looking import SCHEMAS
from capacity.commands.planning import FORMATS
from capacity.report import json_report
from capacity.spec.hardware import Hardware
from capacity.units import text, usd
from capacity.work.models import parameters

SCENARIO = "cross-encoder-rerank"
ON_TWO = (SCENARIO, "-H", "t4", "-H", "a100-sxm-80gb", "--today", TODAY.isoformat())
TOO_FAST = ("--set", "objective.latency=1ms")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("CAPACITY_PATH", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def commands(group, before=()):
    for name, command in sorted(getattr(group, "commands", {}).items()):
        yield (*before, name)
        yield from commands(command, (*before, name))


COMMANDS = [(), *commands(typer.main.get_command(cli.app))]


def planned(*settings, overrides=()):
    """Return the plan of `ON_TWO` as the Python API gives it."""
    scenario = catalogue.scenario(SCENARIO, overrides, settings)
    given = planner.inputs(scenario, today=TODAY)
    return planner.plan(scenario, given, ("t4", "a100-sxm-80gb"), (*overrides, *settings))


# Help and exit codes


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command(command):
    said = capacity(*command, "--help")
    assert said.code == 0
    assert "Usage:" in said.out
    assert not said.err


def test_every_command_and_option_explains_itself():
    def check(command, name):
        assert command.help, name
        for option in command.params:
            assert getattr(option, "help", None) or option.name == "help", f"{name} {option.name}"
        for inner, one in getattr(command, "commands", {}).items():
            check(one, f"{name} {inner}")

    check(typer.main.get_command(cli.app), "capacity")


def test_every_leaf_command_offers_json():
    leaves = [command for command in COMMANDS if command not in {(), ("hardware",), ("model",), ("prices",)}]
    assert all("--json" in capacity(*leaf, "--help").out for leaf in leaves)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", "cross-encoder-rerankk"), "did you mean cross-encoder-rerank?"),
        (("plan", "no/such.yaml"), "no such file"),
        (("plan", SCENARIO, "-H", "a100"), "a100-pcie-40gb"),
        (("plan", SCENARIO, "-o", "grwth"), "did you mean growth?"),
        (("plan", SCENARIO, "-s", "traffic.peek_rate=1/s"), "peak_rate"),
        (("plan", SCENARIO, "-s", "traffic.peak_rate=-1/s"), "traffic.peak_rate"),
        (("plan", SCENARIO, "-s", "nothing"), "path.to.key=value"),
        (("plan", SCENARIO, "-c", "no-such-calibration"), "unknown"),
        (("plan", SCENARIO, "--today", "tomorrow"), "YYYY-MM-DD"),
        (("compare", SCENARIO), "--override or --set"),
        (("compare", SCENARIO, "-o", "growth", "--fail-over", "much"), "much"),
        (("report", SCENARIO, "-f", "docx"), "known: csv, focus, html, json, markdown, parquet, pdf, xlsx"),
        (("hardware", "show", "t5"), "t4"),
        (("model", "show", "gpt3"), "gpt2"),
        (("schema", "hardwear"), "did you mean hardware"),
        (("dashboard", "no-such-scenario", "--json"), "unknown scenario"),
        (("calibrate", "--from", "table.csv"), "--hardware"),
        (("calibrate", "--from", "table.csv", "-H", "t4"), "--kind"),
        (("calibrate", "--from", "table.csv", "-H", "t4", "--kind", "gem"), "did you mean gemm or gemm_fp32?"),
        (("validate", "table.csv", "--kind", "gem"), "did you mean gemm or gemm_fp32?"),
        (("validate", "table.csv", "--kind", "gemm"), "table.csv: no such file"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(arguments, said):
    result = capacity(*arguments)
    assert result.code == 2
    assert said in result.err
    assert all(line.startswith("error: ") for line in result.err.splitlines())
    assert not result.out


def test_a_defect_is_exit_3_without_a_traceback(monkeypatch):
    monkeypatch.setattr(planner, "plan", lambda *_: 1 / 0)
    result = capacity("plan", SCENARIO)
    assert result.code == 3
    assert "a defect of ours (ZeroDivisionError: division by zero)" in result.err


# One engine, one set of numbers


def test_plan_says_the_sentence_and_its_doubts():
    result = capacity("plan", *ON_TWO)
    report = json_report.to_dict(planned())
    assert result.code == 0
    assert report["answer"] in result.out
    best = [caveat for caveat in report["caveats"] if caveat.startswith(report["options"][0]["name"])]
    assert best
    assert all(f"• {caveat}" in result.out for caveat in best)
    assert "stands in `capacity report`" in result.out  # where the doubts of the other options are


def test_plan_json_is_the_python_api_and_the_json_report(tmp_path):
    told = capacity("plan", *ON_TWO, "--json")
    reported = capacity("report", *ON_TWO, "--format", "json")
    capacity("report", *ON_TWO, "--format", "json", "--output", tmp_path / "plan.json")
    assert told.code == reported.code == 0
    assert told.json == json_report.to_dict(planned())
    assert told.out == reported.out == (tmp_path / "plan.json").read_text(encoding="utf-8")


def test_settings_overrides_and_hardware_reach_the_plan():
    more = ("-o", "growth", "-s", "objective.latency=3 s", "--json")
    found = capacity("plan", *ON_TWO, *more).json
    assert found == json_report.to_dict(planned("objective.latency=3 s", overrides=("growth",)))
    assert found["peak_rate_per_s"] == 75
    assert found["objective"]["latency_s"] == 3
    assert {option["hardware"] for option in found["options"]} == {"t4", "a100-sxm-80gb"}


@pytest.mark.parametrize("format_", FORMATS)
def test_report_to_a_file_is_the_report_to_the_screen(format_, tmp_path):
    target = tmp_path / "reports" / f"plan.{format_}"
    printed = capacity("report", *ON_TWO, "-f", format_)
    written = capacity("report", *ON_TWO, "-f", format_, "-O", target)
    assert (printed.code, written.code, written.out) == (0, 0, "")
    assert target.read_bytes().decode() == printed.out


def test_every_format_holds_the_numbers_of_the_plan():
    plan = planned()
    said = {format_: capacity("report", *ON_TWO, "-f", format_).out for format_ in FORMATS}
    bills: dict[str, float] = {}
    for row in csv.DictReader(said["csv"].splitlines()):
        bills[row["hardware"]] = bills.get(row["hardware"], 0.0) + float(row["usd_per_month"])
    for option, told in zip(plan.options, json.loads(said["json"])["options"], strict=True):
        assert told["cost"]["usd_per_month"] == option.cost.usd
        assert bills[option.hardware] == pytest.approx(option.cost.usd, rel=1e-9)
        for page in (said["markdown"], said["html"], capacity("plan", *ON_TWO).out):
            assert usd(option.cost.usd) in page
            assert text(option.latency_quantile_s, "seconds") in page
            assert option.basis in page


def test_infeasible_is_an_answer_with_exit_1():
    told = capacity("plan", *ON_TWO, *TOO_FAST, "--json")
    printed = capacity("plan", *ON_TWO, *TOO_FAST)
    reported = capacity("report", *ON_TWO, *TOO_FAST)
    compared = capacity("compare", *ON_TWO, *TOO_FAST)
    assert {result.code for result in (told, printed, reported, compared)} == {1}
    assert told.json["best"] is None
    assert told.json["best_reason"] == "no option is feasible"
    assert all("no option is feasible" in result.out for result in (printed, reported))


def test_list_names_scenarios_overrides_and_domains():
    found = capacity("plan", "--list", "--json")
    assert found.code == 0
    assert {row["id"] for row in found.json["scenarios"]} == set(documents.catalogue("scenarios"))
    assert set(found.json["domains"]) == set(documents.catalogue("scenarios/domains"))
    overrides = next(row["overrides"] for row in found.json["scenarios"] if row["id"] == SCENARIO)
    printed = capacity("plan")
    assert all(name in printed.out for name in (SCENARIO, *overrides, *found.json["domains"]))


# Comparing


def test_compare_gives_total_and_delta_of_two_plans():
    found = capacity("compare", *ON_TWO, "-o", "growth", "--json")
    before, after = planned(), planned(overrides=("growth",))
    assert found.code == 0
    assert found.json["best"]["old_usd_per_month"] == before.best.cost.usd
    assert found.json["best"]["new_usd_per_month"] == after.best.cost.usd
    assert found.json["best"]["delta_usd_per_month"] == after.best.cost.usd - before.best.cost.usd
    costs = [{option.hardware: option.cost.usd for option in plan.options} for plan in (before, after)]
    for option in found.json["options"]:
        totals = [option["total"][f"{when}_usd_per_month"] for when in ("old", "new")]
        assert totals == [cost[option["hardware"]] for cost in costs]
        assert sum(group["delta_usd_per_month"] for group in option["groups"]) == pytest.approx(totals[1] - totals[0])


def test_compare_prints_before_now_and_change():
    printed = capacity("compare", *ON_TWO, "-s", "traffic.peak_rate=75/s").out
    for plan in (planned(), planned(overrides=("growth",))):
        assert all(usd(option.cost.usd) in printed for option in plan.options)


def test_fail_over_is_a_gate():
    rise = planned(overrides=("growth",)).best.cost.usd / planned().best.cost.usd - 1
    above, below = f"{rise * 100 + 1:.3f}%", f"{rise * 100 - 1:.3f}%"
    assert capacity("compare", *ON_TWO, "-o", "growth", "--fail-over", above).code == 0
    failed = capacity("compare", *ON_TWO, "-o", "growth", "--fail-over", below)
    assert failed.code == 1
    assert f"gate failed: the cost of the best option rises by {rise:.1%}" in failed.err
    assert capacity("compare", *ON_TWO, "-o", "fewer-documents", "--fail-over", "0%").code == 0


# Looking


def test_hardware_list_and_show():
    listed = capacity("hardware", "list", "--json").json
    names = {row["id"] for row in listed}
    assert set(documents.catalogue("hardware_profiles")) <= names
    printed = capacity("hardware", "list").out
    assert all(name in printed for name in names)
    shown = capacity("hardware", "show", "a100-sxm-80gb", "--json").json
    assert Hardware.model_validate({k: v for k, v in shown.items() if k != "times"}) == catalogue.hardware(shown["id"])
    printed = capacity("hardware", "show", "a100-sxm-80gb").out
    assert "312 TFLOP/s" in printed
    assert f"times: {shown['times']['basis']}, from {shown['times']['origin']}" in printed


def test_hardware_check_passes_the_catalogue_and_fails_a_sparse_rate(tmp_path):
    assert capacity("hardware", "check").code == 0
    profile = capacity("hardware", "show", "t4", "--json").json
    del profile["times"]
    profile["dense_rates"]["fp32"]["value"] = 2 * profile["dense_rates"]["fp16"]["value"]
    wrong = tmp_path / "t4.yaml"
    wrong.write_text(json.dumps(profile), encoding="utf-8")
    checked = capacity("hardware", "check", wrong, "--json")
    assert checked.code == 1
    assert "sparse" in checked.json[str(wrong)][0]


def test_hardware_detect_writes_profiles_that_can_be_planned_for(tmp_path):
    assert capacity("hardware", "detect", "--output", tmp_path).code == 0
    written = sorted(tmp_path.glob("*.yaml"))
    assert written
    assert all(catalogue.hardware(str(path)).id == path.stem for path in written)
    assert capacity("plan", SCENARIO, "-H", written[0], "--json").json["options"][0]["hardware"] == written[0].stem


def test_model_list_and_show():
    listed = {row["id"]: row["parameters"] for row in capacity("model", "list", "--json").json}
    assert listed == {name: parameters(catalogue.model(name)) for name in documents.catalogue("model_profiles")}
    printed = capacity("model", "list").out
    assert all(name in printed for name in listed)
    shown = capacity("model", "show", "gpt2", "--tokens", 64, "--json").json
    assert shown["parameters"] == listed["gpt2"] == 124_439_808
    assert shown["pass_tokens"] == 64
    assert shown["weight_bytes"]["fp16"] == 2 * shown["parameters"]
    assert "124 M" in capacity("model", "show", "gpt2").out


def test_model_show_reads_a_hugging_face_config_by_path(tmp_path):
    folder = tmp_path / "my-bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(catalogue.model("bert-base").config), encoding="utf-8")
    shown = capacity("model", "show", folder / "config.json", "--json")
    assert shown.code == 0
    assert shown.json["id"] == "my-bert"
    assert shown.json["layers"] == 12
    assert shown.json["parameters"] == 108_891_648  # google-bert/bert-base-uncased without its pooler


def test_schema_prints_one_and_writes_all(tmp_path):
    assert capacity("schema", "--output", tmp_path).code == 0
    assert {path.stem for path in tmp_path.glob("*.json")} == set(SCHEMAS)
    for kind in SCHEMAS:
        printed = capacity("schema", kind)
        assert printed.json == json.loads((tmp_path / f"{kind}.json").read_text(encoding="utf-8"))
    assert set(capacity("schema", "--json").json) == set(SCHEMAS)


def test_stored_schemas_are_current(tmp_path):
    capacity("schema", "--output", tmp_path)
    stored = ROOT / "docs" / "reference" / "schemas"
    for path in tmp_path.glob("*.json"):
        known = json.loads((stored / path.name).read_text(encoding="utf-8"))
        assert known == json.loads(path.read_text(encoding="utf-8")), "run `make schemas`"


def test_dashboard_says_what_it_would_start():
    command = capacity("dashboard", SCENARIO, "--port", 8502, "--json").json["command"]
    assert command[:4] == [sys.executable, "-m", "streamlit", "run"]
    assert Path(command[4]).is_file()
    assert command[command.index("--server.port") + 1] == "8502"


# The module, as a process


def test_python_m_capacity_is_the_cli():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "capacity", "plan", *ON_TWO, "--json"]
    done = subprocess.run(words, capture_output=True, check=True, env=environment)
    assert done.stdout.decode() == capacity("plan", *ON_TWO, "--json").out


def test_a_reader_that_leaves_early_is_no_error():
    words = f"{sys.executable} -m capacity hardware list | head -c 10"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, shell=True, capture_output=True, check=True, env=environment)
    assert not done.stderr
