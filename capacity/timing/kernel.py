"""A family of kernels on one device: what answers "how long does this launch take, and how sure is that?"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from capacity.timing.band import Basis, Estimate
from capacity.timing.features import features
from capacity.timing.form import Array, Board, Form
from capacity.timing.residual import Trees
from capacity.work.expert_layer import ExpertLayer
from capacity.work.operations import Amount, Operation

Key: TypeAlias = tuple[str, str, str, str]
"""Class of operations, kernel family, compute dtype, weight (or KV) dtype."""


def key_of(operation: Operation | ExpertLayer, family: str) -> Key:
    """Return the key of an operation's kernels in one family."""
    stored = getattr(operation, "kv_dtype", None) or getattr(operation, "weight_dtype", None)
    return operation.operation, family, operation.dtype, stored or operation.dtype


@dataclass(frozen=True, slots=True)
class Scatter:
    """Log standard deviation of a single launch by its predicted time: straight between knots in ln(seconds)."""

    log_times: Array
    log_sigma: Array

    @classmethod
    def constant(cls, log_sigma: float) -> Scatter:
        """Return the same scatter everywhere."""
        return cls(np.zeros(1), np.array([log_sigma]))

    def at(self, predicted_s: Amount) -> Amount:
        """Return the scatter at predicted times [s]; beyond the measured range that of its end."""
        return np.asarray(np.interp(np.log(predicted_s), self.log_times, self.log_sigma))


@dataclass(frozen=True, slots=True)
class Learned:
    """A learned residual by its key among those of a calibration, read from its file when asked for."""

    residuals: Mapping[str, Trees]
    key: str

    def read(self) -> Trees | None:
        """Return the trees, or None where the file beside the calibration is missing."""
        return self.residuals.get(self.key)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A form with the values, the learned residual and the scatter that hold for one device."""

    form: Form
    values: Mapping[str, float]
    scatter: Scatter
    basis: Basis
    label: str
    """Name of its own error source, e.g. "gemm library bf16 on l40s"."""
    learned: tuple[Learned, ...] = ()
    """Learned residuals: its own, or those of its siblings, whose corrections are averaged."""
    beyond_log_sigma: float = 0.0
    """Added scatter well beyond the sizes that were measured [1]; half of it a third of an e-fold outside."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Further errors by source: how far the values were carried."""

    def time(self, operation: Operation | ExpertLayer, board: Board) -> Estimate:
        """Return the time of one launch [s], shape of the operation's fields."""
        formed = np.asarray(self.form.seconds(operation, board, self.values), dtype=float)
        correction, outside = self._learned(operation, board, formed)
        value = formed * np.exp(correction)
        scatter = np.hypot(self.scatter.at(value), self.beyond_log_sigma * (1 - np.exp(-2 * outside)))
        return Estimate(value, {self.label: scatter, **self.errors}, self.basis)

    def seconds(self, operation: Operation | ExpertLayer, board: Board) -> Array:
        """Return the median time of one launch [s]."""
        formed = np.asarray(self.form.seconds(operation, board, self.values), dtype=float)
        return np.asarray(formed * np.exp(self._learned(operation, board, formed)[0]))

    def _learned(self, operation: Operation | ExpertLayer, board: Board, formed_s: Array) -> tuple[Array, Array]:
        """Return what learned residuals add to ln(seconds), and how far a launch lies outside what they saw."""
        known = [trees for trees in map(Learned.read, self.learned) if trees is not None]
        if not known:
            return np.zeros(formed_s.shape), np.zeros(formed_s.shape)
        _, columns = features(operation, board, formed_s)
        correction = np.mean([trees.predicted(columns) for trees in known], axis=0)
        outside = np.min([trees.beyond(columns) for trees in known], axis=0)
        return correction.reshape(formed_s.shape), outside.reshape(formed_s.shape)
