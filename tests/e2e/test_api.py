"""End-to-end tests of the API: keys, throttling, and the producer's responses."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cell import DeployedCell
from tests.e2e.polling import wait_until
from tests.e2e.scenarios import clean_scenario, event_line, event_lines

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("key", ["", "not-a-key"])
def test_requests_without_a_valid_key_are_refused(cell: DeployedCell, key: str) -> None:
    response = cell.post("ingestion", {}, key=key)
    assert (response.status, response.headers["content-type"]) == (403, "application/problem+json")
    assert response.body["status"] == 403


def test_an_invalid_event_is_refused_with_every_problem(cell: DeployedCell) -> None:
    generated = json.loads(event_lines(clean_scenario(2000))[0])
    response = cell.post("ingestion", {**generated["event"], "amount": 12.5, "currency": "EUX"})
    assert (response.status, response.headers["content-type"]) == (400, "application/problem+json")
    assert {problem["pointer"] for problem in response.body["errors"]} == {"/amount", "/currency"}


def test_a_batch_is_answered_event_by_event(cell: DeployedCell) -> None:
    good, other = clean_scenario(2001), clean_scenario(2002)
    malformed = json.loads(event_line(other, 0, "malformed"))["event"]
    response = cell.post("ingestion/batch", {"events": [json.loads(event_lines(good)[0])["event"], malformed]})
    assert response.status == 207
    assert [(result["status"], result["code"]) for result in response.body["results"]] == [
        ("accepted", 202),
        ("refused", 400),
    ]
    cell.wait_for_status(good.invoice_id, "AwaitingAuthorization")
    assert cell.record(other.invoice_id) is None


def test_the_command_line_sends_a_file(cell: DeployedCell, tmp_path: Path) -> None:
    plan, log = clean_scenario(2005), tmp_path / "events.jsonl"
    log.write_bytes(b"".join(event_lines(plan)))
    completed = subprocess.run(
        [sys.executable, "-m", "bems", "send", str(log), "--url", cell.url],
        env={**os.environ, "BEMS_API_KEY": cell.key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    cell.wait_for_status(plan.invoice_id, "Posted")


@pytest.fixture
def slow_key(cell: DeployedCell) -> Iterator[str]:
    """Create a second API key, with a burst of two requests and then about one request a minute."""
    gateway = cell.emulator.client("apigateway")
    plan = gateway.create_usage_plan(
        name="slow",
        throttle={"rateLimit": 0.01, "burstLimit": 2},
        apiStages=[{"apiId": cell.api, "stage": "v1"}],
    )
    key = gateway.create_api_key(name="slow", enabled=True)
    gateway.create_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"], keyType="API_KEY")
    yield key["value"]
    gateway.delete_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"])
    gateway.delete_api_key(apiKey=key["id"])


def test_throttled_events_are_answered_429_and_accepted_on_retry(cell: DeployedCell, slow_key: str) -> None:
    plan = clean_scenario(2003)
    generated = [json.loads(line) for line in event_lines(plan)]
    responses = [cell.post(event["stage"], event["event"], key=slow_key) for event in generated]
    assert [response.status for response in responses] == [202, 202, 429, 429]
    assert responses[2].headers["content-type"] == "application/problem+json"
    assert int(responses[2].headers["retry-after"]) >= 1
    for event in generated[2:]:
        assert cell.post(event["stage"], event["event"]).status == 202
    wait_until("it is posted", lambda: cell.status(plan.invoice_id) == "Posted")
