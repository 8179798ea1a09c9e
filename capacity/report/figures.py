"""The few numbers of a report that no record holds: totals that know their gaps, ranges, gaps to a limit."""

from __future__ import annotations

import math
from typing import Literal

from capacity.plan import Cost, CostLine, Option, Plan, Violation
from capacity.report.cells import Missing, Number, finite, shown
from capacity.units import text

"""Cost group without which a total says nothing."""
NO_PRICE = "no price"
INFEASIBLE = "infeasible"
End = Literal["p10", "p90"]


def priced(option: Option) -> bool:
    """Return whether the devices of an option have a price, so that its total means something."""
    return option.cost is not None and option.cost.complete


def monthly_usd(option: Option) -> Number:
    """Return the total of an option [USD/month]; missing where its devices have no price."""
    return _of_cost(option, None if option.cost is None else option.cost.usd)


def monthly_usd_at(option: Option, end: End) -> Number:
    """Return the P10 or P90 of the total of an option [USD/month]."""
    cost = option.cost
    return _of_cost(option, None if cost is None else cost.p10_usd if end == "p10" else cost.p90_usd)


def usd_per_thousand_requests(option: Option) -> Number:
    """Return the total of an option over its requests [USD per 1,000 requests]."""
    return _of_cost(option, None if option.cost is None else option.cost.usd_per_thousand_requests)


def _of_cost(option: Option, value: float | None) -> Number:
    if option.cost is None:
        return Missing(INFEASIBLE)
    return finite(value, NO_PRICE) if priced(option) else Missing(NO_PRICE)


def against_best(plan: Plan, option: Option) -> Number:
    """Return how much more an option costs than the best one, as a share of the best one's cost."""
    best = Missing("no feasible option") if plan.best is None else monthly_usd(plan.best)
    mine = monthly_usd(option)
    if isinstance(mine, Missing):
        return mine
    if isinstance(best, Missing):
        return Missing(f"best: {best.reason}")
    return mine / best - 1 if best > 0 else Missing("the best costs nothing")


def groups(cost: Cost) -> dict[str, Number]:
    """Return USD per month by group, in the order of the bill; missing where a line of the group has no price."""
    found: dict[str, Number] = {}
    for line in cost.lines:
        so_far = found.get(line.group, 0.0)
        if isinstance(so_far, Missing):
            continue
        usd = line_usd(line)
        found[line.group] = Missing(f"{NO_PRICE} for {line.name}") if isinstance(usd, Missing) else so_far + usd
    return found


def line_usd(line: CostLine) -> Number:
    """Return the amount of a cost line [USD/month]."""
    return finite(line.usd, NO_PRICE)


def devices(option: Option) -> Number:
    """Return the serving devices of an option, spares included."""
    return option.devices if option.pools else Missing("no fleet")


def devices_at(option: Option, end: End) -> Number:
    """Return the serving devices, spares included, if the step time were at its P10 or P90."""
    count = 0
    for pool in option.pools:
        replicas = pool.replicas_p10 if end == "p10" else pool.replicas_p90
        if replicas is None:
            return Missing("objective missed")
        count += math.ceil((replicas + pool.spare_replicas) * pool.devices_per_replica)
    return count if option.pools else Missing("no fleet")


def latency_at_p90(option: Option) -> Number:
    """Return the latency at the objective's percentile if the step time were at its P90, with the same fleet [s]."""
    if option.latency_quantile_p90_s is None:
        return Missing("no fleet")
    return finite(option.latency_quantile_p90_s, "saturated")


def over_limit(violation: Violation) -> Number:
    """Return by how much a constraint is missed, as a share of what is allowed."""
    reachable = math.isfinite(violation.needed) and math.isfinite(violation.allowed)
    return violation.needed / violation.allowed - 1 if reachable and violation.allowed > 0 else Missing("no number")


def missed(violation: Violation) -> str:
    """Return a violation in words: the constraint, the best achievable, what is allowed, and the gap.

    Examples
    --------
    >>> missed(Violation(where="pool a", constraint="step", needed=0.05, allowed=0.02, dimension="seconds"))
    'step in pool a: best achievable 50 ms, allowed 20 ms (30 ms too much, 2.5 × the limit)'
    """
    constraint = " ".join(violation.constraint.split())
    if math.isnan(violation.needed):
        return constraint
    allowed = text(violation.allowed, violation.dimension)
    start = f"{constraint} in {violation.where}: best achievable "
    if math.isinf(violation.needed):
        return f"{start}none at any size, allowed {allowed}"
    gap = f"{text(violation.needed - violation.allowed, violation.dimension)} too much"
    share = over_limit(violation)
    times = "" if isinstance(share, Missing) else f", {text(1 + share, 'count')} × the limit"
    return f"{start}{text(violation.needed, violation.dimension)}, allowed {allowed} ({gap}{times})"


def first_missed(option: Option) -> str:
    """Return the first constraint an option misses in words, and how many more there are; empty when feasible."""
    if option.feasible:
        return ""
    more = len(option.violations) - 1
    return missed(option.violations[0]) + (f"; and {more} more" if more else "")


def month_text(option: Option) -> str:
    """Return what an option costs, as a person reads it."""
    usd = monthly_usd(option)
    return shown(usd, "usd") + ("" if isinstance(usd, Missing) else " a month")
