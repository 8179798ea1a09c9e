"""Training and batch: what each recurring job takes, how devices share a step, and what its memory holds."""

from __future__ import annotations

import streamlit as st

from capacity import charts, charts_jobs
from capacity.pages import cached, picture, session, show
from capacity.plan import Option
from capacity.report import table as tables
from capacity.report import training as runs

JOBS = (
    "name", "kind", "devices", "duration_s", "duration_low_s", "duration_high_s", "every_s", "device_hours_per_month",
    "note",
)  # fmt: skip


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    plan = cached.plan(view)
    found = cached.scenario(view)
    if not (found.training or found.batch):
        st.info("This scenario has no training and no batch jobs: add some under `training:` or `batch:` of its file.")
        return
    option = session.option_input(plan, view)
    if option is None:
        return
    if not option.jobs:
        missed = "; ".join(miss.constraint for miss in option.violations)
        st.warning(show.escaped(f"{option.name} cannot run these jobs: {missed}"))
        return
    st.header("Recurring jobs", anchor="jobs")
    show.table(tables.job_table(option), keep=JOBS)
    _steps(option)
    st.header("Memory of one device", anchor="memory")
    picture.draw(charts.memory_bars(option), "training-memory")
    with st.expander("Memory by component, with formulas"):
        show.table(tables.memory_table(option))


def _steps(option: Option) -> None:
    """Draw the steps of training jobs: layout, utilization, and where their time goes."""
    whole = runs.training_table(option)
    if not whole.rows:
        return
    st.header("Training steps", anchor="steps")
    show.table(whole)
    parts = runs.parts_table(option)
    if not parts.rows:
        st.caption("Steps on this device are timed as a whole: where their time goes is not told.")
        return
    picture.draw(charts_jobs.step_bars(option), "training-steps")
    st.caption(show.escaped(charts_jobs.step_words(option)))
    with st.expander("Every part of a step"):
        show.table(parts)
    st.caption(
        "MFU: model FLOP ÷ (time × dense peak of the products' dtype), masked pairs of causal attention left out; HFU "
        "also counts what is computed twice. Wall time is longer than steps × time by failures and checkpoints."
    )


if __name__ == "__main__":
    with session.errors_shown():
        page()
