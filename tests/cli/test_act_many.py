"""`bems act` for many invoices, and its deadlines."""

import json
from pathlib import Path

import pytest

from bems.cli import bulk_commands
from bems.cli.bulk_commands import command_id, read_ids
from bems.cli.deadlines import DeadlineInput, DeadlineParam, resolve_deadline
from bems.cli.errors import UserError
from bems.cli.files import read_policy_file
from bems.tracker.instants import parse, render
from tests.cli.cli_harness import CliHarness, FakeResponse, RecordedRequest, StartFakeServer, event, run

NOTE = ("--note", "why")


@pytest.fixture
def three(harness: CliHarness) -> CliHarness:
    harness.send(*(event(f"e{number}", invoice_id=f"I{number}") for number in range(3)))
    return harness


def test_each_outcome_is_reported(three: CliHarness, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("# the late ones\nI0\n\nI1\nnope\nI0\n")
    first = three.bems("act", "park", "--from", str(tmp_path / "ids"), "I2", *NOTE, "--run", "monday")
    assert (first.code, first.err) == (1, "")
    assert first.out.splitlines() == [
        "park I2: done",
        "park I0: done",
        "park I1: done",
        "park nope: not found",
        "4 in all: 3 done, 1 not found",
        "To retry safely, repeat the command with --run monday",
    ]
    again = three.bems("act", "park", "--from", str(tmp_path / "ids"), "I2", *NOTE, "--run", "monday", "--json")
    assert again.code == 1
    assert {one["invoice_id"]: one["result"] for one in again.json["results"]} == {
        "I2": "repeated",
        "I0": "repeated",
        "I1": "repeated",
        "nope": "not_found",
    }
    assert again.json["summary"] == {**again.json["summary"], "repeated": 3, "not_found": 1, "refused": 0}
    other = three.bems("act", "park", "I0", "I1", *NOTE)
    assert other.code == 1
    assert "park I0: refused: the invoice is parked: revive it first" in other.out
    assert "2 in all: 2 refused" in other.out
    assert three.bems("act", "revive", "I0", "I1", "I2").code == 0


def test_ids_are_read_from_lists_csv_and_json(tmp_path: Path) -> None:
    def ids(text: str) -> list[str]:
        (tmp_path / "ids").write_text(text)
        return read_ids(str(tmp_path / "ids"))

    assert ids("\ufeffI/1\r\nI/2 \n#I/3\n") == ["I/1", "I/2"]
    assert ids('invoice_id,amount\nI/1,"1,000.00"\n"I,2",5\n') == ["I/1", "I,2"]
    assert ids("Amount;Invoice ID\n1,00;I/1\n2,00;I/2\n") == ["I/1", "I/2"]
    assert ids("I/1\t1.00\nI/2\t2.00\n") == ["I/1", "I/2"]
    assert ids('{"invoice_id": "I/1", "status": "Posted"}\n{"stage": "x", "event": {"invoice_id": "I/2"}}') == [
        "I/1",
        "I/2",
    ]
    with pytest.raises(UserError) as wrong:
        ids('I 1\nfine\n{"a": 1}\n' + "x" * 129)
    assert [line.partition(": ")[0] for line in wrong.value.message.splitlines()] == [
        f"{tmp_path}/ids:{number}" for number in (1, 3, 4)
    ]


def test_errors_are_reported_before_any_command_is_sent(three: CliHarness, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"I0\n\xff\n")
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04...[Content_Types].xml")
    assert (
        f"{tmp_path}/bad:2: this is not UTF-8 text"
        in three.bems("act", "park", *NOTE, "--from", f"{tmp_path}/bad").error()
    )
    message = three.bems("act", "park", *NOTE, "--from", f"{tmp_path}/book.xlsx").error()
    assert "an Excel file" in message and "CSV in UTF-8 with a column invoice_id" in message
    assert "No such file" in three.bems("act", "park", *NOTE, "--from", "none").error()
    assert three.bems("act", "park", *NOTE).error() == "no invoice given: name INVOICE ids, or use --from FILE"
    assert "--run" in three.bems("act", "park", "I0", "I1", *NOTE, "--command-id", "x").error()
    assert "operator or admin" in three.bems("act", "park", "I0", "I1", *NOTE, role="viewer").error()
    assert three.bems("invoice", "I0", "--json").json.get("mark") is None
    nothing = three.bems("act", "park", *NOTE, "--from", "-", stdin=b"# none\n")
    assert (nothing.code, nothing.out.splitlines()[0]) == (0, "0 in all")


def test_an_interrupted_run_says_how_to_resume_it(
    start_fake_server: StartFakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_commands, "RETRIES_FOR_SECONDS", 0.0)
    monkeypatch.setattr(bulk_commands, "MAX_IN_FLIGHT_COMMANDS", 1)

    def answer(request: RecordedRequest) -> FakeResponse:
        sent = json.loads(request.body)
        if sent["invoice_id"] == "I1":
            return FakeResponse(503, {"detail": "the disk is full"})
        return FakeResponse(200, {"command_id": sent["command_id"], "status": "accepted"})

    fake_server = start_fake_server(answer)
    cut = run("act", "park", "I0", "I1", "I2", *NOTE, "--run", "r", "--url", fake_server.url)
    assert cut.code == 1
    assert cut.out.splitlines() == [
        "park I0: done",
        "park I1: outcome unknown",
        "3 in all: 1 done, 1 outcome unknown, 1 not sent",
        "To retry safely, repeat the command with --run r",
    ]
    assert "the disk is full; to resume, repeat it with --run r" in cut.err
    ids = [json.loads(request.body)["command_id"] for request in fake_server.requests]
    assert ids == [command_id("r", "I0"), command_id("r", "I1")]


def test_requests_are_retried_when_a_cell_is_busy(
    start_fake_server: StartFakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_commands, "MIN_RETRY_PAUSE_SECONDS", 0.001)
    answers = [FakeResponse(429, {"detail": "slower"}), FakeResponse(502, b"<html>"), None]

    def answer(_: RecordedRequest) -> FakeResponse | None:
        return answers.pop(0) if answers else FakeResponse(200, {"command_id": "c", "status": "accepted"})

    done = run("act", "park", "I0", "I1", *NOTE, "--url", start_fake_server(answer).url)
    assert (done.code, done.err) == (0, "")


NOW = parse("2026-03-06T15:00:00Z")
"""A Friday."""


@pytest.mark.parametrize(
    ("given", "instant", "meaning"),
    [
        ("friday", "2026-03-13T23:00:00Z", "the end of Friday 2026-03-13 in Europe/Amsterdam"),
        ("Sat", "2026-03-07T23:00:00Z", "the end of Saturday 2026-03-07 in Europe/Amsterdam"),
        ("tomorrow", "2026-03-07T23:00:00Z", "the end of Saturday 2026-03-07 in Europe/Amsterdam"),
        ("2026-03-31", "2026-03-31T22:00:00Z", "the end of Tuesday 2026-03-31 in Europe/Amsterdam"),
        ("+3d", "2026-03-09T15:00:00Z", "3d from now"),
        ("+12h", "2026-03-07T03:00:00Z", "12h from now"),
        ("+3bd", "2026-03-11T15:00:00Z", "3bd from now by the policy's calendar in Europe/Amsterdam"),
        ("2026-03-31T12:00:00+02:00", "2026-03-31T10:00:00Z", ""),
    ],
)
def test_deadlines_are_resolved(given: str, instant: str, meaning: str) -> None:
    until: DeadlineInput = DeadlineParam().convert(given, None, None)
    deadline = resolve_deadline(until, NOW, read_policy_file(None))
    assert (render(deadline.instant), deadline.meaning) == (instant, meaning)


def test_the_resulting_deadline_is_printed(three: CliHarness) -> None:
    three.advance_to("2026-03-02T12:00:00Z")
    message = three.bems("act", "extend", "I0", "--until", "+30d").out
    assert "New deadline: 2026-04-01 12:00:0" in message and "UTC (30d from now)" in message
    many = three.bems("act", "extend", "I1", "I2", "--until", "+20bd")
    assert many.code == 0
    assert (
        "(20bd from now by the built-in policy's calendar in Europe/Amsterdam; choose another with --policy FILE)"
        in many.out
    )
    # A retry must use the same deadline.
    assert "--until 2026-03-30T" in many.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ("soon", "'soon' is not a time; use friday, tomorrow, +3d, +12h, +3bd, 2026-12-24 or"),
        ("+3w", '"3w" is not a duration'),
        ("+0d", "is not a positive duration"),
        ("2026-02-30", "'2026-02-30' is not a time"),
        ("fr", "'fr' is not a time"),
    ],
)
def test_invalid_deadlines_are_refused(until: str, message: str) -> None:
    assert message in run("act", "extend", "I", "--until", until).error()
