"""Any devices side by side: what they are, what the scenario needs on them, or which constraint they miss."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import streamlit as st

from capacity.pages import cached, session, show, sidebar
from capacity.pages.state import View
from capacity.plan import Plan
from capacity.report.devices import devices_table, facts_table
from capacity.report.table import options_table

SHOWN = (
    "name", "devices", "usd_per_month", "p10_usd_per_month", "p90_usd_per_month", "against_best_fraction",
    "latency_quantile_s", "missed", "memory_bytes", "memory_bandwidth_bytes_per_s", "half_flop_per_s", "power_w",
    "bound", "basis", "origin", "missing_price",
)  # fmt: skip


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    plan = cached.plan(view)
    show.answer(plan)
    _presets(view)
    sidebar.hardware(view, "Devices to compare")
    content = devices_table(plan, {item.id: item for item in cached.compared(view).values()})
    st.header(f"{len(plan.options)} devices compared", anchor="devices")
    st.caption(
        f"Click a heading to sort. {show.NOTHING}: no fleet meets the objective, or nobody published the number."
    )
    show.sortable(content, SHOWN)
    _missed(plan)
    _facts(plan, view)


def _presets(view: View) -> None:
    groups: dict[str, tuple[str, ...]] = {"The scenario's own": ()}
    known = cached.profiles()
    groups[f"All {len(known)}"] = tuple(known)
    for kind, label in (("gpu", "GPUs"), ("accelerator", "Accelerators"), ("cpu", "CPUs")):
        groups[label] = tuple(name for name, profile in known.items() if profile.kind == kind)
    for column, (label, names) in zip(st.columns(len(groups)), groups.items(), strict=True):
        edit = partial(_compare, names)
        column.button(label, key=f"preset:{label}", on_click=session.change, args=(edit,), width="stretch")


def _compare(names: tuple[str, ...], view: View) -> View:
    return replace(view, hardware=names, option="")


def _missed(plan: Plan) -> None:
    missed = [option for option in plan.options if not option.feasible]
    if missed:
        with st.expander(f"Why {len(missed)} of {len(plan.options)} devices are infeasible", expanded=len(missed) < 6):
            show.table(options_table(replace(plan, options=tuple(missed))), keep=("name", "missed"))


def _facts(plan: Plan, view: View) -> None:
    option = session.option_input(plan, view)
    if option is None:
        return
    profile = cached.profile(view, option.hardware)
    st.caption(f"Profile {profile.id}. Rates are dense, never sparse; what nobody could source is unknown, never 0.")
    show.table(facts_table(profile))


if __name__ == "__main__":
    with session.errors_shown():
        page()
