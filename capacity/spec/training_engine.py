"""What a training framework adds to its kernels: fitted on whole published training runs, shared by all GPUs."""

from __future__ import annotations

from typing import Literal

from capacity.spec.quantity import CountAmount, Duration, Factor, Id, LogSigma, Number, Spec


class TrainingEngine(Spec):
    """What one framework's steps cost beside the sum of their kernels.

    step = products · Σ products + attention · Σ attention + elementwise · Σ element-wise traffic + exchange · Σ tensor
    exchanges, for each micro-batch; then the pipeline's bubble, the data-parallel exchange that nothing hides, and the
    optimizer.
    """

    engine: Id
    """Family, see `names.engine`; "other" and "other-unfused" hold where nobody measured."""
    also: tuple[Id, ...] = ()
    """Other families of the same code."""
    scores: Literal["unfused", "flash2", "newest"]
    """Attention kernels: scores written to memory; FlashAttention 2 and its like; those made for the generation."""
    products: Factor = 1
    """Time of its matrix products beside those measured alone [1]."""
    attention: Factor = 1
    """Time of its fused attention beside the kernels measured alone, the backward pass at 2.5 times the FLOP [1]."""
    elementwise: Factor = 1
    """Traffic of its element-wise kernels beside one kernel an operation without dropout [1]: less where fused."""
    exchange: Factor = 1
    """Part of the tensor-parallel exchanges that shows [1]: less than 1 where they overlap with products."""
    launch: Duration = 6e-6
    """Host time of one kernel launch [s]; assumed."""
    yearly: Number = 0
    """Part by which a release is faster for each year after `release` [1]."""
    release: Number | None = None
    """Year of the releases that the numbers hold for."""
    binned: Factor = 1
    """Part of a 512-token pretraining sequence that is computed: batches of like length are padded less [1]."""
    log_sigma: LogSigma
    """Standard deviation of ln(measured/predicted), the framework left out where it is "other"."""
    rows: CountAmount
    """Measured runs behind the fit."""
    note: str = ""


class TrainingSteps(Spec):
    """What holds for training steps on every device."""

    dtypes: dict[str, Factor]
    """Time of products by what they multiply in, beside those measured alone [1]."""
    flash2: dict[str, Factor]
    """Time of FlashAttention 2 by generation of the device, beside its newest kernels [1]."""
    engines: tuple[TrainingEngine, ...]
    source: str

    def engine(self, family: str, *, causal: bool) -> TrainingEngine:
        """Return what is known of a framework, or of those that nobody measured: decoders come with fused attention."""
        found = next((item for item in self.engines if family in {item.engine, *item.also}), None)
        unknown = "other" if causal else "other-unfused"
        return found or next(item for item in self.engines if item.engine == unknown)


class TrainingRound(Spec):
    """What stands between the steps of a benchmark's submissions and their time to train.

    (factor · alone + step) · exp(−yearly · years since `release`), `alone` being the kernels and exchanges of a step.
    """

    benchmark: Id
    """As MLPerf names it, with underscores."""
    factor: Factor
    """Time beside the kernels and exchanges of a step [1]: evaluation, imbalance, and what the step model misses."""
    step: Duration = 0
    """Time of each step that neither a smaller batch nor a faster chip shortens [s]."""
    yearly: Number = 0
    """Part by which submissions are faster for each year after `release` [1]."""
    log_sigma: LogSigma
    """Standard deviation of ln(measured/predicted) with the row's chip left out of the fit."""
    rows: CountAmount
    """Measured submissions behind the fit."""


class TrainingRounds(Spec):
    """What submissions to MLPerf Training take beside their steps: fitted, shared by all devices."""

    release: Number
    """Year that the numbers hold for."""
    benchmarks: tuple[TrainingRound, ...]
    source: str

    def benchmark(self, name: str) -> TrainingRound:
        """Return what is known of one benchmark; names are checked before."""
        return next(item for item in self.benchmarks if item.benchmark == name)
