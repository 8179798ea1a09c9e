"""What a search may choose from, and what its answers must keep within."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from capacity.spec.engine import Engine
from capacity.spec.hardware import Dtype
from capacity.spec.prices import Term
from capacity.spec.quantity import Count, CountAmount, Fraction, Id, Number, Spec, UsdPerMonth


class Space(Spec):
    """Every combination of what is listed here; what is empty stays as the scenario has it."""

    hardware: tuple[str, ...] = ()
    """Devices; "all" stands for every device with a price."""
    engines: tuple[Engine, ...] = ()
    dtypes: tuple[Dtype, ...] = ()
    """Of every stage that runs a model; those that a stage cannot take are refused with their reason."""
    levers: tuple[str, ...] = ()
    """Levers to pull alone and together."""
    most_levers: Count = 2
    """Most of them at once."""
    parallel: Annotated[tuple[Literal[1, 2, 4, 8], ...], Field(min_length=1)] = (1, 2, 4, 8)
    """Devices that may share each product of a model."""
    batches: tuple[Count, ...] = ()
    """Most requests a batch; empty: powers of two up to what fits."""
    most_replicas: Annotated[Count, Field(le=100_000)] = 256
    """Of each pool."""
    terms: tuple[Term, ...] = ()
    """Ways of buying; those without a price are refused."""
    regions: tuple[str, ...] = ()
    """Regions whose prices count."""
    stock: dict[Id, CountAmount] = Field(default_factory=dict)
    """Serving devices that can be had, by hardware; one that is not named here can be had in any number."""
    budget: UsdPerMonth | None = None
    """Most USD a month."""
    least_room: Number = 0.0
    """Requests per second that a fleet can carry beyond its peak ÷ its peak, at least [1]."""
    most_power_share: Fraction = 1.0
    """Busy share of a replica at the peak, at most [1]."""
