"""`capacity prices`: what the tables hold, offer by offer, and catalogs of other tools taken in."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from capacity import documents, files
from capacity.commands.planning import console, rich_table
from capacity.errors import InputError, Problem, UnknownNameError
from capacity.money import catalogs, offers
from capacity.money.price_tables import PURCHASES, device_prices, purchase_prices
from capacity.report.cells import Column, Table
from capacity.spec.prices import first_day

_WHO = (Column("hardware", "Hardware"), Column("provider", "Seller"), Column("sku", "Sold as"))
_FROM = (Column("date", "Date"), Column("quality", "Quality"), Column("flags", "Flags"))
_HOURS = (*_WHO, Column("region", "Region"), Column("term", "Term"), Column("usd", "USD/h"), *_FROM)
_PURCHASES = (*_WHO, Column("usd", "USD"), Column("range", "Range [USD]"), *_FROM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the flags of an import say; `meant` holds texts NAME=ID."""

    provider: str
    date: str
    source: str
    meant: tuple[str, ...] = ()

    def wish(self) -> catalogs.Wish:
        """Return them checked.

        Raises
        ------
        InputError
            For a day that is none, a text that is not NAME=ID, and an unknown id.
        """
        try:
            ok = re.fullmatch(r"\d{4}(-\d{2}(-\d{2})?)?", self.date) is not None and bool(first_day(self.date))
        except ValueError:
            ok = False
        if not ok:
            raise InputError([Problem("--date", f"{self.date!r:.40} is no day; allowed: YYYY, YYYY-MM, YYYY-MM-DD")])
        return catalogs.Wish(
            provider=self.provider, date=self.date, source=self.source, meant=dict(map(_meant, self.meant))
        )


def _meant(said: str) -> tuple[str, str]:
    name, equals, hardware = said.partition("=")
    if not (name and equals and hardware):
        raise InputError([Problem("--as", f"{said!r:.60} is not NAME=ID, such as A100-80GB=a100-sxm-80gb")])
    known = documents.catalogue("hardware_profiles")
    if hardware not in known:
        raise UnknownNameError("hardware", hardware, known)
    return name, hardware


def prices_list(hardware: Sequence[str], today: str | None, *, as_json: bool) -> int:
    """Print every offer of the tables; exit 1 when a device that is asked for has none."""
    day = _day(today)
    known = documents.catalogue("hardware_profiles")
    for name in hardware:
        if name not in known:
            raise UnknownNameError("hardware", name, known)
    hours, purchases = device_prices(), purchase_prices()
    rented = [row for row in hours if not hardware or row.hardware in hardware]
    bought = [row for row in purchases if not hardware or row.hardware in hardware]
    found = {
        "offers": [{**row.model_dump(), "flags": offers.flags(row, hours, day)} for row in rented],
        "purchases": [{**row.model_dump(), "flags": offers.purchase_flags(row, purchases, day)} for row in bought],
    }
    if as_json:
        print(json.dumps(found))
    else:
        screen = console()
        for title, columns, rows in (
            ("Device-hours", _HOURS, found["offers"]), ("Devices to buy", _PURCHASES, found["purchases"])
        ):  # fmt: skip
            if rows:
                screen.print(rich_table(Table(f"{title}: {len(rows)} offers", columns, tuple(map(_cells, rows)))))
    missing = sorted(set(hardware) - {row.hardware for row in (*rented, *bought)})
    if missing and not as_json:
        screen.print(f"no price in any table: {', '.join(missing)}", markup=False)
    return 1 if missing else 0


def _cells(row: dict[str, Any]) -> dict[str, str]:
    cells = {key: str(value) for key, value in row.items()}
    usd = row.get("usd_per_device_hour", row.get("usd_per_device"))
    ends = [row.get("low"), row.get("high")]
    cells["range"] = " to ".join(f"{end:,.0f}" for end in ends if end is not None) or "one price"
    return {**cells, "usd": f"{usd:,.4g}" if "term" in row else f"{usd:,.0f}", "flags": "; ".join(row["flags"])}


def _day(text: str | None) -> date:
    try:
        return date.fromisoformat(text) if text else date.today()
    except ValueError:
        raise InputError([Problem("--today", f"{text!r:.40} is no day; allowed: YYYY-MM-DD")]) from None


def prices_import(file: Path, told: Told, output: Path, *, as_json: bool) -> int:
    """Write a catalog as a price table and print what was refused; exit 1, with nothing written, for no offer."""
    if output.name.startswith(PURCHASES) or output.suffix != ".csv":
        what = f"allowed: a name that ends in .csv and does not start with {PURCHASES!r} (tables of devices to buy)"
        raise InputError([Problem("--output", f"{output.name!r:.60} would not be read as a table of hours; {what}")])
    found = catalogs.imported(documents.read_text(file), str(file), told.wish(), device_prices())
    if found.rows:
        files.write_text(output, catalogs.written(found.rows))
    if as_json:
        counts = {"implausible": found.implausible, "unchecked": found.unchecked, "refused": dict(found.refused)}
        print(json.dumps({"output": str(output) if found.rows else None, "rows": len(found.rows), **counts}))
        return 0 if found.rows else 1
    screen = console()
    where = f"wrote {len(found.rows)} offers to {output}" if found.rows else "no offer could be read; nothing written"
    screen.print(where, markup=False, soft_wrap=True)
    if found.implausible:
        said = f"{found.implausible} of them are far from every known price: kept as contradicted, never used"
        screen.print(said, markup=False, soft_wrap=True)
    if found.unchecked:
        screen.print(f"{found.unchecked} of them are of devices without a known price to compare with", markup=False)
    for reason, count in found.refused.items():
        screen.print(f"refused {count}: {reason}", markup=False, soft_wrap=True)
    return 0 if found.rows else 1
