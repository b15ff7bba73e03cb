"""Deliveries: each alert reaches each of its destinations at least once, in order per invoice, whatever happens."""

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

from bems.embedded.alerting.deliveries import REMOVED, TAKEN, Deliveries
from bems.embedded.alerting.delivery import Destination, NotDelivered
from bems.embedded.alerting.dispatcher import RETRY_DELAYS, Dispatcher
from bems.embedded.alerting.outbox import APPLICATION_ID, DATABASE, MIGRATIONS, Outbox
from bems.embedded.alerting.webhook import Timeouts, Webhook
from bems.embedded.storage.codec import encode_alert
from bems.embedded.storage.database_files import StoreUnusable, open_database
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.tracker.actions import Alert
from bems.tracker.instants import DAY, HOUR, MINUTE, SECOND, Instant
from tests.tracker.samples import FACTS, NOW
from tests.waiting import SOON, until

ROOT = Path(__file__).parents[2]
KEY = b"signing-key-n0b0dy-kn0ws"
PATIENT = Timeouts(SOON, SOON, SOON)


def alert(invoice_id: str, step: int = 1, severity: Any = "critical") -> Alert:
    id = f"{invoice_id}.{step}"
    return Alert(id, invoice_id, "stuck", "posting", severity, step, NOW, NOW + DAY, NOW + DAY, FACTS)


class Clock:
    def __init__(self) -> None:
        self.at: Instant = NOW

    def now(self) -> Instant:
        return self.at


class Feed:
    """A store's alerts, and the reader of them."""

    def __init__(self, *alerts: Alert) -> None:
        self.all = list(alerts)
        self.fails: Exception | None = None
        self.opened = 0

    def open(self) -> "Feed":
        self.opened += 1
        return self

    def alerts(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Alert]]:
        if self.fails:
            raise self.fails
        return list(enumerate(self.all, 1))[after : after + limit]

    def close(self) -> None:
        pass


class Desk:
    """A destination in this process. `answers` says what becomes of an alert: it raises, waits or returns."""

    def __init__(self, key: str = "desk", answers: Callable[[Alert], None] = lambda _: None) -> None:
        self.key = key
        self.answers = answers
        self.tried: list[str] = []
        self.taken: list[str] = []
        self.changed = threading.Condition()

    def send(self, alert: Alert) -> None:
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


def away(_: Alert) -> None:
    raise NotDelivered("nobody is there", outage=True)


class Home:
    """A folder, a clock that stands until it is moved, and the deliveries on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.feed = Feed()
        self.all: list[Deliveries] = []

    def open(self, *destinations: Destination, warning: tuple[Destination, ...] = (), **options: Any) -> Deliveries:
        """Deliveries, started; those before are stopped."""
        self.stop()
        by = {"critical": destinations, "warning": warning}
        source = options.pop("source", self.feed.open)
        deliveries = Deliveries(self.folder, source, by, now=self.clock.now, **options)  # type: ignore[arg-type]
        self.all.append(deliveries)
        return deliveries.start()

    def move(self, by: Instant) -> None:
        self.clock.at += by
        self.all[-1].poke()

    def let_pass(self, step: Instant, done: Callable[[], bool]) -> None:
        """Let the time pass by steps until it is done. A slow machine may take more of them."""

        def once_more() -> bool:
            self.move(step)
            return done()

        until(once_more)

    def stop(self) -> None:
        for deliveries in self.all:
            deliveries.stop()

    def ask(self, sql: str) -> Any:
        """Seen from outside."""
        connection = apsw.Connection(str(self.folder / DATABASE), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return connection.execute(sql).get
        finally:
            connection.close()

    def settled(self, attempts: int) -> None:
        """Wait until so many attempts that failed are written down."""
        until(lambda: self.ask("SELECT sum(attempts) FROM deliveries") == attempts)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.stop()


class Receiver:
    """A web server that takes alerts. `answers` has the status for an alert's id; None hangs up instead."""

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


def webhook(to: Receiver, patience: Timeouts = PATIENT) -> Webhook:
    return Webhook(f"webhook {to.url}", to.url, KEY, "eu-west", patience=patience)


def assert_in_order(ids: list[str]) -> None:
    """The first times that each came, per invoice."""
    steps = defaultdict(list)
    for id in dict.fromkeys(ids):
        invoice_id, step = id.rsplit(".", 1)
        steps[invoice_id].append(int(step))
    assert all(each == sorted(each) for each in steps.values())


# -- delivery


def test_each_alert_goes_to_the_destinations_of_its_severity(home: Home) -> None:
    both, critical, warning = Desk("both"), Desk("critical"), Desk("warning")
    home.feed.all = [alert("A", 1, "warning"), alert("A", 2), alert("B", 1, "warning")]
    deliveries = home.open(both, critical, warning=(warning, both))
    both.wait(taken=3)
    critical.wait(taken=1)
    warning.wait(taken=2)
    until(lambda: deliveries.delivered() == 6)
    assert_in_order(both.taken)
    assert (sorted(both.taken), critical.taken) == (["A.1", "A.2", "B.1"], ["A.2"])
    assert (deliveries.waiting(), deliveries.failed(), deliveries.failure) == (0, 0, None)
    home.feed.all.append(alert("A", 3))
    deliveries.poke()
    critical.wait(taken=2)
    assert critical.taken == ["A.2", "A.3"]


def test_a_destination_is_sent_a_few_at_a_time(home: Home) -> None:
    going = threading.Event()
    desk = Desk(answers=lambda _: void(going.wait(SOON)))
    home.feed.all = [alert(f"A{n}") for n in range(10)]
    deliveries = home.open(desk, at_once=3)
    desk.wait(tried=3)
    deliveries.poke()
    until(lambda: deliveries.waiting() == 10)
    assert len(desk.tried) == 3
    going.set()
    desk.wait(taken=10)


def test_after_a_restart_it_goes_on_where_it_was(home: Home) -> None:
    first, second = Desk(), Desk()
    home.feed.all = [alert("A", 1), alert("A", 2)]
    home.open(first)
    first.wait(taken=2)
    home.feed.all.append(alert("A", 3))
    deliveries = home.open(second)
    second.wait(taken=1)
    assert second.taken == ["A.3"]
    until(lambda: deliveries.delivered() == 3)


def test_the_alerts_of_a_store(home: Home) -> None:
    store = SqliteStore(home.folder)
    for step in range(1, 4):
        store.add_alert(alert("A", step))
    store.commit()
    store.close()
    with receiver() as one:
        home.open(webhook(one), source=lambda: SqliteStore(home.folder))
        one.wait(taken=3)
    assert one.taken == ["A.1", "A.2", "A.3"]


# -- receivers in trouble


def test_a_receiver_that_fails_for_an_hour(home: Home) -> None:
    home.feed.all = [alert(f"INV-{n}", step) for step in (1, 2, 3) for n in range(10)]
    back = NOW + HOUR
    other = Desk("other")
    with receiver(lambda _: 503 if home.clock.at < back else 204) as one:
        deliveries = home.open(webhook(one), other)
        other.wait(taken=30)
        until(lambda: deliveries.failure is not None)
        assert deliveries.failure == f"webhook {one.url}: it answers 503 Service Unavailable"
        home.let_pass(15 * SECOND, lambda: deliveries.waiting() == 0)
    assert sorted(one.taken) == sorted(one_alert.id for one_alert in home.feed.all)
    assert_in_order(one.taken)
    assert len(one.tried) - len(one.taken) <= 14
    assert deliveries.failure is None


def test_an_answer_that_is_lost_brings_the_alert_twice(home: Home) -> None:
    lost: list[str] = []

    def answers(id: str) -> int | None:
        if id in lost:
            return 204
        lost.append(id)
        return None

    home.feed.all = [alert("A", 1), alert("A", 2), alert("B", 1)]
    with receiver(answers) as one:
        deliveries = home.open(webhook(one))
        home.let_pass(SECOND, lambda: deliveries.delivered() == 3)
    assert sorted(one.taken) == ["A.1", "A.1", "A.2", "A.2", "B.1", "B.1"]
    assert [id for id in one.taken if id.startswith("A")] == ["A.1", "A.1", "A.2", "A.2"]


def test_a_receiver_that_hangs_is_left_and_asked_again(home: Home) -> None:
    released = threading.Event()
    hung: list[str] = []

    def answers(id: str) -> int:
        if id == "A.1" and not hung:
            hung.append(id)
            released.wait(SOON)
        return 204

    home.feed.all = [alert("A", 1), alert("A", 2), alert("B", 1), alert("C", 1)]
    other = Desk("other")
    with receiver(answers) as one:
        deliveries = home.open(webhook(one, Timeouts(SOON, 0.5, SOON)), other)
        one.wait(taken=2)
        other.wait(taken=4)
        assert sorted(one.taken) == ["B.1", "C.1"]
        home.settled(1)
        home.move(SECOND)
        until(lambda: deliveries.delivered() == 8)
        released.set()
    assert_in_order(one.taken)
    assert set(one.taken) == {"A.1", "A.2", "B.1", "C.1"}


def test_an_alert_that_is_refused_holds_up_its_invoice_alone(home: Home) -> None:
    refuse = [True]
    home.feed.all = [alert("A", 1), alert("A", 2), *(alert(f"B{n}", 1) for n in range(20))]
    with receiver(lambda id: 400 if refuse[0] and id[0] == "A" else 204) as one:
        deliveries = home.open(webhook(one))
        one.wait(taken=20)
        until(lambda: deliveries.waiting() == 2)
        home.settled(1)
        assert one.tried.count("A.1") == 1
        assert "A.2" not in one.tried
        (first, second) = deliveries.entries("waiting")
        assert (first.alert.id, first.attempts, first.error) == ("A.1", 1, "it answers 400 Bad Request")
        assert (first.due, first.tried_at, second.attempts) == (NOW + RETRY_DELAYS[0], NOW, 0)
        refuse[0] = False
        home.move(RETRY_DELAYS[0])
        one.wait(taken=22)
    assert one.taken[-2:] == ["A.1", "A.2"]


def test_one_alert_that_breaks_the_receiver_does_not_keep_it_from_the_others(home: Home) -> None:
    def answers(one: Alert) -> None:
        if one.invoice_id == "poison":
            away(one)

    desk = Desk(answers=answers)
    home.feed.all = [alert("poison")]
    home.open(desk)
    home.settled(1)
    home.feed.all += [alert(f"A{n}") for n in range(20)]
    home.let_pass(SECOND, lambda: len(desk.taken) == 20)
    assert len(desk.tried) < 30


def test_ten_thousand_alerts_without_a_receiver_make_few_attempts(home: Home) -> None:
    desk = Desk(answers=away)
    home.feed.all = [alert(f"A{n}") for n in range(10_000)]
    deliveries = home.open(desk)
    until(lambda: deliveries.waiting() == 10_000)
    home.settled(4)
    for attempts, pause in enumerate(RETRY_DELAYS, 5):
        home.move(pause - 1)
        home.move(1)
        home.settled(attempts)
    assert home.clock.at == NOW + sum(RETRY_DELAYS)
    assert home.clock.at > NOW + 40 * MINUTE
    assert len(desk.tried) == 10
    desk.answers = lambda _: None
    home.move(RETRY_DELAYS[-1] - 1)
    assert len(desk.tried) == 10
    home.move(1)
    desk.wait(taken=1_000)
    assert deliveries.failure is None
    deliveries.stop()
    assert len(desk.tried) == len(desk.taken) + 10
    assert home.ask("SELECT count(*) FROM deliveries") == 10_000 - len(desk.taken)


def test_a_pause_that_the_receiver_asks_for(home: Home) -> None:
    def busy(_: Alert) -> None:
        raise NotDelivered("it answers 429", outage=True, retry_after=20 * MINUTE)

    desk = Desk(answers=busy)
    home.feed.all = [alert("A")]
    home.open(desk)
    home.settled(1)
    desk.answers = lambda _: None
    home.move(20 * MINUTE - 1)
    assert (len(desk.tried), home.ask("SELECT due FROM deliveries")) == (1, NOW + 20 * MINUTE)
    home.move(1)
    desk.wait(taken=1)


# -- giving up, and what an operator may do


def test_after_a_day_it_is_given_up_and_may_be_tried_again(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    desk, other = Desk(answers=away), Desk("other")
    home.feed.all = [alert("A", 1), alert("A", 2), alert("B", 1)]
    deliveries = home.open(desk, other)
    other.wait(taken=3)
    home.settled(2)
    home.let_pass(10 * MINUTE, lambda: deliveries.failed() == 3)
    assert home.clock.at >= NOW + DAY
    assert len(desk.tried) < 70
    assert deliveries.waiting() == 0
    until(lambda: all(id in caplog.text for id in ("A.1", "A.2", "B.1")))
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert all(error.startswith("desk: given up after a day: alert ") for error in errors)
    failed = deliveries.entries("failed")
    assert [one.alert.id for one in failed] == ["A.1", "A.2", "B.1"]
    assert {(one.destination, one.error) for one in failed} == {("desk", "nobody is there")}
    desk.answers = lambda _: None
    assert deliveries.retry() == 3
    desk.wait(taken=3)
    assert_in_order(desk.taken)
    assert deliveries.retry() == 0


def test_who_retries_does_not_wait_for_any_backoff(home: Home) -> None:
    desk = Desk(answers=away)
    home.feed.all = [alert("A"), alert("B")]
    deliveries = home.open(desk)
    home.settled(2)
    for attempts in (3, 4):
        home.move(MINUTE)
        home.settled(attempts)
    desk.answers = lambda _: None
    assert deliveries.retry() == 0
    desk.wait(taken=2)
    assert home.clock.at == NOW + 2 * MINUTE


def test_the_day_of_an_alert_that_was_not_tried_itself_begins_anew_after_an_outage(home: Home) -> None:
    refused = NotDelivered("it answers 400", outage=False)

    def answers(one: Alert) -> None:
        if one.id == "A.1":
            raise refused

    desk = Desk(answers=answers)
    home.feed.all = [alert("A", 1), alert("A", 2)]
    deliveries = home.open(desk)
    home.settled(1)
    desk.answers = away
    home.move(SECOND)
    home.settled(2)
    assert [one.tried_at for one in deliveries.entries("waiting")] == [NOW, NOW + SECOND]
    desk.answers = answers
    home.feed.all.append(alert("B"))
    home.move(SECOND)
    desk.wait(taken=1)
    until(lambda: home.ask("SELECT count(*) FROM deliveries") == 2)
    assert [one.tried_at for one in deliveries.entries("waiting")] == [NOW, None]


@pytest.mark.parametrize("waiting", [10, 20_000])
def test_a_receiver_that_comes_and_goes_costs_the_same_however_many_wait(tmp_path: Path, waiting: int) -> None:
    flaps = 20
    outbox, clock, desk = Outbox(tmp_path), Clock(), Desk()
    connection, log = outbox._connection, tmp_path / f"{DATABASE}-wal"
    alerts = [(seq, alert(f"A{seq}")) for seq in range(1, waiting + flaps + 1)]
    outbox.enqueue(alerts, {"critical": ["desk"], "warning": []}, NOW)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    changes = connection.total_changes()
    courier = Dispatcher(desk, outbox, clock.now, at_once=1)
    for answers in (away, lambda _: None) * flaps:
        desk.answers = answers
        courier.poll()
        while not courier._in_flight:
            clock.at += MINUTE
            courier.poll()
        until(lambda: len(courier._completed) == 1)
    assert len(desk.taken) == flaps
    assert outbox.count("waiting") == waiting + 1
    # Of a failure the delivery and the outage; of a success both too, and the count of all.
    assert connection.total_changes() - changes <= 5 * flaps
    assert log.stat().st_size <= 60 * 2048 * flaps
    outbox.close()


def test_a_day_counts_from_when_another_was_tried_and_begins_anew_when_one_is_taken(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    keys: Any = {"critical": ["desk", "other"]}

    def tried_at() -> list[Instant | None]:
        return [one.tried_at for one in outbox.entries("waiting", 99, (-1, "")) if one.destination == "desk"]

    outbox.enqueue([(1, alert("A")), (2, alert("B"))], keys, NOW)
    assert tried_at() == [None, None]
    outbox.start_giveup_timer("desk", NOW + HOUR)
    outbox.start_giveup_timer("desk", NOW + 2 * HOUR)
    outbox.enqueue([(3, alert("C"))], keys, NOW + 3 * HOUR)
    assert tried_at() == [NOW + HOUR, NOW + HOUR, NOW + 3 * HOUR]
    assert [one.tried_at for one in outbox.next_per_invoice("desk", 9)] == tried_at()
    assert [one.tried_at for one in outbox.next_per_invoice("other", 9)] == [None] * 3
    assert outbox.give_up("desk", NOW + HOUR - 1, "away") == []
    assert outbox.give_up("desk", NOW + HOUR, "away") == ["A.1", "B.1"]
    assert [(one.alert.id, one.tried_at, one.error) for one in outbox.entries("failed", 99, (-1, ""))] == [
        ("A.1", NOW + HOUR, "away"),
        ("B.1", NOW + HOUR, "away"),
    ]
    assert tried_at() == [NOW + 3 * HOUR]
    outbox.reset_giveup_timer("desk")
    assert tried_at() == [None]
    assert outbox.give_up("desk", NOW + DAY, "away") == []
    outbox.close()


def test_after_a_restart_the_outage_goes_on_until_one_is_taken(home: Home) -> None:
    home.feed.all = [alert(f"A{n}") for n in range(9)]
    desk = Desk(answers=away)
    home.open(desk, at_once=1)
    home.settled(1)
    desk.answers = lambda one: away(one) if one.id != "A0.1" else None
    home.clock.at += HOUR
    deliveries = home.open(desk, at_once=1)
    until(lambda: {one.tried_at for one in deliveries.entries("waiting")} == {NOW})
    desk.answers = lambda _: None
    home.let_pass(SECOND, lambda: deliveries.waiting() == 0)
    assert home.ask("SELECT count(*) FROM outages") == 0


def test_an_outbox_of_version_1_goes_on(tmp_path: Path) -> None:
    connection = open_database(tmp_path / DATABASE, MIGRATIONS[:1], APPLICATION_ID)
    rows = [
        ("desk", 1, "A.1", "A", 2, NOW + MINUTE, NOW, "waiting", "gone", encode_alert(alert("A"))),
        ("desk", 2, "B.1", "B", 0, NOW, NOW + SECOND, "waiting", None, encode_alert(alert("B"))),
        ("desk", 3, "C.1", "C", 0, NOW + HOUR, NOW + HOUR, "waiting", None, encode_alert(alert("C"))),
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
        ("desk", 1, 2, NOW, "gone"),
        ("desk", 2, 0, NOW + SECOND, None),
        ("desk", 3, 0, NOW + HOUR, None),
        ("other", 3, 0, None, None),
        ("other", 4, 0, NOW, "gone"),
    ]
    outbox.close()


def test_a_destination_that_is_removed(home: Home) -> None:
    desk, other = Desk(answers=away), Desk("other", answers=away)
    home.feed.all = [alert("A", 1), alert("A", 2)]
    home.open(desk, other)
    home.settled(2)
    deliveries = home.open(other)
    failed = deliveries.entries("failed")
    assert [(one.destination, one.alert.id, one.error) for one in failed] == [
        ("desk", "A.1", REMOVED),
        ("desk", "A.2", REMOVED),
    ]
    assert (deliveries.waiting(), deliveries.retry()) == (2, 0)
    desk.answers = lambda _: None
    deliveries = home.open(desk, other)
    assert deliveries.retry() == 2
    desk.wait(taken=2)
    assert desk.taken == ["A.1", "A.2"]


# -- crashes, and stopping


def serve(folder: Path, url: str) -> None:
    """The child of the test below."""
    feed = Feed(*(alert(f"INV-{n}", step) for step in (1, 2, 3, 4) for n in range(10)))
    Deliveries(folder, feed.open, {"critical": [Webhook("hook", url, KEY, "eu")], "warning": []}).start()
    threading.Event().wait()


def test_killed_while_it_sends_it_loses_nothing_and_sends_what_was_cut_off_again(home: Home) -> None:
    child: list[subprocess.Popen[bytes]] = []
    fatal: list[str] = []
    started = threading.Event()

    def answers(id: str) -> int | None:
        if len(one.tried) >= 17 and not fatal:
            fatal.append(id)
            started.wait(SOON)
            os.kill(child[0].pid, signal.SIGKILL)
            child[0].wait()
            return None
        return 204

    code = "import sys; from pathlib import Path; from tests.embedded.alerting.test_deliveries import serve; "
    with receiver(answers) as one:
        command = [sys.executable, "-c", code + "serve(Path(sys.argv[1]), sys.argv[2])", str(home.folder), one.url]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
            child.append(process)
            started.set()
            process.wait(SOON)
        assert process.returncode == -signal.SIGKILL
        cut = list(one.taken)
        assert fatal[0] in cut
        home.feed.all = [alert(f"INV-{n}", step) for step in (1, 2, 3, 4) for n in range(10)]
        home.clock.at = NOW + 100 * 365 * DAY
        deliveries = home.open(Webhook("hook", one.url, KEY, "eu"))
        until(lambda: deliveries.waiting() == 0 and deliveries.delivered() == 40)
    assert one.taken.count(fatal[0]) == 2
    assert set(one.taken) == {one_alert.id for one_alert in home.feed.all}
    assert len(one.taken) <= 40 + 4
    assert_in_order(one.taken)


def test_stopping_lets_what_is_being_sent_end(home: Home) -> None:
    going = threading.Event()
    desk = Desk(answers=lambda _: void(going.wait(SOON)))
    home.feed.all = [alert("A", 1), alert("A", 2)]
    deliveries = home.open(desk)
    desk.wait(tried=1)
    stopping = threading.Thread(target=deliveries.stop)
    stopping.start()
    going.set()
    stopping.join()
    deliveries.stop()
    assert desk.taken == ["A.1"]
    assert home.ask("SELECT alert_id FROM deliveries") == "A.2"
    home.open(desk)
    desk.wait(taken=2)
    assert desk.taken == ["A.1", "A.2"]


def void(_: object) -> None:
    pass


def test_stopping_does_not_wait_for_who_hangs(home: Home) -> None:
    going = threading.Event()
    desk = Desk(answers=lambda _: void(going.wait(SOON)))
    home.feed.all = [alert("A", 1)]
    deliveries = home.open(desk, grace=0.01)
    desk.wait(tried=1)
    deliveries.stop()
    assert (desk.taken, home.ask("SELECT count(*) FROM deliveries")) == ([], 1)
    going.set()
    desk.wait(taken=1)


def test_it_need_not_have_started_to_be_stopped(home: Home) -> None:
    deliveries = Deliveries(home.folder, home.feed.open, {"critical": [Desk()], "warning": []})
    deliveries.stop()
    deliveries.stop()


# -- faults of ours


def test_alerts_that_cannot_be_read_are_read_later(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    deliveries = home.open(desk)
    home.feed.fails = OSError("the disk is gone")
    deliveries.poke()
    until(lambda: deliveries.failure is not None)
    assert deliveries.failure == "new alerts cannot be taken over: the disk is gone"
    home.feed.all = [alert("A")]
    home.feed.fails = None
    deliveries.poke()
    desk.wait(taken=1)
    until(lambda: deliveries.failure is None)
    assert home.feed.opened > 1
    assert sum("new alerts cannot be taken over" in message for message in caplog.messages) == 1


def test_an_outbox_that_cannot_be_written_has_nothing_sent_again_and_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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
    desk = Desk()
    home.feed.all = [alert("A", 1), alert("A", 2)]
    deliveries = home.open(desk)
    until(lambda: deliveries.failure is not None)
    assert deliveries.failure == "desk: the outbox cannot be used: database or disk is full"
    until(lambda: len(tries) > 2)
    assert desk.taken == ["A.1"]
    assert caplog.text.count("outbox cannot be used") == 1
    assert "Traceback" not in caplog.text
    full[0] = False
    desk.wait(taken=2)
    until(lambda: deliveries.delivered() == 2)
    assert desk.taken == ["A.1", "A.2"]
    until(lambda: deliveries.failure is None)


def test_an_outbox_that_can_be_used_again_is_no_trouble_any_more(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Though nothing was sent since; what fails then is told like the first time."""
    heads = Outbox.next_per_invoice

    def full(*_: object) -> None:
        raise apsw.FullError("database or disk is full")

    desk = Desk(answers=away)
    deliveries = home.open(desk)
    for outages in (1, 2):
        monkeypatch.setattr(Outbox, "next_per_invoice", full)
        deliveries.poke()
        until(lambda: deliveries.failure == "desk: the outbox cannot be used: database or disk is full")
        monkeypatch.setattr(Outbox, "next_per_invoice", heads)
        deliveries.poke()
        until(lambda: deliveries.failure is None)
        assert caplog.text.count("outbox cannot be used") == outages
    home.feed.all = [alert("A")]
    deliveries.poke()
    until(lambda: deliveries.failure == "desk: nobody is there")
    assert "desk: an alert was not taken" in caplog.text
    monkeypatch.setattr(Outbox, "next_per_invoice", full)
    home.move(RETRY_DELAYS[0])
    until(lambda: deliveries.failure == "desk: the outbox cannot be used: database or disk is full; nobody is there")


def test_a_fault_in_sending_is_an_attempt_that_failed_and_tells_no_secret(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    url = "https://chat.example.com/n0b0dy-kn0ws"

    def broken(_: Alert) -> None:
        raise RuntimeError(url)

    desk = Desk(answers=broken)
    home.feed.all = [alert("A"), alert("B")]
    deliveries = home.open(desk)
    home.settled(2)
    assert deliveries.entries("waiting")[0].error == "it could not be sent (RuntimeError)"
    assert "n0b0dy" not in caplog.text
    assert "RuntimeError in sending alert A.1" in caplog.text
    assert "in broken" in caplog.text


def test_nothing_secret_is_kept_or_logged(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    home.feed.all = [alert("A")]
    with receiver(lambda _: 500) as one:
        deliveries = home.open(Webhook("webhook $CHAT_URL", one.url + "/n0b0dy-kn0ws", KEY, "eu", patience=PATIENT))
        until(lambda: deliveries.failure is not None)
        assert deliveries.failure == "webhook $CHAT_URL: it answers 500 Internal Server Error"
    home.stop()
    kept = b"".join(file.read_bytes() for file in home.folder.iterdir())
    assert b"n0b0dy" not in kept
    assert "n0b0dy" not in caplog.text
    assert "webhook $CHAT_URL: an alert was not taken" in caplog.text


# -- what is refused


def file_content(home: Home) -> object:
    return (home.folder / DATABASE).read_bytes()


def rows(home: Home) -> object:
    """What the outbox holds. A start that comes to look at the store has told the file of its log already."""
    with closing(apsw.Connection(str(home.folder / DATABASE))) as connection:
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("deliveries", "progress")]


def refused(home: Home, held: Callable[[Home], object] = file_content) -> str:
    before = held(home)
    with pytest.raises(StoreUnusable) as told:
        home.open(Desk())
    assert held(home) == before
    assert str(home.folder / DATABASE) in str(told.value)
    return str(told.value)


def test_an_outbox_goes_with_its_store(home: Home) -> None:
    desk = Desk()
    home.feed.all = [alert("A", 1), alert("A", 2)]
    home.open(desk)
    desk.wait(taken=2)
    home.stop()
    home.all.clear()
    home.feed.all = [alert("A", 1)]
    assert "goes with another store" in refused(home, rows)
    home.feed.all = [alert("B", 1), alert("B", 2), alert("B", 3)]
    assert "goes with another store" in refused(home, rows)


def test_a_store_that_cannot_be_opened_says_so_at_once(home: Home) -> None:
    def source() -> Feed:
        raise StoreUnusable("there is no store")

    with pytest.raises(StoreUnusable, match="there is no store"):
        home.open(Desk(), source=source)


def test_files_that_are_no_outbox(home: Home) -> None:
    path = home.folder / DATABASE
    path.write_text("hello\n")
    assert "it is not an SQLite database" in refused(home)
    path.unlink()
    foreign = apsw.Connection(str(path))
    foreign.execute("CREATE TABLE songs (name)")
    foreign.close()
    assert "another program made it" in refused(home)
    path.unlink()
    Outbox(home.folder).close()
    newer = apsw.Connection(str(path))
    newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    newer.close()
    assert f"of version {len(MIGRATIONS) + 1}" in refused(home)


def test_a_damaged_outbox(home: Home) -> None:
    desk = Desk(answers=away)
    home.feed.all = [alert(f"A{n}") for n in range(200)]
    home.open(desk)
    until(lambda: home.all[-1].waiting() == 200)
    home.stop()
    home.all.clear()
    path = home.folder / DATABASE
    content = bytearray(path.read_bytes())
    content[8192:20480] = b"\xff" * 12288
    path.write_bytes(content)
    assert "damaged" in refused(home)
    path.write_bytes(content[: len(content) // 2])
    assert "damaged" in refused(home)


def test_many_alerts_are_taken_over_in_portions(home: Home) -> None:
    desk = Desk(answers=away)
    home.feed.all = [structs.replace(alert("A"), id=f"A.{n}") for n in range(2 * TAKEN)]
    deliveries = home.open(desk)
    until(lambda: deliveries.waiting() == 2 * TAKEN)
    assert [one.seq for one in deliveries.entries("waiting", 3)] == [1, 2, 3]
