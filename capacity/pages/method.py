"""How sure the answer is: the words, what makes its times unsure, the formulas. Calibrations: the page `accuracy`."""

from __future__ import annotations

import streamlit as st

from capacity.pages import cached, session, show
from capacity.plan import Option
from capacity.report import accuracy
from capacity.report.markdown import escaped


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    plan = cached.plan(view)
    show.answer(plan)
    left, right = st.columns(2, gap="large")
    with left:
        st.header("What the words mean", anchor="words")
        show.table(accuracy.bases_table())
    with right:
        st.header("Efficiencies in use", anchor="origins")
        show.table(accuracy.origins_table(plan), height=320)
    option = session.option_input(plan, view)
    if option:
        _errors(option)
    _assumed()
    st.header("Formulas", anchor="formulas")
    show.table(accuracy.formulas_table())


def _errors(option: Option) -> None:
    content = accuracy.errors_table(option)
    if content.rows:
        st.header(escaped(f"What makes the times on {option.name} unsure"), anchor="errors")
        show.table(content, height=420)


def _assumed() -> None:
    with st.expander("What holds where nobody measured"):
        st.markdown(escaped(f"{cached.shared().source} ({cached.shared().date})"))


if __name__ == "__main__":
    with session.errors_shown():
        page()
