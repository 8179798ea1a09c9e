"""Continuous batching in closed form: the batch that a steady load settles at, and where no batch keeps up.

Each step of a replica advances all its sequences and reads the prompts that came during the last one, so the step time
and the number of sequences fix each other: n = rate · output · step, step = T(n, rate · step · prompt).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from capacity.phases.step_table import StepTable

ITERATIONS = 200
MOST_PROMPT_SHARE = 0.98
"""Share of a step's tokens that prompts may take before a load counts as more than the replica can carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Mean lengths of the requests of a stage [token].

    Attributes
    ----------
    prompt, cached
        Tokens of a prompt, and those of them whose keys and values are there already.
    output
        Tokens written.
    beams
        Sequences that one request counts as.
    """

    prompt: float
    output: float
    cached: float = 0.0
    beams: int = 1

    @property
    def context(self) -> float:
        """Mean positions a sequence attends to while it writes."""
        return self.prompt + self.output / 2


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
    Iterates step ← T(n, prompt tokens of a step) from an idle replica: the sequence rises to the least fixed point, if
    there is one. Whether as many sequences fit the memory is for the caller.
    """
    step_s = step_time(table, texts, 1.0, 0.0)
    for _ in range(ITERATIONS):
        sequences = rate * texts.output * step_s * texts.beams
        prompts = rate * step_s * (texts.prompt - texts.cached)
        if sequences > table.sequences or prompts > MOST_PROMPT_SHARE * (len(table.linear_s) - 1):
            return None
        after_s = step_time(table, texts, sequences, prompts)
        if abs(after_s - step_s) < 1e-6 * step_s:
            first_s = 0.5 * after_s + step_time(table, texts, sequences, texts.prompt - texts.cached)
            return Steady(
                sequences=sequences, step_s=after_s, first_s=first_s,
                request_s=first_s + (texts.output - 1) * after_s,
            )  # fmt: skip
        step_s = after_s
    return None


def step_time(table: StepTable, texts: Texts, sequences: float, prompt_tokens: float) -> float:
    """Return the time of a step in which `sequences` decode and `prompt_tokens` of prompts are read [s].

    The attention of prompts is that of whole ones, in proportion to their tokens in this step.
    """
    new = min(sequences + prompt_tokens, len(table.linear_s) - 1)
    device_s = float(np.interp(new, np.arange(len(table.linear_s)), table.linear_s))
    device_s += _grid(table.decode_s, sequences, texts.context / table.context_step)
    unread = max(texts.prompt - texts.cached, 1.0)
    whole_s = _grid(table.prefill_s, unread / table.query_step, texts.cached / table.start_step)
    device_s += whole_s * prompt_tokens / unread
    running = min(sequences, table.sequences)
    host_s, floor_s = (np.interp(running, np.arange(table.sequences + 1), part) for part in (table.host_s, table.floor_s))
    mixing_s = table.prompt_s * min(prompt_tokens / unread, 1.0)
    return float(max(device_s, floor_s) + host_s + mixing_s)


def most_rate(table: StepTable, texts: Texts, slots: float) -> float:
    """Return the requests per second at which a replica with room for `slots` requests saturates."""
    low, high = 0.0, slots / step_time(table, texts, 1.0, 0.0)
    for _ in range(50):
        middle = (low + high) / 2
        found = steady(table, texts, middle)
        if found is not None and found.sequences <= slots * texts.beams:
            low = middle
        else:
            high = middle
    return low


def _grid(values: np.ndarray, row: float, column: float) -> float:  # type: ignore[type-arg]
    """Return the bilinear value between grid points; beyond the last, the last segments go on."""
    i, j = (min(int(at), size - 2) for at, size in zip((row, column), values.shape, strict=True))
    across = values[i : i + 2, j] + (values[i : i + 2, j + 1] - values[i : i + 2, j]) * (column - j)
    return float(across[0] + (across[1] - across[0]) * (row - i))
