"""Checks by cdk-nag's AwsSolutions pack and CDK's own rules, with the findings that are acknowledged and why.

A finding that is not acknowledged here fails the synthesis. The reasons for wildcards in roles are in
`infra.guards.wildcards`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from aws_cdk import Acknowledgment, App, Stack, Validations
from cdk_nag import AwsSolutionsChecks

from infra.guards.resources import TemplateResource, as_list, stack_resources, to_text
from infra.guards.rules import ROLE, statements
from infra.guards.wildcards import wildcard_reason


class Suppression(NamedTuple):
    """A rule that is suppressed for resources of a type under a path in the stack, and the reason."""

    rule: str
    type: str
    path_prefix: str
    reason: str


SUPPRESSIONS: tuple[Suppression, ...] = (
    Suppression(
        "AwsSolutions-APIG4",
        "AWS::ApiGateway::Method",
        "Api/",
        "Senders are systems; an API key of the usage plan authorizes them, as the contract says, behind a firewall",
    ),
    Suppression(
        "AwsSolutions-COG4",
        "AWS::ApiGateway::Method",
        "Api/",
        "Senders are systems with API keys: no people sign in, so Cognito does not apply",
    ),
    Suppression(
        "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs]",
        ROLE,
        "Api/LoggingRole",
        "The account's one role for API Gateway's logs: AWS requires this policy, which names no API (developer guide)",
    ),
    Suppression(
        "AwsSolutions-L1",
        "AWS::Lambda::Function",
        "Functions/",
        "The functions' dependencies are locked for Python 3.13, which is supported until 2029",
    ),
    Suppression(
        "AwsSolutions-S1",
        "AWS::S3::Bucket",
        "Series/Errors",
        "Only Firehose writes to this bucket, and objects expire after 90 days; an access log would outlive them",
    ),
    Suppression(
        "AwsSolutions-SF1",
        "AWS::StepFunctions::StateMachine",
        "Lifecycle/",
        "Logs errors only: every transition is in the time series, so a full log would cost more than it is worth",
    ),
    Suppression(
        "AwsSolutions-SF2",
        "AWS::StepFunctions::StateMachine",
        "Lifecycle/",
        "The cell's setting `tracing` turns X-Ray off; it is on by default",
    ),
    Suppression(
        "AwsSolutions-SQS3",
        "AWS::SQS::Queue",
        "Intake/Undelivered",
        "It is itself the dead-letter queue of rules, subscribers and the sweeper",
    ),
    Suppression(
        "AwsSolutions-SQS3",
        "AWS::SQS::Queue",
        "Unrecorded",
        "It is itself the dead-letter queue of the recorder and its stream mapping",
    ),
    Suppression(
        "CloudFormation-Validate::W3697",
        "AWS::Timestream::Database",
        "Series/",
        "Selected by the cell's setting, for accounts that have access; `s3tables` is the default",
    ),
    Suppression(
        "CloudFormation-Validate::W3697",
        "AWS::Timestream::Table",
        "Series/",
        "Selected by the cell's setting, for accounts that have access; `s3tables` is the default",
    ),
)


def add_cdk_nag(app: App) -> None:
    """Check the app's stacks at synthesis, except for the acknowledged findings."""
    Validations.of(app).add_plugins(AwsSolutionsChecks())
    for stack in app.node.children:
        if isinstance(stack, Stack):
            suppress_findings(stack)


def suppress_findings(stack: Stack) -> None:
    """Acknowledge findings on the individual resources that have them, never on the whole stack."""
    constructs = {node.node.path: node for node in stack.node.find_all()}
    for resource in stack_resources(stack):
        for rule, reason in _acknowledged(resource.path.removeprefix(f"{stack.node.path}/"), resource):
            Validations.of(constructs[resource.path]).acknowledge(Acknowledgment(id=rule, reason=reason))


def _acknowledged(path: str, resource: TemplateResource) -> Iterator[tuple[str, str]]:
    """Yield the rules that are acknowledged for a resource, with the reason; `path` is relative to the stack."""
    for suppression in SUPPRESSIONS:
        if suppression.type == resource.type and path.startswith(suppression.path_prefix):
            yield suppression.rule, suppression.reason
    for statement in statements(resource):
        for allowed in as_list(statement.get("resource")):
            reason = wildcard_reason([str(action) for action in as_list(statement.get("action"))], to_text(allowed))
            if reason is not None:
                yield f"AwsSolutions-IAM5[Resource::{_nag_text(allowed)}]", reason


def _nag_text(value: Any) -> str:
    """Return a value as cdk-nag writes it, with `<AWS::AccountId>` or `<LogicalId.Arn>` for references."""
    if isinstance(value, Mapping):
        if "fn::join" in value:
            separator, parts = value["fn::join"]
            return str(separator).join(_nag_text(part) for part in parts)
        if "fn::getatt" in value:
            return f"<{'.'.join(value['fn::getatt'])}>"
        return f"<{value['ref']}>"
    return str(value)
