"""Dated prices. A price without a date and a source is not a price; a missing one is shown as missing, never as 0."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, model_validator

from capacity.spec.quantity import (
    DESCRIBED,
    Count,
    Factor,
    Id,
    KgPerKwh,
    Spec,
    UsdPerGb,
    UsdPerGbMonth,
    UsdPerHour,
    UsdPerKwh,
)

Term = Literal["on-demand", "spot", "1-year", "3-year"]
Quality = Literal["published", "secondary", "marketplace", "contradicted", "assumed"]
T = TypeVar("T")


class DevicePrice(Spec):
    """One row of a device price table (CSV columns have these names)."""

    hardware: Id
    provider: str
    sku: str
    """Instance type or catalogue number the price is for."""
    devices: Count
    """Devices in that instance."""
    region: str
    term: Term
    usd_per_device_hour: UsdPerHour
    """Price of one device, host included, for one hour [USD/h]."""
    date: Annotated[str, Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]
    """Day the price was valid; year or month when that is all the source says."""
    source: str
    quality: Quality
    """published = provider's own list; secondary = third-party catalogue; marketplace = peer-to-peer offer."""
    note: str = ""


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
