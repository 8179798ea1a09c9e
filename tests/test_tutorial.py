"""The tutorial does what it says: its scenario is valid and planned, and its commands run beside it."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest
from test_readme import commands
from typer.testing import CliRunner

from capacity import cli
from capacity.pages import state
from capacity.pages.state import View

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "tutorial.md").read_text(encoding="utf-8")
SCENARIO = textwrap.dedent(re.search(r"^ *```yaml\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)[1])


def test_the_scenario_may_be_put_into_the_editor():
    assert state.scenario(View(scenario="my-shop.yaml", text=SCENARIO)).id == "my-shop"


@pytest.mark.parametrize("line", commands(TEXT))
def test_a_command_of_the_tutorial(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "my-shop.yaml").write_text(SCENARIO, encoding="utf-8")
    command, _, remark = line.partition(" # ")
    done = CliRunner().invoke(cli.app, shlex.split(command)[1:])
    assert done.exit_code == (1 if "exit 1" in remark else 0), done.output
    assert "my-shop" in line


def test_the_tutorial_shows_commands():
    assert len(commands(TEXT)) == 5
