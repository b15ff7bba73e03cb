"""Contract of the ports, tested on the adapters of both runtimes.

Of these ports the embedded cell implements only Executions. `tests/conformance` tests the runtimes as a whole.
"""

from os import environ

import pytest
from msgspec import structs

from bems.aws.alerts import SnsAlerts
from bems.aws.clients import client
from bems.aws.records import DynamoRecords
from bems.tracker.actions import Alert, SendTaskAnswer, Severity, StartExecution, TaskAnswer, alert_id, execution_name
from bems.tracker.decisions import on_event
from bems.tracker.instants import HOUR
from bems.tracker.ports import Alerts, Records
from bems.tracker.record import InvoiceRecord
from bems.tracker.record_builder import clear_pending
from tests.aws.cloud import CELL, TABLE, Cloud
from tests.ports.adapters import ExecutionsAdapter
from tests.tracker.samples import FACTS, NOW, POLICY, event

START = StartExecution("INV/2026/1", 1, 3600)
NAME = execution_name("INV/2026/1", 1)


def record(invoice_id: str = "INV-1") -> InvoiceRecord:
    """Return the first version of a record, with outcomes, a wait, a run and pending actions."""
    decided = on_event(None, event("ingestion", "received", invoice_id=invoice_id), POLICY, NOW).record
    assert decided and decided.pending and decided.changes and decided.check_at
    return decided


def known(records: Records, invoice_id: str = "INV-1") -> InvoiceRecord | None:
    """Load a record without `changes`, which adapters may omit because only the time series needs them."""
    found = records.load(invoice_id)
    return found and structs.replace(found, changes=())


def bare(one: InvoiceRecord) -> InvoiceRecord:
    return structs.replace(one, changes=())


# -- Records


@pytest.fixture
def records(aws: Cloud) -> Records:  # noqa: ARG001
    return DynamoRecords(client("dynamodb"), TABLE)


def test_an_unknown_invoice_has_no_record(records: Records) -> None:
    assert records.load("INV-1") is None


def test_a_saved_record_is_loaded(records: Records) -> None:
    assert records.save(record())
    assert known(records) == bare(record())
    assert records.load("INV-2") is None


def test_a_record_is_saved_only_over_the_version_before_it(records: Records) -> None:
    first = record()
    assert records.save(first)
    second = clear_pending(first, NOW)
    assert records.save(second)
    assert known(records) == second
    other = structs.replace(second, version=2, mark="parked")
    late = structs.replace(first, version=4)
    assert [records.save(one) for one in (structs.replace(first, mark="parked"), other, late)] == [False] * 3
    assert known(records) == second


def test_a_check_can_be_removed(records: Records) -> None:
    first = record()
    records.save(first)
    assert records.save(structs.replace(first, version=2, check_at=None, wait=None, pending=()))
    found = known(records)
    assert found and found.check_at is None and found.wait is None


@pytest.mark.parametrize("invoice_id", ["!", "a/b#c?d=%20&e", "~" * 128, "INV-1 ".strip()])
def test_every_valid_id_is_a_key(records: Records, invoice_id: str) -> None:
    assert records.save(record(invoice_id))
    assert known(records, invoice_id) == bare(record(invoice_id))


# -- Executions


def test_an_execution_starts_with_its_input(adapter: ExecutionsAdapter) -> None:
    adapter.executions.start(START, NOW)
    (wait,) = adapter.waits()
    assert (wait["invoice_id"], wait["run"], wait["stage"], wait["retry_count"]) == (
        "INV/2026/1",
        1,
        "authorization",
        0,
    )
    assert adapter.status(NAME) == "RUNNING"


def test_a_start_is_idempotent(adapter: ExecutionsAdapter) -> None:
    for _ in range(3):
        adapter.executions.start(START, NOW)
    assert len(adapter.waits()) == 1


def test_a_start_with_other_input_is_ignored(adapter: ExecutionsAdapter) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.start(StartExecution("INV/2026/1", 1, 7200), NOW)
    assert len(adapter.waits()) == 1


def test_a_start_after_the_end_is_ignored(adapter: ExecutionsAdapter) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.answer(SendTaskAnswer(adapter.waits()[0]["token"], "Rejected", NOW), NOW)
    adapter.executions.start(START, NOW)
    assert (len(adapter.waits()), adapter.status(NAME)) == (1, "SUCCEEDED")


def test_an_answer_continues_the_execution(adapter: ExecutionsAdapter) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.answer(SendTaskAnswer(adapter.waits()[0]["token"], "ok", NOW + HOUR), NOW)
    assert [wait["stage"] for wait in adapter.waits()] == ["authorization", "reconciliation"]


@pytest.mark.parametrize("answer", ["Rejected", "Cancelled", "Parked", "Superseded"])
def test_an_answer_ends_the_execution(adapter: ExecutionsAdapter, answer: TaskAnswer) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.answer(SendTaskAnswer(adapter.waits()[0]["token"], answer, NOW), NOW)
    assert adapter.status(NAME) == "SUCCEEDED"


def test_the_next_wait_starts_when_the_answer_is_sent(adapter: ExecutionsAdapter) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.answer(SendTaskAnswer(adapter.waits()[0]["token"], "ok", NOW + 10), NOW)
    assert len(adapter.waits()) == 2
    adapter.advance(1)
    assert adapter.status(NAME) == "SUCCEEDED", "the wait of one second ended, and EscalateFunction returned Parked"


def test_a_used_token_counts_as_answered(adapter: ExecutionsAdapter) -> None:
    adapter.executions.start(START, NOW)
    token = adapter.waits()[0]["token"]
    answers: tuple[TaskAnswer, ...] = ("ok", "ok", "Rejected")
    for answer in answers:
        adapter.executions.answer(SendTaskAnswer(token, answer, NOW + HOUR), NOW)
    assert (len(adapter.waits()), adapter.status(NAME)) == (2, "RUNNING")


def test_an_expired_token_counts_as_answered(adapter: ExecutionsAdapter) -> None:
    adapter.executions.start(START, NOW)
    token = adapter.waits()[0]["token"]
    adapter.advance(3600)
    adapter.executions.answer(SendTaskAnswer(token, "ok", NOW + HOUR), NOW)
    assert (len(adapter.waits()), adapter.status(NAME)) == (1, "SUCCEEDED")


@pytest.mark.parametrize("token", ["nobody's", f"{NAME}#nobody's", "x" * 2048])
def test_an_unknown_token_counts_as_answered(adapter: ExecutionsAdapter, token: str) -> None:
    adapter.executions.start(START, NOW)
    adapter.executions.answer(SendTaskAnswer(token, "ok", NOW), NOW)
    adapter.executions.answer(SendTaskAnswer(token, "Rejected", NOW), NOW)
    assert adapter.status(NAME) == "RUNNING"


# -- Alerts


@pytest.fixture
def alerts(aws: Cloud) -> Alerts:  # noqa: ARG001
    topics: dict[Severity, str] = {
        "warning": environ["BEMS_WARNING_TOPIC_ARN"],
        "critical": environ["BEMS_CRITICAL_TOPIC_ARN"],
    }
    return SnsAlerts(client("sns"), CELL, topics)


def alert(severity: Severity = "warning", step: int = 1) -> Alert:
    id = alert_id("INV-1", "posting", NOW, step)
    return Alert(id, "INV-1", "stuck", "posting", severity, step, NOW, NOW + HOUR, NOW + 2 * HOUR, FACTS)


@pytest.mark.parametrize("severity", ["warning", "critical"])
def test_an_alert_is_raised(alerts: Alerts, aws: Cloud, severity: Severity) -> None:
    alerts.raise_alert(alert(severity))
    assert [(one["id"], one["severity"]) for one in aws.alerts] == [(alert().id, severity)]


def test_repeated_alerts_have_the_same_id(alerts: Alerts, aws: Cloud) -> None:
    for step in (1, 2, 1):
        alerts.raise_alert(alert(step=step))
    assert [one["id"] for one in aws.alerts] == [alert(step=step).id for step in (1, 2, 1)]
