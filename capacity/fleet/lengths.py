"""How long requests are, and which prompt prefix they share: drawn by request number, or read from a trace.

A draw depends on the seed, on what is drawn and on the number of the request alone (Salmon et al. 2011: a counter-based
generator jumps to any place), so it does not matter who draws how many at once.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from capacity.documents import read_text
from capacity.errors import InputError, Problem
from capacity.fleet.flow import Counts, Times

INPUT, OUTPUT, PREFIX, PAIR = range(1, 5)
"""Streams of random numbers that know nothing of each other."""
TRACE_BYTES = 2_000_000_000
TRACE_COLUMNS = "arrival_s (or timestamp), input_tokens, output_tokens"
MOST_PROBLEMS = 20
"""Problems of a trace named at once; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Which random numbers: those of requests [`first`, `last`) in one stream of one seed."""

    seed: int
    first: int
    last: int
    stream: int = INPUT

    def uniform(self, each: int = 1) -> NDArray[np.float64]:
        """Return (requests, each) numbers in [0, 1).

        Examples
        --------
        >>> bool(Draw(1, 5, 7).uniform()[1, 0] == Draw(1, 6, 9).uniform()[0, 0])  # both are of request 6
        True
        """
        before, wanted = self.first * each, (self.last - self.first) * each
        generator = np.random.Philox(key=np.array([self.seed, self.stream], np.uint64))
        generator.advance(before // 4)  # Philox makes four numbers at once
        numbers: Times = np.random.Generator(generator).random(before % 4 + wanted)[before % 4 :]
        return numbers.reshape(-1, each)


class Length(Protocol):
    """A distribution of lengths."""

    @property
    def mean(self) -> float:
        """Mean length [token]."""

    def draw(self, which: Draw) -> Counts:
        """Return the lengths of requests [token]."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same for all [token]."""

    tokens: int

    @property
    def mean(self) -> float:
        """Mean length [token]."""
        return float(self.tokens)

    def draw(self, which: Draw) -> Counts:
        """Return the lengths of requests [token]."""
        return np.full(which.last - which.first, self.tokens, np.int64)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Log-normal lengths, rounded, kept between `least` and `most`; `mean` and `cv` are those before that [token]."""

    mean: float
    cv: float
    """Standard deviation ÷ mean."""
    least: int = 1
    most: int = 1 << 20

    def __post_init__(self) -> None:
        if not (self.mean > 0 and self.cv >= 0 and 0 <= self.least <= self.most):
            raise InputError("lognormal lengths need mean > 0, cv >= 0 and 0 <= least <= most")

    def draw(self, which: Draw) -> Counts:
        """Return the lengths of requests [token]; normal deviates by Box and Muller (1958)."""
        one, other = which.uniform(2).T
        deviate = np.sqrt(-2 * np.log1p(-one)) * np.cos(2 * np.pi * other)
        variance = math.log1p(self.cv**2)
        tokens = self.mean * np.exp(math.sqrt(variance) * deviate - variance / 2)
        return np.asarray(np.clip(np.rint(tokens), self.least, self.most).astype(np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Empirical:
    """One of `values`, each as likely as its weight says; all alike without weights [token]."""

    values: Counts
    weights: Times | None = None
    _cumulative: Times = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weights = np.ones(len(self.values)) if self.weights is None else np.asarray(self.weights, np.float64)
        object.__setattr__(self, "_cumulative", _distribution(weights, len(self.values)))

    @property
    def mean(self) -> float:
        """Mean length [token]."""
        return float(np.diff(self._cumulative, prepend=0.0) @ self.values)

    def draw(self, which: Draw) -> Counts:
        """Return the lengths of requests [token]."""
        return np.asarray(self.values)[_chosen(self._cumulative, which.uniform()[:, 0])]


@dataclass(frozen=True, slots=True, eq=False)
class Prefixes:
    """Which shared prefix a prompt begins with: group k of `groups` with probability ∝ (k + 1)^(−`exponent`) (Zipf).

    A request carries one at all with probability `share`.
    """

    groups: int
    exponent: float = 0.0
    share: float = 1.0
    _cumulative: Times = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (self.groups > 0 and self.exponent >= 0 and 0 < self.share <= 1):
            raise InputError("prefixes need groups > 0, exponent >= 0 and 0 < share <= 1")
        weights = np.arange(1, self.groups + 1, dtype=np.float64) ** -self.exponent
        object.__setattr__(self, "_cumulative", _distribution(weights, self.groups))

    def draw(self, which: Draw) -> Counts:
        """Return the group of each request; −1: none."""
        uniform = which.uniform()[:, 0]
        group = _chosen(self._cumulative, uniform / self.share)
        return np.where(uniform < self.share, group, -1)


class Columns(NamedTuple):
    """What requests ask for, one row each."""

    input_tokens: Counts
    output_tokens: Counts
    prefix: Counts


class Lengths(Protocol):
    """What requests ask for, by request number."""

    def columns(self, seed: int, first: int, last: int) -> Columns:
        """Return the lengths and prefixes of requests [`first`, `last`)."""


@dataclass(frozen=True, slots=True)
class Text:
    """Input and output lengths that know nothing of each other."""

    input_tokens: Length = Fixed(0)
    output_tokens: Length = Fixed(0)
    prefixes: Prefixes | None = None

    def columns(self, seed: int, first: int, last: int) -> Columns:
        """Return the lengths and prefixes of requests [`first`, `last`).

        Examples
        --------
        >>> Text(Fixed(512), Fixed(64)).columns(seed=0, first=0, last=2).input_tokens.tolist()
        [512, 512]
        """
        prefix = _prefix(self.prefixes, Draw(seed, first, last, PREFIX))
        inputs = self.input_tokens.draw(Draw(seed, first, last, INPUT))
        return Columns(inputs, self.output_tokens.draw(Draw(seed, first, last, OUTPUT)), prefix)


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """Input and output lengths of one recorded request, drawn with replacement: long prompts keep their answers."""

    input_tokens: Counts
    output_tokens: Counts
    prefixes: Prefixes | None = None

    def columns(self, seed: int, first: int, last: int) -> Columns:
        """Return the lengths and prefixes of requests [`first`, `last`)."""
        row = (Draw(seed, first, last, PAIR).uniform()[:, 0] * len(self.input_tokens)).astype(np.int64)
        prefix = _prefix(self.prefixes, Draw(seed, first, last, PREFIX))
        return Columns(self.input_tokens[row], self.output_tokens[row], prefix)


@dataclass(frozen=True, slots=True, eq=False)
class InOrder:
    """Recorded lengths, one after the other, from the start again when all are used."""

    input_tokens: Counts
    output_tokens: Counts
    prefixes: Prefixes | None = None

    def columns(self, seed: int, first: int, last: int) -> Columns:
        """Return the lengths and prefixes of requests [`first`, `last`)."""
        row = np.arange(first, last) % len(self.input_tokens)
        prefix = _prefix(self.prefixes, Draw(seed, first, last, PREFIX))
        return Columns(self.input_tokens[row], self.output_tokens[row], prefix)


def _prefix(prefixes: Prefixes | None, which: Draw) -> Counts:
    return np.full(which.last - which.first, -1, np.int64) if prefixes is None else prefixes.draw(which)


def _distribution(weights: Times, count: int) -> Times:
    """Return cumulative probabilities."""
    if not (len(weights) == count > 0 and np.all(weights >= 0) and 0 < weights.sum() < math.inf):
        raise InputError("needs at least one value, and for each a weight of 0 or more, not all 0")
    return np.asarray(np.cumsum(weights) / weights.sum())


def _chosen(cumulative: Times, uniform: Times) -> Counts:
    """Return the row that each uniform number falls into."""
    return np.minimum(np.searchsorted(cumulative, uniform, side="right"), len(cumulative) - 1).astype(np.int64)


def recorded(path: str | Path) -> tuple[Times, Counts, Counts]:
    """Return arrivals [s], input and output lengths [token] of the requests in a trace.

    The file is CSV, or JSON Lines (`.jsonl`, one object a line), with the columns `arrival_s` [s] or `timestamp`
    (seconds or ISO 8601, counted from the first), `input_tokens` and `output_tokens`; others are ignored.

    Raises
    ------
    InputError
        With every problem at its file:line.
    """
    name, text = str(path), read_text(path, TRACE_BYTES).removeprefix("\ufeff")
    rows: list[tuple[float, int, int]] = []
    problems: list[Problem] = []
    start_s: float | None = None
    for line, row in _json_lines(text, name) if name.endswith((".jsonl", ".ndjson")) else _csv(text, name):
        try:
            time_s, start_s = _time_s(row, start_s)
            if time_s < (rows[-1][0] if rows else 0.0):
                problems.append(
                    Problem(f"{name}:{line}", f"arrives at {time_s:g} s, before 0 or the row above; sort by time")
                )
            rows.append((time_s, _tokens(row, "input_tokens"), _tokens(row, "output_tokens")))
        except ValueError as error:
            problems.append(Problem(f"{name}:{line}", str(error)))
    if problems:
        more = [Problem(name, f"and {len(problems) - MOST_PROBLEMS:,} more problems")]
        raise InputError(problems[:MOST_PROBLEMS] + (more if len(problems) > MOST_PROBLEMS else []))
    if not rows:
        raise InputError([Problem(name, f"holds no request; a row needs {TRACE_COLUMNS}")])
    times_s, inputs, outputs = zip(*rows, strict=True)
    return np.array(times_s, np.float64), np.array(inputs, np.int64), np.array(outputs, np.int64)


def _csv(text: str, name: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = set(reader.fieldnames or ())
    missing = {"input_tokens", "output_tokens"} - columns
    missing |= set() if columns & {"arrival_s", "timestamp"} else {"arrival_s"}
    if missing:
        what = f"no column {', '.join(sorted(missing))}; needed are {TRACE_COLUMNS}"
        raise InputError([Problem(f"{name}:1", what)])
    return ((reader.line_num, row) for row in reader)


def _json_lines(text: str, name: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise InputError([Problem(f"{name}:{line}:{error.colno}", f"not JSON: {error.msg}")]) from None
        if not isinstance(row, dict):
            raise InputError([Problem(f"{name}:{line}", f"not an object with {TRACE_COLUMNS}")])
        yield line, row


def _time_s(row: Mapping[str, object], start_s: float | None) -> tuple[float, float]:
    """Return the time of a row since the start of the trace, and that start [s]."""
    if row.get("arrival_s") not in {None, ""}:
        return _number(row["arrival_s"], "arrival_s"), 0.0
    value = row.get("timestamp")
    if isinstance(value, str) and ":" in value:
        moment = datetime.fromisoformat(value)
        time_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    else:
        time_s = _number(value, "arrival_s or timestamp")
    start_s = time_s if start_s is None else start_s
    return time_s - start_s, start_s


def _tokens(row: Mapping[str, object], column: str) -> int:
    number = _number(row.get(column), column)
    if number < 0 or number != int(number):
        raise ValueError(f"{column} is {number:g}; allowed: a whole number from 0")
    return int(number)


def _number(value: object, what: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; allowed: a number")
    return number
