"""Lifecycles, end to end: generated events over HTTP; the records, executions and rows of the series behind it."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from random import Random

import pytest

from bems.generator.event_log import CLEAN, Scenario, render, scenarios
from bems.tracker.status import WAITS_FOR
from tests.e2e.cell import DeployedCell, Execution
from tests.e2e.polling import wait_until
from tests.e2e.scenarios import clean_scenario, event_lines

pytestmark = pytest.mark.e2e

EVENTFUL = replace(
    CLEAN,
    early=0.3,
    cancelled=0.3,
    rejected=0.3,
    disputed=0.3,
    failed=0.2,
    late=0.2,
    duplicated=0.3,
    duplicated_days_later=0.5,
)
"""Much happens, but every event comes once at least, and as it should be."""

ENDS = {"Posted": {"Posted"}, "Rejected": {"Rejected"}, "Cancelled": {"Cancelled", "Posted", "Rejected"}}
"""In which state the last execution ends. An invoice may be cancelled after it: no other is started for that."""


def test_an_invoice_is_posted_in_one_execution(cell: DeployedCell) -> None:
    plan = clean_scenario(2004)
    for line in event_lines(plan):
        cell.send(line)
    record = cell.wait_for_status(plan.invoice_id, "Posted")
    assert record.run.number == 1
    assert cell.wait_for_end(plan.invoice_id, 1) == Execution(
        "SUCCEEDED", ["AwaitAuthorization", "AwaitReconciliation", "AwaitPosting", "Posted"]
    )


def test_a_log_ends_as_it_was_told(cell: DeployedCell) -> None:
    """In the order of arrival, with what is early, late, doubled, disputed in it."""
    told = eventful(1991)
    for _, line in sorted((sending.arrives, render(plan, sending)) for plan in told for sending in plan.emissions):
        cell.send(line)
    assert check(cell, told) >= {"Posted", "Rejected", "Cancelled"}


def test_no_order_and_no_haste_changes_how_it_ends(cell: DeployedCell) -> None:
    """Every event twice, in no order, eight senders at once."""
    told = eventful(1992)
    sent = [render(plan, sending) for plan in told for sending in plan.emissions] * 2
    Random("no order").shuffle(sent)
    with ThreadPoolExecutor(8) as senders:
        list(senders.map(cell.send, sent))
    check(cell, told)


def eventful(year: int) -> list[Scenario]:
    told = list(scenarios(16, seed=year, start=date(year, 3, 1), days=10, profile=EVENTFUL))
    kinds = Counter(plan.status for plan in told)
    assert kinds.keys() >= {"Posted", "Rejected", "Cancelled"}, kinds
    return told


def check(cell: DeployedCell, told: list[Scenario]) -> set[str]:
    """Status, executions and rows of every invoice; in which states executions ended."""
    ends = set()
    for plan in told:
        assert plan.status is not None
        record = cell.wait_for_status(plan.invoice_id, plan.status)
        waits = WAITS_FOR[plan.status] is not None
        for run in range(1, record.run.number + (0 if waits else 1)):
            ended = cell.wait_for_end(plan.invoice_id, run)
            assert ended.status == "SUCCEEDED", (plan.invoice_id, run, ended)
            ends.add(ended.states[-1])
        if waits:
            until_waiting(cell, plan)
        elif record.run.number:
            assert ended.states[-1] in ENDS[plan.status], (plan.invoice_id, ended)
    sent = {event_id(plan, number) for plan in told for number in range(len(plan.emissions))}
    wait_until("every event is in the series", lambda: sent <= {row.get("event_id") for row in cell.rows()})
    return ends


def until_waiting(cell: DeployedCell, plan: Scenario) -> None:
    def waiting() -> bool:
        record = cell.record(plan.invoice_id)
        assert record is not None
        execution = cell.execution(plan.invoice_id, record.run.number)
        return execution.status == "RUNNING" and execution.states[-1].startswith("Await")

    wait_until(f"an execution of {plan.invoice_id} waits", waiting)


def event_id(plan: Scenario, number: int) -> str:
    identity: str = json.loads(render(plan, plan.emissions[number]))["event"]["event_id"]
    return identity
