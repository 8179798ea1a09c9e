"""Indexes: memory as faiss serializes them, work by hand, published timings as traffic, effort for a recall."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import documents
from capacity.errors import CapacityError
from capacity.spec.model import IndexPoints
from capacity.work import operations as ops
from capacity.work.retrieval import (
    LIST_IMBALANCE,
    CodeIndex,
    ExactIndex,
    GraphIndex,
    InvertedIndex,
    effort,
    exact_top_k,
    shard,
)

RUNS = {
    name: documents.validated(documents.read(path), IndexPoints)
    for name, path in documents.catalogue("model_profiles/retrieval").items()
}


def exact(items: float, **more) -> ExactIndex:
    return ExactIndex(items=items, width=96, dtype="fp32", **more)


def lists(items: float, **more) -> InvertedIndex:
    return InvertedIndex(**{"items": items, "width": 96, "dtype": "fp32", "lists": 256, "probes": 16} | more)


def graph(items: float, links: int = 16, breadth: float = 64) -> GraphIndex:
    return GraphIndex(items=items, width=96, dtype="fp32", links=links, breadth=breadth)


def codes(items: float, code_bytes: int = 16) -> CodeIndex:
    return CodeIndex(items=items, width=96, code_bytes=code_bytes)


EVERY = pytest.mark.parametrize(
    "index", [exact, lists, graph, codes, lambda items: lists(items, code_bytes=16)],
    ids=["exact", "ivf", "hnsw", "pq", "ivf-pq"],
)  # fmt: skip


# Memory: bytes of faiss 1.15.1's serialized indexes of 96 fp32 values, read on 2026-11-22.


@pytest.mark.parametrize(
    ("index", "serialized"),
    [
        (exact(300_000), 115_200_045),
        (graph(50_000, 8), 23_229_970),
        (graph(50_000, 32), 32_812_578),
        (graph(300_000, 8), 139_369_938),
        (graph(300_000, 16), 158_483_898),
        (graph(300_000, 32), 196_843_106),
        (lists(50_000), 19_700_491),
        (lists(50_000, lists=1024), 20_001_547),
        (lists(300_000), 117_700_491),
        (lists(50_000, code_bytes=16), 1_398_836),
        (lists(50_000, lists=1024, code_bytes=16), 1_699_892),
        (lists(300_000, code_bytes=16), 7_398_836),
        (codes(50_000), 898_390),
        (codes(300_000), 4_898_390),
    ],
)
def test_memory_is_that_of_faiss(index, serialized):
    assert index.memory_bytes == pytest.approx(serialized, rel=0.005)


def test_memory_of_a_graph_is_near_the_rule_of_thumb():
    # faiss' guideline: d·4 + M·2·4 bytes a vector; it leaves out upper levels, level and offset of a node.
    assert graph(1e6, 32).memory_bytes / 1e6 == pytest.approx(96 * 4 + 32 * 2 * 4, rel=0.03)


def test_memory_by_hand():
    assert ExactIndex(items=10, width=8, dtype="fp16").memory_bytes == 160
    # 10 vectors of 16 byte with an id of 8, 4 centroids of 8 fp32 values.
    four = InvertedIndex(items=10, width=8, dtype="fp16", lists=4, probes=1)
    assert four.memory_bytes == 10 * 24 + 4 * 32
    # 10 codes of 2 byte with an id, 4 centroids and 256 codewords of 8 fp32 values.
    coded = InvertedIndex(items=10, width=8, dtype="fp16", lists=4, probes=1, code_bytes=2)
    assert coded.memory_bytes == 10 * 10 + 260 * 32
    # 3 links: 6 neighbors below, 3/2 above, 4 byte each; 16 byte of values; 12 byte of level and offset.
    assert GraphIndex(items=10, width=8, dtype="fp16", links=3, breadth=5).memory_bytes == 10 * (16 + 30 + 12)


# Work.


def test_exact_search_is_exact_top_k():
    assert exact(1000).search(7, 10) == exact_top_k(7, 1000, 96, 10, "fp32")
    assert exact(1000, metric="l2").search(7, 10) == exact_top_k(7, 1000, 96, 10, "fp32", "l2")


def test_inverted_lists_by_hand():
    # 5 queries meet 256 centroids, then 1.1 · 2560 · 16/256 = 176 of 2,560 vectors each, of which ten are kept.
    centroids, nearest, scan, top = lists(2560).search(5, 10)
    assert (centroids.m, centroids.n, centroids.k) == (5, 256, 96)
    assert (nearest.columns, nearest.k) == (256, 16)
    assert scan.flop == pytest.approx(5 * 2 * 176 * 96)
    assert scan.moved_bytes == pytest.approx(5 * 4 * (96 + 176 * 96 + 176))
    assert (top.rows, top.k) == (5, 10)
    assert top.columns == pytest.approx(176)


def test_probing_every_list_scans_every_vector():
    assert lists(2560, probes=256).scanned == 2560


def test_codes_by_hand():
    # 5 queries: 16 sub-quantizers of 6 values, 256 codewords each; then 16 table entries for each of 1,000 codes, a
    # code byte and a 4-byte entry read and one addition for each.
    tables, scan, top = codes(1000).search(5, 10)
    assert tables.flop == 16 * 2 * 5 * 256 * 6
    assert scan.flop == 5 * 1000 * 16
    assert scan.moved_bytes == 5 * 1000 * 16 * (1 + 4)
    assert top.columns == 1000


def test_residual_tables_cost_only_with_l2():
    # 5 queries · 16 probes · 16 sub-quantizers · 256 codewords are added once.
    dot = lists(2560, code_bytes=16).search(5, 10)
    l2 = lists(2560, code_bytes=16, metric="l2").search(5, 10)
    extra = [op for op in l2 if op not in dot]
    assert ops.total_flop(extra) == 5 * 16 * 16 * 256


def test_a_graph_by_hand():
    # ef 64 and ten on the way down read lists of 32 links of 4 byte; 200 + 1.06 · 64 · 32^0.7 = 967.5 vectors are read.
    neighbors, visited, top = graph(1e6).search(3, 10)
    assert neighbors.rows == 3 * 74
    assert neighbors.width == 32
    assert visited.rows / 3 == pytest.approx(967.5, abs=0.1)
    assert visited.moved_bytes == pytest.approx(3 * (967.5 * (96 * 4 + 8) + 96 * 4), rel=1e-3)
    assert (top.columns, top.k) == (64, 10)


def test_a_search_evaluates_no_more_than_there_is():
    assert graph(500).evaluated == 500


@pytest.mark.parametrize(
    ("links", "breadth", "published"),
    [(3, 16, 263.0), (3, 64, 462.3), (3, 256, 1109.0), (3, 1024, 3350.2)],
)
def test_evaluated_distances_of_a_published_run(links, breadth, published):
    """Compare with `ndis` of 10,000 queries in faiss, benchs/link_and_code/README.md (six links below)."""
    assert graph(1e6, links, breadth).evaluated == pytest.approx(published, rel=0.2)


@pytest.mark.parametrize(
    ("links", "breadth", "measured"),
    [(8, 64, 581), (16, 32, 577), (16, 64, 899), (16, 128, 1531), (16, 256, 2894), (32, 64, 1174), (32, 256, 3814)],
)
def test_evaluated_distances_of_a_measured_run(links, breadth, measured):
    """Compare with `hnsw_stats.ndis` of faiss 1.15.1 on 300,000 clustered vectors."""
    assert graph(300_000, links, breadth).evaluated == pytest.approx(measured, rel=0.4)


# Published timings of faiss on a Titan X (336 GB/s), benchs/README.md: the time between two efforts is traffic.

TITAN_X_BYTES_PER_S = 336e9
SCANS = {"probed vectors", "codes"}


def between(index: InvertedIndex, fewer: int, more: int, devices: int = 1) -> float:
    """Return the extra bytes that one device of several moves when 10,000 queries probe more lists."""
    moved = [
        sum(op.moved_bytes for op in dataclasses.replace(index, probes=probes).search(10_000, 10) if op.label in SCANS)
        for probes in (fewer, more)
    ]
    return float(moved[1] - moved[0]) / devices


@pytest.mark.parametrize(
    ("index", "probes", "seconds", "devices"),
    [
        (InvertedIndex(items=1e6, width=128, dtype="fp32", lists=16_384, probes=1), (256, 512), 0.527 - 0.299, 1),
        (lists(1e6, width=128, lists=4096, code_bytes=64), (256, 512), 1.348 - 0.717, 1),
        (lists(1e9, width=128, lists=262_144, code_bytes=8), (128, 256), 1.160 - 0.587, 1),
        (lists(1e9, lists=262_144, code_bytes=20), (128, 256), 0.736 - 0.384, 4),
    ],
    ids=["SIFT1M IVF16384,Flat", "SIFT1M IVF4096,PQ64", "SIFT1B PQ8", "Deep1B PQ20"],
)
def test_scanning_runs_at_the_memory_bandwidth(index, probes, seconds, devices):
    assert between(index, *probes, devices) / seconds == pytest.approx(TITAN_X_BYTES_PER_S, rel=0.3)


# Shards.


@EVERY
def test_shards_hold_their_part(index):
    whole, part = index(100_000), shard(index(100_000), 4)
    assert part.items == 25_000
    assert 1 <= 4 * part.memory_bytes / whole.memory_bytes < 1.25  # centroids and codebooks stand on every shard
    flop = [ops.total_flop(each.search(8, 10)) for each in (whole, part)]
    assert flop[1] <= flop[0] <= 4 * flop[1]


# Effort.


def test_every_run_says_its_source():
    for name, run in RUNS.items():
        assert run.id == name
        assert len(run.source) > 20
        assert (run.kind == "hnsw") == (run.links is not None) == (run.lists is None)
        assert (run.kind == "ivf-pq") == (run.code_bytes is not None)
        efforts = [point.effort for point in run.points]
        recalls = [point.recall for point in run.points]
        assert efforts == sorted(set(efforts))
        assert recalls == sorted(recalls)


@pytest.mark.parametrize(
    ("kind", "items", "recall", "found"),
    [
        ("ivf", 2e6, 0.95, ("sift1m-ivf-flat", 128)),
        ("ivf", 2e6, 0.90, ("sift1m-ivf-flat", 64)),
        ("hnsw", 2e6, 0.97, ("usearch-hnsw", 32)),
        ("hnsw", 2e5, 0.999, ("clustered-hnsw", 256)),
        ("ivf-pq", 5e8, 0.88, ("deep1b-ivf-pq", 128)),
        # No run of that size found so many: the next one in size did.
        ("ivf-pq", 5e8, 0.95, ("sift1m-ivf-pq", 32)),
    ],
)
def test_effort_of_a_recall(kind, items, recall, found):
    run, least = effort(RUNS.values(), kind, items, recall)
    assert (run.id, least) == found


@pytest.mark.parametrize(("kind", "best"), [("ivf", "0.9907"), ("lsh", "0")])
def test_a_recall_that_nobody_reached(kind, best):
    with pytest.raises(
        CapacityError, match=f"no known run of a {kind} index reached a recall of 0.999; the best is {best}"
    ):
        effort(RUNS.values(), kind, 1e6, 0.999)


# Properties.


@EVERY
@settings(max_examples=20, deadline=None)
@given(items=st.integers(1, 10**9), queries=st.integers(1, 256), top=st.integers(1, 100))
def test_work_is_positive_and_never_falls(index, items, queries, top):
    def amounts(*shape):
        size, *rest = shape
        work = index(size).search(*rest)
        return ops.total_flop(work), ops.total_bytes(work), index(size).memory_bytes

    base = amounts(items, queries, top)
    assert all(np.isfinite(amount) and amount > 0 for amount in base)
    for more in (amounts(2 * items, queries, top), amounts(items, queries + 1, top), amounts(items, queries, top + 1)):
        assert all(after >= before for before, after in zip(base, more, strict=True))


@settings(max_examples=20, deadline=None)
@given(probes=st.integers(1, 255), breadth=st.integers(1, 2000))
def test_a_wider_search_costs_more(probes, breadth):
    assert lists(1e6, probes=probes + 1).scanned >= lists(1e6, probes=probes).scanned
    assert lists(1e6, probes=probes).scanned <= LIST_IMBALANCE * 1e6 * probes / 256
    assert graph(1e6, breadth=breadth + 1).evaluated >= graph(1e6, breadth=breadth).evaluated


@EVERY
def test_arrays_give_what_numbers_give(index):
    batches = np.array([1.0, 7.0, 64.0])
    every = ops.total_bytes(index(1e6).search(batches, 10))
    assert every == pytest.approx([ops.total_bytes(index(1e6).search(float(batch), 10)) for batch in batches])
