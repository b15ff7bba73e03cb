"""Far more than the cell can take: its memory stays bounded, every request is answered, what it accepted is there."""

import asyncio
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import apsw
from msgspec import json

from bems.embedded.clock import SystemClock
from bems.embedded.storage.schema import DATABASE
from bems.embedded.writer import MAX_QUEUED_ITEMS
from tests.cell_process import CellProcess
from tests.embedded.api.calls import sent
from tests.faults.conftest import Figures

SECONDS = 600 if os.environ.get("BEMS_LONG") else 12
CONNECTIONS, BATCH = 200, 100
WIDE = "{requests_per_second: 100000, burst: 100000}"
MAX_ANSWER_SECONDS = 30.0
"""Seconds that an answer may take."""

MAX_MEMORY_MB = 700
"""MB, of which DuckDB may have most."""


class Overload:
    """Connections that send batches as fast as they are answered, all together more than fits into the queue."""

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
        template = sent("ingestion", event_id="%ID%", invoice_id="%ID%", at=SystemClock().now())
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
            begun = time.monotonic()
            status, body = await self._ask(
                reader, writer, b"POST /invoices/ingestion/batch", b'{"events":[%s]}' % b",".join(events)
            )
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self.statuses[status] += 1
            assert status in (207, 429, 503), body
            if status == 207:
                for number, result in enumerate(json.decode(body)["results"], first):
                    self.results[result["status"]] += 1
                    assert result["code"] in (202, 409, 429, 503)
                    self.accepted[number] = result["code"] == 202
        writer.close()

    async def _read(self, until: float) -> None:
        """Somebody looks at an invoice meanwhile, on a connection of his own."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        while time.monotonic() < until:
            begun = time.monotonic()
            status, body = await self._ask(reader, writer, b"GET /invoices/o-0", b"")
            self.slowest_read = max(self.slowest_read, time.monotonic() - begun)
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


def memory(pid: int, what: str = "VmHWM") -> float:
    """MB that the process has, or had at the most."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def test_more_than_it_can_take_is_answered_and_bounded(tmp_path: Path, figures: Figures) -> None:
    log, folder, cells = tmp_path / "errors.log", tmp_path / "cell", tmp_path / "cells.yaml"
    # One key has all of it here: what is looked at is the queue, and not how fast a key may send.
    cells.write_text(
        f"cells: [{{name: full, region: eu-west-1, limits: {{key: {WIDE}, stages: {{ingestion: {WIDE}}}}}}}]"
    )
    with CellProcess(folder, log, "--cells", str(cells), patience=SECONDS + 120) as server:
        overload = Overload(server.url, server.first_key())
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
    assert refused > 0, "it was more than it could take"
    assert overload.slowest < MAX_ANSWER_SECONDS
    assert overload.reads > SECONDS / 10
    assert peak < MAX_MEMORY_MB, f"{peak:.0f} MB"
    assert peak < half * 1.25 + 50, "it does not grow with time"
    offered, throttled = len(overload.accepted), overload.statuses[429] * BATCH
    figures.record(
        f"load past capacity, {CONNECTIONS} connections with {BATCH} events in each request",
        f"{SECONDS} s",
        f"{offered:,} events offered, every one answered: {len(stored):,} accepted and stored, "
        f"{refused:,} answered 503, {throttled:,} 429; slowest answer {overload.slowest:.1f} s, "
        f"of a question meanwhile {overload.slowest_read:.1f} s; at most {peak:.0f} MB",
    )
