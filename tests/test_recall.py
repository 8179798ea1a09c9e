"""A recall in place of probes or ef: read off points, refused beyond them, and nothing else changes."""

from __future__ import annotations

import math
from argparse import Namespace
from datetime import date

import numpy as np
import pytest
from command_line import capacity
from golden import plan_of
from pydantic import ValidationError

from benchmarks import faiss_recall
from capacity import catalogue, documents, planner, references, rollout
from capacity import search as plans
from capacity.errors import InputError
from capacity.levers.lever import InapplicableError
from capacity.levers.serving import SERVING
from capacity.phases import nearest, serving_step
from capacity.phases.context import Context
from capacity.report import assumptions, sentence
from capacity.rollout.change import touched
from capacity.search.tried import Place
from capacity.spec.rollout import Rollout
from capacity.spec.scenario import Scenario
from capacity.spec.space import Space
from capacity.spec.stages import RetrieveStage
from capacity.timing import transfer

RUN = "sift1m-ivf-flat"
LISTS = {"name": "find", "task": "retrieve", "width": 128, "index": "ivf", "lists": 16_384}
ASKED = LISTS | {"recall": 0.95, "points": RUN}
POINTS = {name: catalogue.index_points(name) for name in documents.catalogue("model_profiles/retrieval")}
CASCADE = ("recall-target",)
SAME = ("serving.stages.retrieve.recall=null", "serving.stages.retrieve.probes=128")
TODAY = date(2026, 11, 22)


def stage(**fields) -> RetrieveStage:
    return RetrieveStage.model_validate(fields)


def timed(found: RetrieveStage, requests=1):
    scenario = catalogue.scenario("cascade")
    context = Context(scenario=scenario, models={}, points=POINTS)
    device = transfer.device(catalogue.hardware("l4"), "fused", [], catalogue.shared())
    return serving_step.time(found, requests, device, context)


# What a stage may say.


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"probes": 64}, "give recall or probes, not both .*`probes: null`"),
        ({"index": "hnsw", "effort": 64}, "give recall or effort, not both"),
        ({"index": "exact"}, "an exact search finds all"),
        ({"points": None}, "a recall needs points"),
        ({"recall": 0}, "greater than 0"),
        ({"recall": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_recall_that_cannot_be_meant_is_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        stage(**(ASKED | wrong))


def test_what_an_index_does_not_use_stands_beside_a_recall():
    assert stage(**ASKED, effort=64).breadth == 16
    assert stage(**(ASKED | {"probes": None})).recall == 0.95


@pytest.mark.parametrize(
    ("fields", "reach"),
    [
        ({}, 16), ({"probes": 40}, 40), ({"lists": 8}, 8), ({"index": "hnsw"}, 64),
        ({"index": "hnsw", "effort": 100, "probes": 3}, 100),
    ],
)  # fmt: skip
def test_how_far_a_search_goes_where_no_recall_is_asked_for(fields, reach):
    assert nearest.effort(stage(**(LISTS | fields)), {}) == (reach, 0.0)


# What the points say.


def test_the_effort_of_a_recall_by_hand():
    # ln(r/(1 − r)) is 2.8959 at 64 probes (0.9477), 3.7054 at 128 (0.976) and 2.9444 at 0.95: 64 · 2^(0.0485/0.8095).
    reach = nearest.effort(stage(**ASKED), POINTS)
    assert reach == (math.ceil(64 * 2 ** (0.0485 / 0.8095)), nearest.EFFORT_LOG_SIGMA) == (67, 0.2)


def test_a_published_recall_is_searched_as_published():
    asked, given = stage(**(ASKED | {"recall": 0.976})), stage(**LISTS, probes=128)
    assert nearest.effort(asked, POINTS) == (128, 0.0)
    both = [timed(each, np.array([1.0, 16.0])) for each in (asked, given)]
    assert both[0].value.tolist() == both[1].value.tolist()
    assert both[0].errors.keys() == both[1].errors.keys()


def test_between_points_the_band_is_wider_by_what_the_effort_makes_of_the_time():
    asked, given = timed(stage(**ASKED)), timed(stage(**LISTS, probes=67))
    further = timed(stage(**LISTS, probes=67).model_copy(update={"probes": 67 * math.exp(0.2)}))
    assert float(asked.value) == float(given.value)
    sigma = float(asked.errors["effort of the recall"])
    assert sigma == pytest.approx(math.log(float(further.value) / float(given.value)))
    assert 0 < sigma < 0.2
    assert asked.high > given.high


def looked_up(**settings):
    """Return the points of the override with settings of its retrieve stage."""
    said = [f"serving.stages.retrieve.{key}={value}" for key, value in settings.items()]
    document = catalogue.scenario_document("cascade", CASCADE, said)
    return references.points(documents.validated(document, Scenario), document)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"recall": 0.991},
            r"retrieve.recall: .*points sift1m-ivf-flat reach a recall from 0.4084 to 0.9907, not 0.99",
        ),
        ({"recall": 0.4}, r"from 0.4084 to 0.9907, not 0.4"),
        ({"lists": 4096}, r"retrieve.lists: .*of an index with lists 16384, not 4096: take 16384"),
        ({"points": "sift1m-ivf-pq"}, r"retrieve.points: .*of kind 'ivf-pq'; this stage needs 'ivf'"),
        ({"points": "sift1m-ivf-flt"}, r"retrieve.points: .*unknown point .*did you mean sift1m-ivf-flat"),
        ({"index": "pq", "points": "sift1m-ivf-pq", "lists": 4096, "code_bytes": 32}, r"code_bytes 64, not 32"),
        ({"index": "hnsw", "effort": "null", "points": "usearch-hnsw"}, r"(?s)links 16, not 32.*recall from 0.972"),
        ({"points": "nowhere/mine.yaml"}, r"nowhere/mine.yaml: no such file"),
    ],
)
def test_points_that_say_nothing_about_a_search_are_refused_at_their_place(settings, said):
    with pytest.raises(InputError, match=said):
        looked_up(**settings)


def test_points_of_each_kind_are_found():
    found = looked_up(index="pq", points="sift1m-ivf-pq", lists=4096)
    assert {name: run.kind for name, run in found.items()} == {"sift1m-ivf-pq": "ivf-pq"}
    found = looked_up(index="hnsw", effort="null", points="usearch-hnsw", links=16, recall=0.98)
    assert {name: run.kind for name, run in found.items()} == {"usearch-hnsw": "hnsw"}


def test_points_may_be_a_file_of_yours(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "{id: mine, kind: ivf, items: 5 M, width: 768, lists: 16384, recall: 10@10, basis: measured, source: ours, "
        "points: [{effort: 16, recall: 0.8}, {effort: 32, recall: 0.95}]}"
    )
    (run,) = looked_up(points=mine).values()
    asked = stage(**(ASKED | {"points": "mine"}))
    assert nearest.effort(asked, {"mine": run}) == (32, 0.0)
    assert "32 probes, as 10@10 did with 5,000,000 vectors of 768 values (mine, measured)" in nearest.taken_from(
        asked, {"mine": run}
    )


# Plans.


def test_a_plan_with_a_recall_is_that_with_the_same_probes():
    asked = plan_of("cascade", CASCADE, ("serving.stages.retrieve.recall=0.976",))
    given = plan_of("cascade", CASCADE, SAME)
    for one, other in zip(asked.options, given.options, strict=True):
        assert (one.hardware, one.devices, one.latency_quantile_s) == (
            other.hardware, other.devices, other.latency_quantile_s,
        )  # fmt: skip
        assert repr(one.cost) == repr(other.cost)
        assert repr(one.pools) == repr(other.pools)
    assert not [text for text in sentence.caveats(given) if "recall" in text]
    assert all(any("128 probes" in text for text in sentence.option_caveats(asked, o)) for o in asked.options)


def test_more_recall_never_takes_less_time():
    found = [float(timed(stage(**(ASKED | {"recall": recall})), 16).value) for recall in (0.5, 0.7, 0.9, 0.95, 0.99)]
    assert found == sorted(found)
    assert found[-1] > 5 * found[0]


def test_the_workbook_says_whose_recall_it_is():
    plan, scenario = plan_of("cascade", CASCADE), catalogue.scenario("cascade", CASCADE)
    assert (f"Recall of retrieve, as {RUN} reached it", 0.95, "1") in assumptions.settings(plan, scenario)
    base = catalogue.scenario("cascade")
    assert not [row for row in assumptions.settings(plan_of("cascade"), base) if "Recall" in row[0]]


# Rollouts and levers.


def rolled(*to: str):
    old = catalogue.scenario("cascade", CASCADE)
    given = planner.inputs(old, today=TODAY)
    changes = rollout.settings(old, given.models, "retrieve", None, to)
    new = catalogue.scenario("cascade", CASCADE, changes)
    return touched(old, new, Rollout())


def test_another_recall_searches_the_same_index():
    assert rolled("recall=0.98").indexes == ()
    assert rolled("recall=0.98").stages == ("retrieve",)
    assert [stage.name for stage in rolled("dtype=int8").indexes] == ["retrieve"]


def test_a_recall_can_be_rolled_out():
    said = capacity(
        "rollout", "cascade", "retrieve", "--override", "recall-target", "--to", "recall=0.98", "-H", "l40s"
    )
    assert said.code == 0
    assert "To roll out recall=0.98 (retrieve)" in said.out
    assert "build retrieve" not in said.out
    assert f"recall 0.98 of stage retrieve is taken from points {RUN}" in said.out


def test_a_lever_that_sets_probes_takes_the_recall_away():
    (lever,) = (lever for lever in SERVING if lever.id == "product-quantization")
    asked, plain = (lever.change(catalogue.scenario("cascade", names), {}) for names in (CASCADE, ()))
    assert asked["serving"]["stages"]["retrieve"] == plain["serving"]["stages"]["retrieve"] | {"recall": None}
    assert "recall" not in plain["serving"]["stages"]["retrieve"]


def test_a_lever_asks_for_less_where_a_recall_is_asked_for():
    (lever,) = (lever for lever in SERVING if lever.id == "lower-recall")
    changes = lever.change(catalogue.scenario("cascade", CASCADE), {})
    assert changes == {"serving": {"stages": {"retrieve": {"recall": 0.9}}}}
    with pytest.raises(InapplicableError, match=r"asked for a recall above 0\.9"):
        lever.change(catalogue.scenario("cascade"), {})


def test_a_search_for_the_best_plan_knows_the_points():
    document = catalogue.scenario_document("two-tower-retrieval", ("approximate",))
    given = planner.inputs(documents.validated(document, Scenario), today=TODAY, document=document)
    variants, refused = plans.variants(document, given, Space(levers=("lower-recall",)), ["l4"])
    assert not refused
    assert [variant.scenario.serving.stage("retrieve").recall for variant in variants] == [0.95, 0.9]
    pools = [Place.of(variant, given).pools[0][0] for variant in variants]
    asked, less = (float(pool.service(16).value) for pool in pools)
    assert less < asked


# Points of your own (benchmarks/faiss_recall.py); faiss is not needed here.


class Tenths:
    """An index of which a search of effort n finds the first n of ten nearest, never more than nine."""

    nprobe = 0

    def search(self, queries: np.ndarray, among: int):
        ids = np.where(np.arange(10) < min(self.nprobe, 9), np.arange(10), -1)
        return None, np.tile(ids[:among], (len(queries), 1))


def asked_of(name: str, **more):
    found = faiss_recall.Search(Tenths(), np.zeros((3, 8)), np.tile(np.arange(10), (3, 1)), among=10)
    options = Namespace(id="mine", recall="10@10", **more)
    return found, faiss_recall.points(found, name, np.zeros((100, 8)), options, "a toy")


def test_measured_points_double_the_effort_while_more_is_found():
    _, run = asked_of("IVF64,Flat")
    assert [(point.effort, point.recall) for point in run.points] == [(1, 0.1), (2, 0.2), (4, 0.4), (8, 0.8), (16, 0.9)]
    assert (run.kind, run.lists, run.items, run.width, run.basis) == ("ivf", 64, 100, 8, "measured")


def test_efforts_between_points_are_compared_with_what_they_find():
    found, run = asked_of("IVF64,PQ4")
    assert run.code_bytes == 4
    # Effort 3 finds 0.3: 2 · 2^((ln 3/7 − ln 1/4) ÷ (ln 2/3 − ln 1/4)) = 2.93, rounded up; effort 6 likewise from 5.47.
    assert faiss_recall.between(found, run) == [0.0, 0.0]


def test_an_index_without_an_effort_is_refused():
    with pytest.raises(SystemExit, match="no effort of its own"):
        asked_of("Flat")
