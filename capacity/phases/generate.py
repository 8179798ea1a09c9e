"""A generate stage of a scenario as a server of an LLM engine, and what its requests read and write."""

from __future__ import annotations

from collections.abc import Sequence

from capacity.phases import engine_step
from capacity.phases.server import Server
from capacity.phases.step_table import Texts
from capacity.spec import names
from capacity.spec.model import TransformerModel
from capacity.spec.names import Engine
from capacity.spec.scenario import Scenario
from capacity.spec.serving_engine import ServingEngine
from capacity.spec.stages import GenerateStage
from capacity.timing.device import Device
from capacity.work.decoder_step import Layout, Served, as_run, usual_kv_dtype
from capacity.work.models import reading

TAIL = 4.0
"""Lengths up to this many standard deviations above the mean are held by the tables of step times."""


def texts(stage: GenerateStage, scenario: Scenario) -> Texts:
    """Return what a request of the stage reads and writes on average.

    Of k proposed tokens, each kept with chance a, a step keeps (1 − a^(k+1))/(1 − a) with its own (Leviathan et al.
    2023, eq. 1).
    """
    kept, verified = 1.0, 1
    if stage.speculation is not None:
        proposed, chance = stage.speculation.tokens, stage.speculation.acceptance
        kept, verified = (1 - chance ** (proposed + 1)) / (1 - chance), proposed + 1
    prompt = scenario.tokens(stage.prompt_tokens)
    return Texts(
        prompt=prompt, output=stage.output_tokens, cached=min(stage.prefix_tokens, prompt - 1), beams=stage.beams,
        tokens_per_step=kept, verified_tokens=verified,
    )  # fmt: skip


def layout(stage: GenerateStage, experts: int, tensor: int) -> Layout:
    """Return how `tensor` devices of each pipeline group share the stage's model."""
    split, shared = (1, tensor) if stage.expert_parallel and experts else (tensor, 1)
    return Layout(tensor=tensor, pipeline=stage.pipeline_parallel, expert_tensor=split, expert=shared)


def server(
    stage: GenerateStage, model: TransformerModel, scenario: Scenario, device: Device, tensor: int,
    engines: Sequence[ServingEngine],
) -> Server:  # fmt: skip
    """Return one replica of the stage on `tensor` devices for each of its pipeline groups.

    Raises
    ------
    CapacityError
        When the model cannot read texts as long as the stage's.
    """
    mean = texts(stage, scenario)
    varied = stage.output_cv or scenario.resilience.service_variation
    longest = mean.prompt * (1 + TAIL * stage.prompt_cv) + mean.output * (1 + TAIL * varied)
    built = reading(model, int(longest))
    products = as_run(names.dtype(stage.dtype), device.hardware)
    kv_dtype = stage.kv_dtype or usual_kv_dtype(products, experts=bool(built.layer.experts))
    served = Served(
        model=built, engine=Engine(stage.software), layout=layout(stage, built.layer.experts, tensor),
        products=products, expert_products=products, kv_dtype=kv_dtype,
    )  # fmt: skip
    return Server(
        served=served, device=device, engine=engine_step.chosen(engines, stage.software), context=int(longest) + 1,
        max_sequences=stage.max_sequences, max_batched_tokens=stage.max_batched_tokens, beams=stage.beams,
        shared_tokens=mean.prompt if stage.beams > 1 else 0.0,
    )  # fmt: skip
