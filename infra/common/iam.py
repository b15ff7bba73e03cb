"""IAM statements and roles, written out in full.

CDK's own grants allow more than a cell needs, such as `kms:ReEncrypt*` or every action on a table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Aws, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

ENCRYPT_AND_DECRYPT = (
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)

DATA_KEYS = ("kms:Decrypt", "kms:GenerateDataKey")
"""Actions on a key by which a service encrypts and decrypts what it sends, receives or stores."""

LOG_DELIVERY = (
    "logs:CreateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:DescribeLogGroups",
    "logs:DescribeResourcePolicies",
    "logs:GetLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:UpdateLogDelivery",
)
"""Actions by which Step Functions sets up its log delivery (developer guide, "IAM policies for logging to CloudWatch
Logs")."""

TRACE = (
    "xray:GetSamplingRules",
    "xray:GetSamplingTargets",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
)

WRITE_TABLE = (
    "s3tables:GetTable",
    "s3tables:GetTableData",
    "s3tables:GetTableMetadataLocation",
    "s3tables:PutTableData",
    "s3tables:UpdateTableMetadataLocation",
)

WRITE_OBJECTS = ("s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject")


def allow(
    actions: Sequence[str], resources: Sequence[str], conditions: Mapping[str, Any] | None = None
) -> iam.PolicyStatement:
    """Return a statement for a role's policy."""
    return iam.PolicyStatement(actions=list(actions), resources=list(resources), conditions=conditions)


def allow_service(
    service: str,
    actions: Sequence[str],
    conditions: Mapping[str, Any] | None = None,
    sid: str | None = None,
    resources: Sequence[str] = ("*",),
) -> iam.PolicyStatement:
    """Return a statement for a resource's policy that allows an AWS service.

    In a KMS key's policy, the resource `*` is the key itself.
    """
    return iam.PolicyStatement(
        sid=sid,
        principals=[iam.ServicePrincipal(service)],
        actions=list(actions),
        resources=list(resources),
        conditions=conditions,
    )


def use_key(key: kms.IKey, actions: Sequence[str], through: str | None = None) -> iam.PolicyStatement:
    """Return a statement that allows actions on a key.

    `through` names a service, such as `dynamodb`, through which alone the key may then be used (`kms:ViaService`).
    """
    via = None if through is None else {"StringEquals": {"kms:ViaService": f"{through}.{Aws.REGION}.{Aws.URL_SUFFIX}"}}
    return allow(actions, [key.key_arn], via)


def publish_to(topics: Sequence[sns.ITopic], key: kms.IKey) -> list[iam.PolicyStatement]:
    """Return the statements that allow publishing to topics, which are encrypted with the key."""
    return [allow(["sns:Publish"], [topic.topic_arn for topic in topics]), use_key(key, DATA_KEYS, "sns")]


def send_to(queue: sqs.IQueue, key: kms.IKey) -> list[iam.PolicyStatement]:
    """Return the statements that allow sending to a queue, which is encrypted with the key."""
    return [allow(["sqs:SendMessage"], [queue.queue_arn]), use_key(key, DATA_KEYS, "sqs")]


def own_account() -> dict[str, str]:
    """Return the condition that a service acts for this account, which prevents the confused-deputy problem."""
    return {"aws:SourceAccount": Aws.ACCOUNT_ID}


def service_role(
    scope: Construct,
    service: str,
    description: str,
    statements: Sequence[iam.PolicyStatement] = (),
    conditions: Mapping[str, Any] | None = None,
) -> iam.Role:
    """Create a role for one service and one purpose.

    The policy is inline, so the role has its permissions from the moment it exists.
    """
    return iam.Role(
        scope,
        "Role",
        assumed_by=iam.ServicePrincipal(service, conditions=conditions),
        description=description,
        inline_policies={"Own": iam.PolicyDocument(statements=list(statements))} if statements else None,
    )


def arn(scope: Construct, service: str, resource: str) -> str:
    """Return the ARN of a resource in the cell's account and Region, for example `("states", "stateMachine:name")`."""
    stack = Stack.of(scope)
    return f"arn:{stack.partition}:{service}:{stack.region}:{Aws.ACCOUNT_ID}:{resource}"
