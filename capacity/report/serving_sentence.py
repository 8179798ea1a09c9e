"""The answer of a simulation in one sentence, and what it does not know, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator

from capacity.fleet.served import Serving
from capacity.report import serving_figures as figures
from capacity.report.cells import Missing, shown
from capacity.report.sentence import NEAREST, WEAK, Piece
from capacity.report.serving import Answer, replicas_text
from capacity.spec.stages import RetrieveStage
from capacity.units import text, usd


def answer(found: Answer) -> str:
    """Return the answer in one sentence, as plain text."""
    return "".join(piece.text for piece in pieces(found))


def pieces(found: Answer) -> tuple[Piece, ...]:
    """Return the sentence in parts; strong ones are what a reader must not miss."""
    return tuple(_misses(found) if found.best is None else _holds(found, found.best))


def _objective(found: Answer) -> str:
    objective = found.scenario.objective
    return f"{objective.percentile} ≤ {text(objective.latency, 'seconds')}"


def _load(found: Answer) -> str:
    """Return what load was simulated."""
    traffic = found.scenario.traffic
    rate = f"{text(traffic.peak_rate, 'count')} requests/s"
    if traffic.trace is not None:
        return f"for the requests of {traffic.trace}"
    if traffic.load:
        return "through the scheduled load"
    return f"through a day that peaks at {rate}" if found.question.day else f"at {rate}"


def _holds(found: Answer, best: Serving) -> Iterator[Piece]:
    yield Piece(f"For “{found.scenario.title}” ")
    yield Piece(f"{text(best.devices, 'whole')} × {best.name}", strong=True)
    yield Piece(f" ({replicas_text(best)}) hold {_objective(found)} {_load(found)}: ")
    yield from _tail(found, best)
    yield from _cost(best)
    yield Piece(f"; {_fewer(found, best)}; {_floor(best)}; {_next(found, best)}. Basis: {best.basis}, simulated.")


def _tail(found: Answer, best: Serving) -> Iterator[Piece]:
    percentile = found.scenario.objective.percentile
    run = figures.run_of(best)
    yield Piece(f"{percentile} {shown(figures.tail_s(run, percentile), 'seconds')}", strong=True)
    error = figures.error_of(run.end_to_end.quantiles[percentile])
    spread = error.reason if isinstance(error, Missing) else f"± {text(error, 'seconds', 2)}"
    low, high = figures.band_s(best, percentile)
    if isinstance(low, Missing) and low.reason == figures.NO_BAND:
        yield Piece(f" ({spread} by the run)")
    else:
        if not isinstance(low, Missing) and not isinstance(high, Missing):
            low, high = sorted((low, high))  # an autoscaler may make up for slow steps
        ends = f"{shown(low, 'seconds')} – {shown(high, 'seconds')}"
        yield Piece(f" ({ends} by the error of step times, {spread} by the run)")


def _cost(best: Serving) -> Iterator[Piece]:
    cost = best.cost
    if cost is None:
        yield Piece(", with ")
        yield Piece(f"no price for {best.name} in any table", strong=True)
        yield Piece(" for this term, seller and region")
        return
    yield Piece(", ")
    thousand = shown(figures.usd(best, "thousand_usd"), "usd")
    yield Piece(f"{thousand} for 1,000 recommendations", strong=True)
    tokens = {"input": cost.million_input_usd, "output": cost.million_output_usd, "in all": cost.million_total_usd}
    named = ", ".join(f"{usd(value)} {name}" for name, value in tokens.items() if value is not None)
    hour = f"{usd(cost.hour_usd)} an hour{' on average' if any(pool.scaled for pool in best.pools) else ''}"
    yield Piece(f" (all of {hour}{f' set against 1 M tokens: {named}' if named else ''})")


def _fewer(found: Answer, best: Serving) -> str:
    left = figures.without_spare_s(best)
    if not isinstance(left, Missing):
        what = f"{found.scenario.objective.percentile} is {text(left, 'seconds')}"
    elif left.reason == figures.OVERLOADED:
        what = "the rest does not keep up"
    else:
        what = f"{' and '.join(pool.name for pool in best.pools if pool.replicas < 2)} has none left"
    return f"with one replica fewer{' in each pool' if len(best.pools) > 1 else ''} and no spare {what}"


def _floor(best: Serving) -> str:
    if len(best.pools) == 1:
        (pool,) = best.pools
        return f"a perfect autoscaler would keep {text(pool.floor, 'count')} of the {pool.replicas} on average"
    counts = ", ".join(f"{text(pool.floor, 'count')} of {pool.replicas} of {pool.name}" for pool in best.pools)
    return f"a perfect autoscaler would keep {counts} on average"


def _next(found: Answer, best: Serving) -> str:
    if len(found.options) == 1:
        return "nothing else was compared"
    second = found.options[1]
    if not second.meets:
        return f"no other option holds it ({missed(found, second)})"
    price, more = figures.usd(second, "hour_usd"), figures.against_best(best, second)
    at = "without a price" if isinstance(price, Missing) else f"at {usd(price)} an hour"
    share = "" if isinstance(more, Missing) else f" ({shown(more, 'fraction', digits=2, signed=True)})"
    return f"the next best is {text(second.devices, 'whole')} × {second.name} {at}{share}"


def missed(found: Answer, option: Serving) -> str:
    """Return what an option that does not hold the objective misses."""
    if option.refused:
        return f"{option.name}: {option.refused}"
    percentile = found.scenario.objective.percentile
    tail = figures.tail_s(option.result, percentile)
    reached = tail.reason if isinstance(tail, Missing) else f"{percentile} {shown(tail, 'seconds')}"
    where = ""
    if not option.meets_peak:
        where = " at peak plus headroom"
        there = text(option.stressed_s, "seconds") if math.isfinite(option.stressed_s) else "none, it does not keep up"
        reached = f"{percentile} there {there}; {reached}"
    return f"{text(option.devices, 'whole')} × {option.name} miss {_objective(found)}{where} ({reached} {_load(found)})"


def _misses(found: Answer) -> Iterator[Piece]:
    yield Piece(f"For “{found.scenario.title}” ")
    yield Piece(f"no option holds {_objective(found)}" if found.options else "no option was compared", strong=True)
    yield Piece(f" {_load(found)}")
    nearest = found.options[:NEAREST]
    others = len(found.options) - len(nearest)
    said = "; ".join(missed(found, option) for option in nearest) + (f"; and {others} more" if others else "")
    yield Piece(f": {said}." if said else ".")


def kept_up(option: Serving) -> str:
    """Return whether the run kept up with what came, and why this is said."""
    found = figures.run_of(option).saturation
    return f"{found.state}: {found.reason}"


def caveats(found: Answer, option: Serving) -> tuple[str, ...]:
    """Return what the simulation of one option does not know or says with reserve."""
    return tuple(_caveats(found, option)) if option.result is not None else ()


def _caveats(found: Answer, option: Serving) -> Iterator[str]:
    run = figures.run_of(option)
    if option.share > 1:
        yield f"one in {option.share} replicas, and of the requests, was simulated: a representative share of the fleet"
    if run.unfinished:
        yield f"{text(run.unfinished, 'count')} requests were still inside when the run ended"
    yield from _slow(found, option)
    stages = found.scenario.serving.stages
    yield from filter(None, (stage.borrowed for stage in stages if isinstance(stage, RetrieveStage)))
    if option.basis in WEAK:
        yield f"step times are {option.basis}, nobody measured them on this hardware; efficiencies: {option.origin}"
    for flag in option.cost.flags if option.cost else ():
        yield f"price: {flag}"


def _slow(found: Answer, option: Serving) -> Iterator[str]:
    objective = found.scenario.objective
    _, high = figures.band_s(option, objective.percentile)
    if isinstance(high, Missing):
        if high.reason == figures.OVERLOADED:
            yield "with step times at the slow end of their band the same fleet does not keep up"
    elif high > objective.latency and option.meets:
        at = f"{objective.percentile} {text(high, 'seconds')}, above the objective"
        yield f"with step times at the slow end of their band the same fleet has {at}"
