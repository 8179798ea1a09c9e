"""What an engine's own kernels cost in whole models: numbers that all GPUs share, because nobody times its kernels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from capacity.spec.quantity import CountAmount, Duration, Factor, Id, LogSigma, Spec

Precision = Annotated[str, Field(pattern=r"^[a-z0-9]+(/[a-z0-9]+)?$", max_length=40)]
"""A dtype, or a dtype on one chip generation: "int8/hopper"."""


class Sustained(Spec):
    """How much of its tensor rate a device keeps once its power limit binds.

    clock share = (1 + u⁻⁴)^(-1/4), u = (power / (joule · (node/5 nm)^node_exponent · rate))^clock_exponent.
    """

    joule: dict[Precision, Factor]
    """Energy of one FLOP at full clock on a 5 nm chip [J]."""
    node_exponent: Factor
    """Energy grows with this power of the process node [1]."""
    clock_exponent: Factor
    """Clock falls with this power of the missing watts; less than 1, because voltage falls with it [1]."""


class Maturity(Spec):
    """How much slower an engine is when it is as old as the chip generation, and how soon that passes.

    factor = 1 + excess · 2^(−age/half_life_years), age from the generation's first products to the engine's release.
    """

    excess: Factor
    half_life_years: Factor


class ServerLimit(Spec):
    """What one benchmark loses between MLPerf's Offline and Server scenarios, see timing/server_rule.py."""

    level: Annotated[Factor, Field(le=1)]
    """Share left where neither the queue nor the host binds [1]: batches are not sorted by length, steps kept short."""
    limit: Duration | None = None
    """On the 99th percentile of the latency [s]; absent with `batch` where results do not show a queue."""
    batch: Annotated[float, Field(ge=0, le=1e6)] = 0
    """Queries that wait for each other: the unit in which devices serve [1]."""
    feed: Duration = 0
    """Time in which the host hands a query to one device [s]."""
    cards_feed: Duration = 0
    """Time in which the host hands a sample to any of its cards, where devices share its PCIe lanes [s]."""
    log_sigma: LogSigma
    """Standard deviation of ln(measured/predicted), chips left out."""


class Submissions(Spec):
    """How the runs that vendors tune by hand for MLPerf compare with an engine's plain steps."""

    excess: Factor
    """Instead of the `Maturity`'s own."""
    tuned: dict[Precision, Factor]
    """Time of the sustained run beside a short one, by dtype [1]."""
    server: dict[Id, ServerLimit]
    """Benchmark → what a limit on the 99th percentile leaves of its throughput."""
    slowdown: dict[Id, Factor] = Field(default_factory=dict)
    """Benchmark → time of the tuned run beside the model's step [1]; 1 where absent."""
    offline_log_sigma: dict[Id, LogSigma] = Field(default_factory=dict)
    """Benchmark → standard deviation of ln(measured/predicted) of its throughput, chips left out of `slowdown`."""
    single_stream_tokens: Factor
    """Tokens of the query whose latency is the 90th percentile."""
    single_stream_log_sigma: LogSigma
    """Added to the band of such a latency."""


Scenario = Literal["Offline", "Server", "SingleStream"]


class SubmissionAnchor(Spec):
    """What a device's own results in one benchmark and scenario of MLPerf Inference say about its other results."""

    benchmark: Annotated[str, Field(max_length=80)]
    """With its accuracy target, e.g. llama2-70b-99.9; gptj-static-99 for gptj in round 3.1."""
    scenario: Scenario
    round: Annotated[str, Field(pattern=r"^v[0-9]+(\.[0-9]+)?$", max_length=20)] | None = None
    """Newest round among the results; absent where none says its round."""
    factor: Factor
    """Measured time beside what is predicted without it [1]."""
    log_sigma: LogSigma
    """Standard deviation of ln(measured/predicted) of another result."""
    later: Factor = 1
    """Time of the next round's result beside this one's [1]: what software gains."""
    later_log_sigma: LogSigma = 0
    """Added in later rounds: how much that differs between chips."""
    rows: CountAmount
    """Results behind it."""


class EngineSteps(Spec):
    """Kernels of one engine, fitted on whole encoder passes of many GPUs at once."""

    engine: Id
    devices: tuple[Id, ...]
    """GPUs whose whole passes were fitted."""
    generations: tuple[str, ...]
    """Chip generations among them."""
    flop_efficiency: dict[Precision, Factor]
    """Share of the sustained rate that products reach, of the dtypes the engine has."""
    sustained: Sustained
    gemm: dict[str, Factor]
    """Other values of the form `gemm`."""
    attention: dict[str, Factor]
    """Values of the fused attention (timing/engine_kernels.py)."""
    launch: Duration
    """Fixed time of one kernel at the clock of an A100 [s]."""
    launch_exponent: Factor
    """It shortens with this power of the clock [1]."""
    stream_share: Factor
    """Share of the memory bandwidth that norms and embeddings reach [1]."""
    maturity: Maturity
    submissions: Submissions
    log_sigma: LogSigma
    """Standard deviation of ln(measured/predicted) of steps on one device, around that device's own level."""
    device_log_sigma: LogSigma
    """Standard deviation of that level between devices, from leaving devices out."""
    generation_log_sigma: LogSigma
    """Added on a chip generation that no fitted GPU is of, from leaving generations out."""
    common: Annotated[Factor, Field(le=1)]
    """Correlation of that level between dtypes of one device [1]."""
    median_error: Factor
    """Median |predicted/measured − 1| on devices left out of the fit."""
    rows: CountAmount
    note: str = ""
