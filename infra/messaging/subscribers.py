"""Subscribers: how another team takes part of the events, in the cell's account or in its own.

Who subscribes says so in `cells.yaml`. The cell makes a role for them, which they assume with the external id that both
sides agreed on, and which may do one thing: subscribe a queue or function of theirs to topics of the cell, with the
filter that they like. `TeamQueue` is the other half, for the team's own stack: a queue that such a topic can fill.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Aws, CfnOutput, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct

from bems.tracker.cells import Subscriber
from infra.common.iam import allow, allow_service
from infra.common.names import Names
from infra.common.removal import RETAIN_ON_UPDATE_OR_DELETE
from infra.messaging.stage_queues import StageQueues, allow_topic, encrypted_queue


class SubscriberRole(Construct):
    """What one team may do, from its account."""

    def __init__(self, scope: Construct, id: str, names: Names, subscriber: Subscriber, intake: StageQueues) -> None:
        super().__init__(scope, id)
        account = subscriber.account or Aws.ACCOUNT_ID
        topics = [intake.stages[stage].topic.topic_arn for stage in subscriber.stages]
        partition = Stack.of(self).partition
        role = iam.Role(
            self,
            "Role",
            role_name=f"{names.prefix}-subscriber-{subscriber.name}",
            description=f"{subscriber.name} subscribes to events of the cell {names.cell}",
            assumed_by=iam.AccountPrincipal(account),
            external_ids=[subscriber.external_id],
            max_session_duration=Duration.hours(1),
            inline_policies={
                "Own": iam.PolicyDocument(
                    statements=[
                        allow(
                            ["sns:Subscribe"],
                            topics,
                            # Only what is theirs, and only what AWS delivers with retries for weeks.
                            {
                                "StringEquals": {"sns:Protocol": ["lambda", "sqs"]},
                                "ArnLike": {
                                    "sns:Endpoint": [
                                        f"arn:{partition}:lambda:*:{account}:function:*",
                                        f"arn:{partition}:sqs:*:{account}:*",
                                    ]
                                },
                            },
                        ),
                        # A subscription across accounts waits until somebody confirms it with the token that it was
                        # sent.
                        allow(["sns:ConfirmSubscription", "sns:ListSubscriptionsByTopic"], topics),
                    ]
                )
            },
        )
        CfnOutput(self, "RoleArn", description=f"{subscriber.name} assumes it to subscribe", value=role.role_arn)


class TeamQueue(Construct):
    """A team's queue, with dead letters and a key of its own, which a stage's topic may fill, through a filter.

    In the topic's account (`subscribed`) it subscribes. In another one CloudFormation cannot, because it does not
    assume the subscriber's role: there the team does, with `attributes`, and confirms with the token that comes in
    the queue. `filter` is matched against the message's body, for example `{"detail": {"event": {"currency":
    ["EUR"]}}}` (SNS developer guide, "Amazon SNS message filtering"). A FIFO topic fills FIFO queues and standard
    ones, a standard topic standard ones only.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        name: str,
        topic_arn: str,
        filter: Mapping[str, Any],
        subscribe: bool = True,
    ) -> None:
        super().__init__(scope, id)
        if name.endswith(".fifo") and not topic_arn.endswith(".fifo"):
            raise ValueError(f"{self.node.path}: {topic_arn} is a standard topic, which cannot feed a FIFO queue")
        base, fifo = name.removesuffix(".fifo"), ".fifo" if name.endswith(".fifo") else ""
        # It stays as the queues do, for without it nobody could read what is in them.
        self.key = kms.Key(self, "Key", enable_key_rotation=True, removal_policy=RETAIN_ON_UPDATE_OR_DELETE)
        self.key.add_to_resource_policy(
            allow_service(
                "sns.amazonaws.com",
                ["kms:Decrypt", "kms:GenerateDataKey"],
                conditions={"ArnEquals": {"aws:SourceArn": topic_arn}},
                sid="TopicToQueues",
            )
        )
        self.dead_letters = encrypted_queue(self, "DeadLetters", f"{base}-dead-letters{fifo}", self.key)
        self.queue = encrypted_queue(self, "Queue", name, self.key, dead_letters=self.dead_letters)
        for queue in (self.queue, self.dead_letters):
            queue.add_to_resource_policy(allow_topic(queue, topic_arn))
        self.attributes = {
            "FilterPolicy": json.dumps(filter),
            "FilterPolicyScope": "MessageBody",
            "RawMessageDelivery": "true",
        }
        if subscribe:
            sns.CfnSubscription(
                self,
                "Subscription",
                topic_arn=topic_arn,
                protocol="sqs",
                endpoint=self.queue.queue_arn,
                raw_message_delivery=True,
                filter_policy=dict(filter),
                filter_policy_scope="MessageBody",
                redrive_policy={"deadLetterTargetArn": self.dead_letters.queue_arn},
            )


def add_subscribers(scope: Construct, names: Names, subscribers: Sequence[Subscriber], intake: StageQueues) -> None:
    """The role of every subscriber of a cell."""
    for one in subscribers:
        SubscriberRole(scope, f"Subscriber-{one.name}", names, one, intake)
