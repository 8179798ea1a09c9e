"""Capacity planning for LLM recommenders: from measured kernels to dollars, with error bars.

>>> import capacity
>>> scenario = capacity.scenario("cross-encoder-rerank", settings=["traffic.peak_rate=75/s"])
>>> plan = capacity.plan_scenario(scenario, hardware=["t4", "a100-sxm-80gb"])
>>> plan.best.hardware
'a100-sxm-80gb'

The names below are loaded when they are first used: `import capacity` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "scenario": "capacity.catalogue",
    "hardware": "capacity.catalogue",
    "model": "capacity.catalogue",
    "calibrations": "capacity.catalogue",
    "inputs": "capacity.planner",
    "plan_scenario": "capacity.planner",
    "Plan": "capacity.plan",
    "Option": "capacity.plan",
    "Scenario": "capacity.spec.scenario",
    "Hardware": "capacity.spec.hardware",
    "Calibration": "capacity.spec.calibration",
    "Estimate": "capacity.timing.band",
    "CapacityError": "capacity.errors",
    "InputError": "capacity.errors",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:  # noqa: ANN401  (whatever the name stands for)
    """Return a public name, its module imported on the way (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'capacity' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
