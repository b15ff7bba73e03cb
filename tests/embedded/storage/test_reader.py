"""Reader: order, filters and snapshots of what is committed."""

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from bems.embedded.cell import Cell
from bems.embedded.clock import VirtualClock
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.reader import Counts, Reader, open_reader
from bems.embedded.storage.schema import DATABASE
from bems.embedded.storage.store import DeadLetter
from bems.embedded.writer import Redrive, Writer, open_writer
from bems.tracker.commands import Acknowledge, Command, Park
from bems.tracker.decisions import Receipt
from bems.tracker.instants import DAY, HOUR, SECOND, Instant
from tests.embedded.submit import submit
from tests.tracker.samples import NOW, POLICY, event
from tests.waiting import SOON


class CellFixture:
    """A running writer on a folder, and a reader of it."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock(NOW)
        self.writer: Writer = open_writer(folder, POLICY, self.clock).start()
        self.reader: Reader = open_reader(folder)

    def send(self, stage: str, status: str, invoice_id: str, event_id: str | None = None) -> Receipt:
        one = event(stage, status, NOW, event_id or f"{invoice_id}-{stage}", invoice_id)  # type: ignore[arg-type]
        return submit(self.writer, one).result(SOON)

    def act(self, command: Command) -> Receipt:
        return submit(self.writer, command).result(SOON)

    def move_to(self, instant: Instant) -> None:
        """Move the clock, and return once everything that is due by then is done."""
        self.clock.move_to(instant)
        self.writer.wake()
        for number in range(2):
            # The group of the second command begins after the clock was moved. It fires what is due before it answers.
            self.act(Command(f"wait {instant} {number}", "nobody", "x", NOW, Park(), "why"))


@pytest.fixture
def fixture(tmp_path: Path) -> Iterator[CellFixture]:
    fixture = CellFixture(tmp_path / "cell")
    yield fixture
    fixture.reader.close()
    fixture.reader.close()
    fixture.writer.stop()


def names(records: list[object]) -> list[str]:
    return [record.invoice_id for record in records]  # type: ignore[attr-defined]


def test_a_new_store_is_empty(fixture: CellFixture) -> None:
    reader = fixture.reader
    assert reader.counts() == Counts(0, 0, 0, 0, 0)
    assert (reader.latest(), reader.statuses()) == (0, {})
    assert (reader.record("x"), reader.execution("x"), reader.event("x"), reader.definition_of("x")) == (None,) * 4
    assert reader.invoices() == reader.stuck() == []
    nothing: list[object] = [reader.dead_letters(), reader.newest_alerts(), reader.commands(), reader.timeline("x")]
    nothing += [reader.stimuli("x"), reader.events(), reader.transitions(), reader.alerts()]
    assert nothing == [[]] * 8
    with pytest.raises(KeyError):
        reader.definition("x")


def test_acknowledged_events_are_visible(fixture: CellFixture) -> None:
    for number in range(100):
        fixture.send("ingestion", "received", f"I{number}")
        assert fixture.reader.record(f"I{number}") is not None
        assert fixture.reader.counts().events == number + 1


def test_invoices_are_ordered_by_id_for_every_filter(fixture: CellFixture) -> None:
    for id, stage, status in (
        ("b", "ingestion", "received"),
        ("B", "posting", "posted"),
        ("a/1", "ingestion", "cancelled"),
        ("a", "posting", "posted"),
        ("~", "ingestion", "received"),
    ):
        fixture.send(stage, status, id)
    fixture.act(Command("park", "~", "x", NOW, Park(), "why"))
    every = ["B", "a", "a/1", "b", "~"]
    reader = fixture.reader
    assert names([*reader.invoices()]) == every
    for after, limit in ((after, limit) for after in ("", *every) for limit in (1, 2, 9)):
        expected = [id for id in every if id > after]
        assert names([*reader.invoices(after=after, limit=limit)]) == expected[:limit]
        both = reader.invoices(statuses=["Orphan", "Cancelled"], after=after, limit=limit)
        assert names([*both]) == [id for id in expected if id not in ("b", "~")][:limit]
    assert names([*reader.invoices(statuses=["AwaitingAuthorization"], mark="parked")]) == ["~"]
    assert names([*reader.invoices(mark="parked")]) == ["~"]
    assert reader.invoices(statuses=[]) == reader.invoices(statuses=["Posted"]) == reader.invoices(mark="dormant") == []
    assert reader.statuses() == {"AwaitingAuthorization": 2, "Orphan": 2, "Cancelled": 1}


def test_stuck_invoices_are_ordered_by_waiting_time(fixture: CellFixture) -> None:
    for hour, id in enumerate(["z", "a", "m"]):
        fixture.move_to(NOW + hour * HOUR)
        fixture.send("ingestion", "received", id)
    fixture.send("ingestion", "received", "b")
    fixture.move_to(NOW + 3 * DAY + 2 * HOUR)
    reader = fixture.reader
    assert names([*reader.stuck()]) == ["z", "a", "b", "m"], "invoices with equal waits are ordered by id"
    first, second = reader.stuck(limit=2)
    assert first.wait is not None and second.wait is not None
    assert names([*reader.stuck(after=(first.wait.since, "z"), limit=2)]) == ["a", "b"]
    assert names([*reader.stuck(after=(second.wait.since, "a"))]) == ["b", "m"]
    assert names([*reader.stuck(statuses=["AwaitingAuthorization"])]) == ["z", "a", "b", "m"]
    assert reader.stuck(statuses=[]) == reader.stuck(statuses=["Orphan"]) == reader.stuck(mark="dormant") == []
    fixture.send("authorization", "approved", "z")
    assert names([*reader.stuck()]) == ["a", "b", "m"]


def test_alerts_and_commands_are_ordered_newest_first(fixture: CellFixture) -> None:
    fixture.send("ingestion", "received", "a")
    fixture.send("posting", "posted", "b")
    fixture.move_to(NOW + 3 * DAY)
    fixture.move_to(NOW + 4 * DAY)
    reader = fixture.reader
    alerts = reader.newest_alerts()
    assert [seq for seq, _ in alerts] == [4, 3, 2, 1]
    assert sorted((alert.invoice_id, alert.step) for _, alert in alerts) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert [seq for seq, _ in reader.newest_alerts(before=3)] == [2, 1]
    assert [seq for seq, _ in reader.newest_alerts(limit=1)] == [4]
    assert {alert.stage for _, alert in reader.newest_alerts(invoice_id="b")} == {"ingestion"}
    assert {alert.invoice_id for _, alert in reader.newest_alerts(stage="authorization")} == {"a"}
    assert {alert.step for _, alert in reader.newest_alerts(severity="critical")} == {2}
    assert reader.newest_alerts(invoice_id="a", stage="ingestion") == []
    assert [alert for _, alert in reader.alerts()] == [alert for _, alert in alerts[::-1]]

    fixture.send("authorization", "approved", "a")
    assert sorted((alert.kind, alert.severity) for _, alert in reader.newest_alerts(limit=2)) == [
        ("resolved", "critical"), ("resolved", "warning"),
    ]  # fmt: skip
    assert reader.counts().alerts == 4, "a resolution is no alert"

    command = Command("seen", "b", "ann", NOW, Acknowledge())
    assert fixture.act(command).result == "accepted"
    (seq, entry), *_ = reader.commands()
    assert entry.command == command
    assert [entry.command.id for _, entry in reader.commands(invoice_id="b")] == ["seen"]
    assert seq not in [seq for seq, _ in reader.commands(before=seq)]


def test_dead_letters_are_filtered_by_invoice_error_and_state(
    fixture: CellFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Cell, event: object, __: Instant) -> None:
        raise ValueError(f"100%_broken {event.event_id}")  # type: ignore[attr-defined]

    monkeypatch.setattr(Cell, "handle_event", fail)
    monkeypatch.setattr(Cell, "redrive", fail)
    for id in ("c", "a", "b"):
        fixture.send("ingestion", "received", "one" if id == "b" else "two", id)
    for _ in range(5):
        submit(fixture.writer, Redrive("c")).result(SOON)
    reader = fixture.reader
    assert [dead_letter.event_id for dead_letter in reader.dead_letters()] == ["a", "b", "c"]
    assert [dead_letter.event_id for dead_letter in reader.dead_letters(after="a", limit=1)] == ["b"]
    assert [dead_letter.event_id for dead_letter in reader.dead_letters(invoice_id="two")] == ["a", "c"]
    assert [dead_letter.event_id for dead_letter in reader.dead_letters(error="broken a")] == ["a"]
    assert reader.dead_letters(error="100_") == reader.dead_letters(error="BROKEN") == [], "a text, not a pattern"
    assert reader.dead_letters(set_aside=True) == [DeadLetter("c", "two", 6, NOW, None, "ValueError: 100%_broken c")]
    assert [dead_letter.retry_at for dead_letter in reader.dead_letters(set_aside=False)] == [NOW + SECOND] * 2
    assert reader.counts() == Counts(3, 0, 0, 3, 1)


def test_a_snapshot_shows_one_moment(fixture: CellFixture) -> None:
    fixture.send("ingestion", "received", "a")
    reader = fixture.reader
    with reader.snapshot():
        before = reader.counts()
        fixture.send("ingestion", "received", "b")
        assert (reader.counts(), reader.record("b")) == (before, None)
    assert reader.record("b") is not None
    with pytest.raises(ZeroDivisionError), reader.snapshot():
        1 / 0  # noqa: B018
    with reader.snapshot():
        assert reader.counts().events == 2


def test_a_reader_cannot_write(fixture: CellFixture) -> None:
    fixture.send("ingestion", "received", "a")
    with pytest.raises(StoreFailed, match="readonly"):
        fixture.reader._rows("DELETE FROM invoices")


def test_a_failed_read_raises_store_failed(fixture: CellFixture, tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="could not be read"):
        open_reader(tmp_path / "nowhere")
    (tmp_path / DATABASE).write_bytes(b"no database" * 1000)
    with pytest.raises(StoreFailed, match="could not be read"):
        open_reader(tmp_path)
    fixture.reader.close()
    with pytest.raises(StoreFailed):
        fixture.reader.counts()
    with pytest.raises(StoreFailed), fixture.reader.snapshot():
        pass


def test_readers_do_not_wait_for_the_writer(fixture: CellFixture, tmp_path: Path) -> None:
    fixture.send("ingestion", "received", "a")
    writing = apsw.Connection(str(tmp_path / "cell" / DATABASE))
    writing.execute("BEGIN IMMEDIATE; DELETE FROM invoices")
    assert fixture.reader.record("a") is not None
    writing.execute("ROLLBACK")
    writing.close()
