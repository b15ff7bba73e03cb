"""Names, treatment of missing data and actions of a cell's alarms."""

from collections.abc import Mapping

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from constructs import Construct

from bems.tracker.actions import Severity
from bems.tracker.cells import CellConfig
from infra.common.names import Names
from infra.common.profile import Profile
from infra.monitoring.metrics import logs_namespace


class AlarmFactory(Construct):
    """Construct that adds alarms which notify the topic of their severity."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        names: Names,
        cell: CellConfig,
        profile: Profile,
        topics: Mapping[Severity, sns.Topic],
    ) -> None:
        super().__init__(scope, id)
        self.names = names
        self.cell = cell
        self.profile = profile
        self._actions = {severity: actions.SnsAction(topic) for severity, topic in topics.items()}

    def add_metric_filter(self, group: logs.ILogGroup, name: str, pattern: logs.IFilterPattern) -> None:
        logs.MetricFilter(
            self,
            f"{name}Filter",
            log_group=group,
            filter_pattern=pattern,
            metric_namespace=logs_namespace(self.cell.name),
            metric_name=name,
            metric_value="1",
        )

    def add(
        self,
        id: str,
        description: str,
        severity: Severity,
        metric: cloudwatch.IMetric,
        *,
        above: float = 0,
        below: float | None = None,
        periods: int = 1,
    ) -> None:
        """Add an alarm that goes off when its metric is above or below a threshold for `periods` periods.

        Missing data counts as breaching with `below`, where silence is the fault, and as not breaching otherwise.
        """
        if isinstance(metric, cloudwatch.MathExpression) and not self.profile.metric_math:
            return
        alarm = cloudwatch.Alarm(
            self,
            id,
            alarm_name=self._alarm_name(id),
            alarm_description=description,
            metric=metric,
            threshold=above if below is None else below,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
            if below is None
            else cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
            evaluation_periods=periods,
            datapoints_to_alarm=periods,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING
            if below is None
            else cloudwatch.TreatMissingData.BREACHING,
        )
        self._notify(alarm, severity)

    def add_anomaly(
        self,
        id: str,
        description: str,
        severity: Severity,
        metric: cloudwatch.IMetric,
        *,
        deviations: float,
        periods: int,
        breaching: int,
    ) -> None:
        """Add an alarm that goes off when its metric is unusual in `breaching` of `periods` periods.

        A value is unusual if it is outside a band of that many standard deviations around the usual values.
        """
        alarm = cloudwatch.AnomalyDetectionAlarm(
            self,
            id,
            alarm_name=self._alarm_name(id),
            alarm_description=description,
            metric=metric,
            std_devs=deviations,
            comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_LOWER_OR_GREATER_THAN_UPPER_THRESHOLD,
            evaluation_periods=periods,
            datapoints_to_alarm=breaching,
            treat_missing_data=cloudwatch.TreatMissingData.IGNORE,
        )
        self._notify(alarm, severity)

    def _alarm_name(self, id: str) -> str:
        return f"{self.names.prefix}-{_kebab_case(id)}"

    def _notify(self, alarm: cloudwatch.AlarmBase, severity: Severity) -> None:
        alarm.add_alarm_action(self._actions[severity])


def _kebab_case(id: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in id).lstrip("-")
