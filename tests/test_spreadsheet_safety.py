"""Texts that a spreadsheet would run, in every file it may open: titles, stages, providers, hardware, own tables."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from command_line import capacity
from report_plans import TODAY, plan
from workbooks import Workbook

from capacity import catalogue, simulation
from capacity.commands import validating
from capacity.fleet.served import Question
from capacity.plan import Plan
from capacity.planner import inputs
from capacity.report import csv_report, focus, serving, serving_files, xlsx

DANGEROUS = tuple("=+-@\t\r\n＝＋－＠")
ATTACKS = (
    "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", '=HYPERLINK("http://x.example")',
    "x;=1+1;y", "x\t=1+1", "a\n@SUM(A1)", 'x";=1+1',
)  # fmt: skip


def hostile(attack: str) -> Plan:
    """A plan whose every text that a user or a price table writes is `attack`."""
    options = []
    for option in plan().options:
        lines = tuple(
            replace(line, name=attack, group=attack, unit=attack, formula=attack, source=attack, flags=(attack,))
            for line in option.cost.lines
        )
        stages = tuple(replace(stage, name=attack, pool=attack) for stage in option.stages)
        cost = replace(option.cost, lines=lines)
        options.append(replace(option, name=attack, hardware=attack, bound=attack, stages=stages, cost=cost))
    return replace(plan(), title=attack, scenario=attack, changes=(attack,), options=tuple(options))


def is_number(field: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", field) is not None


def run_by_a_spreadsheet(source: str) -> list[str]:
    """Return the cells that start a formula, however the spreadsheet separates fields."""
    found = []
    for separator in (",", ";", "\t"):
        for row in csv.reader(io.StringIO(source, newline=""), delimiter=separator):
            cells = [part for cell in row for part in re.split(r"[\r\n]", cell)] if separator != "," else row
            found += [cell for cell in cells if cell.startswith(DANGEROUS) and not is_number(cell)]
    return found


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("write", [csv_report.options, csv_report.costs, focus.render])
def test_no_cell_of_a_csv_report_is_run(write, attack):
    assert run_by_a_spreadsheet(write(hostile(attack))) == []


@pytest.mark.parametrize("write", [csv_report.options, csv_report.costs, focus.render])
def test_the_check_above_sees_what_is_not_neutralized(write, monkeypatch):
    for module in (csv_report, focus):
        monkeypatch.setattr(module, "neutral", lambda text: text)
    for attack in ATTACKS:
        assert run_by_a_spreadsheet(write(hostile(attack))), attack


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_cell_of_a_workbook_is_run(attack):
    content = xlsx.render(hostile(attack), catalogue.scenario("cross-encoder-rerank"))
    for _, _, cell in Workbook.of(content).formulas():
        assert re.fullmatch(r"[\w.$!'()*/+\- ,:]+", cell.formula), cell.formula
        assert isinstance(cell.value, float)


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_cell_of_a_simulation_is_run(attack):
    scenario = catalogue.scenario("cross-encoder-rerank")
    found = simulation.simulated(scenario, inputs(scenario, today=TODAY), Question(requests=200, seed=0), ("t4",))
    evil = tuple(replace(option, name=attack, hardware=attack) for option in found)
    said = serving.Answer(
        scenario=scenario.model_copy(update={"id": attack}), question=Question(requests=200, seed=0), options=evil,
        changes=(attack,), date=TODAY.isoformat(),
    )  # fmt: skip
    assert run_by_a_spreadsheet(serving_files.csv(said)) == []


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_cell_of_a_validated_table_is_run(attack, tmp_path: Path):
    frame = pd.DataFrame({attack: [attack, "t4"], "error": [-0.5, 0.25], "row": [0, 1], "gap": [None, attack]})
    validating._write_frame(frame, tmp_path / "out.csv")
    source = (tmp_path / "out.csv").read_text(encoding="utf-8")
    assert run_by_a_spreadsheet(source) == []
    assert "-0.5" in source


def test_the_command_neutralizes_names_of_a_table(tmp_path):
    table, out = tmp_path / "gemm.csv", tmp_path / "out.csv"
    table.write_text("hardware,engine,dtype,m,n,k,latency_us,note\n=1+1,eager,fp16,64,64,64,5,@SUM(A1)\n")
    capacity("validate", table, "--kind", "gemm", "--output", out)
    source = out.read_text(encoding="utf-8")
    assert "'@SUM(A1)" in source
    assert "'=1+1" in source
    assert run_by_a_spreadsheet(source) == []
