"""Calibration and accuracy: what a device's numbers come from, how wrong they were, and how wrong they are for you."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import streamlit as st

from capacity import charts, charts_accuracy
from capacity.errors import InputError
from capacity.pages import cached, picture, session, show, state
from capacity.pages.cached import Validation
from capacity.pages.state import View
from capacity.report import accuracy, curves, kernels, residuals
from capacity.report.cells import Table
from capacity.report.markdown import escaped
from capacity.spec.hardware import Hardware
from capacity.timing.device import Device
from capacity.timing.kernel import Key
from capacity.validate import KINDS

BASIS = (
    "Errors are |predicted ÷ measured − 1| of single launches on shapes held out of the fit, as shares; for a family "
    "that was carried over, the largest of its relatives' on their own devices. A band of × or ÷ 1.3 says that 90 % of "
    "launches take between the prediction ÷ 1.3 and the prediction × 1.3; what carrying over costs is in it, by "
    "leaving whole devices out. Click a heading to sort."
)
UPLOAD = (
    "One row a measurement; the columns stand below. It is predicted on this server, kept for this tab only, and does "
    "not travel in the link."
)


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    st.header("Calibration and accuracy", anchor=False)
    hardware = _hardware(view)
    device = cached.device(view, hardware.id)
    known = kernels.origins(hardware, cached.calibrations())
    st.markdown(escaped(kernels.summary(device, known)))
    with session.errors_shown():
        _provenance(device, known)
        _families(device, known)
        _kernel(view, device, list(known))
        _others(device)
    with session.errors_shown():
        _own_table(view)


def _hardware(view: View) -> Hardware:
    names = cached.compared(view)
    first = next(iter(state.candidates(view, cached.scenario)))
    now = next(name for name in (view.device, view.option, first) if name in names)
    column, _ = st.columns([2, 3])
    column.selectbox(
        "Hardware", list(names), format_func=lambda name: names[name].name, key="device",
        on_change=session.bound("device", now, lambda view, name: replace(view, device=name)),
    )  # fmt: skip
    return names[now]


def _provenance(device: Device, known: dict[Key, kernels.Origin]) -> None:
    st.header("Where its numbers come from", anchor="provenance")
    pairs = cached.calibrations()
    content = kernels.provenance_table(device, known, pairs, cached.shared())
    keep = [column.key for column in content.columns if column.key != "source"]
    show.table(content, keep=keep, below=("source",), height=420)
    for calibration, profile in pairs:
        if profile.id == device.hardware.id:
            with st.expander(f"All about {escaped(calibration.id)}"):
                show.table(accuracy.calibration_table(calibration))


def _families(device: Device, known: dict[Key, kernels.Origin]) -> None:
    st.header("Kernel families", anchor="families")
    if not known:
        st.caption(escaped(f"None is known for {device.hardware.name}: what is assumed stands below."))
        return
    st.caption(escaped(BASIS))
    show.sortable(kernels.families_table(device, known))


def _kernel(view: View, device: Device, known: list[Key]) -> None:
    """Draw the band and the times of one kernel family."""
    keys = {kernels.identifier(key): key for key in known}
    if not keys:
        return
    st.header("One family in detail", anchor="family")
    now = view.kernel if view.kernel in keys else next(iter(keys))
    if view.kernel not in {"", now}:
        said = f"{device.hardware.name} has no kernel family {view.kernel[:90]}: this is {now}."
        st.info(escaped(said))
    column, _ = st.columns([2, 3])
    column.selectbox(
        "Kernel family", list(keys), format_func=lambda name: curves.name(keys[name]), key="kernel",
        on_change=session.bound("kernel", now, lambda view, name: replace(view, kernel=name)),
    )  # fmt: skip
    key = keys[now]
    left, right = st.columns(2, gap="large")
    with left:
        _chart(charts_accuracy.band(curves.band(key, device.kernels[key])), "band")
        st.caption(escaped("Straight between knots in ln(time). Sizes unlike those measured get more: see the times."))
    with right, session.errors_shown():
        found = curves.curve(key, device.kernels[key], device.hardware)
        if found is None:
            st.caption(escaped(f"No usual size to draw the time of {key[0]} against."))
        else:
            _chart(charts_accuracy.curve(found), "curve")
            st.caption(escaped("Data that stay in a cache may take less than the datasheet's bandwidth would allow."))


def _others(device: Device) -> None:
    """Draw what answers where no kernel family does, and what running a whole model adds."""
    with st.expander("Operations without a kernel family, and whole models"):
        said = f"From {device.origin}. Errors are those of rows held out of the fit; 0 measurements: assumed."
        st.caption(escaped(said))
        show.table(accuracy.efficiencies_table(device), height=420)
        show.table(accuracy.compositions_table(device))


def _own_table(view: View) -> None:
    """Draw the upload of a measurement table, and predictions against it."""
    st.header("Predicted against your own measurements", anchor="validate")
    left, right = st.columns([2, 3], gap="large")
    kind = view.kind or next(iter(KINDS))
    with left:
        st.selectbox(
            "Kind of measurement", list(KINDS), key="kind",
            on_change=session.bound("kind", kind, lambda view, name: replace(view, kind=name)),
        )  # fmt: skip
    with right:
        uploaded = st.file_uploader("A table as CSV or Parquet", type=["csv", "parquet"], key="table", help=UPLOAD)
    st.caption(escaped(_columns(kind)))
    if uploaded is None:
        return
    try:
        found = cached.validation(uploaded.getvalue(), uploaded.name, kind)
    except InputError as error:
        lines = "\n".join(f"- {escaped(str(problem))}" for problem in error.problems)
        st.error(f"This is no table of kind {escaped(kind)} that can be used:\n\n{lines}")
        return
    _errors(found)
    target = KINDS[kind].targets[0]
    if len(KINDS[kind].targets) > 1:
        target = left.selectbox("Target", KINDS[kind].targets, key="target")
    _residuals(found, target)
    left.download_button(
        "Every row with its prediction (CSV)", partial(cached.long_csv, found), file_name=f"{kind}-predictions.csv",
        mime="text/csv", on_click="ignore", key="download:predictions",
    )  # fmt: skip


def _columns(kind: str) -> str:
    """Return which columns a kind of table has, in words."""
    wanted = KINDS[kind]
    said = f"Kind {kind} needs the columns {', '.join(wanted.columns)}; it measures {', '.join(wanted.targets)}"
    may = (*wanted.optional_names, *wanted.optional, *wanted.twins)
    return f"{said}; it may have {', '.join(may)}." if may else f"{said}."


def _errors(found: Validation) -> None:
    show.sortable(residuals.errors_table(found.figures))
    refused: Table = residuals.refused_table(found.figures)
    if refused.rows:
        show.table(refused, height=260)


def _residuals(found: Validation, target: str) -> None:
    points, unit = found.points[target], residuals.unit(target)
    st.caption(escaped(f"{target}: {points.said}."))
    if points.usable:
        left, right = st.columns(2, gap="large")
        with left:
            _chart(charts.predicted_measured(points.drawn, unit), "agreement")
        with right:
            _chart(charts_accuracy.residuals(points, unit), "residuals")


def _chart(figure: charts.Figure, key: str, height: int = 430) -> None:
    figure.update_layout(height=height, title_font_size=14)
    picture.draw(figure, key)


if __name__ == "__main__":
    with session.errors_shown():
        page()
