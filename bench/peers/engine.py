"""Interface of an engine to the benchmark, and its processes."""

import http.client
import os
import pwd
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import psutil

from bench.client import Client
from bench.processes import cpu_seconds, family

SERVICES = Path(__file__).parent / "services"
START_TIMEOUT_SECONDS = 90.0
"""Maximum time for the start of an engine."""


class EngineUnavailable(Exception):
    """An engine is not available here. The message gives the reason."""


class Processes:
    """The processes of one engine with their children. `stop` and `kill` end all of them."""

    def __init__(self) -> None:
        self._started: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []

    @property
    def pids(self) -> list[int]:
        return [process.pid for process, _ in self._started]

    def start(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        environment: dict[str, str] | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Start a process with its output in `log`, in a new session, so that Ctrl-C does not reach it."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=log.parent,
                user=user,
                group=None if user is None else pwd.getpwnam(user).pw_gid,
                extra_groups=None if user is None else [],
                start_new_session=True,
            )
        self._started.append((process, stop_signal))

    def wait_until(self, ready: Callable[[], bool], log: Path) -> None:
        """Wait until the engine is ready. Raises RuntimeError with the end of the log if it ended or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not ready():
            ended = any(process.poll() is not None for process, _ in self._started)
            if ended or time.monotonic() > deadline:
                log_end = " ".join(log.read_text(errors="replace").split())[-300:] if log.exists() else ""
                raise RuntimeError(f"{'ended at its start' if ended else 'did not start in time'}: {log_end}")
            time.sleep(0.01)

    def stop(self, timeout_seconds: float = 20.0) -> None:
        """Stop the processes, the newest first, and kill those that do not end in time."""
        for process, ended_by in reversed(self._started):
            members = family([process.pid])
            if process.poll() is None:
                process.send_signal(ended_by)
            try:
                process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _kill(members)
                process.wait()
        self._started.clear()

    def kill(self) -> None:
        """Kill all processes and their children with SIGKILL."""
        _kill(family(self.pids))
        for process, _ in self._started:
            process.wait()
        self._started.clear()


class Engine(ABC):
    """An engine. `start` on a folder that it used before resumes with that data."""

    name: ClassVar[str]
    durable: ClassVar[str]
    connections: ClassVar[tuple[int, ...]]
    """Numbers of requests in flight; each gives a row of the results."""

    recovers: ClassVar[bool] = True

    def __init__(self) -> None:
        self.processes = Processes()

    @abstractmethod
    def prepare(self) -> str:
        """Install the engine and return its version. Raises EngineUnavailable."""

    @abstractmethod
    def start(self, folder: Path) -> Client: ...

    @abstractmethod
    def stored_bytes(self, folder: Path) -> int | None:
        """Return the bytes on disk after a stop, or None if the engine stores nothing."""

    def stop(self) -> None:
        self.processes.stop()

    def kill(self) -> None:
        self.processes.kill()

    @property
    def pids(self) -> list[int]:
        return self.processes.pids

    def cpu_seconds(self) -> float:
        """Return the CPU time of server, service and database together."""
        return cpu_seconds(self.pids)

    def memory_mb(self) -> float:
        """Return the resident memory. Where the system supports it, a shared page is counted once."""
        return sum(_resident_bytes(process) for process in family(self.pids)) / 1e6

    @contextmanager
    def running(self, folder: Path) -> Iterator[Client]:
        """Run the engine with its data in `folder` inside the block."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield self.start(folder)
        finally:
            self.stop()


def kill_children() -> None:
    """Kill all running children of this process."""
    _kill(psutil.Process().children(recursive=True))


def free_port() -> int:
    """Return an unused port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def request_status(port: int, method: str, path: str, body: bytes | None = None) -> int:
    """Send a request to the loopback interface and return its status, or 0 without a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def uvicorn_command(python: Path, app: str, port: int) -> list[str | Path]:
    """Return the command that serves an application of `services`."""
    command: list[str | Path] = [python, "-m", "uvicorn", "--app-dir", SERVICES, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    return [*command, "--log-level", "warning", app]


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(processes, timeout=10)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.rss)
    except psutil.Error:
        return 0
