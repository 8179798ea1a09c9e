"""What an LLM engine adds to its kernels, and how it schedules: fitted on whole servers, shared by all GPUs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from capacity.spec.quantity import Count, CountAmount, Duration, Factor, Fraction, Id, LogSigma, Number, Spec


class Scheduling(Spec):
    """How an engine fills its steps unless it is told otherwise."""

    max_batched_tokens: Count = 8192
    """Most new tokens of one step, prompts and decoding together."""
    max_sequences: Count = 1024
    """Most sequences that run at once."""
    memory_share: Annotated[Fraction, Field(gt=0)] = 0.9
    """Share of a device's memory that the engine takes; what weights and activations leave is for keys and values."""
    chunked: bool = True
    """Whether a long prompt is read in several steps."""
    mixed: bool = True
    """Whether prompts are read in the same step in which other sequences decode."""


class ServingEngine(Spec):
    """What one engine's steps cost beside the sum of their kernels.

    step = kernels · Σ kernels + exchange · Σ exchanges + layers · (layer + …) + step + sequence · n (+ prompt).
    """

    engine: Id
    """Family, see `names.engine`; "other" holds where nobody measured."""
    kernels: Factor = 1
    """Time of its products, norms and experts beside those measured alone [1]; attention is as measured."""
    devices: dict[Id, Factor] = Field(default_factory=dict)
    """Time of all kernels on one device beside what was carried over to it, where whole servers were measured there but
    no kernels [1]."""
    exchange: Factor = 1
    """Time of its all-reduces beside those measured alone [1]: less than 1 where they are fused with norms."""
    layer: Duration = 0
    """Gaps and small kernels of every layer [s]."""
    expert_layer: Duration = 0
    """The same for routing and combining of a mixture of experts [s]."""
    quantized_layer: Duration = 0
    """The same for quantizing activations [s]."""
    grouped_layer: Duration = 0
    """The same where attention is split by requests: groups wait for each other [s]."""
    step: Duration
    """Scheduling, sampling and input preparation of a step [s]."""
    single_step: Duration = 0
    """Added on one device [s]: its worker shares a process with the scheduler."""
    sequence: Duration
    """The same as `step` for each sequence in it [s]."""
    prompt: Duration = 0
    """Added to a step that reads prompts [s]: it runs outside CUDA graphs."""
    visible_steps: Number = 0
    """Steps from a token's computation until the client sees it [1]."""
    visible: Duration = 0
    """Time from a request's arrival at the server until the engine knows it, and back, in sum [s]."""
    visible_token: Duration = 0
    """The same for each token of the prompt [s]."""
    visible_sequence: Duration = 0
    """The same for each request in service [s]."""
    scheduling: Scheduling = Scheduling()
    log_sigma: LogSigma
    """Standard deviation of ln(measured/predicted) of a token's time on servers left out of the fit."""
    first_log_sigma: LogSigma
    """The same of the time to the first token."""
    rows: CountAmount
    """Measured servers behind the fit."""
    versions: tuple[str, ...] = ()
    """Beginnings of the versions that it holds for; empty: all that no other entry names."""
    note: str = ""
