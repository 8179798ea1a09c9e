"""Lines of a bill before they are summed: quantity and price, each with draws of what they might be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from capacity.plan import CostLine
from capacity.spec.prices import Quote
from capacity.timing.band import Z90, Basis, weakest

HOURS = 730.0
"""Hours of a month: 8760 / 12."""
MONTH_S = HOURS * 3600
DRAWS = 2000
Z10 = 1.2816
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A line before it is summed: quantity and price, each with draws of what they might be."""

    group: str
    name: str
    quantity: float
    quantity_draws: Array
    unit: str
    price: float | None
    price_draws: Array
    basis: Basis
    formula: str
    source: str
    flags: tuple[str, ...] = ()

    @property
    def draws(self) -> Array:
        """Draws of the amount [USD]."""
        return self.quantity_draws * self.price_draws

    def line(self) -> CostLine:
        """Return the line with its amount and its P10 and P90."""
        usd = None if self.price is None else self.quantity * self.price
        p10, p90 = (None, None) if usd is None else (float(q) for q in np.quantile(self.draws, [0.1, 0.9]))
        return CostLine(
            group=self.group, name=self.name, quantity=self.quantity, unit=self.unit, unit_price_usd=self.price,
            usd=usd, p10_usd=p10, p90_usd=p90, basis=self.basis, formula=self.formula, source=self.source,
            flags=self.flags,
        )  # fmt: skip


class Draws:
    """Common random numbers of one bill: a standard normal for step time, one more for each price, by name."""

    def __init__(self) -> None:
        self.time = np.random.default_rng(20261122).standard_normal(DRAWS)
        self._made: dict[str, Array] = {}

    def price(self, name: str, low: float, value: float, high: float) -> Array:
        """Return draws of a price whose median is `value` and whose P5 and P95 are about `low` and `high`."""
        if name not in self._made:
            self._made[name] = np.random.default_rng(list(name.encode())).standard_normal(DRAWS)
        z = self._made[name]
        if value <= 0:
            return np.full(DRAWS, value)
        down = float(np.log(value / max(low, value * 1e-3))) / Z90
        up = float(np.log(max(high, value) / value)) / Z90
        return value * np.exp(np.where(z < 0, down, up) * z)


def amount(group: str, name: str, quantity: float, unit: str, basis: Basis, formula: str) -> Item:
    """Return a line that knows its quantity but no price yet: visible, never 0."""
    return Item(
        group=group, name=name, quantity=quantity, quantity_draws=np.full(DRAWS, quantity), unit=unit, price=None,
        price_draws=np.zeros(DRAWS), basis=basis, formula=formula, source="no rate in the rate table",
        flags=("no price",),
    )  # fmt: skip


def quoted(item: Item, quote: Quote[float] | None, draws: Draws) -> Item:
    """Return the line at a quoted rate; without one it stays as it is."""
    if quote is None:
        return item
    low, high = quote.value if quote.low is None else quote.low, quote.value if quote.high is None else quote.high
    return replace(
        item, price=quote.value, price_draws=draws.price(item.name, low, quote.value, high), flags=(),
        source=f"{quote.source} ({quote.date})", basis=weakest([item.basis, "datasheet"]),
    )  # fmt: skip


def given(item: Item, usd: float) -> Item:
    """Return the line at a price that the scenario states."""
    return replace(item, price=usd, price_draws=np.full(DRAWS, usd), flags=(), source="scenario")
