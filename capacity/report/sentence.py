"""The answer in one sentence, and what it does not know, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from capacity.plan import Cost, JobPlan, Option, Plan, PoolPlan
from capacity.report import figures
from capacity.report.cells import Missing, shown
from capacity.units import text, usd

WIDE = 2.0
"""Ratio of the ends of a band from which it is worth a word."""
WEAK = ("projected", "datasheet", "assumed")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the sentence; a strong one is what a reader must not miss."""

    text: str
    strong: bool = False


NEAREST = 4
"""Infeasible options the sentence names, nearest to feasible first; the table has them all."""


def answer(plan: Plan) -> str:
    """Return the answer to `plan` in one sentence, as plain text."""
    return "".join(piece.text for piece in pieces(plan))


def pieces(plan: Plan) -> tuple[Piece, ...]:
    """Return the sentence in parts, so that each format can set off the strong ones in its own way."""
    best = plan.best
    return tuple(_infeasible(plan) if best is None else _feasible(plan, best))


def _question(plan: Plan) -> str:
    objective = f"{plan.objective_percentile} ≤ {text(plan.objective_latency_s, 'seconds')}"
    return f"To serve “{plan.title}” at {objective} for {text(plan.peak_rate, 'count')} requests/s at peak"


def _feasible(plan: Plan, best: Option) -> Iterator[Piece]:
    jobs = ", ".join(map(_job, best.jobs))
    yield Piece(f"{_question(plan)}{f' and to {jobs}' if jobs else ''} you need ")
    yield Piece(f"{text(best.devices, 'whole')} × {best.name}", strong=True)
    yield Piece(f" ({_fleet(best)}; {_range(best)}), ")
    yield from _cost(best)
    latency = "" if best.latency_quantile_s is None else text(best.latency_quantile_s, "seconds")
    yield Piece(
        f", bound by {best.bound}; expected {plan.objective_percentile} {latency}; {_next(plan)}. Basis: {best.basis}."
    )


def _job(job: JobPlan) -> str:
    devices = f"{text(job.devices, 'whole')} device{'' if job.devices == 1 else 's'}"
    verb = "train" if job.kind == "training" else "run"
    return (
        f"{verb} {job.name} every {text(job.every_s, 'seconds')} on {devices} "
        f"for {text(float(job.duration.value), 'seconds')}"
    )


def _fleet(option: Option) -> str:
    counts = [replicas_text(pool) for pool in option.pools]
    if len(counts) == 1:
        return counts[0]
    return "; ".join(f"{pool.name} {count}" for pool, count in zip(option.pools, counts, strict=True))


def replicas_text(pool: PoolPlan) -> str:
    """Return the replicas of a pool with their spares, and the devices of each where it takes several."""
    count = f"{text(pool.replicas, 'whole')} + {text(pool.spare_replicas, 'whole')} spare"
    return count if pool.devices_per_replica == 1 else f"({count}) × {text(pool.devices_per_replica, 'count')} devices"


def _range(option: Option) -> str:
    low, high = figures.devices_at(option, "p10"), figures.devices_at(option, "p90")
    if isinstance(high, Missing):
        return f"{shown(low, 'whole')} or more by the error of the step time: at its P90 no fleet meets the objective"
    if low == high:
        return "the same from P10 to P90 of the step time"
    return f"{shown(low, 'whole')}–{shown(high, 'whole')} by the error of the step time"


def _cost(option: Option) -> Iterator[Piece]:
    cost = option.cost
    if cost is None or not figures.priced(option):
        yield Piece("with ")
        yield Piece(f"no price for {option.name} in any table", strong=True)
        yield Piece(" for this term, seller and region")
        yield Piece(f" (the priced lines alone: {usd(cost.usd)} a month)" if cost and cost.usd else "")
        return
    yield Piece("which costs ")
    yield Piece(f"{usd(cost.usd)} a month (P10 {usd(cost.p10_usd)} – P90 {usd(cost.p90_usd)})", strong=True)
    yield Piece(f" without {', '.join(cost.missing)} (no price)" if cost.missing else "")


def _next(plan: Plan) -> str:
    if len(plan.options) == 1:
        return "nothing else was compared"
    second = plan.options[1]
    if not second.feasible:
        others = len(plan.options) - 2
        more = f"; and {text(others, 'count')} more option{'' if others == 1 else 's'}" if others else ""
        return f"no other option is feasible ({second.name}: {figures.first_missed(second)}{more})"
    price, share = figures.monthly_usd(second), figures.against_best(plan, second)
    more = "" if isinstance(share, Missing) else f" ({shown(share, 'fraction', digits=2, signed=True)})"
    at = "without a price" if isinstance(price, Missing) else f"at {usd(price)}"
    return f"the next best is {text(second.devices, 'whole')} × {second.name} {at}{more}"


def _infeasible(plan: Plan) -> Iterator[Piece]:
    yield Piece(f"{_question(plan)} ")
    yield Piece("no option is feasible" if plan.options else "no option was compared", strong=True)
    nearest = plan.options[:NEAREST]
    missed = "; ".join(f"{option.name} misses {figures.first_missed(option)}" for option in nearest)
    others = len(plan.options) - len(nearest)
    missed += f"; {others} more miss by more" if others else ""
    yield Piece(f": {missed}." if missed else ".")
    advice = dict.fromkeys(option.violations[0].advice for option in nearest)
    yield Piece("".join(f" What would help: {help}." for help in advice if help))
    bases = sorted({option.basis for option in plan.options})
    yield Piece(f" Basis: {', '.join(bases)}." if bases else "")


def energy(option: Option) -> str:
    """Return the energy and carbon of a month in words, and whether the bill has a line for it."""
    cost = option.cost
    if cost is None or cost.energy_kwh is None or cost.carbon_kg is None:
        return "energy: the profile states no power"
    billed = any(line.group == "energy" for line in cost.lines)
    paid = "on the bill" if billed else "included in the device price"
    return f"energy: {cost.energy_kwh:,.0f} kWh a month ({paid}), {cost.carbon_kg:,.0f} kg CO₂e; basis: assumed load"


def caveats(plan: Plan) -> tuple[str, ...]:
    """Return what `plan` does not know, each caveat with the name of its option."""
    return tuple(f"{option.name}: {caveat}" for option in plan.options for caveat in option_caveats(plan, option))


def option_caveats(plan: Plan, option: Option) -> tuple[str, ...]:
    """Return what `plan` does not know about one option: bases, what it takes for granted, bands, prices."""
    found = [*_bases(option), *_taken(option), *_bands(option), *_late(plan, option)]
    return (*found, *(_prices(option.cost) if option.cost else ()))


def _bases(option: Option) -> Iterator[str]:
    times = [(stage.name, stage.time.basis) for stage in option.stages]
    times += [(job.name, job.duration.basis) for job in option.jobs]
    weak = [f"{name} {basis}" for name, basis in times if basis in WEAK]
    if weak:
        yield f"times that nobody measured on this hardware: {', '.join(weak)}; efficiencies: {option.origin}"


def _taken(option: Option) -> Iterator[str]:
    return (stage.takes for stage in option.stages if stage.takes)


def _bands(option: Option) -> Iterator[str]:
    for pool in option.pools:
        low, high = float(pool.service.low), float(pool.service.high)
        if high >= WIDE * low:
            band = f"{text(low, 'seconds')} to {text(high, 'seconds')}"
            yield f"one batch of pool {pool.name} takes {band} (90 % band, a factor of {text(high / low, 'count', 2)})"
    for job in option.jobs:
        if float(job.duration.high) > job.deadline_s >= float(job.duration.value):
            longest, deadline = text(float(job.duration.high), "seconds"), text(job.deadline_s, "seconds")
            yield f"{job.name} takes up to {longest} (90 % band), later than its deadline of {deadline}"
    low_usd, high_usd = figures.monthly_usd_at(option, "p10"), figures.monthly_usd_at(option, "p90")
    if not isinstance(low_usd, Missing) and not isinstance(high_usd, Missing) and high_usd >= WIDE * low_usd > 0:
        factor = text(high_usd / low_usd, "count", 2)
        yield f"cost from P10 {usd(low_usd)} to P90 {usd(high_usd)} a month, a factor of {factor}"


def _late(plan: Plan, option: Option) -> Iterator[str]:
    if option.latency_quantile_p90_s is None:
        return
    latency, start = figures.latency_at_p90(option), "if the step time is at its P90, the same fleet"
    if isinstance(latency, Missing):
        yield f"{start} saturates at peak"
    elif latency > plan.objective_latency_s:
        yield (
            f"{start} has a {plan.objective_percentile} of {text(latency, 'seconds')}, "
            f"above the objective of {text(plan.objective_latency_s, 'seconds')}"
        )


def _prices(cost: Cost) -> Iterator[str]:
    if cost.missing:
        yield f"no price for {', '.join(cost.missing)}: the sum of the lines leaves them out"
    flagged: dict[str, list[str]] = {}
    for line in cost.lines:
        for flag in line.flags:
            flagged.setdefault(flag, []).append(line.name)
    for flag, names in flagged.items():
        if flag != figures.NO_PRICE:
            yield f"bill line{'' if len(names) == 1 else 's'} {', '.join(names)}: {flag}"
