"""DBOS: its Python library in a FastAPI application on uvicorn, with PostgreSQL."""

from pathlib import Path

from bench.client import Client, Connection
from bench.events import Event
from bench.peers.engine import Engine, free_port, request_status, uvicorn_command
from bench.peers.postgres import Postgres
from bench.peers.setup import install_python, locked_version
from bench.processes import bytes_in


class Dbos(Engine):
    name = "DBOS"
    durable = "yes, fsync"
    connections = (20, 64)

    def __init__(self) -> None:
        super().__init__()
        self._postgres = Postgres()
        self._python = Path()
        self._empty_bytes: dict[Path, int] = {}

    def prepare(self) -> str:
        postgres = self._postgres.prepare()
        self._python = install_python("dbos", "fastapi", "httptools", "uvicorn", "uvloop")
        return f"Python {locked_version('dbos')}, PostgreSQL {postgres}"

    def start(self, folder: Path) -> Client:
        url, port, log = self._postgres.start(self.processes, folder), free_port(), folder / "dbos.log"
        self.processes.start(
            uvicorn_command(self._python, "on_dbos:app", port), log, environment={"DBOS_SYSTEM_DATABASE_URL": url}
        )
        self.processes.wait_until(lambda: request_status(port, "GET", "/health") == 200, log)
        self._empty_bytes.setdefault(folder, self._table_bytes(folder))
        return Client(f"http://127.0.0.1:{port}", {"content-type": "application/json"}, post)

    def stored_bytes(self, folder: Path) -> int:
        """Return the growth of tables and indexes, without the write-ahead log, which is recycled."""
        return self._table_bytes(folder) - self._empty_bytes[folder]

    def _table_bytes(self, folder: Path) -> int:
        return bytes_in(folder / "pg" / "data" / "base")


async def post(connection: Connection, event: Event) -> int:
    """Send an event. The response follows when the workflow is started or its message is stored."""
    status, _ = await connection.request("POST", f"/invoices/{event.stage}", event.body)
    return status
