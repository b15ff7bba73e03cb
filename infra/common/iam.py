"""Policies: statements and roles, written out. CDK's grants give more than is needed (`kms:ReEncrypt*`, whole
tables)."""

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Aws, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
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


def allow(
    actions: Sequence[str], resources: Sequence[str], conditions: Mapping[str, Any] | None = None
) -> iam.PolicyStatement:
    """A statement for a role."""
    return iam.PolicyStatement(actions=list(actions), resources=list(resources), conditions=conditions)


def allow_service(
    service: str,
    actions: Sequence[str],
    conditions: Mapping[str, Any] | None = None,
    sid: str | None = None,
) -> iam.PolicyStatement:
    """A statement of a key's policy for an AWS service: `*` is the key itself."""
    return iam.PolicyStatement(
        sid=sid,
        principals=[iam.ServicePrincipal(service)],
        actions=list(actions),
        resources=["*"],
        conditions=conditions,
    )


def use_key(key: kms.IKey, actions: Sequence[str], through: str | None = None) -> iam.PolicyStatement:
    """Use of a key; `through` names the service (such as `dynamodb`) through which alone it may be used."""
    via = None if through is None else {"StringEquals": {"kms:ViaService": f"{through}.{Aws.REGION}.{Aws.URL_SUFFIX}"}}
    return allow(actions, [key.key_arn], via)


def own_account() -> dict[str, str]:
    """The condition that keeps a service from acting for somebody else (the confused deputy)."""
    return {"aws:SourceAccount": Aws.ACCOUNT_ID}


def service_role(
    scope: Construct,
    service: str,
    description: str,
    statements: Sequence[iam.PolicyStatement] = (),
    conditions: Mapping[str, Any] | None = None,
) -> iam.Role:
    """A role for one service and one purpose. The policy is inline: the role is whole as soon as it exists."""
    return iam.Role(
        scope,
        "Role",
        assumed_by=iam.ServicePrincipal(service, conditions=conditions),
        description=description,
        inline_policies={"Own": iam.PolicyDocument(statements=list(statements))} if statements else None,
    )


def arn(scope: Construct, service: str, resource: str) -> str:
    """The ARN of something in the cell's account and Region, such as `("states", "stateMachine:name")`."""
    stack = Stack.of(scope)
    return f"arn:{stack.partition}:{service}:{stack.region}:{Aws.ACCOUNT_ID}:{resource}"
