from dataclasses import fields
from typing import Any

from bems.engine import Execution, execution_id, new_execution
from tests.engine.definitions import machine, wait_for_token
from tests.engine.engine_harness import ARN, START, EngineHarness


def test_name_is_the_last_part_of_the_arn() -> None:
    assert new_execution(ARN).name == "INV-1"
    assert new_execution(ARN, name="other").name == "other"


def test_a_token_identifies_its_execution() -> None:
    assert execution_id(EngineHarness(machine(wait_for_token())).token) == ARN
    assert execution_id("a#b#3") == "a#b"
    assert execution_id("nonsense") == "nonsense"


def test_json_omits_default_values() -> None:
    execution = EngineHarness(machine(wait_for_token(TimeoutSeconds=5)), {"x": 1}).execution
    assert execution.to_json() == {
        "id": ARN,
        "name": "INV-1",
        "status": "RUNNING",
        "input": {"x": 1},
        "started_at": START,
        "expires_at": START + 31_536_000_000_000,
        "last_event": 4,
        "state": "First",
        "entered_at": START,
        "entered_event": 2,
        "data": {"x": 1},
        "phase": "task",
        "timer_at": START + 5_000_000,
        "invocation": 3,
        "token": f"{ARN}#3",
    }


def test_falsy_values_survive_json() -> None:
    values: list[Any] = [None, False, 0, 0.0, "", [], {}]
    for value in values:
        execution = Execution("id", "name", output=value, input=value, data=value)
        again = Execution.from_json(execution.to_json())
        assert repr(again) == repr(execution)


def test_copy_has_every_field() -> None:
    names = [field.name for field in fields(Execution)]
    execution = Execution(*names)  # type: ignore[arg-type]
    again = execution.copy()
    assert again is not execution
    assert [getattr(again, name) for name in names] == names


def test_due_is_the_earliest_timer() -> None:
    execution = Execution("id", "name", status="RUNNING")
    assert execution.due is None
    execution.expires_at = 30
    assert execution.due == 30
    execution.timer_at = 20
    assert execution.due == 20
    execution.heartbeat_at = 10
    assert execution.due == 10
    execution.status = "SUCCEEDED"
    assert (execution.due, execution.is_finished) == (None, True)
