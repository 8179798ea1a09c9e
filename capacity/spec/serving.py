"""The online pipeline as a whole: its stages, the pools of replicas that run them, and the requests that come."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from capacity.spec.quantity import (
    Count,
    Duration,
    Factor,
    Fraction,
    Name,
    Number,
    PerSecond,
    Seconds,
    Spec,
    distinct,
)
from capacity.spec.stages import HostStage, Stage


class LoadStage(Spec):
    """A rate that holds for a while."""

    rate: PerSecond
    duration: Seconds


class Traffic(Spec):
    """Requests over time."""

    peak_rate: PerSecond
    """Requests per second in the busiest minutes."""
    mean_to_peak: Annotated[Fraction, Field(gt=0)] = 0.5
    """Mean rate ÷ peak rate over a day; sets what is used, logged and sent."""
    arrivals: Literal["poisson", "constant", "gamma"] = "poisson"
    """How requests follow each other: at random, evenly, or in bursts."""
    burst_cv: Factor = 2
    """Standard deviation ÷ mean of the time between requests of "gamma" [1]; 1 is as random as "poisson"."""
    peak_hour: Annotated[Number, Field(lt=24)] = 20
    """Hour of the day of the peak, in the time of the replicas."""
    load: tuple[LoadStage, ...] = ()
    """Rates one after the other instead of a day's curve, as load generators play them."""
    trace: str | None = None
    """CSV or JSONL of requests to replay instead: arrival_s, input_tokens, output_tokens."""


class Autoscaling(Spec):
    """Replicas follow the load."""

    by: Literal["utilization", "queue", "schedule", "perfect"] = "utilization"
    """perfect: exactly what each moment needs, at once: the bound no real policy passes."""
    target: Factor = 0.6
    """Busy share of a replica, or requests waiting for each [1]."""
    interval: Seconds = 15
    """Time between two decisions [s]."""
    cold_start: Duration = 120
    """Time from the decision until a new replica serves [s]: node, image, weights, warm-up."""
    down_delay: Duration = 300
    """Time the load must be low before a replica goes [s]."""
    minimum: Count = 1
    maximum: Count = 1000
    schedule: tuple[tuple[Annotated[Number, Field(le=24)], Count], ...] = ()
    """(hour of the day, replicas from then on)."""

    @model_validator(mode="after")
    def _complete(self) -> Autoscaling:
        if self.by == "schedule" and not self.schedule:
            raise ValueError("autoscaling by schedule needs a schedule of (hour, replicas)")
        if self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}")
        return self


class Failures(Spec):
    """Replicas that die and come back."""

    every: Seconds
    """Mean time between failures of one replica [s]."""
    repair: Seconds = 600
    """Mean time until it serves again, its cold start included [s]."""
    region_loss: Fraction = 0
    """Share of the replicas that is lost at the peak, for as long as `region_repair` [1]."""
    region_repair: Seconds = 3600


class Pool(Spec):
    """How the replicas of one pool are fed and kept."""

    replicas: Count | None = None
    """Fixed number, to ask what today's fleet can do; by default the fewest that meet the objective."""
    max_batch: Annotated[Count, Field(le=1_000_000)] | None = None
    max_wait: Duration | None = None
    tensor_parallel: Literal["auto", 1, 2, 4, 8] = "auto"
    """Devices that share each product of a replica; auto: the fewest that hold its stages. A stage's own wins."""
    batcher: Literal["replica", "central"] = "replica"
    """Whether each replica gathers its own batches, or one batcher feeds whichever is free."""
    routing: Literal["round-robin", "least-loaded", "prefix-aware"] = "least-loaded"
    slices: Annotated[Count, Field(le=16)] = 1
    """Equal parts a device is cut into (MIG, time slices): each part is a replica of its own."""
    interference: Number = 0
    """How much longer steps take while the other parts are busy [1]; 0 where parts are walled off (MIG)."""
    autoscaling: Autoscaling | None = None
    failures: Failures | None = None


def _on_devices(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    for pool in dict.fromkeys(stage.pool for stage in stages):
        if all(isinstance(stage, HostStage) for stage in stages if stage.pool == pool):
            raise ValueError(f"pool {pool} holds host work only; name a pool whose devices compute")
    return stages


def _ordered(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    known: set[str] = set()
    for stage in stages:
        unknown = [name for name in stage.after or () if name not in known]
        if unknown:
            raise ValueError(f"stage {stage.name} comes after {unknown[0]}, which does not stand before it in the list")
        known.add(stage.name)
    return stages


class Serving(Spec):
    """The online pipeline: stages in order."""

    stages: Annotated[
        tuple[Stage, ...], Field(min_length=1), AfterValidator(distinct), AfterValidator(_on_devices),
        AfterValidator(_ordered),
    ]  # fmt: skip
    max_batch: Annotated[Count, Field(le=1_000_000)] = 32
    """Most requests put into one batch."""
    max_wait: Duration = 0.005
    """Longest a request waits for its batch to fill [s]."""
    pools: dict[Name, Pool] = Field(default_factory=dict)
    """How pools are fed and kept, by name; one that is not named here has the defaults."""

    @model_validator(mode="after")
    def _known_pools(self) -> Serving:
        used = {stage.pool for stage in self.stages}
        unknown = sorted(set(self.pools) - used)
        if unknown:
            raise ValueError(f"no stage runs in pool {unknown[0]}; pools are {', '.join(sorted(used))}")
        return self

    def stage(self, name: str) -> Stage:
        """Return a stage by its name."""
        return next(stage for stage in self.stages if stage.name == name)

    def after(self, stage: Stage) -> tuple[str, ...]:
        """Return the stages that a stage directly comes after: as it says, else the one before it in the list."""
        if stage.after is not None:
            return stage.after
        place = self.stages.index(stage)
        return (self.stages[place - 1].name,) if place else ()

    def before(self, name: str) -> tuple[str, ...]:
        """Return all stages that a request has left before it reaches this one, in the order of the list."""
        seen, to_see = set[str](), [name]
        while to_see:
            fresh = [item for item in self.after(self.stage(to_see.pop())) if item not in seen]
            seen.update(fresh)
            to_see += fresh
        return tuple(stage.name for stage in self.stages if stage.name in seen)

    def pool(self, name: str) -> Pool:
        """Return how a pool is fed and kept, with the pipeline's limits where it has none of its own."""
        found = self.pools.get(name, Pool())
        max_wait = self.max_wait if found.max_wait is None else found.max_wait
        return found.model_copy(update={"max_batch": found.max_batch or self.max_batch, "max_wait": max_wait})
