"""Alerts to SNS: a topic per severity, a message that a person can read and a program too."""

from typing import Any

import msgspec

from bems.tracker.actions import Alert, Severity
from bems.tracker.alert_messages import headline, json_body

MAX_SUBJECT_CHARACTERS = 99
"""Characters of an SNS subject, on one line: less than 100 (API reference of Publish). Ours are printable ASCII."""


class SnsAlerts:
    """The Alerts port. The message's `id` is the alert's: one that comes twice is one alert.

    A message is at most 262,144 bytes (SNS quotas), dozens of times what the fields in it can take.
    """

    def __init__(self, client: Any, cell: str, topics: dict[Severity, str]) -> None:
        self._client = client
        self._cell = cell
        self._topics = topics

    def raise_alert(self, alert: Alert) -> None:
        """Publish to the topic of the alert's severity. Subscribers may filter on the message attributes."""
        self._client.publish(
            TopicArn=self._topics[alert.severity],
            Subject=subject(alert, self._cell),
            Message=message(alert, self._cell),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in {
                    "cell": self._cell,
                    "stage": alert.stage,
                    "kind": alert.kind,
                    "severity": alert.severity,
                    "last": "true" if alert.last else "false",
                }.items()
            },
        )


def subject(alert: Alert, cell: str) -> str:
    """`[critical] eu-west: INV-1 has waited for posting since 2026-03-02 (alert 3)`, cut to what SNS takes."""
    text = f"[{alert.severity}] {cell}: {headline(alert)}"
    return text if len(text) <= MAX_SUBJECT_CHARACTERS else f"{text[: MAX_SUBJECT_CHARACTERS - 3]}..."


def message(alert: Alert, cell: str) -> str:
    """The payload of a webhook, one field a line."""
    return msgspec.json.format(msgspec.json.encode(json_body(alert, cell)), indent=2).decode()
