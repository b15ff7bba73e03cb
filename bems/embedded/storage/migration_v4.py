"""Migration to version 4, in which an invoice's transitions form a chain of statuses, amounts and currencies.

Up to version 3 every row of a decision held the decision's whole change, so an alert raised together with an event
counted the change twice. The migration recomputes the chained values from events and commands in the order of their
rows. Rows, ids and instants stay. The new fields of records (identity, the parked wait) come from the same rows.

The rules are a copy of the tracker's rules when version 4 was made, because a migration never changes and the tracker
does. For the same reason it reads MessagePack maps instead of the tracker's types.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple, cast

import apsw
import msgspec

from bems.embedded.storage.compression import DictionaryCompressor

_INVOICES_PER_PAGE = 1_000
_MAX_VENDOR_IDS = 4
_ORDER = ("ingestion", "authorization", "reconciliation", "posting")
_NEGATIVE = {
    "ingestion": "cancelled",
    "authorization": "rejected",
    "reconciliation": "mismatched",
    "posting": "failed",
}
_POSITIVE = {"ingestion": "received", "authorization": "approved", "reconciliation": "matched", "posting": "posted"}
_MISSING = {
    "ingestion": "Orphan",
    "authorization": "AwaitingAuthorization",
    "reconciliation": "AwaitingReconciliation",
    "posting": "AwaitingPosting",
}
_REFUSED = {
    "ingestion": "Cancelled",
    "authorization": "Rejected",
    "reconciliation": "Disputed",
    "posting": "PostingFailed",
}

_COLUMNS = """
DROP INDEX invoices_by_status;
DROP INDEX invoices_stuck;
ALTER TABLE invoices DROP COLUMN step;
ALTER TABLE invoices DROP COLUMN since;
ALTER TABLE invoices ADD COLUMN stuck_since INTEGER;
ALTER TABLE invoices ADD COLUMN currency TEXT;
ALTER TABLE invoices ADD COLUMN whole INTEGER;
ALTER TABLE invoices ADD COLUMN fraction INTEGER;
"""
"""`whole` and `fraction` are the invoice's amount: whole units and ten-thousandths, both with the amount's sign. One
SQLite integer cannot hold both: an amount has up to 18 digits before the point."""

_INDEXES = """
-- A covering index: it has every column that totals need, so that they do not read the table itself.
CREATE INDEX invoices_by_status ON invoices (status, invoice_id, currency, whole, fraction, stuck_since, mark);
CREATE INDEX invoices_stuck ON invoices (stuck_since, invoice_id) WHERE stuck_since IS NOT NULL;
"""

_pack = msgspec.msgpack.Encoder().encode
_read = msgspec.msgpack.Decoder().decode

StoredRow = dict[str, Any]


class _Values(NamedTuple):
    """Compressors of the kinds of values that the migration reads or writes."""

    transition: DictionaryCompressor
    record: DictionaryCompressor
    event: DictionaryCompressor


class _Outcome(NamedTuple):
    """Content of a register."""

    status: str
    event_id: str
    occurred_at: int


def migrate_to_v4(connection: apsw.Connection) -> None:
    """Rewrite every transition and record. It takes some hundred microseconds per invoice."""
    dictionaries: dict[str, dict[int, bytes]] = {}
    for kind, number, content in connection.execute("SELECT kind, number, content FROM dictionaries").fetchall():
        dictionaries.setdefault(str(kind), {})[cast(int, number)] = cast(bytes, content)
    values = _Values(*(DictionaryCompressor(dictionaries[kind], dict) for kind in _Values._fields))
    connection.execute(_COLUMNS)
    last = -1
    select = "SELECT number, invoice_id, last_transition, record FROM invoices WHERE number > ? ORDER BY number LIMIT ?"
    while invoices := cast("list[Any]", connection.execute(select, (last, _INVOICES_PER_PAGE)).fetchall()):
        last = invoices[-1][0]
        for number, invoice_id, newest, content in invoices:
            _migrate_record(connection, values, number, invoice_id, newest, _read(values.record.decompress(content)))
    connection.execute(_INDEXES)


def _migrate_record(
    connection: apsw.Connection, values: _Values, number: int, invoice_id: str, newest: int | None, record: StoredRow
) -> None:
    rows = list(_read_rows_backwards(connection, values, newest))[::-1]
    events = _read_events(connection, values, rows)
    replay = _InvoiceReplay()
    for _, row in rows:
        replay.apply(row, events.get(row.get("event_id", "")))
    bodies = values.transition.compress([_pack(row) for _, row in rows])
    connection.executemany(
        "UPDATE transitions SET body = ? WHERE seq = ?",
        [(body, seq) for body, (seq, _) in zip(bodies, rows, strict=True)],
    )
    record |= replay.identity_fields()
    if record.get("mark") == "parked":
        record["parked"] = _read_parked_wait(connection, invoice_id, rows)
    wait = record.get("wait")
    stuck_since = record["parked"]["since"] if "parked" in record else None
    if wait and wait.get("step", 0) > 0:
        stuck_since = wait["since"]
    facts = record["facts"]
    amount = Decimal(facts["amount"])
    whole = int(amount)
    [body] = values.record.compress([_pack(record)])
    connection.execute(
        "UPDATE invoices SET record = ?, stuck_since = ?, currency = ?, whole = ?, fraction = ? WHERE number = ?",
        (body, stuck_since, facts["currency"], whole, int((amount - whole) * 10_000), number),
    )


def _read_rows_backwards(
    connection: apsw.Connection, values: _Values, newest: int | None
) -> Iterator[tuple[int, StoredRow]]:
    """Yield sequence number and content of each row of one invoice, the newest first."""
    while newest is not None:
        found = cast(Any, connection.execute("SELECT prev, body FROM transitions WHERE seq = ?", (newest,)).fetchall())
        [(before, body)] = found
        yield newest, _read(values.transition.decompress(body))
        newest = before


def _read_events(
    connection: apsw.Connection, values: _Values, rows: list[tuple[int, StoredRow]]
) -> dict[str, StoredRow]:
    """Return the events of these rows by id."""
    ids = [row["event_id"] for _, row in rows if row["kind"] == "event"]
    found = connection.execute(
        "SELECT event_id, body FROM events WHERE event_id IN (SELECT value FROM json_each(?))",
        (msgspec.json.encode(ids).decode(),),
    ).fetchall()
    return {str(id): _read(values.event.decompress(cast(bytes, body))) for id, body in found}


def _read_parked_wait(connection: apsw.Connection, invoice_id: str, rows: list[tuple[int, StoredRow]]) -> StoredRow:
    """Return the wait that was given up when the invoice was parked.

    Its start is the one in its newest alert, or else the instant at which the wait began according to the rows.
    """
    at = max(position for position, (_, row) in enumerate(rows) if row["kind"] == "park")
    park = rows[at][1]
    entered = max(
        (row["recorded_at"] for _, row in rows[:at] if _begins_a_wait(row)),
        default=rows[0][1]["recorded_at"],
    )
    parked = {"at": park["recorded_at"], "stage": park["stage"], "since": entered, "step": 0}
    alerts = connection.execute("SELECT body FROM alerts WHERE invoice_id = ? ORDER BY seq", (invoice_id,)).fetchall()
    for (body,) in alerts:
        alert = _read(cast(bytes, body))
        if alert["kind"] == "stuck" and alert["stage"] == park["stage"] and alert["raised_at"] >= entered:
            parked |= {"since": alert["waiting_since"], "step": alert["step"]}
    before = rows[at - 1][1] if at else {}
    if before.get("kind") == "command" and before.get("outcome") == "park":
        id = before["event_id"].removeprefix("command ")
        parked["by"] = connection.execute("SELECT operator FROM commands WHERE id = ?", (id,)).get
    return parked


def _begins_a_wait(row: StoredRow) -> bool:
    """Return whether a wait begins at this row: a change of status, a revival, or a dispute or failed posting."""
    reported = row["kind"] == "alert" and row.get("outcome") in ("dispute", "failed")
    return row["from_status"] != row["to_status"] or row["kind"] == "revive" or reported


class _InvoiceReplay:
    """State of an invoice after the rows applied so far."""

    def __init__(self) -> None:
        self._registers: dict[str, _Outcome] = {}
        self._facts_version: tuple[int, str] | None = None
        self._current: tuple[str | None, str | None, str | None] = (None, None, None)
        """Status, amount and currency."""
        self._vendors: list[str] = []
        self._received: list[list[Any]] = []
        self._closed_at: int | None = None

    def apply(self, row: StoredRow, event: StoredRow | None) -> None:
        """Apply the next row and set its `from_` and `to_` fields. `event` is the stored event of an event's row."""
        before = self._current
        if row["kind"] == "event" and event is not None:
            self._apply_event(row, event)
        elif row["kind"] == "command" and row["outcome"] in ("complete", "cancel"):
            self._apply_command(row)
        for name, value in zip(("status", "amount", "currency"), before, strict=True):
            row[f"from_{name}"] = value
        for name, value in zip(("status", "amount", "currency"), self._current, strict=True):
            row[f"to_{name}"] = value

    def identity_fields(self) -> StoredRow:
        """Return the record's fields from which identity alerts are raised."""
        fields: StoredRow = {"vendor_ids": self._vendors}
        received = sorted(self._received, key=lambda one: one[:2])
        if received:
            fields["first_received"] = received[0]
        if len(received) > 1:
            fields["last_received"] = received[-1]
        if self._closed_at is not None:
            fields["closed_at"] = self._closed_at
        return fields

    def _apply_event(self, row: StoredRow, event: StoredRow) -> None:
        facts, vendor = event["facts"], event["facts"]["vendor"]["id"]
        version = event["occurred_at"], row["event_id"]
        _, amount, currency = self._current
        if self._facts_version is None or version >= self._facts_version:
            self._facts_version, amount, currency = version, facts["amount"], facts["currency"]
        if vendor not in self._vendors and len(self._vendors) < _MAX_VENDOR_IDS:
            self._vendors.append(vendor)
        if event["status"] == "received":
            due_date = (facts.get("payment_terms") or {}).get("due_date")
            received = [event["occurred_at"], row["event_id"], facts["amount"], facts["currency"], vendor]
            self._received.append(received + [due_date] * (due_date is not None))
        row["source"] = facts["source"]["system"]
        if facts.get("attributes"):
            row["attributes"] = facts["attributes"]
        self._set_outcome(event["stage"], _Outcome(event["status"], row["event_id"], event["occurred_at"]))
        self._current = self._status(), amount, currency

    def _apply_command(self, row: StoredRow) -> None:
        stage, at = row["stage"], row["occurred_at"]
        status = _POSITIVE[stage] if row["outcome"] == "complete" else "cancelled"
        overruled = self._registers.get(stage)
        if overruled:
            at = max(at, overruled.occurred_at + 1)
        self._set_outcome(stage, _Outcome(status, row["event_id"], at))
        self._current = (self._status(), *self._current[1:])

    def _set_outcome(self, stage: str, outcome: _Outcome) -> None:
        if outcome.status in ("posted", "cancelled"):
            at = outcome.occurred_at
            self._closed_at = at if self._closed_at is None else min(self._closed_at, at)
        known = self._registers.get(stage)
        if known is None or _rank(stage, outcome) > _rank(stage, known):
            self._registers[stage] = outcome

    def _status(self) -> str:
        for stage in _ORDER:
            register = self._registers.get(stage)
            if register is None:
                return _MISSING[stage]
            if register.status == _NEGATIVE[stage]:
                return _REFUSED[stage]
        return "Posted"


def _rank(stage: str, outcome: _Outcome) -> tuple[int, bool, str]:
    return outcome.occurred_at, outcome.status == _NEGATIVE[stage], outcome.event_id
