"""MLPerf's Server scenario: the share of a saturated throughput that is left when the 99th percentile has a limit.

Queries arrive at random; the result is the largest rate at which 99 % of them are answered within the limit.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from capacity.spec.hardware import Hardware
from capacity.spec.steps import ServerLimit
from capacity.timing.band import Estimate
from capacity.timing.form import Array
from capacity.timing.tables import column

LATE = math.log(100)
"""An exponential wait is longer than this many of its means in 1 % of the cases."""


def share(rule: ServerLimit, rate: Array | float, systems: Array | float, *, hung: bool = False) -> Array:
    """Return the Server throughput beside the Offline one [1].

    Parameters
    ----------
    rate
        Saturated throughput of one device [1/s].
    systems
        Devices that one queue feeds.
    hung
        Whether the devices reach each other and the host over PCIe only.

    Notes
    -----
    share = level / (1 + x) / √(1 + (rate · feed)²) · min(1, 1/(rate · devices · cards' feed)).

    The wait is that of M/D/n with batches for customers, close to exponential with mean
    ρ/(1 − ρ) · batch/(2 · devices · rate) (Allen 1990, §5.3, and pooling). Its 99th percentile is the limit at
    ρ = 1/(1 + x) with x = ln 100 · batch/(2 · devices · rate · limit). Handing over and serving overlap; the root
    is the usual smooth minimum of the two rates.

    Examples
    --------
    >>> rule = ServerLimit(level=0.9, limit="100 ms", batch=8, log_sigma=0.1)
    >>> share(rule, 500.0, np.array([1.0, 8.0])).round(3)  # x = 4.605 · 8 / (2 · 500 · 0.1) = 0.368 and an eighth
    array([0.658, 0.86 ])
    """
    together = np.asarray(rate) * systems
    waiting = LATE / 2 * rule.batch / (together * (rule.limit or math.inf))
    fed = 1 / np.maximum(1.0, together * rule.cards_feed) if hung else 1.0
    return np.asarray(rule.level * fed / (1 + waiting) / np.sqrt(1 + (np.asarray(rate) * rule.feed) ** 2))


USUAL_DEVICES, USUAL_SOCKETS = 8, 2
"""Where a row does not say how many devices a system has; of hosts without any, sockets serve."""


def cards(hardware: Hardware) -> bool:
    """Tell boards that hang on PCIe, alone or bridged in pairs, from those on a fabric of their own."""
    link = hardware.link
    return hardware.kind == "gpu" and (link is None or "PCIe" in link.value.kind or "bridge" in link.value.kind)


def devices(rows: pd.DataFrame, hardware: Hardware) -> Array:
    """Return the devices of each row's system [1]."""
    usual = USUAL_SOCKETS if hardware.kind == "cpu" else USUAL_DEVICES
    given = column(rows, "devices") if "devices" in rows else np.zeros(len(rows))
    return np.where(given > 0, given, usual)


def scenario(sample: Estimate, name: str, rule: ServerLimit, rows: pd.DataFrame, hardware: Hardware) -> list[Estimate]:
    """Return each row's time of a sample [s] in a scenario, from that of a saturated device."""
    if name != "Server":
        return [sample] * len(rows)
    shares = share(rule, 1 / float(sample.value), devices(rows, hardware), hung=cards(hardware)).tolist()
    told = {
        part: sample.scaled(1 / part).widened("limit on the 99th percentile", rule.log_sigma) for part in set(shares)
    }
    return [told[part] for part in shares]
