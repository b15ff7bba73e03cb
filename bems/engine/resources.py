"""Parser of a Task's Resource field."""

import re
from dataclasses import dataclass
from typing import Any, Final

from bems.engine.problems import Problems

_INTEGRATION: Final = re.compile(r"arn:aws[\w-]*:states:::([\w-]+):([\w:-]+)(\.\w+(?::\d+)?)?")
_FUNCTION: Final = re.compile(r"arn:aws[\w-]*:lambda:[\w-]*:\d*:function:[\w$:-]+")


@dataclass(frozen=True, slots=True)
class TaskResource:
    """A parsed Resource.

    `name` is its name in the registry, `service` the resourceType and resource in history events, None for a function.
    """

    name: str
    service: tuple[str, str] | None = None
    waits_for_token: bool = False


_UNKNOWN: Final = TaskResource("")


def parse_resource(value: Any, registry: frozenset[str], where: str, problems: Problems) -> TaskResource:
    """Parse the ARN of a service integration or a function. Adds what is wrong to `problems`."""
    if not isinstance(value, str):
        problems.add(where, "required field is missing")
        return _UNKNOWN
    if _FUNCTION.fullmatch(value):
        if value not in registry and "lambda:function" not in registry:
            problems.add_unsupported(where, f"resource {value} is not in the registry")
        return TaskResource(value)
    integration = _INTEGRATION.fullmatch(value)
    if integration is None:
        problems.add(where, f"'{value}' is not the ARN of a service integration or of a function")
        return _UNKNOWN
    service, action, pattern = integration.groups(default="")
    if pattern not in ("", ".waitForTaskToken"):
        problems.add_unsupported(where, f"service integration pattern {pattern} is not supported")
    name = f"{service}:{action}"
    if name not in registry:
        problems.add_unsupported(where, f"resource {name} is not in the registry")
    return TaskResource(name, (service, action + pattern), bool(pattern))
