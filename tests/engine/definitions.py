"""Small definitions for tests."""

import json
from pathlib import Path
from typing import Any

INVOKE = "arn:aws:states:::lambda:invoke"
LIFECYCLE = Path(__file__).parents[2] / "statemachines" / "invoice_lifecycle.asl.json"


def lifecycle() -> dict[str, Any]:
    """The real definition, with names of functions filled in."""
    text = LIFECYCLE.read_text()
    text = text.replace("${RegisterWaitFunction}", "RegisterWait").replace("${EscalateFunction}", "Escalate")
    definition: dict[str, Any] = json.loads(text)
    return definition


def machine(first: dict[str, Any], *others: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """States named First, Second, Third..., which follow each other; the last one ends unless it says otherwise."""
    names = ("First", "Second", "Third", "Fourth")
    states: dict[str, Any] = {}
    for name, following, state in zip(names, (*names[1:], ""), (first, *others), strict=False):
        last = len(states) == len(others)
        flow: dict[str, Any] = {"End": True} if last else {"Next": following}
        states[name] = state if _leads_on(state) else {**state, **flow}
    return {"StartAt": "First", "States": states, **fields}


def _leads_on(state: dict[str, Any]) -> bool:
    return "Next" in state or "End" in state or state["Type"] in ("Choice", "Succeed", "Fail")


def invoke(**fields: Any) -> dict[str, Any]:
    """A request-response task."""
    return {"Type": "Task", "Resource": INVOKE, "Parameters": {"FunctionName": "F", "Payload.$": "$"}, **fields}


def wait_for_token(**fields: Any) -> dict[str, Any]:
    """A task that ends by a callback."""
    parameters = {"FunctionName": "F", "Payload": {"token.$": "$$.Task.Token", "input.$": "$"}}
    return {"Type": "Task", "Resource": f"{INVOKE}.waitForTaskToken", "Parameters": parameters, **fields}


def caught_by(task: dict[str, Any], *catchers: dict[str, Any]) -> dict[str, Any]:
    """A task whose catchers lead to Caught, which passes on what it is given."""
    definition = machine({**task, "Catch": [{"Next": "Caught", **catcher} for catcher in catchers]})
    definition["States"]["Caught"] = {"Type": "Pass", "End": True}
    return definition
