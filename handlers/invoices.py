"""Invoices: the functions' way of bringing a decision into the world, over AWS's ports."""

from collections.abc import Mapping
from os import environ
from typing import TypeVar

from bems.aws.alerts import SnsAlerts
from bems.aws.clients import client
from bems.aws.clock import SystemClock
from bems.aws.executions import StepFunctionsExecutions
from bems.aws.policy import read_policy
from bems.aws.records import DynamoRecords
from bems.aws.settings import InvoiceSettings, read_settings
from bems.tracker.actions import Severity
from bems.tracker.policy import Policy
from bems.tracker.protocol import Decide, run, steps
from handlers.telemetry import CountedAlerts, Meter

A = TypeVar("A")
_S = TypeVar("_S", bound=InvoiceSettings)


class Invoices:
    """The ports and the policy of one cell."""

    def __init__(self, settings: InvoiceSettings, policy: Policy, meter: Meter) -> None:
        topics: dict[Severity, str] = {
            "warning": settings.warning_topic_arn,
            "critical": settings.critical_topic_arn,
        }
        self.policy = policy
        self.meter = meter
        self.clock = SystemClock()
        self.records = DynamoRecords(client("dynamodb"), settings.table)
        self._executions = StepFunctionsExecutions(client("stepfunctions"), settings.state_machine_arn)
        self._alerts = CountedAlerts(SnsAlerts(client("sns"), settings.cell, topics), meter)

    def decide(self, invoice_id: str, decide: Decide[A]) -> A:
        """One decision, saved, carried out and cleared. What a service does not take is raised, and stays pending."""
        return run(steps(invoice_id, decide), self.records, self._executions, self._alerts, self.clock)


def open_cell(kind: type[_S], variables: Mapping[str, str] = environ) -> tuple[_S, Invoices]:
    """The settings of one kind, and the cell's invoices. SettingsError, PolicyMissing."""
    settings = read_settings(kind, variables)
    return settings, Invoices(settings, read_policy(variables), Meter(settings.cell))
