"""Kernel families of a device as tables: which calibrations serve it, how wrong each was, how wide its band is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from capacity.report.cells import Column, Row, Table
from capacity.spec.calibration import Calibration, KernelFit, Shared
from capacity.spec.hardware import Hardware
from capacity.timing.band import Z90
from capacity.timing.carried import distance
from capacity.timing.device import HALF, Device
from capacity.timing.kernel import Kernel, Key
from capacity.units import text
from capacity.work.operations import Amount

OWN = -1
"""Distance of a device to itself."""
RELATIONS = {
    OWN: "measured here",
    0: "sibling: same generation and class of board",
    1: "cousin: same generation or class of board",
    2: "same vendor",
    3: "same kind of device",
}
"""Words for `capacity.timing.carried.distance`."""
SHORT_S, LONG_S = 1e-5, 1e-2
"""Predicted times at which bands are compared [s]."""
Source: TypeAlias = tuple[KernelFit, Calibration, Hardware]
_FAMILIES = (
    Column("operation", "Operation"),
    Column("family", "Kernel family"),
    Column("dtype", "Precision"),
    Column("origin", "From"),
    Column("median_error_fraction", "Median error, held out", "fraction"),
    Column("mean_error_fraction", "Mean error, held out", "fraction"),
    Column("band_short", f"90 % band at {text(SHORT_S, 'seconds')} [× or ÷]", "count"),
    Column("band_long", f"90 % band at {text(LONG_S, 'seconds')} [× or ÷]", "count"),
    Column("rows", "Measurements", "whole"),
    Column("engines", "Engines"),
    Column("learned", "Learned correction"),
    Column("basis", "Basis"),
    Column("note", "Note"),
)
_PROVENANCE = (
    Column("calibration", "Calibration"),
    Column("hardware", "Measured on"),
    Column("relation", "Distance"),
    Column("extra_band", "Extra 90 % band"),
    Column("kernels", "Kernel families used", "whole"),
    Column("engine", "Engine"),
    Column("date", "Date"),
    Column("method", "Method"),
    Column("machine", "Machine"),
    Column("source", "Source"),
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a device's numbers for one kernel family come from."""

    far: int
    """`OWN`, or the distance to the nearest relatives that were measured."""
    sources: tuple[Source, ...]

    @property
    def words(self) -> str:
        """The origin as a person reads it."""
        if self.far == OWN:
            return RELATIONS[OWN]
        names = ", ".join(profile.name for _, _, profile in self.sources)
        return f"carried over from {names} ({RELATIONS[self.far].partition(':')[0]})"


def origins(hardware: Hardware, calibrations: Iterable[tuple[Calibration, Hardware]]) -> dict[Key, Origin]:
    """Return where each kernel family that may run on `hardware` comes from, nearest first.

    They are those of `capacity.timing.carried.kernels` whose dtype the device has a dense rate for.
    """
    found: dict[Key, dict[int, list[Source]]] = {}
    for calibration, profile in calibrations:
        if profile.kind == hardware.kind:
            far = OWN if profile.id == hardware.id else distance(hardware, profile)
            for fit in (fit for fit in calibration.kernels if runs(fit.key, hardware)):
                sources = found.setdefault(fit.key, {}).setdefault(far, [])
                if all(profile.id != known.id for _, _, known in sources):
                    sources.append((fit, calibration, profile))
    nearest = sorted((min(by_distance), key) for key, by_distance in found.items())
    return {key: Origin(far, tuple(found[key][far])) for far, key in nearest}


def runs(key: Key, hardware: Hardware) -> str | None:
    """Return the dtype that a kernel family multiplies on a device, None where the device has no rate for it.

    16-bit dtypes answer for each other, as in `capacity.timing.device`; collectives multiply nothing.
    """
    if key[0].startswith("collective"):
        return key[2]
    return next((dtype for dtype in (key[2], HALF.get(key[2])) if dtype and hardware.rate(dtype) is not None), None)


def identifier(key: Key) -> str:
    """Return the text that stands for a kernel family in a link.

    Examples
    --------
    >>> identifier(("gemm", "library/vllm", "bf16", "bf16"))
    'gemm:library/vllm:bf16:bf16'
    """
    return ":".join(key)


def factor(log_sigma: Amount | Sequence[float]) -> Amount:
    """Return the factor by which a 90 % band reaches up, and by whose inverse it reaches down [1].

    Examples
    --------
    >>> round(float(factor(0.1)), 3)
    1.179
    """
    return np.exp(Z90 * np.asarray(log_sigma, dtype=float))


def log_sigma(kernel: Kernel, predicted_s: Amount, *, carried: bool = True) -> Amount:
    """Return the log standard deviation of one launch predicted to take `predicted_s` [1].

    Parameters
    ----------
    carried
        Whether what carrying the values over costs counts too.
    """
    errors = kernel.errors.values() if carried else ()
    return np.sqrt(np.square(kernel.scatter.at(predicted_s)) + sum(sigma**2 for sigma in errors))


def precision(key: Key) -> str:
    """Return the dtypes of a kernel family as a person reads them.

    Examples
    --------
    >>> precision(("gemm", "library", "bf16", "bf16")), precision(("attention.decode", "fa3", "bf16", "fp8"))
    ('bf16', 'bf16, KV cache fp8')
    """
    if key[2] == key[3]:
        return key[2]
    return f"{key[2]}, {'KV cache' if key[0].startswith('attention') else 'weights'} {key[3]}"


def families_table(device: Device, known: Mapping[Key, Origin]) -> Table:
    """Return every kernel family of a device with its errors on shapes held out of the fit, and its band.

    Errors of a family that was carried over are the largest of its relatives', each on its own device; what carrying
    over costs is in the band.
    """
    rows = tuple(_family(key, device.kernels[key], origin) for key, origin in known.items())
    columns = tuple(column for column in _FAMILIES if column.key != "note" or any(row["note"] for row in rows))
    return Table("Kernel families", columns, rows)


def _family(key: Key, kernel: Kernel, origin: Origin) -> Row:
    fits = [fit for fit, _, _ in origin.sources]
    return {
        "operation": key[0],
        "family": key[1],
        "dtype": precision(key),
        "origin": origin.words,
        "median_error_fraction": max(fit.median_error for fit in fits),
        "mean_error_fraction": max(fit.mean_error for fit in fits),
        "band_short": float(factor(log_sigma(kernel, SHORT_S))),
        "band_long": float(factor(log_sigma(kernel, LONG_S))),
        "rows": sum(fit.rows for fit in fits),
        "engines": ", ".join(dict.fromkeys(name for fit in fits for name in fit.engines)) or "see the source",
        "learned": _learned(kernel, origin),
        "basis": kernel.basis,
        "note": "; ".join(dict.fromkeys(fit.note for fit in fits if fit.note)),
    }


def _learned(kernel: Kernel, origin: Origin) -> str:
    if not kernel.learned:
        return "none"
    own = origin.far == OWN and any(fit.learned for fit, _, _ in origin.sources)
    return "its own" if own else "of its siblings"


def provenance_table(
    device: Device, known: Mapping[Key, Origin], calibrations: Sequence[tuple[Calibration, Hardware]], shared: Shared
) -> Table:
    """Return every calibration whose numbers serve a device, nearest first, and what holds for all devices."""
    hardware, rows = device.hardware, []
    used = device.origin.partition(", carried over from ")[0]
    for calibration, profile in calibrations:
        own = profile.id == hardware.id
        mine = [key for key, origin in known.items() if any(it.id == calibration.id for _, it, _ in origin.sources)]
        if own or mine or calibration.id == used:
            far = OWN if own else distance(hardware, profile)
            costs = [np.hypot.reduce(list(device.kernels[key].errors.values())) for key in mine]
            costs = costs or [np.hypot.reduce(list(device.errors.values()))]
            rows.append((far, _calibration(calibration, profile, far, costs, len(mine))))
    ordered = [row for _, row in sorted(rows, key=lambda pair: pair[0])]
    return Table("Calibrations in use", _PROVENANCE, (*ordered, _assumed(shared)))


def _calibration(calibration: Calibration, profile: Hardware, far: int, costs: Sequence[float], kernels: int) -> Row:
    return {
        "calibration": calibration.id,
        "hardware": profile.name,
        "relation": RELATIONS[far],
        "extra_band": "none" if far == OWN else extra_band(costs),
        "kernels": float(kernels),
        "engine": calibration.engine,
        "date": calibration.date,
        "method": f"{calibration.method}, version {calibration.method_version}",
        "machine": machine(calibration),
        "source": calibration.source,
    }


def extra_band(log_sigmas: Sequence[float]) -> str:
    """Return what carrying values over adds to the band, as factors: the least and the most.

    Examples
    --------
    >>> extra_band([0.1, 0.25])
    '× or ÷ 1.18 to 1.51'
    """
    least, most = (f"{float(factor(end(log_sigmas))):.2f}" for end in (min, max))
    return f"× or ÷ {least}" + (f" to {most}" if most != least else "")


def machine(calibration: Calibration) -> str:
    """Return the fingerprint of the machine that was measured, in one line."""
    found = calibration.machine
    if found is None:
        return "not recorded: fitted to a table"
    software = [f"{name} {version}" for name, version in found.software.items()]
    facts = (found.name, found.system, found.driver and f"driver {found.driver}", *software)
    return ", ".join(fact for fact in facts if fact)


def _assumed(shared: Shared) -> Row:
    return {
        "calibration": shared.id,
        "hardware": "many devices",
        "relation": "holds until somebody measures",
        "extra_band": "in each of its numbers",
        "kernels": float(len(shared.families)),
        "engine": "any",
        "date": shared.date,
        "method": "constants that devices share",
        "machine": "not recorded: fitted to tables",
        "source": shared.source,
    }


def summary(device: Device, known: Mapping[Key, Origin]) -> str:
    """Return in a sentence how well a device is known."""
    own = [origin.sources[0][0] for origin in known.values() if origin.far == OWN]
    rest = [origin for origin in known.values() if origin.far != OWN]
    said = f"{device.hardware.name}: no kernel family was measured here"
    if own:
        errors = [fit.median_error for fit in own]
        ends = " to ".join(dict.fromkeys(text(end, "fraction", 2) for end in (min(errors), max(errors))))
        count = "1 kernel family" if len(own) == 1 else f"{len(own)} kernel families"
        said = f"{device.hardware.name}: {count} measured here, with a median error of {ends} on shapes held out"
    relatives = sorted({profile.name for origin in rest for _, _, profile in origin.sources})
    if rest:
        said += f"; {len(rest)} carried over from {', '.join(relatives)}"
    return said + (f"; everything else from {device.origin}." if device.fitted else "; everything else is assumed.")
