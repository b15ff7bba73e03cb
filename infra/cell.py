"""The cell: one stack, which composes. What its parts are is said where they are."""

from aws_cdk import Aws, CfnOutput, Environment, RemovalPolicy, Stack
from aws_cdk import aws_logs as logs
from constructs import Construct

from bems.tracker.cells import Cell
from bems.tracker.contract import STAGES
from infra.common.keys import Keys
from infra.common.log_groups import VENDED_LOGS_PREFIX, log_group
from infra.common.names import Names
from infra.common.profile import Profile, read_profile
from infra.common.removal import RETAIN_ON_UPDATE_OR_DELETE
from infra.compute.function_code import FunctionCode
from infra.compute.functions import FunctionDefaults
from infra.compute.lambda_functions import LambdaFunctions
from infra.compute.state_machines import Lifecycle
from infra.compute.sweep_schedule import SweepTriggers
from infra.data.backup import Backup
from infra.data.iceberg import IcebergSeries
from infra.data.records_table import RecordsTable
from infra.data.timestream import TimeSeries, TimestreamSeries
from infra.ingress.api import Api
from infra.ingress.firewall import Firewall
from infra.messaging.alert_topics import AlertTopics
from infra.messaging.bus import Bus, ClassicBus
from infra.messaging.custom_bus import CustomBus
from infra.messaging.stage_queues import DENY_REDRIVE, StageQueues, encrypted_queue
from infra.messaging.subscribers import add_subscribers
from infra.monitoring.alarms import Alarms
from infra.monitoring.dashboard import Dashboard


class CellStack(Stack):
    """One independent cell."""

    def __init__(self, scope: Construct, cell: Cell) -> None:
        names = Names(cell.name, fifo=cell.delivery == "fifo")
        super().__init__(
            scope,
            names.prefix,
            description=f"BEMS, the cell {cell.name}: invoices from ingestion to posting",
            env=Environment(account=cell.account, region=cell.region),
            termination_protection=cell.termination_protection,
            # On the stack, so that CloudFormation puts them on all that can have tags.
            tags={"bems:cell": cell.name, "application": "bems", **cell.tags},
        )
        profile = read_profile(self.node)
        profile.check(cell.delivery, cell.time_series)
        removal = RETAIN_ON_UPDATE_OR_DELETE if cell.removal == "retain" else RemovalPolicy.DESTROY

        keys = Keys(self, "Keys", names, removal)
        records = RecordsTable(self, "Records", names, keys.records, removal)
        series, stream = self._series(names, cell, keys, removal, profile)
        intake = StageQueues(self, "Intake", names, keys.messages, removal)
        alerts = AlertTopics(self, "Alerts", names, cell, keys.alerts, intake.undelivered)
        unrecorded = encrypted_queue(
            self, "Unrecorded", names.unrecorded, keys.messages, redrive_allow=DENY_REDRIVE, removal=removal
        )

        bus: Bus
        delivery_log: logs.ILogGroup | None = None
        if cell.delivery == "fifo":
            delivery_log = log_group(
                self, "DeliveryLog", f"{VENDED_LOGS_PREFIX}/events/{names.prefix}", keys.logs, cell
            )
            bus = CustomBus(self, "Bus", names, keys, intake, delivery_log)
        else:
            bus = ClassicBus(self, "Bus", names, keys, intake, profile)

        code = FunctionCode(self, "Code", cell, profile)
        home = FunctionDefaults(cell, names, code.code, keys.logs)
        workers = LambdaFunctions(self, home, keys, bus, intake, records, series, alerts, unrecorded)
        lifecycle = Lifecycle(self, "Lifecycle", names, cell, keys.logs, workers.register_wait, workers.escalate)
        SweepTriggers(self, "Sweeping", names, workers.sweeper.function, lifecycle.arn, intake.undelivered)
        api = Api(self, "Api", names, cell, keys.logs, workers.producer)
        # Whoever is answered 202 is heard: nothing is taken in before its way is there to the end.
        api.stage.node.add_dependency(bus, intake)
        if profile.firewall:
            Firewall(self, "Firewall", names, cell, keys.logs, api.stage.stage_arn)
        if profile.backup:
            Backup(self, "Backup", names, keys.records, records.table.table_arn, series.backup_arns(), removal)
        add_subscribers(self, names, cell.subscribers, intake)

        Alarms(self, "Alarms", names, cell, profile, alerts.topics, lifecycle.arn, api.access_log, delivery_log, stream)
        Dashboard(self, "Dashboard", names, cell, lifecycle.arn, stream)
        self._outputs(names, intake, alerts, records, lifecycle, api)

    def _series(
        self, names: Names, cell: Cell, keys: Keys, removal: RemovalPolicy, profile: Profile
    ) -> tuple[TimeSeries, str | None]:
        if cell.time_series == "timestream":
            return TimestreamSeries(self, "Series", names, keys.records, removal), None
        keys.grant_table_maintenance()
        group = log_group(self, "SeriesLog", f"/aws/kinesisfirehose/{names.prefix}", keys.logs, cell)
        series = IcebergSeries(self, "Series", names, keys.records, group, removal, profile)
        return series, series.stream_name

    def _outputs(
        self,
        names: Names,
        intake: StageQueues,
        alerts: AlertTopics,
        records: RecordsTable,
        lifecycle: Lifecycle,
        api: Api,
    ) -> None:
        told = {
            "ApiUrl": ("POST events to {ApiUrl}invoices/{stage}", api.url),
            "FirstKeyId": ("The id of the first sender's key", api.key.key_id),
            "StateMachineArn": ("The invoice lifecycle", lifecycle.arn),
            "RecordsTable": ("The table of invoices", records.table.table_name),
            "DashboardUrl": (
                "The cell's page",
                f"https://{self.region}.console.{_console_links(self)}/cloudwatch/home?region={self.region}#dashboards:name={names.prefix}",
            ),
            **{
                f"{stage.capitalize()}TopicArn": (
                    f"{stage.capitalize()} events, for other teams",
                    intake.stages[stage].topic.topic_arn,
                )
                for stage in STAGES
            },
            **{
                f"{severity.capitalize()}TopicArn": (f"Alerts, {severity}", topic.topic_arn)
                for severity, topic in alerts.topics.items()
            },
        }
        for id, (description, value) in told.items():
            CfnOutput(self, id, description=description, value=value)


def _console_links(stack: Stack) -> str:
    return "aws.amazon.com" if stack.partition == "aws" else Aws.URL_SUFFIX
