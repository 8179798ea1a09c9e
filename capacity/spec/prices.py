"""Dated prices. A price without a date and a source is not a price; a missing one is shown as missing, never as 0."""

from __future__ import annotations

import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from capacity.spec.quantity import (
    DESCRIBED,
    Count,
    Factor,
    Fraction,
    Id,
    KgPerKwh,
    Spec,
    Usd,
    UsdPerGb,
    UsdPerGbMonth,
    UsdPerHour,
    UsdPerKwh,
)

Term = Literal["on-demand", "spot", "1-year", "3-year"]
Buying = Literal["on-demand", "spot", "1-year", "3-year", "purchase"]
"""Ways to have devices: hours by the terms of a table, or bought."""
Quality = Literal["published", "secondary", "marketplace", "contradicted", "assumed"]
T = TypeVar("T")


def first_day(text: str) -> datetime.date:
    """Return the first day of the year, month or day that `text` names: the earliest a price may stem from.

    Raises
    ------
    ValueError
        When there is no such day.

    Examples
    --------
    >>> first_day("2024-03"), first_day("2026")
    (datetime.date(2024, 3, 1), datetime.date(2026, 1, 1))
    """
    try:
        return datetime.date(*[int(part) for part in f"{text}-01-01".split("-")[:3]])
    except ValueError:
        raise ValueError("there is no such day") from None


class Dated(Spec):
    """What every price says of its origin."""

    date: Annotated[str, Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]
    """Day the price was valid; year or month when that is all the source says."""
    source: Annotated[str, Field(min_length=1)]
    note: str = ""

    @field_validator("date")
    @classmethod
    def _is_a_day(cls, text: str) -> str:
        first_day(text)
        return text

    @property
    def day(self) -> datetime.date:
        """The earliest day the price may stem from."""
        return first_day(self.date)


class Offer(Dated):
    """What every row of a price table says."""

    hardware: Id
    provider: str
    """Who sells it."""
    sku: str
    """Instance type or catalogue number the price is for."""
    quality: Quality
    """published = provider's own list; secondary = third-party catalogue; marketplace = peer-to-peer offer."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells an offer from others; of its rows only the newest counts."""
        return self.hardware, self.provider.casefold(), self.sku


class DevicePrice(Offer):
    """One row of a table of device-hours (CSV columns have these names)."""

    devices: Count
    """Devices in that instance."""
    region: str
    term: Term
    usd_per_device_hour: UsdPerHour
    """Price of one device, host included, for one hour [USD/h]."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells an offer from others; of its rows only the newest counts."""
        return self.hardware, self.provider.casefold(), self.sku, self.region, self.term


class PurchasePrice(Offer):
    """One row of a table of devices to buy (CSV columns have these names)."""

    usd_per_device: Annotated[Usd, Field(gt=0)]
    """Price of one device without its host [USD]."""
    low: Annotated[Usd, Field(gt=0)] | None = None
    high: Annotated[Usd, Field(gt=0)] | None = None
    """Lowest and highest price that the source gives [USD]; blank: it gives one."""

    @field_validator("low", "high")
    @classmethod
    def _ordered(cls, value: float | None, info: ValidationInfo) -> float | None:
        middle = info.data.get("usd_per_device")
        if (
            value is not None
            and middle is not None
            and (value > middle if info.field_name == "low" else value < middle)
        ):
            raise ValueError(f"low ≤ usd_per_device ≤ high must hold, usd_per_device is {middle:g}")
        return value


class Quote(Spec, Generic[T]):
    """A rate with its range and where it comes from."""

    model_config = DESCRIBED
    value: T
    low: T | None = None
    high: T | None = None
    date: Annotated[str, Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]
    source: str
    note: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Quote[T]:
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        if not low <= self.value <= high:  # type: ignore[operator]
            raise ValueError("low ≤ value ≤ high must hold")
        return self


class Rates(Spec):
    """Everything priced that is not a device: energy, storage, network, people."""

    id: Id
    region: str
    electricity: Quote[UsdPerKwh]
    power_usage_effectiveness: Quote[Factor]
    """Facility power ÷ IT power (PUE)."""
    grid_carbon: Quote[KgPerKwh]
    object_storage: Quote[UsdPerGbMonth] | None = None
    block_storage: Quote[UsdPerGbMonth] | None = None
    egress: Quote[UsdPerGb] | None = None
    cross_zone: Quote[UsdPerGb] | None = None
    engineer: Quote[UsdPerHour] | None = None
    """Loaded cost of one engineer-hour."""
    software: Quote[UsdPerHour] | None = None
    """License of one device for an hour."""
    support: Quote[Fraction] | None = None
    """Support plan ÷ bill for devices, storage and network."""
