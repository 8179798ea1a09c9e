"""Search: the cheapest plan among very many, what else is on the front, and why not the cheaper ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import get_args

import streamlit as st

from capacity import charts_search
from capacity.errors import InputError
from capacity.fleet.searched import Candidate, Found
from capacity.levers import LEVERS
from capacity.pages import cached, downloads, link, picture, searched, session, show, state
from capacity.pages.lines import CHOOSE
from capacity.pages.state import View
from capacity.report import search as report
from capacity.spec.engine import Engine
from capacity.spec.hardware import Dtype
from capacity.spec.prices import Buying
from capacity.spec.space import EVERYTHING, Space
from capacity.units import text, usd

# Key of the space, label, what there is to choose, explanation.
CHOICES: tuple[tuple[str, str, Sequence[str], str], ...] = (
    ("engines", "Engines", get_args(Engine), "Empty: the scenario's own."),
    ("dtypes", "Number formats", get_args(Dtype), "Of every stage that runs a model; empty: as the scenario has it."),
    ("terms", "Ways of buying", get_args(Buying), "Those without a price are refused; empty: the scenario's own."),
    ("levers", "Levers", tuple(LEVERS), "Alone and together; the page Levers says what each one does."),
)
FIRST = "_search-first"
_bound = partial(session.bound, check=lambda view: state.space_of(view, cached.compared(view)))
RANKED = (
    "hardware", "choice", "buying", "fleet", "devices", "usd_per_month", "against_best_fraction", "latency_s",
    "room_fraction", "energy_kwh_per_month",
)  # fmt: skip


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    st.title("Search", anchor=False)
    _inputs(view, state.space_of(view, cached.compared(view)))
    found = _found(view)
    drawn = "".join(f"<strong>{escape(p.text)}</strong>" if p.strong else escape(p.text) for p in report.pieces(found))
    st.html(f'<div class="cap-answer{"" if found.best else " missed"}">{drawn}</div>')
    if found.best is not None:
        _numbers(found.best)
        show.doubts(list(report.caveats(found.best)), "What to know before trusting it")
        _take(found)
    _compared(found)
    _refused(found)
    _take_away(view, found)


def _inputs(view: View, space: Space) -> None:
    columns = st.columns(4, vertical_alignment="bottom")
    for column, (key, label, known, explanation) in zip(columns, CHOICES, strict=True):
        name = f"search-{key}"
        column.multiselect(
            label, list(known), key=name, help=explanation, placeholder="as it is",
            on_change=_bound(name, list(getattr(space, key)), partial(_several, key)),
        )  # fmt: skip
    columns = st.columns(4, vertical_alignment="bottom")
    columns[0].toggle(
        "Every device with a price", key="search-all", help="Instead of the devices that are compared at the left.",
        on_change=_bound("search-all", EVERYTHING in space.hardware, _everything),
    )  # fmt: skip
    columns[1].number_input(
        "Budget [USD a month]", value=None, min_value=0.0, step=100.0, placeholder="no budget", key="search-budget",
        on_change=_bound("search-budget", space.budget, partial(CHOOSE.number, "budget")),
    )  # fmt: skip
    columns[2].number_input(
        "Least room beyond the peak [%]", min_value=0.0, step=5.0, key="search-room",
        help="Rate that a fleet can carry beyond its peak, at least.",
        on_change=_bound(
            "search-room", round(100 * space.least_room, 6), partial(CHOOSE.number, "least_room", parts=100)
        ),
    )  # fmt: skip
    columns[3].number_input(
        "Most levers at once", min_value=1, max_value=4, step=1, key="search-most", disabled=not space.levers,
        on_change=_bound("search-most", space.most_levers, partial(CHOOSE.number, "most_levers")),
    )  # fmt: skip
    with st.expander("Any other value"):
        st.text_area(
            "The space, one key=value a line", placeholder="stock={l4: 8}", height=100, key="search-others",
            help="Any value of a space, e.g. regions=[us-east], batches=[8, 32], parallel=[1, 2], stock={l4: 8}.",
            on_change=_bound("search-others", "\n".join(CHOOSE.others(view)), CHOOSE.retyped),
        )  # fmt: skip


def _several(key: str, view: View, chosen: Sequence[str]) -> View:
    return CHOOSE.put(view, {key: f"[{', '.join(chosen)}]"}) if chosen else CHOOSE.drop(view, key)


def _everything(view: View, on: bool) -> View:
    return CHOOSE.put(view, {"hardware": f"[{EVERYTHING}]"}) if on else CHOOSE.drop(view, "hardware")


def _found(view: View) -> Found:
    """Return the search of the view, with a bar that says how far it is; another click leaves it."""
    bar = st.progress(0.0, text="searching")

    def told(done: int, of: int) -> None:
        bar.progress(done / of, text=f"searching: {done} of {of} variants")

    found = searched.found(view, told)
    bar.empty()
    return found


def _numbers(best: Candidate) -> None:
    cost = best.option.cost if best.option else None
    band = f"P10 {usd(cost.p10_usd)} – P90 {usd(cost.p90_usd)}" if cost else "no band"
    cards = st.columns(4)
    with cards[0]:
        show.card("Cost a month", usd(best.usd), [band], f"Bought {best.buying.told}; the whole bill of a plan.")
    with cards[1]:
        percentile = best.scenario.objective.percentile
        show.card(
            f"{percentile} latency", text(best.latency_s, "seconds"),
            [f"allowed {text(best.scenario.objective.latency, 'seconds')}"], "At the peak, by a plan's closed form.",
        )  # fmt: skip
    with cards[2]:
        show.card("Room", text(best.room, "fraction"), ["beyond the peak"], "Rate that the fleet can carry ÷ peak − 1.")
    with cards[3]:
        kwh = show.NOTHING if best.kwh is None else f"{text(best.kwh, 'count')} kWh"
        show.card("Energy a month", kwh, ["of serving, at the wall"], "Power × load × PUE of all serving devices.")


def _take(found: Found) -> None:
    items = {_called(item): item for item in found.ranked[:20]}
    memory, first = st.session_state, next(iter(items), None)
    if memory.get(FIRST) != first:  # another answer: the box stands on its best again
        memory[FIRST] = memory["search-taken"] = first
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    chosen = left.selectbox("Take one into the view, for all other pages", list(items), key="search-taken")
    right.button(
        "Take it", key="search-take", width="stretch", on_click=_taken, args=(chosen, items.get(chosen)),
        disabled=not chosen, help="Its device, changes, batches, sharing and way of buying; pages plan its replicas.",
    )  # fmt: skip


def _taken(called: str, item: Candidate | None) -> None:
    if item is not None:
        session.change(partial(taken, item=item))
        st.toast(show.escaped(f"Taken: {called}. Every page answers for it; its settings stand at the left."))


def _called(item: Candidate) -> str:
    return f"{item.variant.name}, {report.choice(item)}, {item.buying.told}: {usd(item.usd)}"


def taken(view: View, item: Candidate) -> View:
    """Return `view` with a candidate's device, changes, batches, sharing and way of buying.

    Replicas are left to the plan: given ones would hold at today's traffic and at no other.
    """
    new = [setting for setting in report.settings(item) if not state.path_of(setting).endswith(".replicas")]
    paths = {state.path_of(setting) for setting in new}
    kept = tuple(setting for setting in view.settings if state.path_of(setting) not in paths)
    changed = replace(view, hardware=(item.variant.hardware,), option="", settings=(*kept, *new))
    wanted = cached.scenario(changed)  # one after the other they may not hold: a cache is nothing without its keys
    for setting in new:
        without = replace(changed, settings=tuple(other for other in changed.settings if other != setting))
        try:
            changed = without if cached.scenario(without) == wanted else changed
        except InputError:
            continue
    return changed


def _compared(found: Found) -> None:
    if found.front:
        picture.draw(charts_search.front(found), "search-front", charts_search.front_words(found))
    if found.ranked:
        st.header("Cheapest of each", anchor="ranked")
        show.table(report.ranked_table(found), keep=RANKED, best=True)
    if found.near:
        st.header("Why not the cheaper one", anchor="near")
        st.caption("Cheaper than the best, the nearest first, and the constraint that each misses by most.")
        show.table(report.near_table(found))
    if found.front:
        with st.expander("Every plan of the front"):
            show.table(report.front_table(found), keep=RANKED)


def _refused(found: Found) -> None:
    if found.refused:
        st.header("What cannot be chosen", anchor="refused")
        reasons = {item.reason: item.what for item in reversed(found.refused)}
        show.bullets([f"{what}: {reason}" for reason, what in reasons.items()])
        st.caption(f"{len(found.refused)} choices; the first of each reason.")


def _take_away(view: View, found: Found) -> None:
    downloads.draw("search", found.scenario.id, {"json": partial(report.dumps, found)}, link.search_command(view))


if __name__ == "__main__":
    with session.errors_shown():
        page()
