"""How sure the answer is: the words, the calibrations in use with their held-out errors, the formulas."""

from __future__ import annotations

import streamlit as st

from capacity.pages import cached, session, show
from capacity.pages.state import View
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
        st.subheader("What the words mean", anchor="words")
        show.table(accuracy.bases_table())
    with right:
        st.subheader("Efficiencies in use", anchor="origins")
        show.table(accuracy.origins_table(plan), height=320)
    option = session.option_input(plan, view)
    if option:
        _errors(option)
        _calibration(option, view)
    st.subheader("Formulas", anchor="formulas")
    show.table(accuracy.formulas_table())


def _errors(option: Option) -> None:
    content = accuracy.errors_table(option)
    if content.rows:
        st.subheader(escaped(f"What makes the times on {option.name} unsure"), anchor="errors")
        show.table(content, height=420)


def _calibration(option: Option, view: View) -> None:
    device = cached.device(view, option.hardware)
    st.subheader(escaped(f"Efficiencies used for {option.name}"), anchor="efficiencies")
    st.caption(escaped(f"From {device.origin}. Errors are those of rows held out of the fit; 0 measurements: assumed."))
    show.table(accuracy.efficiencies_table(device), height=420)
    show.table(accuracy.compositions_table(device))
    for calibration, _ in cached.calibrations():
        if device.origin.startswith(calibration.id):
            with st.expander(f"Where calibration {escaped(calibration.id)} comes from"):
                show.table(accuracy.calibration_table(calibration))
    with st.expander("What holds where nobody measured"):
        st.markdown(escaped(f"{cached.shared().source} ({cached.shared().date})"))


if __name__ == "__main__":
    with session.errors_shown():
        page()
