"""Refusals: what no stack of ours may have, although CloudFormation would take it, and often AWS too."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from infra.guards.alarm_rules import check_alarms
from infra.guards.resources import Resource, as_list, logical_id_of, references, to_text
from infra.guards.wildcards import wildcard_violation


class Violation(NamedTuple):
    """Where, and what is wrong with it and would be right."""

    path: str
    detail: str


QUEUE, TOPIC, ROLE = "AWS::SQS::Queue", "AWS::SNS::Topic", "AWS::IAM::Role"

KEY_PROPERTIES: Mapping[str, tuple[str, ...]] = {
    QUEUE: ("kmsmasterkeyid",),
    TOPIC: ("kmsmasterkeyid",),
    "AWS::DynamoDB::Table": ("ssespecification", "kmsmasterkeyid"),
    "AWS::Logs::LogGroup": ("kmskeyid",),
    "AWS::Events::EventBus": ("kmskeyidentifier",),
    "AWS::Events::Archive": ("kmskeyidentifier",),
    "AWS::EventsV2::EventBus": ("encryptionconfiguration", "kmskeyidentifier"),
    "AWS::Timestream::Database": ("kmskeyid",),
    "AWS::S3Tables::TableBucket": ("encryptionconfiguration", "kmskeyarn"),
    "AWS::KinesisFirehose::DeliveryStream": ("deliverystreamencryptionconfigurationinput", "keyarn"),
    "AWS::Backup::BackupVault": ("encryptionkeyarn",),
}
"""By type, where the key is."""

_BUCKET_KEY = ("bucketencryption", "serversideencryptionconfiguration")


def check_rules(resources: Sequence[Resource]) -> list[Violation]:
    """Everything that is refused, in the order of the resources' paths."""
    return sorted({refusal for rule in RULES for refusal in rule(resources)})


def _by_id(resources: Sequence[Resource]) -> Mapping[str, Resource]:
    return {resource.id: resource for resource in resources}


def _wiring(resources: Sequence[Resource]) -> Iterator[Violation]:
    """AWS refuses these at deployment, or drops every event; CDK synthesizes them."""
    known = _by_id(resources)
    for resource in resources:
        properties = resource.properties
        if resource.type == "AWS::Events::Rule":
            for target in as_list(properties.get("targets")):
                if _is_fifo(target.get("arn"), TOPIC, known):
                    yield Violation(
                        resource.path, "a rule of a classic bus cannot publish to a FIFO topic: use a custom bus"
                    )
        if resource.type == "AWS::SNS::Subscription" and _is_fifo(properties.get("endpoint"), QUEUE, known):
            topic = properties.get("topicarn")
            if not _is_fifo(topic, TOPIC, known):
                yield Violation(
                    resource.path, "a standard topic cannot feed a FIFO queue: use a FIFO topic or a standard queue"
                )
        if resource.type == "AWS::EventsV2::Subscriber":
            invoked = properties.get("invokeconfiguration", {})
            given = invoked.get("snsparameters", {})
            if _is_fifo(invoked.get("targetarn"), TOPIC, known):
                for parameter in ("messagegroupid", "messagededuplicationid"):
                    if not str(given.get(parameter, "")).startswith("{%"):
                        yield Violation(
                            resource.path, f"a FIFO topic needs a {parameter} of each event: give an expression"
                        )


def _dead_letters(resources: Sequence[Resource]) -> Iterator[Violation]:
    aside = set(_dead_letter_queues(resources))
    consumed = {
        logical_id_of(resource.properties.get("eventsourcearn"))
        for resource in resources
        if resource.type == "AWS::Lambda::EventSourceMapping"
    }
    for resource in resources:
        if resource.type == QUEUE and (resource.id not in aside or resource.id in consumed):
            target = logical_id_of(
                as_list(resource.properties.get("redrivepolicy") or [{}])[0].get("deadlettertargetarn")
            )
            if target is None:
                yield Violation(resource.path, "a queue without a dead-letter queue: give it one")
        if resource.type == "AWS::EventsV2::Subscriber" and "arn" not in resource.properties.get(
            "onfailureconfiguration", {}
        ):
            yield Violation(
                resource.path, "a subscriber that drops what it cannot deliver: give it an OnFailureConfiguration"
            )


def _dead_letter_queues(resources: Sequence[Resource]) -> Iterator[str]:
    """The queues of what was set aside: those that something names as such."""
    for resource in resources:
        for name in ("redrivepolicy", "deadletterconfig", "onfailureconfiguration", "destinationconfig"):
            yield from references(resource.properties.get(name))
        for target in as_list(resource.properties.get("targets")):
            yield from references(target.get("deadletterconfig") if isinstance(target, Mapping) else None)


def _keys(resources: Sequence[Resource]) -> Iterator[Violation]:
    for resource in resources:
        if resource.type in KEY_PROPERTIES:
            value: Any = resource.properties
            for name in KEY_PROPERTIES[resource.type]:
                value = value.get(name) if isinstance(value, Mapping) else None
        elif resource.type == "AWS::S3::Bucket":
            rules = as_list(resource.properties.get(_BUCKET_KEY[0], {}).get(_BUCKET_KEY[1])) or [{}]
            value = rules[0].get("serversideencryptionbydefault", {}).get("kmsmasterkeyid")
        else:
            continue
        if value is None or "alias/aws/" in to_text(value):
            yield Violation(
                resource.path, f"{resource.type} without a key of the cell's own: give it one of infra/common/keys.py"
            )


def _timeouts(resources: Sequence[Resource]) -> Iterator[Violation]:
    for resource in resources:
        if resource.type == "AWS::StepFunctions::StateMachine":
            definition = json.loads(to_text(resource.properties.get("definitionstring", "{}")))
            for name in _tasks_without_timeout(definition):
                yield Violation(
                    resource.path, f"{name} may wait for ever: give it TimeoutSeconds or TimeoutSecondsPath"
                )


def _tasks_without_timeout(machine: Mapping[str, Any]) -> Iterator[str]:
    """The tasks without a timeout, also inside Map and Parallel."""
    for name, state in machine.get("States", {}).items():
        if state["Type"] == "Task" and not {"TimeoutSeconds", "TimeoutSecondsPath"} & set(state):
            yield name
        inner = [*state.get("Branches", ()), state.get("ItemProcessor", {}), state.get("Iterator", {})]
        for one in inner:
            yield from _tasks_without_timeout(one)


def _permissions(resources: Sequence[Resource]) -> Iterator[Violation]:
    for resource in resources:
        for statement in statements(resource):
            if statement.get("effect") != "Allow":
                continue
            if "notaction" in statement or "notresource" in statement:
                yield Violation(resource.path, "allows everything but something: name what it allows")
            actions = [str(action) for action in as_list(statement.get("action"))]
            for one in as_list(statement.get("resource")):
                detail = wildcard_violation(actions, to_text(one))
                if detail is not None:
                    yield Violation(resource.path, detail)
    for resource in resources:
        # Policies of resources name their principals; what is open to all must at least have a condition.
        document = resource.properties.get("policydocument") or resource.properties.get("keypolicy")
        for statement in as_list((document or {}).get("statement")):
            everybody = statement.get("principal") in ("*", {"aws": "*"})
            if statement.get("effect") == "Allow" and everybody and not statement.get("condition"):
                yield Violation(resource.path, "allows everybody: name the principals, or give a condition")


def statements(resource: Resource) -> Iterator[Mapping[str, Any]]:
    """The statements of a role or policy."""
    properties = resource.properties
    if resource.type == ROLE:
        for policy in as_list(properties.get("policies")):
            yield from as_list(policy["policydocument"].get("statement"))
    if resource.type in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
        yield from as_list(properties["policydocument"].get("statement"))


def _roles(resources: Sequence[Resource]) -> Iterator[Violation]:
    """A role that two share can do for one what only the other needs."""
    known = _by_id(resources)
    users: defaultdict[str, set[str]] = defaultdict(set)
    for resource in resources:
        if resource.type.startswith("AWS::IAM::"):
            continue
        for target in set(_roles_of(resource.properties)):
            if known.get(target) is not None and known[target].type == ROLE:
                users[target].add(resource.path)
    for id, paths in users.items():
        if len(paths) > 1:
            yield Violation(known[id].path, f"a role that is shared by {', '.join(sorted(paths))}: give each its own")


def _roles_of(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            target = logical_id_of(inner)
            if target is not None and (name == "role" or name.endswith(("rolearn", "role_arn"))):
                yield target
            yield from _roles_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _roles_of(inner)


def _alarms(resources: Sequence[Resource]) -> Iterator[Violation]:
    for path, detail in check_alarms(resources):
        yield Violation(path, detail)


_Rule = Callable[[Sequence[Resource]], Iterator[Violation]]

RULES: tuple[_Rule, ...] = (_wiring, _dead_letters, _keys, _timeouts, _permissions, _roles, _alarms)


def _is_fifo(value: Any, type: str, known: Mapping[str, Resource]) -> bool:
    """Whether a topic or queue is FIFO: by its properties where it is in the stack, by its ARN where it is not."""
    target = known.get(logical_id_of(value) or "")
    if target is None:
        service = "sns" if type == TOPIC else "sqs"
        return f":{service}:" in to_text(value) and to_text(value).endswith(".fifo")
    return target.type == type and target.properties.get("fifotopic" if type == TOPIC else "fifoqueue") in (
        True,
        "true",
    )
