"""Offers one by one: what a reader should know of each, and which prices cannot be meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median

from capacity.money.prices import FAR, leanest, stale, usable
from capacity.spec.prices import DevicePrice, Offer

NAMED = ("assumed", "marketplace", "contradicted")
"""Qualities that a reader should see."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a device's price by the hour, over all terms [USD/h]."""

    low: float
    high: float
    on_demand: float | None
    """Median of the on-demand offers that count; None where there is none."""

    def implausible(self, usd_per_hour: float) -> str:
        """Return in words why a price cannot be meant; empty where it can.

        Examples
        --------
        >>> Known(2.0, 14.0, 5.0).implausible(0.01)
        'implausible: 0.01 USD/h, known are 2 to 14'
        >>> Known(2.0, 14.0, 5.0).implausible(0.4)
        ''
        """
        if self.low / FAR <= usd_per_hour <= self.high * FAR:
            return ""
        return f"implausible: {usd_per_hour:g} USD/h, known are {self.low:g} to {self.high:g}"


def known(rows: Sequence[DevicePrice], hardware: str) -> Known | None:
    """Return what the rows of one device say of its price, or None where no row counts."""
    mine = [row for row in rows if row.hardware == hardware]
    counting, _ = usable(mine)
    if not counting:
        return None
    prices = [row.usd_per_device_hour for row in counting]
    on_demand = [row.usd_per_device_hour for row in counting if row.term == "on-demand"]
    return Known(min(prices), max(prices), median(on_demand) if on_demand else None)


def flags(row: DevicePrice, rows: Sequence[DevicePrice], today: date) -> tuple[str, ...]:
    """Return what to know of one offer among `rows`, in words: age, quality, and prices that cannot be meant."""
    return (*_common(row, rows, today), *_price_flags(row, rows))


def purchase_flags(row: Offer, rows: Sequence[Offer], today: date) -> tuple[str, ...]:
    """Return what to know of one device to buy among `rows`, in words: age and quality."""
    return tuple(_common(row, rows, today))


def _common(row: Offer, rows: Sequence[Offer], today: date) -> Iterator[str]:
    if row.quality in NAMED:
        yield "contradicted: never used" if row.quality == "contradicted" else row.quality
    if stale(row, today):
        yield "older than a year"
    if any(other.identity == row.identity and other.day > row.day for other in rows):
        yield "superseded"


def _price_flags(row: DevicePrice, rows: Sequence[DevicePrice]) -> Iterator[str]:
    found = known([other for other in rows if other is not row], row.hardware)
    if found is None:
        return
    wrong = found.implausible(row.usd_per_device_hour)
    if wrong:
        yield f"placeholder? {wrong}"
    counting = usable([other for other in rows if other.hardware == row.hardware and other.term == row.term])[0]
    if not wrong and row in counting and row not in leanest(sorted(counting, key=_usd)):
        yield "not counted: a cheaper instance of the same seller"
    same = [
        other.usd_per_device_hour for other in rows
        if other.term == "on-demand" and other.identity[:-1] == row.identity[:-1] and other.quality != "contradicted"
    ]  # fmt: skip
    on_demand = min(same) if same else found.on_demand
    if row.term == "spot" and on_demand is not None and row.usd_per_device_hour > on_demand:
        yield "spot above on-demand"


def _usd(row: DevicePrice) -> float:
    return row.usd_per_device_hour
