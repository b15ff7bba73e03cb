"""The Lambda functions of a cell, with the triggers and permissions of each."""

from collections.abc import Mapping, Sequence

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as event_sources
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from bems.tracker.contract import STAGES, Stage
from infra.common.iam import ENCRYPT_AND_DECRYPT, allow, arn, publish_to, send_to, use_key
from infra.common.keys import EncryptionKeys
from infra.common.names import processor_function
from infra.compute.functions import Function, FunctionDefaults
from infra.compute.state_machines import state_machine_arn
from infra.data.records_table import RecordsTable
from infra.data.timestream import SeriesConstruct
from infra.messaging.alert_topics import AlertTopics
from infra.messaging.bus import Bus
from infra.messaging.stage_queues import PROCESSOR_SECONDS, StageQueues

BATCH_SIZE = 10
"""Maximum number of queue messages in one invocation, which is Lambda's limit for FIFO queues."""

STREAM_BATCH_SIZE = 100
STREAM_BATCH_WINDOW_SECONDS = 1
STREAM_PARALLELIZATION_FACTOR = 10
MAX_STREAM_RECORD_AGE_HOURS = 12
"""How long the recorder retries a stream record. The stream keeps records for 24 hours, which leaves operators another
12 to recover it."""


class LambdaFunctions(Construct):
    """The nine functions: producer, four processors, register_wait, escalate, sweeper and recorder."""

    def __init__(
        self,
        scope: Construct,
        defaults: FunctionDefaults,
        keys: EncryptionKeys,
        bus: Bus,
        stage_queues: StageQueues,
        records: RecordsTable,
        series: SeriesConstruct,
        alerts: AlertTopics,
        unrecorded: sqs.Queue,
    ) -> None:
        super().__init__(scope, "Functions")
        self._defaults = defaults
        self._concurrency = defaults.cell.concurrency
        self._keys = keys
        self._stage_queues = stage_queues
        self._records = records
        self._alerts = alerts
        self._machine_arn = state_machine_arn(self, defaults.names)
        self.producer = self._producer(bus)
        self.processors: Mapping[Stage, Function] = {stage: self._processor(stage) for stage in STAGES}
        self.register_wait = self._decision_function(
            "RegisterWait",
            "register_wait",
            "An execution waits: its token goes into the record",
            self._concurrency.register_wait,
            warm=True,
        )
        self.escalate = self._decision_function(
            "Escalate", "escalate", "A wait ran out or is disputed: raises the alert", self._concurrency.escalate
        )
        self.sweeper = self._sweeper()
        self.recorder = self._recorder(series, unrecorded)

    def _producer(self, bus: Bus) -> Function:
        return Function(
            self,
            "Producer",
            self._defaults,
            handler="producer",
            description="Takes events in, gates them, publishes them to the bus",
            environment={
                "BEMS_BUS": bus.kind,
                "BEMS_BUS_NAME": bus.name,
                "BEMS_MAX_BATCH": str(self._defaults.cell.limits.max_batch),
            },
            statements=bus.publish_statements(),
            timeout=Duration.seconds(28),
            reserved=self._concurrency.producer,
            keep_warm=True,
        )

    def _processor(self, stage: Stage) -> Function:
        queue = self._stage_queues.stages[stage].queue
        function = self._decision_function(
            processor_function(stage),
            "processor",
            f"Takes {stage} events into their invoices' records",
            self._concurrency.processor,
            warm=True,
            seconds=PROCESSOR_SECONDS,
            environment={
                "BEMS_STAGE": stage,
                "BEMS_QUEUE_TYPE": self._defaults.cell.delivery,
                "BEMS_QUEUE_URL": queue.queue_url,
            },
            statements=[
                allow(
                    [
                        "sqs:ChangeMessageVisibility",
                        "sqs:DeleteMessage",
                        "sqs:GetQueueAttributes",
                        "sqs:ReceiveMessage",
                    ],
                    [queue.queue_arn],
                ),
                use_key(self._keys.messages, ["kms:Decrypt"], "sqs"),
            ],
        )
        lambda_.EventSourceMapping(
            function,
            "Mapping",
            target=function.target,
            event_source_arn=queue.queue_arn,
            batch_size=BATCH_SIZE,
            # Invocations beyond the reserved concurrency are throttled, and each throttled one counts as a receive.
            max_concurrency=self._concurrency.processor,
            report_batch_item_failures=True,
        )
        return function

    def _sweeper(self) -> Function:
        return self._decision_function(
            "Sweeper",
            "sweeper",
            "Sweeps due invoices every minute: raises alerts and replaces lost executions",
            self._concurrency.sweeper,
            seconds=60,
            statements=[
                allow(["dynamodb:Query"], [self._records.index_arn]),
                allow(
                    ["states:DescribeExecution"],
                    [arn(self, "states", f"execution:{self._defaults.names.state_machine}:*")],
                ),
                *send_to(self._stage_queues.undelivered, self._keys.messages),
            ],
        )

    def _recorder(self, series: SeriesConstruct, unrecorded: sqs.Queue) -> Function:
        function = Function(
            self,
            "Recorder",
            self._defaults,
            handler="recorder",
            description="Writes every transition of an invoice to the time series",
            environment={**series.environment(), "BEMS_UNRECORDED_QUEUE_URL": unrecorded.queue_url},
            statements=[
                allow(
                    ["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"],
                    [self._records.stream_arn],
                ),
                # Lambda needs it to create the event source mapping; the action supports no resource-level
                # permissions.
                allow(["dynamodb:ListStreams"], ["*"]),
                use_key(self._keys.records, ["kms:Decrypt"], "dynamodb"),
                *series.write_statements(),
                # Lambda sends failed batches to the destination with the function's role.
                *send_to(unrecorded, self._keys.messages),
            ],
            timeout=Duration.seconds(60),
            reserved=self._concurrency.recorder,
        )
        lambda_.EventSourceMapping(
            function,
            "Mapping",
            target=function.target,
            event_source_arn=self._records.stream_arn,
            starting_position=lambda_.StartingPosition.TRIM_HORIZON,
            batch_size=STREAM_BATCH_SIZE,
            max_batching_window=Duration.seconds(STREAM_BATCH_WINDOW_SECONDS),
            parallelization_factor=STREAM_PARALLELIZATION_FACTOR,
            bisect_batch_on_error=True,
            report_batch_item_failures=True,
            # Most writes of an invoice only clear completed work, and have no transitions to record.
            filters=[
                lambda_.FilterCriteria.filter(
                    {"dynamodb": {"NewImage": {"changes": {"B": lambda_.FilterRule.exists()}}}}
                )
            ],
            # Retries are limited by age, not by number, so that an outage of the time series loses no transitions.
            max_record_age=Duration.hours(MAX_STREAM_RECORD_AGE_HOURS),
            on_failure=event_sources.SqsDlq(unrecorded),
        )
        return function

    def _decision_function(
        self,
        id: str,
        handler: str,
        description: str,
        reserved: int,
        *,
        warm: bool = False,
        seconds: int = 30,
        environment: Mapping[str, str] | None = None,
        statements: Sequence[iam.PolicyStatement] = (),
    ) -> Function:
        """Create a function that may write records, start and continue executions, and publish alerts."""
        topics = self._alerts.topics
        return Function(
            self,
            id,
            self._defaults,
            handler=handler,
            description=description,
            environment={
                "BEMS_TABLE": self._records.table.table_name,
                "BEMS_STATE_MACHINE_ARN": self._machine_arn,
                "BEMS_WARNING_TOPIC_ARN": topics["warning"].topic_arn,
                "BEMS_CRITICAL_TOPIC_ARN": topics["critical"].topic_arn,
                **(environment or {}),
            },
            statements=[
                allow(["dynamodb:GetItem", "dynamodb:PutItem"], [self._records.table.table_arn]),
                use_key(self._keys.records, ENCRYPT_AND_DECRYPT, "dynamodb"),
                allow(
                    ["states:SendTaskFailure", "states:SendTaskSuccess", "states:StartExecution"], [self._machine_arn]
                ),
                *publish_to([topics["warning"], topics["critical"]], self._keys.alerts),
                *statements,
            ],
            timeout=Duration.seconds(seconds),
            reserved=reserved,
            keep_warm=warm,
        )
