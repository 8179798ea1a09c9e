"""What a dashboard shows, as data: a scenario and what differs from it, checked. No Streamlit here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Iterable, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from capacity import catalogue, documents, outlook, planner, references, wishes
from capacity.documents import Document
from capacity.errors import CapacityError, InputError, Problem, UnknownNameError
from capacity.levers import LEVERS
from capacity.spec.outlook import Outlook
from capacity.spec.scenario import Scenario
from capacity.spec.space import EVERYTHING, Space
from capacity.units import DIMENSIONS, parse
from capacity.validate import KINDS

EXAMPLE = "cross-encoder-rerank"
SHOWN = ("device", "kernel", "kind", "requests", "seed", "day", "exact", "way", "against")
"""What only chooses what a page shows: the scenario and its plan do not depend on it."""
NUMBERS = {"requests": (1, 200_000), "seed": (0, 2**31 - 1), "day": (1, 1), "exact": (1, 1)}
"""Least and most of what the Serving page simulates: larger runs belong to the command line."""
MOST_BESIDE = 6
"""Overrides side by side: more columns are not read."""
LONGEST_TEXT = 200_000
"""Characters of an uploaded scenario."""
MOST_PARTS, MOST_DEVICES = 24, 100
"""Stages and jobs together, and devices: larger plans belong to the command line, they would keep everybody waiting."""
_FILE = re.compile(r"[/\\]|\.(ya?ml|json)$")
_UNITS: dict[str, tuple[str, ...]] = {
    "count": ("B", "M", "k", ""),
    "seconds": ("d", "h", "s", "ms"),
    "per second": ("/s",),
    "fraction": ("%",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A scenario with what was changed and chosen: all a link has to carry."""

    scenario: str
    """Id, path of the file the dashboard was started with, or name of the uploaded file."""
    overrides: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    """Differences to the scenario, each as `path=value`."""
    hardware: tuple[str, ...] = ()
    """Devices to compare; empty means the scenario's own."""
    option: str = ""
    """Device shown in detail; empty means the best."""
    device: str = ""
    """Device whose calibration is shown; empty means `option`, or the first one compared."""
    kernel: str = ""
    kind: str = ""
    """Kernel family shown, and kind of measurement table to be uploaded; empty means the first one."""
    requests: str = ""
    seed: str = ""
    day: str = ""
    exact: str = ""
    """What the Serving page simulates ("1" for a day), what the Levers page leaves out ("1"); empty: the usual."""
    expect: tuple[str, ...] = ()
    """What differs from the assumed outlook of the coming months, each as `key=value`."""
    choose: tuple[str, ...] = ()
    """What a search may choose from and must keep within, each as `key=value`."""
    way: str = ""
    """Device and way to buy whose months are shown; empty means the one regretted least."""
    against: str = ""
    """The view kept as the baseline of a comparison, as `link.keep` packs it; empty: the scenario as it stands."""
    beside: tuple[str, ...] = ()
    """Overrides that are compared, each on top of this view."""
    text: str = ""
    """YAML of an uploaded scenario."""

    @property
    def question(self) -> View:
        """The view without what only chooses what a page shows."""
        nothing: dict[str, Any] = {"expect": (), "choose": (), "beside": (), "option": "", **dict.fromkeys(SHOWN, "")}
        return replace(self, **nothing)


def default() -> View:
    """Return the view to open first: the scenario in $CAPACITY_SCENARIO, or the shipped example."""
    return View(scenario=os.environ.get("CAPACITY_SCENARIO") or EXAMPLE)


def document(view: View, *, plain: bool = False) -> Document:
    """Return the scenario of `view` as a document, with its overrides and settings unless `plain`.

    Raises
    ------
    UnknownNameError
        When no catalogue holds the scenario. Only the dashboard's operator may name a file, a link may not.
    """
    known = documents.catalogue("scenarios")
    if view.text:
        base: str | Document = documents.parse(view.text, view.scenario)
    elif view.scenario in known or view.scenario == default().scenario:
        base = view.scenario
    else:
        raise UnknownNameError("scenario", view.scenario, known)
    return (
        catalogue.scenario_document(base) if plain else catalogue.scenario_document(base, view.overrides, view.settings)
    )


def scenario(view: View) -> Scenario:
    """Return the validated scenario of `view`, everything it names known.

    Raises
    ------
    InputError
        For whatever is wrong in it, at its place; also where a link or an upload names a file of this machine.
    """
    written_down = document(view)
    found = documents.validated(written_down, Scenario)
    own: set[str] = set()
    if not view.text:
        own = set(_names(documents.validated(document(view, plain=True), Scenario)))
    files = [name for name in _names(found) if _FILE.search(name) and name not in own]
    if files:
        raise InputError(
            [Problem(name, "a link or an upload may name what the catalogues hold, no file") for name in files]
        )
    _bounded(found)
    given = planner.inputs(found, document=written_down)
    references.devices(found, written_down, partial(planner.profile, given=given))
    return found


def _bounded(found: Scenario) -> None:
    parts = len(found.serving.stages) + len(found.training) + len(found.batch)
    for what, many, most in (("stages and jobs", parts, MOST_PARTS), ("devices", len(found.hardware), MOST_DEVICES)):
        if many > most:
            raise InputError(f"{many:,} {what} are too many for a dashboard, which plans {most} at most")


def _names(found: Scenario) -> Iterable[str]:
    """Yield every name in a scenario that may be the path of a file: all that `references` and the planner look up."""
    for part in (*found.serving.stages, *found.training, *found.batch):
        named = (getattr(part, key, None) for key in ("model", "points", "teacher"))
        drafts = getattr(getattr(part, "speculation", None), "model", None)
        yield from (str(name) for name in (*named, drafts) if name)
    if found.traffic.trace is not None:
        yield f"./{found.traffic.trace}"  # a name without a folder is a file too
    yield found.pricing.rates
    yield from found.hardware


def put(view: View, path: str, text: str, read: Callable[[View], Scenario] = scenario) -> View:
    """Return `view` with `path` set to `text`, or no longer set when the scenario says the same without.

    Parameters
    ----------
    read
        What reads the scenario of a view: one that remembers makes a slider quick.

    Raises
    ------
    InputError
        When the scenario does not allow the value; the view stays as it was.
    """
    new = f"{path}={text}"
    places = [place for place, setting in enumerate(view.settings) if path_of(setting) == path]
    rest = tuple(setting for setting in view.settings if path_of(setting) != path)
    at = places[0] if places else len(rest)
    changed = replace(view, settings=(*rest[:at], new, *rest[at:]))
    without = replace(view, settings=rest)
    return without if read(changed) == read(without) else changed


def changes(view: View, base: View | None = None) -> list[tuple[str, str, str]]:
    """Return path, old and new text of every value that differs from `base`; "–" where there is none.

    Parameters
    ----------
    base
        Another view; None: the scenario without overrides and settings.
    """
    old = document(view, plain=True) if base is None else document(base)
    was, now = _leaves(old.data, ""), _leaves(document(view).data, "")
    paths = [path for path in {**was, **now} if was.get(path) != now.get(path)]
    return [(path, was.get(path, "–"), now.get(path, "–")) for path in paths]


def _leaves(value: object, path: str) -> dict[str, str]:
    if isinstance(value, dict):
        named = {str(key): child for key, child in value.items()}
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        named = {str(entry.get("name", place)): entry for place, entry in enumerate(value) if isinstance(entry, dict)}
    else:
        return {path: ", ".join(map(str, value)) if isinstance(value, list) else str(value)}
    found: dict[str, str] = {}
    for key, child in named.items():
        found |= _leaves(child, f"{path}.{key}" if path else key)
    return found


def path_of(setting: str) -> str:
    """Return the path that a `path=value` text sets."""
    return setting.partition("=")[0].strip()


def value_at(found: Scenario, path: str) -> object:
    """Return the value that `path` addresses in a scenario, list entries by their name.

    Raises
    ------
    InputError
        When there is no such place.
    """
    here: object = found
    for key in path.split("."):
        if isinstance(here, tuple):
            here = next((entry for entry in here if entry.name == key), None)
        else:
            here = getattr(here, key, None)
        if here is None:
            raise InputError([Problem(path, "the scenario has no such value")])
    return here


def written(value: float, dimension: str) -> str:
    """Return the shortest text with a unit that `capacity.units.parse` reads back as exactly `value`.

    Examples
    --------
    >>> written(1_000_000, "count"), written(1_234_567, "count"), written(0.15, "seconds"), written(37.5, "per second")
    ('1 M', '1234567', '150 ms', '37.5/s')
    """
    found = []
    for unit in _UNITS[dimension]:
        number = f"{value / DIMENSIONS[dimension][unit]:.12g}"
        text = f"{number}{unit}" if unit.startswith("/") or not unit else f"{number} {unit}"
        if (
            "e" not in number
            and (value == 0 or float(number) >= 1 or unit == _UNITS[dimension][-1])
            and parse(text, dimension) == value
        ):
            found.append(text)
    return min(reversed(found), key=len, default=repr(value))


def checked(view: View, known_hardware: Iterable[str]) -> tuple[View, list[Problem]]:
    """Return the part of `view` that can be shown, and a problem for everything that cannot."""
    problems: list[Problem] = []
    base = View(scenario=view.scenario, text=view.text)
    if not _usable(base, "scenario", problems):
        return default(), problems
    kept = view
    if not _usable(replace(view, hardware=(), option=""), "set", []):
        kept = base
        for name in view.overrides:
            wider = replace(kept, overrides=(*kept.overrides, name))
            kept = wider if _usable(wider, "override", problems) else kept
        for setting in view.settings:
            wider = replace(kept, settings=(*kept.settings, setting))
            kept = wider if _usable(wider, "set", problems) else kept
    names = set(known_hardware)
    unknown = [name for name in view.hardware if name not in names]
    problems += [
        Problem("URL parameter 'hardware'", str(UnknownNameError("hardware", name, names))) for name in unknown
    ]
    kept = replace(kept, hardware=tuple(name for name in view.hardware if name in names), option=view.option)
    kept = replace(kept, **{name: getattr(view, name) for name in SHOWN})
    if kept.device not in {"", *names}:
        names |= set(candidates(kept))
    kept = replace(_shown(kept, names, problems), beside=_beside(view, base, problems))
    known = {*names, *candidates(kept)}
    kept = replace(kept, expect=_expected(view, known, problems), choose=_chosen(view, known, problems))
    if kept.option and kept.option not in candidates(kept):
        problems.append(Problem("URL parameter 'option'", f"{kept.option[:60]!r} is none of the devices compared"))
        kept = replace(kept, option="")
    return kept, problems


def _shown(view: View, known_hardware: set[str], problems: list[Problem]) -> View:
    """Return the view without what does not exist; kernel families depend on the device."""
    wrong = {
        name: str(UnknownNameError(name, value[:60], known))
        for name, value, known in (("device", view.device, known_hardware), ("kind", view.kind, set(KINDS)))
        if value and value not in known
    }
    for name, (least, most) in NUMBERS.items():
        value = getattr(view, name)
        if value and not (value.isdecimal() and least <= int(value) <= most):
            wrong[name] = f"{value[:60]!r} is no whole number from {least} to {most:,}"
    problems += [Problem(f"URL parameter {name!r}", what) for name, what in wrong.items()]
    return replace(view, **{name: getattr(default(), name) for name in wrong})


def _beside(view: View, base: View, problems: list[Problem]) -> tuple[str, ...]:
    """Return the overrides to compare that the scenario has."""
    known = [name for name in view.beside if _usable(replace(base, overrides=(name,)), "beside", problems)]
    if len(known) > MOST_BESIDE:
        problems.append(
            Problem("URL parameter 'beside'", f"names {len(known)} overrides, the first {MOST_BESIDE} count")
        )
    return tuple(known[:MOST_BESIDE])


def _expected(view: View, known_hardware: Set[str], problems: list[Problem]) -> tuple[str, ...]:
    """Return the lines of the outlook that hold."""
    return _lines("expect", view.expect, lambda kept: outlook_of(replace(view, expect=kept), known_hardware), problems)


def _chosen(view: View, known_hardware: Set[str], problems: list[Problem]) -> tuple[str, ...]:
    """Return the lines of the space that hold."""
    return _lines("choose", view.choose, lambda kept: space_of(replace(view, choose=kept), known_hardware), problems)


def _lines(
    name: str, lines: tuple[str, ...], read: Callable[[tuple[str, ...]], object], problems: list[Problem]
) -> tuple[str, ...]:
    """Return the lines of a document that hold; what is wrong with one value says which, else all of it goes."""
    kept = lines
    while kept:
        try:
            read(kept)
        except InputError as error:
            problems += [
                Problem(f"URL parameter {name!r}: {problem.where}", problem.what) for problem in error.problems
            ]
            blamed = {problem.where.removeprefix("--with ") for problem in error.problems}
            rest = tuple(line for line in kept if path_of(line)[:80] not in blamed)
            kept = rest if len(rest) < len(kept) else ()
        else:
            break
    return kept


def outlook_of(view: View, known_hardware: Container[str]) -> Outlook:
    """Return what a view expects of the coming months.

    Raises
    ------
    InputError
        For an unknown key, a value out of range, or a refresh to hardware that nobody knows.
    """
    found = outlook.expected(view.expect)
    if found.refresh is not None and found.refresh.hardware not in known_hardware:
        unknown = f"unknown hardware {found.refresh.hardware!r}: choose one of the catalogue"
        raise InputError([Problem("--with refresh.hardware", unknown)])
    return found


def space_of(view: View, known_hardware: Container[str]) -> Space:
    """Return what the search of a view may choose from.

    Raises
    ------
    InputError
        For an unknown key, a value out of range, an unknown lever, or hardware that nobody knows.
    """
    found = wishes.read(Space, view.choose)
    names = (*found.hardware, *found.stock)
    unknown = [name for name in names if name != EVERYTHING and name not in known_hardware]
    if unknown:
        said = f"unknown hardware {unknown[0][:60]!r}: choose of the catalogue, or {EVERYTHING}"
        raise InputError([Problem("--with hardware", said)])
    odd = [name for name in found.levers if name not in LEVERS]
    if odd:
        raise InputError([Problem("--with levers", str(UnknownNameError("lever", odd[0][:60], LEVERS)))])
    return found


def _usable(view: View, parameter: str, problems: list[Problem]) -> bool:
    try:
        scenario(view)
    except CapacityError as error:
        problems += [Problem(f"URL parameter {parameter!r}", line) for line in str(error).splitlines()]
        return False
    return True


def candidates(view: View, read: Callable[[View], Scenario] = scenario) -> tuple[str, ...]:
    """Return the devices that `view` compares, of the scenario as `read` knows it."""
    return tuple(dict.fromkeys(view.hardware or read(view).hardware))
