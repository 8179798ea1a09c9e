"""What building an index executes: k-means, the nearest list of every vector, its code, its place in a graph.

References
----------
Malkov & Yashunin 2020, arXiv:1603.09320 (algorithms 1 and 4); Douze et al. 2024, arXiv:2401.08281 (faiss, whose
defaults the passes and training vectors are).
"""

from __future__ import annotations

import dataclasses

from capacity.work.operations import Amount, Gemm, Operation, Streaming, repeated
from capacity.work.retrieval import CODEWORDS, CodeIndex, ExactIndex, GraphIndex, Index, InvertedIndex

LIST_PASSES, CODE_PASSES, POINTS = 10, 25, 256
"""Passes of k-means for lists and for codewords, and most vectors for each centroid that it learns from: what faiss
1.15.1 sets (`cp.niter` of an IVF index and of its `pq`, `cp.max_points_per_centroid`)."""
QUERIES = 1024
"""Vectors that are put into an index at once (assumed)."""
BREADTH = 200
"""Candidates kept while a graph is built (efConstruction; 200 is the default of RcppHNSW's `hnsw_build`)."""
STREAMED = frozenset({"fp32", "fp16", "bf16"})
"""What vectors are copied in (else in two bytes a value) and k-means multiplies (else fp32)."""


def build(index: Index, breadth: float = BREADTH, learn_share: float = 1) -> tuple[Operation, ...]:
    """Return what building an index from its vectors executes.

    Parameters
    ----------
    breadth
        Candidates that a graph keeps while a vector looks for its neighbors (efConstruction).
    learn_share
        Share of the vectors that k-means may learn from; it takes at most `POINTS` for each centroid [1].

    Examples
    --------
    Of an exact index of 1,000 vectors of 128 values in 2 bytes, 256 kB are read and as much is written.

    >>> [op.moved_bytes for op in build(ExactIndex(items=1000, width=128, dtype="fp16"))]
    [512000]

    Ten lists learn from all 1,000 vectors in 10 passes; then each vector meets the ten centroids once more.

    >>> lists = InvertedIndex(items=1000, width=128, dtype="fp16", lists=10, probes=1)
    >>> round(sum(op.flop * op.count for op in build(lists) if op.operation == "gemm")) == 11 * 1000 * 10 * 2 * 128
    True
    """
    dtype = "fp32" if isinstance(index, CodeIndex) else index.dtype
    products = dtype if dtype in STREAMED else "fp32"
    stored = dtype if dtype in STREAMED else "fp16"
    written = Streaming(kind="copy", elements=index.items * index.width, dtype=stored, label="vectors")
    match index:
        case ExactIndex():
            return (written,)
        case CodeIndex():
            return (written, *_coded(index.items, index.width, index.code_bytes, learn_share))
        case InvertedIndex():
            return (written, *_parted(index, products, learn_share), *_codes_of(index, learn_share))
        case GraphIndex():
            return (written, *_codes_of(index, learn_share), *_inserted(index, breadth))


def learnt(items: Amount, centroids: float, learn_share: float = 1) -> Amount:
    """Return the vectors that k-means learns `centroids` from: at most `POINTS` each.

    Examples
    --------
    >>> learnt(1_000_000, 100), learnt(1_000_000, 100, 0.01), learnt(10, 100)
    (25600.0, 10000.0, 10.0)
    """
    return min(float(POINTS * centroids), float(items) * learn_share)


def _parted(index: InvertedIndex, dtype: str, learn_share: float) -> tuple[Operation, ...]:
    """Return k-means for the lists, and the nearest list of every vector."""
    met = LIST_PASSES * learnt(index.items, index.lists, learn_share)
    moved = Streaming(kind="add", elements=met * index.width, dtype="fp32", reads=2, label="new centroids")
    near = (
        Gemm(m=QUERIES, n=index.lists, k=index.width, dtype=dtype, label="centroids"),
        _least(QUERIES * index.lists),
    )
    return (*repeated(near, (met + index.items) / QUERIES), moved)


def _codes_of(index: InvertedIndex | GraphIndex, learn_share: float) -> tuple[Operation, ...]:
    return _coded(index.items, index.width, index.code_bytes, learn_share) if index.code_bytes else ()


def _coded(items: Amount, width: int, code_bytes: int, learn_share: float) -> tuple[Operation, ...]:
    """Return k-means for the codewords of each part of a vector, and the nearest codewords of every vector."""
    met = CODE_PASSES * learnt(items, CODEWORDS, learn_share)
    near = (
        Gemm(m=QUERIES, n=CODEWORDS, k=width / code_bytes, batch=code_bytes, dtype="fp32", label="codewords"),
        _least(QUERIES * code_bytes * CODEWORDS),
    )
    return repeated(near, (met + items) / QUERIES)


def _least(distances: Amount) -> Operation:
    """Return the comparison of every distance with the least so far: k-means needs one of them, and no selection."""
    return Streaming(kind="add", elements=distances, dtype="fp32", reads=1, writes=0, label="least distance")


def _inserted(index: GraphIndex, breadth: float) -> tuple[Operation, ...]:
    """Return the search of every vector for its neighbors, in the finished graph: the most that a search takes."""
    search = dataclasses.replace(index, breadth=breadth).search(QUERIES, 2 * index.links)
    return repeated(search, index.items / QUERIES)
