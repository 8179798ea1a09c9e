"""The commands that README.md shows do what they say: each `capacity …` line of its bash blocks is run.

A line that ends in `# exit 1` must exit with 1, every other with 0. Commands that take minutes, serve a page or hold a
`<placeholder>` are not run here; the CLI's own tests cover them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
NOT_RUN = ("capacity calibrate", "capacity dashboard")
PLACEHOLDER = re.compile(r"<[a-z][a-z -]*>")
FENCE = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Return the `capacity …` lines of the bash blocks in Markdown, continued lines joined."""
    blocks = "".join(FENCE.findall(text)).replace("\\\n", " ")
    lines = (re.sub(r"\s+", " ", line).strip().removeprefix("$ ") for line in blocks.splitlines())
    return [line for line in lines if line.startswith("capacity ")]


def test_commands_are_found_in_blocks_only():
    text = "capacity a\n```bash\n$ capacity b \\\n  --c\nls\ncapacity d  # exit 1\n```\n```yaml\ncapacity e\n```\n"
    assert commands(text) == ["capacity b --c", "capacity d # exit 1"]


SHOWN = commands(README.read_text(encoding="utf-8"))
RUN = [line for line in SHOWN if not line.startswith(NOT_RUN) and not PLACEHOLDER.search(line)]
PAGES = [README, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_readme_shows_commands():
    assert RUN, "README.md shows no `capacity …` command in a bash block"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    broken = [name for name in targets if "://" not in name and not (page.parent / name).exists()]
    assert not broken


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Return a folder that looks like the checkout but takes what commands write."""
    folder = tmp_path_factory.mktemp("readme")
    for path in ROOT.iterdir():
        if path.name not in {".git", ".venv"}:
            (folder / path.name).symlink_to(path)
    binaries = folder / ".bin"
    binaries.mkdir()
    script = binaries / "capacity"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m capacity "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return folder


@pytest.mark.parametrize("line", RUN)
def test_command_of_the_readme(line, elsewhere):
    command, _, remark = line.partition(" # ")
    expected = 1 if remark.strip().startswith("exit 1") else 0
    path = f"{elsewhere / '.bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=elsewhere,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expected, f"{line}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
