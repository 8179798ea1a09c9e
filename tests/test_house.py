"""The house style as a test: which part may import which, sizes, docstrings, and what must stay lazy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAIN = (
    "errors", "units", "problems", "documents", "spec", "work", "timing", "plan", "phases", "fleet", "money", "report",
)  # fmt: skip
"""Each part may import itself and the parts before it."""
UP_TO_TIMING = {*CHAIN[: CHAIN.index("timing") + 1]}
UP_TO_MONEY = {*CHAIN[: CHAIN.index("money") + 1]}
EDGE = {
    *CHAIN,
    "files",
    "catalogue",
    "references",
    "calibration",
    "validate",
    "planner",
    "simulation",
    "rollout",
    "outlook",
    "hosting",
    "levers",
    "search",
    "charts",
    "charts_accuracy",
    "charts_serving",
    "charts_jobs",
    "charts_money",
    "charts_search",
    "wishes",
    "history",
}
ALLOWED = {part: {*CHAIN[: index + 1]} for index, part in enumerate(CHAIN)} | {
    "plan": {"errors", "units", "timing"},
    "files": {"errors"},
    "catalogue": {"errors", "problems", "documents", "spec", "work", "timing"},
    "references": {"errors", "problems", "documents", "spec", "catalogue", "work"},
    "calibration": UP_TO_TIMING,
    "validate": UP_TO_TIMING | {"phases", "fleet", "catalogue", "validate"},
    "history": {"errors", "spec"},
    "planner": UP_TO_MONEY | {"catalogue", "references"},
    "simulation": UP_TO_MONEY | {"catalogue", "references", "planner"},
    "rollout": UP_TO_MONEY | {"catalogue", "references", "planner", "rollout"},
    "outlook": UP_TO_MONEY | {"catalogue", "references", "planner", "wishes"},
    "hosting": UP_TO_MONEY | {"catalogue", "references", "planner"},
    "levers": UP_TO_MONEY | {"catalogue", "references", "planner", "levers"},
    "search": UP_TO_MONEY | {"catalogue", "references", "planner", "levers", "search"},
    "charts": {"errors", "units", "plan", "report"},
    "charts_accuracy": {"charts", "report"},
    "charts_serving": {"charts", "units", "spec", "fleet", "report"},
    "charts_jobs": {"charts", "units", "plan", "fleet"},
    "charts_money": {"charts", "units", "money", "report"},
    "charts_search": {"charts", "units", "fleet", "report"},
    "wishes": {"errors", "documents", "spec"},
    "commands": EDGE | {"commands"},
    "pages": EDGE | {"pages"},
    "cli": {"errors", "units", "commands", "cli"},
    "__main__": {"cli"},
    "__init__": {*CHAIN, "catalogue", "calibration", "validate", "planner"},
    "dashboard": {"pages"},
    "kernels": {"errors", "units", "documents", "catalogue", "spec", "work", "kernels"},
}
LAZILY_ALLOWED = {
    ("capacity/report/serving_files.py", "charts"): "the HTML report draws charts",
    ("capacity/report/serving_files.py", "charts_serving"): "the HTML report draws charts",
    ("capacity/report/html.py", "charts"): "the HTML report draws charts; plotly takes a second to import",
    ("capacity/search/answer.py", "simulation"): "a search may do without numba, which takes a second to import",
    ("capacity/commands/measuring.py", "kernels"): "`capacity calibrate` runs the kernels",
    ("capacity/commands/checking.py", "kernels"): "`capacity calibrate --check` runs the kernels",
    ("capacity/commands/outputs.py", "kernels"): "what was run is told by classes of the suite",
    ("capacity/commands/looking.py", "kernels"): "`capacity hardware detect` looks at this machine",
}
OUTSIDE = {
    "torch": ("kernels/",),
    "transformers": ("kernels/",),
    "pynvml": ("kernels/",),
    "psutil": ("kernels/",),
    "onnx": ("kernels/",),
    "onnxruntime": ("kernels/",),
    "openvino": ("kernels/",),
    "ray": ("capacity/search/engines.py",),
    "streamlit": ("capacity/pages/", "dashboard.py"),
    "plotly": (
        "capacity/charts.py",
        "capacity/charts_accuracy.py",
        "capacity/charts_serving.py",
        "capacity/charts_jobs.py",
        "capacity/charts_money.py",
        "capacity/charts_search.py",
    ),
    "numba": (
        "capacity/timing/compiled.py",
        "capacity/fleet/simulator.py",
        "capacity/fleet/histogram.py",
        "capacity/fleet/replicas.py",
        "capacity/fleet/continuous_state.py",
    ),
}
"""Heavy packages, and the only files that may import them."""
PRINTS = ("capacity/cli/", "capacity/commands/")
FOREIGN_UNITS = ("_seconds", "_ms", "_us", "_gb", "_gib", "_mb", "_mib", "_tflops", "_hours_s", "_dollars", "_watts")
FILES = sorted([*(ROOT / "capacity").rglob("*.py"), *(ROOT / "kernels").rglob("*.py"), ROOT / "dashboard.py"])
FILES = [path for path in FILES if path.is_file()]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(module: str) -> str:
    """Return the part a dotted module belongs to: `capacity.spec.model` is spec, `kernels.run` is kernels."""
    words = module.split(".")
    if words[0] != "capacity":
        return words[0]
    return words[1] if len(words) > 1 else "__init__"


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Yield (module, line, whether it is imported at the top) of each import, those by name (importlib) included."""
    tree = tree_of(path)
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            modules = [f"{base}.{alias.name}" if base in {"capacity", "kernels"} else base for alias in node.names]
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: a relative import"
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module" and node.args:
            modules = [str(getattr(node.args[0], "value", ""))]
        else:
            continue
        for module in modules:
            yield module, node.lineno, id(node) in top


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, Function))


def body_of(function: Function) -> list[ast.stmt]:
    return function.body[1:] if ast.get_docstring(function) is not None else function.body


def parameters_of(function: Function) -> list[ast.arg]:
    found = function.args
    every = [*found.posonlyargs, *found.args, *found.kwonlyargs]
    return [argument for argument in every if argument.arg not in {"self", "cls"}]


def public(path: Path) -> Iterator[Function | ast.ClassDef]:
    """Yield public functions, classes and their public methods; what stands inside a function is nobody else's."""
    for node in tree_of(path).body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            inner = node.body if isinstance(node, ast.ClassDef) else []
            yield from (item for item in inner if isinstance(item, Function) and not item.name.startswith("_"))


def test_imports_go_one_way():
    wrong = []
    for path in FILES:
        own = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for module, line, at_top in imports(path):
            part = part_of(module)
            known = module.split(".")[0] in {"capacity", "kernels"} and part != "__init__"
            lazily = not at_top and (name_of(path), part) in LAZILY_ALLOWED
            if known and part not in ALLOWED[own] and not lazily:
                wrong.append(f"{name_of(path)}:{line}: {own} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_every_part_has_its_rule():
    parts = {part_of(".".join(path.relative_to(ROOT).with_suffix("").parts)) for path in FILES}
    assert parts <= set(ALLOWED), parts - set(ALLOWED)


def test_the_chain_is_the_one_of_the_design():
    assert all(ALLOWED[before] < ALLOWED[after] for before, after in pairwise(CHAIN) if "plan" not in {before, after})


@pytest.mark.parametrize("package", OUTSIDE)
def test_heavy_packages_stay_where_they_belong(package):
    wrong = [
        f"{name_of(path)}:{line}: imports {module}"
        for path in FILES
        for module, line, _ in imports(path)
        if module.split(".")[0] == package and not name_of(path).startswith(OUTSIDE[package])
    ]
    assert not wrong, "\n".join(wrong)


def test_no_assert_and_no_print_where_they_do_not_belong():
    wrong = []
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Assert):
                wrong.append(f"{name_of(path)}:{node.lineno}: assert; raise a CapacityError")
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id == "print" and not name_of(path).startswith(PRINTS):
                wrong.append(f"{name_of(path)}:{node.lineno}: print outside the CLI")
    assert not wrong, "\n".join(wrong)


def test_sizes():
    wrong = []
    extra = [path for folder in ("tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    for path in [*FILES, *extra]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > 400:
            wrong.append(f"{name_of(path)}: {lines} lines")
    for path in FILES:
        for function in functions(path):
            body, where = body_of(function), f"{name_of(path)}:{function.lineno}: {function.name}"
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > 40:
                wrong.append(f"{where} has {lines} lines")
            if len(parameters_of(function)) > 6 and path.parent.name != "cli":  # a flag of the CLI is a parameter
                wrong.append(f"{where} has {len(parameters_of(function))} parameters")
    assert not wrong, "\n".join(wrong)


def test_public_names_have_a_docstring():
    wrong = [
        f"{name_of(path)}:{node.lineno}: {node.name}"
        for path in FILES
        for node in public(path)
        if not ast.get_docstring(node)
    ]
    wrong += [f"{name_of(path)}: the module" for path in FILES if not ast.get_docstring(tree_of(path))]
    assert not wrong, "\n".join(wrong)


def test_names_carry_si_units():
    wrong = []
    for path in FILES:
        arguments = [argument.arg for function in functions(path) for argument in parameters_of(function)]
        fields = [
            item.target.id
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.ClassDef)
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        ]
        wrong += [f"{name_of(path)}: {name}" for name in (*arguments, *fields) if name.endswith(FOREIGN_UNITS)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ["capacity", "capacity.planner", "capacity.cli", "capacity.commands.planning"])
def test_planning_loads_no_heavy_package(module):
    heavy = {"torch", "transformers", "streamlit", "plotly", "pandas", "scipy", "numba", "kernels"}
    code = f"import sys, {module}; print(*({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_validating_kernels_loads_no_event_engine():
    code = "import sys, capacity.validate; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
