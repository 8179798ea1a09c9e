"""Published vector searches: what a row says of its index and its vectors, and the time that follows.

An index is read from the model's name, as faiss and USearch write it; a search whose effort (probes, ef) is not stated
there is refused: recall is an outcome, and no input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from capacity.errors import CapacityError
from capacity.timing.band import Estimate
from capacity.timing.tables import said
from capacity.validate.kind import Context
from capacity.work.retrieval import ExactIndex, GraphIndex, Index, InvertedIndex, Metric

Values = Mapping[str, Any]
MULTIPLES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}
BIT_DTYPES = {"f32": "fp32", "f16": "fp16", "i8": "int8"}
STRUCTURES = r"Flat|IVF\d|HNSW.*\bM=\d"
"""What names an index."""
BATCH = 1000
"""Queries of one step where a table counts queries per second; more change little (assumed)."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """A catalogue of vectors; how many there are may not be stated."""

    items: float
    width: int
    dtype: str


DATASETS: Mapping[str, Vectors] = {
    "SIFT1B": Vectors(1e9, 128, "int8"), "BigANN": Vectors(1e9, 128, "int8"),
    "Deep1B": Vectors(1e9, 96, "fp32"), "deep-1B": Vectors(1e9, 96, "fp32"),
    "msturing-1B": Vectors(1e9, 100, "fp32"), "MSTuring": Vectors(1e9, 100, "fp32"),
    "MSSpace": Vectors(1e9, 100, "int8"), "ssnpp-1B": Vectors(1e9, 256, "int8"),
    "text2image-1B": Vectors(1e9, 200, "fp32"), "text2image-10M": Vectors(1e7, 200, "fp32"),
    "yfcc-10M": Vectors(1e7, 192, "int8"),
}  # fmt: skip
"""Data sets by their first word: big-ann-benchmarks (billion-scale ANN challenge of NeurIPS 2021 and 2023)."""


def vectors(dataset: str) -> Vectors:
    """Return the vectors of a data set: those it is known for, or those its name spells out.

    Raises
    ------
    CapacityError
        When neither is the case.

    Examples
    --------
    >>> vectors("SIFT1M (10k queries x 1M x 128d)")
    Vectors(items=1000000.0, width=128, dtype='fp32')
    >>> vectors("f16 x256").width
    256
    """
    spelled = re.search(r"x ([\d.]+)([kKMB]?) x (\d+)d", dataset)
    if spelled:
        return Vectors(float(spelled[1]) * MULTIPLES[spelled[2]], int(spelled[3]), "fp32")
    first = dataset.partition(" ")[0]
    if first in DATASETS:
        return DATASETS[first]
    bits = re.match(r"(f32|f16|i8) x(\d+)", dataset)
    if bits:
        return Vectors(math.nan, int(bits[2]), BIT_DTYPES[bits[1]])
    raise CapacityError(f"the vectors of data set {dataset!r} are not known; known are {', '.join(DATASETS)}")


def index(model: str, over: Vectors) -> Index:
    """Return the index that a model's name spells out, with the effort of its search.

    Raises
    ------
    CapacityError
        When the name does not state the structure or the effort, or the number of vectors is not known.

    Examples
    --------
    >>> found = index("faiss OPQ8_32,IVF262144,PQ8 nprobe=4", Vectors(1e9, 128, "int8"))
    >>> found.lists, found.probes, found.code_bytes, found.width
    (262144, 4.0, 8, 32)
    """
    if math.isnan(over.items):
        raise CapacityError("the data set does not say how many vectors it holds")
    if re.search(r"Flat(L2|IP)?\b", model) and "IVF" not in model:
        return ExactIndex(items=over.items, width=over.width, dtype=_products(over), metric=_metric(model))
    lists, links = re.search(r"IVF(\d+)", model), re.search(r"HNSW.*\bM=(\d+)", model)
    if re.search(r"\bSQ\d", model):
        raise CapacityError(f"{model}: indexes of scalar codes (SQ) are not modeled")
    if lists:
        code, turned, probes = (re.search(each, model) for each in (r"\bPQ(\d+)", r"OPQ\d+_(\d+)", r"nprobe=(\d+)"))
        return InvertedIndex(
            items=over.items, width=int(turned[1]) if turned else over.width, dtype=_products(over),
            lists=int(lists[1]), probes=float(_effort(probes, "nprobe")), code_bytes=int(code[1]) if code else None,
            metric="l2",
        )  # fmt: skip
    if links:
        breadth = float(_effort(re.search(r"\bef=(\d+)", model), "ef"))
        return GraphIndex(items=over.items, width=over.width, dtype=over.dtype, links=int(links[1]), breadth=breadth)
    raise CapacityError(f"{model!r} states no index that is modeled: Flat, IVF with PQ or whole vectors, HNSW")


def _effort(found: re.Match[str] | None, name: str) -> str:
    if found is None:
        raise CapacityError(f"the model's name does not state {name}: the effort of a search follows from no input")
    return found[1]


def _products(over: Vectors) -> str:
    """Return what distances are computed in: faiss turns bytes into fp32."""
    return "fp32" if over.dtype == "int8" else over.dtype


def _metric(model: str) -> Metric:
    return "l2" if "L2" in model else "dot"


def result(values: Values, row: pd.Series[Any], context: Context) -> Estimate:
    """Return the time of a row's searches [s], or their rate [1/s] where that is its unit.

    Raises
    ------
    CapacityError
        For a row that states no index, or asks for neither.
    """
    unit, model = said(values, "unit"), str(values["model"])
    if unit not in {"s", "queries/s"}:
        asked = f"a result in {unit}" if unit else "a recall"
        raise CapacityError(f"{asked} is neither a time nor a rate of runs")
    if str(values["category"]).startswith("genrec"):
        raise CapacityError(f"no model profile for {model}: neither its size nor its requests are stated")
    if not re.search(STRUCTURES, model):
        raise CapacityError("the model's name states no index, as in 'IVF1024,PQ64 nprobe=8' (notes are no input)")
    spent = searched_s(index(model, vectors(said(values, "dataset"))), values, row, context)
    return spent if unit == "s" else Estimate(_queries(row) / spent.value, spent.errors, spent.basis)


def searched_s(found: Index, values: Values, row: pd.Series[Any], context: Context) -> Estimate:
    """Return the time of all queries of a row on devices that each hold an equal part of the index [s].

    Raises
    ------
    CapacityError
        When the row does not state how many are wanted, or its hardware has no profile.
    """
    wanted = re.search(r"(?:top-|k=)(\d+)", str(values["phase"]))
    if wanted is None:
        raise CapacityError(
            f"phase {values['phase']!r} does not state how many nearest are wanted, as in 'search k=10'"
        )
    part = replace(found, items=found.items / number(row, "n_devices", 1.0))
    return context.device(board(values), "fused").step(part.search(_queries(row), int(wanted[1])))


def board(values: Values) -> str:
    """Return the hardware of a row: its id where one is given."""
    return said(values, "hardware_id") or str(values["hardware"])


def number(row: pd.Series[Any], name: str, default: float = np.nan) -> float:
    """Return a row's number, or the default where it is blank or absent."""
    found = float(row.get(name, np.nan))
    return found if np.isfinite(found) else default


def _queries(row: pd.Series[Any]) -> float:
    return number(row, "batch_global", BATCH)
