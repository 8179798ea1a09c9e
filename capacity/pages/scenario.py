"""What is asked: the scenario with everything that was changed, where its numbers come from, and your own upload."""

from __future__ import annotations

from pathlib import PurePath

import streamlit as st

from capacity import catalogue, documents
from capacity.errors import InputError, Problem
from capacity.pages import cached, session, show, state
from capacity.pages.state import View
from capacity.report.cells import Column, Row, Table
from capacity.report.markdown import escaped

REFUSED, TRIES = "_refused", "_tries"
CHANGES = (Column("path", "Value"), Column("was", "In the scenario"), Column("now", "Now"))


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    found = cached.scenario(view)
    st.title(escaped(found.title), anchor=False)
    st.markdown(escaped(found.description))
    _changed(view)
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("The scenario in full", anchor="yaml")
        st.code(cached.scenario_yaml(view), language="yaml", line_numbers=True, wrap_lines=True)
    with right:
        _upload()
        st.subheader("Where its numbers come from", anchor="sources")
        show.bullets(found.sources or ("the scenario names no source",))
        _assumptions(view)


def _changed(view: View) -> None:
    rows: tuple[Row, ...] = tuple({"path": path, "was": was, "now": now} for path, was, now in state.changes(view))
    if rows:
        st.subheader("What was changed", anchor="changes")
        show.table(Table("Changes", CHANGES, rows))


def _assumptions(view: View) -> None:
    domains = documents.catalogue("scenarios/domains")
    for name in view.overrides:
        if name in domains and name not in cached.plain_scenario(view).overrides:
            domain = catalogue.domain(name)
            st.subheader(escaped(domain.title), anchor=name)
            show.bullets(domain.assumptions)


def _upload() -> None:
    st.subheader("Use your own", anchor="upload")
    tries = st.session_state.setdefault(TRIES, 0)
    key = f"upload:{tries}"
    st.file_uploader(
        "A scenario as YAML", type=["yaml", "yml"], key=key, on_change=_read, args=(key,),
        help="Start from the download in the sidebar. The file stays in this tab and travels in its link.",
    )  # fmt: skip
    problems: list[Problem] = st.session_state.get(REFUSED, [])
    if problems:
        st.error(f"{len(problems)} problems, each as file:line:column:")
        show.bullets([str(problem) for problem in problems])


def _read(key: str) -> None:
    """Open the uploaded file as the scenario of the view, or note every problem in it."""
    uploaded = st.session_state[key]
    st.session_state[REFUSED] = []
    if uploaded is None:
        return
    st.session_state[TRIES] += 1  # a new key empties the input, so that the mended file can follow
    name = PurePath(uploaded.name).name
    try:
        text = _decoded(uploaded.getvalue(), name)
        view = View(scenario=name, text=text)
        state.scenario(view)
    except InputError as error:
        st.session_state[REFUSED] = list(error.problems)
        return
    session.change(lambda _: view)


def _decoded(raw: bytes, name: str) -> str:
    if len(raw) > state.LONGEST_TEXT:
        raise InputError([Problem(name, f"is larger than {state.LONGEST_TEXT:,} bytes")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError([Problem(name, f"is not UTF-8 text (byte {error.start})")]) from None


if __name__ == "__main__":
    with session.errors_shown():
        page()
