"""What every engine is to the measurement, and the processes that it consists of."""

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
"""Seconds within which an engine must have started."""


class EngineUnavailable(Exception):
    """An engine cannot be had here; says why."""


class Processes:
    """The processes of one engine, each with its children. Nothing of them is left after `stop` or `kill`."""

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
        """Start one; what it says goes to `log`. A Ctrl-C of ours does not reach it before we end it."""
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
        """Until it is ready; RuntimeError with its last words when one ended instead, or it takes too long."""
        until = time.monotonic() + START_TIMEOUT_SECONDS
        while not ready():
            ended = any(process.poll() is not None for process, _ in self._started)
            if ended or time.monotonic() > until:
                words = " ".join(log.read_text(errors="replace").split())[-300:] if log.exists() else ""
                raise RuntimeError(f"{'ended at its start' if ended else 'did not start in time'}: {words}")
            time.sleep(0.01)

    def stop(self, timeout_seconds: float = 20.0) -> None:
        """Ask them to end, the newest first; end those that do not."""
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
        """SIGKILL to all of them, children too."""
        _kill(family(self.pids))
        for process, _ in self._started:
            process.wait()
        self._started.clear()


class Engine(ABC):
    """An engine. `start` on a folder that it has left goes on from there."""

    name: ClassVar[str]
    durable: ClassVar[str]
    connections: ClassVar[tuple[int, ...]]
    """Requests in flight; each is a row."""

    recovers: ClassVar[bool] = True

    def __init__(self) -> None:
        self.processes = Processes()

    @abstractmethod
    def prepare(self) -> str:
        """Install what it needs, and answer its version. Raises Missing."""

    @abstractmethod
    def start(self, folder: Path) -> Client: ...

    @abstractmethod
    def stored_bytes(self, folder: Path) -> int | None:
        """Bytes that it keeps on disk, looked at when it has stopped; None if it keeps nothing."""

    def stop(self) -> None:
        self.processes.stop()

    def kill(self) -> None:
        self.processes.kill()

    @property
    def pids(self) -> list[int]:
        return self.processes.pids

    def cpu_seconds(self) -> float:
        """Of server, service and database together."""
        return cpu_seconds(self.pids)

    def memory_mb(self) -> float:
        """Resident; where the system tells, a page that several share is counted once."""
        return sum(_resident_bytes(process) for process in family(self.pids)) / 1e6

    @contextmanager
    def running(self, folder: Path) -> Iterator[Client]:
        """Started over a folder, and stopped whatever happens."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield self.start(folder)
        finally:
            self.stop()


def kill_children() -> None:
    """End every process that this one has started and that is still there."""
    _kill(psutil.Process().children(recursive=True))


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def request_status(port: int, method: str, path: str, body: bytes | None = None) -> int:
    """The status of one request to the loopback; 0 when there was no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def uvicorn_command(python: Path, app: str, port: int) -> list[str | Path]:
    """The command that serves an application of `services`."""
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
