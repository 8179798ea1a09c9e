"""What a team wants: a recommender, its traffic, its objective, its training and batch work, and how it buys."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from capacity.spec.engine import Engine
from capacity.spec.hardware import Dtype
from capacity.spec.quantity import (
    ByteAmount,
    Count,
    CountAmount,
    Duration,
    Factor,
    Fraction,
    Id,
    Name,
    Number,
    PerSecond,
    Seconds,
    Spec,
)

TextLength = Literal["item", "query", "pair"] | Count
"""Tokens of a text: the catalogue's mean item text, the audience's mean query, both together, or a number."""
DAY_S = 86400.0
T = TypeVar("T")


class Catalogue(Spec):
    """The items that can be recommended."""

    items: Count
    item_tokens: Count = 128
    """Mean tokens of one item's text after truncation."""
    new_items_per_day: CountAmount = 0
    """Items added or changed a day: what incremental encoding has to do."""


class Audience(Spec):
    """The people recommended to."""

    users: Count = 1_000_000
    query_tokens: Count = 32
    """Mean tokens of a user's query or interest text."""
    history: Count = 50
    """Events of a user's history that a sequence model reads."""


class Traffic(Spec):
    """Requests over time."""

    peak_rate: PerSecond
    """Requests per second in the busiest minutes."""
    mean_to_peak: Annotated[Fraction, Field(gt=0)] = 0.5
    """Mean rate ÷ peak rate over a day; sets what is used, logged and sent."""


class Objective(Spec):
    """What "fast enough" means."""

    latency: Seconds
    """End-to-end time within which `percentile` of the requests must be answered."""
    percentile: Literal["p50", "p90", "p95", "p99"] = "p99"

    @property
    def quantile(self) -> float:
        """The percentile as a share."""
        return int(self.percentile[1:]) / 100


class Resilience(Spec):
    """Room for what the plan does not know."""

    headroom: Fraction = 0.2
    """Extra peak traffic that must still be carried."""
    spare_replicas: CountAmount = 1
    """Replicas of each pool that may fail at peak without breaking the objective (N+1)."""
    service_variation: Number = 0.3
    """Standard deviation ÷ mean of a request's service time (lengths differ)."""


class _Stage(Spec):
    name: Name
    pool: Name = "online"
    """Stages of one pool run one after the other on the same devices."""
    dtype: Dtype = "fp16"
    cache_hit_rate: Fraction = 0
    """Share of requests answered from a cache before this stage does anything."""


class EncodeStage(_Stage):
    """A transformer reads whole texts: an encoder, or a cross-encoder over (query, candidate) pairs."""

    family: ClassVar[str] = "transformer"
    task: Literal["encode"]
    model: str
    sequences: Count = 1
    """Texts a request brings: 1 for its query, N for N candidates to rerank."""
    tokens: TextLength


class GenerateStage(_Stage):
    """An LLM reads a prompt and writes text."""

    family: ClassVar[str] = "transformer"
    task: Literal["generate"]
    model: str
    prompt_tokens: TextLength
    output_tokens: Count


class RetrieveStage(_Stage):
    """Exact nearest neighbors over the whole catalogue."""

    task: Literal["retrieve"]
    width: Count
    metric: Literal["dot", "l2"] = "dot"
    top: Count = 10
    queries: Count = 1


class RankStage(_Stage):
    """An ID ranker rates candidates, each as a (user, item) pair."""

    family: ClassVar[str] = "id-ranker"
    task: Literal["rank-pairs"]
    model: str
    candidates: Count


class NextItemStage(_Stage):
    """An LSTM reads the user's history and scores the whole catalogue."""

    family: ClassVar[str] = "lstm"
    task: Literal["next-item"]
    model: str


class FuseStage(_Stage):
    """The fusion scorer zᵀ·W·σ(v ⊕ u) over candidates."""

    family: ClassVar[str] = "fusion-scorer"
    task: Literal["fuse"]
    model: str
    candidates: Count


class FetchStage(_Stage):
    """Rows of features or embeddings are looked up."""

    task: Literal["fetch"]
    rows: Count
    width: Count
    table_rows: Count = 1_000_000


class HostStage(_Stage):
    """Host work of a known time: tokenization, feature fetch from a store, serialization."""

    task: Literal["host"]
    time: Seconds
    """Time one request takes beside the devices [s], for many requests at once; your measurement or assumption."""


Stage = Annotated[
    EncodeStage | GenerateStage | RetrieveStage | RankStage | NextItemStage | FuseStage | FetchStage | HostStage,
    Field(discriminator="task"),
]


def _distinct(entries: tuple[T, ...]) -> tuple[T, ...]:
    """Return `entries` if each has a name of its own: overrides and reports call them by it."""
    names = [str(getattr(entry, "name", "")) for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names must differ, {', '.join(twice)} stands more than once")
    return entries


def _on_devices(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    for pool in dict.fromkeys(stage.pool for stage in stages):
        if all(isinstance(stage, HostStage) for stage in stages if stage.pool == pool):
            raise ValueError(f"pool {pool} holds host work only; name a pool whose devices compute")
    return stages


class Serving(Spec):
    """The online pipeline: stages in order."""

    stages: Annotated[tuple[Stage, ...], Field(min_length=1), AfterValidator(_distinct), AfterValidator(_on_devices)]
    max_batch: Annotated[Count, Field(le=1_000_000)] = 32
    """Most requests put into one batch."""
    max_wait: Duration = 0.005
    """Longest a request waits for its batch to fill [s]."""


class TrainingJob(Spec):
    """A training run that recurs."""

    name: Name
    model: str
    samples: Literal["catalogue", "new-items", "users"] | Count
    """Examples a run sees in one epoch."""
    tokens: TextLength = "item"
    """Length of an example; history events for sequence models; ignored by factorization and ID rankers."""
    epochs: Factor = 1
    batch: Count = 32
    """Examples per device and step."""
    dtype: Dtype = "bf16"
    optimizer: Literal["adamw", "momentum", "sgd"] = "adamw"
    every: Seconds
    """Time between two runs."""
    deadline: Seconds | None = None
    """Longest a run may take; by default `every`."""
    max_devices: Count = 8
    """Most data-parallel devices."""
    runs: Factor = 1
    """Runs per occasion: hyper-parameter search and repeats."""


class BatchJob(Spec):
    """Work on the whole catalogue or all users that recurs: encoding, index builds."""

    name: Name
    task: Literal["encode", "index"]
    model: str | None = None
    """The encoder; not needed for an index build."""
    items: Literal["catalogue", "new-items", "users"] | Count = "catalogue"
    tokens: TextLength = "item"
    width: Count | None = None
    """Values of an indexed vector; by default the model's."""
    batch: Count = 64
    dtype: Dtype = "fp16"
    every: Seconds
    deadline: Seconds | None = None
    max_devices: Count = 64

    @model_validator(mode="after")
    def _complete(self) -> BatchJob:
        if self.task == "encode" and self.model is None:
            raise ValueError("an encode job needs a model")
        if self.task == "index" and self.model is None and self.width is None:
            raise ValueError("an index job needs a model or a width")
        return self


class Storage(Spec):
    """Bytes kept, beyond the weights and vectors that the plan counts itself."""

    features: ByteAmount = 0
    """Features and user vectors on block storage."""
    log_bytes_per_request: ByteAmount = 1000
    log_retention: Duration = 30 * 86400.0
    checkpoints: CountAmount = 3
    """Copies of the weights with optimizer state kept for each training job."""
    vector_copies: Count = 2
    """Copies of the catalogue's vectors: the live index and the one being built."""


class Network(Spec):
    """Bytes that are billed on their way."""

    response_bytes: ByteAmount = 2000
    """Sent out of the cloud per request."""
    cross_zone_share: Fraction = 0
    """Share of pipeline traffic that crosses zones."""


class People(Spec):
    """Work of people on this system."""

    engineer_hours_per_month: Number = 0


class Pricing(Spec):
    """How devices and everything else are bought."""

    term: Literal["on-demand", "spot", "1-year", "3-year"] = "on-demand"
    provider: str | None = None
    region: str | None = None
    """Prefix of the region name; any when absent."""
    rates: str = "rates-us-east"
    """Table of energy, storage, network and people rates."""
    energy: Literal["included", "separate"] = "included"
    """Cloud prices include power; owned hardware pays it separately."""


class Scenario(Spec):
    """One question: what this recommender needs, and what it costs."""

    id: Id
    title: str
    description: str = ""
    sources: tuple[str, ...] = ()
    """Where the numbers of this scenario come from; assumptions say so."""
    hardware: Annotated[tuple[str, ...], Field(min_length=1)]
    """Devices to compare."""
    engine: Engine = "fused"
    catalogue: Catalogue
    audience: Audience = Audience()
    traffic: Traffic
    objective: Objective
    resilience: Resilience = Resilience()
    serving: Serving
    training: Annotated[tuple[TrainingJob, ...], AfterValidator(_distinct)] = ()
    batch: Annotated[tuple[BatchJob, ...], AfterValidator(_distinct)] = ()
    storage: Storage = Storage()
    network: Network = Network()
    people: People = People()
    pricing: Pricing = Pricing()
    overrides: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Named changes of this scenario, chosen with `--override`."""

    def tokens(self, length: str | int) -> int:
        """Return the tokens that a text length means here."""
        item, query = self.catalogue.item_tokens, self.audience.query_tokens
        return length if isinstance(length, int) else {"item": item, "query": query, "pair": item + query}[length]

    def amount(self, what: str | int, every_s: float = DAY_S) -> int:
        """Return how many items, items new within `every_s`, or users are meant."""
        if isinstance(what, int):
            return what
        new = ceil(self.catalogue.new_items_per_day * every_s / DAY_S)
        return {"catalogue": self.catalogue.items, "new-items": new, "users": self.audience.users}[what]


class Domain(Spec):
    """A field of use as an override that applies to any scenario: its catalogue, people, traffic and patience."""

    id: Id
    title: str
    assumptions: Annotated[tuple[str, ...], Field(min_length=1)]
    """Why these numbers, each with its source where one exists."""
    override: dict[str, Any]
