"""The flush: how a turn's changes become rows. Whoever calls it has begun a transaction."""

from functools import cache
from itertools import chain
from typing import Any

import apsw
from msgspec import structs

from bems.embedded.storage.codec import Codec, encode_alert, encode_amount, encode_audit_entry, encode_digest
from bems.embedded.storage.store import AuditEntry
from bems.embedded.storage.unit_of_work import WriteSet
from bems.tracker.record import InvoiceRecord
from bems.tracker.status import status_of

FIRST_OPEN = 1 << 40
"""Rows that will be written again are numbered from here on, settled ones from 1, where they lie close together: a
settled row is compressed, and would leave a page that is mostly empty."""

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
"""Statements, as `_write_rows` takes them."""

_ROWS_PER_STATEMENT = (64, 16, 4, 1)
"""Rows in a statement. Around every step of a statement Python's lock is given up, and where another thread waits for
it, getting it back takes longer than writing a row."""


class RowNumbers:
    """The last numbers that were given, by table. `event` and `transition` move on with a commit, so they have no gaps.

    Those of invoices and executions, [open, settled], may have some.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.event = self._last("events", "seq")
        self.transition = self._last("transitions", "seq")
        self._invoices = [self._open("invoices"), self._last("invoices", "number", f"WHERE number < {FIRST_OPEN}")]
        self._executions = [
            self._open("executions"),
            self._last("executions", "number", f"WHERE number < {FIRST_OPEN}"),
        ]

    def invoice(self, settled: bool) -> int:
        self._invoices[settled] += 1
        return self._invoices[settled]

    def execution(self, settled: bool) -> int:
        self._executions[settled] += 1
        return self._executions[settled]

    def _open(self, table: str) -> int:
        return max(FIRST_OPEN, self._last(table, "number"))

    def _last(self, table: str, column: str, where: str = "") -> int:
        return self._connection.execute(f"SELECT max({column}) FROM {table} {where}").get or 0


def write_turn(connection: apsw.Connection, turn: WriteSet, packing: Codec, numbers: RowNumbers) -> None:
    """Write the turn; its events and transitions are numbered without a gap."""
    _write_events(connection, turn, packing, numbers.event)
    rows, newest = _transition_rows(turn, packing, numbers.transition)
    _write_rows(connection, _TRANSITIONS, rows)
    records = _compress(packing, "record", turn.encoded_records)
    courses = _compress(packing, "execution", turn.encoded_executions)
    for settled in (False, True):
        _write_rows(
            connection,
            _INVOICES[settled],
            [
                _invoice_row(numbers.invoice(settled), record, newest.get(id), records[id])
                for id, record in turn.records.items()
                if (record.wait is None) is settled
            ],
        )
        _write_rows(
            connection,
            _EXECUTIONS[settled],
            [
                (numbers.execution(settled), id, definition, execution.due, stimuli, courses[id])
                for id, (execution, definition, stimuli, _) in turn.executions.items()
                if execution.is_finished is settled
            ],
        )
    if turn.alerts or turn.commands or turn.dead_letters or turn.postponed:
        _write_other_tables(connection, turn)


def _write_events(connection: apsw.Connection, turn: WriteSet, packing: Codec, last: int) -> None:
    bodies = _compress(packing, "event", turn.encoded_events)
    rows = [
        (seq, id, encode_digest(event.digest), event.invoice_id, bodies[id])
        for seq, (id, event) in enumerate(turn.events.items(), last + 1)
    ]
    _write_rows(connection, _EVENTS, rows)


def _compress(packing: Codec, kind: str, bodies: dict[str, bytes]) -> dict[str, bytes]:
    return dict(zip(bodies, packing.compress(kind, list(bodies.values())), strict=True))


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


def _write_other_tables(connection: apsw.Connection, turn: WriteSet) -> None:
    connection.executemany(
        "INSERT INTO alerts (id, invoice_id, stage, severity, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        [(alert.id, alert.invoice_id, alert.stage, alert.severity, encode_alert(alert)) for alert in turn.alerts],
    )
    connection.executemany(
        """INSERT INTO commands (id, invoice_id, operator, accepted_at, verb, result, body)
        VALUES (?, ?, ?, ?, ?, ?, ?)""",
        [_command_row(entry) for entry in turn.commands.values()],
    )
    for event_id, letter in turn.dead_letters.items():
        if letter:
            connection.execute("INSERT OR REPLACE INTO letters VALUES (?, ?, ?, ?, ?, ?)", structs.astuple(letter))
        else:
            connection.execute("DELETE FROM letters WHERE event_id = ?", (event_id,))
    for (at, kind, key), until in turn.postponed.items():
        # Only as long as it is the same that is due: somebody may have moved it in the same turn.
        if kind == "timer":
            connection.execute("UPDATE executions SET due = ? WHERE id = ? AND due = ?", (until, key, at))
        else:
            sql = "UPDATE invoices SET check_at = ? WHERE invoice_id = ? AND check_at = ?"
            connection.execute(sql, (until, key, at))


def _transition_rows(turn: WriteSet, packing: Codec, last: int) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """Each row leads to the one before of its invoice, which may be in the database already; and the newest of each."""
    newest: dict[str, int] = {}
    rows = []
    bodies = packing.compress("transition", turn.encoded_transitions)
    for seq, (transition, body) in enumerate(zip(turn.transitions, bodies, strict=True), last + 1):
        id = transition.invoice_id
        rows.append((seq, newest.get(id), id, id, transition.recorded_at, body))
        newest[id] = seq
    return rows, newest


def _invoice_row(number: int, record: InvoiceRecord, newest: int | None, content: bytes) -> tuple[Any, ...]:
    whole, fraction = encode_amount(record.facts.amount)
    return (
        number,
        record.invoice_id,
        status_of(record.outcomes),
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
