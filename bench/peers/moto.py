"""moto's Step Functions: the emulator's interpreter, in a separate process behind a thin HTTP server.

It is called in process, which costs less than moto's own server and boto3; see `services/on_moto.py`.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.client import Client, Connection
from bench.events import Event
from bench.peers.engine import Engine, EngineUnavailable, free_port, request_status, uvicorn_command


class Moto(Engine):
    name = "moto's Step Functions"
    durable = "no, in memory"
    connections = (8, 32)
    recovers = False

    def prepare(self) -> str:
        try:
            return version("moto")
        except PackageNotFoundError:
            raise EngineUnavailable("moto is not installed in this environment") from None

    def start(self, folder: Path) -> Client:
        port, log = free_port(), folder / "moto.log"
        self.processes.start(uvicorn_command(Path(sys.executable), "on_moto:app", port), log)
        self.processes.wait_until(lambda: request_status(port, "GET", "/health") == 200, log)
        return Client(f"http://127.0.0.1:{port}", {"content-type": "application/json"}, post)

    def stored_bytes(self, folder: Path) -> None:  # noqa: ARG002
        return None


async def post(connection: Connection, event: Event) -> int:
    """Send an event. The response follows when the execution is started or the callback is accepted."""
    status, _ = await connection.request("POST", f"/invoices/{event.stage}", event.body)
    return status
