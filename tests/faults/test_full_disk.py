"""A full disk under a running cell: the cell reports it, keeps accepted events and resumes without a restart."""

import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from bems.clock import SystemClock
from bems.embedded.storage.reader import open_reader
from tests.cell_process import POLICY, SPEED, CellProcess
from tests.embedded.api.calls import event_body
from tests.faults.conftest import Figures
from tests.waiting import until

MEGABYTE = 1 << 20
BATCH = 50
TIMEOUT_SECONDS = 90.0


class Disk:
    """The disk with the cell's folder. `fill` leaves at most a megabyte, `free` frees the space again."""

    name = ""
    folder: Path

    def fill(self, server: CellProcess) -> None:
        raise NotImplementedError

    def free(self, server: CellProcess) -> None:
        raise NotImplementedError


class SmallDisk(Disk):
    """A tmpfs of 128 MB, filled by another file."""

    name = "a file system of 128 MB"

    def __init__(self, path: Path) -> None:
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(path)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a small file system, which requires root: {done.stderr.strip()}")
        self.path, self.folder, self._ballast = path, path / "cell", path / "ballast"

    def fill(self, server: CellProcess) -> None:
        assert server.process.poll() is None
        with self._ballast.open("wb") as file:
            try:
                while file.write(b"x" * MEGABYTE):
                    file.flush()
            except OSError:
                pass

    def free(self, server: CellProcess) -> None:
        assert server.process.poll() is None
        self._ballast.unlink()


class Limit(Disk):
    """A limit on the size of files (RLIMIT_FSIZE), which needs no privileges."""

    name = "a limit on the size of files"

    def __init__(self, path: Path) -> None:
        self.folder = path / "cell"

    def fill(self, server: CellProcess) -> None:
        largest = max(path.stat().st_size for path in self.folder.iterdir())
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (largest + MEGABYTE, resource.RLIM_INFINITY))

    def free(self, server: CellProcess) -> None:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture(params=[SmallDisk, Limit], ids=["small", "limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    disk = request.param(tmp_path / "disk") if request.param is SmallDisk else request.param(tmp_path)
    yield disk
    if isinstance(disk, SmallDisk):
        subprocess.run(["umount", "-l", str(disk.path)], check=True)


class Sender:
    """Sends batches and tracks the result of each event."""

    def __init__(self, server: CellProcess, key: str) -> None:
        self._server, self._key, self._clock = server, key, SystemClock()
        self._pool = urllib3.PoolManager(retries=False, timeout=20)
        self.answered: set[str] = set()
        self.unavailable: dict[str, Any] = {}
        self._number = 0

    def ask(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        headers = {"x-api-key": self._key}
        return self._pool.request(method, self._server.url + path, headers=headers, **options)

    def send(self, events: list[Any] | None = None) -> int:
        """Send a batch of new events, or the given ones again. Returns how many events are unavailable so far."""
        if events is None:
            numbers = range(self._number, self._number + BATCH)
            self._number += BATCH
            now = self._clock.now()
            events = [
                event_body(
                    "ingestion", event_id=f"full-{n}", invoice_id=f"INV/{n}", at=now, attributes={"note": "x" * 2000}
                )
                for n in numbers
            ]
        reply = self.ask("POST", "/invoices/ingestion/batch", json={"events": events})
        while reply.status == 429:  # A fast machine exceeds the key's rate limit.
            time.sleep(int(reply.headers["retry-after"]))
            reply = self.ask("POST", "/invoices/ingestion/batch", json={"events": events})
        assert reply.status == 207, reply.data
        for event, result in zip(events, reply.json()["results"], strict=True):
            id = event["event_id"]
            if result["code"] == 202:
                assert result["status"] == ("duplicate" if id in self.answered else "accepted")
                self.answered.add(id)
                self.unavailable.pop(id, None)
            else:
                assert (result["code"], result["status"]) == (503, "unavailable"), result
                self.unavailable[id] = event
        return len(self.unavailable)

    def send_one(self) -> int:
        """Send one of the unavailable events alone, for which there may be space."""
        id, event = next(iter(self.unavailable.items()))
        reply = self.ask("POST", "/invoices/ingestion", json=event)
        if reply.status == 202:
            self.answered.add(id)
            del self.unavailable[id]
        else:
            assert (reply.status, reply.headers["retry-after"]) == (503, "5")
            assert "send it again" in reply.json()["detail"]
        return reply.status


def test_a_cell_reports_a_full_disk_and_resumes_when_there_is_space(
    disk: Disk, tmp_path: Path, figures: Figures
) -> None:
    policy, log = tmp_path / "policy.yaml", tmp_path / "errors.log"
    policy.write_text(POLICY)
    options = "--policy", str(policy), "--speed", str(SPEED)
    with CellProcess(disk.folder, log, *options, timeout=2 * TIMEOUT_SECONDS) as server:
        sender = Sender(server, server.read_admin_key())
        for _ in range(20):
            sender.send()
        disk.fill(server)
        until(lambda: sender.send() > 0)
        stored = len(sender.answered)

        # It reports the full disk to senders and to monitoring; reads still work.
        until(lambda: sender.send_one() == 503)
        health = sender.ask("GET", "/healthz")
        assert (health.status, health.json()["status"]) == (503, "failing")
        assert "could not be stored" in health.json()["store"]
        assert sender.ask("GET", f"/invoices/{'INV%2F0'}").status == 200
        for _ in range(3):
            sender.send()
        refused = len(sender.unavailable)
        assert refused > BATCH

        # It resumes without a restart.
        disk.free(server)
        until(lambda: sender.ask("GET", "/healthz").status == 200)
        again = list(sender.unavailable.values())
        for start in range(0, len(again), BATCH):
            sender.send(again[start : start + BATCH])
        assert not sender.unavailable
        sender.send()
        # Analytics retries with increasing delays.
        until(lambda: sender.ask("GET", "/check").json()["balanced"] is True, TIMEOUT_SECONDS)
        totals = sender.ask("GET", "/check").json()
        assert totals["accepted"] == totals["applied"] == len(sender.answered)
        assert server.end(signal.SIGTERM) == 0
    logged = log.read_text()
    assert "the store is writable again" in logged and logged.count("a group of") < 10, (
        "it must not be logged for every group"
    )
    reader = open_reader(disk.folder)
    events = [event.event_id for _, event in reader.events(limit=100_000)]
    reader.close()
    assert len(events) == len(set(events)) and set(events) == sender.answered
    figures.record(
        f"disk full: {disk.name}",
        "once",
        f"{stored:,} events answered before, {refused} answered 503; all stored once when there was space again",
    )
