"""Durable store: one SQLite database in a folder, with one writer.

Changes stay in memory until `commit` writes them to the database in one transaction, all or none. Within a group,
`savepoint` does the same for one item: if the item raises, its changes are discarded and the others stand. Reads look
at the item's changes, then at the group's, then in a bounded cache, then in the database.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
from msgspec import json

from bems.embedded.storage import codec
from bems.embedded.storage.database_files import LOCK_FILE, StoreUnusable, lock_folder, open_database
from bems.embedded.storage.errors import StoreFailed, StoreLost
from bems.embedded.storage.file_guard import FileGuard
from bems.embedded.storage.reader import Reader
from bems.embedded.storage.row_writer import RowNumbers, write_group
from bems.embedded.storage.schema import APPLICATION_ID, DATABASE, MIGRATIONS
from bems.embedded.storage.store import AuditEntry, DeadLetter, DueItem
from bems.embedded.storage.unit_of_work import LruCache, StoredExecution, WriteSet
from bems.embedded.storage.wal_identity import UPDATE_SALT_EVERY_COMMITS, update_salt, wal_path
from bems.engine import Execution, Stimulus
from bems.tracker.actions import Alert, execution_name
from bems.tracker.contract import Event
from bems.tracker.control_totals import CompletenessAlert, ControlTotalState
from bems.tracker.instants import LATEST, Instant
from bems.tracker.policy import Policy
from bems.tracker.policy_file import policy_to_json
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition

DUE_UNKNOWN: Instant = 0
"""Due hint before the first look at the database: anything may be due."""

MAX_CACHED_ITEMS = 20_000
"""Maximum number of decoded records, and of decoded executions, in the cache. A pair takes about 4 kB."""


class SqliteStore(Reader):
    """Store on disk, for one thread at a time. Lists and totals, inherited from Reader, show committed data only.

    Raises StoreUnusable if the folder is in use or its files cannot be used (see `database_files`). `inspect` is called
    with the folder once it is locked, before anything in it is changed, and may raise StoreUnusable too.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_cached_items: int = MAX_CACHED_ITEMS,
        inspect: Callable[[Path], object] = lambda _: None,
    ) -> None:
        self._lock = lock_folder(folder)
        self._database = folder / DATABASE
        try:
            inspect(folder)
            self._connection = open_database(self._database, MIGRATIONS, APPLICATION_ID)
        except BaseException:
            self._lock.close()
            raise
        try:
            super().__init__(self._connection)
            self._execute = self._connection.execute
            self._definitions: dict[str, int] = dict(self._execute("SELECT digest, number FROM definitions"))
            self._digests = {number: digest for digest, number in self._definitions.items()}
            self._numbers = RowNumbers(self._connection)
        except apsw.CorruptError as error:
            self.close()
            raise StoreUnusable(f"{self._database} is damaged: {error}") from error
        except BaseException:
            self.close()
            raise
        self._file_guard = FileGuard([self._database, wal_path(self._database), folder / LOCK_FILE])
        self._commits = 0
        self._records: LruCache[str, InvoiceRecord] = LruCache(max_cached_items)
        self._executions: LruCache[str, StoredExecution] = LruCache(max_cached_items)
        self._group_changes, self._item_changes = WriteSet(), WriteSet()
        self._unknown_event_ids: set[str] = set()
        self._absent_invoices: set[str] = set()
        self._absent_executions: set[str] = set()
        self._earliest = DUE_UNKNOWN

    def close(self) -> None:
        """Close the database and release the folder. Uncommitted changes are discarded. Idempotent."""
        self._connection.close()
        self._lock.close()

    # -- groups

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Keep the changes made within the context if it ends normally; discard them if it raises."""
        self._merge_item()
        try:
            yield
            self._merge_item()
        except BaseException:
            self._item_changes = WriteSet()
            raise

    def _merge_item(self) -> None:
        """Move the item's changes to the group's."""
        if self._item_changes:
            self._item_changes.encode()
            self._group_changes.merge(self._item_changes)
            self._item_changes = WriteSet()

    def commit(self) -> None:
        """Make all changes since the last commit durable.

        Raises StoreFailed if they cannot be stored; they are discarded then. Raises StoreLost if the files are no
        longer at their paths, where the changes would be lost. From then on every commit fails.
        """
        self._merge_item()
        group = self._group_changes
        if not group or self._file_guard.fault:
            self._raise_if_lost()
            return
        dictionary = self._codec.next_dictionary()
        try:
            self._execute("BEGIN IMMEDIATE")
            write_group(self._connection, group, self._codec, self._numbers)
            self._commits += 1
            if self._commits % UPDATE_SALT_EVERY_COMMITS == 0:
                update_salt(self._connection, self._database)
            if dictionary:
                self._execute("INSERT INTO dictionaries VALUES (?, ?, ?)", dictionary)
            self._execute("COMMIT")
        except apsw.Error as error:
            self.rollback()
            raise StoreFailed(f"the group could not be stored: {error}") from error
        except BaseException:
            self.rollback()
            raise
        # After the commit: so everything that is acknowledged was durable while the files were at their paths.
        self._raise_if_lost()
        if dictionary:
            self._codec.use_dictionary(*dictionary)
        self._numbers.event += len(group.events)
        self._numbers.transition += len(group.transitions)
        self._records.update(group.records)
        self._executions.update(group.executions)
        self._group_changes, self._item_changes = WriteSet(), WriteSet()
        self._unknown_event_ids.clear()
        self._absent_invoices.clear()
        self._absent_executions.clear()

    @property
    def loss(self) -> str | None:
        """Why writes would be lost, or None. See `FileGuard.find_fault`."""
        return self._file_guard.find_fault()

    def _raise_if_lost(self) -> None:
        fault = self.loss
        if fault:
            raise StoreLost(fault)

    def check_writable(self) -> None:
        """Raise StoreFailed if the database cannot be written."""
        self._raise_if_lost()
        try:
            # Setting the version to its present value writes the header page all the same.
            self._execute(f"PRAGMA user_version = {self._connection.pragma('user_version')}")
        except apsw.Error as error:
            raise StoreFailed(f"the store cannot be written: {error}") from error

    def rollback(self) -> None:
        """Discard all changes since the last commit, and the caches."""
        self._group_changes, self._item_changes = WriteSet(), WriteSet()
        self._records.clear()
        self._executions.clear()
        if not self._connection.get_autocommit():
            with suppress(apsw.Error):
                self._execute("ROLLBACK")

    # -- records

    def record(self, invoice_id: str) -> InvoiceRecord | None:
        known = (
            self._item_changes.records.get(invoice_id)
            or self._group_changes.records.get(invoice_id)
            or self._records.get(invoice_id)
        )
        if known is not None or invoice_id in self._absent_invoices:
            return known
        record = super().record(invoice_id)
        if record is not None:
            self._records.update({invoice_id: record})
        return record

    def put_record(self, record: InvoiceRecord) -> None:
        self._item_changes.records[record.invoice_id] = record
        self._lower_due_hint(record.check_at)

    def records(self) -> Iterator[InvoiceRecord]:
        """Yield all committed records. The store must not be written meanwhile."""
        for (content,) in self._execute("SELECT record FROM invoices ORDER BY number"):
            yield self._codec.decode_record(content)

    # -- executions

    def execution(self, id: str) -> Execution | None:
        stored = self._stored_execution(id)
        return stored.execution if stored else None

    def add_execution(self, execution: Execution, definition: str) -> None:
        self._lower_due_hint(execution.due)
        self._item_changes.executions[execution.id] = StoredExecution(execution, self._definitions[definition])

    def append_stimulus(self, execution: Execution, stimulus: Stimulus, at: Instant) -> None:
        """Store the execution's new state together with the stimulus that caused it.

        The stimuli are part of the execution's row, so an execution with thousands of stimuli has a large row. Raises
        KeyError if the execution was never added.
        """
        self._lower_due_hint(execution.due)
        stored = self._stored_execution(execution.id)
        if stored is None:
            raise KeyError(execution.id)
        _, definition, count, stimuli = stored
        stimuli += codec.encode_stimulus(stimulus, at)
        self._item_changes.executions[execution.id] = StoredExecution(execution, definition, count + 1, stimuli)

    def stimuli(self, execution_id: str) -> list[tuple[Stimulus, Instant]]:
        stored = self._stored_execution(execution_id)
        return codec.decode_stimuli(stored.stimuli_count, stored.stimuli_blob) if stored else []

    def _stored_execution(self, id: str) -> StoredExecution | None:
        known = (
            self._item_changes.executions.get(id) or self._group_changes.executions.get(id) or self._executions.get(id)
        )
        if known is not None or id in self._absent_executions:
            return known
        row = self._row("SELECT definition, stimuli, body FROM executions WHERE id = ?", id)
        return self._decode_execution(id, *row) if row else None

    def _decode_execution(self, id: str, definition: int | None, count: int, body: bytes) -> StoredExecution:
        execution, stimuli = self._codec.decode_execution(body)
        stored = StoredExecution(execution, definition, count, stimuli)
        self._executions.update({id: stored})
        return stored

    # -- policies

    def store_policy(self, policy: Policy, source: str, now: Instant) -> Instant:
        """Store the policy that is in force from now on, immediately, and return the instant since when it is.

        A policy equal to the newest one stays in force since its old instant; only its source and document are updated.
        """
        document, newest = policy_to_json(policy), next(iter(self.policies(limit=1)), None)
        try:
            if newest is not None and newest.digest == policy.digest:
                if (newest.source, newest.document) != (source, document):
                    sql = "UPDATE policies SET source = ?, document = ? WHERE number = ?"
                    self._execute(sql, (source, document, newest.number))
                return newest.since
            sql = "INSERT INTO policies (since, digest, source, document) VALUES (?, ?, ?, ?)"
            self._execute(sql, (now, policy.digest, source, document))
        except apsw.Error as error:
            raise StoreFailed(f"the policy could not be stored: {error}") from error
        return now

    # -- definitions

    def store_definition(self, digest: str, text: str) -> None:
        """Store the text of a definition, immediately. Idempotent."""
        if digest not in self._definitions:
            try:
                self._execute("INSERT INTO definitions (digest, text) VALUES (?, ?)", (digest, text))
            except apsw.Error as error:
                raise StoreFailed(f"the definition could not be stored: {error}") from error
            number = self._definitions[digest] = self._connection.last_insert_rowid()
            self._digests[number] = digest

    def definition_of(self, execution_id: str) -> str | None:
        stored = self._stored_execution(execution_id)
        return self._digests[stored.definition] if stored and stored.definition else None

    # -- what is due

    @property
    def next_due_hint(self) -> Instant:
        """Lower bound of the instant of the next due item or dead letter's retry, without reading the database.

        Changes lower it. `refresh_next_due` makes it exact.
        """
        return self._earliest

    def refresh_next_due(self) -> Instant:
        """Read, store as the hint, and return the instant of the next due item or retry; LATEST if there is none.

        Call it when everything is committed.
        """
        due, dead_letters = self.due(LATEST + 1, 1), self.dead_letters_due(LATEST, 1)
        instants = [one.at for one in due[:1]] + [one.retry_at for one in dead_letters if one.retry_at is not None]
        self._earliest = min(instants, default=LATEST)
        return self._earliest

    def _lower_due_hint(self, at: Instant | None) -> None:
        if at is not None and at < self._earliest:
            self._earliest = at

    def next_due(self) -> DueItem | None:
        due = self.due(LATEST + 1, 1)
        return due[0] if due else None

    def due(self, before: Instant, limit: int) -> list[DueItem]:
        """Return items that are due before an instant, the earliest first.

        `limit` bounds the items of each kind that are read; uncommitted changes of the group may add some.
        """
        executions = {**self._group_changes.executions, **self._item_changes.executions}
        records = {**self._group_changes.records, **self._item_changes.records}
        due = [
            DueItem(at, "timer", id) for id, (execution, *_) in executions.items() if (at := execution.due) is not None
        ]
        due += [DueItem(at, "check", id) for id, record in records.items() if (at := record.check_at) is not None]
        due = [one for one in due if one.at < before]
        postponed = {**self._group_changes.postponed, **self._item_changes.postponed}
        limit += len(executions) + len(records) + len(postponed)
        for at, id in self._rows(
            "SELECT due, id FROM executions WHERE due < ? ORDER BY due, id LIMIT ?", before, limit
        ):
            if id not in executions:
                due.append(DueItem(at, "timer", id))
        for at, id in self._rows(
            "SELECT check_at, invoice_id FROM invoices WHERE check_at < ? ORDER BY check_at, invoice_id LIMIT ?",
            before,
            limit,
        ):
            if id not in records:
                due.append(DueItem(at, "check", id))
        return sorted(one for one in due if one not in postponed)

    def postpone(self, due: DueItem, until: Instant) -> None:
        """Hide the due item until `until`, or until its record or execution is stored again."""
        self._item_changes.postponed[due] = until

    # -- events and dead letters

    def digest(self, event_id: str) -> str | None:
        known = self._item_changes.events.get(event_id) or self._group_changes.events.get(event_id)
        if known is not None:
            return known.digest
        if event_id in self._unknown_event_ids:
            return None
        row = self._row("SELECT digest FROM events WHERE event_id = ?", event_id)
        return codec.decode_digest(row[0]) if row else None

    def prefetch(self, events: list[Event]) -> None:
        """Read these events, their invoices and executions into the caches, for the group that is about to be handled.

        Looking up all of them at once takes a fraction of the time.
        """
        ids = {event.event_id for event in events}
        self._unknown_event_ids = ids.difference(
            id for (id,) in self._rows_in("SELECT event_id FROM events WHERE event_id", ids)
        )
        ids = {event.invoice_id for event in events if self._records.get(event.invoice_id) is None}
        rows = self._rows_in("SELECT invoice_id, record FROM invoices WHERE invoice_id", ids)
        records = {}
        for id, content in rows:
            # A record that cannot be decoded fails only the item that reads it.
            with suppress(Exception):
                records[id] = self._codec.decode_record(content)
        self._records.update(records)
        self._absent_invoices = ids.difference(id for id, _ in rows)
        # An invoice is stored together with its executions: without the invoice there are none.
        self._absent_executions = {execution_name(id, 1) for id in self._absent_invoices}
        names = {execution_name(record.invoice_id, record.run.number) for record in records.values()}
        for id, *row in self._rows_in("SELECT id, definition, stimuli, body FROM executions WHERE id", names):
            with suppress(Exception):
                self._decode_execution(id, *row)

    def _rows_in(self, sql: str, ids: set[str]) -> list[Any]:
        if not ids:
            return []
        return self._rows(f"{sql} IN (SELECT value FROM json_each(?))", json.encode(sorted(ids)).decode())

    def add_event(self, event: Event) -> None:
        self._item_changes.events[event.event_id] = event

    def event(self, event_id: str) -> Event | None:
        """Return the accepted event with this id."""
        known = self._item_changes.events.get(event_id) or self._group_changes.events.get(event_id)
        if known is not None:
            return known
        return super().event(event_id)

    def dead_letter(self, event_id: str) -> DeadLetter | None:
        for changes in (self._item_changes, self._group_changes):
            if event_id in changes.dead_letters:
                return changes.dead_letters[event_id]
        row = self._row("SELECT * FROM letters WHERE event_id = ?", event_id)
        return DeadLetter(*row) if row else None

    def put_dead_letter(self, dead_letter: DeadLetter) -> None:
        self._item_changes.dead_letters[dead_letter.event_id] = dead_letter
        self._lower_due_hint(dead_letter.retry_at)

    def drop_dead_letter(self, event_id: str) -> None:
        self._item_changes.dead_letters[event_id] = None

    def dead_letters_due(self, before: Instant, limit: int) -> list[DeadLetter]:
        """Return dead letters to retry before an instant, the earliest first, without those changed in this group."""
        sql = "SELECT * FROM letters WHERE retry_at < ? ORDER BY retry_at LIMIT ?"
        dead_letters = [DeadLetter(*row) for row in self._rows(sql, before, limit)]
        return [one for one in dead_letters if self.dead_letter(one.event_id) == one]

    # -- transitions and alerts

    def add_transitions(self, transitions: Iterable[Transition]) -> None:
        """Add rows of the time series. The record of their invoice must be stored in the same group."""
        self._item_changes.transitions.extend(transitions)

    def add_alert(self, alert: Alert) -> None:
        self._item_changes.alerts.append(alert)

    # -- control totals

    def control_total(self, id: str) -> ControlTotalState | None:
        known = self._item_changes.control_totals.get(id) or self._group_changes.control_totals.get(id)
        return known or super().control_total(id)

    def put_control_total(self, state: ControlTotalState) -> None:
        self._item_changes.control_totals[state.total.id] = state

    def add_completeness_alert(self, alert: CompletenessAlert) -> None:
        """Add the alert of a control total. One with the same id is added once."""
        self._item_changes.alerts.append(alert)

    # -- commands

    def command(self, id: str) -> AuditEntry | None:
        known = self._item_changes.commands.get(id) or self._group_changes.commands.get(id)
        if known is not None:
            return known
        row = self._row("SELECT body FROM commands WHERE id = ?", id)
        return codec.decode_audit_entry(row[0]) if row else None

    def add_command(self, entry: AuditEntry) -> None:
        self._item_changes.commands[entry.command.id] = entry
