"""Compare: this view beside the scenario as it stands, or a baseline kept before, and beside other overrides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import streamlit as st

from capacity import charts_money
from capacity.errors import CapacityError
from capacity.pages import cached, link, picture, session, show, state
from capacity.pages.state import View
from capacity.report import comparison, csv_report, json_report, variants
from capacity.report.cells import Column, Row, Table
from capacity.report.comparison import OptionChange
from capacity.report.variants import Variant

BASELINE, HERE, BEST = "Baseline", "This view", "the best of each"
CHANGES = (Column("path", "Value"), Column("was", BASELINE), Column("now", HERE))
LINES = (
    "group", "name", "old_usd_per_month", "new_usd_per_month", "delta_usd_per_month", "delta_fraction",
    "by_quantity_usd_per_month", "by_price_usd_per_month",
)  # fmt: skip


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    st.title("Compare", anchor=False)
    baseline = _baseline(view)
    _choices(view, baseline)
    columns = list(_variants(view, baseline))
    if len(columns) == 1:
        st.info("Nothing differs from the baseline: change an input at the left, or choose what-ifs to set beside it.")
    st.header("Side by side", anchor="side-by-side")
    show.table(variants.side_by_side(columns))
    st.caption("In brackets: the change against the baseline, the first column.")
    picture.draw(charts_money.bills(columns), "compare-bills", charts_money.bills_words(columns))
    if same(view) != same(baseline):
        _changed(view, baseline)
        _why(view, baseline)
    _take_away(view, columns)


def same(view: View) -> View:
    """Return the part of a view that its plan depends on."""
    return replace(view.question, option="")


def _baseline(view: View) -> View:
    """Return the view that is kept as the baseline, or the scenario as it stands on the same devices."""
    plain = View(scenario=view.scenario, text=view.text, hardware=view.hardware)
    if not view.against:
        return plain
    asked, problems = link.kept(view.against)
    if not problems:
        asked, problems = state.checked(asked, cached.profiles())
    for problem in problems:
        st.error(show.escaped(f"Baseline: {problem}"))
    return plain if problems else asked


def _choices(view: View, baseline: View) -> None:
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    names = [name for name in cached.choices(view) if name not in view.overrides]
    left.multiselect(
        "What-ifs side by side, each on top of this view", names, key="compare-beside", placeholder="none",
        max_selections=state.MOST_BESIDE, help=f"Overrides of the scenario and domains, up to {state.MOST_BESIDE}.",
        on_change=session.bound(
            "compare-beside", [name for name in view.beside if name in names],
            lambda view, names: replace(view, beside=tuple(names)),
        ),
    )  # fmt: skip
    plan, before = cached.plan(view), cached.plan(baseline)
    options = {option.hardware: option.name for found in (plan, before) for option in found.options}
    right.selectbox(
        "Compared on", ["", *options], format_func=lambda name: options.get(name, BEST), key="compare-option",
        on_change=session.bound(
            "compare-option", view.option if view.option in options else "",
            lambda view, name: replace(view, option=name if name in state.candidates(view) else ""),
        ),
    )  # fmt: skip
    told = "a view kept before" if view.against else "the scenario as it stands, on the same devices"
    st.caption(show.escaped(f"Baseline: {told}: {link.command(baseline)}"))
    keep, back, _ = st.columns([2, 2, 3])
    keep.button(
        "Keep this view as the baseline", key="compare-keep", width="stretch", on_click=session.change,
        args=(lambda view: replace(view, against=link.keep(view)),),
    )  # fmt: skip
    back.button(
        "Back to the scenario as it stands", key="compare-back", width="stretch", disabled=not view.against,
        on_click=session.change, args=(lambda view: replace(view, against=""),),
    )  # fmt: skip


def _variants(view: View, baseline: View) -> Iterator[Variant]:
    """Yield the baseline, the view where it differs, and each what-if; one that is refused is told and left out."""
    wanted = {BASELINE: baseline, HERE: view} if same(view) != same(baseline) else {BASELINE: baseline}
    wanted |= {name: _with(view, name) for name in view.beside if name not in view.overrides}
    with st.spinner(f"Planning {len(wanted)} variants …"):
        for name, asked in wanted.items():
            try:
                plan = cached.plan(asked)
            except CapacityError as error:
                st.error(show.escaped(f"{name} is left out: {error}"))
            else:
                if name in view.beside and not state.changes(asked, view):
                    said = f"{name} changes nothing here: a value set at the left wins over what it says."
                    st.caption(show.escaped(said))
                yield Variant.of(name, plan, view.option)


def _with(view: View, name: str) -> View:
    return replace(view, overrides=(*view.overrides, name))


def _changed(view: View, baseline: View) -> None:
    rows: tuple[Row, ...] = tuple(
        {"path": path, "was": was, "now": now} for path, was, now in state.changes(view, baseline)
    )
    st.header("What was changed", anchor="changes")
    if rows:
        show.table(Table("Changes", CHANGES, rows), height=420)
    if view.hardware != baseline.hardware:
        pair = [", ".join(state.candidates(asked)) for asked in (baseline, view)]
        st.caption(show.escaped(f"Devices compared: {pair[0]} → {pair[1]}."))


def _why(view: View, baseline: View) -> None:
    """Draw every device before and now, and what moved the bill of one."""
    plan = cached.plan(view)
    found = comparison.compare(json_report.to_dict(cached.plan(baseline)), json_report.to_dict(plan))
    st.header("Every device, before and now", anchor="devices")
    show.table(comparison.totals_table(found))
    shown = view.option or (plan.best.hardware if plan.best else "")
    option: OptionChange | None = next((item for item in found.options if item.hardware == shown), None)
    if option is None or not option.lines:
        return
    st.header(show.escaped(f"What moved the bill of {option.name}"), anchor="lines")
    show.table(comparison.groups_table(option))
    lines = comparison.lines_table(option)
    if lines.rows:
        st.caption("Each line split: more of it at the old price, and the new quantity at the new price.")
        show.table(lines, keep=LINES)


def _take_away(view: View, columns: list[Variant]) -> None:
    st.download_button(
        "Comparison CSV", partial(csv_report.dumps, variants.measures_table(columns)),
        file_name=f"{view.scenario}-compared.csv", mime="text/csv", on_click="ignore", key="download:comparison",
    )  # fmt: skip
    if not view.against and (view.overrides or view.settings):
        with st.expander("The same on the command line"):
            said = link.command(view).replace("capacity plan", "capacity compare", 1)
            st.code(said, language="bash", wrap_lines=True)


if __name__ == "__main__":
    with session.errors_shown():
        page()
