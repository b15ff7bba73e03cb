"""A cell restored from a backup, with later events sent again, equals a cell that never failed.

Both run on a clock that stands still while events arrive, so that they can be compared to the microsecond. A separate
process takes the backup under load.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from zlib import crc32

import duckdb
import pytest

from bems.embedded.analytics.feeder import ANALYTICS
from bems.embedded.cell import Cell as Core
from bems.tracker.contract import Event
from bems.tracker.instants import DAY, SECOND, Instant, parse
from bems.tracker.status import status_of
from tests.embedded.api.calls import Cell, Inbox, ask, run_concurrently
from tests.embedded.event_log import TODAY, make_log, parse_event
from tests.faults.conftest import Figures
from tests.waiting import SOON, until

SEEDS, INVOICES = (range(20), 2_170) if os.environ.get("BEMS_LONG") else (range(1), 420)
SENDERS = 4
PAUSE_SECONDS = 0.008
"""Pause between two events of a sender."""


class RunningCell:
    """A running cell and its senders, which send the events of an invoice in order."""

    def __init__(self, opened: ExitStack, folder: Path, now: Instant, keys: dict[Any, str] | None = None) -> None:
        self.inbox = Inbox()
        self.cell = opened.enter_context(Cell(folder, destinations=self.inbox.everything))
        self.cell.keys |= keys or {}
        self.now = now
        self.move_to(now)

    def move_to(self, now: Instant) -> None:
        self.cell.move_to(now)
        # Otherwise the order of an event and an alert that is due at the same instant would be random.
        until(lambda: not self.overdue(now))
        self.now = now

    def overdue(self, now: Instant) -> int:
        with self.cell.reader() as reader:
            sql = "SELECT (SELECT count(*) FROM executions WHERE due <= ?1)"
            sql += " + (SELECT count(*) FROM invoices WHERE check_at <= ?1)"
            sql += " + (SELECT count(*) FROM letters WHERE retry_at <= ?1)"
            count: int = reader._connection.execute(sql, (now,)).get
            return count

    def send(self, lines: Sequence[bytes], meanwhile: Callable[[], object] | None = None) -> Counter[str]:
        """Send events and count the answers by status.

        Send slowly until `meanwhile` returns, so that it runs under load.
        """
        answers, over = Counter[str](), threading.Event()

        def send(sender: int) -> None:
            connection = HTTPConnection("127.0.0.1", self.cell.port, timeout=SOON)
            for line in lines:
                event = json.loads(line)
                if crc32(event["event"]["invoice_id"].encode()) % SENDERS != sender:
                    continue
                path = f"/invoices/{event['stage']}"
                reply = ask(connection, self.cell.keys["sender"], "POST", path, event["event"])
                assert reply.status == 202, reply
                answers[reply.content["status"]] += 1
                over.wait(PAUSE_SECONDS if answers.total() < 0.9 * len(lines) else SOON)
            connection.close()

        def act() -> None:
            try:
                if meanwhile is not None:
                    meanwhile()
            finally:
                over.set()

        run_concurrently([act, *(lambda sender=sender: send(sender) for sender in range(SENDERS))])
        return answers

    def finish(self) -> None:
        until(lambda: self.cell.get("/check")["balanced"] is True)
        alerts = self.cell.service.deliveries
        until(lambda: alerts.waiting() == 0 and len(self.alerts()) == alerts._outbox.last_enqueued()[0])
        self.cell.service.stop()

    def alerts(self) -> list[str]:
        with self.cell.reader() as reader:
            return [alert.id for _, alert in reader.alerts(limit=100_000)]

    def view(self) -> dict[str, Any]:
        """Return the whole state by invoice, because the order among invoices is random."""
        with self.cell.reader() as reader:
            records = reader.invoices(limit=100_000)
            rows = reader.transitions(limit=100_000)
            return {
                "records": [
                    (
                        r.invoice_id,
                        status_of(r.outcomes),
                        r.outcomes,
                        r.facts,
                        r.wait,
                        r.mark,
                        r.recent_event_ids,
                        r.run.number,
                    )
                    for r in records
                ],
                "timelines": {r.invoice_id: reader.timeline(r.invoice_id) for r in records},
                "alerts": sorted(
                    (alert.id, alert.due_at, alert.raised_at) for _, alert in reader.alerts(limit=100_000)
                ),
                "letters": [(letter.event_id, letter.attempts, letter.retry_at) for letter in reader.dead_letters()],
                "events": sorted(event.event_id for _, event in reader.events(limit=100_000)),
                "copied": [(seq, row.transition_id) for seq, row in rows] == self.copied(),
            }

    def copied(self) -> list[Any]:
        with duckdb.connect(str(self.cell.folder / ANALYTICS), read_only=True) as database:
            return database.execute("SELECT seq, transition_id FROM transitions ORDER BY seq").fetchall()

    def series(self) -> list[Any]:
        """Return DuckDB's rows without their numbers."""
        with duckdb.connect(str(self.cell.folder / ANALYTICS), read_only=True) as database:
            sql = "SELECT * EXCLUDE (seq) FROM transitions ORDER BY invoice_id, recorded_at"
            return database.execute(sql).fetchall()


def back_up(folder: Path, target: Path) -> dict[str, Any]:
    """Run `bems backup` in a separate process."""
    command = [sys.executable, "-m", "bems", "backup", "--json", "--store", str(folder), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=True)
    backup_facts: dict[str, Any] = json.loads(done.stdout)
    return backup_facts


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Context managers that are closed after the test."""
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restored_cell_equals_one_that_never_failed(
    opened: ExitStack, tmp_path: Path, seed: int, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = list(make_log(seed, INVOICES).values())
    third = len(lines) // 3
    before, during, since = lines[:third], lines[third : 2 * third], lines[2 * third :]
    failing = {parse_event(line).event_id for line in (before[7], during[5], during[-5], since[9])}
    redrive = Core.redrive

    def fail(core: Core, event: Event, now: Instant) -> Any:
        if event.event_id in failing:
            raise ValueError("failing")
        return redrive(core, event, now)

    monkeypatch.setattr(Core, "redrive", fail)
    start, copy = TODAY, tmp_path / "copy"
    backup_facts: dict[str, Any] = {}

    # A cell that never fails.
    unfailing = RunningCell(opened, tmp_path / "unfailing", start)
    unfailing.send(before)
    unfailing.move_to(start + 3 * DAY)
    unfailing.send(during)
    unfailing.move_to(start + 5 * DAY)
    unfailing.send(since)

    # A cell that is backed up under load, continues, delivers alerts and is lost.
    original = RunningCell(opened, tmp_path / "cell", start)
    original.send(before)
    original.move_to(start + 3 * DAY)
    original.send(during, lambda: backup_facts.update(back_up(original.cell.folder, copy)))
    original.move_to(start + 5 * DAY)
    original.send(since[: third // 2])
    original.finish()
    shutil.rmtree(original.cell.folder)
    assert third < backup_facts["events"] < 2 * third, "the backup must be taken in the middle"
    assert start + 3 * DAY <= parse(backup_facts["latest"]) < start + 3 * DAY + SECOND

    restored = RunningCell(opened, copy, start + 3 * DAY, original.cell.keys)
    answers = restored.send(during)
    assert answers["duplicate"] == backup_facts["events"] - third
    restored.move_to(start + 5 * DAY)
    assert restored.send(since) == {"accepted": len(since)}

    for one in (unfailing, restored):
        one.move_to(start + 15 * DAY)
        one.finish()
    expected, found = unfailing.view(), restored.view()
    for name, value in expected.items():
        assert found[name] == value, name
    assert found["copied"] is True and len(found["letters"]) == len(failing)
    assert restored.series() == unfailing.series()
    alerts = unfailing.alerts()
    assert len(alerts) == len(set(alerts)) == len(unfailing.inbox.taken)
    assert set(original.inbox.taken) | set(restored.inbox.taken) == set(alerts), "every alert is delivered"
    assert len(restored.inbox.taken) == len(set(restored.inbox.taken)), "an alert was delivered twice after the restore"
    again = set(original.inbox.taken) & set(restored.inbox.taken)
    assert again, "alerts delivered since the backup are delivered again with the same id"
    figures.record(
        "folder lost and restored from a backup taken under load, later events sent again",
        "1",
        "equal to a cell that never failed: invoices, timelines, alerts to the microsecond, dead letters, every row of "
        "DuckDB; repeated alerts had the same id",
    )
