"""Storage: bytes on disk per finished invoice, compared with the bytes of its events."""

from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench.cell import Cell
from bench.events import batches, lifecycles
from bench.figures import Figure
from bench.processes import bytes_in

INVOICES = 20_000


def measure(folder: Path) -> Iterator[Figure]:
    """Measure the bytes of `cell.db` after a clean stop per posted invoice, without and with DuckDB's copy."""
    events = lifecycles(INVOICES)
    with Cell(folder / "storage") as cell:
        result = uvloop.run(cell.client.closed_loop(batches(events), 4))
        cell.stop()
    if result.accepted != len(events):
        raise RuntimeError(f"{len(events)} events were sent and {result.accepted} accepted: {result.statuses}")
    raw = sum(len(event.body) for event in events) / INVOICES
    store = (folder / "storage" / "cell.db").stat().st_size / INVOICES
    whole = bytes_in(folder / "storage") / INVOICES
    yield Figure(
        f"store per finished invoice ({raw:,.0f} bytes were sent of it)",
        f"{store:,.0f} bytes = {store / raw:.2f} x",
        "1.6 x",
        "1.0 x",
        store / raw <= 1.6,
    )
    yield Figure("the same, with DuckDB's copy of the transitions", f"{whole:,.0f} bytes = {whole / raw:.2f} x")
