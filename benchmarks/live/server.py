"""The server: mosec, a Rust front on one core and a Python worker on the other; `python -m benchmarks.live.server`.

mosec 0.9.8 (src/protocol.rs, `get_batch`): a free worker takes the first request that waits, then collects more until
the batch is full or `max_wait_time` has passed since it took the first: not since that request came. The timer is
Tokio's, which rounds up to the next millisecond, so a wait takes about one millisecond longer than it is set.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil
from mosec import Server, Worker

from benchmarks.live.encoder import ANSWER_BYTES, TextEncoder, agree
from benchmarks.live.load import pinned
from capacity.errors import CapacityError

ROOT = Path(__file__).resolve().parents[2]
MAX_BATCH = 8
MAX_WAIT_MS = 4
ENCODE, ECHO, ECHO_IN_BATCHES = "/encode", "/echo", "/echo-in-batches"
CORE = "LIVE_WORKER_CORE"
START_S = 120.0
STOP_S = 20.0


class _Bytes(Worker):
    """A worker whose requests and answers are plain bytes, on the worker's core."""

    req_mime_type = resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        os.sched_setaffinity(0, {int(os.environ[CORE])})

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data


class Encoder(_Bytes):
    """Encodes batches."""

    def __init__(self) -> None:
        self._encoder = TextEncoder()  # still on the front's core: the other loads the same beside it
        super().__init__()
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
    server = Server()  # type: ignore[no-untyped-call]
    server.append_worker(Encoder, 1, MAX_BATCH, MAX_WAIT_MS, route=ENCODE)
    server.append_worker(Echo, route=ECHO)
    server.append_worker(EchoInBatches, 1, MAX_BATCH, MAX_WAIT_MS, route=ECHO_IN_BATCHES)
    server.run()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Rig:
    """The running server and the two cores.

    Attributes
    ----------
    port, process
        Of the server.
    front, worker
        Processes on the core that its front shares with the load generator, and on the core of its worker.
    """

    port: int
    process: psutil.Popen
    front: ProcessPoolExecutor
    worker: ProcessPoolExecutor

    def waited_s(self) -> float:
        """Return how long the server's threads were ready so far but others had their cores [s]."""
        waited_s = 0.0
        for each in [self.process, *self.process.children(recursive=True)]:
            for file in Path(f"/proc/{each.pid}/task").glob("*/schedstat"):
                with suppress(OSError):  # a thread that has ended meanwhile
                    waited_s += int(file.read_text().split()[1]) / 1e9
        return waited_s

    def encoded_s(self) -> float:
        """Return how long the encoder's worker, the busiest of all, has worked so far [s]."""
        return float(max(sum(each.cpu_times()[:2]) for each in self.process.children(recursive=True)))

    def others_s(self) -> float:
        """Return how long others, the host of a virtual machine included, have worked on all cores so far [s]."""
        all_s, here = psutil.cpu_times(), psutil.Process()
        busy_s = all_s.user + all_s.nice + all_s.system + all_s.irq + all_s.softirq + all_s.steal
        own = [each.cpu_times() for each in (here, *here.children(recursive=True))]
        return float(busy_s - sum(times.user + times.system for times in own))

    def texts_and_batches(self) -> tuple[float, float]:
        """Return how many texts the encoder has done so far, in how many batches."""
        lines = [line.split() for line in self.get("/metrics").splitlines() if 'stage="Encoder' in line]
        sums = {name.partition("{")[0]: float(value) for name, value in lines if "bucket" not in name}
        return sums.get("mosec_service_batch_size_sum", 0.0), sums.get("mosec_service_batch_size_count", 0.0)

    def get(self, path: str) -> str:
        """Return what the front says at `path`."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=START_S)
        connection.request("GET", path)
        return connection.getresponse().read().decode()


@contextmanager
def rig(log: Path) -> Iterator[Rig]:
    """Run the server and yield it; its output is in `log`.

    Raises
    ------
    CapacityError
        When it does not answer within `START_S`.
    """
    front, *_, worker = (*sorted(os.sched_getaffinity(0)), max(os.sched_getaffinity(0)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = ["--address", "127.0.0.1", "--port", str(port), "--timeout", "60000", "--log-level", "warning"]
    environment = os.environ | {CORE: str(worker), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.live.server", *words]
    with log.open("wb") as output, pinned(front) as generator, pinned(worker) as beside:
        process = psutil.Popen(command, env=environment, stdout=output, stderr=output)
        process.cpu_affinity([front])
        try:
            beside.submit(agree, (), ())  # loads the encoder meanwhile
            found = Rig(port, process, generator, beside)
            _await(found, log)
            yield found
        finally:
            _stop(process)


def _stop(process: psutil.Popen) -> None:
    """End the server and all its workers."""
    with suppress(psutil.NoSuchProcess):
        family = [*process.children(recursive=True), process]
        process.terminate()
        for each in psutil.wait_procs(family, STOP_S)[1]:
            each.kill()
    process.wait()


def _await(found: Rig, log: Path) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and found.process.poll() is None:
        try:
            found.get("/")
        except (OSError, HTTPException):
            time.sleep(0.1)
        else:
            return
    raise CapacityError(f"the server did not start; see {log}:\n{log.read_text(errors='replace')[-2000:]}")


if __name__ == "__main__":
    main()
