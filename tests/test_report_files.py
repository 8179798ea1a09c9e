"""Reports that are files: Parquet with units in its schema, PDF printed by a browser or refused with a way out."""

from __future__ import annotations

import io
import re
import stat
import sys
from pathlib import Path

import pytest
from command_line import capacity
from pyarrow import parquet as files
from report_plans import TODAY, infeasible, nothing, plan, records, refused, titled, unpriced

from capacity.errors import CapacityError
from capacity.report import csv_report, parquet, pdf

T4 = ("cross-encoder-rerank", "-H", "t4", "--today", TODAY.isoformat())


def read(given):
    return files.read_table(io.BytesIO(parquet.render(given)))


# Parquet


@pytest.mark.parametrize("make", [plan, infeasible, refused, unpriced])
def test_every_option_is_there_and_every_line_of_its_bill(make):
    rows = read(make()).to_pylist()
    for rank, option in enumerate(make().options, start=1):
        mine = [row for row in rows if row["rank"] == rank]
        lines = option.cost.lines if option.cost else ()
        assert {row["option_hardware"] for row in mine} == {option.hardware}
        assert [row["name"] for row in mine] == ([line.name for line in lines] or [None])
        assert [row["usd_per_month"] for row in mine] == ([line.usd for line in lines] or [None])


def test_a_plan_without_options_is_an_empty_table():
    assert read(nothing()).num_rows == 0


def test_what_is_missing_is_null_and_said():
    first = read(unpriced()).to_pylist()[0]
    assert first["usd_per_month"] is first["option_usd_per_month"] is None
    assert "usd_per_month: no price" in first["notes"]
    assert "name: no bill" in read(infeasible()).to_pylist()[0]["notes"]


def test_the_schema_names_types_units_and_the_plan():
    schema = read(plan()).schema
    about = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert about["schema"] == "capacity.costs"
    assert (about["scenario"], about["date"]) == (plan().scenario, TODAY.isoformat())
    units = {field.name: (field.metadata or {}).get(b"unit", b"").decode() for field in schema}
    types = {field.name: str(field.type) for field in schema}
    assert {name: units[name] for name in ("usd_per_month", "option_latency_quantile_s", "peak_rate_per_s")} == {
        "usd_per_month": "USD/month", "option_latency_quantile_s": "s", "peak_rate_per_s": "1/s",
    }  # fmt: skip
    assert (types["option_devices"], types["usd_per_month"], types["name"]) == ("int64", "double", "string")
    assert all(units[name] for name, kind in types.items() if kind != "string")


def test_texts_are_kept_as_they_are_and_the_same_plan_gives_the_same_bytes():
    assert read(titled("=1+1")).to_pylist()[0]["title"] == "=1+1"
    assert parquet.render(plan()) == parquet.render(plan())


def test_lines_are_those_of_the_csv():
    given = records(csv_report.costs(plan()))
    for row, record in zip(read(plan()).to_pylist(), given, strict=True):
        assert {key: row[key] for key in ("title", "group", "name", "basis", "formula", "source")} == {
            key: record[key] for key in ("title", "group", "name", "basis", "formula", "source")
        }
        assert row["usd_per_month"] == float(record["usd_per_month"])


# PDF


def program(folder: Path, text: str) -> Path:
    path = folder / "browser"
    path.write_text(f"#!{sys.executable}\nimport pathlib, sys, time\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


WRITES = """
target = next(flag.partition("=")[2] for flag in sys.argv if flag.startswith("--print-to-pdf="))
pathlib.Path(target).write_bytes(b"%PDF-1.4 " + sys.argv[-1].encode())
"""


def a_browser_is_there() -> bool:
    try:
        return bool(pdf.browser())
    except CapacityError:
        return False


@pytest.mark.skipif(not a_browser_is_there(), reason="Chromium is not installed: apt-get install chromium")
def test_a_browser_prints_pages(tmp_path):
    target = tmp_path / "plan.pdf"
    assert capacity("report", *T4, "-f", "pdf", "-O", target).code == 0
    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert content.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 2
    assert len(content) > 50_000


def test_the_browser_gets_a_page_of_its_own_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(pdf.VARIABLE, str(program(tmp_path, WRITES)))
    content = pdf.render(plan(("t4",))).decode()
    page = Path(content.removeprefix("%PDF-1.4 file://"))
    assert page.name == "plan.html"
    assert not page.parent.exists()


def test_without_a_browser_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delenv(pdf.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = capacity("report", *T4, "-f", "pdf", "-O", tmp_path / "plan.pdf")
    assert (said.code, said.out) == (2, "")
    assert "none of chromium, " in said.err
    assert "apt-get install chromium" in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sys.exit('no display')", r"printed no PDF \(exit 1\): no display"),
        (WRITES.replace("%PDF-1.4", "<html>"), r"printed no PDF \(exit 0\): it said nothing"),
        ("time.sleep(60)", "printed no PDF within 1 s"),
    ],
)
def test_a_browser_that_prints_nothing_is_named_with_its_last_words(text, said, tmp_path, monkeypatch):
    monkeypatch.setattr(pdf, "PATIENCE_S", 1.0 if "sleep" in text else 30.0)
    monkeypatch.setenv(pdf.VARIABLE, str(program(tmp_path, text)))
    with pytest.raises(CapacityError, match=said):
        pdf.render(plan(("t4",)))


def test_a_named_browser_must_be_a_program(tmp_path, monkeypatch):
    monkeypatch.setenv(pdf.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(CapacityError, match="is no program that can be run; install Chromium"):
        pdf.render(plan(("t4",)))


@pytest.mark.parametrize("form", ["parquet", "pdf", "xlsx"])
def test_what_is_no_text_is_never_printed(form):
    said = capacity("report", *T4, "-f", form)
    assert (said.code, said.out) == (2, "")
    assert f"--format {form} is no text for the screen; name a file with --output" in said.err
