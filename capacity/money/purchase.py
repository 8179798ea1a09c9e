"""Devices bought: their price spread over their life by the textbook annuity, and what they cost beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median

from capacity.errors import CapacityError
from capacity.money.lines import HOURS
from capacity.money.price_tables import purchase_prices
from capacity.money.prices import ANYWHERE, PriceRange, doubts, price_range, usable
from capacity.plan import JobPlan
from capacity.spec.buying import Ownership
from capacity.spec.scenario import Pricing

MONTHS_OF_A_YEAR = 12


def annuity(usd: float, rate: float, periods: float) -> float:
    """Return the equal payment at the end of each period that repays an amount with interest [USD].

    A = P·i ÷ (1 − (1 + i)^−n); without interest P ÷ n (Brealey, Myers, Allen, Principles of Corporate Finance, chapter
    "How to Calculate Present Values").

    Parameters
    ----------
    usd
        Amount P that is bound at the start [USD].
    rate
        Interest i of a period [1].
    periods
        Payments n.

    Raises
    ------
    CapacityError
        For no period, or interest of −100 % or less.

    Examples
    --------
    1000 USD at 10 % over two periods: 576.19 now grow to nothing, 1000 × 1.1 − 576.19 = 523.81 = 576.19 ÷ 1.1.

    >>> round(annuity(1000, 0.1, 2), 2), annuity(1200, 0, 12)
    (576.19, 100.0)
    """
    if periods <= 0 or rate <= -1:
        raise CapacityError(f"annuity: {periods:g} periods at {rate:g}; allowed: above 0 periods, a rate above -1")
    return usd / periods if rate == 0 else usd * rate / (1 - (1 + rate) ** -periods)


def capital_month(usd: float, own: Ownership) -> float:
    """Return what a month of an owned thing costs that sells for `own.residual` of its price in the end [USD].

    The annuity of P − residual × P ÷ (1 + interest)^years, by months of the interest (1 + interest)^(1 ÷ 12) − 1.

    Examples
    --------
    Without interest, 48,000 USD that are worth 9,600 after four years cost 38,400 ÷ 48 a month.

    >>> round(capital_month(48_000, Ownership(interest=0, residual=0.2, years=4)), 9)
    800.0
    """
    worth = own.residual * usd / (1 + own.interest) ** own.years
    rate = (1 + own.interest) ** (1 / MONTHS_OF_A_YEAR) - 1
    return annuity(usd - worth, rate, own.years * MONTHS_OF_A_YEAR)


def book_usd(month_usd: float, months_left: int, own: Ownership) -> float:
    """Return what a thing that costs `month_usd` a month is still worth [USD]: all its payments to come, and its sale.

    Σ A ÷ w^k over the months left + residual × price ÷ w^months, w = (1 + interest)^(1 ÷ 12).

    Examples
    --------
    48,000 USD without interest, 800 a month for four years, then sold for 9,600: halfway 28,800 are left.

    >>> own = Ownership(interest=0, residual=0.2, years=4)
    >>> book_usd(800.0, 48, own), book_usd(800.0, 24, own), book_usd(800.0, 0, own)
    (48000.0, 28800.0, 9600.0)
    """
    worth = float((1 + own.interest) ** (1 / MONTHS_OF_A_YEAR))
    price = month_usd / capital_month(1.0, own)
    return sum(month_usd / worth**k for k in range(1, months_left + 1)) + own.residual * price / worth**months_left


def installed_usd(price_usd: float, own: Ownership) -> float:
    """Return the price of a device with its part of host, network and rack [USD].

    Examples
    --------
    >>> installed_usd(30_000, Ownership(host_share=0.5)), installed_usd(30_000, Ownership(host=8_000))
    (45000.0, 38000.0)
    """
    return price_usd * (1 + own.host_share) if own.host is None else price_usd + own.host


def owned_usd(units: int, unit_usd: float, kwh: float, usd_per_kwh: float) -> float:
    """Return the price of systems and of all the energy they take [USD], without interest: units × price + kWh × price.

    Examples
    --------
    >>> owned_usd(2, 150_000, 10_000, 0.1)
    301000.0
    """
    return units * unit_usd + kwh * usd_per_kwh


def purchase_range(hardware: str, own: Ownership, today: date) -> PriceRange | None:
    """Return the annuity of a device and its host for an hour of a month, or None when no table holds its price.

    Rows count as in `price_range`; sellers and regions of device-hours narrow nothing here. Room, maintenance and
    energy are not in it.

    Parameters
    ----------
    hardware
        Profile id.
    today
        Day from which the age of a price is counted.
    """
    rows, flags = usable([row for row in purchase_prices() if row.hardware == hardware])
    if not rows:
        return None
    middle = median(row.usd_per_device for row in rows)
    low, high = min(row.low or row.usd_per_device for row in rows), max(row.high or row.usd_per_device for row in rows)
    assumed = [name for name in ("years", "residual", "interest") if name not in own.model_fields_set]
    flags += [*doubts(rows, today), "room, maintenance and energy apart"]
    flags += [f"assumed: {', '.join(assumed)} of ownership"] if assumed else []
    hour, least, most = (capital_month(installed_usd(usd, own), own) / HOURS for usd in (middle, low, high))
    return PriceRange(hardware, "purchase", ANYWHERE, hour, least, most, tuple(rows), tuple(flags))


def hourly(hardware: str, buying: Pricing, today: date) -> PriceRange | None:
    """Return the price of one device-hour however devices are bought, or None when no table holds one."""
    if buying.term == "purchase":
        return purchase_range(hardware, buying.ownership, today)
    return price_range(hardware, buying.term, buying.provider, buying.region, today=today)


@dataclass(frozen=True, slots=True)
class Share:
    """Owned devices that jobs run on one after another, and what of them one job is charged.

    Attributes
    ----------
    devices
        Devices of the group: those of its largest job.
    jobs
        Names of its jobs.
    busy
        Σ duration ÷ (the shorter of period and deadline) [1].
    charged
        Devices that this job is charged: its part of the device-time of the group.
    """

    devices: int
    jobs: tuple[str, ...]
    busy: float
    charged: float


def shares(jobs: Sequence[JobPlan]) -> dict[str, Share]:
    """Return for each job the owned devices that it needs at once, shared with jobs that fit beside it in time.

    Jobs, those with the most devices first, join the first group with time left: the sum of duration ÷ min(period,
    deadline) of preemptible jobs that the nearest deadline leads stays at or below 1, which suffices for all deadlines
    (Liu and Layland 1973, Journal of the ACM 20(1), 46-61). A group pays for the devices of its largest job all month.

    Examples
    --------
    See tests/test_purchase.py.
    """
    groups: list[list[JobPlan]] = []
    for job in sorted(jobs, key=lambda job: (-job.devices, job.name)):
        fitting = (group for group in groups if sum(map(_busy, group)) + _busy(job) <= 1)
        group = next(fitting, None)
        if group is None:
            groups.append([job])
        else:
            group.append(job)
    return {job.name: _share(job, group) for group in groups for job in group}


def _busy(job: JobPlan) -> float:
    return float(job.duration.value) / min(job.every_s, job.deadline_s)


def _share(job: JobPlan, group: Sequence[JobPlan]) -> Share:
    times = {other.name: other.devices * float(other.duration.value) / other.every_s for other in group}
    whole = sum(times.values())
    part = times[job.name] / whole if whole else 1 / len(group)
    return Share(group[0].devices, tuple(times), sum(map(_busy, group)), group[0].devices * part)
