"""The contract of the ports, on every home: the embedded stores, and the AWS adapters over moto."""

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
    """The first version of a record with all that a record can have: registers, a wait, a run, something pending."""
    decided = on_event(None, event("ingestion", "received", invoice_id=invoice_id), POLICY, NOW).record
    assert decided and decided.pending and decided.changes and decided.check_at
    return decided


def known(home: Adapter, invoice_id: str = "INV-1") -> InvoiceRecord | None:
    """What a decision is made on: `changes` are for the time series alone, and a home may leave them out."""
    found = home.records.load(invoice_id)
    return found and structs.replace(found, changes=())


def bare(one: InvoiceRecord) -> InvoiceRecord:
    return structs.replace(one, changes=())


# -- Records


def test_an_invoice_that_nobody_saved_has_no_record(home: Adapter) -> None:
    assert home.records.load("INV-1") is None


def test_what_is_saved_is_loaded(home: Adapter) -> None:
    assert home.records.save(record())
    assert known(home) == bare(record())
    assert home.records.load("INV-2") is None


def test_a_record_is_saved_only_over_the_version_before_it(home: Adapter) -> None:
    first = record()
    assert home.records.save(first)
    second = clear_pending(first, NOW)
    assert home.records.save(second)
    assert known(home) == second
    other = structs.replace(second, version=2, mark="parked")
    late = structs.replace(first, version=4)
    assert [home.records.save(one) for one in (structs.replace(first, mark="parked"), other, late)] == [False] * 3
    assert known(home) == second


def test_a_record_without_a_check_loses_it(home: Adapter) -> None:
    first = record()
    home.records.save(first)
    assert home.records.save(structs.replace(first, version=2, check_at=None, wait=None, pending=()))
    found = known(home)
    assert found and found.check_at is None and found.wait is None


@pytest.mark.parametrize("invoice_id", ["!", "a/b#c?d=%20&e", "~" * 128, "INV-1 ".strip()])
def test_any_id_that_passes_the_gate_is_a_key(home: Adapter, invoice_id: str) -> None:
    assert home.records.save(record(invoice_id))
    assert known(home, invoice_id) == bare(record(invoice_id))


# -- Executions


def test_an_execution_starts_with_its_input(home: Adapter) -> None:
    home.executions.start(START, NOW)
    (wait,) = home.waits()
    assert (wait["invoice_id"], wait["run"], wait["stage"], wait["retry_count"]) == (
        "INV/2026/1",
        1,
        "authorization",
        0,
    )
    assert home.status(NAME) == "RUNNING"


def test_a_start_that_is_repeated_is_the_same_one(home: Adapter) -> None:
    for _ in range(3):
        home.executions.start(START, NOW)
    assert len(home.waits()) == 1


def test_a_start_with_another_input_is_the_same_one_too(home: Adapter) -> None:
    home.executions.start(START, NOW)
    home.executions.start(StartExecution("INV/2026/1", 1, 7200), NOW)
    assert len(home.waits()) == 1


def test_a_start_after_the_end_is_the_same_one_too(home: Adapter) -> None:
    home.executions.start(START, NOW)
    home.executions.answer(SendTaskAnswer(home.waits()[0]["token"], "Rejected", NOW), NOW)
    home.executions.start(START, NOW)
    assert (len(home.waits()), home.status(NAME)) == (1, "SUCCEEDED")


def test_an_answer_moves_the_execution_on(home: Adapter) -> None:
    home.executions.start(START, NOW)
    home.executions.answer(SendTaskAnswer(home.waits()[0]["token"], "ok", NOW + HOUR), NOW)
    assert [wait["stage"] for wait in home.waits()] == ["authorization", "reconciliation"]


@pytest.mark.parametrize("told", ["Rejected", "Cancelled", "Parked", "Superseded"])
def test_an_answer_ends_the_execution(home: Adapter, told: TaskAnswer) -> None:
    home.executions.start(START, NOW)
    home.executions.answer(SendTaskAnswer(home.waits()[0]["token"], told, NOW), NOW)
    assert home.status(NAME) == "SUCCEEDED"


def test_an_answer_says_how_long_to_wait_from_when_it_is_sent(home: Adapter) -> None:
    home.executions.start(START, NOW)
    home.executions.answer(SendTaskAnswer(home.waits()[0]["token"], "ok", NOW + 10), NOW)
    assert len(home.waits()) == 2
    home.later(1)
    assert home.status(NAME) == "SUCCEEDED", "the wait of a second ran out, and EscalateFunction says Parked"


def test_a_used_token_counts_as_answered(home: Adapter) -> None:
    home.executions.start(START, NOW)
    token = home.waits()[0]["token"]
    answers: tuple[TaskAnswer, ...] = ("ok", "ok", "Rejected")
    for told in answers:
        home.executions.answer(SendTaskAnswer(token, told, NOW + HOUR), NOW)
    assert (len(home.waits()), home.status(NAME)) == (2, "RUNNING")


def test_an_expired_token_counts_as_answered(home: Adapter) -> None:
    home.executions.start(START, NOW)
    token = home.waits()[0]["token"]
    home.later(3600)
    home.executions.answer(SendTaskAnswer(token, "ok", NOW + HOUR), NOW)
    assert (len(home.waits()), home.status(NAME)) == (1, "SUCCEEDED")


@pytest.mark.parametrize("token", ["nobody's", f"{NAME}#nobody's", "x" * 2048])
def test_an_unknown_token_counts_as_answered(home: Adapter, token: str) -> None:
    home.executions.start(START, NOW)
    home.executions.answer(SendTaskAnswer(token, "ok", NOW), NOW)
    home.executions.answer(SendTaskAnswer(token, "Rejected", NOW), NOW)
    assert home.status(NAME) == "RUNNING"


# -- Alerts


def alert(severity: Severity = "warning", step: int = 1) -> Alert:
    id = alert_id("INV-1", "posting", NOW, step)
    return Alert(id, "INV-1", "stuck", "posting", severity, step, NOW, NOW + HOUR, NOW + 2 * HOUR, FACTS)


@pytest.mark.parametrize("severity", ["warning", "critical"])
def test_an_alert_is_raised(home: Adapter, severity: Severity) -> None:
    home.alerts.raise_alert(alert(severity))
    assert home.raised() == [alert().id]


def test_an_alert_that_is_raised_twice_is_known_by_its_id(home: Adapter) -> None:
    for step in (1, 2, 1):
        home.alerts.raise_alert(alert(step=step))
    assert home.raised() == sorted({alert(step=1).id, alert(step=2).id})
