"""Answers: what the HTTP API says, the same in both homes.

Problems are `application/problem+json` (RFC 9457) of type `about:blank`: the status says what kind of problem it is,
the title is that status in words, and `errors` says where, with a JSON Pointer (RFC 6901) each.
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

Status = Literal["accepted", "duplicate", "conflict", "refused", "unavailable"]

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
_CODES: dict[Status, int] = {"accepted": 202, "duplicate": 202, "conflict": 409, "refused": 400, "unavailable": 503}
_ENCODER = msgspec.json.Encoder()


REFUSED_STATUSES = frozenset((400, 413, 415))
"""Statuses that refuse a request to send events as a whole. How many events it held is not known, so in every runtime
it counts as one refused event; of a batch that is answered 207, each refused event counts. No other answer counts as
refused: the request may be sent again as it is (408, 429, 503), or nobody may send it (403, 404, 405)."""


class HttpResponse(Struct, frozen=True):
    """An HTTP response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class EventAccepted(Struct, frozen=True):
    """202: the event is durable, and was before if it is a duplicate."""

    event_id: str
    status: Literal["accepted", "duplicate"]


class Error(Struct, frozen=True):
    """One fault: where, as a JSON Pointer, and what."""

    pointer: str
    detail: str


class Problem(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """RFC 9457."""

    # Not a default, because defaults are left out, and readers look for it.
    type: str
    title: str
    status: int
    detail: str
    errors: list[Error] = []


class EventResult(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What became of one event of a batch; `code` is the status that it would have been answered with alone."""

    status: Status
    code: int
    event_id: str | None = None
    detail: str | None = None
    errors: list[Error] = []


class BatchResults(Struct, frozen=True):
    """207: one result per event, in order."""

    results: list[EventResult]


def event_result(
    event_id: str, status: Literal["accepted", "duplicate", "conflict", "unavailable"], why: str = ""
) -> EventResult:
    """The result of an event that passed the gate. `why` it is unavailable: what can be told of it."""
    if status == "conflict":
        errors = [_conflict_text(event_id)]
        return EventResult(status=status, code=409, event_id=event_id, detail=_CONFLICT, errors=errors)
    detail = _send_again_text(why) if status == "unavailable" else None
    return EventResult(status=status, code=_CODES[status], event_id=event_id, detail=detail)


def invalid_event_result(refusal: InvalidEvent) -> EventResult:
    """The result of an event that the gate refused; its pointers start at the event."""
    return EventResult(
        status="refused",
        code=refusal.status,
        event_id=refusal.event_id,
        detail=refusal.summary,
        errors=to_error_list(refusal.errors),
    )


def batch_results(results: Iterable[EventResult]) -> HttpResponse:
    """207 `{"results": [...]}`, in the order of the events."""
    return json_response(207, BatchResults(list(results)))


def accepted(event_id: str) -> HttpResponse:
    """202: the event is durable."""
    return json_response(202, EventAccepted(event_id, "accepted"))


def duplicate(event_id: str) -> HttpResponse:
    """202: the same event was accepted before."""
    return json_response(202, EventAccepted(event_id, "duplicate"))


def conflict(event_id: str) -> HttpResponse:
    """409: the same event_id was accepted before with another content."""
    return problem(409, _CONFLICT, [_conflict_text(event_id)])


def bad_request(refusal: InvalidEvent) -> HttpResponse:
    """400 or 413, with every fault."""
    return problem(refusal.status, refusal.summary, to_error_list(refusal.errors))


def too_large(limit: int) -> HttpResponse:
    """413, for a body that was not even read to its end; `limit` in bytes."""
    return problem(413, f"the body has more than {limit} bytes: send less at once")


def forbidden() -> HttpResponse:
    """403: no key, a wrong one, or a role that may not. It does not say which, as API Gateway does not."""
    return problem(403, "this needs a key, as x-api-key or Authorization: Bearer, whose role may do it")


def not_found(detail: str = "there is nothing here") -> HttpResponse:
    """404"""
    return problem(404, detail)


def method_not_allowed(allowed: Sequence[str]) -> HttpResponse:
    """405, with the methods that are (RFC 9110, section 15.5.6)."""
    methods = ", ".join(allowed)
    return problem(405, f"use {methods}", headers={"allow": methods})


def unsupported_media_type(given: str | None) -> HttpResponse:
    """415, for a Content-Type that `is_json` refuses."""
    sent = f"the Content-Type {format_value(given)} is not accepted" if given else "there is no Content-Type"
    return problem(415, f"{sent}: use {JSON}", headers={"accept": JSON})


def unsupported_encoding(given: str) -> HttpResponse:
    """415, for a body with a Content-Encoding; none is taken (RFC 7694, section 3)."""
    detail = f"the Content-Encoding {format_value(given)} is not accepted: send the body as it is, without one"
    return problem(415, detail, headers={"accept-encoding": "identity"})


def timed_out() -> HttpResponse:
    """408: the body did not come."""
    return problem(408, "the body did not come in time: " + _SEND_AGAIN, headers={"connection": "close"})


def internal_error() -> HttpResponse:
    """500: a fault of ours, which the log describes."""
    return problem(500, "this failed, and the cell's log says why; whether it was done is not known: " + _SEND_AGAIN)


def too_many_requests(retry_after: int = 1, why: str = "too many requests") -> HttpResponse:
    """429; `retry_after` in seconds, at least 1."""
    return problem(429, f"{why}: {_SEND_AGAIN}", headers=_retry(retry_after))


def unavailable(retry_after: int = 5, why: str = "") -> HttpResponse:
    """503; `retry_after` in seconds, at least 1. `why`: what can be told of it."""
    return problem(503, _send_again_text(why), headers=_retry(retry_after))


def problem(
    status: int, detail: str, errors: Sequence[Error] = (), headers: dict[str, str] | None = None
) -> HttpResponse:
    """Any other problem, in the same form."""
    title = _TITLES.get(status, "Error")
    body = Problem(type="about:blank", title=title, status=status, detail=detail, errors=list(errors))
    return HttpResponse(status, {"content-type": PROBLEM_JSON, **(headers or {})}, _ENCODER.encode(body))


def is_json(content_type: str | None) -> bool:
    """Whether a request's Content-Type is JSON in UTF-8, the only one that is taken (RFC 8259, section 8.1)."""
    media_type, _, parameters = (content_type or "").partition(";")
    charset = parameters.replace(" ", "").replace('"', "").lower().rstrip(";")
    return media_type.strip().lower() == JSON and charset in ("", "charset=utf-8", "charset=utf8")


_CONFLICT = "an event with this event_id and another content was accepted before"
_SEND_AGAIN = "send it again later; a repeat is harmless"


def _send_again_text(why: str) -> str:
    return f"{why}: {_SEND_AGAIN}" if why else _SEND_AGAIN


def _conflict_text(event_id: str) -> Error:
    return Error(
        "/event_id", f"{format_value(event_id)} was accepted before with another content: use an event_id only once"
    )


def to_error_list(faults: Iterable[FieldError]) -> list[Error]:
    """The faults, as an answer tells them."""
    return [Error(fault.pointer, fault.detail) for fault in faults]


def json_response(status: int, body: object) -> HttpResponse:
    """Whatever else is answered well: a value that msgspec can write."""
    return HttpResponse(status, {"content-type": JSON}, _ENCODER.encode(body))


def _retry(seconds: int) -> dict[str, str]:
    return {"retry-after": str(max(1, seconds))}
