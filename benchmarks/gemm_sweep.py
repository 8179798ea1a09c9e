"""CPU seconds for a million GEMM shapes: `python benchmarks/gemm_sweep.py`.

Times the product's compiled loop and, in the same process, the same candidates in numpy, which the tests hold it equal
to; then the learned residual on top. Prints ratios beside the seconds: only they compare between machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from capacity import catalogue
from capacity.spec.hardware import Hardware
from capacity.timing import gemm, transfer
from capacity.timing.form import Array, Board
from capacity.work.operations import Gemm

SHAPES = 1_000_000
REPEATS = 3
CHUNK = 1_000


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the least CPU time of a few runs [s]."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def shapes(count: int) -> tuple[Array, Array, Array]:
    """Return m, n, k, evenly spread over the logarithm from 1 to 65,536."""
    draw = np.random.default_rng(0)
    m, n, k = (np.round(np.exp(draw.uniform(0, np.log(65_536), count))) for _ in range(3))
    return m, n, k


def in_numpy(m: Array, n: Array, k: Array, numbers: Array) -> None:
    """Go through the candidates of all shapes in numpy, a cache-full at a time."""
    for start in range(0, len(m), CHUNK):
        part = slice(start, start + CHUNK)
        gemm.vectorized(m[part], n[part], k[part], np.ones(len(m[part])), numbers)


def main() -> None:
    """Measure and print."""
    hardware: Hardware = catalogue.hardware("h100-sxm-80gb")
    board, values = Board(hardware), gemm.GEMM.typical
    m, n, k = shapes(SHAPES)
    product = Gemm(m=m, n=n, k=k, dtype="bf16")
    numbers = gemm.judging_numbers(product, board, values)
    gemm.seconds(Gemm(m=m[:1000], n=n[:1000], k=k[:1000], dtype="bf16"), board, values)  # compiles, or loads the cache
    device = transfer.device(hardware, "fused", catalogue.calibrations(), catalogue.shared())
    device.time(Gemm(m=m[:10_000], n=n[:10_000], k=k[:10_000], dtype="bf16"))
    compiled_s = cpu_seconds(lambda: gemm.seconds(product, board, values))
    numpy_s = cpu_seconds(lambda: in_numpy(m, n, k, numbers))
    whole_s = cpu_seconds(lambda: device.time(product))
    print(f"{SHAPES:,} GEMM shapes, {len(gemm.TILES)} tiles × {len(gemm.SPLITS)} splits each, CPU seconds:")
    print(f"  compiled loop                      {compiled_s:6.2f}")
    print(f"  the same candidates in numpy       {numpy_s:6.2f}   {numpy_s / compiled_s:.1f}× the compiled loop")
    print(f"  with learned residual and band     {whole_s:6.2f}   {whole_s / compiled_s:.1f}×")


if __name__ == "__main__":
    main()
