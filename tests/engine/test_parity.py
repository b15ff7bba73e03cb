"""Our interpreter and moto's independent one produce the same history, event by event."""

import itertools
from typing import Any

import pytest

from tests.engine.definitions import caught_by, invoke, machine, wait_for_token
from tests.engine.parity import (
    FUNCTION_ARN,
    Action,
    Advance,
    Answer,
    Fail,
    MotoRunner,
    Script,
    SendHeartbeat,
    Succeed,
    run_both,
)

BROKEN = Answer(error="Broken", message="it is broken")
BUSY = Answer(error="Busy")
NEVER = Answer(after=10**9)


def retried(*retriers: dict[str, Any], task: dict[str, Any] | None = None) -> dict[str, Any]:
    return machine({**(task or invoke()), "Retry": list(retriers)})


def function(**fields: Any) -> dict[str, Any]:
    return {"Type": "Task", "Resource": FUNCTION_ARN, **fields}


DATA = {
    "a": {"b": [1, {"c": "deep"}], "it's": None, "c": "cause"},
    "n": 3,
    "seconds": 7,
    "at": "2026-12-01T00:00:00Z",
    "zero": 0,
}

CASES: dict[str, Script] = {
    # Pass, and the filters that every state has
    "pass": Script(machine({"Type": "Pass"}), DATA),
    "pass: result": Script(machine({"Type": "Pass", "Result": {"x": [1, None]}}), DATA),
    "pass: result of null": Script(machine({"Type": "Pass", "Result": None}), DATA),
    "pass: result into a new place": Script(machine({"Type": "Pass", "Result": 1, "ResultPath": "$.p.q"}), DATA),
    "pass: result into an old place": Script(machine({"Type": "Pass", "Result": 1, "ResultPath": "$.a.b"}), DATA),
    "pass: result discarded": Script(machine({"Type": "Pass", "Result": 1, "ResultPath": None}), DATA),
    "pass: input path": Script(machine({"Type": "Pass", "InputPath": "$.a.b"}), DATA),
    "pass: input path of null": Script(machine({"Type": "Pass", "InputPath": None}), DATA),
    "pass: output path": Script(machine({"Type": "Pass", "OutputPath": "$.a"}), DATA),
    "pass: output path of null": Script(machine({"Type": "Pass", "OutputPath": None}), DATA),
    "pass: output path into the context": Script(machine({"Type": "Pass", "OutputPath": "$$.Execution.Input"}), DATA),
    "pass: input path into the context": Script(machine({"Type": "Pass", "InputPath": "$$.Execution.Input.n"}), DATA),
    "pass: index": Script(machine({"Type": "Pass", "InputPath": "$.a.b[1]"}), DATA),
    "pass: quoted names": Script(machine({"Type": "Pass", "InputPath": "$['a']['b'][0]"}), DATA),
    "pass: input path selects nothing": Script(machine({"Type": "Pass", "InputPath": "$.nowhere"}), DATA),
    "pass: output path selects nothing": Script(machine({"Type": "Pass", "OutputPath": "$.nowhere"}), DATA),
    "pass: parameters": Script(
        machine(
            {
                "Type": "Pass",
                "Parameters": {
                    "constant": {"x": [1, "$.n"]},
                    "n.$": "$.n",
                    "nested": {"c.$": "$.a.b[1]", "all.$": "$"},
                    "list": [{"n.$": "$.n"}, 1],
                },
            }
        ),
        DATA,
    ),
    "pass: parameters of the context": Script(
        machine(
            {
                "Type": "Pass",
                "Parameters": {
                    "id.$": "$$.Execution.Id",
                    "name.$": "$$.Execution.Name",
                    "input.$": "$$.Execution.Input",
                    "deep.$": "$$.Execution.Input.a.b[1]",
                    "state.$": "$$.State.Name",
                    "entered.$": "$$.State.EnteredTime",
                    "machine.$": "$$.StateMachine.Id",
                    "machine_name.$": "$$.StateMachine.Name",
                },
            }
        ),
        DATA,
    ),
    "pass: input path, parameters and result path": Script(
        machine({"Type": "Pass", "InputPath": "$.a", "Parameters": {"b.$": "$.b"}, "ResultPath": "$.r"}), DATA
    ),
    "pass: parameter selects nothing": Script(machine({"Type": "Pass", "Parameters": {"x.$": "$.nowhere"}}), DATA),
    "pass: three in a row": Script(
        machine({"Type": "Pass", "Result": 1, "ResultPath": "$.x"}, {"Type": "Pass"}, {"Type": "Pass"}), DATA
    ),
    "pass: output of 256 KiB": Script(
        machine({"Type": "Pass", "Parameters": {"x.$": "$.x", "y.$": "$.x"}}), {"x": "x" * 140_000}
    ),
    # Succeed and Fail
    "succeed": Script(machine({"Type": "Succeed"}), DATA),
    "succeed: paths": Script(machine({"Type": "Succeed", "InputPath": "$.a", "OutputPath": "$.b"}), DATA),
    "fail": Script(machine({"Type": "Fail", "Error": "E", "Cause": "C"}), DATA),
    "fail: without words": Script(machine({"Type": "Fail"}), DATA),
    "fail: paths": Script(machine({"Type": "Fail", "ErrorPath": "$.at", "CausePath": "$.a.c"}), DATA),
    "fail: error path selects nothing": Script(machine({"Type": "Fail", "ErrorPath": "$.nowhere"}), DATA),
    # Wait
    "wait: seconds": Script(machine({"Type": "Wait", "Seconds": 60}), DATA, actions=(Advance(59.5), Advance(0.5))),
    "wait: not yet": Script(machine({"Type": "Wait", "Seconds": 60}), DATA, actions=(Advance(59),)),
    "wait: no seconds": Script(machine({"Type": "Wait", "Seconds": 0}), DATA),
    "wait: seconds path": Script(machine({"Type": "Wait", "SecondsPath": "$.seconds"}), DATA, actions=(Advance(60),)),
    "wait: no seconds by path": Script(machine({"Type": "Wait", "SecondsPath": "$.zero"}), DATA),
    "wait: negative seconds": Script(machine({"Type": "Wait", "SecondsPath": "$.s"}), {"s": -1}),
    "wait: half a second": Script(machine({"Type": "Wait", "SecondsPath": "$.s"}), {"s": 1.5}),
    "wait: seconds path selects nothing": Script(machine({"Type": "Wait", "SecondsPath": "$.nowhere"}), DATA),
    "wait: timestamp": Script(
        machine({"Type": "Wait", "Timestamp": "2026-11-01T00:00:00Z"}), DATA, actions=(Advance(320 * 86_400),)
    ),
    "wait: timestamp that is past": Script(machine({"Type": "Wait", "Timestamp": "2001-01-01T00:00:00Z"}), DATA),
    "wait: timestamp path": Script(
        machine({"Type": "Wait", "TimestampPath": "$.at"}), DATA, actions=(Advance(360 * 86_400),)
    ),
    "wait: no timestamp": Script(machine({"Type": "Wait", "TimestampPath": "$.t"}), {"t": "tomorrow"}),
    "wait: timestamp without a zone": Script(
        machine({"Type": "Wait", "TimestampPath": "$.t"}), {"t": "2030-01-01T00:00:00"}
    ),
    "wait: paths": Script(
        machine({"Type": "Wait", "Seconds": 1, "InputPath": "$.a", "OutputPath": "$.b"}), DATA, actions=(Advance(2),)
    ),
    # Task: request and response
    "task": Script(machine(invoke()), DATA, (Answer({"done": True}),)),
    "task: slow": Script(machine(invoke()), DATA, (Answer({"done": True}, after=20),), (Advance(30),)),
    "task: not yet": Script(machine(invoke()), DATA, (NEVER,), (Advance(30),)),
    "task: result selector, result path and output path": Script(
        machine(
            invoke(
                ResultSelector={"x.$": "$.Payload.x", "name.$": "$$.State.Name", "y": 1},
                ResultPath="$.result",
                OutputPath="$.result",
            )
        ),
        DATA,
        (Answer({"x": [1]}),),
    ),
    "task: result discarded": Script(machine(invoke(ResultPath=None)), DATA),
    "task: input path": Script(machine(invoke(InputPath="$.a", ResultPath="$.r")), DATA, (Answer(1),)),
    "task: fails": Script(machine(invoke()), DATA, (BROKEN,)),
    "task: times out": Script(machine(invoke(TimeoutSeconds=5)), DATA, (NEVER,), (Advance(5),)),
    "task: in time": Script(machine(invoke(TimeoutSeconds=5)), DATA, (Answer(after=4),), (Advance(5),)),
    "task: times out by path": Script(machine(invoke(TimeoutSecondsPath="$.n")), DATA, (NEVER,), (Advance(3),)),
    "task: timeout path of the filtered input": Script(
        machine(invoke(InputPath="$.a", TimeoutSecondsPath="$.b[0]")), DATA, (NEVER,), (Advance(3),)
    ),
    "task: two": Script(machine(invoke(), invoke()), DATA, (Answer(1), Answer(2))),
    "function": Script(machine(function()), DATA, (Answer({"done": True}),)),
    "function: parameters": Script(machine(function(Parameters={"n.$": "$.n"}, ResultPath="$.r")), DATA, (Answer(9),)),
    "function: fails": Script(machine(function()), DATA, (BROKEN,)),
    "function: times out": Script(machine(function(TimeoutSeconds=5)), DATA, (NEVER,), (Advance(5),)),
    "function: retried": Script(
        retried({"ErrorEquals": ["States.ALL"]}, task=function()), DATA, (BROKEN, Answer(1)), (Advance(2),)
    ),
    # Retry
    "retry: succeeds": Script(retried({"ErrorEquals": ["Broken"]}), DATA, (BROKEN, Answer(1)), (Advance(1),)),
    "retry: waits": Script(retried({"ErrorEquals": ["Broken"]}), DATA, (BROKEN, Answer(1)), (Advance(0.5),)),
    "retry: gives up": Script(retried({"ErrorEquals": ["Broken"]}), DATA, (BROKEN,), (Advance(100),)),
    "retry: never": Script(retried({"ErrorEquals": ["Broken"], "MaxAttempts": 0}), DATA, (BROKEN,)),
    "retry: once": Script(retried({"ErrorEquals": ["Broken"], "MaxAttempts": 1}), DATA, (BROKEN,), (Advance(9),)),
    "retry: another error": Script(retried({"ErrorEquals": ["Busy"]}), DATA, (BROKEN,)),
    "retry: task failed": Script(retried({"ErrorEquals": ["States.TaskFailed"]}), DATA, (BROKEN,), (Advance(9),)),
    "retry: backoff": Script(
        retried({"ErrorEquals": ["Broken"], "IntervalSeconds": 3, "BackoffRate": 1.5, "MaxAttempts": 4}),
        DATA,
        (BROKEN,),
        (Advance(100),),
    ),
    "retry: maximum delay": Script(
        retried({"ErrorEquals": ["Broken"], "IntervalSeconds": 3, "MaxDelaySeconds": 5, "MaxAttempts": 4}),
        DATA,
        (BROKEN,),
        (Advance(100),),
    ),
    "retry: two retriers": Script(
        retried(
            {"ErrorEquals": ["Broken", "Other"], "MaxAttempts": 2},
            {"ErrorEquals": ["Busy"], "IntervalSeconds": 5},
        ),
        DATA,
        (BROKEN, BROKEN, BUSY, BROKEN),
        (Advance(100),),
    ),
    "retry: counted in the context": Script(
        retried(
            {"ErrorEquals": ["States.ALL"]},
            task=invoke(Parameters={"FunctionName": "F", "Payload": {"n.$": "$$.State.RetryCount"}}),
        ),
        DATA,
        (BROKEN, BROKEN, Answer()),
        (Advance(10),),
    ),
    "retry: timeout": Script(
        retried({"ErrorEquals": ["States.Timeout"], "MaxAttempts": 2}, task=invoke(TimeoutSeconds=5)),
        DATA,
        (NEVER,),
        (Advance(100),),
    ),
    "retry: the retried task keeps its entry": Script(
        retried(
            {"ErrorEquals": ["Broken"]},
            task=invoke(Parameters={"FunctionName": "F", "Payload": {"at.$": "$$.State.EnteredTime"}}),
        ),
        DATA,
        (BROKEN, Answer()),
        (Advance(10),),
    ),
    # Catch
    "catch": Script(caught_by(invoke(), {"ErrorEquals": ["Broken"]}), DATA, (BROKEN,)),
    "catch: result path": Script(
        caught_by(invoke(), {"ErrorEquals": ["Broken"], "ResultPath": "$.error"}), DATA, (BROKEN,)
    ),
    "catch: output path is left out": Script(
        caught_by(invoke(OutputPath="$.nowhere"), {"ErrorEquals": ["Broken"]}), DATA, (BROKEN,)
    ),
    "catch: the second": Script(
        caught_by(invoke(), {"ErrorEquals": ["Busy"]}, {"ErrorEquals": ["States.ALL"]}), DATA, (BROKEN,)
    ),
    "catch: none": Script(caught_by(invoke(), {"ErrorEquals": ["Busy"]}), DATA, (BROKEN,)),
    "catch: task failed": Script(caught_by(invoke(), {"ErrorEquals": ["States.TaskFailed"]}), DATA, (BROKEN,)),
    "catch: timeout": Script(
        caught_by(wait_for_token(TimeoutSeconds=5), {"ErrorEquals": ["States.Timeout"]}), DATA, actions=(Advance(5),)
    ),
    "catch: a timeout is no failed task": Script(
        caught_by(wait_for_token(TimeoutSeconds=5), {"ErrorEquals": ["States.TaskFailed"]}),
        DATA,
        actions=(Advance(5),),
    ),
    "catch: after retries": Script(
        caught_by(invoke(Retry=[{"ErrorEquals": ["States.ALL"]}]), {"ErrorEquals": ["States.ALL"]}),
        DATA,
        (BROKEN,),
        (Advance(100),),
    ),
    "catch: output of a large result by name": Script(
        caught_by(invoke(), {"ErrorEquals": ["States.DataLimitExceeded"]}), DATA, (Answer("x" * 270_000),)
    ),
    # Callbacks
    "callback: succeeds": Script(
        machine(wait_for_token(ResultPath="$.result")), DATA, actions=(Advance(5), Succeed({"x": 1}), Advance(5))
    ),
    "callback: fails": Script(machine(wait_for_token()), DATA, actions=(Advance(5), Fail("Broken"))),
    "callback: failure caught": Script(
        caught_by(wait_for_token(), {"ErrorEquals": ["Broken"]}), DATA, actions=(Fail("Broken"),)
    ),
    "callback: times out": Script(machine(wait_for_token(TimeoutSeconds=5)), DATA, actions=(Advance(6),)),
    "callback: in time": Script(
        machine(wait_for_token(TimeoutSeconds=5)), DATA, actions=(Advance(4), Succeed(1), Advance(4))
    ),
    "callback: times out by path": Script(
        machine(wait_for_token(TimeoutSecondsPath="$.seconds")), DATA, actions=(Advance(6), Advance(2))
    ),
    "callback: invocation fails": Script(machine(wait_for_token()), DATA, (BROKEN,)),
    "callback: invocation retried": Script(
        retried({"ErrorEquals": ["Broken"]}, task=wait_for_token()),
        DATA,
        (BROKEN, Answer()),
        (Advance(2), Succeed(1)),
    ),
    "callback: two in a row": Script(
        machine(wait_for_token(), wait_for_token()), DATA, actions=(Succeed(1), Advance(3), Succeed(2))
    ),
    "callback: result is null": Script(machine(wait_for_token()), DATA, actions=(Succeed(None),)),
    "heartbeat: missed": Script(
        machine(wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=60)), DATA, actions=(Advance(5),)
    ),
    "heartbeat: missed by path": Script(
        machine(wait_for_token(HeartbeatSecondsPath="$.n", TimeoutSeconds=60)), DATA, actions=(Advance(5),)
    ),
    "heartbeat: beats, then missed": Script(
        machine(wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=60)),
        DATA,
        actions=(Advance(4), SendHeartbeat(), Advance(4), SendHeartbeat(), Advance(4), Advance(4)),
    ),
    "heartbeat: beats, then succeeds": Script(
        machine(wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=60)),
        DATA,
        actions=(Advance(4), SendHeartbeat(), Advance(4), Succeed(1), Advance(9)),
    ),
    "heartbeat: beats until the timeout": Script(
        machine(wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=9)),
        DATA,
        actions=(Advance(4), SendHeartbeat(), Advance(4), SendHeartbeat(), Advance(4)),
    ),
    "heartbeat: caught as a timeout": Script(
        caught_by(wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=60), {"ErrorEquals": ["States.Timeout"]}),
        DATA,
        actions=(Advance(5),),
    ),
    # Machines
    "machine: in time": Script(machine({"Type": "Wait", "Seconds": 5}, TimeoutSeconds=9), DATA, actions=(Advance(9),)),
}


@pytest.mark.parametrize("name", CASES)
def test_history_is_the_same(moto: MotoRunner, name: str) -> None:
    expected, actual = run_both(moto, CASES[name])
    assert actual.history == expected.history
    assert (actual.status, actual.rejected) == (expected.status, expected.rejected)


def chooses(rule: dict[str, Any]) -> dict[str, Any]:
    definition = machine({"Type": "Choice", "Choices": [{**rule, "Next": "Yes"}], "Default": "No"})
    definition["States"] |= {"Yes": {"Type": "Succeed"}, "No": {"Type": "Succeed"}}
    return definition


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    3,
    3.0,
    3.5,
    "",
    "b",
    "bcd",
    "2026-01-01T00:00:00Z",
    "2026-01-02T00:00:00Z",
    [],
    {"b": 1},
]
ORDERS = ("Equals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals")
CONSTANTS: list[tuple[str, Any]] = [
    *((f"{kind}{order}", value) for kind, value in (("Numeric", 3), ("String", "b")) for order in ORDERS),
    *((f"Timestamp{order}", "2026-01-01T00:00:00Z") for order in ORDERS),
    ("BooleanEquals", True),
    ("BooleanEquals", False),
    *(
        (f"Is{kind}", truth)
        for kind in ("Boolean", "Null", "Numeric", "String", "Timestamp")
        for truth in (True, False)
    ),
    ("IsPresent", True),
    ("IsPresent", False),
    ("StringMatches", "b*d"),
    ("StringMatches", "*"),
    ("StringMatches", "b"),
]


@pytest.mark.parametrize(("operator", "operand"), CONSTANTS, ids=lambda value: str(value))
def test_comparison_is_the_same(moto: MotoRunner, operator: str, operand: Any) -> None:
    rules = [
        {"And": [{"Variable": f"$.v[{index}]", operator: operand}], "Next": f"Pass{index}"}
        for index in range(len(VALUES))
    ]
    definition = _one_choice_each(rules)
    expected, actual = run_both(moto, Script(definition, {"v": VALUES}))
    assert actual.history == expected.history


@pytest.mark.parametrize(
    "operator",
    ["BooleanEqualsPath", *(f"{kind}{order}Path" for kind in ("Numeric", "String", "Timestamp") for order in ORDERS)],
)
def test_comparison_of_two_paths_is_the_same(moto: MotoRunner, operator: str) -> None:
    # Only values of the operator's type: moto fails if the second value has another type.
    kinds: dict[str, tuple[type, ...]] = {"B": (bool,), "N": (int, float), "S": (str,), "T": (str,)}
    operands: dict[str, list[Any]] = {
        "B": [True, False],
        "N": [0, 3, 3.5],
        "S": ["", "b", "bcd"],
        "T": ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"],
    }
    firsts = [value for value in VALUES if isinstance(value, kinds[operator[0]])]
    pairs = list(itertools.product(firsts, operands[operator[0]]))
    rules = [
        {"Variable": f"$.a{index}", operator: f"$.b{index}", "Next": f"Pass{index}"} for index in range(len(pairs))
    ]
    data = {f"a{index}": first for index, (first, _) in enumerate(pairs)}
    data |= {f"b{index}": second for index, (_, second) in enumerate(pairs)}
    expected, actual = run_both(moto, Script(_one_choice_each(rules), data))
    assert actual.history == expected.history


def _one_choice_each(rules: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a chain of Choice states: if rule n matches, the execution enters state Pass-n."""
    states: dict[str, Any] = {}
    for index, rule in enumerate(rules):
        following = f"Choice{index + 1}"
        states[f"Choice{index}"] = {"Type": "Choice", "Choices": [rule], "Default": following}
        states[f"Pass{index}"] = {"Type": "Pass", "Next": following}
    states[f"Choice{len(rules)}"] = {"Type": "Succeed"}
    return {"StartAt": "Choice0", "States": states}


RULES: dict[str, dict[str, Any]] = {
    "and: both": {"And": [{"Variable": "$.x", "IsNumeric": True}, {"Variable": "$.x", "NumericLessThan": 9}]},
    "and: one": {"And": [{"Variable": "$.x", "IsNumeric": True}, {"Variable": "$.x", "NumericLessThan": 1}]},
    "or: one": {"Or": [{"Variable": "$.x", "IsString": True}, {"Variable": "$.x", "NumericLessThan": 9}]},
    "or: none": {"Or": [{"Variable": "$.x", "IsString": True}, {"Variable": "$.x", "NumericLessThan": 1}]},
    "not": {"Not": {"Variable": "$.x", "NumericEquals": 3}},
    "not not": {"Not": {"Not": {"Variable": "$.x", "NumericEquals": 3}}},
    "nested": {
        "And": [{"Or": [{"Not": {"Variable": "$.x", "IsNull": True}}]}, {"Variable": "$.y", "IsPresent": False}]
    },
    "absent": {"Variable": "$.y", "IsPresent": True},
    "context": {"Variable": "$$.Execution.Input.x", "NumericEquals": 3},
}


@pytest.mark.parametrize("name", RULES)
def test_rule_is_the_same(moto: MotoRunner, name: str) -> None:
    expected, actual = run_both(moto, Script(chooses(RULES[name]), {"x": 3}))
    assert actual.history == expected.history


def test_filters_of_a_choice_are_the_same(moto: MotoRunner) -> None:
    definition = chooses({"Variable": "$.b", "NumericEquals": 1})
    definition["States"]["First"] |= {"InputPath": "$.a", "OutputPath": "$.b"}
    expected, actual = run_both(moto, Script(definition, {"a": {"b": 1}}))
    assert actual.history == expected.history
    assert actual.output == 1


def test_actions_are_all_used() -> None:
    used = {type(action) for script in CASES.values() for action in script.actions}
    assert used == set(Action.__args__)
