"""What the tests of bad input share: small valid documents, a way to break them, and what a refusal must look like."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from command_line import Result, capacity

HERE = "⌖"
"""Stands before the character that a message must point at, and is removed before the file is written."""
LIMIT_S = 30
"""Far above what any case takes (less than 4 s): a hang fails, a slow machine does not."""

SCENARIO = """\
id: shop
title: A shop
hardware: [l4]
catalogue: {items: 1 M}
audience: {users: 1 M}
traffic: {peak_rate: 30/s, mean_to_peak: 0.5}
objective: {percentile: p99, latency: 2 s}
serving:
  max_batch: 4
  stages:
    - {name: search, task: retrieve, width: 768}
    - {name: rank, task: encode, model: bert-large, tokens: pair, cache_hit_rate: 0.5}
training:
  - {name: tune, model: distilbert-base, samples: 1 k, every: 30 d, deadline: 4 d}
batch:
  - {name: embed, task: encode, model: minilm-l6, every: 1 d}
pricing: {term: on-demand}
overrides:
  growth: {traffic: {peak_rate: 60/s}}
"""
HARDWARE = """\
id: box
name: Box
vendor: Acme
kind: gpu
year: 2024
sources:
  D: {citation: datasheet, date: 2024-05}
memory: {value: 80 GB, source: D}
memory_bandwidth: {value: 2 TB/s, source: D}
dense_rates:
  fp32: {value: 20 TFLOP/s, source: D}
  fp16: {value: 300 TFLOP/s, source: D}
cores: {value: 100, source: D}
link: {value: {kind: NVLink, bandwidth: 300 GB/s}, source: D}
power: {value: 400 W, source: D}
"""
MODEL = """\
id: small
name: Small
family: transformer
source: a test
head: none
config:
  model_type: bert
  hidden_size: 64
  num_hidden_layers: 2
  num_attention_heads: 4
  intermediate_size: 256
  vocab_size: 1000
"""
CALIBRATION = """\
id: t4-fused
hardware: t4
engine: fused
source: a test
date: 2026-11-22
efficiencies:
  - operation: gemm
    dtype: fp16
    t0: 5 us
    flop_efficiency: 0.6
    bandwidth_efficiency: 0.7
    sharpness: 4
    log_sigma: 0.1
    median_error: 0.1
    rows: 9
"""


def marked(text: str) -> tuple[str, str]:
    """Return `text` without its mark, and the mark's line:column."""
    before, _, after = text.partition(HERE)
    return before + after, f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def broken(text: str, old: str, new: str) -> tuple[str, str]:
    """Return `text` with `old` replaced, and line:column of the mark in `new`."""
    assert text.count(old) == 1, old
    assert HERE in new, new
    return marked(text.replace(old, new))


def write(path: str, content: str | bytes) -> Path:
    """Write a file below the working directory; a `str` as UTF-8."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    return target


def run(*arguments: object) -> Result:
    """Return what `capacity ARGUMENTS` does, if it does it in time and dies of nothing unforeseen."""
    with _in_time():
        result = capacity(*arguments)
    assert "Traceback" not in result.err
    assert "defect of ours" not in result.err, result.err
    return result


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"no answer in {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(*arguments: object, says: str, others: int = 0) -> str:
    """Run a command that must be refused: exit 2, nothing on stdout, one line (and `others`) that says why."""
    result = run(*arguments)
    lines = result.err.splitlines()
    assert result.code == 2, result
    assert all(line.startswith("error: ") for line in lines), result.err
    assert len(lines) == 1 + others, result.err
    assert any(says in line for line in lines), result.err
    assert not result.out
    return result.err


def misused(*arguments: object, says: str) -> None:
    """Run a command that typer itself must refuse: exit 2, its one box with the reason and the way to the help."""
    result = run(*arguments)
    assert result.code == 2, result
    assert result.err.count("─ Error ─") == 1
    assert says in " ".join(result.err.replace("│", " ").split()), result.err
    assert not result.out


def infeasible(*arguments: object, says: str) -> None:
    """Run a command whose input is valid but has no solution: exit 1, the answer on stdout says what is missed."""
    result = run(*arguments)
    assert result.code == 1, result
    assert not result.err
    assert says in result.out, result.out


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Act as nobody where the tests run as root, whom no permission stops."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
