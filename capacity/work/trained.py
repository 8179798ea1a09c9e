"""A transformer as a training step sees it: the micro-batch, how devices share it, and which weights are trained.

References
----------
Shoeybi et al. 2019, arXiv:1909.08053 (tensor parallelism); Korthikanti et al. 2022, arXiv:2205.05198 (sequence
parallelism, recomputation); Narayanan et al. 2021, arXiv:2104.04473 (interleaved pipelines); Rajbhandari et al. 2020,
arXiv:1910.02054 (ZeRO); Hu et al. 2021, arXiv:2106.09685 (LoRA); Dettmers et al. 2023, arXiv:2305.14314 (QLoRA).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from capacity.work.architecture import Transformer
from capacity.work.transformer import Fusion

Sharding = Literal["none", "optimizer", "gradients", "full", "hybrid"]
Recompute = Literal["none", "selective", "operations", "full"]
"""What of a block's forward pass is computed again: nothing, attention from its scores on, all but its attention and
every other product, or all."""
MethodKind = Literal["full", "lora", "qlora", "adapter", "prefix"]
ACTIVATION_BYTES = 2
"""Hidden states and their gradients travel in 16 bits, however narrow the products are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """How devices share a training step.

    Attributes
    ----------
    data, tensor, pipeline, context, expert
        Devices that take samples of their own; that split each product; groups of successive blocks; devices that split
        each sequence; devices, among those of `data`, that share out the experts.
    virtual
        Chunks of blocks that each group of a pipeline holds (interleaved 1F1B).
    sequence
        Whether what no product splits is split along the sequence over the devices of `tensor`.
    sharding
        What the devices of `data` keep once instead of each: nothing, the optimizer's states (ZeRO-1), gradients too
        (ZeRO-2, SHARD_GRAD_OP), weights too (ZeRO-3, FULL_SHARD), or all of it within a host (hybrid).
    host_devices
        Devices of a host: those that a hybrid sharding spans.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    virtual: int = 1
    sequence: bool = False
    sharding: Sharding = "none"
    host_devices: int = 8

    @property
    def devices(self) -> int:
        """Devices of the whole job."""
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def shards(self) -> int:
        """Devices over which whatever is sharded lies."""
        return min(self.data, self.host_devices) if self.sharding == "hybrid" else self.data * self.context

    def divided(self, what: Literal["optimizer", "gradients", "weights"]) -> int:
        """Return over how many data-parallel devices a kind of state lies."""
        kept_once = {"none": (), "optimizer": ("optimizer",), "gradients": ("optimizer", "gradients")}
        return self.shards if what in kept_once.get(self.sharding, ("optimizer", "gradients", "weights")) else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """Which weights are trained: all, or small ones beside the frozen model.

    Attributes
    ----------
    rank
        Columns of each low-rank update, width of an adapter, or positions of a prefix.
    targets
        Products of a block that get a low-rank update.
    """

    kind: MethodKind = "full"
    rank: int = 16
    targets: tuple[str, ...] = ("qkv", "query", "key", "value", "attention output", "up", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A transformer as one step trains it.

    Attributes
    ----------
    batch, tokens
        Sequences of a micro-batch of one data-parallel group, and their length.
    dtype
        What the products multiply in.
    stored
        What frozen weights are stored in, where it is narrower (QLoRA: int4).
    fusion
        "eager": each element-wise operation is a kernel; "fused": as compiled or hand-fused engines launch them.
    fused_attention
        Whether scores stay on the chip (FlashAttention), or are written, normed and read again.
    predicted
        Positions of a sequence whose vocabulary is projected; None for all.
    packed
        Mean tokens of the examples that a sequence packs, each of which attends to itself alone; None for one example.
    """

    model: Transformer
    batch: float
    tokens: int
    dtype: str = "bf16"
    stored: str | None = None
    parallel: Parallel = field(default_factory=Parallel)
    method: Method = field(default_factory=Method)
    recompute: Recompute = "none"
    fusion: Fusion = "fused"
    fused_attention: bool = True
    predicted: int | None = None
    packed: int | None = None

    @property
    def local_tokens(self) -> float:
        """Tokens of a micro-batch that one device computes."""
        return self.batch * self.tokens / self.parallel.context

    @property
    def span(self) -> int:
        """Positions that attend to each other."""
        return self.packed or self.tokens

    @property
    def layers(self) -> float:
        """Blocks of one device, all its chunks together."""
        return self.model.layers / self.parallel.pipeline

    @property
    def float_dtype(self) -> str:
        """Dtype of element-wise work: 16 bits where products are narrower, fp32 in tf32."""
        return {"tf32": "fp32", "fp32": "fp32", "fp16": "fp16"}.get(self.dtype, "bf16")
