"""Levers: each applies where it says, changes what it says, and combinations are no worse than their parts."""

from __future__ import annotations

import itertools
import json

import pytest
from command_line import capacity

from capacity import catalogue, documents, levers, planner
from capacity.errors import InputError, UnknownNameError
from capacity.fleet.levered import Levered
from capacity.levers.lever import InapplicableError, merged
from capacity.levers.search import Bench, rank
from capacity.levers.shelf import lever
from capacity.report import levers as report
from capacity.spec.scenario import Scenario

SCENARIOS = sorted(documents.catalogue("scenarios"))


def pulled(name: str, *only: str, hardware: str = "l4", settings: tuple[str, ...] = ()) -> Levered:
    document = catalogue.scenario_document(name, (), settings)
    given = planner.inputs(documents.validated(document, Scenario), document=document)
    chosen = [lever(item) for item in only] or list(levers.LEVERS.values())
    return levers.ranked(document, given, planner.profile(hardware, given), chosen)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_lever_plans_or_says_why_not(name):
    scenario = catalogue.scenario(name)
    document = catalogue.scenario_document(name)
    models = planner.inputs(scenario).models
    bench = Bench(document, planner.inputs(scenario), planner.profile("h100-sxm-80gb", planner.inputs(scenario)))
    for item in levers.LEVERS.values():
        try:
            changes = item.change(scenario, models)
        except InapplicableError as error:
            changes, why = {}, str(error)
        changed, _ = bench.changed(changes)
        assert changed != scenario if changes else len(why) > 20, item.id


def test_every_note_exists_and_has_a_source():
    notes = catalogue.quality_notes().notes
    for item in levers.LEVERS.values():
        assert not item.note or item.note in notes, item.id
        assert item.exact or item.note, item.id
    assert all(note.source for note in notes.values())


def test_effects_have_the_sign_they_should():
    found = {item.id: item for item in pulled("cross-encoder-rerank").alone}
    before = pulled("cross-encoder-rerank", "spot").before
    half = found["fewer-candidates"].after
    assert half.request_flop < 0.6 * before.request_flop
    assert found["structured-pruning"].after.request_flop < before.request_flop
    assert found["structured-pruning"].after.memory_bytes < before.memory_bytes
    assert found["spot"].after.usd < before.usd
    assert found["spot"].after.request_flop == before.request_flop
    assert found["idle-devices"].after.training_hours < before.training_hours
    assert found["recompute"].after.training_hours > before.training_hours
    assert found["compiled"].after is None
    assert "fused already" in found["compiled"].refused


def test_a_dtype_the_device_lacks_is_refused_with_its_reason():
    (item,) = pulled("cross-encoder-rerank", "weight-fp8", hardware="t4").alone
    assert item.after is None
    assert "no dense fp8 rate" in item.refused


def test_a_conflict_names_the_value():
    two, three = ({"pricing": {"term": term}} for term in ("spot", "1-year"))
    with pytest.raises(InapplicableError, match=r"both set pricing\.term: spot and 1-year"):
        merged(two, three)
    assert merged(two, {"engine": "eager"}) == {"pricing": {"term": "spot"}, "engine": "eager"}


def test_the_combination_is_as_cheap_as_trying_all_of_a_few():
    names = ("spot", "fewer-candidates", "truncation", "structured-pruning", "activation-int8")
    found = pulled("cross-encoder-rerank", *names)
    document = catalogue.scenario_document("cross-encoder-rerank")
    scenario = documents.validated(document, Scenario)
    given = planner.inputs(scenario)
    bench = Bench(document, given, planner.profile("l4", given))
    every = []
    for count in range(len(names) + 1):
        for chosen in itertools.combinations(names, count):
            changes: dict = {}
            for name in chosen:
                changes = merged(changes, lever(name).change(scenario, given.models))
            every.append(rank(bench.figures(changes)))
    assert rank(found.best) <= (0, min(every)[1] * 1.02)


def test_steps_add_up_to_the_best():
    found = pulled("cascade", "spot", "packing", "co-location", hardware="l40s")
    assert found.best.usd < found.before.usd
    table = report.step_table(found)
    saved = sum(row["saved_usd_per_month"] for row in table.rows)
    assert saved == pytest.approx(found.before.usd - found.best.usd)
    scenario = documents.validated(
        documents.merged(
            catalogue.scenario_document("cascade"),
            documents.Document("x", dict(found.changes)),
        ),
        Scenario,
    )
    alone = planner.plan_scenario(scenario, ["l40s"]).options[0]
    assert alone.cost.usd == pytest.approx(found.best.usd)


def test_a_lever_makes_an_impossible_objective_possible():
    found = pulled("cross-encoder-rerank", "fewer-candidates", hardware="t4", settings=("objective.latency=600 ms",))
    assert found.before.missed
    assert [step.id for step in found.steps] == ["fewer-candidates"]
    assert not found.best.missed
    assert "make it hold" in report.answer(found)


def test_your_own_measurement_stands_before_the_published_one():
    mine = 'quality={fewer-candidates: {metric: "NDCG@10", value: 0.412, baseline: 0.415}}'
    found = pulled("cross-encoder-rerank", "fewer-candidates", settings=(mine,))
    assert report.quality(found.alone[0]) == "yours: NDCG@10 0.412 against 0.415"
    assert "not measured for this recommender" not in report.answer(found)


def test_unknown_levers_are_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="packing"):
        lever("pakcing")


def test_the_command_prints_ranks_and_the_override():
    result = capacity("levers", "cross-encoder-rerank", "-H", "l4", "--only", "spot")
    assert result.code == 0
    for part in ("spot together lower the bill", "Levers alone", "As an override", "term: spot"):
        assert part in result.out
    many = capacity("levers", "cross-encoder-rerank", "-H", "l4", "-H", "t4")
    assert many.code == 2
    assert "--hardware: levers are compared on one device" in many.err


def test_the_json_says_everything():
    told = json.loads(report.dumps(pulled("generated-copy", "kv-fp8", "lora", hardware="a100-sxm-80gb")))
    assert told["schema"] == "capacity.levers"
    assert {item["id"]: bool(item["refused"]) for item in told["levers"]} == {"kv-fp8": False, "lora": True}


def test_a_bad_override_is_a_problem_of_the_input():
    document = catalogue.scenario_document("cross-encoder-rerank")
    given = planner.inputs(documents.validated(document, Scenario))
    bench = Bench(document, given, planner.profile("l4", given))
    with pytest.raises(InputError):
        bench.figures({"pricing": {"term": "barter"}})
