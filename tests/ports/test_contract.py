"""Contract of the ports, tested on the embedded stores and on the AWS adapters."""

import pytest
from msgspec import structs

from bems.tracker.actions import Alert, SendTaskAnswer, Severity, StartExecution, TaskAnswer, alert_id, execution_name
from bems.tracker.decisions import on_event
from bems.tracker.instants import HOUR
from bems.tracker.record import InvoiceRecord
from bems.tracker.record_builder import clear_pending
from tests.ports.adapters import Adapter
from tests.tracker.samples import FACTS, NOW, POLICY, event

START = StartExecution("INV/2026/1", 1, 3600)
NAME = execution_name("INV/2026/1", 1)


def record(invoice_id: str = "INV-1") -> InvoiceRecord:
    """Return the first version of a record, with outcomes, a wait, a run and pending actions."""
    decided = on_event(None, event("ingestion", "received", invoice_id=invoice_id), POLICY, NOW).record
    assert decided and decided.pending and decided.changes and decided.check_at
    return decided


def known(adapter: Adapter, invoice_id: str = "INV-1") -> InvoiceRecord | None:
    """Load a record without `changes`, which adapters may omit because only the time series needs them."""
    found = adapter.records.load(invoice_id)
    return found and structs.replace(found, changes=())


def bare(one: InvoiceRecord) -> InvoiceRecord:
    return structs.replace(one, changes=())


# -- Records


def test_an_unknown_invoice_has_no_record(adapter: Adapter) -> None:
    assert adapter.records.load("INV-1") is None


def test_a_saved_record_is_loaded(adapter: Adapter) -> None:
    assert adapter.records.save(record())
    assert known(adapter) == bare(record())
    assert adapter.records.load("INV-2") is None


def test_a_record_is_saved_only_over_the_version_before_it(adapter: Adapter) -> None:
    first = record()
    assert adapter.records.save(first)
    second = clear_pending(first, NOW)
    assert adapter.records.save(second)
    assert known(adapter) == second
    other = structs.replace(second, version=2, mark="parked")
    late = structs.replace(first, version=4)
    assert [adapter.records.save(one) for one in (structs.replace(first, mark="parked"), other, late)] == [False] * 3
    assert known(adapter) == second


def test_a_check_can_be_removed(adapter: Adapter) -> None:
    first = record()
    adapter.records.save(first)
    assert adapter.records.save(structs.replace(first, version=2, check_at=None, wait=None, pending=()))
    found = known(adapter)
    assert found and found.check_at is None and found.wait is None


@pytest.mark.parametrize("invoice_id", ["!", "a/b#c?d=%20&e", "~" * 128, "INV-1 ".strip()])
def test_every_valid_id_is_a_key(adapter: Adapter, invoice_id: str) -> None:
    assert adapter.records.save(record(invoice_id))
    assert known(adapter, invoice_id) == bare(record(invoice_id))


# -- Executions


def test_an_execution_starts_with_its_input(adapter: Adapter) -> None:
    adapter.executions.start(START, NOW)
    (wait,) = adapter.waits()
    assert (wait["invoice_id"], wait["run"], wait["stage"], wait["retry_count"]) == (
        "INV/2026/1",
        1,
        "authorization",
        0,
    )
    assert adapter.status(NAME) == "RUNNING"


def test_a_start_is_idempotent(adapter: Adapter) -> None:
    for _ in range(3):
        adapter.executions.start(START, NOW)
    assert len(adapter.waits()) == 1


def test_a_start_with_other_input_is_ignored(adapter: Adapter) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.start(StartExecution("INV/2026/1", 1, 7200), NOW)
    assert len(adapter.waits()) == 1


def test_a_start_after_the_end_is_ignored(adapter: Adapter) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.answer(SendTaskAnswer(adapter.waits()[0]["token"], "Rejected", NOW), NOW)
    adapter.executions.start(START, NOW)
    assert (len(adapter.waits()), adapter.status(NAME)) == (1, "SUCCEEDED")


def test_an_answer_continues_the_execution(adapter: Adapter) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.answer(SendTaskAnswer(adapter.waits()[0]["token"], "ok", NOW + HOUR), NOW)
    assert [wait["stage"] for wait in adapter.waits()] == ["authorization", "reconciliation"]


@pytest.mark.parametrize("answer", ["Rejected", "Cancelled", "Parked", "Superseded"])
def test_an_answer_ends_the_execution(adapter: Adapter, answer: TaskAnswer) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.answer(SendTaskAnswer(adapter.waits()[0]["token"], answer, NOW), NOW)
    assert adapter.status(NAME) == "SUCCEEDED"


def test_the_next_wait_starts_when_the_answer_is_sent(adapter: Adapter) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.answer(SendTaskAnswer(adapter.waits()[0]["token"], "ok", NOW + 10), NOW)
    assert len(adapter.waits()) == 2
    adapter.advance(1)
    assert adapter.status(NAME) == "SUCCEEDED", "the wait of one second ended, and EscalateFunction returned Parked"


def test_a_used_token_counts_as_answered(adapter: Adapter) -> None:
    adapter.executions.start(START, NOW)
    token = adapter.waits()[0]["token"]
    answers: tuple[TaskAnswer, ...] = ("ok", "ok", "Rejected")
    for answer in answers:
        adapter.executions.answer(SendTaskAnswer(token, answer, NOW + HOUR), NOW)
    assert (len(adapter.waits()), adapter.status(NAME)) == (2, "RUNNING")


def test_an_expired_token_counts_as_answered(adapter: Adapter) -> None:
    adapter.executions.start(START, NOW)
    token = adapter.waits()[0]["token"]
    adapter.advance(3600)
    adapter.executions.answer(SendTaskAnswer(token, "ok", NOW + HOUR), NOW)
    assert (len(adapter.waits()), adapter.status(NAME)) == (1, "SUCCEEDED")


@pytest.mark.parametrize("token", ["nobody's", f"{NAME}#nobody's", "x" * 2048])
def test_an_unknown_token_counts_as_answered(adapter: Adapter, token: str) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.answer(SendTaskAnswer(token, "ok", NOW), NOW)
    adapter.executions.answer(SendTaskAnswer(token, "Rejected", NOW), NOW)
    assert adapter.status(NAME) == "RUNNING"


# -- Alerts


def alert(severity: Severity = "warning", step: int = 1) -> Alert:
    id = alert_id("INV-1", "posting", NOW, step)
    return Alert(id, "INV-1", "stuck", "posting", severity, step, NOW, NOW + HOUR, NOW + 2 * HOUR, FACTS)


@pytest.mark.parametrize("severity", ["warning", "critical"])
def test_an_alert_is_raised(adapter: Adapter, severity: Severity) -> None:
    adapter.alerts.raise_alert(alert(severity))
    assert adapter.raised() == [alert().id]


def test_repeated_alerts_have_the_same_id(adapter: Adapter) -> None:
    for step in (1, 2, 1):
        adapter.alerts.raise_alert(alert(step=step))
    assert adapter.raised() == sorted({alert(step=1).id, alert(step=2).id})
