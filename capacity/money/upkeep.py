"""Lines of a bill beside the devices: storage, network, people, licenses, a support plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from capacity.money.lines import DRAWS, MONTH_S, Draws, Item, amount, given, quoted
from capacity.plan import JobPlan, PoolPlan
from capacity.spec.prices import Rates
from capacity.spec.scenario import Scenario


def storage_items(
    scenario: Scenario, pools: Sequence[PoolPlan], jobs: Sequence[JobPlan], rates: Rates, draws: Draws
) -> list[Item]:
    """Return the lines of logs, checkpoints, and of weights, vectors and features."""
    kept = scenario.storage
    vectors = max(map(_vector_bytes, pools), default=0.0)
    training = [job for job in jobs if job.kind == "training"]
    checkpoints = kept.checkpoints * sum(
        sum(job.memory_bytes.get(part, 0.0) for part in ("weights", "master weights", "optimizer states"))
        for job in training
    )
    logs = scenario.traffic.peak_rate * scenario.traffic.mean_to_peak * kept.log_retention * kept.log_bytes_per_request
    weights = sum(pool.memory_bytes.get("weights", 0.0) for pool in pools)
    kept_bytes = weights + vectors * kept.vector_copies + kept.features
    slow, fast = rates.object_storage, rates.block_storage
    log = amount("storage", "request logs", logs / 1e9, "GB-month", "assumed", "rate × retention × bytes a request")
    saved = amount("storage", "checkpoints", checkpoints / 1e9, "GB-month", "calibrated", f"{kept.checkpoints} copies")
    live = amount(
        "storage", "weights, vectors, features", kept_bytes / 1e9, "GB-month", "calibrated",
        f"weights + {kept.vector_copies} × vectors + features",
    )  # fmt: skip
    return [quoted(log, slow, draws), quoted(saved, slow, draws), quoted(live, fast, draws)]


def _vector_bytes(pool: PoolPlan) -> float:
    """Return the bytes of a catalogue's vectors, whose parts lie on the devices of a replica."""
    return pool.memory_bytes.get("catalogue vectors", 0.0) * max(pool.devices_per_replica, 1.0)


def network_items(scenario: Scenario, rates: Rates, draws: Draws) -> list[Item]:
    """Return the lines of bytes that leave the cloud and of those that cross zones."""
    requests = scenario.traffic.peak_rate * scenario.traffic.mean_to_peak * MONTH_S
    sent = requests * scenario.network.response_bytes / 1e9
    items = [
        quoted(amount("network", "egress", sent, "GB", "assumed", "requests × response bytes"), rates.egress, draws)
    ]
    crossing = sent * scenario.network.cross_zone_share
    if crossing:
        crossed = amount("network", "cross-zone", crossing, "GB", "assumed", "share of egress")
        items.append(quoted(crossed, rates.cross_zone, draws))
    return items


def people_items(scenario: Scenario, rates: Rates, draws: Draws) -> list[Item]:
    """Return the line of engineers, if any work is said."""
    hours = scenario.people.engineer_hours_per_month
    if not hours:
        return []
    work = amount("people", "engineers", hours, "hours", "assumed", "hours a month × loaded rate")
    return [quoted(work, rates.engineer, draws)]


def software_items(scenario: Scenario, devices: Sequence[Item], rates: Rates, draws: Draws) -> list[Item]:
    """Return the line of licenses that the scenario asks for: by the month, or for every device-hour of `devices`."""
    asked = scenario.pricing.software
    if asked is None:
        return []
    if asked.per_month is not None:
        return [given(amount("software", "licenses", 1.0, "months", "assumed", "USD a month"), asked.per_month)]
    hours = sum(item.quantity for item in devices)
    line = amount("software", "licenses", hours, "device-hours", "assumed", "every device-hour that is paid")
    line = replace(line, quantity_draws=sum((item.quantity_draws for item in devices), start=np.zeros(DRAWS)))
    if asked.per_device_hour is not None:
        return [given(line, asked.per_device_hour)]
    return [quoted(line, rates.software, draws)]


SUPPORTED = ("devices", "storage", "network")
"""Groups whose amount a support plan takes a share of."""


def support_items(scenario: Scenario, items: Sequence[Item], rates: Rates, draws: Draws) -> list[Item]:
    """Return the line of the support plan that the scenario asks for; no price where a part of its base has none."""
    asked = scenario.pricing.support
    if asked is None:
        return []
    base = [item for item in items if item.group in SUPPORTED]
    priced = [item for item in base if item.price is not None]
    usd = sum(item.quantity * (item.price or 0.0) for item in priced)
    line = amount("support", "support plan", usd, "USD", "assumed", f"share of {', '.join(SUPPORTED)}")
    if len(priced) < len(base):
        return [replace(line, flags=("no price of all that it is a share of",))]
    line = replace(line, quantity_draws=sum((item.draws for item in priced), start=np.zeros(DRAWS)))
    return [quoted(line, rates.support, draws) if asked.share is None else given(line, asked.share)]
