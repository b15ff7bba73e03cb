"""Executions in Step Functions: a run of the state machine per name, answered by task token."""

from typing import Any

import msgspec

from bems.aws.errors import ClientError, error_code
from bems.tracker.actions import SendTaskAnswer, StartExecution
from bems.tracker.instants import Instant

# API reference of SendTaskSuccess. All three say that nobody waits for this answer any more.
DEAD_TOKEN_ERRORS = frozenset({"InvalidToken", "TaskDoesNotExist", "TaskTimedOut"})

_CAUSES = {
    "Rejected": "the invoice was rejected",
    "Cancelled": "the invoice was cancelled",
    "Parked": "nobody waits any longer: the last alert was raised, or an operator parked the invoice",
    "Superseded": "another run took over",
    "Mismatched": "the invoice stands at an earlier stage, or its reconciliation does not match",
    "PostingFailed": "the posting failed",
}


class StepFunctionsExecutions:
    """The Executions port."""

    def __init__(self, client: Any, state_machine_arn: str) -> None:
        self._client = client
        self._state_machine_arn = state_machine_arn

    def start(self, execution: StartExecution, now: Instant) -> None:  # noqa: ARG002
        """Start by name. With the same name and input an open execution answers as if it were started now; a closed one
        says that it exists, for 90 days (API reference of StartExecution). Both are the same run."""
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
        """Answer by token; an unknown, used or expired token counts as answered."""
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
