"""Tests of the protocol over ports: load, decide, save conditionally, act, clear."""

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


class InMemoryPorts:
    """All four ports in memory.

    `fail_once` names methods that raise once, `fail_always` those that always raise. Each callback runs once.
    """

    def __init__(self) -> None:
        self.stored: InvoiceRecord | None = None
        self.time = NOW
        self.started: list[StartExecution] = []
        self.answered: list[tuple[SendTaskAnswer, Instant]] = []
        self.raised: list[Alert] = []
        self.writes = 0
        self.fail_once: set[str] = set()
        self.fail_always: set[str] = set()
        self.before_save: Callable[[], object] | None = None
        self.after_alert: Callable[[], object] | None = None

    def now(self) -> Instant:
        return self.time

    def load(self, invoice_id: str) -> InvoiceRecord | None:
        return self.stored if invoice_id == "INV-1" else None

    def save(self, record: InvoiceRecord) -> bool:
        self._raise_planned_failure("save")
        callback, self.before_save = self.before_save, None
        if callback:
            callback()
        if (self.stored.version if self.stored else 0) != record.version - 1:
            return False
        self.stored = record
        self.writes += 1
        return True

    def start(self, execution: StartExecution, now: Instant) -> None:  # noqa: ARG002
        self._raise_planned_failure("start")
        self.started.append(execution)

    def answer(self, answer: SendTaskAnswer, now: Instant) -> None:
        self._raise_planned_failure("answer")
        self.answered.append((answer, now))

    def raise_alert(self, alert: Alert) -> None:
        self._raise_planned_failure("raise_alert")
        self.raised.append(alert)
        callback, self.after_alert = self.after_alert, None
        if callback:
            callback()

    def _raise_planned_failure(self, call: str) -> None:
        if call in self.fail_always:
            raise PermissionError(call)
        if call in self.fail_once:
            self.fail_once.remove(call)
            raise TimeoutError(call)

    def apply_event(self, one: Event = RECEIVED) -> Receipt:
        return self.run(lambda record, now: on_event(record, one, POLICY, now))

    def apply_wait(self) -> None:
        request = WaitRequest(1, "authorization", "T", (NOW, 0))
        self.run(lambda record, now: on_wait(record, request, POLICY, now))

    def run(self, decide: Callable[[InvoiceRecord | None, Instant], Decision[AnswerT]]) -> AnswerT:
        return run_steps(apply_steps("INV-1", decide), self, self, self, self)


@pytest.fixture
def ports() -> InMemoryPorts:
    return InMemoryPorts()


def test_a_decision_is_saved_carried_out_and_cleared(ports: InMemoryPorts) -> None:
    assert ports.apply_event() == ACCEPTED
    assert [start.run for start in ports.started] == [1]
    assert ports.stored and ports.stored.pending == ()
    assert (ports.stored.version, ports.writes) == (2, 2)
    assert ports.stored.check_at == NOW + 3 * DAY + GRACE_PERIOD


def test_a_decision_without_actions_is_one_write(ports: InMemoryPorts) -> None:
    ports.apply_event(APPROVED)
    assert ports.writes == 1
    assert ports.stored and ports.stored.changes


def test_a_repeat_writes_nothing(ports: InMemoryPorts) -> None:
    ports.apply_event()
    writes = ports.writes
    assert ports.apply_event() == DUPLICATE
    assert ports.writes == writes


def test_a_lost_race_repeats_the_decision(ports: InMemoryPorts) -> None:
    ports.before_save = lambda: ports.apply_event(APPROVED)
    assert ports.apply_event() == ACCEPTED
    assert ports.stored and set(ports.stored.outcomes) == {"ingestion", "authorization"}
    assert [start.run for start in ports.started] == [1]


def test_a_failure_before_the_save_changes_nothing(ports: InMemoryPorts) -> None:
    ports.fail_once = {"save"}
    with pytest.raises(TimeoutError):
        ports.apply_event()
    assert ports.stored is None
    assert ports.apply_event() == ACCEPTED


def test_an_action_that_fails_after_the_save_is_carried_out_on_redelivery(ports: InMemoryPorts) -> None:
    ports.fail_once = {"start"}
    with pytest.raises(TimeoutError):
        ports.apply_event()
    assert ports.stored and ports.stored.pending
    assert ports.stored.check_at == NOW + GRACE_PERIOD
    assert ports.apply_event() == DUPLICATE
    assert [start.run for start in ports.started] == [1]
    assert ports.stored.pending == ()


def test_a_failed_action_does_not_stop_the_following_ones(ports: InMemoryPorts) -> None:
    ports.fail_always = {"start"}
    with pytest.raises(PermissionError):
        ports.apply_event()
    ports.time = NOW + 3 * DAY
    with pytest.raises(PermissionError):
        ports.run(lambda record, now: on_sweep(record, POLICY, now))
    # The run counts as open, so the sweep waits for the grace period.
    ports.time += GRACE_PERIOD
    with pytest.raises(PermissionError):
        ports.run(lambda record, now: on_sweep(record, POLICY, now))
    assert [alert.step for alert in ports.raised] == [1]
    assert ports.stored and [type(action) for action in ports.stored.pending] == [StartExecution]
    assert ports.stored.check_at == ports.time + GRACE_PERIOD


def test_the_first_failure_is_raised_after_all_actions_were_tried(ports: InMemoryPorts) -> None:
    ports.apply_event()
    ports.apply_wait()
    ports.fail_always = {"answer", "raise_alert"}
    ports.time = NOW + 4 * DAY
    with pytest.raises(PermissionError, match="raise_alert"):
        ports.apply_event(event("authorization", "approved", ports.time))
    assert ports.stored and len(ports.stored.pending) == 3


def test_a_repeated_failure_postpones_the_check_without_a_new_decision(ports: InMemoryPorts) -> None:
    ports.fail_always = {"start"}
    with pytest.raises(PermissionError):
        ports.apply_event()
    writes, ports.time = ports.writes, NOW + GRACE_PERIOD
    with pytest.raises(PermissionError):
        ports.run(lambda record, now: on_sweep(record, POLICY, now))
    assert ports.writes == writes + 1
    assert ports.stored and ports.stored.check_at == ports.time + GRACE_PERIOD


def test_every_alert_is_raised_once_while_starts_fail_for_a_day(ports: InMemoryPorts) -> None:
    ports.fail_always = {"start"}
    with pytest.raises(PermissionError):
        ports.apply_event()
    ports.time = NOW + 3 * DAY
    while ports.time < NOW + 4 * DAY + HOUR:
        ports.time += MINUTE
        if ports.stored and ports.stored.check_at is not None and ports.stored.check_at <= ports.time:
            with pytest.raises(PermissionError):
                ports.run(lambda record, now: on_sweep(record, POLICY, now))
    assert [alert.step for alert in ports.raised] == [1, 2]
    ports.fail_always = set()
    ports.time += GRACE_PERIOD
    ports.run(lambda record, now: on_sweep(record, POLICY, now))
    assert len(ports.started) == 1 and ports.stored and ports.stored.pending == ()


def test_the_clear_keeps_actions_that_were_added_meanwhile(ports: InMemoryPorts) -> None:
    ports.apply_event()
    ports.apply_wait()
    ports.time = NOW + 3 * DAY
    ports.fail_once = {"answer"}

    def approve() -> None:
        with pytest.raises(TimeoutError):
            ports.apply_event(APPROVED)

    # Between the alert and the clear, an approval saves its answer and crashes before it sends it.
    ports.after_alert = approve
    ports.run(lambda record, now: on_timeout(record, 1, "authorization", POLICY, now))
    assert ports.stored and [type(action) for action in ports.stored.pending].count(SendTaskAnswer) == 1
    ports.apply_event(APPROVED)
    assert [answer.answer for answer, _ in ports.answered] == ["ok"]
    assert ports.stored.pending == ()


def test_an_answer_is_computed_when_it_is_sent(ports: InMemoryPorts) -> None:
    ports.apply_event()
    ports.apply_wait()
    ports.time = NOW + HOUR
    ports.fail_once = {"answer"}
    with pytest.raises(TimeoutError):
        ports.apply_event(APPROVED)
    ports.time = NOW + 2 * HOUR
    ports.apply_event(APPROVED)
    ((answer, at),) = ports.answered
    assert answer.output(at) == {"deadline_seconds": 3 * 86400 - 3600}


def test_a_wait_without_a_record_is_answered_and_nothing_is_saved(ports: InMemoryPorts) -> None:
    ports.apply_wait()
    assert [answer.answer for answer, _ in ports.answered] == ["Superseded"]
    assert ports.stored is None
