"""Telemetry: metrics have exactly the dimensions of the alarms."""

import json
from typing import Any

import pytest

from bems.tracker.actions import Alert
from bems.tracker.metrics import CONFLICTS, EVENTS_ACCEPTED, SWEEP_BACKLOG, VISIBILITY_LATENCY
from handlers.telemetry import CountedAlerts, MetricsBuffer, entry_point, logger
from tests.aws.recorded_calls import Context
from tests.handlers.emf import read_output
from tests.tracker.samples import FACTS, NOW


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the service name, which Powertools would add as a dimension."""
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "producer")


def test_metrics_are_written_once_per_set_of_dimensions(capsys: pytest.CaptureFixture[str]) -> None:
    meter = MetricsBuffer("eu")
    for stage in ("posting", "ingestion", "posting"):
        meter.add(EVENTS_ACCEPTED, stage=stage)
    meter.add(CONFLICTS, 2, stage="posting")
    meter.flush()
    meter.flush()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{name: value for name, value in line.items() if name != "_aws"} for line in lines] == [
        {"cell": "eu", "stage": "posting", "EventsAccepted": [2.0], "Conflicts": [2.0]},
        {"cell": "eu", "stage": "ingestion", "EventsAccepted": [1.0]},
    ]
    assert lines[0]["_aws"]["CloudWatchMetrics"] == [
        {
            "Namespace": "BEMS",
            "Dimensions": [["cell", "stage"]],
            "Metrics": [{"Name": "EventsAccepted", "Unit": "Count"}, {"Name": "Conflicts", "Unit": "Count"}],
        }
    ]


def test_a_zero_is_written_too(capsys: pytest.CaptureFixture[str]) -> None:
    with MetricsBuffer("eu").flushed() as meter:
        meter.add(SWEEP_BACKLOG, 0)
    assert read_output(capsys).metrics == {("SweepBacklog", "eu"): [0.0]}


@pytest.mark.parametrize("count", [99, 100, 101, 250])
def test_every_duration_is_kept_however_many(capsys: pytest.CaptureFixture[str], count: int) -> None:
    """The embedded metric format allows 100 values of a metric per line."""
    meter = MetricsBuffer("eu")
    for value in range(count):
        meter.add(VISIBILITY_LATENCY, value, stage="posting")
    meter.flush()
    shown = read_output(capsys)
    assert shown.metrics == {("VisibilityLatency", "eu", "posting"): [float(value) for value in range(count)]}
    assert all(len(json.loads(line)["VisibilityLatency"]) <= 100 for line in shown.text.splitlines())


def test_metrics_are_written_when_the_invocation_fails(capsys: pytest.CaptureFixture[str]) -> None:
    meter = MetricsBuffer("eu")
    meter.add(SWEEP_BACKLOG, 1)
    with pytest.raises(ZeroDivisionError), meter.flushed():
        raise ZeroDivisionError
    assert read_output(capsys).metrics == {("SweepBacklog", "eu"): [1.0]}


def test_wrong_dimensions_raise() -> None:
    with pytest.raises(ValueError, match="EventsAccepted has the dimensions cell, stage"):
        MetricsBuffer("eu").add(EVENTS_ACCEPTED)


class Topics:
    """Alerts port that raises if `refuses`."""

    def __init__(self, refuses: bool) -> None:
        self._refuses = refuses

    def raise_alert(self, alert: Alert) -> None:
        if self._refuses:
            raise RuntimeError(alert.id)


def test_a_resolution_is_logged_and_not_counted_as_an_alert(capsys: pytest.CaptureFixture[str]) -> None:
    resolved = Alert("a2", "INV/1", "resolved", "posting", "critical", 3, NOW, NOW, NOW, FACTS)
    with MetricsBuffer("eu").flushed() as meter:
        CountedAlerts(Topics(refuses=False), meter).raise_alert(resolved)
    shown = read_output(capsys)
    assert shown.metrics == {}
    assert [(line["message"], line["kind"]) for line in shown.logs] == [("alerts resolved", "resolved")]


def test_a_raised_alert_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """The destination `log`, which every severity has by default."""
    alert = Alert("a1", "INV/1", "stuck", "posting", "critical", 3, NOW, NOW, NOW, FACTS)
    with MetricsBuffer("eu").flushed() as meter:
        CountedAlerts(Topics(refuses=False), meter).raise_alert(alert)
        with pytest.raises(RuntimeError):
            CountedAlerts(Topics(refuses=True), meter).raise_alert(alert)
    shown = read_output(capsys)
    assert shown.metrics == {("AlertsRaised", "eu", "posting", "critical"): [1.0]}
    (line,) = shown.logs
    assert (line["level"], line["message"]) == ("INFO", "alert raised")
    logged = {name: line[name] for name in ("alert_id", "invoice_id", "kind", "stage", "severity", "step")}
    assert logged == {
        "alert_id": "a1",
        "invoice_id": "INV/1",
        "kind": "stuck",
        "stage": "posting",
        "severity": "critical",
        "step": 3,
    }


def test_log_event_stays_off_if_the_environment_enables_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The headers of an API Gateway event contain the caller's key."""
    monkeypatch.setenv("POWERTOOLS_LOGGER_LOG_EVENT", "true")

    def handler(event: dict[str, Any], context: Any) -> str:  # noqa: ARG001
        logger.info("hello")
        return str(event["headers"]["x-api-key"])

    assert entry_point(handler)({"headers": {"x-api-key": "secret-key"}}, Context()) == "secret-key"
    shown = read_output(capsys)
    assert "secret-key" not in shown.text
    assert [(line["message"], line["function_request_id"]) for line in shown.logs] == [("hello", "request-1")]
