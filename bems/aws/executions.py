"""Executions on Step Functions: started by name, answered by task token."""

from typing import Any

import msgspec

from bems.aws.errors import ClientError, error_code
from bems.tracker.actions import SendTaskAnswer, StartExecution
from bems.tracker.instants import Instant

# Errors of SendTaskSuccess (API reference) that mean that no task waits for this answer any more.
DEAD_TOKEN_ERRORS = frozenset({"InvalidToken", "TaskDoesNotExist", "TaskTimedOut"})

_CAUSES = {
    "Rejected": "the invoice was rejected",
    "Cancelled": "the invoice was cancelled",
    "Parked": "the wait has ended: the last alert was raised, or an operator parked the invoice",
    "Superseded": "another run replaced this one",
    "Mismatched": "the invoice is at an earlier stage, or its reconciliation does not match",
    "PostingFailed": "the posting failed",
}


class StepFunctionsExecutions:
    """The Executions port on Step Functions."""

    def __init__(self, client: Any, state_machine_arn: str) -> None:
        self._client = client
        self._state_machine_arn = state_machine_arn

    def start(self, execution: StartExecution, now: Instant) -> None:  # noqa: ARG002
        """Start an execution by name. Idempotent.

        For an open execution with the same name and input, StartExecution succeeds; for a closed one it raises
        ExecutionAlreadyExists during 90 days (API reference of StartExecution). Both mean that the run was started.
        """
        try:
            self._client.start_execution(
                stateMachineArn=self._state_machine_arn,
                name=execution.name,
                input=msgspec.json.encode(execution.input).decode(),
            )
        except ClientError as error:
            if error_code(error) != "ExecutionAlreadyExists":
                raise

    def answer(self, answer: SendTaskAnswer, now: Instant) -> None:
        """Send a task's result by its token. Ignores a token that is unknown, used or expired."""
        try:
            if answer.answer == "ok":
                output = msgspec.json.encode(answer.output(now)).decode()
                self._client.send_task_success(taskToken=answer.token, output=output)
            else:
                cause = _CAUSES[answer.answer]
                self._client.send_task_failure(taskToken=answer.token, error=answer.answer, cause=cause)
        except ClientError as error:
            if error_code(error) not in DEAD_TOKEN_ERRORS:
                raise
