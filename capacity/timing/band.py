"""A number that knows how sure it is: value, errors by source, basis.

Errors of one source (one device's matrix efficiency, say) push every term of a sum the same way, so they add linearly;
errors of different sources are independent and add in quadrature. A model's step is then neither as unsure as its worst
kernel nor falsely sure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from capacity.work.operations import Amount

Basis = Literal["measured", "calibrated", "projected", "datasheet", "assumed"]
BASES: tuple[Basis, ...] = ("measured", "calibrated", "projected", "datasheet", "assumed")
"""From best known to least."""
MATTERS = 0.05
"""Share of a sum from which a term's basis counts for the whole."""
Z90 = 1.6449
"""Half-width of a central 90 % band in standard deviations."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A positive quantity in SI units with log-normal errors by source.

    Attributes
    ----------
    value
        Median [unit of the caller]; a number or an array.
    errors
        Source → standard deviation of the natural logarithm [1].
    basis
        Where the number comes from, the weakest link named.
    """

    value: Amount
    errors: Mapping[str, Amount] = field(default_factory=dict)
    basis: Basis = "assumed"

    @property
    def log_sigma(self) -> Amount:
        """Standard deviation of the logarithm, all sources together [1]."""
        return np.sqrt(sum((np.square(sigma) for sigma in self.errors.values()), start=np.float64(0.0)))

    @property
    def low(self) -> Amount:
        """Lower end of the 90 % band."""
        return self.value * np.exp(-Z90 * self.log_sigma)

    @property
    def high(self) -> Amount:
        """Upper end of the 90 % band."""
        return self.value * np.exp(Z90 * self.log_sigma)

    def scaled(self, factor: Amount) -> Estimate:
        """Return the estimate times an exact factor."""
        return Estimate(self.value * factor, self.errors, self.basis)

    def widened(self, source: str, log_sigma: Amount, basis: Basis | None = None) -> Estimate:
        """Return the estimate with one more independent error, and a weaker basis if given."""
        errors = dict(self.errors)
        errors[source] = np.hypot(errors.get(source, 0.0), log_sigma)
        return Estimate(self.value, errors, weakest([self.basis, basis or self.basis]))


def total(estimates: Iterable[Estimate]) -> Estimate:
    """Return the sum of estimates: same source linearly, different sources in quadrature.

    Its basis is the weakest among the terms that matter: those that make at least `MATTERS` of the sum.

    Examples
    --------
    >>> a = Estimate(1.0, {"device": 0.1}, "measured")
    >>> b = Estimate(3.0, {"device": 0.1, "model": 0.2}, "projected")
    >>> c = total([a, b])
    >>> float(c.value), round(float(c.errors["device"]), 3), round(float(c.errors["model"]), 3), c.basis
    (4.0, 0.1, 0.15, 'projected')
    """
    terms = list(estimates)
    if not terms:
        return Estimate(0.0, {}, "measured")
    value = sum((term.value for term in terms), start=np.float64(0.0))
    safe = np.maximum(value, 1e-300)
    errors: dict[str, Amount] = {}
    for term in terms:
        for source, sigma in term.errors.items():
            errors[source] = errors.get(source, 0.0) + term.value / safe * sigma
    shares = [(float(np.mean(term.value / safe)), term.basis) for term in terms]
    return Estimate(value, errors, weakest(basis for share, basis in shares if share >= min(MATTERS, max(shares)[0])))


def product(left: Estimate, right: Estimate) -> Estimate:
    """Return the product: errors of one source add linearly, of different ones in quadrature."""
    errors = dict(left.errors)
    for source, sigma in right.errors.items():
        errors[source] = errors.get(source, 0.0) + sigma
    return Estimate(left.value * right.value, errors, weakest([left.basis, right.basis]))


def weakest(bases: Iterable[Basis]) -> Basis:
    """Return the basis that says least.

    Examples
    --------
    >>> weakest(["measured", "projected", "calibrated"])
    'projected'
    """
    return max(bases, key=BASES.index)
