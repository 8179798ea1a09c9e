"""Recall by search effort of your own vectors with faiss: the document that `points` of a retrieve stage names.

    python -m benchmarks.faiss_recall vectors.npy --index IVF1024,Flat --output mine.yaml
    python -m benchmarks.faiss_recall vectors.npy --queries queries.npy --metric dot --index HNSW32,Flat
    python -m benchmarks.faiss_recall --made-up 200000 96 --index IVF1024,Flat --between

`vectors.npy` holds an array (vectors, width); without `--queries` its last 1,000 are the queries and are not searched.
Efforts double from 1 (lists) or 16 (graphs) until nothing more is found. `--between` also measures efforts between two
points and prints how far `capacity.work.retrieval.effort_between` is from them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from benchmarks.faiss_indexes import described, faiss_module, vectors
from capacity.spec.model import IndexPoints
from capacity.work.retrieval import GraphIndex, InvertedIndex, effort_between

HELD_OUT = 1_000
LARGEST = 4_096
"""Effort beyond which nobody searches."""


@dataclass(frozen=True, slots=True)
class Search:
    """An index that is filled, queries, and the true nearest `wanted` of each, to be found among `among`."""

    index: Any
    queries: np.ndarray
    truth: np.ndarray
    among: int

    def recall(self, effort: int) -> float:
        """Return the share of the true nearest that a search of this effort finds."""
        if hasattr(self.index, "hnsw"):
            self.index.hnsw.efSearch = effort
        else:
            self.index.nprobe = effort
        _, found = self.index.search(self.queries, self.among)
        return shared(self.truth, found)


def shared(truth: np.ndarray, found: np.ndarray) -> float:
    """Return the mean share of each row of `truth` that stands in the same row of `found`.

    Examples
    --------
    >>> shared(np.array([[1, 2], [3, 4]]), np.array([[2, 9, 1], [4, 5, 6]]))
    0.75
    """
    return float((truth[:, :, None] == found[:, None, :]).any(axis=2).mean())


def searched(
    faiss: ModuleType, name: str, data: np.ndarray, queries: np.ndarray, options: argparse.Namespace
) -> Search:
    """Return the index that a key of faiss' index_factory means, filled with `data`, and what it should find."""
    metric = faiss.METRIC_INNER_PRODUCT if options.metric == "dot" else faiss.METRIC_L2
    wanted, among = map(int, options.recall.split("@"))
    exact = faiss.index_factory(data.shape[1], "Flat", metric)
    exact.add(data)
    index = faiss.index_factory(data.shape[1], re.sub(r"(PQ\d+)$", r"\1np", name), metric)
    index.train(data)
    index.add(data)
    return Search(index, queries, exact.search(queries, wanted)[1], among)


def rising(search: Search, first: int, most: int) -> Iterator[dict[str, float]]:
    """Yield effort and recall, the effort doubled each time, where more is found than before."""
    effort, best = first, 0.0
    while effort <= most and best < 1:
        recall = round(search.recall(effort), 4)
        if recall > best:
            yield {"effort": effort, "recall": recall}
        best = max(best, recall)
        effort *= 2


def points(search: Search, name: str, data: np.ndarray, options: argparse.Namespace, source: str) -> IndexPoints:
    """Return the points of an index as a document."""
    shape = described(name, len(data), data.shape[1])
    if isinstance(shape, GraphIndex) and shape.code_bytes is None:
        fields: dict[str, Any] = {"kind": "hnsw", "links": shape.links}
        found = rising(search, 16, LARGEST)
    elif isinstance(shape, InvertedIndex):
        fields = {"kind": "ivf-pq" if shape.code_bytes else "ivf", "lists": shape.lists}
        fields |= {"code_bytes": shape.code_bytes} if shape.code_bytes else {}
        found = rising(search, 1, min(shape.lists, LARGEST))
    else:
        sys.exit(f"{name} has no effort of its own: take IVFn,Flat, IVFn,PQm or HNSWm,Flat")
    return IndexPoints.model_validate(
        {
            "id": options.id, "items": len(data), "width": data.shape[1], "recall": options.recall,
            "basis": "measured", "source": source, "points": tuple(found), **fields,
        }
    )  # fmt: skip


def between(search: Search, run: IndexPoints) -> list[float]:
    """Return found ÷ true − 1 of the efforts halfway (in the logarithm) between two points, printing each."""
    errors = []
    for before, after in zip(run.points, run.points[1:], strict=False):
        effort = round((before.effort * after.effort) ** 0.5)
        recall = search.recall(effort)
        if before.effort < effort < after.effort and before.recall < recall < after.recall:
            errors.append(effort_between(run, recall) / effort - 1)
            print(f"effort {effort:>5} recall {recall:.4f} error {errors[-1]:+.1%}", file=sys.stderr)
    return errors


def main() -> int:
    """Measure, and print or write the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("vectors", nargs="?", type=Path)
    parser.add_argument("--made-up", nargs=2, type=int, metavar=("N", "WIDTH"))
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--index", required=True)
    parser.add_argument("--metric", choices=["l2", "dot"], default="l2")
    parser.add_argument("--recall", choices=["1@1", "1@10", "10@10"], default="10@10")
    parser.add_argument("--id", default="mine")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--between", action="store_true")
    options = parser.parse_args()
    if (options.vectors is None) == (options.made_up is None):
        parser.error("give a file of vectors, or --made-up N WIDTH")
    faiss = faiss_module()
    data = vectors(*options.made_up) if options.made_up else np.load(options.vectors).astype(np.float32)
    queries = np.load(options.queries).astype(np.float32) if options.queries else data[-HELD_OUT:]
    data = data if options.queries else data[:-HELD_OUT]
    search = searched(faiss, options.index, data, queries, options)
    whose = "made-up vectors (faiss_indexes.vectors)" if options.made_up else options.vectors.name
    source = f"faiss {faiss.__version__} on {date.today()}: {options.index}, {len(queries)} queries of {whose}"
    run = points(search, options.index, data, options, source)
    text = yaml.safe_dump(run.model_dump(exclude_none=True), sort_keys=False, allow_unicode=True, width=120)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    if options.between and (errors := between(search, run)):
        print(f"median |error| {np.median(np.abs(errors)):.1%}, largest {max(map(abs, errors)):.1%}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
