"""Indexes of faiss beside the formulas: bytes of its serialized indexes, and seconds that building them takes.

    python -m benchmarks.faiss_indexes memory
    python -m benchmarks.faiss_indexes build --calibration local.yaml
    python -m benchmarks.faiss_indexes unseen --calibration local.yaml

`--calibration` is what `capacity calibrate --device cpu --threads 1` writes; without it the hardware profile given by
`--hardware` answers with what is known of its relatives. Builds run on one thread and count its CPU seconds, which are
steadier than wall time on a busy machine. Vectors are made up: 256 Gaussian clusters in 16 dimensions.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from types import ModuleType

import numpy as np

from capacity import catalogue
from capacity.phases.batch import build_time
from capacity.spec.hardware import Fact
from capacity.timing import transfer
from capacity.timing.device import Device
from capacity.work.retrieval import CodeIndex, ExactIndex, GraphIndex, Index, InvertedIndex

CLUSTERS, INTRINSIC, SPREAD = 256, 16, 0.4
KEPT_WHILE_BUILT = 40
"""efConstruction of faiss by default."""
MEMORY = tuple(
    (name, items, width)
    for items, width, names in (
        (10_000, 32, ("Flat", "SQ8", "SQfp16", "PQ8", "IVF100,Flat", "IVF100,SQ8", "IVF100,PQ8", "HNSW8,Flat",
                      "HNSW16,SQ8", "HNSW16,PQ8", "IDMap,Flat", "IDMap,PQ8")),
        (50_000, 128, ("Flat", "SQ8", "PQ32", "IVF256,Flat", "IVF1024,SQ8", "IVF1024,PQ16", "HNSW32,Flat",
                       "HNSW32,SQ8", "HNSW16,PQ16", "IDMap,HNSW16,Flat")),
        (100_000, 768, ("Flat", "SQ8", "PQ96", "IVF1024,SQfp16", "IVF1024,PQ96")),
        (200_000, 64, ("IVF4096,Flat", "IVF4096,PQ8", "HNSW4,Flat", "HNSW64,Flat")),
        (500_000, 32, ("SQ8", "PQ4", "IVF2048,PQ4", "IVF16384,PQ4", "HNSW16,Flat")),
    )
    for name in names
)  # fmt: skip
BUILDS = (
    ("IVF256,Flat", 100_000, 64, 0), ("IVF1024,Flat", 100_000, 128, 0), ("IVF1024,Flat", 300_000, 96, 0),
    ("IVF512,SQ8", 100_000, 256, 0), ("IVF2048,Flat", 200_000, 32, 0),
    ("PQ8np", 100_000, 64, 0), ("PQ16np", 100_000, 128, 0), ("PQ32np", 50_000, 256, 0),
    ("IVF256,PQ16np", 100_000, 128, 0), ("IVF1024,PQ8np", 200_000, 96, 0),
    ("HNSW8,Flat", 50_000, 64, 40), ("HNSW16,Flat", 50_000, 128, 40), ("HNSW16,Flat", 100_000, 96, 80),
    ("HNSW32,Flat", 50_000, 128, 40), ("HNSW16,Flat", 50_000, 128, 200), ("HNSW32,Flat", 20_000, 768, 100),
    ("HNSW16,SQ8", 50_000, 128, 40),
)  # fmt: skip
"""Index, vectors, their width, and efConstruction of a graph; `VISIT_S` of capacity/phases/batch.py is fitted on these
graphs, and BUILD_LOG_SIGMA there comes from them all."""
UNSEEN = (
    ("IVF400,Flat", 150_000, 48, 0), ("IVF1500,SQ8", 120_000, 160, 0), ("IVF800,PQ12np", 100_000, 192, 0),
    ("PQ24np", 80_000, 96, 0), ("HNSW12,Flat", 80_000, 48, 60), ("HNSW24,Flat", 40_000, 256, 120),
    ("HNSW6,Flat", 120_000, 128, 32), ("HNSW48,Flat", 30_000, 64, 80), ("HNSW20,SQ8", 40_000, 384, 100),
)  # fmt: skip
"""Builds that nothing was chosen by: they were timed after the rest was written down."""


@dataclass(frozen=True, slots=True)
class Row:
    """One index: what the formula says and what faiss did."""

    name: str
    items: int
    width: int
    effort: int
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Predicted ÷ measured − 1."""
        return self.predicted / self.measured - 1


def faiss_module() -> ModuleType:
    """Return faiss, or end with how to install it."""
    try:
        import faiss  # noqa: PLC0415
    except ImportError:
        sys.exit("faiss is not installed: pip install faiss-cpu")
    return faiss  # type: ignore[no-any-return]


def described(name: str, items: int, width: int) -> Index:
    """Return the index that a key of faiss' index_factory means.

    Examples
    --------
    >>> described("IVF100,PQ8", 1000, 32).code_bytes
    8
    """
    lists, links, code = (re.search(rf"{word}(\d+)", name) for word in ("IVF", "HNSW", "PQ"))
    dtype = "int8" if "SQ8" in name else "fp16" if "SQfp16" in name else "fp32"
    code_bytes, named = int(code[1]) if code else None, "IDMap" in name
    if lists:
        return InvertedIndex(
            items=items, width=width, dtype=dtype, lists=int(lists[1]), probes=1, code_bytes=code_bytes, metric="l2"
        )
    if links:
        return GraphIndex(
            items=items, width=width, dtype=dtype, links=int(links[1]), breadth=KEPT_WHILE_BUILT, named=named,
            code_bytes=code_bytes,
        )  # fmt: skip
    if code_bytes:
        return CodeIndex(items=items, width=width, code_bytes=code_bytes, named=named)
    return ExactIndex(items=items, width=width, dtype=dtype, named=named)


def vectors(items: int, width: int) -> np.ndarray:
    """Return made-up vectors in clusters, (items, width) fp32."""
    draw = np.random.default_rng(0)
    centers = draw.standard_normal((CLUSTERS, INTRINSIC), dtype=np.float32)
    scatter = SPREAD * draw.standard_normal((items, INTRINSIC), dtype=np.float32)
    turn = draw.standard_normal((INTRINSIC, width), dtype=np.float32)
    return (centers[draw.integers(0, CLUSTERS, items)] + scatter) @ turn


def kept(faiss: ModuleType, name: str, items: int, width: int) -> Row:
    """Return the bytes of one index: what it learns from, and how well it links, changes none of them."""
    index = faiss.index_factory(width, re.sub(r"(PQ\d+)$", r"\1np", name))
    if "HNSW" in name:
        graph = faiss.downcast_index(index.index) if "IDMap" in name else index
        graph.hnsw.efConstruction = 8
    data = vectors(items, width)
    index.train(data[: max(1_000, described(name, items, width).lists if "IVF" in name else 0)])
    index.add_with_ids(data, np.arange(items)) if "IDMap" in name else index.add(data)
    memory = float(described(name, items, width).memory_bytes)
    return Row(name, items, width, 0, memory, faiss.serialize_index(index).nbytes)


def built(faiss: ModuleType, case: tuple[str, int, int, int], device: Device) -> Row:
    """Return the CPU seconds of one build, trained and filled."""
    name, items, width, effort = case
    index, data = faiss.index_factory(width, name), vectors(items, width)
    if effort:
        index.hnsw.efConstruction = effort
    start = time.process_time()
    index.train(data)
    index.add(data)
    measured_s = time.process_time() - start
    predicted_s = float(build_time(described(name, items, width), device, effort or KEPT_WHILE_BUILT).value)
    return Row(name, items, width, effort, predicted_s, measured_s)


def device_of(calibration: str | None, hardware: str) -> Device:
    """Return one core of this machine as its calibration knows it, or of a profile."""
    known = catalogue.calibrations([calibration] if calibration else [])
    mine = next((profile for item, profile in known if calibration and not item.shipped), None)
    found = transfer.device(mine or catalogue.hardware(hardware), "eager", known, catalogue.shared())
    cores = Fact[int](value=1, source="one thread")
    return replace(found, hardware=found.hardware.model_copy(update={"cores": cores}))


def main() -> int:
    """Print the table asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["memory", "build", "unseen"])
    parser.add_argument("--calibration")
    parser.add_argument("--hardware", default="epyc-9755")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    faiss = faiss_module()
    faiss.omp_set_num_threads(1)
    if options.what == "memory":
        rows = (kept(faiss, *case) for case in MEMORY)
    else:
        device = device_of(options.calibration, options.hardware)
        rows = (built(faiss, case, device) for case in (BUILDS if options.what == "build" else UNSEEN))
    print(f"faiss {faiss.__version__}", file=sys.stderr)
    unit, errors = ("byte" if options.what == "memory" else "s"), []
    for row in rows:
        errors.append(row.error)
        told = json.dumps(asdict(row)) if options.json else (
            f"{row.name:20}{row.items:>9}{row.width:>6}{row.effort:>5}{row.predicted:>16,.2f}{row.measured:>16,.2f}"
            f" {unit}{row.error:>9.2%}"
        )  # fmt: skip
        print(told, flush=True)
    print(f"median |error| {np.median(np.abs(errors)):.2%}, largest {max(map(abs, errors)):.2%}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
