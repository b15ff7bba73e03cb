"""Subscriptions of other teams to a cell's topics, from the cell's account or their own.

Each subscriber in `cells.yaml` gets a role in the cell's account. The team assumes it with the agreed external id. The
role can only subscribe the team's own queues and functions to the cell's topics, with any filter. `TeamQueue` is the
counterpart for the team's own stack: a queue that a topic of the cell may send to.
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
from infra.common.iam import DATA_KEYS, allow, allow_service
from infra.common.names import Names
from infra.common.removal import RETAIN_ON_UPDATE_OR_DELETE
from infra.messaging.stage_queues import StageQueues, allow_topic, encrypted_queue


class SubscriberRole(Construct):
    """Role that one team assumes to subscribe to topics of the cell."""

    def __init__(
        self, scope: Construct, id: str, names: Names, subscriber: Subscriber, stage_queues: StageQueues
    ) -> None:
        super().__init__(scope, id)
        account = subscriber.account or Aws.ACCOUNT_ID
        topics = [stage_queues.stages[stage].topic.topic_arn for stage in subscriber.stages]
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
                            # Only the team's own resources, and only the protocols that SNS retries for weeks.
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
                        # A subscription across accounts is pending until the team confirms it with the token that SNS
                        # sends.
                        allow(["sns:ConfirmSubscription", "sns:ListSubscriptionsByTopic"], topics),
                    ]
                )
            },
        )
        CfnOutput(self, "RoleArn", description=f"Role that {subscriber.name} assumes to subscribe", value=role.role_arn)


class TeamQueue(Construct):
    """Queue of a team, with its own dead-letter queue and key, that a stage's topic may send to.

    With `subscribe`, for a topic in the same account, the construct also creates the subscription with its filter. In
    another account CloudFormation cannot create it, because CloudFormation does not assume the subscriber's role: the
    team subscribes the queue with `attributes`, and confirms with the token that arrives in the queue.

    `filter` is matched against the message body, for example `{"detail": {"event": {"currency": ["EUR"]}}}` (SNS
    developer guide, "Amazon SNS message filtering"). A FIFO topic can send to FIFO and standard queues, a standard
    topic only to standard queues: with a FIFO queue it raises ValueError.
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
        # Retained like the queues, because their messages cannot be read without it.
        self.key = kms.Key(self, "Key", enable_key_rotation=True, removal_policy=RETAIN_ON_UPDATE_OR_DELETE)
        self.key.add_to_resource_policy(
            allow_service(
                "sns.amazonaws.com",
                DATA_KEYS,
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


def add_subscribers(
    scope: Construct, names: Names, subscribers: Sequence[Subscriber], stage_queues: StageQueues
) -> None:
    """Add a role for each subscriber of a cell."""
    for subscriber in subscribers:
        SubscriberRole(scope, f"Subscriber-{subscriber.name}", names, subscriber, stage_queues)
