"""Rules that every stack must follow, although CloudFormation, and often AWS too, would accept a violation."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from infra.guards.alarm_rules import check_alarms
from infra.guards.resources import TemplateResource, as_list, logical_id_of, references, to_text
from infra.guards.wildcards import wildcard_violation


class Violation(NamedTuple):
    """A violation at a construct's path: what is wrong, and how to fix it."""

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
"""Path of the property that holds the KMS key, by resource type."""

_BUCKET_KEY = ("bucketencryption", "serversideencryptionconfiguration")


def check_rules(resources: Sequence[TemplateResource]) -> list[Violation]:
    """Return every rule violation, sorted by construct path."""
    return sorted({violation for rule in RULES for violation in rule(resources)})


def _by_id(resources: Sequence[TemplateResource]) -> Mapping[str, TemplateResource]:
    return {resource.id: resource for resource in resources}


def _wiring(resources: Sequence[TemplateResource]) -> Iterator[Violation]:
    """Yield connections that CDK synthesizes, but that AWS rejects at deployment or that drop every event."""
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
            invocation = properties.get("invokeconfiguration", {})
            parameters = invocation.get("snsparameters", {})
            if _is_fifo(invocation.get("targetarn"), TOPIC, known):
                for name in ("messagegroupid", "messagededuplicationid"):
                    if not str(parameters.get(name, "")).startswith("{%"):
                        yield Violation(
                            resource.path, f"a FIFO topic needs the {name} of each event: use a JSONata expression"
                        )


def _dead_letters(resources: Sequence[TemplateResource]) -> Iterator[Violation]:
    """Yield queues and subscribers without a dead-letter queue. A consumed dead-letter queue needs one of its own."""
    dead_letter_queues = set(_dead_letter_queues(resources))
    consumed = {
        logical_id_of(resource.properties.get("eventsourcearn"))
        for resource in resources
        if resource.type == "AWS::Lambda::EventSourceMapping"
    }
    for resource in resources:
        if resource.type == QUEUE and (resource.id not in dead_letter_queues or resource.id in consumed):
            target = logical_id_of(
                as_list(resource.properties.get("redrivepolicy") or [{}])[0].get("deadlettertargetarn")
            )
            if target is None:
                yield Violation(resource.path, "a queue without a dead-letter queue: add one")
        if resource.type == "AWS::EventsV2::Subscriber" and "arn" not in resource.properties.get(
            "onfailureconfiguration", {}
        ):
            yield Violation(
                resource.path, "a subscriber that drops events it cannot deliver: add an OnFailureConfiguration"
            )


def _dead_letter_queues(resources: Sequence[TemplateResource]) -> Iterator[str]:
    """Yield the logical id of each queue that a resource uses as dead-letter queue or failure destination."""
    for resource in resources:
        for name in ("redrivepolicy", "deadletterconfig", "onfailureconfiguration", "destinationconfig"):
            yield from references(resource.properties.get(name))
        for target in as_list(resource.properties.get("targets")):
            yield from references(target.get("deadletterconfig") if isinstance(target, Mapping) else None)


def _keys(resources: Sequence[TemplateResource]) -> Iterator[Violation]:
    """Yield resources that hold data without a customer-managed key."""
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
                resource.path, f"{resource.type} without a customer-managed key: use a key of infra/common/keys.py"
            )


def _timeouts(resources: Sequence[TemplateResource]) -> Iterator[Violation]:
    """Yield state machines with a task that has no timeout."""
    for resource in resources:
        if resource.type == "AWS::StepFunctions::StateMachine":
            definition = json.loads(to_text(resource.properties.get("definitionstring", "{}")))
            for name in _tasks_without_timeout(definition):
                yield Violation(
                    resource.path, f"the task {name} may wait forever: add TimeoutSeconds or TimeoutSecondsPath"
                )


def _tasks_without_timeout(machine: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of tasks without a timeout, including those inside Map and Parallel states."""
    for name, state in machine.get("States", {}).items():
        if state["Type"] == "Task" and not {"TimeoutSeconds", "TimeoutSecondsPath"} & set(state):
            yield name
        nested = [*state.get("Branches", ()), state.get("ItemProcessor", {}), state.get("Iterator", {})]
        for workflow in nested:
            yield from _tasks_without_timeout(workflow)


def _permissions(resources: Sequence[TemplateResource]) -> Iterator[Violation]:
    """Yield roles with a wildcard that has no reason, and resource policies that are open to everybody."""
    for resource in resources:
        for statement in statements(resource):
            if statement.get("effect") != "Allow":
                continue
            if "notaction" in statement or "notresource" in statement:
                yield Violation(
                    resource.path, "allows all but the named actions or resources: name what it allows instead"
                )
            actions = [str(action) for action in as_list(statement.get("action"))]
            for target in as_list(statement.get("resource")):
                detail = wildcard_violation(actions, to_text(target))
                if detail is not None:
                    yield Violation(resource.path, detail)
    for resource in resources:
        # Resource policies name their principals. A statement for everybody must at least have a condition.
        document = resource.properties.get("policydocument") or resource.properties.get("keypolicy")
        for statement in as_list((document or {}).get("statement")):
            everybody = statement.get("principal") in ("*", {"aws": "*"})
            if statement.get("effect") == "Allow" and everybody and not statement.get("condition"):
                yield Violation(resource.path, "allows everybody: name the principals, or add a condition")


def statements(resource: TemplateResource) -> Iterator[Mapping[str, Any]]:
    """Yield the statements of a role's inline policies or of a policy; nothing for other resources."""
    properties = resource.properties
    if resource.type == ROLE:
        for policy in as_list(properties.get("policies")):
            yield from as_list(policy["policydocument"].get("statement"))
    if resource.type in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
        yield from as_list(properties["policydocument"].get("statement"))


def _roles(resources: Sequence[TemplateResource]) -> Iterator[Violation]:
    """Yield roles that two resources share, because each then has the permissions that only the other needs."""
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
            yield Violation(known[id].path, f"a role that is shared by {', '.join(sorted(paths))}: use one for each")


def _roles_of(value: Any) -> Iterator[str]:
    """Yield the logical id of each role that a value refers to."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            target = logical_id_of(inner)
            if target is not None and (name == "role" or name.endswith(("rolearn", "role_arn"))):
                yield target
            yield from _roles_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _roles_of(inner)


def _alarms(resources: Sequence[TemplateResource]) -> Iterator[Violation]:
    for path, detail in check_alarms(resources):
        yield Violation(path, detail)


_Rule = Callable[[Sequence[TemplateResource]], Iterator[Violation]]

RULES: tuple[_Rule, ...] = (_wiring, _dead_letters, _keys, _timeouts, _permissions, _roles, _alarms)


def _is_fifo(value: Any, type: str, known: Mapping[str, TemplateResource]) -> bool:
    """Return whether a topic or queue is FIFO: by its properties if it is in the stack, otherwise by its ARN."""
    target = known.get(logical_id_of(value) or "")
    if target is None:
        service = "sns" if type == TOPIC else "sqs"
        return f":{service}:" in to_text(value) and to_text(value).endswith(".fifo")
    return target.type == type and target.properties.get("fifotopic" if type == TOPIC else "fifoqueue") in (
        True,
        "true",
    )
