"""The durable store: one SQLite database in a folder, with one writer.

What is written is kept in memory until `commit` brings it into the database in one transaction: all of it, or nothing.
Within that, `item` does the same for one event or timer: if it raises, what it wrote is forgotten, and the rest stands.
Reads look at the item's changes, then the turn's, then a bounded cache, then the database.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
from msgspec import json

from bems.embedded import packing
from bems.embedded.changes import Cache, Changes, Course
from bems.embedded.databases import LOCK, StoreRefused, lock_folder, open_database
from bems.embedded.flush import Numbers, write
from bems.embedded.log_identity import REMEMBER_EVERY_COMMITS, log_path, remember_salt
from bems.embedded.placement import Placement
from bems.embedded.reader import Reader, StoreFailed, StoreLost
from bems.embedded.schema import APPLICATION_ID, DATABASE, MIGRATIONS
from bems.embedded.store import AuditEntry, Due, Letter
from bems.engine import Execution, Stimulus
from bems.tracker.actions import Alert, execution_name
from bems.tracker.contract import Event
from bems.tracker.instants import LATEST, Instant
from bems.tracker.policy import Policy
from bems.tracker.policy_file import dump_policy
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition

NEVER: Instant = 0
"""Before anything can be due."""

CACHED = 20_000
"""So many records, and so many executions, are kept decoded: about 4 kB a pair."""


class SqliteStore(Reader):
    """A Store on disk. It belongs to one thread at a time. What a Reader knows of several rows is what is committed.

    StoreRefused where the folder is in use, or what is in it cannot be used; see `databases`. `inspect` is called once
    the folder is locked, before anything in it is changed, and may refuse it too.
    """

    def __init__(
        self, folder: Path, *, cached: int = CACHED, inspect: Callable[[Path], object] = lambda _: None
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
            self._numbers = Numbers(self._connection)
        except apsw.CorruptError as error:
            self.close()
            raise StoreRefused(f"{self._database} is damaged: {error}") from error
        except BaseException:
            self.close()
            raise
        self._placement = Placement([self._database, log_path(self._database), folder / LOCK])
        self._commits = 0
        self._records: Cache[str, InvoiceRecord] = Cache(cached)
        self._courses: Cache[str, Course] = Cache(cached)
        self._turn, self._now = Changes(), Changes()
        self._unknown: set[str] = set()
        self._no_invoices: set[str] = set()
        self._no_executions: set[str] = set()
        self._earliest = NEVER

    def close(self) -> None:
        """Give the folder up. What was not committed is forgotten; closing twice is harmless."""
        self._connection.close()
        self._lock.close()

    # -- turns

    @contextmanager
    def item(self) -> Iterator[None]:
        """A savepoint: what is written within stands if it ends well, and is forgotten if it raises."""
        self._settle()
        try:
            yield
            self._settle()
        except BaseException:
            self._now = Changes()
            raise

    def _settle(self) -> None:
        """Whatever was written so far stands, as far as the turn does."""
        if self._now:
            self._now.pack()
            self._turn.absorb(self._now)
            self._now = Changes()

    def commit(self) -> None:
        """Make durable what was written since the last time. StoreFailed: it could not be, and is forgotten; or the
        files are no longer under their names, where nobody will find it. From then on every commit fails."""
        self._settle()
        turn = self._turn
        if not turn or self._placement.fault:
            self._refuse_lost()
            return
        lesson = self._packing.lesson()
        try:
            self._execute("BEGIN IMMEDIATE")
            write(self._connection, turn, self._packing, self._numbers)
            self._commits += 1
            if self._commits % REMEMBER_EVERY_COMMITS == 0:
                remember_salt(self._connection, self._database)
            if lesson:
                self._execute("INSERT INTO dictionaries VALUES (?, ?, ?)", lesson)
            self._execute("COMMIT")
        except apsw.Error as error:
            self.rollback()
            raise StoreFailed(f"the turn could not be stored: {error}") from error
        except BaseException:
            self.rollback()
            raise
        # After it and not before: so all that is answered was durable while it could be found.
        self._refuse_lost()
        if lesson:
            self._packing.adopt(*lesson)
        self._numbers.event += len(turn.events)
        self._numbers.transition += len(turn.transitions)
        self._records.update(turn.records)
        self._courses.update(turn.courses)
        self._turn, self._now = Changes(), Changes()
        self._unknown.clear()
        self._no_invoices.clear()
        self._no_executions.clear()

    @property
    def lost(self) -> str | None:
        """Why nobody will find what is written; None as long as somebody will."""
        return self._placement.find_fault()

    def _refuse_lost(self) -> None:
        fault = self.lost
        if fault:
            raise StoreLost(fault)

    def probe(self) -> None:
        """See whether anything can be written at all. StoreFailed where it cannot."""
        self._refuse_lost()
        try:
            # It writes the page that the number is on, whether it is another one or not.
            self._execute(f"PRAGMA user_version = {self._connection.pragma('user_version')}")
        except apsw.Error as error:
            raise StoreFailed(f"the store cannot be written: {error}") from error

    def rollback(self) -> None:
        """Forget what was written since the last commit, and the caches with it."""
        self._turn, self._now = Changes(), Changes()
        self._records.clear()
        self._courses.clear()
        if not self._connection.get_autocommit():
            with suppress(apsw.Error):
                self._execute("ROLLBACK")

    # -- records

    def record(self, invoice_id: str) -> InvoiceRecord | None:
        known = self._now.records.get(invoice_id) or self._turn.records.get(invoice_id) or self._records.get(invoice_id)
        if known is not None or invoice_id in self._no_invoices:
            return known
        record = super().record(invoice_id)
        if record is not None:
            self._records.update({invoice_id: record})
        return record

    def put_record(self, record: InvoiceRecord) -> None:
        self._now.records[record.invoice_id] = record
        self._expect_due(record.check_at)

    def records(self) -> Iterator[InvoiceRecord]:
        """All that are committed, one after the other; nothing may be written meanwhile."""
        for (content,) in self._execute("SELECT record FROM invoices ORDER BY number"):
            yield self._packing.read_record(content)

    # -- executions

    def execution(self, id: str) -> Execution | None:
        course = self._course(id)
        return course.execution if course else None

    def add_execution(self, execution: Execution, definition: str) -> None:
        self._expect_due(execution.due)
        self._now.courses[execution.id] = Course(execution, self._definitions[definition])

    def advance(self, execution: Execution, stimulus: Stimulus, at: Instant) -> None:
        """Its past is part of its row: a run of thousands of stimuli has a large row. KeyError: it was never added."""
        self._expect_due(execution.due)
        course = self._course(execution.id)
        if course is None:
            raise KeyError(execution.id)
        _, definition, stimuli, past = course
        past += packing.pack_stimulus(stimulus, at)
        self._now.courses[execution.id] = Course(execution, definition, stimuli + 1, past)

    def stimuli(self, execution_id: str) -> list[tuple[Stimulus, Instant]]:
        course = self._course(execution_id)
        return packing.read_past(course.stimuli, course.past) if course else []

    def _course(self, id: str) -> Course | None:
        known = self._now.courses.get(id) or self._turn.courses.get(id) or self._courses.get(id)
        if known is not None or id in self._no_executions:
            return known
        row = self._row("SELECT definition, stimuli, body FROM executions WHERE id = ?", id)
        return self._read_course(id, *row) if row else None

    def _read_course(self, id: str, definition: int | None, stimuli: int, body: bytes) -> Course:
        execution, past = self._packing.read_execution(body)
        course = Course(execution, definition, stimuli, past)
        self._courses.update({id: course})
        return course

    # -- policies

    def keep_policy(self, policy: Policy, source: str, now: Instant) -> Instant:
        """Keep the policy that is in force from now on, at once; the instant since when it is. The same policy as the
        newest one is kept once: it may come from somewhere else now."""
        document, newest = dump_policy(policy), next(iter(self.policies(limit=1)), None)
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

    def keep_definition(self, digest: str, text: str) -> None:
        """Keep the text of a definition, at once. Keeping it again changes nothing."""
        if digest not in self._definitions:
            try:
                self._execute("INSERT INTO definitions (digest, text) VALUES (?, ?)", (digest, text))
            except apsw.Error as error:
                raise StoreFailed(f"the definition could not be stored: {error}") from error
            number = self._definitions[digest] = self._connection.last_insert_rowid()
            self._digests[number] = digest

    def definition_of(self, execution_id: str) -> str | None:
        course = self._course(execution_id)
        return self._digests[course.definition] if course and course.definition else None

    # -- what is due

    @property
    def earliest(self) -> Instant:
        """Nothing is due before this, as far as is known without looking, and no letter is to be tried again. What is
        put meanwhile makes it earlier by itself."""
        return self._earliest

    def find_earliest(self) -> Instant:
        """The same, exactly: LATEST if nothing is due. When everything is committed."""
        due, letters = self.due(LATEST + 1, 1), self.letters_due(LATEST, 1)
        instants = [one.at for one in due[:1]] + [letter.retry_at for letter in letters if letter.retry_at is not None]
        self._earliest = min(instants, default=LATEST)
        return self._earliest

    def _expect_due(self, at: Instant | None) -> None:
        if at is not None and at < self._earliest:
            self._earliest = at

    def next_due(self) -> Due | None:
        due = self.due(LATEST + 1, 1)
        return due[0] if due else None

    def due(self, before: Instant, limit: int) -> list[Due]:
        """What is due before an instant, the earliest first, up to `limit` of each kind."""
        courses = {**self._turn.courses, **self._now.courses}
        records = {**self._turn.records, **self._now.records}
        due = [Due(at, "timer", id) for id, (execution, *_) in courses.items() if (at := execution.due) is not None]
        due += [Due(at, "check", id) for id, record in records.items() if (at := record.check_at) is not None]
        due = [one for one in due if one.at < before]
        postponed = {**self._turn.postponed, **self._now.postponed}
        limit += len(courses) + len(records) + len(postponed)
        for at, id in self._rows(
            "SELECT due, id FROM executions WHERE due < ? ORDER BY due, id LIMIT ?", before, limit
        ):
            if id not in courses:
                due.append(Due(at, "timer", id))
        for at, id in self._rows(
            "SELECT check_at, invoice_id FROM invoices WHERE check_at < ? ORDER BY check_at, invoice_id LIMIT ?",
            before,
            limit,
        ):
            if id not in records:
                due.append(Due(at, "check", id))
        return sorted(one for one in due if one not in postponed)

    def postpone(self, due: Due, until: Instant) -> None:
        """Do not say that it is due before `until`, or its record or execution is put anew."""
        self._now.postponed[due] = until

    # -- events and their letters

    def digest(self, event_id: str) -> str | None:
        known = self._now.events.get(event_id) or self._turn.events.get(event_id)
        if known is not None:
            return known.digest
        if event_id in self._unknown:
            return None
        row = self._row("SELECT digest FROM events WHERE event_id = ?", event_id)
        return packing.read_digest(row[0]) if row else None

    def expect(self, events: list[Event]) -> None:
        """These, their invoices and executions will be asked for in this turn: looking for all of them at once takes a
        fraction of the time."""
        ids = {event.event_id for event in events}
        self._unknown = ids.difference(id for (id,) in self._those("SELECT event_id FROM events WHERE event_id", ids))
        ids = {event.invoice_id for event in events if self._records.get(event.invoice_id) is None}
        rows = self._those("SELECT invoice_id, record FROM invoices WHERE invoice_id", ids)
        records = {}
        for id, content in rows:
            # One that cannot be read fails the item that comes upon it, and no other.
            with suppress(Exception):
                records[id] = self._packing.read_record(content)
        self._records.update(records)
        self._no_invoices = ids.difference(id for id, _ in rows)
        # An invoice is stored with its executions: without it there is none.
        self._no_executions = {execution_name(id, 1) for id in self._no_invoices}
        names = {execution_name(record.invoice_id, record.run.number) for record in records.values()}
        for id, *row in self._those("SELECT id, definition, stimuli, body FROM executions WHERE id", names):
            with suppress(Exception):
                self._read_course(id, *row)

    def _those(self, sql: str, ids: set[str]) -> list[Any]:
        if not ids:
            return []
        return self._rows(f"{sql} IN (SELECT value FROM json_each(?))", json.encode(sorted(ids)).decode())

    def add_event(self, event: Event) -> None:
        self._now.events[event.event_id] = event

    def event(self, event_id: str) -> Event | None:
        """The accepted event of that id."""
        known = self._now.events.get(event_id) or self._turn.events.get(event_id)
        if known is not None:
            return known
        return super().event(event_id)

    def letter(self, event_id: str) -> Letter | None:
        for changes in (self._now, self._turn):
            if event_id in changes.letters:
                return changes.letters[event_id]
        row = self._row("SELECT * FROM letters WHERE event_id = ?", event_id)
        return Letter(*row) if row else None

    def put_letter(self, letter: Letter) -> None:
        self._now.letters[letter.event_id] = letter
        self._expect_due(letter.retry_at)

    def drop_letter(self, event_id: str) -> None:
        self._now.letters[event_id] = None

    def letters_due(self, before: Instant, limit: int) -> list[Letter]:
        """Those that are to be tried again before an instant, the earliest first; none that came in this turn."""
        sql = "SELECT * FROM letters WHERE retry_at < ? ORDER BY retry_at LIMIT ?"
        letters = [Letter(*row) for row in self._rows(sql, before, limit)]
        return [letter for letter in letters if self.letter(letter.event_id) == letter]

    # -- what is told to people

    def add_transitions(self, transitions: Iterable[Transition]) -> None:
        """Rows of the time series. The record of their invoice is put in the same turn."""
        self._now.transitions.extend(transitions)

    def add_alert(self, alert: Alert) -> None:
        self._now.alerts.append(alert)

    def command(self, id: str) -> AuditEntry | None:
        known = self._now.commands.get(id) or self._turn.commands.get(id)
        if known is not None:
            return known
        row = self._row("SELECT body FROM commands WHERE id = ?", id)
        return packing.read_entry(row[0]) if row else None

    def add_command(self, entry: AuditEntry) -> None:
        self._now.commands[entry.command.id] = entry
