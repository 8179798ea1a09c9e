"""Indexes of faiss 1.15.1: bytes as serialized, builds as timed on one core, and what a plan makes of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks import faiss_indexes
from capacity import catalogue, documents
from capacity.errors import CapacityError
from capacity.phases import batch
from capacity.phases.batch import VISIT_S
from capacity.phases.context import Context
from capacity.rollout import jobs
from capacity.spec.model import IndexPoints, Point
from capacity.spec.scenario import BatchJob
from capacity.spec.stages import RetrieveStage
from capacity.timing import transfer
from capacity.work import operations as ops
from capacity.work.building import CODE_PASSES, LIST_PASSES, build, learnt
from capacity.work.retrieval import CodeIndex, ExactIndex, GraphIndex, InvertedIndex, effort_between

RUNS = [
    documents.validated(documents.read(path), IndexPoints)
    for path in documents.catalogue("model_profiles/retrieval").values()
]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parent.parent)
    monkeypatch.delenv("CAPACITY_PATH", raising=False)


# Memory: len(faiss.serialize_index(index)) of faiss-cpu 1.15.1 on 2026-11-22 (benchmarks/faiss_indexes.py memory).


@pytest.mark.parametrize(
    ("name", "items", "width", "serialized"),
    [
        ("SQ8", 10_000, 32, 320_337),
        ("IVF100,SQ8", 10_000, 32, 414_040),
        ("IDMap,Flat", 10_000, 32, 1_360_090),
        ("IDMap,PQ8", 10_000, 32, 192_899),
        ("HNSW16,PQ8", 10_000, 32, 1_553_251),
        ("HNSW32,SQ8", 50_000, 128, 20_013_638),
        ("HNSW16,PQ16", 50_000, 128, 8_146_403),
        ("IDMap,HNSW16,Flat", 50_000, 128, 33_215_335),
        ("PQ96", 100_000, 768, 10_386_518),
        ("IVF1024,SQfp16", 100_000, 768, 157_554_104),
        ("IVF4096,PQ8", 200_000, 64, 4_347_060),
        ("HNSW4,Flat", 200_000, 64, 61_063_774),
        ("HNSW64,Flat", 200_000, 64, 156_799_958),
        ("IVF16384,PQ4", 500_000, 32, 8_261_172),
    ],
)
def test_memory_is_that_of_faiss(name, items, width, serialized):
    assert faiss_indexes.described(name, items, width).memory_bytes == pytest.approx(serialized, rel=0.02)


def test_memory_by_hand():
    # 10 vectors of 8 values in one byte with an 8-byte id; least value and step of each of the 8 in fp32.
    assert ExactIndex(items=10, width=8, dtype="int8", named=True).memory_bytes == 10 * 16 + 64
    # Codes of 2 byte instead of 16 byte of values; 256 codewords of 8 fp32 values.
    coded = GraphIndex(items=10, width=8, dtype="fp16", links=3, breadth=5, code_bytes=2)
    assert coded.memory_bytes == 10 * (2 + 30 + 12) + 256 * 32


def test_a_graph_of_codes_reads_codes_and_not_vectors():
    whole = GraphIndex(items=1e6, width=128, dtype="fp32", links=16, breadth=64)
    _, tables, visited, codes, _ = replace(whole, code_bytes=16).search(1, 10)
    assert tables.flop == 2 * 256 * 128
    assert visited.width == 16
    assert codes.flop == pytest.approx(16 * whole.evaluated)


# Builds by hand.


def test_codes_learn_and_encode_by_products_with_their_codewords():
    work = build(CodeIndex(items=100_000, width=64, code_bytes=8))
    met = CODE_PASSES * 65_536 + 100_000  # 256 vectors for each of 256 codewords
    assert products(work) == pytest.approx(met * 2 * 256 * 64)


def test_lists_of_codes_learn_both():
    index = InvertedIndex(items=100_000, width=64, dtype="fp32", lists=100, probes=1)
    coded = replace(index, code_bytes=8)
    assert products(build(index)) == pytest.approx((LIST_PASSES * 25_600 + 100_000) * 2 * 100 * 64)
    alone = products(build(CodeIndex(items=100_000, width=64, code_bytes=8)))
    assert products(build(coded)) == pytest.approx(products(build(index)) + alone)


def test_learning_from_fewer_vectors_leaves_assigning():
    index = InvertedIndex(items=100_000, width=64, dtype="fp32", lists=100, probes=1)
    few = products(build(index, learn_share=0.01))
    assert few == pytest.approx((LIST_PASSES * 1000 + 100_000) * 2 * 100 * 64)
    assert learnt(10**9, 256, 0.5) == 65_536


def products(work) -> float:
    return float(sum(op.flop * op.count for op in work if op.operation == "gemm"))


def test_a_graph_searches_for_every_vector():
    index = GraphIndex(items=50_000, width=64, dtype="fp32", links=16, breadth=10)
    visited = sum(op.rows * op.count for op in build(index, breadth=200) if op.label == "visited vectors")
    assert visited == pytest.approx(50_000 * replace(index, breadth=200).evaluated)


# Builds of faiss-cpu 1.15.1 on one core of an EPYC of Zen 5, CPU seconds on 2026-11-22 (benchmarks/faiss_indexes.py).

CORE_FLOP_PER_S = 97e9
"""numpy's OpenBLAS multiplies (4096×96)·(96×1024) in fp32 so fast on that core."""


@pytest.mark.parametrize(
    ("name", "items", "width", "seconds"),
    [
        ("IVF1024,Flat", 100_000, 128, 3.34), ("IVF1024,Flat", 300_000, 96, 7.41), ("IVF512,SQ8", 100_000, 256, 3.51),
        ("IVF1500,SQ8", 120_000, 160, 7.26),
    ],
)  # fmt: skip
def test_k_means_runs_at_the_rate_of_products(name, items, width, seconds):
    work = build(faiss_indexes.described(name, items, width))
    assert products(work) / seconds == pytest.approx(CORE_FLOP_PER_S, rel=0.25)


@pytest.mark.parametrize(
    ("name", "items", "width", "breadth", "seconds"),
    [
        ("HNSW12,Flat", 80_000, 48, 60, 2.74), ("HNSW24,Flat", 40_000, 256, 120, 4.62),
        ("HNSW6,Flat", 120_000, 128, 32, 4.28), ("HNSW48,Flat", 30_000, 64, 80, 2.13),
        ("HNSW20,SQ8", 40_000, 384, 100, 4.09),
    ],
)  # fmt: skip
def test_waiting_for_visited_vectors_is_the_time_of_graphs_left_out_of_the_fit(name, items, width, breadth, seconds):
    index = replace(faiss_indexes.described(name, items, width), breadth=breadth)
    assert 0.5 < VISIT_S * items * index.evaluated / seconds < 2  # -46 % to +57 %


# Jobs.


def job(**more) -> BatchJob:
    return BatchJob(**{"name": "a", "task": "index", "width": 64, "every": 86400.0, "dtype": "fp32"} | more)


def device(name: str):
    return transfer.device(catalogue.hardware(name), "eager", catalogue.calibrations(), catalogue.shared())


@pytest.mark.parametrize("kind", ["exact", "ivf", "pq", "hnsw"])
def test_a_job_and_a_rollout_build_alike(kind):
    tower = catalogue.scenario("gpt2-two-tower")
    shape = {"width": 64, "index": kind, "lists": 100, "links": 16, "code_bytes": 8, "dtype": "fp32"}
    stage = RetrieveStage(name="a", task="retrieve", top=5, probes=4, **shape)
    mine = batch.batch_operations(job(**shape, build_effort=100), None, tower, tower.catalogue.items)
    theirs = jobs.build_operations(stage, Context(scenario=tower, models={}), 100)
    assert ops.total_flop(mine) == pytest.approx(ops.total_flop(theirs))
    assert ops.total_bytes(mine) == pytest.approx(ops.total_bytes(theirs))


def test_approximate_indexes_cost_more_than_a_copy():
    tower, card = catalogue.scenario("gpt2-two-tower"), device("h100-sxm-80gb")
    spent = {
        kind: float(batch.fewest_devices(job(index=kind), None, tower, card).device_time.value)
        for kind in ("exact", "ivf", "pq", "hnsw")
    }
    assert spent["ivf"] > spent["exact"]
    assert spent["pq"] > spent["ivf"]
    assert spent["hnsw"] > spent["exact"]


def test_a_build_is_paid_once_however_large_its_batches():
    tower, card = catalogue.scenario("gpt2-two-tower"), device("h100-sxm-80gb")
    small, large = (batch.fewest_devices(job(index="ivf", batch=size), None, tower, card) for size in (8, 4096))
    assert float(small.device_time.value) == pytest.approx(float(large.device_time.value))
    assert float(large.step.value) == pytest.approx(512 * float(small.step.value))


def test_a_job_holds_its_index_and_what_it_learns_from():
    tower, card = catalogue.scenario("gpt2-two-tower"), device("h100-sxm-80gb")
    held = batch.fewest_devices(job(index="ivf", lists=100), None, tower, card).memory_bytes
    items = tower.catalogue.items
    assert held == {"index": items * (64 * 4 + 8) + 100 * 64 * 4, "vectors to learn from": 25_600 * 64 * 4}


def test_a_processor_waits_for_what_it_visits_and_cores_share_the_wait():
    many = device("epyc-9755")
    one = replace(
        many, hardware=many.hardware.model_copy(update={"cores": many.hardware.cores.model_copy(update={"value": 1})})
    )
    index = GraphIndex(items=1e6, width=64, dtype="fp32", links=16, breadth=100)
    alone, shared = batch.build_time(index, one, 100), batch.build_time(index, many, 100)
    assert float(alone.value) == pytest.approx(VISIT_S * 1e6 * index.evaluated)
    assert float(shared.value) < float(alone.value) / 10
    assert alone.errors["inserting"] == batch.BUILD_LOG_SIGMA["graph"]


def test_nobody_measured_a_build_on_a_card():
    index = InvertedIndex(items=1e6, width=64, dtype="fp32", lists=100, probes=1)
    built = batch.build_time(index, device("h100-sxm-80gb"))
    assert built.basis == "assumed"
    assert built.errors["building an index"] == batch.UNSURE


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"index": "pq", "code_bytes": 128}, "code_bytes 128 for vectors of only 64 values"),
        ({"task": "encode", "model": "gpt2", "index": "ivf"}, "an encode job builds no index"),
        ({"index": "lsh"}, "Input should be 'exact', 'ivf', 'hnsw' or 'pq'"),
        ({"index": "ivf", "learn_share": 0}, "greater than 0"),
    ],
)
def test_a_job_that_cannot_be_built(wrong, said):
    with pytest.raises(ValidationError, match=said):
        job(**wrong)


# Recall.


def made_up(*points: tuple[int, float]) -> IndexPoints:
    found = tuple(Point(effort=effort, recall=recall) for effort, recall in points)
    return RUNS[0].model_copy(update={"points": found})


def test_effort_between_two_points_by_hand():
    # Odds 1 and 9 at 16 and 64: odds 3, a recall of 0.75, lie halfway in both logarithms.
    run = made_up((16, 0.5), (64, 0.9))
    assert effort_between(run, 0.75) == 32
    assert [effort_between(run, recall) for recall in (0.5, 0.9)] == [16, 64]


def test_what_lies_above_the_last_share_below_one_takes_the_effort_of_all():
    assert effort_between(made_up((16, 0.5), (64, 0.9), (128, 1.0)), 0.95) == 128
    assert effort_between(made_up((16, 1.0)), 1.0) == 16


@pytest.mark.parametrize("recall", [0.0, 0.49, 0.91, 1.1, float("nan")])
def test_a_recall_beyond_the_points_is_refused_with_their_range(recall):
    with pytest.raises(CapacityError, match=rf"reach a recall from 0.5 to 0.9, not {recall:g}$"):
        effort_between(made_up((16, 0.5), (64, 0.9)), recall)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lists": None}, "kind ivf has lists of"),
        ({"links": 16}, "kind ivf has lists of"),
        ({"points": [{"effort": 1, "recall": 0.5}, {"effort": 1, "recall": 0.6}]}, "must rise"),
        ({"points": [{"effort": 1, "recall": 0.5}, {"effort": 2, "recall": 0.5}]}, "must rise"),
    ],
)
def test_points_that_cannot_be_are_refused(wrong, said):
    run = {
        "id": "mine", "kind": "ivf", "items": 10, "width": 8, "lists": 4, "recall": "1@1", "basis": "assumed",
        "source": "made up", "points": [{"effort": 1, "recall": 0.5}],
    }  # fmt: skip
    assert IndexPoints.model_validate(run)
    with pytest.raises(ValidationError, match=said):
        IndexPoints.model_validate(run | wrong)


@pytest.mark.parametrize("run", RUNS, ids=[run.id for run in RUNS])
def test_a_point_left_out_is_found_again(run):
    for place, point in list(enumerate(run.points))[1:-1]:
        rest = run.model_copy(update={"points": run.points[:place] + run.points[place + 1 :]})
        assert effort_between(run, point.recall) == point.effort
        assert effort_between(rest, point.recall) / point.effort == pytest.approx(1, abs=0.6)


def test_the_benchmark_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SystemExit, match="pip install faiss-cpu"):
        faiss_indexes.faiss_module()
