"""Reader of the committed content of a durable cell.

A reader has its own connection, so that it neither waits for the writer nor blocks it. Everything that the writer has
acknowledged is visible to it.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, cast

import apsw
from msgspec import json

from bems.embedded.storage import codec
from bems.embedded.storage.codec import Codec, Dictionaries
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.policy_history import StoredPolicy
from bems.embedded.storage.schema import COUNT_ALERTS, DATABASE
from bems.embedded.storage.store import AuditEntry, DeadLetter
from bems.engine import Execution, Stimulus
from bems.tracker.actions import Alert, Severity
from bems.tracker.contract import Event, Stage
from bems.tracker.control_totals import AlertMessage, ControlTotalState
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.status import Status
from bems.tracker.transitions import Transition

BUSY_TIMEOUT_MS = 5_000
"""Maximum wait for a locked database. A database is locked for a moment while its log is reset."""


class Counts(NamedTuple):
    """Number of entries of each kind at one moment.

    `alerts` counts no messages of kind `resolved`.
    `dead_letters` counts events that are not applied yet, `set_aside_dead_letters` those of them that are not retried
    automatically.
    """

    events: int
    transitions: int
    alerts: int
    dead_letters: int
    set_aside_dead_letters: int


class Total(NamedTuple):
    """Number and amount of the invoices of one status and currency. `stuck` includes the `parked` ones."""

    status: Status
    currency: str
    invoices: int
    amount: Decimal
    stuck: int
    stuck_amount: Decimal
    parked: int


def stuck_sort_key(record: InvoiceRecord, by_value: bool) -> tuple[Any, ...]:
    """Return the invoice's sort key in the order of `Reader.stuck`."""
    if not by_value:
        return record.stuck_since, record.invoice_id
    whole, fraction = codec.encode_amount(record.facts.amount)
    return record.facts.currency, -whole, -fraction, record.invoice_id


def _amount(half: int, upper: int | None, lower: int | None, fraction: int | None) -> Decimal:
    return (upper or 0) * half + (lower or 0) + Decimal(fraction or 0) / codec.FRACTIONS_PER_UNIT


def open_reader(folder: Path) -> "Reader":
    """Open a reader of the cell in a folder, whose writer runs. Use the reader from one thread at a time."""
    flags = apsw.SQLITE_OPEN_READONLY
    try:
        connection = apsw.Connection(str(folder / DATABASE), flags=flags)
        try:
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            return Reader(connection)
        except BaseException:
            connection.close()
            raise
    except apsw.Error as error:
        raise StoreFailed(f"{folder / DATABASE} could not be read: {error}") from error


class Reader:
    """Reader of a store's committed content. Every method raises StoreFailed when the database cannot be read."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        # No reference to `self`: in a reference cycle only the garbage collector would close the connection.
        self._codec = Codec(_read_dictionaries(connection), lambda: _read_dictionaries(connection))

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Make all reads within the context show the same moment, that of the first read."""
        self._rows("BEGIN")
        try:
            yield
        finally:
            # Some errors end the transaction themselves.
            if not self._connection.get_autocommit():
                self._rows("ROLLBACK")

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except apsw.Error as error:
            raise StoreFailed(f"the store could not be read: {error}") from error

    def _row(self, sql: str, *values: Any) -> Any:
        rows = self._rows(sql, *values)
        return rows[0] if rows else None

    # -- invoices

    def record(self, invoice_id: str) -> InvoiceRecord | None:
        row = self._row("SELECT record FROM invoices WHERE invoice_id = ?", invoice_id)
        return self._codec.decode_record(row[0]) if row else None

    def invoices(
        self,
        *,
        statuses: Collection[Status] | None = None,
        mark: str | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[InvoiceRecord]:
        """Return invoices with an id greater than `after`, ordered by id, with one of the statuses and this mark."""
        rows: list[tuple[str, bytes]] = []
        marked = "AND mark = ?" if mark else "AND ? IS NULL"
        # One index scan per status, so that invoices of a rare status are found without reading all the others.
        for status in (None,) if statuses is None else statuses:
            with_status = "AND status = ?" if status else "AND ? IS NULL"
            sql = f"""SELECT invoice_id, record FROM invoices WHERE invoice_id > ? {with_status} {marked}
                ORDER BY invoice_id LIMIT ?"""
            rows += self._rows(sql, after, status, mark, limit)
        return [self._codec.decode_record(content) for _, content in sorted(rows)[:limit]]

    def stuck(
        self,
        *,
        statuses: Collection[Status] | None = None,
        mark: str | None = None,
        after: tuple[Any, ...] | None = None,
        by_value: bool = False,
        limit: int = 100,
    ) -> list[InvoiceRecord]:
        """Return stuck invoices, the longest waiting first.

        With `by_value` they are ordered by currency code, and within a currency by amount, the greatest first. `after`
        is the `stuck_sort_key` of the record before the first one to return.
        """
        order = "currency, -whole, -fraction, invoice_id" if by_value else "stuck_since, invoice_id"
        condition = "" if statuses is None else f"AND status IN ({', '.join('?' * len(statuses))})"
        condition += " AND mark = ?" if mark else ""
        condition += f" AND ({order}) > ({', '.join('?' * len(after))})" if after else ""
        sql = f"SELECT record FROM invoices WHERE stuck_since IS NOT NULL {condition} ORDER BY {order} LIMIT ?"
        rows = self._rows(sql, *(statuses or ()), *((mark,) if mark else ()), *(after or ()), limit)
        return [self._codec.decode_record(content) for (content,) in rows]

    def totals(self) -> list[Total]:
        """Return counts and amounts by status and currency. Reads an index of all invoices."""
        # SQLite's integer sums overflow with amounts of up to 18 digits. Sums of their upper and lower halves do not.
        half = 1_000_000_000
        sums = ", ".join(
            f"sum({part}) FILTER ({which})"
            for which in ("WHERE TRUE", "WHERE stuck_since IS NOT NULL")
            for part in ("1", f"whole / {half}", f"whole % {half}", "fraction")
        )
        sql = f"""SELECT status, currency, count(*) FILTER (WHERE mark = 'parked'), {sums}
            FROM invoices GROUP BY 1, 2 ORDER BY 1, 2"""
        totals = []
        for status, currency, parked, *parts in self._rows(sql):
            (count, *amount), (stuck, *stuck_amount) = parts[:4], parts[4:]
            totals.append(
                Total(status, currency, count, _amount(half, *amount), stuck or 0, _amount(half, *stuck_amount), parked)
            )
        return totals

    def statuses(self) -> dict[Status, int]:
        """Return the number of invoices of each status. Reads an index of all invoices."""
        return dict(self._rows("SELECT status, count(*) FROM invoices GROUP BY status"))

    def counts(self) -> Counts:
        """Return the number of entries of each kind."""
        sql = f"""SELECT (SELECT coalesce(max(seq), 0) FROM events), (SELECT coalesce(max(seq), 0) FROM transitions),
            ({COUNT_ALERTS}), (SELECT count(*) FROM letters),
            (SELECT count(*) FROM letters WHERE retry_at IS NULL)"""
        return Counts(*self._row(sql))

    def latest(self) -> Instant:
        """Return the instant of the newest transition, 0 if there is none."""
        row = self._row("SELECT recorded_at FROM transitions ORDER BY seq DESC LIMIT 1")
        return row[0] if row else 0

    # -- policies

    def policies(self, *, before: int | None = None, limit: int = 100) -> list[StoredPolicy]:
        """Return policies that are or were in force with a number below `before`, the newest first."""
        return self._policies("?1 IS NULL OR number < ?1", before, limit)

    def policy_at(self, instant: Instant) -> StoredPolicy | None:
        """Return the policy that was in force at an instant, None before the first stored policy."""
        found = self._policies("since <= ?1", instant, 1)
        return found[0] if found else None

    def _policies(self, condition: str, value: int | None, limit: int) -> list[StoredPolicy]:
        until = "(SELECT since FROM policies n WHERE n.number = p.number + 1)"
        sql = f"SELECT *, {until} FROM policies p WHERE {condition} ORDER BY number DESC LIMIT ?2"
        return [StoredPolicy(*row) for row in self._rows(sql, value, limit)]

    # -- executions

    def execution(self, id: str) -> Execution | None:
        row = self._row("SELECT body FROM executions WHERE id = ?", id)
        return self._codec.decode_execution(row[0])[0] if row else None

    def stimuli(self, execution_id: str) -> list[tuple[Stimulus, Instant]]:
        row = self._row("SELECT stimuli, body FROM executions WHERE id = ?", execution_id)
        return codec.decode_stimuli(row[0], self._codec.decode_execution(row[1])[1]) if row else []

    def definition_of(self, execution_id: str) -> str | None:
        sql = "SELECT digest FROM definitions d JOIN executions e ON d.number = e.definition WHERE e.id = ?"
        row = self._row(sql, execution_id)
        return row[0] if row else None

    def definition(self, digest: str) -> str:
        """Return the text of a definition. Raises KeyError for an unknown digest."""
        row = self._row("SELECT text FROM definitions WHERE digest = ?", digest)
        if row is None:
            raise KeyError(digest)
        text: str = row[0]
        return text

    # -- events and dead letters

    def event(self, event_id: str) -> Event | None:
        """Return the accepted event with this id."""
        row = self._row("SELECT digest, invoice_id, body FROM events WHERE event_id = ?", event_id)
        return self._codec.decode_event(event_id, codec.decode_digest(row[0]), row[1], row[2]) if row else None

    def events(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Event]]:
        """Return accepted events with a number greater than `after`, each with its number, in order of acceptance."""
        rows = self._rows(
            "SELECT seq, event_id, digest, invoice_id, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
            after,
            limit,
        )
        decode = self._codec.decode_event
        return [
            (seq, decode(id, codec.decode_digest(digest), invoice_id, body))
            for seq, id, digest, invoice_id, body in rows
        ]

    def events_by_id(self, event_ids: Collection[str]) -> list[tuple[Event, bool]]:
        """Return the accepted events with these ids, each with whether it was applied and is no dead letter."""
        rows = self._rows(
            """SELECT e.event_id, e.digest, e.invoice_id, e.body, l.event_id IS NULL
            FROM events e LEFT JOIN letters l ON l.event_id = e.event_id
            WHERE e.event_id IN (SELECT value FROM json_each(?))""",
            json.encode(sorted(event_ids)).decode(),
        )
        return [
            (self._codec.decode_event(id, codec.decode_digest(digest), invoice_id, body), bool(is_applied))
            for id, digest, invoice_id, body, is_applied in rows
        ]

    def dead_letters(
        self,
        *,
        invoice_id: str | None = None,
        error: str | None = None,
        set_aside: bool | None = None,
        after: str = "",
        limit: int = 1_000,
    ) -> list[DeadLetter]:
        """Return dead letters with an event id greater than `after`, ordered by event id.

        `invoice_id`, `error` (a part of the error text) and `set_aside` (set aside or still retried) select among them.
        """
        sql = """SELECT * FROM letters WHERE event_id > ?1 AND (?2 IS NULL OR invoice_id = ?2)
            AND (?3 IS NULL OR instr(error, ?3)) AND (?4 IS NULL OR (retry_at IS NULL) = ?4)
            ORDER BY event_id LIMIT ?5"""
        aside = None if set_aside is None else int(set_aside)
        return [DeadLetter(*row) for row in self._rows(sql, after, invoice_id, error, aside, limit)]

    # -- transitions, alerts and commands

    def transitions(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Transition]]:
        """Return rows with a number greater than `after`, each with its number.

        Numbers have no gaps, so the last number read is a watermark.
        """
        rows = self._rows("SELECT seq, body FROM transitions WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
        return [(seq, self._codec.decode_transition(body)) for seq, body in rows]

    def timeline(self, invoice_id: str, limit: int = 1_000, offset: int = 0) -> list[Transition]:
        """Return the rows of one invoice, the newest first, without the newest `offset` rows."""
        rows = self._rows(
            """WITH RECURSIVE row (seq, prev, body) AS (
                SELECT seq, prev, body FROM transitions
                WHERE seq = (SELECT last_transition FROM invoices WHERE invoice_id = ?)
                UNION ALL SELECT t.seq, t.prev, t.body FROM row JOIN transitions t ON t.seq = row.prev
            ) SELECT body FROM row LIMIT ? OFFSET ?""",
            invoice_id,
            limit,
            offset,
        )
        return [self._codec.decode_transition(body) for (body,) in rows]

    def alerts(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Alert]]:
        """Return alerts of invoices with a number greater than `after`, each with its number."""
        sql = "SELECT seq, body FROM alerts WHERE seq > ? AND invoice_id > '' ORDER BY seq LIMIT ?"
        return [(seq, codec.decode_alert(body)) for seq, body in self._rows(sql, after, limit)]

    def alert_messages(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, AlertMessage]]:
        """Return all alerts with a number greater than `after`, each with its number, also those of control totals."""
        rows = self._rows("SELECT seq, body FROM alerts WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
        return [(seq, codec.decode_alert_message(body)) for seq, body in rows]

    def newest_alerts(
        self,
        *,
        invoice_id: str | None = None,
        stage: Stage | None = None,
        severity: Severity | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[tuple[int, Alert]]:
        """Return alerts of invoices with a number below `before`, each with its number, the newest first.

        `invoice_id`, `stage` and `severity` select among them.
        """
        conditions = {
            "invoice_id > ?": "" if invoice_id is None else None,
            "invoice_id = ?": invoice_id,
            "stage = ?": stage,
            "severity = ?": severity,
            "seq < ?": before,
        }
        rows = self._newest("alerts", conditions, limit)
        return [(seq, codec.decode_alert(body)) for seq, body in rows]

    def commands(
        self,
        *,
        invoice_id: str | None = None,
        result: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[tuple[int, AuditEntry]]:
        """Return operators' commands with a number below `before`, each with its number, the newest first."""
        conditions = {"invoice_id = ?": invoice_id, "result = ?": result, "seq < ?": before}
        rows = self._newest("commands", conditions, limit)
        return [(seq, codec.decode_audit_entry(body)) for seq, body in rows]

    def command_of(self, event_id: str) -> AuditEntry | None:
        """Return the command that counts as an event with this id (see `Command.event_id`)."""
        row = self._row("SELECT body FROM commands WHERE id = ?", event_id.removeprefix("command "))
        return codec.decode_audit_entry(row[0]) if row else None

    # -- control totals

    def control_total(self, id: str) -> ControlTotalState | None:
        row = self._row("SELECT body FROM control_totals WHERE id = ?", id)
        return codec.decode_control_total(row[0]) if row else None

    def control_totals(
        self,
        *,
        source: str | None = None,
        stage: Stage | None = None,
        since: tuple[Instant, Instant] | None = None,
        before: tuple[Instant, str] | None = None,
        limit: int = 100,
    ) -> list[ControlTotalState]:
        """Return control totals, ordered by the end of their interval and their id, the latest first.

        `since` selects those whose interval begins at or after its first instant and before the second. `before` is the
        end and id of the one before the first to return.
        """
        sql = """SELECT body FROM control_totals WHERE (?1 IS NULL OR source = ?1) AND (?2 IS NULL OR stage = ?2)
            AND (?3 IS NULL OR since >= ?3 AND since < ?4) AND (?5 IS NULL OR (until, id) < (?5, ?6))
            ORDER BY until DESC, id DESC LIMIT ?7"""
        rows = self._rows(sql, source, stage, *(since or (None, None)), *(before or (None, None)), limit)
        return [codec.decode_control_total(body) for (body,) in rows]

    def control_totals_due(self, now: Instant, limit: int = 100) -> list[ControlTotalState]:
        """Return control totals whose next comparison is due at `now`, the longest due first."""
        sql = "SELECT body FROM control_totals WHERE check_at <= ? ORDER BY check_at LIMIT ?"
        return [codec.decode_control_total(body) for (body,) in self._rows(sql, now, limit)]

    def newest_transition(self) -> int:
        """Return the number of the newest transition, 0 if there is none."""
        return int(self._row("SELECT coalesce(max(seq), 0) FROM transitions")[0])

    def _newest(self, table: str, conditions: dict[str, Any], limit: int) -> list[Any]:
        given = {sql: value for sql, value in conditions.items() if value is not None}
        where = f"WHERE {' AND '.join(given)}" if given else ""
        return self._rows(f"SELECT seq, body FROM {table} {where} ORDER BY seq DESC LIMIT ?", *given.values(), limit)


def _read_dictionaries(connection: apsw.Connection) -> Dictionaries:
    dictionaries: Dictionaries = {}
    try:
        for kind, number, content in connection.execute("SELECT kind, number, content FROM dictionaries").fetchall():
            dictionaries.setdefault(str(kind), {})[cast(int, number)] = cast(bytes, content)
    except apsw.Error as error:
        raise StoreFailed(f"the store could not be read: {error}") from error
    return dictionaries
