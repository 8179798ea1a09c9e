"""Fit the calibrations that ship: `python benchmarks/fit_shipped.py DATA [--only gemm]`.

DATA is a folder of measurement tables (gemm.parquet, attention.parquet, …). For each kernel family the shared constants
are fitted on all devices at once, then every device's own numbers, learned residuals and bands; leaving devices out
says what carrying values over costs. Writes hardware_profiles/calibrations/.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from capacity import calibration as calibrations
from capacity import catalogue, files
from capacity.spec import names
from capacity.spec.calibration import Calibration, Distance, KernelFamily, KernelFit, Shared
from capacity.timing import carried, fit, learn
from capacity.timing.band import Z90
from capacity.timing.features import features
from capacity.timing.form import Board
from capacity.timing.forms import form_of, named
from capacity.timing.kernel import Key
from capacity.timing.learn import Rows
from capacity.timing.residual import Trees
from capacity.timing.tables import TABLES

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "hardware_profiles" / "calibrations"
FILES = {"gemm": "gemm", "attention": "attention", "moe": "moe", "collective": "collective", "gemm_fp32": "gemm_fp32"}
FAMILY_ROWS = 1000
UNSEEN = (0.1, 0.25, 0.35, 0.5)
"""Log standard deviation by distance where no device could be left out: judged from the kernels that could."""
DISTANCES = ("sibling", "same_class", "same_vendor", "same_kind")


def read(folder: Path, kind: str) -> dict[str, pd.DataFrame]:
    """Return the rows of a table by device."""
    frame = pd.read_parquet(folder / f"{FILES[kind]}.parquet")
    table = TABLES[kind]
    if kind == "attention":  # neighboring shapes of these rows differ up to tenfold: the machine was not alone
        frame = frame[~((frame["phase"] == "encoder") & (frame["engine"] == "sglang 0.5.10"))]
    frame = frame[(frame[list(table.sizes)] > 0).all(axis=1) & (frame[table.target] > 0)]
    known = {}
    for name, part in frame.groupby("hardware"):
        known[names.hardware_id(str(name))] = part.assign(hardware=names.hardware_id(str(name))).reset_index(drop=True)
    return known


MOST_ROWS, FEW_ROWS = {"moe": 3_000}, {"moe": 100}
"""Rows of a key and device that are looked at, and that families are fitted on, where a form is slow."""


def by_family(rows: dict[str, dict[Key, Rows]]) -> dict[Key, dict[str, Rows]]:
    """Return key → device → rows."""
    found: dict[Key, dict[str, Rows]] = defaultdict(dict)
    for device, families in rows.items():
        for key, part in families.items():
            found[key][device] = part
    return found


def shared_values(key: Key, devices: dict[str, Rows]) -> KernelFamily:
    """Fit the constants that devices share."""
    operation, family, dtype, stored = key
    form = named(form_of(operation, family), family)
    most = FEW_ROWS.get("moe" if operation == "experts" else "", FAMILY_ROWS)
    samples = [part.sample(most).as_sample for part in devices.values()]
    values = fit.fitted(form, samples)[0]
    kept = {p.name: float(f"{values[p.name]:.4g}") for p in form.parameters if p.shared}
    return KernelFamily(
        operation=operation, family=family, dtype=dtype, weight_dtype=None if stored == dtype else stored,
        form=form.name, values=kept, devices=tuple(sorted(devices)),
    )


def left_out(key: Key, devices: dict[str, Rows], shared: Shared, trees: dict[tuple[str, Key], Trees]) -> list[dict[str, object]]:
    """Fit all devices but one, predict that one, for each; return its figures."""
    found = []
    operation, family, dtype, stored = key
    for device, part in devices.items():
        others = {name: rows for name, rows in devices.items() if name != device}
        if not others:
            continue
        family_fit = shared_values(key, others)
        form = named(family_fit.form, family)
        pairs = []
        for name, rows in others.items():
            start = [p.started_at(family_fit.values.get(p.name, p.start)) for p in form.parameters]
            fixed = frozenset(family_fit.values)
            (values,) = fit.fitted(form, [rows.sample(FEW_ROWS["moe"] if operation == "experts" else FAMILY_ROWS).as_sample], start, fixed)
            own = {name_: value for name_, value in values.items() if name_ not in fixed}
            learned = {"own": trees[name, key]} if (name, key) in trees else {}
            record = KernelFit(learned="own" if learned else None,operation=operation, family=family, dtype=dtype,
                weight_dtype=None if stored == dtype else stored, form=form.name, values=own, log_sigma=0.1,
                median_error=0, mean_error=0, rows=len(rows))
            pairs.append((Calibration(id=name, hardware=name, engine="fused", source="left out",
                date="2026-01-01", kernels=(record,)).with_residuals(learned), catalogue.hardware(name)))
        hardware = catalogue.hardware(device)
        kernel = carried.kernels(hardware, pairs, shared.model_copy(update={"families": (family_fit,)}))[key]
        sample = part.sample(4000)
        left = np.log(sample.seconds / kernel.seconds(sample.operation, Board(hardware)))
        far = min(carried.distance(hardware, profile) for _, profile in pairs)
        found.append({"key": list(key), "operation": operation, "family": family, "dtype": dtype, "device": device,
            "from": DISTANCES[far], "mean": float(np.mean(np.abs(np.expm1(-left)))),
            "median": float(np.median(np.abs(np.expm1(-left)))), "bias": float(np.median(np.expm1(-left))),
            "sigma": float(np.quantile(np.abs(left), 0.9)) / Z90, "rows": len(part)})
    return found


def extra(figures: pd.DataFrame, fits: dict[str, list[KernelFit]]) -> pd.DataFrame:
    """Add what carrying costs beyond a device's own scatter."""
    own = {(f.operation, f.family, f.dtype, device): f.log_sigma for device, each in fits.items() for f in each}
    known = [own.get((r.operation, r.family, r.dtype, r.device), 0.1) for r in figures.itertuples()]
    return figures.assign(extra=np.sqrt(np.maximum(figures["sigma"] ** 2 - np.square(known), 0.03**2)))


def distance(part: pd.DataFrame, share: float) -> Distance:
    """Return what carrying costs by distance, never less for a farther relative."""
    by = {far: float(np.quantile(part.loc[part["from"] == far, "extra"], share)) for far in set(part["from"])}
    least, filled = 0.05, {}
    for far, judged in zip(DISTANCES, UNSEEN, strict=True):
        least = max(by.get(far, judged), least)
        filled[far] = round(least, 3)
    return Distance(**filled, source="leave-one-device-out, benchmarks/fit_shipped.py")


def main() -> None:
    """Fit the kinds asked for, then write the documents from every kind fitted so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*", default=list(FILES), help="kinds to fit; none: only write")
    parser.add_argument("--match", default="", help="fit only keys that this pattern finds, keep the other fits")
    parser.add_argument("--work", type=Path, default=Path("/tmp/fit_shipped"), help="where fits are kept")
    parser.add_argument("--ranges", action="store_true")
    wish = parser.parse_args()
    wish.work.mkdir(parents=True, exist_ok=True)
    for kind in wish.only:
        fit_kind(kind, wish.data, wish.work, wish.match)
    for kind in FILES if wish.ranges else ():
        if (wish.work / f"{kind}.json").is_file():
            add_ranges(kind, wish.data, wish.work)
    write(wish.work)


def carry(part: dict[str, Any]) -> None:
    """Add to a kind's fits what carrying their values costs, by class of operations and by family."""
    part["carried"], table = {}, pd.DataFrame(part["left_out"])
    if table.empty:
        return
    fits = {device: [KernelFit.model_validate(item) for item in each] for device, each in part["fits"].items()}
    table = extra(table, fits)
    classes = table["operation"].str.replace(r"^collective\..*", "collective", regex=True)
    part["carried"] = {str(name): distance(each, 0.7).model_dump(mode="json") for name, each in table.groupby(classes)}
    known = {key: distance(each, 0.6) for key, each in table.groupby(["operation", "family", "dtype"])}
    for item in part["families"]:
        family = item["family"]
        while family and (item["operation"], family, item["dtype"]) not in known:
            family = family.rpartition("/")[0]
        item.pop("carried", None)
        if family:
            item["carried"] = known[item["operation"], family, item["dtype"]].model_dump(mode="json")


def write(work: Path) -> None:
    """Write one calibration a device with its learned residuals, and the shared constants."""
    parts = [json.loads((work / f"{kind}.json").read_text()) for kind in FILES if (work / f"{kind}.json").is_file()]
    for part in parts:
        carry(part)
    for device in sorted({device for part in parts for device in part["fits"]}):
        fits = [item for part in parts for item in part["fits"].get(device, ())]
        sources = [part["sources"][device] for part in parts if device in part["sources"]]
        document = Calibration.model_validate({
            "id": f"{device}-fused", "hardware": device, "engine": "fused", "source": "; ".join(sources),
            "date": date.today().isoformat(), "kernels": sorted(fits, key=lambda item: (item["operation"], item["family"], item["dtype"], item.get("weight_dtype", ""))),
        })
        files.write_text(FOLDER / f"{device}-fused.yaml", calibrations.to_yaml(document))
        arrays: dict[str, np.ndarray] = {}
        for kind in FILES:
            path = work / f"{kind}-{device}.npz"
            if path.is_file():
                arrays |= dict(np.load(path))
        if arrays:
            np.savez_compressed(FOLDER / f"{device}-fused.npz", **arrays)
    path = FOLDER / "shared.yaml"
    head = path.read_text(encoding="utf-8").split(MARK)[0]
    carried_by_class = {name: item for part in reversed(parts) for name, item in part["carried"].items()}
    lines = [f"  {name}: {line(item)}\n" for name, item in sorted(carried_by_class.items())]
    text = head + MARK + "carried_kernels:\n" + "".join(lines) + "families:\n"
    text += "".join(f"  - {line(item)}\n" for part in parts for item in part["families"])
    files.write_text(path, text)


MARK = "# --- fitted by benchmarks/fit_shipped.py; do not edit below ---\n"


def add_ranges(kind: str, data: Path, work: Path) -> None:
    """Add to learned residuals the range of the features they were fitted on."""
    for device, frame in read(data, kind).items():
        path, board = work / f"{kind}-{device}.npz", Board(catalogue.hardware(device))
        arrays = dict(np.load(path)) if path.is_file() else {}
        for key, rows in TABLES[kind].by_family(frame, board).items():
            name = "/".join(dict.fromkeys(key))
            if f"{name}:values" in arrays and f"{name}:low" not in arrays:
                _, columns = features(rows.operation, board, np.maximum(rows.seconds, 1e-9))
                arrays[f"{name}:low"] = columns.min(axis=0).astype(np.float32)
                arrays[f"{name}:high"] = columns.max(axis=0).astype(np.float32)
        if arrays:
            np.savez_compressed(path, **arrays)


def line(item: dict[str, object]) -> str:
    """Return a record as one line of YAML."""
    return yaml.safe_dump(item, sort_keys=False, default_flow_style=True, width=10_000).strip()


def fit_kind(kind: str, data: Path, work: Path, match: str) -> None:
    """Fit one kind of table on all devices; keep the result in `work`."""
    frames = read(data, kind)
    rows = {device: TABLES[kind].by_family(frame, Board(catalogue.hardware(device))) for device, frame in frames.items()}
    rows = {device: {key: part for key, part in parts.items() if re.search(match, "/".join(key))} for device, parts in rows.items()}
    most = MOST_ROWS.get(kind, 10**9)
    rows = {device: {key: part.sample(most) for key, part in parts.items()} for device, parts in rows.items()}
    shared, families, figures = catalogue.shared(), [], []
    started = time.time()
    if kind in FEW_ROWS:
        learn.MOST_FORM_ROWS, fit.MOST_STEPS = 500, 25
    grouped = by_family(rows)
    for key, devices in grouped.items():
        families.append(shared_values(key, devices))
        print(f"{time.time() - started:6.0f} s  {'/'.join(key)}", flush=True)
    print(f"{time.time() - started:6.0f} s  {len(families)} families", flush=True)
    fits: dict[str, list[KernelFit]] = defaultdict(list)
    arrays: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    trees_of: dict[tuple[str, Key], Trees] = {}
    for device, parts in rows.items():
        for key, part in parts.items():
            found, trees = calibrations.kernel_fit(key, part, None, next(f for f in families if f.key == key))
            fits[device].append(found)
            if trees is not None:
                trees_of[device, key] = trees
                arrays[device] |= files_of(str(found.learned), trees)
            print(f"{time.time() - started:6.0f} s  {device} {'/'.join(key)}: {found.mean_error:.3f} / "
                  f"{found.median_error:.3f} sigma {found.log_sigma:.3f} rows {found.rows} trees {trees is not None}", flush=True)
    for key, devices in grouped.items():
        whole = (key[0], key[1].rpartition("/")[0], *key[2:])
        if whole not in grouped:  # the part of one engine carries over as its family does
            figures += left_out(key, devices, shared, trees_of)
    before = json.loads((work / f"{kind}.json").read_text()) if match else {"families": [], "fits": {}, "left_out": []}
    figures += [item for item in before["left_out"] if not re.search(match, "/".join(item["key"]))]
    table = pd.DataFrame(figures)
    if len(table):
        table.to_csv(work / f"{kind}-left-out.csv", index=False)
        print(table.drop(columns=["rows", "key"]).round(3).to_string(), flush=True)
    for device, each in before["fits"].items():
        kept = [KernelFit.model_validate(item) for item in each]
        fits[device] += [item for item in kept if not re.search(match, "/".join(item.key))]
    before_families = [KernelFamily.model_validate(item) for item in before["families"]]
    families += [item for item in before_families if not re.search(match, "/".join(item.key))]
    document = {
        "left_out": figures,
        "families": [family.model_dump(mode="json", exclude_none=True) for family in families],
        "fits": {device: [item.model_dump(mode="json", exclude_none=True) for item in each] for device, each in fits.items()},
        "sources": {device: f"{len(frame):,} rows of kind {kind}" + (
            f" ({', '.join(sorted(frame['engine'].unique()))})" if "engine" in frame else "") for device, frame in frames.items()},
    }
    (work / f"{kind}.json").write_text(json.dumps(document))
    for device, each in fits.items():
        path = work / f"{kind}-{device}.npz"
        old = dict(np.load(path)) if match and path.is_file() else {}
        wanted = {item.learned for item in each}
        merged = {name: value for name, value in old.items() if name.rpartition(":")[0] in wanted} | arrays[device]
        np.savez_compressed(path, **merged)


def files_of(name, trees):
    return {f"{name}:{part}": value for part, value in trees.packed().items()}


if __name__ == "__main__":
    main()
