"""Responses of the HTTP API, the same in both runtimes.

Problems are `application/problem+json` (RFC 9457) of type `about:blank`: the status is the kind of problem, the title
is the status's reason phrase, and each of `errors` has a JSON Pointer (RFC 6901).
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from bems.tracker.parsing import InvalidEvent
from bems.validation.error_messages import format_value
from bems.validation.field_errors import FieldError

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"

ResultStatus = Literal["accepted", "duplicate", "conflict", "refused", "unavailable"]

# RFC 9110, section 15, and RFC 6585 for 429. The standard library's phrases change with its version.
_TITLES = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_CODES: dict[ResultStatus, int] = {
    "accepted": 202,
    "duplicate": 202,
    "conflict": 409,
    "refused": 400,
    "unavailable": 503,
}
_ENCODER = msgspec.json.Encoder()


REFUSED_STATUSES = frozenset((400, 413, 415))
"""Statuses that refuse a request to send events as a whole. The number of its events is unknown, so the request counts
as one refused event in every runtime; in a batch that is answered 207, each refused event counts. No other status
counts as refused: the sender can send the request again unchanged (408, 429, 503), or must not send it at all (403,
404, 405)."""


class HttpResponse(Struct, frozen=True):
    """HTTP response. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class EventAccepted(Struct, frozen=True):
    """Body of a 202 response: the event is durable; `duplicate` if it was accepted before."""

    event_id: str
    status: Literal["accepted", "duplicate"]


class Error(Struct, frozen=True):
    """Error of a problem: its location, as a JSON Pointer, and what is wrong."""

    pointer: str
    detail: str


class Problem(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Problem details (RFC 9457)."""

    # Without a default value, because omit_defaults would leave it out, and clients look for it.
    type: str
    title: str
    status: int
    detail: str
    errors: list[Error] = []


class EventResult(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Result of one event of a batch. `code` is the HTTP status that the event would have received alone."""

    status: ResultStatus
    code: int
    event_id: str | None = None
    detail: str | None = None
    errors: list[Error] = []


class BatchResults(Struct, frozen=True):
    """Body of a 207 response: one result per event, in order."""

    results: list[EventResult]


def event_result(
    event_id: str, status: Literal["accepted", "duplicate", "conflict", "unavailable"], why: str = ""
) -> EventResult:
    """Return the result of a valid event. `why` explains `unavailable` to the sender."""
    if status == "conflict":
        errors = [_conflict_text(event_id)]
        return EventResult(status=status, code=409, event_id=event_id, detail=_CONFLICT, errors=errors)
    detail = _send_again_text(why) if status == "unavailable" else None
    return EventResult(status=status, code=_CODES[status], event_id=event_id, detail=detail)


def invalid_event_result(invalid: InvalidEvent) -> EventResult:
    """Return the result of an invalid event. Its pointers are relative to the event."""
    return EventResult(
        status="refused",
        code=invalid.status,
        event_id=invalid.event_id,
        detail=invalid.summary,
        errors=to_error_list(invalid.errors),
    )


def batch_results(results: Iterable[EventResult]) -> HttpResponse:
    """Return 207 with `{"results": [...]}`, in the order of the events."""
    return json_response(207, BatchResults(list(results)))


def accepted(event_id: str) -> HttpResponse:
    """Return 202: the event is durable."""
    return json_response(202, EventAccepted(event_id, "accepted"))


def duplicate(event_id: str) -> HttpResponse:
    """Return 202: the same event was accepted before."""
    return json_response(202, EventAccepted(event_id, "duplicate"))


def conflict(event_id: str) -> HttpResponse:
    """Return 409: the same event_id was accepted before with different content."""
    return problem(409, _CONFLICT, [_conflict_text(event_id)])


def bad_request(invalid: InvalidEvent) -> HttpResponse:
    """Return 400 or 413, with every error."""
    return problem(invalid.status, invalid.summary, to_error_list(invalid.errors))


def payload_too_large(limit: int) -> HttpResponse:
    """Return 413 for a body that was not read to its end; `limit` is in bytes."""
    return problem(413, f"the body has more than {limit} bytes: send less at once")


def forbidden() -> HttpResponse:
    """Return 403: no key, an unknown key, or a role without permission. Like API Gateway, it does not say which."""
    return problem(403, "this requires a key (x-api-key or Authorization: Bearer) whose role permits it")


def not_found(detail: str = "there is nothing here") -> HttpResponse:
    """Return 404."""
    return problem(404, detail)


def method_not_allowed(allowed: Sequence[str]) -> HttpResponse:
    """Return 405 with the allowed methods (RFC 9110, section 15.5.6)."""
    methods = ", ".join(allowed)
    return problem(405, f"use {methods}", headers={"allow": methods})


def unsupported_media_type(given: str | None) -> HttpResponse:
    """Return 415 for a Content-Type that `is_json` refuses."""
    sent = f"the Content-Type {format_value(given)} is not accepted" if given else "there is no Content-Type"
    return problem(415, f"{sent}: use {JSON}", headers={"accept": JSON})


def unsupported_encoding(given: str) -> HttpResponse:
    """Return 415 for a body with a Content-Encoding, of which none is accepted (RFC 7694, section 3)."""
    detail = f"the Content-Encoding {format_value(given)} is not accepted: send the body as it is, without one"
    return problem(415, detail, headers={"accept-encoding": "identity"})


def timed_out() -> HttpResponse:
    """Return 408: the body did not arrive in time."""
    return problem(408, "the body did not arrive in time: " + _SEND_AGAIN, headers={"connection": "close"})


def internal_error() -> HttpResponse:
    """Return 500: an internal error, which the log describes."""
    return problem(
        500, "an internal error; the cell's log has the cause; the request may have taken effect: " + _SEND_AGAIN
    )


def too_many_requests(retry_after: int = 1, why: str = "too many requests") -> HttpResponse:
    """Return 429. `retry_after` is in seconds, at least 1."""
    return problem(429, f"{why}: {_SEND_AGAIN}", headers=_retry(retry_after))


def unavailable(retry_after: int = 5, why: str = "") -> HttpResponse:
    """Return 503. `retry_after` is in seconds, at least 1; `why` explains it to the sender."""
    return problem(503, _send_again_text(why), headers=_retry(retry_after))


def problem(
    status: int, detail: str, errors: Sequence[Error] = (), headers: dict[str, str] | None = None
) -> HttpResponse:
    """Return a problem of any status."""
    title = _TITLES.get(status, "Error")
    body = Problem(type="about:blank", title=title, status=status, detail=detail, errors=list(errors))
    return HttpResponse(status, {"content-type": PROBLEM_JSON, **(headers or {})}, _ENCODER.encode(body))


def is_json(content_type: str | None) -> bool:
    """Return whether a Content-Type is JSON in UTF-8, the only one that is accepted (RFC 8259, section 8.1)."""
    media_type, _, parameters = (content_type or "").partition(";")
    charset = parameters.replace(" ", "").replace('"', "").lower().rstrip(";")
    return media_type.strip().lower() == JSON and charset in ("", "charset=utf-8", "charset=utf8")


_CONFLICT = "an event with this event_id and different content was accepted before"
_SEND_AGAIN = "send it again later; repeats are safe"


def _send_again_text(why: str) -> str:
    return f"{why}: {_SEND_AGAIN}" if why else _SEND_AGAIN


def _conflict_text(event_id: str) -> Error:
    return Error(
        "/event_id", f"{format_value(event_id)} was accepted before with different content: use an event_id only once"
    )


def to_error_list(errors: Iterable[FieldError]) -> list[Error]:
    """Convert errors to those of a response."""
    return [Error(error.pointer, error.detail) for error in errors]


def json_response(status: int, body: object) -> HttpResponse:
    """Return a JSON response; `body` is any value that msgspec can encode."""
    return HttpResponse(status, {"content-type": JSON}, _ENCODER.encode(body))


def _retry(seconds: int) -> dict[str, str]:
    return {"retry-after": str(max(1, seconds))}
