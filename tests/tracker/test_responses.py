import json
from typing import Any

import pytest

from bems.tracker import responses
from bems.tracker.parsing import InvalidEvent
from bems.tracker.responses import HttpResponse
from bems.validation.field_errors import FieldError

INVALID = InvalidEvent(400, "the event is not valid: 1 error", [FieldError("/amount", "is missing", "missing")], "e-1")


def content(answer: HttpResponse) -> Any:
    return json.loads(answer.body)


@pytest.mark.parametrize("status", ["accepted", "duplicate"])
def test_an_event_that_is_durable_is_answered_with_202(status: str) -> None:
    answer = getattr(responses, status)("e-1")
    assert (answer.status, answer.headers) == (202, {"content-type": "application/json"})
    assert content(answer) == {"event_id": "e-1", "status": status}


def test_a_conflict_names_the_event() -> None:
    answer = responses.conflict("e-1")
    assert answer.status == 409
    assert content(answer)["errors"][0]["pointer"] == "/event_id"
    assert '"e-1"' in content(answer)["errors"][0]["detail"]


@pytest.mark.parametrize("status", [400, 413])
def test_an_invalid_event_is_a_problem_with_every_error(status: Any) -> None:
    errors = [FieldError("/amount", "is missing", "missing"), FieldError("/vendor/id", "is empty", "empty")]
    answer = responses.bad_request(InvalidEvent(status, "the event is not valid: 2 errors", errors))
    assert answer.headers == {"content-type": "application/problem+json"}
    assert answer.status == status
    assert content(answer) == {
        "type": "about:blank",
        "title": {400: "Bad Request", 413: "Content Too Large"}[status],
        "status": status,
        "detail": "the event is not valid: 2 errors",
        "errors": [{"pointer": "/amount", "detail": "is missing"}, {"pointer": "/vendor/id", "detail": "is empty"}],
    }


def test_a_batch_is_answered_event_by_event_in_order() -> None:
    answer = responses.batch_results(
        [
            responses.event_result("e-1", "accepted"),
            responses.invalid_event_result(INVALID),
            responses.event_result("e-2", "conflict"),
            responses.event_result("e-3", "unavailable"),
            responses.event_result("e-1", "duplicate"),
        ]
    )
    assert (answer.status, answer.headers) == (207, {"content-type": "application/json"})
    first, refused, conflict, unavailable, duplicate = content(answer)["results"]
    assert first == {"status": "accepted", "code": 202, "event_id": "e-1"}
    assert refused == {
        "status": "refused",
        "code": 400,
        "event_id": "e-1",
        "detail": "the event is not valid: 1 error",
        "errors": [{"pointer": "/amount", "detail": "is missing"}],
    }
    assert (conflict["code"], conflict["errors"][0]["pointer"]) == (409, "/event_id")
    assert (unavailable["code"], unavailable["event_id"]) == (503, "e-3")
    assert duplicate == {"status": "duplicate", "code": 202, "event_id": "e-1"}


@pytest.mark.parametrize(
    ("answer", "status", "headers"),
    [
        (responses.forbidden(), 403, {}),
        (responses.not_found(), 404, {}),
        (responses.method_not_allowed(["GET", "POST"]), 405, {"allow": "GET, POST"}),
        (responses.payload_too_large(65536), 413, {}),
        (responses.unsupported_media_type("text/plain"), 415, {"accept": "application/json"}),
        (responses.unsupported_media_type(None), 415, {"accept": "application/json"}),
        (responses.too_many_requests(3), 429, {"retry-after": "3"}),
        (responses.too_many_requests(0), 429, {"retry-after": "1"}),
        (responses.unavailable(), 503, {"retry-after": "5"}),
    ],
)
def test_other_problems(answer: HttpResponse, status: int, headers: dict[str, str]) -> None:
    assert answer.status == status == content(answer)["status"]
    assert answer.headers == {"content-type": "application/problem+json", **headers}
    assert content(answer).keys() == {"type", "title", "status", "detail"}


def test_a_hostile_media_type_is_shortened() -> None:
    detail = content(responses.unsupported_media_type("x" * 10_000 + "\ud800"))["detail"]
    assert len(detail) < 200


@pytest.mark.parametrize(
    ("content_type", "accepted"),
    [
        ("application/json", True),
        ("Application/JSON; charset=UTF-8", True),
        ('application/json;charset="utf-8"', True),
        ("application/json; charset=latin-1", False),
        ("application/x-www-form-urlencoded", False),
        ("text/json", False),
        ("", False),
        (None, False),
    ],
)
def test_only_json_in_utf_8_is_accepted(content_type: str | None, accepted: bool) -> None:
    assert responses.is_json(content_type) is accepted
