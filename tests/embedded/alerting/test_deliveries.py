"""Deliveries: each alert reaches each of its destinations at least once, in order per invoice, despite faults."""

import base64
import hashlib
import hmac
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec import structs

from bems.embedded.alerting.deliveries import DESTINATION_REMOVED, MAX_ALERTS_PER_READ, Deliveries
from bems.embedded.alerting.delivery import Destination, NotDelivered
from bems.embedded.alerting.dispatcher import RETRY_DELAYS, Dispatcher
from bems.embedded.alerting.outbox import APPLICATION_ID, DATABASE, MIGRATIONS, Outbox
from bems.embedded.alerting.webhook import Timeouts, WebhookDestination
from bems.embedded.storage.codec import encode_alert
from bems.embedded.storage.database_files import StoreUnusable, open_database
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.tracker.actions import Alert
from bems.tracker.control_totals import AlertMessage, CompletenessAlert, ControlTotal, EventTotals
from bems.tracker.instants import DAY, HOUR, MINUTE, SECOND, Instant
from tests.tracker.samples import FACTS, NOW
from tests.waiting import SOON, until

ROOT = Path(__file__).parents[2]
KEY = b"signing-key-n0b0dy-kn0ws"
LONG_TIMEOUTS = Timeouts(SOON, SOON, SOON)


def alert(invoice_id: str, step: int = 1, severity: Any = "critical") -> Alert:
    id = f"{invoice_id}.{step}"
    return Alert(id, invoice_id, "stuck", "posting", severity, step, NOW, NOW + DAY, NOW + DAY, FACTS)


class Clock:
    def __init__(self) -> None:
        self.at: Instant = NOW

    def now(self) -> Instant:
        return self.at


class FakeStore:
    """An in-memory source of alerts."""

    def __init__(self, *alerts: Alert) -> None:
        self.all = list(alerts)
        self.error: Exception | None = None
        self.opened = 0

    def open(self) -> "FakeStore":
        self.opened += 1
        return self

    def alert_messages(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Alert]]:
        if self.error:
            raise self.error
        return list(enumerate(self.all, 1))[after : after + limit]

    def close(self) -> None:
        pass


class FakeDestination:
    """A destination in this process. `answers` is called with each alert and may raise NotDelivered or block."""

    def __init__(self, key: str = "destination", answers: Callable[[AlertMessage], None] = lambda _: None) -> None:
        self.key = key
        self.answers = answers
        self.tried: list[str] = []
        self.taken: list[str] = []
        self.changed = threading.Condition()

    def send(self, alert: AlertMessage) -> None:
        with self.changed:
            self.tried.append(alert.id)
            self.changed.notify_all()
        self.answers(alert)
        with self.changed:
            self.taken.append(alert.id)
            self.changed.notify_all()

    def wait(self, *, tried: int = 0, taken: int = 0) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.tried) >= tried and len(self.taken) >= taken, SOON)


def unavailable(_: AlertMessage) -> None:
    raise NotDelivered("no receiver", outage=True)


class CellFixture:
    """A cell's folder with a manual clock, a store of alerts and the deliveries that use them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.store = FakeStore()
        self.all: list[Deliveries] = []

    def open(self, *destinations: Destination, warning: tuple[Destination, ...] = (), **options: Any) -> Deliveries:
        """Start new deliveries, after stopping the earlier ones."""
        self.stop()
        by = {"critical": destinations, "warning": warning}
        source = options.pop("source", self.store.open)
        deliveries = Deliveries(self.folder, source, by, now=self.clock.now, **options)  # type: ignore[arg-type]
        self.all.append(deliveries)
        return deliveries.start()

    def advance(self, by: Instant) -> None:
        self.clock.at += by
        self.all[-1].wake()

    def advance_until(self, step: Instant, done: Callable[[], bool]) -> None:
        """Advance the clock by steps until a condition holds. A slow machine may take more steps."""

        def advance_and_check() -> bool:
            self.advance(step)
            return done()

        until(advance_and_check)

    def stop(self) -> None:
        for deliveries in self.all:
            deliveries.stop()

    def query(self, sql: str) -> Any:
        """Query the outbox over a separate connection."""
        connection = apsw.Connection(str(self.folder / DATABASE), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return connection.execute(sql).get
        finally:
            connection.close()

    def wait_for_attempts(self, attempts: int) -> None:
        """Wait until this number of failed attempts is stored."""
        until(lambda: self.query("SELECT sum(attempts) FROM deliveries") == attempts)


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[CellFixture]:
    cell = CellFixture(tmp_path)
    yield cell
    cell.stop()


class Receiver:
    """An HTTP server for alerts. `answers` returns the status for an alert id, or None to close the connection."""

    def __init__(self, answers: Callable[[str], int | None]) -> None:
        self.answers = answers
        self.taken: list[str] = []
        self.tried: list[str] = []
        self.changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.receive(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def receive(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        id = request.headers["webhook-id"]
        signed = b".".join((id.encode(), request.headers["webhook-timestamp"].encode(), body))
        expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert request.headers["webhook-signature"] == f"v1,{expected}"
        assert json.loads(body)["id"] == id
        with self.changed:
            self.tried.append(id)
            self.changed.notify_all()
        status = self.answers(id)
        if status is None or status < 300:
            with self.changed:
                self.taken.append(id)
                self.changed.notify_all()
        if status is None:
            request.close_connection = True
            return
        request.send_response(status)
        request.send_header("content-length", "0")
        request.end_headers()

    def wait(self, taken: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.taken) >= taken, SOON)


@contextmanager
def receiver(answers: Callable[[str], int | None] = lambda _: 204) -> Iterator[Receiver]:
    one = Receiver(answers)
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield one
    finally:
        one.server.shutdown()
        thread.join()
        one.server.server_close()


def webhook(to: Receiver, timeouts: Timeouts = LONG_TIMEOUTS) -> WebhookDestination:
    return WebhookDestination(f"webhook {to.url}", to.url, KEY, "eu-west", timeouts=timeouts)


def assert_in_order(ids: list[str]) -> None:
    """Assert that the first occurrences of each invoice's alerts are in order."""
    steps = defaultdict(list)
    for id in dict.fromkeys(ids):
        invoice_id, step = id.rsplit(".", 1)
        steps[invoice_id].append(int(step))
    assert all(each == sorted(each) for each in steps.values())


# -- delivery


def test_each_alert_goes_to_the_destinations_of_its_severity(cell: CellFixture) -> None:
    both, critical, warning = FakeDestination("both"), FakeDestination("critical"), FakeDestination("warning")
    cell.store.all = [alert("A", 1, "warning"), alert("A", 2), alert("B", 1, "warning")]
    deliveries = cell.open(both, critical, warning=(warning, both))
    both.wait(taken=3)
    critical.wait(taken=1)
    warning.wait(taken=2)
    until(lambda: deliveries.delivered() == 6)
    assert_in_order(both.taken)
    assert (sorted(both.taken), critical.taken) == (["A.1", "A.2", "B.1"], ["A.2"])
    assert (deliveries.waiting(), deliveries.failed(), deliveries.failure) == (0, 0, None)
    cell.store.all.append(alert("A", 3))
    deliveries.wake()
    critical.wait(taken=2)
    assert critical.taken == ["A.2", "A.3"]


def test_concurrent_requests_to_a_destination_are_limited(cell: CellFixture) -> None:
    released = threading.Event()
    destination = FakeDestination(answers=lambda _: discard(released.wait(SOON)))
    cell.store.all = [alert(f"A{n}") for n in range(10)]
    deliveries = cell.open(destination, max_in_flight=3)
    destination.wait(tried=3)
    deliveries.wake()
    until(lambda: deliveries.waiting() == 10)
    assert len(destination.tried) == 3
    released.set()
    destination.wait(taken=10)


def test_after_a_restart_only_new_alerts_are_sent(cell: CellFixture) -> None:
    first, second = FakeDestination(), FakeDestination()
    cell.store.all = [alert("A", 1), alert("A", 2)]
    cell.open(first)
    first.wait(taken=2)
    cell.store.all.append(alert("A", 3))
    deliveries = cell.open(second)
    second.wait(taken=1)
    assert second.taken == ["A.3"]
    until(lambda: deliveries.delivered() == 3)


def test_alerts_of_a_real_store_are_delivered(cell: CellFixture) -> None:
    store = SqliteStore(cell.folder)
    for step in range(1, 4):
        store.add_alert(alert("A", step))
    store.commit()
    store.close()
    with receiver() as server:
        cell.open(webhook(server), source=lambda: SqliteStore(cell.folder))
        server.wait(taken=3)
    assert server.taken == ["A.1", "A.2", "A.3"]


# -- failing receivers


def test_after_an_outage_of_an_hour_every_alert_is_delivered_in_order(cell: CellFixture) -> None:
    cell.store.all = [alert(f"INV-{n}", step) for step in (1, 2, 3) for n in range(10)]
    back = NOW + HOUR
    other = FakeDestination("other")
    with receiver(lambda _: 503 if cell.clock.at < back else 204) as server:
        deliveries = cell.open(webhook(server), other)
        other.wait(taken=30)
        until(lambda: deliveries.failure is not None)
        assert deliveries.failure == f"webhook {server.url}: answered 503 Service Unavailable"
        cell.advance_until(15 * SECOND, lambda: deliveries.waiting() == 0)
    assert sorted(server.taken) == sorted(sent.id for sent in cell.store.all)
    assert_in_order(server.taken)
    assert len(server.tried) - len(server.taken) <= 14
    assert deliveries.failure is None


def test_an_alert_is_sent_again_if_the_response_is_lost(cell: CellFixture) -> None:
    lost: list[str] = []

    def answers(id: str) -> int | None:
        if id in lost:
            return 204
        lost.append(id)
        return None

    cell.store.all = [alert("A", 1), alert("A", 2), alert("B", 1)]
    with receiver(answers) as server:
        deliveries = cell.open(webhook(server))
        cell.advance_until(SECOND, lambda: deliveries.delivered() == 3)
    assert sorted(server.taken) == ["A.1", "A.1", "A.2", "A.2", "B.1", "B.1"]
    assert [id for id in server.taken if id.startswith("A")] == ["A.1", "A.1", "A.2", "A.2"]


def test_a_hanging_request_times_out_and_is_retried(cell: CellFixture) -> None:
    released = threading.Event()
    hung: list[str] = []

    def answers(id: str) -> int:
        if id == "A.1" and not hung:
            hung.append(id)
            released.wait(SOON)
        return 204

    cell.store.all = [alert("A", 1), alert("A", 2), alert("B", 1), alert("C", 1)]
    other = FakeDestination("other")
    with receiver(answers) as server:
        deliveries = cell.open(webhook(server, Timeouts(SOON, 0.5, SOON)), other)
        server.wait(taken=2)
        other.wait(taken=4)
        assert sorted(server.taken) == ["B.1", "C.1"]
        cell.wait_for_attempts(1)
        cell.advance(SECOND)
        until(lambda: deliveries.delivered() == 8)
        released.set()
    assert_in_order(server.taken)
    assert set(server.taken) == {"A.1", "A.2", "B.1", "C.1"}


def test_a_refused_alert_delays_only_its_own_invoice(cell: CellFixture) -> None:
    refuse = [True]
    cell.store.all = [alert("A", 1), alert("A", 2), *(alert(f"B{n}", 1) for n in range(20))]
    with receiver(lambda id: 400 if refuse[0] and id[0] == "A" else 204) as server:
        deliveries = cell.open(webhook(server))
        server.wait(taken=20)
        until(lambda: deliveries.waiting() == 2)
        cell.wait_for_attempts(1)
        assert server.tried.count("A.1") == 1
        assert "A.2" not in server.tried
        (first, second) = deliveries.entries("waiting")
        assert (first.alert.id, first.attempts, first.error) == ("A.1", 1, "answered 400 Bad Request")
        assert (first.due, first.tried_at, second.attempts) == (NOW + RETRY_DELAYS[0], NOW, 0)
        refuse[0] = False
        cell.advance(RETRY_DELAYS[0])
        server.wait(taken=22)
    assert server.taken[-2:] == ["A.1", "A.2"]


def test_an_alert_that_breaks_the_receiver_does_not_block_others(cell: CellFixture) -> None:
    def answers(one: AlertMessage) -> None:
        if isinstance(one, Alert) and one.invoice_id == "poison":
            unavailable(one)

    destination = FakeDestination(answers=answers)
    cell.store.all = [alert("poison")]
    cell.open(destination)
    cell.wait_for_attempts(1)
    cell.store.all += [alert(f"A{n}") for n in range(20)]
    cell.advance_until(SECOND, lambda: len(destination.taken) == 20)
    assert len(destination.tried) < 30


def test_alerts_of_control_totals_do_not_wait_for_each_other(tmp_path: Path) -> None:
    total = ControlTotal("sap", "posting", NOW - DAY, NOW, EventTotals(1, {}))
    alerts = [CompletenessAlert(id, total, EventTotals(0, {}), NOW) for id in ("x", "y")]
    outbox = Outbox(tmp_path)
    outbox.enqueue(list(enumerate(alerts, 1)), {"warning": ["log"], "critical": []}, NOW)
    found = outbox.next_per_invoice("log", 9)
    assert [delivery.alert for delivery in found] == alerts
    assert [delivery.invoice_id for delivery in found] == [None, None]
    outbox.close()


def test_an_outage_causes_few_attempts_whatever_the_backlog(cell: CellFixture) -> None:
    destination = FakeDestination(answers=unavailable)
    cell.store.all = [alert(f"A{n}") for n in range(10_000)]
    deliveries = cell.open(destination)
    until(lambda: deliveries.waiting() == 10_000)
    cell.wait_for_attempts(4)
    for attempts, pause in enumerate(RETRY_DELAYS, 5):
        cell.advance(pause - 1)
        cell.advance(1)
        cell.wait_for_attempts(attempts)
    assert cell.clock.at == NOW + sum(RETRY_DELAYS)
    assert cell.clock.at > NOW + 40 * MINUTE
    assert len(destination.tried) == 10
    destination.answers = lambda _: None
    cell.advance(RETRY_DELAYS[-1] - 1)
    assert len(destination.tried) == 10
    cell.advance(1)
    destination.wait(taken=1_000)
    assert deliveries.failure is None
    deliveries.stop()
    assert len(destination.tried) == len(destination.taken) + 10
    assert cell.query("SELECT count(*) FROM deliveries") == 10_000 - len(destination.taken)


def test_retry_after_of_the_receiver_is_respected(cell: CellFixture) -> None:
    def busy(_: AlertMessage) -> None:
        raise NotDelivered("answered 429", outage=True, retry_after=20 * MINUTE)

    destination = FakeDestination(answers=busy)
    cell.store.all = [alert("A")]
    cell.open(destination)
    cell.wait_for_attempts(1)
    destination.answers = lambda _: None
    cell.advance(20 * MINUTE - 1)
    assert (len(destination.tried), cell.query("SELECT due FROM deliveries")) == (1, NOW + 20 * MINUTE)
    cell.advance(1)
    destination.wait(taken=1)


# -- giving up, and retries by an operator


def test_after_a_day_a_delivery_is_given_up_and_can_be_retried(
    cell: CellFixture, caplog: pytest.LogCaptureFixture
) -> None:
    destination, other = FakeDestination(answers=unavailable), FakeDestination("other")
    cell.store.all = [alert("A", 1), alert("A", 2), alert("B", 1)]
    deliveries = cell.open(destination, other)
    other.wait(taken=3)
    cell.wait_for_attempts(2)
    cell.advance_until(10 * MINUTE, lambda: deliveries.failed() == 3)
    assert cell.clock.at >= NOW + DAY
    assert len(destination.tried) < 70
    assert deliveries.waiting() == 0
    until(lambda: all(id in caplog.text for id in ("A.1", "A.2", "B.1")))
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert all(error.startswith("destination: given up after a day: alert ") for error in errors)
    failed = deliveries.entries("failed")
    assert [one.alert.id for one in failed] == ["A.1", "A.2", "B.1"]
    assert {(one.destination, one.error) for one in failed} == {("destination", "no receiver")}
    destination.answers = lambda _: None
    assert deliveries.retry() == 3
    destination.wait(taken=3)
    assert_in_order(destination.taken)
    assert deliveries.retry() == 0


def test_a_retry_by_an_operator_skips_the_backoff(cell: CellFixture) -> None:
    destination = FakeDestination(answers=unavailable)
    cell.store.all = [alert("A"), alert("B")]
    deliveries = cell.open(destination)
    cell.wait_for_attempts(2)
    for attempts in (3, 4):
        cell.advance(MINUTE)
        cell.wait_for_attempts(attempts)
    destination.answers = lambda _: None
    assert deliveries.retry() == 0
    destination.wait(taken=2)
    assert cell.clock.at == NOW + 2 * MINUTE


def test_after_an_outage_the_give_up_period_of_unattempted_alerts_restarts(cell: CellFixture) -> None:
    refused = NotDelivered("answered 400", outage=False)

    def answers(one: AlertMessage) -> None:
        if one.id == "A.1":
            raise refused

    destination = FakeDestination(answers=answers)
    cell.store.all = [alert("A", 1), alert("A", 2)]
    deliveries = cell.open(destination)
    cell.wait_for_attempts(1)
    destination.answers = unavailable
    cell.advance(SECOND)
    cell.wait_for_attempts(2)
    assert [one.tried_at for one in deliveries.entries("waiting")] == [NOW, NOW + SECOND]
    destination.answers = answers
    cell.store.all.append(alert("B"))
    cell.advance(SECOND)
    destination.wait(taken=1)
    until(lambda: cell.query("SELECT count(*) FROM deliveries") == 2)
    assert [one.tried_at for one in deliveries.entries("waiting")] == [NOW, None]


@pytest.mark.parametrize("waiting", [10, 20_000])
def test_the_cost_of_an_outage_does_not_depend_on_the_backlog(tmp_path: Path, waiting: int) -> None:
    flaps = 20
    outbox, clock, destination = Outbox(tmp_path), Clock(), FakeDestination()
    connection, log = outbox._connection, tmp_path / f"{DATABASE}-wal"
    alerts = [(seq, alert(f"A{seq}")) for seq in range(1, waiting + flaps + 1)]
    outbox.enqueue(alerts, {"critical": ["destination"], "warning": []}, NOW)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    changes = connection.total_changes()
    dispatcher = Dispatcher(destination, outbox, clock.now, max_in_flight=1)
    for answers in (unavailable, lambda _: None) * flaps:
        destination.answers = answers
        dispatcher.poll()
        while not dispatcher._in_flight:
            clock.at += MINUTE
            dispatcher.poll()
        until(lambda: len(dispatcher._completed) == 1)
    assert len(destination.taken) == flaps
    assert outbox.count("waiting") == waiting + 1
    # A failure changes the delivery and the outage; a success changes both and the count of deliveries.
    assert connection.total_changes() - changes <= 5 * flaps
    assert log.stat().st_size <= 60 * 2048 * flaps
    outbox.close()


def test_the_give_up_period_starts_with_a_failed_probe_and_ends_with_a_success(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    keys: Any = {"critical": ["destination", "other"]}

    def tried_at() -> list[Instant | None]:
        return [one.tried_at for one in outbox.entries("waiting", 99, (-1, "")) if one.destination == "destination"]

    outbox.enqueue([(1, alert("A")), (2, alert("B"))], keys, NOW)
    assert tried_at() == [None, None]
    outbox.start_giveup_timer("destination", NOW + HOUR)
    outbox.start_giveup_timer("destination", NOW + 2 * HOUR)
    outbox.enqueue([(3, alert("C"))], keys, NOW + 3 * HOUR)
    assert tried_at() == [NOW + HOUR, NOW + HOUR, NOW + 3 * HOUR]
    assert [one.tried_at for one in outbox.next_per_invoice("destination", 9)] == tried_at()
    assert [one.tried_at for one in outbox.next_per_invoice("other", 9)] == [None] * 3
    assert outbox.give_up("destination", NOW + HOUR - 1, "away") == []
    assert outbox.give_up("destination", NOW + HOUR, "away") == ["A.1", "B.1"]
    assert [(one.alert.id, one.tried_at, one.error) for one in outbox.entries("failed", 99, (-1, ""))] == [
        ("A.1", NOW + HOUR, "away"),
        ("B.1", NOW + HOUR, "away"),
    ]
    assert tried_at() == [NOW + 3 * HOUR]
    outbox.reset_giveup_timer("destination")
    assert tried_at() == [None]
    assert outbox.give_up("destination", NOW + DAY, "away") == []
    outbox.close()


def test_an_outage_continues_after_a_restart_until_a_delivery_succeeds(cell: CellFixture) -> None:
    cell.store.all = [alert(f"A{n}") for n in range(9)]
    destination = FakeDestination(answers=unavailable)
    cell.open(destination, max_in_flight=1)
    cell.wait_for_attempts(1)
    destination.answers = lambda one: unavailable(one) if one.id != "A0.1" else None
    cell.clock.at += HOUR
    deliveries = cell.open(destination, max_in_flight=1)
    until(lambda: {one.tried_at for one in deliveries.entries("waiting")} == {NOW})
    destination.answers = lambda _: None
    cell.advance_until(SECOND, lambda: deliveries.waiting() == 0)
    assert cell.query("SELECT count(*) FROM outages") == 0


def test_an_outbox_of_version_1_is_migrated(tmp_path: Path) -> None:
    connection = open_database(tmp_path / DATABASE, MIGRATIONS[:1], APPLICATION_ID)
    rows = [
        ("destination", 1, "A.1", "A", 2, NOW + MINUTE, NOW, "waiting", "gone", encode_alert(alert("A"))),
        ("destination", 2, "B.1", "B", 0, NOW, NOW + SECOND, "waiting", None, encode_alert(alert("B"))),
        ("destination", 3, "C.1", "C", 0, NOW + HOUR, NOW + HOUR, "waiting", None, encode_alert(alert("C"))),
        ("other", 3, "C.1", "C", 0, NOW, None, "waiting", None, encode_alert(alert("C"))),
        ("other", 4, "D.1", "D", 0, NOW, NOW, "failed", "gone", encode_alert(alert("D"))),
    ]
    connection.executemany("INSERT INTO deliveries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    connection.close()
    outbox = Outbox(tmp_path)
    found = [
        (one.destination, one.seq, one.attempts, one.tried_at, one.error)
        for state in ("waiting", "failed")
        for one in outbox.entries(state, 99, (-1, ""))
    ]
    assert found == [
        ("destination", 1, 2, NOW, "gone"),
        ("destination", 2, 0, NOW + SECOND, None),
        ("destination", 3, 0, NOW + HOUR, None),
        ("other", 3, 0, None, None),
        ("other", 4, 0, NOW, "gone"),
    ]
    outbox.close()


def test_deliveries_to_a_removed_destination_fail_until_it_is_back(cell: CellFixture) -> None:
    destination, other = FakeDestination(answers=unavailable), FakeDestination("other", answers=unavailable)
    cell.store.all = [alert("A", 1), alert("A", 2)]
    cell.open(destination, other)
    cell.wait_for_attempts(2)
    deliveries = cell.open(other)
    failed = deliveries.entries("failed")
    assert [(one.destination, one.alert.id, one.error) for one in failed] == [
        ("destination", "A.1", DESTINATION_REMOVED),
        ("destination", "A.2", DESTINATION_REMOVED),
    ]
    assert (deliveries.waiting(), deliveries.retry()) == (2, 0)
    destination.answers = lambda _: None
    deliveries = cell.open(destination, other)
    assert deliveries.retry() == 2
    destination.wait(taken=2)
    assert destination.taken == ["A.1", "A.2"]


# -- crashes, and stop


def serve(folder: Path, url: str) -> None:
    """Entry point of the child process in the test below."""
    feed = FakeStore(*(alert(f"INV-{n}", step) for step in (1, 2, 3, 4) for n in range(10)))
    Deliveries(folder, feed.open, {"critical": [WebhookDestination("hook", url, KEY, "eu")], "warning": []}).start()
    threading.Event().wait()


def test_after_a_kill_interrupted_alerts_are_sent_again_and_none_is_lost(cell: CellFixture) -> None:
    child: list[subprocess.Popen[bytes]] = []
    fatal: list[str] = []
    started = threading.Event()

    def answers(id: str) -> int | None:
        if len(server.tried) >= 17 and not fatal:
            fatal.append(id)
            started.wait(SOON)
            os.kill(child[0].pid, signal.SIGKILL)
            child[0].wait()
            return None
        return 204

    code = "import sys; from pathlib import Path; from tests.embedded.alerting.test_deliveries import serve; "
    with receiver(answers) as server:
        command = [sys.executable, "-c", code + "serve(Path(sys.argv[1]), sys.argv[2])", str(cell.folder), server.url]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
            child.append(process)
            started.set()
            process.wait(SOON)
        assert process.returncode == -signal.SIGKILL
        cut = list(server.taken)
        assert fatal[0] in cut
        cell.store.all = [alert(f"INV-{n}", step) for step in (1, 2, 3, 4) for n in range(10)]
        cell.clock.at = NOW + 100 * 365 * DAY
        deliveries = cell.open(WebhookDestination("hook", server.url, KEY, "eu"))
        until(lambda: deliveries.waiting() == 0 and deliveries.delivered() == 40)
    assert server.taken.count(fatal[0]) == 2
    assert set(server.taken) == {sent.id for sent in cell.store.all}
    assert len(server.taken) <= 40 + 4
    assert_in_order(server.taken)


def test_stop_waits_for_requests_in_flight(cell: CellFixture) -> None:
    released = threading.Event()
    destination = FakeDestination(answers=lambda _: discard(released.wait(SOON)))
    cell.store.all = [alert("A", 1), alert("A", 2)]
    deliveries = cell.open(destination)
    destination.wait(tried=1)
    stopping = threading.Thread(target=deliveries.stop)
    stopping.start()
    released.set()
    stopping.join()
    deliveries.stop()
    assert destination.taken == ["A.1"]
    assert cell.query("SELECT alert_id FROM deliveries") == "A.2"
    cell.open(destination)
    destination.wait(taken=2)
    assert destination.taken == ["A.1", "A.2"]


def discard(_: object) -> None:
    pass


def test_stop_does_not_wait_longer_than_the_grace_period(cell: CellFixture) -> None:
    released = threading.Event()
    destination = FakeDestination(answers=lambda _: discard(released.wait(SOON)))
    cell.store.all = [alert("A", 1)]
    deliveries = cell.open(destination, grace_seconds=0.01)
    destination.wait(tried=1)
    deliveries.stop()
    assert (destination.taken, cell.query("SELECT count(*) FROM deliveries")) == ([], 1)
    released.set()
    destination.wait(taken=1)


def test_stop_without_start_is_idempotent(cell: CellFixture) -> None:
    deliveries = Deliveries(cell.folder, cell.store.open, {"critical": [FakeDestination()], "warning": []})
    deliveries.stop()
    deliveries.stop()


# -- faults of the cell


def test_reading_alerts_is_retried_after_an_error(cell: CellFixture, caplog: pytest.LogCaptureFixture) -> None:
    destination = FakeDestination()
    deliveries = cell.open(destination)
    cell.store.error = OSError("the disk is gone")
    deliveries.wake()
    until(lambda: deliveries.failure is not None)
    assert deliveries.failure == "new alerts cannot be queued: the disk is gone"
    cell.store.all = [alert("A")]
    cell.store.error = None
    deliveries.wake()
    destination.wait(taken=1)
    until(lambda: deliveries.failure is None)
    assert cell.store.opened > 1
    assert sum("new alerts cannot be queued" in message for message in caplog.messages) == 1


def test_no_alert_is_sent_repeatedly_while_the_outbox_cannot_be_written(
    cell: CellFixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full, tries = [True], []
    removed = Outbox.remove

    def remove(outbox: Outbox, delivery: Any) -> None:
        tries.append(delivery)
        if full[0]:
            raise apsw.FullError("database or disk is full")
        removed(outbox, delivery)

    monkeypatch.setattr(Outbox, "remove", remove)
    monkeypatch.setattr("bems.embedded.alerting.dispatcher.POLL_SECONDS", 0.001)
    destination = FakeDestination()
    cell.store.all = [alert("A", 1), alert("A", 2)]
    deliveries = cell.open(destination)
    until(lambda: deliveries.failure is not None)
    assert deliveries.failure == "destination: the outbox cannot be used: database or disk is full"
    until(lambda: len(tries) > 2)
    assert destination.taken == ["A.1"]
    assert caplog.text.count("outbox cannot be used") == 1
    assert "Traceback" not in caplog.text
    full[0] = False
    destination.wait(taken=2)
    until(lambda: deliveries.delivered() == 2)
    assert destination.taken == ["A.1", "A.2"]
    until(lambda: deliveries.failure is None)


def test_an_error_of_the_outbox_is_cleared_when_it_works_again(
    cell: CellFixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if nothing was sent since. A later error is logged like the first one."""
    original = Outbox.next_per_invoice

    def full(*_: object) -> None:
        raise apsw.FullError("database or disk is full")

    destination = FakeDestination(answers=unavailable)
    deliveries = cell.open(destination)
    for outages in (1, 2):
        monkeypatch.setattr(Outbox, "next_per_invoice", full)
        deliveries.wake()
        until(lambda: deliveries.failure == "destination: the outbox cannot be used: database or disk is full")
        monkeypatch.setattr(Outbox, "next_per_invoice", original)
        deliveries.wake()
        until(lambda: deliveries.failure is None)
        assert caplog.text.count("outbox cannot be used") == outages
    cell.store.all = [alert("A")]
    deliveries.wake()
    until(lambda: deliveries.failure == "destination: no receiver")
    assert "destination: an alert was not delivered" in caplog.text
    monkeypatch.setattr(Outbox, "next_per_invoice", full)
    cell.advance(RETRY_DELAYS[0])
    until(lambda: deliveries.failure == "destination: the outbox cannot be used: database or disk is full; no receiver")


def test_an_unexpected_exception_is_a_failed_attempt_and_reveals_no_secret(
    cell: CellFixture, caplog: pytest.LogCaptureFixture
) -> None:
    url = "https://chat.example.com/n0b0dy-kn0ws"

    def broken(_: AlertMessage) -> None:
        raise RuntimeError(url)

    destination = FakeDestination(answers=broken)
    cell.store.all = [alert("A"), alert("B")]
    deliveries = cell.open(destination)
    cell.wait_for_attempts(2)
    assert deliveries.entries("waiting")[0].error == "sending failed (RuntimeError)"
    assert "n0b0dy" not in caplog.text
    assert "RuntimeError while sending alert A.1" in caplog.text
    assert "in broken" in caplog.text


def test_no_secret_is_stored_or_logged(cell: CellFixture, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cell.store.all = [alert("A")]
    with receiver(lambda _: 500) as server:
        deliveries = cell.open(
            WebhookDestination("webhook $CHAT_URL", server.url + "/n0b0dy-kn0ws", KEY, "eu", timeouts=LONG_TIMEOUTS)
        )
        until(lambda: deliveries.failure is not None)
        assert deliveries.failure == "webhook $CHAT_URL: answered 500 Internal Server Error"
    cell.stop()
    kept = b"".join(file.read_bytes() for file in cell.folder.iterdir())
    assert b"n0b0dy" not in kept
    assert "n0b0dy" not in caplog.text
    assert "webhook $CHAT_URL: an alert was not delivered" in caplog.text


# -- files that are refused


def file_content(cell: CellFixture) -> object:
    return (cell.folder / DATABASE).read_bytes()


def rows(cell: CellFixture) -> object:
    """Return the rows of the outbox. Its bytes change when a start gets as far as reading the store."""
    with closing(apsw.Connection(str(cell.folder / DATABASE))) as connection:
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("deliveries", "progress")]


def refused(cell: CellFixture, held: Callable[[CellFixture], object] = file_content) -> str:
    before = held(cell)
    with pytest.raises(StoreUnusable) as caught:
        cell.open(FakeDestination())
    assert held(cell) == before
    assert str(cell.folder / DATABASE) in str(caught.value)
    return str(caught.value)


def test_an_outbox_of_another_store_is_refused(cell: CellFixture) -> None:
    destination = FakeDestination()
    cell.store.all = [alert("A", 1), alert("A", 2)]
    cell.open(destination)
    destination.wait(taken=2)
    cell.stop()
    cell.all.clear()
    cell.store.all = [alert("A", 1)]
    assert "belongs to another store" in refused(cell, rows)
    cell.store.all = [alert("B", 1), alert("B", 2), alert("B", 3)]
    assert "belongs to another store" in refused(cell, rows)


def test_start_raises_the_error_of_a_store_that_cannot_be_opened(cell: CellFixture) -> None:
    def source() -> FakeStore:
        raise StoreUnusable("there is no store")

    with pytest.raises(StoreUnusable, match="there is no store"):
        cell.open(FakeDestination(), source=source)


def test_a_file_that_is_not_an_outbox_is_refused(cell: CellFixture) -> None:
    path = cell.folder / DATABASE
    path.write_text("hello\n")
    assert "it is not an SQLite database" in refused(cell)
    path.unlink()
    foreign = apsw.Connection(str(path))
    foreign.execute("CREATE TABLE songs (name)")
    foreign.close()
    assert "another program made it" in refused(cell)
    path.unlink()
    Outbox(cell.folder).close()
    newer = apsw.Connection(str(path))
    newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    newer.close()
    assert f"of version {len(MIGRATIONS) + 1}" in refused(cell)


def test_a_damaged_outbox_is_refused(cell: CellFixture) -> None:
    destination = FakeDestination(answers=unavailable)
    cell.store.all = [alert(f"A{n}") for n in range(200)]
    cell.open(destination)
    until(lambda: cell.all[-1].waiting() == 200)
    cell.stop()
    cell.all.clear()
    path = cell.folder / DATABASE
    content = bytearray(path.read_bytes())
    content[8192:20480] = b"\xff" * 12288
    path.write_bytes(content)
    assert "damaged" in refused(cell)
    path.write_bytes(content[: len(content) // 2])
    assert "damaged" in refused(cell)


def test_many_alerts_are_enqueued_in_batches(cell: CellFixture) -> None:
    destination = FakeDestination(answers=unavailable)
    cell.store.all = [structs.replace(alert("A"), id=f"A.{n}") for n in range(2 * MAX_ALERTS_PER_READ)]
    deliveries = cell.open(destination)
    until(lambda: deliveries.waiting() == 2 * MAX_ALERTS_PER_READ)
    assert [one.seq for one in deliveries.entries("waiting", 3)] == [1, 2, 3]
