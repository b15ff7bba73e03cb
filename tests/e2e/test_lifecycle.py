"""End-to-end tests of lifecycles: generated events over HTTP, and the resulting records, executions and rows."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from random import Random

import pytest

from bems.generator.event_log import CLEAN, Scenario, render_line, scenarios
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
"""Frequent complications, but every event arrives at least once and is valid."""

FINAL_STATES = {"Posted": {"Posted"}, "Rejected": {"Rejected"}, "Cancelled": {"Cancelled", "Posted", "Rejected"}}
"""States in which the last execution may end, by the invoice's status. An invoice may be cancelled after its last
execution has ended; that starts no other execution."""


def test_an_invoice_is_posted_in_one_execution(cell: DeployedCell) -> None:
    plan = clean_scenario(2004)
    for line in event_lines(plan):
        cell.send(line)
    record = cell.wait_for_status(plan.invoice_id, "Posted")
    assert record.run.number == 1
    assert cell.wait_for_end(plan.invoice_id, 1) == Execution(
        "SUCCEEDED", ["AwaitAuthorization", "AwaitReconciliation", "AwaitPosting", "Posted"]
    )


def test_eventful_invoices_in_order_of_arrival_end_as_planned(cell: DeployedCell) -> None:
    """The scenarios contain early, late, duplicate and disputed events."""
    plans = eventful_scenarios(1991)
    for _, line in sorted(
        (sending.arrives, render_line(plan, sending)) for plan in plans for sending in plan.emissions
    ):
        cell.send(line)
    assert check(cell, plans) >= {"Posted", "Rejected", "Cancelled"}


def test_random_order_duplicates_and_concurrency_do_not_change_the_outcome(cell: DeployedCell) -> None:
    """Eight concurrent senders send every event twice, in random order."""
    plans = eventful_scenarios(1992)
    sent = [render_line(plan, sending) for plan in plans for sending in plan.emissions] * 2
    Random("no order").shuffle(sent)
    with ThreadPoolExecutor(8) as senders:
        list(senders.map(cell.send, sent))
    check(cell, plans)


def eventful_scenarios(year: int) -> list[Scenario]:
    plans = list(scenarios(16, seed=year, start=date(year, 3, 1), days=10, profile=EVENTFUL))
    statuses = Counter(plan.status for plan in plans)
    assert statuses.keys() >= {"Posted", "Rejected", "Cancelled"}, statuses
    return plans


def check(cell: DeployedCell, plans: list[Scenario]) -> set[str]:
    """Check status, executions and series rows of every invoice, and return the states in which executions ended."""
    final_states = set()
    for plan in plans:
        assert plan.status is not None
        record = cell.wait_for_status(plan.invoice_id, plan.status)
        waits = WAITS_FOR[plan.status] is not None
        for run in range(1, record.run.number + (0 if waits else 1)):
            ended = cell.wait_for_end(plan.invoice_id, run)
            assert ended.status == "SUCCEEDED", (plan.invoice_id, run, ended)
            final_states.add(ended.states[-1])
        if waits:
            wait_for_waiting_execution(cell, plan)
        elif record.run.number:
            assert ended.states[-1] in FINAL_STATES[plan.status], (plan.invoice_id, ended)
    sent = {event_id(plan, number) for plan in plans for number in range(len(plan.emissions))}
    wait_until("every event is in the series", lambda: sent <= {row.get("event_id") for row in cell.rows()})
    return final_states


def wait_for_waiting_execution(cell: DeployedCell, plan: Scenario) -> None:
    def is_waiting() -> bool:
        record = cell.record(plan.invoice_id)
        assert record is not None
        execution = cell.execution(plan.invoice_id, record.run.number)
        return execution.status == "RUNNING" and execution.states[-1].startswith("Await")

    wait_until(f"an execution of {plan.invoice_id} waits", is_waiting)


def event_id(plan: Scenario, number: int) -> str:
    value: str = json.loads(render_line(plan, plan.emissions[number]))["event"]["event_id"]
    return value
