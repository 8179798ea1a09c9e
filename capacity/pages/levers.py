"""Levers: what each optimization would save, alone and together, and what it costs in quality."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from html import escape

import streamlit as st

from capacity import charts_jobs
from capacity.fleet.levered import Levered
from capacity.pages import cached, picture, session, show
from capacity.pages.state import View
from capacity.report import levers as report

ALONE = (
    "id", "title", "usd_per_month", "cost_fraction", "latency_s", "latency_fraction", "devices", "flop_fraction",
    "bytes_fraction", "memory_fraction", "training_fraction", "missed",
)  # fmt: skip


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    plan = cached.plan(view)
    option = session.option_input(plan, view)
    if option is None:
        return
    st.toggle(
        "Only levers that change no answer", key="levers-exact",
        on_change=session.bound("levers-exact", bool(view.exact), _exact),
    )  # fmt: skip
    found = _found(view, option.hardware)
    drawn = "".join(f"<strong>{escape(p.text)}</strong>" if p.strong else escape(p.text) for p in report.pieces(found))
    st.html(f'<div class="cap-answer{" missed" if found.best.missed else ""}">{drawn}</div>')
    if found.steps:
        _combination(found, view)
    st.header("Each lever alone", anchor="alone")
    show.table(report.alone_table(found), keep=ALONE, below=("quality", "assumes", "source"))
    refused = report.refused_table(found)
    if refused.rows:
        with st.expander(f"{len(refused.rows)} levers do not apply here"):
            show.table(refused)


def _found(view: View, hardware: str) -> Levered:
    """Return the levers of the view, with a line that says what is being planned; another click leaves it."""
    place = st.empty()
    with place.status("Planning every lever alone, then together …") as status:
        found = cached.levered(
            view, hardware, exact=bool(view.exact), told=lambda said: status.update(label=f"Planning {said} …")
        )
    place.empty()
    return found


def _exact(view: View, on: bool) -> View:
    return replace(view, exact="1" if on else "")


def _combination(found: Levered, view: View) -> None:
    st.header("Best combination found", anchor="combination")
    if found.before.usd is not None:
        picture.draw(charts_jobs.waterfall(found), "levers-waterfall")
        st.caption(show.escaped(charts_jobs.waterfall_words(found)))
    show.table(report.step_table(found))
    st.download_button(
        "Levers JSON", partial(report.dumps, found), file_name=f"{view.scenario}-levers.json", mime="application/json",
        on_click="ignore", key="download:levers",
    )  # fmt: skip
    with st.expander("The combination as an override of the scenario's file"):
        st.code(report.override(found), language="yaml")


if __name__ == "__main__":
    with session.errors_shown():
        page()
