"""Runs an execution in unit tests and collects its effects and events. Times are seconds after START."""

from typing import Any

from bems.engine import Effect, Execution, Invoke, Machine, Start, Stimulus, TaskSucceeded, load, new_execution, step
from bems.engine.history import HistoryEvent

START = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z"""
ARN = "arn:aws:states:eu-west-1:123456789012:execution:invoices:INV-1"
MACHINE_ARN = "arn:aws:states:eu-west-1:123456789012:stateMachine:invoices"
FUNCTION = "arn:aws:lambda:eu-west-1:123456789012:function:F"
RESULT = {"ExecutedVersion": "$LATEST", "Payload": None, "StatusCode": 200}


def compiled(definition: dict[str, Any]) -> Machine:
    return load(definition, resources={"lambda:invoke", FUNCTION}, id=MACHINE_ARN)


class EngineHarness:
    """An execution that has started, with all its effects and events."""

    def __init__(self, definition: dict[str, Any], data: Any = None, *, seed: int = 0) -> None:
        self.machine = compiled(definition)
        self.execution: Execution = new_execution(ARN, seed=seed)
        self.effects: list[Effect] = []
        self.events: list[HistoryEvent] = []
        self.apply(Start({} if data is None else data))

    def apply(self, stimulus: Stimulus, at: float = 0) -> "EngineHarness":
        """Apply a stimulus at a time in seconds after START."""
        now = START + round(at * 1_000_000)
        self.execution, effects, events = step(self.machine, self.execution, stimulus, now, record=True)
        self.effects += effects
        self.events += events
        return self

    def answer(self, payload: Any = None, at: float = 0) -> "EngineHarness":
        """Let the newest invocation succeed with a payload."""
        return self.apply(TaskSucceeded(self.invoke.invocation, {**RESULT, "Payload": payload}), at)

    @property
    def invoke(self) -> Invoke:
        return [effect for effect in self.effects if isinstance(effect, Invoke)][-1]

    @property
    def token(self) -> str:
        assert self.invoke.token is not None
        return self.invoke.token

    @property
    def due(self) -> float | None:
        """Seconds after START."""
        return None if self.execution.due is None else (self.execution.due - START) / 1_000_000

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]
