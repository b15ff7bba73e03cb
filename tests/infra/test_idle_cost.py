"""Test that the monthly cost of an idle cell in docs/cost.md matches the templates.

On a difference, the failure shows the correct table.
"""

import json
from math import prod
from pathlib import Path
from typing import Any

from bems.tracker import metrics as tracker
from tests.infra.template import Template

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cost.md"

PRICES = {
    "keys": 1.00,
    "alarms' metrics": 0.10,
    "custom metrics": 0.30,
    "web ACLs": 5.00,
    "web ACLs' rules": 1.00,
    "dashboards": 3.00,
}
"""US dollars a month, in us-east-1. The document names the source of each price."""

METRICS_PER_ANOMALY_ALARM = 3
"""Number of metrics for which an anomaly alarm is billed: its metric, and the upper and lower bound of its band."""


def count(cell: Template) -> dict[str, int]:
    """Return the number of billed units of a cell, by the name of their price."""
    (acl,) = cell.by_type("AWS::WAFv2::WebACL").values()
    cell_metrics = [
        prod(len(tracker.DIMENSION_VALUES[name]) for name in metric.dimensions if name in tracker.DIMENSION_VALUES)
        for metric in tracker.METRICS.values()
    ]
    return {
        "keys": len(cell.by_type("AWS::KMS::Key")),
        "alarms' metrics": sum(alarm_metrics(alarm) for alarm in cell.by_type("AWS::CloudWatch::Alarm").values()),
        "custom metrics": sum(cell_metrics) + len(cell.by_type("AWS::Logs::MetricFilter")),
        "web ACLs": 1,
        "web ACLs' rules": len(acl["Rules"]),
        "dashboards": len(cell.by_type("AWS::CloudWatch::Dashboard")),
    }


def alarm_metrics(alarm: dict[str, Any]) -> int:
    """Return the number of metrics for which an alarm is billed."""
    if "ANOMALY_DETECTION_BAND" in json.dumps(alarm):
        return METRICS_PER_ANOMALY_ALARM
    return sum("MetricStat" in query for query in alarm.get("Metrics", [{"MetricStat": {}}]))


def table(*cells: Template) -> str:
    """Return the document's table for these cells, in Markdown."""
    counts = [count(cell) for cell in cells]
    text = "| each month | fifo, timestream | standard, s3tables |\n|---|---:|---:|\n"
    for name, price in PRICES.items():
        text += f"| {name} | {' | '.join(f'{units[name]}: {units[name] * price:.2f}' for units in counts)} |\n"
    totals = [sum(units[name] * price for name, price in PRICES.items()) for units in counts]
    return text + f"| **all of these** | {' | '.join(f'**{total:.0f}**' for total in totals)} |\n"


def test_the_document_has_the_cost_of_an_idle_cell(fifo: Template, standard: Template) -> None:
    expected = table(fifo, standard)
    assert expected in DOCUMENT.read_text(), f"docs/cost.md should have:\n{expected}"


def test_the_document_has_every_monthly_price() -> None:
    text = DOCUMENT.read_text()
    assert [name for name, price in PRICES.items() if f"| {name}, a month | {price} |" not in text] == []
