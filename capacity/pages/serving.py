"""Serving, simulated: the answer with queues, bursts and failures in it, and where the time of a request goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from html import escape
from typing import Any

import streamlit as st

from capacity import charts, charts_serving, simulation
from capacity.fleet.served import REQUESTS, Question, Serving
from capacity.pages import cached, downloads, link, picture, session, show, state
from capacity.pages.state import View
from capacity.report import serving as tables
from capacity.report import serving_files, serving_json, serving_sentence
from capacity.report.serving import Answer
from capacity.spec.scenario import DAY_S, Scenario
from capacity.units import text

OPTIONS = (
    "name", "devices", "replicas", "latency_quantile_s", "latency_quantile_low_s",
    "latency_quantile_high_s", "without_spare_s", "usd_per_hour", "usd_per_thousand_recommendations",
    "against_best_fraction", "bound", "basis", "verdict",
)  # fmt: skip
RUNS = (2_000, 5_000, 10_000, 20_000, REQUESTS, 100_000, 200_000)
MOST_OF_A_DAY = 10_000_000  # requests up to which the page simulates a day: some ten seconds
DETAIL = "serving-option"


def page() -> None:
    """Draw the page for the view of this session."""
    view = session.current()
    found = cached.scenario(view)
    _inputs(view, found)
    options = tuple(sorted(_simulated(view), key=simulation.rank))
    answer = Answer(
        scenario=found, question=_question(view), options=options, changes=(*view.overrides, *view.settings),
        date=date.today().isoformat(),
    )  # fmt: skip
    _sentence(answer)
    st.header("Options simulated", anchor="simulated")
    show.table(tables.options_table(answer), keep=OPTIONS, best=answer.best is not None)
    _downloads(answer, view)
    option = _in_detail(answer, view)
    if option is None:
        return
    if option.result is None:
        st.warning(show.escaped(f"{option.name} was not simulated: {option.refused}"))
        return
    _curve(view, option, found)
    _detail(answer, _through_the_day(view, option, found) if view.day else option)


def _question(view: View) -> Question:
    return Question(requests=int(view.requests or REQUESTS), seed=int(view.seed or 0))


def _inputs(view: View, found: Scenario) -> None:
    columns = st.columns([3, 1, 2, 2], vertical_alignment="bottom")
    now = int(view.requests or REQUESTS)
    columns[0].select_slider(
        "Requests simulated", options=sorted({*RUNS, now}), key="serving-requests", format_func=_count,
        help="More requests make the tail surer and take longer.",
        on_change=session.bound("serving-requests", now, partial(_chosen, "requests", REQUESTS)),
    )  # fmt: skip
    columns[1].number_input(
        "Seed", min_value=0, max_value=state.NUMBERS["seed"][1], step=1, key="serving-seed",
        help="The same seed gives the same run.",
        on_change=session.bound("serving-seed", int(view.seed or 0), partial(_chosen, "seed", 0)),
    )  # fmt: skip
    columns[2].number_input(
        f"Objective: {found.objective.percentile} [ms]", min_value=0.001, key="serving-objective",
        on_change=session.bound("serving-objective", 1e3 * found.objective.latency, _limited),
    )  # fmt: skip
    columns[3].toggle(
        "A whole day", key="serving-day", help="The device in detail follows the rate of a day instead of its peak.",
        on_change=session.bound("serving-day", bool(view.day), lambda view, on: replace(view, day="1" if on else "")),
    )  # fmt: skip
    with st.expander("Fixed replicas"):
        pools = list(dict.fromkeys(stage.pool for stage in found.serving.stages))
        for column, name in zip(st.columns(len(pools)), pools, strict=True):
            key = f"serving-replicas:{name}"
            fixed = found.serving.pool(name).replicas or 0
            column.number_input(
                f"{name} (0: as many as needed)", min_value=0, step=1, key=key,
                on_change=session.bound(key, fixed, partial(_fixed, name)),
            )  # fmt: skip


def command(view: View) -> str:
    """Return the command line that simulates `view` without a dashboard.

    Examples
    --------
    >>> command(View(scenario="a", hardware=("t4",), seed="7", day="1"))
    'capacity simulate a --hardware t4 --seed 7 --day'
    """
    numbers = {"--requests": "" if view.day else view.requests, "--seed": view.seed}
    flags = [f"{flag} {value}" for flag, value in numbers.items() if value] + ["--day"] * bool(view.day)
    return " ".join([link.command(view).replace("capacity plan", "capacity simulate", 1), *flags])


def _count(value: int) -> str:
    return text(value, "count")


def _chosen(name: str, usual: int, view: View, value: int) -> View:
    chosen: dict[str, Any] = {name: "" if value == usual else str(value)}
    return replace(view, **chosen)


def _limited(view: View, milliseconds: float) -> View:
    return state.put(view, "objective.latency", state.written(round(milliseconds / 1e3, 9), "seconds"))


def _fixed(pool: str, view: View, count: int) -> View:
    """Return the view with a pool's replicas fixed, or free again."""
    path = f"serving.pools.{pool}.replicas"
    if count:
        return state.put(view, path, str(count))
    free = replace(view, settings=tuple(line for line in view.settings if state.path_of(line) != path))
    return state.put(free, path, "null") if state.scenario(free).serving.pool(pool).replicas else free


def _simulated(view: View) -> list[Serving]:
    """Return every device of the view simulated, with a bar that says how far it is."""
    names = state.candidates(view)
    ready = "" if simulation.compiled() else "compiling the event engine, once on this machine: some 20 s; "
    bar = st.progress(0.0, text=f"{ready}simulating {len(names)} devices")
    found = []
    for place, name in enumerate(names, start=1):
        found.append(cached.served(view, name))
        bar.progress(place / len(names), text=f"simulated {show.escaped(found[-1].name)}")
    bar.empty()
    return found


def _sentence(answer: Answer) -> None:
    parts = serving_sentence.pieces(answer)
    drawn = "".join(f"<strong>{escape(part.text)}</strong>" if part.strong else escape(part.text) for part in parts)
    st.html(f'<div class="cap-answer{"" if answer.best else " missed"}">{drawn}</div>')


def _downloads(answer: Answer, view: View) -> None:
    files = {"json": partial(serving_json.dumps, answer), "csv": partial(serving_files.csv, answer)}
    downloads.draw("simulation", answer.scenario.id, files, command(view))


def _in_detail(answer: Answer, view: View) -> Serving | None:
    """Draw the choice of the device shown in detail, and return it."""
    options = {option.hardware: option for option in answer.options}
    if not options:
        return None
    first = answer.options[0].hardware

    def edit(view: View, name: str) -> View:
        return replace(view, option="" if name == first else name)

    column, _ = st.columns([2, 3])
    now = view.option if view.option in options else first
    column.selectbox(
        "In detail", list(options), format_func=lambda name: options[name].name, key=DETAIL,
        on_change=session.bound(DETAIL, now, edit),
    )  # fmt: skip
    return options[now]


def _curve(view: View, option: Serving, found: Scenario) -> None:
    with st.spinner("Drawing latency against load …"):
        points = cached.curve(view, option.hardware)
    _charts([charts_serving.latency_curve(points, found.objective, option.name)], "curve")


def _through_the_day(view: View, option: Serving, found: Scenario) -> Serving:
    """Return the option through a day, or as it was where the day is too long for a page."""
    requests = found.traffic.peak_rate * found.traffic.mean_to_peak * DAY_S / option.share
    if requests > MOST_OF_A_DAY:
        said = f"A day has {text(requests, 'count')} requests, more than this page simulates ({_count(MOST_OF_A_DAY)})."
        st.info(f"{said} The peak is shown; on the command line: `{command(view)}`")
        return option
    with st.spinner(f"Simulating a day: {text(requests, 'count')} requests …"):
        return cached.served(view, option.hardware, day=True)


def _detail(answer: Answer, option: Serving) -> None:
    said = (serving_sentence.kept_up(option), *serving_sentence.caveats(answer, option))
    show.doubts(said, f"How the run of {option.name} went")
    _charts(charts_serving.drawn(option, answer.scenario.objective), "run")
    for part in tables.detail_tables(option):
        narrow = tables.with_errors(part) if part.title == "Latency" else tables.told(part)
        st.header(narrow.title, anchor=part.title.replace(" ", "-").casefold())
        show.table(narrow)


def _charts(drawn: Sequence[charts.Figure], key: str) -> None:
    """Draw figures, each with what it shows in words below it."""
    for place, figure in enumerate(drawn):
        picture.draw(figure, f"serving-{key}-{place}")
        st.caption(show.escaped(charts_serving.alt(figure)))


if __name__ == "__main__":
    with session.errors_shown():
        page()
