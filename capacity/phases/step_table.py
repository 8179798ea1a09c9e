"""Time of one step of a generating engine as tables: what the event engine looks up instead of summing operations.

A step advances every decoding sequence and reads a chunk of the prompts that wait, in one pass through the model. Its
time is that of the products and all else that only counts tokens, of the attention of those that decode, of the
attention of each prompt chunk, and of the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from capacity.timing.band import Basis, Estimate

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTable:
    """Step time = max(device, `floor_s[n]`) + `host_s[n]` (+ `prompt_s` when any prompt token is read) [s].

    `n` counts sequences in the step; device = `linear_s[new tokens]` + `decode_s` at (decoding sequences, their mean
    context) + Σ over prompt chunks of `prefill_s` at (new tokens of the chunk, tokens before it). Between grid points
    tables are straight lines; beyond their last point they go on along the last segment.

    Attributes
    ----------
    linear_s
        (tokens + 1,) by new tokens of all sequences, decoding and prompt; 0 for none.
    decode_s
        (sequences + 1, contexts + 1) by decoding sequences and mean context in steps of `context_step` tokens.
    prefill_s
        (queries + 1, starts + 1) by new tokens in steps of `query_step` and tokens before in steps of `start_step`.
    host_s, floor_s
        (sequences + 1,) by sequences in the step.
    log_sigma, basis
        How sure a step's time is.
    """

    linear_s: Array
    decode_s: Array
    context_step: float
    prefill_s: Array
    query_step: float
    start_step: float
    host_s: Array
    floor_s: Array
    prompt_s: float = 0.0
    log_sigma: float = 0.0
    basis: Basis = "calibrated"

    @property
    def sequences(self) -> int:
        """Most sequences that decode in one step."""
        return self.decode_s.shape[0] - 1

    def scaled(self, factor: float) -> StepTable:
        """Return the table of an engine whose every step takes `factor` times as long."""
        names = ("linear_s", "decode_s", "prefill_s", "host_s", "floor_s", "prompt_s")
        return replace(self, **{name: getattr(self, name) * factor for name in names})

    def decode_step(self, sequences: int, context: float) -> Estimate:
        """Return the time of a step in which `sequences` sequences decode at mean `context` and no prompt is read [s]."""
        row = self.decode_s[sequences]
        cell = min(int(context / self.context_step), len(row) - 2)
        attention = row[cell] + (row[cell + 1] - row[cell]) * (context / self.context_step - cell)
        device = self.linear_s[min(sequences, len(self.linear_s) - 1)] + attention
        value = max(device, self.floor_s[sequences]) + self.host_s[sequences]
        return Estimate(float(value), {"step time": self.log_sigma}, self.basis)
