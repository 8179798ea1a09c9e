"""The suite of an engine that runs whole graphs: its single operations as tiny graphs, and whole encoders.

A graph holds several independent copies of its operation, so that what a call of the engine costs in itself is spread
over them, as it is over the layers of a model; products have weights of their own that outlive no cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from capacity.spec.engine import Engine as EngineName
from capacity.work.operations import Attention, Gather, Gemm, Streaming, StreamKind
from kernels.encoders import TOKENS_IN_TABLE, EncoderShape, built
from kernels.products import ROTATING_BYTES
from kernels.timing import Case, Clock, Run
from kernels.torch_backend import Backend, torch

MOST_FLOP = 2e9
"""Copies of a product stop here: a graph must not take longer than a block of the timing."""
COPIES = 4
FLOP_PER_ELEMENT = {"norm": 5, "residual_norm": 6, "activation": 8}
"""As `capacity.work.transformer` counts them: where an engine's norm is bound by arithmetic, the count matters."""
HOST = Backend("cpu", 1)


class Engine(Protocol):
    """Runs torch modules as graphs of its own."""

    @property
    def name(self) -> EngineName:
        """The engine's name in calibrations and scenarios."""

    @property
    def device(self) -> str:
        """Where it runs."""

    @property
    def threads(self) -> int:
        """Threads of one call."""

    def clock(self) -> Clock:
        """Return the clock that sees a call's end."""

    def reference(self) -> Run:
        """Return the probe kernel."""

    def matrix_dtypes(self) -> tuple[str, ...]:
        """Return the dtypes that it has products of on this machine."""

    def prepared(self, module: Any, inputs: Sequence[Any], dtype: str) -> Run:  # noqa: ANN401
        """Return what runs a torch module once on `inputs`."""


def graph(forward: Callable[..., object], **weights: Any) -> Any:  # noqa: ANN401
    """Return a torch module whose forward pass is `forward`, its weights constants of the graph."""

    class Graph(torch().nn.Module):  # type: ignore[misc]
        def forward(self, *inputs: Any) -> object:  # noqa: ANN401
            return forward(*inputs, **dict(self.named_buffers(recurse=False)))

    module = Graph()
    for name, weight in weights.items():
        module.register_buffer(name, weight)
    return module.eval()


def gemm_case(m: int, n: int, k: int, dtype: str, engine: Engine) -> Case:
    """Return the case of linear layers [m×k]·[k×n] + bias on the same rows, each with its own weights."""
    operation = Gemm(m=m, n=n, k=k, dtype=dtype)
    copies = max(1, min(16, math.ceil(ROTATING_BYTES / (n * k * 4)), int(MOST_FLOP / (2 * m * n * k))))

    def build() -> Run:
        module = torch()
        layers = module.nn.ModuleList([module.nn.Linear(k, n) for _ in range(copies)])
        layers.forward = lambda rows: tuple(layer(rows) for layer in layers)
        return engine.prepared(layers.eval(), [HOST.random(1, m, k)], dtype)

    return Case(f"gemm {m}x{n}x{k} {dtype}", (operation,), build, calls=copies)


def attention_case(operation: Attention, engine: Engine) -> Case:
    """Return the case of attention between the projections: heads split, attended, merged."""
    op = operation
    batch, tokens, heads, head_dim = (int(value) for value in (op.batch, op.query, op.heads, op.head_dim))

    def build() -> Run:
        attend = torch().nn.functional.scaled_dot_product_attention
        seen = torch().ones(batch, 1, tokens, tokens, dtype=torch().bool).tril()  # as the library hands it over
        mask = {"mask": seen} if op.causal else {}

        def forward(query: Any, keys: Any, values: Any, mask: Any = None) -> object:  # noqa: ANN401
            split = [part.view(batch, tokens, heads, head_dim).transpose(1, 2) for part in (query, keys, values)]
            merged = attend(*split, attn_mask=mask).transpose(1, 2)
            return merged.reshape(batch, tokens, heads * head_dim)

        inputs = [HOST.random(batch, tokens, heads * head_dim) for _ in range(3)]
        return engine.prepared(graph(forward, **mask), inputs, op.dtype)

    shape = f"{op.batch}x{op.heads}x{op.query}x{op.keys}x{op.head_dim}"
    return Case(f"{op.operation} {shape} {op.dtype}", (operation,), build)


def streaming_case(kind: StreamKind, rows: int, width: int, dtype: str, engine: Engine) -> Case:
    """Return the case of element-wise work on rows × width values."""
    reads = 2 if kind in {"add", "residual_norm"} else 1
    flop = FLOP_PER_ELEMENT.get(kind, 1)
    operation = Streaming(kind=kind, elements=rows * width, dtype=dtype, reads=reads, flop_per_element=flop)

    def build() -> Run:
        functional = torch().nn.functional
        weight = HOST.random(width)
        kernels: dict[str, Callable[[Any, Any], object]] = {
            "norm": lambda values, _: functional.layer_norm(values, (width,), weight, weight),
            "residual_norm": lambda values, other: functional.layer_norm(values + other, (width,), weight, weight),
            "activation": lambda values, _: functional.gelu(values),
            "add": lambda values, other: values + other,
            "softmax": lambda values, _: functional.softmax(values, dim=-1),
            "copy": lambda values, _: values.view(rows, width // 32, 32).transpose(0, 1).contiguous(),
        }

        def forward(*inputs: Any) -> object:  # noqa: ANN401
            other = inputs[-1] if reads == 2 else None
            return tuple(kernels[kind](values, other) for values in inputs[:COPIES])

        inputs = [HOST.random(1, rows, width) for _ in range(COPIES + reads - 1)]
        return engine.prepared(graph(forward), inputs, dtype)

    return Case(f"streaming.{kind} {rows}x{width} {dtype}", (operation,), build, calls=COPIES)


def gather_case(rows: int, width: int, table_rows: int, engine: Engine) -> Case:
    """Return the case of an embedding look-up at uniformly random rows."""
    operation = Gather(rows=rows, width=width, dtype="fp32")

    def build() -> Run:
        table = torch().nn.Embedding(table_rows, width).eval()
        return engine.prepared(table, [torch().randint(0, table_rows, (rows,))], "fp32")

    return Case(f"gather {rows}x{width} of {table_rows}", (operation,), build)


def encoder_module(shape: EncoderShape) -> Any:  # noqa: ANN401
    """Return the library's own module of a shape with one result; a decoder's mask is given, as exports give it."""
    model = built(shape.config(), HOST, "fp32")
    decoder = shape.model_type in {"gpt2", "llama", "qwen3"}
    given = {"mask": torch().ones(shape.batch, shape.tokens, dtype=torch().long)} if decoder else {}

    def forward(ids: Any, mask: Any = None) -> object:  # noqa: ANN401
        more = {"attention_mask": mask, "use_cache": False} if decoder else {}
        output = model(input_ids=ids, **more)
        results = (output.get(name) for name in ("logits", "pooler_output", "last_hidden_state"))
        return next(result for result in results if result is not None)

    whole = graph(forward, **given)
    whole.model = model  # registered: the tracer finds its weights
    return whole


def encoder_case(shape: EncoderShape, engine: Engine) -> Case:
    """Return the case that times one forward pass of `shape` as a graph of the engine."""

    def build() -> Run:
        ids = torch().randint(5, TOKENS_IN_TABLE, (shape.batch, shape.tokens))
        return engine.prepared(encoder_module(shape), [ids], shape.dtype)

    return Case(shape.name, shape.operations(engine.name), build, "inference")
