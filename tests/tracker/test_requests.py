import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bems.tracker.commands import Acknowledge, AddNote, Assign, Cancel, Command, Complete, Extend, Park, Revive, Snooze
from bems.tracker.instants import DAY, EARLIEST, LATEST
from bems.tracker.parsing import InvalidEvent
from bems.tracker.requests import (
    MAX_REQUEST_BYTES,
    VERBS,
    AnyCommandRequest,
    KeyRequest,
    RedriveRequest,
    read_command,
    read_request,
)
from tests.tracker.samples import NOW

PARK = {"verb": "park", "command_id": "c-1", "invoice_id": "INV/1", "note": "why"}


def command(**changes: Any) -> Command | InvalidEvent:
    return read_command(json.dumps(PARK | changes).encode(), "ann", NOW)


def pointers(invalid: object) -> set[str]:
    assert isinstance(invalid, InvalidEvent)
    assert invalid.errors
    return {error.pointer for error in invalid.errors}


@pytest.mark.parametrize(
    ("changes", "verb"),
    [
        ({}, Park()),
        ({"verb": "cancel"}, Cancel()),
        ({"verb": "revive"}, Revive()),
        ({"verb": "acknowledge"}, Acknowledge()),
        ({"verb": "complete", "stage": "posting"}, Complete("posting")),
        ({"verb": "extend", "until": "2026-03-03T10:00:00+01:00"}, Extend(NOW + DAY)),
        ({"verb": "snooze", "until": "2026-03-03T10:00:00+01:00"}, Snooze(NOW + DAY)),
        ({"verb": "assign", "assignee": "Jane Doe"}, Assign("Jane Doe")),
        ({"verb": "assign", "assignee": None}, Assign(None)),
        ({"verb": "note"}, AddNote()),
    ],
)
def test_each_verb_is_parsed_into_its_command(changes: dict[str, Any], verb: Any) -> None:
    assert command(**changes) == Command("c-1", "INV/1", "ann", NOW, verb, "why")


@pytest.mark.parametrize(
    ("changes", "needs_note"),
    [
        ({"verb": "complete", "stage": "posting"}, True),
        ({"verb": "cancel"}, True),
        ({"verb": "park"}, True),
        ({"verb": "note"}, True),
        ({"verb": "revive"}, False),
        ({"verb": "acknowledge"}, False),
        ({"verb": "extend", "until": "2026-03-03T10:00:00+01:00"}, False),
        ({"verb": "snooze", "until": "2026-03-03T10:00:00+01:00"}, False),
        ({"verb": "assign", "assignee": "Jane"}, False),
    ],
)
@pytest.mark.parametrize("note", [None, "", " \t\n"])
def test_commands_that_end_a_wait_for_good_need_a_note(
    changes: dict[str, Any], needs_note: bool, note: str | None
) -> None:
    body = {
        name: value for name, value in (PARK | changes | {"note": note}).items() if name != "note" or note is not None
    }
    request = read_command(json.dumps(body).encode(), "ann", NOW)
    assert (pointers(request) == {"/note"}) if needs_note else isinstance(request, Command)


def test_a_note_may_have_line_breaks_and_tabs() -> None:
    note = "called the vendor:\r\n\tpays on Friday\n"
    assert command(note=note) == Command("c-1", "INV/1", "ann", NOW, Park(), note)


def test_a_leap_second_is_read_as_the_second_before() -> None:
    expected = command(verb="extend", until="2026-06-30T23:59:59Z", note="2026-06-30T23:59:60Z")
    assert command(verb="extend", until="2026-06-30T23:59:60Z", note="2026-06-30T23:59:60Z") == expected
    assert isinstance(expected, Command)


def test_verbs_lists_every_command_request() -> None:
    tags = [request.__struct_config__.tag for request in get_args(AnyCommandRequest)]
    assert sorted(tags) == sorted(VERBS)


@pytest.mark.parametrize(
    ("until", "instant"),
    [
        ("0001-01-01T00:00:00+23:59", EARLIEST),
        ("0001-01-01T00:00:00Z", EARLIEST),
        ("1970-01-01T00:00:00Z", EARLIEST),
        ("2999-12-31T23:59:59.999999Z", LATEST - 1),
        ("3000-01-01T00:00:00Z", LATEST),
        ("9999-12-31T23:59:59.999999-23:59", LATEST + 1),
    ],
)
def test_a_time_out_of_range_is_clamped(until: str, instant: int) -> None:
    assert command(verb="extend", until=until) == Command("c-1", "INV/1", "ann", NOW, Extend(instant), "why")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"verb": None}, {"/verb"}),
        ({"verb": "Park"}, {"/verb"}),
        ({"command_id": 1, "invoice_id": "", "note": "x" * 1001}, {"/command_id", "/invoice_id", "/note"}),
        ({"stage": "posting"}, {"/stage"}),
        ({"operator": "eve"}, {"/operator"}),
        ({"accepted_at": 0}, {"/accepted_at"}),
        ({"verb": "complete", "stage": "paid"}, {"/stage"}),
        ({"verb": "complete"}, {"/stage"}),
        ({"verb": "assign"}, {"/assignee"}),
        ({"verb": "assign", "assignee": ""}, {"/assignee"}),
        ({"verb": "snooze", "until": "2026-03-03T10:00:00"}, {"/until"}),
        ({"verb": "extend", "until": "2026-03-03T10:00:00"}, {"/until"}),
        ({"verb": "extend", "until": 1}, {"/until"}),
        ({"verb": "extend", "until": None, "x": 1}, {"/until", "/x"}),
        ({"note": "\ud800"}, {"/note"}),
        ({"note": "\x1b[31m"}, {"/note"}),
        ({"note": "\x00\n"}, {"/note"}),
        ({"note": "\x9b31m"}, {"/note"}),
        ({"note": "\x7f"}, {"/note"}),
        ({"command_id": "c\x85", "invoice_id": "\x9f"}, {"/command_id", "/invoice_id"}),
        ({"verb": "extend", "until": "2016-12-31T22:59:60Z"}, {"/until"}),
    ],
)
def test_an_invalid_command_is_refused_with_every_error(changes: dict[str, Any], expected: set[str]) -> None:
    assert pointers(command(**changes)) == expected


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b"nothing", b"[]", b"1", b"null", b'"park"', b"\xff", b"\xef\xbb\xbf{}", b"[" * 60_000,
     b"9" * 60_000, b"NaN", b'{"verb": NaN}',
     b'{"verb": "park", "verb": "park", "command_id": "1", "invoice_id": "1"}'],
)  # fmt: skip
@pytest.mark.parametrize("expected", [AnyCommandRequest, RedriveRequest, KeyRequest])
def test_an_invalid_request_is_refused(expected: Any, body: bytes) -> None:
    invalid = read_request(body, expected, "request")
    assert isinstance(invalid, InvalidEvent)
    assert (invalid.status, bool(invalid.errors)) == (400, True)


def test_a_request_that_is_too_large_is_refused() -> None:
    invalid = read_request(b" " * (MAX_REQUEST_BYTES + 1), KeyRequest, "request")
    assert isinstance(invalid, InvalidEvent)
    assert invalid.status == 413
    assert read_request(
        json.dumps({"name": "a", "role": "admin"}).encode().ljust(MAX_REQUEST_BYTES), KeyRequest, "request"
    ) == (KeyRequest("a", "admin"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {""}),
        ({"event_ids": None, "all": None}, {""}),
        ({"all": False}, {"/all"}),
        ({"all": 1}, {"/all"}),
        ({"event_ids": []}, {"/event_ids"}),
        ({"event_ids": ["a", "b c", 3]}, {"/event_ids/1", "/event_ids/2"}),
        ({"event_ids": ["a"] * 1001}, {"/event_ids"}),
        ({"error": ""}, {"/error"}),
        ({"invoice_id": "a b", "x": 1}, {"/invoice_id", "/x"}),
    ],
)
def test_an_invalid_redrive_request_is_refused(body: dict[str, Any], expected: set[str]) -> None:
    assert pointers(read_request(json.dumps(body).encode(), RedriveRequest, "request")) == expected


def test_the_longest_request_fits() -> None:
    request = RedriveRequest(event_ids=["!" * 128] * 1000, error="x" * 1000)
    body = msgspec.json.encode(request).replace(b"!", b"\\u0021").replace(b"x", b"\\u0078")
    assert read_request(body, RedriveRequest, "request") == request


def test_valid_redrive_requests() -> None:
    for request in (
        RedriveRequest(all=True),
        RedriveRequest(event_ids=["a"] * 1000),
        RedriveRequest(invoice_id="i", error="Key"),
    ):
        assert read_request(msgspec.json.encode(request), RedriveRequest, "request") == request


def test_an_invalid_key_request_is_refused() -> None:
    assert pointers(read_request(b'{"name": "a\\n", "role": "root"}', KeyRequest, "request")) == {"/name", "/role"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*PARK, "note", "until", "stage"]), inner)
    ),
    max_leaves=8,
)


@given(
    JSON
    | st.fixed_dictionaries(
        {name: JSON | st.just(value) for name, value in PARK.items() if name != "note"}, optional={"note": JSON}
    )
)
def test_any_json_is_parsed_or_refused(data: object) -> None:
    read = read_command(json.dumps(data).encode(), "ann", NOW)
    if isinstance(read, InvalidEvent):
        assert pointers(read)
    else:
        assert (read.operator, read.accepted_at) == ("ann", NOW)


@given(st.binary(max_size=64))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    for expected in (AnyCommandRequest, RedriveRequest, KeyRequest):
        assert isinstance(read_request(body, expected, "request"), InvalidEvent | RedriveRequest)
