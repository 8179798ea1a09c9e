"""A measured piece of work: what kernels hand over and fits read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from capacity.work.operations import Operation


@dataclass(frozen=True, slots=True)
class Measurement:
    """One timed case: its operations and the median seconds of one run of them all."""

    name: str
    operations: tuple[Operation, ...]
    seconds: float
    mode: Literal["inference", "training"] | None = None
    """Set for whole models, which judge sums and take no part in the fit of single operations."""
