"""The operations every model is made of. Each is a frozen record; its fields may be numbers or numpy arrays.

Conventions
-----------
- A multiply-add is 2 FLOP. `counter_flop` is what `torch.utils.flop_counter.FlopCounterMode` counts for one launch on
  the meta device (a causal product counts as full; element-wise work counts 0). `flop` is what a kernel executes.
- `moved_bytes` is the least traffic with main memory in one launch: every input read once, every output written once.
- `count` is the number of launches; `flop` and `moved_bytes` are per launch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from capacity.spec.hardware import DTYPE_BYTES

Amount: TypeAlias = float | NDArray[np.float64]
StreamKind = Literal["norm", "residual_norm", "activation", "add", "softmax", "copy", "optimizer"]
CollectiveKind = Literal["all_reduce", "all_gather", "reduce_scatter", "alltoall", "send"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """`batch` products [m×k]·[k×n] in one launch. `weight_dtype` is the storage type of the k×n operand.

    Examples
    --------
    >>> product = Gemm(m=2, n=3, k=4, dtype="fp32")
    >>> product.flop, product.moved_bytes  # 2·2·3·4 FLOP; (8 + 12 + 6) · 4 byte
    (48, 104)
    """

    operation: ClassVar[str] = "gemm"
    m: Amount
    n: Amount
    k: Amount
    dtype: str
    batch: Amount = 1
    count: Amount = 1
    weight_dtype: str | None = None
    weight_copies: float = float("inf")  # sets of weights before this one returns: a cache may keep few, never many
    label: str = ""

    @property
    def counter_flop(self) -> Amount:
        """FLOP of one launch: 2·batch·m·n·k."""
        return 2 * self.batch * self.m * self.n * self.k

    @property
    def flop(self) -> Amount:
        """FLOP of one launch: a matrix product executes what is counted."""
        return self.counter_flop

    @property
    def moved_bytes(self) -> Amount:
        """Both operands read, the result written [byte]. fp8 and narrower products write 2-byte results."""
        width = DTYPE_BYTES[self.dtype]
        weight = DTYPE_BYTES[self.weight_dtype or self.dtype]
        out = max(width, 2)
        return self.batch * (self.m * self.k * width + self.n * self.k * weight + self.m * self.n * out)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedGemm:
    """`routed` rows spread over `groups` experts, each row times its expert's own n×k weights."""

    operation: ClassVar[str] = "gemm.grouped"
    routed: Amount
    groups: Amount
    n: Amount
    k: Amount
    dtype: str
    weight_dtype: str | None = None
    count: Amount = 1
    label: str = ""

    @property
    def counter_flop(self) -> Amount:
        """FLOP of one launch: 2·routed·n·k, however the rows spread."""
        return 2 * self.routed * self.n * self.k

    @property
    def flop(self) -> Amount:
        """FLOP of one launch: what is counted is executed."""
        return self.counter_flop

    @property
    def moved_bytes(self) -> Amount:
        """Weights of every group that is hit, rows in and out [byte]."""
        width = DTYPE_BYTES[self.dtype]
        weight = DTYPE_BYTES[self.weight_dtype or self.dtype]
        return self.groups * self.n * self.k * weight + self.routed * (self.k * width + self.n * max(width, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """softmax(Q·Kᵀ)·V for `batch` sequences: `query` new positions against `keys` positions.

    `causal` says that query i sees keys up to keys − query + i; kernels that skip the rest execute `visible` of it.
    `window` limits the keys a query sees (sliding-window attention).
    """

    batch: Amount
    heads: Amount
    kv_heads: Amount
    query: Amount
    keys: Amount
    head_dim: Amount
    dtype: str
    phase: Literal["encoder", "prefill", "decode"] = "encoder"
    causal: bool = False
    window: Amount | None = None
    backward: bool = False
    kv_dtype: str | None = None
    count: Amount = 1
    label: str = "attention"

    @property
    def operation(self) -> str:
        """Class of kernels whose efficiency this one shares."""
        return f"attention.{self.phase}"

    @property
    def counter_flop(self) -> Amount:
        """Two products over all query × key pairs (four more in the backward pass, as the unfused graph has).

        A decode step finds only the window's keys in its cache; a pass over whole sequences masks what it has computed.
        """
        products = 4 if self.backward else 2
        keys = np.minimum(self.keys, self.window) if self.window is not None and self.phase == "decode" else self.keys
        return products * 2 * self.batch * self.heads * self.query * keys * self.head_dim

    @property
    def visible_pairs(self) -> Amount:
        """Query-key pairs of one sequence and head that the mask leaves."""
        keys = self.keys if self.window is None else np.minimum(self.keys, self.window)
        if not self.causal or self.phase == "decode":
            return self.query * keys
        early: Amount = np.maximum(keys - (self.keys - self.query), 0)  # these queries miss early − 1, …, 1, 0 keys
        return self.query * keys - early * (early - 1) / 2

    @property
    def flop(self) -> Amount:
        """Executed FLOP: masked pairs skipped; the fused backward pass recomputes the scores (5 products for 2)."""
        products = 5 if self.backward else 2
        return products * 2 * self.batch * self.heads * self.visible_pairs * self.head_dim

    @property
    def moved_bytes(self) -> Amount:
        """Q and the result, K and V once [byte]; the backward pass also reads and writes every gradient."""
        width, kv_width = DTYPE_BYTES[self.dtype], DTYPE_BYTES[self.kv_dtype or self.dtype]
        keys = self.keys if self.window is None else np.minimum(self.keys, self.window + self.query)
        once = 2 * self.heads * self.query * width + 2 * self.kv_heads * keys * kv_width
        return self.batch * self.head_dim * once * (3 if self.backward else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """Element-wise work, a norm or a softmax: `reads` + `writes` passes over `elements` values."""

    kind: StreamKind
    elements: Amount
    dtype: str
    reads: float = 1
    writes: float = 1
    flop_per_element: float = 1
    count: Amount = 1
    label: str = ""
    counter_flop: ClassVar[int] = 0

    @property
    def operation(self) -> str:
        """Class of kernels whose efficiency this one shares."""
        return f"streaming.{self.kind}"

    @property
    def flop(self) -> Amount:
        """Hand count; never what bounds the time."""
        return self.elements * self.flop_per_element

    @property
    def moved_bytes(self) -> Amount:
        """Every pass over the elements [byte]."""
        return self.elements * (self.reads + self.writes) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather:
    """`rows` embedding rows of `width` values fetched from a table, `pooled` of them summed into one result."""

    operation: ClassVar[str] = "gather"
    rows: Amount
    width: Amount
    dtype: str
    pooled: Amount = 1
    count: Amount = 1
    label: str = "embedding"
    counter_flop: ClassVar[int] = 0

    @property
    def flop(self) -> Amount:
        """Additions of the pooling, by hand: each row is added once."""
        return self.rows * self.width * np.where(np.asarray(self.pooled) > 1, 1.0, 0.0)

    @property
    def moved_bytes(self) -> Amount:
        """Rows read (8-byte index each), pooled rows written [byte]."""
        size = DTYPE_BYTES[self.dtype]
        return self.rows * (self.width * size + 8) + self.rows / self.pooled * self.width * size


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The `k` largest of each of `rows` rows of `columns` scores."""

    operation: ClassVar[str] = "topk"
    rows: Amount
    columns: Amount
    k: Amount
    dtype: str
    count: Amount = 1
    label: str = "top-k"
    counter_flop: ClassVar[int] = 0

    @property
    def flop(self) -> Amount:
        """Hand count: one comparison a score."""
        return self.rows * self.columns

    @property
    def moved_bytes(self) -> Amount:
        """Scores read once, values and 8-byte indices written [byte]."""
        size = DTYPE_BYTES[self.dtype]
        return self.rows * (self.columns * size + self.k * (size + 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Euclidean distances of `m` vectors to `n` vectors of `k` values (torch.cdist), which the counter counts as 0."""

    operation: ClassVar[str] = "distance"
    m: Amount
    n: Amount
    k: Amount
    dtype: str
    count: Amount = 1
    label: str = "distance"
    counter_flop: ClassVar[int] = 0

    @property
    def flop(self) -> Amount:
        """Hand count of ‖a‖² + ‖b‖² − 2ab: 2mnk for the product, 2(m + n)k for the norms, 3mn to combine and root."""
        return 2 * self.m * self.n * self.k + 2 * (self.m + self.n) * self.k + 3 * self.m * self.n

    @property
    def moved_bytes(self) -> Amount:
        """Both sets read, distances written [byte]."""
        return (self.m * self.k + self.n * self.k + self.m * self.n) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrent:
    """One LSTM layer over `steps` positions: each step waits for the last, so its products stay small."""

    operation: ClassVar[str] = "recurrent"
    batch: Amount
    steps: Amount
    inputs: Amount
    hidden: Amount
    dtype: str
    backward: bool = False
    count: Amount = 1
    label: str = "lstm"

    @property
    def counter_flop(self) -> Amount:
        """Four gates: 2·batch·steps·4·hidden·(inputs + hidden); on the CPU the fused kernel hides it and counts 0.

        The backward pass is twice that, less the gradient of the initial state, which nothing needs.
        """
        forward = 8 * self.batch * self.steps * self.hidden * (self.inputs + self.hidden)
        return 2 * forward - 8 * self.batch * self.hidden**2 if self.backward else forward

    @property
    def flop(self) -> Amount:
        """The products; the gates' element-wise work is left out."""
        return self.counter_flop

    @property
    def moved_bytes(self) -> Amount:
        """Weights read at every step (they outlive no cache in the worst case), states read and written [byte]."""
        weights = 4 * self.hidden * (self.inputs + self.hidden + 2)
        states = self.batch * (self.inputs + 6 * self.hidden)
        return self.steps * (weights + states) * DTYPE_BYTES[self.dtype] * (2 if self.backward else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solve:
    """`systems` symmetric positive definite systems of `size` unknowns by Cholesky (the inside of ALS)."""

    operation: ClassVar[str] = "solve"
    systems: Amount
    size: Amount
    dtype: str
    count: Amount = 1
    label: str = "cholesky solve"
    counter_flop: ClassVar[int] = 0

    @property
    def flop(self) -> Amount:
        """Hand count: size³/3 for the factor and 2·size² for the two triangular solves (Golub & Van Loan, §4.2)."""
        return self.systems * (self.size**3 / 3 + 2 * self.size**2)

    @property
    def moved_bytes(self) -> Amount:
        """Matrix and right-hand side read, factor and solution written [byte]."""
        return self.systems * (2 * self.size**2 + 2 * self.size) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """One collective of `message_bytes` over `devices` devices."""

    kind: CollectiveKind
    message_bytes: Amount
    devices: Amount
    count: Amount = 1
    dtype: str = "fp32"
    label: str = ""
    counter_flop: ClassVar[int] = 0
    flop: ClassVar[int] = 0

    @property
    def operation(self) -> str:
        """Class of transfers whose efficiency this one shares."""
        return f"collective.{self.kind}"

    @property
    def moved_bytes(self) -> Amount:
        """Bytes each device sends over its link by the ring algorithm (Thakur et al. 2005, §4)."""
        share = (self.devices - 1) / np.maximum(self.devices, 1)
        return self.message_bytes * share * (2 if self.kind == "all_reduce" else 1)


Operation: TypeAlias = (
    Gemm | GroupedGemm | Attention | Streaming | Gather | TopK | Distance | Recurrent | Solve | Collective
)


def total_flop(operations: Iterable[Operation]) -> Amount:
    """Return the executed FLOP of all launches."""
    return sum((op.flop * op.count for op in operations), start=0)


def total_counter_flop(operations: Iterable[Operation]) -> Amount:
    """Return the FLOP of all launches as torch's FlopCounterMode counts them on the meta device."""
    return sum((op.counter_flop * op.count for op in operations), start=0)


def total_bytes(operations: Iterable[Operation]) -> Amount:
    """Return the least main-memory traffic of all launches [byte]."""
    return sum((op.moved_bytes * op.count for op in operations), start=0)


def repeated(operations: Iterable[Operation], times: Amount) -> tuple[Operation, ...]:
    """Return the operations with every launch count multiplied by `times`."""
    return tuple(dataclasses.replace(op, count=op.count * times) for op in operations)


def backward(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Return the backward pass of a forward pass, every weight trained.

    A product y = x·Wᵀ has two: dx = dy·W (m×k over n) and dW = dyᵀ·x (n×k over m). Attention and LSTM have their own
    backward form. Element-wise work reads the saved input and the incoming gradient. A gather scatters gradients back.
    """
    result: list[Operation] = []
    for op in operations:
        if isinstance(op, Gemm):
            result.append(dataclasses.replace(op, n=op.k, k=op.n, label=f"{op.label} dx"))
            result.append(dataclasses.replace(op, m=op.n, n=op.k, k=op.m, label=f"{op.label} dW"))
        elif isinstance(op, GroupedGemm):
            result.append(dataclasses.replace(op, n=op.k, k=op.n, label=f"{op.label} dx"))
            result.append(dataclasses.replace(op, label=f"{op.label} dW"))
        elif isinstance(op, Attention | Recurrent):
            result.append(dataclasses.replace(op, backward=True, label=f"{op.label} backward"))
        elif isinstance(op, Streaming):
            result.append(dataclasses.replace(op, reads=op.reads + 1, label=f"{op.label} backward"))
        elif isinstance(op, Gather):
            result.append(dataclasses.replace(op, label=f"{op.label} backward"))
    return tuple(result)
