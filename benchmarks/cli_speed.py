"""How much CPU time a fresh process of the CLI takes: user + system seconds, median of several, beside `import numpy`.

    python benchmarks/cli_speed.py [--repeats 9] [--json]

CPU seconds of child processes (`getrusage`) are steadier than wall time on a busy machine. The yardstick makes machines
comparable: a plan costs so many imports of numpy. Exit 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
YARDSTICK = "import numpy"


@dataclass(frozen=True, slots=True)
class Case:
    """A command of a fresh interpreter, and the CPU seconds it may take."""

    name: str
    words: tuple[str, ...]
    target_s: float | None = None


CASES = (
    Case("python -c pass", ("-c", "pass")),
    Case(YARDSTICK, ("-c", YARDSTICK)),
    Case("import capacity", ("-c", "import capacity")),
    Case("capacity --help", ("-m", "capacity", "--help"), 0.4),
    Case("capacity plan --list", ("-m", "capacity", "plan", "--list")),
    Case(
        "capacity plan scenarios/cross-encoder-rerank.yaml",
        ("-m", "capacity", "plan", "scenarios/cross-encoder-rerank.yaml"),
        1.5,
    ),
)


def cpu_s(words: tuple[str, ...]) -> float:
    """Return user + system seconds of one fresh process, its imports compiled beforehand."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(repeats: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each case without the warm-up, in turns so that a slow minute hits all alike."""
    found: dict[str, list[float]] = {case.name: [] for case in CASES}
    for turn in range(repeats + 1):
        for case in CASES:
            taken_s = cpu_s(case.words)
            if turn:
                found[case.name].append(taken_s)
    return found


def main() -> int:
    """Print the table; return 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times_s = measured(options.repeats)
    medians_s = {name: statistics.median(values) for name, values in times_s.items()}
    missed = [case.name for case in CASES if case.target_s is not None and medians_s[case.name] > case.target_s]
    if options.json:
        print(json.dumps({"median_cpu_s": medians_s, "cpu_s": times_s, "missed": missed}))
        return int(bool(missed))
    print(f"{'command':52}{'median CPU s':>14}{'min':>8}{'max':>8}{'× numpy':>10}{'target':>9}")
    for case in CASES:
        values = times_s[case.name]
        ratio = medians_s[case.name] / medians_s[YARDSTICK]
        target = "" if case.target_s is None else f"≤ {case.target_s:g}"
        low, high = min(values), max(values)
        print(f"{case.name:52}{medians_s[case.name]:14.3f}{low:8.3f}{high:8.3f}{ratio:10.2f}{target:>9}")
    for name in missed:
        print(f"over its target: {name}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
