"""Reading a durable cell: whatever is committed, for those who only look.

A reader has a connection of its own, so that it neither waits for the writer nor makes it wait. What was answered is
there to be read.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, cast

import apsw

from bems.embedded.storage import codec
from bems.embedded.storage.codec import Codec, Dictionaries
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.policy_history import StoredPolicy
from bems.embedded.storage.schema import DATABASE
from bems.embedded.storage.store import AuditEntry, DeadLetter
from bems.engine import Execution, Stimulus
from bems.tracker.actions import Alert, Severity
from bems.tracker.contract import Event, Stage
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.status import Status
from bems.tracker.transitions import Transition

BUSY_TIMEOUT_MS = 5_000
"""Milliseconds to wait for a database that is locked, which a log that is switched over may be for a moment."""


class Counts(NamedTuple):
    """How much there is, all at one moment. `letters` have not been applied, `set_aside` of them will not by itself."""

    events: int
    transitions: int
    alerts: int
    dead_letters: int
    set_aside_dead_letters: int


class Total(NamedTuple):
    """The invoices of a status and currency; `stuck` of them are stuck, `parked` of those are parked."""

    status: Status
    currency: str
    invoices: int
    amount: Decimal
    stuck: int
    stuck_amount: Decimal
    parked: int


def stuck_sort_key(record: InvoiceRecord, by_value: bool) -> tuple[Any, ...]:
    """Where a stuck invoice stands in the list of `Reader.stuck`."""
    if not by_value:
        return record.stuck_since, record.invoice_id
    whole, fraction = codec.encode_amount(record.facts.amount)
    return record.facts.currency, -whole, -fraction, record.invoice_id


def _amount(half: int, upper: int | None, lower: int | None, fraction: int | None) -> Decimal:
    return (upper or 0) * half + (lower or 0) + Decimal(fraction or 0) / codec.FRACTIONS_PER_UNIT


def open_reader(folder: Path) -> "Reader":
    """A reader of the cell in a folder, whose writer runs. It may be used by one thread at a time."""
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
    """The committed content of a store. StoreFailed, of any method: it could not be read."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        # Not by way of ourselves: in a cycle a connection would be left to the garbage collector to close.
        self._codec = Codec(_read_dictionaries(connection), lambda: _read_dictionaries(connection))

    def close(self) -> None:
        """Twice is harmless."""
        self._connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read within is as it was at one moment, that of the first reading."""
        self._rows("BEGIN")
        try:
            yield
        finally:
            # Some errors have ended it already.
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
        """Those behind an id, in the order of their ids; of these statuses, of this mark."""
        rows: list[tuple[str, bytes]] = []
        marked = "AND mark = ?" if mark else "AND ? IS NULL"
        # One walk along the index for each status, so that a rare one is found without looking at all the others.
        for status in (None,) if statuses is None else statuses:
            of = "AND status = ?" if status else "AND ? IS NULL"
            sql = f"""SELECT invoice_id, record FROM invoices WHERE invoice_id > ? {of} {marked}
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
        """Those that are stuck, the longest waiting first; `by_value`, the currencies in the order of their codes and
        the greatest amount of each first. `after` is the `place_of` the record that these follow."""
        place = "currency, -whole, -fraction, invoice_id" if by_value else "stuck_since, invoice_id"
        of = "" if statuses is None else f"AND status IN ({', '.join('?' * len(statuses))})"
        of += " AND mark = ?" if mark else ""
        of += f" AND ({place}) > ({', '.join('?' * len(after))})" if after else ""
        sql = f"SELECT record FROM invoices WHERE stuck_since IS NOT NULL {of} ORDER BY {place} LIMIT ?"
        rows = self._rows(sql, *(statuses or ()), *((mark,) if mark else ()), *(after or ()), limit)
        return [self._codec.decode_record(content) for (content,) in rows]

    def totals(self) -> list[Total]:
        """Counts and amounts by status and currency. It reads an index of all invoices."""
        # SQLite's sums of integers overflow, and amounts have up to 18 digits: their upper and lower halves do not.
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
        """How many invoices are of each status. It reads an index of all of them."""
        return dict(self._rows("SELECT status, count(*) FROM invoices GROUP BY status"))

    def counts(self) -> Counts:
        """How much there is."""
        sql = """SELECT (SELECT coalesce(max(seq), 0) FROM events), (SELECT coalesce(max(seq), 0) FROM transitions),
            (SELECT count(*) FROM alerts), (SELECT count(*) FROM letters),
            (SELECT count(*) FROM letters WHERE retry_at IS NULL)"""
        return Counts(*self._row(sql))

    def latest(self) -> Instant:
        """The latest instant at which something was recorded; 0 where nothing was."""
        row = self._row("SELECT recorded_at FROM transitions ORDER BY seq DESC LIMIT 1")
        return row[0] if row else 0

    # -- policies

    def policies(self, *, before: int | None = None, limit: int = 100) -> list[StoredPolicy]:
        """Every policy that was in force, the newest first; those with a number below `before`."""
        return self._policies("?1 IS NULL OR number < ?1", before, limit)

    def policy_at(self, instant: Instant) -> StoredPolicy | None:
        """The policy that was in force at an instant; None: that is before the first that was kept."""
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
        """KeyError for one that was never kept."""
        row = self._row("SELECT text FROM definitions WHERE digest = ?", digest)
        if row is None:
            raise KeyError(digest)
        text: str = row[0]
        return text

    # -- events and their letters

    def event(self, event_id: str) -> Event | None:
        """The accepted event of that id."""
        row = self._row("SELECT digest, invoice_id, body FROM events WHERE event_id = ?", event_id)
        return self._codec.decode_event(event_id, codec.decode_digest(row[0]), row[1], row[2]) if row else None

    def events(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Event]]:
        """The archive, in the order of acceptance: those behind a number, with theirs."""
        rows = self._rows(
            "SELECT seq, event_id, digest, invoice_id, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
            after,
            limit,
        )
        read = self._codec.decode_event
        return [(seq, read(id, codec.decode_digest(digest), of, body)) for seq, id, digest, of, body in rows]

    def dead_letters(
        self,
        *,
        invoice_id: str | None = None,
        error: str | None = None,
        set_aside: bool | None = None,
        after: str = "",
        limit: int = 1_000,
    ) -> list[DeadLetter]:
        """Those behind an event id, in the order of theirs; of an invoice, with a text in their error, set aside or
        yet to be tried again."""
        sql = """SELECT * FROM letters WHERE event_id > ?1 AND (?2 IS NULL OR invoice_id = ?2)
            AND (?3 IS NULL OR instr(error, ?3)) AND (?4 IS NULL OR (retry_at IS NULL) = ?4)
            ORDER BY event_id LIMIT ?5"""
        aside = None if set_aside is None else int(set_aside)
        return [DeadLetter(*row) for row in self._rows(sql, after, invoice_id, error, aside, limit)]

    # -- what is told to people

    def transitions(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Transition]]:
        """The rows behind a number, with theirs. Numbers have no gaps: the last one read is a watermark."""
        rows = self._rows("SELECT seq, body FROM transitions WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
        return [(seq, self._codec.decode_transition(body)) for seq, body in rows]

    def timeline(self, invoice_id: str, limit: int = 1_000, offset: int = 0) -> list[Transition]:
        """The rows of one invoice, the newest first, without the first `offset` of them."""
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
        """The alerts behind a number, with theirs."""
        rows = self._rows("SELECT seq, body FROM alerts WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
        return [(seq, codec.decode_alert(body)) for seq, body in rows]

    def newest_alerts(
        self,
        *,
        invoice_id: str | None = None,
        stage: Stage | None = None,
        severity: Severity | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[tuple[int, Alert]]:
        """The alerts with a number below `before`, with theirs, the newest first; of an invoice, stage, severity."""
        conditions = {"invoice_id = ?": invoice_id, "stage = ?": stage, "severity = ?": severity, "seq < ?": before}
        rows = self._newest("alerts", conditions, limit)
        return [(seq, codec.decode_alert(body)) for seq, body in rows]

    def commands(
        self, *, invoice_id: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[tuple[int, AuditEntry]]:
        """Operators' commands with a number below `before`, with theirs, the newest first; of an invoice."""
        rows = self._newest("commands", {"invoice_id = ?": invoice_id, "seq < ?": before}, limit)
        return [(seq, codec.decode_audit_entry(body)) for seq, body in rows]

    def command_of(self, event_id: str) -> AuditEntry | None:
        """The command that counts as an event of that id (`Command.event_id`)."""
        row = self._row("SELECT body FROM commands WHERE id = ?", event_id.removeprefix("command "))
        return codec.decode_audit_entry(row[0]) if row else None

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
