"""Continuous batching in closed form: the batch that a steady load settles at, and where no batch keeps up.

Each step of a replica advances all its sequences and reads the prompts that came during the last one, so the step time
and the number of sequences fix each other. Given n sequences, a step reads P = n · unread / (steps · beams) prompt
tokens (as many requests begin as end) and takes T(n, P) on average: that load is n / (steps · beams · T).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from capacity.phases.step_table import Array, StepTable, Texts

POINTS = 64
"""Numbers of sequences at which the step is timed."""
MOST_FILLED = 0.98
"""Share of a step's room for tokens that may be taken before a load counts as more than the replica can carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """Where a replica settles under a steady load.

    Attributes
    ----------
    sequences
        Sequences in service: requests times beams [1].
    step_s, first_s, request_s
        A decoding step; a request's time to its first token without waiting for a slot; its time in service [s].
    """

    sequences: float
    step_s: float
    first_s: float
    request_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """How the load and the step of a replica go with the sequences in service.

    Attributes
    ----------
    sequences, rates, steps_s
        Sequences, the requests per second that keep as many in service, and the time of a step then [s]; rates ascend.
    """

    table: StepTable
    texts: Texts
    sequences: Array
    rates: Array
    steps_s: Array

    @property
    def most_rate(self) -> float:
        """Requests per second at which the replica saturates."""
        return float(self.rates[-1])

    def slowed(self, factor: float) -> Course:
        """Return the course of a replica whose every step takes `factor` times as long."""
        return Course(self.table.scaled(factor), self.texts, self.sequences, self.rates / factor, self.steps_s * factor)

    def steady(self, rate: float) -> Steady | None:
        """Return where the replica settles at `rate` requests per second, or None where it is more than it carries."""
        if rate > self.most_rate:
            return None
        texts, table = self.texts, self.table
        sequences = float(np.interp(rate, self.rates, self.sequences))
        step_s = float(np.interp(rate, self.rates, self.steps_s))
        first_s = step_s / 2 + table.read_s(texts, sequences) + self._queue_s(rate, sequences)
        request_s = first_s + max(texts.steps - 1, 0) * step_s
        return Steady(sequences=sequences, step_s=step_s, first_s=first_s, request_s=request_s)

    def _queue_s(self, rate: float, sequences: float) -> float:
        """Return how long a prompt waits on average for others read before it: M/D/1 on what reading adds [s]."""
        adds_s = self.table.read_s(self.texts, sequences) - self.table.step_s(self.texts, sequences)
        busy = min(max(rate * adds_s, 0.0), MOST_FILLED)
        return busy * adds_s / (2 * (1 - busy))


def course(table: StepTable, texts: Texts, slots: float) -> Course:
    """Return the course of a replica with room for `slots` requests.

    A request sees the sequences that it finds and its own: T(n + beams, P). The course ends where the steps are full,
    or where more sequences would carry no more load.
    """
    most = slots * texts.beams
    share = max(texts.prompt - texts.cached, 0.0) / (texts.steps * texts.beams)
    most = min(most, MOST_FILLED * (len(table.linear_s) - 1) / (share + texts.verified_tokens))
    sequences = np.r_[0.0, np.geomspace(min(0.01, most / 2), max(most, 1e-6), POINTS)]
    steps_s = np.array([_mean_step_s(table, texts, n, n * share) for n in sequences])
    rates = sequences / (texts.steps * texts.beams * steps_s)
    rising = int(np.argmax(rates)) + 1
    return Course(table, texts, sequences[:rising], np.maximum.accumulate(rates[:rising]), steps_s[:rising])


def _mean_step_s(table: StepTable, texts: Texts, found: float, prompts: float) -> float:
    """Return the mean time of steps that read `prompts` tokens of prompts on average, beside the sequences found [s].

    Prompts come whole, or in chunks as large as a step has room for: most steps read none or one more than others. As
    decoding is bound by memory and reading by compute, that takes longer than if every step read the mean.
    """
    room = len(table.linear_s) - 1 - found * texts.verified_tokens
    chunk = max(min(texts.prompt - texts.cached, room), 1.0)
    fewer, more = divmod(prompts / chunk, 1.0)
    less_s, more_s = (table.step_s(texts, found + texts.beams, count * chunk) for count in (fewer, fewer + 1))
    return less_s + more * (more_s - less_s)
