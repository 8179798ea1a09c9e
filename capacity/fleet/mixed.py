"""A mix of devices and terms that follows a day's load: records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from capacity.fleet.searched import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One kind of device in a mix.

    Attributes
    ----------
    committed
        Replicas paid all day, by term.
    hourly
        Replicas bought beside them in each hour.
    most_rate
        What as many replicas as were asked for carry within the objective [1/s].
    """

    hardware: str
    committed: Mapping[str, int]
    hourly: tuple[int, ...]
    most_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """The cheapest mix.

    Attributes
    ----------
    rates
        Requests per second to carry in each hour, headroom included.
    usd_per_month
        Of the serving devices alone [USD].
    bound_usd_per_month
        What no mix of these devices can be below [USD].
    """

    scenario: str
    title: str
    shares: tuple[Share, ...]
    rates: tuple[float, ...]
    usd_per_month: float
    bound_usd_per_month: float
    refused: tuple[Refused, ...] = ()
