"""The best option's bill as a FOCUS 1.2 dataset: what cost tools read beside the bills of cloud providers.

One row is one cost line of one month. A sum over the rows is the plan's total, so only the best option is written; name
the hardware of another to plan for that one alone. Nobody has billed these rows: provider, publisher and issuer say so.

References
----------
FinOps Open Cost and Usage Specification 1.2, https://focus.finops.org/focus-specification/v1-2: columns, allowed
values, and the formats of dates, numbers, units and nulls.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from datetime import date
from decimal import Decimal

from capacity.plan import CostLine, Option, Plan
from capacity.report import figures, json_report
from capacity.report.csv_report import neutral

FORECAST = "capacity-planner (forecast)"
"""Who provides, publishes and bills: a plan, not an invoice."""
Value = str | float | None
COLUMNS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart",
    "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceId", "InvoiceIssuerName", "ListCost",
    "ListUnitPrice", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory",
    "ServiceName", "ServiceSubcategory", "SkuId", "SkuPriceId",
    "x_PlanVersion", "x_Scenario", "x_Changes", "x_Hardware", "x_Group", "x_Line", "x_P10Cost", "x_P90Cost", "x_Basis",
    "x_Formula", "x_PriceSource", "x_Doubts", "x_Missing",
)  # fmt: skip
"""FOCUS columns by name, then ours."""
SERVICES = {
    "devices": ("Compute", "Virtual Machines"),
    "storage": ("Storage", "Other (Storage)"),
    "network": ("Networking", "Other (Networking)"),
}
"""ServiceCategory and ServiceSubcategory of a cost group; energy and people are none of the categories."""
UNITS = {
    "device-hours": "Device-Hours", "hours": "Hours", "GB-month": "GB-Months", "kWh": "Kilowatt-Hours",
    "device-months": "Device-Months", "kW-months": "Kilowatt-Months", "months": "Months", "USD": "Dollars",
}  # fmt: skip
"""Units as the Unit Format writes them; others (GB) are so already."""
ASCII = str.maketrans({"×": "x", "÷": "/", "−": "-", "–": "-", "→": "->", "≤": "<=", "≥": ">=", "·": "*"})
"""Signs of our formulas in `ChargeDescription`, which must be ASCII; `x_Formula` keeps them."""


def render(plan: Plan) -> str:
    """Return the bill of the best option as CSV with FOCUS 1.2 columns: the header alone where no option is feasible.

    A line without a price has empty costs and says why in `x_Missing`. FOCUS lets no cost be null, and no number that
    we could write there would be true.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    best = plan.best
    if best is not None and best.cost is not None:
        version = hashlib.sha256(json_report.dumps(plan).encode()).hexdigest()[:12]
        for line in best.cost.lines:
            row = {**_account(plan), **_charge(best, line), **_custom(plan, best, line), "x_PlanVersion": version}
            writer.writerow([_field(row[column]) for column in COLUMNS])
    return out.getvalue()


def _account(plan: Plan) -> Mapping[str, Value]:
    start, end = month_of(date.fromisoformat(plan.date))
    return {
        "BillingAccountId": plan.scenario,
        "BillingAccountName": plan.title,
        "BillingCurrency": "USD",
        "BillingPeriodStart": start,
        "BillingPeriodEnd": end,
        "ChargePeriodStart": start,
        "ChargePeriodEnd": end,
        "InvoiceId": None,
        "InvoiceIssuerName": FORECAST,
        "ProviderName": FORECAST,
        "PublisherName": FORECAST,
    }


def _charge(option: Option, line: CostLine) -> Mapping[str, Value]:
    category, subcategory = SERVICES.get(line.group, ("Other", "Other (Other)"))
    sku = f"{option.hardware}/{line.group}/{line.name}"
    return {
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"{line.name}: {line.formula}".translate(ASCII),
        "ChargeFrequency": "Usage-Based",
        **dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), line.usd),
        **dict.fromkeys(("ContractedUnitPrice", "ListUnitPrice"), line.unit_price_usd),
        "PricingQuantity": line.quantity,
        "PricingUnit": UNITS.get(line.unit, line.unit),
        "ServiceCategory": category,
        "ServiceSubcategory": subcategory,
        "ServiceName": option.name if line.group == "devices" else line.name,
        "SkuId": sku,
        "SkuPriceId": sku,
    }


def _custom(plan: Plan, option: Option, line: CostLine) -> Mapping[str, Value]:
    return {
        "x_Scenario": plan.scenario,
        "x_Changes": "; ".join(plan.changes),
        "x_Hardware": option.hardware,
        "x_Group": line.group,
        "x_Line": line.name,
        "x_P10Cost": line.p10_usd,
        "x_P90Cost": line.p90_usd,
        "x_Basis": line.basis,
        "x_Formula": line.formula,
        "x_PriceSource": line.source,
        "x_Doubts": "; ".join(line.flags),
        "x_Missing": figures.NO_PRICE if line.usd is None else None,
    }


def month_of(day: date) -> tuple[str, str]:
    """Return start and end, exclusive, of the first calendar month that begins on `day` or later, in UTC.

    Examples
    --------
    >>> month_of(date(2026, 11, 22))
    ('2026-12-01T00:00:00Z', '2027-01-01T00:00:00Z')
    >>> month_of(date(2026, 11, 1))
    ('2026-11-01T00:00:00Z', '2026-12-01T00:00:00Z')
    """
    start = day if day.day == 1 else _next_month(day)
    return _moment(start), _moment(_next_month(start))


def _next_month(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


def _moment(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


def _field(value: Value) -> str:
    """Return a field: nothing for null, a number without exponent, a text that no spreadsheet runs as a formula."""
    if value is None:
        return ""
    if isinstance(value, str):
        return neutral(value)
    return format(Decimal(repr(float(value))), "f")
