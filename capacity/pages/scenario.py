"""What is asked: the scenario with everything that was changed, where its numbers come from, and your own upload."""

from __future__ import annotations

from pathlib import PurePath

import streamlit as st

from capacity import catalogue, documents
from capacity.errors import CapacityError, InputError, Problem
from capacity.pages import cached, editor, forms, session, show, state
from capacity.pages.editor import Draft
from capacity.pages.state import View
from capacity.report.cells import Column, Row, Table
from capacity.report.markdown import escaped

TRIES = "_tries"
CHANGES = (Column("path", "Value"), Column("was", "In the scenario"), Column("now", "Now"))


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    found = cached.scenario(view)
    st.header(escaped(found.title), anchor=False)
    st.markdown(escaped(found.description))
    _changed(view)
    draft = editor.current(view)
    if draft.touched and draft.seed != editor.written(view):
        st.info(
            "The scenario changed since this draft was begun: Apply puts the draft in its place, Start again drops it."
        )
    _editor(draft)
    editor.compared(draft)
    _upload()
    st.header("Where its numbers come from", anchor="sources")
    show.bullets(found.sources or ("the scenario names no source",))
    _assumptions(view)


def _editor(draft: Draft) -> None:
    """Draw the forms and the text of the draft side by side."""
    st.header("The scenario in full", anchor="yaml")
    left, right = st.columns(2, gap="large")
    with left:
        said = editor.data(draft)
        if said is None:
            st.info("The forms come back when the YAML is well-formed: its problems stand beside it.")
        else:
            forms.show(said)
    with right:
        editor.yaml_side(draft)


def _changed(view: View) -> None:
    rows: tuple[Row, ...] = tuple({"path": path, "was": was, "now": now} for path, was, now in state.changes(view))
    if rows:
        st.header("What was changed", anchor="changes")
        show.table(Table("Changes", CHANGES, rows))


def _assumptions(view: View) -> None:
    domains = documents.catalogue("scenarios/domains")
    for name in view.overrides:
        if name in domains and name not in cached.plain_scenario(view).overrides:
            domain = catalogue.domain(name)
            st.header(escaped(domain.title), anchor=name)
            show.bullets(domain.assumptions)


def _upload() -> None:
    st.header("Use your own", anchor="upload")
    tries = st.session_state.setdefault(TRIES, 0)
    key = f"upload:{tries}"
    st.file_uploader(
        "A scenario as YAML", type=["yaml", "yml"], key=key, on_change=_read, args=(key,),
        help="It opens at once, stays in this tab and travels in its link. One with problems opens as the draft above.",
    )  # fmt: skip


def _read(key: str) -> None:
    """Open the uploaded file as the scenario of the view; one with problems as the draft, to be mended."""
    uploaded = st.session_state[key]
    if uploaded is None:
        return
    st.session_state[TRIES] += 1  # a new key empties the input, so that the mended file can follow
    name = PurePath(uploaded.name).name
    try:
        text = _decoded(uploaded.getvalue(), name)
    except InputError as error:
        st.session_state[session.PROBLEMS] = list(error.problems)
        return
    view = View(scenario=name, text=text)
    try:
        state.scenario(view)
    except CapacityError:
        editor.start(name, text)
        return
    editor.close()
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
