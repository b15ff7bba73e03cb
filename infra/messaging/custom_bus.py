"""EventBridge's Custom Event Bus, which stores events, removes duplicates and delivers in order within a group.

Facts that are not in CloudFormation's reference are from the EventBridge user guide, chapter "Event bus (Custom)".
"""

import json
from typing import Literal

from aws_cdk import CfnResource
from aws_cdk import aws_eventsv2 as eventsv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from bems.tracker.contract import STAGES, Stage
from bems.tracker.eventbridge_names import detail_type, source
from infra.common.iam import allow, arn, own_account, publish_to, send_to, service_role, use_key
from infra.common.keys import EncryptionKeys
from infra.common.names import Names
from infra.messaging.bus import ARCHIVE_RETENTION_DAYS, MAX_RETRIES, RETRY_HOURS
from infra.messaging.stage_queues import StageQueues

GROUP = "{% $events.SystemMetadata.EventGroupId %}"
DEDUPLICATION = "{% $events.SystemMetadata.DeduplicationId %}"
"""JSONata expressions for the values that the producer sets on each event: GROUP is the invoice's id, DEDUPLICATION a
hash of event_id and digest. With a constant deduplication id, the topic would drop every event after the first."""


class CustomBus(Construct):
    """Custom event bus with a FIFO subscriber for each stage."""

    kind: Literal["classic", "custom"] = "custom"

    def __init__(
        self,
        scope: Construct,
        id: str,
        names: Names,
        keys: EncryptionKeys,
        stage_queues: StageQueues,
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, id)
        keys.grant_custom_bus(names.prefix)
        self._keys = keys
        self._bus = eventsv2.CfnEventBus(
            self,
            "Bus",
            name=names.prefix,
            description=f"Invoice events of the cell {names.cell}",
            encryption_configuration=eventsv2.CfnEventBus.EncryptionConfigurationProperty(
                kms_key_identifier=keys.messages.key_arn
            ),
            storage_configuration=eventsv2.CfnEventBus.StorageConfigurationProperty(
                retention_period_in_days=ARCHIVE_RETENTION_DAYS
            ),
        )
        destination = logs.CfnDeliveryDestination(
            self, "LogDestination", name=f"{names.prefix}-deliveries", destination_resource_arn=log_group.log_group_arn
        )
        # Created one after another: a bus rejects concurrent creation of subscribers with
        # ConcurrentModificationException, and so does CloudWatch Logs for deliveries to one destination.
        previous: CfnResource = destination
        for stage in STAGES:
            subscriber = self._subscribe(stage, names, stage_queues)
            subscriber.add_resource_dependency(previous)
            previous = self._log(stage, names, subscriber, destination)

    @property
    def name(self) -> str:
        return self._bus.attr_event_bus_arn

    def publish_statements(self) -> list[iam.PolicyStatement]:
        # PutEvents also requires kms:Decrypt of the caller.
        return [
            allow(["events:PutEvents"], [self._bus.attr_event_bus_arn]),
            use_key(self._keys.messages, ["kms:Decrypt"], "events"),
        ]

    def _subscribe(self, stage: Stage, names: Names, stage_queues: StageQueues) -> eventsv2.CfnSubscriber:
        scope = Construct(self, stage.capitalize())
        topic = stage_queues.stages[stage].topic
        role = service_role(
            scope,
            "events.amazonaws.com",
            f"The bus publishes {stage} events to their topic, and sends those that fail to the undelivered queue",
            [
                *publish_to([topic], self._keys.messages),
                # Without these permissions, EventBridge discards failed deliveries silently.
                *send_to(stage_queues.undelivered, self._keys.messages),
            ],
            {"StringEquals": own_account(), "ArnLike": {"aws:SourceArn": arn(self, "events", "*")}},
        )
        return eventsv2.CfnSubscriber(
            scope,
            "Subscriber",
            name=f"{names.prefix}-{stage}",
            description=f"{detail_type(stage)} to its topic",
            event_bus_arn=self._bus.attr_event_bus_arn,
            type="FIFO",
            starting_position="LATEST",
            filter_configuration=eventsv2.CfnSubscriber.FilterConfigurationProperty(
                filters=[
                    eventsv2.CfnSubscriber.FilterProperty(
                        scope="DATA",
                        pattern=json.dumps({"detail-type": [detail_type(stage)], "source": [source(names.cell)]}),
                    )
                ]
            ),
            # RAW delivers the complete event with source, detail-type, time and detail, as a classic bus does.
            transformer=eventsv2.CfnSubscriber.TransformerProperty(type="RAW"),
            invoke_configuration=eventsv2.CfnSubscriber.InvokeConfigurationProperty(
                role_arn=role.role_arn,
                target_arn=topic.topic_arn,
                sns_parameters=eventsv2.CfnSubscriber.SnsParametersProperty(
                    message_group_id=GROUP, message_deduplication_id=DEDUPLICATION
                ),
            ),
            retry_policy=eventsv2.CfnSubscriber.RetryPolicyProperty(
                max_event_age_in_seconds=RETRY_HOURS * 3600, max_retry_attempts=MAX_RETRIES, retry_strategy="ALL"
            ),
            on_failure_configuration=eventsv2.CfnSubscriber.OnFailureConfigurationProperty(
                arn=stage_queues.undelivered.queue_arn
            ),
            # The log entry of a failed delivery contains the payload; the message on the undelivered queue does not.
            log_configuration=eventsv2.CfnSubscriber.LogConfigurationProperty(
                level="ERROR", include_payload="ON_ERROR_ONLY"
            ),
        )

    def _log(
        self,
        stage: Stage,
        names: Names,
        subscriber: eventsv2.CfnSubscriber,
        destination: logs.CfnDeliveryDestination,
    ) -> logs.CfnDelivery:
        # A subscriber's log level alone writes no log: CloudWatch Logs also needs a delivery from the subscriber.
        scope = Construct(self, f"{stage.capitalize()}Log")
        source = logs.CfnDeliverySource(
            scope,
            "Source",
            name=f"{names.prefix}-{stage}",
            resource_arn=subscriber.attr_subscriber_arn,
            log_type="ERROR_LOGS",
        )
        delivery = logs.CfnDelivery(
            scope,
            "Delivery",
            delivery_source_name=source.name,
            delivery_destination_arn=destination.attr_arn,
        )
        delivery.add_resource_dependency(source)
        return delivery
