"""Time of one step of a generating engine as tables: what the event engine looks up instead of summing operations.

A step advances every decoding sequence and reads a chunk of the prompts that wait, in one pass through the model. Its
time is that of the products and all else that only counts tokens, of the attention of those that decode, of the
attention of each prompt chunk, and of the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from capacity.timing.band import Basis

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What a request reads and writes on average [token].

    Attributes
    ----------
    prompt, cached
        Tokens of a prompt, and those of them whose keys and values are there already.
    output
        Tokens written.
    beams
        Sequences that one request counts as.
    tokens_per_step, verified_tokens
        Tokens a sequence gains in a step, and tokens that pass through the model for them: more than one where a draft
        proposes some.
    """

    prompt: float
    output: float
    cached: float = 0.0
    beams: int = 1
    tokens_per_step: float = 1.0
    verified_tokens: int = 1

    @property
    def steps(self) -> float:
        """Steps that a request takes part in after its prompt is read, the one that ends its prompt included."""
        return 1 + (self.output - 1) / self.tokens_per_step

    @property
    def context(self) -> float:
        """Mean positions a sequence attends to while it writes."""
        return self.prompt + self.output / 2

    @property
    def kv_tokens(self) -> float:
        """Positions whose keys and values a finished request holds; beams share those of its prompt."""
        return self.prompt + self.output * self.beams


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
        return len(self.decode_s) - 1

    def scaled(self, factor: float) -> StepTable:
        """Return the table of an engine whose every step takes `factor` times as long."""
        names = ("linear_s", "decode_s", "prefill_s", "host_s", "floor_s", "prompt_s")
        return replace(self, **{name: getattr(self, name) * factor for name in names})

    def step_s(self, texts: Texts, sequences: float, prompt_tokens: float = 0.0) -> float:
        """Return the time of a step in which `sequences` decode and `prompt_tokens` of prompts are read [s].

        The attention of prompts is that of whole ones, in proportion to their tokens in this step.
        """
        device_s = _along(self.linear_s, sequences * texts.verified_tokens + prompt_tokens)
        device_s += _between(self.decode_s, sequences, texts.context / self.context_step)
        unread = max(texts.prompt - texts.cached, 1.0)
        if prompt_tokens > 0:
            whole_s = _between(self.prefill_s, unread / self.query_step, texts.cached / self.start_step)
            device_s += whole_s * prompt_tokens / unread
        host_s, floor_s = _along(self.host_s, sequences), _along(self.floor_s, sequences)
        return float(max(device_s, floor_s) + host_s + self.prompt_s * min(prompt_tokens / unread, 1.0))

    def read_s(self, texts: Texts, sequences: float) -> float:
        """Return the time of reading one prompt while `sequences` decode, over as many steps as it takes [s]."""
        unread = max(texts.prompt - texts.cached, 1.0)
        room = max(len(self.linear_s) - 1 - sequences * texts.verified_tokens, 1.0)
        steps = np.ceil(unread / room)
        return float(steps * self.step_s(texts, sequences, unread / steps))

    def request_s(self, texts: Texts, sequences: float) -> float:
        """Return the time of one request from its first step to its last, while `sequences` decode [s]."""
        return self.read_s(texts, sequences) + (texts.steps - 1) * self.step_s(texts, sequences)


def _along(values: Array, position: float) -> float:
    """Return the value between grid points; beyond the last that of the last."""
    place = min(max(position, 0.0), len(values) - 1.0)
    left = min(int(place), len(values) - 2)
    return float(values[left] + (values[left + 1] - values[left]) * (place - left))


def _between(values: Array, row: float, column: float) -> float:
    """Return the bilinear value between grid points; beyond the last, the last segments go on."""
    i, j = (min(int(at), size - 2) for at, size in zip((row, column), values.shape, strict=True))
    across = values[i : i + 2, j] + (values[i : i + 2, j + 1] - values[i : i + 2, j]) * (column - j)
    return float(across[0] + (across[1] - across[0]) * (row - i))
