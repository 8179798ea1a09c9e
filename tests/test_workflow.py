"""The workflow for a GPU runner: well-formed, no more rights than needed, and every flag it uses exists."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from command_line import capacity

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/calibrate.yml").read_text(encoding="utf-8"))
JOBS = WORKFLOW["jobs"]


def scripts(job: str) -> str:
    return "\n".join(step.get("run", "") for step in JOBS[job]["steps"])


def test_the_gpu_machine_measures_and_only_another_may_write():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    on_gpu = {name for name, job in JOBS.items() if job["runs-on"] == ["self-hosted", "gpu"]}
    assert on_gpu == {"measure", "check"}
    assert {name for name, job in JOBS.items() if "permissions" in job} == {"propose"}
    assert JOBS["propose"]["needs"] == "measure"
    assert "schedule" in JOBS["check"]["if"]
    assert "schedule" in WORKFLOW[True]  # YAML 1.1 reads the key `on` as true
    assert "${{" not in "".join(map(scripts, JOBS))  # nothing from outside is pasted into a shell


def test_every_flag_of_capacity_exists():
    known = capacity("calibrate", "--help").out
    calls = re.findall(r"capacity calibrate ((?:[^\\|\n]|\\\n)*)", scripts("measure") + scripts("check"))
    assert len(calls) == 2
    for flag in {flag for call in calls for flag in re.findall(r"--[a-z-]+", call)}:
        assert flag in known, flag
    assert "calibrate:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "$(VENV)/.calibrate:" in (ROOT / "Makefile").read_text(encoding="utf-8")
