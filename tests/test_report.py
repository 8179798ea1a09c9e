"""The report layer: one plan, the same numbers in every format, gaps visible, no text that runs as code."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from report_plans import Page, infeasible, markdown_tables, nothing, plan, records, refused, titled, unpriced

from capacity import charts
from capacity.plan import Violation
from capacity.report import csv_report, figures, html, json_report, markdown, sentence, table
from capacity.report.cells import MINUS, Column, Missing, Table, shown
from capacity.units import text, usd

UNIT_SUFFIXES = (
    "_s",
    "_bytes",
    "_flop",
    "_usd",
    "_per_month",
    "_requests",
    "_fraction",
    "_per_s",
    "_per_second",
    "_tokens",
    "_items_returned",
    "_user_month",
)
COUNTS = {
    "version", "rank", "devices", "devices_p10", "devices_p90", "replicas", "spare_replicas", "replicas_p10",
    "replicas_p90", "devices_per_replica", "quantity", "errors", "steps", "largest_batch", "longest_tokens",
    "largest_catalogue_items",
}  # fmt: skip
"""Keys of pure numbers; the unit of `quantity` stands beside it, errors are log standard deviations."""


# The sentence


def test_feasible_sentence_names_the_fleet_its_cost_with_range_unit_and_basis():
    best = plan().best
    said = sentence.answer(plan())
    assert f"you need {best.devices} × {best.name} ({best.pools[0].replicas} + 1 spare; " in said
    cost = best.cost
    assert f"costs {usd(cost.usd)} a month (P10 {usd(cost.p10_usd)} – P90 {usd(cost.p90_usd)})" in said
    assert "at p99 ≤ 2 s for 37.5 requests/s at peak" in said
    assert f"train fine-tune every 30 d on {best.jobs[0].devices} device" in said
    assert f"bound by {best.bound}; expected p99 {text(best.latency_quantile_s, 'seconds')}" in said
    assert said.endswith(f"Basis: {best.basis}.")


def test_sentence_names_the_next_best_and_what_more_it_costs():
    first, second = plan().options
    more = second.cost.usd / first.cost.usd - 1
    wanted = (
        f"the next best is {second.devices} × {second.name} at {usd(second.cost.usd)} (+{text(more, 'fraction', 2)})"
    )
    assert wanted in sentence.answer(plan())


def test_infeasible_sentence_names_constraint_gap_and_best_achievable_of_each_option():
    said = sentence.answer(infeasible())
    assert "no option is feasible" in said
    for option in infeasible().options:
        missed = option.violations[0]
        gap = text(missed.needed - missed.allowed, "seconds")
        assert f"{option.name} misses {missed.constraint} in {missed.where}" in said
        assert f"best achievable {text(missed.needed, 'seconds')}, allowed 1 ms ({gap} too much" in said
        assert missed.advice in said


def test_an_option_that_cannot_be_computed_says_why():
    assert "misses x has no rate." in sentence.answer(refused())
    assert "nan" not in markdown.render(refused())


def test_a_constraint_out_of_reach_at_any_size_says_so():
    never = Violation(where="pool a", constraint="queue", needed=math.inf, allowed=1.0, dimension="seconds")
    assert figures.missed(never) == "queue in pool a: best achievable none at any size, allowed 1 s"


def test_the_only_feasible_option_is_set_against_the_others():
    first = plan().options[0]
    said = sentence.answer(replace(plan(), options=(first, *infeasible().options)))
    assert "no other option is feasible (" in said
    assert "; and 1 more option)" in said


def test_best_without_a_price_is_no_zero():
    said = sentence.answer(unpriced())
    assert f"no price for {unpriced().options[0].name} in any table" in said
    assert "which costs" not in said


def test_several_pools_and_devices_a_replica_are_named():
    best = plan().best
    pool = replace(best.pools[0], name="second", devices_per_replica=2, replicas_p90=None)
    two = replace(plan(), options=(replace(best, pools=(best.pools[0], pool)),))
    said = sentence.answer(two)
    assert f"second ({pool.replicas} + 1 spare) × 2 devices" in said
    assert "at its P90 no fleet meets the objective" in said


def test_no_option_at_all():
    assert "no option was compared" in sentence.answer(nothing())
    assert json_report.to_dict(nothing())["best"] is None
    assert csv_report.costs(nothing()) == ""


# What is not known


def test_caveats_name_weak_bases_with_the_origin_of_the_efficiencies():
    for option in plan().options:
        weak = [stage.name for stage in option.stages if stage.time.basis in sentence.WEAK]
        found = " ".join(sentence.option_caveats(plan(), option))
        assert all(name in found for name in weak)
        assert not weak or option.origin in found


def test_caveats_hold_every_flag_of_the_bill():
    found = " ".join(sentence.caveats(plan()))
    flags = {flag for option in plan().options for line in option.cost.lines for flag in line.flags}
    assert all(flag in found for flag in flags)


@pytest.mark.parametrize(
    ("at_p90", "words"), [(math.inf, "saturates at peak"), (3.0, "p99 of 3 s, above the objective of 2 s")]
)
def test_caveats_tell_what_happens_at_p90_of_the_step_time(at_p90, words):
    option = replace(plan().options[0], latency_quantile_p90_s=at_p90)
    assert any(words in caveat for caveat in sentence.option_caveats(plan(), option))


def test_an_objective_met_at_p90_needs_no_caveat():
    option = replace(plan().options[0], latency_quantile_p90_s=1.0)
    assert not any("P90, the same fleet" in caveat for caveat in sentence.option_caveats(plan(), option))


def test_caveats_tell_of_missing_prices_and_wide_bands():
    assert any("no price for serving online, fine-tune" in caveat for caveat in sentence.caveats(unpriced()))
    option = plan().options[0]
    wide = replace(option, cost=replace(option.cost, p10_usd=10.0, p90_usd=40.0))
    assert any("a factor of 4" in caveat for caveat in sentence.option_caveats(plan(), wide))


# The same numbers in every format


def test_every_format_shows_the_same_numbers():
    given = plan(("t4", "a100-sxm-80gb", "a100-pcie-40gb"))
    as_json = json_report.to_dict(given)["options"]
    as_csv = records(csv_report.options(given))
    columns = {column.label: column for column in table.options_table(given).columns}
    pages = (markdown_tables(markdown.render(given))[0], Page(html.render(given, charts=False)).tables["Options"])
    for place, option in enumerate(as_json):
        flat = {**option, **option["cost"]}
        for key in ("devices", "latency_quantile_s", "usd_per_month", "p10_usd_per_month", "usd_per_thousand_requests"):
            assert as_csv[place][key] == ("" if flat[key] is None else repr(flat[key]))
        for head, *rows in pages:
            body = [row for row in rows if row[0] != "---:"]
            for label, cell in zip(head, body[place], strict=True):
                column = columns[label]
                if column.key in flat:
                    known = flat[column.key]
                    assert cell == column.shown(Missing(flat[f"{column.key}_reason"]) if known is None else known)


def test_cost_lines_are_the_same_in_every_format():
    given = plan()
    source = json_report.to_dict(given)
    as_csv = iter(records(csv_report.costs(given)))
    tables = [found for found in markdown_tables(markdown.render(given)) if found[0][0] == "Group"]
    pages = Page(html.render(given, charts=False)).tables["Monthly bill"]
    for option, lines in zip(source["options"], tables, strict=True):
        for line, row in zip(option["cost"]["lines"], lines[2:], strict=False):
            record = next(as_csv)
            assert float(record["usd_per_month"]) == line["usd_per_month"]
            assert float(record["quantity"]) == line["quantity"]
            assert row[1] == line["name"] == record["name"]
            assert row[5] == usd(line["usd_per_month"])
            assert row in pages
        assert lines[-1][1] == "Total"
        assert lines[-1][5] == usd(option["cost"]["usd_per_month"])


def test_json_numbers_are_the_records_own():
    option, record = json_report.to_dict(plan())["options"][0], plan().options[0]
    assert option["cost"]["usd_per_month"] == record.cost.usd
    assert option["stages"][1]["time_s"]["high"] == float(record.stages[1].time.high)
    assert option["pools"][0]["memory_bytes"] == dict(record.pools[0].memory_bytes)
    assert sum(option["cost"]["groups_usd_per_month"].values()) == pytest.approx(record.cost.usd)


# JSON


def forbidden(token: str) -> float:
    raise AssertionError(token)


@pytest.mark.parametrize("make", [plan, infeasible, unpriced, refused, nothing])
def test_json_round_trip_without_nan(make):
    given = make()
    dumped = json_report.dumps(given)
    assert json.loads(dumped, parse_constant=forbidden) == json_report.to_dict(given)
    assert json_report.dumps(given) == dumped


def test_json_takes_numpy_numbers_and_gives_reasons_for_missing_ones():
    option = plan().options[0]
    odd = replace(option, latency_median_s=np.float32(0.5), latency_quantile_p90_s=np.float64("inf"))
    found = json.loads(json_report.dumps(replace(plan(), options=(odd,))))["options"][0]
    assert found["latency_median_s"] == 0.5
    assert found["latency_quantile_at_p90_s"] is None
    assert found["latency_quantile_at_p90_s_reason"] == "saturated"


def numbers(value, path=()):
    if isinstance(value, dict):
        for key, below in value.items():
            yield from numbers(below, (*path, key))
    elif isinstance(value, list):
        for below in value:
            yield from numbers(below, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


@pytest.mark.parametrize("make", [plan, infeasible])
def test_every_json_number_has_its_unit_in_a_key(make):
    for path in numbers(json_report.to_dict(make())):
        assert any(key.endswith(UNIT_SUFFIXES) or key in COUNTS for key in path), path


def test_every_column_of_numbers_has_its_unit_in_its_key():
    option = plan().options[0]
    for found in (table.options_table(plan()), *table.detail_tables(option), table.violation_table(option)):
        for column in found.columns:
            assert column.dimension in {"text", "count", "whole"} or column.key.endswith(UNIT_SUFFIXES), column


# CSV


@pytest.mark.parametrize("title", ["=cmd()", "+1", "@x", "-2", "\tx", "\rx", "\n=x", "＝x"])
def test_csv_texts_never_start_a_formula(title):
    for source in (csv_report.options(titled(title)), csv_report.costs(titled(title))):
        for record in records(source):
            assert record["title"] == f"'{title}"


def test_csv_numbers_are_never_touched():
    columns = (Column("name", "Name"), Column("usd", "USD", "usd"))
    assert records(csv_report.dumps(Table("", columns, ({"name": "-2", "usd": -2.5},))))[0] == {
        "name": "'-2", "usd": "-2.5", "notes": "",
    }  # fmt: skip


def test_csv_is_rfc_4180():
    source = csv_report.costs(titled('a "b", c'))
    assert '"a ""b"", c"' in source
    assert source.endswith("\r\n")
    assert len({len(row) for row in csv.reader(io.StringIO(source, newline=""), strict=True)}) == 1


# HTML and Markdown


def test_html_escapes_texts_also_inside_charts():
    attack = "</script><script>alert(1)</script>"
    option = replace(plan().options[0], name=attack)
    given = replace(titled("<script>alert(1)</script>"), options=(option, *plan().options[1:]))
    source = html.render(given)
    assert "<script>alert" not in source
    assert "<h1>&lt;script&gt;alert(1)&lt;/script&gt;</h1>" in source
    assert Page(source).scripts == Page(html.render(plan())).scripts


def test_html_holds_one_plotly_and_loads_nothing():
    source = html.render(plan())
    page = Page(source)
    assert len(re.findall(r"\* plotly\.js v\d", source)) == 1
    assert source.count('class="plotly-graph-div"') == 3
    assert page.loads == []
    assert not re.search(r"@import|url\(", "".join(page.styles))
    assert "default-src 'none'" in source


@pytest.mark.parametrize("make", [infeasible, refused, nothing])
def test_html_of_a_plan_without_an_answer(make):
    given = make()
    assert sentence.answer(given).split("“")[0] in html.render(given)


def test_html_without_charts_needs_no_plotly():
    assert "<script" not in html.render(plan(), charts=False)


def test_markdown_texts_cannot_break_out():
    source = markdown.render(titled("a | <b>*c*</b>\n# d"))
    assert source.startswith("## a \\| &lt;b&gt;\\*c\\*&lt;/b&gt; # d\n")
    assert {len(row) for row in markdown_tables(source)[0]} == {
        len(table.options_table(plan()).columns) - len(markdown._WIDE)
    }


def test_markdown_folds_every_option_and_says_what_it_leaves_out():
    assert markdown.render(plan()).count("<details>") == 2
    short = markdown.render(plan(), details=1)
    assert short.count("<details>") == 1
    assert "Details of 1 more options" in short


# Missing prices


def test_a_missing_price_is_a_visible_line_and_never_zero():
    given = unpriced()
    (option,) = json_report.to_dict(given)["options"]
    assert option["cost"]["usd_per_month"] is None
    assert option["cost"]["usd_per_month_reason"] == figures.NO_PRICE
    assert option["cost"]["groups_usd_per_month"]["devices"] is None
    assert records(csv_report.costs(given))[0]["usd_per_month"] == ""
    assert "usd_per_month: no price" in records(csv_report.costs(given))[0]["notes"]
    bill = next(found for found in markdown_tables(markdown.render(given)) if found[0][0] == "Group")
    assert bill[2][:2] == ["devices", "serving online"]
    assert bill[2][4:8] == ["no price"] * 4
    assert bill[-1][5] == "no price"
    assert not re.search(r"\$0(\.0+)?(?![\d.])", markdown.render(given) + html.render(given, charts=False))
    assert [note.text for note in charts.cost_bars(given).layout.annotations] == ["no price"]


# Tables


def test_memory_rows_have_formulas_and_add_up_to_what_is_available():
    option = plan().options[0]
    rows = table.memory_table(option).rows
    assert all(isinstance(row["formula"], str) for row in rows)
    pool = option.pools[0]
    sizes = [row["size_bytes"] for row in rows if row["where"] == f"pool {pool.name}"]
    assert sum(sizes) == pytest.approx(pool.memory_available_bytes)


def test_unknown_memory_is_said():
    option = plan().options[0]
    unknown = replace(option, pools=(replace(option.pools[0], memory_available_bytes=None),), jobs=())
    assert table.memory_table(unknown).rows[0]["share_fraction"] == Missing(table.UNKNOWN_MEMORY)


def test_options_table_states_the_gap_and_the_advantage():
    first, second = table.options_table(plan()).rows
    assert first["against_best_fraction"] == 0
    assert second["against_best_fraction"] == pytest.approx(second["usd_per_month"] / first["usd_per_month"] - 1)
    late = table.options_table(infeasible()).rows[0]
    violation = infeasible().options[0].violations[0]
    assert late["over_limit_fraction"] == pytest.approx(violation.needed / violation.allowed - 1)
    assert late["usd_per_month"] == Missing("infeasible")


def test_signed_cells():
    assert shown(-12.5, "usd", signed=True) == f"{MINUS}$12.50"
    assert shown(0.0, "fraction", signed=True) == "0 %"


def test_reports_load_no_plotly_until_a_chart_is_drawn():
    code = "import sys; from capacity.report import html, markdown, table; print('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
