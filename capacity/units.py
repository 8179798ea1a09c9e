"""Text with units in, SI floats inside, text for people out. The only parser and the only formatter of quantities.

Inside the product every float is SI and carries its unit in its name (`_s`, `_bytes`, `_flop_per_s`, `_usd`).
GB is 10⁹ bytes and GiB is 2³⁰ bytes, always: reading one as the other is an error of 7.4 %.
"""

from __future__ import annotations

import math
import re

from capacity.errors import UnitError

_PREFIX = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_SMALL = {"m": 1e-3, "µ": 1e-6, "u": 1e-6, "n": 1e-9}

_TIME = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "day": 86400.0, "days": 86400.0, "week": 604800.0}
_TIME |= {"weeks": 604800.0, "month": 730 * 3600.0, "months": 730 * 3600.0, "year": 8760 * 3600.0, "hours": 3600.0}
_TIME |= {f"{prefix}s": factor for prefix, factor in _SMALL.items()}
_FLOP = {f"{p}{u}": f for p, f in _PREFIX.items() for u in ("FLOP", "OP")}
_BYTE = {f"{p}B": f for p, f in (_PREFIX | _BINARY).items()}
_POWER = {f"{p}W": f for p, f in _PREFIX.items()}
_ENERGY = {f"{p}J": f for p, f in _PREFIX.items()} | {f"{p}Wh": 3600 * f for p, f in _PREFIX.items()}
_COUNT = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_MONEY = {"USD": 1.0, "$": 1.0, "kUSD": 1e3, "MUSD": 1e6}


def _ratio(top: dict[str, float], bottom: dict[str, float]) -> dict[str, float]:
    return {f"{t}/{b}": ft / fb for t, ft in top.items() for b, fb in bottom.items()}


# dimension -> {unit text: factor to SI}. Money per energy and per storage keep the units budgets are written in.
DIMENSIONS: dict[str, dict[str, float]] = {
    "count": _COUNT,
    "fraction": {"": 1.0, "%": 0.01},
    "seconds": _TIME,
    "bytes": _BYTE,
    "bytes/s": _ratio(_BYTE, {"s": 1.0}),
    "FLOP/s": _ratio(_FLOP, {"s": 1.0}) | {f"{p}FLOPS": f for p, f in _PREFIX.items()},
    "FLOP": _FLOP,
    "hertz": {f"{p}Hz": f for p, f in _PREFIX.items()},
    "per second": _ratio(_COUNT | {"requests": 1.0, "req": 1.0, "items": 1.0, "1": 1.0}, _TIME) | {"rps": 1.0},
    "watts": _POWER,
    "joules": _ENERGY,
    "usd": _MONEY,
    "usd/hour": _ratio(_MONEY, {"h": 1.0, "hour": 1.0, "month": 730.0, "year": 8760.0}),
    "usd/month": _ratio(_MONEY, {"month": 1.0, "year": 12.0}),
    "usd/kWh": _ratio(_MONEY, {"kWh": 1.0, "MWh": 1e3}),
    "usd/kW-month": _ratio(_MONEY, {"kW-month": 1.0}),
    "usd/GB": _ratio(_MONEY, {"GB": 1.0, "TB": 1e3}),
    "usd/GB-month": _ratio(_MONEY, {"GB-month": 1.0, "TB-month": 1e3}),
    "kg/kWh": {"kg/kWh": 1.0, "g/kWh": 1e-3},
}
EXAMPLES = {
    "count": "10 M",
    "fraction": "30 % or 0.3",
    "seconds": "100 ms or 7 d",
    "bytes": "80 GB or 80 GiB",
    "bytes/s": "2039 GB/s",
    "FLOP/s": "312 TFLOP/s or 312e12",
    "FLOP": "1.2 GFLOP",
    "hertz": "1.41 GHz",
    "per second": "3000/s or 2 M/d",
    "watts": "400 W",
    "joules": "3 kWh",
    "usd": "25000 USD",
    "usd/hour": "3.43 USD/h",
    "usd/month": "12000 USD/month",
    "usd/kWh": "0.12 USD/kWh",
    "usd/kW-month": "200 USD/kW-month",
    "usd/GB": "0.09 USD/GB",
    "usd/GB-month": "0.023 USD/GB-month",
    "kg/kWh": "370 g/kWh",
}
LONGEST = 200
"""Characters of the longest text that is read as a quantity."""
_QUANTITY = re.compile(r"\s*\$?\s*([-+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\D.*?)?\s*")


def parse(value: object, dimension: str) -> float:
    """Return the SI float that `value` says.

    Parameters
    ----------
    value
        A number (already SI) or a text such as ``"312 TFLOP/s"``.
    dimension
        A key of `DIMENSIONS`.

    Raises
    ------
    UnitError
        When it is no finite number, or its unit is not one of the dimension's.

    Examples
    --------
    >>> parse("312 TFLOP/s", "FLOP/s") == parse("312e12", "FLOP/s") == 312e12
    True
    >>> parse("80 GiB", "bytes") / parse("80 GB", "bytes")
    1.073741824
    >>> parse("3000/s", "per second")
    3000.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UnitError(f"expected {_wanted(dimension)}, got {_shown(value)}")
    number, unit = (float(value), None) if not isinstance(value, str) else _split(value, dimension)
    factors = DIMENSIONS[dimension]
    if unit is None:
        factor = 1.0
    elif unit in factors:
        factor = factors[unit]
    else:
        raise UnitError(f"{_shown(value)} has no unit of {dimension}; write {_wanted(dimension)}")
    result = number * factor
    if not math.isfinite(result):
        raise UnitError(f"{_shown(value)} is not a finite number; write {_wanted(dimension)}")
    return result


def _split(text: str, dimension: str) -> tuple[float, str | None]:
    match = _QUANTITY.fullmatch(text) if len(text) <= LONGEST else None
    if match is None:
        raise UnitError(f"{_shown(text)} is not a quantity; write {_wanted(dimension)}")
    unit = (match[2] or "").strip() or None
    if unit is not None:
        unit = unit.replace(" ", "")
    return float(match[1].replace(",", "").replace("_", "")), unit


def _wanted(dimension: str) -> str:
    return f"a {dimension} quantity such as {EXAMPLES[dimension]}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


_SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "bytes": ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "bytes/s": ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")),
    "FLOP/s": ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1.0, "FLOP/s")),
    "FLOP": ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1.0, "FLOP")),
    "seconds": ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "count": ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k"), (1.0, "")),
    "per second": ((1e6, "M/s"), (1e4, "k/s"), (1.0, "/s"), (1 / 60, "/min"), (1 / 3600, "/h"), (1 / 86400, "/d")),
    "watts": ((1e6, "MW"), (1e3, "kW"), (1.0, "W")),
    "hertz": ((1e9, "GHz"), (1e6, "MHz"), (1.0, "Hz")),
}
_BASE = {
    "bytes": "B",
    "bytes/s": "B/s",
    "FLOP/s": "FLOP/s",
    "FLOP": "FLOP",
    "seconds": "s",
    "watts": "W",
    "hertz": "Hz",
}
SMALLEST_PLAIN, LARGEST_PLAIN = 1e-6, 1e15
"""Numbers outside are written as 1.23e+18: digits that nobody counts are noise."""
_SCALE_FACTOR = {("count", "k"): 1e3, ("per second", "k/s"): 1e3}


def text(value: float, dimension: str, digits: int = 3) -> str:
    """Return a quantity as a person reads it, in the largest unit that keeps it at or above 1.

    Beyond what any unit here reaches the number is in scientific form, never a row of zeros.

    Examples
    --------
    >>> text(0.0123, "seconds"), text(2.039e12, "bytes/s"), text(80e9, "bytes"), text(1e-20, "seconds")
    ('12.3 ms', '2.04 TB/s', '80 GB', '1e-11 ns')
    >>> text(0, "seconds"), text(49_400, "whole")
    ('0 s', '49,400')
    >>> text(0.25, "fraction"), text(1234.5, "usd"), text(3000, "per second")
    ('25 %', '$1,234', '3,000 /s')
    """
    if not math.isfinite(value):
        return "unlimited" if value > 0 else "unknown"
    if dimension == "fraction":
        return f"{_digits(100 * value, digits)} %"
    if dimension == "usd":
        return usd(value)
    if dimension == "whole":
        return f"{value:,.0f}"
    if value == 0:
        return f"0 {_BASE.get(dimension, '')}".strip()
    for scale, unit in _SCALES.get(dimension, ()):
        if abs(value) >= scale or scale == _SCALES[dimension][-1][0]:
            factor = _SCALE_FACTOR.get((dimension, unit), scale)
            return f"{_digits(value / factor, digits)} {unit}".strip()
    raise UnitError(f"no unit for {dimension}")


def usd(value: float) -> str:
    """Return dollars as budgets show them: cents below 100, whole dollars above.

    Examples
    --------
    >>> usd(0.0123), usd(12.5), usd(123456.7), usd(-5)
    ('$0.0123', '$12.50', '$123,457', '-$5.00')
    """
    sign, size = "-" if value < 0 else "", abs(value)
    if 0 < size < 0.1 or size >= LARGEST_PLAIN:
        return f"{sign}${size:.3g}"
    return f"{sign}${size:,.2f}" if size < 100 else f"{sign}${size:,.0f}"


def _digits(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    if not SMALLEST_PLAIN <= abs(value) < LARGEST_PLAIN:
        return f"{value:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)) + 1e-12))
    shown = f"{value:,.{decimals}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown
