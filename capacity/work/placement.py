"""Where embedding tables lie: four ways to shard them over devices, what each keeps and reads, and what is sent.

A step begins with every device holding its own samples. The rows they name go out as indices, the vectors come back,
and in training the gradients return the way the vectors came:

| sharding    | a device keeps           | indices  | vectors        | gradients      |
|-------------|--------------------------|----------|----------------|----------------|
| table-wise  | whole tables             | alltoall | alltoall       | alltoall       |
| column-wise | some columns of all rows | alltoall | alltoall       | alltoall       |
| row-wise    | all columns of some rows | alltoall | reduce-scatter | all-gather     |
| replicated  | everything               | none     | none           | all-reduce     |

Row-wise, a bag is summed in part on every device, so that partial sums of all samples are reduced; vectors that are not
summed go by alltoall there too.

References
----------
Mudigere et al. 2022, arXiv:2104.05158, §4 (the four ways, and what each is for); torchrec, distributed/sharding (the
collectives) and distributed/planner/shard_estimators.py (bytes in and out of a shard); Graham 1969,
doi:10.1137/0117039 (longest processing time first: at most 4/3 − 1/(3·devices) of the best possible largest load).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from capacity.errors import InputError, UnknownNameError
from capacity.spec.hardware import DTYPE_BYTES
from capacity.work.operations import Collective, CollectiveKind, Gather

Sharding = Literal["table-wise", "row-wise", "column-wise", "replicated"]
SHARDINGS: tuple[Sharding, ...] = ("table-wise", "row-wise", "column-wise", "replicated")
INDEX_BYTES = 8
_Message: TypeAlias = tuple[CollectiveKind, float, str]
ROW_SCALE_BYTES = {"int8": 8, "int4": 4}
"""Scale and offset beside a quantized row: fp32 each at 8 bit, fp16 each at 4 bit (torch.ops.quantized,
embedding_bag_byte_prepack and embedding_bag_4bit_prepack)."""
NARROWEST_COLUMNS = 128
"""Fewest columns of a column-wise shard (torchrec, distributed/planner/constants.py: MIN_CW_DIM)."""


def row_bytes(width: float, dtype: str) -> float:
    """Return the bytes of a row of `width` values, with the scale and offset of a quantized one [byte].

    Examples
    --------
    >>> row_bytes(64, "fp32"), row_bytes(64, "fp16"), row_bytes(64, "int8"), row_bytes(64, "int4")
    (256, 128, 72, 36)
    """
    return math.ceil(width * DTYPE_BYTES[dtype]) + ROW_SCALE_BYTES.get(dtype, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """An embedding table, and how a sample reads it."""

    name: str
    rows: int
    width: int
    dtype: str
    """Storage type of the values; fp16, int8 and int4 compress the table."""
    lookups: float = 1
    """Rows that a sample looks up (mean)."""
    pooled: bool = True
    """The rows of a sample are summed into one vector, or each is a vector of its own (a sequence)."""
    state_bytes: float = 0
    """What the optimizer keeps beside a row [byte]: 4 for row-wise Adagrad, 8 · width for Adam in fp32."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise UnknownNameError("dtype", self.dtype, DTYPE_BYTES)
        if not (self.rows >= 1 and self.width >= 1 and self.lookups > 0 and self.state_bytes >= 0):
            raise InputError(f"a table needs rows ≥ 1, width ≥ 1, lookups > 0 and state_bytes ≥ 0, not {self}")

    @property
    def vectors(self) -> float:
        """Vectors that a sample gets from this table; an empty bag is a vector of zeros."""
        return 1 if self.pooled else self.lookups

    @property
    def kept_bytes(self) -> float:
        """All rows with their optimizer state [byte]."""
        return self.kept(self.rows, self.width)

    def kept(self, rows: float, columns: float) -> float:
        """Return what part of the table takes, its share of the optimizer state included [byte]."""
        return rows * (row_bytes(columns, self.dtype) + self.state_bytes * columns / self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A step of `devices` devices with `batch` samples each; vectors and gradients travel as `dtype`."""

    devices: int
    batch: float
    dtype: str = "fp32"
    training: bool = True
    read_per_sent: float = 7.4
    """Bytes a device reads in the time of one sent; an H100 SXM 3,350 GB/s for 450 GB/s. Networks make it more."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise UnknownNameError("dtype", self.dtype, DTYPE_BYTES)
        if not (self.devices >= 1 and self.batch > 0 and self.read_per_sent > 0):
            raise InputError(f"an exchange needs at least one device, batch > 0 and read_per_sent > 0, not {self}")

    @property
    def samples(self) -> float:
        """Samples of all devices."""
        return self.devices * self.batch


class Shard(NamedTuple):
    """Part of a table on one device, and the look-ups of a step that it answers."""

    table: Table
    sharding: Sharding
    device: int
    rows: float
    columns: float
    lookups: float
    vectors: float

    @property
    def kept_bytes(self) -> float:
        """What the device keeps [byte]."""
        return self.table.kept(self.rows, self.columns)

    @property
    def read_bytes(self) -> float:
        """Rows that a step reads [byte]."""
        return self.lookups * row_bytes(self.columns, self.table.dtype)

    def load_bytes(self, exchange: Exchange) -> float:
        """Return the rows read, and what could be read while the vectors are sent [byte]."""
        if self.sharding == "replicated" or exchange.devices == 1:
            return self.read_bytes
        return self.read_bytes + exchange.read_per_sent * self.vectors * self.columns * DTYPE_BYTES[exchange.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Every table on its devices: bytes by device, and the collectives of a step."""

    exchange: Exchange
    shards: tuple[Shard, ...]
    kept_bytes: NDArray[np.float64]
    """By device [byte]."""
    read_bytes: NDArray[np.float64]
    """Rows that a step reads in the forward pass, by device [byte]; the backward pass reads and writes as many."""
    load_bytes: NDArray[np.float64]
    """Rows read, and what could be read while the vectors are sent, by device [byte]: a measure of the time."""
    forward: tuple[Collective, ...]
    backward: tuple[Collective, ...]

    @property
    def imbalance(self) -> float:
        """Load of the most loaded device ÷ the mean of all; 1 is even [1]."""
        return float(self.load_bytes.max() / self.load_bytes.mean())

    @property
    def busiest(self) -> tuple[Gather, ...]:
        """Look-ups of the most loaded device: the others wait for it."""
        device = int(self.load_bytes.argmax())
        return tuple(
            Gather(rows=shard.lookups, width=shard.columns, dtype=shard.table.dtype,
                   pooled=shard.lookups / shard.vectors, label=shard.table.name)
            for shard in self.shards if shard.device == device and shard.lookups
        )  # fmt: skip

    def lacking_bytes(self, room_bytes: float) -> float:
        """Return what the fullest device keeps beyond `room_bytes`; 0 or less where everything fits [byte]."""
        return float(self.kept_bytes.max()) - room_bytes


def place(
    tables: Sequence[Table], shardings: Sequence[Sharding], exchange: Exchange, room_bytes: float = math.inf
) -> Placement:
    """Return the placement of `tables`, each sharded as the entry of `shardings` at its place says.

    Whole tables and columns go, those of the largest load first, to the device with the least load that still has room
    (longest processing time first). Where none has, the emptiest takes them, and `lacking_bytes` says by how much.
    Row-wise shards are read in proportion to their rows, which holds where no single row draws many of the look-ups.

    Parameters
    ----------
    room_bytes
        Memory of one device for tables [byte].

    Raises
    ------
    InputError
        When tables and shardings differ in number.

    Examples
    --------
    >>> wide, slim = (Table(name=name, rows=100, width=8, dtype="fp32", lookups=n) for name, n in (("a", 3), ("b", 1)))
    >>> done = place([wide, slim], ["table-wise"] * 2, Exchange(devices=2, batch=10))
    >>> done.read_bytes.tolist()  # 2 · 10 samples · 3 rows · 32 byte, and a third of it
    [1920.0, 640.0]
    >>> [message.message_bytes for message in done.forward]  # 20 · 3 indices of 8 byte in, 20 sums of 32 byte out
    [480.0, 640.0]
    """
    if len(tables) != len(shardings):
        raise InputError(f"{len(tables)} tables and {len(shardings)} shardings: each table needs one")
    shards = [shard for pair in zip(tables, shardings, strict=True) for shard in _everywhere(*pair, exchange)]
    kept, read, load = np.zeros((3, exchange.devices))

    def put(shard: Shard) -> None:
        kept[shard.device] += shard.kept_bytes
        read[shard.device] += shard.read_bytes
        load[shard.device] += shard.load_bytes(exchange)

    for shard in shards:
        put(shard)
    movable = [shard for pair in zip(tables, shardings, strict=True) for shard in _movable(*pair, exchange)]
    for shard in sorted(movable, key=lambda one: (one.load_bytes(exchange), one.kept_bytes), reverse=True):
        fitting = room_bytes - kept >= shard.kept_bytes
        device = int(np.where(fitting, load, np.inf).argmin() if fitting.any() else kept.argmin())
        shards.append(shard._replace(device=device))
        put(shards[-1])
    forward, backward = _messages(shards, exchange)
    return Placement(
        exchange=exchange,
        shards=tuple(shards),
        kept_bytes=kept,
        read_bytes=read,
        load_bytes=load,
        forward=forward,
        backward=backward,
    )


def _everywhere(table: Table, sharding: Sharding, exchange: Exchange) -> list[Shard]:
    """Return the shards of a table that every device has a part of: replicated or row-wise."""
    if sharding not in SHARDINGS:
        raise UnknownNameError("sharding", sharding, SHARDINGS)
    devices, batch = range(exchange.devices), exchange.batch
    if sharding == "replicated":
        mine = batch * table.lookups, batch * table.vectors
        return [Shard(table, sharding, device, table.rows, table.width, *mine) for device in devices]
    if sharding != "row-wise":
        return []
    block = math.ceil(table.rows / exchange.devices)
    parts = [min(max(table.rows - device * block, 0), block) for device in devices]
    shares = [(part, exchange.samples * part / table.rows) for part in parts]
    return [
        Shard(
            table, sharding, device, part, table.width, seen * table.lookups,
            exchange.samples * table.vectors if table.pooled else seen * table.vectors,
        )
        for device, (part, seen) in enumerate(shares)
    ]  # fmt: skip


def _movable(table: Table, sharding: Sharding, exchange: Exchange) -> list[Shard]:
    """Return the shards that may lie on any device: whole tables, or blocks of columns; the device is still to find."""
    if sharding not in {"table-wise", "column-wise"}:
        return []
    parts = column_shards(table, exchange.devices) if sharding == "column-wise" else 1
    found = exchange.samples * table.lookups, exchange.samples * table.vectors
    return [Shard(table, sharding, 0, table.rows, table.width / parts, *found)] * parts


def column_shards(table: Table, devices: int) -> int:
    """Return into how many blocks of equal width a table may be cut, none narrower than `NARROWEST_COLUMNS`."""
    most = min(devices, table.width // NARROWEST_COLUMNS)
    return max((parts for parts in range(1, most + 1) if table.width % parts == 0), default=1)


def _messages(shards: Sequence[Shard], exchange: Exchange) -> tuple[tuple[Collective, ...], tuple[Collective, ...]]:
    """Return the collectives of the forward and of the backward pass.

    The device that gets most indices or sends most vectors sets the pace of an alltoall: its buffer is the message. A
    reduce-scatter adds up buffers of one size: a vector of every sample from every device, however few rows it found.
    """
    if exchange.devices == 1:
        return (), ()
    width = DTYPE_BYTES[exchange.dtype]
    indices, vectors, sums, copies = np.zeros(exchange.devices), np.zeros(exchange.devices), 0.0, 0.0
    for shard in shards:
        table, sent = shard.table, shard.vectors * shard.columns * width
        if shard.sharding == "replicated":
            copies += (shard.device == 0) * table.rows * table.width * width
            continue
        indices[shard.device] += shard.lookups * INDEX_BYTES
        if shard.sharding == "row-wise" and table.pooled:
            sums += (shard.device == 0) * sent
        else:
            vectors[shard.device] += sent
    moved = float(vectors.max())
    forward: list[_Message] = [("alltoall", float(indices.max()), "indices"), ("alltoall", moved, "vectors")]
    forward.append(("reduce_scatter", sums, "partial sums"))
    backward: list[_Message] = [("alltoall", moved, "gradients of vectors"), ("all_gather", sums, "gradients of sums")]
    backward.append(("all_reduce", copies, "gradients of copies"))
    return _sent(forward, exchange), _sent(backward if exchange.training else [], exchange)


def _sent(messages: Sequence[_Message], exchange: Exchange) -> tuple[Collective, ...]:
    return tuple(
        Collective(kind=kind, message_bytes=size, devices=exchange.devices, dtype=exchange.dtype, label=label)
        for kind, size, label in messages
        if size
    )
