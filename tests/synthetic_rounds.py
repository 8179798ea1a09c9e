"""Rounds of kernels with a known change and the noise of real machines: heavy tails, spikes, shared bad rounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.check import Finding, Pair, judged

CLASSES = {
    "gemm fp32": 19, "gemm bf16": 19, "attention.encoder fp32": 12, "attention.prefill fp32": 9,
    "attention.encoder bf16": 12, "attention.prefill bf16": 9, "streaming.norm fp32": 3, "streaming.softmax fp32": 3,
    "streaming.add fp32": 3, "whole models, inference": 6, "whole models, training": 1, "attention.decode fp32": 5,
    "distance fp32": 5, "topk fp32": 5, "gather fp32": 5, "recurrent fp32": 6, "solve fp32": 4, "optimizer fp32": 3,
}  # fmt: skip
"""Classes and cases of a quick run with two dtypes."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Log standard deviations of what disturbs a machine."""

    case: float
    """Of a single case from run to run: Student's t with 4 degrees of freedom."""
    round: float
    """Of a single round: Student's t with 3 degrees of freedom, and 3 % of rounds with an exponential spike of 50 %."""
    run: float
    """Of a whole run."""
    shock: float
    """Of a round that eight interleaved cases share: |t| with 3 degrees of freedom."""


QUIET_GPU = Noise(case=0.005, round=0.01, run=0.003, shock=0.002)
CPU = Noise(case=0.02, round=0.04, run=0.01, shock=0.01)
NOISY_CPU = Noise(case=0.05, round=0.10, run=0.02, shock=0.03)


def rounds_s(draw: np.random.Generator, true_s: np.ndarray, rounds: int, noise: Noise) -> np.ndarray:
    """Return measured seconds, shape (cases, rounds)."""
    cases = len(true_s)
    effect = noise.case * draw.standard_t(4, cases) / np.sqrt(2) + noise.run * draw.standard_normal()
    shocks = np.repeat(noise.shock * np.abs(draw.standard_t(3, (cases // 8 + 1, rounds))), 8, axis=0)[:cases]
    own = noise.round * draw.standard_t(3, (cases, rounds)) / np.sqrt(3)
    spikes = (draw.random((cases, rounds)) < 0.03) * draw.exponential(0.5, (cases, rounds))
    return true_s[:, None] * np.exp(effect[:, None] + shocks + own + spikes)


def trial(
    seed: int, noise: Noise, overall: float = 0.0, classes: dict[str, float] | None = None, case: float = 0.0,
    sizes: dict[str, int] = CLASSES,
) -> Finding:  # fmt: skip
    """Return the finding for a machine that became slower by `overall`, `classes` and one `case` by more."""
    draw = np.random.default_rng(seed)
    groups = [name for name, count in sizes.items() for _ in range(count)]
    then = np.exp(draw.normal(-7, 2, len(groups)))
    now = then * (1 + overall) * np.array([1 + (classes or {}).get(name, 0.0) for name in groups])
    now[3] *= 1 + case
    sides = zip(groups, rounds_s(draw, then, 15, noise), rounds_s(draw, now, 9, noise), strict=True)
    pairs = [Pair(f"{name} {index}", name, tuple(a), tuple(b)) for index, (name, a, b) in enumerate(sides)]
    return judged(pairs, 0.05, run_error=noise.run * 2**0.5)
