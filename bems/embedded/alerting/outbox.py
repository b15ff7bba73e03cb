"""Outbox: outstanding deliveries, in a separate database next to the store.

The outbox cannot be rebuilt from the store without sending every alert again, so an invalid file is refused. If the
file is missing, a new one starts at the first alert; every alert is then sent at least once.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
from msgspec import json

from bems.embedded.alerting.delivery import Delivery, DeliveryState
from bems.embedded.storage.codec import decode_alert_message, encode_alert
from bems.embedded.storage.database_files import Migration, inspect_database, open_database
from bems.embedded.storage.errors import StoreLost
from bems.embedded.storage.file_guard import FileGuard
from bems.embedded.storage.wal_identity import wal_path
from bems.tracker.actions import Severity
from bems.tracker.control_totals import AlertMessage, CompletenessAlert
from bems.tracker.instants import Instant

APPLICATION_ID = 0x42454D44
"""SQLite application id in the file header: `BEMD`."""

DATABASE = "deliveries.db"

_SCHEMA = """
CREATE TABLE deliveries (
    destination TEXT NOT NULL, seq INTEGER NOT NULL, alert_id TEXT NOT NULL, invoice_id TEXT NOT NULL,
    attempts INTEGER NOT NULL, due INTEGER NOT NULL, tried_at INTEGER, state TEXT NOT NULL, error TEXT,
    alert BLOB NOT NULL, UNIQUE (destination, seq)
) STRICT;
CREATE INDEX deliveries_due ON deliveries (destination, due, seq) WHERE state = 'waiting';
CREATE INDEX deliveries_of_invoice ON deliveries (destination, invoice_id, seq) WHERE state = 'waiting';
CREATE INDEX deliveries_failed ON deliveries (alert_id) WHERE state = 'failed';

-- One row: the last alert that was enqueued, and the number of successful deliveries.
CREATE TABLE progress (seq INTEGER NOT NULL, alert_id TEXT, delivered INTEGER NOT NULL) STRICT;
INSERT INTO progress VALUES (0, NULL, 0);
"""

_OUTAGES_SCHEMA = """
-- Destinations with an outage, and its start. One row covers all waiting deliveries that were never attempted
-- themselves, so that the cost of an outage's start and end does not depend on the number of waiting deliveries.
CREATE TABLE outages (destination TEXT NOT NULL PRIMARY KEY, since INTEGER NOT NULL) STRICT;
INSERT INTO outages SELECT destination, min(tried_at) FROM deliveries
    WHERE state = 'waiting' AND attempts = 0 AND tried_at IS NOT NULL GROUP BY destination;
UPDATE deliveries SET tried_at = NULL WHERE state = 'waiting' AND attempts = 0 AND tried_at IS NOT NULL;
CREATE INDEX deliveries_tried ON deliveries (destination, tried_at) WHERE state = 'waiting' AND tried_at IS NOT NULL;
"""

# A delivery that was never attempted counts as tried since the start of the outage, or since it became due if that is
# later.
_TRIED_AT = """coalesce(this.tried_at, (
    SELECT max(this.due, outages.since) FROM outages
    WHERE outages.destination = this.destination AND this.state = 'waiting'
))"""
_COLUMNS = f"destination, seq, alert, attempts, due, {_TRIED_AT}, state, error"


class Outbox:
    """Outbox of a cell's folder. Thread-safe; the caller holds the folder's lock.

    The constructor raises StoreUnusable, before it writes anything, if the file is not an outbox, is damaged or has a
    later version. Every method raises apsw.Error if the file cannot be read or written; the transaction is then rolled
    back.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        self._connection = _open(folder / DATABASE)
        self._execute = self._connection.execute
        self._file_guard = FileGuard([folder / DATABASE, wal_path(folder / DATABASE)])

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the calls inside the block in one transaction."""
        with self._lock, self._connection:
            yield

    # -- new alerts

    def last_enqueued(self) -> tuple[int, str | None]:
        """Return the number and id of the last alert that was enqueued; (0, None) before the first."""
        with self._lock:
            seq, alert_id = self._execute("SELECT seq, alert_id FROM progress").get
            return seq, alert_id

    def enqueue(
        self, alerts: Sequence[tuple[int, AlertMessage]], keys: Mapping[Severity, Sequence[str]], now: Instant
    ) -> None:
        """Add new alerts, with their numbers, for the destinations of their severity. They are due immediately."""
        rows = [
            (key, seq, alert.id, _ordering_key(alert), now, encode_alert(alert))
            for seq, alert in alerts
            for key in keys[alert.severity]
        ]
        seq, newest = alerts[-1]
        with self.transaction():
            self._connection.executemany(
                """INSERT INTO deliveries (destination, seq, alert_id, invoice_id, attempts, due, state, alert)
                VALUES (?, ?, ?, ?, 0, ?, 'waiting', ?)""",
                rows,
            )
            self._execute("UPDATE progress SET seq = ?, alert_id = ?", (seq, newest.id))

    # -- sending

    def next_per_invoice(self, destination: str, limit: int) -> list[Delivery]:
        """Return the oldest waiting delivery of each invoice, sorted by due instant.

        The later deliveries of an invoice wait for its oldest one.
        """
        with self._lock:
            rows = self._execute(
                f"""SELECT {_COLUMNS} FROM deliveries AS this WHERE destination = ? AND state = 'waiting'
                AND NOT EXISTS (
                    SELECT 1 FROM deliveries AS older WHERE older.state = 'waiting'
                    AND older.destination = this.destination AND older.invoice_id = this.invoice_id
                    AND older.seq < this.seq
                ) ORDER BY due, seq LIMIT ?""",
                (destination, limit),
            ).fetchall()
        return [_read(row) for row in rows]

    def remove(self, delivery: Delivery) -> None:
        """Remove a successful delivery."""
        with self.transaction():
            self._execute(
                "DELETE FROM deliveries WHERE destination = ? AND seq = ?", (delivery.destination, delivery.seq)
            )
            self._execute("UPDATE progress SET delivered = delivered + 1")

    def update(self, delivery: Delivery) -> None:
        """Store the state of a delivery after an attempt."""
        with self._lock:
            self._execute(
                """UPDATE deliveries SET attempts = ?, due = ?, tried_at = ?, state = ?, error = ?
                WHERE destination = ? AND seq = ?""",
                (
                    delivery.attempts,
                    delivery.due,
                    delivery.tried_at,
                    delivery.state,
                    delivery.error,
                    delivery.destination,
                    delivery.seq,
                ),
            )

    def start_giveup_timer(self, destination: str, now: Instant) -> None:
        """Start the give-up period of all waiting and new deliveries after a failed probe. Keeps an earlier start."""
        with self._lock:
            self._execute("INSERT OR IGNORE INTO outages VALUES (?, ?)", (destination, now))

    def reset_giveup_timer(self, destination: str) -> None:
        """End the give-up period of deliveries that were never attempted themselves."""
        with self._lock:
            self._execute("DELETE FROM outages WHERE destination = ?", (destination,))

    def give_up(self, destination: str, tried_before: Instant, error: str) -> list[str]:
        """Fail the deliveries whose `tried_at` is at or before an instant. Returns the ids of their alerts."""
        update = f"UPDATE deliveries AS this SET state = 'failed', error = ?, tried_at = {_TRIED_AT}"
        waiting = "WHERE destination = ? AND state = 'waiting'"
        values = (error, destination, tried_before)
        with self.transaction():
            rows = self._execute(f"{update} {waiting} AND tried_at <= ? RETURNING alert_id", values).fetchall()
            since = self._execute("SELECT since FROM outages WHERE destination = ?", (destination,)).get
            if since is not None and since <= tried_before:
                untried = f"{waiting} AND due <= ? AND tried_at IS NULL"
                rows += self._execute(f"{update} {untried} RETURNING alert_id", values).fetchall()
        return [str(alert_id) for (alert_id,) in rows]

    # -- for operators

    def fail_removed_destinations(self, destinations: Sequence[str], error: str) -> int:
        """Fail waiting deliveries whose destination is not among `destinations`. Returns their number."""
        sql = """UPDATE deliveries SET state = 'failed', error = ?
            WHERE state = 'waiting' AND destination NOT IN (SELECT value FROM json_each(?))"""
        return self._change(sql, error, json.encode(destinations).decode())

    def retry(self, destinations: Sequence[str], now: Instant) -> int:
        """Reset failed deliveries to these destinations to new ones and return their number.

        Deliveries that are already waiting become due now. Raises StoreLost if the file was moved or deleted, because
        the change would be lost.
        """
        fault = self._file_guard.find_fault()
        if fault:
            raise StoreLost(fault)
        sql = """UPDATE deliveries SET state = 'waiting', attempts = 0, tried_at = NULL, error = NULL, due = ?
            WHERE state = 'failed' AND destination IN (SELECT value FROM json_each(?))"""
        with self.transaction():
            self._execute("UPDATE deliveries SET due = ?1 WHERE state = 'waiting' AND due > ?1", (now,))
            return self._change(sql, now, json.encode(destinations).decode())

    def _change(self, sql: str, *values: Any) -> int:
        with self._lock:
            self._execute(sql, values)
            return self._connection.changes()

    def delivered(self) -> int:
        """Return the number of successful deliveries since the outbox was created."""
        return self._count("SELECT delivered FROM progress")

    def count(self, state: DeliveryState) -> int:
        return self._count(f"SELECT count(*) FROM deliveries WHERE state = '{state}'")

    def _count(self, sql: str) -> int:
        with self._lock:
            count: int = self._execute(sql).get
            return count

    def entries(self, state: DeliveryState, limit: int, after: tuple[int, str]) -> list[Delivery]:
        """Return deliveries in a state, sorted by (seq, destination), beginning after that pair."""
        sql = f"""SELECT {_COLUMNS} FROM deliveries AS this WHERE state = ? AND (seq, destination) > (?, ?)
            ORDER BY seq, destination LIMIT ?"""
        with self._lock:
            rows = self._execute(sql, (state, *after, limit)).fetchall()
        return [_read(row) for row in rows]


def _ordering_key(alert: AlertMessage) -> str:
    """Return the value of `invoice_id`, by which deliveries wait for each other.

    Alerts of control totals wait for no other. No invoice id has a space.
    """
    return f"alert {alert.id}" if isinstance(alert, CompletenessAlert) else alert.invoice_id


def _read(row: tuple[Any, ...]) -> Delivery:
    destination, seq, alert, *rest = row
    return Delivery(destination, seq, decode_alert_message(alert), *rest)


def _create(connection: apsw.Connection) -> None:
    connection.execute(_SCHEMA)


def _add_outages(connection: apsw.Connection) -> None:
    connection.execute(_OUTAGES_SCHEMA)


MIGRATIONS: tuple[Migration, ...] = (_create, _add_outages)


def inspect_outbox(folder: Path) -> None:
    """Check a folder's whole outbox without writing. Raises StoreUnusable if `Outbox` would."""
    inspect_database(folder / DATABASE, MIGRATIONS, APPLICATION_ID, thorough=True)


def _open(path: Path) -> apsw.Connection:
    inspect_outbox(path.parent)
    return open_database(path, MIGRATIONS, APPLICATION_ID)
