"""Crash-safe protocol that applies a decision: a crash at any point loses nothing and duplicates nothing.

Load the record, decide, save conditionally, carry out the pending actions, clear them with a second write. The protocol
is a generator of steps: `run_steps` drives it over a runtime's ports, and a test can stop, interleave or abandon it
between any two steps.

Why it is idempotent: before the save nothing has happened. After the save the actions are part of the record, and each
action is idempotent. A process that crashes between the save and the clear leaves its actions in `pending`; the next
one (a redelivered message, another decision or the sweep) carries them out again. The clear is conditional on the
version, so it never removes an action that another process has added meanwhile.

Every action is tried, even if an earlier one fails: an alert must not wait for an execution that cannot be started. The
actions that succeed are cleared at once. Those that fail stay pending, and the first failure is raised at the end.
"""

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from msgspec import Struct

from bems.tracker.actions import Action, SendTaskAnswer, StartExecution
from bems.tracker.instants import Instant
from bems.tracker.ports import Alerts, Clock, Executions, Records
from bems.tracker.record import InvoiceRecord
from bems.tracker.record_builder import Decision, clear_pending

AnswerT = TypeVar("AnswerT")


class Load(Struct, frozen=True):
    """Step whose result is (record | None, now)."""

    invoice_id: str


class Save(Struct, frozen=True):
    """Step whose result is whether the record was saved."""

    record: InvoiceRecord


Step = Load | Save | Action
Decide = Callable[[InvoiceRecord | None, Instant], Decision[AnswerT]]


def apply_steps(invoice_id: str, decide: Decide[AnswerT]) -> Generator[Step, Any, AnswerT]:
    """Yield the steps that apply one decision, and return its answer.

    Calls `decide` again when another process has saved the record since it was loaded. The result of an action step is
    None, or the exception with which the action failed.
    """
    while True:
        record, now = yield Load(invoice_id)
        decision = decide(record, now)
        saved = decision.record
        if saved is None or saved is record or (yield Save(saved)):
            break
    failures: list[tuple[Action, Exception]] = []
    for action in decision.actions:
        failure = yield action
        if failure is not None:
            failures.append((action, failure))
    if saved is not None and saved.pending:
        cleared = clear_pending(saved, now, tuple(action for action, _ in failures))
        if cleared is not saved:
            yield Save(cleared)
    if failures:
        raise failures[0][1]
    return decision.answer


def run_steps(
    steps: Generator[Step, Any, AnswerT], records: Records, executions: Executions, alerts: Alerts, clock: Clock
) -> AnswerT:
    """Run the steps over a runtime's ports and return the decision's answer.

    Raises what a port raises; if an action failed, after the others have been tried. The caller retries, or the next
    sweep repairs the record.
    """
    result: Any = None
    while True:
        try:
            step = steps.send(result)
        except StopIteration as end:
            answer: AnswerT = end.value
            return answer
        result = None
        if isinstance(step, Load):
            result = records.load(step.invoice_id), clock.now()
        elif isinstance(step, Save):
            result = records.save(step.record)
        else:
            try:
                _carry_out(step, executions, alerts, clock)
            except Exception as failure:
                result = failure


def _carry_out(action: Action, executions: Executions, alerts: Alerts, clock: Clock) -> None:
    if isinstance(action, StartExecution):
        executions.start(action, clock.now())
    elif isinstance(action, SendTaskAnswer):
        executions.answer(action, clock.now())
    else:
        alerts.raise_alert(action.alert)
