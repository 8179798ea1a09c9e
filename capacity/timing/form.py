"""What a form is: named positive parameters with their priors, and seconds from an operation, a board and values.

A form knows how a family of kernels spends its time (tiles, waves, rooflines); its parameters say how well one family
does so on one device. Forms are pure and vectorized: an operation's fields are arrays, one entry a launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from capacity.errors import CapacityError
from capacity.spec.hardware import Hardware

Array: TypeAlias = NDArray[np.float64]
Values: TypeAlias = Mapping[str, float]


class MissingFactError(CapacityError):
    """The profile lacks a fact that the estimate needs; says which."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A positive number of a form, fitted on the log scale.

    Attributes
    ----------
    start
        Typical value: the prior's median, and where a fit starts [unit in the name].
    spread
        Prior standard deviation of its logarithm from device to device [1].
    low, high
        Bounds.
    shared
        Belongs to the kernel family, not to the device: devices of one family are fitted with one value.
    """

    name: str
    start: float
    low: float
    high: float
    spread: float = 0.5
    shared: bool = False

    def started_at(self, value: float, closeness: float = 1.0) -> Parameter:
        """Return the parameter with another median, inside its bounds, and its spread times `closeness`."""
        return replace(self, start=min(max(value, self.low), self.high), spread=self.spread * closeness)


@dataclass(frozen=True, slots=True)
class Board:
    """The datasheet facts of a device that forms lean on, each refused by name where the profile does not state it."""

    hardware: Hardware

    def rate(self, dtype: str) -> float:
        """Return the dense rate of `dtype` [FLOP/s]."""
        rate = self.hardware.rate(dtype)
        if rate is None:
            known = ", ".join(self.hardware.dense_rates) or "none (the profile states no dense rate)"
            raise MissingFactError(f"{self.hardware.id} has no dense {dtype} rate; its profile knows {known}")
        return rate

    @property
    def bandwidth(self) -> float:
        """Main memory bandwidth [byte/s]."""
        return self._fact("memory_bandwidth")

    @property
    def cores(self) -> float:
        """SMs, compute units or CPU cores."""
        return self._fact("cores")

    @property
    def cache_bytes(self) -> float:
        """Last-level cache [byte]."""
        return self._fact("last_level_cache")

    @property
    def clock_hz(self) -> float:
        """Clock the dense rates are quoted at [Hz]."""
        return self._fact("clock")

    @property
    def linked(self) -> bool:
        """Whether a fabric of their own (NVLink, Infinity Fabric, ICI, …) joins devices, not the PCIe of the host."""
        link = self.hardware.link
        return link is not None and not link.value.kind.startswith("PCIe")

    @property
    def link_bytes_per_s(self) -> float:
        """Bandwidth to other devices, per device and direction [byte/s]: the link, or the path through the host."""
        link = self.hardware.link
        return float(link.value.bandwidth) if link is not None else self._fact("host_bandwidth")

    def _fact(self, name: str) -> float:
        fact = getattr(self.hardware, name)
        if fact is None:
            raise MissingFactError(f"{self.hardware.id} has no {name} in its profile")
        return float(fact.value)


@dataclass(frozen=True, slots=True)
class Form:
    """A family of kernels' way to spend time.

    `seconds(operation, board, values)` returns the time of one launch [s], in the shape of the operation's fields.
    """

    name: str
    parameters: tuple[Parameter, ...]
    seconds: Callable[[Any, Board, Values], Array]

    @property
    def typical(self) -> dict[str, float]:
        """Every parameter at its prior's median."""
        return {parameter.name: parameter.start for parameter in self.parameters}
