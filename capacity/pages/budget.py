"""Budget and risk: the coming months of every device and way to buy, how sure they are, and what is regretted least."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from html import escape
from typing import get_args

import streamlit as st

from capacity import charts_money
from capacity.money.risk import Outcome, Prospects
from capacity.outlook import OWNED
from capacity.pages import cached, downloads, link, picture, session, show, state
from capacity.pages.lines import EXPECT
from capacity.pages.state import View
from capacity.report import forecast as report
from capacity.spec.outlook import Commitment, Outlook
from capacity.units import text, usd

_bound = partial(session.bound, check=lambda view: state.outlook_of(view, cached.compared(view)))
NONE = "none"
SOON = 13  # first month on new hardware, until a person says another
# Keys of the outlook that are typed in hundredths: label and explanation.
SHARES = {
    "growth.traffic": ("Growth of traffic [% a month]", "From one month to the next."),
    "price_decline": ("Price decline [% a year]", "Of devices; below 0 they get dearer."),
    "discount_rate": ("Discount rate [% a year]", "Interest at which later money counts less."),
}
OPTIONS = (
    "name", "buying", "usd", "present_usd", "first_usd", "last_usd", "most_cash_usd", "beyond_usd", "left_usd",
    "idle_fraction",
)  # fmt: skip
RISK = (
    "name", "buying", "p10_usd", "p50_usd", "p90_usd", "over_budget_fraction", "any_over_budget_fraction",
    "any_short_fraction", "mean_regret_usd", "p90_regret_usd", "best_fraction",
)  # fmt: skip


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    said = state.outlook_of(view, cached.compared(view))
    st.title("Budget and risk", anchor=False)
    _inputs(view, said)
    found = _prospects(view)
    drawn = "".join(f"<strong>{escape(p.text)}</strong>" if p.strong else escape(p.text) for p in report.pieces(found))
    st.html(f'<div class="cap-answer{"" if found.outcomes else " missed"}">{drawn}</div>')
    if found.outcomes:
        _numbers(found)
    show.doubts(list(report.caveats(found.forecast)), "What to know before trusting it")
    _refused(found)
    if found.outcomes:
        _compared(found)
        _detail(view, found)
    _take_away(view, found)


def _inputs(view: View, said: Outlook) -> None:
    columns = st.columns(5, vertical_alignment="bottom")
    columns[0].number_input(
        "Months", min_value=12, max_value=60, step=6, key="budget-months",
        on_change=_bound("budget-months", said.months, partial(EXPECT.number, "months")),
    )  # fmt: skip
    shares = (said.growth.traffic, said.price_decline, said.discount_rate)
    for column, (key, (label, explanation)), share in zip(columns[1:4], SHARES.items(), shares, strict=True):
        name = f"budget-{key}"
        column.number_input(
            label, step=0.5, key=name, help=explanation,
            on_change=_bound(name, round(100 * share, 6), partial(EXPECT.number, key, parts=100)),
        )  # fmt: skip
    columns[4].number_input(
        "Budget [USD a month]", value=None, min_value=0.0, step=100.0, placeholder="no budget", key="budget-budget",
        help="With one, every probability of exceeding it is told.",
        on_change=_bound("budget-budget", said.budget, partial(EXPECT.number, "budget")),
    )  # fmt: skip
    _bought(view, said)
    with st.expander("Any other value"):
        st.text_area(
            "Expectations, one key=value a line", placeholder="growth.users=0.01", height=100, key="budget-others",
            help="Any value of the outlook, e.g. commitment.upfront=false or utilization_spread={low: 0.6, high: 1.2}.",
            on_change=_bound("budget-others", "\n".join(EXPECT.others(view)), EXPECT.retyped),
        )  # fmt: skip


def _bought(view: View, said: Outlook) -> None:
    """Draw the inputs of terms and of new hardware."""
    columns = st.columns(4, vertical_alignment="bottom")
    terms = (NONE, *get_args(Commitment.model_fields["term"].annotation))
    commitment, refresh = said.commitment, said.refresh
    columns[0].selectbox(
        "Commitment", terms, key="budget-term",
        help="Devices paid for a whole term. Without one, terms with a price are compared at the assumed share.",
        on_change=_bound("budget-term", commitment.term if commitment else NONE, _term),
    )  # fmt: skip
    columns[1].slider(
        "Share committed [%]", min_value=1, max_value=100, key="budget-share", disabled=commitment is None,
        help="Of the device-hours expected in the first month of each term.",
        on_change=_bound(
            "budget-share", max(1, round(100 * commitment.share)) if commitment else 70,
            partial(EXPECT.number, "commitment.share", parts=100),
        ),
    )  # fmt: skip
    names = cached.compared(view)
    columns[2].selectbox(
        "Refresh to", [NONE, *names], format_func=lambda name: names[name].name if name in names else name,
        key="budget-refresh", help="Hardware that takes over.",
        on_change=_bound("budget-refresh", refresh.hardware if refresh else NONE, _refreshed),
    )  # fmt: skip
    columns[3].number_input(
        "from month", min_value=2, max_value=60, step=1, key="budget-refresh-month", disabled=refresh is None,
        on_change=_bound(
            "budget-refresh-month", refresh.month if refresh else SOON, partial(EXPECT.number, "refresh.month")
        ),
    )  # fmt: skip


def _term(view: View, term: str) -> View:
    return EXPECT.drop(view, "commitment") if term == NONE else EXPECT.put(view, {"commitment.term": term})


def _refreshed(view: View, hardware: str) -> View:
    if hardware == NONE:
        return EXPECT.drop(view, "refresh")
    said = state.outlook_of(view, cached.compared(view))
    month = said.refresh.month if said.refresh else min(SOON, said.months)
    return EXPECT.put(view, {"refresh.month": str(month), "refresh.hardware": hardware})


def _prospects(view: View) -> Prospects:
    """Return the prospects of the view, with a bar that says which device is being planned."""
    names, profiles = state.candidates(view), cached.compared(view)
    bar = st.progress(0.0, text=f"planning {len(names)} devices at the loads to come")
    for place, name in enumerate(names):
        bar.progress(place / len(names), text=show.escaped(f"planning {profiles[name].name} at the loads to come"))
        cached.ahead(view, name)
    bar.progress(1.0, text=f"drawing {text(cached.DRAWS, 'count')} futures")
    found = cached.prospects(view)
    bar.empty()
    return found


def _numbers(found: Prospects) -> None:
    best = found.outcomes[0]
    band, months, outlook = best.risk.total, best.option.months, found.forecast.outlook
    cards = st.columns(5)
    with cards[0]:
        show.card(
            f"All {outlook.months} months, P50", usd(band.p50), [f"P10 {usd(band.p10)} – P90 {usd(band.p90)}"],
            f"What accrues on {charts_money.name(best)}, undiscounted; {text(found.draws, 'count')} futures.",
        )  # fmt: skip
    with cards[1]:
        rate = text(outlook.discount_rate, "fraction")
        show.card(
            "Present value", usd(best.option.present_usd), [f"as expected, at {rate} a year"],
            "What the cash of all months is worth today.",
        )  # fmt: skip
    with cards[2]:
        show.card(
            "A month", usd(months[0].accrued_usd), [f"in the first month, {usd(months[-1].accrued_usd)} in the last"],
            "What accrues, as expected.",
        )  # fmt: skip
    with cards[3]:
        over, some = band.over_budget, best.risk.any_over_budget
        show.card(
            "Over the whole budget", "no budget" if over is None else text(over, "fraction"),
            ["set one above" if some is None else f"some month over: {text(some, 'fraction')}"],
            "Probability that all months together cost more than their budgets together.",
        )  # fmt: skip
    with cards[4]:
        show.card(
            "Objective missed", text(best.risk.any_short, "fraction"), ["in some month, if nobody reacts"],
            "Probability that devices ordered for each month's expected load, headroom included, are too few for the "
            "load that comes, or too slow.",
        )  # fmt: skip


def _refused(found: Prospects) -> None:
    refused = [option for option in found.forecast.options if option.refused]
    if refused:
        st.header("What will not do", anchor="refused")
        show.bullets([f"{option.name} ({option.buying}): {option.refused}" for option in refused])
    if not found.outcomes:
        st.info("Choose other devices at the left, or loosen the objective: the page Plan says what each one misses.")


def _compared(found: Prospects) -> None:
    st.header("What is regretted least", anchor="regret")
    outcomes = report.outcome_table(found)
    unknown = () if found.forecast.outlook.budget is not None else ("over_budget_fraction", "any_over_budget_fraction")
    show.table(outcomes, keep=[key for key in RISK if key not in unknown], best=True)
    st.caption("Regret: what an option costs beyond the one that would have been best in the same future.")
    picture.draw(charts_money.totals(found), "budget-totals", charts_money.totals_words(found))
    if found.forecast.outlook.budget is not None:
        picture.draw(charts_money.over_budget(found), "budget-over", charts_money.over_budget_words(found))
    st.header("As expected", anchor="expected")
    show.table(report.options_table(found.forecast), keep=OPTIONS)


def _detail(view: View, found: Prospects) -> None:
    ways = {way(item): item for item in found.outcomes}
    st.divider()
    if view.way not in {"", *ways}:
        st.info(show.escaped(f"Nothing here is called {view.way[:90]}: this is the option regretted least."))
    now = view.way if view.way in ways else next(iter(ways))
    column, _ = st.columns([2, 3])
    column.selectbox(
        "In detail", list(ways), format_func=lambda key: charts_money.name(ways[key]), key="budget-way",
        on_change=session.bound("budget-way", now, lambda view, key: replace(view, way=key)),
    )  # fmt: skip
    item, budget = ways[now], found.forecast.outlook.budget
    picture.draw(charts_money.months(item, budget), "budget-months-chart", charts_money.months_words(item, budget))
    picture.draw(charts_money.tornado(item), "budget-tornado", charts_money.tornado_words(item))
    with st.expander("Every month, as expected"):
        show.table(report.month_table(item.option), height=420)
    with st.expander("Every month, P10 to P90"):
        show.table(report.band_table(item), height=420)


def way(item: Outcome) -> str:
    """Return what the URL calls an option: its device and the term it commits to, or that it is bought."""
    course = item.option.course
    commitment = course.outlook.commitment if course else None
    hourly = OWNED if item.option.buying == OWNED else "hourly"
    return f"{item.option.hardware}:{commitment.term if commitment else hourly}"


def _take_away(view: View, found: Prospects) -> None:
    files = {"json": partial(report.dumps, found)} | ({"csv": partial(report.csv, found)} if found.outcomes else {})
    downloads.draw("forecast", found.forecast.scenario, files, link.risk_command(view))


if __name__ == "__main__":
    with session.errors_shown():
        page()
