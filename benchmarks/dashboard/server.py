"""A Streamlit app in a process of its own: its port, its memory, its end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class App:
    """A script, and the widget that a visitor moves."""

    name: str
    script: Path
    step_key: str
    """Key of the slider that offers a few values, which visitors repeat."""
    new_key: str
    """Key of the input that takes any value."""


OURS = App("ours", ROOT / "dashboard.py", "slide:traffic.peak_rate", "type:traffic.peak_rate")
TOY = App("toy", Path(__file__).with_name("toy.py"), "rate", "rate")


@dataclass(frozen=True, slots=True)
class Server:
    """A running app."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def memory_bytes(self) -> int:
        """Resident memory now [byte]; Linux only."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        (resident_kib,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
        return int(resident_kib) * 1024

    @property
    def cpu_s(self) -> float:
        """User and system time so far [s]; Linux only. Steadier than wall time on a busy machine."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def defects(self) -> list[str]:
        """Lines of its log that a healthy server does not write."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if "Traceback" in line or "Error" in line]


@contextmanager
def started(app: App) -> Iterator[Server]:
    """Start an app on a free port of this machine with the settings of .streamlit/config.toml, and stop it at the end.

    Nothing is waited for: the caller measures until the app answers.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(app.script), "--server.port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "CAPACITY_SCENARIO"}
    environment["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as output:
            flags = ["--server.address", "127.0.0.1", "--server.headless", "true"]
            process = subprocess.Popen([*command, *flags], cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            yield Server(port, process, log)
        finally:
            process.terminate()
            process.wait(timeout=30)
