import copy
import json
from typing import Any

import pytest

from bems.engine import InvalidDefinition, UnsupportedDefinition, load
from tests.engine.definitions import INVOKE, LIFECYCLE, invoke, lifecycle, machine, wait_for_token
from tests.engine.engine_harness import FUNCTION, MACHINE_ARN, compiled


def problems(definition: Any, kind: type[InvalidDefinition] = InvalidDefinition) -> tuple[str, ...]:
    with pytest.raises(InvalidDefinition) as caught:
        compiled(definition)
    assert type(caught.value) is kind
    return caught.value.problems


def test_the_lifecycle_definition_loads() -> None:
    assert len(load(LIFECYCLE.read_text(), resources={"lambda:invoke"}).states) == 16


def test_text_and_object_are_the_same_definition() -> None:
    definition = lifecycle()
    text = load(json.dumps(definition, indent=2), resources={"lambda:invoke"})
    assert text.digest == compiled(definition).digest
    assert text.digest != compiled({**definition, "TimeoutSeconds": 5}).digest


def test_the_definition_is_copied() -> None:
    definition = machine({"Type": "Pass", "Result": {"x": 1}})
    before = copy.deepcopy(definition)
    loaded = compiled(definition)
    assert definition == before
    definition["States"].clear()
    assert list(loaded.states) == ["First"]


def test_machine_knows_its_names_and_region() -> None:
    loaded = load(machine({"Type": "Pass"}), resources=(), id=MACHINE_ARN)
    assert (loaded.id, loaded.name, loaded.region) == (MACHINE_ARN, "invoices", "eu-west-1")
    assert load(machine({"Type": "Pass"}), resources=(), name="other").name == "other"


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "parallel": (
        machine({"Type": "Parallel", "Branches": [], "Next": "Second"}, {"Type": "Succeed"}),
        "States.First.Type: state type Parallel is not supported",
    ),
    "map": (machine({"Type": "Map"}), "States.First.Type: state type Map is not supported"),
    "jsonata": (machine({"Type": "Pass"}, QueryLanguage="JSONata"), "QueryLanguage: JSONata is not supported"),
    "jsonata state": (
        machine({"Type": "Pass", "QueryLanguage": "JSONata"}),
        "States.First.QueryLanguage: JSONata is not supported",
    ),
    "assign": (machine({"Type": "Pass", "Assign": {"x": 1}}), "States.First.Assign: field Assign is not supported"),
    "arguments": (
        machine({"Type": "Pass", "Arguments": {}}),
        "States.First.Arguments: field Arguments is not supported",
    ),
    "output": (machine({"Type": "Pass", "Output": {}}), "States.First.Output: field Output is not supported"),
    "credentials": (
        machine(invoke(Credentials={"RoleArn": "r"})),
        "States.First.Credentials: field Credentials is not supported",
    ),
    "intrinsic function": (
        machine({"Type": "Pass", "Parameters": {"x.$": "States.Format('{}', $.y)"}}),
        "States.First.Parameters.x.$: intrinsic function States.Format is not supported",
    ),
    "deep intrinsic function": (
        machine({"Type": "Pass", "Parameters": {"a": {"b": [{"x.$": "States.UUID()"}]}}}),
        "States.First.Parameters.a.b[0].x.$: intrinsic function States.UUID is not supported",
    ),
    "intrinsic function in a path": (
        machine({"Type": "Fail", "CausePath": "States.JsonToString($)"}),
        "States.First.CausePath: intrinsic function States.JsonToString is not supported",
    ),
    "variable": (
        machine({"Type": "Pass", "InputPath": "$x.y"}),
        "States.First.InputPath: variable $x.y is not supported",
    ),
    "wildcard": (
        machine({"Type": "Pass", "InputPath": "$.x[*]"}),
        "States.First.InputPath: path '$.x[*]' may select more than one value, which is not supported",
    ),
    "context field": (
        machine({"Type": "Pass", "InputPath": "$$.Execution.RoleArn"}),
        "States.First.InputPath: context object field $$.Execution.RoleArn is not supported",
    ),
    "resource": (
        machine({"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "Parameters": {}}),
        "States.First.Resource: resource sqs:sendMessage is not in the registry",
    ),
    "function": (
        machine({"Type": "Task", "Resource": FUNCTION + "2"}),
        f"States.First.Resource: resource {FUNCTION}2 is not in the registry",
    ),
    "pattern": (
        machine({"Type": "Task", "Resource": f"{INVOKE}.sync:2", "Parameters": {}}),
        "States.First.Resource: service integration pattern .sync:2 is not supported",
    ),
    "heartbeat": (
        machine(invoke(HeartbeatSeconds=5)),
        "States.First: heartbeats are supported in .waitForTaskToken tasks only",
    ),
    "catch assign": (
        machine(invoke(Catch=[{"ErrorEquals": ["E"], "Next": "First", "Assign": {}}])),
        "States.First.Catch[0].Assign: field Assign is not supported",
    ),
    "choice condition": (
        machine({"Type": "Choice", "Choices": [{"Condition": "{% true %}", "Next": "Second"}]}, {"Type": "Succeed"}),
        "States.First.Choices[0].Condition: field Condition is not supported",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_features_are_reported_by_path(name: str) -> None:
    definition, problem = UNSUPPORTED[name]
    assert problems(definition, UnsupportedDefinition) == (problem,)


def choice(rule: Any) -> dict[str, Any]:
    return machine({"Type": "Choice", "Choices": [rule]}, {"Type": "Succeed"})


def retry(**fields: Any) -> dict[str, Any]:
    return machine(invoke(Retry=[{"ErrorEquals": ["E"], **fields}]))


RULE = {"Variable": "$.x", "Next": "Second"}

INVALID: dict[str, tuple[Any, str]] = {
    "not json": ("{", "$: not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    "no object": ("[]", "$: expected an object"),
    "no states": ({"StartAt": "First"}, "States: required field is missing or not an object with states"),
    "no start": ({"States": {"First": {"Type": "Succeed"}}}, "StartAt: required field is missing"),
    "dangling start": ({**machine({"Type": "Pass"}), "StartAt": "X"}, "StartAt: no state is named 'X'"),
    "unknown field": (machine({"Type": "Pass"}, Foo=1), "Foo: unknown field"),
    "version": (machine({"Type": "Pass"}, Version="2.0"), "Version: expected 1.0"),
    "machine timeout": (
        machine({"Type": "Pass"}, TimeoutSeconds=0),
        "TimeoutSeconds: expected an integer from 1 to 99999999",
    ),
    "unknown state field": (
        machine({"Type": "Pass", "Retry": []}),
        "States.First.Retry: unknown field of a Pass state",
    ),
    "no type": (machine({"Type": "Wonder"}), "States.First.Type: required field is missing or not a state type"),
    "no transition": (
        {"StartAt": "First", "States": {"First": {"Type": "Pass"}}},
        "States.First: exactly one of Next and End is required",
    ),
    "two transitions": (
        machine({"Type": "Pass", "Next": "First", "End": True}),
        "States.First: exactly one of Next and End is required",
    ),
    "dangling next": (machine({"Type": "Pass", "Next": "X"}), 'States.First.Next: no state is named "X"'),
    "dangling catch": (
        machine(invoke(Catch=[{"ErrorEquals": ["E"], "Next": "X"}])),
        'States.First.Catch[0].Next: no state is named "X"',
    ),
    "dangling default": (
        machine({"Type": "Choice", "Choices": [{**RULE, "IsNull": True}], "Default": "X"}, {"Type": "Succeed"}),
        'States.First.Default: no state is named "X"',
    ),
    "dangling choice": (
        machine({"Type": "Choice", "Choices": [{"Variable": "$", "IsNull": True, "Next": "X"}]}),
        'States.First.Choices[0].Next: no state is named "X"',
    ),
    "unreachable": (machine({"Type": "Pass", "End": True}, {"Type": "Pass"}), "States.Second: unreachable state"),
    "long name": (
        {"StartAt": "x" * 81, "States": {"x" * 81: {"Type": "Succeed"}}},
        f"States.{'x' * 81}: a state name has at most 80 characters",
    ),
    "path": (
        machine({"Type": "Pass", "InputPath": "x"}),
        "States.First.InputPath: 'x' is not a path: it does not start with $",
    ),
    "path of a number": (
        machine({"Type": "Pass", "Parameters": {"x.$": 5}}),
        "States.First.Parameters.x.$: 5 is not a path",
    ),
    "broken path": (
        machine({"Type": "Pass", "OutputPath": "$.a["}),
        "States.First.OutputPath: '$.a[' is not a path: unexpected '['",
    ),
    "twice": (
        machine({"Type": "Pass", "Parameters": {"x": 1, "x.$": "$"}}),
        "States.First.Parameters.x: given both with and without .$",
    ),
    "result path into the context": (
        machine({"Type": "Pass", "ResultPath": "$$.State"}),
        "States.First.ResultPath: a result cannot be written to the context object",
    ),
    "token elsewhere": (
        machine(invoke(Parameters={"x.$": "$$.Task.Token"})),
        "States.First.Parameters.x.$: the task token exists only in the Parameters of a .waitForTaskToken task",
    ),
    "no resource": (machine({"Type": "Task", "Parameters": {}}), "States.First.Resource: required field is missing"),
    "no arn": (
        machine({"Type": "Task", "Resource": "lambda"}),
        "States.First.Resource: 'lambda' is not the ARN of a service integration or of a function",
    ),
    "no parameters": (
        machine({"Type": "Task", "Resource": INVOKE}),
        "States.First.Parameters: required field of a service integration is missing",
    ),
    "two timeouts": (
        machine(invoke(TimeoutSeconds=1, TimeoutSecondsPath="$.x")),
        "States.First: at most one of TimeoutSeconds, TimeoutSecondsPath is allowed",
    ),
    "timeout": (
        machine(invoke(TimeoutSeconds=0)),
        "States.First.TimeoutSeconds: expected an integer from 1 to 99999999",
    ),
    "heartbeat": (
        machine(wait_for_token(TimeoutSeconds=5, HeartbeatSeconds=5)),
        "States.First.HeartbeatSeconds: expected less than TimeoutSeconds",
    ),
    "no wait": (
        machine({"Type": "Wait"}),
        "States.First: exactly one of Seconds, SecondsPath, Timestamp, TimestampPath is allowed",
    ),
    "wait": (machine({"Type": "Wait", "Seconds": -1}), "States.First.Seconds: expected an integer from 0 to 99999999"),
    "timestamp": (
        machine({"Type": "Wait", "Timestamp": "2026-13-01T00:00:00Z"}),
        "States.First.Timestamp: expected a timestamp such as 2026-11-23T10:15:00Z",
    ),
    "error": (machine({"Type": "Fail", "Error": 5}), "States.First.Error: expected a string"),
    "two errors": (
        machine({"Type": "Fail", "Error": "E", "ErrorPath": "$.e"}),
        "States.First: at most one of Error, ErrorPath is allowed",
    ),
    "no error names": (
        machine(invoke(Retry=[{}])),
        "States.First.Retry[0].ErrorEquals: required field is missing or not a list of error names",
    ),
    "error name": (
        retry(ErrorEquals=["States.Foo"]),
        "States.First.Retry[0].ErrorEquals: States.Foo is not an error name of the States Language",
    ),
    "all with another": (
        retry(ErrorEquals=["States.ALL", "E"]),
        "States.First.Retry[0].ErrorEquals: States.ALL must be the only name of the last entry",
    ),
    "all before another": (
        machine(invoke(Retry=[{"ErrorEquals": ["States.ALL"]}, {"ErrorEquals": ["E"]}])),
        "States.First.Retry[0].ErrorEquals: States.ALL must be the only name of the last entry",
    ),
    "interval": (
        retry(IntervalSeconds=0),
        "States.First.Retry[0].IntervalSeconds: expected an integer from 1 to 99999999",
    ),
    "attempts": (retry(MaxAttempts=-1), "States.First.Retry[0].MaxAttempts: expected an integer from 0 to 99999999"),
    "delay": (
        retry(MaxDelaySeconds=0),
        "States.First.Retry[0].MaxDelaySeconds: expected an integer from 1 to 31622400",
    ),
    "rate": (retry(BackoffRate=0.5), "States.First.Retry[0].BackoffRate: expected a number of at least 1.0"),
    "jitter": (retry(JitterStrategy="SOME"), "States.First.Retry[0].JitterStrategy: expected FULL or NONE"),
    "retrier field": (retry(Foo=1), "States.First.Retry[0].Foo: unknown field"),
    "no list of retriers": (machine(invoke(Retry={})), "States.First.Retry: expected a list"),
    "no retrier": (machine(invoke(Retry=[1])), "States.First.Retry[0]: expected an object"),
    "no choices": (
        machine({"Type": "Choice"}),
        "States.First.Choices: required field is missing or not a list of rules",
    ),
    "no variable": (
        choice({"IsNull": True, "Next": "Second"}),
        "States.First.Choices[0]: required field Variable is missing",
    ),
    "no operator": (choice(RULE), "States.First.Choices[0]: expected exactly one comparison operator"),
    "operator": (
        choice({**RULE, "StringLike": "x"}),
        "States.First.Choices[0].StringLike: unknown comparison operator",
    ),
    "order of booleans": (
        choice({**RULE, "BooleanLessThan": True}),
        "States.First.Choices[0].BooleanLessThan: unknown comparison operator",
    ),
    "operand": (choice({**RULE, "NumericEquals": "5"}), "States.First.Choices[0].NumericEquals: expected a number"),
    "type test": (choice({**RULE, "IsNull": "yes"}), "States.First.Choices[0].IsNull: expected true or false"),
    "escape": (
        choice({**RULE, "StringMatches": "a\\b"}),
        "States.First.Choices[0].StringMatches: only * and \\ can be escaped",
    ),
    "combination": (
        choice({**RULE, "Not": {}}),
        "States.First.Choices[0]: Not must be the only field of its rule",
    ),
    "empty combination": (
        choice({"And": [], "Next": "Second"}),
        "States.First.Choices[0].And: expected a list of rules",
    ),
    "next in a nested rule": (
        choice({"Not": {**RULE, "IsNull": True}, "Next": "Second"}),
        "States.First.Choices[0].Not: expected exactly one comparison operator",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_problems_are_reported_by_path(name: str) -> None:
    definition, problem = INVALID[name]
    assert problem in problems(definition)


def test_all_problems_are_reported_at_once() -> None:
    definition = machine(
        {"Type": "Pass", "Parameters": {"x.$": "States.UUID()", "y.$": "$.z[*]"}},
        invoke(Retry=[{"ErrorEquals": []}], Credentials={}, TimeoutSeconds=-5),
        {"Type": "Choice", "Choices": [{"Variable": "$..x", "IsNull": 1, "Next": "Nowhere"}]},
        {"Type": "Map"},
        Foo=1,
    )
    assert problems(definition) == (
        "Foo: unknown field",
        "States.First.Parameters.x.$: intrinsic function States.UUID is not supported",
        "States.First.Parameters.y.$: path '$.z[*]' may select more than one value, which is not supported",
        "States.Fourth.Type: state type Map is not supported",
        "States.Fourth: unreachable state",
        "States.Second.Credentials: field Credentials is not supported",
        "States.Second.Retry[0].ErrorEquals: required field is missing or not a list of error names",
        "States.Second.TimeoutSeconds: expected an integer from 1 to 99999999",
        "States.Third.Choices[0].IsNull: expected true or false",
        'States.Third.Choices[0].Next: no state is named "Nowhere"',
        "States.Third.Choices[0].Variable: path '$..x' may select more than one value, which is not supported",
    )


def test_the_message_has_every_problem() -> None:
    with pytest.raises(UnsupportedDefinition, match="UUID is not supported\nStates"):
        compiled(machine({"Type": "Pass", "Parameters": {"x.$": "States.UUID()"}, "ResultPath": "$.a[*]"}))


@pytest.mark.parametrize("value", [None, 5, "text", []])
def test_states_that_are_not_objects_are_rejected(value: Any) -> None:
    assert problems({"StartAt": "First", "States": {"First": value}}) == (
        "States.First.Type: required field is missing or not a state type",
    )


def test_any_function_can_be_allowed() -> None:
    load(machine({"Type": "Task", "Resource": FUNCTION + ":live"}), resources={"lambda:function"})


def test_a_task_token_is_of_one_task_only() -> None:
    """A later path of the same task, and the next task, have no token."""
    waiting = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
        "Parameters": {"FunctionName": "f", "Payload": {"token.$": "$$.Task.Token"}},
        "TimeoutSecondsPath": "$$.Task.Token",
        "Next": "Second",
    }
    plain = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": "f", "Payload": {"token.$": "$$.Task.Token"}},
        "TimeoutSeconds": 1,
    }
    with pytest.raises(InvalidDefinition) as caught:
        load(machine(waiting, plain), resources={"lambda:invoke", "lambda:invoke.waitForTaskToken"})
    reason = "the task token exists only in the Parameters of a .waitForTaskToken task"
    assert [problem for problem in caught.value.problems if reason in problem] == [
        f"States.First.TimeoutSecondsPath: {reason}",
        f"States.Second.Parameters.Payload.token.$: {reason}",
    ]
