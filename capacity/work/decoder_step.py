"""What one step of a generating engine executes on one device: its products, its attention, its exchanges.

A step passes the new tokens of all its sequences through the model at once. All that only counts tokens is `linear`;
attention is apart, because sequences that decode and prompts that are read need other kernels and see other contexts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from capacity.spec.hardware import DTYPE_BYTES, Hardware
from capacity.spec.names import Engine, Precision
from capacity.work.architecture import Layer, Transformer
from capacity.work.expert_layer import ExpertLayer
from capacity.work.operations import Amount, Attention, Collective, Gemm, Operation, Streaming

HALF: Precision = Precision("bf16", "bf16", "bf16")
ROUTED_SKEW = 0.6
"""Exponent of the power law of the experts' popularity under real text (assumed; 0 is balanced)."""
ACTIVATION_BYTES = 2
"""Hidden states and what devices exchange stay in 16 bits, however narrow the products are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How many devices share a model, and what of it each holds.

    Attributes
    ----------
    tensor
        Devices that split each product (Megatron-style), the experts' aside.
    pipeline
        Groups of layers that follow each other.
    attention_data
        Groups that each attend to their own sequences; only the experts are shared between them.
    expert_tensor, expert
        Devices that split each expert, and that split the experts among them.
    """

    tensor: int = 1
    pipeline: int = 1
    attention_data: int = 1
    expert_tensor: int = 1
    expert: int = 1

    @property
    def devices(self) -> int:
        """Devices of one replica."""
        return self.tensor * self.pipeline * self.attention_data

    @property
    def group(self) -> int:
        """Devices that work on one layer."""
        return self.tensor * self.attention_data


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model as an engine serves it."""

    model: Transformer
    engine: Engine = field(default_factory=lambda: Engine("vllm"))
    layout: Layout = field(default_factory=Layout)
    products: Precision = HALF
    expert_products: Precision = HALF
    kv_dtype: str = "bf16"

    @property
    def quantized(self) -> bool:
        """Whether products run in 8 bits or less, or on weights stored so."""
        return DTYPE_BYTES[self.products.weight] < ACTIVATION_BYTES

    @property
    def layers(self) -> float:
        """Layers that one device passes a token through."""
        return self.model.layers / self.layout.pipeline

    @property
    def weight_bytes(self) -> float:
        """Weights on the fullest device [byte]; embeddings and what is no product stay in 16 bits."""
        model, layout = self.model, self.layout
        layer, experts = model.layer, max(model.layer.experts, 1)
        routed = model.layers * experts * layer.expert_parameters
        shared = model.layers * layer.parameters - routed
        outside = model.parameters - routed - shared
        split = layout.expert_tensor * layout.expert if layer.experts else layout.tensor
        stored = self.expert_products if layer.experts else self.products
        return (
            routed * DTYPE_BYTES[stored.weight] / split / layout.pipeline
            + shared * DTYPE_BYTES[self.products.weight] / layout.tensor / layout.pipeline
            + outside * ACTIVATION_BYTES / layout.tensor
        )

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of one token on one device, all layers full [byte]."""
        width = self.model.layer.kv_width / min(self.layout.tensor, self.model.layer.kv_heads)
        return 2 * self.layers * width * DTYPE_BYTES[self.kv_dtype]


Work = tuple[Operation | ExpertLayer, ...]


def as_run(precision: Precision, hardware: Hardware) -> Precision:
    """Return the precision that a device really multiplies in: without units for a narrow dtype, 16 bits.

    What is stored narrow is then unpacked on the way, as Marlin's kernels do.
    """
    if hardware.rate(precision.compute) is not None:
        return precision
    return replace(precision, compute=HALF.compute, activation=HALF.compute)


def usual_kv_dtype(products: Precision, *, experts: bool) -> str:
    """Return the storage of keys and values where nobody states it (assumed).

    Dense checkpoints in 8 bits or less come with scales for 8-bit keys and values; mixtures of experts that their
    makers release in fp8 do not.
    """
    if DTYPE_BYTES[products.weight] < ACTIVATION_BYTES and not experts:
        return "fp8"
    return products.compute if products.compute in {"fp16", "bf16"} else HALF.compute


def linear(served: Served, tokens: Amount) -> Work:
    """Return all layers' work that only counts tokens: norms, products, experts and exchanges.

    Parameters
    ----------
    tokens
        New tokens of the whole replica [1].
    """
    layer, layout, count = served.model.layer, served.layout, served.layers
    mine = np.ceil(tokens / layout.attention_data)
    work: list[Operation | ExpertLayer] = [
        _norm(mine, layer, count),
        _product(served, mine, (layer.query_width + 2 * layer.kv_width) / layout.tensor, layer.hidden, "qkv"),
        _stream(mine * (layer.query_width + layer.kv_width) / layout.tensor, count, "rotary and cache"),
        _product(served, mine, layer.hidden, layer.query_width / layout.tensor, "attention output"),
        *_exchange(served, mine, layout.tensor),
        *_width_norm(served, mine),
        _norm(mine, layer, count),
        *(_experts(served, tokens) if layer.experts else _feed_forward(served, mine, layer.intermediate)),
    ]
    if layer.experts and layer.shared_intermediate:
        work += _feed_forward(served, mine, layer.shared_intermediate)
    work += _combined(served, tokens) if layer.experts else _exchange(served, mine, layout.tensor)
    return (*work, *_handed_on(served, mine))


def attention(served: Served, phase: str, batch: Amount, query: Amount, keys: Amount) -> tuple[Attention, ...]:
    """Return the attention of `batch` sequences of `query` new tokens each over `keys` positions, in all layers.

    Parameters
    ----------
    phase
        "decode" or "prefill".
    batch
        Sequences of the whole replica; groups of `attention_data` share them.
    """
    layer, layout = served.model.layer, served.layout
    split = layout.tensor
    full = served.model.full_layers if layer.window is not None else served.model.layers
    found = []
    for window, layers in ((None, full), (layer.window, served.model.layers - full)):
        if layers:
            seen = keys if window is None else np.minimum(keys, window + np.asarray(query) - 1)
            found.append(
                Attention(
                    batch=np.ceil(batch / layout.attention_data), heads=layer.heads / split,
                    kv_heads=max(layer.kv_heads / split, 1), query=query, keys=seen, head_dim=layer.head_dim,
                    dtype="bf16", kv_dtype=served.kv_dtype, causal=True, phase=phase,  # type: ignore[arg-type]
                    window=None if phase == "decode" else window, count=layers / layout.pipeline,
                )
            )  # fmt: skip
    return tuple(found)


def _product(served: Served, m: Amount, n: float, k: float, label: str) -> Gemm:
    precision = served.products
    return Gemm(m=m, n=n, k=k, dtype=precision.compute, weight_dtype=precision.weight, count=served.layers, label=label)


def _stream(elements: Amount, count: float, label: str, reads: float = 1) -> Streaming:
    return Streaming(kind="add", elements=elements, dtype="bf16", reads=reads, count=count, label=label)


def _norm(tokens: Amount, layer: Layer, count: float) -> Streaming:
    """Return a norm that adds the residual and quantizes on the way."""
    elements = tokens * layer.hidden
    return Streaming(kind="norm", elements=elements, dtype="bf16", reads=2, writes=2, count=count, label="norm")


def _feed_forward(served: Served, tokens: Amount, intermediate: float) -> list[Operation | ExpertLayer]:
    layer, inner = served.model.layer, intermediate / served.layout.tensor
    return [
        _product(served, tokens, (2 if layer.gated else 1) * inner, layer.hidden, "up"),
        _stream(tokens * inner, served.layers, "activation", reads=2),
        _product(served, tokens, layer.hidden, inner, "down"),
    ]


def _experts(served: Served, tokens: Amount) -> list[Operation | ExpertLayer]:
    layer, layout, precision = served.model.layer, served.layout, served.expert_products
    return [
        Gemm(m=tokens, n=layer.experts, k=layer.hidden, dtype="bf16", count=served.layers, label="router"),
        ExpertLayer(
            tokens=tokens, hidden=layer.hidden, intermediate=layer.intermediate, experts=layer.experts,
            per_token=layer.experts_per_token, dtype=precision.compute, weight_dtype=precision.weight,
            tensor_parallel=layout.expert_tensor, expert_parallel=layout.expert, gated=layer.gated,
            skew=ROUTED_SKEW, count=served.layers,
        ),
    ]  # fmt: skip


def _exchange(served: Served, tokens: Amount, devices: int) -> list[Operation | ExpertLayer]:
    """Return the all-reduce of hidden states after each half of a layer (Shoeybi et al. 2019, §3)."""
    if devices == 1:
        return []
    message = tokens * served.model.layer.hidden * ACTIVATION_BYTES
    return [Collective(kind="all_reduce", message_bytes=message, devices=devices, count=served.layers)]


def _width_norm(served: Served, tokens: Amount) -> list[Operation | ExpertLayer]:
    """Norms over all heads at once: devices that hold some of them add up their squares, for queries and for keys."""
    if served.model.layer.query_key_norm != "width" or served.layout.tensor == 1:
        return []
    count = 2 * served.layers
    return [Collective(kind="all_reduce", message_bytes=tokens * 4, devices=served.layout.tensor, count=count)]


def _combined(served: Served, tokens: Amount) -> list[Operation | ExpertLayer]:
    """Return what joins the experts' results: an all-reduce, or gathering all groups' tokens and scattering back."""
    layout = served.layout
    if layout.attention_data == 1:
        return _exchange(served, tokens, layout.tensor)
    message = tokens * served.model.layer.hidden * ACTIVATION_BYTES
    return [
        Collective(kind="all_gather", message_bytes=message, devices=layout.group, count=served.layers),
        Collective(kind="reduce_scatter", message_bytes=message, devices=layout.group, count=served.layers),
    ]


def _handed_on(served: Served, tokens: Amount) -> Work:
    """Hidden states sent to the next group of layers."""
    if served.layout.pipeline == 1:
        return ()
    message = tokens * served.model.layer.hidden * ACTIVATION_BYTES
    return (Collective(kind="send", message_bytes=message, devices=2),)


def vocabulary(served: Served, sequences: Amount) -> Work:
    """Return the projection of the last position of each sequence, shared by the devices of a layer."""
    model, tensor = served.model, served.layout.tensor
    rows = np.maximum(np.ceil(sequences / served.layout.attention_data), 1)
    product = Gemm(m=rows, n=model.vocabulary / tensor, k=model.layer.hidden, dtype="bf16", label="vocabulary")
    if tensor == 1:
        return (product,)
    message = rows * model.vocabulary * ACTIVATION_BYTES
    return product, Collective(kind="all_gather", message_bytes=message, devices=tensor)
