"""`capacity simulate`: a scenario's serving as the event engine plays it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from capacity import catalogue, documents, files, planner, references
from capacity.commands.planning import Request, console, rich_table
from capacity.errors import InputError, Problem
from capacity.spec.scenario import Scenario

if TYPE_CHECKING:
    from capacity.report.cells import Table
    from capacity.report.serving import Answer

FORMATS = ("json", "csv", "md", "html")
SHOWN = {
    "Options": (
        "name", "devices", "replicas", "latency_quantile_s", "latency_quantile_low_s", "latency_quantile_high_s",
        "usd_per_hour", "usd_per_thousand_recommendations", "basis",
    ),
    "The run": (
        "requests", "share_of_fleet", "offered_per_s", "throughput_per_s", "goodput_fraction", "goodput_error_fraction",
        "state",
    ),
    "Pools of replicas": (
        "name", "replicas", "spare_replicas", "closed_form_replicas", "floor_replicas", "utilization_fraction",
        "busy_fraction", "mean_batch", "kv_mean_fraction", "kv_most_fraction",
    ),
}  # fmt: skip
"""Columns that fit on a terminal; the files show all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to simulate, and what to do with the answer.

    Attributes
    ----------
    requests
        Requests of a run; None: the engine's default, or all of a trace or schedule.
    trace
        File of requests to replay.
    replicas
        Fixed replicas as POOL=N.
    output
        File to write; its ending says the format.
    """

    requests: int | None = None
    seed: int = 0
    day: bool = False
    size: bool = True
    trace: Path | None = None
    replicas: tuple[str, ...] = ()
    output: Path | None = None
    as_json: bool = False


def simulate(request: Request, wish: Wish) -> int:
    """Print or write how a scenario's fleet serves; exit 1 when no option holds the objective."""
    _checked(wish)
    asked = replace(request, settings=(*request.settings, *_settings(wish)))
    with _told() as tell:
        found = _answer(asked, wish, tell)
    if wish.output is not None:
        files.write_text(wish.output, rendered(found, wish.output.suffix.removeprefix(".")))
        console(stderr=True).print(f"wrote {wish.output}", markup=False)
    if wish.as_json:
        print(rendered(found, "json"), end="")
    elif wish.output is None:
        _print(found)
    return 0 if found.best else 1


def _checked(wish: Wish) -> None:
    """Refuse flags that contradict each other, before anything is computed."""
    if wish.output is not None and wish.output.suffix.removeprefix(".") not in FORMATS:
        raise InputError([Problem(f"--output {wish.output}", f"names no format; end it in .{', .'.join(FORMATS)}")])
    if wish.day and wish.trace is not None:
        raise InputError("--day and --trace name two loads; give one")
    if wish.day and wish.requests is not None:
        raise InputError("--day simulates all requests of a day; it goes without --requests")


def _settings(wish: Wish) -> Iterator[str]:
    """Yield the settings of the scenario that flags stand for."""
    if wish.trace is not None:
        yield f"traffic.trace={wish.trace}"
    for said in wish.replicas:
        pool, _, count = said.partition("=")
        if not pool or not count.isdecimal() or int(count) < 1:
            raise InputError([Problem("--replicas", f"{said!r} is not POOL=N, e.g. online=3")])
        yield f"serving.pools.{pool}.replicas={count}"


@contextmanager
def _told() -> Iterator[Callable[[str], None]]:
    """Show what is being done while it is, on a terminal only."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda _: None
        return
    with screen.status("reading the scenario") as status:
        yield status.update


def _answer(request: Request, wish: Wish, tell: Callable[[str], None]) -> Answer:
    document = catalogue.scenario_document(request.scenario, request.overrides, request.settings)
    scenario = documents.validated(document, Scenario)
    given = planner.inputs(scenario, request.calibrations, request.today, document)
    if not request.hardware:
        references.devices(scenario, document, partial(planner.profile, given=given))
    tell("loading the event engine")
    from capacity import simulation
    from capacity.fleet import served
    from capacity.fleet.arrivals import Trace
    from capacity.report.serving import Answer

    if scenario.traffic.trace is not None:
        Trace.read(scenario.traffic.trace)  # what is wrong in the file is said at its place, once
    if not simulation.compiled():
        tell("compiling the event engine, once on this machine: some 20 s")
    told = scenario.traffic.trace is not None or bool(scenario.traffic.load)
    requests = wish.requests if wish.requests is not None or told else served.REQUESTS
    question = served.Question(
        requests=None if wish.day else requests, seed=wish.seed, day=wish.day, size=wish.size,
        progress=tell if simulation.compiled() else None,
    )  # fmt: skip
    options = simulation.simulated(scenario, given, question, request.hardware or None)
    return Answer(
        scenario=scenario, question=question, options=options, changes=(*request.overrides, *request.settings),
        date=request.today.isoformat(),
    )  # fmt: skip


def rendered(found: Answer, format_: str) -> str:
    """Return a simulation in one of `FORMATS`."""
    from capacity.report import serving_files, serving_json

    writers: dict[str, Callable[[Answer], str]] = {
        "json": serving_json.dumps, "csv": serving_files.csv, "md": serving_files.markdown, "html": serving_files.html,
    }  # fmt: skip
    return writers[format_](found)


def _narrow(content: Table) -> Table:
    """Return a table without the columns that do not fit a terminal, or say nothing."""
    from capacity.report import serving

    keep = SHOWN.get(content.title.rpartition(": ")[2])
    hidden = [column.key for column in content.columns if keep and column.key not in keep]
    return serving.told(content.without(*hidden))


def _print(found: Answer) -> None:
    from rich.markup import escape

    from capacity.report import serving, serving_sentence

    screen = console()
    parts = serving_sentence.pieces(found)
    said = "".join(f"[bold]{escape(part.text)}[/bold]" if part.strong else escape(part.text) for part in parts)
    screen.print(said, soft_wrap=True)
    screen.print()
    tables = [serving.options_table(found)]
    shown = next((option for option in found.options if option.result is not None), None)
    if shown is not None:
        run, latency, pools, outcomes = serving.detail_tables(shown)
        named = (run, serving.with_errors(latency), pools, outcomes)
        tables += [replace(part, title=f"{shown.name}: {part.title}") for part in named]
    for part in tables:
        screen.print(rich_table(_narrow(part)))
    for option in found.options:
        if not option.meets:
            screen.print(f"✗ {escape(serving_sentence.missed(found, option))}", soft_wrap=True)
    if shown is not None:
        screen.print(f"• {escape(shown.name)}: {escape(serving_sentence.kept_up(shown))}", soft_wrap=True)
        for caveat in serving_sentence.caveats(found, shown):
            screen.print(f"• {escape(shown.name)}: {escape(caveat)}", soft_wrap=True)
