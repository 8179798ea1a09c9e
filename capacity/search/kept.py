"""What was tried, kept in files: a search that was interrupted goes on where it stopped.

A file belongs to one variant, one space and one day, and is named by what went into it: anything else has another name.
It holds numbers and JSON only, so that reading one runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from capacity import planner
from capacity.errors import InputError, Problem
from capacity.fleet.grid import Fleets
from capacity.fleet.searched import Buying, Variant
from capacity.money import price_tables
from capacity.plan import Violation
from capacity.planner import Inputs
from capacity.search.tried import Tried
from capacity.spec.space import Space

ARRAYS = (
    "degree", "batch", "replicas", "devices", "paid_devices", "latency_s", "stressed_s", "utilization",
    "stressed_utilization", "busy_devices",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder of what was tried."""

    folder: Path

    def made(self) -> Kept:
        """Create the folder where it is not there yet.

        Raises
        ------
        InputError
            When it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError([Problem(str(self.folder), f"cannot be written: {error.strerror}")]) from None
        return self

    def path(self, variant: Variant, space: Space, given: Inputs) -> Path:
        """Return the file of a variant."""
        parts = [
            variant.hardware, variant.scenario.model_dump_json(), space.model_dump_json(), given.today.isoformat(),
            repr(sorted(calibration.model_dump_json() for calibration, _ in given.calibrations)),
            given.shared.model_dump_json(), given.rates.model_dump_json(), repr(sorted(variant.models.items())),
            repr(sorted(given.points.items())), repr(sorted(given.references.items())),
            planner.profile(variant.hardware, given).model_dump_json(), *_prices(variant.hardware),
        ]  # fmt: skip
        return self.folder / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}.npz"

    def read(self, variant: Variant, path: Path) -> Tried | None:
        """Return what was tried, or None where nothing whole was kept."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                told = json.loads(str(stored["told"]))
                arrays = {name: stored[name] for name in stored.files if name != "told"}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        return _read(variant, told, arrays)

    def write(self, found: Tried, path: Path) -> None:
        """Keep what was tried: whole or not at all."""
        arrays = {} if found.fleets is None else {name: getattr(found.fleets, name) for name in ARRAYS}
        arrays |= {"usd": found.usd, "held": found.held}
        if found.kwh is not None:
            arrays["kwh"] = found.kwh
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, allow_pickle=False, told=np.array(json.dumps(_told(found))), **arrays)
        partial.replace(path)


def _prices(hardware: str) -> list[str]:
    rows = (*price_tables.device_prices(), *price_tables.purchase_prices())
    return [row.model_dump_json() for row in rows if row.hardware == hardware]


def _told(found: Tried) -> dict[str, Any]:
    return {
        "pools": None if found.fleets is None else found.fleets.pools, "buying": [asdict(way) for way in found.buying],
        "unpriced": found.unpriced, "violations": [asdict(miss) for miss in found.violations],
        "refused": found.refused, "cheapest": found.cheapest,
    }  # fmt: skip


def _read(variant: Variant, told: dict[str, Any], arrays: dict[str, Any]) -> Tried:
    usd, held, kwh = arrays.pop("usd"), arrays.pop("held"), arrays.pop("kwh", None)
    fleets = None if told["pools"] is None else Fleets(pools=tuple(told["pools"]), **arrays)
    return Tried(
        variant=variant, fleets=fleets, usd=usd, held=held, kwh=kwh, refused=told["refused"],
        unpriced=tuple(told["unpriced"]),
        buying=tuple(Buying(**{**way, "flags": tuple(way["flags"])}) for way in told["buying"]),
        violations=tuple(Violation(**miss) for miss in told["violations"]),
        cheapest=tuple((row, way) for row, way in told["cheapest"]),
    )  # fmt: skip
