"""Clauses about events: each is recorded once, in any order, and starts, moves and ends the invoice's execution."""

from itertools import permutations
from typing import Any

import pytest

from bems.tracker.actions import execution_name
from bems.tracker.contract import STAGES, SUCCESS_STATUS, Stage
from bems.tracker.instants import DAY, HOUR, MINUTE, render
from tests.conformance.runtime import ID, Runtime

HAPPY = ["AwaitAuthorization", "AwaitReconciliation", "AwaitPosting", "Posted"]


def test_an_event_is_recorded_once_however_often_it_is_sent(runtime: Runtime) -> None:
    event = runtime.event("ingestion", "received")
    assert [runtime.post("ingestion", event).status for _ in range(3)] == [202] * 3
    known = runtime.record()
    runtime.pass_time(MINUTE)
    assert runtime.post("ingestion", {"events": [event, event]}, is_batch=True).status == 207
    assert runtime.record() == known
    assert [row["event_id"] for row in runtime.rows()] == [event["event_id"]]
    assert (runtime.conflicts(), runtime.dead_letters()) == ([], [])


def test_a_repeat_in_other_words_is_the_same_event(runtime: Runtime) -> None:
    runtime.send("ingestion", "received", event_id="e1", occurred_at="2026-03-02T09:00:00Z", amount="1250.00")
    again = runtime.send("ingestion", "received", event_id="e1", occurred_at="2026-03-02T10:00:00+01:00", amount="1250")
    assert again.status == 202
    assert len(runtime.rows()) == 1
    assert runtime.conflicts() == []


def test_a_conflict_is_reported_and_changes_nothing(runtime: Runtime) -> None:
    runtime.send("ingestion", "received", event_id="e1")
    known = runtime.record()
    runtime.pass_time(MINUTE)
    runtime.send("ingestion", "received", event_id="e1", amount="9.99")
    runtime.send("ingestion", "cancelled", event_id="e1")
    assert runtime.conflicts() == ["e1", "e1"]
    assert runtime.record() == known
    assert len(runtime.rows()) == 1
    runtime.send("authorization", "approved")
    assert runtime.status() == "AwaitingReconciliation", "a conflict blocks no other event of its invoice"


def test_an_invalid_event_is_refused_and_leaves_no_trace(runtime: Runtime) -> None:
    refused = runtime.send("ingestion", "approved", amount="x", currency="EURO")
    assert refused.status == 400
    assert {error["pointer"] for error in refused.content["errors"]} == {"/status", "/amount", "/currency"}
    assert runtime.find_record(ID) is None
    assert runtime.all_rows() == []
    assert runtime.dead_letters() == []


def test_a_batch_has_a_result_for_each_event_in_order(runtime: Runtime) -> None:
    events = [runtime.event("ingestion", "received", f"INV-{number}") for number in range(3)]
    events[1]["amount"] = "x"
    answer = runtime.post("ingestion", {"events": [*events, None]}, is_batch=True)
    assert answer.status == 207
    assert [(one.get("event_id"), one["status"], one["code"]) for one in answer.content["results"]] == [
        (events[0]["event_id"], "accepted", 202),
        (events[1]["event_id"], "refused", 400),
        (events[2]["event_id"], "accepted", 202),
        (None, "refused", 400),
    ]
    assert [row["invoice_id"] for row in runtime.all_rows()] == ["INV-0", "INV-2"]


def test_an_ingestion_starts_one_execution_with_its_deadline(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.send("ingestion", "received", event_id="again")
    (execution,) = runtime.executions()
    assert execution.name == execution_name(ID, 1)
    assert execution.input == {"invoice_id": ID, "run": 1, "deadline_seconds": 3 * 24 * 3600}
    assert (execution.status, execution.states) == ("RUNNING", ["AwaitAuthorization"])
    run = runtime.record().run
    assert (run.stage, run.state) == ("authorization", "open")
    assert run.token, "the execution's token is registered"


@pytest.mark.parametrize("invoice_id", ["!", "a/b#c?d=%20&e", "~" * 128])
def test_every_valid_id_is_an_invoice(runtime: Runtime, invoice_id: str) -> None:
    runtime.send("ingestion", "received", invoice_id, "e1")
    assert runtime.record(invoice_id).invoice_id == invoice_id
    assert [row["invoice_id"] for row in runtime.all_rows()] == [invoice_id]
    (execution,) = runtime.executions(invoice_id)
    assert execution.input["invoice_id"] == invoice_id


def test_each_event_moves_the_execution_to_its_end(runtime: Runtime) -> None:
    for position, stage in enumerate(STAGES):
        runtime.send(stage, SUCCESS_STATUS[stage])
        runtime.pass_time(HOUR)
        (execution,) = runtime.executions()
        assert execution.states == HAPPY[: position + 1]
    assert (execution.status, runtime.status()) == ("SUCCEEDED", "Posted")
    record = runtime.record()
    assert (record.wait, record.check_at, record.pending) == (None, None, ())
    runtime.pass_time(60 * DAY)
    assert runtime.alerts() == []


def test_events_before_the_ingestion_are_kept_and_applied(runtime: Runtime) -> None:
    runtime.send("reconciliation", "matched")
    runtime.send("authorization", "approved")
    assert (runtime.status(), runtime.executions()) == ("Orphan", [])
    runtime.send("ingestion", "received")
    assert runtime.status() == "AwaitingPosting"
    (execution,) = runtime.executions()
    assert execution.states == HAPPY[:3]


def test_the_order_of_arrival_does_not_matter(runtime: Runtime) -> None:
    orders = list(permutations(STAGES))
    for number, order in enumerate(orders):
        for stage in order:
            runtime.send(stage, SUCCESS_STATUS[stage], f"INV-{number}")
    rows = runtime.all_rows()
    for number, order in enumerate(orders):
        id = f"INV-{number}"
        assert runtime.status(id) == "Posted"
        assert [(row["stage"], row["superseded"]) for row in rows if row["invoice_id"] == id] == [
            (stage, "false") for stage in order
        ]
        # An ingestion that arrives last leaves nothing to wait for.
        expected = [] if order[-1] == "ingestion" else ["SUCCEEDED"]
        assert [one.status for one in runtime.executions(id)] == expected
    assert runtime.alerts() == []


def test_an_older_outcome_that_arrives_late_is_superseded(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.send("authorization", "approved", occurred_at=render(runtime.now - HOUR))
    runtime.send("authorization", "rejected", occurred_at=render(runtime.now - 2 * HOUR))
    assert runtime.status() == "AwaitingReconciliation"
    assert [(row["outcome"], row["superseded"]) for row in runtime.rows()] == [
        ("received", "false"),
        ("approved", "false"),
        ("rejected", "true"),
    ]
    (execution,) = runtime.executions()
    assert execution.states == HAPPY[:2]


@pytest.mark.parametrize(
    ("stage", "status", "expected"),
    [("authorization", "rejected", "Rejected"), ("ingestion", "cancelled", "Cancelled")],
)
def test_a_negative_outcome_ends_the_execution(runtime: Runtime, stage: Stage, status: str, expected: str) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(HOUR)
    runtime.send(stage, status)
    (execution,) = runtime.executions()
    assert (execution.status, execution.states) == ("SUCCEEDED", ["AwaitAuthorization", expected])
    assert (runtime.status(), runtime.record().wait) == (expected, None)


def test_a_rejection_that_is_reversed_starts_the_next_execution(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.send("authorization", "rejected")
    runtime.pass_time(DAY)
    runtime.send("authorization", "approved")
    first, second = runtime.executions()
    assert (first.states[-1], first.status) == ("Rejected", "SUCCEEDED")
    assert (second.name, second.states, second.status) == (execution_name(ID, 2), HAPPY[:2], "RUNNING")


def test_events_after_completion_are_recorded_and_start_nothing(runtime: Runtime) -> None:
    for stage in STAGES:
        runtime.send(stage, SUCCESS_STATUS[stage])
    runtime.pass_time(DAY)
    runtime.send("authorization", "approved", event_id="late", occurred_at=render(runtime.now - 2 * DAY))
    runtime.send("reconciliation", "matched", event_id="again")
    assert runtime.status() == "Posted"
    assert [(row["event_id"], row["superseded"]) for row in runtime.rows()[4:]] == [
        ("late", "true"),
        ("again", "false"),
    ]
    runtime.send("ingestion", "cancelled")
    assert runtime.status() == "Cancelled"
    assert [one.status for one in runtime.executions()] == ["SUCCEEDED"]
    assert runtime.alerts() == []


def test_two_vendors_under_one_id_raise_one_alert(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    for number in range(3):
        runtime.send("authorization", "approved", event_id=f"e{number}", vendor={"id": f"V-{number}"})
    (alert,) = runtime.alerts()
    assert (alert["kind"], alert["severity"], alert["event_id"]) == ("identity", "warning", "e0")
    assert alert["detail"] == "vendors V-42 and V-0 both use this id"
    assert [row["outcome"] for row in runtime.rows() if row["kind"] == "alert"] == ["identity"]


def test_an_id_that_is_used_again_raises_one_alert(runtime: Runtime) -> None:
    for stage in STAGES:
        runtime.send(stage, SUCCESS_STATUS[stage])
    runtime.pass_time(DAY)
    for number in range(2):
        runtime.send("ingestion", "received", event_id=f"e{number}", amount="80.00")
        runtime.pass_time(MINUTE)
    (alert,) = runtime.alerts()
    assert (alert["kind"], alert["event_id"]) == ("identity", "e0")
    assert alert["detail"].startswith("1250.00 EUR of V-42 was closed on 2026-03-02, and 80.00 EUR of V-42 received")


def test_an_imported_event_counts_from_its_occurrence_and_reports_no_dispute(runtime: Runtime) -> None:
    past: dict[str, Any] = {"occurred_at": render(runtime.now - 30 * DAY), "imported": True}
    runtime.send("ingestion", "received", **past)
    runtime.send("authorization", "approved", **past)
    runtime.send("reconciliation", "mismatched", event_id="bad", **past)
    runtime.pass_time(DAY - MINUTE)
    assert runtime.alerts() == []
    runtime.pass_time(MINUTE)
    (alert,) = runtime.alerts()
    assert (alert["kind"], alert["stage"], alert["event_id"]) == ("stuck", "reconciliation", "bad")
