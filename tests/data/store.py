"""Write the files of a small cell in the present version of the store, and their content as JSON.

Only the program of an older version could write its files, so the files of older versions are left alone.
"""

import dataclasses
import gzip
import logging
import shutil
import tempfile
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

from msgspec import json, structs, to_builtins

from bems.embedded.alerting.outbox import DATABASE as DELIVERIES
from bems.embedded.alerting.outbox import Outbox
from bems.embedded.auth.keys import KEYS_DATABASE, Keys
from bems.embedded.cell import Cell
from bems.embedded.clock import VirtualClock
from bems.embedded.storage.schema import DATABASE, MIGRATIONS
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.writer import EventCount, Redrive, Writer, open_writer
from bems.generator.event_log import EVERYDAY, generate
from bems.tracker.commands import Acknowledge, Cancel, Command, Complete, Extend, Park, Verb
from bems.tracker.contract import Event
from bems.tracker.control_totals import ControlTotal, EventTotals
from bems.tracker.instants import DAY, SECOND, Instant, parse
from bems.tracker.parsing import parse_line
from bems.tracker.requests import Role
from bems.tracker.status import status_of
from tests.embedded.submit import submit
from tests.tracker.samples import plain_policy
from tests.waiting import SOON

HERE = Path(__file__).parent
FILES = (DATABASE, DELIVERIES, KEYS_DATABASE)
POLICY = plain_policy("2d", "1d", 2, 4)
TODAY = parse("2027-01-01T00:00:00Z")


def list_stored_versions() -> dict[int, Path]:
    """Return the folder of each stored version."""
    return {int(path.name.removeprefix("store-")): path for path in HERE.glob("store-*")}


def unpack(stored: Path, folder: Path) -> Path:
    """Unpack the files of a stored version into a new folder, and return that folder."""
    folder.mkdir(mode=0o700)
    for name in FILES:
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(gzip.decompress((stored / f"{name}.gz").read_bytes()))
    return folder


def events() -> list[Event]:
    """Return the events of about a month, each once."""
    profile = dataclasses.replace(EVERYDAY, malformed=0.0, conflicting=0.0, stuck=0.25, disputed=0.2, orphaned=0.1)
    read = (parse_line(line, TODAY) for line in generate(48, 11, days=40, profile=profile))
    return list({event.event_id: event for event in read if isinstance(event, Event)}.values())


class CellRun:
    """A run of a cell. Its clock moves only when it is moved, so that all runs are alike."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.writer: Writer = open_writer(folder, POLICY, self.clock)
        self.clock.move_to(self.writer.latest())
        self.writer.start()

    def move_to(self, instant: Instant) -> None:
        """Move the clock, and return once everything that is due by then is done.

        A group fires what is due before it answers its items.
        """
        self.clock.move_to(instant)
        submit(self.writer, Redrive("nothing")).result(SOON)

    def send(self, events: Iterable[Event]) -> list[str]:
        results: list[str] = []
        for event in events:
            self.move_to(event.occurred_at)
            sent = structs.replace(event, received_at=self.clock.now())
            results.append(submit(self.writer, sent).result(SOON).result)
        return results

    def act(self, number: int, invoice_id: str, verb: Verb) -> str:
        command = Command(f"command-{number}", invoice_id, "ann", self.clock.now(), verb, "as it was told")
        return submit(self.writer, command).result(SOON).result

    def state(self, total: ControlTotal) -> None:
        """Send a control total that differs from its count."""
        for item in (total, EventCount(total, EventTotals(1, {"EUR": Decimal(3), "JPY": Decimal(-70)}))):
            assert submit(self.writer, item).result(SOON).result == "accepted"

    def __enter__(self) -> "CellRun":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.stop()


def run_first_half(folder: Path) -> None:
    """Run a cell that gets the first half of the events and some commands, and fails to handle some of the events."""
    first = events()[: len(events()) // 2]
    poison = {event.event_id for event in first[-8:-1:3]}
    redrive = Cell.redrive

    def fail(cell: Cell, event: Event, now: Instant) -> Any:
        if event.event_id in poison:
            raise ValueError(f"{event.event_id} is poison")
        return redrive(cell, event, now)

    with CellRun(folder) as run, patch.object(Cell, "redrive", fail):
        run.send(first)
        for _ in range(6):
            submit(run.writer, Redrive(min(poison))).result(SOON)
        store = run.writer._store
        waiting = [record.invoice_id for record in store.invoices(statuses=["AwaitingAuthorization"]) if record.wait]
        verbs: list[Verb] = [
            Acknowledge(),
            Extend(run.clock.now() + 9 * DAY),
            Park(),
            Cancel(),
            Complete("authorization"),
        ]
        for number, verb in enumerate(verbs):
            run.act(number, waiting[number], verb)
        run.move_to(run.clock.now() + SECOND)
        run.state(ControlTotal("sap", "posting", 0, run.clock.now(), EventTotals(2, {"EUR": Decimal("10.50")})))
    _add_keys_and_deliveries(folder)


def _add_keys_and_deliveries(folder: Path) -> None:
    """Add keys, and deliveries of which some are done, some wait and some failed."""
    now = TODAY
    keys = Keys(folder)
    roles: tuple[Role, ...] = ("admin", "sender", "viewer")
    for number, role in enumerate(roles):
        key, _ = keys.add(f"the-{role}", role, "the test", now + number)
    keys.revoke(key.id, "the-admin", now)
    keys.close()
    store, outbox = SqliteStore(folder), Outbox(folder)
    outbox.enqueue(store.alerts(limit=9), {"warning": ["log"], "critical": ["log", "email boss@example.com"]}, now)
    first, second, *_ = outbox.next_per_invoice("log", 9)
    outbox.remove(first)
    outbox.update(structs.replace(second, attempts=9, state="failed", error="nobody was there", tried_at=now))
    outbox.close()
    store.close()


def run_second_half(folder: Path) -> list[str]:
    """Redrive the dead letters, send the first half again and the second half, and let ten days pass.

    Return the results of the sent items.
    """
    every = events()
    half = len(every) // 2
    with CellRun(folder) as run:
        dead_letters = run.writer._store.dead_letters()
        results: list[str] = [
            submit(run.writer, Redrive(dead_letter.event_id)).result(SOON).result for dead_letter in dead_letters
        ]
        results += run.send(every[:half])
        results += run.send(every[half:])
        run.move_to(run.clock.now() + 10 * DAY)
    return results


def read_contents(folder: Path) -> Any:
    """Return the content of the store, the outbox and the keys, in a form that does not depend on the version."""
    store, outbox, keys = SqliteStore(folder), Outbox(folder), Keys(folder)
    try:
        held = {
            "invoices": [
                [r.invoice_id, status_of(r.outcomes), r.mark, r.wait, r.run.number, r.run.state, r.outcomes]
                for r in store.invoices(limit=999)
            ],
            "events": store.events(limit=9999),
            "transitions": store.transitions(limit=9999),
            "timelines": [[row.transition_id for row in store.timeline(r.invoice_id)] for r in store.invoices()],
            "alerts": store.alerts(limit=9999),
            "commands": store.commands(limit=999),
            "letters": store.dead_letters(),
            "control_totals": store.control_totals(),
            "due": store.due(TODAY, 9999),
            "statuses": dict(sorted(store.statuses().items())),
            "deliveries": [outbox.entries(state, 999, (-1, "")) for state in ("waiting", "failed")],
            "delivered": [outbox.delivered(), outbox.last_enqueued()],
            "keys": [[key.name, key.role, key.revoked_at] for key in keys.all()],
        }
        return json.decode(json.encode(to_builtins(held, str_keys=True)))
    finally:
        keys.close()
        outbox.close()
        store.close()


def write() -> None:
    """Write the files of the present version, replacing earlier ones."""
    logging.disable()
    target = HERE / f"store-{len(MIGRATIONS)}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "cell"
        run_first_half(folder)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for file in FILES:
            (target / f"{file}.gz").write_bytes(gzip.compress((folder / file).read_bytes(), 9, mtime=0))
        (target / "held.json.gz").write_bytes(
            gzip.compress(json.format(json.encode(read_contents(folder)), indent=0), 9, mtime=0)
        )


if __name__ == "__main__":
    write()
