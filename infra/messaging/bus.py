"""EventBridge bus, which delivers each accepted event to its stage's topic.

FIFO cells use a custom bus (`infra.messaging.custom_bus`), all others a classic bus. Each rule or subscriber has a role
of its own that limits the topic and key it may use, because a topic policy cannot reliably distinguish one EventBridge
rule from another. Events that cannot be delivered go to the cell's undelivered queue.
"""

from typing import Literal, Protocol

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from bems.tracker.contract import STAGES, Stage
from bems.tracker.eventbridge_names import detail_type, source
from infra.common.iam import allow, allow_service, arn, own_account, publish_to, service_role
from infra.common.keys import EncryptionKeys
from infra.common.names import Names
from infra.common.profile import Profile
from infra.messaging.stage_queues import StageQueues

ARCHIVE_RETENTION_DAYS = 30
"""How long the bus keeps events for a replay, in case the records, which are the source of truth, are damaged."""

RETRY_HOURS = 24
"""How long a bus retries a delivery: EventBridge's maximum, on both kinds of bus."""

MAX_RETRIES = 185
"""Maximum number of retries of a delivery: EventBridge's maximum, on both kinds of bus."""


class Bus(Protocol):
    """A bus that the producer can publish to."""

    @property
    def kind(self) -> Literal["classic", "custom"]: ...

    @property
    def name(self) -> str:
        """Name of a classic bus, ARN of a custom bus."""
        ...

    def publish_statements(self) -> list[iam.PolicyStatement]:
        """Return the permissions that the producer needs to publish events."""
        ...


class ClassicBus(Construct):
    """Classic event bus with a rule for each stage, and an archive."""

    kind: Literal["classic", "custom"] = "classic"

    def __init__(
        self, scope: Construct, id: str, names: Names, keys: EncryptionKeys, stage_queues: StageQueues, profile: Profile
    ) -> None:
        super().__init__(scope, id)
        self.name = names.prefix
        keys.grant_classic_bus(self.name)
        # CDK's L2 construct would add references to the bus to the policies of its key and its dead-letter queue.
        resource = events.CfnEventBus(
            self,
            "Bus",
            name=self.name,
            description=f"Invoice events of the cell {names.cell}",
            kms_key_identifier=keys.messages.key_arn,
            dead_letter_config=events.CfnEventBus.DeadLetterConfigProperty(arn=stage_queues.undelivered.queue_arn),
        )
        self._bus = events.EventBus.from_event_bus_attributes(
            self, "Known", event_bus_arn=resource.attr_arn, event_bus_name=resource.ref, event_bus_policy=""
        )
        stage_queues.undelivered.add_to_resource_policy(
            _from_events(stage_queues.undelivered, arn(self, "events", f"event-bus/{self.name}"))
        )
        if profile.archive:
            archive = events.CfnArchive(
                self,
                "Archive",
                archive_name=names.prefix,
                source_arn=resource.attr_arn,
                event_pattern={"source": [source(names.cell)]},
                retention_days=ARCHIVE_RETENTION_DAYS,
                kms_key_identifier=keys.messages.key_arn,
            )
            archive.apply_removal_policy(RemovalPolicy.DESTROY)
        for stage in STAGES:
            self._route(stage, names, keys.messages, stage_queues.stages[stage].topic, stage_queues.undelivered)

    def publish_statements(self) -> list[iam.PolicyStatement]:
        return [allow(["events:PutEvents"], [self._bus.event_bus_arn])]

    def _route(self, stage: Stage, names: Names, key: kms.IKey, topic: sns.ITopic, undelivered: sqs.Queue) -> None:
        scope = Construct(self, stage.capitalize())
        rule_name = f"{names.prefix}-{stage}"
        role = service_role(
            scope,
            "events.amazonaws.com",
            f"The bus publishes {stage} events to their topic",
            publish_to([topic], key),
            {
                "StringEquals": own_account(),
                "ArnLike": {"aws:SourceArn": arn(self, "events", f"rule/{self.name}/{rule_name}")},
            },
        )
        events.Rule(
            scope,
            "Rule",
            rule_name=rule_name,
            description=f"{detail_type(stage)} to its topic",
            event_bus=self._bus,
            event_pattern=events.EventPattern(source=[source(names.cell)], detail_type=[detail_type(stage)]),
            targets=[
                targets.SnsTopic(
                    topic,
                    role=role.without_policy_updates(),
                    dead_letter_queue=undelivered,
                    retry_attempts=MAX_RETRIES,
                    max_event_age=Duration.hours(RETRY_HOURS),
                )
            ],
        )


def _from_events(queue: sqs.Queue, source_arn: str) -> iam.PolicyStatement:
    condition = {"ArnEquals": {"aws:SourceArn": source_arn}}
    return allow_service("events.amazonaws.com", ["sqs:SendMessage"], condition, "BusSetsAside", [queue.queue_arn])
