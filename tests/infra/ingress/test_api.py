"""The API: what is let in, how much of it, and what is answered to the rest."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from aws_cdk import App, Stack, assertions
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_

from bems.tracker.cells import Cell
from bems.tracker.contract import STAGES, Stage
from bems.tracker.schemas import DRAFT_04, gateway_models
from infra.common.names import Names
from infra.ingress import api
from tests.infra.template import Template


def methods(cell: Template) -> dict[str, dict[str, Any]]:
    return {
        path.removeprefix("Api/Api/Default/").removesuffix("/POST"): method
        for path, method in cell.by_type("AWS::ApiGateway::Method").items()
    }


def test_four_resources_and_their_batches_and_nothing_else(cell: Template) -> None:
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


def test_models_are_the_contracts(cell: Template) -> None:
    expected = gateway_models()
    found = {model["Name"]: model for model in cell.by_type("AWS::ApiGateway::Model").values()}
    assert {name: model["Schema"] for name, model in found.items()} == expected
    assert {model["ContentType"] for model in found.values()} == {"application/json"}


def test_the_stage_is_logged_traced_and_throttled(cell: Template) -> None:
    stage = cell.at("Api/Stage")
    (every,) = stage["MethodSettings"]
    assert every["HttpMethod"] == every["ResourcePath"].strip("/") == "*"
    assert every["LoggingLevel"] == "ERROR"
    assert every["DataTraceEnabled"] is False
    assert every["MetricsEnabled"] is False
    assert (every["ThrottlingRateLimit"], every["ThrottlingBurstLimit"]) == (1000, 2000)
    assert stage["TracingEnabled"] is True
    assert stage["AccessLogSetting"]["DestinationArn"] == "<Api/AccessLog>"
    fields = json.loads(stage["AccessLogSetting"]["Format"])
    # Neither the key nor the body; the id of the key tells who it was.
    assert not any("apiKey" in one and "apiKeyId" not in one for one in fields.values())
    for path, name in (("Api/AccessLog", f"/bems/{cell.cell}/api-access"), ("Api/ExecutionLog", None)):
        log = cell.at(path)
        assert log["RetentionInDays"] == (90 if cell.cell == "eu-west" else 30)
        assert log["LogGroupName"] == (name or "API-Gateway-Execution-Logs_<Api/Api>/v1")


def test_keys_have_the_limits_of_the_cell(cell: Template) -> None:
    plan = cell.only("AWS::ApiGateway::UsagePlan")
    assert plan["Throttle"] == {"BurstLimit": 2000, "RateLimit": 1000}
    (only,) = plan["ApiStages"]
    assert only["Stage"] == "<Api/Stage>"
    assert only["Throttle"] == {
        f"/invoices/{path}/POST": {"BurstLimit": 1000, "RateLimit": 500}
        for stage in STAGES
        for path in (stage, f"{stage}/batch")
    }
    key = cell.only("AWS::ApiGateway::UsagePlanKey")
    assert (key["KeyId"], key["UsagePlanId"]) == ("<Api/FirstKey>", "<Api/Senders>")
    # Its value is made by AWS, and in no template.
    assert "Value" not in cell.only("AWS::ApiGateway::ApiKey")


ANSWERS = {
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


def test_what_the_gateway_answers_is_problem_json(cell: Template) -> None:
    found = {one["ResponseType"]: one for one in cell.by_type("AWS::ApiGateway::GatewayResponse").values()}
    assert set(found) == set(ANSWERS)
    for kind, (status, retry) in ANSWERS.items():
        answer = found[kind]
        headers = answer["ResponseParameters"]
        assert answer.get("StatusCode") == status
        assert headers["gatewayresponse.header.Content-Type"] == "'application/problem+json'"
        assert headers["gatewayresponse.header.Cache-Control"] == "'no-store'"
        assert headers.get("gatewayresponse.header.Retry-After") == retry
        (template,) = answer["ResponseTemplates"].values()
        # As API Gateway fills it in: the message comes with its quotes.
        body = json.loads(template.replace("$context.error.messageString", '"it\'s \\"wrong\\""'))
        assert body["type"] == "about:blank"
        assert str(body.get("status")) == str(status)
        assert body["title"]
        assert body["detail"]
        assert "$" not in json.dumps(body)


def test_the_firewall_counts_what_batches_look_like(cell: Template) -> None:
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


def test_the_firewalls_log_has_no_keys(cell: Template) -> None:
    logging = cell.only("AWS::WAFv2::LoggingConfiguration")
    assert [one["SingleHeader"]["Name"] for one in logging["RedactedFields"]] == ["x-api-key", "authorization"]
    (kept,) = logging["LoggingFilter"]["Filters"]
    assert (logging["LoggingFilter"]["DefaultBehavior"], kept["Behavior"]) == ("DROP", "KEEP")
    assert kept["Conditions"] == [{"ActionCondition": {"Action": "BLOCK"}}]
    assert cell.at("Firewall/Log")["LogGroupName"] == f"aws-waf-logs-{cell.name}"


@pytest.mark.parametrize("stage", STAGES)
def test_the_producers_resources_are_those_it_knows(cell: Template, stage: Stage) -> None:
    parts = {path: one["PathPart"] for path, one in cell.by_type("AWS::ApiGateway::Resource").items()}
    assert parts[f"Api/Api/Default/invoices/{stage}"] == stage
    assert parts[f"Api/Api/Default/invoices/{stage}/batch"] == "batch"


def test_the_stage_shows_all_of_the_api(cell: Template) -> None:
    """A deployment is a picture of what is there when it is taken."""
    deployment = cell.raw["Resources"][cell.resource_at("Api/Stage")["Properties"]["DeploymentId"]["Ref"]]
    before = {cell.paths[id] for id in deployment["DependsOn"]}
    for kind in ("GatewayResponse", "Method", "Model", "RequestValidator", "Resource", "RestApi"):
        parts = set(cell.by_type(f"AWS::ApiGateway::{kind}"))
        assert parts
        assert parts <= before


def test_another_api_is_another_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudFormation takes another picture only where its id is another one."""
    first = deployment_id()
    assert first == deployment_id()
    # A method that calls something else.
    assert first != deployment_id(alias="live")
    monkeypatch.setattr(api, "add_gateway_responses", lambda _: None)
    without_answers = deployment_id()
    assert without_answers != first
    monkeypatch.setattr(api, "gateway_models", lambda: {**gateway_models(), "PostingEvent": {"$schema": DRAFT_04}})
    assert deployment_id() not in (first, without_answers)


def deployment_id(alias: str | None = None) -> str:
    """The id of the deployment in a stack that has nothing but an API, of a function or an alias of it."""
    stack = Stack(App(), "Plain")
    function = lambda_.Function(
        stack,
        "Producer",
        runtime=lambda_.Runtime.PYTHON_3_13,
        handler="producer.handler",
        code=lambda_.Code.from_inline("def handler(event, context): pass"),
    )
    cell = Cell(name="plain", region="eu-west-1")
    producer: Any = SimpleNamespace(target=function.add_alias(alias) if alias else function)
    api.Api(stack, "Api", Names(cell.name, fifo=True), cell, kms.Key(stack, "Key"), producer)
    (id,) = assertions.Template.from_stack(stack).find_resources("AWS::ApiGateway::Deployment")
    return str(id)


def test_nothing_is_taken_in_before_its_way_is_there(cell: Template) -> None:
    before = {cell.paths[id] for id in cell.resource_at("Api/Stage")["DependsOn"]}
    ways = [
        *cell.by_type("AWS::EventsV2::Subscriber"),
        *cell.by_type("AWS::Events::Rule"),
        *cell.by_type("AWS::SNS::Subscription"),
    ]
    own = {path for path in ways if path.startswith(("Bus/", "Intake/"))}
    assert len(own) >= 8
    assert own <= before
