"""What a search may choose from, and what its answers must keep within."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field

from capacity.spec.engine import Engine
from capacity.spec.hardware import Dtype
from capacity.spec.prices import Buying
from capacity.spec.quantity import Count, CountAmount, Id, Number, Spec, UsdPerMonth

T = TypeVar("T")


def _several(value: object) -> object:
    return (value,) if isinstance(value, str | int) else value


EVERYTHING = "all"
"""Stands for every device with a price."""
Several = Annotated[tuple[T, ...], BeforeValidator(_several)]
"""Values of a choice; one may stand alone."""


class Space(Spec):
    """Every combination of what is listed here; what is empty stays as the scenario has it."""

    hardware: Several[str] = ()
    """Devices; "all" stands for every device with a price."""
    engines: Several[Engine] = ()
    dtypes: Several[Dtype] = ()
    """Of every stage and encode job; those that one cannot take are refused with their reason."""
    levers: Several[str] = ()
    """Levers to pull alone and together."""
    most_levers: Count = 2
    """Most of them at once."""
    parallel: Annotated[Several[Literal[1, 2, 4, 8]], Field(min_length=1)] = (1, 2, 4, 8)
    """Devices that may share each product of a model."""
    batches: Several[Count] = ()
    """Most requests a batch; empty: powers of two up to what fits."""
    most_replicas: Annotated[Count, Field(le=100_000)] = 256
    """Of each pool."""
    terms: Several[Buying] = ()
    """Ways of buying; those without a price are refused."""
    regions: Several[str] = ()
    """Regions whose prices count."""
    stock: dict[Id, CountAmount] = Field(default_factory=dict)
    """Serving devices that can be had, by hardware; one that is not named here can be had in any number."""
    budget: UsdPerMonth | None = None
    """Most USD a month."""
    least_room: Number = 0.0
    """Requests per second that a fleet can carry beyond its peak ÷ its peak, at least [1]."""
