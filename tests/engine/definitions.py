"""Builders of small definitions."""

import json
from pathlib import Path
from typing import Any

INVOKE = "arn:aws:states:::lambda:invoke"
LIFECYCLE = Path(__file__).parents[2] / "statemachines" / "invoice_lifecycle.asl.json"


def lifecycle() -> dict[str, Any]:
    """Return the real definition, with the names of functions filled in."""
    text = LIFECYCLE.read_text()
    text = text.replace("${RegisterWaitFunction}", "RegisterWait").replace("${EscalateFunction}", "Escalate")
    definition: dict[str, Any] = json.loads(text)
    return definition


def machine(first: dict[str, Any], *others: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a machine with the states First, Second, Third..., each followed by the next; the last one ends by
    default.
    """
    names = ("First", "Second", "Third", "Fourth")
    states: dict[str, Any] = {}
    for name, following, state in zip(names, (*names[1:], ""), (first, *others), strict=False):
        last = len(states) == len(others)
        flow: dict[str, Any] = {"End": True} if last else {"Next": following}
        states[name] = state if _has_transition(state) else {**state, **flow}
    return {"StartAt": "First", "States": states, **fields}


def _has_transition(state: dict[str, Any]) -> bool:
    return "Next" in state or "End" in state or state["Type"] in ("Choice", "Succeed", "Fail")


def invoke(**fields: Any) -> dict[str, Any]:
    """Return a request-response task."""
    return {"Type": "Task", "Resource": INVOKE, "Parameters": {"FunctionName": "F", "Payload.$": "$"}, **fields}


def wait_for_token(**fields: Any) -> dict[str, Any]:
    """Return a task that a callback ends."""
    parameters = {"FunctionName": "F", "Payload": {"token.$": "$$.Task.Token", "input.$": "$"}}
    return {"Type": "Task", "Resource": f"{INVOKE}.waitForTaskToken", "Parameters": parameters, **fields}


def caught_by(task: dict[str, Any], *catchers: dict[str, Any]) -> dict[str, Any]:
    """Return a machine with a task whose catchers lead to the state Caught, which outputs its input."""
    definition = machine({**task, "Catch": [{"Next": "Caught", **catcher} for catcher in catchers]})
    definition["States"]["Caught"] = {"Type": "Pass", "End": True}
    return definition
