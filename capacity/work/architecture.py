"""A transformer's dimensions, and how many parameters they make. Counts equal those of the real modules, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Head = Literal["none", "pooler", "classification", "language-model"]
QueryKeyNorm = Literal["none", "head", "width", "weightless"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One transformer block: attention, then a dense or a mixture-of-experts feed-forward part."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    gated: bool
    """SwiGLU-like: gate and up projections, their product, then down."""
    activation: str
    norm: Literal["layer", "rms"]
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    fused_qkv: bool = False
    """One projection for query, key and value (GPT-2) instead of three."""
    query_key_norm: QueryKeyNorm = "none"
    """Queries and keys are normed head by head (Qwen3), over their width (MiniMax-M2) or without weights (Llama 4)."""
    rotary: bool = False
    causal: bool = False
    window: int | None = None
    """Positions a query sees, itself included; None for all. `Transformer.full_layers` says which blocks ignore it."""
    sinks: bool = False
    """A learned score for each head that stands beside those of the keys (gpt-oss)."""
    experts: int = 0
    experts_per_token: int = 0
    router_bias: bool = False
    shared_intermediate: int = 0
    """Width of a feed-forward part that every token passes beside its experts."""

    @property
    def query_width(self) -> int:
        """Columns of the query projection."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Columns of the key projection, and of the value projection."""
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Parameters of one block, norms included."""
        h, q, kv = self.hidden, self.query_width, self.kv_width
        attention = h * (q + 2 * kv) + self.attention_bias * (q + 2 * kv) + q * h + self.output_bias * h
        attention += {"head": 2 * self.head_dim, "width": q + kv}.get(self.query_key_norm, 0) + self.heads * self.sinks
        norms = 2 * h * (2 if self.norm == "layer" else 1)
        router = (h + self.router_bias) * self.experts
        shared = self._feed_forward_parameters(self.shared_intermediate) if self.shared_intermediate else 0
        return attention + norms + router + shared + max(self.experts, 1) * self.expert_parameters

    @property
    def expert_parameters(self) -> int:
        """Parameters of one feed-forward part (of one expert)."""
        return self._feed_forward_parameters(self.intermediate)

    def _feed_forward_parameters(self, width: int) -> int:
        inner = (2 if self.gated else 1) * width
        return self.hidden * (inner + width) + self.mlp_bias * (inner + self.hidden)

    @property
    def active_parameters(self) -> int:
        """Parameters one token passes through in a block."""
        return self.parameters - (max(self.experts, 1) - max(self.experts_per_token, 1)) * self.expert_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """A whole model: embeddings, blocks that are equal but for a window on their attention, and a head."""

    name: str
    layer: Layer
    layers: int
    full_layers: int = 0
    """Blocks whose attention ignores `layer.window`."""
    vocabulary: int
    positions: int
    """Rows of a learned position table; 0 with rotary positions."""
    token_types: int = 0
    embedding_norm: bool = False
    final_norm: bool = False
    tied: bool = True
    head: Head = "none"
    labels: int = 1

    @property
    def embedding_parameters(self) -> int:
        """Token, position and type tables, with their norm."""
        h = self.layer.hidden
        return (self.vocabulary + self.positions + self.token_types) * h + self.embedding_norm * 2 * h

    @property
    def head_parameters(self) -> int:
        """Parameters on top of the body."""
        h = self.layer.hidden
        if self.head == "language-model":
            return 0 if self.tied else self.vocabulary * h
        if self.head == "classification" and self.layer.causal:
            return h * self.labels
        pooler = h * h + h if self.head in {"pooler", "classification"} else 0
        return pooler + (h * self.labels + self.labels) * (self.head == "classification")

    @property
    def parameters(self) -> int:
        """All parameters; a head tied to the token table counts once."""
        norm = self.final_norm * self.layer.hidden * (2 if self.layer.norm == "layer" else 1)
        return self.embedding_parameters + self.layers * self.layer.parameters + norm + self.head_parameters

    @property
    def active_parameters(self) -> int:
        """Parameters one token passes through (all of them in a dense model)."""
        return self.parameters - self.layers * (self.layer.parameters - self.layer.active_parameters)
