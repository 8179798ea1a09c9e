"""A search as a sentence, tables and JSON: the public schema "capacity.search"."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from capacity.fleet.mixed import Mixed
from capacity.fleet.searched import Candidate, Found, Near
from capacity.report import mix
from capacity.report.cells import Cell, Column, Missing, Row, Table
from capacity.report.sentence import Piece
from capacity.units import text, usd

SCHEMA, VERSION = "capacity.search", 1
UNKNOWN_POWER = Missing("unknown power")
NOT_PLAYED = Missing("not simulated")
Json = dict[str, Any]
_CANDIDATE = (
    Column("hardware", "Hardware"),
    Column("choice", "Engine, dtype, levers"),
    Column("buying", "Bought"),
    Column("fleet", "Fleet: replicas × devices, batch"),
    Column("devices", "Devices", "whole"),
    Column("usd_per_month", "Cost [USD/month]", "usd"),
    Column("against_best_fraction", "Against the best [%]", "fraction", signed=True),
    Column("latency_s", "Latency", "seconds"),
    Column("simulated_s", "Simulated", "seconds"),
    Column("room_fraction", "Room beyond the peak [%]", "fraction"),
    Column("energy_kwh_per_month", "Energy [kWh/month]", "count"),
)
_NEAR = (
    Column("hardware", "Hardware"),
    Column("choice", "Engine, dtype, levers"),
    Column("buying", "Bought"),
    Column("fleet", "Fleet: replicas × devices, batch"),
    Column("usd_per_month", "Cost [USD/month]", "usd"),
    Column("against_best_fraction", "Against the best [%]", "fraction", signed=True),
    Column("constraint", "Misses"),
    Column("needed", "Needs"),
    Column("allowed", "Allowed"),
    Column("gap_fraction", "Gap [%]", "fraction", signed=True),
)
_REFUSED = (Column("what", "Choice"), Column("reason", "Why not"))


def answer(found: Found) -> str:
    """Return the answer in one sentence, as plain text."""
    return "".join(piece.text for piece in pieces(found))


def pieces(found: Found) -> Iterator[Piece]:
    """Yield the answer in one sentence."""
    variants = "1 variant" if found.variants == 1 else f"{found.variants} variants"
    size = f"{found.configurations:,} configurations of {variants}"
    best = found.best
    played = sum(item.simulated is not None for item in found.ranked)
    if best is None and played:
        yield Piece(f"Of {size}, {found.feasible:,} keep every constraint by the closed form, but ")
        yield Piece("the cheapest miss the objective when simulated", strong=True)
        yield Piece(
            f": all {played} that were played; --simulate plays more of the {len(found.ranked)} cheapest of each."
        )
        return
    if best is None:
        yield Piece(f"Of {size}, ")
        yield Piece("none keeps every constraint", strong=True)
        yield Piece(_nearest(found))
        return
    yield Piece(f"Of {size}, the cheapest is ")
    yield Piece(f"{best.devices} × {best.variant.name}", strong=True)
    yield Piece(f" ({choice(best)}; {fleet(best)}), bought {best.buying.told}: ")
    yield Piece(f"{usd(best.usd)} a month", strong=True)
    yield Piece(f", {found.scenario.objective.percentile} {text(best.latency_s, 'seconds')}")
    if best.simulated is not None:
        yield Piece(", held when simulated at the peak")
    second = next((item for item in found.ranked if item is not best and item.usd >= best.usd), None)
    if second is not None:
        yield Piece(f"; next {second.variant.name} ({choice(second)}, {second.buying.told}) {_more(second, best)}")
    yield Piece(".")


def _nearest(found: Found) -> str:
    if not found.near:
        return f": {found.refused[0].what}: {found.refused[0].reason}." if found.refused else "."
    near = min(found.near, key=lambda item: item.gap)
    return f"; nearest is {near.candidate.variant.name} ({choice(near.candidate)}): {_missed(near)}."


def _missed(near: Near) -> str:
    miss = near.violation
    return f"{miss.constraint} {text(miss.needed, miss.dimension)}, allowed {text(miss.allowed, miss.dimension)}"


def _more(one: Candidate, best: Candidate) -> str:
    return f"{one.usd / best.usd - 1:+.1%}"


def caveats(best: Candidate) -> Iterator[str]:
    """Yield what a reader should know before trusting the best plan."""
    if best.simulated is None:
        yield "latencies are the closed form's; `capacity simulate` and the page Serving play a plan request by request"
    if best.option is not None:
        yield f"times of {best.variant.name}: {best.option.basis}"
    for flag in best.buying.flags:
        yield f"price of {best.variant.name}, {best.buying.told}: {flag}"


def choice(item: Candidate) -> str:
    """Return engine, dtype and levers of a candidate in words."""
    return item.variant.told


def fleet(item: Candidate) -> str:
    """Return the pools of a candidate in words: replicas × devices that share a product, and the batch."""
    parts = []
    for name, count in item.replicas.items():
        shared = f" × {item.degrees[name]}" if item.degrees[name] > 1 else ""
        head = f"{name} " if len(item.replicas) > 1 else ""
        parts.append(f"{head}{count}{shared} at batch {item.batches[name]:,}")
    return ", ".join(parts)


def settings(item: Candidate) -> list[str]:
    """Return the variant's changes, the fleet and its way of buying as `path=value` settings of the scenario."""
    found = [*_flat(item.variant.changes), f"pricing.term={item.buying.term}"]
    energy = item.scenario.pricing.energy
    if energy != item.variant.scenario.pricing.energy and "energy" in item.variant.scenario.pricing.model_fields_set:
        found.append(f"pricing.energy={energy}")
    if item.buying.region:
        found.append(f"pricing.region={item.buying.region}")
    pools: Json = {}
    for name, count in item.replicas.items():
        pools[name] = {"replicas": count, "max_batch": item.batches[name]}
        if item.degrees[name] > 1:  # one device is what a plan takes where it can
            pools[name]["tensor_parallel"] = item.degrees[name]
    found += _flat({"serving": {"pools": pools}})
    return found


def _flat(changes: object, path: str = "") -> Iterator[str]:
    """Yield changes as `path=value` settings: entries of a list by their name, as JSON what no path can address."""
    if isinstance(changes, Mapping) and (changes or not path) and _plain(changes):
        for key, value in changes.items():
            if not (path and key == "name"):
                yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(changes, list) and all(_addressed(entry) for entry in changes):
        for entry in changes:
            yield from _flat(entry, f"{path}.{entry['name']}")
    else:
        yield f"{path}={json.dumps(changes)}"


def _plain(names: Iterable[object]) -> bool:
    """Return whether names can stand in a path, whose parts are parted by dots."""
    return not any("." in str(name) for name in names)


def _addressed(entry: object) -> bool:
    """Return whether a path leads to an entry of a list: one that says its task is a new stage."""
    return isinstance(entry, Mapping) and "name" in entry and "task" not in entry and _plain([entry["name"]])


def command(found: Found, item: Candidate) -> str:
    """Return the command that plans a candidate again."""
    words = ["capacity", "plan", found.scenario.id, "--hardware", item.variant.hardware]
    for setting in settings(item):
        words += ["--set", setting]
    return shlex.join(words)


def ranked_table(found: Found, most: int = 20) -> Table:
    """Return the cheapest fleet of each variant and way of buying."""
    return Table("Cheapest of each", _CANDIDATE, tuple(_row(item, found) for item in found.ranked[:most]))


def front_table(found: Found) -> Table:
    """Return the fleets that no other one beats in cost, latency, energy and room."""
    return Table("Front", _CANDIDATE, tuple(_row(item, found) for item in found.front))


def near_table(found: Found, most: int = 12) -> Table:
    """Return what is cheaper than the best, and the constraint that each misses."""
    rows = sorted(found.near, key=lambda item: item.gap)[:most]
    return Table("Why not the cheaper one", _NEAR, tuple(_near_row(item, found) for item in rows))


def refused_table(found: Found) -> Table:
    """Return the choices that cannot be made."""
    return Table("Refused", _REFUSED, tuple({"what": item.what, "reason": item.reason} for item in found.refused))


def _row(item: Candidate, found: Found) -> Row:
    played: Cell = NOT_PLAYED
    if item.simulated is not None:
        why = item.simulated.refused or "does not run"
        played = Missing(why) if item.simulated_s is None else item.simulated_s
    return {
        **_common(item, found), "devices": item.devices, "latency_s": item.latency_s, "simulated_s": played,
        "room_fraction": item.room, "energy_kwh_per_month": UNKNOWN_POWER if item.kwh is None else item.kwh,
    }  # fmt: skip


def _common(item: Candidate, found: Found) -> dict[str, Cell]:
    best = found.best
    return {
        "hardware": item.variant.name, "choice": choice(item), "buying": item.buying.told, "fleet": fleet(item),
        "usd_per_month": item.usd,
        "against_best_fraction": Missing("no best") if best is None else item.usd / best.usd - 1,
    }  # fmt: skip


def _near_row(item: Near, found: Found) -> Row:
    miss = item.violation
    return {
        **_common(item.candidate, found), "constraint": miss.constraint, "needed": text(miss.needed, miss.dimension),
        "allowed": text(miss.allowed, miss.dimension), "gap_fraction": item.gap,
    }  # fmt: skip


def dumps(found: Found, mixed: Mixed | None = None) -> str:
    """Return everything as JSON."""
    whole = _json(found) | {"mixed": None if mixed is None else mix.to_dict(mixed)}
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _json(found: Found) -> Json:
    best = found.best
    return {
        "schema": SCHEMA, "version": VERSION, "scenario": found.scenario.id, "title": found.scenario.title,
        "date": found.date, "space": found.space.model_dump(mode="json"), "answer": answer(found),
        "caveats": [] if best is None else list(caveats(best)),
        "configurations": found.configurations, "feasible": found.feasible, "variants": found.variants,
        "best": None if best is None else {**_of(best), "command": command(found, best)},
        "ranked": [_of(item) for item in found.ranked], "front": [_of(item) for item in found.front],
        "near": [
            {
                **_of(item.candidate), "constraint": item.violation.constraint, "needed": item.violation.needed,
                "allowed": item.violation.allowed, "dimension": item.violation.dimension, "gap_fraction": item.gap,
            }
            for item in found.near
        ],
        "refused": [{"what": item.what, "reason": item.reason} for item in found.refused],
    }  # fmt: skip


def _of(item: Candidate) -> Mapping[str, Any]:
    return {
        "hardware": item.variant.hardware, "name": item.variant.name, "engine": item.variant.engine,
        "dtype": item.variant.dtype or None,
        "levers": list(item.variant.levers), "changes": item.variant.changes, "term": item.buying.term,
        "region": item.buying.region or None, "usd_per_device_hour": item.buying.usd_per_hour,
        "price_flags": list(item.buying.flags), "devices": item.devices,
        "pools": {
            name: {"replicas": count, "devices_sharing": item.degrees[name], "batch": item.batches[name]}
            for name, count in item.replicas.items()
        },
        "usd_per_month": item.usd, **_band(item),
        "latency_s": item.latency_s if math.isfinite(item.latency_s) else None,
        "room_fraction": item.room, "energy_kwh_per_month": item.kwh,
        "simulated_s": item.simulated_s,
        "simulated_holds": None if item.simulated is None else item.simulated.meets,
    }  # fmt: skip


def _band(item: Candidate) -> Json:
    cost = item.option.cost if item.option is not None else None
    return {
        "p10_usd_per_month": None if cost is None else cost.p10_usd,
        "p90_usd_per_month": None if cost is None else cost.p90_usd,
    }  # fmt: skip
