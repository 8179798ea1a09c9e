"""The wheel, built without the network and installed away from the checkout, works like the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from command_line import capacity
from report_plans import TODAY

ROOT = Path(__file__).resolve().parent.parent
PLAN = ("plan", "cross-encoder-rerank", "--json", "--today", TODAY.isoformat())
SHIPPED = [
    "hardware_profiles/a100-sxm-80gb.yaml",
    "hardware_profiles/calibrations/shared.yaml",
    "model_profiles/bge-reranker-v2-m3.yaml",
    "scenarios/cross-encoder-rerank.yaml",
    "scenarios/domains/e-commerce.yaml",
    "prices/devices.csv",
    "prices/purchase.csv",
    "prices/rates-us-east.yaml",
    "dashboard.py",
    ".streamlit/config.toml",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(target)]
    subprocess.run([*words, str(wheel)], check=True)
    return target


@pytest.fixture(scope="module")
def python(installed, tmp_path_factory):
    """Return a function that runs Python with the installed wheel, where the checkout cannot be imported.

    Without `site` (-S) no .pth file is read, so an editable install of the checkout does not count; the dependencies
    are named by their folders.
    """
    cwd = tmp_path_factory.mktemp("elsewhere")
    found = dict.fromkeys([str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CAPACITY", "PYTHON"))}

    def run(*words: object) -> str:
        done = subprocess.run(
            [sys.executable, "-S", *map(str, words)],
            cwd=cwd,
            env={**environment, "PYTHONPATH": os.pathsep.join(found)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_wheel_holds_the_catalogues_and_no_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        entries = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
        assert "calibrate" in archive.read(metadata).decode()
    assert {f"capacity/shipped/{name}" for name in SHIPPED} <= names
    for folder in ("hardware_profiles", "model_profiles", "scenarios", "prices", "convergence"):
        own = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {f"capacity/shipped/{name}" for name in own} <= names
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "capacity" / "report").rglob("*.j2")}
    assert templates
    assert templates <= names
    assert {"kernels/suite.py", "capacity/pages/plan.py"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "capacity = capacity.cli:main" in entries
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]


def test_the_checkout_is_out_of_reach(python, installed):
    code = "import sys, capacity.documents as d; print(d.__file__); print(*d.folders('scenarios')); print(*sys.path)"
    file, folders, path = python("-c", code).splitlines()
    assert file.startswith(str(installed))
    assert folders == str(installed / "capacity" / "shipped" / "scenarios")
    assert str(ROOT) not in path.split()


def test_installed_plan_is_the_plan_of_the_checkout(python, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert json.loads(python("-m", "capacity", *PLAN)) == capacity(*PLAN).json


def test_installed_catalogues_schemas_and_reports(python):
    listed = json.loads(python("-m", "capacity", "hardware", "list", "--json"))
    assert len(listed) == len(list((ROOT / "hardware_profiles").glob("*.yaml")))
    assert "cross-encoder-rerank" in python("-m", "capacity", "plan", "--list")
    assert "scenario" in json.loads(python("-m", "capacity", "schema", "--json"))
    assert "</html>" in python("-m", "capacity", "report", "cross-encoder-rerank", "--format", "html")


def test_installed_dashboard_opens(python, installed):
    page = Path(json.loads(python("-m", "capacity", "dashboard", "--json"))["command"][4])
    assert page == installed / "capacity" / "shipped" / "dashboard.py"
    code = (
        "import sys; from streamlit.testing.v1 import AppTest; "
        "app = AppTest.from_file(sys.argv[1], default_timeout=60).run(); "
        "print(*[item.value for item in app.exception], sep='\\n')"
    )
    assert not python("-c", code, page).strip()
