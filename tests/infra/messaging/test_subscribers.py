"""Another team's half of a subscription: a queue with a filter, in a stack of its own."""

import json

import pytest
from aws_cdk import App, Stack
from aws_cdk.assertions import Template

from infra.guards.rule_aspect import add_rules
from infra.messaging.subscribers import TeamQueue

pytestmark = pytest.mark.xdist_group("cdk")

TOPIC = "arn:aws:sns:eu-west-1:123456789012:bems-eu-west-posting"
FILTER = {"detail": {"event": {"currency": ["EUR"], "status": ["posted"]}}}


def stack() -> Stack:
    app = App(analytics_reporting=False)
    add_rules(app)
    return Stack(app, "Treasury")


def test_a_queue_is_subscribed_with_its_filter_and_loses_nothing() -> None:
    made = stack()
    TeamQueue(made, "Postings", name="postings", topic_arn=TOPIC, filter=FILTER)
    template = Template.from_stack(made)
    (subscription,) = template.find_resources("AWS::SNS::Subscription").values()
    properties = subscription["Properties"]
    assert properties["TopicArn"] == TOPIC
    assert properties["FilterPolicy"] == FILTER
    assert properties["FilterPolicyScope"] == "MessageBody"
    assert properties["RawMessageDelivery"] is True
    assert "Postings" in json.dumps(properties["RedrivePolicy"])
    for policy in template.find_resources("AWS::SQS::QueuePolicy").values():
        allowed = [one for one in policy["Properties"]["PolicyDocument"]["Statement"] if one["Effect"] == "Allow"]
        assert [(one["Action"], one["Condition"]) for one in allowed] == [
            ("sqs:SendMessage", {"ArnEquals": {"aws:SourceArn": TOPIC}})
        ]
    (key,) = template.find_resources("AWS::KMS::Key").values()
    # What is in the queues can be read for as long as they are there.
    for queue in template.find_resources("AWS::SQS::Queue").values():
        assert queue["DeletionPolicy"] == key["DeletionPolicy"] == "RetainExceptOnCreate"
    (grant,) = key["Properties"]["KeyPolicy"]["Statement"][1:]
    assert grant["Principal"] == {"Service": "sns.amazonaws.com"}
    assert grant["Condition"] == {"ArnEquals": {"aws:SourceArn": TOPIC}}


def test_in_another_account_the_team_subscribes_by_the_role() -> None:
    made = stack()
    team = TeamQueue(made, "Postings", name="postings.fifo", topic_arn=f"{TOPIC}.fifo", filter=FILTER, subscribe=False)
    Template.from_stack(made).resource_count_is("AWS::SNS::Subscription", 0)
    assert json.loads(team.attributes["FilterPolicy"]) == FILTER
    assert team.attributes["FilterPolicyScope"] == "MessageBody"


def test_a_standard_topic_fills_no_fifo_queue() -> None:
    with pytest.raises(ValueError, match="cannot feed a FIFO queue"):
        TeamQueue(stack(), "Postings", name="postings.fifo", topic_arn=TOPIC, filter=FILTER)
