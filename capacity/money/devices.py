"""Lines of a bill that are devices: hours that are rented, or devices that are owned and what keeps them running."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from capacity.money import purchase, spot
from capacity.money.lines import DRAWS, HOURS, Z10, Array, Draws, Item, amount, given, quoted
from capacity.money.prices import PriceRange
from capacity.plan import JobPlan, PoolPlan
from capacity.spec.buying import GPU_TCO
from capacity.spec.hardware import Hardware
from capacity.spec.prices import Rates
from capacity.spec.scenario import Pricing

IDLE_SHARE = 0.2
"""Power of an idle device ÷ its limit, where the profile does not say (assumed)."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is paid for: pools and jobs on one device, how it is bought, and its price.

    Attributes
    ----------
    shares
        Of the jobs on owned devices, by name; empty where hours are rented.
    mean_to_peak
        Mean rate ÷ peak rate: how much of a pool's load at the peak it has all month [1].
    """

    hardware: Hardware
    buying: Pricing
    price: PriceRange | None
    pools: Sequence[PoolPlan]
    jobs: Sequence[JobPlan]
    shares: dict[str, purchase.Share] = field(default_factory=dict)
    mean_to_peak: float = 1.0

    @classmethod
    def of(
        cls, hardware: Hardware, buying: Pricing, price: PriceRange | None, pools: Sequence[PoolPlan],
        jobs: Sequence[JobPlan], mean_to_peak: float = 1.0,
    ) -> Fleet:  # fmt: skip
        """Return the fleet, with the devices that its jobs share where they are owned."""
        lasting = [job for job in jobs if job.kind != "rollout" and float(job.device_hours_per_month.value) > 0]
        shares = purchase.shares(lasting) if buying.term == "purchase" else {}
        return cls(hardware, buying, price, pools, jobs, shares, mean_to_peak)

    @property
    def owned(self) -> bool:
        """Whether devices are bought."""
        return self.buying.term == "purchase"

    @property
    def owned_devices(self) -> float:
        """Devices that are bought: those of pools, and those that jobs need at once."""
        return sum(pool.devices for pool in self.pools) + sum(share.charged for share in self.shares.values())

    def items(self, draws: Draws) -> list[Item]:
        """Return a line for each pool and each job."""
        items = [self._pool(pool, draws) for pool in self.pools]
        return items + [self._job(job, draws) for job in self.jobs]

    def _priced(self, draws: Draws) -> tuple[float | None, Array, str, tuple[str, ...]]:
        price = self.price
        if price is None:
            return None, np.zeros(DRAWS), "no price in any table", ("no price",)
        drawn = draws.price("device", price.low, price.usd_per_device_hour, price.high)
        dates = sorted({row.date for row in price.rows})
        providers = ", ".join(sorted({row.provider for row in price.rows})[:4])
        source = f"median of {len(price.rows)} offers ({providers}), {dates[0]} to {dates[-1]}"
        return price.usd_per_device_hour, drawn, source, price.flags

    def _how(self) -> str:
        if not self.owned:
            return self.buying.term
        own = self.buying.ownership
        host = f"{own.host_share:.0%} host" if own.host is None else f"{own.host:,.0f} USD host"
        return f"purchase: price + {host} − {own.residual:.0%} after {own.years:g} years at {own.interest:.1%} a year"

    def _pool(self, pool: PoolPlan, draws: Draws) -> Item:
        value, drawn, source, flags = self._priced(draws)
        spare, each = pool.spare_replicas, pool.devices_per_replica
        sigma = float(pool.service.log_sigma)
        p10 = pool.replicas_p10 or max(1, round(pool.replicas * np.exp(-Z10 * sigma)))
        p90 = pool.replicas_p90 or max(1, round(pool.replicas * np.exp(Z10 * sigma)))
        replicas = np.interp(draws.time, [-Z10, 0.0, Z10], [p10, pool.replicas, p90])
        autoscaled = pool.paid_replicas is not None and not self.owned
        paid = pool.paid_replicas if pool.paid_replicas is not None and not self.owned else pool.replicas
        scaled = f" of up to {pool.replicas}, autoscaled" if autoscaled else ""
        held = (np.ceil(replicas) * paid / pool.replicas + spare) * each
        held = held if autoscaled else np.ceil(held)  # slices are paid as whole devices
        if pool.replicas_p90 is None:
            flags = (*flags, "objective missed if the step time is at its P90")
        if self.buying.term == "spot":
            flags = (*flags, spot.pool_flag(pool, self.buying.spot))
        return Item(
            group="devices", name=f"serving {pool.name}", unit="device-hours",
            quantity=(pool.devices if self.owned else pool.paid_devices) * HOURS,
            quantity_draws=held * HOURS, price=value, price_draws=drawn, basis=pool.service.basis, source=source,
            flags=flags,
            formula=f"({paid:g}{scaled} + {spare} spare) × {each} {self.hardware.name} × {HOURS:g} h, {self._how()}",
        )  # fmt: skip

    def _job(self, job: JobPlan, draws: Draws) -> Item:
        value, drawn, source, flags = self._priced(draws)
        hours = job.device_hours_per_month
        quantity, spread = float(hours.value), np.exp(draws.time * float(hours.log_sigma))
        when = f"{float(job.duration.value) / 3600:.3g} h every {job.every_s / 86400:.3g} d"
        if job.name in self.shares:
            share = self.shares[job.name]
            quantity, spread = share.charged * HOURS, np.ones(DRAWS)
            when = f"{when}; its part of {share.devices} owned ones, busy {share.busy:.0%} with {', '.join(share.jobs)}"
        if self.buying.term == "spot" and job.kind != "rollout":
            flags = (*flags, spot.job_flag(job, self.buying.spot))
        return Item(
            group="devices", name=job.name, quantity=quantity, unit="device-hours", quantity_draws=quantity * spread,
            price=value, price_draws=drawn, basis=hours.basis, source=source, flags=flags,
            formula=f"{job.kind}: {job.devices} {self.hardware.name} for {when}, {self._how()}",
        )  # fmt: skip

    def upkeep(self, draws: Draws) -> list[Item]:
        """Return the lines of owned devices besides their price: room and maintenance; none where hours are rented."""
        if not self.owned:
            return []
        own, devices, power = self.buying.ownership, self.owned_devices, self.hardware.power
        room = amount("ownership", "colocation", 0.0, "kW-months", "assumed", "the profile states no power")
        if power is not None:
            kw = devices * power.value * own.system_power / 1000
            formula = f"{devices:g} devices × {power.value:g} W × {own.system_power:g} system ÷ device power"
            room = given(amount("ownership", "colocation", kw, "kW-months", "assumed", formula), own.colocation)
            room = room if "colocation" in own.model_fields_set else replace(room, source=GPU_TCO)
        assumed = "" if "support_share" in own.model_fields_set else " (assumed)"
        formula = f"{own.support_share:.1%}{assumed} a year of the price of device and host"
        kept = amount("ownership", "maintenance", devices, "device-months", "assumed", formula)
        return [room, self._maintained(kept, draws)]

    def _maintained(self, item: Item, draws: Draws) -> Item:
        price, own = self.price, self.buying.ownership
        if price is None:
            return item
        per_usd = purchase.capital_month(1.0, own) / HOURS
        month = own.support_share / 12 / per_usd
        _, drawn, source, _ = self._priced(draws)
        return replace(given(item, price.usd_per_device_hour * month), price_draws=drawn * month, source=source)

    def energy_kwh(self, rates: Rates) -> float | None:
        """Return wall energy a month [kWh]: (hours held × idle power + hours worked × the power that work adds) × PUE.

        A pool works its load at the peak × mean ÷ peak rate; a job on idle devices of serving adds its work to theirs.
        Owned devices idle where they do not work, and their hosts' power is counted; of rented ones neither is.
        """
        watts = powers(self.hardware)
        if watts is None:
            return None
        idle_w, more_w = watts
        held = sum(pool.devices if self.owned else pool.paid_devices for pool in self.pools) * HOURS
        worked = sum(pool.busy_devices for pool in self.pools) * self.mean_to_peak * HOURS
        hours = sum(float(job.device_hours_per_month.value) for job in self.jobs)
        free = sum(job.free_device_hours_per_month for job in self.jobs)
        owned = sum(share.charged for share in self.shares.values()) * HOURS
        watt_hours = (held + max(owned, hours)) * idle_w + (worked + hours + free) * more_w
        host = self.buying.ownership.system_power if self.owned else 1.0
        return watt_hours / 1000 * host * rates.power_usage_effectiveness.value


def powers(hardware: Hardware) -> tuple[float, float] | None:
    """Return the power of an idle device and what it takes more at work [W]; None where the profile knows none."""
    if hardware.power is None:
        return None
    idle_w = hardware.idle_power.value if hardware.idle_power else IDLE_SHARE * hardware.power.value
    return idle_w, hardware.power.value - idle_w


def energy_item(kwh: float, fleet: Fleet, rates: Rates, draws: Draws) -> Item:
    """Return the line of electricity."""
    host = f" × {fleet.buying.ownership.system_power:g} system ÷ device power" if fleet.owned else ""
    formula = f"(idle power + power × mean load) × hours × PUE {rates.power_usage_effectiveness.value:g}{host}"
    return quoted(amount("energy", "electricity", kwh, "kWh", "assumed", formula), rates.electricity, draws)
