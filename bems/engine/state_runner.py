"""Runs an execution from state to state until a state waits or the execution ends.

Collects the effects and history events of one step.
"""

from collections.abc import Callable
from typing import Any, Final

from bems.engine import execution as status
from bems.engine.choices import choose
from bems.engine.effects import Effect, Invoke
from bems.engine.errors import DATA_LIMIT_EXCEEDED, RUNTIME, TIMEOUT, StatesError, matches
from bems.engine.execution import Execution
from bems.engine.history import HistoryEvent
from bems.engine.machine import Choice, Fail, Machine, Pass, State, Succeed, Task, Wait
from bems.engine.payloads import fits
from bems.engine.retries import retry_delay
from bems.engine.timestamps import SECOND

MAX_EXECUTION_EVENTS: Final = 25_000
"""Maximum number of history events; the last one is the failure. Source: Step Functions service quotas."""

_RECORD_AFTER_EVENT: Final = MAX_EXECUTION_EVENTS - 10
"""Event id after which every step records its events, so that `add_event` enforces the limit.

The margin of 10 exceeds the number of events that a step can add before it compares `last_event` with this constant."""


class HistoryFull(Exception):
    """The next event would exceed MAX_HISTORY_EVENTS."""


class StateRunner:
    """Runs one step of an execution.

    `execution` is the caller's object until the stimulus applies, then a copy that the step modifies. `events` is None
    if the step only counts events. Near the limit it always records them, because `add_event` then checks the limit.

    Methods that return `str | None` return the name of the next state, or None if the current state waits or the
    execution has ended. They raise StatesError.
    """

    __slots__ = ("effects", "events", "execution", "machine", "now")

    def __init__(self, machine: Machine, execution: Execution, now: int, record: bool) -> None:
        self.machine = machine
        self.execution = execution
        self.now = now
        self.events: list[HistoryEvent] | None = [] if record or execution.last_event > _RECORD_AFTER_EVENT else None
        self.effects: list[Effect] = []

    # Transitions

    def run(self, name: str | None) -> None:
        """Enter states until one waits or the execution ends."""
        while name is not None:
            state = self.machine.states[name]
            self.enter_state(state)
            try:
                name = _ENTER[type(state)](self, state)
            except StatesError as error:
                name = self.fail_state(state, error)

    def enter_state(self, state: State) -> None:
        execution = self.execution
        execution.state = state.name
        execution.entered_at = self.now
        execution.retries = None
        execution.retry_count = 0
        if execution.last_event > _RECORD_AFTER_EVENT and self.events is None:
            self.events = []
        if self.events is None:
            execution.last_event += 1
        else:
            self.add_event(f"{state.type}StateEntered", state.name, execution.data)
        execution.entered_event = execution.last_event

    def run_action(self, action: "StateAction", state: State) -> str | None:
        """Run a method for a state, and fail the state if it raises StatesError."""
        try:
            return action(self, state)
        except StatesError as error:
            return self.fail_state(state, error)

    def exit_state(self, state: State, output: Any, following: str | None, known: Any = None) -> str | None:
        """Leave a state.

        The size of `output` is checked unless it is the state's data or `known`, a value that is known to fit.
        """
        execution = self.execution
        if output is not known and output is not execution.data and not fits(output):
            raise state_too_large(state)
        execution.data = output
        execution.phase = execution.token = execution.invocation = None
        execution.timer_at = execution.heartbeat_at = execution.heartbeat_seconds = None
        if self.events is None:
            execution.last_event += 1
        else:
            self.add_event(f"{state.type}StateExited", state.name, output)
        if following is None:
            execution.output = output
            self.close(status.SUCCEEDED)
            self.add_event("ExecutionSucceeded", output)
        return following

    def close_with_error(self, ending: str, event: str, error: str | None, cause: str | None) -> None:
        """Close the execution with the status `ending`, an error and a history event of type `event`."""
        execution = self.execution
        execution.error = error
        execution.cause = cause
        self.close(ending)
        self.add_event(event, error, cause)

    def close(self, ending: str) -> None:
        """Set the final status, and clear the fields of the current state and its timers."""
        execution = self.execution
        execution.status = ending
        execution.stopped_at = self.now
        execution.data = execution.phase = execution.token = execution.invocation = execution.retries = None
        execution.timer_at = execution.heartbeat_at = execution.heartbeat_seconds = execution.expires_at = None

    def add_event(self, event: str, *details: Any) -> None:
        """Add a history event, or only count it if events are not recorded.

        Hot paths increment `last_event` themselves to save this call.
        """
        number = self.execution.last_event + 1
        if self.events is not None:
            if number >= MAX_EXECUTION_EVENTS and event not in _ENDINGS:
                raise HistoryFull
            # In Step Functions, the first state, an abort and the machine's timeout have no previous event.
            previous = 0 if number <= 2 or event in _UNLINKED else number - 1
            self.events.append(HistoryEvent(number, previous, event, self.now, details))
        self.execution.last_event = number

    # State types

    def effective_input(self, state: State) -> Any:
        data = self.execution.data
        return data if state.input_path is None else state.input_path(data, self.execution)

    def effective_output(self, state: State, output: Any) -> Any:
        return output if state.output_path is None else state.output_path(output, self.execution)

    def enter_pass(self, state: Pass) -> str | None:
        result = self.effective_input(state)
        if state.result is not None:
            result = state.result(result, self.execution)
        data = self.execution.data
        output = data if state.result_path is None else state.result_path(data, result)
        return self.exit_state(state, self.effective_output(state, output), state.next)

    def enter_choice(self, state: Choice) -> str | None:
        data = self.effective_input(state)
        following = choose(state.choices, state.default, data, self.execution)
        if following is None:
            # Step Functions reports States.Runtime; States.NoChoiceMatched is reserved for future use.
            raise StatesError(
                RUNTIME, "Failed to transition out of the state. The state does not point to a next state."
            )
        return self.exit_state(state, self.effective_output(state, data), following)

    def enter_wait(self, state: Wait) -> str | None:
        execution = self.execution
        until = state.until(self.effective_input(state), execution, self.now)
        if until <= self.now:
            return self.end_wait(state)
        execution.phase = "wait"
        execution.timer_at = until
        return None

    def end_wait(self, state: Wait) -> str | None:
        return self.exit_state(state, self.effective_output(state, self.effective_input(state)), state.next)

    def enter_succeed(self, state: Succeed) -> str | None:
        return self.exit_state(state, self.effective_output(state, self.effective_input(state)), None)

    def enter_fail(self, state: Fail) -> str | None:
        data, execution = self.execution.data, self.execution
        error = None if state.error is None else state.error(data, execution)
        cause = None if state.cause is None else state.cause(data, execution)
        self.close_with_error(status.FAILED, "ExecutionFailed", error, cause)
        return None

    # Tasks

    def schedule_task(self, state: Task) -> str | None:
        execution = self.execution
        invocation = execution.last_event + 1
        execution.token = f"{execution.id}#{invocation}" if state.waits_for_token else None
        data = self.effective_input(state)
        timeout = None if state.timeout is None else state.timeout(data, execution)
        heartbeat = None if state.heartbeat is None else state.heartbeat(data, execution)
        if state.parameters is not None:
            data = state.parameters(data, execution)
            if not fits(data):
                raise state_too_large(state)
        execution.phase = "task"
        execution.invocation = invocation
        execution.timer_at = None if timeout is None else self.now + timeout * SECOND
        execution.heartbeat_at = None if heartbeat is None else self.now + heartbeat * SECOND
        execution.heartbeat_seconds = heartbeat
        if self.events is None:
            execution.last_event += 2
        elif state.service is None:
            self.add_event("LambdaFunctionScheduled", state.resource, data, timeout)
            self.add_event("LambdaFunctionStarted")
        else:
            self.add_event("TaskScheduled", *state.service, self.machine.region, data, timeout, heartbeat)
            self.add_event("TaskStarted", *state.service)
        self.effects.append(Invoke(invocation, state.resource, data, execution.token))
        return None

    def add_task_event(self, state: Task, event: str, *details: Any) -> None:
        if self.events is None:
            self.execution.last_event += 1
        elif state.service is None:
            self.add_event(event.replace("Task", "LambdaFunction"), *details)
        else:
            self.add_event(event, *state.service, *details)

    def succeed_task(self, state: Task, result: Any) -> str | None:
        """End the task with a result. The caller has checked the size of the result."""
        self.add_task_event(state, "TaskSucceeded", result)
        execution = self.execution
        try:
            output = result if state.result_selector is None else state.result_selector(result, execution)
            output = execution.data if state.result_path is None else state.result_path(execution.data, output)
            return self.exit_state(state, self.effective_output(state, output), state.next, result)
        except StatesError as error:
            return self.fail_state(state, error)

    def fail_task(self, state: Task, error: str | None, cause: str | None) -> str | None:
        self.add_task_event(state, "TaskFailed", error, cause)
        return self.retry_or_catch(state, error, error, cause, cause)

    def time_out_task(self, state: Task, error: str) -> str | None:
        # Both timeouts are reported as States.Timeout without a cause; the error output has an empty cause.
        self.add_task_event(state, "TaskTimedOut", TIMEOUT)
        return self.retry_or_catch(state, error, TIMEOUT, None, "")

    def fail_state(self, state: State, error: StatesError) -> str | None:
        cause = error.cause
        if error.error == RUNTIME:
            where = f"the state '{state.name}' (entered at the event id #{self.execution.entered_event})"
            cause = f"An error occurred while executing {where}. {cause}"
        if isinstance(state, Task):
            return self.retry_or_catch(state, error.error, error.error, cause, cause)
        self.close_with_error(status.FAILED, "ExecutionFailed", error.error, cause)
        return None

    def retry_or_catch(
        self, state: Task, name: str | None, error: str | None, cause: str | None, caught_cause: str | None
    ) -> str | None:
        """Schedule a retry, run a catcher or fail the execution.

        Retriers and catchers match `name`; `error` is what is reported.
        """
        if self.schedule_retry(state, name):
            return None
        for catcher in state.catch:
            if matches(catcher.error_equals, name):
                data = self.execution.data
                output = {"Error": error, "Cause": caught_cause}
                try:
                    output = data if catcher.result_path is None else catcher.result_path(data, output)
                    return self.exit_state(state, output, catcher.next)
                except StatesError as failure:
                    error, cause = failure.error, failure.cause
                break
        self.close_with_error(status.FAILED, "ExecutionFailed", error, cause)
        return None

    def schedule_retry(self, state: Task, error: str | None) -> bool:
        execution = self.execution
        for index, retrier in enumerate(state.retry):
            if not matches(retrier.error_equals, error):
                continue
            attempts = [0] * len(state.retry) if execution.retries is None else execution.retries.copy()
            if attempts[index] >= retrier.max_attempts:
                return False
            delay = retry_delay(retrier, attempts[index], execution.seed, execution.last_event)
            attempts[index] += 1
            execution.retries = attempts
            execution.retry_count += 1
            execution.phase = "retry"
            execution.timer_at = self.now + delay
            execution.token = execution.invocation = execution.heartbeat_at = execution.heartbeat_seconds = None
            return True
        return False


def result_too_large(state: Task) -> tuple[str, str]:
    name = state.resource if state.service is None else state.service[0]
    return DATA_LIMIT_EXCEEDED, _TOO_LARGE.format(name)


def state_too_large(state: State) -> StatesError:
    return StatesError(DATA_LIMIT_EXCEEDED, _TOO_LARGE.format(state.name))


_TOO_LARGE: Final = (
    "The state/task '{}' returned a result with a size exceeding the maximum number of bytes service limit."
)

HISTORY_FULL_CAUSE: Final = f"The execution reached the maximum number of history events ({MAX_EXECUTION_EVENTS})."

StateAction = Callable[[StateRunner, Any], str | None]

_UNLINKED: Final = frozenset({"ExecutionAborted", "ExecutionTimedOut"})
_ENDINGS: Final = _UNLINKED | {"ExecutionFailed", "ExecutionSucceeded"}
_ENTER: Final[dict[type[State], StateAction]] = {
    Choice: StateRunner.enter_choice,
    Fail: StateRunner.enter_fail,
    Pass: StateRunner.enter_pass,
    Succeed: StateRunner.enter_succeed,
    Task: StateRunner.schedule_task,
    Wait: StateRunner.enter_wait,
}
