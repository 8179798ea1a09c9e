"""Buying a pipeline's models beside running them, as sentences, tables and JSON: the schema "capacity.hosted"."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from capacity.money.break_even import ENDS, LOADS, BreakEven, Comparison, Hosted, bought_usd
from capacity.money.hosted import Offer, Part
from capacity.report.cells import Cell, Column, Missing, Row, Table, finite
from capacity.report.sentence import Piece
from capacity.spec.apis import ApiPrice
from capacity.units import text, usd

SCHEMA, VERSION = "capacity.hosted", 1
NOT_SOLD = "not sold"
Json = dict[str, Any]
_PART = (
    Column("name", "Stage or job"),
    Column("model", "Model"),
    Column("read_tokens", "Read [tokens/month]", "count"),
    Column("written_tokens", "Written [tokens/month]", "count"),
    Column("searches", "Search units [1/month]", "count"),
    Column("low_usd", "Bought, lowest [USD/month]", "usd"),
    Column("median_usd", "Bought, median [USD/month]", "usd"),
    Column("high_usd", "Bought, highest [USD/month]", "usd"),
    Column("own_usd", "Own devices [USD/month]", "usd"),
    Column("break_even_requests", "Own cheaper from [requests/month]", "count"),
    Column("priced_as", "Priced as"),
)
_OFFER = (
    Column("name", "Stage or job"),
    Column("provider", "Seller"),
    Column("model", "Sold model"),
    Column("relation", "Relation"),
    Column("usd_per_month", "Bought [USD/month]", "usd"),
    Column("prices", "Prices"),
    Column("date", "Of"),
    Column("quality", "Quality"),
    Column("flags", "Doubts"),
    Column("source", "Source"),
    Column("note", "Note"),
)
_WHAT = {
    "text-embedding": "", "rerank": "", "llm-input": " in", "llm-cached-input": " cached", "llm-output": " out",
}  # fmt: skip
RELATION = {
    "chosen": "chosen", "same model": "same model", "nearest name": "nearest name", "another model": "other models",
}  # fmt: skip


def answer(found: Comparison) -> str:
    """Return the answer as plain text, a sentence for each device."""
    return "".join(piece.text for piece in pieces(found))


def pieces(found: Comparison) -> Iterator[Piece]:
    """Yield the answer, a sentence for each device."""
    yield Piece(f"“{found.title}”")
    for number, option in enumerate(found.options):
        yield Piece(f"{';' if number else ''} on {option.name}: ")
        yield from _option(option)
    yield Piece(".")


def _option(option: Hosted) -> Iterator[Piece]:
    if not option.sold:
        yield Piece("nothing in this pipeline is sold as an API in any table here", strong=True)
        return
    low, middle, high = (usd(bought_usd(option.sold, end)) for end in ENDS)
    names = ", ".join(part.need.name for part in option.sold)
    yield Piece(f"{names} would cost ")
    yield Piece(f"{middle} a month{'' if low == high else f' ({low} – {high})'} as an API", strong=True)
    if option.refused:
        yield Piece(f"; your own devices cannot be compared ({option.refused})")
        return
    yield Piece(", on your own devices ")
    yield Piece(f"{usd(option.own_usd)} a month", strong=True)
    yield Piece(f" at today's {text(option.requests, 'count')} requests; your devices are cheaper ")
    yield Piece(_from(option), strong=True)


def _from(option: Hosted) -> str:
    load = option.break_even()
    if load is None or math.isinf(load):
        return f"at no traffic up to {LOADS[-1]:,.0f} × today's{_span(option)}"
    if not load:
        return f"at every traffic from 1/{1 / LOADS[0]:,.0f} × today's{_span(option)}"
    return f"from {text(load * option.requests, 'count')} requests a month on, {load:.2g} × today's{_span(option)}"


def _span(option: Hosted) -> str:
    low, high = (_times(option.break_even("", end)) for end in ("high", "low"))
    return "" if low == high else f" ({low} at the highest prices, {high} at the lowest)"


def _times(load: float | None) -> str:
    if load is None or math.isinf(load):
        return "never"
    return f"{load:.2g} ×" if load else "always"


def caveats(found: Comparison) -> Iterator[str]:
    """Yield what a reader should know before trusting the numbers."""
    for part in found.options[0].unsold:
        yield f"{part.need.name} is not sold: {part.need.refused or 'no seller in any table'}"
    for part in found.options[0].sold:
        first, need = part.priced[0], part.need
        named = "; ".join(f"{offer.provider} {offer.model}" for offer in part.priced)
        if first.relation not in {"same model", "chosen"}:
            what = "the nearest name" if first.relation == "nearest name" else "other models"
            yield f"{need.name}: {need.model} is in no table; priced as {what}: {named}; quality may differ"
        elif len(part.priced) == 1:
            yield f"{need.name}: only 1 offer ({named})"
        if any(offer.flags for offer in part.priced):
            yield f"{need.name}: {sum(bool(offer.flags) for offer in part.priced)} prices are older than a year"
        if need.cached:
            yield f"{need.name}: shared starts of prompts at the price of cached input, where the seller has one"
    yield "own devices: the parts' shares of pools and jobs; storage, network, people and other stages stay either way"
    yield "not in any price: latency, rate limits, free tiers, discounts by batch or contract, training bought models"


def part_table(option: Hosted) -> Table:
    """Return what each sold stage and job takes in a month, costs bought and run, and from where running wins."""
    return Table(f"{option.name}: bought or run", _PART, tuple(_part(option, part) for part in option.sold))


def _part(option: Hosted, part: Part) -> Row:
    need, sold = part.need, bool(part.offers)
    nothing = Missing(NOT_SOLD)
    return {
        "name": need.name, "model": need.model or "–",
        "read_tokens": finite(need.read or None, "none"), "written_tokens": finite(need.written or None, "none"),
        "searches": finite(need.searches or None, "none"),
        "low_usd": finite(part.usd("low"), NOT_SOLD), "median_usd": finite(part.usd("median"), NOT_SOLD),
        "high_usd": finite(part.usd("high"), NOT_SOLD),
        "own_usd": finite(part.own_usd, option.refused or "no devices") if sold else nothing,
        "break_even_requests": _requests(option, need.name) if sold else nothing,
        "priced_as": _priced_as(part) if sold else need.refused or "no seller in any table",
    }  # fmt: skip


def _requests(option: Hosted, name: str) -> float | Missing:
    load = option.break_even(name)
    if load is None:
        return Missing(option.refused or NOT_SOLD)
    if math.isinf(load):
        return Missing(f"never within {LOADS[-1]:,.0f} ×")
    return load * option.requests if load else Missing(f"always from 1/{1 / LOADS[0]:,.0f} ×")


def _priced_as(part: Part) -> str:
    first, count = part.priced[0], len(part.priced)
    named = f"{first.provider} {first.model}" if count == 1 else f"{count} offers"
    return f"{RELATION[first.relation]}: {named}"


def offer_table(option: Hosted, most: int | None = None) -> Table:
    """Return every offer, those that are priced first; at most `most` for each stage or job."""
    rows = [_offer(part, offer) for part in option.sold for offer in part.offers[:most]]
    return Table("Offers", _OFFER, tuple(rows))


def _offer(part: Part, offer: Offer) -> Row:
    return {
        "name": part.need.name, "provider": offer.provider, "model": offer.model, "relation": offer.relation,
        "usd_per_month": offer.usd, "prices": _prices(offer.prices),
        "date": _joined(price.date for price in offer.prices),
        "quality": _joined(price.quality for price in offer.prices), "flags": "; ".join(offer.flags),
        "source": _joined(price.source for price in offer.prices), "note": _joined(p.note for p in offer.prices),
    }  # fmt: skip


def _prices(prices: Iterable[ApiPrice]) -> str:
    found = list(prices)
    return f"{', '.join(usd(price.usd) + _WHAT[price.what] for price in found)} per {found[0].unit}"


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(item for item in texts if item))


def dumps(found: Comparison) -> str:
    """Return a comparison as JSON text."""
    return json.dumps(to_dict(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_dict(found: Comparison) -> Json:
    """Return a comparison as plain data; a number that does not exist is null beside its reason."""
    return {
        "schema": SCHEMA, "version": VERSION, "scenario": found.scenario, "title": found.title, "date": found.date,
        "changes": list(found.changes), "answer": answer(found), "caveats": list(caveats(found)),
        "options": [_told(option) for option in found.options],
    }  # fmt: skip


def _told(option: Hosted) -> Json:
    offers = [_plain(row) for row in offer_table(option).rows]
    return {
        "hardware": option.hardware, "name": option.name, "refused": option.refused,
        "requests_per_month": option.requests,
        **{f"bought_{end}_usd": bought_usd(option.sold, end) if option.sold else None for end in ENDS},
        "own_usd": None if option.refused or not option.sold else option.own_usd,
        "break_even": [_break_even(option, item) for item in option.break_evens],
        "parts": [_plain(_part(option, part)) for part in option.parts], "offers": offers,
    }  # fmt: skip


def _break_even(option: Hosted, item: BreakEven) -> Json:
    state = "never" if math.isinf(item.load) else "at" if item.load else "always"
    crossing = item.load if state == "at" else None
    return {
        "part": item.name or None, "prices": item.end, "state": state, "load": crossing,
        "requests_per_month": None if crossing is None else crossing * option.requests,
        "within": [LOADS[0], LOADS[-1]],
    }  # fmt: skip


def _plain(row: Row) -> Json:
    plain: dict[str, Cell | None] = {}
    for key, cell in row.items():
        plain |= {key: None, f"{key}_reason": cell.reason} if isinstance(cell, Missing) else {key: cell}
    return plain
