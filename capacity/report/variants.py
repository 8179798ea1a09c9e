"""Plans side by side: one column a variant, one row a measure, each with its change against the first, the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from capacity.plan import Option, Plan
from capacity.report import figures
from capacity.report.cells import Cell, Column, Missing, Number, Row, Table, finite, shown
from capacity.report.comparison import Change

NOT_COMPARED = "not compared"
INFEASIBLE = "no option is feasible"
MEASURES = (
    Column("devices", "Serving devices", "whole"),
    Column("latency_quantile_s", "Latency at peak, at the objective's percentile", "seconds"),
    Column("latency_median_s", "Latency at peak, median", "seconds"),
    Column("usd_per_month", "Cost [USD/month]", "usd"),
    Column("p10_usd_per_month", "P10 [USD/month]", "usd"),
    Column("p90_usd_per_month", "P90 [USD/month]", "usd"),
    Column("usd_per_thousand_requests", "USD per 1,000 requests", "usd"),
    Column("peak_rate_per_s", "Requests at peak", "per second"),
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A plan under a name, and the option of it that is compared.

    Attributes
    ----------
    option
        None where there is none: `reason` says why.
    """

    name: str
    plan: Plan
    option: Option | None
    reason: str = ""

    @classmethod
    def of(cls, name: str, plan: Plan, hardware: str = "") -> Variant:
        """Return a plan's option on `hardware`, or its best one."""
        if not hardware:
            return cls(name, plan, plan.best, "" if plan.best else INFEASIBLE)
        option = next((option for option in plan.options if option.hardware == hardware), None)
        return cls(name, plan, option, "" if option else NOT_COMPARED)


def bill(variant: Variant) -> Mapping[str, Number] | Missing:
    """Return USD per month by group of a variant, or why it has no bill."""
    option = variant.option
    if option is None:
        return Missing(variant.reason)
    if option.cost is None or not figures.priced(option):
        return Missing(figures.INFEASIBLE if option.cost is None else figures.NO_PRICE)
    return figures.groups(option.cost)


def measured(variant: Variant) -> Mapping[str, Number]:
    """Return every measure of a variant, a missing one as its reason."""
    option = variant.option
    if option is None:
        return {column.key: Missing(variant.reason) for column in MEASURES}
    return {
        "devices": figures.devices(option),
        "latency_quantile_s": finite(option.latency_quantile_s, "no fleet"),
        "latency_median_s": finite(option.latency_median_s, "no fleet"),
        "usd_per_month": figures.monthly_usd(option),
        "p10_usd_per_month": figures.monthly_usd_at(option, "p10"),
        "p90_usd_per_month": figures.monthly_usd_at(option, "p90"),
        "usd_per_thousand_requests": figures.usd_per_thousand_requests(option),
        "peak_rate_per_s": float(variant.plan.peak_rate),
    }


def _groups(variants: Sequence[Variant]) -> tuple[Column, ...]:
    bills = [bill(variant) for variant in variants]
    names = dict.fromkeys(name for groups in bills if not isinstance(groups, Missing) for name in groups)
    return tuple(Column(f"{name}_usd_per_month", f"Cost of {name} [USD/month]", "usd") for name in names)


def _numbers(variant: Variant, groups: Sequence[Column]) -> Mapping[str, Number]:
    """Return every measure and group of a variant; a group that a priced bill does not have costs nothing."""
    found = bill(variant)
    amounts: dict[str, Number] = {}
    for column in groups:
        name = column.key.removesuffix("_usd_per_month")
        amounts[column.key] = found if isinstance(found, Missing) else found.get(name, 0.0)
    return {**measured(variant), **amounts}


def side_by_side(variants: Sequence[Variant]) -> Table:
    """Return the measures of variants as texts for people, each with its change against the first variant."""
    groups = _groups(variants)
    numbers = [_numbers(variant, groups) for variant in variants]
    columns = [Column(f"variant_{place}", variant.name) for place, variant in enumerate(variants)]
    rows: list[Row] = [
        {"measure": "Hardware"}
        | {column.key: _hardware(variant) for column, variant in zip(columns, variants, strict=True)}
    ]
    for measure in (*MEASURES, *groups):
        cells: dict[str, Cell] = {"measure": measure.label}
        for column, mine in zip(columns, numbers, strict=True):
            against = None if mine is numbers[0] else numbers[0][measure.key]
            cells[column.key] = _said(measure, mine[measure.key], against)
        rows.append(cells)
    return Table("Side by side", (Column("measure", "Measure"), *columns), tuple(rows))


def _hardware(variant: Variant) -> Cell:
    if variant.option is None:
        return Missing(variant.reason)
    missed = figures.first_missed(variant.option)
    return f"{variant.option.name}{f': misses {missed}' if missed else ''}"


def _said(measure: Column, value: Number, against: Number | None) -> Cell:
    """Return a number with its change against the baseline's, as a person reads it."""
    if isinstance(value, Missing) or against is None:
        return value if isinstance(value, Missing) else measure.shown(value)
    change = Change("", against, value).fraction
    told = change.reason if isinstance(change, Missing) else shown(change, "fraction", signed=True)
    return f"{measure.shown(value)} ({told})"


def measures_table(variants: Sequence[Variant]) -> Table:
    """Return one row a variant, every measure as a number beside its change against the first variant."""
    groups = _groups(variants)
    numbers = [_numbers(variant, groups) for variant in variants]
    pairs = [(column, Column(f"{column.key}_change_fraction", f"{column.label}: change [%]", "fraction", signed=True))
             for column in (*MEASURES, *groups)]  # fmt: skip
    rows: list[Row] = []
    for variant, mine in zip(variants, numbers, strict=True):
        cells: dict[str, Cell] = {
            "variant": variant.name, "hardware": variant.option.hardware if variant.option else Missing(variant.reason),
        }  # fmt: skip
        for column, change in pairs:
            cells |= {
                column.key: mine[column.key],
                change.key: Change("", numbers[0][column.key], mine[column.key]).fraction,
            }
        rows.append(cells)
    named = (Column("variant", "Variant"), Column("hardware", "Hardware"))
    return Table("Variants", (*named, *(column for pair in pairs for column in pair)), tuple(rows))
