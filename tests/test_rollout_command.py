"""`capacity rollout`: the sentence, the tables, the JSON of `capacity.rollout`, refusals."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from command_line import capacity
from test_rollout import BUSY, TODAY, TOWER, in_the_checkout, tower

from capacity import catalogue
from capacity.fleet.rollout import Rolled
from capacity.report import rollout as report
from capacity.spec.rollout import Rollout

__all__ = ["in_the_checkout"]
ON_L4 = ("rollout", TOWER, "encode-user", "--model", "gpt2-medium", "-H", "l4", "--today", TODAY.isoformat())


def test_the_answer_comes_first():
    said = capacity(*ON_L4)
    assert said.code == 0, said.err
    pattern = (
        r"To roll out gpt2-medium \(encode-user\) in “Match users .*” on up to \d+ × L4: \$[\d,]+ "
        r"\(P10 \$[\d,]+ – P90 \$[\d,]+\) one time over 10 d; afterwards \d devices at \$[\d,]+ a month instead of "
        r"\d devices at \$[\d,]+ a month \([+−][\d.]+ %\)\. Basis: \w+\."
    )
    assert re.fullmatch(pattern, said.out.splitlines()[0])
    for part in ("L4: Phases", "L4: Fleets", "all that is", "assumed, not given: ", "changes: "):
        assert part in said.out


def test_json_holds_the_same_numbers():
    told = capacity(*ON_L4, "--json", "--with", "shadow_time=1d").json
    assert (told["schema"], told["version"], told["best"]) == ("capacity.rollout", 1, "l4")
    assert told["policy"]["shadow_time"] == 86400.0
    (option,) = told["options"]
    counted = [item["usd"] for item in option["phases"] if item["counted"] == "yes"]
    assert option["usd"] == pytest.approx(sum(counted))
    assert option["duration_s"] == pytest.approx(8 * 86400.0, rel=0.01)
    assert {step["name"] for step in option["steps"]} >= {"shadow", "standby"}
    again = catalogue.scenario(TOWER, (), told["changes"])
    assert again.serving.stage("encode-user").model == "gpt2-medium"


def test_an_index_alone_is_rolled_out_without_encoding():
    arguments = ("rollout", TOWER, "nearest-items", "--to", "index=hnsw", "--to", "dtype=fp16", "-H", "l4", "--json")
    (option,) = capacity(*arguments).json["options"]
    names = [item["name"] for item in option["phases"]]
    assert "build nearest-items" in names
    assert not [name for name in names if name.startswith("re-encode")]


def test_no_device_that_will_do_exits_1_and_says_why():
    said = capacity(*ON_L4, "--with", "deadline=1 min", "--with", "max_devices=1")
    assert said.code == 1
    assert "no device will do" in said.out.splitlines()[0]
    told = capacity(*ON_L4, "--with", "deadline=1 min", "--with", "max_devices=1", "--json")
    assert told.code == 1
    assert told.json["best"] is None
    assert "deadline" in told.json["options"][0]["refused"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--with", "shado_time=1d"), "--with shado_time: unknown key 'shado_time'; did you mean shadow_time"),
        (("--with", "ramp=[0.5, 0.1]"), "--with ramp: ramp: shares must rise"),
        (("--with", "shadow_time"), "write it as path.to.key=value"),
        (("--to", "nothing=1"), "serving.stages.encode-user.nothing: unknown key"),
        (("-H", "abacus"), "abacus"),
    ],
)
def test_bad_input_exits_2_at_its_flag(arguments, said):
    answer = capacity(*ON_L4, *arguments)
    assert answer.code == 2
    assert said in answer.err


def test_prefilling_is_said_with_its_alternative():
    found = capacity(*ON_L4, *(word for item in BUSY for word in ("--set", item)), "--json").json
    assert re.search(r"; caches are filled by a job for \$[\d.,]+, instead of \$[\d.,]+ for a larger", found["answer"])
    assert json.dumps(found, allow_nan=False)


def test_no_price_is_said_and_never_zero():
    blank = tower(Rollout())
    free = replace(blank, cost=replace(blank.cost, lines=tuple(replace(i, usd=None) for i in blank.cost.lines)))
    told = report.options_table(plan_of(free))
    assert next(iter(told.lines()))[2] == "no price"
    assert "no price for L4" in report.answer(plan_of(free))


def plan_of(found: Rolled):
    return report.RolloutPlan(
        scenario="a", title="A", stage="b", what="c", changes=(), given=(), policy=Rollout(), date="2026-11-01",
        options=(found,),
    )  # fmt: skip
