"""Every kind of measurement table that predictions can be held against."""

from __future__ import annotations

from capacity.validate import fp32, launches, recommenders, serving, steps, training, training_rounds
from capacity.validate.kind import Kind

KINDS: dict[str, Kind] = {
    **launches.KINDS,
    **fp32.KINDS,
    **steps.KINDS,
    **serving.KINDS,
    **recommenders.KINDS,
    **training.KINDS,
    **training_rounds.KINDS,
}
