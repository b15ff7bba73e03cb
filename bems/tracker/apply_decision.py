"""The protocol: how a decision is brought into the world so that dying at any point of it loses and doubles nothing.

Load, decide, save on condition, carry out what is pending, clear it by one more write. It is written once, as a
generator of steps: `run` drives it over a home's ports, and a test can stop, interleave or abandon it between any two.

Why doing it twice is harmless: before the save nothing has happened; after it the actions are part of the record, and
each of them is harmless to repeat. Whoever dies between the save and the clear leaves `pending` behind, and whoever
comes next (the redelivered message, another decision, the sweep) carries it out again. The clear is conditional on the
version, so it never forgets what somebody else has added meanwhile.

Each action is tried, whatever becomes of the others: an alert must not wait for an execution that cannot be started.
What was carried out is cleared at once; what failed stays pending, and its failure is raised at the end.
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
    """Answered by (record | None, now)."""

    invoice_id: str


class Save(Struct, frozen=True):
    """Answered by whether the record was saved."""

    record: InvoiceRecord


Step = Load | Save | Action
Decide = Callable[[InvoiceRecord | None, Instant], Decision[AnswerT]]


def apply_steps(invoice_id: str, decide: Decide[AnswerT]) -> Generator[Step, Any, AnswerT]:
    """Bring one decision into the world. `decide` is asked again when somebody else saved in between.

    An action is answered by None, or by the exception that it failed with.
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
    """Drive the steps over a home's ports. What a port raises is raised in the end: its caller tries again, or the
    sweep comes."""
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
