"""Continuous batching in closed form: the batch that a steady load settles at, and where no batch keeps up.

Each step of a replica advances all its sequences and reads the prompts that came during the last one, so the step time
and the number of sequences fix each other: n = rate · output · step, step = T(n, rate · step · prompt).
"""

from __future__ import annotations

from dataclasses import dataclass

from capacity.phases.step_table import StepTable, Texts

ITERATIONS = 200
MOST_PROMPT_SHARE = 0.98
"""Share of a step's tokens that prompts may take before a load counts as more than the replica can carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """Where a replica settles under a steady load.

    Attributes
    ----------
    sequences
        Requests in service [1], times beams: sequences.
    step_s, first_s, request_s
        A decoding step; a request's time to its first token without queueing; its time in service [s].
    """

    sequences: float
    step_s: float
    first_s: float
    request_s: float


def steady(table: StepTable, texts: Texts, rate: float) -> Steady | None:
    """Return where a replica settles at `rate` requests per second, or None where steps outgrow the load.

    Notes
    -----
    Iterates step ← T(n + beams, prompt tokens of a step), what a request sees that finds n sequences besides its own,
    from an idle replica: the sequence rises to the least fixed point, if
    there is one. Whether as many sequences fit the memory is for the caller.
    """
    step_s = table.step_s(texts, texts.beams)
    for _ in range(ITERATIONS):
        sequences = rate * texts.steps * step_s * texts.beams
        prompts = rate * step_s * (texts.prompt - texts.cached)
        if sequences > table.sequences or prompts > MOST_PROMPT_SHARE * (len(table.linear_s) - 1):
            return None
        after_s = table.step_s(texts, sequences + texts.beams, prompts)
        if abs(after_s - step_s) < 1e-4 * step_s:
            first_s = after_s / 2 + table.read_s(texts, sequences) + _queue_s(table, texts, rate, sequences)
            return Steady(
                sequences=sequences, step_s=after_s, first_s=first_s,
                request_s=first_s + max(texts.steps - 1, 0) * after_s,
            )  # fmt: skip
        step_s = after_s
    return None


def _queue_s(table: StepTable, texts: Texts, rate: float, sequences: float) -> float:
    """Return how long a prompt waits on average for others that are read before it: M/D/1 on what reading adds [s]."""
    adds_s = table.read_s(texts, sequences) - table.step_s(texts, sequences)
    busy = min(max(rate * adds_s, 0.0), MOST_PROMPT_SHARE)
    return busy * adds_s / (2 * (1 - busy))


def most_rate(table: StepTable, texts: Texts, slots: float) -> float:
    """Return the requests per second at which a replica with room for `slots` requests saturates."""
    low, high = 0.0, slots / table.step_s(texts, texts.beams)
    for _ in range(50):
        middle = (low + high) / 2
        found = steady(table, texts, middle)
        if found is not None and found.sequences <= slots * texts.beams:
            low = middle
        else:
            high = middle
    return low
