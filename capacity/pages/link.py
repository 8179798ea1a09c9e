"""A view as a link and as a command line: the view ⇄ URL query parameters, and → arguments of `capacity plan`.

A link carries what differs from a scenario: it is short and readable.
"""

from __future__ import annotations

import base64
import binascii
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import parse_qs, urlencode

from capacity.errors import InputError, Problem, suggestion
from capacity.pages.state import LONGEST_TEXT, SHOWN, View, default, path_of

PARAMETERS = ("scenario", "override", "set", "hardware", "option", "expect", "choose", "beside", *SHOWN, "yaml")
SINGLE = ("scenario", "option", *SHOWN, "yaml")
MOST_VALUES = 200
LONGEST_VALUE = 2000
LONGEST_PACKED = 6000
"""Characters of a packed scenario in a link: longer addresses break on their way through mail and proxies."""


def to_query(view: View) -> dict[str, list[str]]:
    """Return the query parameters that carry `view`; `from_query` reads them back.

    Examples
    --------
    >>> to_query(View(scenario="a", settings=("traffic.peak_rate=75/s",), hardware=("t4",)))
    {'scenario': ['a'], 'set': ['traffic.peak_rate=75/s'], 'hardware': ['t4']}
    """
    packed = pack(view.text)
    parts = {
        "scenario": [view.scenario],
        "override": list(view.overrides),
        "set": list(view.settings),
        "hardware": list(view.hardware),
        "option": [view.option] if view.option else [],
        "expect": list(view.expect),
        "choose": list(view.choose),
        "beside": list(view.beside),
        **{name: [getattr(view, name)] if getattr(view, name) else [] for name in SHOWN},
        "yaml": [packed] if packed and len(packed) <= LONGEST_PACKED else [],
    }
    return {name: values for name, values in parts.items() if values}


def from_query(query: Mapping[str, Sequence[str]], fallback: View | None = None) -> tuple[View, list[Problem]]:
    """Return the view that query parameters say, and what is wrong with them; what is wrong is left out.

    Parameters
    ----------
    query
        Name → every value of that name.
    fallback
        View whose scenario is used where the query names none; by default `default()`.

    Examples
    --------
    >>> view, problems = from_query({"scenario": ["a"], "sett": ["b=3"]})
    >>> view.scenario, str(problems[0])
    ('a', "URL parameter 'sett': unknown; did you mean set?")
    """
    problems: list[Problem] = []
    said = {name: _values(name, query.get(name, ()), problems) for name in PARAMETERS}
    problems += [
        Problem(f"URL parameter {name[:60]!r}", f"unknown; {suggestion(name[:60], PARAMETERS)}")
        for name in query
        if name not in PARAMETERS
    ]
    text = ""
    if said["yaml"]:
        try:
            text = unpack(said["yaml"][0])
        except InputError as error:
            problems += error.problems
    view = View(
        scenario=said["scenario"][0] if said["scenario"] else (fallback or default()).scenario,
        overrides=tuple(dict.fromkeys(said["override"])), settings=tuple(dict.fromkeys(said["set"])),
        hardware=tuple(dict.fromkeys(said["hardware"])),
        expect=tuple(dict.fromkeys(said["expect"])), choose=tuple(dict.fromkeys(said["choose"])),
        beside=tuple(dict.fromkeys(said["beside"])), text=text,
        **{name: said[name][0] if said[name] else "" for name in ("option", *SHOWN)},
    )  # fmt: skip
    return view, problems


def _values(name: str, values: Sequence[str], problems: list[Problem]) -> list[str]:
    """Return the usable values of one parameter; note what is dropped."""
    where, most = f"URL parameter {name!r}", 1 if name in SINGLE else MOST_VALUES
    longest = LONGEST_PACKED if name in {"yaml", "against"} else LONGEST_VALUE
    if len(values) > most:
        problems.append(Problem(where, f"given {len(values)} times, the first {most} count"))
    kept = []
    for value in values[:most]:
        if len(value) > longest:
            problems.append(Problem(where, f"is longer than {longest:,} characters and left out"))
        else:
            kept.append(value)
    return kept


def pack(text: str) -> str:
    """Return text as letters, digits, - and _ that fit a URL: compressed, then base64."""
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=") if text else ""


def unpack(packed: str) -> str:
    """Return the text that `pack` packed.

    Raises
    ------
    InputError
        When it is damaged, cut short, or larger than a scenario may be.

    Examples
    --------
    >>> unpack(pack("id: a"))
    'id: a'
    """
    text = _opened(packed)
    if text is None:
        raise InputError([Problem("URL parameter 'yaml'", "is damaged: the scenario in this link cannot be read")])
    return text


def _opened(packed: str) -> str | None:
    opened = zlib.decompressobj()
    try:
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        text = opened.decompress(raw, LONGEST_TEXT).decode()
    except (binascii.Error, zlib.error, ValueError):
        return None
    return text if opened.eof else None


def risk_command(view: View) -> str:
    """Return the command line that shows the coming months of `view` and how sure they are.

    Examples
    --------
    >>> risk_command(View(scenario="a", hardware=("t4",), expect=("months=12", "refresh={month: 7, hardware: l4}")))
    "capacity risk a --hardware t4 --with months=12 --with 'refresh={month: 7, hardware: l4}'"
    """
    return _wished(command(view).replace("capacity plan", "capacity risk", 1), view.expect)


def search_command(view: View) -> str:
    """Return the command line that searches what the search of `view` does; devices it names replace those compared.

    Examples
    --------
    >>> search_command(View(scenario="a", choose=("terms=[spot]",)))
    "capacity optimize a --simulate 0 --with 'terms=[spot]'"
    """
    named = any(path_of(line) == "hardware" for line in view.choose)
    said = command(replace(view, hardware=()) if named else view)
    return _wished(said.replace("capacity plan", "capacity optimize", 1) + " --simulate 0", view.choose)


def _wished(said: str, lines: Sequence[str]) -> str:
    return " ".join([said, *(shlex.join(("--with", line)) for line in lines)])


def command(view: View) -> str:
    """Return the command line that answers `view` without a dashboard.

    Examples
    --------
    >>> command(View(scenario="a", overrides=("growth",), settings=("objective.latency=100 ms",), hardware=("t4",)))
    "capacity plan a --override growth --set 'objective.latency=100 ms' --hardware t4"
    """
    parts = ["capacity", "plan", view.scenario]
    for flag, values in (("--override", view.overrides), ("--set", view.settings), ("--hardware", view.hardware)):
        for value in values:
            parts += [flag, value]
    return shlex.join(parts)


def keep(view: View) -> str:
    """Return a view as the baseline of a comparison: the text that `kept` reads back.

    Raises
    ------
    InputError
        When it is too long for a link.
    """
    packed = pack(urlencode(to_query(replace(view.question, option="")), doseq=True))
    if len(packed) > LONGEST_PACKED or (view.text and "yaml" not in to_query(view)):
        raise InputError([Problem("baseline", "is too long for a link: put the change into an override of its file")])
    return packed


def kept(packed: str) -> tuple[View, list[Problem]]:
    """Return the view that `keep` packed, and what is wrong with it.

    Examples
    --------
    >>> kept(keep(View(scenario="a", settings=("x=1 s",))))[0].settings
    ('x=1 s',)
    """
    text = _opened(packed)
    if text is None:
        return default(), [Problem("URL parameter 'against'", "is damaged: the baseline in this link cannot be read")]
    return from_query(parse_qs(text))
