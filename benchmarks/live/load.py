"""The load generator: an open loop, one thread on keep-alive connections, in a process of its own.

A request is sent at its time whatever the answers do, and its latency counts from the time it was meant to be sent: a
server that stands still is charged for all who would have come meanwhile (no coordinated omission; Tene 2015).
"""

from __future__ import annotations

import gc
import os
import select
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import numpy as np

from capacity.errors import CapacityError
from capacity.fleet.flow import Times

LEAD_S = 0.05
"""From the call to the first request's time 0."""
MOST_OPEN = 900
"""Requests in flight: `select`, which alone waits for less than a millisecond, takes 1,024 files."""
PATIENCE_S = 60.0
"""Longest wait for any answer."""


@dataclass(slots=True)
class _Connection:
    """A keep-alive connection and the request on it."""

    socket: socket.socket
    request: int = -1
    received: bytearray = field(default_factory=bytearray)

    def answer(self) -> bytes | None:
        """Read what has come and return the answer once it is whole."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise CapacityError("the server closed a connection")
        self.received += data
        head, separator, body = bytes(self.received).partition(b"\r\n\r\n")
        if not separator:
            return None
        status, *lines = head.lower().split(b"\r\n")
        if b" 200 " not in status:
            raise CapacityError(f"the server said {status.decode()}: {body.decode(errors='replace')}")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        return body if len(body) == length else None


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back, in the order of the requests.

    Attributes
    ----------
    latency_s
        From the intended time of sending until the whole answer was read [s].
    late_s
        How late each request was sent [s].
    bodies
        The answers.
    """

    latency_s: Times
    late_s: Times
    bodies: list[bytes]


def pinned(core: int) -> ProcessPoolExecutor:
    """Return a process on one core, without garbage collection."""
    return ProcessPoolExecutor(1, get_context("spawn"), _quiet, (core,))


def _quiet(core: int) -> None:
    os.sched_setaffinity(0, {core})
    gc.disable()


def drive(port: int, path: str, times_s: Times, bodies: Sequence[bytes]) -> Answers:
    """Send `bodies` at `times_s` [s] after now and return the answers."""
    count, sent = len(times_s), 0
    latency_s, late_s, answers = np.empty(count), np.empty(count), [b""] * count
    messages = [b"POST %s HTTP/1.1\r\nHost: live\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body
                for body in bodies]  # fmt: skip
    idle = [_connected(port) for _ in range(min(count, 64))]
    busy: dict[socket.socket, _Connection] = {}
    start_s = time.perf_counter() + LEAD_S
    while sent < count or busy:
        now_s = time.perf_counter() - start_s
        if sent < count and times_s[sent] <= now_s:
            if len(busy) >= MOST_OPEN:
                raise CapacityError(f"the server is overloaded: {MOST_OPEN} requests wait for their answers")
            connection = idle.pop() if idle else _connected(port)
            connection.request, late_s[sent] = sent, now_s - times_s[sent]
            connection.socket.sendall(messages[sent])
            busy[connection.socket] = connection
            sent += 1
            continue
        wait_s = times_s[sent] - now_s if sent < count else PATIENCE_S
        ready = select.select(list(busy), (), (), wait_s)[0]
        if not ready and sent == count:
            raise CapacityError(f"no answer from the server within {PATIENCE_S:g} s")
        for each in ready:
            connection = busy[each]
            answer = connection.answer()
            if answer is not None:
                latency_s[connection.request] = time.perf_counter() - start_s - times_s[connection.request]
                answers[connection.request] = answer
                connection.received.clear()
                idle.append(busy.pop(each))
    for connection in idle:
        connection.socket.close()
    return Answers(latency_s, late_s, answers)


def _connected(port: int) -> _Connection:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _Connection(connection)
