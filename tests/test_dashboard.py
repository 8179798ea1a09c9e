"""Every page of the dashboard through Streamlit's AppTest: the answer, the URL both ways, messages, no tracebacks."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from html import unescape
from pathlib import Path

import measured_rows
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from capacity import cli, documents
from capacity.pages import cached, link, state
from capacity.pages.state import View
from capacity.report import kernels, sentence

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("plan", "compare", "serving", "training", "levers", "budget", "hardware", "scenario", "accuracy", "method")
RATE = "slide:traffic.peak_rate"
DOWNLOADS = {
    f"download:{kind}" for kind in ("html", "markdown", "csv", "json", "xlsx", "parquet", "focus", "yaml")
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_scenario_of_the_operator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)


def opened(page: str = "plan", **query: str | list[str]) -> AppTest:
    """Return the dashboard opened at a page with URL parameters."""
    app = AppTest.from_file(str(ROOT / "dashboard.py"), default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    if page != "plan":
        app.switch_page(f"capacity/pages/{page}.py").run()
    return healthy(app)


def healthy(app: AppTest) -> AppTest:
    assert not app.exception, [error.value for error in app.exception]
    return app


def text(app: AppTest) -> str:
    """Return everything that pages draw as HTML, as a person reads it."""
    return "\n".join(unescape(re.sub(r"<[^>]+>", " ", part.value)) for part in app.html)


def flat(words: str) -> str:
    return " ".join(words.split())


def headline(app: AppTest) -> str:
    found = next(part.value for part in app.html if "cap-answer" in part.value)
    return unescape(re.sub(r"<[^>]+>", "", found))


def errors(app: AppTest) -> str:
    return "\n".join(error.value.replace("\\", "") for error in app.error)


def query(app: AppTest) -> dict[str, list[str]]:
    return {name: value if isinstance(value, list) else [value] for name, value in app.query_params.items()}


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_and_offers_the_downloads(page):
    app = opened(page)
    assert not app.error
    assert {button.key for button in app.get("download_button")} >= DOWNLOADS
    assert query(app) == {"scenario": [state.EXAMPLE]}


@pytest.mark.parametrize("page", ["plan", "hardware", "method"])
def test_the_sentence_stands_first(page):
    assert headline(opened(page)) == sentence.answer(cached.plan(View(scenario=state.EXAMPLE)))


@pytest.mark.parametrize("name", sorted(documents.catalogue("scenarios")))
def test_every_shipped_scenario_opens(name):
    app = opened(scenario=name)
    assert not app.error
    assert headline(app) == sentence.answer(cached.plan(View(scenario=name)))


def test_moving_the_rate_changes_devices_and_url():
    app = opened()
    before = int(app.metric[0].value)
    healthy(app.select_slider(key=RATE).set_value(150.0).run())
    assert int(app.metric[0].value) > before
    assert query(app)["set"] == ["traffic.peak_rate=150/s"]
    assert app.text_input(key="type:traffic.peak_rate").value == "150/s"
    healthy(app.select_slider(key=RATE).set_value(37.5).run())
    assert int(app.metric[0].value) == before
    assert query(app) == {"scenario": [state.EXAMPLE]}


def test_a_page_change_keeps_the_view():
    app = opened()
    healthy(app.select_slider(key=RATE).set_value(100.0).run())
    app.query_params.clear()
    healthy(app.switch_page("capacity/pages/method.py").run())
    assert query(app)["set"] == ["traffic.peak_rate=100/s"]
    assert "100 requests/s" in headline(app)


def test_a_link_restores_the_view():
    app = opened(
        set=["traffic.peak_rate=100/s", "pricing.term=1-year", "serving.max_wait=20 ms"],
        override=["short-documents"], hardware=["t4", "l4"], option=["t4"],
    )  # fmt: skip
    assert not app.error
    assert app.select_slider(key=RATE).value == 100.0
    assert app.selectbox(key="choose:pricing.term").value == "1-year"
    assert app.multiselect(key="overrides").value == ["short-documents"]
    assert app.multiselect(key="hardware").value == ["t4", "l4"]
    assert app.selectbox(key="option").value in {"t4", "l4"}
    assert app.text_area(key="settings").value == "serving.max_wait=20 ms"
    assert "100 requests/s" in headline(app)


def test_a_link_followed_in_an_open_tab_wins_over_the_session():
    app = opened(set="traffic.peak_rate=100/s")
    app.query_params["set"] = "traffic.peak_rate=50/s"
    healthy(app.run())
    assert app.select_slider(key=RATE).value == 50.0


def test_every_kind_of_input_moves_the_url():
    app = opened()
    app.text_input(key="type:objective.latency").set_value("500 ms").run()
    app.selectbox(key="choose:engine").set_value("eager").run()
    app.selectbox(key="choose:serving.stages.rerank.dtype").set_value("int8").run()
    app.select_slider(key="slide:serving.max_batch").set_value(8.0).run()
    app.text_area(key="settings").set_value("storage.checkpoints=5\n\nresilience.spare_replicas=2").run()
    app.multiselect(key="overrides").set_value(["growth"]).run()
    app.multiselect(key="hardware").set_value(["l4"]).run()
    assert query(healthy(app)) == {
        "scenario": [state.EXAMPLE],
        "override": ["growth"],
        "set": [
            "objective.latency=500 ms", "engine=eager", "serving.stages.rerank.dtype=int8", "serving.max_batch=8",
            "storage.checkpoints=5", "resilience.spare_replicas=2",
        ],
        "hardware": ["l4"],
    }  # fmt: skip


def test_another_scenario_starts_afresh():
    app = opened(set="traffic.peak_rate=100/s", hardware="l4")
    healthy(app.selectbox(key="scenario").set_value("lstm-sequence").run())
    assert query(app) == {"scenario": ["lstm-sequence"]}


@pytest.mark.parametrize("page", PAGES)
def test_a_bad_link_gives_a_message_and_the_default(page):
    app = opened(page, scenario="nobody", set="x", speed="9", hardware="abacus", option="t4", yaml="%")
    said = errors(app)
    assert all(word in said for word in ("nobody", "speed", "yaml"))
    assert query(app)["scenario"] == [state.EXAMPLE]


def test_nonsense_typed_leaves_the_view_as_it_was():
    app = opened()
    healthy(app.text_input(key="type:objective.latency").set_value("soon").run())
    assert "objective.latency" in errors(app)
    assert query(app) == {"scenario": [state.EXAMPLE]}
    healthy(app.text_input(key="type:objective.latency").set_value("1 s").run())
    assert not app.error


def test_infeasible_is_an_answer_with_constraint_gap_and_best():
    app = opened(set="objective.latency=20 ms", hardware=["t4", "l4"])
    assert not app.error
    assert "no option is feasible" in headline(app)
    shown = flat(text(app))
    assert "service time of one batch" in shown
    assert "best achievable" in shown
    assert "allowed 20 ms" in shown
    assert "too much" in shown


def test_a_missing_price_is_said_never_zero():
    app = opened(hardware=["mi325x"])
    assert "no price" in headline(app)
    assert "$0 " not in flat(text(app))


def test_a_device_without_the_needed_fact_says_which():
    app = opened("hardware", hardware=["t4", "graviton4"])
    assert "graviton4 has no dense fp16 rate" in flat(text(app))
    assert len(app.dataframe) == 1


def test_all_devices_side_by_side():
    app = opened("hardware")
    healthy(app.button(key="preset:GPUs").click().run())
    kinds = {cached.profiles()[name].kind for name in query(app)["hardware"]}
    assert kinds == {"gpu"}
    assert len(app.dataframe[0].value) == len(query(app)["hardware"])


def test_the_command_gives_the_same_numbers_as_the_download():
    app = opened(set=["traffic.peak_rate=100/s", "objective.latency=500 ms"], override="short-documents", hardware="l4")
    command = next(code.value for code in app.code if code.value.startswith("capacity plan"))
    done = CliRunner().invoke(cli.app, [*shlex.split(command)[1:], "--json"])
    view, _ = link.from_query(query(app))
    assert json.loads(done.stdout) == json.loads(cached.report(view, "json"))


@pytest.mark.parametrize("kind", ["html", "markdown", "csv", "json"])
def test_reports_hold_the_options(kind):
    assert "L4" in cached.report(View(scenario=state.EXAMPLE), kind)


def test_the_scenario_downloaded_is_the_scenario_planned():
    plain = View(scenario=state.EXAMPLE)
    view = View(scenario=state.EXAMPLE, overrides=("growth",), settings=("serving.stages.rerank.sequences=50",))
    for asked in (plain, view):
        assert state.scenario(View(scenario="x.yaml", text=cached.scenario_yaml(asked))) == state.scenario(asked)


def test_an_upload_is_opened_and_linked():
    app = opened("scenario")
    content = cached.scenario_yaml(View(scenario=state.EXAMPLE)).replace("title: Rerank", "title: <b>My</b> rerank")
    healthy(app.file_uploader[0].upload("mine.yaml", content.encode()).run())
    assert not app.error
    assert query(app)["scenario"] == ["mine.yaml"]
    again = opened(**query(app))
    assert "“<b>My</b> rerank" in headline(again)
    assert "<b>My" not in next(part.value for part in again.html if "cap-answer" in part.value)


def test_a_bad_upload_lists_every_problem_with_its_place():
    app = opened("scenario")
    content = cached.scenario_yaml(View(scenario=state.EXAMPLE)).replace("engine: fused", "engine: fusd\nspeed: 3")
    healthy(app.file_uploader[0].upload("mine.yaml", content.encode()).run())
    said = "\n".join(part.value for part in app.markdown).replace("\\", "")
    assert re.search(r"mine\.yaml:\d+:\d+: engine", said)
    assert re.search(r"mine\.yaml:\d+:\d+: unknown key 'speed'", said)
    assert query(app)["scenario"] == [state.EXAMPLE]


def test_the_scenario_page_shows_what_was_changed():
    shown = flat(text(opened("scenario", set="traffic.peak_rate=100/s", override="short-documents")))
    assert "traffic.peak_rate 37.5/s 100/s" in shown
    assert "catalogue.item_tokens 480 128" in shown


def test_the_method_page_explains_words_errors_and_formulas():
    shown = flat(text(opened("method")))
    assert all(word in shown for word in ("measured", "calibrated", "projected", "datasheet", "assumed"))
    assert "Source of the error" in shown
    assert "Erlang" in shown


def test_the_accuracy_page_shows_where_numbers_come_from_and_how_wrong_they_were():
    app = opened("accuracy", device="l40s")
    assert not app.error
    (families,) = (part.value for part in app.dataframe)
    assert len(families) == len(kernels.origins(cached.profiles()["l40s"], cached.calibrations()))
    assert families["Median error, held out"].between(0, 1).all()
    assert (families.filter(like="90 % band") > 1).all(axis=None)
    assert "measured here" in set(families["From"])
    shown = flat(text(app))
    assert all(words in shown for words in ("l40s-fused", "forms, version 2", "rows of kind gemm", "Whole models"))
    assert len(app.get("plotly_chart")) == 2


def test_a_device_nobody_measured_names_its_relatives():
    app = opened("accuracy", device="h200-sxm-141gb")
    assert not app.error
    assert "no kernel family was measured here" in app.markdown[0].value
    shown = app.dataframe[0].value
    assert shown["From"].str.startswith("carried over from").all()
    assert (shown["Basis"] == "projected").all()


def test_what_the_accuracy_page_shows_stands_in_the_url():
    app = opened("accuracy")
    assert query(app) == {"scenario": [state.EXAMPLE]}
    app.selectbox(key="device").set_value("l40s").run()
    family = app.selectbox(key="kernel").options[-1]
    app.selectbox(key="kernel").select(family).run()
    healthy(app.selectbox(key="kind").set_value("collective").run())
    said = query(app)
    assert (said["device"], said["kind"]) == (["l40s"], ["collective"])
    again = opened("accuracy", **said)
    assert not again.error
    assert again.selectbox(key="kernel").value == app.selectbox(key="kernel").value == said["kernel"][0]
    plain, shown = (cached.plan(View(scenario=state.EXAMPLE, device=name)) for name in ("", "l40s"))
    assert plain is shown  # a page's choice asks for no new plan


def test_a_link_to_a_family_or_device_that_is_not_there_says_so():
    app = opened("accuracy", device="l40s", kernel="gemm:abacus:fp16:fp16", kind="abacus")
    assert "has no kernel family gemm:abacus:fp16:fp16" in app.info[0].value.replace("\\", "")
    assert "unknown kind 'abacus'" in errors(app)
    assert "unknown device 'abacus'" in errors(opened("accuracy", device="abacus"))


def test_an_uploaded_table_is_held_against_predictions():
    app = opened("accuracy", device="l40s")
    content = measured_rows.varied("gemm").to_csv(index=False).encode()
    healthy(app.file_uploader[0].upload("mine.csv", content).run())
    assert not app.error
    found = cached.validation(content, "mine.csv", "gemm")
    by_hardware = app.dataframe[-1].value
    assert list(by_hardware["Hardware"]) == ["all", *found.figures["by_hardware"]]
    assert by_hardware["Rows predicted"][0] == found.figures["targets"]["latency_us"]["predicted"]
    assert "unknown hardware 't5'" in flat(text(app))
    assert f"{found.points['latency_us'].usable} of {len(found.frame)} rows" in "\n".join(c.value for c in app.caption)
    assert len(app.get("plotly_chart")) == 4
    assert "download:predictions" in {button.key for button in app.get("download_button")}
    again = pd.read_csv(io.StringIO(cached.long_csv(found)))
    assert list(again.columns) == list(found.frame.columns)
    assert len(again) == len(found.frame)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("mine.csv", b"", "mine.csv: is not a CSV or Parquet table"),
        ("mine.csv", b"a,b\n1,2\n", "mine.csv: kind gemm needs column 'm'"),
        ("mine.csv", b"hardware,engine,dtype,m,n,k,latency_us\n", "mine.csv: holds no rows"),
        ("mine.parquet", b"PAR1 and nothing else", "mine.parquet: is not a CSV or Parquet table"),
        ("mine.csv", b"\xff\xfe\x00\x01", "mine.csv: is not a CSV or Parquet table"),
    ],
)
def test_a_bad_table_gives_one_clear_message(name, content, expected):
    app = opened("accuracy", device="l40s")
    healthy(app.file_uploader[0].upload(name, content).run())
    (message,) = app.error
    said = message.value.replace("\\", "")
    assert said.startswith("This is no table of kind gemm that can be used")
    assert expected in said


def test_the_scenario_of_the_environment_opens_first(monkeypatch):
    monkeypatch.setenv("CAPACITY_SCENARIO", "lstm-sequence")
    assert query(opened()) == {"scenario": ["lstm-sequence"]}


def test_a_broken_scenario_of_the_environment_is_a_message(monkeypatch):
    monkeypatch.setenv("CAPACITY_SCENARIO", "nobody")
    app = opened()
    assert "unknown scenario 'nobody'" in errors(app)


def test_a_defect_is_one_line(monkeypatch):
    def broken(view):
        raise RuntimeError("boom")

    monkeypatch.delenv("CAPACITY_DEBUG", raising=False)
    monkeypatch.setattr(cached, "plan", broken)
    assert "A defect of ours (RuntimeError: boom)" in errors(opened())


def test_the_dashboard_loads_no_torch():
    code = (
        "import sys; from streamlit.testing.v1 import AppTest;"
        "app = AppTest.from_file('dashboard.py', default_timeout=60).run();"
        "pages = ('hardware', 'scenario', 'accuracy', 'method');"
        "[app.switch_page(f'capacity/pages/{name}.py').run() for name in pages];"
        "print(len(app.exception), *({'torch', 'transformers', 'kernels'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]


def test_a_scenario_of_the_operator_may_bring_its_own_device(monkeypatch, tmp_path):
    device = documents.find("hardware_profiles", "l4").read_text(encoding="utf-8").replace("id: l4", "id: my-l4")
    (tmp_path / "l4.yaml").write_text(device, encoding="utf-8")
    text = documents.find("scenarios", state.EXAMPLE).read_text(encoding="utf-8")
    own = re.sub(r"hardware: \[.*\]", f"hardware: [t4, {tmp_path / 'l4.yaml'}]", text)
    (tmp_path / "mine.yaml").write_text(own, encoding="utf-8")
    monkeypatch.setenv("CAPACITY_SCENARIO", str(tmp_path / "mine.yaml"))
    for page in PAGES:
        app = opened(page)
        assert not app.error
        assert len(app.multiselect(key="hardware").value) == 2
