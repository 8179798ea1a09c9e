"""Kernels of a device from calibrations: its own fits first, then what its nearest relatives have in common.

Own numbers (launch time, efficiencies) of the nearest relatives are averaged on the log scale, the family's constants
are everyone's, and the band is widened by what leaving devices out has shown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from capacity.spec.calibration import BandKnot, Calibration, Distance, KernelFamily, KernelFit, Shared
from capacity.spec.hardware import Hardware
from capacity.timing.attention import generation
from capacity.timing.forms import named
from capacity.timing.kernel import Kernel, Key, Learned, Scatter
from capacity.timing.learn import LEAST_TREE_ROWS

Pairs: TypeAlias = Sequence[tuple[Calibration, Hardware]]


def distance(hardware: Hardware, other: Hardware) -> int:
    """Return 0 for a sibling, 1 for a cousin, 2 for the same vendor, 3 for the same kind of device.

    A sibling shares the chip generation and the class of board: linked (NVLink and its like) or a card on PCIe, whose
    power limit binds long before its rate does. A cousin shares one of the two, or is a card that runs the kernels of
    another generation (Blackwell with GDDR memory those of Ada).
    """
    if hardware.vendor != other.vendor:
        return 3
    same_kernels = bool(hardware.architecture) and generation(hardware) == generation(other)
    same_board = linked(hardware) == linked(other)
    if same_kernels and same_board:
        return 0 if hardware.architecture == other.architecture else 1
    return 1 if same_kernels or same_board else 2


def linked(hardware: Hardware) -> bool:
    """Tell a board with links of its own from a card on PCIe."""
    return hardware.link is not None and "pcie" not in hardware.link.value.kind.casefold()


def sigma_at(carried: Distance, far: int) -> float:
    """Return the log standard deviation that carrying values so far costs."""
    return (carried.sibling, carried.same_class, carried.same_vendor, carried.same_kind)[far]


def kernels(hardware: Hardware, calibrations: Pairs, shared: Shared) -> dict[Key, Kernel]:
    """Return every kernel known for `hardware`, measured on it or carried over from its nearest relatives.

    Parameters
    ----------
    calibrations
        Calibrations with the profiles they were measured on; of several for one device the first counts.
    """
    families = {family.key: family for family in shared.families}
    relatives: dict[Key, dict[int, list[tuple[KernelFit, Calibration, Hardware]]]] = {}
    found: dict[Key, Kernel] = {}
    many: dict[Key, bool] = {}
    first: dict[Key, int] = {}  # whose measurements of a whole family count: an engine's part of a later one does not
    for place, (calibration, profile) in enumerate(calibrations):
        for fit in calibration.kernels:
            whole = (fit.operation, fit.family.partition("/")[0], *fit.key[2:])
            if profile.id == hardware.id:
                if first.get(whole, place) != place:
                    continue
                if fit.family == whole[1]:
                    first[whole] = place
                many.setdefault(fit.key, fit.rows >= LEAST_TREE_ROWS)
                found.setdefault(fit.key, own(fit, calibration, families, shared.beyond_log_sigma))
            elif profile.kind == hardware.kind:
                near = relatives.setdefault(fit.key, {}).setdefault(distance(hardware, profile), [])
                if all(profile.id != known.id for _, _, known in near):
                    near.append((fit, calibration, profile))
    for key, by_distance in relatives.items():
        far = min(by_distance)
        if key not in found:
            family = families.get(key)
            carried = (family and family.carried) or shared.carried_kernels.get(_class(key[0]), shared.carried)
            found[key] = _average(by_distance[far], sigma_at(carried, far), family)
        # a few rows teach no trees: those of siblings hold (kernel-time.md); many rows were fitted without them
        if far == 0 and not found[key].learned and not many.get(key):
            siblings = tuple(each for fit, calibration, _ in by_distance[0] for each in _learned(fit, calibration))
            found[key] = dataclasses.replace(found[key], learned=siblings, beyond_log_sigma=shared.beyond_log_sigma)
    return found


def _class(operation: str) -> str:
    """Return the class of operations that devices are left out by: all collectives are one."""
    return "collective" if operation.startswith("collective") else operation


def own(
    fit: KernelFit, calibration: Calibration, families: Mapping[Key, KernelFamily], beyond_log_sigma: float
) -> Kernel:
    """Return the kernel of a fit on the device it was measured on."""
    return Kernel(
        form=named(fit.form, fit.family), values=values([fit], families.get(fit.key)), scatter=scatter(fit),
        basis=fit.basis, label=_label(fit, calibration.hardware), learned=_learned(fit, calibration),
        beyond_log_sigma=beyond_log_sigma,
    )  # fmt: skip


def _learned(fit: KernelFit, calibration: Calibration) -> tuple[Learned, ...]:
    return (Learned(calibration.residuals, fit.learned),) if fit.learned else ()


def _average(
    relatives: Sequence[tuple[KernelFit, Calibration, Hardware]], sigma: float, family: KernelFamily | None
) -> Kernel:
    fits = [fit for fit, _, _ in relatives]
    names = ", ".join(profile.name for _, _, profile in relatives)
    widest = max(fits, key=lambda fit: fit.log_sigma)
    return Kernel(
        form=named(fits[0].form, fits[0].family), values=values(fits, family), scatter=scatter(widest),
        basis="projected", label=_label(widest, "relatives"), errors={f"carried over from {names}": sigma},
    )  # fmt: skip


def values(fits: Iterable[KernelFit], family: KernelFamily | None) -> dict[str, float]:
    """Return the parameters of several fits of one family, averaged on the log scale; the rest is the family's."""
    fits = list(fits)
    merged = dict(named(fits[0].form, fits[0].family).typical) | (dict(family.values) if family else {})
    for name in merged:
        known = [fit.values[name] for fit in fits if name in fit.values]
        if known:
            merged[name] = math.exp(math.fsum(map(math.log, known)) / len(known))
    return merged


def scatter(fit: KernelFit) -> Scatter:
    """Return the scatter of a fit as its document states it."""
    if not fit.band:
        return Scatter.constant(fit.log_sigma)
    return Scatter(np.log([knot.seconds for knot in fit.band]), np.array([knot.log_sigma for knot in fit.band]))


def knots(of: Scatter) -> tuple[BandKnot, ...]:
    """Return a scatter as a document states it; empty when it is the same everywhere."""
    if len(of.log_times) == 1:
        return ()
    return tuple(
        BandKnot(seconds=float(f"{np.exp(log_s):.3g}"), log_sigma=float(f"{sigma:.3g}"))
        for log_s, sigma in zip(of.log_times, of.log_sigma, strict=True)
    )


def _label(fit: KernelFit, hardware: str) -> str:
    return f"{fit.operation} {fit.family} {fit.dtype} on {hardware}"
