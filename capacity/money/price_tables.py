"""The price tables of the folders `prices`: device-hours, and devices to buy."""

from __future__ import annotations

from capacity.money import tables
from capacity.spec.prices import DevicePrice, PurchasePrice

FOLDER = "prices"
PURCHASES = "purchase"
"""A table whose file name starts so holds prices of devices to buy; every other one prices of device-hours."""


def device_prices() -> tuple[DevicePrice, ...]:
    """Return the rows of every table of device-hours, by the rules of `tables.rows`.

    Raises
    ------
    InputError
        With every problem of every table as ``file:line:column: what``, where column counts fields from 1.
    """
    return tables.rows(FOLDER, DevicePrice, lambda name: not _to_buy(name))


def purchase_prices() -> tuple[PurchasePrice, ...]:
    """Return the rows of every table of devices to buy: the `purchase*.csv` of the folders, by the same rules.

    Raises
    ------
    InputError
        As of `device_prices`.
    """
    return tables.rows(FOLDER, PurchasePrice, _to_buy)


def _to_buy(name: str) -> bool:
    return name.startswith(PURCHASES)
