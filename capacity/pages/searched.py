"""The search of a view, kept while others ask the same; a page hears how far it is, and may leave."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date

from capacity import planner, search
from capacity.errors import InputError
from capacity.fleet.searched import Found
from capacity.pages import cached, state
from capacity.pages.answers import Answers
from capacity.pages.state import View
from capacity.spec.space import Space

MOST_VARIANTS, MOST_REPLICAS = 120, 512
"""Of one search: larger ones belong to the command line, they would keep everybody waiting."""
_kept = Answers[Found](most=20)


def found(view: View, told: Callable[[int, int], None]) -> Found:
    """Return the answer of the search of a view.

    Parameters
    ----------
    told
        Hears how many variants were tried, of how many.

    Raises
    ------
    InputError
        For unknown hardware or levers, and for a search that is too large for a page.
    """
    today = date.today()
    return _kept.get((view.question, view.choose, cached.stamp(), today), lambda: _searched(view, today, told))


def _searched(view: View, today: date, told: Callable[[int, int], None]) -> Found:
    space = state.space_of(view, cached.compared(view))
    scenario, document = cached.scenario(view), state.document(view)
    given = planner.inputs(scenario, today=today, document=document)
    named = () if space.hardware else state.candidates(view, cached.scenario)
    devices = search.devices(named, space, scenario, given)
    _bounded(space, len(devices))
    variants, refused = search.variants(document, given, space, devices)
    tried = []
    for place, variant in enumerate(variants):
        told(place, len(variants))
        tried.append(search.tried(variant, space, given))
    return search.found(scenario, space, given, tried, refused)


def _bounded(space: Space, devices: int) -> None:
    pulled = sum(math.comb(len(space.levers), count) for count in range(min(space.most_levers, len(space.levers)) + 1))
    variants = devices * max(len(space.engines), 1) * max(len(space.dtypes), 1) * pulled
    for what, many, most in (("variants", variants, MOST_VARIANTS), ("replicas", space.most_replicas, MOST_REPLICAS)):
        if many > most:
            raise InputError(
                f"{many:,} {what} are too many for a dashboard, which tries {most} at most; choose fewer, or ask "
                "`capacity optimize`"
            )
