"""MLPerf's Server scenario: the share of a saturated throughput that is left when the 99th percentile has a limit.

Queries arrive at random; the result is the largest rate at which 99 % of them are answered within the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from capacity.spec.hardware import Hardware
from capacity.timing.band import Estimate
from capacity.timing.form import Array
from capacity.timing.tables import column

LATE = math.log(100)
"""An exponential wait is longer than this many of its means in 1 % of the cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRule:
    """What one benchmark loses between the Offline and the Server scenario.

    Attributes
    ----------
    level
        Share left where neither the queue nor the host binds [1]: batches are not sorted by length, and steps are kept
        short.
    limit_s
        On the 99th percentile of the latency [s].
    batch
        Queries that wait for each other: the unit in which devices serve [1]. None where results do not show a queue.
    feed_rate
        Queries per second that the host hands to one device [1/s].
    cards_feed_rate
        Samples per second that the host hands to all its cards, where devices share its PCIe lanes [1/s].
    log_sigma
        Standard deviation of ln(measured/predicted), chips left out.
    """

    level: float
    limit_s: float = math.inf
    batch: float = 0.0
    feed_rate: float = math.inf
    cards_feed_rate: float = math.inf
    log_sigma: float

    def share(self, rate: Array | float, devices: Array | float, *, cards: bool = False) -> Array:
        """Return the Server throughput beside the Offline one [1].

        Parameters
        ----------
        rate
            Saturated throughput of one device [1/s].
        devices
            Devices that one queue feeds.
        cards
            Whether the devices reach each other and the host over PCIe only.

        Notes
        -----
        share = level / (1 + x) / √(1 + (rate/feed)²) · min(1, cards' feed/(rate · devices)).

        The wait is that of M/D/n with batches for customers, close to exponential with mean
        ρ/(1 − ρ) · batch/(2 · devices · rate) (Allen 1990, §5.3, and pooling). Its 99th percentile is the limit at
        ρ = 1/(1 + x) with x = ln 100 · batch/(2 · devices · rate · limit). Handing over and serving overlap; the root
        is the usual smooth minimum of the two rates.

        Examples
        --------
        >>> rule = ServerRule(level=0.9, limit_s=0.1, batch=8.0, log_sigma=0.1)
        >>> rule.share(500.0, np.array([1.0, 8.0])).round(3)  # x = 4.605 · 8 / (2 · 500 · 0.1) = 0.368 and an eighth
        array([0.658, 0.86 ])
        """
        together = np.asarray(rate) * devices
        waiting = LATE / 2 * self.batch / (together * self.limit_s)
        fed = np.minimum(1.0, self.cards_feed_rate / together) if cards else 1.0
        return np.asarray(self.level * fed / (1 + waiting) / np.sqrt(1 + (np.asarray(rate) / self.feed_rate) ** 2))


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


def scenario(sample: Estimate, name: str, family: str, rows: pd.DataFrame, hardware: Hardware) -> list[Estimate]:
    """Return each row's time of a sample [s] in a scenario, from that of a saturated device.

    Parameters
    ----------
    family
        Key of `RULES`.
    """
    if name != "Server":
        return [sample] * len(rows)
    rule, systems = RULES[family], devices(rows, hardware)
    shares = rule.share(1 / float(sample.value), systems, cards=cards(hardware))
    told = {
        share: sample.scaled(1 / share).widened("limit on the 99th percentile", rule.log_sigma)
        for share in set(shares.tolist())
    }
    return [told[share] for share in shares.tolist()]


RULES = {
    "bert": ServerRule(level=0.92, limit_s=0.13, batch=8.0, feed_rate=15400, log_sigma=0.08),
    "dlrm": ServerRule(level=0.919, cards_feed_rate=1.84e6, log_sigma=0.25),
    "dlrm-v2": ServerRule(level=0.962, feed_rate=2.7e5, log_sigma=0.06),
    "dlrm-v3": ServerRule(level=0.952, log_sigma=0.05),
    "gptj": ServerRule(level=0.965, log_sigma=0.1),
    "gptj-static": ServerRule(level=0.787, log_sigma=0.1),
    "llama2-70b": ServerRule(level=0.95, log_sigma=0.07),
    "llama3.1-8b": ServerRule(level=0.895, log_sigma=0.1),
    "llama3.1-405b": ServerRule(level=0.756, log_sigma=0.07),
    "mixtral-8x7b": ServerRule(level=0.952, log_sigma=0.15),
}  # fmt: skip
"""By benchmark, fitted by benchmarks/fit_submissions.py (the limit is MLPerf's); docs/explanation/mlperf.md tells the
errors. Only bert's results show a queue: the levels of the others hold for systems as fast as those submitted."""
