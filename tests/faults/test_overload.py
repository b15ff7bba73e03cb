"""Load beyond the capacity of a cell: memory is bounded, every request is answered, accepted events are stored."""

import asyncio
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import apsw
from msgspec import json

from bems.clock import SystemClock
from bems.embedded.storage.schema import DATABASE
from bems.embedded.writer import MAX_QUEUED_ITEMS
from tests.cell_process import CellProcess
from tests.embedded.api.calls import event_body
from tests.faults.conftest import Figures

SECONDS = 600 if os.environ.get("BEMS_LONG") else 12
CONNECTIONS, BATCH = 200, 100
NO_LIMIT = "{requests_per_second: 100000, burst: 100000}"
MAX_ANSWER_SECONDS = 30.0
"""Maximum time to an answer."""

MAX_MEMORY_MB = 700
"""Maximum memory of the process, most of which is DuckDB's."""


class Overload:
    """Connections that send batches as fast as possible. Their batches together exceed the queue."""

    def __init__(self, url: str, key: str) -> None:
        assert CONNECTIONS * BATCH > 1.5 * MAX_QUEUED_ITEMS
        found = re.fullmatch(r"http://(.+):(\d+)", url)
        assert found
        self.host, self.port, self.key = found[1], int(found[2]), key
        self.statuses: Counter[int] = Counter()
        self.results: Counter[str] = Counter()
        self.accepted = bytearray()
        self.slowest = self.slowest_read = 0.0
        self.reads = 0
        template = event_body("ingestion", event_id="%ID%", invoice_id="%ID%", at=SystemClock().now())
        self._template = json.encode(template)

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._send(until))
            group.create_task(self._read(until))

    async def _send(self, until: float) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        while time.monotonic() < until:
            first = len(self.accepted)
            self.accepted += bytes(BATCH)
            events = [self._template.replace(b"%ID%", b"o-%d" % number) for number in range(first, first + BATCH)]
            started = time.monotonic()
            status, body = await self._ask(
                reader, writer, b"POST /invoices/ingestion/batch", b'{"events":[%s]}' % b",".join(events)
            )
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.statuses[status] += 1
            assert status in (207, 429, 503), body
            if status == 207:
                for number, result in enumerate(json.decode(body)["results"], first):
                    self.results[result["status"]] += 1
                    assert result["code"] in (202, 409, 429, 503)
                    self.accepted[number] = result["code"] == 202
        writer.close()

    async def _read(self, until: float) -> None:
        """Read an invoice all the time, on a separate connection."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        while time.monotonic() < until:
            started = time.monotonic()
            status, body = await self._ask(reader, writer, b"GET /invoices/o-0", b"")
            self.slowest_read = max(self.slowest_read, time.monotonic() - started)
            assert status in (200, 404, 503), body
            self.reads += 1
            await asyncio.sleep(0.1)
        writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes, body: bytes
    ) -> tuple[int, bytes]:
        head = f"host: cell\r\nx-api-key: {self.key}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        writer.write(b"%s HTTP/1.1\r\n%s\r\n\r\n%s" % (line, head.encode(), body))
        async with asyncio.timeout(MAX_ANSWER_SECONDS):
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer)
            assert length, answer
            return int(answer.split()[1]), await reader.readexactly(int(length[1]))


def memory(pid: int, field: str = "VmHWM") -> float:
    """Return the memory of a process in MB: a field of /proc/PID/status, by default the peak."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def test_overload_is_answered_with_bounded_memory(tmp_path: Path, figures: Figures) -> None:
    log, folder, cells = tmp_path / "errors.log", tmp_path / "cell", tmp_path / "cells.yaml"
    # No rate limits, because the test is about the queue.
    cells.write_text(
        f"cells: [{{name: full, region: eu-west-1, limits: {{key: {NO_LIMIT}, stages: {{ingestion: {NO_LIMIT}}}}}}}]"
    )
    with CellProcess(folder, log, "--cells", str(cells), timeout=SECONDS + 120) as server:
        overload = Overload(server.url, server.read_admin_key())
        asyncio.run(overload.run(SECONDS / 2))
        half = memory(server.process.pid)
        asyncio.run(overload.run(SECONDS / 2))
        peak = memory(server.process.pid)
        assert server.end(signal.SIGTERM) == 0
    assert "Traceback" not in log.read_text()
    connection = apsw.Connection(str(folder / DATABASE), flags=apsw.SQLITE_OPEN_READONLY)
    stored = {int(id[2:]) for (id,) in connection.execute("SELECT event_id FROM events")}
    connection.close()
    assert stored == {number for number, accepted in enumerate(overload.accepted) if accepted}
    assert overload.results["accepted"] == len(stored) > 1_000
    refused = overload.results["unavailable"] + overload.statuses[503] * BATCH
    assert refused > 0, "the load did not exceed the capacity"
    assert overload.slowest < MAX_ANSWER_SECONDS
    assert overload.reads > SECONDS / 10
    assert peak < MAX_MEMORY_MB, f"{peak:.0f} MB"
    assert peak < half * 1.25 + 50, "memory grows with time"
    offered, throttled = len(overload.accepted), overload.statuses[429] * BATCH
    figures.record(
        f"load past capacity, {CONNECTIONS} connections with {BATCH} events in each request",
        f"{SECONDS} s",
        f"{offered:,} events offered, all answered: {len(stored):,} accepted and stored, "
        f"{refused:,} answered 503, {throttled:,} 429; slowest answer {overload.slowest:.1f} s, "
        f"slowest read meanwhile {overload.slowest_read:.1f} s; at most {peak:.0f} MB",
    )
