"""The left side of the scenario editor: one form a section, a stage and a job; each input changes the draft's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import streamlit as st

from capacity import documents
from capacity.documents import Value
from capacity.pages import cached, drafts, editor, fields
from capacity.pages.fields import BATCH, STAGES, TRAINING, UNSET, Field
from capacity.pages.show import escaped
from capacity.problems import Location

OPEN = ("Recommender", "Traffic", "Objective and room")
"""Sections that stand open at first."""
ENTRIES: Mapping[Location, str] = {STAGES: "stage", TRAINING: "training job", BATCH: "batch job"}
IN_A_ROW = 2


def show(data: dict[str, Value]) -> None:
    """Draw the forms for what a draft says."""
    for section in fields.sections():
        with st.expander(section.title, expanded=section.title in OPEN):
            inputs(section.fields, data)
    for kind, label in ENTRIES.items():
        st.markdown(f"### {label.capitalize()}s")
        found = drafts.value_at(data, kind)
        entries = found if isinstance(found, list) else []
        for place, entry in enumerate(entries):
            if isinstance(entry, dict):
                _entry(kind, place, entry, data)
        _adding(kind, label, entries)


def inputs(wanted: Sequence[Field], data: dict[str, Value]) -> None:
    """Draw inputs in rows, each showing what the draft says at its place."""
    for start in range(0, len(wanted), IN_A_ROW):
        for column, field in zip(st.columns(IN_A_ROW), wanted[start : start + IN_A_ROW], strict=False):
            with column:
                one(field, drafts.value_at(data, field.location))


def one(field: Field, now: Value) -> None:
    """Draw one input for a value that is now `now`, None where the scenario does not give it."""
    last, changed = field.location[-1], partial(_changed, field)
    shown = fields.written(now)
    if last == "hardware" and isinstance(now, list | None):
        known = cached.profiles()
        names = list(dict.fromkeys([*known, *map(str, now or ())]))
        st.session_state[field.key] = list(map(str, now or ()))
        st.multiselect(
            field.label, names, key=field.key, help=field.explanation, on_change=changed,
            format_func=lambda name: known[name].name if name in known else name,
        )  # fmt: skip
    elif field.kind == "switch" and isinstance(now, bool | None):
        st.session_state[field.key] = field.default == "true" if now is None else now
        st.toggle(field.label, key=field.key, help=escaped(field.explanation), on_change=changed)
    elif field.kind == "choice" or last == "model":
        words = models(field.families) if last == "model" else list(field.words)
        st.session_state[field.key] = shown or field.default
        names = list(dict.fromkeys([*words, st.session_state[field.key]]))
        st.selectbox(field.label, names, key=field.key, help=escaped(field.explanation), on_change=changed)
    else:
        st.session_state[field.key] = shown
        st.text_input(
            field.label, key=field.key, help=escaped(field.explanation), on_change=changed,
            placeholder=field.default or None,
        )  # fmt: skip


def _changed(field: Field) -> None:
    typed = st.session_state[field.key]
    if typed == UNSET:
        editor.removed(field.location)
    else:
        value = list(typed) if isinstance(typed, list) else fields.read(field, typed)
        editor.edit(lambda text: drafts.put(text, field.location, value))


def _entry(kind: Location, place: int, entry: dict[str, Value], data: dict[str, Value]) -> None:
    """Draw the form of one stage or job, and what removes it."""
    wanted = fields.stage(entry, place) if kind == STAGES else fields.job(kind, place)
    task = entry.get("task", entry.get("model", ""))
    with st.expander(escaped(f"{entry.get('name', place)} ({task})")):
        inputs(wanted, data)
        st.button(
            f"Remove {escaped(str(entry.get('name', place)))}", on_click=editor.removed, args=((*kind, place),),
            key=f"remove:{'.'.join(map(str, (*kind, place)))}",
        )  # fmt: skip


def _adding(kind: Location, label: str, entries: list[Value]) -> None:
    """Draw what adds a copy of a stage or job of the shipped scenarios."""
    known = examples(kind)
    key = f"add:{'.'.join(map(str, kind))}"
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    chosen = left.selectbox(f"Add a {label} like", list(known), key=f"{key}:like")
    right.button("Add", key=key, width="stretch", on_click=_added, args=(kind, known[chosen], entries), help=(
        f"A copy with that scenario's numbers, at the end of the list: change them to yours. Add a {label}."
    ))  # fmt: skip


def _added(kind: Location, entry: dict[str, Value], entries: list[Value]) -> None:
    new = renamed(entry, entries)
    editor.edit(lambda text: drafts.put(text, (*kind, len(entries)), new))


def renamed(entry: dict[str, Value], entries: Sequence[Value]) -> dict[str, Value]:
    """Return a copy of an entry that fits to others: a name of its own, in the pool of the last one, after it.

    Examples
    --------
    >>> renamed({"name": "a", "task": "host", "after": []}, [{"name": "a", "pool": "p"}])
    {'name': 'a-2', 'task': 'host', 'pool': 'p'}
    """
    others = [other for other in entries if isinstance(other, dict)]
    names, name, count = {other.get("name") for other in others}, str(entry["name"]), 1
    while name in names:
        count += 1
        name = f"{entry['name']}-{count}"
    own = {key: value for key, value in entry.items() if key not in {"after", "pool"}} | {"name": name}
    pool = others[-1].get("pool") if others else entry.get("pool")
    return own | ({"pool": pool} if pool is not None else {})


def models(families: Sequence[str]) -> list[str]:
    """Return the models of the catalogue that belong to one of `families`; all where none is named."""
    return [name for name, family in _families(cached.stamp()).items() if not families or family in families]


@st.cache_data(show_spinner=False)
def _families(at: cached.Stamp) -> dict[str, str]:
    return {
        name: str(documents.read(path).data.get("family"))
        for name, path in documents.catalogue("model_profiles").items()
    }


def examples(kind: Location) -> dict[str, dict[str, Value]]:
    """Return every stage or job of the scenarios in the catalogue, by what it is and where it stands."""
    return _examples(kind, cached.stamp())


@st.cache_data(show_spinner=False)
def _examples(kind: Location, at: cached.Stamp) -> dict[str, dict[str, Value]]:
    found = {}
    for name, path in documents.catalogue("scenarios").items():
        for entry in drafts.value_at(documents.read(path).data, kind) or ():
            found[f"{entry.get('task', entry.get('model'))}: {entry['name']} of {name}"] = entry
    return found
