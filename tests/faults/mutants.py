"""Mutants: versions of the cell with one promise broken, which the simulation must detect.

A mutant replaces text in the source of a function. It raises LookupError if the source no longer contains the text.

    python -m tests.faults.mutants

prints the first seed that detects each mutant.
"""

import argparse
import inspect
import re
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple
from unittest.mock import patch

from bems.embedded import cell, writer
from bems.embedded.alerting import deliveries, dispatcher, outbox
from bems.embedded.api import event_endpoint
from bems.embedded.storage import database_files, row_writer, sqlite_store
from bems.tracker.instants import DAY
from tests.faults import environment
from tests.faults.invariants import InvariantViolated
from tests.faults.simulation import run_scenario

MAX_MUTANT_STEPS = 4_000
"""Maximum number of steps of a mutant's scenario. Some mutants never become idle; more steps would only take longer."""


class Change(NamedTuple):
    """Replacement of `old` by `new` in the source of the function `name` of `owner`."""

    owner: Any
    name: str
    old: str
    new: str


MUTANTS: dict[str, list[Change]] = {
    "commits are not synced": [
        Change(database_files, "_enable_wal", "synchronous = FULL", "synchronous = OFF"),
    ],
    "commits are synced only at the next checkpoint": [
        Change(database_files, "_enable_wal", "synchronous = FULL", "synchronous = NORMAL"),
    ],
    "a store whose creation was interrupted is rejected": [
        Change(database_files, "_has_side_file", "path.name + suffix", 'path.name + "-wal"'),
    ],
    "events are answered before the commit": [
        Change(
            writer.Writer,
            "_commit_group",
            "            self._store.commit()\n",
            "            for on_result, result in results:\n"
            "                on_result(result)\n"
            "            results, taken = [], []\n"
            "            self._store.commit()\n",
        ),
    ],
    "a failed commit is acknowledged": [
        Change(writer.Writer, "_abort_group", "on_result(error)", "on_result(ACCEPTED)"),
    ],
    "a failed group is stored with the next one": [
        Change(
            sqlite_store.SqliteStore,
            "rollback",
            "self._group_changes, self._item_changes = WriteSet(), WriteSet()",
            "pass",
        ),
    ],
    "a failed item leaves changes behind": [
        Change(sqlite_store.SqliteStore, "savepoint", "self._item_changes = WriteSet()", "self._merge_item()"),
    ],
    "records are cached before the commit and kept after a rollback": [
        Change(
            sqlite_store.SqliteStore,
            "_merge_item",
            "self._item_changes = WriteSet()",
            "self._records.update(self._item_changes.records); self._item_changes = WriteSet()",
        ),
        Change(sqlite_store.SqliteStore, "rollback", "self._records.clear()", "pass"),
    ],
    "a group is stored in two transactions": [
        Change(
            row_writer,
            "write_group",
            "    rows, newest",
            '    connection.execute("COMMIT")\n    connection.execute("BEGIN IMMEDIATE")\n    rows, newest',
        ),
    ],
    "duplicates are not detected": [
        Change(cell.Cell, "handle_event", "if repeat:", "if False:"),
    ],
    "event lookups of a group are reused in the next one": [
        Change(sqlite_store.SqliteStore, "prefetch", "self._unknown_event_ids = ", "self._unknown_event_ids |= "),
        Change(sqlite_store.SqliteStore, "commit", "self._unknown_event_ids.clear()", "pass"),
    ],
    "missing invoices of a group count as missing in the next one": [
        Change(sqlite_store.SqliteStore, "prefetch", "self._absent_invoices = ", "self._absent_invoices |= "),
        Change(sqlite_store.SqliteStore, "commit", "self._absent_invoices.clear()", "pass"),
    ],
    "a failed commit consumes row numbers": [
        Change(
            sqlite_store.SqliteStore,
            "commit",
            "        except apsw.Error as error:\n",
            "        except apsw.Error as error:\n            self._numbers.transition += len(group.transitions)\n",
        ),
    ],
    "a row links to the previous row of another invoice": [
        Change(row_writer, "_transition_rows", "newest.get(id)", "newest.get(id, next(iter(newest.values()), None))"),
    ],
    "a changed timer keeps its old time": [
        Change(
            row_writer,
            "write_group",
            "_EXECUTIONS[settled],",
            '_EXECUTIONS[settled].replace("due = excluded.due,", ""),',
        ),
    ],
    "a changed record keeps its old check time": [
        Change(
            row_writer,
            "write_group",
            "_INVOICES[settled],",
            '_INVOICES[settled].replace("check_at = excluded.check_at,", ""),',
        ),
    ],
    "a timer is stored a day late": [
        Change(
            row_writer, "write_group", "execution.due, stimuli", f"execution.due and execution.due + {DAY}, stimuli"
        ),
    ],
    "a record is checked a day late": [
        Change(row_writer, "_invoice_row", "record.check_at,", f"record.check_at and record.check_at + {DAY},"),
    ],
    "a due item that fails is never retried": [
        Change(writer.Writer, "_fire", "now + RETRY_DELAYS[min(failures, len(RETRY_DELAYS)) - 1]", "1 << 60"),
    ],
    "an item that is due before all others is not found": [
        Change(sqlite_store.SqliteStore, "_lower_due_hint", "at < self._earliest", "at < NEVER"),
    ],
    "values are compressed with a dictionary that is not stored": [
        Change(
            sqlite_store.SqliteStore,
            "commit",
            "if dictionary:\n                self._execute(",
            "if dictionary:\n                (lambda *_: 0)(",
        ),
    ],
    "a dictionary is used although the group that stored it failed": [
        Change(
            sqlite_store.SqliteStore,
            "commit",
            "        dictionary = self._codec.next_dictionary()\n",
            "        dictionary = self._codec.next_dictionary()\n"
            "        if dictionary:\n            self._codec.use_dictionary(*dictionary)\n",
        ),
    ],
    "an item that is long overdue is skipped": [
        Change(
            writer.Writer,
            "_fire",
            "self._cell.fire_due(due, now)",
            "due.at < now - HOUR or self._cell.fire_due(due, now)",
        ),
    ],
    "a wait registered after the clock went back is ignored as late": [
        Change(cell.Cell, "_register_wait", "if record and record.run.number == run", "if False"),
    ],
    "an event whose handling failed is not stored": [
        Change(writer.Writer, "_store_dead_letter", "self._put_dead_letter", "0 and self._put_dead_letter"),
    ],
    "a redriven dead letter is not removed": [
        Change(writer.Writer, "_retry", "self._store.drop_dead_letter(dead_letter.event_id)", "pass"),
    ],
    "an event that was not stored is answered 202": [
        Change(
            event_endpoint,
            "_unavailable_response",
            "return responses.unavailable",
            "return responses.accepted('') if 1 else responses.unavailable",
        ),
    ],
    "an alert does not wait for the previous one": [
        Change(
            outbox.Outbox, "next_per_invoice", "AND older.seq < this.seq", "AND older.seq > this.seq AND older.seq < 0"
        ),
    ],
    "the alert watermark advances before the alerts are in the outbox": [
        Change(
            outbox.Outbox,
            "enqueue",
            "        with self.transaction():\n",
            '        self._execute("UPDATE progress SET seq = ?, alert_id = ?", (seq, newest.id))\n'
            "        with self.transaction():\n",
        ),
    ],
    "an alert is removed before it is sent": [
        Change(
            dispatcher.Dispatcher,
            "_dispatch",
            "self._in_flight[delivery.seq] = attempt",
            "self._in_flight[delivery.seq] = attempt; self._outbox.remove(delivery)",
        ),
    ],
    "a rejected alert is not retried": [
        Change(dispatcher, "_after_failure", 'state="failed" if now >= give_up_at else "waiting"', 'state="failed"'),
        Change(outbox.Outbox, "retry", "WHERE state = 'failed' AND", "WHERE false AND"),
    ],
    "a sent alert is not removed": [
        Change(dispatcher.Dispatcher, "_record_results", "self._outbox.remove(attempt.delivery)", "pass"),
    ],
    "the newest known alert is read again as new": [
        Change(
            deliveries.Deliveries,
            "_enqueue_new_alerts",
            "alerts = source.alert_messages(seq, MAX_ALERTS_PER_READ)",
            "alerts = source.alert_messages(seq and seq - 1, MAX_ALERTS_PER_READ)",
        ),
    ],
}


@contextmanager
def mutant(name: str) -> Iterator[None]:
    """Apply a mutant in the block.

    Replaces the code object of each function, so modules that imported the function run the mutant too.
    """
    real: list[tuple[FunctionType, CodeType]] = []
    try:
        for change in MUTANTS[name]:
            function = inspect.unwrap(getattr(change.owner, change.name))
            real.append((function, function.__code__))
            function.__code__ = _mutated_code(function, change)
        yield
    finally:
        for function, code in reversed(real):
            function.__code__ = code


def _mutated_code(function: FunctionType, change: Change) -> CodeType:
    source = inspect.getsource(function)
    if change.old not in source:
        raise LookupError(f"{change.name} no longer contains {change.old!r}: update the mutant")
    if inspect.isclass(change.owner):
        # The source of a method is indented by one level.
        old, new = (re.sub("^    ", "", text, flags=re.MULTILINE) for text in (change.old, change.new))
    else:
        old, new = change.old, change.new
    namespace: dict[str, Any] = {}
    exec(
        compile(
            "from __future__ import annotations\n" + textwrap.dedent(source).replace(old, new), change.name, "exec"
        ),
        dict(_GLOBALS),
        namespace,
    )
    code: CodeType = inspect.unwrap(namespace[change.name]).__code__
    return code


_GLOBALS = {"contextmanager": contextmanager}
"""Globals that the changed definitions need."""


def find(name: str, first: int, more: int) -> tuple[int, str] | None:
    """Return the first seed from `first` to `first + more` that detects the mutant, and the violation; else None."""
    with mutant(name), patch.object(environment, "MAX_STEPS", MAX_MUTANT_STEPS):
        for seed in range(first, first + more + 1):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    run_scenario(seed, Path(folder))
                except InvariantViolated as broken:
                    return seed, str(broken)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the first seed that detects each mutant.")
    parser.add_argument("name", nargs="?", default="", help="only mutants whose name contains this text")
    parser.add_argument("--max-seeds", type=int, default=300)
    options = parser.parse_args()
    for name in MUTANTS:
        if options.name in name:
            found = find(name, 1, options.max_seeds - 1)
            print(f'    "{name}": {found and found[0]},', flush=True)
            if options.name:
                print(found and found[1])


if __name__ == "__main__":
    main()
