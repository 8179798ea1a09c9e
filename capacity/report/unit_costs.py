"""Unit costs as tables and JSON: every number with its unit in its name and what was counted beside it."""

from __future__ import annotations

from typing import Any

from capacity.plan import Option, UnitCosts
from capacity.report.cells import Cell, Column, Missing, Number, Row, Table, finite
from capacity.report.figures import NO_PRICE

UNCOUNTED = "not counted"
NO_POWER = "the profile states no power"
_UNIT = (
    Column("name", "Unit"),
    Column("per_month", "In a month", "count"),
    Column("bill_usd", "Whole bill [USD/unit]", "usd"),
    Column("serving_devices_usd", "Serving devices only [USD/unit]", "usd"),
    Column("per_usd", "For 1 USD of the bill", "count"),
    Column("counted", "What is counted"),
)
_USE = (
    Column("name", "Device-hours of"),
    Column("used_fraction", "Used [%]", "fraction"),
    Column("used_hours_per_month", "Used [h/month]", "count"),
    Column("idle_hours_per_month", "Idle [h/month]", "count"),
    Column("used_usd_per_month", "Used [USD/month]", "usd"),
    Column("idle_usd_per_month", "Idle [USD/month]", "usd"),
)


def unit_table(option: Option) -> Table:
    """Return what one unit of everything served costs; no rows where the option has no bill."""
    found = _found(option)
    if found is None:
        return Table("Unit costs", _UNIT, ())
    rows: list[Row] = [
        {
            "name": cost.name, "per_month": finite(cost.amount, UNCOUNTED),
            "bill_usd": _usd(cost.bill_usd, cost.amount), "serving_devices_usd": _usd(cost.serving_usd, cost.amount),
            "per_usd": _usd(cost.per_usd, cost.amount), "counted": cost.counted,
        }
        for cost in found.costs
    ]  # fmt: skip
    return Table("Unit costs", _UNIT, tuple(rows))


def use_table(option: Option) -> Table:
    """Return what is paid for devices that work and for devices that wait, by pool and job, and their sum."""
    found = _found(option)
    if found is None:
        return Table("Used and idle devices", _USE, ())
    rows: list[Row] = [
        {
            "name": use.name, "used_fraction": use.used_share, "used_hours_per_month": use.used_hours,
            "idle_hours_per_month": use.idle_hours, "used_usd_per_month": finite(use.used_usd, NO_PRICE),
            "idle_usd_per_month": finite(use.idle_usd, NO_PRICE),
        }
        for use in found.uses
    ]  # fmt: skip
    return Table("Used and idle devices", _USE, tuple(rows), _total(found))


def energy(option: Option) -> str:
    """Return the energy and carbon of 1,000 requests in words; empty where the option has no bill."""
    found = _found(option)
    if found is None:
        return ""
    if found.energy_kwh is None or found.carbon_kg is None:
        return f"Energy for 1,000 requests: unknown, {NO_POWER}."
    return f"Energy for 1,000 requests: {found.energy_kwh:.3g} kWh, {found.carbon_kg:.3g} kg CO2e, jobs included."


def to_dict(found: UnitCosts) -> dict[str, Any]:
    """Return unit costs as plain data: `usd_per_…` of the whole bill, `serving_devices_usd_per_…`, `…_per_usd`."""
    plain: dict[str, Any] = {"counted": {cost.things: cost.counted for cost in found.costs}}
    for cost in found.costs:
        why = cost.counted if cost.amount is None else NO_PRICE
        plain |= _number(f"{cost.things}_per_month", finite(cost.amount, why))
        plain |= _number(f"usd_per_{cost.key}", finite(cost.bill_usd, why))
        plain |= _number(f"serving_devices_usd_per_{cost.key}", finite(cost.serving_usd, why))
        plain |= _number(f"{cost.things}_per_usd", finite(cost.per_usd, why))
    plain |= _number("energy_kwh_per_thousand_requests", finite(found.energy_kwh, NO_POWER))
    plain |= _number("carbon_kg_per_thousand_requests", finite(found.carbon_kg, NO_POWER))
    plain["device_hours"] = [
        {
            "name": use.name, "used_fraction": use.used_share, "used_hours_per_month": use.used_hours,
            "idle_hours_per_month": use.idle_hours,
            **_number("used_usd_per_month", finite(use.used_usd, NO_PRICE)),
            **_number("idle_usd_per_month", finite(use.idle_usd, NO_PRICE)),
        }
        for use in found.uses
    ]  # fmt: skip
    return plain


def _found(option: Option) -> UnitCosts | None:
    return None if option.cost is None else option.cost.units


def _usd(value: float | None, amount: float | None) -> Number:
    return finite(value, UNCOUNTED if amount is None else NO_PRICE)


def _total(found: UnitCosts) -> Row:
    used, idle = sum(use.used_hours for use in found.uses), sum(use.idle_hours for use in found.uses)
    total: dict[str, Cell] = {
        "name": "Total", "used_fraction": used / (used + idle) if used + idle else Missing("no devices"),
        "used_hours_per_month": used, "idle_hours_per_month": idle,
    }  # fmt: skip
    for key in ("used_usd", "idle_usd"):
        parts = [getattr(use, key) for use in found.uses]
        total[f"{key}_per_month"] = Missing(NO_PRICE) if None in parts else sum(parts)
    return total


def _number(key: str, value: Number) -> dict[str, Any]:
    return {key: None, f"{key}_reason": value.reason} if isinstance(value, Missing) else {key: value}
