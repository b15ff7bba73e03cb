"""`bems act confirm`: a command that another person must confirm."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bems.tracker.policy import ActsSpec, ConfirmationSpec, PolicySpec, build_policy
from tests.cli.cli_harness import CliHarness, event, running

POLICY = build_policy(PolicySpec(acts=ActsSpec(complete=ConfirmationSpec())), frozenset())


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[CliHarness]:
    with running(tmp_path, policy=POLICY) as started:
        started.send(event("e1", invoice_id="I1"), event("e2", invoice_id="I2"))
        yield started


def test_a_command_is_requested_listed_and_confirmed_by_another_person(harness: CliHarness) -> None:
    complete = ("act", "complete", "I1", "--stage", "authorization", "--note", "signed on paper")
    requested = harness.bems(*complete, "--command-id", "c-1", role="operator")
    assert (requested.code, requested.err) == (0, "")
    assert "complete I1: requested; another person must confirm it until" in requested.out
    assert "bems act confirm c-1" in requested.out
    assert harness.bems("invoice", "I1", "--json").json["status"] == "AwaitingAuthorization"

    (listed,) = harness.bems("act", "requests", "--json").json["items"]
    assert (listed["command_id"], listed["result"], listed["note"]) == ("c-1", "requested", "signed on paper")
    shown = harness.bems("act", "requests").out
    assert "complete authorization" in shown and "c-1" in shown and "I1" in shown

    own = harness.bems("act", "confirm", "c-1", role="operator")
    assert own.code == 2
    assert "another person must confirm it" in own.err
    assert harness.bems("act", "confirm", "none").code == 2

    confirmed = harness.bems("act", "confirm", "c-1")
    assert (confirmed.code, confirmed.out) == (0, "c-1: confirmed and done\n")
    assert harness.bems("act", "confirm", "c-1").out == "c-1: already confirmed\n"
    assert harness.bems("act", "requests", "--json").json["items"] == []
    found = harness.bems("invoice", "I1", "--json").json
    assert found["status"] == "AwaitingReconciliation"
    manual = found["recorded_by_hand"]["authorization"]
    assert manual["operator"] != manual["confirmed_by"]


def test_many_commands_can_be_requested_at_once(harness: CliHarness) -> None:
    result = harness.bems("act", "complete", "I1", "I2", "--stage", "authorization", "--note", "why", "--run", "r")
    assert result.code == 0
    assert "2 in all: 2 requested, another person must confirm it" in result.out
    assert len(harness.bems("act", "requests", "--json").json["items"]) == 2
