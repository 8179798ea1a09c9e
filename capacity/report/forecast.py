"""A forecast and its risk as sentences, tables and JSON: the public schema "capacity.forecast"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from capacity.money import forecast as money
from capacity.money.forecast import Ahead, Forecast, Month
from capacity.money.risk import Outcome, Prospects
from capacity.report import csv_report
from capacity.report.cells import Column, Missing, Row, Table, finite
from capacity.report.sentence import Piece
from capacity.units import text, usd

SCHEMA, VERSION = "capacity.forecast", 1
NO_BUDGET = "no budget"
NO_NUMBERS = {"budget", "commitment", "refresh"}
"""Keys of an outlook that are nothing where they are not given."""
Json = dict[str, Any]
_OPTION = (
    Column("name", "Hardware"),
    Column("buying", "Bought"),
    Column("usd", "All months [USD]", "usd"),
    Column("present_usd", "Present value [USD]", "usd"),
    Column("first_usd", "First month [USD]", "usd"),
    Column("last_usd", "Last month [USD]", "usd"),
    Column("most_cash_usd", "Most cash in a month [USD]", "usd"),
    Column("beyond_usd", "Terms after the end [USD]", "usd"),
    Column("left_usd", "Own devices then worth [USD]", "usd"),
    Column("idle_fraction", "Idle [%]", "fraction"),
)
_MONTH = (
    Column("number", "Month", "whole"),
    Column("hardware", "Device"),
    Column("load", "Traffic ÷ today's", "count"),
    Column("needed_hours", "Needed [device-h]", "count"),
    Column("used_hours", "Used [device-h]", "count"),
    Column("paid_hours", "Paid [device-h]", "count"),
    Column("idle_fraction", "Idle [%]", "fraction"),
    Column("devices_usd", "Devices [USD]", "usd"),
    Column("other_usd", "All else [USD]", "usd"),
    Column("accrued_usd", "Accrues [USD]", "usd"),
    Column("upfront_usd", "Upfront [USD]", "usd"),
    Column("cash_usd", "Cash [USD]", "usd"),
)
_OUTCOME = (
    Column("name", "Hardware"),
    Column("buying", "Bought"),
    Column("p10_usd", "P10 [USD]", "usd"),
    Column("p50_usd", "P50 [USD]", "usd"),
    Column("p90_usd", "P90 [USD]", "usd"),
    Column("over_budget_fraction", "Over the whole budget [%]", "fraction"),
    Column("any_over_budget_fraction", "Some month over [%]", "fraction"),
    Column("any_short_fraction", "Objective missed in some month [%]", "fraction"),
    Column("mean_regret_usd", "Mean regret [USD]", "usd"),
    Column("p90_regret_usd", "P90 regret [USD]", "usd"),
    Column("best_fraction", "Best in [%] of draws", "fraction"),
)
_BAND = (
    Column("number", "Month", "whole"),
    Column("p10_usd", "P10 [USD]", "usd"),
    Column("p50_usd", "P50 [USD]", "usd"),
    Column("p90_usd", "P90 [USD]", "usd"),
    Column("over_budget_fraction", "Over budget [%]", "fraction"),
    Column("short_fraction", "Objective missed [%]", "fraction"),
)
_SWING = (
    Column("name", "Input"),
    Column("at_p10_usd", "Total at its P10 [USD]", "usd"),
    Column("at_p90_usd", "Total at its P90 [USD]", "usd"),
    Column("change_usd", "Change [USD]", "usd", signed=True),
)


def answer(found: Forecast | Prospects) -> str:
    """Return the answer in one sentence, as plain text."""
    return "".join(piece.text for piece in pieces(found))


def pieces(found: Forecast | Prospects) -> Iterator[Piece]:
    """Yield the answer in one sentence."""
    forecast = found.forecast if isinstance(found, Prospects) else found
    yield Piece(f"“{forecast.title}” over {forecast.outlook.months} months: ")
    if forecast.best is None:
        yield Piece("no device will do", strong=True)
        yield Piece(f" ({forecast.options[0].refused}).")
    elif isinstance(found, Prospects):
        yield from _at_risk(found)
    else:
        yield from _expected(forecast, forecast.best)


def _expected(found: Forecast, best: Ahead) -> Iterator[Piece]:
    first, last = best.months[0], best.months[-1]
    yield Piece(f"{usd(best.usd)} on {best.name} ({best.buying})", strong=True)
    yield Piece(
        f", from {usd(first.accrued_usd)} in the first month to {usd(last.accrued_usd)} in the last at "
        f"{last.load:.3g} × today's traffic; worth {usd(best.present_usd)} today at "
        f"{text(found.outlook.discount_rate, 'fraction')} a year; "
        f"{text(best.idle_share, 'fraction')} of the paid device-hours are idle."
    )


def _at_risk(found: Prospects) -> Iterator[Piece]:
    best = found.outcomes[0]
    band = best.risk.total
    yield Piece(f"{best.option.name} ({best.option.buying}) is regretted least", strong=True)
    yield Piece(f": P50 {usd(band.p50)}, ")
    yield Piece(f"P10 {usd(band.p10)} – P90 {usd(band.p90)}", strong=True)
    if band.over_budget is not None:
        yield Piece(f", over the whole budget with a probability of {text(band.over_budget, 'fraction')}")
    short = text(best.risk.any_short, "fraction")
    yield Piece("; devices ordered for the load that is expected miss the objective in some month with a ")
    yield Piece(f"probability of {short}")
    most = best.risk.swings[0]
    yield Piece(f". What moves it most: {most.name}, {usd(most.at_p10)} at its P10 and {usd(most.at_p90)} at its P90.")


def caveats(found: Forecast) -> Iterator[str]:
    """Yield what a reader should know before trusting the numbers."""
    left = sorted(set(type(found.outlook).model_fields) - found.outlook.model_fields_set - NO_NUMBERS)
    if left:
        yield f"assumed, not given: {', '.join(left)}"
    if found.missing:
        yield f"left out, no price: {', '.join(found.missing)}"
    yield "between the planned loads the bill is a straight line; a real fleet grows by whole replicas"
    if any(option.course and option.course.terms for option in found.options):
        yield "prices by the hour and by the term are medians of different offers; pricing.provider names one seller"
    yield from _doubts(found)
    if any(option.buying == "purchase" for option in found.options):
        yield "devices are bought when they are needed and owned for life; what a future needs more costs the same"


def _doubts(found: Forecast) -> Iterator[str]:
    """Yield what speaks against prices, and whose they are."""
    whose: dict[str, list[str]] = {}
    for option in found.options:
        stays = option.course.stays if option.course else ()
        flags = [flag for stay in stays for price in (stay.price, stay.committed) if price for flag in price.flags]
        for flag in dict.fromkeys(flags):
            whose.setdefault(flag, []).append(f"{option.name} ({option.buying})")
    for flag, names in whose.items():
        yield f"{flag}: price of {', '.join(names)}"


def options_table(found: Forecast) -> Table:
    """Return every option that will do, least present value first."""
    return Table("Options", _OPTION, tuple(_option(option) for option in found.options if not option.refused))


def _option(option: Ahead) -> Row:
    months = option.months
    return {
        "name": option.name, "buying": option.buying, "usd": option.usd, "present_usd": option.present_usd,
        "first_usd": months[0].accrued_usd, "last_usd": months[-1].accrued_usd,
        "most_cash_usd": max(month.cash_usd for month in months),
        "beyond_usd": money.beyond(option.course) if option.course else 0.0,
        "left_usd": money.left(option.course) if option.course else 0.0, "idle_fraction": option.idle_share,
    }  # fmt: skip


def month_table(option: Ahead) -> Table:
    """Return the months of an option as expected."""
    return Table("Months", _MONTH, tuple(_month(month) for month in option.months))


def _month(month: Month) -> Row:
    return {
        "number": month.number, "hardware": month.hardware, "load": month.load, "needed_hours": month.needed_hours,
        "used_hours": month.used_hours, "paid_hours": month.paid_hours, "idle_fraction": month.idle_share,
        "devices_usd": month.devices_usd, "other_usd": month.other_usd, "accrued_usd": month.accrued_usd,
        "upfront_usd": month.upfront_usd, "cash_usd": month.cash_usd,
    }  # fmt: skip


def outcome_table(found: Prospects) -> Table:
    """Return what may become of each option, least regret first."""
    return Table("Risk", _OUTCOME, tuple(_outcome(item) for item in found.outcomes))


def _outcome(item: Outcome) -> Row:
    band, regret = item.risk.total, item.regret
    return {
        "name": item.option.name, "buying": item.option.buying, "p10_usd": band.p10, "p50_usd": band.p50,
        "p90_usd": band.p90, "over_budget_fraction": finite(band.over_budget, NO_BUDGET),
        "any_over_budget_fraction": finite(item.risk.any_over_budget, NO_BUDGET),
        "any_short_fraction": item.risk.any_short, "mean_regret_usd": regret.mean,
        "p90_regret_usd": regret.p90, "best_fraction": regret.best_share,
    }  # fmt: skip


def band_table(item: Outcome) -> Table:
    """Return the band of each month of an option."""
    rows: list[Row] = [
        {
            "number": number, "p10_usd": band.p10, "p50_usd": band.p50, "p90_usd": band.p90,
            "over_budget_fraction": finite(band.over_budget, NO_BUDGET), "short_fraction": short,
        }
        for number, (band, short) in enumerate(zip(item.risk.months, item.risk.short, strict=True), start=1)
    ]  # fmt: skip
    return Table("Months at risk", _BAND, tuple(rows))


def swing_table(item: Outcome) -> Table:
    """Return how far each input moves an option's total, widest first: a tornado."""
    rows: list[Row] = [
        {
            "name": swing.name, "at_p10_usd": swing.at_p10, "at_p90_usd": swing.at_p90,
            "change_usd": swing.at_p90 - swing.at_p10,
        }
        for swing in item.risk.swings
    ]  # fmt: skip
    return Table("What moves the total", _SWING, tuple(rows))


def dumps(found: Forecast | Prospects) -> str:
    """Return a forecast, with its risk where it has one, as JSON text."""
    return json.dumps(to_dict(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_dict(found: Forecast | Prospects) -> Json:
    """Return a forecast as plain data; `risk` is null without draws."""
    forecast = found.forecast if isinstance(found, Prospects) else found
    return {
        "schema": SCHEMA, "version": VERSION, "scenario": forecast.scenario, "title": forecast.title,
        "date": forecast.date, "changes": list(forecast.changes), "answer": answer(found),
        "outlook": forecast.outlook.model_dump(mode="json"), "caveats": list(caveats(forecast)),
        "options": [_told(option) for option in forecast.options],
        "risk": _risk(found) if isinstance(found, Prospects) else None,
    }  # fmt: skip


def _told(option: Ahead) -> Json:
    named = {"hardware": option.hardware, "name": option.name, "buying": option.buying, "refused": option.refused}
    return named if option.refused else named | {**_option(option), "months": _rows(month_table(option))}


def _risk(found: Prospects) -> Json:
    outcomes = [
        {
            **_rows(Table("", _OUTCOME, (_outcome(item),)))[0], "hardware": item.option.hardware,
            "months": _rows(band_table(item)), "swings": _rows(swing_table(item)),
        }
        for item in found.outcomes
    ]  # fmt: skip
    return {"draws": found.draws, "seed": found.seed, "outcomes": outcomes}


def csv(found: Prospects) -> str:
    """Return every month of every option as CSV: what is expected, and its band."""
    rows: list[Row] = []
    for item in found.outcomes:
        named = {"name": item.option.name, "buying": item.option.buying}
        pairs = zip(month_table(item.option).rows, band_table(item).rows, strict=True)
        rows += [{**named, **month, **band} for month, band in pairs]
    return csv_report.dumps(Table("Months", (*_OPTION[:2], *_MONTH, *_BAND[1:]), tuple(rows)))


def _rows(table: Table) -> list[Json]:
    return [{key: None if isinstance(cell, Missing) else cell for key, cell in row.items()} for row in table.rows]
