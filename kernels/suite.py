"""What a calibration runs: the designed grid of single operations, and whole models that check their sum.

The shapes are chosen to identify the parameters of the form in `capacity.timing.roofline`: launches too small to do
anything else (t0), products with few rows (bandwidth), with many (rate), and rows in between (the corner). The models
are those of the shipped scenarios, at sizes that fit in a small machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from capacity.work.operations import Attention, StreamKind
from kernels.encoders import EncoderShape, encoder_case, fine_tuning_case
from kernels.products import attention_case, gemm_case, optimizer_case, streaming_case
from kernels.scoring import dot_case, embedding_bag_case, l2_case, lstm_case, solve_case, topk_case
from kernels.timing import Case
from kernels.torch_backend import Backend

QUICK_PRODUCTS = (
    (1, 768, 768), (1, 3072, 768), (8, 768, 3072), (16, 1024, 1024), (24, 3072, 768), (32, 768, 768), (48, 1024, 4096),
    (64, 384, 1536), (64, 3072, 768), (128, 768, 768), (128, 256, 1024), (256, 2304, 768), (256, 1024, 1024),
    (512, 768, 3072), (512, 512, 512), (1024, 384, 384), (1024, 3072, 768), (2048, 768, 768), (2048, 1024, 256),
)  # fmt: skip
MORE_PRODUCTS = (
    (1, 4096, 1024), (2, 256, 256), (4, 1536, 384), (8, 2048, 512), (16, 3072, 768), (20, 256, 1024), (40, 768, 3072),
    (80, 512, 2048), (96, 1024, 1024), (160, 3072, 768), (192, 768, 768), (320, 1152, 384), (384, 1024, 4096),
    (640, 768, 768), (768, 2048, 512), (1536, 768, 3072), (3072, 512, 512), (4096, 768, 768),
)  # fmt: skip
ATTENTION = (  # batch, heads, tokens, head_dim
    (1, 12, 32, 64), (4, 12, 64, 64), (16, 8, 32, 32), (2, 12, 128, 64), (8, 12, 128, 32), (4, 16, 256, 64),
    (1, 12, 512, 64), (2, 8, 384, 48), (6, 12, 96, 64), (8, 16, 16, 64), (4, 8, 192, 64), (1, 12, 768, 64),
)  # fmt: skip
MORE_ATTENTION = (
    (1, 4, 16, 64),
    (32, 12, 64, 32),
    (8, 16, 128, 64),
    (2, 12, 512, 64),
    (1, 16, 640, 64),
    (1, 8, 1024, 128),
    (16, 12, 48, 64),
    (3, 6, 320, 64),
)
STREAMS: tuple[StreamKind, ...] = ("norm", "activation", "add", "softmax", "copy")
STREAM_SHAPES = ((32, 768), (128, 512), (512, 768), (512, 3072), (1024, 1024), (2048, 1536))
DECODES = ((1, 256), (2, 128), (8, 512), (4, 1024), (16, 256))  # sequences, cached positions
LSTMS = (
    (1, 50, 128, 256),
    (4, 20, 256, 512),
    (16, 50, 256, 512),
    (64, 20, 128, 128),
    (128, 50, 256, 256),
    (32, 10, 512, 512),
)
EMBEDDING_BAGS = (  # bags, rows pooled in each, width, rows of the table
    (256, 1, 256, 100_000), (4096, 1, 768, 100_000), (1024, 20, 128, 200_000), (128, 50, 64, 1_000_000),
    (16, 1, 128, 1_000_000),
)  # fmt: skip
ENCODERS = (  # model type, layers, hidden, heads, intermediate, batch, tokens
    ("bert", 2, 128, 2, 512, 1, 8), ("bert", 6, 384, 12, 1536, 8, 64), ("bert", 3, 768, 12, 3072, 4, 128),
    ("gpt2", 3, 768, 12, 3072, 2, 128), ("xlm-roberta", 2, 1024, 16, 4096, 2, 256), ("llama", 3, 512, 8, 1408, 4, 64),
)  # fmt: skip
MORE_ENCODERS = (
    ("bert", 12, 768, 12, 3072, 1, 32), ("bert", 4, 256, 4, 1024, 32, 2), ("gpt2", 4, 512, 8, 2048, 8, 96),
    ("xlm-roberta", 4, 384, 12, 1536, 16, 48),
)  # fmt: skip
FINE_TUNING = (("bert", 2, 768, 12, 3072, 4, 128), ("bert", 4, 384, 12, 1536, 8, 64))


def cases(backend: Backend, *, quick: bool) -> Iterator[Case]:
    """Return every case of a run, in the order of worth: what is measured first is what a cut-short run keeps."""
    for dtype in backend.matrix_dtypes():
        for m, n, k in QUICK_PRODUCTS:
            yield gemm_case(m, n, k, dtype, backend)
        yield from _attention(ATTENTION, backend, dtype)
        for kind in STREAMS:
            for rows, width in STREAM_SHAPES[: 3 if quick else 6]:
                yield streaming_case(kind, rows, width, dtype, backend)
    yield from whole_models(backend, quick=quick)
    yield from recommender_cases(backend, quick=quick)
    if not quick:
        for dtype in backend.matrix_dtypes():
            for m, n, k in MORE_PRODUCTS:
                yield gemm_case(m, n, k, dtype, backend)
            yield from _attention(MORE_ATTENTION, backend, dtype)


def _attention(shapes: Sequence[tuple[int, int, int, int]], backend: Backend, dtype: str) -> Iterator[Case]:
    for batch, heads, tokens, head_dim in shapes:
        for causal in (False, True) if tokens >= 64 else (False,):
            operation = Attention(
                batch=batch, heads=heads, kv_heads=heads, query=tokens, keys=tokens, head_dim=head_dim, dtype=dtype,
                causal=causal, phase="prefill" if causal else "encoder",
            )  # fmt: skip
            yield attention_case(operation, backend)


def recommender_cases(backend: Backend, *, quick: bool) -> Iterator[Case]:
    """Return decoding, scoring, look-ups, solves and recurrent layers: what recommenders do besides encoding."""
    for dtype in backend.matrix_dtypes():
        for batch, context in DECODES:
            decode = Attention(
                batch=batch, heads=8, kv_heads=8, query=1, keys=context, head_dim=64, dtype=dtype, phase="decode"
            )
            yield attention_case(decode, backend)
    for queries, vectors, width in (
        (1, 100_000, 128),
        (1, 20_000, 768),
        (16, 50_000, 384),
        (64, 20_000, 768),
        (8, 10_000, 256),
    ):
        yield l2_case(queries, vectors, width, backend)
        if not quick:
            yield dot_case(queries, vectors, width, backend)
    for rows, columns, k in ((1, 100_000, 5), (1, 1_000_000, 10), (4, 20_000, 20), (16, 50_000, 100), (64, 20_000, 10)):
        yield topk_case(rows, columns, k, backend)
    for bags, pooled, width, rows in EMBEDDING_BAGS:
        yield embedding_bag_case(bags, pooled, width, rows, backend)
    for batch, steps, inputs, hidden in LSTMS:
        yield lstm_case(batch, steps, inputs, hidden, backend)
    for systems, size in ((512, 32), (64, 32), (256, 64), (128, 128)):
        yield solve_case(systems, size, backend)
    for tensors, size in ((8, 256), (16, 512), (6, 1024)):
        yield optimizer_case(tensors, size, backend)


def whole_models(backend: Backend, *, quick: bool) -> Iterator[Case]:
    """Return encoders and fine-tuning steps whose time the sum of operations must meet."""
    for dtype in backend.matrix_dtypes():
        for shape in ENCODERS + (() if quick else MORE_ENCODERS):
            yield encoder_case(EncoderShape(*shape, dtype), backend)
    for shape in FINE_TUNING[: 1 if quick else 2]:
        yield fine_tuning_case(EncoderShape(*shape, "fp32"), backend)
