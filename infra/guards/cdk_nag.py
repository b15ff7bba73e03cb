"""Findings: what cdk-nag's AwsSolutions pack and CDK's own rules say of the stacks, and why some of it stands.

Whatever is not acknowledged here fails the synthesis. Wildcards in roles have their reasons in `wildcards`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from aws_cdk import Acknowledgment, App, Stack, Validations
from cdk_nag import AwsSolutionsChecks

from infra.guards.resources import Resource, as_list, stack_resources, to_text
from infra.guards.rules import ROLE, statements
from infra.guards.wildcards import wildcard_reason


class Suppression(NamedTuple):
    """A rule that is not followed by resources of a type, under a part of the stack, and why."""

    rule: str
    type: str
    path_prefix: str
    reason: str


SUPPRESSIONS: tuple[Suppression, ...] = (
    Suppression(
        "AwsSolutions-APIG4",
        "AWS::ApiGateway::Method",
        "Api/",
        "Senders are systems, authorized by an API key of the usage plan, as the contract says, behind a firewall",
    ),
    Suppression(
        "AwsSolutions-COG4",
        "AWS::ApiGateway::Method",
        "Api/",
        "Senders are systems with API keys: there are no people to sign in with Cognito",
    ),
    Suppression(
        "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs]",
        ROLE,
        "Api/LoggingRole",
        "The account's one role for API Gateway's logs: AWS asks for this policy, which knows no API (developer guide)",
    ),
    Suppression(
        "AwsSolutions-L1",
        "AWS::Lambda::Function",
        "Functions/",
        "Python 3.13 is what the functions' dependencies are locked for; it is supported until 2029",
    ),
    Suppression(
        "AwsSolutions-S1",
        "AWS::S3::Bucket",
        "Series/Errors",
        "Firehose alone writes here, what it could not deliver, for 90 days; an access log would outlive it",
    ),
    Suppression(
        "AwsSolutions-SF1",
        "AWS::StepFunctions::StateMachine",
        "Lifecycle/",
        "Logs errors only: every transition is in the time series, and the rest costs more than it tells",
    ),
    Suppression(
        "AwsSolutions-SQS3",
        "AWS::SQS::Queue",
        "Intake/Undelivered",
        "It is a dead-letter queue: of rules, subscribers and the sweeper",
    ),
    Suppression(
        "AwsSolutions-SQS3",
        "AWS::SQS::Queue",
        "Unrecorded",
        "It is a dead-letter queue: of the recorder and its stream mapping",
    ),
    Suppression(
        "CloudFormation-Validate::W3697",
        "AWS::Timestream::Database",
        "Series/",
        "Chosen by the cell's setting, for accounts that have access; `s3tables` is the default",
    ),
    Suppression(
        "CloudFormation-Validate::W3697",
        "AWS::Timestream::Table",
        "Series/",
        "Chosen by the cell's setting, for accounts that have access; `s3tables` is the default",
    ),
)


def add_cdk_nag(app: App) -> None:
    """Have the app's stacks checked when it is synthesized, but for what is acknowledged."""
    Validations.of(app).add_plugins(AwsSolutionsChecks())
    for stack in app.node.children:
        if isinstance(stack, Stack):
            acknowledge(stack)


def acknowledge(stack: Stack) -> None:
    """Acknowledge on each resource what stands there, and nothing on the stack as a whole."""
    constructs = {node.node.path: node for node in stack.node.find_all()}
    for resource in stack_resources(stack):
        for rule, why in _acknowledged(resource.path.removeprefix(f"{stack.node.path}/"), resource):
            Validations.of(constructs[resource.path]).acknowledge(Acknowledgment(id=rule, reason=why))


def _acknowledged(within: str, resource: Resource) -> Iterator[tuple[str, str]]:
    for one in SUPPRESSIONS:
        if one.type == resource.type and within.startswith(one.path_prefix):
            yield one.rule, one.reason
    for statement in statements(resource):
        for allowed in as_list(statement.get("resource")):
            why = wildcard_reason([str(action) for action in as_list(statement.get("action"))], to_text(allowed))
            if why is not None:
                yield f"AwsSolutions-IAM5[Resource::{_nag_text(allowed)}]", why


def _nag_text(value: Any) -> str:
    """cdk-nag's own text for what only CloudFormation knows: `<AWS::AccountId>`, `<LogicalId.Arn>`."""
    if isinstance(value, Mapping):
        if "fn::join" in value:
            separator, parts = value["fn::join"]
            return str(separator).join(_nag_text(part) for part in parts)
        if "fn::getatt" in value:
            return f"<{'.'.join(value['fn::getatt'])}>"
        return f"<{value['ref']}>"
    return str(value)
