"""What a search found: ranked candidates, the front of cost, latency, energy and room, and why not the cheaper ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from capacity.fleet.searched import Candidate, Found, Near, Refused
from capacity.fleet.served import Question
from capacity.plan import Violation
from capacity.planner import Inputs
from capacity.search.limits import CONSTRAINTS
from capacity.search.pareto import front
from capacity.search.place import Place
from capacity.search.tried import Tried
from capacity.spec.scenario import Scenario
from capacity.spec.space import Space

MOST_FRONT = 40
"""Most fleets of the front that are shown, evenly along the cost."""
MOST_TIMES = 5.0
"""Multiple of the cheapest cost up to which the front is shown."""
STEP, MOST_ROOM = 0.02, 1.0
"""Differences that count on the front [1], and the room beyond which more is worth nothing [1]."""


def found(
    scenario: Scenario, space: Space, given: Inputs, results: Sequence[Tried], refused: Sequence[Refused] = (),
    *, most: int = 10,
) -> Found:  # fmt: skip
    """Return the answer of a search from what each variant gave.

    Parameters
    ----------
    most
        Candidates that are made into options of a plan, cheapest first; all where jobs run on devices that serving
        leaves idle: only the bill of a plan knows what is then left to rent.
    """
    priced = [item for item in results if item.fleets is not None and item.usd.size]
    allowed = [item.limits(space).kept for item in priced]
    best = (_candidate(item, row, way) for item in priced for row, way in item.cheapest)
    ranked = sorted(best, key=_rank)
    idle = [item.variant.scenario.jobs_on_idle_serving for item in ranked]
    made = (_made(item, given) if at < most or idle[at] else item for at, item in enumerate(ranked))
    ranked = sorted(made, key=_rank)
    limit = ranked[0].usd if ranked else np.inf
    near = [miss for item in priced if (miss := _near(item, space, limit)) is not None]
    return Found(
        scenario=scenario, space=space, date=given.today.isoformat(),
        configurations=sum(item.configurations for item in priced), variants=len(results),
        feasible=sum(int(kept.sum()) for kept in allowed),
        ranked=tuple(ranked),
        front=tuple(_front(priced, allowed)), near=tuple(sorted(near, key=lambda item: item.candidate.usd)),
        refused=(*refused, *_refusals(results)),
    )  # fmt: skip


def simulated(answer: Found, given: Inputs, count: int, told: Callable[[str], None] = lambda _: None) -> Found:
    """Return the answer with its first `count` candidates played request by request."""
    from capacity import simulation  # noqa: PLC0415  (numba takes a second to import; a search may do without)

    played = []
    for item in answer.ranked[:count]:
        told(f"{item.variant.name}, {item.variant.told}")
        question = Question(band=False, size=False)
        made = replace(given, models=item.variant.models)
        (serving,) = simulation.simulated(item.scenario, made, question, (item.variant.hardware,))
        played.append(replace(item, simulated=serving))
    return replace(answer, ranked=(*played, *answer.ranked[count:]))


def _candidate(item: Tried, row: int, way: int) -> Candidate:
    fleets = item.fleets
    if fleets is None:
        raise ValueError("a variant without fleets has no candidates")
    return Candidate(
        variant=item.variant, buying=item.buying[way], degrees=fleets.degrees(row), batches=fleets.batches(row),
        replicas=fleets.counts(row), devices=int(item.held[row, way]), usd=float(item.usd[row, way]),
        latency_s=float(fleets.latency_s[row]), room=float(fleets.room[row]),
        kwh=None if item.kwh is None else float(item.kwh[row]),
    )  # fmt: skip


def _rank(item: Candidate) -> tuple[float, float]:
    return item.usd, item.latency_s


def _made(item: Candidate, given: Inputs) -> Candidate:
    """Return a candidate as an option of a plan, with its exact bill and latency."""
    place = Place.of(item.variant, given)
    chosen = place.chosen(item.degrees)
    choice = place.fleet(chosen, item.batches, item.replicas)
    option = place.option(chosen, choice, item.buying, given)
    usd = option.cost.usd if option.cost else item.usd
    return replace(item, option=option, usd=usd, latency_s=option.latency_quantile_s or item.latency_s)


def _near(item: Tried, space: Space, limit_usd: float) -> Near | None:
    """Return the cheaper fleet of a variant that misses least, and its worst miss; None where none is cheaper."""
    if item.fleets is None:
        return None
    limits = item.limits(space)
    names = list(limits.over)
    over = np.stack([limits.over[name] for name in names])
    worst = over.max(axis=0)
    missing = (worst > 1 + 1e-9) & (item.usd < limit_usd) & np.isfinite(worst)
    if not missing.any():
        return None
    flat = int(np.argmin(np.where(missing, worst, np.inf)))
    row, way = divmod(flat, item.usd.shape[1])
    name = names[int(over[:, row, way].argmax())]
    violation = Violation(
        where=item.variant.hardware, constraint=CONSTRAINTS[name][0], needed=float(limits.needed[name][row, way]),
        allowed=float(limits.allowed[name]), dimension=CONSTRAINTS[name][1],
    )  # fmt: skip
    return Near(candidate=_candidate(item, row, way), violation=violation)


def _front(priced: Sequence[Tried], allowed: Sequence[NDArray[np.bool_]]) -> list[Candidate]:
    """Return the front over all variants, each fleet bought the cheapest way that keeps every constraint."""
    rows = []
    for index, (item, kept) in enumerate(zip(priced, allowed, strict=True)):
        usd = np.where(kept, item.usd, np.inf)
        way, cheapest = usd.argmin(axis=1), usd.min(axis=1)
        held = np.flatnonzero(np.isfinite(cheapest))
        if held.size and item.fleets is not None:
            energy = np.full(held.size, np.inf) if item.kwh is None else item.kwh[held]
            room = 1 / (1 + np.clip(item.fleets.room[held], 0.0, MOST_ROOM))
            values = [cheapest[held], *(_coarse(part) for part in (item.fleets.latency_s[held], energy, room))]
            rows.append(np.column_stack([np.full(held.size, index), held, way[held], *values]))
    if not rows:
        return []
    table = np.concatenate(rows)
    table = table[np.argsort(table[:, 3], kind="stable")]
    table = table[np.sort(np.unique(table[:, 4:], axis=0, return_index=True)[1])]
    table = table[front(*table[:, 3:].T)]
    table = table[table[:, 3] <= MOST_TIMES * table[:, 3].min()]
    if len(table) > MOST_FRONT:
        table = table[np.unique(np.linspace(0, len(table) - 1, MOST_FRONT).round().astype(int))]
    return [_candidate(priced[int(index)], int(row), int(way)) for index, row, way in table[:, :3]]


def _coarse(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values rounded to steps of `STEP` of theirs: less is no difference that a fleet is chosen for."""
    return np.asarray(np.round(np.log(values) / STEP))


def _refusals(results: Sequence[Tried]) -> Iterator[Refused]:
    for item in results:
        what = f"{item.variant.name}, {item.variant.told}"
        if item.refused:
            yield Refused(what=what, reason=item.refused)
        for miss in item.violations:
            ratio = f"{miss.needed / miss.allowed:.3g} × the limit" if miss.allowed > 0 else "nothing is allowed"
            yield Refused(what=what, reason=f"{miss.where} misses {miss.constraint}: {ratio}")
        for reason in item.unpriced:
            yield Refused(what=what, reason=reason)
