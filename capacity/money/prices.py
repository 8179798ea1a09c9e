"""Dated prices summed up as one: its range, and what a reader should know before trusting it.

A price that nobody published stays missing: `price_range` returns None, and the caller shows a "no price" line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median
from typing import TypeVar

from capacity.errors import UnknownNameError
from capacity.money.price_tables import device_prices
from capacity.spec.prices import Buying, DevicePrice, Offer, Term

ANYWHERE = "any"
"""Region of an offer that its provider does not tie to a place; every wanted region accepts it."""
STALE_DAYS = 365
"""Age from which a price is called old [day]."""
FAR = 5.0
"""How many times below or above the other prices of a device a price cannot be meant (assumed)."""
_TIERS: tuple[tuple[str, ...], ...] = (("published", "secondary"), ("assumed",), ("marketplace",))
Row = TypeVar("Row", bound=Offer)


@dataclass(frozen=True, slots=True)
class PriceRange:
    """What one device costs for an hour, over the offers that count.

    Parameters
    ----------
    hardware, term, region
        What was asked for; region is "any" when none was.
    usd_per_device_hour, low, high
        Median, lowest and highest of `rows` [USD/h].
    rows
        The offers that count, cheapest first.
    flags
        What a reader should know before trusting the price, in words.
    """

    hardware: str
    term: Buying
    region: str
    usd_per_device_hour: float
    low: float
    high: float
    rows: tuple[Offer, ...]
    flags: tuple[str, ...]


def price_range(
    hardware: str, term: Term, provider: str | None = None, region: str | None = None, *, today: date
) -> PriceRange | None:
    """Return the price of one device-hour with its range, or None when no table holds one.

    Contradicted rows never count. Published and secondary rows count; assumed ones only when there are none of those,
    marketplace offers only when there is nothing else. Of one offer (provider, sku, region) only the newest row counts,
    and of one seller's instances in a region the cheapest: dearer ones have more host, or more devices, around it.

    Parameters
    ----------
    hardware, term
        Profile id, and on-demand, spot, 1-year or 3-year.
    provider
        Only this provider's offers, in any case of letters.
    region
        Only offers of this region, of those whose name starts with it ("us-east" takes us-east-1), or of region "any".
    today
        Day from which the age of a price is counted.
    """
    offers = [row for row in device_prices() if row.hardware == hardware and _offered(row, provider, region)]
    rows, flags = usable(sorted((row for row in offers if row.term == term), key=_usd))
    rows = leanest(rows)
    if not rows:
        return None
    nominal = median(row.usd_per_device_hour for row in rows)
    flags += doubts(rows, today)
    on_demand = leanest(usable(sorted((row for row in offers if row.term == "on-demand"), key=_usd))[0])
    if term == "spot" and on_demand and nominal > median(row.usd_per_device_hour for row in on_demand):
        flags.append("spot above on-demand")
    low, high = rows[0].usd_per_device_hour, rows[-1].usd_per_device_hour
    return PriceRange(hardware, term, region or ANYWHERE, nominal, low, high, tuple(rows), tuple(flags))


def seller(name: str) -> str:
    """Return the name of a provider as the tables spell it.

    Raises
    ------
    UnknownNameError
        When no table has an offer of it.
    """
    known = {row.provider for row in device_prices()}
    found = next((other for other in known if other.casefold() == name.casefold()), None)
    if found is None:
        raise UnknownNameError("provider", name, known)
    return found


def place(region: str) -> str:
    """Return the prefix of a region's name.

    Raises
    ------
    UnknownNameError
        When no region of the tables starts so.
    """
    known = {row.region for row in device_prices()}
    if not any(name.startswith(region) for name in known):
        raise UnknownNameError("region", region, known)
    return region


def _usd(row: DevicePrice) -> float:
    return row.usd_per_device_hour


def _offered(row: DevicePrice, provider: str | None, region: str | None) -> bool:
    by = provider is None or row.provider.casefold() == provider.casefold()
    return by and (region is None or row.region == ANYWHERE or row.region.startswith(region))


def usable(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Return the rows that count, in the order given, and in words what was put aside."""
    tier = next((tier for tier in _TIERS if any(row.quality in tier for row in rows)), ())
    kept = [row for row in rows if row.quality in tier]
    aside = Counter(row.quality for row in rows if row.quality not in tier)
    flags = [f"{tier[0]} {'offer' if tier[0] == 'marketplace' else 'price'} only"] if tier in _TIERS[1:] else []
    if kept and aside:
        flags.append(f"left out: {', '.join(f'{count} {quality}' for quality, count in sorted(aside.items()))}")
    return _newest(kept), flags


def leanest(rows: Sequence[DevicePrice]) -> list[DevicePrice]:
    """Return of each seller, region and term the cheapest of rows that are sorted by their price.

    A row `FAR` times below the middle of its device and term is taken for a placeholder, and for no cheap instance.
    """
    by_term: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        by_term.setdefault((row.hardware, row.term), []).append(row.usd_per_device_hour)
    least = {key: median(prices) / FAR for key, prices in by_term.items()}
    found: dict[tuple[str, ...], DevicePrice] = {}
    for row in rows:
        if row.usd_per_device_hour >= least[row.hardware, row.term]:
            found.setdefault((row.hardware, row.provider.casefold(), row.region, row.term), row)
    return list(found.values())


def _newest(rows: Sequence[Row]) -> list[Row]:
    latest: dict[tuple[str, ...], date] = {}
    for row in rows:
        latest[row.identity] = max(latest.get(row.identity, date.min), row.day)
    return [row for row in rows if row.day == latest[row.identity]]


def stale(row: Offer, today: date) -> bool:
    """Return whether a price may be older than a year."""
    return (today - row.day).days > STALE_DAYS


def doubts(rows: Sequence[Offer], today: date) -> list[str]:
    """Return in words whether the rows that count are old or stem from one source."""
    flags = []
    old = [row for row in rows if stale(row, today)]
    if len(old) == len(rows):
        flags.append(f"older than a year ({max(row.date for row in rows)})")
    elif old:
        flags.append(f"{len(old)} of {len(rows)} rows older than a year")
    if len({row.source for row in rows}) == 1:
        flags.append("only 1 source")
    return flags
