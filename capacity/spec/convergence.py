"""How much a model must see until it is good enough, by global batch size: published reference points."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from capacity.spec.quantity import Count, Id, Number, Spec


class Point(Spec):
    """Runs of the reference at one global batch size."""

    batch: Count
    """Samples of all devices together in one step."""
    mean: Annotated[Number, Field(gt=0)]
    """Mean of the runs [unit of the document]."""
    std: Number
    """Standard deviation of the runs, n − 1 in the denominator [unit of the document]."""
    runs: Annotated[Count, Field(ge=2)]


def _rising(points: tuple[Point, ...]) -> tuple[Point, ...]:
    for before, after in pairwise(points):
        if after.batch <= before.batch:
            raise ValueError(f"batches must rise from point to point, {after.batch} comes after {before.batch}")
    return points


class Convergence(Spec):
    """Samples or tokens until a benchmark's quality target is met, for each batch size somebody tried."""

    id: Id
    title: str
    unit: Literal["samples", "tokens"]
    """What the points count; batches always count samples."""
    sample_tokens: Count | None = None
    """Tokens of one sample, where samples are texts of one length."""
    resolution: Number = 0
    """Units between two evaluations: a run is known to have converged no finer than this; 0: not looked up."""
    source: str
    date: Annotated[str, Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]
    """When the source was read."""
    note: str = ""
    points: Annotated[tuple[Point, ...], Field(min_length=2), AfterValidator(_rising)]

    @model_validator(mode="after")
    def _countable(self) -> Convergence:
        if self.unit == "tokens" and self.sample_tokens is None:
            raise ValueError("points in tokens need sample_tokens, since batches count samples")
        return self
