"""A fused expert layer as one operation: who gets how many rows when tokens prefer some experts, and what that moves.

The slowest device of an expert-parallel group sets the time, so work and bytes are those of the most loaded device.
Loads are expectations under the power law that AIConfigurator's collector draws from: an expert's popularity has the
density x^−α between `least` and `most`, scaled so that all experts together get tokens · per_token rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from capacity.spec.hardware import DTYPE_BYTES
from capacity.work.operations import Amount

Flag: TypeAlias = bool | NDArray[np.bool_]
CLASSES = 16
"""Classes of equally many experts, from the least to the most popular, that stand for the spread of loads."""
BUSY_RANGE, IDLE_RANGE = (1.0, 0.8), (0.01, 2.0)
"""Range of popularity: 1 to 0.8 · tokens when rows outnumber experts, else 0.01 to 2.

ai-dynamo/aiconfigurator, collector/helper.py, `_generate_power_law_distribution`.
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What the most loaded device of an expert-parallel group gets, in expectation.

    Attributes
    ----------
    rows
        Token-expert pairs it computes [1].
    tokens
        Distinct tokens among them [1].
    hit
        Distinct experts with a row: their weights are read [1].
    count, each
        Experts with a row in each class of popularity and rows of each such expert [1]; the classes are the last axis.
    """

    rows: NDArray[np.float64]
    tokens: NDArray[np.float64]
    hit: NDArray[np.float64]
    count: NDArray[np.float64]
    each: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLayer:
    """Routing and the grouped products of all experts for `tokens` tokens before expert parallelism, in one launch.

    `tensor_parallel` splits `intermediate`, `expert_parallel` splits `experts`. `skew` is the exponent of the power
    law of popularity, 0 for a balanced load. `gated` says that there are two up projections. `arriving` says that a
    device sees only the tokens that chose one of its experts (an all-to-all before it), else it sees all of them.
    `warm` says that the last launch used the same weights, as benchmarks do, so that a cache may still hold them.

    Examples
    --------
    >>> layer = ExpertLayer(tokens=4, hidden=8, intermediate=6, experts=4, per_token=2, dtype="bf16")
    >>> float(layer.flop), float(layer.moved_bytes)  # 8 rows · 3·2·8·6; 4·3·8·6·2 of weights + 2·8·4·2 in and out
    (2304.0, 1280.0)
    """

    operation: ClassVar[str] = "experts"
    tokens: Amount
    hidden: Amount
    intermediate: Amount
    experts: Amount
    per_token: Amount
    dtype: str
    tensor_parallel: Amount = 1
    expert_parallel: Amount = 1
    skew: Amount = 0.0
    gated: Flag = True
    arriving: Flag = False
    warm: bool = False
    weight_dtype: str | None = None
    count: Amount = 1
    label: str = "experts"

    @property
    def projections(self) -> Amount:
        """Products of hidden × intermediate a row passes: up, down and, if gated, the gate's."""
        return np.where(self.gated, 3.0, 2.0)

    @property
    def width(self) -> Amount:
        """Intermediate size that one device holds."""
        return self.intermediate / self.tensor_parallel

    @property
    def load(self) -> Load:
        """What the most loaded device gets."""
        return expected_load(self.tokens, self.experts, self.per_token, self.expert_parallel, self.skew)

    @property
    def counter_flop(self) -> Amount:
        """FLOP of the mean device, however rows spread: 2·rows·projections·hidden·width."""
        rows = self.tokens * self.per_token / self.expert_parallel
        return 2 * rows * self.projections * self.hidden * self.width

    @property
    def flop(self) -> Amount:
        """FLOP of the most loaded device."""
        return 2 * self.load.rows * self.projections * self.hidden * self.width

    @property
    def weight_bytes(self) -> Amount:
        """Weights of one expert on one device [byte]."""
        return self.projections * self.hidden * self.width * DTYPE_BYTES[self.weight_dtype or self.dtype]

    @property
    def moved_bytes(self) -> Amount:
        """On the most loaded device: weights of the experts hit, its tokens read and its results written [byte]."""
        load, width = self.load, DTYPE_BYTES[self.dtype]
        return load.hit * self.weight_bytes + load.tokens * self.hidden * (width + max(width, 2))


def expected_load(tokens: Amount, experts: Amount, per_token: Amount, expert_parallel: Amount, skew: Amount) -> Load:
    """Return the expected load of the most loaded of `expert_parallel` devices, each with its share of the experts.

    The load of a device is a sum over its experts. Its expected maximum over the group is the Cornish-Fisher quantile
    at Blom's (g − 3/8)/(g + 1/4) for g devices, with the popularity's variance and skewness and the correction for
    drawing experts without replacement. Classes are the quantiles of popularity around that load, the closer to each
    other the fewer experts share it; no expert gets more rows than there are tokens, and an expert expecting less than
    one row has it with that probability. Rows and experts hit lie within 7 % of the mean of
    random draws in four cases of five, 22 % in nineteen of twenty, 46 % in the worst (a handful of tokens).

    Parameters
    ----------
    tokens, experts, per_token, expert_parallel, skew
        As in `ExpertLayer` [1]; broadcast against each other.

    References
    ----------
    Blom, Statistical Estimates and Transformed Beta-Variables (1958); Cornish & Fisher, Rev. Inst. Int. Stat. 5 (1938).
    """
    tokens, experts, per_token, group, skew = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.float64) for value in (tokens, experts, per_token, expert_parallel, skew))
    )
    total, local = tokens * per_token, experts / group
    busy = total > experts
    most = np.where(busy, np.maximum(BUSY_RANGE[1] * tokens, 2.0), IDLE_RANGE[1])
    power = PowerLaw(np.where(busy, BUSY_RANGE[0], IDLE_RANGE[0]), most, skew)
    above = _most_loaded(power, local, group, experts)
    rows = np.clip(total / group * above, np.minimum(1.0, total), np.minimum(total, local * tokens))
    unequal = np.where(skew > 0, np.sqrt(np.maximum(1 - 1 / local, 0.0) / above), 0.0)
    levels = power.quantiles ** unequal[..., None]
    each = (rows / local)[..., None] * levels / levels.mean(axis=-1, keepdims=True)
    each = _at_most(each, tokens[..., None])
    count = (local / CLASSES)[..., None] * np.minimum(each, 1.0)
    hit = np.maximum(count.sum(axis=-1), 1.0)
    return Load(rows, np.minimum(rows, tokens), hit, count, np.maximum(each, 1.0))


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """The density x^−exponent between `least` and `most`."""

    least: NDArray[np.float64]
    most: NDArray[np.float64]
    exponent: NDArray[np.float64]

    def _integral(self, power: int) -> NDArray[np.float64]:
        """∫ x^(power − exponent) dx over the range; the exponent 1 + power is stepped around."""
        end = power + 1 - self.exponent
        end = np.where(np.abs(end) < 1e-6, 1e-6, end)
        return (self.most**end - self.least**end) / end

    @property
    def mean(self) -> NDArray[np.float64]:
        """Expected popularity."""
        return self._integral(1) / self._integral(0)

    @property
    def variation(self) -> NDArray[np.float64]:
        """Standard deviation over mean."""
        second = self._integral(2) / self._integral(0)
        return np.sqrt(np.maximum(second / self.mean**2 - 1, 1e-12))

    @property
    def skewness(self) -> NDArray[np.float64]:
        """Third standardized moment."""
        mean, variation = self.mean, self.variation
        third = self._integral(3) / self._integral(0) / mean**3
        return (third - 3 * variation**2 - 1) / variation**3

    @property
    def quantiles(self) -> NDArray[np.float64]:
        """Popularity in the middle of each class, on a new last axis."""
        share = (np.arange(CLASSES) + 0.5) / CLASSES
        end = 1 - self.exponent
        end = np.where(np.abs(end) < 1e-6, 1e-6, end)[..., None]
        low, high = self.least[..., None] ** end, self.most[..., None] ** end
        return (low + share * (high - low)) ** (1 / end)


def _most_loaded(
    power: PowerLaw, local: NDArray[np.float64], group: NDArray[np.float64], experts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the expected load of the most loaded device over the mean one's [1]."""
    sizes, where = np.unique(group, return_inverse=True)
    normal = NormalDist()
    score = np.array([normal.inv_cdf((size - 0.375) / (size + 0.25)) if size > 1 else 0.0 for size in sizes])
    z = score[where].reshape(group.shape)
    unreplaced = (experts - local) / np.maximum(experts - 1, 1)
    spread = power.variation * np.sqrt(unreplaced / local)
    above = 1 + spread * (z + (z**2 - 1) * power.skewness / np.sqrt(local) / 6)
    above = np.minimum(above, power.most / power.mean)
    uneven: NDArray[np.float64] = np.where((power.exponent > 0) & (group > 1), np.maximum(above, 1.0), 1.0)
    return uneven


def _at_most(each: NDArray[np.float64], most: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `each` cut at `most`, what is cut off spread over the last axis where there is room."""
    cut = np.minimum(each, most)
    excess, room = (each - cut).sum(axis=-1, keepdims=True), (most - cut).sum(axis=-1, keepdims=True)
    share = np.divide(excess, room, out=np.zeros_like(room), where=room > 0)
    filled: NDArray[np.float64] = cut + (most - cut) * np.minimum(share, 1.0)
    return filled
