"""The stages of an online pipeline: what each does to a request, and what happens when it cannot."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from capacity.spec.hardware import Dtype
from capacity.spec.quantity import (
    ByteAmount,
    Bytes,
    Count,
    CountAmount,
    Duration,
    Factor,
    Fraction,
    Name,
    Number,
    Seconds,
    Spec,
)

TextLength = Literal["item", "query", "pair"] | Count
"""Tokens of a text: the catalogue's mean item text, the audience's mean query, both together, or a number."""


class Cache(Spec):
    """A cache in front of a stage whose hit rate follows from what it holds."""

    entries: Count
    """Results it keeps, the least recently used one leaves."""
    keys: Literal["users", "items"] | Count
    """Distinct results that can be asked for."""
    exponent: Factor = 0.9
    """Popularity falls with this power of the rank (Zipf); 0.6 to 1 for web requests (Breslau et al. 1999, table 2)."""


class Tables(Spec):
    """Where the embedding rows of a stage lie; numbers are for one device, which answers for its share of the rows."""

    device_memory: ByteAmount | None = None
    """Memory of the device for rows [byte]; by default it keeps all."""
    host_memory: ByteAmount = 0
    """Memory of the host for rows [byte]: where 8 devices share a host, each has an eighth of what the host gives."""
    drives: CountAmount = 0
    """NVMe drives for rows."""
    drive_memory: Bytes = 3.84e12
    """Room for rows on each drive [byte]; 3.84 TB are assumed."""
    exponent: Annotated[Number, Field(le=10)] = 0.9
    """A row's popularity falls with this power of its rank over all tables (Zipf); 0: all alike, 0.9 is assumed."""
    policy: Literal["static", "lru"] = "static"
    """static: the most popular rows in the fastest tier; lru: each tier is a cache of the next, the last holds all."""
    dtype: Literal["fp32", "fp16", "bf16", "int8", "int4"] | None = None
    """Storage of rows, scale and offset beside each row of int8 and int4; by default the stage's dtype."""

    def rooms(self, size_bytes: float) -> tuple[float, float, float]:
        """Return what device, host and drives have room for, of rows that take `size_bytes` [byte].

        Examples
        --------
        >>> Tables(device_memory="1 GB", host_memory="2 GB").rooms(5e9)
        (1000000000.0, 2000000000.0, 0.0)
        """
        device = size_bytes if self.device_memory is None else min(self.device_memory, size_bytes)
        return device, min(self.host_memory, size_bytes), min(self.drives * self.drive_memory, size_bytes)

    def held_bytes(self, size_bytes: float) -> float:
        """Return how much of `size_bytes` of rows the tiers hold: all together, or with copies the largest [byte].

        Examples
        --------
        >>> given = {"device_memory": "1 GB", "host_memory": "2 GB"}
        >>> Tables(**given).held_bytes(5e9), Tables(**given, policy="lru").held_bytes(5e9)
        (3000000000.0, 2000000000.0)
        """
        rooms = self.rooms(size_bytes)
        return min(sum(rooms), size_bytes) if self.policy == "static" else max(rooms)


class _Stage(Spec):
    name: Name
    pool: Name = "online"
    """Stages of one pool run one after the other on the same devices."""
    dtype: Dtype = "fp16"
    after: tuple[Name, ...] | None = None
    """Stages that must be done before; by default the one before it in the list. [] starts with the request."""
    cache_hit_rate: Fraction = 0
    """Share of requests answered from a cache before this stage does anything."""
    cache: Cache | None = None
    """The same from the size of the cache; not both."""
    cache_answers: bool = False
    """Whether a hit answers the whole request (a cache of results), so that later stages do not see it."""
    timeout: Seconds | None = None
    """Longest a request waits for this stage before it is given up [s]."""
    retries: CountAmount = 0
    """Times a request that waited too long, or lost its replica, is sent again."""
    fallback: Duration | None = None
    """Time of answering without this stage when it gives up [s]; without it the whole request fails."""
    queue_limit: Count | None = None
    """Most requests that wait; the next one is refused at once."""

    @model_validator(mode="after")
    def _one_cache(self) -> _Stage:
        if self.cache is not None and self.cache_hit_rate:
            raise ValueError("give cache_hit_rate or cache, not both")
        return self


class EncodeStage(_Stage):
    """A transformer reads whole texts: an encoder, or a cross-encoder over (query, candidate) pairs."""

    family: ClassVar[str] = "transformer"
    task: Literal["encode"]
    model: str
    sequences: Count = 1
    """Texts a request brings: 1 for its query, N for N candidates to rerank."""
    tokens: TextLength
    tokens_cv: Number = 0
    """Standard deviation ÷ mean of the texts' lengths [1]; `tokens` is the mean."""
    batching: Literal["pad", "pack"] = "pad"
    """Whether a batch's texts are filled up to the longest, or laid end to end."""
    buckets: tuple[Count, ...] = ()
    """Lengths at which texts are parted, so that only texts of like length share a batch [token]."""


class Speculation(Spec):
    """A draft proposes tokens that the model checks in one step (Leviathan et al. 2023)."""

    tokens: Annotated[Count, Field(le=16)]
    """Tokens proposed a step."""
    acceptance: Annotated[Fraction, Field(lt=1)]
    """Chance that a proposed token is kept [1]: your measurement."""
    model: str | None = None
    """The draft model; absent for heads of the model itself (multi-token prediction), whose cost is left out."""


class GenerateStage(_Stage):
    """An LLM reads a prompt and writes text, with continuous batching."""

    family: ClassVar[str] = "transformer"
    task: Literal["generate"]
    model: str
    prompt_tokens: TextLength
    output_tokens: Count
    prompt_cv: Number = 0
    """Standard deviation ÷ mean of the prompt's length [1]."""
    output_cv: Number = 0
    """Standard deviation ÷ mean of the output's length [1]; 0: that of the scenario's `service_variation`."""
    software: Literal["vllm", "trtllm", "sglang"] = "vllm"
    """Engine that serves it."""
    kv_dtype: Dtype | None = None
    """Storage of keys and values; by default fp8 where products are in 8 bits or less, else that of the products."""
    max_sequences: Count | None = None
    """Most sequences a replica runs at once; by default the engine's own limit."""
    max_batched_tokens: Count | None = None
    """Most new tokens of a step; by default the engine's own limit."""
    chunked: bool = True
    """Whether long prompts are read in several steps, together with decoding."""
    prefix_tokens: CountAmount = 0
    """Tokens at the start of the prompt that requests share: instructions, a user's history."""
    prefix_groups: Count = 1
    """Distinct shared starts, of which a replica keeps what fits its memory."""
    prefix_exponent: Number = 0
    """Popularity of the shared starts falls with this power of the rank; 0: all alike."""
    beams: Annotated[Count, Field(le=1024)] = 1
    """Sequences searched at once (semantic IDs); they share the prompt's keys and values."""
    speculation: Speculation | None = None
    disaggregated: bool = False
    """Whether prompts are read on replicas of their own, and keys and values sent over."""
    tensor_parallel: Literal["auto", 1, 2, 4, 8] = "auto"
    """Devices that share each product; auto: the fewest that hold the model."""
    expert_parallel: bool = False
    """Whether devices share out the experts instead of splitting each."""
    pipeline_parallel: Annotated[Count, Field(le=16)] = 1
    """Groups of devices with successive layers."""


class RetrieveStage(_Stage):
    """Nearest neighbors over the whole catalogue."""

    task: Literal["retrieve"]
    width: Count
    metric: Literal["dot", "l2"] = "dot"
    top: Count = 10
    queries: Count = 1
    index: Literal["exact", "ivf", "hnsw", "pq"] = "exact"
    """exact: all vectors; ivf: the nearest lists; hnsw: a graph; pq: compressed codes in the nearest lists."""
    lists: Count = 1024
    """Lists that ivf and pq part the vectors into."""
    probes: Count | None = None
    """Lists that are searched; by default 16."""
    links: Annotated[Count, Field(ge=2)] = 32
    """Neighbors a vector of the graph keeps (hnsw's M)."""
    effort: Count | None = None
    """Candidates kept while the graph is searched (hnsw's efSearch); by default 64."""
    recall: Annotated[Fraction, Field(gt=0)] | None = None
    """Share of the true nearest to be found, in place of probes or effort, which are then read off `points`."""
    points: str | None = None
    """Recalls that such an index reached, by search effort: an id of model_profiles/retrieval, or a file of yours."""
    code_bytes: Count = 64
    """Bytes of a compressed vector (pq)."""
    shards: Count = 1
    """Parts of the index on replicas of their own: each request asks all of them, the slowest decides."""

    @property
    def breadth(self) -> int:
        """Lists that ivf and pq search, or candidates that hnsw keeps, where no recall is asked for."""
        return (self.effort or 64) if self.index == "hnsw" else min(self.probes or 16, self.lists)

    @property
    def borrowed(self) -> str:
        """Whose recall it takes for its own, in words; empty where none is asked for."""
        said = (
            f"recall {self.recall} of stage {self.name} is taken from points {self.points}: yours may need more effort"
        )
        return "" if self.recall is None else said

    @model_validator(mode="after")
    def _searchable(self) -> RetrieveStage:
        if self.index in {"ivf", "pq"} and (self.probes or 0) > self.lists:
            raise ValueError(f"probes {self.probes} of only {self.lists} lists")
        if self.index == "pq" and self.code_bytes > self.width:
            raise ValueError(f"code_bytes {self.code_bytes} for vectors of only {self.width} values")
        return self

    @model_validator(mode="after")
    def _one_effort(self) -> RetrieveStage:
        if self.recall is None:
            return self
        given = "effort" if self.index == "hnsw" else "probes"
        if self.index == "exact":
            raise ValueError("an exact search finds all: a recall is for index ivf, hnsw or pq")
        if getattr(self, given) is not None:
            raise ValueError(f"give recall or {given}, not both (an override takes it away with `{given}: null`)")
        if self.points is None:
            raise ValueError("a recall needs points, from which its effort is read: see model_profiles/retrieval")
        return self


class RankStage(_Stage):
    """An ID ranker rates candidates, each as a (user, item) pair."""

    family: ClassVar[str] = "id-ranker"
    task: Literal["rank-pairs"]
    model: str
    candidates: Count
    tables: Tables = Tables()
    """Where the rows lie, and in which numbers; by default on the device, in the stage's dtype."""


class ScoreStage(_Stage):
    """A look-up model scores candidates: DLRM or DCNv2 over embedding tables, or HSTU over a long history."""

    families: ClassVar[tuple[str, ...]] = ("dlrm", "hstu")
    task: Literal["score"]
    model: str
    candidates: Count
    tables: Tables = Tables()
    """Where the rows lie, and in which numbers; by default on the device, in the stage's dtype."""


class NextItemStage(_Stage):
    """A sequence model reads the user's history and scores the whole catalogue: an LSTM, or BERT4Rec."""

    families: ClassVar[tuple[str, ...]] = ("lstm", "bert4rec")
    task: Literal["next-item"]
    model: str


class TowerStage(_Stage):
    """The user tower of two towers makes a vector of the user: rows of its tables, dense features, linear layers."""

    family: ClassVar[str] = "two-tower"
    task: Literal["tower"]
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
    """Time one request takes beside the devices [s]; your measurement or assumption."""
    variation: Number = 0
    """Standard deviation ÷ mean of that time [1]."""
    workers: Count | None = None
    """Requests that are worked on at once by each replica of the pool; absent: any number."""


Stage = Annotated[
    EncodeStage | GenerateStage | RetrieveStage | RankStage | ScoreStage | NextItemStage | TowerStage | FuseStage
    | FetchStage | HostStage,
    Field(discriminator="task"),
]  # fmt: skip
