"""What pydantic refuses as problems of a document: each at its place, in words that name what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from capacity.errors import Problem, suggestion

Location = tuple[str | int, ...]
Where = Callable[[Location], str]
KEY = -1
"""Last part of the location of a key itself: the value of `a` stands at ("a",), the letter a at ("a", KEY)."""
MOST = 40
"""Problems named at once; the rest is counted."""
SAYS_IT = {"value_error", "elsewhere"}
"""Errors raised by this product, whose messages name what was given; `elsewhere` has its place in the context `at`."""
_PLAIN = (
    (re.compile(r"a valid (?:dictionary|mapping)(?: or instance of .*)?$"), "a mapping of `key: value` lines"),
    (re.compile(r"a valid (?:tuple|list)$"), "a list"),
    (re.compile(r"a valid string$"), "text"),
    (re.compile(r"^Tuple should have (.*) after validation"), r"the list should have \1"),
    (re.compile(r"^Value error, "), ""),
)
"""What pydantic says to a programmer, and what the person who wrote the document is told."""


def problems(error: ValidationError, data: object, where: Where, model: type[BaseModel]) -> list[Problem]:
    """Return the problems of `data` in the order of the text, one for each place; at most `MOST`, then how many more.

    Parameters
    ----------
    where
        Tells the file:line:column of a location in `data`.
    """
    found: dict[Location, list[dict[str, Any]]] = {}
    for detail in error.errors(include_url=False):
        loc = (*detail["loc"], *detail.get("ctx", {}).get("at", ()))
        found.setdefault(_location(loc, data, detail["type"]), []).append(dict(detail))
    inner = {location[:length] for location in found for length in range(len(location))}
    stands = {location: where(_place(location, found[location])) for location in found}
    outer = sorted(
        (location for location in found if location not in inner),  # members of a union that the data is not
        key=lambda location: _line(stands[location]),
    )
    named = [Problem(stands[location], _said(location, found[location], model)) for location in outer[:MOST]]
    more = len(outer) - len(named)
    return [*named, Problem(where(()), f"and {more:,} more problems")] if more else named


def _line(where: str) -> tuple[int, ...]:
    return tuple(int(part) for part in where.split(":") if part.isdigit())


def _location(loc: Sequence[str | int], data: object, kind: str) -> Location:
    """Return `loc` without the tags that pydantic adds for members of a union (`encode`, `literal[…]`)."""
    location: list[str | int] = []
    for number, part in enumerate(loc, start=1):
        known: Any = data if isinstance(data, dict | list) else {}
        if part in (range(len(known)) if isinstance(known, list) else known):
            data = known[part]
            location.append(part)
        elif kind == "missing" and number == len(loc):
            location.append(part)
    return tuple(location)


def _place(location: Location, details: Sequence[dict[str, Any]]) -> Location:
    """Return what to point at: an unknown key itself, the mapping that lacks a key, else the value."""
    kinds = {detail["type"] for detail in details}
    if "missing" in kinds:
        return location[:-1]
    if "union_tag_invalid" in kinds:
        return (*location, _tag(details[0]))
    return (*location, KEY) if "extra_forbidden" in kinds or details[0]["loc"][-1:] == ("[key]",) else location


def _tag(detail: dict[str, Any]) -> str:
    return str(detail["ctx"]["discriminator"]).strip("'")


def _said(location: Location, details: Sequence[dict[str, Any]], model: type[BaseModel]) -> str:
    name = ".".join(str(part) for part in location)
    kind, given = details[0]["type"], details[0]["input"]
    if kind == "extra_forbidden":
        return f"unknown key {name!r}; {suggestion(str(location[-1]), _keys(model, details[0]['loc'][:-1]))}"
    if kind == "missing":
        return f"missing key {name!r}"
    if kind == "union_tag_not_found":
        return f"missing key {f'{name}.{_tag(details[0])}'!r}"
    if kind == "union_tag_invalid":
        context = details[0]["ctx"]
        return f"{name}.{_tag(details[0])}: {context['tag']!r} is none of {context['expected_tags']}"
    said = "; or ".join(dict.fromkeys(_plain(detail["msg"]) for detail in details))
    shown = repr(given)
    repeated = kind in SAYS_IT or details[-1]["type"] in SAYS_IT or len(shown) > 60 or isinstance(given, dict | list)
    return f"{name}: {said}{'' if repeated else f' (got {shown})'}" if name else said


def _plain(message: str) -> str:
    for pattern, words in _PLAIN:
        message = pattern.sub(words, message)
    return message[:1].lower() + message[1:]


def _keys(model: type[BaseModel], loc: Sequence[str | int]) -> set[str]:
    """Return the keys that `model` allows at `loc`, which may hold the tags of a union's members."""
    whole = _schema(model)
    nodes = [whole]
    for part in loc:
        nodes = [child for node in nodes for child in _children(node, part, whole)] or nodes
    return {key for node in nodes for leaf in _members(node, whole) for key in leaf.get("properties", ())}


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _members(node: dict[str, Any], whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what `node` may be: itself, what it refers to, or the members of its union."""
    if "$ref" in node:
        yield from _members(whole["$defs"][node["$ref"].rsplit("/", 1)[-1]], whole)
        return
    members = node.get("anyOf") or node.get("oneOf")
    for member in members or ():
        yield from _members(member, whole)
    if not members:
        yield node


def _children(node: dict[str, Any], part: str | int, whole: dict[str, Any]) -> list[dict[str, Any]]:
    tagged = node.get("discriminator", {}).get("mapping", {})
    if part in tagged:
        return [{"$ref": tagged[part]}]
    found = []
    for leaf in _members(node, whole):
        if isinstance(part, int):
            found.append(leaf.get("items"))
        else:
            found.append(leaf.get("properties", {}).get(part) or leaf.get("additionalProperties"))
    return [child for child in found if isinstance(child, dict)]
