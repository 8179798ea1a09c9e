"""How devices and what belongs to them are bought. Each default says whether it is assumed or where it is published."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from capacity.spec.quantity import (
    Duration,
    Factor,
    Fraction,
    Number,
    Seconds,
    Spec,
    Usd,
    UsdPerHour,
    UsdPerKwMonth,
    UsdPerMonth,
)

LITTLE = 1e-9
"""A share that is none [1]."""
GPU_TCO = "https://v2-pseo-ai.pages.dev/tools/gpu-tco-analysis (undated, 2025 or 2026)"
SPOT_ADVISOR = "https://www.thundercompute.com/blog/cloud-gpu-spot-instance-availability (AWS data of 2026-02-24)"


class Ownership(Spec):
    """What a bought device costs besides its price."""

    years: Annotated[Factor, Field(ge=0.5, le=20)] = 4
    """Life of device and host (assumed)."""
    residual: Fraction = 0.2
    """Value at the end of the life ÷ price of device and host (assumed; GPU_TCO: 0.25 to 0.35 after three years)."""
    interest: Fraction = 0.08
    """Of a year, on the money that is bound (assumed)."""
    host_share: Annotated[Number, Field(le=10)] = 0.35
    """Price of host, network and rack ÷ price of its devices (GPU_TCO: a node of eight H100 for 300,000 to 350,000 USD,
    which at 30,000 USD for a device is 0.25 to 0.46)."""
    host: Usd | None = None
    """Price of a device's part of its host [USD]; takes the place of the share."""
    support_share: Fraction = 0.05
    """Maintenance and support a year ÷ price of device and host (assumed)."""
    colocation: UsdPerKwMonth = 200
    """Room for a kW of system power (GPU_TCO: 150 to 250 USD/kW-month); that it leaves out energy is assumed."""
    system_power: Annotated[Factor, Field(ge=1, le=20)] = 1.8
    """Power of host and devices ÷ power of the devices (GPU_TCO: 10.2 kW for eight H100 of 700 W, 1.82)."""

    @model_validator(mode="after")
    def _worn(self) -> Ownership:
        if self.residual > 1 - LITTLE and self.interest < LITTLE:
            raise ValueError("a device that keeps its price and binds no interest costs nothing; lower residual")
        return self


class Spot(Spec):
    """How often spot devices are taken away, and what that takes."""

    interruptions: Annotated[Number, Field(le=10)] = 0.01
    """Of a device in an hour [1/h] (assumed, on the safe side: SPOT_ADVISOR shows 5 % to 20 % of GPU instances
    interrupted in a month, which is 0.0001 to 0.0003)."""
    restart: Duration = 600.0
    """From the loss of a device until another one works (assumed)."""
    notice: Duration = 120.0
    """Warning before a device is taken (AWS: two minutes, SPOT_ADVISOR; Google Cloud: up to 30 s)."""
    checkpoint: Seconds = 60.0
    """To save a job; one that fits into the notice loses no work (assumed)."""
    short_share: Annotated[Fraction, Field(gt=0, le=0.5)] = 0.001
    """Of the time in which a pool may have fewer replicas up than it was sized for (assumed)."""


class Software(Spec):
    """Licenses: by the device-hour at the rate table's price, unless a price stands here."""

    per_device_hour: UsdPerHour | None = None
    """Of every device-hour paid; absent: the rate table's."""
    per_month: UsdPerMonth | None = None
    """Of everything together, in place of a price by the device-hour."""


class Support(Spec):
    """A support plan: the rate table's share of the bill, unless a share stands here."""

    share: Fraction | None = None
    """Of the bill for devices, storage and network; absent: the rate table's."""
