"""Timings in the formats of tools that keep benchmarks over time: github-action-benchmark and Bencher."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One timed thing: seconds a call with a 90 % interval, and what else a reader should know."""

    name: str
    value_s: float
    low_s: float
    high_s: float
    note: str = ""


def github_action_benchmark(rows: Sequence[Benchmark]) -> str:
    """Return the JSON that github-action-benchmark reads as tool `customSmallerIsBetter`.

    Examples
    --------
    >>> print(github_action_benchmark([Benchmark("gemm", 2e-6, 1.9e-6, 2.2e-6)]), end="")
    [
      {"name": "gemm", "unit": "ns", "value": 2000, "range": "1900 … 2200", "extra": ""}
    ]
    """
    entries = [
        {
            "name": row.name, "unit": "ns", "value": _ns(row.value_s), "range": f"{_ns(row.low_s)} … {_ns(row.high_s)}",
            "extra": row.note,
        }
        for row in rows
    ]  # fmt: skip
    lines = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in entries)
    return f"[\n{lines}\n]\n" if lines else "[]\n"


def bencher_metric_format(rows: Sequence[Benchmark]) -> str:
    """Return Bencher Metric Format (https://bencher.dev/docs/reference/bencher-metric-format): latency in ns.

    Examples
    --------
    >>> json.loads(bencher_metric_format([Benchmark("gemm", 2e-6, 1.9e-6, 2.2e-6)]))
    {'gemm': {'latency': {'value': 2000, 'lower_value': 1900, 'upper_value': 2200}}}
    """
    metrics = {
        row.name: {
            "latency": {"value": _ns(row.value_s), "lower_value": _ns(row.low_s), "upper_value": _ns(row.high_s)}
        }
        for row in rows
    }
    return json.dumps(metrics, indent=2, ensure_ascii=False) + "\n"


def _ns(seconds: float) -> float:
    """Return nanoseconds, whole where there are a thousand of them."""
    value = seconds * NS_PER_S
    return round(value) if value >= 1000 else round(value, 3)
