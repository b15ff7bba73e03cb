"""Alerts to SNS: a topic per severity, a message that a person can read and a program too."""

from typing import Any

import msgspec

from bems.tracker.actions import Alert, Severity
from bems.tracker.instants import render

SUBJECT_MOST = 99
"""Characters of an SNS subject, on one line: less than 100 (API reference of Publish). Ours are printable ASCII."""

_WORDS = {
    "stuck": "waits for its {stage}",
    "dispute": "does not match: its reconciliation is disputed",
    "failed": "could not be posted",
}


class SnsAlerts:
    """The Alerts port. The message's `id` is the alert's: one that comes twice is one alert.

    A message is at most 262,144 bytes (SNS quotas); the facts of an event that passed the gate take 40,000 at most.
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
    """`[critical] eu-west: INV-1 waits for its authorization (alert 3)`, cut to what SNS takes."""
    text = f"[{alert.severity}] {cell}: {alert.invoice_id} {_what(alert)}"
    return text if len(text) <= SUBJECT_MOST else f"{text[: SUBJECT_MOST - 3]}..."


def message(alert: Alert, cell: str) -> str:
    """JSON, one field a line: first a sentence, then the alert field by field. Instants are RFC 3339 in UTC."""
    facts = msgspec.to_builtins(alert.facts)
    fields: dict[str, Any] = {
        "summary": f"Invoice {alert.invoice_id} {_what(alert)}{', the last one' if alert.last else ''}.",
        "id": alert.id,
        "cell": cell,
        "invoice_id": alert.invoice_id,
        "severity": alert.severity,
        "kind": alert.kind,
        "stage": alert.stage,
        "step": alert.step,
        "last": alert.last,
        "waiting_since": render(alert.waiting_since),
        "due_at": render(alert.due_at),
        "raised_at": render(alert.raised_at),
        "event_id": alert.event_id,
        "facts": facts,
    }
    told = {name: value for name, value in fields.items() if value is not None}
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()


def _what(alert: Alert) -> str:
    words = _WORDS[alert.kind].format(stage=alert.stage)
    return f"{words} (alert {alert.step})" if alert.step else words
