"""A scenario's YAML with one value changed, added or removed; everything else, comments included, as it was written.

No Streamlit here. Where a change cannot be made in the text alone (aliases, a value of another shape), the whole
document is written again: right, but without its comments.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml

from capacity import documents
from capacity.documents import Value
from capacity.errors import InputError
from capacity.problems import Location

NAME = "draft"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
CONTEXT = 2
"""Lines around a change in a difference."""
Span = tuple[int, int]
Change = Callable[[str], str]
"""What makes another text of a draft's text."""


def put(text: str, location: Location, value: Value) -> str:
    r"""Return YAML `text` with `value` at `location`; mappings on the way that are missing are made.

    Raises
    ------
    InputError
        When `text` is not well-formed.

    Examples
    --------
    >>> put("a: 1  # one\nb: {c: 2}", ("b", "d"), "5 ms")
    'a: 1  # one\nb: {c: 2, d: 5 ms}'
    """
    data = documents.parse(text, NAME).data
    return _checked(_written(text, location, value), _with(data, location, value))


def without(text: str, location: Location) -> str:
    r"""Return YAML `text` without the entry at `location`; the same text where there is none.

    Examples
    --------
    >>> without("a: 1\nb: 2\nc: 3", ("b",))
    'a: 1\nc: 3'
    """
    data = documents.parse(text, NAME).data
    if value_at(data, location) is None:
        return text
    return _checked(_cut(text, location), _less(data, location))


def becoming(text: str, wanted: dict[str, Value]) -> str:
    r"""Return YAML `text` changed where it differs from `wanted`, so that it says that.

    Examples
    --------
    >>> becoming("a: 1  # one\nb: {c: 2}", {"a": 1, "b": {"c": 3}})
    'a: 1  # one\nb: {c: 3}'
    """
    for location, value in _differing(documents.parse(text, NAME).data, wanted, ()):
        text = put(text, location, value)
    return _checked(text, wanted)


def _differing(now: Value, wanted: Value, at: Location) -> Iterator[tuple[Location, Value]]:
    if isinstance(now, dict) and isinstance(wanted, dict):
        for key, value in wanted.items():
            yield from _differing(now.get(key), value, (*at, key))
    elif isinstance(now, list) and isinstance(wanted, list) and len(now) == len(wanted) and _nested(now):
        for place, value in enumerate(wanted):
            yield from _differing(now[place], value, (*at, place))
    elif now != wanted:
        yield at, wanted


def _nested(data: list[Value]) -> bool:
    return any(isinstance(entry, dict | list) for entry in data)


def value_at(data: Value, location: Location) -> Value:
    """Return what stands at `location` of a document, None where nothing does."""
    for part in location:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def difference(before: str, after: str, names: tuple[str, str]) -> str:
    """Return what changed as a unified difference, empty where nothing did.

    Examples
    --------
    >>> print(difference("a: 1", "a: 2", ("old", "new")))
    --- old
    +++ new
    @@ -1 +1 @@
    -a: 1
    +a: 2
    """
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="", n=CONTEXT)
    return "\n".join(lines)


def plain(value: Value) -> str:
    """Return `value` as YAML on one line.

    Examples
    --------
    >>> plain("100 ms"), plain("12"), plain(12), plain(["a", "b: c"]), plain({"name": "x", "time": "5 ms"})
    ('100 ms', '"12"', '12', '[a, "b: c"]', '{name: x, time: 5 ms}')
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{plain(str(key))}: {plain(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        read = documents.parse(f"[{value}]: [{value}]" if "\n" in value else f"v: [{value}]", NAME).data
    except InputError:
        return json.dumps(value, ensure_ascii=False)
    return value if read == {"v": [value]} else json.dumps(value, ensure_ascii=False)


def _checked(text: str | None, wanted: dict[str, Value]) -> str:
    """Return an edited text if it says what is wanted, else the whole document written again."""
    if text is not None:
        try:
            if documents.parse(text, NAME).data == wanted:
                return text
        except InputError:
            pass
    return str(yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True, width=110))


def _with(data: Value, location: Location, value: Value) -> Value:
    if not location:
        return value
    first, rest = location[0], location[1:]
    if isinstance(data, list) and isinstance(first, int):
        child = data[first] if first < len(data) else None
        return [*data[:first], _with(child, rest, value), *data[first + 1 :]]
    if isinstance(first, int):
        return [_with(None, rest, value)]
    below = data if isinstance(data, dict) else {}
    return {**below, first: _with(below.get(first), rest, value)}


def _less(data: Value, location: Location) -> Value:
    first, rest = location[0], location[1:]
    if isinstance(data, list):
        kept = [] if not rest else [_less(data[int(first)], rest)]
        return [*data[: int(first)], *kept, *data[int(first) + 1 :]]
    if rest:
        return {**data, first: _less(data[first], rest)}
    return {key: child for key, child in data.items() if key != first}


def _written(text: str, location: Location, value: Value) -> str | None:
    node: Any = yaml.compose(text, Loader=_LOADER)
    rest = location
    while rest:
        child = _child(node, rest[0])
        if child is None:
            break
        node, rest = child, rest[1:]
    if not rest:
        start, end = node.start_mark.index, _end(text, node)
        return text[:start] + plain(value) + text[end:]
    return _added(text, node, rest[0], _with(None, rest[1:], value))


def _added(text: str, node: yaml.Node, key: str | int, value: Value) -> str | None:
    """Return `text` with one entry more at the end of the collection `node`."""
    if not isinstance(node, yaml.CollectionNode):
        return None
    entry = plain(value) if isinstance(node, yaml.SequenceNode) else f"{plain(str(key))}: {plain(value)}"
    if not node.value:
        brackets = "[]" if isinstance(node, yaml.SequenceNode) else "{}"
        start, end = node.start_mark.index, node.end_mark.index
        return f"{text[:start]}{brackets[0]}{entry}{brackets[1]}{text[end:]}"
    last = _end(text, node) if not node.flow_style else _spans(text, node)[-1][1]
    if node.flow_style:
        return f"{text[:last]}, {entry}{text[last:]}"
    dash = "- " if isinstance(node, yaml.SequenceNode) else ""
    line = _line_end(text, last)
    return f"{text[:line]}\n{' ' * node.start_mark.column}{dash}{entry}{text[line:]}"


def _cut(text: str, location: Location) -> str | None:
    node: Any = yaml.compose(text, Loader=_LOADER)
    for part in location[:-1]:
        node = _child(node, part)
    keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else list(range(len(node.value)))
    at, spans = keys.index(location[-1]), _spans(text, node)
    if len(spans) == 1:
        start, end = node.start_mark.index, _end(text, node)
        return text[:start] + ("[]" if isinstance(node, yaml.SequenceNode) else "{}") + text[end:]
    if not node.flow_style:
        return text[: text.rfind("\n", 0, spans[at][0]) + 1] + text[_line_end(text, spans[at][1]) + 1 :]
    if at == 0:
        return text[: spans[0][0]] + text[spans[1][0] :]
    return text[: spans[at - 1][1]] + text[spans[at][1] :]


def _child(node: yaml.Node, key: str | int) -> Any:  # noqa: ANN401  (yaml is untyped)
    if isinstance(node, yaml.MappingNode):
        return next((child for name, child in node.value if name.value == key), None)
    found: Sequence[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else ()
    return found[key] if isinstance(key, int) and key < len(found) else None


def _spans(text: str, node: yaml.CollectionNode) -> list[Span]:
    """Return where each entry of a collection starts and ends in the text."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(child, child) for child in node.value]
    return [(first.start_mark.index, _end(text, last)) for first, last in pairs]


def _end(text: str, node: yaml.Node) -> int:
    """Return where a node's own characters end: what follows a block, comments included, is not its own."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(node, yaml.MappingNode) else last)
    return len(text[: node.end_mark.index].rstrip())


def _line_end(text: str, start: int) -> int:
    found = text.find("\n", start)
    return len(text) if found < 0 else found
