"""Levers as a sentence, tables, YAML and JSON: the public schema "capacity.levers"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from capacity.fleet.levered import Figures, Levered, Pulled
from capacity.report.cells import Cell, Column, Missing, Row, Table, finite
from capacity.report.sentence import Piece
from capacity.units import text, usd

SCHEMA, VERSION = "capacity.levers", 1
NO_PRICE = Missing("no price")
NOT_MEASURED = "not measured: attach yours as quality.{}"
EXACT = "answers stay as they are"
Json = dict[str, Any]
_ALONE = (
    Column("id", "Lever"),
    Column("title", "What it does"),
    Column("group", "Group"),
    Column("usd_per_month", "Cost [USD/month]", "usd"),
    Column("p10_usd_per_month", "P10 [USD/month]", "usd"),
    Column("p90_usd_per_month", "P90 [USD/month]", "usd"),
    Column("cost_fraction", "Cost [%]", "fraction", signed=True),
    Column("latency_s", "Latency", "seconds"),
    Column("latency_fraction", "Latency [%]", "fraction", signed=True),
    Column("devices", "Devices", "whole"),
    Column("flop_fraction", "FLOP a request [%]", "fraction", signed=True),
    Column("bytes_fraction", "Bytes a request [%]", "fraction", signed=True),
    Column("memory_fraction", "Memory [%]", "fraction", signed=True),
    Column("training_fraction", "Device-hours of jobs [%]", "fraction", signed=True),
    Column("missed", "Misses"),
    Column("quality", "Quality"),
    Column("assumes", "Takes for granted"),
    Column("source", "Source of the quality note"),
)
_REFUSED = (Column("id", "Lever"), Column("title", "What it does"), Column("reason", "Why not here"))
_STEP = (
    Column("id", "Lever added"),
    Column("usd_per_month", "Cost after it [USD/month]", "usd"),
    Column("saved_usd_per_month", "Saved by it [USD/month]", "usd", signed=True),
    Column("latency_s", "Latency after it", "seconds"),
    Column("devices", "Devices after it", "whole"),
    Column("quality", "Quality"),
)


def answer(found: Levered) -> str:
    """Return the answer in one sentence, as plain text."""
    return "".join(piece.text for piece in pieces(found))


def pieces(found: Levered) -> Iterator[Piece]:
    """Yield the answer in one sentence."""
    yield Piece(f"For “{found.title}” on {found.name}, ")
    before, best = found.before, found.best
    if not found.steps:
        yield Piece("no lever lowers the bill", strong=True)
        yield Piece(f" of {_usd(before)} a month by as much as 0.2 %.")
        return
    yield Piece(f"{', '.join(step.id for step in found.steps)} together", strong=True)
    if before.missed:
        yield Piece(f" make it hold for {_usd(best)} a month (before: {before.missed})")
    else:
        saved = (before.usd or 0.0) - (best.usd or 0.0)
        share = f" (−{saved / before.usd:.0%})" if before.usd else ""
        yield Piece(f" lower the bill from {_usd(before)} to ")
        yield Piece(f"{_usd(best)} a month{share}", strong=True)
        yield Piece(f", P10 {_end(best.p10_usd)} – P90 {_end(best.p90_usd)}")
    if best.latency_s is not None:
        yield Piece(f"; expected {found.percentile} {text(best.latency_s, 'seconds')}")
    unsure = [step.id for step in found.steps if not step.exact and step.quality is None]
    if unsure:
        yield Piece(f". What {', '.join(unsure)} cost in quality is not measured for this recommender")
    yield Piece(f". {found.tried} plans were tried, one lever after the other: no proof that nothing is cheaper.")


def alone_table(found: Levered) -> Table:
    """Return every lever that could be planned, alone, cheapest first, with its change against the scenario."""
    return Table("Levers alone", _ALONE, tuple(_alone(item, found.before) for item in found.alone if item.after))


def refused_table(found: Levered) -> Table:
    """Return the levers that this scenario and device give nothing to pull, with the reason."""
    rows = [{"id": item.id, "title": item.title, "reason": item.refused} for item in found.alone if item.after is None]
    return Table("Not applicable", _REFUSED, tuple(rows))


def step_table(found: Levered) -> Table:
    """Return what each lever of the combination contributes, in the order in which they were added."""
    rows, before = list[Row](), found.before
    for item in found.steps:
        after = item.after or before
        both = before.usd is not None and after.usd is not None
        rows.append(
            {
                "id": item.id,
                "usd_per_month": finite(after.usd, "no price"),
                "saved_usd_per_month": (before.usd or 0) - (after.usd or 0) if both else NO_PRICE,
                "latency_s": finite(after.latency_s, "no fleet"),
                "devices": after.devices,
                "quality": quality(item),
            }
        )
        before = after
    return Table("Best combination found", _STEP, tuple(rows))


def quality(item: Pulled) -> str:
    """Return what is known of a lever's effect on quality: the user's measurement, the published one, or nothing."""
    if item.quality is not None:
        mine = item.quality
        return f"yours: {mine.metric} {mine.value:g} against {mine.baseline:g}"
    if item.note is not None:
        return f"{EXACT}; {item.note.note}" if item.exact else item.note.note
    return EXACT if item.exact else NOT_MEASURED.format(item.id)


def override(found: Levered) -> str:
    """Return the combination as a named override in YAML, to be put into the scenario's file."""
    return yaml.safe_dump({"overrides": {"levers": dict(found.changes)}}, sort_keys=False, allow_unicode=True)


def dumps(found: Levered) -> str:
    """Return the levers as JSON text."""
    return json.dumps(to_dict(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_dict(found: Levered) -> Json:
    """Return the levers as plain data."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "scenario": found.scenario,
        "answer": answer(found),
        "hardware": found.hardware,
        "before": _figures(found.before),
        "levers": [_lever(item) for item in found.alone],
        "best": {
            "levers": [item.id for item in found.steps],
            "steps": [{"id": item.id, **_figures(item.after or found.before)} for item in found.steps],
            "changes": dict(found.changes),
            **_figures(found.best),
        },
        "plans_tried": found.tried,
    }


def _lever(item: Pulled) -> Json:
    return {
        "id": item.id, "title": item.title, "group": item.group, "exact": item.exact, "assumes": item.assumes,
        "changes": dict(item.changes), "quality": quality(item), "source": item.note.source if item.note else "",
        "refused": item.refused, **({"after": _figures(item.after)} if item.after else {}),
    }  # fmt: skip


def _figures(found: Figures) -> Json:
    return {
        "usd_per_month": found.usd, "p10_usd_per_month": found.p10_usd, "p90_usd_per_month": found.p90_usd,
        "latency_s": found.latency_s, "devices": found.devices, "flop_per_request": found.request_flop,
        "bytes_per_request": found.request_bytes, "memory_bytes": found.memory_bytes,
        "job_device_hours_per_month": found.training_hours, "missed": found.missed,
    }  # fmt: skip


def _alone(item: Pulled, before: Figures) -> Row:
    after = item.after or before
    return {
        "id": item.id,
        "title": item.title,
        "group": item.group,
        "usd_per_month": finite(after.usd, "no price"),
        "p10_usd_per_month": finite(after.p10_usd, "no price"),
        "p90_usd_per_month": finite(after.p90_usd, "no price"),
        "cost_fraction": _change(before.usd, after.usd, "no price"),
        "latency_s": finite(after.latency_s, "no fleet"),
        "latency_fraction": _change(before.latency_s, after.latency_s, "no fleet"),
        "devices": after.devices,
        "flop_fraction": _change(before.request_flop, after.request_flop, "no work"),
        "bytes_fraction": _change(before.request_bytes, after.request_bytes, "no work"),
        "memory_fraction": _change(before.memory_bytes, after.memory_bytes, "no fleet"),
        "training_fraction": _change(before.training_hours, after.training_hours, "no jobs"),
        "missed": after.missed,
        "quality": quality(item),
        "assumes": item.assumes,
        "source": item.note.source if item.note else "",
    }


def _change(before: float | None, after: float | None, reason: str) -> Cell:
    return Missing(reason) if not before or after is None else after / before - 1


def _usd(found: Figures) -> str:
    return "an unknown price" if found.usd is None else usd(found.usd)


def _end(value: float | None) -> str:
    return "unknown" if value is None else usd(value)
