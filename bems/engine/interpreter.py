"""One step of an execution: a pure function of the machine, the execution, a stimulus and the time.

It reads no clock and no random numbers, and it does not modify its arguments. It implements Standard workflows of Step
Functions: the Amazon States Language, and the Developer Guide on errors, callbacks and quotas.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from bems.engine import execution as status
from bems.engine.effects import Effect, Rejected
from bems.engine.errors import HEARTBEAT_TIMEOUT, RUNTIME, TIMEOUT
from bems.engine.execution import Execution
from bems.engine.history import HistoryEvent
from bems.engine.machine import Machine, State, Task, Wait
from bems.engine.payloads import fits
from bems.engine.state_runner import HISTORY_FULL_CAUSE, HistoryFull, StateRunner, result_too_large, state_too_large
from bems.engine.stimuli import (
    CallbackFailed,
    CallbackSucceeded,
    Heartbeat,
    Start,
    Stimulus,
    Stop,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
)
from bems.engine.timestamps import SECOND


def step(
    machine: Machine, execution: Execution, stimulus: Stimulus, now: int, *, record: bool = False
) -> tuple[Execution, Sequence[Effect], Sequence[HistoryEvent]]:
    """Apply a stimulus and return the new execution, its effects and, if `record`, its new history events.

    `machine` is the one that the execution started with; `now` is microseconds since the epoch.

    Ignores a stimulus that is stale, repeated or too early, and every stimulus after the end, and then returns the same
    execution object. A callback whose token is not current produces a Rejected effect, also after the end. Only the
    order of the stimuli decides between a timer and a callback: a callback is accepted until TimerFired. Raises nothing
    for any stimulus.
    """
    runner = StateRunner(machine, execution, now, record)
    try:
        _HANDLERS[type(stimulus)](runner, stimulus)
    except HistoryFull:
        runner.close_with_error(status.FAILED, "ExecutionFailed", RUNTIME, HISTORY_FULL_CAUSE)
    return runner.execution, runner.effects, (runner.events or ()) if record else ()


# Handlers: each checks whether the stimulus applies, then modifies a copy of the execution


def _start(runner: StateRunner, stimulus: Start) -> None:
    if runner.execution.status != status.PENDING:
        return
    execution = runner.execution = runner.execution.copy()
    execution.status = status.RUNNING
    execution.input = execution.data = stimulus.input
    execution.started_at = runner.now
    execution.expires_at = runner.now + runner.machine.timeout_seconds * SECOND
    runner.add_event("ExecutionStarted", stimulus.input)
    state = runner.machine.states[runner.machine.start_at]
    if fits(stimulus.input):
        runner.run(state.name)
    else:
        runner.enter_state(state)
        runner.fail_state(state, state_too_large(state))


def _timer_fired(runner: StateRunner, _stimulus: TimerFired) -> None:
    due = runner.execution.due
    if due is None or runner.now < due:
        return
    execution = runner.execution = runner.execution.copy()
    if due == execution.expires_at:
        # The history event has the error; the execution does not.
        runner.close(status.TIMED_OUT)
        runner.add_event("ExecutionTimedOut", TIMEOUT, None)
    else:
        runner.run(_end_timer(runner, runner.machine.states[execution.state or ""], due))


def _end_timer(runner: StateRunner, state: State, due: int) -> str | None:
    """End a wait, start a retry or time out a task; return the next state."""
    if isinstance(state, Wait):
        return runner.run_action(StateRunner.end_wait, state)
    assert isinstance(state, Task)
    if runner.execution.phase == "retry":
        return runner.run_action(StateRunner.schedule_task, state)
    return runner.time_out_task(state, TIMEOUT if due == runner.execution.timer_at else HEARTBEAT_TIMEOUT)


def _task_succeeded(runner: StateRunner, stimulus: TaskSucceeded) -> None:
    state = _claim_invocation(runner, stimulus.invocation)
    if state is None:
        return
    if not fits(stimulus.output):
        runner.run(runner.fail_task(state, *result_too_large(state)))
    elif state.waits_for_token:
        runner.add_task_event(state, "TaskSubmitted", stimulus.output)
    else:
        runner.run(runner.succeed_task(state, stimulus.output))


def _task_failed(runner: StateRunner, stimulus: TaskFailed) -> None:
    state = _claim_invocation(runner, stimulus.invocation)
    if state is not None:
        runner.run(runner.fail_task(state, stimulus.error, stimulus.cause))


def _claim_invocation(runner: StateRunner, invocation: int) -> Task | None:
    """Return the task whose invocation this is, and clear the invocation; None if it is not outstanding."""
    if runner.execution.invocation != invocation or invocation is None:
        return None
    execution = runner.execution = runner.execution.copy()
    execution.invocation = None
    state = runner.machine.states[execution.state or ""]
    assert isinstance(state, Task)
    return state


def _callback_succeeded(runner: StateRunner, stimulus: CallbackSucceeded) -> None:
    state = _find_task_by_token(runner, stimulus.token)
    if state is None:
        return
    if not fits(stimulus.output):
        # The API validates the output before it looks up the task, so the task keeps waiting.
        runner.effects.append(Rejected(stimulus.token, "ValidationException"))
        return
    runner.execution = runner.execution.copy()
    runner.run(runner.succeed_task(state, stimulus.output))


def _callback_failed(runner: StateRunner, stimulus: CallbackFailed) -> None:
    state = _find_task_by_token(runner, stimulus.token)
    if state is not None:
        runner.execution = runner.execution.copy()
        runner.run(runner.fail_task(state, stimulus.error, stimulus.cause))


def _heartbeat(runner: StateRunner, stimulus: Heartbeat) -> None:
    if _find_task_by_token(runner, stimulus.token) is None:
        return
    seconds = runner.execution.heartbeat_seconds
    if seconds is not None:
        execution = runner.execution = runner.execution.copy()
        execution.heartbeat_at = runner.now + seconds * SECOND


def _find_task_by_token(runner: StateRunner, token: str) -> Task | None:
    """Return the task that waits for the token. If there is none, add a Rejected effect and return None."""
    if runner.execution.token != token or token is None:
        runner.effects.append(Rejected(token, "TaskTimedOut"))
        return None
    state = runner.machine.states[runner.execution.state or ""]
    assert isinstance(state, Task)
    return state


def _stop(runner: StateRunner, stimulus: Stop) -> None:
    if runner.execution.status == status.RUNNING:
        runner.execution = runner.execution.copy()
        runner.close_with_error(status.ABORTED, "ExecutionAborted", stimulus.error, stimulus.cause)


_HANDLERS: Final[dict[type, Callable[[StateRunner, Any], None]]] = {
    CallbackFailed: _callback_failed,
    CallbackSucceeded: _callback_succeeded,
    Heartbeat: _heartbeat,
    Start: _start,
    Stop: _stop,
    TaskFailed: _task_failed,
    TaskSucceeded: _task_succeeded,
    TimerFired: _timer_fired,
}
