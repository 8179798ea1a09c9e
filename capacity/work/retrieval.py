"""Scoring vectors against a catalogue: exact and approximate nearest neighbors, and the fusion scorer zᵀ·W·σ(v ⊕ u).

An index knows its memory and what one batch of queries does, the same on a GPU and on a processor. How far a search
must go to reach a recall depends on the data and is read from published or measured runs (`effort`), never computed.

References
----------
Jégou et al. 2011, doi:10.1109/TPAMI.2010.57 (IVF, PQ); Malkov & Yashunin 2020, arXiv:1603.09320 (HNSW); Douze et al.
2024, arXiv:2401.08281 (faiss, whose structures the formulas of memory follow).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, exp, log
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from capacity.errors import CapacityError
from capacity.spec.hardware import DTYPE_BYTES
from capacity.spec.model import FusionScorerModel, IndexPoints
from capacity.work.operations import Amount, Distance, Gather, Gemm, Operation, Streaming, TopK

Metric = Literal["dot", "l2"]
ID_BYTES = 8
CODEWORDS = 256
"""Centroids of a sub-quantizer whose code is one byte."""
LIST_IMBALANCE = 1.1
"""Vectors scanned ÷ those in lists of equal size: queries fall into long lists (faiss on clustered data: 1.05–1.13)."""
LOOK_UP_PASSES = 1.25
"""Traffic of adding one code byte's distance in fp32 values: the byte and the table entry it picks. The tables stay on
the chip, yet faiss on a Titan X adds 70, 75 and 76 billion a second (README of its benchs: PQ64, PQ8, PQ20), which is
this traffic at 1.04–1.14 of its memory bandwidth of 336 GB/s."""
RANGE_BYTES = 8
"""Least value and step (fp32) of each dimension that a scalar quantizer stores in a byte."""
NODE_BYTES = 12
"""Level (4) and offset (8) that faiss keeps of each node of a graph."""
GRAPH_DESCENT, GRAPH_SHARE, GRAPH_POWER = 200, 1.06, 0.7
"""Distances a graph search evaluates: 200 + 1.06 · ef · (2·links)^0.7, fitted on 61 runs of faiss (3–32 links, ef
16–1024, 20 k–1 M vectors, four of them published): median error 10 %, nine in ten within 30 %."""
GRAPH_HOPS = 10
"""Nodes expanded on the way down, beside the ef of the lowest level (faiss: 8–17)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactIndex:
    """Every vector is compared; `named` ones carry an 8-byte id of their own beside their place (faiss' IDMap).

    Examples
    --------
    >>> ExactIndex(items=1000, width=128, dtype="fp16").memory_bytes
    256000
    """

    items: Amount
    width: int
    dtype: str
    metric: Metric = "dot"
    named: bool = False

    @property
    def memory_bytes(self) -> Amount:
        """The vectors, their ids, the ranges of 1-byte values [byte]."""
        return self.items * (self.width * DTYPE_BYTES[self.dtype] + _id_bytes(self.named)) + _ranges(self)

    def search(self, queries: Amount, top: Amount) -> tuple[Operation, ...]:
        """Return the operations that find the `top` nearest for each query of a batch."""
        return exact_top_k(queries, self.items, self.width, top, self.dtype, self.metric)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeIndex:
    """Product quantization: a vector is `code_bytes` codewords, its distance the sum of as many table entries."""

    items: Amount
    width: int
    code_bytes: int
    named: bool = False

    @property
    def memory_bytes(self) -> Amount:
        """Codes, ids of `named` vectors and fp32 codebooks [byte]."""
        return self.items * (self.code_bytes + _id_bytes(self.named)) + _codebooks(self.width)

    def search(self, queries: Amount, top: Amount) -> tuple[Operation, ...]:
        """Return the operations that find the `top` nearest codes for each query of a batch."""
        tables = _tables(queries, self.width, self.code_bytes)
        return (tables, _codes(queries * self.items * self.code_bytes), _nearest(queries, self.items, top, "fp32"))


@dataclass(frozen=True, slots=True, kw_only=True)
class InvertedIndex:
    """IVF: vectors in `lists` lists by their nearest centroid, of which a query scans `probes`.

    With `code_bytes` the lists hold product-quantized residuals (IVF-PQ), else the vectors, of dtype int8 as a scalar
    quantizer stores them (IVF-SQ8).
    """

    items: Amount
    width: int
    dtype: str
    lists: int
    probes: Amount
    code_bytes: int | None = None
    metric: Metric = "dot"

    @property
    def memory_bytes(self) -> Amount:
        """Vectors or codes with an 8-byte id each, fp32 centroids, codebooks or ranges [byte]."""
        centroids = self.lists * self.width * DTYPE_BYTES["fp32"]
        return self.items * (_kept(self) + ID_BYTES) + centroids + _learnt(self)

    @property
    def scanned(self) -> Amount:
        """Vectors that one query meets in its lists."""
        return np.minimum(self.items, LIST_IMBALANCE * self.items * self.probes / self.lists)

    def search(self, queries: Amount, top: Amount) -> tuple[Operation, ...]:
        """Return the operations of a batch: nearest lists, their vectors or codes, the `top` nearest of these.

        Each query reads its own lists. A residual's L2 tables differ from list to list: one addition an entry.
        """
        return (
            Gemm(m=queries, n=self.lists, k=self.width, dtype=self.dtype, label="centroids"),
            TopK(rows=queries, columns=self.lists, k=self.probes, dtype=self.dtype, label="nearest lists"),
            *self._scan(queries),
            _nearest(queries, self.scanned, top, "fp32" if self.code_bytes else self.dtype),
        )

    def _scan(self, queries: Amount) -> tuple[Operation, ...]:
        if self.code_bytes is None:
            vectors = Gemm(m=1, n=self.scanned, k=self.width, batch=queries, dtype=self.dtype, label="probed vectors")
            return (vectors,)
        entries = queries * self.probes * self.code_bytes * CODEWORDS
        residual = Streaming(kind="add", elements=entries, dtype="fp32", reads=2, label="tables of residuals")
        tables = _tables(queries, self.width, self.code_bytes)
        codes = _codes(queries * self.scanned * self.code_bytes)
        return (tables, residual, codes) if self.metric == "l2" else (tables, codes)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphIndex:
    """HNSW: nodes with 2·`links` neighbors on the lowest level and `links` above; a search keeps `breadth` (ef).

    With `code_bytes` the nodes are product-quantized vectors (HNSW-PQ).
    """

    items: Amount
    width: int
    dtype: str
    links: int
    breadth: Amount
    code_bytes: int | None = None
    named: bool = False

    @property
    def memory_bytes(self) -> Amount:
        """Vectors or codes, 4-byte links of all levels, level and offset of each node, codebooks or ranges [byte].

        One node in `links` stands on the next level: links + links/links + … = links/(links − 1) neighbors above.
        """
        neighbors = 2 * self.links + self.links / (self.links - 1)
        node_bytes = _kept(self) + 4 * neighbors + NODE_BYTES + _id_bytes(self.named)
        return self.items * node_bytes + _learnt(self)

    @property
    def evaluated(self) -> Amount:
        """Distances that one query evaluates."""
        new_per_hop: float = GRAPH_SHARE * (2.0 * self.links) ** GRAPH_POWER
        return np.minimum(self.items, GRAPH_DESCENT + new_per_hop * self.breadth)

    def search(self, queries: Amount, top: Amount) -> tuple[Operation, ...]:
        """Return the operations of a batch: neighbor lists of expanded nodes, vectors of the nodes they lead to.

        Both are scattered reads. Nothing is written but the result: each query's rows pool into one. A gather counts
        one addition a value where a distance needs two or three; the traffic bounds the time.
        """
        hops = self.breadth + GRAPH_HOPS
        return (
            Gather(rows=queries * hops, width=2 * self.links, dtype="fp32", pooled=hops, label="neighbor lists"),
            *self._visited(queries),
            _nearest(queries, self.breadth, top, "fp32"),
        )

    def _visited(self, queries: Amount) -> tuple[Operation, ...]:
        rows, code_bytes = queries * self.evaluated, self.code_bytes
        width, dtype = (code_bytes, "int8") if code_bytes else (self.width, self.dtype)
        visited = Gather(rows=rows, width=width, dtype=dtype, pooled=self.evaluated, label="visited vectors")
        if code_bytes is None:
            return (visited,)
        return (_tables(queries, self.width, code_bytes), visited, _codes(rows * code_bytes))


Index: TypeAlias = ExactIndex | CodeIndex | InvertedIndex | GraphIndex
OneIndex = TypeVar("OneIndex", ExactIndex, CodeIndex, InvertedIndex, GraphIndex)


def shard(index: OneIndex, shards: int) -> OneIndex:
    """Return one of `shards` equal parts: every part gets every query, with lists, links and effort as they are."""
    return dataclasses.replace(index, items=index.items / shards)


def effort(known: Iterable[IndexPoints], kind: str, items: float, recall: float) -> tuple[IndexPoints, int]:
    """Return the run nearest in size that reached `recall` with an index of `kind`, and its least probes or ef for it.

    Raises
    ------
    CapacityError
        When no known run of that kind reached the recall.
    """
    runs = sorted((run for run in known if run.kind == kind), key=lambda run: abs(log(run.items / items)))
    for run in runs:
        reached = [point.effort for point in run.points if point.recall >= recall]
        if reached:
            return run, min(reached)
    best = max((point.recall for run in runs for point in run.points), default=0.0)
    raise CapacityError(f"no known run of a {kind} index reached a recall of {recall:g}; the best is {best:g}")


def effort_between(run: IndexPoints, recall: float) -> int:
    """Return the least probes or ef for a recall, between the points of a run: ln(r/(1 − r)) is linear in ln(effort).

    With each of the 33 inner points of six runs left out, the effort found for its recall is 9 % off in the median,
    nine in ten within 48 %, worst 56 % (codes that saturate).

    Raises
    ------
    CapacityError
        When the run always reached more, or never as much.

    Examples
    --------
    Odds of 1 and 9 at 16 and 64 probes: odds of 3, a recall of 0.75, lie halfway in both logarithms.

    >>> run = IndexPoints(
    ...     id="mine", kind="ivf", items=1000, width=8, lists=64, recall="1@1", basis="assumed", source="made up",
    ...     points=({"effort": 16, "recall": 0.5}, {"effort": 64, "recall": 0.9}),
    ... )
    >>> effort_between(run, 0.75)
    32
    """
    least, best = run.points[0].recall, run.points[-1].recall
    if not least <= recall <= best:
        raise CapacityError(f"points {run.id} reach a recall from {least:g} to {best:g}, not {recall:g}")
    points = [point for point in run.points if point.recall < 1]
    if not points or recall > points[-1].recall:
        return run.points[-1].effort
    odds = [log(point.recall / (1 - point.recall)) for point in points]
    found = np.interp(log(recall / (1 - recall)), odds, [log(point.effort) for point in points])
    return ceil(exp(float(found)) - 1e-9)


def _kept(index: InvertedIndex | GraphIndex) -> float:
    """Return the bytes of a vector, or of its code."""
    return index.code_bytes or index.width * DTYPE_BYTES[index.dtype]


def _learnt(index: InvertedIndex | GraphIndex) -> float:
    """Return the bytes of the codebooks, or of the ranges of 1-byte values."""
    return _codebooks(index.width) if index.code_bytes else _ranges(index)


def _codebooks(width: int) -> float:
    """Return the bytes of the fp32 codewords: 256 of each part of a vector, whose parts together are `width` values."""
    return CODEWORDS * width * DTYPE_BYTES["fp32"]


def _ranges(index: ExactIndex | InvertedIndex | GraphIndex) -> float:
    return RANGE_BYTES * index.width if index.dtype == "int8" else 0


def _id_bytes(named: bool) -> int:
    return ID_BYTES if named else 0


def _tables(queries: Amount, width: int, code_bytes: int) -> Operation:
    """Return the products of each query's parts with the codewords of each sub-quantizer."""
    return Gemm(
        m=queries, n=CODEWORDS, k=width / code_bytes, batch=code_bytes, dtype="fp32", label="look-up tables"
    )  # fmt: skip


def _codes(code_bytes: Amount) -> Operation:
    return Streaming(kind="add", elements=code_bytes, dtype="fp32", reads=LOOK_UP_PASSES, writes=0, label="codes")


def _nearest(queries: Amount, candidates: Amount, top: Amount, dtype: str) -> Operation:
    return TopK(rows=queries, columns=candidates, k=top, dtype=dtype)


def exact_top_k(
    queries: Amount, vectors: Amount, width: Amount, top: Amount, dtype: str, metric: Metric = "dot"
) -> tuple[Operation, ...]:
    """Return the operations that find the `top` nearest of `vectors` catalogue vectors for each query."""
    score: Operation
    if metric == "dot":
        score = Gemm(m=queries, n=vectors, k=width, dtype=dtype, label="dot scores")
    else:
        score = Distance(m=queries, n=vectors, k=width, dtype=dtype, label="L2 distances")
    return (score, TopK(rows=queries, columns=vectors, k=top, dtype=dtype))


def fusion_parameters(model: FusionScorerModel) -> int:
    """Return the entries of the bilinear matrix W."""
    return model.query_size * (model.item_size + model.user_size)


def fusion_scores(model: FusionScorerModel, requests: Amount, candidates: Amount, dtype: str) -> tuple[Operation, ...]:
    """Return the operations of zᵀ·W·σ(v ⊕ u) for `candidates` items of each of `requests` requests.

    zᵀ·W is computed once a request; each candidate then costs a gather, a concatenation, σ and one dot product.
    """
    width = model.item_size + model.user_size
    pairs = requests * candidates
    return (
        Gemm(m=requests, n=width, k=model.query_size, dtype=dtype, label="zᵀ·W"),
        Gather(rows=pairs, width=model.item_size, dtype=dtype, label="item vectors"),
        Streaming(kind="copy", elements=pairs * width, dtype=dtype, label="v ⊕ u"),
        Streaming(kind="activation", elements=pairs * width, dtype=dtype, flop_per_element=4, label="sigmoid"),
        Gemm(m=candidates, n=1, k=width, batch=requests, dtype=dtype, label="scores"),
    )
