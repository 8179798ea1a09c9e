"""Devices, shared numbers and calibrations made up by hand: what is predicted from them can be worked out on paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from capacity import catalogue
from capacity.spec.calibration import Calibration, Distance, KernelFamily, KernelFit, Shared
from capacity.spec.hardware import Hardware
from capacity.timing.form import Board, Form
from capacity.timing.forms import form_of, named
from capacity.timing.gemm import GEMM
from capacity.timing.kernel import Key
from capacity.timing.learn import Rows
from capacity.work.operations import Gemm

DISTANCES = ("sibling", "same_class", "same_vendor", "same_kind")
FACTS = {
    "memory_bandwidth": 1e12, "last_level_cache": 50e6, "cores": 100, "clock": 1e9, "power": 400.0,
    "host_bandwidth": 3e10,
}  # fmt: skip
RATES = {"fp32": 20e12, "fp16": 100e12, "bf16": 100e12}


def fact(value: object) -> dict[str, object]:
    return {"value": value, "source": "made_up"}


def hardware(id_: str = "made-up", rates: Mapping[str, float] = RATES, **more: Any) -> Hardware:
    """Return a GPU of 100 cores, 1 TB/s and 100 TFLOP/s in 16 bits; a fact given as None is not stated.

    `link` is its kind, None for a card without links of its own.
    """
    facts = FACTS | {name: more.pop(name) for name in FACTS if name in more}
    link = more.pop("link", "NVLink")
    base = {"id": id_, "name": id_.title(), "vendor": "ACME", "kind": "gpu", "architecture": "hopper"} | more
    base |= {name: fact(value) for name, value in facts.items() if value is not None}
    base |= {"dense_rates": {name: fact(rate) for name, rate in rates.items()}}
    base |= {"link": link and fact({"kind": link, "bandwidth": 3e11})}
    return Hardware.model_validate(base | {"sources": {"made_up": {"citation": "made up", "date": "2026"}}})


def board(**more: Any) -> Board:
    return Board(hardware(**more))


def distance(*sigmas: float) -> Distance:
    """Return what carrying costs, for sibling, cousin, vendor and kind."""
    return Distance(source="made up", **dict(zip(DISTANCES, sigmas, strict=True)))


def shared(*families: KernelFamily, **more: Any) -> Shared:
    """Return what all devices share: the shipped efficiencies and these kernel families."""
    known = {"families": families, "carried": distance(0.1, 0.2, 0.3, 0.4), "carried_kernels": {}} | more
    return catalogue.shared().model_copy(update=known)


def kernel_fit(key: Key, values: Mapping[str, float], **more: Any) -> KernelFit:
    """Return a fit; what `values` leaves out is the family's."""
    operation, family, dtype, stored = key
    base = {"log_sigma": 0.05, "median_error": 0.03, "mean_error": 0.04, "rows": 1000}
    return KernelFit(
        operation=operation, family=family, dtype=dtype, weight_dtype=None if stored == dtype else stored,
        form=form_of(operation, family), values=dict(values), **(base | more),
    )  # fmt: skip


def family(key: Key, values: Mapping[str, float], **more: Any) -> KernelFamily:
    """Return what devices share of a kernel family."""
    operation, name, dtype, stored = key
    return KernelFamily(
        operation=operation, family=name, dtype=dtype, weight_dtype=None if stored == dtype else stored,
        form=form_of(operation, name), values=dict(values), devices=("made-up",), **more,
    )  # fmt: skip


def calibration(
    profile: Hardware, *fits: KernelFit, residuals: Mapping[str, Any] | None = None, id_: str | None = None
) -> tuple[Calibration, Hardware]:
    """Return a calibration of kernels with the profile it belongs to."""
    document = Calibration(
        id=id_ or f"{profile.id}-fused", hardware=profile.id, engine="fused", source="made up", date="2026-11-22",
        kernels=fits,
    )  # fmt: skip
    return document.with_residuals(residuals or {}), profile


def typical(key: Key) -> dict[str, float]:
    """Return the values that the form of a kernel family starts from."""
    return named(form_of(key[0], key[1]), key[1]).typical


def products(count: int, seed: int = 0, most: float = 13.0) -> Gemm:
    """Return products of sizes spread evenly over their logarithm."""
    draw = np.random.default_rng(seed)
    m, n, k = (np.round(2 ** draw.uniform(low, most, count)) for low in (0, 6, 6))
    return Gemm(m=m, n=n, k=k, dtype="bf16")


def measured(
    operation: Gemm, where: Board, values: Mapping[str, float], noise: float = 0.05, seed: int = 1, form: Form = GEMM
) -> Rows:
    """Return rows that follow a form with log-normal noise; each is a shape of its own."""
    times = np.asarray(form.seconds(operation, where, values))
    times = times * np.random.default_rng(seed).lognormal(sigma=noise, size=times.shape)
    return Rows(operation, where, times, np.arange(len(times)))
