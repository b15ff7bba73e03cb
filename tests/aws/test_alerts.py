"""Alerts on SNS: content and limits of messages."""

import json

import pytest
from botocore.exceptions import ClientError
from msgspec import structs

from bems.aws.alerts import SnsAlerts, message, subject
from bems.aws.clients import client
from bems.tracker.actions import Alert
from bems.tracker.alert_messages import json_body
from bems.tracker.contract import Facts, Source, Vendor
from bems.tracker.instants import HOUR
from tests.aws.cloud import CELL, Cloud
from tests.aws.recorded_calls import ServiceError
from tests.tracker.samples import FACTS, NOW

ALERT = Alert("a1", "INV/1", "stuck", "posting", "critical", 3, NOW, NOW + HOUR, NOW + 2 * HOUR, FACTS, last=True)


@pytest.fixture
def alerts(cloud: Cloud) -> SnsAlerts:
    sns = client("sns")
    topics = {topic["TopicArn"].rpartition("-")[2]: topic["TopicArn"] for topic in sns.list_topics()["Topics"]}
    cloud.aws.calls.clear()
    return SnsAlerts(sns, CELL, topics)


def test_an_alert_is_published_to_its_severitys_topic_with_attributes(cloud: Cloud, alerts: SnsAlerts) -> None:
    alerts.raise_alert(ALERT)
    alerts.raise_alert(structs.replace(ALERT, severity="warning", last=False))
    one, two = (call.params for call in cloud.aws.calls)
    assert [asked["TopicArn"].rpartition(":")[2] for asked in (one, two)] == [
        "bems-test-alerts-critical",
        "bems-test-alerts-warning",
    ]
    assert {name: value["StringValue"] for name, value in one["MessageAttributes"].items()} == {
        "cell": "test",
        "stage": "posting",
        "kind": "stuck",
        "severity": "critical",
        "last": "true",
    }
    assert two["MessageAttributes"]["last"]["StringValue"] == "false"


def test_the_message_starts_with_readable_text() -> None:
    text = message(ALERT, "eu-west")
    assert text.splitlines()[1].startswith(
        '  "text": "critical: INV/1 has waited for posting since 2026-03-02 (alert 3'
    )
    assert json.loads(text) == json_body(ALERT, "eu-west"), "the same JSON as a webhook of the embedded runtime"


def test_a_dispute_names_its_event() -> None:
    alert = structs.replace(ALERT, kind="dispute", step=0, last=False, event_id="e9", severity="warning")
    assert subject(alert, "eu") == "[warning] eu: INV/1 is disputed: its reconciliation found a mismatch"
    assert json.loads(message(alert, "eu"))["event_id"] == "e9"


def test_a_resolution_goes_to_the_topic_that_its_alerts_went_to(cloud: Cloud, alerts: SnsAlerts) -> None:
    resolved = structs.replace(ALERT, kind="resolved", last=False, detail="posting is posted")
    alerts.raise_alert(resolved)
    (call,) = cloud.aws.calls
    assert call.params["TopicArn"].endswith("-alerts-critical")
    assert call.params["Subject"] == "[resolved] test: earlier alerts of INV/1 are resolved: posting is posted"
    assert call.params["MessageAttributes"]["kind"]["StringValue"] == "resolved"


def test_a_contradiction_begins_with_what_the_event_says() -> None:
    detail = "an event says rejected, but ann recorded authorization as approved by hand on 2026-03-02"
    alert = structs.replace(ALERT, kind="contradiction", severity="warning", step=0, last=False, detail=detail)
    text = subject(alert, "eu-west")
    assert text == "[warning] eu-west: INV/1 has contradictory outcomes: an event says rejected, but ann recorded au..."
    assert len(text) == 99


def test_the_largest_alert_fits_the_limits_of_sns(cloud: Cloud, alerts: SnsAlerts) -> None:
    attributes = {f"{n:02}": "\u00e4" * 62 for n in range(32)}
    facts = Facts(
        FACTS.amount,
        "EUR",
        Vendor("v" * 128, "\u20ac" * 256, "DE", "\u20ac" * 64),
        Source("\u20ac" * 64),
        None,
        attributes,
    )
    alerts.raise_alert(structs.replace(ALERT, invoice_id="~" * 128, facts=facts))
    (call,) = cloud.aws.calls
    assert len(call.params["Message"].encode()) < 262_144 // 10
    assert len(call.params["Subject"]) == 99 and call.params["Subject"].endswith("...")
    assert call.params["Subject"].isascii() and call.params["Subject"].isprintable()


def test_an_error_of_sns_is_raised(cloud: Cloud, alerts: SnsAlerts) -> None:
    def refuse(_: object) -> dict[str, object]:
        raise ServiceError("Throttled", 429)

    cloud.aws.fakes["Publish"] = refuse
    with pytest.raises(ClientError, match="Throttled"):
        alerts.raise_alert(ALERT)
