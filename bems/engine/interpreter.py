"""One step of an execution: a pure function of the machine, the execution, a stimulus and the instant.

It reads no clock and no randomness, and changes none of its arguments. The rules are those of Standard workflows in
Step Functions: the Amazon States Language, and the Developer Guide on errors, callbacks and quotas.
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
from bems.engine.turn import HISTORY_IS_FULL, HistoryIsFull, Turn, result_too_large, state_too_large


def step(
    machine: Machine, execution: Execution, stimulus: Stimulus, now: int, *, record: bool = False
) -> tuple[Execution, Sequence[Effect], Sequence[HistoryEvent]]:
    """What an execution becomes by a stimulus, what it asks for, and, if `record`, its new history events.

    `machine` is the one that the execution was started with; `now` is microseconds since the epoch. The execution given
    back is the one given where the stimulus changes nothing: one that is stale, repeated or too early is ignored, and
    so is every stimulus but a callback after the end; a callback on a token that is not current gives a Rejected
    effect. Which of a timer and a callback comes first is told by the order of the stimuli alone: a callback is taken
    until TimerFired has been. No stimulus raises.
    """
    turn = Turn(machine, execution, now, record)
    try:
        _HANDLERS[type(stimulus)](turn, stimulus)
    except HistoryIsFull:
        turn.finish(status.FAILED, "ExecutionFailed", RUNTIME, HISTORY_IS_FULL)
    return turn.execution, turn.effects, (turn.events or ()) if record else ()


# Stimuli: each first looks whether it applies, then works on a copy


def _start(turn: Turn, stimulus: Start) -> None:
    if turn.execution.status != status.PENDING:
        return
    execution = turn.execution = turn.execution.copy()
    execution.status = status.RUNNING
    execution.input = execution.data = stimulus.input
    execution.started_at = turn.now
    execution.expires_at = turn.now + turn.machine.timeout_seconds * SECOND
    turn.note("ExecutionStarted", stimulus.input)
    state = turn.machine.states[turn.machine.start_at]
    if fits(stimulus.input):
        turn.run(state.name)
    else:
        turn.begin(state)
        turn.fail_state(state, state_too_large(state))


def _timer_fired(turn: Turn, _stimulus: TimerFired) -> None:
    due = turn.execution.due
    if due is None or turn.now < due:
        return
    execution = turn.execution = turn.execution.copy()
    if due == execution.expires_at:
        # The event names the error, the execution itself does not.
        turn.end(status.TIMED_OUT)
        turn.note("ExecutionTimedOut", TIMEOUT, None)
    else:
        turn.run(_pass_time(turn, turn.machine.states[execution.state or ""], due))


def _pass_time(turn: Turn, state: State, due: int) -> str | None:
    if isinstance(state, Wait):
        return turn.attempt(Turn.end_wait, state)
    assert isinstance(state, Task)
    if turn.execution.phase == "retry":
        return turn.attempt(Turn.schedule, state)
    return turn.time_out(state, TIMEOUT if due == turn.execution.timer_at else HEARTBEAT_TIMEOUT)


def _task_succeeded(turn: Turn, stimulus: TaskSucceeded) -> None:
    state = _take_invocation(turn, stimulus.invocation)
    if state is None:
        return
    if not fits(stimulus.output):
        turn.run(turn.fail_task(state, *result_too_large(state)))
    elif state.waits_for_token:
        turn.note_task(state, "TaskSubmitted", stimulus.output)
    else:
        turn.run(turn.succeed_task(state, stimulus.output))


def _task_failed(turn: Turn, stimulus: TaskFailed) -> None:
    state = _take_invocation(turn, stimulus.invocation)
    if state is not None:
        turn.run(turn.fail_task(state, stimulus.error, stimulus.cause))


def _take_invocation(turn: Turn, invocation: int) -> Task | None:
    if turn.execution.invocation != invocation or invocation is None:
        return None
    execution = turn.execution = turn.execution.copy()
    execution.invocation = None
    state = turn.machine.states[execution.state or ""]
    assert isinstance(state, Task)
    return state


def _callback_succeeded(turn: Turn, stimulus: CallbackSucceeded) -> None:
    state = _take_token(turn, stimulus.token)
    if state is None:
        return
    if not fits(stimulus.output):
        # The API refuses such an output before it looks at the task, which waits on.
        turn.effects.append(Rejected(stimulus.token, "ValidationException"))
        return
    turn.execution = turn.execution.copy()
    turn.run(turn.succeed_task(state, stimulus.output))


def _callback_failed(turn: Turn, stimulus: CallbackFailed) -> None:
    state = _take_token(turn, stimulus.token)
    if state is not None:
        turn.execution = turn.execution.copy()
        turn.run(turn.fail_task(state, stimulus.error, stimulus.cause))


def _heartbeat(turn: Turn, stimulus: Heartbeat) -> None:
    if _take_token(turn, stimulus.token) is None:
        return
    seconds = turn.execution.heartbeat_seconds
    if seconds is not None:
        execution = turn.execution = turn.execution.copy()
        execution.heartbeat_at = turn.now + seconds * SECOND


def _take_token(turn: Turn, token: str) -> Task | None:
    if turn.execution.token != token or token is None:
        turn.effects.append(Rejected(token, "TaskTimedOut"))
        return None
    state = turn.machine.states[turn.execution.state or ""]
    assert isinstance(state, Task)
    return state


def _stop(turn: Turn, stimulus: Stop) -> None:
    if turn.execution.status == status.RUNNING:
        turn.execution = turn.execution.copy()
        turn.finish(status.ABORTED, "ExecutionAborted", stimulus.error, stimulus.cause)


_HANDLERS: Final[dict[type, Callable[[Turn, Any], None]]] = {
    CallbackFailed: _callback_failed,
    CallbackSucceeded: _callback_succeeded,
    Heartbeat: _heartbeat,
    Start: _start,
    Stop: _stop,
    TaskFailed: _task_failed,
    TaskSucceeded: _task_succeeded,
    TimerFired: _timer_fired,
}
