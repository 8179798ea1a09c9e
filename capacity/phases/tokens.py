"""Tokens that the stages of a pipeline read and write for one request: what text costs are counted in."""

from __future__ import annotations

from dataclasses import dataclass

from capacity.phases import generate
from capacity.phases.context import Context
from capacity.spec.stages import EncodeStage, GenerateStage, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Mean tokens of one request, requests that a cache answers counted with none [token].

    Attributes
    ----------
    read
        By encoders and in prompts, shared starts of prompts included.
    shared
        Those of `read` that stand at the start of the prompt and are the same for many requests.
    written
        By LLMs, in every beam.
    """

    read: float = 0.0
    shared: float = 0.0
    written: float = 0.0


def asking(stage: Stage, context: Context) -> float:
    """Return the share of requests that make a stage work: neither it nor an earlier stage had a cached answer [1]."""
    return context.reaching(stage) * (1 - context.hit_rate(stage))


def of_stage(stage: Stage, context: Context) -> Tokens:
    """Return what a stage reads and writes for one request of the pipeline; nothing where it handles no text."""
    share = asking(stage, context)
    if isinstance(stage, EncodeStage):
        return Tokens(read=share * stage.sequences * context.scenario.tokens(stage.tokens))
    if isinstance(stage, GenerateStage):
        texts = generate.texts(stage, context.scenario)
        return Tokens(
            read=share * texts.prompt, shared=share * texts.cached, written=share * texts.output * texts.beams
        )
    return Tokens()
