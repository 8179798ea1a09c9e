"""What is expected of the coming months, as lines `key=value` of a view: those that `capacity risk --with` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from capacity import outlook
from capacity.errors import InputError
from capacity.pages.state import View, path_of

OWNED = (
    "months", "growth.traffic", "price_decline", "discount_rate", "budget", "commitment.term", "commitment.share",
    "refresh.month", "refresh.hardware",
)  # fmt: skip
"""Keys that an input of the page sets; all others are typed as lines."""


def put(view: View, said: Mapping[str, str]) -> View:
    """Return `view` with keys of its outlook set, or no longer set where it says the same without.

    Raises
    ------
    InputError
        When the outlook does not allow a value; the view stays as it was.

    Examples
    --------
    >>> put(View(scenario="a"), {"months": "12"}).expect, put(View(scenario="a"), {"months": "36"}).expect
    (('months=12',), ())
    """
    rest = tuple(line for line in view.expect if path_of(line) not in said)
    changed = (*rest, *(f"{key}={text}" for key, text in said.items()))
    found = outlook.expected(changed)
    try:
        same = outlook.expected(rest) == found
    except InputError:
        same = False
    return replace(view, expect=rest if same else changed)


def drop(view: View, key: str) -> View:
    """Return `view` without what its outlook says about `key` and all below it.

    Examples
    --------
    >>> drop(View(scenario="a", expect=("commitment.term=1-year", "months=12")), "commitment").expect
    ('months=12',)
    """
    kept = tuple(line for line in view.expect if path_of(line).split(".")[0] != key)
    return replace(view, expect=kept)


def others(view: View) -> list[str]:
    """Return the lines that no input of the page shows."""
    return [line for line in view.expect if path_of(line) not in OWNED]


def retyped(view: View, text: str) -> View:
    """Return `view` with its other lines replaced by those of a text.

    Raises
    ------
    InputError
        For a line that the outlook does not allow.

    Examples
    --------
    >>> retyped(View(scenario="a", expect=("months=12",)), "growth.users=0.01").expect
    ('months=12', 'growth.users=0.01')
    """
    mine = others(view)
    typed = tuple(line.strip() for line in text.splitlines() if line.strip())
    changed = replace(view, expect=(*(line for line in view.expect if line not in mine), *typed))
    outlook.expected(changed.expect)
    return changed
