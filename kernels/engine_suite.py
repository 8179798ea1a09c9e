"""What a calibration of ONNX Runtime or OpenVINO runs: their single operations, and whole encoders.

Recommender work besides encoding (top-k, solves, LSTM, training) stays PyTorch's: a plan takes those classes from the
machine's eager calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from capacity.errors import CapacityError, UnknownNameError
from capacity.spec.engine import PROCESSOR_ENGINES
from capacity.work.operations import Attention, StreamKind
from kernels import suite
from kernels.encoders import EncoderShape
from kernels.engine_cases import Engine, attention_case, encoder_case, gather_case, gemm_case, streaming_case
from kernels.onnx_export import required
from kernels.onnxruntime_backend import OnnxRuntime
from kernels.openvino_backend import OpenVino
from kernels.suite import (
    ATTENTION,
    ENCODERS,
    MORE_ATTENTION,
    MORE_ENCODERS,
    MORE_PRODUCTS,
    QUICK_PRODUCTS,
    STREAM_SHAPES,
    STREAMS,
)
from kernels.timing import Case
from kernels.torch_backend import Backend

ENGINES: dict[str, Callable[[int], Engine]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}
DEEP_ENCODERS = (
    ("gpt2", 6, 384, 6, 1152, 2, 224), ("llama", 6, 384, 6, 1152, 8, 40),
    ("bert", 3, 448, 7, 1344, 16, 232),
)  # fmt: skip
"""Besides the suite of PyTorch: where attention, launches, and batches beyond the caches show."""
RESIDUAL_NORM: tuple[StreamKind, ...] = ("residual_norm",)
"""What an engine may fuse, and PyTorch's modules never do."""
GATHERS = ((64, 384, 2000), (512, 768, 2000), (4096, 768, 30_000))


def runner(name: str, backend: Backend, *, quick: bool) -> tuple[Backend | Engine, list[Case]]:
    """Return what times the suite of an engine on this machine, and that suite.

    Parameters
    ----------
    name
        "eager" is PyTorch: `backend` itself.

    Raises
    ------
    MissingExtraError
        When the engine is not installed; says how to get it.
    CapacityError
        For an engine of processors on a GPU.
    """
    if name == "eager":
        return backend, list(suite.cases(backend, quick=quick))
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ("eager", *ENGINES))
    if backend.device != "cpu":
        raise CapacityError(f"{PROCESSOR_ENGINES[name]} is calibrated on processors only; use --device cpu")
    required(name, name)
    found = ENGINES[name](backend.threads)
    return found, list(cases(found, quick=quick))


def cases(engine: Engine, *, quick: bool) -> Iterator[Case]:
    """Return every case of a run, in the order of worth: what is measured first is what a cut-short run keeps."""
    dtypes = engine.matrix_dtypes()
    floats = [dtype for dtype in dtypes if dtype != "int8"]  # around an int8 product everything stays fp32
    for dtype in dtypes:
        for m, n, k in QUICK_PRODUCTS:
            yield gemm_case(m, n, k, dtype, engine)
    for dtype in floats:
        yield from _attention(ATTENTION, engine, dtype)
        for kind in (*STREAMS, *RESIDUAL_NORM):
            for rows, width in STREAM_SHAPES[: 3 if quick else 6]:
                yield streaming_case(kind, rows, width, dtype, engine)
    for shape in ENCODERS + (() if quick else MORE_ENCODERS + DEEP_ENCODERS):
        for dtype in dtypes:
            yield encoder_case(EncoderShape(*shape, dtype), engine)
    for rows, width, table_rows in GATHERS:
        yield gather_case(rows, width, table_rows, engine)
    if not quick:
        for dtype in dtypes:
            for m, n, k in MORE_PRODUCTS:
                yield gemm_case(m, n, k, dtype, engine)
        for dtype in floats:
            yield from _attention(MORE_ATTENTION, engine, dtype)


def _attention(shapes: Sequence[tuple[int, int, int, int]], engine: Engine, dtype: str) -> Iterator[Case]:
    for batch, heads, tokens, head_dim in shapes:
        for causal in (False, True) if tokens >= 64 else (False,):
            operation = Attention(
                batch=batch, heads=heads, kv_heads=heads, query=tokens, keys=tokens, head_dim=head_dim, dtype=dtype,
                causal=causal, phase="prefill" if causal else "encoder",
            )  # fmt: skip
            yield attention_case(operation, engine)
