"""Answers to a view, kept so that a slider answers at once. Frozen objects are shared between sessions, not copied.

Each key holds the day (prices age) and a stamp of the files, so an edited YAML is seen at a click one second later.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st
import yaml

from capacity import catalogue, documents, outlook, planner, validate
from capacity.errors import InputError, Problem
from capacity.money import risk
from capacity.money.forecast import Forecast
from capacity.money.risk import Prospects
from capacity.pages import state
from capacity.pages.answers import Answers
from capacity.pages.state import View
from capacity.plan import Plan
from capacity.report import csv_report, focus, html, json_report, markdown, residuals
from capacity.report.residuals import Points
from capacity.spec.calibration import Calibration, Shared
from capacity.spec.hardware import Hardware
from capacity.spec.scenario import Scenario
from capacity.timing import transfer
from capacity.timing.device import Device

if TYPE_CHECKING:
    from capacity.fleet.levered import Levered
    from capacity.fleet.served import Point, Serving
    from capacity.fleet.simulated import Latency, Simulated

Stamp = tuple[int, int]
DRAWS, SEED = 20_000, 0
"""Futures drawn: as many as `capacity risk` draws unless told otherwise."""
MOST_ROWS, MOST_COLUMNS = 1_000_000, 500
"""Of an uploaded table: larger ones belong to `capacity validate`, whoever uploads them."""
RECORDED = 1000
"""Requests recorded one by one: enough to tell when a mean request enters each stage."""
_LEVERED: Answers[Levered] = Answers(most=30)
KINDS = (
    *documents.KINDS, "scenarios/domains", "model_profiles/retrieval", "convergence", "levers", catalogue.SHIPPED,
    "calibrations",
)  # fmt: skip
"""Folders whose documents an answer depends on."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Predictions held against a table; shared between reruns, so nobody changes it."""

    frame: pd.DataFrame
    """The long format of `capacity.validate.predictions`."""
    figures: Mapping[str, Any]
    """Those of `capacity.validate.summary`."""
    points: Mapping[str, Points]
    """What charts draw, by target."""


def stamp() -> Stamp:
    """Return how many files the catalogues hold and when the newest changed [ns], looked up once a second."""
    return _looked_up(os.environ.get("CAPACITY_PATH", ""), Path.cwd(), int(time.monotonic()))


@lru_cache(maxsize=1)
def _looked_up(roots: str, here: Path, second: int) -> Stamp:
    folders = [folder for kind in KINDS for folder in documents.folders(kind)]
    own = Path(state.default().scenario)  # the file that the operator opens first
    files = [*(path for folder in folders for path in folder.glob("*.*")), *([own] if own.is_file() else [])]
    changed = [path.stat().st_mtime_ns for path in files]
    return len(changed), max(changed, default=0)


def scenario(view: View) -> Scenario:
    """Return the validated scenario of a view."""
    return _scenario(view.question, stamp())


@st.cache_resource(max_entries=200, show_spinner=False)
def _scenario(view: View, at: Stamp) -> Scenario:
    return state.scenario(view)


def plan(view: View) -> Plan:
    """Return the plan of a view: the same that `capacity plan` prints for `link.command(view)`."""
    return _plan(view.question, stamp(), date.today())


@st.cache_resource(max_entries=200, show_spinner=False)
def _plan(view: View, at: Stamp, today: date) -> Plan:
    found = _scenario(view, at)
    given = planner.inputs(found, today=today)
    return planner.plan(found, given, view.hardware or None, (*view.overrides, *view.settings))


def profiles() -> Mapping[str, Hardware]:
    """Return every device of the catalogue and of the user's calibrations, by id."""
    return _profiles(stamp())


@st.cache_resource(max_entries=2, show_spinner=False)
def _profiles(at: Stamp) -> Mapping[str, Hardware]:
    shipped = {name: catalogue.hardware(name) for name in documents.catalogue("hardware_profiles")}
    return shipped | {profile.id: profile for _, profile in _calibrations(at)}


def calibrations() -> list[tuple[Calibration, Hardware]]:
    """Return every calibration with the profile it was measured on."""
    return _calibrations(stamp())


@st.cache_resource(max_entries=2, show_spinner=False)
def _calibrations(at: Stamp) -> list[tuple[Calibration, Hardware]]:
    return catalogue.calibrations()


def shared() -> Shared:
    """Return what holds for all devices until somebody measures."""
    return _shared(stamp())


@st.cache_resource(max_entries=2, show_spinner=False)
def _shared(at: Stamp) -> Shared:
    return catalogue.shared()


def compared(view: View) -> Mapping[str, Hardware]:
    """Return every device a view may compare, by the name it goes by: the catalogue's, and files its scenario names."""
    found = dict(profiles())
    return found | {name: catalogue.hardware(name) for name in state.candidates(view, scenario) if name not in found}


def profile(view: View, hardware: str) -> Hardware:
    """Return the profile with an id, as an option of the plan of `view` names it."""
    return next(item for item in compared(view).values() if item.id == hardware)


def device(view: View, hardware: str) -> Device:
    """Return a device with the efficiencies that the plan of `view` uses for it."""
    return transfer.device(profile(view, hardware), scenario(view).engine, calibrations(), shared())


def choices(view: View) -> list[str]:
    """Return the overrides that a view may switch on: the scenario's own, then the domains, then what is on."""
    own = plain_scenario(view).overrides
    return list(dict.fromkeys((*own, *documents.catalogue("scenarios/domains"), *view.overrides)))


def plain_scenario(view: View) -> Scenario:
    """Return the scenario of a view without its overrides and settings."""
    return scenario(View(scenario=view.scenario, text=view.text))


def scenario_yaml(view: View) -> str:
    """Return the scenario of a view as YAML: its own text where nothing is changed, else all values in one file."""
    if not view.overrides and not view.settings:
        return view.text or documents.read_text(documents.find("scenarios", view.scenario))
    data = state.document(view).data
    head = f"# {view.scenario} with {', '.join((*view.overrides, *view.settings))}\n"
    return head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)


def report(view: View, kind: str) -> str | bytes:
    """Return the report of a view as html, markdown, csv, json, focus, parquet or xlsx."""
    answer = plan(view)
    if kind == "xlsx":
        from capacity.report import xlsx  # noqa: PLC0415  (only a download needs the writer of workbooks)

        return xlsx.render(answer, scenario(view))
    if kind == "parquet":
        from capacity.report import parquet  # noqa: PLC0415  (only a download needs Arrow)

        return parquet.render(answer)
    forms = {
        "html": html.render, "markdown": markdown.render, "csv": csv_report.options, "json": json_report.dumps,
        "focus": focus.render,
    }  # fmt: skip
    return forms[kind](answer)


def validation(content: bytes, name: str, kind: str) -> Validation:
    """Return the predictions for an uploaded table of a kind.

    Raises
    ------
    InputError
        When `content` is no CSV or Parquet table, lacks columns, or holds no rows.
    """
    return _validation(content, name, kind, stamp())


@st.cache_resource(max_entries=4, show_spinner="Predicting every row …")
def _validation(content: bytes, name: str, kind: str, at: Stamp) -> Validation:
    frame = validate.checked(_table(content, name), kind, name)
    context = validate.Context(calibrations=_calibrations(at), shared=_shared(at))
    found = validate.predictions(frame, kind, context)
    wanted = (*residuals.NUMBERS, "hardware")
    targets = {target: found[found["target"] == target] for target in validate.KINDS[kind].targets}
    points = {
        target: residuals.points({column: part[column].to_numpy() for column in wanted})
        for target, part in targets.items()
    }
    return Validation(found, validate.summary(found, kind, len(frame)), points)


def _table(content: bytes, name: str) -> pd.DataFrame:
    """Return the rows of an uploaded file; what is wrong with them is said with the name it was uploaded by."""
    packed = name.casefold().endswith(".parquet")
    rows, columns = _size(content, packed=packed)
    if rows > MOST_ROWS or columns > MOST_COLUMNS:
        what = f"{rows:,} rows of {columns:,} columns are too many; at most {MOST_ROWS:,} of {MOST_COLUMNS}"
        raise InputError([Problem(name, what)])
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"table.{'parquet' if packed else 'csv'}"
        path.write_bytes(content)
        try:
            return validate.read_table(path)
        except InputError as error:
            raise InputError([Problem(name, problem.what) for problem in error.problems]) from None


def _size(content: bytes, *, packed: bool) -> tuple[int, int]:
    """Return how many rows and columns a table has, before it is read: a few bytes of Parquet may say billions."""
    if not packed:
        return content.count(b"\n"), content.partition(b"\n")[0].count(b",") + 1
    import pyarrow as pa  # noqa: PLC0415  (only an upload needs it)
    from pyarrow import parquet  # noqa: PLC0415

    try:
        said = parquet.read_metadata(io.BytesIO(content))
    except (pa.ArrowException, OSError):
        return 0, 0  # reading it will say why
    return int(said.num_rows), int(said.num_columns)


def long_csv(found: Validation) -> str:
    """Return every row with its prediction as CSV."""
    return str(csv_report.neutral_frame(found.frame).to_csv(index=False))


def served(view: View, hardware: str, *, day: bool = False) -> Serving:
    """Return one device of a view simulated at peak, or through a day."""
    return _served(_asked(view), hardware, day, stamp(), date.today())


def _asked(view: View) -> View:
    """Return the part of a view that a simulation depends on."""
    return replace(view.question, option="", hardware=(), requests=view.requests, seed=view.seed)


@st.cache_resource(max_entries=100, show_spinner=False)
def _served(view: View, hardware: str, day: bool, at: Stamp, today: date) -> Serving:
    from capacity import simulation  # noqa: PLC0415  (numba takes a second to import; other pages need none)
    from capacity.fleet.served import REQUESTS, Question  # noqa: PLC0415

    found = _scenario(view.question, at)
    everything = day or found.traffic.trace is not None or bool(found.traffic.load)
    question = Question(
        requests=None if everything else int(view.requests or REQUESTS), seed=int(view.seed or 0), day=day,
        band=not day, keep=RECORDED,
    )  # fmt: skip
    (option,) = simulation.simulated(found, planner.inputs(found, today=today), question, (hardware,))
    return replace(option, result=_lean(option.result), slow=_lean(option.slow), fast=_lean(option.fast))


def _lean(run: Simulated | None) -> Simulated | None:
    """Return a run without its histograms, which take megabytes each and are not drawn."""
    from capacity.fleet.histogram import Histogram  # noqa: PLC0415

    nothing = Histogram.empty(1, 0)

    def bare(latency: Latency) -> Latency:
        return replace(latency, histogram=nothing)

    if run is None:
        return None
    nodes = {name: replace(node, latency=bare(node.latency)) for name, node in run.nodes.items()}
    return replace(run, end_to_end=bare(run.end_to_end), ttft=bare(run.ttft), tpot=bare(run.tpot), nodes=nodes)


def curve(view: View, hardware: str) -> tuple[Point, ...]:
    """Return how the latency of a device's fleet grows with the rate."""
    return _curve(_asked(view), hardware, stamp(), date.today())


@st.cache_resource(max_entries=100, show_spinner=False)
def _curve(view: View, hardware: str, at: Stamp, today: date) -> tuple[Point, ...]:
    from capacity import simulation  # noqa: PLC0415

    found = _scenario(view.question, at)
    option = _served(view, hardware, False, at, today)
    return simulation.curve(found, planner.inputs(found, today=today), option, int(view.seed or 0))


def levered(view: View, hardware: str, *, exact: bool, told: Callable[[str], None] = lambda _: None) -> Levered:
    """Return every lever of a view on one device, alone and together.

    Parameters
    ----------
    told
        Hears what is being planned.
    """
    asked, today = replace(view.question, option="", hardware=()), date.today()
    return _LEVERED.get((asked, hardware, exact, stamp(), today), lambda: _levered(asked, hardware, exact, today, told))


def _levered(view: View, hardware: str, exact: bool, today: date, told: Callable[[str], None]) -> Levered:
    from capacity import levers  # noqa: PLC0415  (other pages need none)

    document, found = state.document(view), scenario(view)
    given = planner.inputs(found, today=today, document=document)
    chosen = [item for item in levers.LEVERS.values() if item.exact or not exact]
    return levers.ranked(document, given, planner.profile(hardware, given), chosen, told)


def ahead(view: View, hardware: str) -> Forecast:
    """Return the coming months of a view on one device, by the hour and by each term with a price."""
    planned = tuple(line for line in view.expect if state.path_of(line).split(".")[0] not in outlook.PRICED_LATER)
    asked = replace(view.question, option="", hardware=(), expect=planned)
    return _ahead(asked, hardware, stamp(), date.today())


@st.cache_resource(max_entries=200, show_spinner=False)
def _ahead(view: View, hardware: str, at: Stamp, today: date) -> Forecast:
    found = _scenario(view.question, at)
    given = planner.inputs(found, today=today)
    changes = (*view.overrides, *view.settings)
    return outlook.ways(found, given, outlook.expected(view.expect), (hardware,), changes)


def prospects(view: View) -> Prospects:
    """Return what may become of a view's months: the same that `capacity risk` prints for `link.risk_command(view)`."""
    return _prospects(replace(view.question, option="", expect=view.expect), stamp(), date.today())


@st.cache_resource(max_entries=50, show_spinner=False)
def _prospects(view: View, at: Stamp, today: date) -> Prospects:
    parts = [ahead(view, name) for name in state.candidates(view)]
    return risk.prospects(outlook.repriced(parts, outlook.expected(view.expect)), DRAWS, SEED)
