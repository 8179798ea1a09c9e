"""The view between reruns: read from the URL, changed by widgets, written back to the URL. Errors become messages.

A rerun that a widget started trusts the session; any other (a link, the back button) trusts the URL. Otherwise a second
click that overtakes the first one's new URL would undo it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import streamlit as st

from capacity.errors import CapacityError, InputError, Problem
from capacity.pages import cached, link, state
from capacity.pages.show import escaped
from capacity.pages.state import View
from capacity.plan import Option, Plan

VIEW, PROBLEMS, QUERY, CLICKED, OPTION = "_view", "_problems", "_query", "_clicked", "option"


def current() -> View:
    """Return the view of this rerun and write it to the URL."""
    memory = st.session_state
    said = {name: st.query_params.get_all(name) for name in st.query_params}
    clicked = memory.pop(CLICKED, False)
    if VIEW not in memory or (said and not clicked and said != memory.get(QUERY)):
        asked, problems = link.from_query(said)
        kept, more = state.checked(asked, cached.profiles())
        memory[VIEW], memory[PROBLEMS] = kept, [*problems, *more]
    view: View = memory[VIEW]
    memory[QUERY] = link.to_query(view)
    if said != memory[QUERY]:
        st.query_params.from_dict(memory[QUERY])
    return view


def change(edit: Callable[[View], View]) -> None:
    """Replace the view by `edit(view)`; where that is refused the view stays and the reason is shown."""
    memory = st.session_state
    memory[CLICKED], memory[PROBLEMS] = True, []
    try:
        view = edit(memory[VIEW])
        cached.scenario(view)
        memory[VIEW] = view
    except InputError as error:
        memory[PROBLEMS] = list(error.problems)
    except CapacityError as error:
        memory[PROBLEMS] = [Problem("", str(error))]


def bound(
    key: str, value: object, edit: Callable[[View, Any], View], check: Callable[[View], object] = lambda _: None
) -> Callable[[], None]:
    """Make the input `key` show `value`; return what hands to `edit` whatever a person makes of it.

    Parameters
    ----------
    check
        Raises where the changed view does not hold beyond its scenario.
    """
    st.session_state[key] = value

    def edited(view: View) -> View:
        changed = edit(view, st.session_state[key])
        check(changed)
        return changed

    return lambda: change(edited)


def option_input(plan: Plan, view: View) -> Option | None:
    """Draw the choice of the device that a page shows in detail, and return it; None when nothing was compared."""
    options = {option.hardware: option for option in plan.options}
    if not options:
        return None
    first = plan.options[0].hardware
    st.session_state[OPTION] = view.option if view.option in options else first

    column, _ = st.columns([2, 3])

    def changed() -> None:
        chosen = st.session_state[OPTION]
        change(lambda view: replace(view, option="" if chosen == first else chosen))

    column.selectbox(
        "In detail", list(options), format_func=lambda name: options[name].name, key=OPTION, on_change=changed
    )
    return options[st.session_state[OPTION]]


def show_problems() -> None:
    """Show what was wrong with the URL or the last input."""
    for problem in st.session_state.get(PROBLEMS, ()):
        st.error(escaped(str(problem)))


@contextmanager
def errors_shown() -> Iterator[None]:
    """Turn whatever the product refuses into messages, one a problem, and a defect into one line; no traceback."""
    try:
        yield
    except CapacityError as error:
        for line in str(error).splitlines():
            st.error(escaped(line))
    except Exception as error:
        if os.environ.get("CAPACITY_DEBUG"):
            raise
        st.error(
            escaped(
                f"A defect of ours ({type(error).__name__}: {error}). CAPACITY_DEBUG=1 shows where; please report it."
            )
        )
