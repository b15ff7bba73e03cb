"""docs/cost.md: its table equals the counts of test_costs.py times the list prices below.

On a difference, the failure message shows the correct table.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bems.tracker.time_series_schema import to_row
from bems.tracker.transitions import Transition
from tests.aws.cloud import Cloud
from tests.handlers.test_costs import SCENARIOS, Cost, Scenario, happy, stuck

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cost.md"

PRICES = {
    "transitions": 25.00,
    "API requests": 3.50,
    "WAF requests": 0.60,
    "bus events": 1.00,
    "archived GB": 0.10,
    "standard publishes": 0.50,
    "FIFO publishes": 0.30,
    "FIFO GB": 0.017,
    "FIFO deliveries": 0.01,
    "FIFO delivered GB": 0.001,
    "standard queue requests": 0.40,
    "FIFO queue requests": 0.50,
    "invocations": 0.20,
    "write units": 0.625,
    "read units": 0.125,
    "Timestream writes": 0.50,
    "Firehose GB": 0.075,
    "log GB": 0.50,
}
"""US dollars per million or per GB in us-east-1. The document names the sources."""

EVENTS = 4
QUEUE_REQUESTS = 3
"""Requests per message: send, receive and delete, without batching."""

SETTINGS = (("fifo", "timestream"), ("fifo", "s3tables"), ("standard", "timestream"), ("standard", "s3tables"))
SCENARIO_OF: Mapping[str, Scenario] = {"happy path": happy, "one alert": stuck}


def lines(cost: Cost, sizes: Mapping[str, float], delivery: str, series: str) -> dict[str, float]:
    """Return US dollars per million invoices, by line. Sizes are kB per invoice, which is GB per million invoices."""
    price = PRICES
    # Each alert has a row; the message that alerts are resolved has none.
    alerts, messages = cost.rows - EVENTS, cost.calls.get("Publish", 0)
    waits = cost.calls["SendTaskSuccess"] + alerts
    if delivery == "fifo":
        published = EVENTS * price["FIFO publishes"] + sizes["detail"] * price["FIFO GB"]
        topic = published + EVENTS * price["FIFO deliveries"] + sizes["detail"] * price["FIFO delivered GB"]
    else:
        topic = EVENTS * price["standard publishes"]
    # The producer and a processor for each event, RegisterWait for each wait, Escalate for each alert, the recorder.
    invocations = 2 * EVENTS + waits + alerts + cost.stream_records
    archive = sizes["detail"] * price["archived GB"] if delivery == "standard" else 0.0
    return {
        "Step Functions": cost.transitions * price["transitions"],
        "API Gateway": EVENTS * price["API requests"],
        "WAF": EVENTS * price["WAF requests"],
        "bus": EVENTS * price["bus events"] + archive,
        "topics": topic + messages * price["standard publishes"],
        "queues": EVENTS * QUEUE_REQUESTS * price[f"{'FIFO' if delivery == 'fifo' else 'standard'} queue requests"],
        "Lambda, requests": invocations * price["invocations"],
        "DynamoDB": (cost.write_units + cost.index_units) * price["write units"]
        + cost.read_units * price["read units"],
        "time series": cost.rows * price["Timestream writes"]
        if series == "timestream"
        else sizes["rows"] * price["Firehose GB"],
        "logs": sizes["logs"] * price["log GB"],
    }


def measure(cloud: Cloud, scenario: Scenario, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """Return kB per invoice: on the bus, in the time series, and in the functions' logs."""
    cloud.replace_moto()
    scenario(cloud)
    cloud.reset()
    capsys.readouterr()
    scenario(cloud)
    logged = len(capsys.readouterr().out.encode())
    entries = [entry for call in calls(cloud, "PutEvents") for entry in call["Entries"]]
    changes = [call["Item"]["changes"]["B"] for call in calls(cloud, "PutItem") if "changes" in call["Item"]]
    transitions = [one for packed in changes for one in msgspec.msgpack.decode(packed, type=tuple[Transition, ...])]
    return {
        "detail": sum(len(entry["Detail"].encode()) for entry in entries) / 1000,
        "rows": sum(len(msgspec.json.encode(to_row(one, "test"))) for one in transitions) / 1000,
        "logs": logged / 1000,
    }


def calls(cloud: Cloud, operation: str) -> list[Any]:
    return [call.params for call in cloud.aws.calls if call.operation == operation]


def table(scenario: str, sizes: Mapping[str, float]) -> str:
    columns = [lines(SCENARIOS[scenario][1], sizes, *setting) for setting in SETTINGS]
    text = (
        f"| {scenario} | {' | '.join(', '.join(setting) for setting in SETTINGS)} |\n|---|{'---:|' * len(SETTINGS)}\n"
    )
    for line in columns[0]:
        text += f"| {line} | {' | '.join(f'{column[line]:.2f}' for column in columns)} |\n"
    return text + f"| **all of these** | {' | '.join(f'**{sum(column.values()):.0f}**' for column in columns)} |\n"


@pytest.mark.parametrize("scenario", SCENARIO_OF)
def test_the_document_has_the_table(cloud: Cloud, scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = table(scenario, measure(cloud, SCENARIO_OF[scenario], capsys))
    assert made in DOCUMENT.read_text(), f"docs/cost.md should have:\n{made}"


def test_the_document_names_every_price() -> None:
    text = DOCUMENT.read_text()
    missing = [name for name, price in PRICES.items() if f"| {name} | {price} |" not in text]
    assert missing == []
