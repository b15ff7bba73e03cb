"""The parked wait that the migration to version 4 stores, for invoices with several waits."""

from typing import Any

import apsw
import msgspec
import pytest

from bems.embedded.storage.migration_v4 import _read_parked_wait


def row(at: int, kind: str, **more: Any) -> tuple[int, dict[str, Any]]:
    waiting = "AwaitingAuthorization"
    return at, {"recorded_at": at, "kind": kind, "from_status": waiting, "to_status": waiting, **more}


RECEIVED = row(100, "event", from_status=None)
ALERT = row(200, "alert", outcome="stuck")
PARK = "authorization"


@pytest.mark.parametrize(
    ("rows", "since", "step"),
    [
        ([RECEIVED, ALERT, row(201, "park", stage=PARK)], 100, 1),
        # Revived, and parked again before any alert.
        ([RECEIVED, ALERT, row(201, "park", stage=PARK), row(300, "revive"), row(400, "park", stage=PARK)], 300, 0),
        # The report of a dispute began a new wait.
        ([RECEIVED, ALERT, row(300, "alert", outcome="dispute"), row(400, "park", stage=PARK)], 300, 0),
    ],
)
def test_a_parked_invoice_has_the_wait_that_was_given_up_last(rows: list[Any], since: int, step: int) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE alerts (seq INTEGER PRIMARY KEY, invoice_id TEXT, body BLOB)")
    alert = {"kind": "stuck", "stage": PARK, "raised_at": 200, "waiting_since": 100, "step": 1}
    connection.execute("INSERT INTO alerts VALUES (1, 'I', ?)", (msgspec.msgpack.encode(alert),))
    parked = _read_parked_wait(connection, "I", rows)
    assert (parked["at"], parked["since"], parked["step"]) == (rows[-1][0], since, step)
    connection.close()
