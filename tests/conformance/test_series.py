"""Clauses about the rows of the time series."""

from bems.tracker.instants import DAY, HOUR, MINUTE, SECOND, render
from tests.conformance.rows import assert_chain
from tests.conformance.runtime import Runtime
from tests.tracker.samples import NOW, POLICY


def moves(runtime: Runtime) -> list[tuple[str, str | None, str, str | None, str]]:
    """Return kind, statuses and amounts of each row."""
    return [
        (row["kind"], row.get("from_status"), row["to_status"], row.get("from_amount"), row["to_amount"])
        for row in runtime.rows()
    ]


def test_rows_form_a_chain(runtime: Runtime) -> None:
    runtime.send("authorization", "approved", amount="120.00")
    runtime.send("ingestion", "received", amount="100.00", occurred_at=render(NOW - HOUR), vendor={"id": "V-77"})
    runtime.pass_time(10 * DAY)
    runtime.command("revive")
    runtime.send("reconciliation", "mismatched", amount="130.00")
    runtime.command("complete", stage="reconciliation")
    runtime.command("cancel")
    rows = runtime.rows()
    assert {row["kind"] for row in rows} == {"event", "alert", "park", "revive", "command"}
    assert_chain(rows)


def test_an_event_moves_the_invoice_from_its_status_and_amount(runtime: Runtime) -> None:
    runtime.send("ingestion", "received", amount="100.00")
    runtime.pass_time(MINUTE)
    runtime.send("authorization", "approved", amount="120.00")
    runtime.pass_time(3 * DAY)
    assert moves(runtime) == [
        ("event", None, "AwaitingAuthorization", None, "100"),
        ("event", "AwaitingAuthorization", "AwaitingReconciliation", "100", "120"),
        ("alert", "AwaitingReconciliation", "AwaitingReconciliation", "120", "120"),
    ]


def test_a_superseded_event_states_its_amount_and_moves_nothing(runtime: Runtime) -> None:
    runtime.send("ingestion", "received", amount="100.00")
    runtime.send("ingestion", "received", event_id="older", amount="80.00", occurred_at=render(NOW - HOUR))
    row = runtime.rows()[1]
    assert (row["amount"], row["from_amount"], row["to_amount"], row["superseded"]) == ("80", "100", "100", "true")


def test_a_row_has_the_times_and_the_policy_of_its_decision(runtime: Runtime) -> None:
    runtime.pass_time(5 * SECOND)
    runtime.send("ingestion", "received", occurred_at=render(NOW), attributes={"po": "4500012345"})
    (row,) = runtime.rows()
    at = render(NOW + 5 * SECOND)
    assert (row["occurred_at"], row["received_at"], row["decided_at"], row["recorded_at"]) == (render(NOW), at, at, at)
    assert (row["lag_ms"], row["policy_digest"]) == ("0", POLICY.digest)
    assert (row["cell"], row["source"], row["attributes"]) == ("test", "sap-ecc", '{"po":"4500012345"}')
    assert (row["transition_id"], row["vendor_tier"]) == ("event INV-1:ingestion:received", "silver")
