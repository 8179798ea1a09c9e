"""A mix of devices and terms as a sentence, a table and plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from capacity.fleet.mixed import Mixed, Share
from capacity.report.cells import Column, Row, Table
from capacity.report.sentence import Piece
from capacity.units import usd

Json = dict[str, Any]
_SHARE = (
    Column("hardware", "Hardware"),
    Column("committed", "Committed replicas"),
    Column("least_hourly", "By the hour, least", "whole"),
    Column("most_hourly", "By the hour, most", "whole"),
    Column("mean_replicas", "Mean replicas", "count"),
)
ASSUMES = (
    "replicas follow the load hour by hour at once; each device serves its share of the traffic as a fleet of its own, "
    "with its own spares"
)


def pieces(found: Mixed) -> Iterator[Piece]:
    """Yield the answer in one sentence."""
    yield Piece("Mixed over a day: ")
    yield Piece(" + ".join(f"{text_of(share)}" for share in found.shares), strong=True)
    gap = found.usd_per_month / found.bound_usd_per_month - 1 if found.bound_usd_per_month > 0 else 0.0
    yield Piece(f" for {usd(found.usd_per_month)} a month of serving devices; no mix of these costs {gap:.1%} less.")


def text_of(share: Share) -> str:
    """Return one kind of device in words."""
    parts = [f"{count} {term}" for term, count in share.committed.items()]
    if any(share.hourly):
        parts.append(f"{min(share.hourly)} to {max(share.hourly)} by the hour")
    return f"{share.hardware} ({', '.join(parts)})"


def table(found: Mixed) -> Table:
    """Return the replicas of each kind of device."""
    return Table("Mixed fleet", _SHARE, tuple(_row(share) for share in found.shares))


def _row(share: Share) -> Row:
    held = sum(share.committed.values())
    return {
        "hardware": share.hardware,
        "committed": ", ".join(f"{count} × {term}" for term, count in share.committed.items()) or "none",
        "least_hourly": min(share.hourly), "most_hourly": max(share.hourly),
        "mean_replicas": held + sum(share.hourly) / len(share.hourly),
    }  # fmt: skip


def to_dict(found: Mixed) -> Json:
    """Return a mix as plain data."""
    return {
        "assumes": ASSUMES, "serving_usd_per_month": found.usd_per_month,
        "bound_usd_per_month": found.bound_usd_per_month, "rates_per_s": list(found.rates),
        "shares": [
            {"hardware": share.hardware, "committed": dict(share.committed), "hourly": list(share.hourly)}
            for share in found.shares
        ],
        "refused": [{"what": item.what, "reason": item.reason} for item in found.refused],
    }  # fmt: skip
