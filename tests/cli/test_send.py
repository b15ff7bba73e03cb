"""`bems send` and its sender: every event is decided or reported as undelivered, despite faults."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bems.cli.batches import LineResult
from bems.cli.client import Client
from bems.cli.errors import Failure, UserError
from bems.cli.latency import LatencyHistogram
from bems.cli.send_summary import field_of
from bems.cli.sender import Sender
from bems.generator.event_log import generate
from bems.tracker.cells import Limits, Rate
from tests.cell_process import CellProcess
from tests.cli.cli_harness import CliHarness, FakeResponse, RecordedRequest, StartFakeServer, event, lines, run, running
from tests.waiting import SOON, until

MIXED = (
    lines(event("good"), event("other", amount="1.00"))
    + b'{"stage": "ingestion", "event": '
    + b"\n\n"
    + lines(event("wrong", amount="1.234", vendor={"id": ""}))
    + lines(event("good"))
    + lines(event("other", amount="2.00"))
    + lines(event("where"), stage="payment")
    + lines(event("later", occurred_at="2999-01-01T00:00:00Z"))
)


def accept(request: RecordedRequest) -> FakeResponse:
    """Respond like a cell that accepts every event."""
    if request.path.endswith("/batch"):
        return FakeResponse(207, {"results": [result(one["event_id"]) for one in request.events]})
    return FakeResponse(202, {"event_id": request.events[0]["event_id"], "status": "accepted"})


def always(response: FakeResponse) -> Callable[[RecordedRequest], FakeResponse]:
    return lambda _: response


def result(event_id: str, status: str = "accepted") -> dict[str, Any]:
    return {"status": status, "code": 202 if status == "accepted" else 503, "event_id": event_id}


@pytest.mark.parametrize("batch", ["100", "2", "1"])
def test_every_event_is_reported(harness: CliHarness, tmp_path: Path, batch: str) -> None:
    (tmp_path / "log").write_bytes(MIXED)
    sent = harness.bems(
        *("send", str(tmp_path / "log"), "--json", "--batch", batch, "--in-flight", "1"),
        *("--refused-out", str(tmp_path / "refused")),
        role="sender",
    )
    assert (sent.code, sent.err) == (1, "")
    assert set(sent.json) == {"events", "refused_by", "first_refused", "requests", "seconds", "events_per_second"}
    assert sent.json["events"] == {
        "sent": 8,
        "accepted": 2,
        "duplicate": 1,
        "conflict": 1,
        "refused": 4,
        "undelivered": 0,
    }
    assert sent.json["refused_by"] == {"event": 1, "amount": 1, "vendor.id": 1, "stage": 1, "occurred_at": 1}
    assert set(sent.json["requests"]) == {"answered", "repeated", "p50_ms", "p99_ms"}
    refused = {one["line"]: one for one in map(json.loads, (tmp_path / "refused").read_text().splitlines())}
    pointers = {line: [error["pointer"] for error in one["errors"]] for line, one in refused.items()}
    assert pointers == {
        3: [""],
        5: ["/event/vendor/id", "/event/amount"],
        7: ["/event/event_id"],
        8: ["/stage"],
        9: ["/event/occurred_at"],
    }
    assert [refused[line]["event_id"] for line in (3, 5, 7)] == [None, "wrong", "other"]


def test_the_summary_is_printed(harness: CliHarness) -> None:
    sent = harness.bems("send", "-", stdin=MIXED)
    shown = [" ".join(line.split()) for line in sent.out.splitlines()]
    assert shown[0].startswith("Sent 8 in ")
    for line in ("accepted 2", "duplicate 1", "refused 4", "vendor.id 1", "occurred_at 1"):
        assert line in shown
    assert "conflict 1 a different event with the same id was accepted before" in shown
    assert len([line for line in shown if line.startswith("Requests 1 half within ")]) == 1
    assert not [line for line in shown if "undelivered" in line]


def test_the_exit_code_is_0_if_the_cell_has_every_event(harness: CliHarness, tmp_path: Path) -> None:
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + lines(event("a"), event("b"))))
    assert harness.bems("send", str(tmp_path / "log.gz"), "--json").json["events"]["accepted"] == 2
    again = harness.bems("send", "-", "--json", stdin=gzip.compress(lines(event("a"), event("b"))))
    assert (again.code, again.json["events"]["duplicate"]) == (0, 2)
    nothing = harness.bems("send", "-", "--json", stdin=b"")
    assert (nothing.code, nothing.json["events"]["sent"], nothing.json["requests"]["p50_ms"]) == (0, 0, None)


def test_the_readable_part_of_a_damaged_log_is_sent(harness: CliHarness, tmp_path: Path) -> None:
    packed = gzip.compress(lines(*(event(f"e{number}") for number in range(2_000))))
    (tmp_path / "torn.gz").write_bytes(packed[: len(packed) // 2])
    sent = harness.bems("send", str(tmp_path / "torn.gz"))
    assert sent.code == 2
    assert sent.err.startswith(f"bems: {tmp_path}/torn.gz: the compressed data is damaged: ")
    assert "accepted" in sent.out
    assert harness.bems("check", "--json").json["accepted"] > 100


def test_users_mistakes_are_reported(harness: CliHarness, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(lines(event("a")))
    assert harness.bems("send", "missing").error() == "missing: No such file or directory"
    assert "this is the log itself" in harness.bems("send", str(log), "--refused-out", str(log)).error()
    assert "no/such/folder" in harness.bems("send", str(log), "--refused-out", "no/such/folder").error()
    message = harness.bems("send", str(log), role="viewer").error()
    assert "this requires a sender or admin key" in message
    for wrong in (["--batch", "101"], ["--in-flight", "0"], ["--rate", "0"], ["--retries-for", "-1"]):
        assert f"Invalid value for '{wrong[0]}'" in harness.bems("send", str(log), *wrong).error()


def test_batches_shrink_to_the_size_that_the_cell_accepts(tmp_path: Path) -> None:
    with running(tmp_path, limits=Limits(max_batch=10)) as harness:
        sent = harness.bems("send", "-", "--json", stdin=lines(*(event(f"e{number}") for number in range(500))))
        assert sent.json["events"]["accepted"] == 500
        assert sent.json["requests"]["answered"] < 120


def test_batches_stay_within_the_size_limit_of_the_api(harness: CliHarness) -> None:
    attributes = {f"a{number}": "x" * 4_000 for number in range(15)}
    sent = harness.bems("send", "-", "--json", stdin=lines(*(event(f"e{n}", attributes=attributes) for n in range(80))))
    assert sent.json["events"] == {**sent.json["events"], "refused": 80, "undelivered": 0}
    assert sent.json["refused_by"] == {"attributes": 80}
    assert sent.json["requests"]["answered"] == 3


@pytest.mark.parametrize("batch", ["100", "1"])
def test_temporary_errors_are_retried(
    start_fake_server: StartFakeServer, monkeypatch: pytest.MonkeyPatch, batch: str
) -> None:
    monkeypatch.setattr("bems.cli.sender.MIN_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("bems.cli.sender.MAX_PAUSE_SECONDS", 0.02)
    failures = [
        FakeResponse(503, {"detail": "later"}),
        FakeResponse(429, {"message": "Too Many Requests"}, {"Retry-After": "1"} if batch == "1" else {}),
        FakeResponse(408, {"detail": "slow"}, {"connection": "close"}),
        None,
        FakeResponse(502, b"<html>Bad Gateway</html>"),
        FakeResponse(504, b"<html>Gateway Timeout</html>"),
        FakeResponse(500, {"detail": "oh"}),
    ]
    request_times: list[float] = []

    def answer(request: RecordedRequest) -> FakeResponse | None:
        request_times.append(time.monotonic())
        return failures.pop(0) if failures else accept(request)

    fake_server = start_fake_server(answer)
    sent = run(
        *("send", "-", "--json", "--in-flight", "1", "--url", f"{fake_server.url}/prod", "--batch", batch),
        stdin=lines(event("a"), event("b")),
    )
    assert sent.code == 0
    assert (sent.json["events"]["accepted"], sent.json["requests"]["repeated"]) == (2, 7)
    assert request_times[2] - request_times[1] >= (batch == "1")
    messages = sent.err.splitlines()
    assert len(messages) == 6  # no message for 429, which only asks to slow down
    assert messages[0] == f"bems: {fake_server.url}/prod: later; retrying for up to 300 seconds"
    assert {request.path for request in fake_server.requests} == {
        "/prod/invoices/ingestion" + ("/batch" if batch == "100" else "")
    }


def test_only_unavailable_events_are_sent_again(start_fake_server: StartFakeServer) -> None:
    def answer(request: RecordedRequest) -> FakeResponse:
        if len(fake_server.requests) == 1:
            return FakeResponse(207, {"results": [result("a"), result("b", "unavailable"), result("c", "unavailable")]})
        return accept(request)

    fake_server = start_fake_server(answer)
    sent = run("send", "-", "--json", "--url", fake_server.url, stdin=lines(event("a"), event("b"), event("c")))
    assert (sent.code, sent.json["events"]["accepted"]) == (0, 3)
    assert [[one["event_id"] for one in request.events] for request in fake_server.requests] == [
        ["a", "b", "c"],
        ["b", "c"],
    ]


def test_a_batch_refused_for_one_event_is_split(start_fake_server: StartFakeServer) -> None:
    def answer(request: RecordedRequest) -> FakeResponse:
        if any(one["event_id"] == "e5" for one in request.events):
            return FakeResponse(400, {"message": "Invalid request body"})
        return accept(request)

    fake_server = start_fake_server(answer)
    log = lines(*(event(f"e{number}") for number in range(16)))
    sent = run("send", "-", "--json", "--url", fake_server.url, stdin=log)
    assert sent.json["events"] == {**sent.json["events"], "accepted": 15, "refused": 1}


def test_a_batch_too_large_for_a_proxy_is_split(start_fake_server: StartFakeServer) -> None:
    fake_server = start_fake_server(
        lambda request: accept(request) if len(request.body) < 700 else FakeResponse(413, b"<html>")
    )
    sent = run(
        "send", "-", "--json", "--url", fake_server.url, stdin=lines(*(event(f"e{number}") for number in range(20)))
    )
    assert (sent.code, sent.json["events"]["accepted"]) == (0, 20)


def test_an_event_that_always_fails_is_given_up(start_fake_server: StartFakeServer) -> None:
    bad_is_sent, good_is_accepted = threading.Event(), threading.Event()

    def answer(request: RecordedRequest) -> FakeResponse:
        """Accept other events while the bad one fails, or the sender would give up altogether."""
        (one,) = request.events
        if one["event_id"] == "bad":
            bad_is_sent.set()
            good_is_accepted.wait(SOON)
            return FakeResponse(500, {"detail": "it fails"})
        bad_is_sent.wait(SOON)
        if one["event_id"] == "next":
            good_is_accepted.set()
        return accept(request)

    log = lines(event("bad")) + lines(event("good", "approved"), event("next", "approved"), stage="authorization")
    options = "--retries-for", "0.5", "--in-flight", "2", "--batch", "1"
    sent = run("send", "-", "--json", "--url", start_fake_server(answer).url, *options, stdin=log)
    assert sent.code == 1
    assert (sent.json["events"]["accepted"], sent.json["events"]["undelivered"]) == (2, 1)

    fake_server = start_fake_server(lambda _: FakeResponse(503, {"detail": "closed"}))
    message = run("send", "-", "--url", fake_server.url, "--retries-for", "0", stdin=lines(event("a"))).error(1)
    assert message == f"{fake_server.url}: closed (given up after 0 seconds)"


def test_sending_stops_if_no_event_can_be_accepted(start_fake_server: StartFakeServer) -> None:
    fake_server = start_fake_server(lambda _: FakeResponse(403, {"message": "Forbidden"}))
    log = lines(*(event(f"e{number}") for number in range(10_000)))
    message = run("send", "-", "--url", fake_server.url, "--key", "k", stdin=log).error()
    assert "this requires a sender or admin key" in message
    assert len(fake_server.requests) <= 4
    for response, expected in (
        (FakeResponse(404, {"detail": "there is nothing at /x"}), "there is nothing at /x"),
        (FakeResponse(400, b"<html>plain HTTP to a TLS port"), "not a cell's JSON"),
        (FakeResponse(207, {"results": []}), "the response 207 is not expected"),
        (FakeResponse(207, b"\xff"), "not a cell's JSON"),
        (FakeResponse(207, b'{"x":' + b"[" * 100_000), "not a cell's JSON"),
    ):
        answer = run("send", "-", "--url", start_fake_server(always(response)).url, stdin=lines(event("a"), event("b")))
        assert expected in answer.error(answer.code)
        assert answer.code in (1, 2)


@pytest.mark.parametrize("body", [b'{"event_id": "\xff", "detail": "\xff"}', b'{"x":' + b"[" * 100_000])
def test_an_unreadable_acceptance_is_reported(start_fake_server: StartFakeServer, body: bytes) -> None:
    message = run(
        "send", "-", "--url", start_fake_server(always(FakeResponse(202, body))).url, stdin=lines(event("a"))
    ).error(1)
    assert "not a cell's JSON" in message


def test_events_are_sent_no_faster_than_the_rate(start_fake_server: StartFakeServer) -> None:
    begun = time.monotonic()
    sent = run(
        "send",
        "-",
        "--rate",
        "50",
        "--url",
        start_fake_server(accept).url,
        stdin=lines(*(event(f"e{n}") for n in range(26))),
    )
    assert sent.code == 0
    assert time.monotonic() - begun > 0.45


def test_a_batch_is_sent_before_it_is_full(start_fake_server: StartFakeServer) -> None:
    results: list[LineResult] = []
    client = Client(start_fake_server(accept).url)
    sender = Sender(client, in_flight=2, on_result=results.append)
    assert sender.send("ingestion", json.dumps(event("a")).encode(), 7)
    assert sender.send("posting", json.dumps(event("b", "posted")).encode(), 8)
    until(lambda: len(results) == 2)
    assert {(one.line, one.disposition, one.event_id) for one in results} == {
        (7, "accepted", "a"),
        (8, "accepted", "b"),
    }
    assert all(0 < one.seconds < 10 for one in results)
    assert sender.finish().dispositions == Counter(accepted=2)
    client.close()


def test_a_failing_callback_stops_the_sender(start_fake_server: StartFakeServer) -> None:
    def full(_: LineResult) -> None:
        raise OSError(28, "No space left on device")

    client = Client(start_fake_server(accept).url)
    sender = Sender(client, in_flight=1, on_result=full)
    sender.send("ingestion", json.dumps(event("a")).encode(), 1)
    sender.finish()
    assert isinstance(sender.fault, OSError)
    assert not sender.send("ingestion", b"{}", 2)
    client.close()


def test_abandoned_events_are_undelivered(start_fake_server: StartFakeServer) -> None:
    is_received, release = threading.Event(), threading.Event()

    def answer(request: RecordedRequest) -> FakeResponse:
        is_received.set()
        release.wait(20)
        return accept(request)

    client = Client(start_fake_server(answer).url)
    sender = Sender(client, batch=1, in_flight=1)
    for number in range(2):
        sender.send("ingestion", json.dumps(event(f"e{number}")).encode(), number)
    assert is_received.wait(20)
    sender.abandon()
    release.set()
    summary = sender.finish()
    assert summary.dispositions == Counter(accepted=1, undelivered=1)
    assert not summary.all_delivered
    client.close()


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_waits_for_requests_in_flight(start_fake_server: StartFakeServer) -> None:
    is_received, release = threading.Event(), threading.Event()

    def answer(request: RecordedRequest) -> FakeResponse:
        is_received.set()
        release.wait(20)
        return accept(request)

    process = subprocess.Popen(
        [sys.executable, "-m", "bems", "send", "-", "--json", "--url", start_fake_server(answer).url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    process.stdin.write(lines(event("a"), event("b")))
    process.stdin.flush()
    assert is_received.wait(20)
    process.send_signal(signal.SIGINT)
    release.set()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"")
    assert json.loads(out)["events"]["accepted"] == 2


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_killed_and_restarted_cell_has_every_event(tmp_path: Path) -> None:
    folder, errors = tmp_path / "cell", tmp_path / "errors.log"
    key = run("keys", "add", "root", "--role", "admin", "--store", str(folder)).out.strip()
    results: list[LineResult] = []
    split = [json.loads(line) for line in generate(400, 5) if line.startswith(b'{"stage":"ingestion"')]
    log = [json.dumps(line["event"]).encode() for line in split]
    with CellProcess(folder, errors) as process:
        url = process.url
        client = Client(url, key)
        sender = Sender(client, batch=10, on_result=results.append, retries_for=60)
        sending = threading.Thread(
            target=lambda: [sender.send("ingestion", one, n) for n, one in enumerate(log)], daemon=True
        )
        sending.start()
        until(lambda: len(results) > 50)
        process.end(signal.SIGKILL)
    before = len(results)
    with until(lambda: restart(folder, errors, url)):
        sending.join()
        summary = sender.finish()
        client.close()
        assert sender.fault is None
        assert summary.sent == len(log) > before
        assert summary.dispositions["undelivered"] == 0
        check = run("check", "--json", "--url", url, "--key", key)
        assert check.json["accepted"] >= summary.dispositions["accepted"]


def restart(folder: Path, errors: Path, url: str) -> CellProcess | None:
    """Start the cell on its old port; return None while another process has been given that port."""
    try:
        return CellProcess(folder, errors, "--port", url.rpartition(":")[2])
    except AssertionError as error:
        if "Address already in use" not in str(error).splitlines()[-1]:
            raise
        return None


def test_the_cells_rate_limit_is_respected(tmp_path: Path) -> None:
    with running(tmp_path, limits=Limits(key=Rate(10, 1))) as harness:
        log = lines(*(event(f"e{number}") for number in range(4)))
        sent = harness.bems("send", "-", "--batch", "1", "--json", stdin=log)
        assert (sent.code, sent.err, sent.json["events"]["accepted"]) == (0, "", 4)
        assert sent.json["requests"]["repeated"] > 0


def test_percentiles_are_accurate_to_two_percent() -> None:
    histogram = LatencyHistogram()
    assert histogram.percentile(50) is None
    for number in range(1, 1001):
        histogram.add(number / 1000)
    for percent in (1, 50, 99, 100):
        assert histogram.percentile(percent) == pytest.approx(percent / 100, rel=0.021)


@pytest.mark.parametrize(
    ("pointer", "field"),
    [
        ("/amount", "amount"),
        ("/event/amount", "amount"),
        ("/event_id", "event_id"),
        ("/event/vendor/country", "vendor.country"),
        ("/vendor", "vendor"),
        ("/vendor/shoe_size", "vendor"),
        ("/attributes/po", "attributes"),
        ("/stage", "stage"),
        ("/document_type", "event"),
        ("/event", "event"),
        ("", "event"),
    ],
)
def test_errors_are_counted_by_field(pointer: str, field: str) -> None:
    assert field_of(pointer) == field


def test_a_stopped_sender_has_the_fault(start_fake_server: StartFakeServer) -> None:
    for response, kind in ((FakeResponse(403, {}), UserError), (FakeResponse(301, b""), Failure)):
        client = Client(start_fake_server(always(response)).url)
        sender = Sender(client, in_flight=1)
        sender.send("ingestion", b"{}", 1)
        assert sender.finish().dispositions == Counter(undelivered=1)
        assert isinstance(sender.fault, kind)
        client.close()
