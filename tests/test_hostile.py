"""Hostile input at the dashboard: documents, uploads, links, forged widgets. Each a message; nothing is run or written.

Not asserted is how long a case takes; one that hangs is seen by whoever waits for the tests.
"""

from __future__ import annotations

import ast
import base64
import io
import re
import tomllib
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from capacity import documents
from capacity.errors import CapacityError
from capacity.pages import cached, link, state
from capacity.pages.state import View

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
OUTSIDE = (
    "../../../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "..\\..\\etc",
    "a.yaml",
    "..",
    "",
    "\0",
    "x" * 5000,
)
PAGES = tuple(
    path.stem for path in sorted((ROOT / "capacity" / "pages").glob("*.py")) if "__main__" in path.read_text()
)
DRAWN = {"div", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "style", "h1", "p", "caption"}
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
EXAMPLE = documents.find("scenarios", state.EXAMPLE).read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run in an empty folder, and see that it stays empty."""
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


def refusal(call, *arguments) -> str:
    with pytest.raises(CapacityError) as caught:
        call(*arguments)
    said = str(caught.value)
    assert len(said) < 20_000
    return said


def opened(page: str = "plan", **query: str | list[str]) -> AppTest:
    app = AppTest.from_file(str(ROOT / "dashboard.py"), default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    if page != "plan":
        app.switch_page(str(ROOT / "capacity" / "pages" / f"{page}.py")).run()
    return app


class _Tags(HTMLParser):
    """Collects the elements of an HTML text, and attributes that could act."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


def harmless(app: AppTest) -> None:
    """Assert that the app drew messages and no traceback, and no element that this project does not draw itself."""
    assert not app.exception
    assert not any("defect of ours" in error.value for error in app.error)
    for part in app.html:
        tags = _Tags()
        tags.feed(part.value)
        assert tags.names <= DRAWN, tags.names - DRAWN
        assert tags.attributes <= {"class", "style", "colspan", "scope", "tabindex", "role", "aria-label"}
    shown = [*app.markdown, *app.caption, *app.error, *app.title, *app.header, *app.subheader, *app.info]
    assert not any(re.search(r"<(script|img)|(?<!\\)!\[x\]", part.value) for part in shown)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "through aliases"),
        ("a: &a [*a]", "through aliases"),
        ("a: &a\n  b: *a", "through aliases"),
        ("a: " + "[" * 100_000, "nested deeper than 40 levels"),
        ("- " * 50_000 + "a", "nested deeper than 40 levels"),
        ("\n".join(" " * depth + "k:" for depth in range(3000)), "nested deeper than 40 levels"),
        ("a: [" + "{}," * 180_000 + "]", "more than 200,000 values"),
        ("a: !!python/object/apply:os.system ['touch pwned']", "tags mean nothing here"),
        ("a: !!python/name:os.system ''", "tags mean nothing here"),
        ("!x a: 1", "tags mean nothing here"),
        ("a: 1\na: 2", "duplicate key 'a'"),
        ("<<: {a: 1}", "a key must be plain text"),
        ("? [a, b]\n: c", "a key must be plain text"),
        ("a: \0", "control characters"),
        ("a: \x1b[31m", "control characters"),
        ("a: \ud800", "not well-formed YAML"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: *nobody", "undefined alias"),
        ("x" * 100_000, "expected a mapping"),
    ],
    ids=lambda value: re.sub(r"[^a-z0-9]+", "-", value[:24].casefold()) if isinstance(value, str) else None,
)
def test_a_hostile_document_is_refused(text, said):
    assert said in refusal(documents.parse, text, "hostile.yaml")
    assert refusal(state.scenario, View(scenario="hostile.yaml", text=text))


@pytest.mark.parametrize("number", ["9" * 1_000_000, "1" + "_" * 1_000_000 + "x", "1" * 1_000_000 + "e", "+" * 100_000])
def test_an_endless_number_is_text(number):
    assert documents.parse(f"a: {number}", "long.yaml").data == {"a": number}


STAGES = "".join(f"    - {{name: s{place}, task: host, time: 1 ms}}\n" for place in range(99))
KEYS = "".join(f"k{place}: 1\n" for place in range(15_000))
DEVICES = ", ".join(f"x{place}" for place in range(20_000))
FILE = "may name what the catalogues hold, no file"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("hardware: [", f"hardware: [{'x' * 150_000}, ", "unknown hardware profile"),
        ("hardware: [", "hardware: [../../../etc/passwd, ", FILE),
        ("hardware: [", "hardware: [/dev/zero, ", FILE),
        ("hardware: [", 'hardware: ["a\\0b", ', "unknown hardware profile"),
        ("hardware: [", f"hardware: [{DEVICES}, ", "devices are too many"),
        ("  stages:\n", f"  stages:\n{STAGES}", "stages and jobs are too many"),
        ("id: ", f"{KEYS}id: ", "more problems"),
        ("id: ", '"' + "k" * 900 + '": 1\nid: ', "unknown key"),
        ("traffic: {", "traffic: {trace: ../../../../etc/passwd, ", FILE),
        ("engine: ", "pricing: {rates: /etc/passwd}\nengine: ", FILE),
    ],
)
def test_a_scenario_with_one_hostile_part_is_refused(old, new, said):
    assert EXAMPLE.count(old) >= 1
    refused = refusal(state.scenario, View(scenario="hostile.yaml", text=EXAMPLE.replace(old, new, 1)))
    assert said in refused
    assert "root:" not in refused


@pytest.mark.parametrize(
    "settings",
    [
        (
            "serving.stages.retrieve.effort=null", "serving.stages.retrieve.recall=0.9",
            "serving.stages.retrieve.points=/etc/passwd",
        ),
        ("serving.stages.write-copy.speculation={model: /etc/passwd, tokens: 2, acceptance: 0.5}",),
        ("training.fine-tune-encoder.teacher=/etc/passwd",),
    ],
)  # fmt: skip
def test_a_setting_of_a_link_opens_no_file(settings):
    refused = refusal(state.scenario, View(scenario="cascade", settings=settings))
    assert refused == f"/etc/passwd: a link or an upload {FILE}"


@pytest.mark.parametrize("scenario", OUTSIDE)
def test_a_link_opens_no_file(scenario):
    kept, problems = state.checked(View(scenario=scenario), cached.profiles())
    assert kept == state.default()
    assert problems
    assert "root:" not in "".join(map(str, problems))


def test_every_parameter_of_a_link_may_be_hostile():
    app = opened(**{name: [SCRIPT] for name in link.PARAMETERS}, **{SCRIPT: [SCRIPT]})
    harmless(app)
    assert len(app.error) >= 3
    assert app.query_params["scenario"] in (state.EXAMPLE, [state.EXAMPLE])


def test_a_link_packs_no_bomb():
    bomb = base64.urlsafe_b64encode(zlib.compress(b"a" * 50_000_000, 9)).decode().rstrip("=")
    assert "is damaged" in refusal(link.unpack, bomb)
    _, problems = link.from_query({"yaml": [bomb]})
    assert "is longer than" in str(problems[0])
    view, problems = link.from_query({"yaml": [link.pack(LAUGHS)]})
    assert not problems
    kept, problems = state.checked(view, cached.profiles())
    assert kept == state.default()
    assert "through aliases" in str(problems[0])


def test_a_link_of_many_values_keeps_the_first():
    view, problems = link.from_query({"set": [f"a.b{place}=1" for place in range(5000)], "hardware": ["t4"] * 5000})
    assert len(view.settings) == link.MOST_VALUES
    assert len(problems) == 2


@pytest.mark.parametrize("page", PAGES)
def test_names_from_outside_are_drawn_as_text(page):
    text = EXAMPLE.replace("title: ", f"title: '{SCRIPT} ![x](http://example.org/x.png)' #", 1)
    text = re.sub(r"sources:\n(  - .*\n)+", f"sources:\n  - '{SCRIPT}'\n", text)
    app = opened(page, scenario=f"{SCRIPT}.yaml", yaml=link.pack(text))
    assert link.from_query({"yaml": [link.pack(text)]})[0].text == text
    harmless(app)
    assert not app.error


@pytest.mark.parametrize("name", ["../../etc/cron.d/x.yaml", f"{SCRIPT}.yaml", "x" * 300 + ".yaml", "..yaml"])
@pytest.mark.parametrize("content", [b"\xff\xfe\0\1", LAUGHS.encode(), b"a: 1\n" * 300_000, EXAMPLE.encode()])
def test_an_uploaded_scenario_of_any_name_and_content(name, content):
    app = opened("scenario")
    app.file_uploader[0].upload(name, content).run()
    harmless(app)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../../etc/passwd.csv", b"\0\1\2\xff" * 10_000),
        (f"{SCRIPT}.csv", f"{SCRIPT},b\n1,2\n".encode()),
        ("wide.csv", b"a," * 200_000 + b"\n"),
        ("long.csv", b"m\n" + b"1\n" * (cached.MOST_ROWS + 1)),
        ("field.csv", b"hardware,engine,dtype,m,n,k,latency_us\n" + b"x" * 3_000_000 + b",fused,fp16,8,8,8,1\n"),
        ("formula.csv", b"hardware,engine,dtype,m,n,k,latency_us\n=1+1,@x,fp16,=cmd|' /C calc'!A0,-8,8,1\n"),
        ("quote.csv", b'hardware,"' + b"x" * 100_000),
        ("bad.parquet", b"PAR1" + b"\xff" * 1000 + b"PAR1"),
    ],
)
def test_an_uploaded_table_of_any_name_and_content(name, content):
    app = opened("accuracy", device="l4")
    app.file_uploader[0].upload(name, content).run()
    harmless(app)
    assert len(app.error) == (name not in {"field.csv", "formula.csv"})


def test_a_small_file_that_unpacks_to_many_rows_is_refused():
    packed = io.BytesIO()
    pd.DataFrame({"m": [1] * 3_000_000}).to_parquet(packed)
    assert len(packed.getvalue()) < 100_000
    assert "3,000,000 rows" in refusal(cached.validation, packed.getvalue(), "bomb.parquet", "gemm")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("traffic.peak_rate", "1\ntitle: x"), ("traffic.peak_rate", "&a [*a]"), ("traffic.peak_rate", "1e999"),
        ("traffic.peak_rate", "-1"), ("traffic.peak_rate", ".nan"), ("traffic.peak_rate", "9" * 100_000),
        ("__class__.__init__", "1"), ("a." * 5000 + "b", "1"), ("", "1"), (".", "1"), ("hardware", "/etc/passwd"),
        ("engine", "!!python/name:os.system"), ("serving.stages.rerank.model", "/etc/passwd"),
        ("pricing.rates", "../../secret.yaml"), ("pricing.term", SCRIPT),
    ],
)  # fmt: skip
def test_a_forged_value_of_a_widget_is_refused(path, value):
    view = View(scenario=state.EXAMPLE)
    said = refusal(state.put, view, path, value)
    assert "root:" not in said


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_forged_choice_is_refused(name):
    plain = View(scenario=state.EXAMPLE)
    assert refusal(cached.scenario, View(scenario=name))
    if name:
        assert refusal(cached.scenario, replace(plain, overrides=(name,)))
        assert refusal(cached.plan, replace(plain, hardware=(name,)))


def test_a_forged_number_of_requests_is_left_out():
    for value in ("-1", "1e9", "٣", "9" * 30, SCRIPT):
        kept, problems = state.checked(View(scenario=state.EXAMPLE, requests=value, seed=value), cached.profiles())
        assert (kept.requests, kept.seed) == (("٣", "٣") if value == "٣" else ("", ""))
        assert len(problems) == (0 if value == "٣" else 2)


def test_no_page_lets_html_through_but_what_is_escaped():
    """Whoever draws HTML escapes; that it escapes all of it is seen above, where names from outside are drawn."""
    files = [ROOT / "dashboard.py", *sorted((ROOT / "capacity" / "pages").glob("*.py"))]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "unsafe_allow_html" not in text, path
        assert "components.v1" not in text, path
        draws = [node for node in ast.walk(ast.parse(text)) if _draws_html(node)]
        if draws:
            assert "from html import escape" in text, f"{path.name} draws HTML without escaping"


def _draws_html(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "html"


def test_the_server_is_configured_for_strangers():
    settings = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert settings["server"]["maxUploadSize"] <= 20
    assert settings["server"]["enableXsrfProtection"] is True
    assert settings["server"]["address"] == "localhost"
    assert settings["client"]["showErrorDetails"] == "none"
    assert settings["runner"]["postScriptGC"] is False
