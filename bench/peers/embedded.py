"""Our cell with single-event requests: `bems up`, as in the benchmark of the cell."""

from importlib.metadata import version
from pathlib import Path

from bench.cell import Cell
from bench.client import Client
from bench.peers.engine import Engine
from bench.processes import bytes_in


class Embedded(Engine):
    name = "BEMS, embedded cell"
    durable = "yes, fsync"
    connections = (20, 200)

    def __init__(self) -> None:
        super().__init__()
        self._cell: Cell | None = None
        self._keys: dict[Path, str] = {}

    def prepare(self) -> str:
        return version("bems")

    def start(self, folder: Path) -> Client:
        self._cell = Cell(folder / "cell", key=self._keys.get(folder))
        self._keys[folder] = self._cell.key
        return self._cell.client

    def stored_bytes(self, folder: Path) -> int:
        """Return the size of the store, which includes the archive of events, and of DuckDB's copy."""
        return bytes_in(folder / "cell")

    def stop(self) -> None:
        if self._cell:
            self._cell.__exit__(None, None, None)
            self._cell = None

    def kill(self) -> None:
        if self._cell:
            self._cell.kill()
            self._cell = None

    @property
    def pids(self) -> list[int]:
        return [self._cell.process.pid] if self._cell else []
