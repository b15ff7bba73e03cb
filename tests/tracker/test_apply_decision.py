"""The protocol over ports: load, decide, save on condition, act, clear."""

from collections.abc import Callable

import pytest

from bems.tracker.actions import Alert, SendTaskAnswer, StartExecution
from bems.tracker.apply_decision import apply_steps, run_steps
from bems.tracker.contract import Event
from bems.tracker.decisions import ACCEPTED, DUPLICATE, Receipt, WaitRequest, on_event, on_sweep, on_timeout, on_wait
from bems.tracker.instants import DAY, HOUR, MINUTE, Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.record_builder import GRACE_PERIOD, AnswerT, Decision
from tests.tracker.samples import NOW, POLICY, event

RECEIVED = event("ingestion", "received")
APPROVED = event("authorization", "approved", NOW + HOUR)


class Home:
    """All four ports, in memory. `fail` names calls that raise once; the interlopers run once."""

    def __init__(self) -> None:
        self.stored: InvoiceRecord | None = None
        self.time = NOW
        self.started: list[StartExecution] = []
        self.answered: list[tuple[SendTaskAnswer, Instant]] = []
        self.raised: list[Alert] = []
        self.writes = 0
        self.fail: set[str] = set()
        self.refuse: set[str] = set()
        self.before_save: Callable[[], object] | None = None
        self.after_alert: Callable[[], object] | None = None

    def now(self) -> Instant:
        return self.time

    def load(self, invoice_id: str) -> InvoiceRecord | None:
        return self.stored if invoice_id == "INV-1" else None

    def save(self, record: InvoiceRecord) -> bool:
        self._maybe("save")
        interloper, self.before_save = self.before_save, None
        if interloper:
            interloper()
        if (self.stored.version if self.stored else 0) != record.version - 1:
            return False
        self.stored = record
        self.writes += 1
        return True

    def start(self, execution: StartExecution, now: Instant) -> None:  # noqa: ARG002
        self._maybe("start")
        self.started.append(execution)

    def answer(self, answer: SendTaskAnswer, now: Instant) -> None:
        self._maybe("answer")
        self.answered.append((answer, now))

    def raise_alert(self, alert: Alert) -> None:
        self._maybe("raise_alert")
        self.raised.append(alert)
        interloper, self.after_alert = self.after_alert, None
        if interloper:
            interloper()

    def _maybe(self, call: str) -> None:
        if call in self.refuse:
            raise PermissionError(call)
        if call in self.fail:
            self.fail.remove(call)
            raise TimeoutError(call)

    def event(self, one: Event = RECEIVED) -> Receipt:
        return self.run(lambda record, now: on_event(record, one, POLICY, now))

    def wait(self) -> None:
        request = WaitRequest(1, "authorization", "T", (NOW, 0))
        self.run(lambda record, now: on_wait(record, request, POLICY, now))

    def run(self, decide: Callable[[InvoiceRecord | None, Instant], Decision[AnswerT]]) -> AnswerT:
        return run_steps(apply_steps("INV-1", decide), self, self, self, self)


@pytest.fixture
def home() -> Home:
    return Home()


def test_a_decision_is_saved_done_and_cleared(home: Home) -> None:
    assert home.event() == ACCEPTED
    assert [start.run for start in home.started] == [1]
    assert home.stored and home.stored.pending == ()
    assert (home.stored.version, home.writes) == (2, 2)
    assert home.stored.check_at == NOW + 3 * DAY + GRACE_PERIOD


def test_a_decision_without_actions_is_one_write(home: Home) -> None:
    home.event(APPROVED)
    assert home.writes == 1
    assert home.stored and home.stored.changes


def test_a_repeat_writes_nothing(home: Home) -> None:
    home.event()
    writes = home.writes
    assert home.event() == DUPLICATE
    assert home.writes == writes


def test_whoever_loses_the_race_decides_anew(home: Home) -> None:
    home.before_save = lambda: home.event(APPROVED)
    assert home.event() == ACCEPTED
    assert home.stored and set(home.stored.outcomes) == {"ingestion", "authorization"}
    assert [start.run for start in home.started] == [1]


def test_what_fails_before_the_save_has_not_happened(home: Home) -> None:
    home.fail = {"save"}
    with pytest.raises(TimeoutError):
        home.event()
    assert home.stored is None
    assert home.event() == ACCEPTED


def test_what_fails_after_the_save_is_pending_and_the_redelivery_does_it(home: Home) -> None:
    home.fail = {"start"}
    with pytest.raises(TimeoutError):
        home.event()
    assert home.stored and home.stored.pending
    assert home.stored.check_at == NOW + GRACE_PERIOD
    assert home.event() == DUPLICATE
    assert [start.run for start in home.started] == [1]
    assert home.stored.pending == ()


def test_an_action_that_fails_stops_none_behind_it(home: Home) -> None:
    home.refuse = {"start"}
    with pytest.raises(PermissionError):
        home.event()
    home.time = NOW + 3 * DAY
    with pytest.raises(PermissionError):
        home.run(lambda record, now: on_sweep(record, POLICY, now))
    # The run counts as open, so that the sweep gives it its grace.
    home.time += GRACE_PERIOD
    with pytest.raises(PermissionError):
        home.run(lambda record, now: on_sweep(record, POLICY, now))
    assert [alert.step for alert in home.raised] == [1]
    assert home.stored and [type(action) for action in home.stored.pending] == [StartExecution]
    assert home.stored.check_at == home.time + GRACE_PERIOD


def test_the_first_failure_is_raised_once_all_was_tried(home: Home) -> None:
    home.event()
    home.wait()
    home.refuse = {"answer", "raise_alert"}
    home.time = NOW + 4 * DAY
    with pytest.raises(PermissionError, match="raise_alert"):
        home.event(event("authorization", "approved", home.time))
    assert home.stored and len(home.stored.pending) == 2


def test_what_fails_again_is_put_off_without_being_decided_anew(home: Home) -> None:
    home.refuse = {"start"}
    with pytest.raises(PermissionError):
        home.event()
    writes, home.time = home.writes, NOW + GRACE_PERIOD
    with pytest.raises(PermissionError):
        home.run(lambda record, now: on_sweep(record, POLICY, now))
    assert home.writes == writes + 1
    assert home.stored and home.stored.check_at == home.time + GRACE_PERIOD


def test_with_starts_refused_for_a_day_every_alert_is_published_once(home: Home) -> None:
    home.refuse = {"start"}
    with pytest.raises(PermissionError):
        home.event()
    home.time = NOW + 3 * DAY
    while home.time < NOW + 4 * DAY + HOUR:
        home.time += MINUTE
        if home.stored and home.stored.check_at is not None and home.stored.check_at <= home.time:
            with pytest.raises(PermissionError):
                home.run(lambda record, now: on_sweep(record, POLICY, now))
    assert [alert.step for alert in home.raised] == [1, 2]
    home.refuse = set()
    home.time += GRACE_PERIOD
    home.run(lambda record, now: on_sweep(record, POLICY, now))
    assert len(home.started) == 1 and home.stored and home.stored.pending == ()


def test_the_clear_forgets_nothing_that_somebody_added(home: Home) -> None:
    home.event()
    home.wait()
    home.time = NOW + 3 * DAY
    home.fail = {"answer"}

    def approve() -> None:
        with pytest.raises(TimeoutError):
            home.event(APPROVED)

    # Before the clear that follows the alert, an approval saves its answer, and dies before it is given.
    home.after_alert = approve
    home.run(lambda record, now: on_timeout(record, 1, "authorization", POLICY, now))
    assert home.stored and [type(action) for action in home.stored.pending].count(SendTaskAnswer) == 1
    home.event(APPROVED)
    assert [answer.answer for answer, _ in home.answered] == ["ok"]
    assert home.stored.pending == ()


def test_an_answer_is_computed_when_it_is_sent(home: Home) -> None:
    home.event()
    home.wait()
    home.time = NOW + HOUR
    home.fail = {"answer"}
    with pytest.raises(TimeoutError):
        home.event(APPROVED)
    home.time = NOW + 2 * HOUR
    home.event(APPROVED)
    ((answer, at),) = home.answered
    assert answer.output(at) == {"deadline_seconds": 3 * 86400 - 3600}


def test_a_wait_without_a_record_is_answered_and_nothing_is_saved(home: Home) -> None:
    home.wait()
    assert [answer.answer for answer, _ in home.answered] == ["Superseded"]
    assert home.stored is None
