"""The inputs of the sidebar as data: which value of the scenario each one sets, its label, unit and choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from capacity.pages.state import path_of
from capacity.spec.engine import Engine
from capacity.spec.hardware import Dtype
from capacity.spec.scenario import Objective, Pricing, Scenario
from capacity.spec.stages import HostStage
from capacity.units import text


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A value typed as text with its unit, as in a scenario file."""

    path: str
    label: str
    dimension: str
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """A value chosen on a slider."""

    path: str
    label: str
    dimension: str
    values: tuple[float, ...]
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of a few words."""

    path: str
    label: str
    words: tuple[str, ...]
    explanation: str


RATE = Quantity(
    path="traffic.peak_rate", label="Peak rate [requests/s]", dimension="per second",
    explanation="Requests per second in the busiest minutes, e.g. 3000/s or 2 M/d.",
)  # fmt: skip
LATENCY = Quantity(
    path="objective.latency", label="Latency objective", dimension="seconds",
    explanation="End-to-end time within which the percentile of requests must be answered, e.g. 100 ms.",
)  # fmt: skip
PERCENTILE = Choice(
    path="objective.percentile", label="at percentile", words=get_args(Objective.model_fields["percentile"].annotation),
    explanation="Share of requests that must meet the objective.",
)  # fmt: skip
ITEMS = Quantity(
    path="catalogue.items", label="Items", dimension="count", explanation="Items that can be recommended, e.g. 10 M."
)
ITEM_TOKENS = Quantity(
    path="catalogue.item_tokens", label="Tokens of an item", dimension="count",
    explanation="Mean tokens of one item's text after truncation.",
)  # fmt: skip
QUERY_TOKENS = Quantity(
    path="audience.query_tokens", label="Tokens of a query", dimension="count",
    explanation="Mean tokens of a user's query or interest text.",
)  # fmt: skip
HEADROOM = Steps(
    path="resilience.headroom", label="Headroom [% of peak]", dimension="fraction",
    values=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0), explanation="Extra peak traffic that must still be carried.",
)  # fmt: skip
MAX_BATCH = Steps(
    path="serving.max_batch", label="Largest batch [requests]", dimension="count",
    values=tuple(float(2**power) for power in range(11)), explanation="Most requests put into one batch.",
)  # fmt: skip
ENGINE = Choice(
    path="engine", label="Engine", words=get_args(Engine),
    explanation=(
        "fused: element-wise work is merged as compiled engines do; eager: PyTorch modules one by one; onnxruntime and "
        "openvino: on processors only."
    ),
)  # fmt: skip
TERM = Choice(
    path="pricing.term", label="Price term", words=get_args(Pricing.model_fields["term"].annotation),
    explanation="How devices are bought. A term without a published price shows a “no price” line.",
)  # fmt: skip
FIXED: tuple[Quantity | Steps | Choice, ...] = (
    RATE, LATENCY, PERCENTILE, ITEMS, ITEM_TOKENS, QUERY_TOKENS, HEADROOM, MAX_BATCH, ENGINE, TERM,
)  # fmt: skip
DTYPES: tuple[str, ...] = get_args(Dtype)
LADDER = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)


def rate_steps(base: float, now: float) -> tuple[float, ...]:
    """Return the rates a slider offers [requests/s]: about a hundredth to a hundred times the scenario's own.

    Examples
    --------
    >>> steps = rate_steps(37.5, 40.0)
    >>> steps[0], steps[-1], 37.5 in steps, 40.0 in steps
    (0.5, 3000.0, True, True)
    """
    ladder = {step * 10.0**power for power in range(-6, 13) for step in LADDER}
    inside = {value for value in ladder if base / 100 <= value <= base * 100}
    return tuple(sorted(inside | {base, now}))


def precisions(scenario: Scenario) -> list[Choice]:
    """Return the dtype choice of every stage that computes on the device."""
    return [
        Choice(
            path=f"serving.stages.{stage.name}.dtype", label=f"Precision of {stage.name}", words=DTYPES,
            explanation="Type of the values that this stage computes with.",
        )
        for stage in scenario.serving.stages
        if not isinstance(stage, HostStage) and "." not in stage.name
    ]  # fmt: skip


def owned(scenario: Scenario) -> set[str]:
    """Return the paths that an input of the sidebar sets."""
    return {control.path for control in (*FIXED, *precisions(scenario))}


def others(settings: Sequence[str], scenario: Scenario) -> list[str]:
    """Return the settings that no input of the sidebar shows."""
    return [setting for setting in settings if path_of(setting) not in owned(scenario)]


def label(value: float, dimension: str) -> str:
    """Return a slider's value with its unit."""
    return text(value, dimension)
