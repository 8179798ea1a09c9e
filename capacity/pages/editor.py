"""The scenario editor: forms and YAML side by side, both showing one draft that becomes the view when it is applied.

The draft may be wrong: whatever is typed stays, its problems stand beside it with the lines they are in.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import streamlit as st

from capacity import documents, files
from capacity.documents import Value
from capacity.errors import CapacityError, InputError, Problem
from capacity.pages import cached, drafts, session, show, state
from capacity.pages.state import View
from capacity.problems import Location
from capacity.spec.scenario import Scenario

DRAFT, FAILED = "_draft", "_save_failed"
SAVING = "CAPACITY_SAVE"
"""Set to 1 by the operator of a dashboard who lets its visitors write scenarios/<id>.yaml."""
HEIGHT = 620


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A scenario's text while it is edited."""

    name: str
    """Stands for it in messages."""
    text: str
    seed: str
    """The text it started from: that of the view."""
    base: str
    """Scenario of the catalogue that it is compared with; empty where none is known."""

    @property
    def touched(self) -> bool:
        """Whether anything was changed since it started."""
        return self.text != self.seed


def current(view: View) -> Draft:
    """Return the draft of this session; a new one of the view where nothing was edited yet."""
    memory = st.session_state
    draft: Draft | None = memory.get(DRAFT)
    if draft is None or not draft.touched:
        seed = written(view)
        known = documents.catalogue("scenarios")
        base = view.scenario if view.scenario in known and not view.text else (draft.base if draft else "")
        name = view.scenario if view.text else f"{Path(view.scenario).stem}.yaml"
        memory[DRAFT] = draft = Draft(name=name, text=seed, seed=seed, base=base)
    return draft


def written(view: View) -> str:
    """Return the scenario of a view as YAML, with what was changed in its place."""
    plain = cached.scenario_yaml(View(scenario=view.scenario, text=view.text))
    if not view.overrides and not view.settings:
        return plain
    return drafts.becoming(plain, state.document(view).data)


def start(name: str, text: str) -> None:
    """Make `text` the draft, as an uploaded file that has problems."""
    memory = st.session_state
    memory[DRAFT] = replace(memory[DRAFT], name=name, text=text)


def close() -> None:
    """Forget the draft: the next one starts from the view."""
    draft: Draft | None = st.session_state.get(DRAFT)
    if draft is not None:
        st.session_state[DRAFT] = replace(draft, text=draft.seed)


def edit(change: drafts.Change) -> None:
    """Change the text of the draft, if it is well-formed enough to be changed by a form."""
    memory = st.session_state
    try:
        memory[DRAFT] = replace(memory[DRAFT], text=change(memory[DRAFT].text))
    except InputError as error:
        memory[session.PROBLEMS] = list(error.problems)


def data(draft: Draft) -> dict[str, Value] | None:
    """Return what the draft says; None where it is no well-formed YAML."""
    try:
        return documents.parse(draft.text, draft.name).data
    except InputError:
        return None


def found(draft: Draft) -> tuple[Scenario | None, list[Problem]]:
    """Return the scenario that the draft is, or every problem in it."""
    if not draft.text.strip():
        return None, [Problem(draft.name, "is empty; write a scenario, or start again from the one shown")]
    if len(draft.text) > state.LONGEST_TEXT:
        return None, [Problem(draft.name, f"is longer than {state.LONGEST_TEXT:,} characters")]
    try:
        return cached.scenario(View(scenario=draft.name, text=draft.text)), []
    except InputError as error:
        return None, list(error.problems)
    except CapacityError as error:
        return None, [Problem(draft.name, str(error))]


def located(problem: Problem, text: str) -> str:
    r"""Return a problem with the line it stands in.

    Examples
    --------
    >>> located(Problem("a.yaml:2:3", "speed: unknown"), "id: a\n  speed: 3")
    'a.yaml:2:3: speed: unknown (line 2 reads “speed: 3”)'
    """
    place = re.search(r":(\d+):\d+$", problem.where)
    lines = text.splitlines()
    if place is None or int(place[1]) > len(lines):
        return str(problem)
    return f"{problem} (line {place[1]} reads “{lines[int(place[1]) - 1].strip()}”)"


def yaml_side(draft: Draft) -> None:
    """Draw the text of the draft, what is wrong with it, and what can be done with it."""
    st.session_state["edit"] = draft.text
    st.text_area(
        "Scenario as YAML", key="edit", height=HEIGHT, on_change=_typed,
        help="Checked when you leave the field or press Ctrl+Enter. The forms follow it, and it follows the forms.",
    )  # fmt: skip
    scenario, problems = found(draft) if draft.touched else (None, [])
    if problems:
        st.error(f"{len(problems)} problem{'s' * (len(problems) > 1)} in the draft, each as file:line:column:")
        show.bullets([located(problem, draft.text) for problem in problems])
    elif draft.touched:
        st.success("The draft is a valid scenario. Apply it to plan it.")
    else:
        st.caption("This is the scenario that every page answers for.")
    left, middle, right = st.columns(3)
    left.button("Apply", key="apply", width="stretch", on_click=_applied)
    middle.button("Start again", key="again", width="stretch", on_click=close, disabled=not draft.touched)
    right.download_button(
        "Download", draft.text, file_name=f"{Path(draft.name).stem}.yaml", mime="application/yaml", on_click="ignore",
        key="download:draft", width="stretch",
    )  # fmt: skip
    _saving(draft, scenario)


def _typed() -> None:
    st.session_state[DRAFT] = replace(st.session_state[DRAFT], text=st.session_state["edit"])


def _applied() -> None:
    """Make the draft the scenario of the view; a draft with problems stays as it is."""
    draft: Draft = st.session_state[DRAFT]
    scenario, problems = found(draft)
    if scenario is None or problems or not draft.touched:
        return
    name = f"{scenario.id}.yaml"

    def applied(view: View) -> View:
        same = scenario.hardware == cached.scenario(view).hardware
        return View(scenario=name, text=draft.text, hardware=view.hardware if same else ())

    session.change(applied)
    st.session_state[DRAFT] = replace(draft, name=name, seed=draft.text)


def _saving(draft: Draft, scenario: Scenario | None) -> None:
    """Draw what writes the draft into scenarios/, where the operator allowed it."""
    if os.environ.get(SAVING) != "1":
        st.caption(
            f"Download it to keep it. A dashboard started with {SAVING}=1 also saves into its scenarios/ folder."
        )
        return
    scenario = scenario or found(draft)[0]
    if scenario is None:
        st.caption("A draft with problems cannot be saved; download it to keep it.")
        return
    taken = scenario.id in documents.catalogue("scenarios")
    agreed = st.checkbox(f"Replace the scenario {scenario.id}", key=f"replace:{scenario.id}") if taken else False
    st.button(
        f"Save as scenarios/{scenario.id}.yaml", key="save", on_click=partial(_saved, scenario.id, agreed),
        disabled=taken and not agreed,
    )  # fmt: skip


def _saved(name: str, agreed: bool) -> None:
    draft: Draft = st.session_state[DRAFT]
    try:
        save(name, draft.text, replaces=agreed)
    except InputError as error:
        st.session_state[session.PROBLEMS] = list(error.problems)
        return
    st.session_state[DRAFT] = replace(draft, seed=draft.text, base=name)
    session.change(lambda _: View(scenario=name))


def save(name: str, text: str, *, replaces: bool) -> Path:
    """Write a scenario to scenarios/`name`.yaml below the working directory, and return that path.

    Raises
    ------
    InputError
        When saving is not allowed here, when the text is no valid scenario of that id, or when a scenario has this id
        and `replaces` is false.
    """
    path = Path.cwd() / "scenarios" / f"{name}.yaml"
    if os.environ.get(SAVING) != "1":
        raise InputError([Problem(path.name, f"saving is off; the operator may start the dashboard with {SAVING}=1")])
    if state.scenario(View(scenario=path.name, text=text)).id != name:
        raise InputError([Problem(path.name, f"holds a scenario of another id than {name}")])
    if name in documents.catalogue("scenarios") and not replaces:
        raise InputError([Problem(path.name, "there is a scenario of this id; tick the box to replace it")])
    return files.write_text(path, text)


def compared(draft: Draft) -> None:
    """Draw what the draft changes in a scenario of the catalogue, or in the view."""
    st.header("Difference to the base scenario", anchor="difference")
    shown = "the scenario shown"
    names = [shown, *documents.catalogue("scenarios")]
    mine = draft.base or str((data(draft) or {}).get("id"))
    key = f"base:{mine}"
    if st.session_state.get(key) not in names:
        st.session_state[key] = mine if mine in names else shown
    column, _ = st.columns([2, 3])
    chosen = column.selectbox("Base", names, key=key)
    before = draft.seed if chosen == shown else documents.read_text(documents.find("scenarios", chosen))
    lines = drafts.difference(before, draft.text, (chosen, draft.name))
    if lines:
        st.code(lines, language="diff", wrap_lines=True)
    else:
        st.caption("They are the same.")


def removed(location: Location) -> None:
    """Take the entry at `location` out of the draft."""
    edit(lambda text: drafts.without(text, location))
