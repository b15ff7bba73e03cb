"""Wildcards: every `*` that a policy of the cell may have, and why. A guard refuses all others."""

import re
from collections.abc import Sequence
from typing import NamedTuple


class Wildcard(NamedTuple):
    """Actions that may be allowed on resources that match a pattern. No action has a wildcard itself."""

    actions: frozenset[str]
    resource: str
    reason: str


_ANYTHING = r"\*"

WILDCARDS: tuple[Wildcard, ...] = (
    Wildcard(
        frozenset(
            (
                "xray:GetSamplingRules",
                "xray:GetSamplingTargets",
                "xray:PutTelemetryRecords",
                "xray:PutTraceSegments",
            )
        ),
        _ANYTHING,
        "X-Ray's actions on traces know no resource (service authorization reference)",
    ),
    Wildcard(
        frozenset(
            (
                "logs:CreateLogDelivery",
                "logs:DeleteLogDelivery",
                "logs:DescribeLogGroups",
                "logs:DescribeResourcePolicies",
                "logs:GetLogDelivery",
                "logs:ListLogDeliveries",
                "logs:PutResourcePolicy",
                "logs:UpdateLogDelivery",
            )
        ),
        _ANYTHING,
        "Step Functions sets up its log delivery by them, and they know no resource (Step Functions developer guide)",
    ),
    Wildcard(
        frozenset(("dynamodb:ListStreams",)),
        _ANYTHING,
        "Lambda's stream mapping asks for it, and it knows no resource",
    ),
    Wildcard(
        frozenset(("timestream:DescribeEndpoints", "timestream:ListDatabases")),
        _ANYTHING,
        "Timestream is asked by them where to write, and they know no resource (service authorization reference)",
    ),
    Wildcard(
        frozenset(("states:DescribeExecution",)),
        r"arn:aws:states:[^:*]+:[^:*]+:execution:bems-[a-z0-9-]+-invoice-lifecycle:\*",
        "an execution is named when it starts: all those of the cell's own state machine",
    ),
    Wildcard(
        frozenset(
            (
                "s3tables:GetTable",
                "s3tables:GetTableData",
                "s3tables:GetTableMetadataLocation",
                "s3tables:PutTableData",
                "s3tables:UpdateTableMetadataLocation",
            )
        ),
        r"arn:aws:s3tables:[^:*]+:[^:*]+:bucket/bems-[a-z0-9-]+-series/table/\*",
        "a table's ARN ends in an id that S3 gives it: all those in the cell's own table bucket, which is one",
    ),
    Wildcard(
        frozenset(("s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject")),
        r"\$\{[^}]+\}/\*",
        "Firehose names the objects of what it could not write: all those in the cell's own bucket of errors",
    ),
    Wildcard(
        frozenset(("dynamodb:DeleteBackup", "dynamodb:DescribeBackup")),
        r"\$\{[^}]+\}/backup/\*",
        "DynamoDB names a backup when it is made: all those of the cell's own table",
    ),
    Wildcard(
        frozenset(("backup:TagResource",)),
        r"arn:aws:backup:[^:*]+:[^:*]+:recovery-point:\*",
        "AWS Backup names a recovery point when it makes it, and gives it its source's tags",
    ),
)


def wildcard_violation(actions: Sequence[str], resource: str) -> str | None:
    """Why these actions may not be allowed on a resource that has a wildcard, or None where they may.

    `resource` is text: `${...}` stands for what only CloudFormation knows.
    """
    wild = [action for action in actions if "*" in action]
    if wild:
        return f"allows {', '.join(wild)}: name the actions"
    if "*" in resource:
        left = set(actions).difference(*(wildcard.actions for wildcard in _matching(resource)))
        if left:
            allowed = ", ".join(sorted(left))
            return f"allows {allowed} on {resource}: name the resource, or give a reason in infra/guards/wildcards.py"
    return None


def wildcard_reason(actions: Sequence[str], resource: str) -> str | None:
    """Why these actions may be allowed on a resource that has a wildcard; None where it has none, or may not."""
    if "*" not in resource or wildcard_violation(actions, resource) is not None:
        return None
    return "; ".join(wildcard.reason for wildcard in _matching(resource) if wildcard.actions.intersection(actions))


def _matching(resource: str) -> list[Wildcard]:
    return [wildcard for wildcard in WILDCARDS if re.fullmatch(wildcard.resource, resource)]
