"""The server: mosec, a Rust front on one core and a Python worker on the other; `python -m benchmarks.live.server`.

mosec 0.9.8 (src/protocol.rs, `get_batch`): a free worker takes the first request that waits, then collects more until
the batch is full or `max_wait_time` has passed since it took the first: not since that request came. The timer is
Tokio's, which rounds up to the next millisecond, so a wait takes about one millisecond longer than it is set.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from mosec import Server, Worker

from benchmarks.live.encoder import ANSWER_BYTES, TextEncoder
from capacity.errors import CapacityError

ROOT = Path(__file__).resolve().parents[2]
MAX_BATCH = 8
MAX_WAIT_MS = 4
ENCODE, ECHO, ECHO_IN_BATCHES = "/encode", "/echo", "/echo-in-batches"
CORE = "LIVE_WORKER_CORE"
START_S = 120.0


def cores() -> tuple[int, int]:
    """Return the core of the server's front and the load generator, and the core of the worker."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


class _Bytes(Worker):
    """A worker whose requests and answers are plain bytes, on the worker's core."""

    req_mime_type = resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        os.sched_setaffinity(0, {int(os.environ[CORE])})

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data


class Encoder(_Bytes):
    """Encodes batches."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder = TextEncoder()
        self._encoder.answers([bytes(32)] * MAX_BATCH)

    def forward(self, data: Sequence[bytes]) -> Sequence[bytes]:
        """Return the vectors of a batch of texts."""
        return self._encoder.answers(data)


class Echo(_Bytes):
    """Answers at once with as many bytes as a vector has."""

    def forward(self, data: bytes) -> bytes:
        """Return an empty answer."""
        return bytes(ANSWER_BYTES)


class EchoInBatches(_Bytes):
    """The same behind the encoder's batching."""

    def forward(self, data: Sequence[bytes]) -> Sequence[bytes]:
        """Return an empty answer for each request."""
        return [bytes(ANSWER_BYTES)] * len(data)


def main() -> None:
    """Serve until terminated."""
    server = Server()
    batching = {"max_batch_size": MAX_BATCH, "max_wait_time": MAX_WAIT_MS}
    server.append_worker(Encoder, route=ENCODE, **batching)
    server.append_worker(Echo, route=ECHO)
    server.append_worker(EchoInBatches, route=ECHO_IN_BATCHES, **batching)
    server.run()


@contextmanager
def running(log: Path) -> Iterator[int]:
    """Run the server and yield its port.

    Raises
    ------
    CapacityError
        When it does not answer within `START_S`; its output is in `log`.
    """
    front, worker = cores()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = ["--address", "127.0.0.1", "--port", str(port), "--timeout", "60000", "--log-level", "warning"]
    environment = os.environ | {CORE: str(worker), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.live.server", *words], env=environment, stdout=output, stderr=output
        )
        os.sched_setaffinity(process.pid, {front})
        try:
            _answering(process, port, log)
            yield port
        finally:
            process.terminate()
            process.wait()


def _answering(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, HTTPException):
            time.sleep(0.1)
        else:
            return
    raise CapacityError(f"the server did not start; see {log}:\n{log.read_text(errors='replace')[-2000:]}")


if __name__ == "__main__":
    main()
