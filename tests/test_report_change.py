"""`capacity report --compare`: delta and total, both answers, a gate; every wrong file is refused at its place."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path

import pytest
from command_line import capacity
from report_plans import BOTH, TODAY, infeasible, markdown_tables, plan, unpriced

from capacity.errors import InputError
from capacity.report import json_report, markdown
from capacity.units import usd

ASKED = ("report", "cross-encoder-rerank", "-H", BOTH[0], "-H", BOTH[1], "--today", TODAY.isoformat())
GROWTH = ("-s", "traffic.peak_rate=75/s")


@pytest.fixture
def old(tmp_path: Path):
    def written(given=None) -> Path:
        path = tmp_path / "old.json"
        path.write_text(json_report.dumps(given or plan()), encoding="utf-8")
        return path

    return written


def costs(given) -> dict[str, float]:
    return {option.name: option.cost.usd for option in given.options}


def test_delta_and_total_of_the_best_and_of_every_option_by_group(old):
    before, after = plan(), plan(BOTH, GROWTH[1:])
    said = capacity(*ASKED, *GROWTH, "--compare", old())
    assert (said.code, said.err) == (0, "")
    delta = after.best.cost.usd - before.best.cost.usd
    assert f"+{usd(delta)} a month" in said.out
    assert f"now {usd(after.best.cost.usd)} a month in total" in said.out
    best, every, *_ = markdown_tables(said.out)
    groups = {line.group for line in after.best.cost.lines}
    assert {row[0] for row in best[2:]} == groups | {"total"}
    assert best[-1] == ["total", usd(before.best.cost.usd), usd(after.best.cost.usd), f"+{usd(delta)}", best[-1][-1]]
    assert {row[0]: (row[3], row[4]) for row in every[2:]} == {
        name: (usd(costs(before)[name]), usd(cost)) for name, cost in costs(after).items()
    }
    assert said.out.count("<details>") == said.out.count("</details>") == len(after.options)
    for given in (before, after):
        assert markdown.escaped(json_report.to_dict(given)["answer"]) in said.out


def test_the_gate_fails_above_the_limit_and_says_so_in_both_places(old):
    rise = costs(plan(BOTH, GROWTH[1:]))[plan().best.name] / plan().best.cost.usd - 1
    failed = capacity(*ASKED, *GROWTH, "--compare", old(), "--fail-over", f"{100 * rise - 1}%")
    passed = capacity(*ASKED, *GROWTH, "--compare", old(), "--fail-over", f"{100 * rise + 1}%")
    assert (failed.code, passed.code) == (1, 0)
    assert f"gate failed: the cost of the best option rises by {rise:.1%}" in failed.err
    assert "Gate failed: the cost of the best option rises" in failed.out
    assert "Gate passed" in passed.out


def test_json_holds_the_comparison_and_the_verdict(old, tmp_path):
    target = tmp_path / "change.json"
    arguments = (*ASKED, *GROWTH, "--compare", old(), "--fail-over", "0%", "-f", "json")
    assert capacity(*arguments, "-O", target).code == 1
    found = capacity(*arguments).json
    assert json.loads(target.read_text()) == found
    assert found["schema"] == "capacity.comparison"
    assert found["gate_failed"].startswith("the cost of the best option rises by ")
    assert sum(group["delta_usd_per_month"] for group in found["best_groups"]) == pytest.approx(
        found["best"]["delta_usd_per_month"]
    )


@pytest.mark.parametrize(
    ("given", "reason"), [(unpriced(), "before: no price"), (infeasible(), "before: no feasible option")]
)
def test_an_old_report_without_a_price_fails_the_gate_and_no_other_run(given, reason, old):
    gated = capacity(*ASKED, "--compare", old(given), "--fail-over", "5%")
    assert gated.code == 1
    assert f"gate failed: no price to compare ({reason}), at most 5.0% allowed" in gated.err
    assert capacity(*ASKED, "--compare", old(given)).code == 0


def test_a_new_plan_without_an_answer_is_exit_1(old):
    said = capacity(*ASKED, "-s", "objective.latency=1ms", "--compare", old())
    assert said.code == 1
    assert "→ no feasible option" in said.out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{\n"a": [1,}', "old.json:2:9: is not JSON"),
        ("[]", "old.json: holds no report"),
        ("[" * 100_000, "old.json: is not JSON"),
        ("{}", "is not a report of schema 'capacity.plan'"),
        ('{"schema": "capacity.plan", "version": 1}', "lacks a part or holds a wrong one"),
    ],
)
def test_a_file_that_is_no_report_is_refused(content, said, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(content)
    result = capacity(*ASKED, "--compare", path)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--fail-over", "5%"), "--fail-over needs an earlier report to compare with"),
        (("--compare", "nowhere.json"), "nowhere.json: no such file"),
        (("--compare", "nowhere.json", "-f", "xlsx", "-O", "x.xlsx"), "--compare writes markdown or json, not xlsx"),
        (("--compare", "nowhere.json", "--fail-over", "much"), "--fail-over: 'much' is not a quantity"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = capacity(*ASKED, *flags)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def places(value, path=()):
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


@pytest.mark.parametrize("wrong", [None, "x", [], {}, 7, True, [None], float("inf")], ids=repr)
def test_a_report_with_any_part_broken_is_compared_or_refused(wrong):
    whole = json_report.to_dict(plan(("t4",)))
    spots = [path for path in places(whole) if path and not {"stages", "pools", "jobs"} & {*path}]
    assert len(spots) > 100
    for path in spots:
        broken = copy.deepcopy(whole)
        holder = broken
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = wrong
        with contextlib.suppress(InputError):
            assert "| --- |" in markdown.compare(broken, whole), path
