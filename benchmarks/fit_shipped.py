"""Fit the calibrations that ship: `python benchmarks/fit_shipped.py DATA [--only gemm --match library]`.

DATA is a folder of measurement tables (gemm.parquet, attention.parquet, …). For each kernel family the shared constants
are fitted on all devices at once, then every device's own numbers, learned residuals and bands; leaving devices out
says what carrying values over costs. Fits are kept in a work folder, kind by kind, so that one can be done again; then
hardware_profiles/calibrations/ is written from all of them.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from capacity import calibration as calibrations
from capacity import catalogue, files
from capacity.spec import names
from capacity.spec.calibration import Calibration, Distance, KernelFamily, KernelFit
from capacity.timing import carried, fit, learn
from capacity.timing.band import Z90
from capacity.timing.form import Board
from capacity.timing.forms import form_of, named
from capacity.timing.kernel import Key
from capacity.timing.learn import Rows
from capacity.timing.residual import Trees
from capacity.timing.tables import TABLES

FOLDER = Path(__file__).resolve().parent.parent / "hardware_profiles" / "calibrations"
MARK = "# --- fitted by benchmarks/fit_shipped.py; do not edit below ---\n"
KINDS = ("gemm", "attention", "moe", "collective", "gemm_fp32")
FAMILY_ROWS, ROWS = {"moe": 100}, {"moe": 3_000}
"""Rows of a device that a family's constants are fitted on (else 1,000), and that are looked at (else all)."""
SLOW = {"moe": (500, 25)}
"""Rows and steps of a fit where a form is slow."""
DISTANCES = ("sibling", "same_class", "same_vendor", "same_kind")
UNSEEN = (0.1, 0.25, 0.35, 0.5)
"""Log standard deviation by distance where no device could be left out: judged from the kernels that could."""
Measured = dict[str, dict[Key, Rows]]


@dataclass
class Fits:
    """What was fitted of one kind of table."""

    families: list[dict[str, Any]] = field(default_factory=list)
    fits: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)

    @classmethod
    def read(cls, work: Path, kind: str) -> Fits:
        """Return what an earlier run left, or nothing."""
        path = work / f"{kind}.json"
        if not path.is_file():
            return cls()
        data = json.loads(path.read_text())
        arrays = {place.stem.removeprefix(f"{kind}-"): dict(np.load(place)) for place in work.glob(f"{kind}-*.npz")}
        return cls(data["families"], data["fits"], data["left_out"], data["sources"], arrays)

    def write(self, work: Path, kind: str) -> None:
        """Keep the fits."""
        parts = {name: getattr(self, name) for name in ("families", "fits", "left_out", "sources")}
        (work / f"{kind}.json").write_text(json.dumps(parts))
        for device, arrays in self.arrays.items():
            np.savez_compressed(work / f"{kind}-{device}.npz", **arrays)

    def without(self, match: str) -> Fits:
        """Return the fits whose key the pattern does not find."""
        families = [item for item in self.families if not re.search(match, _key(item))]
        fits = {
            device: [item for item in each if not re.search(match, _key(item))] for device, each in self.fits.items()
        }
        figures = [item for item in self.left_out if not re.search(match, "/".join(item["key"]))]
        kept = {device: {item.get("learned") for item in each} for device, each in fits.items()}
        arrays = {
            device: {name: value for name, value in known.items() if name.rpartition(":")[0] in kept.get(device, ())}
            for device, known in self.arrays.items()
        }
        return Fits(families, fits, figures, self.sources, arrays)


def _key(item: dict[str, Any]) -> str:
    stored = item.get("weight_dtype") or item["dtype"]
    return "/".join((item["operation"], item["family"], item["dtype"], stored))


def main() -> None:
    """Fit the kinds asked for, then write the documents from every kind fitted so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*", default=list(KINDS), help="kinds to fit; none: only write")
    parser.add_argument("--match", default="", help="fit only keys that this pattern finds, keep the other fits")
    parser.add_argument("--work", type=Path, default=Path("/tmp/fit_shipped"), help="where fits are kept")
    wish = parser.parse_args()
    wish.work.mkdir(parents=True, exist_ok=True)
    for kind in wish.only:
        rows, sources = read(wish.data, kind, wish.match)
        found = Fits.read(wish.work, kind).without(wish.match) if wish.match else Fits()
        found.sources = sources
        fit_kind(kind, rows, found)
        found.write(wish.work, kind)
    write([Fits.read(wish.work, kind) for kind in KINDS])


def read(folder: Path, kind: str, match: str) -> tuple[Measured, dict[str, str]]:
    """Return the rows of a table by device and key, and in words what each device's rows are."""
    table, frame = TABLES[kind], pd.read_parquet(folder / f"{kind}.parquet")
    if kind == "attention":  # neighboring shapes of these rows differ up to tenfold: the machine was not alone
        frame = frame[~((frame["phase"] == "encoder") & (frame["engine"] == "sglang 0.5.10"))]
    frame = frame[(frame[list(table.sizes)] > 0).all(axis=1) & (frame[table.target] > 0)]
    rows: Measured = {}
    sources = {}
    for name, part in frame.groupby("hardware"):
        device = names.hardware_id(str(name))
        engines = f" ({', '.join(sorted(part['engine'].unique()))})" if "engine" in part else ""
        sources[device] = f"{len(part):,} rows of kind {kind}{engines}"
        found = table.by_family(part.reset_index(drop=True), Board(catalogue.hardware(device)))
        most = ROWS.get(kind, len(part))
        rows[device] = {key: each.sample(most) for key, each in found.items() if re.search(match, "/".join(key))}
    return rows, sources


def fit_kind(kind: str, rows: Measured, found: Fits) -> None:
    """Add to `found` families, fits of each device, and the errors on devices left out."""
    if kind in SLOW:
        learn.MOST_FORM_ROWS, fit.MOST_STEPS = SLOW[kind]
    most, started = FAMILY_ROWS.get(kind, 1_000), time.time()
    by_key: dict[Key, dict[str, Rows]] = defaultdict(dict)
    for device, parts in rows.items():
        for key, part in parts.items():
            by_key[key][device] = part
    families = {key: shared_values(key, devices, most) for key, devices in by_key.items()}
    found.families += [family.model_dump(mode="json", exclude_none=True) for family in families.values()]
    print(f"{time.time() - started:6.0f} s  {len(families)} families", flush=True)
    trees: dict[tuple[str, Key], Trees] = {}
    for device, parts in rows.items():
        for key, part in parts.items():
            own, learned = calibrations.kernel_fit(key, part, None, families[key])
            found.fits.setdefault(device, []).append(own.model_dump(mode="json", exclude_none=True))
            if learned is not None:
                trees[device, key] = learned
                arrays = {f"{own.learned}:{part}": value for part, value in learned.packed().items()}
                found.arrays.setdefault(device, {}).update(arrays)
            errors = f"mean {own.mean_error:.3f} median {own.median_error:.3f} sigma {own.log_sigma:.3f}"
            print(f"{time.time() - started:6.0f} s  {device} {'/'.join(key)}: {errors}, {own.rows} rows", flush=True)
    for key, devices in by_key.items():
        whole = (key[0], key[1].rpartition("/")[0], *key[2:])
        if whole not in by_key:  # the part of one engine carries over as its family does
            found.left_out += left_out(key, devices, most, trees)


def shared_values(key: Key, devices: dict[str, Rows], most: int) -> KernelFamily:
    """Fit the constants that devices share."""
    operation, family, dtype, stored = key
    form = named(form_of(operation, family), family)
    values = fit.fitted(form, [part.sample(most).as_sample for part in devices.values()])[0]
    return KernelFamily(
        operation=operation, family=family, dtype=dtype, weight_dtype=None if stored == dtype else stored,
        form=form.name, values={p.name: float(f"{values[p.name]:.4g}") for p in form.parameters if p.shared},
        devices=tuple(sorted(devices)),
    )  # fmt: skip


def left_out(
    key: Key, devices: dict[str, Rows], most: int, trees: dict[tuple[str, Key], Trees]
) -> list[dict[str, Any]]:
    """Leave out each device in turn, fit the others, carry their values over to it, and return its errors."""
    found = []
    for device, part in devices.items():
        others = {name: rows for name, rows in devices.items() if name != device}
        if not others:
            continue
        family = shared_values(key, others, most)
        pairs = [
            (relative(family, rows.sample(most), trees.get((name, key)), name), catalogue.hardware(name))
            for name, rows in others.items()
        ]
        hardware = catalogue.hardware(device)
        shared = catalogue.shared().model_copy(update={"families": (family,)})
        kernel, sample = carried.kernels(hardware, pairs, shared)[key], part.sample(4_000)
        left = np.log(sample.seconds / kernel.seconds(sample.operation, Board(hardware)))
        error, far = np.expm1(-left), min(carried.distance(hardware, profile) for _, profile in pairs)
        found.append({
            "key": list(key), "operation": key[0], "family": key[1], "dtype": key[2], "device": device,
            "from": DISTANCES[far], "mean": float(np.mean(np.abs(error))), "median": float(np.median(np.abs(error))),
            "bias": float(np.median(error)), "sigma": float(np.quantile(np.abs(left), 0.9)) / Z90,
        })  # fmt: skip
    return found


def relative(family: KernelFamily, rows: Rows, trees: Trees | None, device: str) -> Calibration:
    """Return a relative's calibration of one family, its own numbers fitted with the family's constants."""
    form = named(family.form, family.family)
    start = [p.started_at(family.values.get(p.name, p.start)) for p in form.parameters]
    (values,) = fit.fitted(form, [rows.as_sample], start, frozenset(family.values))
    record = KernelFit(
        operation=family.operation, family=family.family, dtype=family.dtype, weight_dtype=family.weight_dtype,
        form=family.form, values={name: value for name, value in values.items() if name not in family.values},
        log_sigma=0.1, median_error=0, mean_error=0, rows=len(rows), learned=None if trees is None else "own",
    )  # fmt: skip
    known = Calibration(
        id=device, hardware=device, engine="fused", source="left out", date="2026-01-01", kernels=(record,)
    )
    return known.with_residuals({} if trees is None else {"own": trees})


def write(kinds: list[Fits]) -> None:
    """Write one calibration a device with its learned residuals, and the shared constants."""
    for device in sorted({device for part in kinds for device in part.fits}):
        fits = [item for part in kinds for item in part.fits.get(device, ())]
        document = Calibration.model_validate({
            "id": f"{device}-fused", "hardware": device, "engine": "fused", "date": date.today().isoformat(),
            "source": "; ".join(part.sources[device] for part in kinds if device in part.sources),
            "kernels": sorted(fits, key=_key),
        })  # fmt: skip
        files.write_text(FOLDER / f"{device}-fused.yaml", calibrations.to_yaml(document))
        arrays = {name: value for part in kinds for name, value in part.arrays.get(device, {}).items()}
        if arrays:
            np.savez_compressed(FOLDER / f"{device}-fused.npz", **arrays)
    by_class: dict[str, dict[str, Any]] = {}
    for part in reversed(kinds):
        by_class |= carried_by_class(part)
    path = FOLDER / "shared.yaml"
    text = path.read_text(encoding="utf-8").split(MARK)[0] + MARK + "carried_kernels:\n"
    text += "".join(f"  {name}: {line(item)}\n" for name, item in sorted(by_class.items())) + "families:\n"
    text += "".join(f"  - {line(item)}\n" for part in kinds for item in part.families)
    files.write_text(path, text)


def carried_by_class(part: Fits) -> dict[str, dict[str, Any]]:
    """Return what carrying values costs by class of operations, and note it in each family that was left out."""
    table = pd.DataFrame(part.left_out)
    if table.empty:
        return {}
    own = {
        (item["operation"], item["family"], item["dtype"], device): item["log_sigma"]
        for device, each in part.fits.items() for item in each
    }  # fmt: skip
    known = [own.get((row.operation, row.family, row.dtype, row.device), 0.1) for row in table.itertuples()]
    table = table.assign(extra=np.sqrt(np.maximum(table["sigma"] ** 2 - np.square(known), 0.03**2)))
    by_family = {key: distance(each, 0.6) for key, each in table.groupby(["operation", "family", "dtype"])}
    for item in part.families:
        family = item["family"]
        while family and (item["operation"], family, item["dtype"]) not in by_family:
            family = family.rpartition("/")[0]
        item.pop("carried", None)
        if family:
            item["carried"] = by_family[item["operation"], family, item["dtype"]]
    classes = table["operation"].str.replace(r"^collective\..*", "collective", regex=True)
    return {str(name): distance(each, 0.7) for name, each in table.groupby(classes)}


def distance(part: pd.DataFrame, share: float) -> dict[str, Any]:
    """Return what carrying costs by distance, never less for a farther relative."""
    by = {far: float(np.quantile(part.loc[part["from"] == far, "extra"], share)) for far in set(part["from"])}
    least, filled = 0.05, {}
    for far, judged in zip(DISTANCES, UNSEEN, strict=True):
        least = max(by.get(far, judged), least)
        filled[far] = round(least, 3)
    source = "leave-one-device-out, benchmarks/fit_shipped.py"
    return Distance(**filled, source=source).model_dump(mode="json")


def line(item: dict[str, Any]) -> str:
    """Return a record as one line of YAML."""
    return yaml.safe_dump(item, sort_keys=False, default_flow_style=True, width=10_000).strip()


if __name__ == "__main__":
    main()
