"""Row writer: writes a group's changes as rows. The caller has begun a transaction."""

from functools import cache
from itertools import chain
from typing import Any

import apsw
from msgspec import structs

from bems.embedded.storage.codec import (
    Codec,
    encode_alert,
    encode_amount,
    encode_audit_entry,
    encode_control_total,
    encode_digest,
)
from bems.embedded.storage.schema import RESOLVED_PREFIX
from bems.embedded.storage.store import AuditEntry
from bems.embedded.storage.unit_of_work import WriteSet
from bems.tracker.control_totals import AlertMessage, CompletenessAlert
from bems.tracker.record import InvoiceRecord

FIRST_OPEN_ROW_NUMBER = 1 << 40
"""First number of open rows, which will be written again. Settled rows are numbered from 1.

So settled rows lie close together. A row shrinks when it settles, and in its old place would leave a page mostly empty.
"""

_EVENTS = "INSERT INTO events VALUES", "(?, ?, ?, ?, ?)", ""
_TRANSITIONS = (
    "INSERT INTO transitions VALUES",
    "(?, coalesce(?, (SELECT last_transition FROM invoices WHERE invoice_id = ?)), ?, ?, ?)",
    "",
)
_INVOICES = [
    (
        """INSERT INTO invoices (number, invoice_id, status, stuck_since, currency, whole, fraction, mark, check_at,
        last_transition, record) VALUES""",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        f"""ON CONFLICT (invoice_id) DO UPDATE SET {number} status = excluded.status,
        stuck_since = excluded.stuck_since, currency = excluded.currency, whole = excluded.whole,
        fraction = excluded.fraction, mark = excluded.mark, check_at = excluded.check_at,
        last_transition = coalesce(excluded.last_transition, last_transition), record = excluded.record""",
    )
    for number in ("", "number = excluded.number,")
]
_EXECUTIONS = [
    (
        "INSERT INTO executions (number, id, definition, due, stimuli, body) VALUES",
        "(?, ?, ?, ?, ?, ?)",
        f"ON CONFLICT (id) DO UPDATE SET {number} due = excluded.due, stimuli = excluded.stimuli, body = excluded.body",
    )
    for number in ("", "number = excluded.number,")
]
"""Statements for `_write_rows`: each is the start, one row's placeholders, and the end. The second one of a pair also
moves the row to a new number."""

_ROWS_PER_STATEMENT = (64, 16, 4, 1)
"""Rows per statement, tried in this order. Every step of a statement releases Python's global interpreter lock. If
another thread waits for the lock, getting it back takes longer than writing a row."""


class RowNumbers:
    """Last row numbers in use, by table.

    `event` and `transition` advance only after a commit, so their numbers have no gaps. The numbers of invoices and
    executions, kept as [open, settled], may have gaps.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.event = self._last("events", "seq")
        self.transition = self._last("transitions", "seq")
        self._invoices = [
            self._last_open("invoices"),
            self._last("invoices", "number", f"WHERE number < {FIRST_OPEN_ROW_NUMBER}"),
        ]
        self._executions = [
            self._last_open("executions"),
            self._last("executions", "number", f"WHERE number < {FIRST_OPEN_ROW_NUMBER}"),
        ]

    def next_invoice(self, settled: bool) -> int:
        self._invoices[settled] += 1
        return self._invoices[settled]

    def next_execution(self, settled: bool) -> int:
        self._executions[settled] += 1
        return self._executions[settled]

    def _last_open(self, table: str) -> int:
        return max(FIRST_OPEN_ROW_NUMBER, self._last(table, "number"))

    def _last(self, table: str, column: str, where: str = "") -> int:
        return self._connection.execute(f"SELECT max({column}) FROM {table} {where}").get or 0


def write_group(connection: apsw.Connection, group: WriteSet, codec: Codec, numbers: RowNumbers) -> None:
    """Write all changes of the group. Its events and transitions get consecutive numbers."""
    _write_events(connection, group, codec, numbers.event)
    rows, newest = _transition_rows(group, codec, numbers.transition)
    _write_rows(connection, _TRANSITIONS, rows)
    records = _compress(codec, "record", group.encoded_records)
    executions = _compress(codec, "execution", group.encoded_executions)
    for settled in (False, True):
        _write_rows(
            connection,
            _INVOICES[settled],
            [
                _invoice_row(numbers.next_invoice(settled), record, newest.get(id), records[id])
                for id, record in group.records.items()
                if (record.wait is None) is settled
            ],
        )
        _write_rows(
            connection,
            _EXECUTIONS[settled],
            [
                (numbers.next_execution(settled), id, definition, execution.due, stimuli, executions[id])
                for id, (execution, definition, stimuli, _) in group.executions.items()
                if execution.is_finished is settled
            ],
        )
    if group.alerts or group.commands or group.dead_letters or group.postponed:
        _write_other_tables(connection, group)
    if group.control_totals:
        _write_control_totals(connection, group)


def _write_events(connection: apsw.Connection, group: WriteSet, codec: Codec, last: int) -> None:
    bodies = _compress(codec, "event", group.encoded_events)
    rows = [
        (seq, id, encode_digest(event.digest), event.invoice_id, bodies[id])
        for seq, (id, event) in enumerate(group.events.items(), last + 1)
    ]
    _write_rows(connection, _EVENTS, rows)


def _compress(codec: Codec, kind: str, bodies: dict[str, bytes]) -> dict[str, bytes]:
    return dict(zip(bodies, codec.compress(kind, list(bodies.values())), strict=True))


def _write_rows(connection: apsw.Connection, statement: tuple[str, str, str], rows: list[tuple[Any, ...]]) -> None:
    done = 0
    for size in _ROWS_PER_STATEMENT:
        while len(rows) - done >= size:
            connection.execute(_sql(statement, size), list(chain.from_iterable(rows[done : done + size])))
            done += size


@cache
def _sql(statement: tuple[str, str, str], rows: int) -> str:
    begin, row, end = statement
    return f"{begin} {', '.join([row] * rows)} {end}"


def _write_other_tables(connection: apsw.Connection, group: WriteSet) -> None:
    connection.executemany(
        "INSERT INTO alerts (id, invoice_id, stage, severity, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        [_alert_row(alert) for alert in group.alerts],
    )
    connection.executemany(
        """INSERT INTO commands (id, invoice_id, operator, accepted_at, verb, result, body)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET accepted_at = excluded.accepted_at, result = excluded.result,
        body = excluded.body""",
        [_command_row(entry) for entry in group.commands.values()],
    )
    for event_id, dead_letter in group.dead_letters.items():
        if dead_letter:
            connection.execute("INSERT OR REPLACE INTO letters VALUES (?, ?, ?, ?, ?, ?)", structs.astuple(dead_letter))
        else:
            connection.execute("DELETE FROM letters WHERE event_id = ?", (event_id,))
    for (at, kind, key), until in group.postponed.items():
        # Only if it is still due at that instant: the same group may have moved it.
        if kind == "timer":
            connection.execute("UPDATE executions SET due = ? WHERE id = ? AND due = ?", (until, key, at))
        else:
            sql = "UPDATE invoices SET check_at = ? WHERE invoice_id = ? AND check_at = ?"
            connection.execute(sql, (until, key, at))


def _alert_row(alert: AlertMessage) -> tuple[Any, ...]:
    if isinstance(alert, CompletenessAlert):
        return alert.id, "", alert.control_total.stage, alert.severity, encode_alert(alert)
    id = RESOLVED_PREFIX * (alert.kind == "resolved") + alert.id
    return id, alert.invoice_id, alert.stage, alert.severity, encode_alert(alert)


def _write_control_totals(connection: apsw.Connection, group: WriteSet) -> None:
    connection.executemany(
        """INSERT INTO control_totals (id, source, stage, since, until, check_at, body) VALUES (?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET check_at = excluded.check_at, body = excluded.body""",
        [
            (
                id,
                state.total.source,
                state.total.stage,
                state.total.since,
                state.total.until,
                state.check_at,
                encode_control_total(state),
            )
            for id, state in group.control_totals.items()
        ],
    )


def _transition_rows(group: WriteSet, codec: Codec, last: int) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """Return the rows, each with the number of its invoice's previous row, and the newest number by invoice id.

    The number of a previous row that is in the database already is None: the statement looks it up.
    """
    newest: dict[str, int] = {}
    rows = []
    bodies = codec.compress("transition", group.encoded_transitions)
    for seq, (transition, body) in enumerate(zip(group.transitions, bodies, strict=True), last + 1):
        id = transition.invoice_id
        rows.append((seq, newest.get(id), id, id, transition.recorded_at, body))
        newest[id] = seq
    return rows, newest


def _invoice_row(number: int, record: InvoiceRecord, newest: int | None, content: bytes) -> tuple[Any, ...]:
    whole, fraction = encode_amount(record.facts.amount)
    return (
        number,
        record.invoice_id,
        record.status,
        record.stuck_since,
        record.facts.currency,
        whole,
        fraction,
        record.mark,
        record.check_at,
        newest,
        content,
    )


def _command_row(entry: AuditEntry) -> tuple[Any, ...]:
    command, result = entry.command, entry.receipt.result
    body = encode_audit_entry(entry)
    return command.id, command.invoice_id, command.operator, command.accepted_at, command.name, result, body
