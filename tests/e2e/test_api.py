"""The API as API Gateway has it: keys, throttling; and what the producer answers behind it."""

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
def test_who_has_no_key_is_refused(cell: DeployedCell, key: str) -> None:
    answer = cell.post("ingestion", {}, key=key)
    assert (answer.status, answer.headers["content-type"]) == (403, "application/problem+json")
    assert answer.body["status"] == 403


def test_an_event_that_is_none_is_refused_with_its_faults(cell: DeployedCell) -> None:
    told = json.loads(event_lines(clean_scenario(2000))[0])
    answer = cell.post("ingestion", {**told["event"], "amount": 12.5, "currency": "EUX"})
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert {fault["pointer"] for fault in answer.body["errors"]} == {"/amount", "/currency"}


def test_a_batch_is_answered_event_by_event(cell: DeployedCell) -> None:
    good, other = clean_scenario(2001), clean_scenario(2002)
    bad = json.loads(event_line(other, 0, "malformed"))["event"]
    answer = cell.post("ingestion/batch", {"events": [json.loads(event_lines(good)[0])["event"], bad]})
    assert answer.status == 207
    assert [(result["status"], result["code"]) for result in answer.body["results"]] == [
        ("accepted", 202),
        ("refused", 400),
    ]
    cell.wait_for_status(good.invoice_id, "AwaitingAuthorization")
    assert cell.record(other.invoice_id) is None


def test_a_file_is_sent_by_the_command_line(cell: DeployedCell, tmp_path: Path) -> None:
    plan, log = clean_scenario(2005), tmp_path / "events.jsonl"
    log.write_bytes(b"".join(event_lines(plan)))
    done = subprocess.run(
        [sys.executable, "-m", "bems.cli", "send", str(log), "--url", cell.url],
        env={**os.environ, "BEMS_API_KEY": cell.key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cell.wait_for_status(plan.invoice_id, "Posted")


@pytest.fixture
def slow_key(cell: DeployedCell) -> Iterator[str]:
    """A second sender's key, which may send twice at once, and then once a minute or so."""
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


def test_who_sends_too_fast_is_told_to_wait_and_loses_nothing(cell: DeployedCell, slow_key: str) -> None:
    plan = clean_scenario(2003)
    told = [json.loads(one) for one in event_lines(plan)]
    answers = [cell.post(one["stage"], one["event"], key=slow_key) for one in told]
    assert [answer.status for answer in answers] == [202, 202, 429, 429]
    assert answers[2].headers["content-type"] == "application/problem+json"
    assert int(answers[2].headers["retry-after"]) >= 1
    for one in told[2:]:
        assert cell.post(one["stage"], one["event"]).status == 202
    wait_until("it is posted", lambda: cell.status(plan.invoice_id) == "Posted")
