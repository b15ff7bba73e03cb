"""The cell under test: `bems up` in a separate process, started as a user would."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from bems.tracker.contract import STAGES
from bench.client import Client, Connection, get_json
from bench.events import Event
from bench.processes import cpu_seconds, memory_mb

NO_THROTTLE = "{requests_per_second: 100000, burst: 100000}"
CELLS = f"""cells:
  - name: bench
    region: eu-west-1
    embedded: {{port: 0}}
    limits: {{key: {NO_THROTTLE}, stages: {{{", ".join(f"{stage}: {NO_THROTTLE}" for stage in STAGES)}}}}}
"""
"""The default configuration without rate limits, which would otherwise determine the results."""


class Cell:
    """A running cell with its data in `folder`. `policy` is the text of a policy file, or None for the default."""

    def __init__(self, folder: Path, *, policy: str | None = None, key: str | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        cells = folder.with_suffix(".cells.yaml")
        cells.write_text(CELLS, encoding="utf-8")
        command = [sys.executable, "-m", "bems", "up", "--json", "--store", str(folder), "--cells", str(cells)]
        if policy is not None:
            file = folder.with_suffix(".policy.yaml")
            file.write_text(policy, encoding="utf-8")
            command += ["--policy", str(file)]
        self.started = time.perf_counter()
        with folder.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout
        output = self.process.stdout.readline()
        if not output:
            raise RuntimeError(f"the cell did not start: {folder.with_suffix('.log').read_text()}")
        answer = json.loads(output)
        self.url: str = answer["url"]
        self.key: str = key or answer["key"]
        self.client = Client(self.url, {"x-api-key": self.key, "content-type": "application/json"}, post)

    def connect(self) -> Connection:
        return self.client.connect()

    def cpu_seconds(self) -> float:
        return cpu_seconds([self.process.pid])

    async def wait_for_analytics(self) -> None:
        """Wait until DuckDB has all transitions, which is part of the cost of an event."""
        connection = self.connect()
        while not (await get_json(connection, "/check"))["balanced"]:
            await asyncio.sleep(0.2)
        connection.close()

    def memory_mb(self) -> float:
        return memory_mb([self.process.pid])

    def kill(self) -> None:
        """Kill the process with SIGKILL and wait for its end."""
        self.process.kill()
        self._wait()

    def stop(self) -> None:
        """Stop the process with SIGTERM and wait for its end."""
        self.process.terminate()
        self._wait()

    def _wait(self) -> None:
        self.process.wait(120)
        assert self.process.stdout
        self.process.stdout.close()

    def __enter__(self) -> "Cell":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()


async def post(connection: Connection, event: Event) -> int:
    """Send an event or a batch and return the status. A batch fails unless all of its events were accepted."""
    status, body = await connection.request("POST", f"/invoices/{event.stage}", event.body)
    if status == 207 and body.count(b'"accepted"') != event.number:
        return 503 if b'"unavailable"' in body else 400
    return status
