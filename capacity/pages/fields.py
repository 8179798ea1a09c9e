"""The forms of the scenario editor as data: which value each input sets, read from the spec documents. No Streamlit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from pydantic import BaseModel

from capacity import documents
from capacity.documents import Value
from capacity.errors import InputError
from capacity.pages import drafts
from capacity.problems import Location
from capacity.spec.scenario import (
    Audience,
    BatchJob,
    Catalogue,
    Network,
    Objective,
    People,
    Pricing,
    Resilience,
    Scenario,
    Storage,
)
from capacity.spec.serving import Serving, Traffic
from capacity.spec.stages import Stage
from capacity.spec.training import TrainingJob
from capacity.units import EXAMPLES, text

UNSET = ""
"""Stands for a value that the scenario does not give, so that its default holds."""
STAGES, TRAINING, BATCH = ("serving", "stages"), ("training",), ("batch",)
GENERAL = "SI number, or text"
"""How the schema of a field begins that says nothing of its own."""
DIMENSIONS = {shown.split(" or ")[0]: dimension for dimension, shown in EXAMPLES.items()}
MODELS: Mapping[str, type[BaseModel]] = {
    get_args(member.model_fields["task"].annotation)[0]: member for member in get_args(get_args(Stage)[0])
}
"""Task → the document of its stages."""
COMMON = ("dtype", "pool", "cache_hit_rate")
STAGE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "encode": ("model", "sequences", "tokens", "tokens_cv", "batching", *COMMON),
    "generate": ("model", "prompt_tokens", "output_tokens", "prefix_tokens", "software", "tensor_parallel", *COMMON),
    "retrieve": ("width", "metric", "top", "index", "lists", "probes", "links", "effort", "recall", "points",
                 "code_bytes", "shards", *COMMON),
    "rank-pairs": ("model", "candidates", *COMMON),
    "score": ("model", "candidates", *COMMON),
    "next-item": ("model", *COMMON),
    "tower": ("model", *COMMON),
    "fuse": ("model", "candidates", *COMMON),
    "fetch": ("rows", "width", "table_rows", *COMMON),
    "host": ("time", "variation", "workers", "pool"),
}  # fmt: skip
"""The few fields of a stage that a form asks for, by task; the YAML takes the others."""
TRAINING_FIELDS = (
    "model", "samples", "tokens", "epochs", "batch", "dtype", "optimizer", "every", "deadline", "max_devices",
)  # fmt: skip
BATCH_FIELDS = ("model", "items", "tokens", "index", "batch", "dtype", "every", "deadline", "max_devices")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One input of a form: the value it sets, how it is called, and what it may be."""

    location: Location
    label: str
    kind: Literal["typed", "text", "choice", "switch"]
    """typed: a number, a text with a unit, or a list; text: words as they are."""
    words: tuple[str, ...] = ()
    default: str = UNSET
    explanation: str = ""
    families: tuple[str, ...] = ()
    """Families of models that it may name; any where it is empty."""

    @property
    def key(self) -> str:
        """Name of the input between reruns."""
        return "edit:" + ".".join(map(str, self.location))


@dataclass(frozen=True, slots=True)
class Section:
    """Inputs that stand together."""

    title: str
    fields: tuple[Field, ...]


@cache
def sections() -> tuple[Section, ...]:
    """Return the inputs of a scenario beside its stages and jobs, in the order of the page."""
    return (
        Section("Recommender", tuple(described(Scenario, (), ("id", "title", "engine", "hardware")))),
        Section("Traffic", tuple(described(Traffic, ("traffic",), ("peak_rate", "mean_to_peak", "arrivals")))),
        Section(
            "Objective and room",
            (
                *described(Objective, ("objective",)),
                *described(Resilience, ("resilience",), ("headroom", "spare_replicas")),
            ),
        ),
        Section("Catalogue and audience", (*described(Catalogue, ("catalogue",)), *described(Audience, ("audience",)))),
        Section("Batches", tuple(described(Serving, ("serving",), ("max_batch", "max_wait")))),
        Section(
            "Pricing, storage, network, people",
            (
                *described(Pricing, ("pricing",), ("term", "provider", "region", "energy")),
                *described(Storage, ("storage",), ("features", "log_bytes_per_request", "log_retention")),
                *described(Network, ("network",)),
                *described(People, ("people",)),
            ),
        ),
    )


def stage(entry: Mapping[str, Value], place: int) -> tuple[Field, ...]:
    """Return the inputs of the stage that stands at `place`; none for a task that does not exist."""
    task = str(entry.get("task"))
    return tuple(described(MODELS[task], (*STAGES, place), STAGE_FIELDS[task])) if task in MODELS else ()


def job(kind: Location, place: int) -> tuple[Field, ...]:
    """Return the inputs of the job that stands at `place` of `TRAINING` or `BATCH`."""
    if kind == TRAINING:
        return tuple(described(TrainingJob, (*kind, place), TRAINING_FIELDS))
    return tuple(described(BatchJob, (*kind, place), BATCH_FIELDS))


def described(model: type[BaseModel], at: Location, names: Sequence[str] = ()) -> Iterator[Field]:
    """Yield an input for each named field of a document that stands at `at`, for all of them by default."""
    properties = _properties(model)
    for name in names or properties:
        said = properties[name]
        members = list(_members(said))
        words = tuple(str(word) for member in members for word in member.get("enum", ()))
        kinds = {member.get("type") for member in members} - {"null"}
        kind = _kind(members, kinds, words)
        blank = (UNSET,) if kind == "choice" and {"type": "null"} in members else ()
        yield Field(
            location=(*at, name), label=_label(name), kind=kind, words=(*blank, *words), default=_default(said),
            explanation=_explanation(said, kind, words), families=_families(model) if name == "model" else (),
        )  # fmt: skip


def read(field: Field, typed: str | bool) -> Value:
    """Return the value that a person typed or chose: a number where it is one.

    Examples
    --------
    >>> count, title = Field(location=("a",), label="A", kind="typed"), Field(location=("b",), label="B", kind="text")
    >>> read(count, "12"), read(count, "10 M"), read(count, "[1, 2]"), read(title, "12")
    (12, '10 M', [1, 2], '12')
    """
    if field.kind == "text" or isinstance(typed, bool):
        return typed
    try:
        found = documents.parse(f"v: {typed.strip()}", drafts.NAME).data
    except InputError:
        return typed
    return found["v"] if set(found) == {"v"} and not isinstance(found["v"], dict) else typed


def written(value: Value) -> str:
    """Return a value of a document as an input shows it."""
    if value is None:
        return UNSET
    return value if isinstance(value, str) else drafts.plain(value)


@cache
def _properties(model: type[BaseModel]) -> dict[str, Any]:
    whole = model.model_json_schema()
    return {name: _resolved(said, whole) for name, said in whole["properties"].items()}


def _resolved(said: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    return said | (whole["$defs"][said["$ref"].rsplit("/", 1)[-1]] if "$ref" in said else {})


def _members(said: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what a value may be: itself, or the members of its union."""
    if "anyOf" not in said:
        yield said
    for member in said.get("anyOf", ()):
        yield from _members(member)


def _kind(
    members: Sequence[Mapping[str, Any]], kinds: set[Any], words: Sequence[str]
) -> Literal["typed", "text", "choice", "switch"]:
    if kinds == {"boolean"}:
        return "switch"
    if words and all("enum" in member or member.get("type") == "null" for member in members):
        return "choice"
    return "text" if kinds == {"string"} and not words else "typed"


def _examples(said: Mapping[str, Any]) -> Iterator[str]:
    yield from said.get("examples", ())
    for member in said.get("anyOf", ()):
        yield from _examples(member)


def _dimension(said: Mapping[str, Any]) -> str | None:
    return next((DIMENSIONS[shown] for shown in _examples(said) if shown in DIMENSIONS), None)


def _default(said: Mapping[str, Any]) -> str:
    value, dimension = said.get("default"), _dimension(said)
    if isinstance(value, bool) or not isinstance(value, int | float) or dimension is None:
        return written(value)
    return text(value, dimension)


def _families(model: type[BaseModel]) -> tuple[str, ...]:
    one: tuple[str, ...] = (model.family,) if hasattr(model, "family") else ()
    return getattr(model, "families", one)


def _explanation(said: Mapping[str, Any], kind: str, words: Sequence[str]) -> str:
    dimension, described_as = _dimension(said), str(said.get("description", ""))
    parts = [] if described_as.startswith(GENERAL) else [described_as]
    if dimension is not None:
        also = f"{', '.join(words)}, or " if words else ""
        parts.append(
            f"Write {also}{'a number such as 12, 20 k or ' if dimension == 'count' else ''}{EXAMPLES[dimension]}."
        )
    if _default(said) != UNSET:
        parts.append(f"{'Empty means' if kind == 'typed' else 'By default'} {_default(said)}.")
    return " ".join(part for part in parts if part)


def _label(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]
