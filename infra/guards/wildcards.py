"""Wildcards that a cell's policies may contain, with the reason for each. `infra.guards.rules` rejects all others."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from infra.common.iam import LOG_DELIVERY, TRACE, WRITE_OBJECTS, WRITE_TABLE


class Wildcard(NamedTuple):
    """Actions that a policy may allow on resources that match a regular expression, and why.

    Actions themselves never contain a wildcard.
    """

    actions: frozenset[str]
    resource: str
    reason: str


_ANYTHING = r"\*"

WILDCARDS: tuple[Wildcard, ...] = (
    Wildcard(
        frozenset(TRACE),
        _ANYTHING,
        "X-Ray's actions on traces support no resource-level permissions (service authorization reference)",
    ),
    Wildcard(
        frozenset(LOG_DELIVERY),
        _ANYTHING,
        "Step Functions sets up its log delivery by them; they support no resource-level permissions (developer guide)",
    ),
    Wildcard(
        frozenset(("dynamodb:ListStreams",)),
        _ANYTHING,
        "Lambda's event source mapping for streams needs it, and it supports no resource-level permissions",
    ),
    Wildcard(
        frozenset(("timestream:DescribeEndpoints", "timestream:ListDatabases")),
        _ANYTHING,
        "Timestream clients look up their endpoint by them; they support no resource-level permissions "
        "(service authorization reference)",
    ),
    Wildcard(
        frozenset(("states:DescribeExecution",)),
        r"arn:aws:states:[^:*]+:[^:*]+:execution:bems-[a-z0-9-]+-invoice-lifecycle:\*",
        "an execution gets its name when it starts: all executions of the cell's own state machine",
    ),
    Wildcard(
        frozenset(WRITE_TABLE),
        r"arn:aws:s3tables:[^:*]+:[^:*]+:bucket/bems-[a-z0-9-]+-series/table/\*",
        "a table's ARN ends in an id that S3 generates: all tables in the cell's own table bucket, which has one",
    ),
    Wildcard(
        frozenset(WRITE_OBJECTS),
        r"\$\{[^}]+\}/\*",
        "Firehose chooses the keys of the objects that it writes: all objects in the cell's own error bucket",
    ),
    Wildcard(
        frozenset(("dynamodb:DeleteBackup", "dynamodb:DescribeBackup")),
        r"\$\{[^}]+\}/backup/\*",
        "DynamoDB names a backup when it is created: all backups of the cell's own table",
    ),
    Wildcard(
        frozenset(("backup:TagResource",)),
        r"arn:aws:backup:[^:*]+:[^:*]+:recovery-point:\*",
        "AWS Backup names a recovery point when it creates it, and copies its source's tags to it",
    ),
)


def wildcard_violation(actions: Sequence[str], resource: str) -> str | None:
    """Return why a policy may not allow these actions on a resource because of a wildcard; None if it may.

    `resource` is text, with `${...}` for references that only CloudFormation can resolve.
    """
    wildcard_actions = [action for action in actions if "*" in action]
    if wildcard_actions:
        return f"allows {', '.join(wildcard_actions)}: name the actions"
    if "*" in resource:
        unlisted = set(actions).difference(*(wildcard.actions for wildcard in _matching(resource)))
        if unlisted:
            names = ", ".join(sorted(unlisted))
            return f"allows {names} on {resource}: name the resource, or add a reason to infra/guards/wildcards.py"
    return None


def wildcard_reason(actions: Sequence[str], resource: str) -> str | None:
    """Return why a policy may allow these actions on a resource with a wildcard.

    None when the resource has no wildcard, or when the policy may not allow them.
    """
    if "*" not in resource or wildcard_violation(actions, resource) is not None:
        return None
    return "; ".join(wildcard.reason for wildcard in _matching(resource) if wildcard.actions.intersection(actions))


def _matching(resource: str) -> list[Wildcard]:
    return [wildcard for wildcard in WILDCARDS if re.fullmatch(wildcard.resource, resource)]
