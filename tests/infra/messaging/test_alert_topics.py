"""Alerts: who hears of them, for how long it is tried, and where what nobody heard is kept."""

from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_kms as kms
from aws_cdk.assertions import Template as Assertions

from bems.tracker.cells import Alerts as Setting
from bems.tracker.cells import Cell, Destination, Email, Webhook
from infra.common.names import Names
from infra.messaging.alert_topics import AlertTopics
from infra.messaging.stage_queues import DENY_REDRIVE, encrypted_queue
from tests.infra.access import verdict
from tests.infra.template import Template

pytestmark = pytest.mark.xdist_group("cdk")

MOST_RETRY_SECONDS = 3600
"""SNS developer guide, "Message delivery retries": a hard limit of an HTTPS subscription."""

WAYS = (
    Destination(webhook=Webhook(url="https://example.com/hooks/one")),
    Destination(email=Email(to=("a@example.com", "b@example.com"))),
    Destination(webhook=Webhook(url_env="BEMS_CHAT_URL")),
    Destination(webhook=Webhook(url="https://example.com/hooks/two")),
)


def webhooks(cell: Template) -> list[dict[str, Any]]:
    return [one for one in cell.by_type("AWS::SNS::Subscription").values() if one["Protocol"] == "https"]


def subscriptions(*destinations: Destination) -> dict[str, tuple[str, str]]:
    """Protocol and endpoint by logical id, in a cell that tells these of what is critical."""
    stack = Stack(App(analytics_reporting=False), "Plain")
    key = kms.Key(stack, "Key")
    cell = Cell(name="plain", region="eu-west-1", alerts=Setting(critical=destinations))
    undelivered = encrypted_queue(stack, "Undelivered", "undelivered", key, redrive_allow=DENY_REDRIVE)
    AlertTopics(stack, "Alerts", Names(cell.name, fifo=True), cell, key, undelivered)
    found = Assertions.from_stack(stack).find_resources("AWS::SNS::Subscription")
    return {id: (one["Properties"]["Protocol"], str(one["Properties"]["Endpoint"])) for id, one in found.items()}


def test_a_webhook_is_tried_for_as_long_as_sns_allows_and_no_longer(cell: Template) -> None:
    (webhook,) = webhooks(cell)
    policy = webhook["DeliveryPolicy"]["healthyRetryPolicy"]
    late = policy["numRetries"] - policy["numNoDelayRetries"] - policy["numMinDelayRetries"]
    # As if each pause but the first ones were the longest: it holds for every curve in between.
    most = policy["numMinDelayRetries"] * policy["minDelayTarget"] + late * policy["maxDelayTarget"]
    assert MOST_RETRY_SECONDS / 2 < most <= MOST_RETRY_SECONDS
    assert late >= policy["numMaxDelayRetries"]


def test_what_a_webhook_did_not_take_is_kept(cell: Template) -> None:
    (webhook,) = webhooks(cell)
    assert webhook["RedrivePolicy"] == {"deadLetterTargetArn": "<Intake/Undelivered>"}
    policy = cell.at("Intake/Undelivered/Policy")["PolicyDocument"]
    sids = [one["Sid"] for one in policy["Statement"] if "Sid" in one]
    assert len(sids) == len(set(sids))
    for severity in ("Warning", "Critical"):
        sent = {"aws:SourceArn": f"<Alerts/{severity}>", "aws:SecureTransport": "true"}
        # ARNs have six parts, a path here has one.
        real = {name: arn(value) for name, value in sent.items()}
        allowed = verdict(with_arns(policy), "sqs:SendMessage", arn("<Intake/Undelivered>"), "sns.amazonaws.com", real)
        assert allowed == "allowed"


def test_who_is_told_is_told_whatever_the_order_of_the_list() -> None:
    first = subscriptions(*WAYS)
    assert len(first) == 5
    assert subscriptions(*reversed(WAYS)) == first
    # And without one of them, the others are who they were.
    assert subscriptions(*WAYS[1:]).items() <= first.items()


def test_who_is_listed_twice_is_told_once() -> None:
    assert subscriptions(*WAYS, *WAYS) == subscriptions(*WAYS)


def arn(value: str) -> str:
    return f"arn:aws:any:eu-west-1:123456789012:{value}" if value.startswith("<") else value


def with_arns(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: with_arns(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_arns(inner) for inner in value]
    return arn(value)
