"""What a calibration runs: the designed grid of single operations, and whole models that check their sum.

The shapes are chosen to identify the parameters of the form in `capacity.timing.roofline`: launches too small to do
anything else (t0), products with few rows (bandwidth), with many (rate), and rows in between (the corner). The models
are those of the shipped scenarios, at sizes that fit in a small machine. A GPU has a grid of its own: products that
`kernels.design` has chosen for the form of `capacity.timing.gemm`, replayed as graphs on cold operands, and after all
single operations products that run long enough for the clock to settle.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from capacity.work.operations import Attention, Distance, Gemm, Recurrent, StreamKind, TopK
from kernels.design import PRODUCTS
from kernels.encoders import EncoderShape, encoder_case, fine_tuning_case
from kernels.gpu import Card, Replay, replayed
from kernels.products import attention_case, gather_case, gemm_case, optimizer_case, refused, streaming_case
from kernels.recommenders import HistoryShape, TowersShape, bert4rec_case, two_tower_case
from kernels.scoring import dot_case, embedding_bag_case, l2_case, lstm_case, solve_case, topk_case
from kernels.timing import Case, Run
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
WHOLE_PASSES = (  # batch, heads, key-value heads, tokens, head_dim
    (1, 12, 12, 128, 64), (8, 12, 12, 128, 64), (64, 12, 12, 64, 64), (32, 12, 12, 256, 64), (8, 16, 16, 512, 64),
    (2, 16, 16, 1024, 64), (16, 8, 8, 384, 128), (1, 32, 8, 2048, 128), (4, 32, 8, 1024, 128), (1, 32, 8, 8192, 128),
)  # fmt: skip
STEPS = (  # sequences, heads, key-value heads, cached positions, head_dim
    (1, 32, 8, 1024, 128), (8, 32, 8, 2048, 128), (32, 32, 8, 4096, 128), (16, 16, 16, 512, 64), (128, 32, 8, 512, 128),
    (1, 32, 8, 32_768, 128), (64, 12, 12, 256, 64), (4, 32, 32, 2048, 128),
)  # fmt: skip
WIDE_STREAMS = ((64, 1024), (1024, 1024), (4096, 4096), (16_384, 4096))
BAGS = ((16, 1, 128), (4096, 1, 768), (1024, 20, 128), (8192, 32, 64), (65_536, 1, 256))  # bags, pooled rows, width
LONGEST_S = 0.02
"""Products that would compute for longer than this are left out of the grid [s]."""
SUSTAINED_S, SUSTAINED_LAUNCHES = 0.01, 30
"""One launch of a sustained product computes for at least this long [s]; a burst of them for a third of a second."""
FINE_TUNING = (("bert", 2, 768, 12, 3072, 4, 128), ("bert", 4, 384, 12, 1536, 8, 64))
TOWERS = (  # users, items, width of a row, layers, pairs of a step
    (200_000, 50_000, 64, (128, 64), 1024), (200_000, 50_000, 128, (512, 256, 128), 4096),
)  # fmt: skip
HISTORIES = ((3416, 64, 2, 2, 32, 100, 20), (20_000, 128, 2, 4, 16, 50, 10))
"""Items, width, layers, heads, histories of a step, their length, masked positions; the first is the paper's model."""


def cases(backend: Backend, *, quick: bool) -> Iterator[Case]:
    """Return every case of a run, in the order of worth: what is measured first is what a cut-short run keeps."""
    if backend.device == "cuda":
        yield from gpu_cases(backend, Card.local(), quick=quick)
        return
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
    """Return encoders, fine-tuning and recommenders' training steps whose time the sum of operations must meet."""
    for dtype in backend.matrix_dtypes():
        for shape in ENCODERS + (() if quick else MORE_ENCODERS):
            yield encoder_case(EncoderShape(*shape, dtype), backend)
    for shape in FINE_TUNING[: 1 if quick else 2]:
        yield fine_tuning_case(EncoderShape(*shape, "fp32"), backend)
    for towers, histories in zip(TOWERS[: 1 if quick else 2], HISTORIES, strict=False):
        yield two_tower_case(TowersShape(*towers), backend)
        yield bert4rec_case(HistoryShape(*histories), backend)


# --- on a GPU -------------------------------------------------------------------------------------------------------


def gpu_cases(backend: Backend, card: Card, *, quick: bool) -> Iterator[Case]:
    """Return every case of a run on a GPU; dtypes that torch refuses there are left out (`refusals` names them)."""
    left_out = refusals(backend)
    halves = [dtype for dtype in ("bf16", "fp16") if dtype not in left_out]
    narrow = [dtype for dtype in ("fp8", "int8") if dtype not in left_out]
    main = halves[:1]
    for dtype in (*main, *narrow, "fp32"):
        yield from _products(dtype, backend, card, quick=quick)
    for dtype in main:
        yield from _gpu_attention(dtype, backend, card)
        for kind in STREAMS:
            for rows, width in WIDE_STREAMS:
                yield replayed(streaming_case(kind, rows, width, dtype, backend), card)
    for bags, pooled, width in BAGS:
        yield replayed(gather_case(bags, pooled, width, 4 * card.cache_bytes, backend), card, sets=1)
    if not quick:
        for dtype in halves[1:]:
            yield from _products(dtype, backend, card, quick=True)
    for dtype in main if quick else (*main, *narrow, "fp32"):
        yield sustained_case(dtype, backend, card)
    yield from (case for case in whole_models(backend, quick=quick) if case.operations[0].dtype not in left_out)
    yield from _gpu_recommender(backend, card, quick=quick)


def refusals(backend: Backend) -> dict[str, str]:
    """Return the dtypes whose products torch refuses on this GPU, with the reason."""
    if backend.device != "cuda":
        return {}
    found = {dtype: refused(dtype, backend) for dtype in ("bf16", "fp16", "fp8", "int8")}
    return {dtype: reason for dtype, reason in found.items() if reason}


def _products(dtype: str, backend: Backend, card: Card, *, quick: bool) -> Iterator[Case]:
    for m, n, k in PRODUCTS[: len(PRODUCTS) // 2] if quick else PRODUCTS:
        if dtype == "int8" and m <= 16:
            continue  # torch._int_mm wants more rows than that
        case = gemm_case(m, n, k, dtype, backend)
        if card.seconds(case.operations[0]) <= LONGEST_S:
            yield replayed(case, card)


def _gpu_attention(dtype: str, backend: Backend, card: Card) -> Iterator[Case]:
    """Return whole passes on what was just written, and steps whose keys other layers have washed from the cache."""
    for batch, heads, kv_heads, tokens, head_dim in WHOLE_PASSES:
        for causal in (False, True):
            whole = Attention(
                batch=batch, heads=heads, kv_heads=kv_heads, query=tokens, keys=tokens, head_dim=head_dim, dtype=dtype,
                causal=causal, phase="prefill" if causal else "encoder",
            )  # fmt: skip
            yield replayed(attention_case(whole, backend), card, sets=1)
    for batch, heads, kv_heads, keys, head_dim in STEPS:
        step = Attention(
            batch=batch, heads=heads, kv_heads=kv_heads, query=1, keys=keys, head_dim=head_dim, dtype=dtype,
            causal=False, phase="decode",
        )  # fmt: skip
        yield replayed(attention_case(step, backend), card)


def _gpu_recommender(backend: Backend, card: Card, *, quick: bool) -> Iterator[Case]:
    """Return scores, top-k and LSTM as graphs; solves and optimizers look at results on the host and stay as they are.

    Attention and look-ups have grids of their own.
    """
    for case in recommender_cases(backend, quick=quick):
        operation = case.operations[0]
        if operation.operation.startswith(("attention", "gather")):
            continue
        cold = isinstance(operation, Gemm | Distance | TopK)
        yield replayed(case, card, None if cold else 1) if cold or isinstance(operation, Recurrent) else case


def sustained_case(dtype: str, backend: Backend, card: Card) -> Case:
    """Return bursts of a square product whose every launch computes for `SUSTAINED_S` or longer.

    The power limit lowers the clock within milliseconds: only such a run tells by how much (`derating` of the form).
    """
    rate = card.rates_flop_per_s.get(dtype, 8e12)
    edge = min(24, max(4, math.ceil((SUSTAINED_S * rate / 2) ** (1 / 3) / 1024))) * 1024
    single = gemm_case(edge, edge, edge, dtype, backend)

    def build() -> Run:
        return Replay([single.build(), single.build()], SUSTAINED_LAUNCHES)

    return dataclasses.replace(
        single, name=f"sustained {single.name}", build=build, calls=SUSTAINED_LAUNCHES, alone=True
    )
