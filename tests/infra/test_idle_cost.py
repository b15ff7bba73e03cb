"""docs/cost.md: what a cell costs when nothing happens is counted in the templates. On a difference the failure shows
the table as it should be."""

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
"""US dollars a month, in us-east-1; where each is from is said in the document."""

BAND = 3
"""Metrics that an alarm on a band is billed for: what it watches, and the band's two edges."""


def count(cell: Template) -> dict[str, int]:
    (acl,) = cell.by_type("AWS::WAFv2::WebACL").values()
    own = [
        prod(len(tracker.VALUES[name]) for name in metric.dimensions if name in tracker.VALUES)
        for metric in tracker.METRICS.values()
    ]
    return {
        "keys": len(cell.by_type("AWS::KMS::Key")),
        "alarms' metrics": sum(watched(alarm) for alarm in cell.by_type("AWS::CloudWatch::Alarm").values()),
        "custom metrics": sum(own) + len(cell.by_type("AWS::Logs::MetricFilter")),
        "web ACLs": 1,
        "web ACLs' rules": len(acl["Rules"]),
        "dashboards": len(cell.by_type("AWS::CloudWatch::Dashboard")),
    }


def watched(alarm: dict[str, Any]) -> int:
    if "ANOMALY_DETECTION_BAND" in json.dumps(alarm):
        return BAND
    return sum("MetricStat" in one for one in alarm.get("Metrics", [{"MetricStat": {}}]))


def table(*cells: Template) -> str:
    counts = [count(cell) for cell in cells]
    text = "| each month | fifo, timestream | standard, s3tables |\n|---|---:|---:|\n"
    for name, price in PRICES.items():
        text += f"| {name} | {' | '.join(f'{one[name]}: {one[name] * price:.2f}' for one in counts)} |\n"
    sums = [sum(one[name] * price for name, price in PRICES.items()) for one in counts]
    return text + f"| **all of these** | {' | '.join(f'**{one:.0f}**' for one in sums)} |\n"


def test_the_document_says_what_an_idle_cell_costs(fifo: Template, standard: Template) -> None:
    made = table(fifo, standard)
    assert made in DOCUMENT.read_text(), f"docs/cost.md should have:\n{made}"


def test_the_document_names_every_monthly_price() -> None:
    text = DOCUMENT.read_text()
    assert [name for name, price in PRICES.items() if f"| {name}, a month | {price} |" not in text] == []
