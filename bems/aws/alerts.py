"""Alerts on SNS: one topic per severity, and a message that people and programs can read."""

from typing import Any

import msgspec

from bems.tracker.actions import Alert, Severity
from bems.tracker.alert_messages import headline, json_body, urgency

MAX_SUBJECT_CHARACTERS = 99
"""Maximum length of an SNS subject, in characters: less than 100, printable ASCII, on one line (API reference of
Publish)."""


class SnsAlerts:
    """The Alerts port on SNS. Subscribers recognize a repeated message by its `id`, the alert's id.

    The largest possible message is a small fraction of SNS's limit of 262,144 bytes (SNS quotas).
    """

    def __init__(self, client: Any, cell: str, topics: dict[Severity, str]) -> None:
        self._client = client
        self._cell = cell
        self._topics = topics

    def raise_alert(self, alert: Alert) -> None:
        """Publish the alert to the topic of its severity. Subscribers can filter by the message attributes."""
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
    """Return a subject such as `[critical] eu-west: INV-1 waits for posting since 2026-03-02 (alert 3)`.

    A subject that is too long is truncated to MAX_SUBJECT_CHARACTERS.
    """
    text = f"[{urgency(alert)}] {cell}: {headline(alert)}"
    return text if len(text) <= MAX_SUBJECT_CHARACTERS else f"{text[: MAX_SUBJECT_CHARACTERS - 3]}..."


def message(alert: Alert, cell: str) -> str:
    """Return the JSON that webhooks receive too, with one field per line."""
    return msgspec.json.format(msgspec.json.encode(json_body(alert, cell)), indent=2).decode()
