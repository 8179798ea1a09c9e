"""What a team wants: a recommender, its traffic, its objective, its training and batch work, and how it buys."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from capacity.spec.buying import Ownership, Software, Spot, Support
from capacity.spec.engine import Engine
from capacity.spec.hardware import Dtype
from capacity.spec.prices import Buying
from capacity.spec.quantity import (
    ByteAmount,
    Count,
    CountAmount,
    Duration,
    Fraction,
    Id,
    Name,
    Number,
    Seconds,
    Spec,
    distinct,
)
from capacity.spec.serving import Serving, Traffic
from capacity.spec.stages import TextLength
from capacity.spec.training import TrainingJob

DAY_S = 86400.0


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


class BatchJob(Spec):
    """Work on the whole catalogue or all users that recurs: encoding, index builds."""

    name: Name
    task: Literal["encode", "index"]
    model: str | None = None
    """The encoder, of two towers that of the items; not needed for an index build."""
    items: Literal["catalogue", "new-items", "users"] | Count = "catalogue"
    tokens: TextLength = "item"
    width: Count | None = None
    """Values of an indexed vector; by default the model's."""
    index: Literal["exact", "ivf", "hnsw", "pq"] = "exact"
    """What is built, named as in a retrieve stage."""
    lists: Count = 1024
    """Lists that k-means parts the vectors into (ivf, pq)."""
    links: Annotated[Count, Field(ge=2)] = 32
    """Neighbors a vector of the graph keeps (hnsw's M)."""
    code_bytes: Count = 64
    """Bytes of a compressed vector (pq)."""
    build_effort: Count = 200
    """Candidates kept while a graph is built (hnsw's efConstruction; 200 is the default of RcppHNSW's `hnsw_build`)."""
    learn_share: Annotated[Fraction, Field(gt=0)] = 1
    """Share of the vectors that k-means may learn from; it takes at most 256 for each centroid (faiss' default)."""
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
        if self.index == "pq" and self.width is not None and self.code_bytes > self.width:
            raise ValueError(f"code_bytes {self.code_bytes} for vectors of only {self.width} values")
        if self.task == "encode" and self.index != "exact":
            raise ValueError(f"an encode job builds no index, got index {self.index!r}: add a job with task index")
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

    term: Buying = "on-demand"
    provider: str | None = None
    """Whose hours count; devices to buy are compared over all sellers."""
    region: str | None = None
    """Prefix of the region name; any when absent."""
    rates: str = "rates-us-east"
    """Table of energy, storage, network and people rates."""
    energy: Literal["included", "separate"] = "included"
    """Cloud prices include power; owned hardware pays it separately: `purchase` implies that."""
    ownership: Ownership = Ownership()
    """What `purchase` costs besides the price of a device."""
    spot: Spot = Spot()
    """Interruptions of `spot` devices."""
    software: Software | None = None
    """Licenses; absent: none are billed."""
    support: Support | None = None
    """A support plan; absent: none is billed."""

    @model_validator(mode="before")
    @classmethod
    def _owned_pay_energy(cls, data: Any) -> Any:  # noqa: ANN401  (pydantic hands over whatever the document held)
        if isinstance(data, dict) and data.get("term") == "purchase":
            return {"energy": "separate", **data}
        return data

    @field_validator("energy")
    @classmethod
    def _energy_fits(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("term") == "purchase" and value == "included":
            raise ValueError("term purchase pays for its energy; leave energy out, or set it to separate")
        return value


class Quality(Spec):
    """A quality metric that you measured with one change, and without it."""

    metric: Annotated[str, Field(max_length=60)]
    """What was measured: recall@10, NDCG@10, AUC, click-through rate."""
    value: float
    baseline: float
    source: Annotated[str, Field(max_length=200)] = ""
    """Data, date, or link."""


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
    training: Annotated[tuple[TrainingJob, ...], AfterValidator(distinct)] = ()
    batch: Annotated[tuple[BatchJob, ...], AfterValidator(distinct)] = ()
    storage: Storage = Storage()
    network: Network = Network()
    people: People = People()
    pricing: Pricing = Pricing()
    pruning: dict[str, Annotated[Fraction, Field(gt=0)]] = Field(default_factory=dict)
    """Share of a transformer's feed-forward width that structured pruning leaves, by model."""
    jobs_on_idle_serving: bool = False
    """Whether training and batch jobs run on devices that serving leaves idle through the day, where they fit."""
    quality: dict[Name, Quality] = Field(default_factory=dict)
    """Your own measurements of what levers and overrides do to quality, by their names."""
    overrides: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Named changes of this scenario, chosen with `--override`."""

    @model_validator(mode="after")
    def _jobs_by_name(self) -> Scenario:
        distinct((*self.training, *self.batch))  # a bill and the devices that jobs share know them by it
        return self

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
