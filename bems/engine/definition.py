"""Loader of state machine definitions. Reports every problem found, each with its path.

Source: Amazon States Language; limits: Step Functions Developer Guide.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from bems.engine.errors import InvalidDefinition
from bems.engine.machine import Machine, State
from bems.engine.paths import MachineIdentity
from bems.engine.problems import Problems
from bems.engine.states import StateCompiler

MAX_EXECUTION_SECONDS: Final = 31_536_000
"""Maximum duration of a Standard execution: one year. Source: Step Functions service quotas."""

_MACHINE_FIELDS: Final = frozenset({"Comment", "QueryLanguage", "StartAt", "States", "TimeoutSeconds", "Version"})


def load(
    definition: str | Mapping[str, Any],
    *,
    resources: Collection[str],
    id: str = "",
    name: str | None = None,
) -> Machine:
    """Compile a definition in the Amazon States Language that uses JSONPath.

    `definition` is JSON text or the decoded object. `resources` lists what a Task may call: `lambda:invoke` allows that
    integration with and without `.waitForTaskToken`; a function's ARN allows that function; `lambda:function` allows
    any function. `id` and `name` are the machine's ARN and name in the context object.

    Raises UnsupportedDefinition if all problems are features that the engine does not implement, otherwise
    InvalidDefinition. Both list all problems, each with its path: `States.Foo.Parameters.x.$: ...`.
    """
    document = _parse(definition)
    problems = Problems()
    machine_name = id.rsplit(":", 1)[-1] if name is None else name
    states = _compile(document, problems, MachineIdentity(id, machine_name), frozenset(resources))
    problems.raise_if_any()
    arn = id.split(":")
    return Machine(
        start_at=document["StartAt"],
        states=states,
        timeout_seconds=min(document.get("TimeoutSeconds", MAX_EXECUTION_SECONDS), MAX_EXECUTION_SECONDS),
        id=id,
        name=machine_name,
        region=arn[3] if len(arn) > 3 else "us-east-1",
        digest=hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest(),
    )


def _parse(definition: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(definition, str):
        try:
            document = json.loads(definition)
        except ValueError as error:
            raise InvalidDefinition([f"$: not JSON: {error}"]) from None
    else:
        document = json.loads(json.dumps(definition))
    if not isinstance(document, dict):
        raise InvalidDefinition(["$: expected an object"])
    return document


def _compile(
    document: dict[str, Any], problems: Problems, identity: MachineIdentity, resources: frozenset[str]
) -> dict[str, State]:
    for field in document.keys() - _MACHINE_FIELDS:
        problems.add(field, "unknown field")
    if document.get("Version", "1.0") != "1.0":
        problems.add("Version", "expected 1.0")
    query_language = document.get("QueryLanguage", "JSONPath")
    if query_language != "JSONPath":
        problems.add_unsupported("QueryLanguage", f"{query_language} is not supported")
    if "TimeoutSeconds" in document:
        problems.check_integer(document["TimeoutSeconds"], "TimeoutSeconds", minimum=1)
    states = document.get("States")
    if not isinstance(states, dict) or not states:
        problems.add("States", "required field is missing or not an object with states")
        return {}
    compiled: dict[str, State] = {}
    targets: dict[str, set[str]] = {}
    for name, state in states.items():
        compiler = StateCompiler(name, state, states.keys(), problems, identity, resources)
        result = compiler.compile()
        targets[name] = compiler.targets
        if result is not None:
            compiled[name] = result
    _check_reachability(document.get("StartAt"), targets, problems)
    return compiled


def _check_reachability(start_at: Any, targets: dict[str, set[str]], problems: Problems) -> None:
    if not isinstance(start_at, str) or start_at not in targets:
        problems.add("StartAt", "required field is missing" if start_at is None else f"no state is named {start_at!r}")
        return
    reached: set[str] = set()
    fresh = {start_at}
    while fresh:
        reached |= fresh
        fresh = {target for name in fresh for target in targets[name]} - reached
    for name in targets.keys() - reached:
        problems.add(f"States.{name}", "unreachable state")
