"""Construct for one Lambda function with its own least-privilege role and log group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from bems.tracker.cells import CellConfig
from infra.common.iam import allow, service_role
from infra.common.log_groups import log_group
from infra.common.names import Names

MEMORY_MB = 512
"""Memory of a function. Lambda allocates CPU in proportion to memory: 1,769 MB get one vCPU."""


@dataclass(frozen=True)
class FunctionDefaults:
    """Settings that all functions of a cell share."""

    cell: CellConfig
    names: Names
    code: lambda_.Code
    log_key: kms.IKey


class Function(Construct):
    """One Lambda function on Python 3.13 and arm64, with its role and log group.

    Callers invoke `target`: the alias `live` of a function that has `keep_warm`, otherwise the function itself. The
    alias exists even when the cell keeps no instances warm, because running executions and the API's deployment keep
    the ARN with which they were created.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        defaults: FunctionDefaults,
        *,
        handler: str,
        description: str,
        environment: dict[str, str],
        statements: Sequence[iam.PolicyStatement],
        timeout: Duration,
        reserved: int,
        keep_warm: bool = False,
        memory: int = MEMORY_MB,
        **more: Any,
    ) -> None:
        super().__init__(scope, id)
        cell = defaults.cell
        name = defaults.names.function(id)
        group = log_group(self, "Log", f"/aws/lambda/{name}", defaults.log_key, cell)
        tracing = [allow(["xray:PutTraceSegments", "xray:PutTelemetryRecords"], ["*"])] if cell.tracing else []
        role = service_role(
            self,
            "lambda.amazonaws.com",
            description,
            [
                allow(["logs:CreateLogStream", "logs:PutLogEvents"], [group.log_group_arn]),
                *tracing,
                *statements,
            ],
        )
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=name,
            description=description,
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            code=defaults.code,
            handler=f"handlers.{handler}.handler",
            role=role.without_policy_updates(),
            timeout=timeout,
            memory_size=memory,
            reserved_concurrent_executions=reserved if cell.concurrency.reserved else None,
            log_group=group,
            tracing=lambda_.Tracing.ACTIVE if cell.tracing else lambda_.Tracing.DISABLED,
            environment={
                "BEMS_CELL": cell.name,
                "POWERTOOLS_SERVICE_NAME": handler,
                "POWERTOOLS_LOG_LEVEL": "INFO",
                "POWERTOOLS_TRACE_DISABLED": "false" if cell.tracing else "true",
                **environment,
            },
            **more,
        )
        self.target: lambda_.IFunction = self.function
        if keep_warm:
            self.target = lambda_.Alias(
                self,
                "Live",
                alias_name="live",
                version=self.function.current_version,
                provisioned_concurrent_executions=cell.concurrency.provisioned or None,
            )
