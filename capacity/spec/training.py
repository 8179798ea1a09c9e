"""A recurring training run: what it learns from, which weights it changes, and how devices share the work."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from capacity.spec.hardware import Dtype
from capacity.spec.quantity import BytesPerSecond, Count, Factor, Id, Name, Number, PerSecond, Seconds, Spec
from capacity.spec.stages import TextLength

Software = Literal["other", "composer", "nemo", "megatron-lm", "pytorch", "deepspeed", "tensorflow", "paddle"]


class Parallelism(Spec):
    """How devices share a training step of a transformer; what is left of them after all degrees is data-parallel."""

    tensor: Count = 1
    """Devices that split each product (Megatron)."""
    pipeline: Count = 1
    """Groups of devices with successive blocks."""
    virtual: Count = 1
    """Chunks of blocks of each group (interleaved 1F1B)."""
    context: Count = 1
    """Devices that split each sequence."""
    expert: Count = 1
    """Data-parallel devices that share out the experts."""
    sequence: bool = False
    """Whether tensor parallelism splits along the sequence what it cannot split otherwise."""
    sharding: Literal["none", "optimizer", "gradients", "full", "hybrid"] = "none"
    """What data-parallel devices keep once: nothing; ZeRO-1; ZeRO-2; ZeRO-3 (FSDP); ZeRO-3 within a host."""


class Method(Spec):
    """Which weights are trained."""

    kind: Literal["full", "lora", "qlora", "adapter", "prefix"] = "full"
    rank: Count = 16
    """Columns of each low-rank update, width of an adapter, positions of a prefix."""
    targets: tuple[Literal["attention", "feed-forward"], ...] = ("attention", "feed-forward")
    """Products of a block that get a low-rank update."""


class Federation(Spec):
    """Rounds in which clients train and send their updates to be averaged (McMahan et al. 2017, arXiv:1602.05629)."""

    rounds: Count
    clients: Count
    """Clients that take part in a round."""
    uplink: BytesPerSecond
    """Bandwidth of a client's way to the server [byte/s]; what comes down is as large and as slow."""


class TrainingJob(Spec):
    """A training run that recurs."""

    name: Name
    model: str
    samples: Literal["catalogue", "new-items", "users"] | Count
    """Examples a run sees in one epoch."""
    converge: Id | None = None
    """Published reference of samples to converge by global batch (convergence/); it replaces samples × epochs."""
    tokens: TextLength = "item"
    """Length of an example; history events for sequence models; ignored by factorization and ID rankers."""
    epochs: Factor = 1
    batch: Count = 32
    """Examples per device and step."""
    accumulation: Count = 1
    """Micro-batches that a device's batch is cut into."""
    dtype: Dtype = "bf16"
    optimizer: Literal["adamw", "adamw-8bit", "adafactor", "momentum", "sgd"] = "adamw"
    every: Seconds
    """Time between two runs."""
    deadline: Seconds | None = None
    """Longest a run may take; by default `every`."""
    max_devices: Count = 8
    """Most devices."""
    runs: Factor = 1
    """Runs per occasion: hyper-parameter search and repeats."""
    evaluation: Number = 0
    """Examples evaluated for each one trained on: a forward pass each [1]."""
    method: Method = Method()
    teacher: str | None = None
    """Model that labels each example with a forward pass (distillation)."""
    parallel: Literal["auto"] | Parallelism = "auto"
    """auto: the least that fits: nothing shared, then sharded states, then recomputation, then split products."""
    recompute: Literal["auto", "none", "selective", "operations", "full"] = "auto"
    """Activations computed again: none; attention scores; every second product; whole blocks."""
    software: Software = "other"
    """Framework whose measured overhead applies; other: the mean of those with fused attention."""
    offload: Literal["none", "optimizer"] = "none"
    """Whether the optimizer and its states stay in the host's memory (ZeRO-Offload)."""
    loader_rate: PerSecond | None = None
    """Examples per second that a host's loading and tokenization feed one device; a bound where given [1/s]."""
    checkpoint: Seconds = 60.0
    """Time to write a checkpoint, which stops the run (assumed: 60 s)."""
    private: Factor = 1
    """Time of a step with per-example gradients and noise beside one without (DP-SGD); your measurement [1]."""
    federated: Federation | None = None

    @model_validator(mode="after")
    def _divisible(self) -> TrainingJob:
        if self.batch % self.accumulation:
            raise ValueError(f"accumulation {self.accumulation} does not divide a batch of {self.batch}")
        shared = self.parallel
        needed = 1 if shared == "auto" else shared.tensor * shared.pipeline * shared.context
        if needed > self.max_devices:
            raise ValueError(f"tensor × pipeline × context = {needed} devices, and max_devices is {self.max_devices}")
        return self
