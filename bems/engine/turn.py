"""One turn of an execution: from state to state, until a state waits or the execution ends.

A turn works on a copy of the execution, and collects effects and history events on the way.
"""

from collections.abc import Callable
from typing import Any, Final

from bems.engine import execution as status
from bems.engine.effects import Effect, Invoke
from bems.engine.errors import DATA_LIMIT_EXCEEDED, RUNTIME, TIMEOUT, StatesError, matches
from bems.engine.execution import Execution
from bems.engine.history import HistoryEvent
from bems.engine.machine import Choice, Fail, Machine, Pass, State, Succeed, Task, Wait
from bems.engine.payloads import fits
from bems.engine.retries import retry_delay
from bems.engine.timestamps import SECOND

MAX_EVENTS: Final = 25_000
"""The longest history of an execution: its last event says that it failed. Source: Step Functions service quotas."""


class HistoryIsFull(Exception):
    """The next event would be one too many."""


class Turn:
    """`execution` is the one given until a stimulus applies, and then a copy that is the turn's own."""

    __slots__ = ("effects", "events", "execution", "machine", "now")

    def __init__(self, machine: Machine, execution: Execution, now: int, events: list[HistoryEvent] | None) -> None:
        self.machine = machine
        self.execution = execution
        self.now = now
        self.events = events
        self.effects: list[Effect] = []

    # From state to state

    def run(self, name: str | None) -> None:
        """Enters states until one waits or the execution ends."""
        while name is not None:
            name = self.enter(self.machine.states[name])

    def enter(self, state: State) -> str | None:
        self.begin(state)
        return self.attempt(_ENTER[state.type], state)

    def begin(self, state: State) -> None:
        execution = self.execution
        execution.state = state.name
        execution.entered_at = self.now
        execution.retries = None
        execution.retry_count = 0
        self.note(_ENTERED[state.type], state.name, execution.data)
        execution.entered_event = execution.last_event

    def attempt(self, action: "Action", state: State) -> str | None:
        """The name of the state that follows; None if this one waits, or the execution has ended."""
        try:
            return action(self, state)
        except StatesError as error:
            return self.fail_state(state, error)

    def exit(self, state: State, output: Any, following: str | None) -> str | None:
        execution = self.execution
        if output is not execution.data and not fits(output):
            raise state_too_large(state)
        execution.data = output
        execution.phase = execution.token = execution.invocation = None
        execution.timer_at = execution.heartbeat_at = execution.heartbeat_seconds = None
        self.note(_EXITED[state.type], state.name, output)
        if following is None:
            execution.output = output
            self.end(status.SUCCEEDED)
            self.note("ExecutionSucceeded", output)
        return following

    def finish(self, ending: str, event: str, error: str | None, cause: str | None) -> None:
        execution = self.execution
        execution.error = error
        execution.cause = cause
        self.end(ending)
        self.note(event, error, cause)

    def end(self, ending: str) -> None:
        execution = self.execution
        execution.status = ending
        execution.stopped_at = self.now
        execution.data = execution.phase = execution.token = execution.invocation = execution.retries = None
        execution.timer_at = execution.heartbeat_at = execution.heartbeat_seconds = execution.expires_at = None

    def note(self, event: str, *details: Any) -> None:
        number = self.execution.last_event + 1
        if number >= MAX_EVENTS and event not in _ENDINGS:
            raise HistoryIsFull
        self.execution.last_event = number
        if self.events is not None:
            # Step Functions links the first state, an abort and the machine's own timeout to nothing.
            previous = 0 if number <= 2 or event in _UNLINKED else number - 1
            self.events.append(HistoryEvent(number, previous, event, self.now, details))

    # States

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
        return self.exit(state, self.effective_output(state, output), state.next)

    def enter_choice(self, state: Choice) -> str | None:
        data = self.effective_input(state)
        following = next((target for test, target in state.choices if test(data, self.execution)), state.default)
        if following is None:
            # Reported as States.Runtime; States.NoChoiceMatched is reserved for future use.
            raise StatesError(
                RUNTIME, "Failed to transition out of the state. The state does not point to a next state."
            )
        return self.exit(state, self.effective_output(state, data), following)

    def enter_wait(self, state: Wait) -> str | None:
        execution = self.execution
        until = state.until(self.effective_input(state), execution, self.now)
        if until <= self.now:
            return self.end_wait(state)
        execution.phase = "wait"
        execution.timer_at = until
        return None

    def end_wait(self, state: Wait) -> str | None:
        return self.exit(state, self.effective_output(state, self.effective_input(state)), state.next)

    def enter_succeed(self, state: Succeed) -> str | None:
        return self.exit(state, self.effective_output(state, self.effective_input(state)), None)

    def enter_fail(self, state: Fail) -> str | None:
        data, execution = self.execution.data, self.execution
        error = None if state.error is None else state.error(data, execution)
        cause = None if state.cause is None else state.cause(data, execution)
        self.finish(status.FAILED, "ExecutionFailed", error, cause)
        return None

    # Tasks

    def schedule(self, state: Task) -> str | None:
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
        if state.service is None:
            self.note("LambdaFunctionScheduled", state.resource, data, timeout)
            self.note("LambdaFunctionStarted")
        else:
            self.note("TaskScheduled", *state.service, self.machine.region, data, timeout, heartbeat)
            self.note("TaskStarted", *state.service)
        self.effects.append(Invoke(invocation, state.resource, data, execution.token))
        return None

    def note_task(self, state: Task, event: str, *details: Any) -> None:
        if state.service is None:
            self.note(event.replace("Task", "LambdaFunction"), *details)
        else:
            self.note(event, *state.service, *details)

    def succeed_task(self, state: Task, output: Any) -> str | None:
        if not fits(output):
            return self.fail_task(state, *result_too_large(state))
        self.note_task(state, "TaskSucceeded", output)
        execution = self.execution
        try:
            if state.result_selector is not None:
                output = state.result_selector(output, execution)
            output = execution.data if state.result_path is None else state.result_path(execution.data, output)
            return self.exit(state, self.effective_output(state, output), state.next)
        except StatesError as error:
            return self.fail_state(state, error)

    def fail_task(self, state: Task, error: str | None, cause: str | None) -> str | None:
        self.note_task(state, "TaskFailed", error, cause)
        return self.recover(state, error, error, cause, cause)

    def time_out(self, state: Task, error: str) -> str | None:
        # Both timeouts are reported as States.Timeout, without a cause: an empty one in the error output.
        self.note_task(state, "TaskTimedOut", TIMEOUT)
        return self.recover(state, error, TIMEOUT, None, "")

    def fail_state(self, state: State, error: StatesError) -> str | None:
        cause = error.cause
        if error.error == RUNTIME:
            where = f"the state '{state.name}' (entered at the event id #{self.execution.entered_event})"
            cause = f"An error occurred while executing {where}. {cause}"
        if isinstance(state, Task):
            return self.recover(state, error.error, error.error, cause, cause)
        self.finish(status.FAILED, "ExecutionFailed", error.error, cause)
        return None

    def recover(
        self, state: Task, name: str | None, error: str | None, cause: str | None, caught_cause: str | None
    ) -> str | None:
        """Retries, or catches, or fails the execution: `name` is matched, `error` reported."""
        if self.retry(state, name):
            return None
        for catcher in state.catch:
            if matches(catcher.error_equals, name):
                data = self.execution.data
                output = {"Error": error, "Cause": caught_cause}
                try:
                    output = data if catcher.result_path is None else catcher.result_path(data, output)
                    return self.exit(state, output, catcher.next)
                except StatesError as failure:
                    error, cause = failure.error, failure.cause
                break
        self.finish(status.FAILED, "ExecutionFailed", error, cause)
        return None

    def retry(self, state: Task, error: str | None) -> bool:
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

HISTORY_IS_FULL: Final = f"The execution reached the maximum number of history events ({MAX_EVENTS})."

Action = Callable[[Turn, Any], str | None]

_UNLINKED: Final = frozenset({"ExecutionAborted", "ExecutionTimedOut"})
_ENDINGS: Final = _UNLINKED | {"ExecutionFailed", "ExecutionSucceeded"}
_KINDS: Final = ("Choice", "Fail", "Pass", "Succeed", "Task", "Wait")
_ENTERED: Final = {kind: f"{kind}StateEntered" for kind in _KINDS}
_EXITED: Final = {kind: f"{kind}StateExited" for kind in _KINDS}
_ENTER: Final[dict[str, Action]] = {
    "Choice": Turn.enter_choice,
    "Fail": Turn.enter_fail,
    "Pass": Turn.enter_pass,
    "Succeed": Turn.enter_succeed,
    "Task": Turn.schedule,
    "Wait": Turn.enter_wait,
}
