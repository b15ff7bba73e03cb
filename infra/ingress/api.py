"""REST API to which source systems send events: one resource for each stage and one for its batches.

The producer handles every request.
"""

import json

from aws_cdk import CfnResource, RemovalPolicy, Stack
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from bems.tracker.cells import CellConfig, Rate
from bems.tracker.contract import STAGES, Stage
from bems.tracker.schemas import DRAFT_04, Schema, batch_name, event_name, gateway_models
from infra.common.log_groups import log_group
from infra.common.names import Names
from infra.compute.functions import Function
from infra.ingress.gateway_responses import add_gateway_responses

API_STAGE = "v1"

_JSON = "application/json"

_ACCESS = {
    "request_id": apigateway.AccessLogField.context_request_id(),
    "time": apigateway.AccessLogField.context_request_time_epoch(),
    "method": apigateway.AccessLogField.context_http_method(),
    "path": apigateway.AccessLogField.context_resource_path(),
    "status": apigateway.AccessLogField.context_status(),
    "bytes": apigateway.AccessLogField.context_response_length(),
    "latency_ms": apigateway.AccessLogField.context_response_latency(),
    "producer_ms": apigateway.AccessLogField.context_integration_latency(),
    "key_id": apigateway.AccessLogField.context_identity_api_key_id(),
    "source": apigateway.AccessLogField.context_identity_source_ip(),
    "error": apigateway.AccessLogField.context_error_response_type(),
    "trace": apigateway.AccessLogField.context_xray_trace_id(),
}
"""Fields of an access-log entry. They identify caller and outcome, and never contain the API key or the body."""


class CellApi(Construct):
    """Regional REST API with one API Gateway stage, a usage plan and a first API key."""

    def __init__(
        self, scope: Construct, id: str, names: Names, cell: CellConfig, log_key: kms.IKey, producer: Function
    ) -> None:
        super().__init__(scope, id)
        self.access_log = log_group(self, "AccessLog", f"/bems/{cell.name}/api-access", log_key, cell)
        self.api = apigateway.RestApi(
            self,
            "Api",
            rest_api_name=names.prefix,
            description=f"Invoice events of the cell {cell.name}",
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            cloud_watch_role=False,
            deploy=False,
            api_key_source_type=apigateway.ApiKeySourceType.HEADER,
        )
        models = {name: self._model(name, schema) for name, schema in sorted(gateway_models().items())}
        validator = self.api.add_request_validator(
            "Bodies", validate_request_body=True, validate_request_parameters=True
        )
        integration = apigateway.LambdaIntegration(producer.target, proxy=True, allow_test_invoke=False)
        self.methods: dict[Stage, tuple[apigateway.Method, apigateway.Method]] = {}
        invoices = self.api.root.add_resource("invoices")
        for stage in STAGES:
            single = invoices.add_resource(stage)
            batch = single.add_resource("batch")
            event_method, batch_method = (
                resource.add_method(
                    "POST",
                    integration,
                    api_key_required=True,
                    request_models={_JSON: models[name]},
                    request_validator=validator,
                )
                for resource, name in ((single, event_name(stage)), (batch, batch_name(stage)))
            )
            self.methods[stage] = event_method, batch_method
        add_gateway_responses(self.api)
        self.stage = self._deploy(cell, log_key)
        self.key = self._plan(names, cell)

    @property
    def url(self) -> str:
        return self.stage.url_for_path("/")

    def _model(self, name: str, schema: Schema) -> apigateway.Model:
        # CDK's JsonSchema adds a `$schema` and does not support every keyword, so the L1 resource gets the
        # schema as it is.
        model = apigateway.Model(
            self.api,
            name,
            rest_api=self.api,
            model_name=name,
            content_type=_JSON,
            schema=apigateway.JsonSchema(type=apigateway.JsonSchemaType.OBJECT),
        )
        resource = model.node.default_child
        assert isinstance(resource, apigateway.CfnModel)
        assert schema["$schema"] == DRAFT_04
        resource.schema = schema
        return model

    def _deploy(self, cell: CellConfig, log_key: kms.IKey) -> apigateway.Stage:
        account = self._logging_account()
        # If this group does not exist, API Gateway creates it at the first error, without a key or a retention period.
        execution_log = log_group(
            self, "ExecutionLog", f"API-Gateway-Execution-Logs_{self.api.rest_api_id}/{API_STAGE}", log_key, cell
        )
        stage = apigateway.Stage(
            self,
            "Stage",
            stage_name=API_STAGE,
            deployment=self._deployment(),
            access_log_destination=apigateway.LogGroupLogDestination(self.access_log),
            access_log_format=apigateway.AccessLogFormat.custom(json.dumps(_ACCESS)),
            logging_level=apigateway.MethodLoggingLevel.ERROR,
            data_trace_enabled=False,
            # By method, where each is billed as a custom metric. API Gateway publishes the stage's metrics anyway.
            metrics_enabled=False,
            tracing_enabled=cell.tracing,
            # Limit of each method for all keys together: the total limit of one key.
            throttling_rate_limit=cell.limits.key.requests_per_second,
            throttling_burst_limit=cell.limits.key.burst,
        )
        stage.node.add_dependency(account)
        stage.node.add_dependency(execution_log)
        self.api.deployment_stage = stage
        return stage

    def _deployment(self) -> apigateway.Deployment:
        """Create the API's deployment, an immutable snapshot that the API stage serves.

        Its logical id is derived from the properties of every part of the API, so that any change, such as a method's
        integration, creates a new deployment. It depends on every part, so that the snapshot is complete.
        """
        deployment = apigateway.Deployment(self, "Deployment", api=self.api)
        parts = [
            part
            for part in self.api.node.find_all()
            if isinstance(part, CfnResource) and part.cfn_resource_type.startswith("AWS::ApiGateway::")
        ]
        properties = [Stack.of(self).resolve(part._cfn_properties) for part in parts]
        deployment.add_to_logical_id(json.dumps(properties, sort_keys=True))
        for part in parts:
            deployment.node.add_dependency(part)
        return deployment

    def _logging_account(self) -> apigateway.CfnAccount:
        """Set the role with which API Gateway writes logs, one for each account and Region.

        Every cell sets it to a role with the same permissions, so the last deployment wins. It is retained when the
        stack is deleted, because other APIs may need it.
        """
        role = iam.Role(
            self,
            "LoggingRole",
            assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"),
            description="API Gateway writes the logs of the account's APIs",
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonAPIGatewayPushToCloudWatchLogs")
            ],
        )
        account = apigateway.CfnAccount(self, "Account", cloud_watch_role_arn=role.role_arn)
        role.apply_removal_policy(RemovalPolicy.RETAIN)
        account.apply_removal_policy(RemovalPolicy.RETAIN)
        return account

    def _plan(self, names: Names, cell: CellConfig) -> apigateway.IApiKey:
        plan = apigateway.UsagePlan(
            self,
            "Senders",
            name=f"{names.prefix}-senders",
            description="Rate limits of one API key: for each stage and in total",
            throttle=_throttle(cell.limits.key),
            api_stages=[
                apigateway.UsagePlanPerApiStage(
                    api=self.api,
                    stage=self.stage,
                    throttle=[
                        apigateway.ThrottlingPerMethod(
                            method=method, throttle=_throttle(getattr(cell.limits.stages, stage))
                        )
                        for stage, methods in self.methods.items()
                        for method in methods
                    ],
                )
            ],
        )
        key = apigateway.ApiKey(
            self,
            "FirstKey",
            api_key_name=f"{names.prefix}-first",
            description="API key of the first sender; AWS generates its value",
        )
        plan.add_api_key(key)
        return key


def _throttle(rate: Rate) -> apigateway.ThrottleSettings:
    return apigateway.ThrottleSettings(rate_limit=rate.requests_per_second, burst_limit=rate.burst)
