"""Devices as tables: what the datasheets say beside what the plan says, and every fact of one with its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capacity.plan import Option, Plan
from capacity.report import figures
from capacity.report.cells import Cell, Column, Missing, Number, Row, Table, finite
from capacity.report.table import options_table
from capacity.spec.hardware import Fact, Hardware
from capacity.units import text

UNKNOWN = Missing("unknown")
HALF = ("bf16", "fp16")
_FACTS = (
    Column("fact", "Fact"),
    Column("value", "Value"),
    Column("source", "Source"),
    Column("date", "Date"),
    Column("note", "Note"),
)
_DEVICE = (
    Column("kind", "Kind"),
    Column("year", "Year"),
    Column("memory_bytes", "Memory", "bytes"),
    Column("memory_bandwidth_bytes_per_s", "Memory bandwidth", "bytes/s"),
    Column("half_flop_per_s", "Dense 16-bit rate", "FLOP/s"),
    Column("power_w", "Power limit", "watts"),
)
_DIMENSIONS = {
    "memory": "bytes",
    "memory_bandwidth": "bytes/s",
    "last_level_cache": "bytes",
    "cores": "count",
    "clock": "hertz",
    "host_bandwidth": "bytes/s",
    "power": "watts",
    "idle_power": "watts",
}


def devices_table(plan: Plan, profiles: Mapping[str, Hardware]) -> Table:
    """Return every option of a plan with the headline facts of its device, best first."""
    options = options_table(plan)
    rows = tuple(
        {**row, **_headline(profiles[option.hardware]), "origin": option.origin, "missing_price": _unpriced(option)}
        for option, row in zip(plan.options, options.rows, strict=True)
    )
    more = (*_DEVICE, Column("origin", "Efficiencies from"), Column("missing_price", "Lines without a price"))
    return Table("Devices", (*options.columns, *more), rows)


def _headline(profile: Hardware) -> Row:
    half = next((rate for rate in map(profile.rate, HALF) if rate is not None), None)
    return {
        "kind": profile.kind,
        "year": UNKNOWN if profile.year is None else str(profile.year),
        "memory_bytes": _value(profile.memory),
        "memory_bandwidth_bytes_per_s": _value(profile.memory_bandwidth),
        "half_flop_per_s": finite(half, UNKNOWN.reason),
        "power_w": _value(profile.power),
    }


def _value(fact: Fact[float] | None) -> Number:
    return UNKNOWN if fact is None else finite(fact.value, UNKNOWN.reason)


def _unpriced(option: Option) -> str:
    if option.cost is None:
        return figures.INFEASIBLE
    return ", ".join(option.cost.missing)


def facts_table(profile: Hardware) -> Table:
    """Return every fact of a profile with its source and date; what nobody could source says "unknown"."""
    facts: list[tuple[str, Fact[Any] | None, str]] = [
        (f"dense {dtype} rate", fact, "FLOP/s") for dtype, fact in profile.dense_rates.items()
    ]
    facts += [(name.replace("_", " "), getattr(profile, name), dimension) for name, dimension in _DIMENSIONS.items()]
    rows = [_fact(profile, name, fact, dimension) for name, fact, dimension in facts]
    link = profile.link
    if link is not None:
        name = f"link {link.value.kind}, each direction"
        rows.append(_fact(profile, name, link.model_copy(update={"value": link.value.bandwidth}), "bytes/s"))
    return Table(f"{profile.name} ({profile.id})", _FACTS, tuple(rows))


def _fact(profile: Hardware, name: str, fact: Fact[Any] | None, dimension: str) -> Row:
    if fact is None:
        return {"fact": name, "value": UNKNOWN, "source": "", "date": "", "note": ""}
    source = profile.sources[fact.source]
    value: Cell = text(float(fact.value), dimension, 4)
    return {"fact": name, "value": value, "source": source.citation, "date": source.date, "note": fact.note}
