"""Tests of TeamQueue, a queue with a filtered subscription in another team's stack."""

import json

import pytest
from aws_cdk import App, Stack
from aws_cdk.assertions import Template

from infra.guards.rule_aspect import add_rules
from infra.messaging.subscribers import TeamQueue

pytestmark = pytest.mark.xdist_group("cdk")

TOPIC = "arn:aws:sns:eu-west-1:123456789012:bems-eu-west-posting"
FILTER = {"detail": {"event": {"currency": ["EUR"], "status": ["posted"]}}}


def team_stack() -> Stack:
    app = App(analytics_reporting=False)
    add_rules(app)
    return Stack(app, "Treasury")


def test_a_queue_is_subscribed_with_its_filter_and_loses_nothing() -> None:
    stack = team_stack()
    TeamQueue(stack, "Postings", name="postings", topic_arn=TOPIC, filter=FILTER)
    template = Template.from_stack(stack)
    (subscription,) = template.find_resources("AWS::SNS::Subscription").values()
    properties = subscription["Properties"]
    assert properties["TopicArn"] == TOPIC
    assert properties["FilterPolicy"] == FILTER
    assert properties["FilterPolicyScope"] == "MessageBody"
    assert properties["RawMessageDelivery"] is True
    assert "Postings" in json.dumps(properties["RedrivePolicy"])
    for policy in template.find_resources("AWS::SQS::QueuePolicy").values():
        statements = policy["Properties"]["PolicyDocument"]["Statement"]
        allowed = [statement for statement in statements if statement["Effect"] == "Allow"]
        assert [(statement["Action"], statement["Condition"]) for statement in allowed] == [
            ("sqs:SendMessage", {"ArnEquals": {"aws:SourceArn": TOPIC}})
        ]
    (key,) = template.find_resources("AWS::KMS::Key").values()
    # The key is retained like the queues, so that their messages stay readable.
    for queue in template.find_resources("AWS::SQS::Queue").values():
        assert queue["DeletionPolicy"] == key["DeletionPolicy"] == "RetainExceptOnCreate"
    (grant,) = key["Properties"]["KeyPolicy"]["Statement"][1:]
    assert grant["Principal"] == {"Service": "sns.amazonaws.com"}
    assert grant["Condition"] == {"ArnEquals": {"aws:SourceArn": TOPIC}}


def test_without_subscribe_the_queue_provides_the_subscription_attributes() -> None:
    stack = team_stack()
    team = TeamQueue(stack, "Postings", name="postings.fifo", topic_arn=f"{TOPIC}.fifo", filter=FILTER, subscribe=False)
    Template.from_stack(stack).resource_count_is("AWS::SNS::Subscription", 0)
    assert json.loads(team.attributes["FilterPolicy"]) == FILTER
    assert team.attributes["FilterPolicyScope"] == "MessageBody"


def test_a_fifo_queue_with_a_standard_topic_is_rejected() -> None:
    with pytest.raises(ValueError, match="cannot feed a FIFO queue"):
        TeamQueue(team_stack(), "Postings", name="postings.fifo", topic_arn=TOPIC, filter=FILTER)
