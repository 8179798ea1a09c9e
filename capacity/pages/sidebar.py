"""The sidebar of every page: what is asked, the same question as a command, and the answer to take away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from capacity import documents
from capacity.pages import cached, controls, link, session, state
from capacity.pages.controls import Choice, Quantity, Steps
from capacity.pages.state import View
from capacity.spec.scenario import Scenario

FORMATS = {
    "html": ("HTML report", "text/html", "html"),
    "markdown": ("Markdown", "text/markdown", "md"),
    "csv": ("CSV options", "text/csv", "csv"),
    "json": ("JSON plan", "application/json", "json"),
    "xlsx": ("Workbook", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx"),
    "parquet": ("Parquet", "application/vnd.apache.parquet", "parquet"),
    "focus": ("FOCUS rows", "text/csv", "focus.csv"),
}


def show(view: View, pages: Sequence[st.Page], here: st.Page) -> None:
    """Draw the sidebar for `view` on the page `here`; its links carry the view, its inputs change it and so the URL."""
    with st.sidebar:
        for page in pages:
            st.page_link(page, query_params=link.to_query(view), width="stretch")
        st.divider()
        _scenario(view)
        with session.errors_shown():
            found = cached.scenario(view)
            _inputs(view, found)
            if here.url_path != "hardware":
                hardware(view, "Hardware to compare")
            _downloads(view, found)
            _command(view)


def _scenario(view: View) -> None:
    names = list(dict.fromkeys((*documents.catalogue("scenarios"), state.default().scenario, view.scenario)))
    st.selectbox(
        "Scenario", names, key="scenario", on_change=session.bound("scenario", view.scenario, _opened),
        help="A recommender, its traffic, objective, training and batch work.",
    )  # fmt: skip
    if view.text:
        st.caption("This scenario is your upload; it lives in this tab and in its link.")
    with session.errors_shown():
        st.multiselect(
            "What-ifs and domains", cached.choices(view), key="overrides", placeholder="none",
            help="Named changes, applied from left to right.",
            on_change=session.bound("overrides", list(view.overrides), _overridden),
        )  # fmt: skip


def _opened(view: View, name: str) -> View:
    return view if name == view.scenario else View(scenario=name, against=view.against)


def _overridden(view: View, names: list[str]) -> View:
    return replace(view, overrides=tuple(names))


def _inputs(view: View, found: Scenario) -> None:
    st.markdown("##### Traffic and objective")
    _typed(controls.RATE, found)
    base = cached.plain_scenario(view).traffic.peak_rate
    rates = controls.rate_steps(base, found.traffic.peak_rate)
    _slid(replace(_as_steps(controls.RATE), values=rates), found, hide=True)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        _typed(controls.LATENCY, found)
    with right:
        _chosen(controls.PERCENTILE, found)
    st.markdown("##### Catalogue and text")
    _typed(controls.ITEMS, found)
    left, right = st.columns(2)
    with left:
        _typed(controls.ITEM_TOKENS, found)
    with right:
        _typed(controls.QUERY_TOKENS, found)
    st.markdown("##### Devices and price")
    _chosen(controls.TERM, found)
    with st.expander("Engine, precision, batch, headroom"):
        _slid(controls.HEADROOM, found)
        _slid(controls.MAX_BATCH, found)
        _chosen(controls.ENGINE, found)
        for choice in controls.precisions(found):
            _chosen(choice, found)
    with st.expander("Any other value"):
        _free(view, found)


def _as_steps(quantity: Quantity) -> Steps:
    return Steps(
        path=quantity.path,
        label=quantity.label,
        dimension=quantity.dimension,
        values=(),
        explanation=quantity.explanation,
    )


def _put(path: str, view: View, value: str) -> View:
    return state.put(view, path, value, cached.scenario)


def _typed(quantity: Quantity, found: Scenario) -> None:
    now = state.value_at(found, quantity.path)
    shown = state.written(float(now), quantity.dimension) if isinstance(now, int | float) else str(now)
    key = f"type:{quantity.path}"
    st.text_input(
        quantity.label,
        key=key,
        help=quantity.explanation,
        on_change=session.bound(key, shown, partial(_put, quantity.path)),
    )


def _slid(steps: Steps, found: Scenario, *, hide: bool = False) -> None:
    now = state.value_at(found, steps.path)
    value = float(now) if isinstance(now, int | float) else 0.0

    def put(view: View, chosen: float) -> View:
        return state.put(view, steps.path, state.written(chosen, steps.dimension), cached.scenario)

    key = f"slide:{steps.path}"
    st.select_slider(
        steps.label, options=sorted({*steps.values, value}), key=key, help=steps.explanation,
        format_func=partial(controls.label, dimension=steps.dimension), on_change=session.bound(key, value, put),
        label_visibility="collapsed" if hide else "visible",
    )  # fmt: skip


def _chosen(choice: Choice, found: Scenario) -> None:
    now = str(state.value_at(found, choice.path))
    key = f"choose:{choice.path}"
    edit = partial(_put, choice.path)
    st.selectbox(choice.label, choice.words, key=key, help=choice.explanation, on_change=session.bound(key, now, edit))


def _free(view: View, found: Scenario) -> None:
    mine = controls.others(view.settings, found)

    def edit(view: View, text: str) -> View:
        kept = tuple(setting for setting in view.settings if setting not in mine)
        typed = tuple(line.strip() for line in text.splitlines() if line.strip())
        return replace(view, settings=(*kept, *typed))

    st.text_area(
        "Settings, one path=value a line", placeholder="serving.max_wait=5 ms", height=100,
        help="Any value of the scenario, e.g. serving.stages.rerank.sequences=50 or hardware=[l4, a10g].",
        key="settings", on_change=session.bound("settings", "\n".join(mine), edit),
    )  # fmt: skip


def hardware(view: View, label: str) -> None:
    """Draw the choice of devices to compare: in the sidebar, or on the page that is about it."""
    known = cached.compared(view)

    def edit(view: View, chosen: list[str]) -> View:
        names = tuple(chosen)
        same = names == state.candidates(replace(view, hardware=()), cached.scenario)
        option = view.option if view.option in names else ""
        return replace(view, hardware=() if same else names, option=option)

    st.multiselect(
        label, list(known), format_func=lambda name: known[name].name, placeholder="the scenario's own",
        help="Any of the devices in the catalogue and of your calibrations. Empty: the scenario's own.",
        key="hardware", on_change=session.bound("hardware", list(state.candidates(view, cached.scenario)), edit),
    )  # fmt: skip


def _downloads(view: View, found: Scenario) -> None:
    st.markdown("##### Take it away")
    files: dict[str, tuple[partial[Any], str, str, str]] = {
        kind: (partial(cached.report, view, kind), *form) for kind, form in FORMATS.items()
    }
    files["yaml"] = (partial(cached.scenario_yaml, view), "Scenario YAML", "application/yaml", "yaml")
    columns = st.columns(2)
    for place, (kind, (content, label, mime, suffix)) in enumerate(files.items()):
        columns[place % 2].download_button(
            label, content, file_name=f"{found.id}.{suffix}", mime=mime, on_click="ignore", width="stretch",
            key=f"download:{kind}",
        )  # fmt: skip


def _command(view: View) -> None:
    with st.expander("Share this view, or run it"):
        st.caption("The address of this page carries the whole view. The same question on the command line:")
        st.code(link.command(view), language="bash", wrap_lines=True)
        if view.text and "yaml" not in link.to_query(view):
            st.caption("This scenario is too long for a link: share its YAML file.")
