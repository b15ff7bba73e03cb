"""Tests of the API: resources, models, limits, gateway responses and firewall."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from aws_cdk import App, Stack, assertions
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_

from bems.tracker.cells import CellConfig
from bems.tracker.contract import STAGES, Stage
from bems.tracker.schemas import DRAFT_04, gateway_models
from infra.common.names import Names
from infra.ingress import api
from tests.infra.template import Template


def methods(cell: Template) -> dict[str, dict[str, Any]]:
    """Return the properties of each POST method, by path of its resource."""
    return {
        path.removeprefix("Api/Api/Default/").removesuffix("/POST"): method
        for path, method in cell.by_type("AWS::ApiGateway::Method").items()
    }


def test_the_api_has_four_event_resources_and_their_batch_resources(cell: Template) -> None:
    found = methods(cell)
    assert set(found) == {path for stage in STAGES for path in (f"invoices/{stage}", f"invoices/{stage}/batch")}
    for path, method in found.items():
        assert method["HttpMethod"] == "POST"
        assert method["ApiKeyRequired"] is True
        assert method["Integration"]["Type"] == "AWS_PROXY"
        assert "<Functions/Producer/" in str(method["Integration"]["Uri"])
        stage, batch = path.split("/")[1], path.endswith("/batch")
        name = f"{stage.capitalize()}{'Batch' if batch else 'Event'}"
        assert method["RequestModels"] == {"application/json": f"<Api/Api/{name}>"}
    validators = {method["RequestValidatorId"] for method in found.values()}
    assert len(validators) == 1
    assert cell.only("AWS::ApiGateway::RequestValidator")["ValidateRequestBody"] is True


def test_models_are_the_schemas_of_the_contract(cell: Template) -> None:
    expected = gateway_models()
    found = {model["Name"]: model for model in cell.by_type("AWS::ApiGateway::Model").values()}
    assert {name: model["Schema"] for name, model in found.items()} == expected
    assert {model["ContentType"] for model in found.values()} == {"application/json"}


def test_the_api_stage_is_logged_traced_and_throttled(cell: Template) -> None:
    stage = cell.at("Api/Stage")
    (settings,) = stage["MethodSettings"]
    assert settings["HttpMethod"] == settings["ResourcePath"].strip("/") == "*"
    assert settings["LoggingLevel"] == "ERROR"
    assert settings["DataTraceEnabled"] is False
    assert settings["MetricsEnabled"] is False
    assert (settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]) == (1000, 2000)
    assert stage["TracingEnabled"] is True
    assert stage["AccessLogSetting"]["DestinationArn"] == "<Api/AccessLog>"
    fields = json.loads(stage["AccessLogSetting"]["Format"])
    # The id of the API key identifies the caller; the log contains neither the key nor the body.
    assert not any("apiKey" in field and "apiKeyId" not in field for field in fields.values())
    for path, name in (("Api/AccessLog", f"/bems/{cell.cell}/api-access"), ("Api/ExecutionLog", None)):
        log = cell.at(path)
        assert log["RetentionInDays"] == (90 if cell.cell == "eu-west" else 30)
        assert log["LogGroupName"] == (name or "API-Gateway-Execution-Logs_<Api/Api>/v1")


def test_api_keys_have_the_limits_of_the_cell(cell: Template) -> None:
    plan = cell.only("AWS::ApiGateway::UsagePlan")
    assert plan["Throttle"] == {"BurstLimit": 2000, "RateLimit": 1000}
    (stage_limits,) = plan["ApiStages"]
    assert stage_limits["Stage"] == "<Api/Stage>"
    assert stage_limits["Throttle"] == {
        f"/invoices/{path}/POST": {"BurstLimit": 1000, "RateLimit": 500}
        for stage in STAGES
        for path in (stage, f"{stage}/batch")
    }
    key = cell.only("AWS::ApiGateway::UsagePlanKey")
    assert (key["KeyId"], key["UsagePlanId"]) == ("<Api/FirstKey>", "<Api/Senders>")
    # AWS generates its value, which appears in no template.
    assert "Value" not in cell.only("AWS::ApiGateway::ApiKey")


RESPONSES = {
    "BAD_REQUEST_BODY": ("400", None),
    "BAD_REQUEST_PARAMETERS": ("400", None),
    "INVALID_API_KEY": ("403", None),
    "WAF_FILTERED": ("403", None),
    "MISSING_AUTHENTICATION_TOKEN": ("404", None),
    "RESOURCE_NOT_FOUND": ("404", None),
    "REQUEST_TOO_LARGE": ("413", None),
    "UNSUPPORTED_MEDIA_TYPE": ("415", None),
    "THROTTLED": ("429", "'1'"),
    "QUOTA_EXCEEDED": ("429", "'60'"),
    "INTEGRATION_FAILURE": ("503", "'5'"),
    "INTEGRATION_TIMEOUT": ("503", "'5'"),
    "API_CONFIGURATION_ERROR": ("503", "'5'"),
    "DEFAULT_4XX": (None, None),
    "DEFAULT_5XX": ("503", "'5'"),
}


def test_gateway_responses_are_problem_json(cell: Template) -> None:
    responses = {
        response["ResponseType"]: response for response in cell.by_type("AWS::ApiGateway::GatewayResponse").values()
    }
    assert set(responses) == set(RESPONSES)
    for kind, (status, retry) in RESPONSES.items():
        response = responses[kind]
        headers = response["ResponseParameters"]
        assert response.get("StatusCode") == status
        assert headers["gatewayresponse.header.Content-Type"] == "'application/problem+json'"
        assert headers["gatewayresponse.header.Cache-Control"] == "'no-store'"
        assert headers.get("gatewayresponse.header.Retry-After") == retry
        (template,) = response["ResponseTemplates"].values()
        # API Gateway replaces the variable by a message with quotes.
        body = json.loads(template.replace("$context.error.messageString", '"it\'s \\"wrong\\""'))
        assert body["type"] == "about:blank"
        assert str(body.get("status")) == str(status)
        assert body["title"]
        assert body["detail"]
        assert "$" not in json.dumps(body)


def test_the_firewall_only_counts_rules_that_match_batches(cell: Template) -> None:
    acl = cell.only("AWS::WAFv2::WebACL")
    rules = {rule["Name"]: rule for rule in acl["Rules"]}
    assert list(rules) == [
        "AWSManagedRulesCommonRuleSet",
        "AWSManagedRulesKnownBadInputsRuleSet",
        "AWSManagedRulesAmazonIpReputationList",
        "RatePerAddress",
    ]
    common = rules["AWSManagedRulesCommonRuleSet"]["Statement"]["ManagedRuleGroupStatement"]
    assert {one["Name"]: one["ActionToUse"] for one in common["RuleActionOverrides"]} == {
        "SizeRestrictions_BODY": {"Count": {}},
        "CrossSiteScripting_BODY": {"Count": {}},
        "GenericRFI_BODY": {"Count": {}},
        "GenericLFI_BODY": {"Count": {}},
        "EC2MetaDataSSRF_BODY": {"Count": {}},
        "NoUserAgent_HEADER": {"Count": {}},
    }
    for name in list(rules)[1:3]:
        assert "RuleActionOverrides" not in rules[name]["Statement"]["ManagedRuleGroupStatement"]
    for name in list(rules)[:3]:
        assert rules[name]["OverrideAction"] == {"None": {}}
    assert rules["RatePerAddress"]["Action"] == {"Block": {}}
    assert rules["RatePerAddress"]["Statement"]["RateBasedStatement"] == {
        "AggregateKeyType": "IP",
        "EvaluationWindowSec": 300,
        "Limit": 600_000,
    }
    association = cell.only("AWS::WAFv2::WebACLAssociation")
    assert association["WebACLArn"] == "<Firewall/Acl>"
    assert association["ResourceArn"].endswith("/restapis/<Api/Api>/stages/<Api/Stage>")


def test_the_firewalls_log_contains_no_api_keys(cell: Template) -> None:
    logging = cell.only("AWS::WAFv2::LoggingConfiguration")
    assert [one["SingleHeader"]["Name"] for one in logging["RedactedFields"]] == ["x-api-key", "authorization"]
    (kept,) = logging["LoggingFilter"]["Filters"]
    assert (logging["LoggingFilter"]["DefaultBehavior"], kept["Behavior"]) == ("DROP", "KEEP")
    assert kept["Conditions"] == [{"ActionCondition": {"Action": "BLOCK"}}]
    assert cell.at("Firewall/Log")["LogGroupName"] == f"aws-waf-logs-{cell.name}"


@pytest.mark.parametrize("stage", STAGES)
def test_resources_have_the_paths_that_the_producer_handles(cell: Template, stage: Stage) -> None:
    parts = {path: one["PathPart"] for path, one in cell.by_type("AWS::ApiGateway::Resource").items()}
    assert parts[f"Api/Api/Default/invoices/{stage}"] == stage
    assert parts[f"Api/Api/Default/invoices/{stage}/batch"] == "batch"


def test_the_deployment_depends_on_every_part_of_the_api(cell: Template) -> None:
    """A deployment is a snapshot of the parts that exist when it is created."""
    deployment = cell.raw["Resources"][cell.resource_at("Api/Stage")["Properties"]["DeploymentId"]["Ref"]]
    dependencies = {cell.paths[id] for id in deployment["DependsOn"]}
    for kind in ("GatewayResponse", "Method", "Model", "RequestValidator", "Resource", "RestApi"):
        parts = set(cell.by_type(f"AWS::ApiGateway::{kind}"))
        assert parts
        assert parts <= dependencies


def test_a_change_of_the_api_creates_a_new_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudFormation creates a new snapshot only when the deployment's logical id changes."""
    first = deployment_id()
    assert first == deployment_id()
    # A method with another integration.
    assert first != deployment_id(alias="live")
    monkeypatch.setattr(api, "add_gateway_responses", lambda _: None)
    without_responses = deployment_id()
    assert without_responses != first
    monkeypatch.setattr(api, "gateway_models", lambda: {**gateway_models(), "PostingEvent": {"$schema": DRAFT_04}})
    assert deployment_id() not in (first, without_responses)


def deployment_id(alias: str | None = None) -> str:
    """Return the logical id of the deployment of an API that invokes a function or, if given, its alias."""
    stack = Stack(App(), "Plain")
    function = lambda_.Function(
        stack,
        "Producer",
        runtime=lambda_.Runtime.PYTHON_3_13,
        handler="producer.handler",
        code=lambda_.Code.from_inline("def handler(event, context): pass"),
    )
    cell = CellConfig(name="plain", region="eu-west-1")
    producer: Any = SimpleNamespace(target=function.add_alias(alias) if alias else function)
    api.CellApi(stack, "Api", Names(cell.name, fifo=True), cell, kms.Key(stack, "Key"), producer)
    (id,) = assertions.Template.from_stack(stack).find_resources("AWS::ApiGateway::Deployment")
    return str(id)


def test_the_api_goes_live_after_its_bus_and_queues_exist(cell: Template) -> None:
    dependencies = {cell.paths[id] for id in cell.resource_at("Api/Stage")["DependsOn"]}
    deliveries = [
        *cell.by_type("AWS::EventsV2::Subscriber"),
        *cell.by_type("AWS::Events::Rule"),
        *cell.by_type("AWS::SNS::Subscription"),
    ]
    own = {path for path in deliveries if path.startswith(("Bus/", "Intake/"))}
    assert len(own) >= 8
    assert own <= dependencies
