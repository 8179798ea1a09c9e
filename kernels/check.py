"""Whether a machine became slower than its baseline: log ratios of paired cases, a hierarchical bootstrap, a verdict.

A case gives one log ratio: the median of its clean rounds now over the median then. Cases scatter from run to run even
on an unchanged machine (where tensors lie in memory, which kernel a library picks), so cases are drawn first and their
rounds second. Rounds are interleaved: those of one number ran side by side, so all cases draw the same numbers and what
disturbed a round disturbs them together. What moves a whole run (the heat of the day, a clock) no bootstrap of two runs
can see: it comes in as `run_error`, from the history of earlier runs where there is one.

Three verdicts, so that "no change seen" and "seen that there is no change" stay apart: **pass** says that the slowdown
is below the limit, **fail** that it is above, both with 95 % confidence; anything between is **inconclusive**.

References: Davison and Hinkley 1997, Bootstrap Methods and their Application, §3.8 (two levels); Kalibera and Jones
2013, Rigorous Benchmarking in Reasonable Time (a benchmark varies more from run to run than within a run); Schuirmann
1987, J. Pharmacokinet. Biopharm. 15:657 (two one-sided tests).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Of each one-sided statement: pass, fail, and all parts together."""
POWER = 0.80
"""Share of runs in which a change of the smallest detectable size is told from none."""
Z = NormalDist().inv_cdf(CONFIDENCE)
DRAWS = 2000
RUN_ERROR = 0.01
"""Log standard deviation between two whole runs of an unchanged machine, assumed until its history tells."""
LEAST_CASES = 5
"""Fewer say nothing about how cases scatter from run to run."""
LEAST_RUNS = 6
"""Fewer say nothing about how whole runs scatter."""
Array = NDArray[np.float64]
Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Clean rounds of one case, then and now [s a call]; a predicted baseline is a single round."""

    name: str
    group: str
    """Class of operations and dtype, or the kind of whole model."""
    baseline_s: tuple[float, ...]
    current_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """Time now over time then, the geometric mean over its cases, with an interval."""

    name: str
    cases: int
    ratio: float
    low: float
    high: float
    error: float
    """Standard error of the log ratio."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. Ratios above 1 are slower."""

    verdict: Verdict
    reasons: tuple[str, ...]
    max_slowdown: float
    """Limit as a share: 0.05 allows 5 %."""
    overall: Change
    """Its low and high hold with 95 % confidence each."""
    groups: tuple[Change, ...]
    """By class of operations, slowest first. Lows of groups and cases hold for all of them at once."""
    cases: tuple[Change, ...]
    """Case by case, slowest first."""
    detectable: float
    """Smallest change of the overall ratio that is told from none in 80 % of runs [share]."""
    spread: float
    """Log standard deviation of cases about their median, robust."""
    run_error: float
    """Log standard deviation between two whole runs that was reckoned with."""
    disturbed: tuple[str, ...]


def judged(
    pairs: Sequence[Pair], max_slowdown: float, disturbed: Iterable[str] = (), run_error: float = RUN_ERROR,
    seed: int = 0,
) -> Finding:  # fmt: skip
    """Return the verdict on cases that were measured then and now.

    Parameters
    ----------
    pairs
        At least one case.
    max_slowdown
        Largest slowdown that passes [share], overall and of every part.
    disturbed
        Why the measurement cannot be trusted, if so: the verdict is then inconclusive whatever the numbers say.
    run_error
        Log standard deviation between two whole runs of an unchanged machine (see `run_error_of`).
    seed
        Of the bootstrap; the same rounds and seed give the same finding.

    Notes
    -----
    A part (a class of operations or a single case) fails by itself when its slowdown is above the limit beyond doubt:
    its standard error is at least the spread of all cases over √n, its quantile is that of Student's t with four
    degrees of freedom, since what happens to a single kernel from run to run has heavy tails, at 5 % over the number
    of parts. A class that is above the limit in the mean, and slower than before at 5 % taken alone, does not pass.
    """
    generator = np.random.default_rng(seed)
    center = np.array([_log_ratio(pair) for pair in pairs])
    draws = _redrawn(pairs, generator)
    chosen = generator.integers(0, len(pairs), size=(DRAWS, len(pairs)))
    means = np.take_along_axis(draws, chosen, axis=1).mean(axis=1)
    means = center.mean() + (means - means.mean()) * _small(len(pairs)) + run_error * _normal(generator)
    spread = 1.4826 * float(np.median(np.abs(center - np.median(center))))
    low, high = np.exp(np.quantile(means, [1 - CONFIDENCE, CONFIDENCE]))
    overall = Change("all", len(pairs), math.exp(center.mean()), float(low), float(high), float(means.std()))
    names = list(dict.fromkeys(pair.group for pair in pairs))
    quantile = _student_4(1 - (1 - CONFIDENCE) / (len(names) + len(pairs)))
    groups = [_part(name, [i for i, pair in enumerate(pairs) if pair.group == name], center, draws) for name in names]
    cases = [_part(pair.name, [index], center, draws) for index, pair in enumerate(pairs)]
    bounded = [[part.change(spread, run_error, quantile) for part in parts] for parts in (groups, cases)]
    disturbed = tuple(disturbed)
    verdict, reasons = _verdict(overall, bounded, math.log1p(max_slowdown), disturbed)
    return Finding(
        verdict=verdict, reasons=reasons, max_slowdown=max_slowdown, overall=overall,
        groups=_slowest_first(bounded[0]), cases=_slowest_first(bounded[1]), spread=spread, run_error=run_error,
        disturbed=disturbed,
        detectable=math.expm1((Z + NormalDist().inv_cdf(POWER)) * overall.error),
    )  # fmt: skip


def run_error_of(runs: Sequence[Sequence[float]]) -> float | None:
    """Return the log standard deviation between two whole runs, or None for fewer than six of them.

    Parameters
    ----------
    runs
        Log seconds of the same cases in each run, in order of time; shape (runs, cases).

    Notes
    -----
    1.4826 times the median of |difference of neighbors in time|: a step, when software changed, is one difference of
    many and moves the median little (von Neumann 1941, Ann. Math. Stat. 12:367, made robust).

    Examples
    --------
    >>> level = [0.00, 0.01, 0.00, 0.51, 0.50, 0.51]
    >>> round(run_error_of([[each, each - 3] for each in level]), 4)
    0.0148
    """
    if len(runs) < LEAST_RUNS:
        return None
    means = np.asarray(runs, float).mean(axis=1)
    return 1.4826 * float(np.median(np.abs(np.diff(means))))


def _verdict(
    overall: Change, parts: Sequence[Sequence[Change]], limit: float, disturbed: tuple[str, ...]
) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict and why; `limit` is a log ratio."""
    most = math.exp(limit)
    if disturbed:
        return "inconclusive", disturbed
    if overall.cases < LEAST_CASES:
        return "inconclusive", (f"only {overall.cases} cases in common; at least {LEAST_CASES} are needed",)
    slow = [part for level in parts for part in level if part.low > most]
    said = [f"{part.name}: {slower(part.ratio)}, at least {slower(part.low)}" for part in slow]
    if overall.low > most:
        said.insert(0, f"overall: {slower(overall.ratio)}, at least {slower(overall.low)}")
    if said:
        return "fail", tuple(said)
    suspects = [
        part for part in parts[0] if part.ratio > most and math.log(part.ratio) > _student_4(CONFIDENCE) * part.error
    ]
    if suspects:
        said = [f"{part.name}: {slower(part.ratio)}, not surely above the limit" for part in suspects]
        return "inconclusive", tuple(said)
    if overall.high < most:
        return "pass", ()
    between = f"{slower(overall.low)} to {slower(overall.high)}"
    return "inconclusive", (f"the overall change lies between {between}; the limit, {slower(most)}, is not excluded",)


def slower(ratio: float) -> str:
    """Return a ratio of times as a signed change.

    Examples
    --------
    >>> slower(1.034), slower(0.98), slower(3.5)
    ('+3.4 %', '-2.0 %', '×3.50')
    """
    return f"{ratio - 1:+.1%}".replace("%", " %") if ratio < 2 else f"×{ratio:.2f}"


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    cases: int
    mean: float
    """Log ratio."""
    error: float
    """Standard error by its own bootstrap."""

    def change(self, spread: float, run_error: float, quantile: float) -> Change:
        least = spread / math.sqrt(self.cases)
        own = math.hypot(least, self.error) if self.cases == 1 else max(least, self.error)
        margin = math.hypot(quantile * own, Z * run_error)  # a whole run's luck is one for all parts: no Bonferroni
        low, ratio, high = (math.exp(self.mean + side * margin) for side in (-1, 0, 1))
        return Change(self.name, self.cases, ratio, low, high, math.hypot(own, run_error))


def _part(name: str, members: Sequence[int], center: Array, draws: Array) -> _Part:
    """Return the mean of some cases and its error: of their rounds, and of which cases they happen to be."""
    own, within = center[list(members)], draws[:, list(members)]
    between = own.var(ddof=1) / len(own) if len(own) > 1 else 0.0
    low, high = np.quantile(within.mean(axis=1), [NormalDist().cdf(-1), NormalDist().cdf(1)])
    rounds = float(high - low) / 2  # not the standard deviation: draws that are full of one outlier would make it
    return _Part(name, len(own), float(own.mean()), math.hypot(math.sqrt(between), rounds))


def _normal(generator: np.random.Generator) -> Array:
    """Return one standard normal number a draw, by its quantiles: no luck in the tails."""
    places = (np.arange(DRAWS) + 0.5) / DRAWS
    return generator.permutation(np.array([NormalDist().inv_cdf(place) for place in places]))


def _log_ratio(pair: Pair) -> float:
    return float(np.log(np.median(pair.current_s) / np.median(pair.baseline_s)))


def _redrawn(pairs: Sequence[Pair], generator: np.random.Generator) -> Array:
    """Return log ratios with rounds drawn anew, shape (draws, cases); all cases draw the same round numbers."""
    places = [
        generator.random((DRAWS, max(len(rounds) for rounds in side)))
        for side in ([pair.baseline_s for pair in pairs], [pair.current_s for pair in pairs])
    ]
    columns = [_medians(pair.current_s, places[1]) - _medians(pair.baseline_s, places[0]) for pair in pairs]
    return np.stack(columns, axis=1)


def _medians(rounds_s: Sequence[float], places: Array) -> Array:
    """Return the log median of each redrawn set of rounds; `places` in [0, 1) say which rounds."""
    logs, count = np.log(np.asarray(rounds_s)), len(rounds_s)
    return np.asarray(np.median(logs[(places[:, :count] * count).astype(int)], axis=1))


def _small(cases: int) -> float:
    """Return √(n/(n − 1)): a bootstrap of few cases scatters too little by that factor."""
    return math.sqrt(cases / (cases - 1)) if cases > 1 else 1.0


def _student_4(probability: float) -> float:
    """Return the quantile of Student's t with four degrees of freedom, for probabilities from ½.

    Shaw 2006, Sampling Student's T distribution, J. Comp. Finance 9 (4):37.

    Examples
    --------
    >>> round(_student_4(0.95), 3), round(_student_4(0.9995), 3)
    (2.132, 8.61)
    """
    alpha = 4 * probability * (1 - probability)
    inner = math.cos(math.acos(math.sqrt(alpha)) / 3) / math.sqrt(alpha)
    return 2 * math.sqrt(max(inner - 1, 0.0))


def _slowest_first(changes: Iterable[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda change: (-change.ratio, change.name)))
