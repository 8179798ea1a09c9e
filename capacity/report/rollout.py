"""A rollout as a sentence, tables and JSON: the public schema "capacity.rollout"."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from capacity.fleet.rollout import ColdCache, Phase, Rolled, RolloutPlan, Step
from capacity.plan import Option
from capacity.report import figures
from capacity.report.cells import Cell, Column, Missing, Number, Row, Table, finite, shown
from capacity.report.sentence import Piece
from capacity.units import text, usd

SCHEMA = "capacity.rollout"
VERSION = 1
Json = dict[str, Any]
_OPTION = (
    Column("hardware", "Profile"),
    Column("name", "Hardware"),
    Column("usd", "Once [USD]", "usd"),
    Column("p10_usd", "P10 [USD]", "usd"),
    Column("p90_usd", "P90 [USD]", "usd"),
    Column("duration_s", "Takes", "seconds"),
    Column("peak_devices", "Most devices", "count"),
    Column("old_devices", "Devices today", "whole"),
    Column("new_devices", "Devices after", "whole"),
    Column("old_usd_per_month", "Today [USD/month]", "usd"),
    Column("new_usd_per_month", "After [USD/month]", "usd"),
    Column("basis", "Basis"),
    Column("refused", "Refused"),
)
_PHASE = (
    Column("name", "Phase"),
    Column("devices", "Devices on top", "count"),
    Column("duration_s", "Takes", "seconds"),
    Column("device_hours", "Device-hours [h]", "count"),
    Column("usd", "Once [USD]", "usd"),
    Column("p10_usd", "P10 [USD]", "usd"),
    Column("p90_usd", "P90 [USD]", "usd"),
    Column("counted", "Counted"),
    Column("basis", "Basis"),
    Column("formula", "Formula"),
)
_STEP = (
    Column("name", "Step"),
    Column("share_fraction", "Share of the new fleet [%]", "fraction"),
    Column("duration_s", "Lasts", "seconds"),
    Column("old_devices", "Old", "whole"),
    Column("new_devices", "New", "whole"),
    Column("shared_devices", "Shared", "whole"),
    Column("cold_devices", "More while cold", "whole"),
    Column("cold_s", "Cold for", "seconds"),
    Column("devices", "All devices", "whole"),
    Column("hit_rates", "Hit rates at the start"),
    Column("basis", "Basis"),
)
_CACHE = (
    Column("stage", "Cache before stage"),
    Column("hit_rate_fraction", "Hit rate when warm [%]", "fraction"),
    Column("factor", "Load when empty [× warm]", "count"),
    Column("look_ups_per_s", "Mean look-ups", "per second"),
    Column("warm_s", "Warm after, all requests", "seconds"),
    Column("known", "From"),
)


def answer(plan: RolloutPlan) -> str:
    """Return the answer to `plan` in one sentence, as plain text."""
    return "".join(piece.text for piece in pieces(plan))


def pieces(plan: RolloutPlan) -> tuple[Piece, ...]:
    """Return the sentence in parts, so that each format can set off the strong ones in its own way."""
    return tuple(_refused(plan) if plan.best is None else _feasible(plan, plan.best))


def _refused(plan: RolloutPlan) -> Iterator[Piece]:
    yield Piece(f"To roll out {plan.what} in “{plan.title}” ")
    yield Piece("no device will do", strong=True)
    yield Piece(f": {'; '.join(f'{item.name}: {item.refused}' for item in plan.options)}.")


def _feasible(plan: RolloutPlan, best: Rolled) -> Iterator[Piece]:
    yield Piece(f"To roll out {plan.what} in “{plan.title}” on up to {_devices(best.peak_devices)} × {best.name}: ")
    cost = best.cost
    takes = text(float(best.duration.value), "seconds")
    if cost is None or not cost.complete:
        yield Piece(f"no price for {best.name} in any table", strong=True)
        yield Piece(f", over {takes}")
    else:
        yield Piece(f"{usd(cost.usd)} (P10 {usd(cost.p10_usd)} – P90 {usd(cost.p90_usd)}) one time", strong=True)
        yield Piece(f" over {takes}")
    yield Piece(f"{_caches(best)}; {_after(best)}. Basis: {best.basis}.")


def _devices(count: float) -> str:
    return text(math.ceil(count), "whole")


def _caches(best: Rolled) -> str:
    if not best.caches:
        return ""
    parts = {counted: [item for item in best.phases if item.counted is counted] for counted in (True, False)}
    taken, left = (
        [item for item in parts[key] if item.name.split()[0] in {"prefill", "cold"}] for key in (True, False)
    )
    if any(item.name.startswith("prefill") for item in taken):
        return f"; caches are filled by a job for {_price(taken)}, instead of {_price(left)} for a larger fleet"
    if not _most(taken):
        return "; caches start empty, which takes no more devices"
    other = f", instead of {_price(left)} to fill them by a job" if left else ""
    return f"; caches start empty, which takes {_devices(_most(taken))} more devices and {_price(taken)}{other}"


def _most(found: list[Phase]) -> float:
    return max((item.devices for item in found), default=0.0)


def _price(found: list[Phase]) -> str:
    prices = [item.line.usd if item.line else None for item in found]
    known = [price for price in prices if price is not None]
    return usd(sum(known)) if len(known) == len(prices) else figures.NO_PRICE


def _after(best: Rolled) -> str:
    if best.old is None or best.new is None:
        return "what remains is not known"
    old, new = figures.monthly_usd(best.old), figures.monthly_usd(best.new)
    change = "" if isinstance(old, Missing) or isinstance(new, Missing) or old <= 0 else new / old - 1
    more = "" if isinstance(change, str) else f" ({shown(change, 'fraction', digits=2, signed=True)})"
    return f"afterwards {_fleet(best.new, new)} instead of {_fleet(best.old, old)}{more}"


def _fleet(option: Option, price: Number) -> str:
    at = "without a price" if isinstance(price, Missing) else f"at {usd(price)} a month"
    return f"{text(option.devices, 'whole')} devices {at}"


def caveats(plan: RolloutPlan, option: Rolled) -> tuple[str, ...]:
    """Return what a rollout on one device does not know."""
    return tuple(_caveats(plan, option))


def _caveats(plan: RolloutPlan, option: Rolled) -> Iterator[str]:
    assumed = sorted(set(type(plan.policy).model_fields) - plan.policy.model_fields_set)
    if assumed:
        yield f"assumed, not given: {', '.join(assumed)}"
    for cache in option.caches:
        if not cache.course:
            yield f"only the hit rate of the cache before {cache.stage} is known: taken as empty for {_time(cache)}"
    memory = option.memory
    if memory is not None:
        beside = {True: "one device holds both", False: "no device holds both", None: "memory of the device unknown"}
        sizes = f"{text(memory.old_bytes, 'bytes')} now, {text(memory.new_bytes, 'bytes')} then"
        yield f"index: {sizes}; {beside[memory.side_by_side]}"
    yield from option.notes
    if option.cost is not None:
        flags = dict.fromkeys(flag for line in option.cost.lines for flag in line.flags)
        yield from (f"price: {flag}" for flag in flags)


def _time(cache: ColdCache) -> str:
    return text(cache.warm_s, "seconds")


def options_table(plan: RolloutPlan) -> Table:
    """Return every device with what the rollout costs and takes there, first the one that serves cheapest today."""
    return Table("Devices", _OPTION, tuple(map(_option, plan.options)))


def _option(item: Rolled) -> Row:
    gone = Missing("refused")
    if item.refused or item.old is None or item.new is None or item.cost is None:
        numbers = {column.key: gone for column in _OPTION if column.dimension != "text"}
        return {**numbers, "hardware": item.hardware, "name": item.name, "basis": "", "refused": item.refused}
    cost = item.cost
    priced = cost.complete

    def money(value: float) -> Number:
        return value if priced else Missing(figures.NO_PRICE)

    return {
        "hardware": item.hardware,
        "name": item.name,
        "usd": money(cost.usd),
        "p10_usd": money(cost.p10_usd),
        "p90_usd": money(cost.p90_usd),
        "duration_s": float(item.duration.value),
        "peak_devices": math.ceil(item.peak_devices),
        "old_devices": item.old.devices,
        "new_devices": item.new.devices,
        "old_usd_per_month": figures.monthly_usd(item.old),
        "new_usd_per_month": figures.monthly_usd(item.new),
        "basis": item.basis,
        "refused": "",
    }


def phase_table(option: Rolled) -> Table:
    """Return the phases with what each costs once; of two ways to fill caches the one not taken is not counted."""
    cost = option.cost
    if cost is None or not cost.complete:
        return Table("Phases", _PHASE, tuple(map(_phase, option.phases)))
    total: Row = {column.key: "" for column in _PHASE} | {
        "name": "all that is counted", "usd": cost.usd, "p10_usd": cost.p10_usd, "p90_usd": cost.p90_usd,
        "duration_s": float(option.duration.value), "basis": option.basis,
    }  # fmt: skip
    return Table("Phases", _PHASE, tuple(map(_phase, option.phases)), total)


def _phase(item: Phase) -> Row:
    ends: dict[str, float | None] = {"usd": None, "p10_usd": None, "p90_usd": None}
    if item.line is not None:
        ends = {"usd": item.line.usd, "p10_usd": item.line.p10_usd, "p90_usd": item.line.p90_usd}
    return {
        "name": item.name,
        "devices": math.ceil(item.devices),
        "duration_s": float(item.duration.value),
        "device_hours": float(item.device_hours.value),
        **{key: finite(value, figures.NO_PRICE) for key, value in ends.items()},
        "counted": "yes" if item.counted else "no",
        "basis": item.basis,
        "formula": item.formula,
    }


def step_table(option: Rolled) -> Table:
    """Return both fleets at every step, spares included."""
    return Table("Fleets", _STEP, tuple(map(_step, option.steps)))


def _step(item: Step) -> Row:
    rates = [f"{stage} {text(rate, 'fraction')}" for stage, rate in item.hit_rates.items()]
    cells: dict[str, Cell] = {
        "old_devices": item.old, "new_devices": item.new, "shared_devices": item.shared, "cold_devices": item.cold,
        "devices": item.devices,
    }  # fmt: skip
    return {
        "name": item.name, "share_fraction": item.share, "duration_s": item.duration_s, **cells, "cold_s": item.cold_s,
        "hit_rates": ", ".join(rates), "basis": item.basis,
    }  # fmt: skip


def cache_table(option: Rolled) -> Table:
    """Return the caches that start empty: what that does to the load behind them, and how long it lasts."""
    rows = tuple(
        {
            "stage": cache.stage, "hit_rate_fraction": cache.hit_rate, "factor": finite(cache.factor, "unlimited"),
            "look_ups_per_s": cache.look_ups_per_s, "warm_s": cache.warm_s,
            "known": "what it holds, by Che's approximation" if cache.course else "warm_time: assumed",
        }
        for cache in option.caches
    )  # fmt: skip
    return Table("Cold caches", _CACHE, rows)


def detail_tables(option: Rolled) -> tuple[Table, ...]:
    """Return the tables of one device that have rows, in reading order."""
    tables = (phase_table(option), step_table(option), cache_table(option))
    return tuple(table for table in tables if table.rows)


def dumps(plan: RolloutPlan) -> str:
    """Return `to_dict` as JSON text, keys in a fixed order."""
    return json.dumps(to_dict(plan), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_dict(plan: RolloutPlan) -> Json:
    """Return a rollout as plain dictionaries: SI numbers, null beside `…_reason` where one does not exist."""
    best = {"best": plan.best.hardware} if plan.best else {"best": None, "best_reason": "no device will do"}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "scenario": plan.scenario,
        "title": plan.title,
        "stage": plan.stage,
        "what": plan.what,
        "changes": list(plan.changes),
        "given": list(plan.given),
        "policy": plan.policy.model_dump(mode="json"),
        "date": plan.date,
        "answer": answer(plan),
        **best,
        "options": [_told(plan, option) for option in plan.options],
    }


def _told(plan: RolloutPlan, option: Rolled) -> Json:
    (row,) = _rows(Table("", _OPTION, (_option(option),)))
    if option.refused:
        return row
    parts = {"phases": phase_table(option), "steps": step_table(option), "caches": cache_table(option)}
    memory = option.memory
    index = None if memory is None else {"old_bytes": memory.old_bytes, "new_bytes": memory.new_bytes}
    return row | {name: _rows(table) for name, table in parts.items()} | {
        "index": index, "courses": {cache.stage: [list(point) for point in cache.course] for cache in option.caches},
        "caveats": list(caveats(plan, option)),
    }  # fmt: skip


def _rows(table: Table) -> list[Json]:
    found = []
    for row in table.rows:
        told: Json = {}
        for key, cell in row.items():
            told |= {key: None, f"{key}_reason": cell.reason} if isinstance(cell, Missing) else {key: cell}
        found.append(told)
    return found
