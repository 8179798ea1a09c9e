"""Catalogs of other tools, read as rows of a price table; what cannot be read is counted with its reason.

Read are CSV files like those of SkyPilot's catalog (InstanceType, AcceleratorName, AcceleratorCount, Price, SpotPrice,
Region; prices of an instance) and of gpuhunt (instance_name, gpu_name, gpu_count, gpu_memory, price, spot, location).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from pydantic import ValidationError

from capacity.errors import InputError, Problem, UnknownNameError
from capacity.money.offers import Known, known
from capacity.spec.accelerators import UnsaidError, accelerator
from capacity.spec.prices import DevicePrice, Term

SKYPILOT = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Price")
GPUHUNT = ("instance_name", "gpu_name", "gpu_count", "price")
COLUMNS = (
    "hardware", "provider", "sku", "devices", "region", "term", "usd_per_device_hour", "date", "source", "quality",
    "note",
)  # fmt: skip
"""Columns of a table that is written."""
_SIZE = re.compile(r"SizeInMiB\W+([\d.]+)")
_TRUE = {"true", "1", "yes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a catalog does not say of itself.

    Attributes
    ----------
    provider, date, source
        Whose prices, of which day, found where.
    meant
        Hardware ids by the catalog's names of accelerators, in any case of letters.
    """

    provider: str
    date: str
    source: str
    meant: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Imported:
    """Rows that could be read, and how many could not, by reason.

    Attributes
    ----------
    implausible
        How many of the rows are far from every known price: they are kept as contradicted, which is never used.
    unchecked
        How many of the rows are of devices without a known price.
    """

    rows: tuple[DevicePrice, ...]
    refused: Mapping[str, int]
    implausible: int
    unchecked: int


@dataclass(frozen=True, slots=True)
class _Listing:
    """One price of a catalog: `usd` of an instance for an hour, as text."""

    sku: str
    accelerator: str
    memory_bytes: float | None
    count: str
    region: str
    term: Term
    usd: str


class _RefusedError(Exception):
    """Why a listing is no row; counted, never shown as an error."""


def imported(text: str, name: str, wish: Wish, prices: Sequence[DevicePrice]) -> Imported:
    """Return a catalog as rows, one for each instance type, region and term: the median over its zones.

    Parameters
    ----------
    text, name
        The catalog, and what errors call it.
    wish
        What the catalog does not say.
    prices
        Rows of the tables: an instance type among them says which device its accelerator is, and prices far from theirs
        are not believed.

    Raises
    ------
    InputError
        For a file that is neither layout.
    """
    refused: Counter[str] = Counter()
    found: dict[tuple[str, str, int, str, Term], list[float]] = defaultdict(list)
    skus = {(row.provider.casefold(), row.sku): row.hardware for row in prices}
    for listing in _listings(text, name):
        try:
            count, usd = _numbers(listing)
            hardware = _hardware(listing, wish, skus)
        except _RefusedError as error:
            refused[str(error)] += 1
            continue
        found[hardware, listing.sku, count, listing.region, listing.term].append(usd / count)
    references = {hardware: known(prices, hardware) for hardware, *_ in found}
    rows = [_row(key, median(usd), wish, references[key[0]]) for key, usd in sorted(found.items())]
    return Imported(
        rows=tuple(rows), refused=dict(refused.most_common()),
        implausible=sum(row.quality == "contradicted" for row in rows),
        unchecked=sum(references[row.hardware] is None for row in rows),
    )  # fmt: skip


def written(rows: Sequence[DevicePrice]) -> str:
    """Return rows as the text of a price table."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, column) for column in COLUMNS] for row in rows)
    return out.getvalue()


def _listings(text: str, name: str) -> Iterator[_Listing]:
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), restval="")
    header = reader.fieldnames or ()
    read = _skypilot if set(SKYPILOT) <= set(header) else _gpuhunt if set(GPUHUNT) <= set(header) else None
    if read is None:
        what = f"is no catalog that is known; allowed: columns {', '.join(SKYPILOT)} or {', '.join(GPUHUNT)}"
        raise InputError([Problem(f"{name}:1", what)])
    try:
        for cells in reader:
            yield from read({key: value.strip() for key, value in cells.items() if isinstance(value, str)})
    except csv.Error as error:
        raise InputError([Problem(f"{name}:{reader.line_num}", f"is not a line of CSV: {error}")]) from None


def _skypilot(cells: Mapping[str, str]) -> Iterator[_Listing]:
    size = _SIZE.search(cells.get("GpuInfo", "") or cells.get("GPUInfo", ""))
    memory_bytes = float(size[1]) * 2**20 if size else None
    offers: tuple[tuple[Term, str], ...] = (("on-demand", cells["Price"]), ("spot", cells.get("SpotPrice", "")))
    for term, usd in offers:
        if usd or term == "on-demand":
            yield _Listing(
                cells["InstanceType"], cells["AcceleratorName"], memory_bytes, cells["AcceleratorCount"],
                cells.get("Region", "") or "any", term, usd,
            )  # fmt: skip


def _gpuhunt(cells: Mapping[str, str]) -> Iterator[_Listing]:
    try:
        memory_bytes = float(cells.get("gpu_memory", "")) * 1e9 or None
    except ValueError:
        memory_bytes = None
    term: Term = "spot" if cells.get("spot", "").casefold() in _TRUE else "on-demand"
    yield _Listing(
        cells["instance_name"], cells["gpu_name"], memory_bytes, cells["gpu_count"],
        cells.get("location", "") or "any", term, cells["price"],
    )  # fmt: skip


def _hardware(listing: _Listing, wish: Wish, skus: Mapping[tuple[str, str], str]) -> str:
    name = listing.accelerator
    meant = {key.casefold(): value for key, value in wish.meant.items()}
    if name.casefold() in meant:
        return meant[name.casefold()]
    told = skus.get((wish.provider.casefold(), listing.sku), "")
    if told and told.split("-")[0] == re.split(r"[\s_-]", name.casefold())[0]:
        return told
    try:
        return accelerator(name, listing.memory_bytes)
    except UnsaidError as error:
        raise _RefusedError(f"{error}: say which with --as '{name}=ID'") from None
    except UnknownNameError as error:
        raise _RefusedError(str(error)) from None


def _numbers(listing: _Listing) -> tuple[int, float]:
    if not listing.accelerator:
        raise _RefusedError("no accelerator")
    try:
        count, usd = float(listing.count), float(listing.usd or "nan")
    except ValueError:
        raise _RefusedError("a count or price that is no number") from None
    if not (math.isfinite(usd) and math.isfinite(count)):
        raise _RefusedError("no price")
    if usd <= 0:
        raise _RefusedError("a price of 0 or less")
    if count < 1 or count != int(count):
        raise _RefusedError("not a whole number of accelerators")
    return int(count), usd


def _row(key: tuple[str, str, int, str, Term], usd: float, wish: Wish, reference: Known | None) -> DevicePrice:
    hardware, sku, count, region, term = key
    wrong = reference.implausible(usd) if reference else ""
    note = wrong or ("imported" if reference else "imported; nothing to compare it with")
    try:
        return DevicePrice(
            hardware=hardware, provider=wish.provider, sku=sku, devices=count, region=region, term=term,
            usd_per_device_hour=usd, date=wish.date, source=wish.source, note=note,
            quality="contradicted" if wrong else "secondary",
        )  # fmt: skip
    except ValidationError as error:
        problems = [Problem(f"{sku} in {region}", str(detail["msg"])) for detail in error.errors(include_url=False)]
        raise InputError(problems) from None
