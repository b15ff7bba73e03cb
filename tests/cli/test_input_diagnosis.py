"""Recognition of files that are not logs and lines that are not events, and the first refused lines."""

import gzip
import json
from pathlib import Path

import pytest

from bems.cli.input_diagnosis import diagnose_line
from bems.cli.refused_events import FirstRefusedLines, RefusedLine
from bems.tracker.responses import Error
from tests.cli.cli_harness import CliHarness, event, lines, run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04\x14\x00[Content_Types].xml", "this is an Excel file (xlsx, a zip archive)"),
        (b"PK\x03\x04\x14\x00events.jsonl", "this is a zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "this is an old Excel file (xls)"),
        ('{"stage": "ingestion"}\n'.encode("utf-16"), "this is text in UTF-16"),
        ('{"stage": "ingestion"}\n'.encode("utf-16-le"), "this is text in UTF-16"),
        ('{"stage": "ingestion"}\n'.encode("utf-16-be"), "this is text in UTF-16"),
        (b"\x28\xb5\x2f\xfd\x00", "this is compressed with zstd"),
        (b"%PDF-1.7", "this is a PDF file"),
        (b"PAR1\x00", "this is a Parquet file"),
    ],
)
def test_a_file_of_another_kind_is_recognized_and_not_sent(harness: CliHarness, content: bytes, message: str) -> None:
    for given in (content, gzip.compress(content)):
        for command in (["send", "-"], ["replay", "-"]):
            assert harness.bems(*command, stdin=given).error().startswith(f"-: {message}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"event_id,invoice_id,amount\n", "this is CSV: "),
        (b"e1;I1;1,00\n", "this is CSV: "),
        (b"e1\tI1\t1.00\n", "this is CSV: "),
        (b"{\n", "this is JSON over several lines: "),
        (b'[{"stage": "ingestion"}]', "this is a JSON list: "),
        (b"<invoice>", "this is XML or HTML: "),
    ],
)
def test_a_line_of_another_kind_is_recognized(line: bytes, message: str) -> None:
    assert (diagnose_line(line) or "").startswith(message)


@pytest.mark.parametrize(
    "line", [b"It was a dark", b'{"stage": "x", "event": {}}', b"{'a': 1}", b"17", b'{"a":' * 10_000]
)
def test_other_lines_have_no_diagnosis(line: bytes) -> None:
    assert diagnose_line(line) is None


def test_an_event_without_a_stage_is_shown_wrapped() -> None:
    wrapped = '{"stage": "reconciliation", "event": {"event_id":"e","invoice_id":"I","status":"matched", ...}}'
    bare = json.dumps({"event_id": "e", "invoice_id": "I", "status": "matched", "amount": "1"}).encode()
    assert diagnose_line(bare) == f"this is an event without its stage: wrap it, {wrapped}"
    beside = json.dumps({"stage": "posting", "event_id": "e", "invoice_id": "I"}).encode()
    assert '{"stage": "posting", "event": {' in (diagnose_line(beside) or "")


def test_the_first_refused_lines_are_shown_with_their_errors(harness: CliHarness, tmp_path: Path) -> None:
    bad = [event(f"bad{number}", amount="1.234", currency="EUX" if number else "EUR") for number in range(6)]
    log = tmp_path / "log"
    log.write_bytes(lines(event("good")) + b"e1,I1,1.00\n" + lines(*bad))
    sent = harness.bems("send", str(log))
    assert sent.code == 1
    shown = [" ".join(line.split()) for line in sent.out.splitlines()]
    first = shown.index("The first 5 of 7 refused lines; --refused-out FILE writes all of them")
    assert shown[first + 1].startswith("2 this is CSV: write one JSON object per line, ")
    assert shown[first + 2].startswith('3 /event/amount: "1.234" has 3 after the point')
    assert shown[first + 3].startswith('4 /event/currency: "EUX" is not a currency of ISO 4217')
    refused = harness.bems("send", str(log), "--json", "--refused-out", str(tmp_path / "out")).json["first_refused"]
    assert [one["line"] for one in refused] == [2, 3, 4, 5, 6]
    assert refused[1]["errors"][0]["pointer"] == "/event/amount"
    assert refused[0]["hint"].startswith("this is CSV")
    named = harness.bems("send", str(log), "--refused-out", str(tmp_path / "out")).out
    assert f"refused lines; all are in {tmp_path}/out\n" in named


def test_a_conflict_counts_as_a_refused_line(harness: CliHarness) -> None:
    sent = harness.bems("send", "-", stdin=lines(event("e"), event("e", amount="2.00")))
    assert "The refused lines; --refused-out FILE writes all of them" in sent.out
    assert "was accepted before with different content" in sent.out


def test_replay_recognizes_a_log_of_csv() -> None:
    result = run("replay", "-", "--processes", "1", stdin=b"event_id,invoice_id,amount\ne1,I1,1.00\n")
    assert result.code == 2
    assert "-: no line is an event: this is CSV: write one JSON object per line" in result.err


def test_the_first_refused_lines_are_kept_in_any_order_of_arrival() -> None:
    first = FirstRefusedLines()
    for line in (9, 3, 7, 1, 8, 2, 5):
        first.add(RefusedLine(line, None, [Error("", "wrong")]))
    assert [one.line for one in first.lines] == [1, 2, 3, 5, 7]
