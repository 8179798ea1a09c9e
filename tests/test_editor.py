"""The scenario editor: text edited in place, forms from the specs, problems with their lines, saving where allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from capacity import documents
from capacity.errors import InputError, Problem
from capacity.pages import cached, drafts, editor, fields, forms, state, told
from capacity.pages.state import View

ROOT = Path(__file__).resolve().parent.parent
SCENARIOS = sorted(documents.catalogue("scenarios").items())
TEXT = documents.read_text(documents.find("scenarios", state.EXAMPLE))
LINE = "    - {name: rerank, task: encode, model: bge-reranker-v2-m3, dtype: fp16, sequences: 23, "


@pytest.fixture(autouse=True)
def neither_scenario_nor_saving_of_the_operator(monkeypatch):
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)
    monkeypatch.delenv(editor.SAVING, raising=False)


def opened(**query: str | list[str]) -> AppTest:
    app = AppTest.from_file(str(ROOT / "dashboard.py"), default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    return healthy(app.switch_page("capacity/pages/scenario.py").run())


def healthy(app: AppTest) -> AppTest:
    assert not app.exception, [error.value for error in app.exception]
    return app


def said(app: AppTest) -> str:
    return "\n".join(part.value for part in (*app.error, *app.markdown, *app.success)).replace("\\", "")


def query(app: AppTest) -> dict[str, list[str]]:
    return {name: value if isinstance(value, list) else [value] for name, value in app.query_params.items()}


def draft(app: AppTest) -> str:
    return app.text_area(key="edit").value


def typed(app: AppTest, text: str) -> AppTest:
    return healthy(app.text_area(key="edit").set_value(text).run())


def locations(data, at=()):
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, child in items:
        yield (*at, key)
        yield from locations(child, (*at, key))


@pytest.mark.parametrize(("name", "path"), SCENARIOS)
def test_every_value_of_every_scenario_can_be_changed_and_taken_out(name, path):
    text = documents.read_text(path)
    data = documents.parse(text, name).data
    for location in locations(data):
        changed = drafts.put(text, location, "7 d")
        assert drafts.value_at(documents.parse(changed, name).data, location) == "7 d"
        gone = documents.parse(drafts.without(text, location), name).data
        parent = drafts.value_at(data, location[:-1])
        assert len(drafts.value_at(gone, location[:-1])) == len(parent) - 1


def test_a_change_leaves_all_other_lines_as_they_were():
    text = TEXT.replace("engine:", "engine: # ·ᵀ\n ")
    changed = drafts.put(text, ("serving", "stages", 1, "tokens"), 300).splitlines()
    differ = [(was, now) for was, now in zip(text.splitlines(), changed, strict=True) if was != now]
    assert [(was.partition("tokens")[0], now.partition("tokens")[0]) for was, now in differ] == [(LINE, LINE)]


def test_what_is_missing_is_made_and_comments_stay():
    text = "a: {}  # nothing\nlist:\n- x: 1  # one\n# the end\n"
    assert drafts.put(text, ("a", "b", "c"), 5) == "a: {b: {c: 5}}  # nothing\nlist:\n- x: 1  # one\n# the end\n"
    added = drafts.put(text, ("list", 1), {"x": 2})
    assert added == "a: {}  # nothing\nlist:\n- x: 1  # one\n- {x: 2}\n# the end\n"
    assert drafts.without(added, ("list", 0)) == "a: {}  # nothing\nlist:\n- {x: 2}\n# the end\n"


def test_where_the_text_cannot_be_changed_in_place_the_document_is_written_again():
    text = "a: &same {x: 1}\nb: *same\nc: null\n"
    assert documents.parse(drafts.put(text, ("b", "x"), 2), "t").data == {"a": {"x": 1}, "b": {"x": 2}, "c": None}
    assert documents.parse(drafts.put(text, ("c", "y"), 2), "t").data["c"] == {"y": 2}


@pytest.mark.parametrize(("name", "path"), SCENARIOS)
def test_overrides_are_written_in_their_place(name, path):
    text = documents.read_text(path)
    for override in documents.parse(text, name).data.get("overrides", {}):
        view = View(scenario=name, overrides=(override,))
        changed = editor.written(view)
        assert documents.parse(changed, name).data == state.document(view).data
        assert changed.splitlines()[0] == text.splitlines()[0]
        assert len(changed.splitlines()) <= len(text.splitlines()) + 3


@given(st.text(max_size=60).filter(str.isprintable))
def test_any_text_can_be_a_value(value):
    changed = documents.parse(drafts.put("a: 1\nb: [2]\n", ("b", 0), value), "t").data
    assert changed == {"a": 1, "b": [value]}


@pytest.mark.parametrize("task", fields.MODELS)
def test_a_form_asks_for_every_value_that_a_stage_must_have(task):
    needed = {name for name, field in fields.MODELS[task].model_fields.items() if field.is_required()}
    asked = {str(field.location[-1]) for field in fields.stage({"task": task}, 0)}
    assert needed - asked == {"name", "task"}


def test_forms_say_what_the_specs_say():
    peak = next(field for section in fields.sections() for field in section.fields if field.label == "Peak rate")
    assert peak.location == ("traffic", "peak_rate")
    assert "busiest minutes" in peak.explanation
    assert "3000/s" in peak.explanation
    parallel = next(field for field in fields.stage({"task": "generate"}, 0) if field.location[-1] == "tensor_parallel")
    assert (parallel.kind, parallel.default, fields.read(parallel, "4")) == ("choice", "auto", 4)


def test_a_form_offers_models_of_the_right_family():
    app = opened(scenario="lstm-sequence")
    offered = app.selectbox(key="edit:serving.stages.0.model").options
    assert "lstm-recommender" in offered
    assert "bert-base" not in offered


def test_a_form_changes_the_text_and_applying_it_changes_the_plan():
    app = opened()
    healthy(app.text_input(key="edit:traffic.peak_rate").set_value("75/s").run())
    assert "traffic: {peak_rate: 75/s, mean_to_peak: 0.5}" in draft(app)
    assert query(app) == {"scenario": [state.EXAMPLE]}
    assert "+traffic: {peak_rate: 75/s" in next(code.value for code in app.code if code.value.startswith("---"))
    healthy(app.button(key="apply").click().run())
    assert query(app)["scenario"] == [f"{state.EXAMPLE}.yaml"]
    assert "yaml" in query(app)
    assert app.text_input(key="type:traffic.peak_rate").value == "75/s"
    assert app.button(key="again").disabled


def test_the_text_changes_the_forms():
    app = typed(opened(), TEXT.replace("peak_rate: 37.5/s", "peak_rate: 40/s"))
    assert app.text_input(key="edit:traffic.peak_rate").value == "40/s"


def test_bad_input_stays_and_its_line_is_named():
    app = opened()
    healthy(app.text_input(key="edit:objective.latency").set_value("soon").run())
    line = next(n for n, line in enumerate(draft(app).splitlines(), start=1) if "soon" in line)
    assert re.search(rf"cross-encoder-rerank\.yaml:{line}:\d+: objective\.latency.*\(line {line} reads", said(app))
    healthy(app.button(key="apply").click().run())
    assert app.text_input(key="edit:objective.latency").value == "soon"
    assert query(app) == {"scenario": [state.EXAMPLE]}


def test_text_that_is_no_yaml_hides_the_forms_and_stays():
    app = typed(opened(), TEXT + "\n: [")
    assert "not well-formed YAML" in said(app)
    assert draft(app).endswith("\n: [")
    assert not [item for item in app.text_input if item.key and item.key.startswith("edit:")]
    healthy(app.button(key="again").click().run())
    assert draft(app) == TEXT


def test_an_empty_draft_is_said():
    assert "is empty" in said(typed(opened(), ""))


def test_a_field_that_is_emptied_is_taken_out_of_the_text():
    app = opened()
    healthy(app.text_input(key="edit:traffic.mean_to_peak").set_value("").run())
    assert "traffic: {peak_rate: 37.5/s}" in draft(app)


def test_a_stage_is_added_and_removed():
    app = opened()
    adding = next(box for box in app.selectbox if box.key == "add:serving.stages:like")
    wanted = next(option for option in adding.options if option.startswith("host: filter"))
    adding.set_value(wanted).run()
    healthy(app.button(key="add:serving.stages").click().run())
    assert documents.parse(draft(app), "t").data["serving"]["stages"][2] == {
        "name": "filter", "task": "host", "time": "1 ms"
    }  # fmt: skip
    assert "valid scenario" in said(app)
    healthy(app.button(key="remove:serving.stages.2").click().run())
    assert draft(app) == TEXT


@pytest.mark.parametrize("kind", list(forms.ENTRIES))
def test_every_example_fits_the_scenario(kind):
    data = documents.parse(TEXT, "t").data
    entries = drafts.value_at(data, kind) or []
    found = forms.examples(kind)
    assert len(found) > 3
    for entry in found.values():
        text = drafts.put(TEXT, (*kind, len(entries)), forms.renamed(entry, entries))
        state.scenario(View(scenario="t.yaml", text=text))


def test_a_bad_upload_becomes_the_draft():
    app = opened()
    broken = TEXT.replace("engine: fused", "engine: fusd")
    healthy(app.file_uploader[0].upload("mine.yaml", broken.encode()).run())
    assert draft(app) == broken
    healthy(typed(app, broken.replace("fusd", "eager")).button(key="apply").click().run())
    assert app.selectbox(key="choose:engine").value == "eager"


def test_a_change_elsewhere_does_not_lose_the_draft():
    app = typed(opened(), TEXT + "# mine\n")
    healthy(app.select_slider(key="slide:traffic.peak_rate").set_value(100.0).run())
    assert draft(app).endswith("# mine\n")
    assert "Start again drops it" in app.info[0].value
    healthy(app.button(key="again").click().run())
    assert "peak_rate: 100/s" in draft(app)
    assert not app.info


def test_saving_is_off_unless_the_operator_allows_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "save" not in {button.key for button in opened().button}
    with pytest.raises(InputError, match="CAPACITY_SAVE=1"):
        editor.save("mine", TEXT.replace(f"id: {state.EXAMPLE}", "id: mine"), replaces=True)
    assert not list(tmp_path.iterdir())


def test_saving_writes_the_id_into_the_folder_of_scenarios_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(editor.SAVING, "1")
    mine = TEXT.replace(f"id: {state.EXAMPLE}", "id: mine")
    app = typed(opened(), mine)
    healthy(app.button(key="save").click().run())
    assert (tmp_path / "scenarios" / "mine.yaml").read_text(encoding="utf-8") == mine
    assert query(app) == {"scenario": ["mine"]}
    with pytest.raises(InputError, match="tick the box"):
        editor.save("mine", mine, replaces=False)
    editor.save("mine", mine + "# again\n", replaces=True)
    for name in ("../mine", "a/b", "other"):
        with pytest.raises(InputError):
            editor.save(name, mine, replaces=True)
    with pytest.raises(InputError):
        editor.save("../up", mine.replace("id: mine", "id: ../up"), replaces=True)
    assert [path.name for path in tmp_path.rglob("*.yaml")] == ["mine.yaml"]


def test_a_problem_without_a_line_is_said_plainly():
    assert editor.located(Problem("x.yaml", "is empty"), "") == "x.yaml: is empty"


def test_a_figure_is_told_in_words():
    plan = cached.plan(View(scenario=state.EXAMPLE))
    from capacity import charts

    words = told.told(charts.cost_bars(plan))
    assert words.startswith("Chart: What it costs a month; up: Cost [USD/month]")
    assert "devices: L4 → " in words
    long = {"data": [{"name": "a", "x": list(range(20)), "y": [float(n) for n in range(20)]}], "layout": {}}
    assert told.told(long) == "Chart: ; a: 0 → 0, 19 → 19 (first and last of 20, between 0 and 19)."
