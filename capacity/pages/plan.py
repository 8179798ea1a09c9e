"""The first screen: the answer, what it does not know, every option, and the best one taken apart."""

from __future__ import annotations

from datetime import date

import streamlit as st

from capacity import charts
from capacity.pages import cached, picture, session, show
from capacity.pages.state import View
from capacity.plan import Option, Plan
from capacity.report import figures, sentence, unit_costs
from capacity.report import table as tables
from capacity.report.cells import shown
from capacity.units import text

OPTIONS = (
    "name", "devices", "latency_quantile_s", "usd_per_month", "p10_usd_per_month", "p90_usd_per_month",
    "against_best_fraction", "bound", "basis", "missed",
)  # fmt: skip
COST = (
    "group", "name", "quantity", "unit", "unit_price_usd", "usd_per_month", "p10_usd_per_month", "p90_usd_per_month",
    "basis",
)  # fmt: skip
POOLS = (
    "name", "replicas", "spare_replicas", "replicas_p10", "replicas_p90", "devices", "batch_requests",
    "utilization_fraction",
)  # fmt: skip
STAGES = ("name", "time_s", "time_low_s", "time_high_s", "basis", "bound", "work_flop", "moved_bytes")
JOBS = (
    "name", "kind", "devices", "duration_s", "duration_low_s", "duration_high_s", "basis", "every_s", "deadline_s",
    "device_hours_per_month",
)  # fmt: skip


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    plan = cached.plan(view)
    asked = (view.question, cached.stamp(), date.today())
    _overview(*asked)
    st.divider()
    option = session.option_input(plan, view)
    if option is not None:
        _detail(*asked, option.hardware)


@st.cache_resource(max_entries=100, show_spinner=False)
def _overview(view: View, at: cached.Stamp, today: date) -> None:
    """Draw the answer and the options. What is drawn is kept with the plan: drawing takes longer than planning."""
    plan = cached.plan(view)
    show.answer(plan)
    if plan.best:
        _numbers(plan, plan.best)
        show.doubts(sentence.option_caveats(plan, plan.best), f"What this does not know about {plan.best.name}")
    st.header("Options compared", anchor="options")
    show.table(tables.options_table(plan), keep=OPTIONS, best=plan.best is not None)
    if any(map(figures.priced, plan.options)):
        _chart(charts.cost_bars(plan), "cost", 380)


def _chart(figure: charts.Figure, key: str, height: int) -> None:
    figure.update_layout(height=height, title_font_size=14)
    picture.draw(figure, key)


def _numbers(plan: Plan, best: Option) -> None:
    devices, cost, latency, each = st.columns(4)
    low, high = (shown(figures.devices_at(best, end), "whole") for end in ("p10", "p90"))
    with devices:
        show.card(
            "Serving devices", shown(figures.devices(best), "whole"),
            [f"{best.name}; P10 {low} – P90 {high}, spares included"], "Range by the error of the step time.",
        )  # fmt: skip
    low, high = (shown(figures.monthly_usd_at(best, end), "usd") for end in ("p10", "p90"))
    with cost:
        show.card(
            "Cost per month", shown(figures.monthly_usd(best), "usd"), [f"P10 {low} – P90 {high}"],
            "All lines of the bill; range by the error of the step time and by the offers found.",
        )  # fmt: skip
    with latency:
        show.card(
            f"{plan.objective_percentile} latency at peak",
            "unknown" if best.latency_quantile_s is None else text(best.latency_quantile_s, "seconds"),
            [f"objective {text(plan.objective_latency_s, 'seconds')}; at P90 of the step time {_late(best)}"],
            "Forming a batch, waiting and service, at the peak rate.",
        )  # fmt: skip
    with each:
        show.card(
            "USD per 1,000 requests", shown(figures.usd_per_thousand_requests(best), "usd"),
            [f"basis: {best.basis}"], "Monthly cost over the requests of a month.",
        )  # fmt: skip


def _late(option: Option) -> str:
    return shown(figures.latency_at_p90(option), "seconds")


@st.cache_resource(max_entries=100, show_spinner=False)
def _detail(view: View, at: cached.Stamp, today: date, hardware: str) -> None:
    """Draw one option taken apart."""
    plan = cached.plan(view)
    option = next(option for option in plan.options if option.hardware == hardware)
    if option is not plan.best:
        show.doubts(sentence.option_caveats(plan, option), f"What this does not know about {option.name}")
    if option.violations:
        st.header("What it misses", anchor="missed")
        show.table(tables.violation_table(option))
    if option.cost:
        st.header("Monthly bill", anchor="bill")
        show.table(tables.cost_table(option), keep=COST, below=("formula", "source", "flags"))
        st.caption(sentence.energy(option))
        with st.expander("Unit costs"):
            show.table(unit_costs.unit_table(option))
            show.table(unit_costs.use_table(option))
            st.caption(unit_costs.energy(option))
    _serving(plan, option)
    if option.jobs:
        st.header("Training and batch jobs", anchor="jobs")
        show.table(tables.job_table(option), keep=JOBS)
    if option.pools or option.jobs:
        st.header("Memory of one device", anchor="memory")
        _chart(charts.memory_bars(option), "memory", 330)
        with st.expander("Memory by component, with formulas"):
            show.table(tables.memory_table(option))


def _serving(plan: Plan, option: Option) -> None:
    if option.stages:
        st.header("Latency by stage", anchor="latency")
        _chart(charts.latency_bars(option, plan.objective_latency_s), "latency", 380)
        show.table(tables.stage_table(option), keep=STAGES)
        with st.expander("Latency by batch size"):
            show.table(tables.batch_table(option))
    if option.pools:
        st.header("Pools of replicas", anchor="pools")
        show.table(tables.pool_table(option), keep=POOLS)


if __name__ == "__main__":
    with session.errors_shown():
        page()
