"""What a kind of measurement table is: its columns, and how its rows are predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capacity import catalogue
from capacity.spec import names
from capacity.spec.calibration import Calibration, Shared
from capacity.spec.engine import Engine
from capacity.spec.hardware import Hardware
from capacity.timing import transfer
from capacity.timing.band import Basis, Estimate
from capacity.timing.device import Device

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What predictions depend on besides their row."""

    calibrations: Sequence[tuple[Calibration, Hardware]]
    shared: Shared
    _devices: dict[tuple[str, str], Device] = field(default_factory=dict, compare=False)

    def device(self, name: str, fusion: Engine) -> Device:
        """Return the device that a table's hardware name means, with the efficiencies known for it.

        Raises
        ------
        UnknownNameError
            For hardware without a profile.
        """
        if (name, fusion) not in self._devices:
            brought = {profile.id: profile for _, profile in self.calibrations}
            profile = brought.get(name) or catalogue.hardware(names.hardware_id(name))
            self._devices[name, fusion] = transfer.device(profile, fusion, self.calibrations, self.shared)
        return self._devices[name, fusion]


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions of some rows: medians, ends of the 90 % band, and one basis for all rows or one for each."""

    value: Array
    low: Array
    high: Array
    basis: Basis | NDArray[np.object_]
    blank: str = ""
    """Why a row may have no value."""

    @classmethod
    def of(cls, estimate: Estimate, blank: str = "") -> Predicted:
        """Return the predictions of an estimate with one value a row."""
        value, low, high = (np.asarray(part, dtype=float) for part in (estimate.value, estimate.low, estimate.high))
        return cls(value, low, high, estimate.basis, blank)

    @classmethod
    def each(cls, estimates: Sequence[Estimate], chosen: NDArray[np.intp]) -> Predicted:
        """Return the predictions of rows of which row i has the estimate number `chosen[i]`."""
        ends = np.array([(item.value, item.low, item.high) for item in estimates], dtype=float)[chosen]
        bases = np.array([item.basis for item in estimates], dtype=object)[chosen]
        return cls(ends[:, 0], ends[:, 1], ends[:, 2], bases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of measurement table."""

    group_by: tuple[str, ...]
    """Input columns that are names or fix an architecture; rows that agree in them are predicted together."""
    sizes: tuple[str, ...]
    """Numeric input columns; all must be positive."""
    whole: tuple[str, ...] = ()
    """Columns of `group_by` that count something: positive whole numbers."""
    optional_names: tuple[str, ...] = ()
    """Text columns that may be absent or blank; rows must agree in them too."""
    optional: tuple[str, ...] = ()
    """Numeric input columns that may be absent or blank; positive where given."""
    targets: tuple[str, ...]
    measured: Callable[[pd.DataFrame, str], Array]
    predict: Callable[[Mapping[str, Any], pd.DataFrame, Context], Mapping[str, Predicted]]
    """Values of `group_by` and the group's rows → a prediction for each target, one value a row."""
    impossible: Callable[[pd.DataFrame], dict[str, pd.Series[bool]]] = lambda _: {}
    """Reasons, and the rows whose sizes contradict each other in that way."""
    amounts: tuple[str, ...] = ()
    """Numeric input columns that may be zero; none may be negative."""
    alone: bool = False
    """Whether rows are predicted one by one, so that one can be refused without the others."""
    runs: bool = False
    """Whether rows are requests of runs, which are also judged by their means and quantiles."""
    twins: tuple[str, ...] = ()
    """Numeric columns that say a target in another way; never an input."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns a table must have."""
        return self.group_by + self.sizes + self.amounts
