"""What a framework adds to the operations of a recommender: fitted on published runs, shared by all devices."""

from __future__ import annotations

from capacity.spec.quantity import BytesPerSecond, CountAmount, Duration, LogSigma, Spec


class RecommenderFramework(Spec):
    """Seconds of a call, and of the bytes that its samples bring, beside the operations."""

    framework: str
    """As tables of measurements name it."""
    phase: str
    """train, infer or evaluate."""
    call: Duration
    """Time of one call beside its operations [s]."""
    samples: BytesPerSecond | None = None
    """Rate at which the bytes of samples pass [byte/s]; absent where the fit saw no cost of them."""
    log_sigma: LogSigma
    """Scatter of the runs with their device left out of the fit, or of all frameworks' where there is one device."""
    rows: CountAmount
    """Measured runs behind the fit."""
