"""Topic of each stage, to which other teams may subscribe, and queue of the stage's processor.

The queue's subscription has no filter. The bus delivers only the stage's events to the topic, so a filter could only
lose events, and SNS bills filters on message bodies by size. Subscriptions of other teams have filters
(`infra.messaging.subscribers`).
"""

from collections.abc import Mapping

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from bems.tracker.contract import STAGES, Stage
from infra.common.iam import allow_service, arn
from infra.common.names import Names
from infra.common.removal import RETAIN_ON_UPDATE_OR_DELETE

MAX_RETENTION = Duration.days(14)
"""Maximum retention period of SQS."""

MAX_RECEIVE_COUNT = 10
"""Maximum number of attempts before a message becomes a dead letter. They span half an hour, because the processor
doubles the delay between attempts from 5 seconds up to 15 minutes."""

PROCESSOR_SECONDS = 60
"""Timeout of a processor function."""

VISIBILITY_SECONDS = 6 * PROCESSOR_SECONDS
"""Visibility timeout of a stage's queue: six times the function's timeout, as the Lambda developer guide recommends
("Using Lambda with Amazon SQS")."""


def encrypted_queue(
    scope: Construct,
    id: str,
    name: str,
    key: kms.IKey,
    *,
    visibility: Duration | None = None,
    dead_letters: sqs.IQueue | None = None,
    redrive_allow: sqs.RedriveAllowPolicy | None = None,
    removal: RemovalPolicy = RETAIN_ON_UPDATE_OR_DELETE,
) -> sqs.Queue:
    """Create an encrypted queue that requires TLS and keeps messages for SQS's maximum retention period.

    A queue whose name ends in `.fifo` is a FIFO queue in high-throughput mode.
    """
    fifo = name.endswith(".fifo")
    return sqs.Queue(
        scope,
        id,
        queue_name=name,
        fifo=True if fifo else None,
        deduplication_scope=sqs.DeduplicationScope.MESSAGE_GROUP if fifo else None,
        fifo_throughput_limit=sqs.FifoThroughputLimit.PER_MESSAGE_GROUP_ID if fifo else None,
        # Senders set the deduplication id. A hash of the content would include the envelope, which differs between
        # duplicates.
        content_based_deduplication=False if fifo else None,
        encryption=sqs.QueueEncryption.KMS,
        encryption_master_key=key,
        enforce_ssl=True,
        retention_period=MAX_RETENTION,
        visibility_timeout=visibility,
        dead_letter_queue=None
        if dead_letters is None
        else sqs.DeadLetterQueue(queue=dead_letters, max_receive_count=MAX_RECEIVE_COUNT),
        redrive_allow_policy=redrive_allow,
        removal_policy=removal,
    )


DENY_REDRIVE = sqs.RedriveAllowPolicy(redrive_permission=sqs.RedrivePermission.DENY_ALL)
"""For dead-letter queues that AWS services send to directly: no queue may use them as its dead-letter queue."""


class StageIntake(Construct):
    """Topic, queue and dead-letter queue of one stage."""

    def __init__(
        self, scope: Construct, id: str, names: Names, stage: Stage, key: kms.IKey, removal: RemovalPolicy
    ) -> None:
        super().__init__(scope, id)
        self.topic = sns.Topic(
            self,
            "Topic",
            topic_name=names.stage(stage),
            fifo=True if names.fifo else None,
            fifo_throughput_scope=sns.FifoThroughputScope.MESSAGE_GROUP if names.fifo else None,
            content_based_deduplication=False if names.fifo else None,
            master_key=key,
            enforce_ssl=True,
        )
        queue_name = names.stage(stage)
        self.dead_letters = encrypted_queue(
            self,
            "DeadLetters",
            names.dead_letters(stage),
            key,
            removal=removal,
            redrive_allow=sqs.RedriveAllowPolicy(
                redrive_permission=sqs.RedrivePermission.BY_QUEUE,
                source_queues=[sqs.Queue.from_queue_arn(self, "Source", arn(self, "sqs", queue_name))],
            ),
        )
        self.queue = encrypted_queue(
            self,
            "Queue",
            queue_name,
            key,
            removal=removal,
            visibility=Duration.seconds(VISIBILITY_SECONDS),
            dead_letters=self.dead_letters,
        )
        for queue in (self.queue, self.dead_letters):
            queue.add_to_resource_policy(allow_topic(queue, self.topic.topic_arn))
        # CDK's L2 subscription would add the topic to the policy of the key that encrypts the topic: a circular
        # reference.
        sns.CfnSubscription(
            self,
            "Subscription",
            topic_arn=self.topic.topic_arn,
            protocol="sqs",
            endpoint=self.queue.queue_arn,
            raw_message_delivery=True,
            # For messages that SNS cannot deliver within its 23 days of retries. The queue's own dead letters have the
            # same format.
            redrive_policy={"deadLetterTargetArn": self.dead_letters.queue_arn},
        )


class StageQueues(Construct):
    """The topics and queues of every stage, and the cell's undelivered queue."""

    def __init__(self, scope: Construct, id: str, names: Names, key: kms.IKey, removal: RemovalPolicy) -> None:
        super().__init__(scope, id)
        self.stages: Mapping[Stage, StageIntake] = {
            stage: StageIntake(self, stage.capitalize(), names, stage, key, removal) for stage in STAGES
        }
        self.undelivered = encrypted_queue(
            self, "Undelivered", names.undelivered, key, redrive_allow=DENY_REDRIVE, removal=removal
        )


def allow_topic(queue: sqs.IQueue, topic_arn: str | list[str]) -> iam.PolicyStatement:
    """Return the statement of a queue's policy that allows one or more topics to send to it."""
    condition = {"ArnEquals": {"aws:SourceArn": topic_arn}}
    return allow_service("sns.amazonaws.com", ["sqs:SendMessage"], condition, "TopicSends", [queue.queue_arn])
