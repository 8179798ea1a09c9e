"""YAML text to validated, frozen documents, with every problem at its file:line:column, all at once.

PyYAML alone reads `312e12` as text, keeps the last of two equal keys, expands alias bombs and forgets where a value
stood. This loader does none of that: it walks the node tree, so each value keeps its position and the error of a
pydantic model can point at the character that caused it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from capacity.errors import InputError, Problem, UnknownNameError, suggestion
from capacity.problems import KEY, Location, problems

Value = Any  # what YAML can hold: mappings, lists, text, numbers, booleans, null
Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

NEWLINE = "\n"
MAX_BYTES = 4_000_000
MAX_NODES = 200_000
MAX_DEPTH = 40
LONGEST_NUMBER = 400
"""Characters of a number: the largest that floats hold has 309 digits."""
FREE_NODES = 10_000
"""Values a small text may hold; beyond, aliases may make it four times as many as stand in it."""
KINDS = ("hardware_profiles", "model_profiles", "scenarios", "prices")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?\d[\d_]*")
_FLOAT = re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]?\d+)?")
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})")
"""JSON writes a character beyond U+FFFF as two escapes, which YAML does not know."""
_WORDS: dict[str, Value] = {"true": True, "false": False, "null": None, "~": None, "": None}
_WORDS |= {".inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed text: its data and where each value and key stands, as (file, line, column) counted from 1."""

    name: str
    data: dict[str, Value]
    places: Mapping[Location, Place] = field(default_factory=dict)

    def where(self, location: Location) -> str:
        """Return file:line:column of the value at `location`, or of its nearest parent that stands in the text."""
        for length in range(len(location), -1, -1):
            place = self.places.get(location[:length])
            if place is not None:
                return ":".join(str(part) for part in place)
        return self.name


def read(path: str | Path) -> Document:
    """Return the document in the YAML or JSON file at `path`.

    Raises
    ------
    InputError
        When the file cannot be read, is too large, is not text, or is not one well-formed mapping.
    """
    return parse(read_text(path), str(path))


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """Return a text file's content, or say in one line why it cannot be had."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError:
        raise InputError([Problem(str(path), "no such file")]) from None
    except IsADirectoryError:
        raise InputError([Problem(str(path), "is a folder; name a file in it")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError([Problem(str(path), f"cannot be read: {reason}")]) from None
    if len(raw) > limit:
        raise InputError([Problem(str(path), f"is larger than {limit:,} bytes")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError([Problem(str(path), f"is not UTF-8 text (byte {error.start})")]) from None


def parse(text: str, name: str) -> Document:
    """Return the document in `text`; `name` stands for it in messages."""
    if name.endswith(".json"):
        text = _PAIR.sub(lambda found: found[1] + str(json.loads(f'"{found[2]}"')), text)
    try:
        values = _bounded(text, name)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        line = "".join(text.splitlines()[mark.line : mark.line + 1]) if mark else ""
        tab = mark is not None and line[mark.column : mark.column + 1] == "\t"
        what = "a tab stands where YAML wants blanks" if tab else error.problem or error.context
        raise InputError([Problem(where, f"not well-formed YAML: {what}")]) from None
    except (yaml.YAMLError, ValueError) as error:
        where = f"{name}{_control_character(text)}"
        raise InputError([Problem(where, f"not well-formed YAML: {str(error).splitlines()[0]}")]) from None
    if not isinstance(node, yaml.MappingNode):
        raise InputError([Problem(name, "expected a mapping of `key: value` lines")])
    reader = _Reader(name, min(MAX_NODES, FREE_NODES + 4 * values))
    data = reader.value(node, ())
    if reader.problems:
        raise InputError(reader.problems)
    return Document(name, data, reader.places)


def _control_character(text: str) -> str:
    """Return :line:column of the first character that YAML does not allow, or nothing."""
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    before = text[: found.start()] if found else ""
    return f":{before.count(NEWLINE) + 1}:{len(before) - before.rfind(NEWLINE)}" if found else ""


def _bounded(text: str, name: str) -> int:
    """Return how many values stand in `text`; refuse what is too deep to compose safely, for nesting costs stack."""
    depth = count = 0
    for count, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        tag = getattr(event, "tag", None)
        if depth > MAX_DEPTH or tag:
            mark = event.start_mark
            where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
            what = f"tag {tag[:80]!r}: tags mean nothing here" if tag else f"nested deeper than {MAX_DEPTH} levels"
            raise InputError([Problem(where, what)])
        if count > MAX_NODES:
            raise InputError([Problem(name, f"holds more than {MAX_NODES:,} values")])
    return count


class _Reader:
    """Turns a node tree into plain values while noting the place of each."""

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self.problems: list[Problem] = []
        self.places: dict[Location, Place] = {}

    def value(self, node: yaml.Node, location: Location) -> Value:
        self.places[location] = place = (self.name, node.start_mark.line + 1, node.start_mark.column + 1)
        if len(location) > MAX_DEPTH or len(self.places) > self.most:
            limit = f"{MAX_DEPTH} levels" if len(location) > MAX_DEPTH else f"{self.most:,} values"
            where = ":".join(str(part) for part in place)
            raise InputError([Problem(where, f"expands to more than {limit} through aliases")])
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*location, index)) for index, child in enumerate(node.value)]
        return _scalar(node) if isinstance(node, yaml.ScalarNode) else None

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Value]:
        result: dict[str, Value] = {}
        first_line: dict[str, int] = {}
        for key_node, child in node.value:
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key == "<<":
                self.problems.append(Problem(f"{self.name}:{line}:{column}", "a key must be plain text"))
            elif key in result:
                said = f"duplicate key {key!r}, first on line {first_line[key]}"
                self.problems.append(Problem(f"{self.name}:{line}:{column}", said))
            else:
                first_line[key] = line
                self.places[(*location, key, KEY)] = (self.name, line, column)
                result[key] = self.value(child, (*location, key))
        return result


def _scalar(node: yaml.ScalarNode) -> Value:
    text = node.value
    if node.style in {"'", '"', "|", ">"}:
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INT.fullmatch(text) and len(text) < 300:
        return int(text.replace("_", ""))
    return float(text.replace("_", "")) if len(text) < LONGEST_NUMBER and _FLOAT.fullmatch(text) else text


def merged(base: Document, override: Document) -> Document:
    """Return `base` with every leaf of `override` put over it; mappings merge, everything else replaces.

    Lists whose entries carry a `name` merge by that name, so an override can change one stage of a pipeline.
    """
    replaced: dict[Location, Location] = {}
    data = _merge(base.data, override.data, (), (), replaced)
    gone = {location: location for location in replaced.values()}
    places = {known: place for known, place in base.places.items() if _moved(known, gone) is None}
    moved = ((_moved(known, replaced), place) for known, place in override.places.items())
    return Document(base.name, data, places | {location: place for location, place in moved if location is not None})


def _merge(base: Value, over: Value, location: Location, origin: Location, replaced: dict[Location, Location]) -> Value:
    """Return `over` put over `base`, noting in `replaced` which parts of the override stand where in the result."""
    if isinstance(base, dict) and isinstance(over, dict):
        result = dict(base)
        for key, value in over.items():
            result[key] = _merge(base.get(key), value, (*location, key), (*origin, key), replaced)
        return result
    if _named(base) and _named(over):
        result_list = list(base)
        index_of = {entry["name"]: index for index, entry in enumerate(base)}
        for number, entry in enumerate(over):
            index = index_of.get(entry["name"], len(result_list))
            current = result_list[index] if index < len(result_list) else None
            new = _merge(current, entry, (*location, index), (*origin, number), replaced)
            result_list[index : index + 1] = [new]
        return result_list
    replaced[origin] = location
    return over


def _moved(location: Location, moved: Mapping[Location, Location]) -> Location | None:
    """Return where `location` went, if it or one of its parents (the nearest) moved."""
    for length in range(len(location), -1, -1):
        if location[:length] in moved:
            return moved[location[:length]] + location[length:]
    return None


def _named(value: Value) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in value)
    )


def setting(assignment: str) -> Document:
    """Return the override that `path.to.key=value` says; list entries are addressed by name or index.

    Examples
    --------
    >>> setting("traffic.peak_rate=3000/s").data
    {'traffic': {'peak_rate': '3000/s'}}
    """
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError([Problem(f"--set {assignment[:80]}", "write it as path.to.key=value")])
    if len(keys) > MAX_DEPTH:
        raise InputError([Problem(f"--set {path[:40]}…", f"goes deeper than {MAX_DEPTH} levels")])
    name = f"--set {path.strip()}"
    try:
        parsed = parse(f"value: {text.strip()}\n", name).data
    except InputError as error:
        raise InputError([Problem(name, problem.what) for problem in error.problems]) from None
    if set(parsed) != {"value"}:
        raise InputError([Problem(name, "write one value on one line")])
    data: Value = parsed["value"]
    for key in reversed(keys):
        data = {key: data}
    return Document(name, data, {location: (name,) for location, _ in _walk(data, ())})


def addressed(override: Document, base: Document) -> Document:
    """Return `override` with mapping keys that address entries of the base's lists turned into named entries.

    Raises
    ------
    InputError
        For a key that addresses no entry, at its place in the override.
    """
    moved: dict[Location, Location] = {(): ()}
    data = _addressed(override.data, base.data, (), override, moved)
    places = {_moved(known, moved) or (): place for known, place in override.places.items()}
    return Document(override.name, data, places)


def _addressed(
    over: Value, base: Value, origin: Location, override: Document, moved: dict[Location, Location]
) -> Value:
    if isinstance(over, dict) and isinstance(base, list):
        return _entries(over, base, origin, override, moved)
    if isinstance(over, dict):
        below = base if isinstance(base, dict) else {}
        return {key: _addressed(part, below.get(key), (*origin, key), override, moved) for key, part in over.items()}
    return over


def _entries(
    over: dict[str, Value], base: list[Value], origin: Location, override: Document, moved: dict[Location, Location]
) -> list[Value]:
    """Return a mapping of names or indices, which addresses entries of the list `base`, as a list of named entries."""
    if not over:
        return base
    if base and not _named(base):
        raise InputError([Problem(override.where(origin), "the entries have no names; write the whole list: [a, b]")])
    entries = {str(index): entry for index, entry in enumerate(base)} | {entry["name"]: entry for entry in base}
    found: list[Value] = []
    for number, (key, part) in enumerate(over.items()):
        location = (*origin, key)
        if key not in entries:
            known = [entry["name"] for entry in base]
            raise InputError([Problem(override.where((*location, KEY)), f"no entry {key!r}; {suggestion(key, known)}")])
        if not isinstance(part, dict):
            raise InputError([Problem(override.where(location), f"{key}: expected a mapping of `key: value` lines")])
        moved[location] = (*(_moved(origin, moved) or ()), number)
        found.append({"name": entries[key]["name"], **_addressed(part, entries[key], location, override, moved)})
    return found


def _walk(value: Value, location: Location) -> Iterator[tuple[Location, Value]]:
    yield location, value
    items: Iterable[tuple[str | int, Value]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, child in items:
        yield from _walk(child, (*location, key))


def validated(document: Document, model: type[Model]) -> Model:
    """Return `document` as a frozen `model`, or raise every problem at its place.

    Raises
    ------
    InputError
        One `Problem` for each value that is unknown, missing, of a wrong type or unit, or out of range.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise InputError(problems(error, document.data, document.where, model)) from None


def folders(kind: str) -> list[Path]:
    """Return the folders in which documents of a kind are looked up, first come first served.

    `$CAPACITY_PATH` (a list of roots), the working directory, then what ships with the product.

    Raises
    ------
    InputError
        When `$CAPACITY_PATH` names what is no folder: a mistyped root would quietly change the prices.
    """
    here = Path(__file__).resolve().parent
    roots = [Path(root) for root in os.environ.get("CAPACITY_PATH", "").split(os.pathsep) if root]
    if wrong := [root for root in roots if not root.is_dir()]:
        raise InputError([Problem("CAPACITY_PATH", f"{root} is no folder") for root in wrong])
    roots += [Path.cwd(), here / "shipped", here.parent]
    found = [(root / kind).resolve() for root in roots if (root / kind).is_dir()]
    return list(dict.fromkeys(found))


def catalogue(kind: str) -> dict[str, Path]:
    """Return id → file of every document of a kind (one of `KINDS`, or a folder below one)."""
    result: dict[str, Path] = {}
    for folder in folders(kind):
        with suppress(PermissionError):
            for name in sorted(name for name in os.listdir(folder) if name.endswith(".yaml")):
                result.setdefault(name.removesuffix(".yaml"), folder / name)
    return result


def find(kind: str, name: str, known: Mapping[str, Path] | None = None) -> Path:
    """Return the file of the document called `name`: a path to a file, or an id of the catalogue (or of `known`).

    Raises
    ------
    UnknownNameError
        When there is neither; the nearest known ids are named.
    """
    if "/" in name or "\\" in name or name.endswith((".yaml", ".yml", ".json")):
        return Path(name)
    if known is None:
        places = (folder / f"{name}.yaml" for folder in folders(kind))
        if path := next(filter(os.path.isfile, places), None):
            return path
        known = catalogue(kind)
    if name not in known:
        raise UnknownNameError(kind.rsplit("/", 1)[-1].rstrip("s").replace("_", " "), name, known)
    return known[name]
