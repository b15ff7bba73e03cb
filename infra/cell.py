"""The stack of a cell, composed of the constructs in this package's modules."""

from aws_cdk import Aws, CfnOutput, Environment, RemovalPolicy, Stack
from aws_cdk import aws_logs as logs
from constructs import Construct

from bems.tracker.cells import CellConfig
from bems.tracker.contract import STAGES
from infra.common.keys import EncryptionKeys
from infra.common.log_groups import VENDED_LOGS_PREFIX, log_group
from infra.common.names import Names
from infra.common.profile import Profile, read_profile
from infra.common.removal import RETAIN_ON_UPDATE_OR_DELETE
from infra.compute.function_code import FunctionCode
from infra.compute.functions import FunctionDefaults
from infra.compute.lambda_functions import LambdaFunctions
from infra.compute.state_machines import Lifecycle
from infra.compute.sweep_schedule import SweepTriggers
from infra.data.backup import BackupPlan
from infra.data.iceberg import IcebergSeries
from infra.data.records_table import RecordsTable
from infra.data.timestream import SeriesConstruct, TimestreamSeries
from infra.ingress.api import CellApi
from infra.ingress.firewall import Firewall
from infra.messaging.alert_topics import AlertTopics
from infra.messaging.bus import Bus, ClassicBus
from infra.messaging.custom_bus import CustomBus
from infra.messaging.stage_queues import DENY_REDRIVE, StageQueues, encrypted_queue
from infra.messaging.subscribers import add_subscribers
from infra.monitoring.alarm_factory import AlarmFactory
from infra.monitoring.alarms import add_alarms
from infra.monitoring.dashboard import Dashboard


class CellStack(Stack):
    """CloudFormation stack of one independent cell."""

    def __init__(self, scope: Construct, cell: CellConfig) -> None:
        names = Names(cell.name, fifo=cell.delivery == "fifo")
        super().__init__(
            scope,
            names.prefix,
            description=f"BEMS cell {cell.name}: tracks invoices from ingestion to posting",
            env=Environment(account=cell.account, region=cell.region),
            termination_protection=cell.termination_protection,
            # CloudFormation copies the stack's tags to every resource that supports tags.
            tags={"bems:cell": cell.name, "application": "bems", **cell.tags},
        )
        profile = read_profile(self.node)
        removal = RETAIN_ON_UPDATE_OR_DELETE if cell.removal == "retain" else RemovalPolicy.DESTROY

        keys = EncryptionKeys(self, "Keys", names, removal)
        records = RecordsTable(self, "Records", names, keys.records, removal)
        series, stream = self._series(names, cell, keys, removal, profile)
        stage_queues = StageQueues(self, "Intake", names, keys.messages, removal)
        alerts = AlertTopics(self, "Alerts", names, cell, keys.alerts, stage_queues.undelivered)
        unrecorded = encrypted_queue(
            self, "Unrecorded", names.unrecorded, keys.messages, redrive_allow=DENY_REDRIVE, removal=removal
        )

        bus: Bus
        delivery_log: logs.ILogGroup | None = None
        if cell.delivery == "fifo":
            delivery_log = log_group(
                self, "DeliveryLog", f"{VENDED_LOGS_PREFIX}/events/{names.prefix}", keys.logs, cell
            )
            bus = CustomBus(self, "Bus", names, keys, stage_queues, delivery_log)
        else:
            bus = ClassicBus(self, "Bus", names, keys, stage_queues, profile)

        code = FunctionCode(self, "Code", cell, profile)
        defaults = FunctionDefaults(cell, names, code.code, keys.logs)
        functions = LambdaFunctions(self, defaults, keys, bus, stage_queues, records, series, alerts, unrecorded)
        lifecycle = Lifecycle(self, "Lifecycle", names, cell, keys.logs, functions.register_wait, functions.escalate)
        SweepTriggers(self, "Sweeping", names, functions.sweeper.function, lifecycle.arn, stage_queues.undelivered)
        api = CellApi(self, "Api", names, cell, keys.logs, functions.producer)
        # Every event answered 202 is delivered: the API goes live only after the bus, topics and queues exist.
        api.stage.node.add_dependency(bus, stage_queues)
        if profile.firewall:
            Firewall(self, "Firewall", names, cell, keys.logs, api.stage.stage_arn)
        if profile.backup:
            BackupPlan(self, "Backup", names, keys.records, records.table.table_arn, series.backup_arns(), removal)
        add_subscribers(self, names, cell.subscribers, stage_queues)

        alarms = AlarmFactory(self, "Alarms", names, cell, profile, alerts.topics)
        add_alarms(alarms, lifecycle.arn, api.access_log, delivery_log, stream)
        Dashboard(self, "Dashboard", names, cell, lifecycle.arn, stream)
        self._outputs(names, stage_queues, alerts, records, lifecycle, api)

    def _series(
        self, names: Names, cell: CellConfig, keys: EncryptionKeys, removal: RemovalPolicy, profile: Profile
    ) -> tuple[SeriesConstruct, str | None]:
        if cell.time_series == "timestream":
            return TimestreamSeries(self, "Series", names, keys.records, removal), None
        keys.grant_table_maintenance()
        group = log_group(self, "SeriesLog", f"/aws/kinesisfirehose/{names.prefix}", keys.logs, cell)
        series = IcebergSeries(self, "Series", names, keys.records, group, removal, profile)
        return series, series.stream_name

    def _outputs(
        self,
        names: Names,
        stage_queues: StageQueues,
        alerts: AlertTopics,
        records: RecordsTable,
        lifecycle: Lifecycle,
        api: CellApi,
    ) -> None:
        outputs = {
            "ApiUrl": ("Base URL of the API: POST events to {ApiUrl}invoices/{stage}", api.url),
            "FirstKeyId": ("Id of the first sender's API key", api.key.key_id),
            "StateMachineArn": ("State machine of the invoice lifecycle", lifecycle.arn),
            "RecordsTable": ("DynamoDB table of invoice records", records.table.table_name),
            "DashboardUrl": (
                "CloudWatch dashboard of the cell",
                f"https://{self.region}.console.{_console_domain(self)}/cloudwatch/home?region={self.region}#dashboards:name={names.prefix}",
            ),
            **{
                f"{stage.capitalize()}TopicArn": (
                    f"Topic of {stage} events, for other teams to subscribe to",
                    stage_queues.stages[stage].topic.topic_arn,
                )
                for stage in STAGES
            },
            **{
                f"{severity.capitalize()}TopicArn": (f"Topic of {severity} alerts and alarms", topic.topic_arn)
                for severity, topic in alerts.topics.items()
            },
        }
        for id, (description, value) in outputs.items():
            CfnOutput(self, id, description=description, value=value)


def _console_domain(stack: Stack) -> str:
    return "aws.amazon.com" if stack.partition == "aws" else Aws.URL_SUFFIX
