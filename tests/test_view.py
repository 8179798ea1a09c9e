"""The view of the dashboard as data: URL ⇄ view ⇄ command, without Streamlit."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import documents
from capacity.errors import InputError, UnknownNameError
from capacity.pages import cached, controls, link, state
from capacity.pages.state import View
from capacity.units import parse

EXAMPLE = View(scenario=state.EXAMPLE)
HARDWARE = documents.catalogue("hardware_profiles")
TEXT = documents.find("scenarios", state.EXAMPLE).read_text(encoding="utf-8")
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


@pytest.fixture(autouse=True)
def no_scenario_of_the_operator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)


@given(
    st.builds(
        View,
        scenario=WORDS,
        overrides=st.lists(WORDS, unique=True, max_size=4).map(tuple),
        settings=st.lists(WORDS, unique=True, max_size=4).map(tuple),
        hardware=st.lists(WORDS, unique=True, max_size=4).map(tuple),
        option=WORDS,
        expect=st.lists(WORDS, unique=True, max_size=4).map(tuple),
        beside=st.lists(WORDS, unique=True, max_size=4).map(tuple),
        way=WORDS,
        against=WORDS,
        text=WORDS,
    )
)
def test_a_view_comes_back_from_its_url(view):
    assert link.from_query(link.to_query(view)) == (view, [])


@settings(deadline=None)
@given(
    st.dictionaries(WORDS | st.sampled_from(link.PARAMETERS), st.lists(st.text(max_size=50), max_size=3), max_size=6)
)
def test_no_url_raises(query):
    asked, _ = link.from_query(query)
    view, _ = state.checked(asked, HARDWARE)
    assert state.scenario(view)


def test_only_differences_stand_in_the_url():
    view = state.put(EXAMPLE, "traffic.peak_rate", "75/s")
    assert link.to_query(view) == {"scenario": [state.EXAMPLE], "set": ["traffic.peak_rate=75/s"]}
    assert state.put(view, "traffic.peak_rate", "37.5/s") == EXAMPLE
    assert state.put(view, "traffic.peak_rate", "37.5 requests/s") == EXAMPLE


@pytest.mark.parametrize("setting", ["hardware=[t4, abacus]", "serving.stages.rerank.model=abacus"])
def test_a_name_nobody_knows_is_dropped_from_a_link(setting):
    view, problems = state.checked(View(scenario=state.EXAMPLE, settings=(setting,)), HARDWARE)
    assert view == EXAMPLE
    assert "abacus" in str(problems[0])


def test_a_setting_keeps_its_place_and_counts_once():
    view = state.put(state.put(EXAMPLE, "traffic.peak_rate", "75/s"), "objective.latency", "1 s")
    assert state.put(view, "traffic.peak_rate", "80/s").settings == ("traffic.peak_rate=80/s", "objective.latency=1 s")


def test_a_stage_is_addressed_by_its_name():
    view = state.put(EXAMPLE, "serving.stages.rerank.dtype", "int8")
    assert state.value_at(state.scenario(view), "serving.stages.rerank.dtype") == "int8"
    assert ("serving.stages.rerank.dtype", "fp16", "int8") in state.changes(view)


def test_a_refused_value_names_its_path():
    with pytest.raises(InputError, match=r"objective\.latency"):
        state.put(EXAMPLE, "objective.latency", "soon")


def test_what_cannot_be_shown_is_dropped_and_said():
    asked = View(
        scenario=state.EXAMPLE, overrides=("growth", "grwth"), hardware=("t4", "t5"), option="h100-sxm-80gb",
        settings=("objective.latency=1 s", "objective.latency=never", "nonsense"),
    )  # fmt: skip
    view, problems = state.checked(asked, HARDWARE)
    assert view == View(
        scenario=state.EXAMPLE, overrides=("growth",), hardware=("t4",), settings=("objective.latency=1 s",)
    )
    said = "\n".join(map(str, problems))
    assert all(word in said for word in ("grwth", "t5", "h100-sxm-80gb", "never", "path.to.key=value"))
    assert len(problems) == 5


@pytest.mark.parametrize("name", ["nobody", "/etc/passwd", "../x.yaml"])
def test_a_link_opens_scenarios_of_the_catalogue_only(name):
    view, problems = state.checked(View(scenario=name), HARDWARE)
    assert view == EXAMPLE
    assert "unknown scenario" in str(problems[0])
    with pytest.raises(UnknownNameError):
        state.document(View(scenario=name))


def test_the_operator_may_open_a_file(tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace("id: cross", "id: my-cross"), encoding="utf-8")
    monkeypatch.setenv("CAPACITY_SCENARIO", str(path))
    assert state.scenario(state.default()).id == "my-cross-encoder-rerank"


@pytest.mark.parametrize(
    "setting",
    ["serving.stages.rerank.model=/etc/passwd", "pricing.rates=../rates.yaml", "hardware=[t4, x/y.yaml]"],
)
def test_a_link_reads_no_file_of_this_machine(setting):
    with pytest.raises(InputError, match="no file"):
        state.scenario(View(scenario=state.EXAMPLE, settings=(setting,)))


def test_an_upload_travels_in_its_link():
    view = View(scenario="mine.yaml", text=TEXT)
    assert link.from_query(link.to_query(view))[0] == view
    assert len(link.to_query(view)["yaml"][0]) < link.LONGEST_PACKED


def test_an_upload_too_long_for_a_link_stays_out_of_it():
    noise = "".join(map(chr, range(0x4E00, 0x9E00)))
    assert "yaml" not in link.to_query(View(scenario="mine.yaml", text=noise))


@pytest.mark.parametrize("packed", ["%%%", "abcd", link.pack(TEXT)[:-20], link.pack("x" * 10_000_000)])
def test_a_damaged_upload_is_said(packed):
    view, problems = link.from_query({"yaml": [packed]})
    assert view.text == ""
    assert "yaml" in str(problems[0])


def test_repeated_and_long_parameters_are_said():
    view, problems = link.from_query({"scenario": ["a", "b"], "set": ["x" * 5000], "hardware": ["t4"] * 300})
    assert (view.scenario, view.settings, view.hardware) == ("a", (), ("t4",))
    assert len(problems) == 3


def test_a_view_is_a_command():
    view = View(scenario="a b", overrides=("growth",), settings=("x=1 s",), hardware=("t4", "l4"))
    expected = [
        "capacity",
        "plan",
        "a b",
        "--override",
        "growth",
        "--set",
        "x=1 s",
        "--hardware",
        "t4",
        "--hardware",
        "l4",
    ]
    assert shlex.split(link.command(view)) == expected


@given(st.floats(1e-9, 1e12), st.sampled_from(["count", "seconds", "per second", "fraction"]))
def test_written_reads_back_exactly(value, dimension):
    assert parse(state.written(value, dimension), dimension) == value


def test_every_input_of_the_sidebar_addresses_a_value():
    found = state.scenario(EXAMPLE)
    for path in controls.owned(found):
        assert state.value_at(found, path) is not None


@pytest.mark.parametrize("place", ["model_profiles/retrieval/mine.yaml", "convergence/mine.yaml", "mine.yaml"])
def test_files_that_an_answer_depends_on_are_seen_when_they_change(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPACITY_SCENARIO", "./mine.yaml")
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    before = cached._looked_up.__wrapped__("", tmp_path, 0)
    file.write_text("id: mine\n")
    assert cached._looked_up.__wrapped__("", tmp_path, 1) != before
