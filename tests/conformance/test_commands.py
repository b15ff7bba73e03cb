"""Clauses about operators' commands: what each does, and when it is refused."""

from typing import Any

import pytest

from bems.tracker.contract import STAGES, SUCCESS_STATUS
from bems.tracker.instants import DAY, HOUR, render
from bems.tracker.record import Parked
from tests.conformance.runtime import ID, OPERATOR, CommandResult, Runtime
from tests.tracker.samples import NOW


def accepted(next_alert_at: int | None) -> CommandResult:
    return CommandResult("accepted", "", None if next_alert_at is None else render(next_alert_at))


def test_complete_counts_as_the_stages_event(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(HOUR)
    assert runtime.command("complete", stage="authorization", note="on paper") == accepted(NOW + HOUR + 3 * DAY)
    assert runtime.status() == "AwaitingReconciliation"
    (execution,) = runtime.executions()
    assert execution.states == ["AwaitAuthorization", "AwaitReconciliation"]
    row = runtime.rows()[-1]
    assert (row["kind"], row["outcome"], row["stage"]) == ("command", "complete", "authorization")
    assert (row["from_status"], row["to_status"]) == ("AwaitingAuthorization", "AwaitingReconciliation")


def test_complete_overrules_a_newer_outcome(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.send("authorization", "rejected", occurred_at=render(NOW + 12 * HOUR))
    assert runtime.command("complete", stage="authorization") == accepted(NOW + 3 * DAY)
    assert runtime.status() == "AwaitingReconciliation"
    assert len(runtime.executions()) == 2


def test_cancel_ends_the_execution(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    assert runtime.command("cancel") == accepted(None)
    assert runtime.status() == "Cancelled"
    (execution,) = runtime.executions()
    assert execution.states == ["AwaitAuthorization", "Cancelled"]
    runtime.pass_time(30 * DAY)
    assert runtime.alerts() == []


def test_extend_restarts_the_count_of_alerts(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(4 * DAY)
    until = NOW + 10 * DAY
    assert runtime.command("extend", until=render(until)) == accepted(until)
    record = runtime.record()
    assert not record.is_stuck
    assert record.wait and (record.wait.extensions, record.wait.extended_by) == (1, OPERATOR)
    runtime.pass_time(20 * DAY)
    assert [(alert["step"], alert["severity"], alert["raised_at"]) for alert in runtime.alerts()] == [
        (1, "warning", render(NOW + 3 * DAY)),
        (2, "critical", render(NOW + 4 * DAY)),
        (3, "warning", render(until)),
        (4, "critical", render(until + DAY)),
        (5, "critical", render(until + 2 * DAY)),
    ]
    assert runtime.record().mark == "parked"


def test_park_ends_the_execution_and_revive_starts_the_next(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    assert runtime.command("park") == accepted(None)
    assert runtime.record().parked == Parked(NOW, "authorization", NOW, 0, OPERATOR)
    assert [one.states for one in runtime.executions()] == [["AwaitAuthorization", "Parked"]]
    runtime.pass_time(30 * DAY)
    assert runtime.alerts() == []
    assert runtime.command("revive") == accepted(NOW + 33 * DAY)
    assert runtime.executions()[1].states == ["AwaitAuthorization"]
    assert [row["kind"] for row in runtime.rows()] == ["event", "command", "park", "command", "revive"]


def test_acknowledge_keeps_the_alerts_going(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(3 * DAY)
    assert runtime.command("acknowledge") == accepted(NOW + 4 * DAY)
    record = runtime.record()
    assert record.wait and (record.wait.step, record.wait.acknowledged) == (1, 1)
    runtime.pass_time(DAY)
    assert len(runtime.alerts()) == 2


def test_an_overdue_alert_is_raised_before_a_command(runtime: Runtime) -> None:
    """Without an execution, the alert is due by the check; the command comes first."""
    runtime.send("ingestion", "received")
    runtime.lose_execution()
    runtime.pass_time(3 * DAY + HOUR // 30)
    assert runtime.alerts() == []
    assert runtime.command("extend", until=render(NOW + 9 * DAY)) == accepted(NOW + 9 * DAY)
    assert [(alert["step"], alert["raised_at"]) for alert in runtime.alerts()] == [
        (1, render(NOW + 3 * DAY + HOUR // 30))
    ]


def test_a_repeated_command_is_a_duplicate(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    first = runtime.command("extend", until=render(NOW + 9 * DAY))
    known = runtime.record()
    runtime.pass_time(HOUR)
    assert runtime.command("extend", until=render(NOW + 9 * DAY)) == first._replace(result="duplicate")
    assert runtime.record() == known
    assert len(runtime.rows()) == 2


TOO_EARLY = (
    "the new deadline must be later than 2026-03-05T09:00:00Z, when the next alert is due, and before 3000",
    {"until": "2026-03-05T09:00:00Z"},
)
REFUSALS: dict[str, tuple[str, dict[str, Any]]] = {
    "complete": ("ingestion is already received", {"stage": "ingestion"}),
    "extend": TOO_EARLY,
    "revive": ("the invoice is not parked", {}),
    "acknowledge": ("no alert is out in this wait", {}),
}


@pytest.mark.parametrize("verb", REFUSALS)
def test_a_command_that_would_change_nothing_is_refused(runtime: Runtime, verb: str) -> None:
    runtime.send("ingestion", "received")
    known = runtime.record()
    reason, fields = REFUSALS[verb]
    assert runtime.command(verb, **fields) == CommandResult("refused", reason, None)
    assert runtime.record() == known
    assert len(runtime.rows()) == 1


@pytest.mark.parametrize("verb", ["park", "extend", "acknowledge"])
def test_a_posted_invoice_has_no_wait_to_command(runtime: Runtime, verb: str) -> None:
    for stage in STAGES:
        runtime.send(stage, SUCCESS_STATUS[stage])
    fields = {"until": render(NOW + DAY)} if verb == "extend" else {}
    refused = runtime.command(verb, **fields)
    assert refused == CommandResult("refused", "the invoice is Posted and waits for nothing", None)


@pytest.mark.parametrize("verb", ["park", "extend", "acknowledge"])
def test_a_parked_invoice_must_be_revived_first(runtime: Runtime, verb: str) -> None:
    runtime.send("ingestion", "received")
    runtime.command("park")
    fields = {"until": render(NOW + 9 * DAY)} if verb == "extend" else {}
    refused = runtime.command(verb, command_id="second", **fields)
    assert refused == CommandResult("refused", "the invoice is parked: revive it first", None)


def test_a_command_for_an_unknown_invoice_is_refused(runtime: Runtime) -> None:
    assert runtime.command("cancel") == CommandResult("refused", f"there is no invoice {ID}", None)
    assert runtime.find_record(ID) is None


def test_an_event_that_contradicts_a_command_raises_an_alert_once(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.command("complete", stage="authorization")
    runtime.send("authorization", "rejected", occurred_at=render(NOW - HOUR))
    runtime.send("authorization", "rejected", occurred_at=render(NOW - HOUR))
    runtime.pass_time(HOUR)
    (alert,) = runtime.alerts()
    assert (alert["kind"], alert["event_id"]) == ("contradiction", "INV-1:authorization:rejected")
    assert runtime.status() == "AwaitingReconciliation", "the newest outcome counts"


def test_an_extension_is_told_to_those_who_got_the_alerts(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(3 * DAY + HOUR)
    runtime.command("extend", until=render(NOW + 10 * DAY))
    (told,) = runtime.resolved()
    assert told["detail"] == f"{OPERATOR} extended the deadline to 2026-03-12T09:00:00Z"


def test_a_snooze_raises_the_step_reached_at_its_end(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    until = NOW + 4 * DAY + HOUR
    assert runtime.command("snooze", until=render(until)) == accepted(until)
    runtime.pass_time(4 * DAY + 2 * HOUR)
    (alert,) = runtime.alerts()
    assert (alert["step"], alert["due_at"], alert["raised_at"]) == (2, render(NOW + 4 * DAY), render(until))


def test_an_assignment_and_a_note_change_nothing_else(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    known = runtime.record()
    assert runtime.command("assign", assignee="jane") == accepted(NOW + 3 * DAY)
    assert runtime.command("note", note="asked the vendor") == accepted(NOW + 3 * DAY)
    record = runtime.record()
    assert (record.assignee, record.note and record.note.text) == ("jane", "asked the vendor")
    assert (record.run, record.wait, record.outcomes) == (known.run, known.wait, known.outcomes)
    assert [row["kind"] for row in runtime.rows()] == ["event", "command", "command"]
