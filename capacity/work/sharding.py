"""How to shard each embedding table, by its size and by how much it is read, with the reason.

References
----------
Mudigere et al. 2022, arXiv:2104.05158, §4: small tables are copied, tables too large for a device go by rows, wide ones
that are read much by columns, the rest whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from capacity.spec.hardware import DTYPE_BYTES
from capacity.units import text
from capacity.work.placement import INDEX_BYTES, Exchange, Sharding, Table, column_shards, place, row_bytes

REPLICATED_SHARE = 0.05
"""Most of a device's room for tables that copies may take (assumed)."""


class Choice(NamedTuple):
    """How a table is sharded, and why."""

    table: str
    sharding: Sharding
    reason: str


def best_sharding(tables: Sequence[Table], exchange: Exchange, room_bytes: float = math.inf) -> tuple[Choice, ...]:
    """Return how to shard each table, by its size, with the reason.

    1. Tiny: replicated where a ring puts fewer bytes on a link to sum the table's gradients than to exchange indices,
       vectors and their gradients, smallest first, up to `REPLICATED_SHARE` of the room.
    2. Huge: row-wise where one device has no room for it.
    3. Heavy: a table that is read more than a mean device reads is cut into columns where it is wide enough; else it
       is row-wise where its device reads longer than the mean than the partial sums take to send.
    4. The rest: table-wise. If those do not fit beside each other, the largest turn row-wise, as few as it takes.

    This is the reasoning of Mudigere et al. 2022, §4, with bytes for its thresholds; it is no search over all ways.
    """
    if exchange.devices == 1:
        return tuple(Choice(table.name, "table-wise", "one device keeps all") for table in tables)
    chosen = _replicated(tables, exchange, room_bytes)
    room = room_bytes - sum(tables[index].kept_bytes for index in chosen)
    mean = sum(table.lookups * row_bytes(table.width, table.dtype) for table in tables) / exchange.devices
    chosen |= {i: _split(table, exchange, room, mean) for i, table in enumerate(tables) if i not in chosen}
    return _fitted(tables, [chosen[index] for index in range(len(tables))], exchange, room_bytes)


def _fitted(
    tables: Sequence[Table], choices: Sequence[Choice], exchange: Exchange, room_bytes: float
) -> tuple[Choice, ...]:
    """Return the choices with so many of the largest whole or cut tables turned row-wise that all find room.

    Where even all devices together have too little, every such table is turned: what lacks is then least.
    """
    movable = [index for index, choice in enumerate(choices) if choice.sharding in {"table-wise", "column-wise"}]
    movable.sort(key=lambda index: tables[index].kept_bytes, reverse=True)

    def turned(count: int) -> list[Choice]:
        found = list(choices)
        for index in movable[:count]:
            reason = f"{text(tables[index].kept_bytes, 'bytes')} find no room beside the other tables"
            found[index] = Choice(tables[index].name, "row-wise", reason)
        return found

    def fits(count: int) -> bool:
        ways = [choice.sharding for choice in turned(count)]
        return place(tables, ways, exchange, room_bytes).lacking_bytes(room_bytes) <= 0

    copies = {"replicated": exchange.devices}
    total = sum(one.kept_bytes * copies.get(way.sharding, 1) for one, way in zip(tables, choices, strict=True))
    counts = range(len(movable)) if total <= exchange.devices * room_bytes else range(0)
    return tuple(turned(next((count for count in counts if fits(count)), len(movable))))


def _replicated(tables: Sequence[Table], exchange: Exchange, room_bytes: float) -> dict[int, Choice]:
    """Return the tables whose copies cost less than their exchange and take little room."""
    chosen: dict[int, Choice] = {}
    left = REPLICATED_SHARE * room_bytes
    for index in sorted(range(len(tables)), key=lambda i: tables[i].kept_bytes):
        table = tables[index]
        copied, sent = _wire_bytes(table, exchange)
        if table.kept_bytes > left:
            break
        if copied < sent:
            left -= table.kept_bytes
            reason = f"{text(copied, 'bytes')} a step to sum its gradients, {text(sent, 'bytes')} to exchange vectors"
            chosen[index] = Choice(table.name, "replicated", reason)
    return chosen


def _wire_bytes(table: Table, exchange: Exchange) -> tuple[float, float]:
    """Return what a device puts on its link for a table that is copied, and on average for one that lies whole."""
    width, ring = DTYPE_BYTES[exchange.dtype], (exchange.devices - 1) / exchange.devices
    passes = 2 if exchange.training else 1
    vectors = passes * table.vectors * table.width * width
    copied = 2 * table.rows * table.width * width if exchange.training else 0.0
    return ring * copied, ring * exchange.batch * (table.lookups * INDEX_BYTES + vectors)


def _split(table: Table, exchange: Exchange, room_bytes: float, mean_bytes: float) -> Choice:
    """Return how to shard a table that is not copied; `mean_bytes` are the rows of a sample ÷ devices."""
    size, read = table.kept_bytes, table.lookups * row_bytes(table.width, table.dtype)
    if size > room_bytes:
        reason = f"{text(size, 'bytes')} on a device with room for {text(room_bytes, 'bytes')}"
        return Choice(table.name, "row-wise", reason)
    heavy, parts = (
        f"read {read / mean_bytes:.1f} × as much as a mean device reads",
        column_shards(table, exchange.devices),
    )
    if read > mean_bytes and parts > 1:
        return Choice(table.name, "column-wise", f"{heavy}; cut into {parts} blocks of columns")
    passes = 2 if exchange.training else 1
    sums = passes * table.width * DTYPE_BYTES[exchange.dtype] * table.pooled * (1 - 1 / exchange.devices)
    if read - mean_bytes > sums * exchange.read_per_sent:
        sent = text(exchange.samples * sums, "bytes")
        return Choice(table.name, "row-wise", f"{heavy}; too narrow for columns, {sent} of partial sums cost less")
    return Choice(table.name, "table-wise", f"{text(size, 'bytes')} fit on one device")
