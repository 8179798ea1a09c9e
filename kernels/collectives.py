"""Collectives among processes of this machine, run and timed: gloo between CPU ranks, NCCL between two or more GPUs.

A rank is a spawned process. Every one times its own calls between barriers; what counts is the slowest rank's median.
The parent hears from each rank before each case, so that one that dies or falls silent ends the run with one error and
leaves no process behind.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from capacity.errors import CapacityError, InputError
from capacity.work.measurement import Measurement
from capacity.work.operations import Collective, CollectiveKind
from kernels.timing import BLOCK_S, Run
from kernels.torch_backend import Backend, torch

KINDS: tuple[CollectiveKind, ...] = ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "send")
KIB, MIB = 2**10, 2**20
SIZES = {
    ("cpu", "quick"): (KIB, 32 * KIB, MIB),
    ("cpu", "full"): (KIB, 8 * KIB, 64 * KIB, 512 * KIB, 4 * MIB, 16 * MIB, 64 * MIB),
    ("cuda", "quick"): (KIB, 32 * KIB, MIB, 16 * MIB),
    ("cuda", "full"): (*(KIB * 4**power for power in range(9)), 128 * MIB, 256 * MIB),
}
"""Messages by device and effort [byte]: latency, the bend, bandwidth; a full run always has one ≥ 64 MB."""
CASE_LIMIT_S = 2.0
"""Repeats of one case stop being added beyond this time."""
MOST_INNER = 100
"""Calls in one timed block, at most."""
START_S = 120.0
"""How long a rank may take to load torch and join the others."""
GRACE_S = 2.0
"""How long the others may still explain themselves once one rank is in trouble."""
NOWHERE = "before its first case"
WIDTH = 4
"""Bytes of the fp32 values that travel."""

Row: TypeAlias = tuple[CollectiveKind, int, float]
"""Kind, message [byte], median of one rank [s]."""
Word: TypeAlias = tuple[Literal["at", "done", "failed"], Any]
"""What a rank says: the case it begins, what it measured, or what went wrong."""
Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with (cases done, cases in all, name of the one that begins)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What travels, and among whom.

    Attributes
    ----------
    sizes_bytes
        Messages [byte]: the buffer of an all_reduce, the total output of an all_gather, the total input of a
        reduce_scatter, what one rank hands over in an alltoall or a send.
    silence_s
        A rank that says nothing for so long is hung [s]. Before its first word it gets at least `START_S`.
    """

    device: Literal["cpu", "cuda"]
    ranks: int
    sizes_bytes: tuple[int, ...]
    kinds: tuple[CollectiveKind, ...] = KINDS
    repeats: int = 9
    silence_s: float = 120.0

    def __post_init__(self) -> None:
        if self.ranks < 2:
            raise InputError(f"collectives need at least 2 ranks, got {self.ranks}")
        if not self.sizes_bytes or min(self.sizes_bytes) < 1 or not self.kinds or self.repeats < 1:
            raise InputError("collectives need at least one kind, one repeat and messages of at least 1 byte")

    @classmethod
    def local(cls, device: str = "auto", ranks: int | None = None, *, quick: bool = False) -> Exchange:
        """Return what a calibration of this machine exchanges: over all its GPUs, or between two CPU processes.

        Raises
        ------
        CapacityError
            When the machine has fewer GPUs than ranks (at least two).
        """
        chosen: Literal["cpu", "cuda"] = "cuda" if Backend.local(device).device == "cuda" else "cpu"
        if chosen == "cuda":
            found = int(torch().cuda.device_count())
            if found < (ranks or 2):
                raise CapacityError(f"collectives of {ranks or 2} ranks need a GPU each; this machine shows {found}")
            ranks = ranks or found
        return cls(device=chosen, ranks=ranks or 2, sizes_bytes=SIZES[chosen, "quick" if quick else "full"])

    @property
    def backend(self) -> str:
        """Library that carries the messages."""
        return "nccl" if self.device == "cuda" else "gloo"

    @property
    def cases(self) -> tuple[tuple[CollectiveKind, int], ...]:
        """Kind and message [byte] of each case, rounded up so that every rank has an equal part."""
        part = WIDTH * self.ranks
        return tuple((kind, math.ceil(size / part) * part) for kind in self.kinds for size in self.sizes_bytes)


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What a run brought: the measurements, and the kinds that this library cannot do, with its own words."""

    measurements: tuple[Measurement, ...]
    skipped: Mapping[str, str]


def measure(exchange: Exchange, progress: Progress | None = None) -> Exchanged:
    """Run every case among spawned ranks and return the slowest rank's median seconds of each.

    Raises
    ------
    CapacityError
        When a rank fails, dies, or is silent for longer than `exchange.silence_s`; no process is left behind.
    """
    context = multiprocessing.get_context("spawn")
    ranks: list[SpawnProcess] = []
    ears: list[Connection] = []
    with tempfile.TemporaryDirectory(prefix="capacity-ranks-") as folder:
        try:
            for number in range(exchange.ranks):
                ear, mouth = context.Pipe(duplex=False)
                rank = context.Process(target=_rank, args=(number, exchange, folder, mouth), daemon=True)
                ears.append(ear)
                rank.start()
                ranks.append(rank)
                mouth.close()  # or the pipe would not end with the rank
            said = _heard(exchange, ranks, ears, progress)
        finally:
            _ended(ranks)
            for ear in ears:
                ear.close()
    return _joined(exchange, said)


def _joined(exchange: Exchange, said: Sequence[tuple[list[Row], dict[str, str]]]) -> Exchanged:
    """Return what all ranks measured: of each case the slowest median."""
    found = []
    for cases in zip(*(rows for rows, _ in said), strict=True):
        kind, message_bytes, _ = cases[0]
        devices = 2 if kind == "send" else exchange.ranks
        operation = Collective(kind=kind, message_bytes=message_bytes, devices=devices)
        name = f"{operation.operation} {message_bytes} byte x{devices} {exchange.backend}"
        found.append(Measurement(name, (operation,), max(seconds for _, _, seconds in cases)))
    return Exchanged(tuple(found), said[0][1])


# --- the parent -----------------------------------------------------------------------------------------------------


def _heard(
    exchange: Exchange, ranks: Sequence[SpawnProcess], ears: Sequence[Connection], progress: Progress | None
) -> list[tuple[list[Row], dict[str, str]]]:
    """Return what each rank measured, once all have said so."""
    done: dict[int, tuple[list[Row], dict[str, str]]] = {}
    place = dict.fromkeys(range(len(ranks)), NOWHERE)
    last = dict.fromkeys(range(len(ranks)), time.monotonic())
    begun = 0
    while len(done) < len(ranks):
        waiting = {ears[number]: number for number in place if number not in done}
        for ear in connection.wait(list(waiting), timeout=min(1.0, exchange.silence_s)):
            number = waiting[ear]  # type: ignore[index]
            what, content = _word(ears[number])
            last[number] = time.monotonic()
            if what == "failed":
                raise CapacityError(_blame(number, content, ranks, ears, place))
            if what == "done":
                done[number] = content
                continue
            place[number] = f"in {content}"
            if number == 0 and progress is not None:
                progress(begun, len(exchange.cases), content)
            begun += number == 0
        late = time.monotonic() - exchange.silence_s
        silent = [n for n in place if n not in done and last[n] < late - (place[n] == NOWHERE) * START_S]
        if silent:
            who = " and ".join(f"rank {n} ({place[n]})" for n in silent)
            raise CapacityError(f"of {len(ranks)} ranks, {who} said nothing for {exchange.silence_s:g} s: stopped")
    return [done[number] for number in sorted(done)]


def _word(ear: Connection) -> Word:
    """Return the next word of a rank; one that hung up has failed without a word."""
    try:
        word: Word = ear.recv()
    except (EOFError, OSError):
        return "failed", None
    return word


def _blame(
    number: int, reason: str | None, ranks: Sequence[SpawnProcess], ears: Sequence[Connection], place: Mapping[int, str]
) -> str:
    """Return what went wrong first. A rank that died takes its neighbors along: their complaints are not the cause."""
    deadline = time.monotonic() + GRACE_S
    while reason is not None and time.monotonic() < deadline:
        for other, rank in enumerate(ranks):
            rank.join(0.02)
            if other != number and rank.exitcode not in {None, 0} and not _has_words(ears[other]):
                number, reason = other, None
                break
    if reason is not None:
        return f"rank {number} of {len(ranks)} failed {place[number]}: {reason}"
    ranks[number].join(GRACE_S)
    return f"rank {number} of {len(ranks)} died {place[number]} (exit code {ranks[number].exitcode})"


def _has_words(ear: Connection) -> bool:
    """Say whether a rank explained its end before it went."""
    while ear.poll(0):
        what, content = _word(ear)
        if what == "failed":
            return content is not None
    return False


def _ended(ranks: Sequence[SpawnProcess]) -> None:
    """End every rank that is still there. A stopped or busy process heeds nothing less than a kill."""
    for rank in ranks:
        if rank.is_alive():
            rank.kill()
    for rank in ranks:
        rank.join()
        rank.close()


# --- a rank ---------------------------------------------------------------------------------------------------------


def _rank(number: int, exchange: Exchange, folder: str, mouth: Connection) -> None:
    """Be one rank: join the others, run every case, say what it took."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=_go_with_the_parent, daemon=True).start()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host name that resolves to nothing stops gloo
    try:
        mouth.send(("done", _Peer(number, exchange, mouth).all_cases(folder)))
    except Exception as error:
        text = str(error).strip()
        mouth.send(("failed", f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"))
        sys.exit(1)


def _go_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@dataclass(frozen=True, slots=True)
class _Peer:
    """A rank inside its process: knows its number and how to run a collective."""

    number: int
    exchange: Exchange
    mouth: Connection

    def all_cases(self, folder: str) -> tuple[list[Row], dict[str, str]]:
        """Return the median seconds of each case, and the kinds the library refused, with its words."""
        module, exchange = torch(), self.exchange
        if exchange.device == "cuda":
            module.cuda.set_device(self.number)
        else:
            module.set_num_threads(max(1, module.get_num_threads() // exchange.ranks))
        module.distributed.init_process_group(
            exchange.backend, init_method=(Path(folder) / "rendezvous").as_uri(), rank=self.number,
            world_size=exchange.ranks, timeout=timedelta(seconds=START_S + exchange.silence_s),
        )  # fmt: skip
        rows: list[Row] = []
        skipped: dict[str, str] = {}
        for kind, message_bytes in exchange.cases:
            if kind not in skipped and (kind, message_bytes) == self._first(kind):
                skipped |= self._refused(kind)
            if kind not in skipped:
                self.mouth.send(("at", f"{kind} of {message_bytes} byte"))
                rows.append((kind, message_bytes, self._median_s(self._run(kind, message_bytes))))
        module.distributed.destroy_process_group()
        return rows, skipped

    def _first(self, kind: CollectiveKind) -> tuple[CollectiveKind, int]:
        return next(case for case in self.exchange.cases if case[0] == kind)

    def _refused(self, kind: CollectiveKind) -> dict[str, str]:
        """Return why the library cannot do this kind, if it cannot: it says so before anything travels."""
        reason = ""
        try:
            self._run(kind, WIDTH * self.exchange.ranks)()
        except (RuntimeError, NotImplementedError, ValueError, AttributeError) as error:
            reason = f"{self.exchange.backend} of torch {torch().__version__}: {str(error).splitlines()[0]}"
        return {kind: reason or "another rank cannot do it"} if self._most(float(bool(reason))) else {}

    def _median_s(self, run: Run) -> float:
        """Return the median seconds of a call between barriers, the same number of calls on every rank."""
        clock = Backend(self.exchange.device, 1).clock()
        warm_s = self._most(min(clock.time(run, 1) for _ in range(3)))
        inner = min(MOST_INNER, max(1, math.ceil(BLOCK_S / max(warm_s, 1e-7))))
        repeats = min(self.exchange.repeats, max(3, int(CASE_LIMIT_S / (warm_s * inner + 1e-9))))
        samples = []
        for _ in range(repeats):
            self._meet()
            samples.append(clock.time(run, inner) / inner)
        return float(np.median(samples))

    def _most(self, value: float) -> float:
        """Return the largest of all ranks' values."""
        module = torch()
        shared = module.tensor([value], dtype=module.float64, device=self.exchange.device)
        module.distributed.all_reduce(shared, op=module.distributed.ReduceOp.MAX)
        return float(shared.item())

    def _meet(self) -> None:
        module = torch()
        places = {"device_ids": [self.number]} if self.exchange.device == "cuda" else {}
        module.distributed.barrier(**places)

    def _run(self, kind: CollectiveKind, message_bytes: int) -> Run:
        """Return one call of a collective on tensors of its own."""
        module, ranks = torch(), self.exchange.ranks
        library, device = module.distributed, self.exchange.device
        whole = module.zeros(message_bytes // WIDTH, device=device)  # zeros: sums stay finite however often they repeat
        if kind == "all_reduce":
            return lambda: library.all_reduce(whole)
        if kind == "alltoall":
            received = module.empty_like(whole)
            return lambda: library.all_to_all_single(received, whole)
        if kind == "send":
            pair: tuple[Run, ...] = (lambda: library.send(whole, 1), lambda: library.recv(whole, 0))
            return pair[self.number] if self.number < len(pair) else lambda: None
        part = module.zeros(len(whole) // ranks, device=device)
        if kind == "all_gather":
            gather = getattr(library, "all_gather_single", None) or library.all_gather_into_tensor
            return lambda: gather(whole, part)
        scatter = getattr(library, "reduce_scatter_single", None) or library.reduce_scatter_tensor
        return lambda: scatter(part, whole)
