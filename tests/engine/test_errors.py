import pytest

from bems.engine.errors import matches


@pytest.mark.parametrize(
    ("names", "error", "expected"),
    [
        ({"E"}, "E", True),
        ({"E"}, "F", False),
        ({"States.ALL"}, "E", True),
        ({"States.ALL"}, None, True),
        ({"States.ALL"}, "States.Timeout", True),
        ({"States.ALL"}, "States.Runtime", False),
        ({"States.ALL"}, "States.DataLimitExceeded", False),
        ({"States.TaskFailed"}, "E", True),
        ({"States.TaskFailed"}, "States.Timeout", False),
        ({"States.TaskFailed"}, "States.HeartbeatTimeout", False),
        ({"States.TaskFailed"}, "States.Runtime", False),
        ({"States.TaskFailed"}, "States.DataLimitExceeded", False),
        ({"States.Runtime"}, "States.Runtime", False),
        ({"States.DataLimitExceeded"}, "States.DataLimitExceeded", True),
        ({"States.Timeout"}, "States.HeartbeatTimeout", True),
        ({"States.HeartbeatTimeout"}, "States.HeartbeatTimeout", True),
        ({"States.HeartbeatTimeout"}, "States.Timeout", False),
    ],
)
def test_matches(names: set[str], error: str | None, expected: bool) -> None:
    assert matches(frozenset(names), error) is expected
