"""The optimizer's step: passes over parameters, gradients and states; bandwidth, hardly any FLOP."""

from __future__ import annotations

from typing import Literal

from capacity.work.operations import Amount, Operation, Streaming

Optimizer = Literal["adamw", "adamw-8bit", "adafactor", "sgd", "momentum"]
_READS_WRITES: dict[str, tuple[float, float]] = {
    "adamw": (4, 3), "adamw-8bit": (2.5, 1.5), "adafactor": (2, 1), "sgd": (2, 1), "momentum": (3, 2),
}  # fmt: skip
STATE_VALUES: dict[str, float] = {"adamw": 2, "adamw-8bit": 0.5, "adafactor": 0, "sgd": 0, "momentum": 1}
"""fp32 values kept for each parameter between steps; eight-bit states are a quarter of one each, Adafactor's means of
rows and columns are next to nothing."""


def optimizer_step(parameters: Amount, optimizer: Optimizer) -> tuple[Operation, ...]:
    """Return the update of all parameters, states in fp32.

    AdamW reads parameter, gradient and two moments and writes three of them back: 7 passes of 4 bytes.

    Examples
    --------
    >>> optimizer_step(1000, "adamw")[0].moved_bytes
    28000
    """
    reads, writes = _READS_WRITES[optimizer]
    return (
        Streaming(
            kind="optimizer", elements=parameters, dtype="fp32", reads=reads, writes=writes,
            flop_per_element=10, label=optimizer,
        ),
    )  # fmt: skip
