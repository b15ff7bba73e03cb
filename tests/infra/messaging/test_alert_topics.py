"""Tests of the severity topics: subscriptions, retries, and messages that a webhook did not accept."""

from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_kms as kms
from aws_cdk.assertions import Template as Assertions

from bems.tracker.cells import AlertsConfig as Setting
from bems.tracker.cells import CellConfig, DestinationConfig, EmailConfig, WebhookConfig
from infra.common.names import Names
from infra.messaging.alert_topics import AlertTopics
from infra.messaging.stage_queues import DENY_REDRIVE, encrypted_queue
from tests.infra.access import verdict
from tests.infra.template import Template

pytestmark = pytest.mark.xdist_group("cdk")

MAX_RETRY_SECONDS = 3600
"""Hard limit of an HTTPS subscription (SNS developer guide, "Message delivery retries")."""

DESTINATIONS = (
    DestinationConfig(webhook=WebhookConfig(url="https://example.com/hooks/one")),
    DestinationConfig(email=EmailConfig(to=("a@example.com", "b@example.com"))),
    DestinationConfig(webhook=WebhookConfig(url_env="BEMS_CHAT_URL")),
    DestinationConfig(webhook=WebhookConfig(url="https://example.com/hooks/two")),
)


def webhooks(cell: Template) -> list[dict[str, Any]]:
    """Return the properties of a cell's webhook subscriptions."""
    subscriptions = cell.by_type("AWS::SNS::Subscription").values()
    return [subscription for subscription in subscriptions if subscription["Protocol"] == "https"]


def subscriptions(*destinations: DestinationConfig) -> dict[str, tuple[str, str]]:
    """Return protocol and endpoint of each subscription by logical id, in a cell with these critical destinations."""
    stack = Stack(App(analytics_reporting=False), "Plain")
    key = kms.Key(stack, "Key")
    cell = CellConfig(name="plain", region="eu-west-1", alerts=Setting(critical=destinations))
    undelivered = encrypted_queue(stack, "Undelivered", "undelivered", key, redrive_allow=DENY_REDRIVE)
    AlertTopics(stack, "Alerts", Names(cell.name, fifo=True), cell, key, undelivered)
    resources = Assertions.from_stack(stack).find_resources("AWS::SNS::Subscription")
    return {
        id: (resource["Properties"]["Protocol"], str(resource["Properties"]["Endpoint"]))
        for id, resource in resources.items()
    }


def test_webhook_retries_stay_within_the_limit_of_sns(cell: Template) -> None:
    (webhook,) = webhooks(cell)
    policy = webhook["DeliveryPolicy"]["healthyRetryPolicy"]
    backoff_retries = policy["numRetries"] - policy["numNoDelayRetries"] - policy["numMinDelayRetries"]
    # An upper bound for every backoff curve: each delay in the backoff phase is the longest.
    total = policy["numMinDelayRetries"] * policy["minDelayTarget"] + backoff_retries * policy["maxDelayTarget"]
    assert MAX_RETRY_SECONDS / 2 < total <= MAX_RETRY_SECONDS
    assert backoff_retries >= policy["numMaxDelayRetries"]


def test_messages_that_a_webhook_does_not_accept_go_to_the_undelivered_queue(cell: Template) -> None:
    (webhook,) = webhooks(cell)
    assert webhook["RedrivePolicy"] == {"deadLetterTargetArn": "<Intake/Undelivered>"}
    policy = cell.at("Intake/Undelivered/Policy")["PolicyDocument"]
    sids = [statement["Sid"] for statement in policy["Statement"] if "Sid" in statement]
    assert len(sids) == len(set(sids))
    for severity in ("Warning", "Critical"):
        context = {"aws:SourceArn": arn(f"<Alerts/{severity}>"), "aws:SecureTransport": "true"}
        queue = arn("<Intake/Undelivered>")
        assert verdict(with_arns(policy), "sqs:SendMessage", queue, "sns.amazonaws.com", context) == "allowed"


def test_the_ids_of_subscriptions_do_not_depend_on_their_order() -> None:
    first = subscriptions(*DESTINATIONS)
    assert len(first) == 5
    assert subscriptions(*reversed(DESTINATIONS)) == first
    # Without one of them, the ids of the others stay the same.
    assert subscriptions(*DESTINATIONS[1:]).items() <= first.items()


def test_a_destination_that_is_listed_twice_is_subscribed_once() -> None:
    assert subscriptions(*DESTINATIONS, *DESTINATIONS) == subscriptions(*DESTINATIONS)


def arn(value: str) -> str:
    """Return an ARN with six parts for a resolved reference `<path>`; any other value as it is."""
    return f"arn:aws:any:eu-west-1:123456789012:{value}" if value.startswith("<") else value


def with_arns(value: Any) -> Any:
    """Return a policy with each resolved reference replaced by an ARN."""
    if isinstance(value, dict):
        return {name: with_arns(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_arns(inner) for inner in value]
    return arn(value)
